//! Defines one try at an endpoint: a connection, the request sent on it, and the head of its response, or why there is
//! none.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::alarm::Alarm;
use super::carrier::Carrier;
use super::drain::Stage;
use super::forward::Destination;
use super::frame::Frame;
use super::http1::{Broken, Head};
use super::kept::{Connection, NoConnection, connect};
use super::local::{LocalEndpoint, LocalUpstream};
use super::multiplexed::{self, Cut};
use super::outbound::Outbound;
use super::retry::Outcome;
use super::upload::Upload;
use crate::exchange::{BodyFailure, Flow, ProxyError};
use crate::snapshot::Refusal;
use crate::spec::retry::Condition;
use crate::spec::upstream_tls;
use crate::telemetry::descriptors::{Exhausted, UpstreamHold, is_own_lack};
use crate::telemetry::stats::AttemptResult;

/// A connection that rested for so long may have been closed for that as the request came: services wait for a second
/// at the very least.
pub(super) const RESTED: Duration = Duration::from_secs(1);

/// What a try gave.
pub(super) type Tried = Result<(Head, Carrier), Failure>;

/// Why a try gave no response.
pub(super) struct Failure {
    /// `None`: no endpoint was asked.
    pub(super) result: Option<AttemptResult>,
    pub(super) error: ProxyError,
    /// What may ask for another try.
    pub(super) outcome: Option<Outcome>,
    /// It speaks against the endpoint.
    pub(super) is_of_endpoint: bool,
    /// For the log.
    pub(super) cause: String,
}

/// One try at an endpoint. Kept connections that turn out to be closed before anything is sent cost nothing but
/// another connection. `fresh`: no kept connection is used.
pub(super) async fn attempt(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    fresh: bool,
    outbound: &mut Outbound,
) -> Tried {
    if let Some(trunks) = &endpoint.trunks {
        // On the heap: what HTTP/1.1 does not need takes no room of its.
        return Box::pin(multiplexed::attempt(frame, destination, endpoint, trunks, fresh, outbound)).await;
    }
    let began = frame.attempt_started.unwrap_or(frame.started);
    if !fresh && let Some(tried) = over_kept(frame, destination, endpoint, outbound, began).await {
        return tried;
    }
    let upstream = &destination.upstream;
    let (pending, place) = upstream.room().map_err(|refusal| Failure::refused(frame, upstream, refusal))?;
    let hold = hold(frame, upstream)?;
    let until = tokio::time::Instant::now() + destination.connect_timeout();
    let opened = connect(endpoint, upstream.upstream.settings.protocol, until).await;
    drop(pending);
    match opened {
        Ok(stream) => {
            let connection = Connection::new(stream, upstream, place, hold);
            over_connection(frame, destination, endpoint, connection, outbound).await
        }
        Err(error) => Err(Failure::of_opening(frame, destination, endpoint, &error)),
    }
}

/// A descriptor for another connection to an endpoint.
///
/// # Errors
/// There is none, or the client has as many as it may.
pub(super) fn hold(frame: &Frame, upstream: &LocalUpstream) -> Result<UpstreamHold, Failure> {
    let (descriptors, client) = (&frame.worker.peers.descriptors, frame.connection.share());
    let held = descriptors.hold_upstream(client).or_else(|_| {
        frame.worker.close_idle();
        descriptors.hold_upstream(client)
    });
    held.map_err(|exhausted| Failure::exhausted(frame, upstream, exhausted))
}

/// A try on the kept connections; `None` when there is none.
pub(super) async fn over_kept(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    outbound: &mut Outbound,
    began: Instant,
) -> Option<Tried> {
    let keep_alive = destination.upstream.upstream.settings.keep_alive;
    while let Some((mut connection, rested)) = endpoint.kept.take(keep_alive, began) {
        if !connection.link.is_counted_for(frame.connection.share()) {
            return Some(Err(Failure::exhausted(frame, &destination.upstream, Exhausted::Client)));
        }
        match send(frame, destination, endpoint, &mut connection, outbound, began).await {
            Ok(head) => return Some(Ok((head, Carrier::Connection(connection)))),
            Err(Failure { outcome: Some(Outcome { unsent: true, .. }), .. }) => {}
            Err(failure) => return Some(Err(failure.on_kept(rested))),
        }
    }
    None
}

/// A try on a connection that was made for it.
pub(super) async fn over_connection(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    mut connection: Connection,
    outbound: &mut Outbound,
) -> Tried {
    let upstream = &destination.upstream;
    let sent = send(frame, destination, endpoint, &mut connection, outbound, Instant::now()).await;
    match &sent {
        Ok(_) => upstream.note_tls(endpoint, None),
        Err(Failure { result: Some(AttemptResult::Connect), cause, .. }) => upstream.note_tls(endpoint, Some(cause)),
        Err(_) => {}
    }
    Ok((sent?, Carrier::Connection(connection)))
}

