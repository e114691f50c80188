//! Defines the tries at endpoints: pick, try, judge, and again elsewhere as far as the route's retries go.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, Version, header};

use super::attempt::{Tried, attempt};
use super::breaker;
use super::carrier::Carrier;
use super::frame::Frame;
use super::http1::Head;
use super::local::{LocalEndpoint, LocalRoute, LocalUpstream};
use super::outbound::Outbound;
use super::pick::Picked;
use super::retry::{Next, Outcome, Repeatable, Tries};
use super::room;
use super::worker::Worker;
use crate::exchange::{ClientAddress, Flag, Flow, ProxyError, grpc};
use crate::snapshot::{RequestView, RetryPermit, Upstream, Verdict, affinity};
use crate::spec::retry::{Condition, Retry};
use crate::spec::route::HostPolicy;
use crate::spec::upstream::Balance;
use crate::telemetry::stats::{AttemptResult, RetryResult};

/// Where a request goes, and how long and how often that is tried.
pub(super) struct Destination {
    pub(super) route: Rc<LocalRoute>,
    pub(super) upstream: Rc<LocalUpstream>,
    pub(super) subset: usize,
    /// Where requests go that the upstream's breaker refuses.
    pub(super) fallback: Option<Box<Fallback>>,
    pub(super) aim: Aim,
    /// The end of the whole exchange.
    pub(super) deadline: Option<Instant>,
    /// It is the client that waits no longer: not the fault of an endpoint.
    pub(super) is_clients: bool,
    /// The head of the answer says all: a body that is broken spoils nothing.
    pub(super) head_suffices: bool,
    /// The `Host` that the route wants; `Kept`: its upstream decides.
    pub(super) host: HostPolicy,
}

/// Another upstream than the one a request was for.
pub(super) struct Fallback {
    pub(super) slot: usize,
    pub(super) upstream: Rc<LocalUpstream>,
    pub(super) aim: Aim,
}

/// Which of an upstream's endpoints a request is for, if it can be had.
#[derive(Clone, Copy, Default)]
pub(super) struct Aim {
    /// What balancers that hash go by.
    pub(super) key: Option<u64>,
    /// Where the client is, and stays if it can.
    pub(super) stay: Option<u32>,
}

impl Aim {
    pub(super) fn new(upstream: &Upstream, view: &RequestView<'_>, client: ClientAddress) -> Self {
        Self {
            key: upstream.settings.hash.as_ref().and_then(|hash| affinity::key(hash, view, client.known())),
            stay: upstream.affinity.sessions().and_then(|sessions| sessions.find(view)),
        }
    }
}

/// Sends a request to endpoints until one answers, or no other try is allowed.
///
/// # Errors
/// When the last try gave no response.
pub(super) async fn forward(
    frame: &mut Frame,
    destination: &Destination,
    outbound: &mut Outbound,
) -> Result<(Head, Carrier), ProxyError> {
    let (worker, upstream) = (Rc::clone(&frame.worker), &destination.upstream);
    let retry = destination.retry();
    let mut tries = Tries::default();
    // Held while the try it was given for is under way.
    let mut _permit: Option<RetryPermit>;
    loop {
        let Picked { index, trial } = room::find(frame, destination, tries.tried()).await?;
        let endpoint = Rc::clone(&upstream.endpoints[index as usize]);
        frame.attempt(&endpoint, trial);
        if let Some(host) = destination.host(frame, &endpoint) {
            outbound.request.headers_mut().insert(header::HOST, host.clone());
        }
        let mut tried = attempt(frame, destination, &endpoint, tries.wants_fresh(), outbound).await;
        if let Err(failure) = &mut tried
            && destination.is_given_up()
        {
            failure.is_of_endpoint = false;
        }
        if upstream.upstream.settings.balance == Balance::P2cEwma {
            measure(frame, &endpoint, &tried);
        }
        note(frame, destination, &endpoint, &tried);
        let Some(outcome) = outcome(&tried, retry) else { return answer(frame, tried, outbound) };
        if is_past(destination.deadline) && tried.is_err() {
            return Err(ProxyError::Timeout);
        }
        let next = tries.failed(index, outcome, retry, repeatable(outbound, outcome, retry));
        let pool = upstream.pool(destination.subset, || worker.random()).map_or(0, |pool| pool.len());
        let wait = tries.wait(outcome, retry, pool, worker.random());
        match again(&worker, destination, next, wait).await {
            Ok(permit) => _permit = permit,
            Err(refused) => {
                if let Some(refused) = refused {
                    upstream.retried(refused, &worker.stats);
                    frame.flag = (frame.attempts > 1).then_some(Flag::UpstreamRetryLimitExceeded);
                }
                return answer(frame, tried, outbound);
            }
        }
        upstream.retried(RetryResult::Taken, &worker.stats);
        if let Ok((_, Carrier::Connection(connection))) = tried {
            endpoint.keep_unread(connection, &upstream.upstream);
        }
        if !outcome.unsent && !outbound.request.body_mut().rewind() {
            // `repeatable` has seen that it can be.
            return Err(ProxyError::Reset { retried: true });
        }
    }
}

