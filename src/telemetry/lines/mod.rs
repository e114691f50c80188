//! Logs of lines for machines: formatted by who has something to say, written by a thread of their own.
//!
//! A worker appends lines to a buffer that it owns. Full buffers go through a bounded channel to the
//! writing thread; when that falls behind, lines are dropped and counted. A worker never waits.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::prometheus::{Definition, Samples, Source, definitions};

mod clock;
mod writer;

pub use clock::Clock;
pub use writer::Writer;

pub(super) use clock::three_digits;
use writer::Chunk;

/// An end of a log. What it holds is written when it is dropped.
#[derive(Debug)]
pub struct Lines {
    /// `None`: the log is off.
    writer: Option<SyncSender<Chunk>>,
    buffer: RefCell<Buffer>,
    dropped: Arc<DroppedLines>,
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

/// Lines that were lost because their destination was too slow or failed, for the process.
#[derive(Debug)]
pub struct DroppedLines {
    count: AtomicU64,
    lost: &'static [&'static Definition; 1],
}

/// Bytes after which a buffer is handed over.
const FULL: usize = 32 * 1024;

impl Lines {
    /// A log that goes nowhere.
    pub fn off() -> Self {
        Self::new(None, Arc::new(DroppedLines::new(&[definitions::ACCESS_LOG_DROPPED])))
    }

    fn new(writer: Option<SyncSender<Chunk>>, dropped: Arc<DroppedLines>) -> Self {
        Self { writer, buffer: RefCell::new(Buffer::new()), dropped }
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
        if let Err(TrySendError::Full(mut lost) | TrySendError::Disconnected(mut lost)) =
            writer.try_send(std::mem::take(chunk))
        {
            self.dropped.add(lost.lines);
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
            Err(TrySendError::Full(kept)) => *chunk = kept,
            Err(TrySendError::Disconnected(lost)) => self.dropped.add(lost.lines),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
        self.dropped.add(self.buffer.get_mut().chunk.lines);
    }
}

impl DroppedLines {
    fn new(lost: &'static [&'static Definition; 1]) -> Self {
        Self { count: AtomicU64::new(0), lost }
    }

    fn add(&self, lines: u32) {
        self.count.fetch_add(lines.into(), Relaxed);
    }

    /// Lines lost since the start.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Source for DroppedLines {
    fn definitions(&self) -> &'static [&'static Definition] {
        self.lost
    }

    fn collect(&self, samples: &mut Samples) {
        samples.value(self.lost[0], &[], self.count() as f64);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    pub(super) fn line(_: &mut Clock, text: &mut Vec<u8>) {
        text.push(b'"');
        text.extend([b'x'; 400]);
        text.extend(b"\"\n");
    }

    #[test]
    fn a_slow_destination_loses_lines_and_counts_them() {
        let (sender, receiver) = sync_channel(1);
        let dropped = Arc::new(DroppedLines::new(&[definitions::ACCESS_LOG_DROPPED]));
        let log = Lines::new(Some(sender), Arc::clone(&dropped));
        let lines = 2_000;
        for _ in 0..lines {
            log.add(line);
        }
        assert!(dropped.count() > 0);
        let sent = receiver.recv().expect("a full buffer");
        assert!(sent.text.len() >= FULL && sent.text.ends_with(b"\n"));
        drop(log);
        let rest: u32 = receiver.iter().map(|chunk| chunk.lines).sum();
        assert_eq!(u64::from(sent.lines + rest) + dropped.count(), lines);
    }

    #[test]
    fn a_flush_that_finds_no_room_loses_nothing() {
        let (sender, receiver) = sync_channel(1);
        let log = Lines::new(Some(sender), Arc::new(DroppedLines::new(&[definitions::ACCESS_LOG_DROPPED])));
        for _ in 0..3 {
            log.add(line);
            log.flush();
        }
        assert_eq!(receiver.recv().expect("the first line").lines, 1);
        log.flush();
        assert_eq!(receiver.recv().expect("those that waited").lines, 2);
        assert_eq!(log.dropped.count(), 0);
    }

    #[test]
    fn a_log_that_is_off_collects_nothing() {
        let log = Lines::off();
        log.add(line);
        assert!(!log.is_on());
        assert_eq!(log.buffer.borrow().chunk.lines, 0);
    }
}
