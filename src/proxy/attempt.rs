//! Defines one try at an endpoint: a connection, the request sent on it, and the head of its response, or why there is
//! none.

use std::task::Poll;
use std::time::Instant;

use super::alarm::Alarm;
use super::drain::Stage;
use super::forward::Destination;
use super::frame::Frame;
use super::http1::{Broken, Head};
use super::kept::{Connection, NoConnection};
use super::local::LocalEndpoint;
use super::outbound::Outbound;
use super::retry::Outcome;
use crate::exchange::{BodyFailure, Flow, ProxyError};
use crate::spec::retry::Condition;
use crate::spec::upstream_tls;
use crate::telemetry::stats::AttemptResult;

/// What a try gave.
pub(super) type Tried = Result<(Head, Connection), Failure>;

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
    let settings = &destination.upstream.upstream.settings;
    let began = frame.attempt_started.unwrap_or(frame.started);
    while !fresh && let Some(mut connection) = endpoint.kept.take(settings.keep_alive, began) {
        match send(frame, destination, endpoint, &mut connection, outbound, began).await {
            Ok(head) => return Ok((head, connection)),
            Err(Failure { outcome: Some(Outcome { unsent: true, .. }), .. }) => {}
            Err(failure) => return Err(failure.on_kept()),
        }
    }
    let upstream = &destination.upstream;
    let (pending, place) = upstream.room().map_err(|refusal| Failure {
        result: None,
        error: upstream.refused(refusal, &frame.worker.stats),
        outcome: None,
        is_of_endpoint: false,
        cause: refusal.to_string(),
    })?;
    let opened = Connection::open(upstream, endpoint, place, destination.connect_timeout()).await;
    drop(pending);
    match opened {
        Ok(mut connection) => {
            let sent = send(frame, destination, endpoint, &mut connection, outbound, Instant::now()).await;
            match &sent {
                Ok(_) => upstream.note_tls(endpoint, None),
                Err(Failure { result: Some(AttemptResult::Connect), cause, .. }) => {
                    upstream.note_tls(endpoint, Some(cause));
                }
                Err(_) => {}
            }
            Ok((sent?, connection))
        }
        Err(error) => {
            let cause = error.to_string();
            if matches!(error, NoConnection::Tls(_)) {
                upstream.note_tls(endpoint, Some(&cause));
            }
            Err(Failure::unconnected(true, cause))
        }
    }
}

impl Failure {
    /// There was no connection. `unsent`: the request is as it was.
    fn unconnected(unsent: bool, cause: String) -> Self {
        Self {
            result: Some(AttemptResult::Connect),
            error: ProxyError::Unreachable { retried: false },
            outcome: Some(Outcome { condition: Condition::Connect, unsent, stale: false }),
            is_of_endpoint: true,
            cause,
        }
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

    /// The connection had been kept: its end without a word says little of the endpoint.
    fn on_kept(mut self) -> Self {
        if let Some(outcome) = &mut self.outcome
            && self.result == Some(AttemptResult::Reset)
        {
            (outcome.stale, self.is_of_endpoint) = (true, false);
        }
        self
    }

    /// What a broken connection means.
    fn of(broken: &Broken, request_body: Option<&Flow>) -> Self {
        let cause = broken.to_string();
        let reset = ProxyError::Reset { retried: false };
        match broken {
            Broken::RequestBody => {
                let failure = request_body.and_then(Flow::failure).unwrap_or(BodyFailure::ClientGone);
                let (result, cause) = (Some(AttemptResult::Reset), format!("{cause}: {failure:?}"));
                Self { result, error: failure.error(), outcome: None, is_of_endpoint: false, cause }
            }
            // It has answered, in its way.
            Broken::Protocol(_) => {
                let (result, error) = (Some(AttemptResult::Protocol), ProxyError::BadResponse);
                Self { result, error, outcome: None, is_of_endpoint: true, cause }
            }
            Broken::Io(error) if upstream_tls::is_refusal(error) => {
                Self::unconnected(false, upstream_tls::reason(error))
            }
            Broken::Closed | Broken::Io(_) => Self::sent(AttemptResult::Reset, reset, Condition::Reset, cause),
            Broken::Unsent => {
                let outcome = Some(Outcome { condition: Condition::Reset, unsent: true, stale: false });
                Self { result: Some(AttemptResult::Reset), error: reset, outcome, is_of_endpoint: true, cause }
            }
        }
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
    let (link, drain) = (&mut *connection.link, &endpoint.drain);
    link.begin(outbound);
    let mut alarm = Alarm::new(&frame.worker.alarms, sent);
    let outcome = std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = link.poll_response(outbound, cx) {
            return Poll::Ready(Ok(outcome));
        }
        // All who wait are woken when a drain ends.
        if drain.stage() == Stage::Cut {
            return Poll::Ready(Err(Failure::drained()));
        }
        // The endpoint's time begins when it has the whole request: an upload may take long.
        if alarm.poll(destination.head_deadline(sent, frame.request_flow.as_deref()), cx) {
            let cause = "no response head in time";
            let late = Failure::sent(AttemptResult::Timeout, ProxyError::Timeout, Condition::PerTryTimeout, cause);
            return Poll::Ready(Err(late));
        }
        Poll::Pending
    })
    .await;
    outcome?.map_err(|broken| Failure::of(&broken, frame.request_flow.as_deref()))
}
