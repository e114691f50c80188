//! Defines the history on disk: a JSON line an event, in one file and the one before it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Filter, History, former};

/// Events written at once.
const BATCH: usize = 1_000;

/// Only the gateway's own user reads them.
const MODE: u32 = 0o600;

/// The file, which is moved to `PATH.1` when it has grown enough: at most twice its size is ever there.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    most: u64,
    file: File,
    size: u64,
    /// The last line may be there in part.
    torn: bool,
}

impl Log {
    /// Opens the file, to append to it.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, most: u64) -> io::Result<Self> {
        let torn = is_torn(path);
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
        // One that was there may have been open to others.
        file.set_permissions(Permissions::from_mode(MODE))?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), most, file, size, torn })
    }

    /// Appends a line.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.most {
            fs::rename(&self.path, former::before(&self.path))?;
            *self = Self::open(&self.path, self.most)?;
        }
        if std::mem::replace(&mut self.torn, true) {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(line)?;
        self.torn = false;
        self.size += length;
        Ok(())
    }
}

/// Whether a file does not end with a line: who wrote it was killed meanwhile.
fn is_torn(path: &Path) -> bool {
    let last = || {
        let mut last = [0];
        fs::metadata(path)?.is_file().then_some(()).ok_or(io::ErrorKind::Unsupported)?;
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        Ok::<_, io::Error>(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

/// Writes every event until the gateway stops. A disk that refuses costs events, and nothing else.
pub async fn write(history: Arc<History>, mut log: Log) {
    let mut last = history.last.subscribe();
    // What was read back is there.
    let mut filter = Filter { after: Some(history.first_id - 1), ..Filter::default() };
    let mut refused = false;
    loop {
        let ended = history.ended.is_cancelled();
        last.borrow_and_update();
        loop {
            let page = history.select(&filter, BATCH);
            if page.items.is_empty() {
                break;
            }
            let more = page.more;
            let before = filter.after.replace(page.next).unwrap_or_default();
            let written = tokio::task::spawn_blocking(move || {
                let first = page.items.first().map_or(0, |first| first.id);
                let mut outcome = Ok(());
                if before > 0 && first > before + 1 {
                    outcome = log.append(format!("{{\"dropped\":{}}}\n", first - before - 1).as_bytes());
                }
                for event in &page.items {
                    outcome = outcome.and_then(|()| {
                        let mut line = serde_json::to_vec(&**event)?;
                        line.push(b'\n');
                        log.append(&line)
                    });
                }
                (log, outcome)
            });
            // Only a panic or the end of the runtime gives nothing back.
            let Ok((back, outcome)) = written.await else { return };
            log = back;
            match outcome {
                Ok(()) => refused = false,
                Err(error) => {
                    if !std::mem::replace(&mut refused, true) {
                        tracing::warn!(path = %log.path.display(), %error, "events can't be written");
                    }
                }
            }
            if !more {
                break;
            }
        }
        if ended {
            return;
        }
        tokio::select! {
            () = history.ended.cancelled() => {}
            _ = last.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_bounded_and_nobody_elses() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        fs::write(&path, "old\n").expect("a file");
        let mut log = Log::open(&path, 40).expect("a log");
        for number in 0..100 {
            log.append(format!("line {number:03}\n").as_bytes()).expect("room");
        }
        let text = |path: &Path| fs::read_to_string(path).expect("a file");
        let former = folder.path().join("events.jsonl.1");
        assert_eq!(text(&path), "line 096\nline 097\nline 098\nline 099\n");
        assert_eq!(text(&former), "line 092\nline 093\nline 094\nline 095\n");
        for path in [&path, &former] {
            assert_eq!(fs::metadata(path).expect("a file").permissions().mode() & 0o777, MODE);
        }
        fs::write(&path, "line 099\ntorn").expect("a file");
        Log::open(&path, 40).expect("a log").append(b"line 100\n").expect("room");
        assert_eq!(text(&path), "line 099\ntorn\nline 100\n", "a line that was cut short spoils no other");
    }
}