impl Failure {
    /// The upstream's breaker has no place for it.
    pub(super) fn refused(frame: &Frame, upstream: &LocalUpstream, refusal: Refusal) -> Self {
        let error = upstream.refused(refusal, &frame.worker.stats);
        Self { result: None, error, outcome: None, is_of_endpoint: false, cause: refusal.to_string() }
    }

    /// The gateway has no descriptor for it.
    pub(super) fn exhausted(frame: &Frame, upstream: &LocalUpstream, exhausted: Exhausted) -> Self {
        let label = &*upstream.upstream.label;
        frame.worker.stats.refused(label, exhausted.as_str()).add(1);
        if frame.worker.peers.descriptors.is_to_be_told() {
            tracing::warn!(upstream = label, client = %frame.connection.peer.address, "a request was refused: {exhausted}");
        }
        Self::own(None, exhausted.to_string())
    }

    /// It failed by what the gateway lacks, which says nothing of the endpoint.
    fn own(outcome: Option<Outcome>, cause: String) -> Self {
        let error = ProxyError::Overloaded { seconds: 1 };
        Self { result: None, error, outcome, is_of_endpoint: false, cause }
    }

    /// There was no connection, and the request is as it was.
    pub(super) fn unconnected(cause: String) -> Self {
        Self {
            result: Some(AttemptResult::Connect),
            error: ProxyError::Unreachable { retried: false },
            outcome: Some(Outcome { condition: Condition::Connect, unsent: true, stale: false }),
            is_of_endpoint: true,
            cause,
        }
    }

    /// None could be made.
    pub(super) fn of_opening(
        frame: &Frame,
        destination: &Destination,
        endpoint: &LocalEndpoint,
        error: &NoConnection,
    ) -> Self {
        let cause = error.to_string();
        if let NoConnection::Tcp(error) = error
            && is_own_lack(error, endpoint.state.address())
        {
            let upstream = &*destination.upstream.upstream.label;
            frame.worker.stats.refused(upstream, Exhausted::Upstream.as_str()).add(1);
            if frame.worker.peers.descriptors.is_to_be_told() {
                tracing::warn!(upstream, "the gateway cannot connect to endpoints: {error}");
            }
            // Another endpoint may be reached by what is left.
            return Self::own(Some(Outcome { condition: Condition::Connect, unsent: true, stale: false }), cause);
        }
        if matches!(error, NoConnection::Tls(_) | NoConnection::Http2(_)) && !destination.is_given_up() {
            destination.upstream.note_tls(endpoint, Some(&cause));
        }
        Self::unconnected(cause)
    }

    /// There was no response in time.
    pub(super) fn late() -> Self {
        let cause = "no response head in time";
        Self::sent(AttemptResult::Timeout, ProxyError::Timeout, Condition::PerTryTimeout, cause)
    }

    /// The time was over while the client still owed a part of its request.
    fn owed_by_client() -> Self {
        let cause = "the request was not complete in time".to_owned();
        let (result, error) = (Some(AttemptResult::Reset), ProxyError::Timeout);
        Self { result, error, outcome: None, is_of_endpoint: false, cause }
    }

    /// The request is none for an endpoint that is spoken to so.
    pub(super) fn unfit(error: ProxyError, cause: &str) -> Self {
        Self { result: None, error, outcome: None, is_of_endpoint: false, cause: cause.to_owned() }
    }

    /// After the request was sent.
    fn sent(result: AttemptResult, error: ProxyError, condition: Condition, cause: impl Into<String>) -> Self {
        let outcome = Some(Outcome { condition, unsent: false, stale: false });
        Self { result: Some(result), error, outcome, is_of_endpoint: true, cause: cause.into() }
    }

    /// The time of the endpoint's drain was over.
    fn drained() -> Self {
        let cause = "the endpoint is drained, and its time is over";
        let failure = Self::sent(AttemptResult::Reset, ProxyError::Drained, Condition::Reset, cause);
        Self { is_of_endpoint: false, ..failure }
    }

    /// The connection had been kept, and had rested for so long: its end without a word says little of the endpoint,
    /// unless it carried an exchange a moment ago.
    pub(super) fn on_kept(mut self, rested: Duration) -> Self {
        if let Some(outcome) = &mut self.outcome
            && self.result == Some(AttemptResult::Reset)
        {
            (outcome.stale, self.is_of_endpoint) = (true, rested < RESTED);
        }
        self
    }

