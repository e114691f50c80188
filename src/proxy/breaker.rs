//! Defines the way of a request past the breaker of its upstream: through, or what is done with it instead.

use std::sync::Arc;
use std::time::Instant;

use http::header;

use super::carrier::Carrier;
use super::forward::{Destination, forward};
use super::frame::Frame;
use super::http1::Head;
use super::local::LocalUpstream;
use super::outbound::Outbound;
use crate::exchange::ProxyError;
use crate::snapshot::{CircuitState, Limited, Place, Refusal, Verdict};
use crate::spec::breaker::{Canned, Fallback};
use crate::telemetry::stats::WorkerStats;

/// What a request came to.
pub(super) enum Answered {
    /// An endpoint's answer.
    Endpoint(Head, Carrier),
    /// The upstream was not asked.
    Canned(Arc<Canned>),
}

/// Forwards a request to its upstream, or does what the upstream's breaker has for those it refuses.
///
/// # Errors
/// When it was refused and nothing else is to be done, or no endpoint answered.
pub(super) async fn guarded(
    frame: &mut Frame,
    destination: &mut Destination,
    mut outbound: Outbound,
) -> Result<Answered, ProxyError> {
    let came = destination.fallback.as_ref().and_then(|_| outbound.request.headers().get(header::HOST).cloned());
    let refused = match through(frame, destination, &mut outbound).await {
        Ok((head, connection)) => return Ok(Answered::Endpoint(head, connection)),
        Err(error @ ProxyError::Overloaded { .. }) => error,
        Err(error) => return Err(error),
    };
    let settings = Arc::clone(&destination.upstream.upstream.settings);
    match settings.breaker.as_ref().and_then(|breaker| breaker.fallback.as_ref()) {
        Some(Fallback::Answer(canned)) => Ok(Answered::Canned(Arc::clone(canned))),
        Some(Fallback::Upstream(_)) => {
            // Its own fallback is not followed: two that name each other would go on for ever.
            let other = *destination.fallback.take().ok_or(refused)?;
            frame.leave_endpoint();
            frame.towards(other.slot, &other.upstream);
            (destination.upstream, destination.subset, destination.aim) = (other.upstream, 0, other.aim);
            if let Some(host) = came {
                // The refused try may have set that of its own upstream.
                outbound.request.headers_mut().insert(header::HOST, host);
            }
            let (head, connection) = through(frame, destination, &mut outbound).await?;
            Ok(Answered::Endpoint(head, connection))
        }
        None => Err(refused),
    }
}

/// Forwards a request if the breaker lets it through.
async fn through(
    frame: &mut Frame,
    destination: &Destination,
    outbound: &mut Outbound,
) -> Result<(Head, Carrier), ProxyError> {
    let upstream = &destination.upstream;
    // What was taken of another upstream goes back.
    frame.admission = None;
    frame.admission =
        upstream.upstream.admit(frame.started).map_err(|refusal| upstream.refused(refusal, &frame.worker.stats))?;
    forward(frame, destination, outbound).await
}

impl LocalUpstream {
    /// Counts a refused request, and says what it gets.
    pub(super) fn refused(&self, refusal: Refusal, stats: &WorkerStats) -> ProxyError {
        // Whoever is refused costs little else, so nothing is kept for it.
        stats.refused(&self.upstream.label, refusal.as_str()).add(1);
        refusal.error()
    }

    /// Room for one more connection: while it is made, and as long as it lives.
    pub(super) fn room(&self) -> Result<(Option<Place>, Option<Place>), Refusal> {
        let connection = self.upstream.place(Limited::Connections)?;
        Ok((self.upstream.place(Limited::Pending)?, connection))
    }
}

/// Takes note of what became of a try.
pub(super) fn note(frame: &mut Frame, upstream: &LocalUpstream, verdict: Verdict) {
    let now = Instant::now();
    let took = frame.waited(now);
    let Some(state) = upstream.upstream.note(frame.admission.as_deref_mut(), verdict, took, now) else { return };
    let upstream = &*upstream.upstream.label;
    match state {
        CircuitState::Closed => tracing::info!(upstream, "its breaker is closed"),
        CircuitState::Open | CircuitState::HalfOpen => tracing::warn!(upstream, "its breaker is open"),
    }
}
