//! What the gateway tells about itself: per-worker counters, their Prometheus rendering, the access log,
//! and our own log.
//!
//! A worker writes to instruments that it alone owns and to a buffer that it alone owns; summing and
//! writing out happen elsewhere. Nothing here blocks a worker.

pub mod access_log;
pub mod audit;
pub mod lines;
pub mod log;
pub mod prometheus;
pub mod stats;

use std::io;

use crate::spec::settings::Telemetry;

use audit::{AuditLog, Auditor};
use lines::{Lines, Writer};
use prometheus::{Metrics, definitions};

/// The logs for machines.
#[derive(Debug)]
pub struct Logs {
    access: Writer,
    audit: Writer,
    audit_accepted: bool,
}

impl Logs {
    /// Opens them.
    ///
    /// # Errors
    /// Which of them can't be opened, and why.
    pub fn start(settings: &Telemetry) -> Result<Self, (&'static str, io::Error)> {
        let access = Writer::start("access log", &settings.access_log, &[definitions::ACCESS_LOG_DROPPED]);
        let audit = Writer::start("audit log", &settings.audit, &[definitions::AUDIT_DROPPED]);
        Ok(Self {
            access: access.map_err(|error| ("telemetry.access_log", error))?,
            audit: audit.map_err(|error| ("telemetry.audit", error))?,
            audit_accepted: settings.audit_accepted,
        })
    }

    /// A worker's ends.
    pub fn of_worker(&self) -> (Lines, Auditor) {
        (self.access.handle(), Auditor::new(self.audit.handle(), self.audit_accepted))
    }

    /// The control plane's end of the audit log.
    pub fn audit(&self) -> AuditLog {
        AuditLog::new(self.audit.handle())
    }

    /// Counts what they lose.
    ///
    /// # Errors
    /// As [`Metrics::register`].
    pub fn register(&self, metrics: &Metrics) -> ::prometheus::Result<()> {
        metrics.register(self.access.dropped_lines())?;
        metrics.register(self.audit.dropped_lines())
    }

    /// Waits until all lines are written, for a second each at most.
    pub fn finish(self) {
        self.access.finish();
        self.audit.finish();
    }
}