/// Waits for another try and gets what it costs.
///
/// # Errors
/// When there is none: why, if one was wanted.
async fn again(
    worker: &Worker,
    destination: &Destination,
    next: Next,
    wait: Duration,
) -> Result<Option<RetryPermit>, Option<RetryResult>> {
    let costs = match next {
        Next::Again { costs } => costs,
        Next::Over => return Err(None),
        Next::UsedUp => return Err(Some(RetryResult::Limit)),
        Next::BodyGone => return Err(Some(RetryResult::Body)),
    };
    pause(destination, wait).await?;
    if !costs {
        return Ok(None);
    }
    // After the wait: who waits is no load yet. And when many fail at once, those that the budget has no place for at
    // first wait a little for one, rather than fail for the sake of a moment.
    for _ in 0..WAITS_FOR_BUDGET {
        if let Some(permit) = destination.upstream.upstream.retry() {
            return Ok(Some(permit));
        }
        pause(destination, destination.retry().backoff.longest(worker.random())).await?;
    }
    destination.upstream.upstream.retry().map(Some).ok_or(Some(RetryResult::Budget))
}

/// How often a retry waits for a place in the budget.
const WAITS_FOR_BUDGET: usize = 3;

/// Waits, unless the exchange's time would pass meanwhile.
async fn pause(destination: &Destination, wait: Duration) -> Result<(), Option<RetryResult>> {
    if wait.is_zero() {
        return Ok(());
    }
    if is_past(destination.deadline.and_then(|deadline| deadline.checked_sub(wait))) {
        return Err(Some(RetryResult::Deadline));
    }
    tokio::time::sleep(wait).await;
    Ok(())
}

/// What a try asks for beyond its answer.
fn outcome(tried: &Tried, retry: &Retry) -> Option<Outcome> {
    match tried {
        Ok((head, _)) => {
            let status = head.response.status();
            let condition = Condition::Status(status.as_u16());
            retry.on_status(status).then_some(Outcome { condition, unsent: false, stale: false })
        }
        Err(failure) => failure.outcome,
    }
}

/// The outcome of the last try, as what the exchange comes to.
fn answer(frame: &Frame, tried: Tried, outbound: &mut Outbound) -> Result<(Head, Carrier), ProxyError> {
    match tried {
        Ok((head, mut carrier)) => {
            carrier.upload(std::mem::take(outbound.request.body_mut()).unhurried(), frame.idle_timeout());
            Ok((head, carrier))
        }
        Err(failure) if frame.attempts > 1 => Err(failure.error.retried()),
        Err(failure) => Err(failure.error),
    }
}

/// Counts a try, and judges its endpoint by it.
fn note(frame: &mut Frame, destination: &Destination, endpoint: &LocalEndpoint, tried: &Tried) {
    let upstream = &destination.upstream;
    let trial = frame.attempt_ends();
    if tried.is_ok() {
        endpoint.state.answers(frame.worker.clock.load(Relaxed));
    }
    let (result, verdict) = match tried {
        Ok((head, _)) if speaks_of_failure(&head.response) => (Some(AttemptResult::Ok), Some(Verdict::Error)),
        Ok(_) => (Some(AttemptResult::Ok), Some(Verdict::Good)),
        Err(failure) => {
            tracing::debug!(
                upstream = &*upstream.upstream.label,
                endpoint = &**endpoint.state.label(),
                attempt = frame.attempts,
                "an attempt failed: {}",
                failure.cause
            );
            if failure.error == ProxyError::BadResponse && endpoint.tells_of_protocol(Instant::now()) {
                tracing::info!(
                    upstream = &*upstream.upstream.label,
                    endpoint = &**endpoint.state.label(),
                    route = &*destination.route.route.label,
                    "the endpoint broke HTTP, so its client gets 502 UPE: {}",
                    failure.cause
                );
            }
            (failure.result, failure.is_of_endpoint.then_some(Verdict::Failure))
        }
    };
    if let Some(result) = result {
        upstream.attempted(result, &frame.worker.stats);
    }
    if let Some(verdict) = verdict {
        upstream.judge(endpoint, trial, verdict, &frame.worker);
        if upstream.upstream.settings.breaker.is_some() {
            breaker::note(frame, upstream, verdict);
        }
    }
}

