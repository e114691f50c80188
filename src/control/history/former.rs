//! Defines what is read back of the history on disk at a start: its end, so that what an earlier process knew still has
//! its answer.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::event::Event;
use crate::telemetry::lines::rotated;

/// Most bytes that are read: as many events as are kept in memory, and a few.
const MOST: u64 = 8 * 1024 * 1024;

/// The events of earlier processes.
#[derive(Debug, Default)]
pub struct Former {
    /// Oldest first, each with a greater id than the one before.
    pub(super) events: Vec<Event>,
    /// Lines that are no events, or stand where none can.
    pub(super) damaged: u64,
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Box<Event>),
    /// So many events could not be written.
    Dropped {
        #[serde(rename = "dropped")]
        _count: u64,
    },
}

impl Former {
    /// Reads the end of a file of events, and of the one before it; what is damaged is skipped. A file that is not there
    /// holds nothing, and neither does what is no file.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(path: &Path, now: SystemTime) -> io::Result<Self> {
        let latest = end_of(path, MOST)?;
        let room = MOST.saturating_sub(latest.len() as u64);
        let mut texts = vec![latest];
        if room > 0 {
            texts.insert(0, end_of(&rotated(path), room)?);
        }
        let mut former = Self::default();
        // Ids are times of starts, in microseconds, and count up from there.
        let below = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        for line in texts.iter().flat_map(|text| text.split(|byte| *byte == b'\n')).filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Line::Event(event)) => {
                    let after = former.events.last().is_none_or(|last| last.id < event.id);
                    if after && u128::from(event.id) < below {
                        former.events.push(*event);
                    } else {
                        former.damaged += 1;
                    }
                }
                Ok(Line::Dropped { .. }) => {}
                Err(_) => former.damaged += 1,
            }
        }
        Ok(former)
    }

    /// How many events were read, and how many lines are damaged.
    pub fn counts(&self) -> (usize, u64) {
        (self.events.len(), self.damaged)
    }
}

/// The whole lines in the last `most` bytes of a file.
fn end_of(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    // A pipe or a terminal is not even opened: that could wait for ever.
    match std::fs::metadata(path) {
        Ok(about) if about.is_file() => {}
        Ok(_) => return Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(text),
        Err(error) => return Err(error),
    }
    let mut file = File::open(path)?;
    // One byte more tells whether a line begins there.
    let skipped = file.metadata()?.len().saturating_sub(most + 1);
    file.seek(SeekFrom::Start(skipped))?;
    file.take(most + 1).read_to_end(&mut text)?;
    if skipped > 0 {
        let first = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |newline| newline + 1);
        text.drain(..first);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn line(id: u64) -> String {
        format!(
            r#"{{"id":{id},"time":"2026-11-24T14:02:00.500Z","generation":3,"event":"endpoint_changed","provider":"consul","index":7,"upstream":"users","endpoint":"10.0.3.7:80","before":{{"state":"healthy","weight":1,"labels":{{"a":"b"}},"reasons":[]}},"after":{{"state":"unhealthy","weight":1,"labels":{{}},"reasons":["x"]}},"cause":"a check is critical"}}"#
        )
    }

    fn read(path: &Path) -> (Vec<u64>, u64) {
        let now = UNIX_EPOCH + std::time::Duration::from_micros(1_000);
        let former = Former::read(path, now).expect("a file");
        (former.events.iter().map(|event| event.id).collect(), former.damaged)
    }

    #[test]
    fn what_was_written_is_read_back_as_it_was_and_what_is_damaged_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        assert_eq!(read(&path), (vec![], 0), "nothing was written");
        assert_eq!(read(folder.path()), (vec![], 0), "a folder is no file");

        std::fs::write(rotated(&path), format!("{}\n{}\n", line(3), line(4))).expect("written");
        let route = r#"{"id":6,"time":"2026-11-24T14:03:00Z","generation":4,"event":"route_added","route":"r","after":{"match":{}},"cause":"x"}"#;
        let text = [&line(5), "{\"dropped\":9}", route, "no JSON", "{\"id\":7}", &line(6), &line(1_000), &line(8)];
        let torn = line(9);
        let text = [text.join("\n").as_bytes(), b"\n\xff{\n", &torn.as_bytes()[..40]].concat();
        std::fs::write(&path, text).expect("written");
        assert_eq!(read(&path), (vec![3, 4, 5, 6, 8], 6));
        let former = Former::read(&path, UNIX_EPOCH + std::time::Duration::from_secs(1)).expect("a file");
        assert_eq!(serde_json::to_string(&former.events[0]).expect("JSON"), line(3));
    }

    #[test]
    fn only_the_end_of_a_large_file_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut text = String::new();
        for id in 0..10 {
            let _ = writeln!(text, "{}", line(id));
        }
        std::fs::write(&path, &text).expect("written");
        let length = line(0).len() as u64 + 1;
        for (most, lines) in [(length * 10, 10), (length * 10 + 1, 10), (length * 3, 3), (length * 3 - 1, 2), (5, 0)] {
            let end = end_of(&path, most).expect("a file");
            assert_eq!(end.iter().filter(|byte| **byte == b'\n').count(), lines, "{most}");
        }
    }
}
