//! Destinations of lines: standard streams, and files that are opened again when their names lead elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// How often a file is looked up by its name, for log rotation.
const ROTATION_CHECK: Duration = Duration::from_secs(1);

/// Between two tries at a stream whose owner made it non-blocking.
const STREAM_FULL: Duration = Duration::from_millis(20);

/// How a file is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// Where it is.
    pub path: PathBuf,
    /// Who may read it.
    pub mode: u32,
    /// Moved to `PATH.1` when it would grow beyond this, in bytes.
    pub max_size: Option<u64>,
}

/// The destinations of the process. Logs with the same destination share one, so that their lines never mix.
#[derive(Debug, Default)]
pub struct Destinations(Mutex<BTreeMap<Key, Arc<Mutex<Sink>>>>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Device and inode: both standard streams may be one pipe.
    Stream(u64, u64),
    File(PathBuf),
}

impl Destinations {
    pub(super) fn stdout(&self) -> io::Result<Arc<Mutex<Sink>>> {
        self.stream(io::stdout().as_fd())
    }

    pub(super) fn stderr(&self) -> io::Result<Arc<Mutex<Sink>>> {
        self.stream(io::stderr().as_fd())
    }

    /// A copy of the descriptor: whoever else holds a lock of the standard library's is not waited for.
    pub(super) fn stream(&self, stream: BorrowedFd<'_>) -> io::Result<Arc<Mutex<Sink>>> {
        let stream = File::from(stream.try_clone_to_owned()?);
        let (device, inode) = identity(&stream.metadata()?);
        Ok(self.at(Key::Stream(device, inode), || Target::Stream(stream)))
    }

    /// The file is opened by its first user, in the thread that writes it: that may take for ever.
    pub(super) fn file(&self, options: FileOptions) -> io::Result<Arc<Mutex<Sink>>> {
        // These may be sockets, which nobody can open.
        match options.path.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => self.stdout(),
            Some("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2") => self.stderr(),
            _ => Ok(self.at(Key::File(options.path.clone()), || Target::File(LogFile::new(options)))),
        }
    }

    fn at(&self, key: Key, target: impl FnOnce() -> Target) -> Arc<Mutex<Sink>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(key).or_insert_with(|| Arc::new(Mutex::new(Sink { target: target(), cut: None }))))
    }
}

/// A destination. Only threads of writers use it, and wait for each other.
#[derive(Debug)]
pub(super) struct Sink {
    target: Target,
    /// The last line is there in part.
    cut: Option<Cut>,
}

#[derive(Debug)]
enum Target {
    Stream(File),
    File(LogFile),
}

#[derive(Debug)]
struct Cut {
    writer: LineOwner,
    /// The file that was open then, and its length.
    place: (u64, u64),
}

/// Whose line it is.
pub(super) type LineOwner = &'static str;

/// What became of a text.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Bytes that are done with.
    pub(super) bytes: usize,
    /// Lines among them that nobody will find whole.
    pub(super) lost: u32,
    /// Why the rest is not done with.
    pub(super) error: Option<io::Error>,
}

impl Sink {
    /// Makes it ready to take lines.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Stream(_) => Ok(()),
            Target::File(file) => file.ready(false).map(drop),
        }
    }

    /// Looks whether a file is still the one of its name, `now` or when that is due.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn look(&mut self, now: bool) -> io::Result<()> {
        match &mut self.target {
            Target::Stream(_) => Ok(()),
            Target::File(file) => file.ready(now).map(drop),
        }
    }

    /// Writes lines; `continues`: the text begins inside a line that this writer could write in part.
    pub(super) fn write(&mut self, writer: LineOwner, text: &[u8], continues: bool) -> Written {
        let mut done = Written::default();
        if let Err(error) = self.make_ready(text.len()) {
            done.error = Some(error);
            return done;
        }
        let mut inside = false;
        if let Some(cut) = self.cut.take() {
            let there = cut.place == self.place();
            inside = there && continues && cut.writer == writer;
            if there
                && !inside
                && let (_, Err(error)) = self.put(b"\n")
            {
                self.cut = Some(cut);
                done.error = Some(error);
                return done;
            }
        }
        if continues && !inside {
            done.bytes = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
            done.lost = 1;
        }
        let rest = text.get(done.bytes..).unwrap_or_default();
        let (written, outcome) = self.put(rest);
        done.bytes += written;
        done.error = outcome.err();
        let last = rest.get(..written).and_then(<[u8]>::last);
        if last.map_or(inside, |last| *last != b'\n') {
            self.cut = Some(Cut { writer, place: self.place() });
        }
        if done.error.is_some()
            && let Target::File(file) = &mut self.target
        {
            file.failed(done.error.as_ref());
        }
        done
    }

    fn make_ready(&mut self, length: usize) -> io::Result<()> {
        let Target::File(file) = &mut self.target else { return Ok(()) };
        file.ready(false)?;
        file.make_room(length as u64)?;
        // Whoever wrote it before was killed inside a line, or its disk was full.
        if std::mem::take(&mut file.torn)
            && let (_, Err(error)) = self.put(b"\n")
        {
            if let Target::File(file) = &mut self.target {
                file.torn = true;
            }
            return Err(error);
        }
        Ok(())
    }

    /// The file that is open, and how long it is.
    fn place(&self) -> (u64, u64) {
        match &self.target {
            Target::Stream(_) => (0, 0),
            Target::File(file) => {
                (file.opened, file.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |about| about.len()))
            }
        }
    }

    /// Writes bytes; how many were written, and why not more.
    fn put(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        let file = match &mut self.target {
            Target::Stream(stream) => stream,
            Target::File(LogFile { file: Some(file), .. }) => file,
            Target::File(_) => return (0, Err(io::ErrorKind::NotFound.into())),
        };
        let mut written = 0;
        let outcome = loop {
            let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) else { break Ok(()) };
            match file.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The flag belongs to all who share the stream, so it is not ours to clear.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(STREAM_FULL),
                Err(error) => break Err(error),
            }
        };
        if let Target::File(file) = &mut self.target {
            file.length += written as u64;
        }
        (written, outcome)
    }
}

