//! Logs: lines are formatted by who has something to say, and written by a thread of their log.
//!
//! A worker appends lines to a buffer that it owns. Full buffers go through a bounded queue to the writing thread
//! ([`writer`]), which knows the destination ([`sink`]). When that falls behind, lines are dropped and counted
//! ([`state`]). Nobody waits for it: not a worker, not the control plane, not a panic.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

mod clock;
mod sink;
mod state;
mod writer;

pub use clock::Clock;
pub use sink::{Destinations, FileOptions, rotated};
pub use state::{LogName, LogState, LogStates, Trouble};
pub use writer::{Destination, Writer};

pub(super) use clock::three_digits;
use writer::{Chunk, Refused, Sender};

/// An end of a log. What it holds is written when it is dropped.
#[derive(Debug)]
pub struct Lines {
    /// `None`: the log is off.
    writer: Option<Sender>,
    buffer: RefCell<Buffer>,
    state: Arc<LogState>,
}

#[derive(Debug)]
struct Buffer {
    chunk: Chunk,
    clock: Clock,
    /// Memory of chunks that were written.
    back: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
}

impl Buffer {
    fn new() -> Self {
        let (back, spare) = sync_channel(SPARE);
        Self { chunk: Chunk::default(), clock: Clock::default(), back, spare }
    }

    /// Makes room where there is none: for the line that makes the chunk full, too.
    fn make_room(&mut self) {
        if self.chunk.text.capacity() == 0 {
            self.chunk.text = self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(FULL + 4 * 1024));
            self.chunk.back = Some(self.back.clone());
        }
    }
}

/// Written chunks whose memory a worker takes back.
const SPARE: usize = 2;

/// Bytes after which a buffer is handed over.
const FULL: usize = 32 * 1024;

impl Lines {
    /// A log that goes nowhere.
    pub fn off() -> Self {
        Self::new(None, Arc::new(LogState::new(LogName::Access, "off".to_owned())))
    }

    fn new(writer: Option<Sender>, state: Arc<LogState>) -> Self {
        Self { writer, buffer: RefCell::new(Buffer::new()), state }
    }

    /// Whether lines go anywhere: a record need not be made otherwise.
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Adds a line, which `write` appends with its end. Never blocks.
    pub fn add(&self, write: impl FnOnce(&mut Clock, &mut Vec<u8>)) {
        let Some(writer) = &self.writer else { return };
        let mut buffer = self.buffer.borrow_mut();
        buffer.make_room();
        let Buffer { chunk, clock, .. } = &mut *buffer;
        write(clock, &mut chunk.text);
        chunk.lines += 1;
        if chunk.text.len() < FULL {
            return;
        }
        if let Err(Refused::Full(mut lost) | Refused::Ended(mut lost)) = writer.try_send(std::mem::take(chunk)) {
            self.state.drop_lines(lost.lines);
            lost.clear();
            *chunk = lost;
        }
    }

    /// Hands over what was collected; to be called every 100 ms or so. Never blocks.
    pub fn flush(&self) {
        let Some(writer) = &self.writer else { return };
        let chunk = &mut self.buffer.borrow_mut().chunk;
        if chunk.lines == 0 {
            return;
        }
        match writer.try_send(std::mem::take(chunk)) {
            Ok(()) => {}
            // There is room for more lines yet.
            Err(Refused::Full(kept)) => *chunk = kept,
            Err(Refused::Ended(lost)) => self.state.drop_lines(lost.lines),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
        self.state.drop_lines(self.buffer.get_mut().chunk.lines);
    }
}

/// An end of a log for texts. What was written is handed over as one by `flush`, and when it is dropped.
#[derive(Clone, Debug)]
pub struct Stream {
    writer: Option<Sender>,
    state: Arc<LogState>,
    text: Vec<u8>,
}

impl Stream {
    fn new(writer: Option<Sender>, state: Arc<LogState>) -> Self {
        Self { writer, state, text: Vec::new() }
    }

    fn send(&mut self) {
        let text = std::mem::take(&mut self.text);
        let Some(writer) = self.writer.as_ref().filter(|_| !text.is_empty()) else { return };
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        let lines = u32::try_from(lines).unwrap_or(u32::MAX).max(1);
        if let Err(Refused::Full(lost) | Refused::Ended(lost)) = writer.try_send(Chunk::of(text, lines)) {
            self.state.drop_lines(lost.lines);
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send();
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.send();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn state() -> Arc<LogState> {
        Arc::new(LogState::new(LogName::Access, "test".to_owned()))
    }

    pub(super) fn line(_: &mut Clock, text: &mut Vec<u8>) {
        text.push(b'"');
        text.extend([b'x'; 400]);
        text.extend(b"\"\n");
    }

    #[test]
    fn a_slow_destination_loses_lines_and_counts_them() {
        let (sender, receiver) = Sender::channel(1);
        let state = state();
        let log = Lines::new(Some(sender), Arc::clone(&state));
        let lines = 2_000;
        for _ in 0..lines {
            log.add(line);
        }
        assert!(state.dropped() > 0);
        let sent = receiver.recv().expect("a full buffer");
        assert!(sent.text.len() >= FULL && sent.text.ends_with(b"\n"));
        drop(log);
        let rest: u32 = receiver.iter().map(|chunk| chunk.lines).sum();
        assert_eq!(u64::from(sent.lines + rest) + state.dropped(), lines);
    }

    #[test]
    fn a_flush_that_finds_no_room_loses_nothing() {
        let (sender, receiver) = Sender::channel(1);
        let log = Lines::new(Some(sender), state());
        for _ in 0..3 {
            log.add(line);
            log.flush();
        }
        assert_eq!(receiver.recv().expect("the first line").lines, 1);
        log.flush();
        assert_eq!(receiver.recv().expect("those that waited").lines, 2);
        assert_eq!(log.state.dropped(), 0);
    }

    #[test]
    fn a_log_that_is_off_collects_nothing() {
        let log = Lines::off();
        log.add(line);
        assert!(!log.is_on());
        assert_eq!(log.buffer.borrow().chunk.lines, 0);
    }
}
