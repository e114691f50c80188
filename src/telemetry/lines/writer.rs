//! The thread that writes the lines of a log, and the bounded queue in front of it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::sink::{Destinations, FileOptions, Sink, may_pass};
use super::state::{LogName, LogState};
use super::{Lines, Stream};
use crate::spec::settings::{EventsFile, LogDestination};

/// Whole lines on their way.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) text: Vec<u8>,
    pub(super) lines: u32,
    /// What it counts for in the queue.
    size: usize,
    /// Where its memory goes when it is written: back to its worker, which finds it still in the cache.
    pub(super) back: Option<SyncSender<Vec<u8>>>,
}

impl Chunk {
    pub(super) fn of(text: Vec<u8>, lines: u32) -> Self {
        Self { text, lines, ..Self::default() }
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.lines = 0;
    }
}

/// Chunks that may wait: of workers, which are large, and of others, which are lines.
const MAX_QUEUED_CHUNKS: usize = 256;
const MAX_QUEUED_LINES: usize = 4096;

/// Bytes that may wait.
const MAX_QUEUED_BYTES: usize = 8 << 20;

/// How often an idle thread looks at its file.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Between two tries at a destination that fails.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// How long a destination may fail before lines that wait for it are dropped.
const FAILURE_GRACE: Duration = Duration::from_secs(5);

/// How often failed writes and lost lines are told in our own log.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
const LOSS_INTERVAL: Duration = Duration::from_secs(10);

/// How long a start waits for a file to be opened: a disk may hang.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a log goes.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The end of a file.
    File(FileOptions),
}

impl From<&LogDestination> for Destination {
    fn from(setting: &LogDestination) -> Self {
        match setting {
            LogDestination::Off => Self::Off,
            LogDestination::Stdout => Self::Stdout,
            // Lines tell who asked for what: not for everyone on the machine.
            LogDestination::File(path) => Self::File(FileOptions { path: path.clone(), mode: 0o640, max_size: None }),
        }
    }
}

impl From<Option<&EventsFile>> for Destination {
    fn from(setting: Option<&EventsFile>) -> Self {
        setting.map_or(Self::Off, |events| {
            let EventsFile { path, max_size } = events.clone();
            Self::File(FileOptions { path, mode: 0o600, max_size: Some(max_size) })
        })
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(options) => options.path.display().fmt(f),
        }
    }
}

/// The end of a queue that chunks are put in. Nobody waits at it.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    chunks: SyncSender<Chunk>,
    queued_bytes: Arc<AtomicUsize>,
}

/// Why a chunk was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    Full(Chunk),
    Ended(Chunk),
}

impl Sender {
    pub(super) fn channel(capacity: usize) -> (Self, Receiver<Chunk>) {
        let (chunks, receiver) = sync_channel(capacity);
        (Self { chunks, queued_bytes: Arc::default() }, receiver)
    }

    pub(super) fn try_send(&self, mut chunk: Chunk) -> Result<(), Refused> {
        let size = chunk.text.capacity();
        chunk.size = size;
        let before = self.queued_bytes.fetch_add(size, Relaxed);
        // One that is larger than the queue goes through an empty one.
        let sent = if before > 0 && before + size > MAX_QUEUED_BYTES {
            Err(TrySendError::Full(chunk))
        } else {
            self.chunks.try_send(chunk)
        };
        sent.map_err(|refused| {
            self.queued_bytes.fetch_sub(size, Relaxed);
            match refused {
                TrySendError::Full(chunk) => Refused::Full(chunk),
                TrySendError::Disconnected(chunk) => Refused::Ended(chunk),
            }
        })
    }
}

/// What its thread is asked to do besides writing.
#[derive(Debug, Default)]
struct Requests {
    /// How often it was asked to look at its file.
    looks: AtomicU64,
    ends: AtomicBool,
}

/// A log of the process.
#[derive(Debug)]
pub struct Writer {
    /// `None`: the log is off.
    thread: Option<Thread>,
    state: Arc<LogState>,
}

#[derive(Debug)]
struct Thread {
    sender: Sender,
    requests: Arc<Requests>,
    /// Disconnected when the thread has ended.
    done: Mutex<Receiver<()>>,
}

impl Writer {
    /// Starts the thread, which opens the destination.
    ///
    /// # Errors
    /// When the file can't be opened for appending, with its name, or no thread can be started. A disk that is full or
    /// hangs and a pipe without a reader are no error: they may come back.
    pub fn start(name: LogName, destination: &Destination, destinations: &Destinations) -> io::Result<Self> {
        let state = Arc::new(LogState::new(name, destination.to_string()));
        let sink = match destination {
            Destination::Off => return Ok(Self { thread: None, state }),
            Destination::Stdout => destinations.stdout()?,
            Destination::Stderr => destinations.stderr()?,
            Destination::File(options) => destinations.file(options.clone())?,
        };
        Self::writing(sink, state)
    }

