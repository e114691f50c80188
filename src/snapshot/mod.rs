//! The immutable picture that the workers serve from, and the pure functions that read it: the gate, matching,
//! the draw of a target, who is usable. Proxy and explain call the same functions, so that explain can't lie.
//!
//! The only things that change in a published snapshot are the states behind its `Arc`s: an endpoint's
//! health and counts, an upstream's epoch. They belong to an identity, not to a snapshot, and survive it.

use std::sync::Arc;
use std::time::SystemTime;

mod abandonment;
pub mod affinity;
pub mod breaker;
pub mod budget;
pub mod certificate;
mod clock;
pub mod consumer;
pub mod contest;
pub mod endpoint;
pub mod gate;
pub mod level;
pub mod line;
pub mod middleware;
pub mod outlier;
pub mod preflight;
pub mod prohibition;
pub mod report;
pub mod request;
pub mod route;
mod route_health;
pub mod secure;
pub mod start;
pub mod table;
pub mod target;
pub mod upstream;
mod window;

use crate::exchange::ProxyError;

pub use affinity::Affinity;
pub use breaker::{Admission, BreakerView, CircuitState, Limited, Place, Refusal};
pub use budget::RetryPermit;
pub use certificate::Certificates;
pub use consumer::Consumers;
pub use endpoint::{Endpoint, EndpointState, Health, Standing, StateName};
pub use level::{Level, LevelView};
pub use middleware::{Middlewares, NamedMiddleware};
pub use outlier::{Cause, Flip, Trial, Verdict};
pub use prohibition::Prohibition;
pub use report::{Diagnostic, DiagnosticKind, Report};
pub use request::RequestView;
pub use route::{Route, RouteState, Target};
pub use route_health::{RouteHealth, RouteJudge};
pub use secure::Secure;
pub use table::RouteTable;
pub use upstream::{Upstream, UpstreamState, Usable};

/// The complete picture of one generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts publications; 0 is the empty picture before the first.
    pub generation: u64,
    /// When it was published.
    pub published_at: SystemTime,
    /// All routes.
    pub routes: Arc<RouteTable>,
    /// Upstreams by slot; a slot keeps its upstream's name for as long as the upstream exists.
    pub upstreams: Arc<[Option<Arc<Upstream>>]>,
    /// The steps around exchanges.
    pub middlewares: Arc<Middlewares>,
    /// What clients of TLS listeners are shown.
    pub certificates: Arc<Certificates>,
    /// Who may call.
    pub consumers: Arc<Consumers>,
    /// What people have to know about what they wrote.
    pub report: Arc<Report>,
}

impl Snapshot {
    /// The picture before anything is known.
    pub fn empty() -> Self {
        Self {
            generation: 0,
            published_at: SystemTime::now(),
            routes: Arc::default(),
            upstreams: Arc::from([]),
            middlewares: Arc::default(),
            certificates: Arc::default(),
            consumers: Arc::default(),
            report: Arc::default(),
        }
    }

    /// Whether every request gets 503 `NC`, because a route that is not known yet could protect what it asks for.
    pub fn is_closed(&self) -> bool {
        self.generation == 0 || self.report.closes()
    }

    /// Whether requests are served at all.
    ///
    /// # Errors
    /// What every request gets while it is [closed](Self::is_closed).
    pub fn open(&self) -> Result<(), ProxyError> {
        if self.is_closed() { Err(ProxyError::NotReady) } else { Ok(()) }
    }

    /// Whether everything that is wanted was read, or is served as it was saved: what is not here does not exist.
    pub fn is_settled(&self) -> bool {
        self.generation > 0 && self.report.unread.is_empty() && self.upstreams().all(|upstream| upstream.known)
    }

    /// The upstream in a slot.
    pub fn upstream(&self, slot: usize) -> Option<&Arc<Upstream>> {
        self.upstreams.get(slot)?.as_ref()
    }

    /// A target's upstream, and the indexes of the endpoints that take its traffic now.
    pub fn usable(&self, target: &Target) -> Option<(&Arc<Upstream>, Vec<u32>)> {
        let upstream = self.upstream(target.slot)?;
        Some((upstream, upstream.usable(upstream.selector(target.subset)?)))
    }

    /// All upstreams, by slot.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().flatten()
    }
}
