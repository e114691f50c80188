//! Defines the tries at endpoints: pick, connect, send, and again elsewhere where no endpoint was reached.

use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use http::{HeaderValue, Method, Request, header};

use super::alarm::Alarm;
use super::frame::Frame;
use super::http1::{Broken, Head};
use super::kept::Connection;
use super::local::{LocalEndpoint, LocalUpstream};
use super::outbound::Outbound;
use super::room;
use crate::exchange::{Body, BodyFailure, Flow, ProxyError};
use crate::spec::upstream::Balance;
use crate::telemetry::stats::AttemptResult;

/// Where a request goes, and how long and how often that is tried.
pub(super) struct Destination {
    pub(super) upstream: Rc<LocalUpstream>,
    pub(super) subset: usize,
    /// What balancers that hash go by.
    pub(super) key: Option<u64>,
    /// Where the client is, and stays if it can.
    pub(super) stay: Option<u32>,
    /// At least 1.
    pub(super) tries: u32,
    /// The end of the whole exchange.
    pub(super) deadline: Option<Instant>,
    /// The `Host` is the endpoint's address.
    pub(super) host_of_endpoint: bool,
}

/// Why a try gave no response.
struct Failure {
    result: AttemptResult,
    error: ProxyError,
    /// Nothing of the request was sent.
    unsent: bool,
    /// For the log.
    cause: String,
}

/// Sends a request to endpoints until one answers.
///
/// # Errors
/// When none could be reached in the tries allowed, or one was and failed.
pub(super) async fn forward(
    frame: &mut Frame,
    destination: &Destination,
    mut outbound: Outbound,
) -> Result<(Head, Connection), ProxyError> {
    let (worker, upstream) = (Rc::clone(&frame.worker), &destination.upstream);
    let mut tried: Vec<u32> = Vec::new();
    loop {
        let index = room::find(frame, destination, &tried).await?;
        let endpoint = Rc::clone(&upstream.endpoints[index as usize]);
        frame.attempt(&endpoint);
        if (frame.host.is_none() || destination.host_of_endpoint)
            && let Ok(host) = HeaderValue::from_str(endpoint.state.label())
        {
            // Perhaps from an HTTP/1.0 client without one; RFC 9112, 3.2, has it in every request of HTTP/1.1.
            outbound.request.headers_mut().insert(header::HOST, host);
        }
        let outcome = attempt(frame, destination, &endpoint, &mut outbound).await;
        if upstream.upstream.settings.balance == Balance::P2cEwma {
            measure(frame, &endpoint, &outcome);
        }
        let failure = match outcome {
            Ok((head, mut connection)) => {
                upstream.attempted(AttemptResult::Ok, &worker.stats);
                if let Some(rest) = connection.link.upload(outbound.request.into_body()) {
                    tokio::task::spawn_local(rest);
                }
                return Ok((head, connection));
            }
            Err(failure) => failure,
        };
        upstream.attempted(failure.result, &worker.stats);
        tracing::debug!(
            upstream = &*upstream.upstream.label,
            endpoint = &**endpoint.state.label(),
            attempt = frame.attempts,
            "an attempt failed: {}",
            failure.cause
        );
        if !failure.unsent {
            return Err(failure.error);
        }
        if is_past(destination.deadline) {
            return Err(ProxyError::Timeout);
        }
        if frame.attempts >= destination.tries {
            return Err(ProxyError::Unreachable { retried: frame.attempts > 1 });
        }
        tried.push(index);
    }
}