    pub(super) fn writing(sink: Arc<Mutex<Sink>>, state: Arc<LogState>) -> io::Result<Self> {
        let title = state.name().title();
        let capacity = match state.name() {
            LogName::Access | LogName::Audit => MAX_QUEUED_CHUNKS,
            LogName::Own | LogName::Events | LogName::Announcements => MAX_QUEUED_LINES,
        };
        let (sender, chunks) = Sender::channel(capacity);
        let (opened, opening) = sync_channel(1);
        let (ended, done) = sync_channel(0);
        let requests = Arc::new(Requests::default());
        let scribe = Scribe {
            chunks,
            queued_bytes: Arc::clone(&sender.queued_bytes),
            sink,
            state: Arc::clone(&state),
            requests: Arc::clone(&requests),
            waiting: VecDeque::new(),
            offset: 0,
            failing_since: None,
            retry_at: Instant::now(),
            complained_at: None,
            told: 0,
            told_at: None,
            gaps: 0,
            looks: 0,
        };
        thread::Builder::new().name(title.replace(' ', "-")).spawn(move || {
            let _ended: SyncSender<()> = ended;
            scribe.run(&opened);
        })?;
        if let Ok(Err(error)) = opening.recv_timeout(OPEN_TIMEOUT) {
            let place = state.destination();
            return Err(io::Error::new(error.kind(), format!("{title} {place}: {error}")));
        }
        Ok(Self { thread: Some(Thread { sender, requests, done: Mutex::new(done) }), state })
    }

    /// An end of the log.
    pub fn handle(&self) -> Lines {
        Lines::new(self.thread.as_ref().map(|thread| thread.sender.clone()), Arc::clone(&self.state))
    }

    /// An end of the log for texts, each of which is whole lines.
    pub fn stream(&self) -> Stream {
        Stream::new(self.thread.as_ref().map(|thread| thread.sender.clone()), Arc::clone(&self.state))
    }

    /// How it fares.
    pub fn state(&self) -> Arc<LogState> {
        Arc::clone(&self.state)
    }

    /// Makes the thread look whether its file is still the one of its name. Does not wait for it.
    pub fn reopen(&self) {
        if let Some(thread) = &self.thread {
            thread.requests.looks.fetch_add(1, Relaxed);
            thread.wake();
        }
    }

    /// Ends the thread once all lines are written that were handed over; [`Self::finish`] waits for that.
    pub fn close(&self) {
        if let Some(thread) = &self.thread {
            thread.requests.ends.store(true, Relaxed);
            thread.wake();
        }
    }