    /// What a broken connection means.
    fn of(broken: &Broken, request_body: Option<&Flow>) -> Self {
        let cause = broken.to_string();
        let reset = ProxyError::Reset { retried: false };
        match broken {
            Broken::RequestBody => Self::of_body(request_body, &cause),
            Broken::Protocol(_) | Broken::Body(_) => Self::protocol(cause),
            Broken::Io(error) if upstream_tls::is_refusal(error) => {
                let outcome = Some(Outcome { condition: Condition::Connect, unsent: false, stale: false });
                Self { outcome, ..Self::unconnected(upstream_tls::reason(error)) }
            }
            Broken::Closed | Broken::Io(_) => Self::sent(AttemptResult::Reset, reset, Condition::Reset, cause),
            // It has answered, in its way: nobody else is asked.
            Broken::CutOff => {
                let cut_off = Self::sent(AttemptResult::Reset, reset, Condition::Reset, cause);
                Self { outcome: None, ..cut_off }
            }
            Broken::Unsent => Self::unsent(cause),
        }
    }

    /// What it means that a strand gave no response.
    pub(super) fn of_cut(cut: &Cut, request_body: Option<&Flow>) -> Self {
        let cause = cut.to_string();
        let reset = ProxyError::Reset { retried: false };
        match cut {
            Cut::Unsent => Self::unsent(cause),
            Cut::Unfit => Self::unfit(ProxyError::BadRequest, &cause),
            Cut::RequestBody => Self::of_body(request_body, &cause),
            Cut::Refused => Self::sent(AttemptResult::Reset, reset, Condition::RefusedStream, cause),
            // It says so in order.
            Cut::Left => {
                let left = Self::sent(AttemptResult::Reset, reset, Condition::RefusedStream, cause);
                Self { is_of_endpoint: false, ..left }
            }
            Cut::Reset(_) | Cut::Closed(_) => Self::sent(AttemptResult::Reset, reset, Condition::Reset, cause),
            Cut::Protocol(_) => Self::protocol(cause),
        }
    }

    /// The endpoint broke HTTP: it has answered, in its way.
    fn protocol(cause: String) -> Self {
        let (result, error) = (Some(AttemptResult::Protocol), ProxyError::BadResponse);
        Self { result, error, outcome: None, is_of_endpoint: true, cause }
    }

    /// The connection ended before anything of the request was sent.
    fn unsent(cause: String) -> Self {
        let outcome = Some(Outcome { condition: Condition::Reset, unsent: true, stale: false });
        let error = ProxyError::Reset { retried: false };
        Self { result: Some(AttemptResult::Reset), error, outcome, is_of_endpoint: true, cause }
    }

    /// The request's body failed.
    fn of_body(request_body: Option<&Flow>, cause: &str) -> Self {
        let failure = request_body.and_then(Flow::failure).unwrap_or(BodyFailure::ClientGone);
        let (result, cause) = (Some(AttemptResult::Reset), format!("{cause}: {failure:?}"));
        Self { result, error: failure.error(), outcome: None, is_of_endpoint: false, cause }
    }
}

/// Sends a request on a connection and waits for the head of its response.
async fn send(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    connection: &mut Connection,
    outbound: &mut Outbound,
    sent: Instant,
) -> Result<Head, Failure> {
    let link = &mut *connection.link;
    link.begin(outbound, destination.head_suffices);
    let outcome = response(frame, destination, endpoint, sent, |cx| {
        let polled = link.poll_response(outbound, cx);
        (polled, link.upload_state())
    });
    let outcome = outcome.await?;
    outcome.map_err(|broken| Failure::of(&broken, frame.request_flow.as_deref()))
}

/// Waits for the head of a response.
///
/// # Errors
/// It did not come in time, or the endpoint's drain was over before.
///
/// The endpoint's time begins when it has the whole request. A client that stalls has its own (`body_timeout`), and what it
/// does not send is not the endpoint's fault.
pub(super) async fn response<E>(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    sent: Instant,
    mut poll: impl FnMut(&mut Context<'_>) -> (Poll<Result<Head, E>>, Upload),
) -> Result<Result<Head, E>, Failure> {
    let mut alarm = Alarm::new(&frame.worker.alarms, sent);
    std::future::poll_fn(|cx| {
        // All who wait for long are woken when a drain ends, and nobody cuts what the others would get after that.
        if endpoint.drain.stage() == Stage::Cut {
            return Poll::Ready(Err(Failure::drained()));
        }
        let (polled, upload) = poll(cx);
        if let Poll::Ready(outcome) = polled {
            return Poll::Ready(Ok(outcome));
        }
        let request_body = frame.request_flow.as_deref();
        if upload == Upload::WaitsForClient {
            let at = destination.upload_deadline(sent, request_body.filter(|_| frame.is_call));
            return match at.is_some_and(|at| alarm.poll(at, cx)) {
                true => Poll::Ready(Err(Failure::owed_by_client())),
                false => Poll::Pending,
            };
        }
        let since = destination.awaited_since(sent, request_body);
        if upload == Upload::Sent {
            frame.request_sent(since);
        }
        if alarm.poll(destination.head_deadline(since), cx) {
            return Poll::Ready(Err(Failure::late()));
        }
        Poll::Pending
    })
    .await
}