/// Whether an answer speaks against its endpoint. A call of gRPC that failed without a message is told by its head.
fn speaks_of_failure(response: &Response<()>) -> bool {
    response.status().is_server_error() || response.version() == Version::HTTP_2 && grpc::is_failure(response.headers())
}

/// Whether a request may reach services twice, as it stands. One that its endpoint refused has reached none.
fn repeatable(outbound: &Outbound, outcome: Outcome, retry: &Retry) -> Repeatable {
    let request = &outbound.request;
    let refused = outcome.condition == Condition::RefusedStream;
    if !refused && !retry.repeats(request.method()) || request.headers().contains_key(header::UPGRADE) {
        Repeatable::No
    } else if request.body().is_whole() {
        Repeatable::Yes
    } else {
        Repeatable::BodyGone
    }
}

/// Notes how long an endpoint took. Answers that say it cannot serve count as failures: they come fast.
fn measure(frame: &Frame, endpoint: &LocalEndpoint, tried: &Tried) {
    let now = Instant::now();
    let took = frame.waited(now);
    match tried {
        Ok((head, _)) if !matches!(head.response.status().as_u16(), 429 | 500 | 502..=504) => {
            endpoint.latency.answered(took, now);
        }
        // Nothing that it did.
        Err(failure) if !failure.is_of_endpoint => {}
        Ok(_) | Err(_) => endpoint.latency.failed(took, now),
    }
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

impl Destination {
    /// Whether the client's own time is over, which speaks against nobody.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_clients && is_past(self.deadline)
    }

    fn retry(&self) -> &Retry {
        &self.route.route.spec.retry
    }

    /// The `Host` that an endpoint gets instead of what came.
    fn host<'a>(&'a self, frame: &Frame, endpoint: &'a LocalEndpoint) -> Option<&'a HeaderValue> {
        let of_upstream = &self.upstream.upstream.settings.host;
        match if self.host == HostPolicy::Kept { of_upstream } else { &self.host } {
            // From an HTTP/1.0 client without one; RFC 9112, 3.2, has it in every request of HTTP/1.1.
            HostPolicy::Kept if frame.host.is_none() => endpoint.host.as_ref(),
            HostPolicy::Kept => None,
            HostPolicy::Endpoint => endpoint.host.as_ref(),
            HostPolicy::Fixed(host) => Some(host),
        }
    }

    /// Time for a connection.
    pub(super) fn connect_timeout(&self) -> Duration {
        let timeout = self.upstream.upstream.settings.connect_timeout;
        let timeout = self.retry().per_try_timeout.map_or(timeout, |one| one.min(timeout));
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(timeout, |left| left.min(timeout))
    }

    /// Since when an endpoint that has the request is waited for.
    pub(super) fn awaited_since(&self, sent: Instant, request_body: Option<&Flow>) -> Instant {
        request_body.map_or(sent, |flow| flow.waits_since().max(sent))
    }

    /// When the head of a response is due.
    pub(super) fn head_deadline(&self, since: Instant) -> Instant {
        let timeout = self.upstream.upstream.settings.response_timeout;
        let at = since + self.retry().per_try_timeout.map_or(timeout, |one| one.min(timeout));
        self.deadline.map_or(at, |deadline| deadline.min(at))
    }

    /// When a request that its client has not sent in full is given up, beside the body's own time. `call`: the body of a
    /// call of gRPC, whose client has no such time and may be the one who listens.
    pub(super) fn upload_deadline(&self, sent: Instant, call: Option<&Flow>) -> Option<Instant> {
        let settings = &self.upstream.upstream.settings;
        let silence = settings.idle_timeout.max(settings.response_timeout);
        let at = call.map(|flow| self.awaited_since(sent, Some(flow)) + silence);
        at.into_iter().chain(self.deadline).min()
    }
}