    /// Ends the thread and waits for that, until then at most.
    pub fn finish(&self, deadline: Instant) {
        self.close();
        if let Some(thread) = &self.thread {
            let done = thread.done.lock().unwrap_or_else(PoisonError::into_inner);
            // Nothing is ever sent: it returns when the thread ends, or at the deadline.
            let _ = done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

impl Thread {
    fn wake(&self) {
        // A queue that is full has a thread that is awake, or can't be woken.
        let _ = self.sender.try_send(Chunk::default());
    }
}

/// What the thread does.
struct Scribe {
    chunks: Receiver<Chunk>,
    queued_bytes: Arc<AtomicUsize>,
    sink: Arc<Mutex<Sink>>,
    state: Arc<LogState>,
    requests: Arc<Requests>,
    /// Taken from the queue and not written yet.
    waiting: VecDeque<Chunk>,
    /// Bytes of the first of them that are written.
    offset: usize,
    failing_since: Option<Instant>,
    retry_at: Instant,
    complained_at: Option<Instant>,
    /// Dropped lines that were told.
    told: u64,
    told_at: Option<Instant>,
    /// Dropped events that the file tells of.
    gaps: u64,
    looks: u64,
}

impl Scribe {
    fn run(mut self, opened: &SyncSender<io::Result<()>>) {
        let (sink, state) = (Arc::clone(&self.sink), Arc::clone(&self.state));
        let outcome = state.writing(|| lock(&sink).open());
        if let Err(error) = outcome {
            if !may_pass(&error) {
                // Whoever starts the log may have stopped waiting.
                let _ = opened.send(Err(error));
                return;
            }
            self.failed(&error);
        }
        let _ = opened.send(Ok(()));
        loop {
            let ends = self.requests.ends.load(Relaxed);
            let patience = match (ends, self.waiting.is_empty()) {
                (true, _) => Duration::ZERO,
                (false, true) => IDLE_CHECK,
                (false, false) => self.retry_at.saturating_duration_since(Instant::now()),
            };
            match self.chunks.recv_timeout(patience) {
                // An empty one only wakes.
                Ok(chunk) if chunk.lines == 0 => {}
                Ok(chunk) => self.waiting.push_back(chunk),
                Err(RecvTimeoutError::Timeout) if !ends => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.retry_at = Instant::now();
                    self.write();
                    self.tell_losses(true);
                    // The word of a loss may be the last line.
                    match self.chunks.try_recv() {
                        Ok(chunk) => self.waiting.push_back(chunk),
                        Err(_) => return self.give_up(),
                    }
                }
            }
            self.look();
            self.write();
            self.tell_losses(false);
        }
    }

    /// Looks at the file when asked to, and when there is nothing else to do.
    fn look(&mut self) {
        let asked = self.requests.looks.load(Relaxed);
        let now = std::mem::replace(&mut self.looks, asked) != asked;
        if !now && !self.waiting.is_empty() {
            return;
        }
        let (sink, state) = (Arc::clone(&self.sink), Arc::clone(&self.state));
        // Another log that is writing looks itself.
        let mut sink = match sink.try_lock() {
            Ok(sink) => sink,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let outcome = state.writing(|| sink.look(now));
        drop(sink);
        match outcome {
            Ok(()) if self.waiting.is_empty() && self.offset == 0 => self.recovered(),
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
    }

    fn write(&mut self) {
        let (sink, state) = (Arc::clone(&self.sink), Arc::clone(&self.state));
        if self.failing_since.is_some() && Instant::now() < self.retry_at {
            return self.shed();
        }
        while let Some(first) = self.waiting.front() {
            let dropped = state.dropped();
            if self.offset == 0 && state.name() == LogName::Events && dropped > self.gaps {
                let gap = format!("{{\"dropped\":{}}}\n", dropped - self.gaps);
                let written = state.writing(|| lock(&sink).write(state.name().as_str(), gap.as_bytes(), false));
                if let Some(error) = written.error {
                    self.failed(&error);
                    return self.shed();
                }
                self.gaps = dropped;
            }
            let rest = first.text.get(self.offset..).unwrap_or_default();
            let written = state.writing(|| lock(&sink).write(state.name().as_str(), rest, self.offset > 0));
            self.offset += written.bytes;
            state.drop_lines(written.lost);
            if let Some(error) = written.error {
                self.failed(&error);
                return self.shed();
            }
            self.offset = 0;
            if let Some(chunk) = self.waiting.pop_front() {
                self.release(chunk);
            }
            self.recovered();
        }
    }

    /// Gives the memory of a chunk back.
    fn release(&self, mut chunk: Chunk) {
        self.queued_bytes.fetch_sub(chunk.size, Relaxed);
        chunk.text.clear();
        if let Some(back) = &chunk.back {
            // The worker has enough, or is gone.
            let _ = back.try_send(chunk.text);
        }
    }

    /// Drops what waits for a destination that has failed for long, but the latest, with which it is tried again.
    fn shed(&mut self) {
        if self.failing_since.is_some_and(|since| since.elapsed() >= FAILURE_GRACE) {
            while self.waiting.len() > 1 {
                self.drop_first();
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some(chunk) = self.waiting.pop_front() {
            let written = chunk.text.get(..std::mem::take(&mut self.offset)).unwrap_or_default();
            let whole = written.iter().filter(|byte| **byte == b'\n').count();
            self.state.drop_lines(chunk.lines.saturating_sub(u32::try_from(whole).unwrap_or(u32::MAX)));
            self.release(chunk);
        }
    }

    fn give_up(&mut self) {
        while !self.waiting.is_empty() {
            self.drop_first();
        }
        while let Ok(chunk) = self.chunks.try_recv() {
            self.state.drop_lines(chunk.lines);
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.failing_since.get_or_insert_with(Instant::now);
        self.retry_at = Instant::now() + RETRY_DELAY;
        self.state.set_failure(Some(error.to_string()));
        let due = self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL);
        // Our own log can't tell it of itself.
        if due && self.state.name() != LogName::Own {
            self.complained_at = Some(Instant::now());
            let (title, place) = (self.state.name().title(), self.state.destination());
            tracing::warn!(%error, dropped = self.state.dropped(), "the {title} can't be written to {place}");
        }
    }

    fn recovered(&mut self) {
        if self.failing_since.take().is_some() {
            self.state.set_failure(None);
            if self.complained_at.take().is_some() {
                tracing::info!("the {} is written again", self.state.name().title());
            }
        }
    }

    /// Says how many lines were lost once the destination takes lines again.
    fn tell_losses(&mut self, last: bool) {
        let lost = self.state.dropped();
        let due = last || self.told_at.is_none_or(|at| at.elapsed() >= LOSS_INTERVAL);
        if lost == self.told || !due || self.failing_since.is_some() || !self.waiting.is_empty() {
            return;
        }
        let (title, dropped) = (self.state.name().title(), lost - self.told);
        tracing::warn!(
            dropped,
            total = lost,
            "lines of the {title} were dropped: its destination was too slow or failed"
        );
        // Said through our own log, which may have dropped just that.
        if self.state.name() != LogName::Own || self.state.dropped() == lost {
            (self.told, self.told_at) = (lost, Some(Instant::now()));
        }
    }
}

fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
