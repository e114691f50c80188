//! The admin API: what the gateway is doing, for people, scripts and Prometheus. It reads the snapshot, the
//! status of providers and counters; what operators say it passes on to control. No request waits for a worker.
//!
//! Who may ask is decided in [`access`] before anything else is looked at; views are pure functions of what
//! is read.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::control::command::Commands;
use crate::control::history::History;
use crate::discovery::status::ProviderStatus;
use crate::middleware::fleet::Fleet;
use crate::snapshot::Snapshot;
use crate::spec::name::Name;
use crate::spec::settings::Settings;
use crate::telemetry::audit::AuditLog;
use crate::telemetry::descriptors::Descriptors;
use crate::telemetry::lines::LogStates;
use crate::telemetry::prometheus::Metrics;
use crate::telemetry::unreadable::UnreadableProxies;

mod access;
mod api;
mod command;
mod error;
mod events;
mod explain;
pub mod metrics;
mod query;
pub mod readiness;
mod seats;
mod serve;
pub mod view;

pub use readiness::Readiness;
pub use serve::serve;

/// What the admin API reads.
#[derive(Clone, Debug)]
pub struct State {
    /// The static settings.
    pub settings: Arc<Settings>,
    /// Listeners with the addresses they are bound to.
    pub listeners: Vec<(Name, SocketAddr)>,
    /// What is served.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// All providers that are on.
    pub providers: Vec<Arc<ProviderStatus>>,
    /// The other gateways.
    pub fleet: Arc<Fleet>,
    /// Where it is told who commanded what, and who was refused.
    pub audit: Arc<AuditLog>,
    /// Where operators' commands go.
    pub commands: Commands,
    /// What changed so far.
    pub history: Arc<History>,
    /// How what is written fares.
    pub logs: LogStates,
    /// The trusted proxies whose clients are unknown.
    pub unreadable: Arc<UnreadableProxies>,
    /// How descriptors are divided.
    pub descriptors: Arc<Descriptors>,
    /// What `/metrics` renders.
    pub metrics: Metrics,
    /// What `/readyz` says.
    pub readiness: Arc<Readiness>,
    /// When the process started.
    pub started: Instant,
}
