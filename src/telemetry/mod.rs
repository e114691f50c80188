//! What the gateway tells about itself: per-worker counters, their Prometheus rendering, the access log, the audit log,
//! the file of events, and our own log.
//!
//! A worker writes to instruments that it alone owns and to a buffer that it alone owns; summing and
//! writing out happen elsewhere. Nothing here blocks a worker, or anyone else.

pub mod access_log;
pub mod audit;
pub mod descriptors;
pub mod lines;
pub mod log;
pub mod outputs;
pub mod prometheus;
pub mod stats;
pub mod unreadable;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::spec::settings::Telemetry;

use audit::{AuditLog, Auditor, EventLog};
use lines::{Lines, LogName, LogState, LogStates, Writer};
use outputs::Outputs;

/// How long the last lines may take.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// How often what was collected is handed over.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// A write that takes longer than this is told.
const BLOCKED_COMPLAINT: Duration = Duration::from_secs(5);

/// The logs for machines.
#[derive(Clone, Debug)]
pub struct Logs(Arc<Writers>);

#[derive(Debug)]
struct Writers {
    access: Writer,
    audit: Writer,
    events: Writer,
    audit_accepted: bool,
    own: Arc<LogState>,
    audit_log: Arc<AuditLog>,
    event_log: Arc<EventLog>,
}

impl Writers {
    fn all(&self) -> [&Writer; 3] {
        [&self.access, &self.audit, &self.events]
    }
}

impl Logs {
    /// Opens them.
    ///
    /// # Errors
    /// Which of them can't be opened, and why.
    pub fn start(settings: &Telemetry, outputs: &Outputs) -> Result<Self, (&'static str, io::Error)> {
        let start = |name, key, destination| {
            Writer::start(name, &destination, outputs.destinations()).map_err(|error| (key, error))
        };
        let access = start(LogName::Access, "telemetry.access_log", (&settings.access_log).into())?;
        let audit = start(LogName::Audit, "telemetry.audit", (&settings.audit).into())?;
        let events = start(LogName::Events, "telemetry.events", settings.events.as_ref().into())?;
        Ok(Self(Arc::new(Writers {
            audit_log: Arc::new(AuditLog::new(audit.handle())),
            event_log: Arc::new(EventLog::new(events.handle())),
            access,
            audit,
            events,
            audit_accepted: settings.audit_accepted,
            own: outputs.own_log(),
        })))
    }

    /// A worker's ends.
    pub fn of_worker(&self) -> (Lines, Auditor) {
        (self.0.access.handle(), Auditor::new(self.0.audit.handle(), self.0.audit_accepted))
    }

    /// The control plane's end of the audit log.
    pub fn audit(&self) -> Arc<AuditLog> {
        Arc::clone(&self.0.audit_log)
    }

    /// The history's end of the file of events.
    pub fn events(&self) -> Arc<EventLog> {
        Arc::clone(&self.0.event_log)
    }

    /// How they fare, and how our own log does.
    pub fn states(&self) -> LogStates {
        let Writers { access, audit, events, own, .. } = &*self.0;
        LogStates(vec![Arc::clone(own), access.state(), audit.state(), events.state()])
    }

    /// Opens files again whose names lead elsewhere.
    pub fn reopen(&self) {
        self.0.all().into_iter().for_each(Writer::reopen);
    }

    /// Hands over what the control plane collected, and tells of destinations that block; for as long as it is polled.
    pub async fn keep(self) {
        let logs = self.states().0;
        let mut told = vec![false; logs.len()];
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush();
            for (log, told) in logs.iter().zip(&mut told) {
                let blocked = log.blocked().is_some_and(|time| time >= BLOCKED_COMPLAINT);
                if blocked && !*told && log.name() != LogName::Own {
                    let (title, place) = (log.name().title(), log.destination());
                    tracing::warn!(
                        "the {title} is blocked: nobody reads {place}, or its disk hangs; lines will be lost"
                    );
                }
                *told = blocked;
            }
        }
    }

    fn flush(&self) {
        self.0.audit_log.flush();
        self.0.event_log.flush();
    }

    /// Waits until all lines are written, for a second at most.
    pub fn finish(&self) {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        self.flush();
        self.0.all().into_iter().for_each(Writer::close);
        self.0.all().into_iter().for_each(|writer| writer.finish(deadline));
    }
}
