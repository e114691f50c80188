//! Defines how many of an upstream's requests are being tried again, and whether one more may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::upstream::{Upstream, UpstreamState};

/// The retries in flight, of all workers.
#[derive(Debug, Default)]
pub(super) struct Retries(AtomicU32);

/// The right to send a request once more; gives its place back when it goes.
#[derive(Debug)]
pub struct RetryPermit(Arc<UpstreamState>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.0.fetch_sub(1, Relaxed);
    }
}

impl Upstream {
    /// Lets a request be sent once more, if its budget allows.
    pub fn retry(&self) -> Option<RetryPermit> {
        let in_flight = self.endpoints.iter().map(|endpoint| endpoint.state.in_flight()).fold(0, u32::saturating_add);
        let allowed = self.settings.retry_budget.allows(in_flight);
        let one_more = |retries: u32| (retries < allowed).then_some(retries + 1);
        self.state.retries.0.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(RetryPermit(Arc::clone(&self.state)))
    }
}
