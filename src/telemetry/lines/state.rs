//! The state of a log: the lines it lost, and what keeps its destination from taking more.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::telemetry::prometheus::{Definition, Samples, Source, definitions};

/// A write that takes longer than this is blocked: a pipe that nobody reads, a disk that hangs.
const BLOCKED_AFTER: Duration = Duration::from_secs(1);

/// A log of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogName {
    /// What the gateway tells its operators.
    Own,
    /// Exchanges.
    Access,
    /// Who was refused, what was commanded and applied.
    Audit,
    /// The history of changes.
    Events,
    /// What commands print while they run: the addresses of listeners, `ready`.
    Announcements,
}

impl LogName {
    /// As metrics and the admin API name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Access => "access",
            Self::Audit => "audit",
            Self::Events => "events",
            Self::Announcements => "announcements",
        }
    }

    /// As sentences name it; also the name of its thread.
    pub fn title(self) -> &'static str {
        match self {
            Self::Own => "own log",
            Self::Access => "access log",
            Self::Audit => "audit log",
            Self::Events => "events file",
            Self::Announcements => "output",
        }
    }
}

/// What keeps a destination from taking lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For people.
    pub text: String,
    /// Since when.
    pub since: SystemTime,
}

/// How a log fares. Its thread writes it, anyone reads it, and nobody waits for a write by that.
#[derive(Debug)]
pub struct LogState {
    name: LogName,
    destination: String,
    dropped: AtomicU64,
    created: Instant,
    /// When the write under way began, in milliseconds after `created`, plus one; 0 without one.
    write_began: AtomicU64,
    failure: Mutex<Option<Trouble>>,
}

impl LogState {
    pub(super) fn new(name: LogName, destination: String) -> Self {
        Self {
            name,
            destination,
            dropped: AtomicU64::new(0),
            created: Instant::now(),
            write_began: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Which log it is.
    pub fn name(&self) -> LogName {
        self.name
    }

    /// `stdout`, `stderr`, `off`, or a path.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Lines lost since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// What keeps the destination from taking lines now.
    pub fn trouble(&self) -> Option<Trouble> {
        let blocked = self.blocked().map(|time| Trouble {
            text: "a write does not end: nobody reads this pipe, or its disk hangs".to_owned(),
            since: SystemTime::now().checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH),
        });
        blocked.or_else(|| self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// How long the write under way has taken, when that is too long.
    pub(in crate::telemetry) fn blocked(&self) -> Option<Duration> {
        let began = self.write_began.load(Relaxed).checked_sub(1)?;
        let time = self.created.elapsed().checked_sub(Duration::from_millis(began))?;
        (time >= BLOCKED_AFTER).then_some(time)
    }

    pub(super) fn drop_lines(&self, lines: u32) {
        self.dropped.fetch_add(lines.into(), Relaxed);
    }

    /// Does what may not end, so that readers of the state can tell.
    pub(super) fn writing<T>(&self, write: impl FnOnce() -> T) -> T {
        let began = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.write_began.store(began + 1, Relaxed);
        let written = write();
        self.write_began.store(0, Relaxed);
        written
    }

    /// Notes how the last write ended.
    pub(super) fn set_failure(&self, error: Option<String>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *failure, error) {
            (Some(known), Some(text)) => known.text = text,
            (failure, error) => *failure = error.map(|text| Trouble { text, since: SystemTime::now() }),
        }
    }
}

/// All logs, for metrics.
#[derive(Clone, Debug)]
pub struct LogStates(pub Vec<Arc<LogState>>);

impl Source for LogStates {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[
            definitions::LOG_DROPPED,
            definitions::LOG_FAILING,
            definitions::ACCESS_LOG_DROPPED,
            definitions::AUDIT_DROPPED,
        ]
    }

    fn collect(&self, samples: &mut Samples) {
        for log in &self.0 {
            let (name, dropped) = (log.name.as_str(), log.dropped() as f64);
            samples.value(definitions::LOG_DROPPED, &[name], dropped);
            samples.value(definitions::LOG_FAILING, &[name], f64::from(u8::from(log.trouble().is_some())));
            match log.name {
                LogName::Access => samples.value(definitions::ACCESS_LOG_DROPPED, &[], dropped),
                LogName::Audit => samples.value(definitions::AUDIT_DROPPED, &[], dropped),
                LogName::Own | LogName::Events | LogName::Announcements => {}
            }
        }
    }
}