/// Notes how long an endpoint took. Answers that say it cannot serve count as failures: they come fast.
fn measure(frame: &Frame, endpoint: &LocalEndpoint, outcome: &Result<(Head, Connection), Failure>) {
    let (now, began) = (Instant::now(), frame.attempt_started.unwrap_or(frame.started));
    // An upload takes as long as its client.
    let since = frame.request_flow.as_ref().map_or(began, |flow| flow.waits_since().max(began));
    let took = now.saturating_duration_since(since);
    match outcome {
        Ok((head, _)) if !matches!(head.response.status().as_u16(), 429 | 500 | 502..=504) => {
            endpoint.latency.answered(took, now);
        }
        // Nothing that it did.
        Err(failure) if failure.error == ProxyError::ClientGone || failure.error.closes() => {}
        Ok(_) | Err(_) => endpoint.latency.failed(took, now),
    }
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// One try at an endpoint. Kept connections that turn out to be closed cost nothing but another connection.
async fn attempt(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    outbound: &mut Outbound,
) -> Result<(Head, Connection), Failure> {
    let settings = &destination.upstream.upstream.settings;
    let began = frame.attempt_started.unwrap_or(frame.started);
    while let Some(mut connection) = endpoint.kept.take(settings.keep_alive, began) {
        match send(frame, destination, &mut connection, outbound, began).await {
            Ok(head) => return Ok((head, connection)),
            Err(Failure { unsent: true, .. }) => {}
            // Closed as the request was on its way: RFC 9112, 9.3.1, lets an idempotent request be sent again. Once,
            // and on a connection of its own (RFC 9110, 9.2.2): a request that kills its service must not meet it
            // on every kept connection.
            Err(Failure { result: AttemptResult::Reset, .. }) if can_be_sent_again(&outbound.request) => break,
            Err(failure) => return Err(failure),
        }
    }
    let left = destination.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.map_or(settings.connect_timeout, |left| left.min(settings.connect_timeout));
    match Connection::open(&destination.upstream, &endpoint.state, timeout).await {
        Ok(mut connection) => {
            let head = send(frame, destination, &mut connection, outbound, Instant::now()).await?;
            Ok((head, connection))
        }
        Err(error) => Err(Failure {
            result: AttemptResult::Connect,
            error: ProxyError::Unreachable { retried: false },
            unsent: true,
            cause: format!("cannot connect: {error}"),
        }),
    }
}

/// Whether sending a request twice does no harm and costs little.
fn can_be_sent_again(request: &Request<Body>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    idempotent && matches!(request.body(), Body::Empty) && !request.headers().contains_key(header::UPGRADE)
}

/// Sends a request on a connection and waits for the head of its response.
async fn send(
    frame: &Frame,
    destination: &Destination,
    connection: &mut Connection,
    outbound: &mut Outbound,
    sent: Instant,
) -> Result<Head, Failure> {
    let link = &mut *connection.link;
    link.begin(outbound);
    let mut alarm = Alarm::new(&frame.worker.alarms, sent);
    let outcome = std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = link.poll_response(outbound, cx) {
            return Poll::Ready(Some(outcome));
        }
        // The endpoint's time begins when it has the whole request: an upload may take long.
        if alarm.poll(head_deadline(destination, sent, frame.request_flow.as_deref()), cx) {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await;
    let failed = |result, error, cause: String| Err(Failure { result, error, unsent: false, cause });
    match outcome {
        Some(Ok(head)) => Ok(head),
        None => failed(AttemptResult::Timeout, ProxyError::Timeout, "no response head in time".to_owned()),
        Some(Err(broken)) => {
            let cause = broken.to_string();
            match broken {
                Broken::RequestBody => {
                    let failure = frame.request_flow.as_ref().and_then(|flow| flow.failure());
                    let failure = failure.unwrap_or(BodyFailure::ClientGone);
                    failed(AttemptResult::Reset, failure.error(), format!("{cause}: {failure:?}"))
                }
                Broken::Protocol(_) => failed(AttemptResult::Protocol, ProxyError::BadResponse, cause),
                Broken::Closed | Broken::Io(_) => failed(AttemptResult::Reset, ProxyError::Reset, cause),
                Broken::Unsent => {
                    Err(Failure { result: AttemptResult::Reset, error: ProxyError::Reset, unsent: true, cause })
                }
            }
        }
    }
}

fn head_deadline(destination: &Destination, sent: Instant, request_body: Option<&Flow>) -> Instant {
    let since = request_body.map_or(sent, |flow| flow.waits_since().max(sent));
    let at = since + destination.upstream.upstream.settings.response_timeout;
    destination.deadline.map_or(at, |deadline| deadline.min(at))
}