/// A file that is appended to.
#[derive(Debug)]
struct LogFile {
    options: FileOptions,
    file: Option<File>,
    /// How often one was opened.
    opened: u64,
    length: u64,
    looked: Instant,
    /// It does not end with a line.
    torn: bool,
}

impl LogFile {
    fn new(options: FileOptions) -> Self {
        Self { options, file: None, opened: 0, length: 0, looked: Instant::now(), torn: false }
    }

    fn ready(&mut self, look_now: bool) -> io::Result<()> {
        let due = look_now || self.looked.elapsed() >= ROTATION_CHECK;
        if let (Some(file), true) = (&self.file, due) {
            self.looked = Instant::now();
            let open = file.metadata()?;
            // Shorter than it was, when it was emptied in place (`copytruncate`).
            self.length = open.len();
            match self.options.path.metadata() {
                Ok(named) if identity(&named) == identity(&open) => {}
                Ok(_) => self.file = None,
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.file = None,
                Err(error) => return Err(error),
            }
        }
        if self.file.is_none() { self.open() } else { Ok(()) }
    }

    fn open(&mut self) -> io::Result<()> {
        let FileOptions { path, mode, .. } = &self.options;
        let torn = is_torn(path);
        // Opening a pipe without a reader fails by that flag, instead of waiting for one.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().append(true).create(true).mode(*mode).custom_flags(flags).open(path);
        let file = file.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NXIO) => io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads this pipe"),
            _ => error,
        })?;
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        let about = file.metadata()?;
        if about.is_file() && *mode & 0o077 == 0 && about.mode() & 0o077 != 0 {
            // One that was there may have been open to others.
            file.set_permissions(Permissions::from_mode(*mode))?;
        }
        (self.length, self.torn, self.looked) = (about.len(), torn && about.is_file(), Instant::now());
        self.file = Some(file);
        self.opened += 1;
        Ok(())
    }

    /// Moves a file that has grown enough out of the way: at most twice its size is ever there.
    fn make_room(&mut self, more: u64) -> io::Result<()> {
        let path = &self.options.path;
        let full = |most: u64| self.length > 0 && self.length + more > most;
        if self.options.max_size.is_some_and(full) && path.metadata()?.is_file() {
            fs::rename(path, rotated(path))?;
            self.file = None;
            self.open()?;
        }
        Ok(())
    }

    /// After a failed write: what the disk may have room for again goes on, all else is opened anew.
    fn failed(&mut self, error: Option<&io::Error>) {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        if error.is_some_and(|error| !matches!(error.kind(), FileTooLarge | QuotaExceeded | StorageFull)) {
            self.file = None;
        }
    }
}

/// Where a file is moved that has grown enough.
pub fn rotated(path: &Path) -> PathBuf {
    let mut rotated = path.as_os_str().to_owned();
    rotated.push(".1");
    rotated.into()
}

/// Whether an error is one of the place, and not of the configuration, so that it may pass.
pub(super) fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), BrokenPipe | FileTooLarge | QuotaExceeded | StorageFull)
}

fn identity(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// Whether a file does not end with a line.
fn is_torn(path: &Path) -> bool {
    let last = || {
        let mut last = [0];
        // A pipe is not even opened: that would wait for its other end.
        if !fs::metadata(path)?.is_file() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        Ok::<_, io::Error>(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

#[cfg(test)]
mod tests;
