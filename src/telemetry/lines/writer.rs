//! Defines the thread that writes lines to their destination.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{DroppedLines, Lines};
use crate::spec::settings::LogDestination as Destination;
use crate::telemetry::prometheus::Definition;

/// Whole lines on their way.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) text: Vec<u8>,
    pub(super) lines: u32,
    /// Where its memory goes when it is written: back to its worker, which finds it still in the cache.
    pub(super) back: Option<SyncSender<Vec<u8>>>,
}

impl Chunk {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.lines = 0;
    }
}

/// Chunks that may wait: with 32 KiB each, 8 MiB.
const QUEUE: usize = 256;

/// How often a file is looked up by its name, for log rotation.
const ROTATION_CHECK: Duration = Duration::from_secs(1);

/// How often failed writes are told in our own log.
const COMPLAINT: Duration = Duration::from_secs(60);

/// A log of the process.
#[derive(Debug)]
pub struct Writer {
    /// `None`: the log is off.
    thread: Option<Thread>,
    dropped: Arc<DroppedLines>,
}

#[derive(Debug)]
struct Thread {
    sender: SyncSender<Chunk>,
    /// Disconnected when the thread has ended.
    done: Receiver<()>,
}

impl Writer {
    /// Opens the destination and starts the thread. `lost`: the metric that counts lines that are lost.
    ///
    /// # Errors
    /// When the file can't be opened for appending, with its name, or no thread can be started.
    pub fn start(name: &str, destination: &Destination, lost: &'static [&'static Definition; 1]) -> io::Result<Self> {
        let sink = match destination {
            Destination::Off => None,
            Destination::Stdout => Some(Sink::Stdout),
            Destination::File(path) => Some(Sink::File(LogFile::open(name, path)?)),
        };
        let dropped = Arc::new(DroppedLines::new(lost));
        let thread = sink.map(|sink| Thread::start(name, sink, Arc::clone(&dropped))).transpose()?;
        Ok(Self { thread, dropped })
    }

    /// An end of the log.
    pub fn handle(&self) -> Lines {
        let sender = self.thread.as_ref().map(|thread| thread.sender.clone());
        Lines::new(sender, Arc::clone(&self.dropped))
    }

    /// The counter of lost lines.
    pub fn dropped_lines(&self) -> Arc<DroppedLines> {
        Arc::clone(&self.dropped)
    }

    /// Waits until all lines are written, for a second at most. Every handle should be gone by now.
    pub fn finish(self) {
        if let Some(Thread { sender, done }) = self.thread {
            drop(sender);
            // Nothing is ever sent: it returns when the thread ends, or after the second.
            let _ = done.recv_timeout(Duration::from_secs(1));
        }
    }
}

impl Thread {
    fn start(name: &str, mut sink: Sink, dropped: Arc<DroppedLines>) -> io::Result<Self> {
        let (sender, chunks) = sync_channel::<Chunk>(QUEUE);
        let (ended, done) = sync_channel(0);
        let log = name.to_owned();
        let write = move || {
            let _ended: SyncSender<()> = ended;
            let mut complained = None::<Instant>;
            for mut chunk in chunks {
                let written = sink.write(&chunk.text);
                chunk.text.clear();
                if let Some(back) = &chunk.back {
                    // The worker has enough, or is gone.
                    let _ = back.try_send(chunk.text);
                }
                let Err(error) = written else { continue };
                dropped.add(chunk.lines);
                if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                    complained = Some(Instant::now());
                    tracing::warn!(%error, dropped = dropped.count(), "lines of the {log} can't be written");
                }
            }
        };
        thread::Builder::new().name(name.replace(' ', "-")).spawn(write)?;
        Ok(Self { sender, done })
    }
}

#[derive(Debug)]
enum Sink {
    Stdout,
    File(LogFile),
}

impl Sink {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text)?;
                stdout.flush()
            }
            Self::File(file) => file.write(text),
        }
    }
}

/// A file that is opened again when its name leads elsewhere.
#[derive(Debug)]
struct LogFile {
    name: String,
    path: PathBuf,
    file: File,
    checked: Instant,
}

impl LogFile {
    fn open(name: &str, path: &Path) -> io::Result<Self> {
        Ok(Self { name: name.to_owned(), path: path.to_owned(), file: append(name, path)?, checked: Instant::now() })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.checked.elapsed() >= ROTATION_CHECK {
            self.checked = Instant::now();
            self.reopen()?;
        }
        self.file.write_all(text)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let moved = match self.path.metadata() {
            Ok(now) => identity(&now) != identity(&self.file.metadata()?),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if moved {
            self.file = append(&self.name, &self.path)?;
        }
        Ok(())
    }
}

fn append(name: &str, path: &Path) -> io::Result<File> {
    // Lines tell who asked for what: not for everyone on the machine.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{name} {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::line;
    use super::*;
    use crate::telemetry::prometheus::definitions;

    fn start(path: PathBuf) -> io::Result<Writer> {
        Writer::start("access log", &Destination::File(path), &[definitions::ACCESS_LOG_DROPPED])
    }

    #[test]
    fn lines_of_all_workers_are_in_the_file_after_finish() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        fs::write(&path, "earlier\n").expect("to write");
        let writer = start(path.clone()).expect("to open");
        let workers = [writer.handle(), writer.handle()].map(|log| {
            thread::spawn(move || {
                for _ in 0..500 {
                    log.add(line);
                }
            })
        });
        for worker in workers {
            worker.join().expect("to end");
        }
        writer.finish();
        let text = fs::read_to_string(path).expect("the file");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("earlier"));
        let records: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(records.len(), 1000);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let mut file = LogFile::open("access log", &path).expect("to open");
        file.write(b"one\n").expect("to write");
        let rotated = folder.path().join("access.log.1");
        fs::rename(&path, &rotated).expect("to move");
        file.reopen().expect("to open again");
        file.write(b"two\n").expect("to write");
        assert_eq!(fs::read_to_string(rotated).expect("the old one"), "one\n");
        assert_eq!(fs::read_to_string(path).expect("the new one"), "two\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = start("/nowhere/access.log".into()).expect_err("no folder");
        assert!(error.to_string().starts_with("access log /nowhere/access.log: "), "{error}");
    }

    #[test]
    fn failed_writes_are_counted() {
        let writer = start("/dev/full".into()).expect("to open");
        let dropped = writer.dropped_lines();
        let log = writer.handle();
        log.add(line);
        drop(log);
        writer.finish();
        assert_eq!(dropped.count(), 1);
    }
}
