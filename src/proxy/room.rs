//! Defines how an exchange comes to an endpoint with room: at once, after a wait in line, or not at all.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::balance::Wish;
use super::forward::Destination;
use super::frame::Frame;
use super::pick::Picked;
use crate::exchange::ProxyError;

/// Who waits looks again after so long, whatever it is told: room may be in a subset, or at an endpoint, that the one who
/// was woken had no use for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Every endpoint has as much to do as it may, and there is no place in line.
const FULL: ProxyError = ProxyError::Overloaded { seconds: 1 };

/// Picks an endpoint and begins an exchange there. Those tried before come last.
///
/// # Errors
/// No endpoint is usable, or all of them are full for too long.
pub(super) async fn find(frame: &mut Frame, destination: &Destination, tried: &[u32]) -> Result<Picked, ProxyError> {
    let upstream = &destination.upstream;
    let settings = &upstream.upstream.settings;
    // While it looks for another it is nowhere: it must not wait for its own place.
    frame.leave_endpoint();
    if settings.max_requests_per_endpoint.is_none() {
        return look(frame, destination, tried)?.ok_or(ProxyError::NoEndpoint);
    }
    let line = &upstream.upstream.state.line;
    // Nobody goes before those who wait.
    let mut may_look = line.is_empty();
    if may_look && let Some(picked) = look(frame, destination, tried)? {
        return Ok(picked);
    }
    let Some(queue) = settings.queue else { return Err(FULL) };
    let place = line.join(queue.size).ok_or(FULL)?;
    let until = Instant::now() + queue.timeout;
    loop {
        let turn = place.turn();
        let mut turn = std::pin::pin!(turn);
        // From here on it is told.
        turn.as_mut().enable();
        if may_look && let Some(picked) = look(frame, destination, tried)? {
            return Ok(picked);
        }
        may_look = true;
        let now = Instant::now();
        if destination.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(ProxyError::Timeout);
        }
        if now >= until {
            return Err(FULL);
        }
        let end = destination.deadline.map_or(until, |deadline| deadline.min(until));
        let _ = tokio::time::timeout(LOOK_AGAIN.min(end - now), turn).await;
    }
}

/// An endpoint, if one has room. Another worker may take it between the look and the beginning: then again.
fn look(frame: &Frame, destination: &Destination, tried: &[u32]) -> Result<Option<Picked>, ProxyError> {
    let (worker, upstream) = (&frame.worker, &destination.upstream);
    let most = upstream.upstream.settings.max_requests_per_endpoint;
    let mut avoid = Cow::Borrowed(tried);
    loop {
        let pool = upstream.pool(destination.subset, || worker.random()).ok_or(ProxyError::Unresolved)?;
        if pool.is_empty() {
            return Err(ProxyError::NoEndpoint);
        }
        let wish = Wish { avoid: &avoid, key: destination.aim.key, stay: destination.aim.stay, most };
        let Some(picked) = upstream.pick(&pool, wish, frame.started, worker) else { return Ok(None) };
        let endpoint = &upstream.endpoints[picked.index as usize];
        // Who waited, or tries again, knows the endpoints of when it began. When all of them leave, one will do.
        if endpoint.drain.leaves() && !avoid.contains(&picked.index) {
            avoid.to_mut().push(picked.index);
            continue;
        }
        match most {
            None => endpoint.state.enter(),
            Some(most) if endpoint.state.enter_below(most) => {}
            Some(_) => continue,
        }
        return Ok(Some(picked));
    }
}
