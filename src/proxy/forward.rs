//! Defines the tries at endpoints: pick, connect, send, and again elsewhere where no endpoint was reached.

use std::future::Future as _;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;

use super::alarm::Alarm;
use super::frame::Frame;
use super::kept::Connection;
use super::local::{LocalEndpoint, LocalUpstream};
use crate::exchange::{Body, Flow, ProxyError};
use crate::telemetry::stats::AttemptResult;

/// Where a request goes, and how long and how often that is tried.
pub(super) struct Destination {
    pub(super) upstream: Rc<LocalUpstream>,
    pub(super) subset: usize,
    /// At least 1.
    pub(super) tries: u32,
    /// The end of the whole exchange.
    pub(super) deadline: Option<Instant>,
}

/// Why a try gave no response.
struct Failure {
    result: AttemptResult,
    error: ProxyError,
    /// The request, where nothing of it was sent.
    unsent: Option<Request<Body>>,
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
    mut request: Request<Body>,
) -> Result<Response<Incoming>, ProxyError> {
    let (worker, upstream) = (Rc::clone(&frame.worker), &destination.upstream);
    let mut tried: Vec<u32> = Vec::new();
    loop {
        let pool = upstream.pool(destination.subset, || worker.random()).ok_or(ProxyError::Unresolved)?;
        let busy = |index: u32| upstream.endpoints[index as usize].state.in_flight();
        let index = pool.pick(&tried, busy, || worker.random()).ok_or(ProxyError::NoEndpoint)?;
        let endpoint = Rc::clone(&upstream.endpoints[index as usize]);
        frame.attempt(&endpoint);
        if frame.host.is_none()
            && let Ok(host) = HeaderValue::from_str(endpoint.state.label())
        {
            // From an HTTP/1.0 client without one; RFC 9112, 3.2, has it in every request of HTTP/1.1.
            request.headers_mut().insert(header::HOST, host);
        }
        let failure = match attempt(frame, destination, &endpoint, request).await {
            Ok((response, connection)) => {
                upstream.attempted(AttemptResult::Ok, &worker.stats);
                frame.lease = Some(connection);
                return Ok(response);
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
        match failure.unsent {
            Some(unsent) if frame.attempts < destination.tries && !is_past(destination.deadline) => {
                tried.push(index);
                request = unsent;
            }
            Some(_) if is_past(destination.deadline) => return Err(ProxyError::Timeout),
            Some(_) => return Err(ProxyError::Unreachable { retried: frame.attempts > 1 }),
            None => return Err(failure.error),
        }
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
    mut request: Request<Body>,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let settings = &destination.upstream.upstream.settings;
    let began = frame.attempt_started.unwrap_or(frame.started);
    while let Some(mut connection) = endpoint.kept.take(settings.keep_alive, began) {
        if !becomes_ready(&mut connection).await {
            continue;
        }
        let again = replay(&request);
        let failure = match send(frame, destination, &mut connection, request, began).await {
            Ok(response) => return Ok((response, connection)),
            Err(failure) => failure,
        };
        request = match (failure, again) {
            (Failure { unsent: Some(unsent), .. }, _) => unsent,
            // Closed as the request was on its way: RFC 9112, 9.3.1, lets an idempotent request be sent again. Once,
            // and on a connection of its own (RFC 9110, 9.2.2): a request that kills its service must not meet it
            // on every kept connection.
            (Failure { result: AttemptResult::Reset, .. }, Some(again)) => {
                request = again;
                break;
            }
            (failure, _) => return Err(failure),
        };
    }
    let left = destination.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.map_or(settings.connect_timeout, |left| left.min(settings.connect_timeout));
    match Connection::open(&destination.upstream, &endpoint.state, timeout).await {
        Ok(mut connection) => {
            let response = send(frame, destination, &mut connection, request, Instant::now()).await?;
            Ok((response, connection))
        }
        Err(error) => Err(Failure {
            result: AttemptResult::Connect,
            error: ProxyError::Unreachable { retried: false },
            unsent: Some(request),
            cause: format!("cannot connect: {error}"),
        }),
    }
}

/// How long a kept connection may take to finish its last exchange.
const SETTLE: Duration = Duration::from_millis(50);

async fn becomes_ready(connection: &mut Connection) -> bool {
    if connection.sender.is_ready() {
        return true;
    }
    matches!(tokio::time::timeout(SETTLE, connection.sender.ready()).await, Ok(Ok(())))
}

/// The same request once more, where sending it twice does no harm and costs little.
fn replay(request: &Request<Body>) -> Option<Request<Body>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    if !idempotent || !matches!(request.body(), Body::Empty) || request.headers().contains_key(http::header::UPGRADE) {
        return None;
    }
    let mut again = Request::new(Body::Empty);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// Sends a request on a connection and waits for the head of its response.
async fn send(
    frame: &Frame,
    destination: &Destination,
    connection: &mut Connection,
    request: Request<Body>,
    sent: Instant,
) -> Result<Response<Incoming>, Failure> {
    let mut response = std::pin::pin!(connection.sender.try_send_request(request));
    let mut alarm = Alarm::new(&frame.worker.alarms, sent);
    let outcome = std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = response.as_mut().poll(cx) {
            return Poll::Ready(Some(outcome));
        }
        // The endpoint's time begins when it has the whole request: an upload may take long.
        if alarm.poll(head_deadline(destination, sent, frame.request_flow.as_deref()), cx) {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await;
    let failed = |result, error, cause: String| Failure { result, error, unsent: None, cause };
    match outcome {
        Some(Ok(response)) => Ok(response),
        None => Err(failed(AttemptResult::Timeout, ProxyError::Timeout, "no response head in time".to_owned())),
        Some(Err(mut error)) => {
            let unsent = error.take_message();
            let cause = error.error().to_string();
            if let Some(failure) = frame.request_flow.as_ref().and_then(|flow| flow.failure()) {
                return Err(failed(AttemptResult::Reset, failure.error(), format!("request body: {failure:?}")));
            }
            if error.error().is_parse() {
                return Err(failed(AttemptResult::Protocol, ProxyError::BadResponse, cause));
            }
            Err(Failure { result: AttemptResult::Reset, error: ProxyError::Reset, unsent, cause })
        }
    }
}

fn head_deadline(destination: &Destination, sent: Instant, request_body: Option<&Flow>) -> Instant {
    let since = request_body.map_or(sent, |flow| flow.waits_since().max(sent));
    let at = since + destination.upstream.upstream.settings.response_timeout;
    destination.deadline.map_or(at, |deadline| deadline.min(at))
}
