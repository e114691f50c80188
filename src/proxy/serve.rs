//! Defines the life of a request, in reading order: gate, route, target, endpoint, response.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::arrive::{Aimed, Arrival, Line, aim, arrive};
use super::breaker::{Answered, guarded};
use super::carrier::Carrier;
use super::connection::ClientConnection;
use super::forward::Destination;
use super::frame::{Frame, Outgoing};
use super::headers::{self, Noted};
use super::http1::Head;
use super::kept::Connection;
use super::local::LocalRoute;
use super::outbound::{Added, Outbound};
use super::own::{CLOSE, canned_answer, refuse};
use super::steps;
use super::through;
use super::tunnel;
use super::worker::Worker;
use crate::exchange::body::Bounds;
use crate::exchange::header::X_FORWARDED_PREFIX;
use crate::exchange::{Body, Flow, ProxyError, grpc, target};
use crate::snapshot::RequestView;
use crate::spec::retry::Retry;
use crate::spec::upstream::Protocol;

/// Serves one request.
pub(super) async fn serve(
    worker: Rc<Worker>,
    connection: Rc<ClientConnection>,
    mut request: Request<Incoming>,
) -> Result<Response<Outgoing>, Infallible> {
    connection.exchange_begins();
    let malformed = connection.streams.as_ref().and_then(|streams| streams.malformed(request.headers_mut()));
    let mut noted = Noted::of(request.headers());
    let mut frame = Frame::new(&worker, &connection, &request, noted);
    if let Some((error, reason)) = malformed {
        return Ok(refuse_malformed(frame, &mut request, noted, error, &reason));
    }
    let answer = match arrive(&mut frame, &mut request, &mut noted) {
        Ok(Arrival::Answered(response)) => Ok(Answer::Response(response)),
        Ok(Arrival::Aimed(aimed, line)) => forward(&mut frame, request, noted, aimed, line).await,
        Ok(Arrival::Stepped(chain, arrived)) => return Ok(through::serve(frame, chain, request, arrived).await),
        Err(error) => Err(error),
    };
    let mut response = match answer {
        Ok(Answer::Response(response)) => response,
        Ok(Answer::Upgrade { response, client, endpoint }) => {
            return Ok(switch(frame, response, client, endpoint));
        }
        Err(error) => refuse(&mut frame, error),
    };
    conclude(&mut frame, &mut response);
    Ok(response.map(|body| Outgoing::new(body, Some(frame))))
}

/// Answers a request of HTTP/2 that was not sound, or too large to be read.
fn refuse_malformed(
    mut frame: Box<Frame>,
    request: &mut Request<Incoming>,
    noted: Noted,
    error: ProxyError,
    reason: &HeaderValue,
) -> Response<Outgoing> {
    let worker = Rc::clone(&frame.worker);
    let random = || worker.random();
    frame.request_id = Some(headers::request_id(request.headers_mut(), noted, &mut Added::default(), random));
    let listener = &frame.connection.listener.name;
    tracing::debug!(%listener, client = %frame.client, "refused a request: {reason:?}");
    let mut response = refuse(&mut frame, error);
    conclude(&mut frame, &mut response);
    let is_malformed = error == ProxyError::BadRequest;
    response.map(|body| Outgoing::new(body, Some(frame)).resetting(is_malformed))
}

/// Notes the answer, whatever it is.
pub(super) fn conclude<B: http_body::Body>(frame: &mut Frame, response: &mut Response<B>) {
    frame.status = response.status().as_u16();
    frame.answers_call = frame.is_call && grpc::is_call(response.headers());
    // HTTP/1.0 has no chunks: a body of unknown length ends with its connection.
    let ends_connection = frame.version == Version::HTTP_10 && response.body().size_hint().exact().is_none();
    // HTTP/2 says it once for the connection, by GOAWAY.
    if ends_connection || frame.worker.is_draining() && frame.version != Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, CLOSE);
    }
    // To one of HTTP/1.1 hyper adds the `keep-alive` that the client asked for.
    if frame.version == Version::HTTP_10 && response.headers().get(header::CONNECTION) == Some(&CLOSE) {
        *response.version_mut() = Version::HTTP_10;
    }
}

/// Lets both sides switch protocols.
pub(super) fn switch<B>(
    mut frame: Box<Frame>,
    mut response: Response<B>,
    client: OnUpgrade,
    endpoint: Connection,
) -> Response<Outgoing> {
    frame.status = response.status().as_u16();
    let websocket = response.headers().get(header::UPGRADE).is_some_and(is_websocket);
    tunnel::spawn(frame, client, endpoint, websocket);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.map(|_| Outgoing::new(Body::Empty, None))
}

/// What the client gets.
pub(super) enum Answer {
    Response(Response<Body<Carrier>>),
    /// Both sides switch protocols.
    Upgrade {
        response: Response<()>,
        client: OnUpgrade,
        endpoint: Connection,
    },
}

/// Draws the target of a request that has passed the middlewares before that.
pub(super) fn aim_stepped(
    frame: &mut Frame,
    request: &Request<Incoming>,
    route: Rc<LocalRoute>,
    host: &str,
) -> Result<Aimed, ProxyError> {
    let (worker, connection) = (Rc::clone(&frame.worker), Rc::clone(&frame.connection));
    let view = RequestView {
        listener: &connection.listener.name,
        host,
        path: request.uri().path(),
        method: request.method(),
        headers: request.headers(),
        query: request.uri().query(),
    };
    aim(frame, &worker.local(), route, &view)
}

/// Forwards a request that has passed its middlewares.
pub(super) async fn forward_stepped(
    frame: &mut Frame,
    request: Request<Incoming>,
    aimed: Aimed,
    added: Added,
) -> Result<Answer, ProxyError> {
    // They may have changed anything.
    let noted = Noted::of(request.headers());
    Box::pin(forward(frame, request, noted, aimed, Line { host: None, path: None, added })).await
}

async fn forward(
    frame: &mut Frame,
    mut request: Request<Incoming>,
    noted: Noted,
    aimed: Aimed,
    line: Line,
) -> Result<Answer, ProxyError> {
    let Aimed { route, target, mut destination, set_cookie } = aimed;
    let Line { host, mut path, added } = line;
    let connection = Rc::clone(&frame.connection);
    let listener = &connection.listener.settings;
    if frame.is_call
        && let Some(timeout) = grpc::timeout(request.headers())
        && destination.deadline.is_none_or(|deadline| frame.started + timeout < deadline)
    {
        (destination.deadline, destination.is_clients) = (Some(frame.started + timeout), true);
    }
    let mut stripped = None;
    let target = &route.route.targets[target];
    if let Some(steps) = target.spec.steps.as_deref() {
        target.admits(frame.client.known())?;
        let came = path.as_deref().unwrap_or(request.uri().path());
        if let Some(redirect) = &steps.redirect {
            let query = request.uri().query();
            return steps::redirected(frame, redirect, steps, came, query).map(Answer::Response);
        }
        path = steps::rewritten(steps, came)?.or(path);
        stripped = steps.strip_prefix.as_ref();
        destination.host = steps.host.clone();
    }

    // RFC 9110, 7.8: HTTP/1.0 knows no upgrade.
    let upgrade = headers::upgrade_of(request.headers(), noted)
        .filter(|name| frame.version != Version::HTTP_10 && listener.upgrades.contains(name));
    let (retry, deadline) = (&route.route.spec.retry, destination.deadline);
    let may_refuse = destination.upstream.upstream.settings.protocol != Protocol::Http1;
    let way = Way { retry, may_refuse, host, path, upgrade, deadline, added };
    let client = way.upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let asked = way.upgrade.clone();
    frame.upgrades = asked.is_some();
    let mut outbound = prepare(frame, request, noted, way)?;
    if let Some(prefix) = stripped {
        outbound.request.headers_mut().insert(X_FORWARDED_PREFIX, prefix.as_header().clone());
    }
    let may_set_cookie = destination.upstream.upstream.affinity.sessions().is_some() || destination.fallback.is_some();
    let secure = may_set_cookie && frame.is_secure;
    let (Head { mut response, upgrade, .. }, endpoint) = match guarded(frame, &mut destination, outbound).await? {
        Answered::Endpoint(head, connection) => (head, connection),
        Answered::Canned(canned) => return Ok(Answer::Response(canned_answer(frame, &canned))),
    };

    let version = response.version();
    response.headers_mut().append(header::VIA, headers::via(version));
    if let Some(cookie) = set_cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    if let Some(cookie) = session_cookie(frame, &destination, secure) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    *response.version_mut() = Version::HTTP_11;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // An endpoint that switches although nobody asked, or to what nobody asked for, breaks HTTP (RFC 9110, 7.8).
        let is_asked = |protocol: &HeaderValue| {
            let protocol = protocol.as_bytes().trim_ascii();
            asked.as_ref().is_some_and(|asked| protocol.eq_ignore_ascii_case(asked.as_bytes()))
        };
        let (Some(client), Some(protocol), Carrier::Connection(endpoint)) =
            (client, upgrade.filter(is_asked), endpoint)
        else {
            tracing::debug!("an endpoint switched to a protocol that nobody asked for");
            return Err(ProxyError::BadResponse);
        };
        response.headers_mut().insert(header::UPGRADE, protocol);
        return Ok(Answer::Upgrade { response, client, endpoint });
    }
    let flow = Rc::<Flow>::default();
    frame.response_flow = Some(Rc::clone(&flow));
    if endpoint.has_ended() {
        flow.complete();
        frame.lease = Some(endpoint);
        return Ok(Answer::Response(response.map(|()| Body::Empty)));
    }
    let bounds = Bounds {
        limit: u64::MAX,
        pause: destination.upstream.upstream.settings.idle_timeout,
        // What it has to say, and when, is the endpoint's affair.
        min_rate: 0,
        beside: frame.request_flow.clone().filter(|_| frame.is_call),
        deadline: destination.deadline,
        held_back: false,
        guarded: Box::default(),
    };
    Ok(Answer::Response(response.map(|()| Body::stream(endpoint, flow, bounds))))
}

/// The cookie for a client that is now at another endpoint than it said, where clients have one.
fn session_cookie(frame: &Frame, destination: &Destination, secure: bool) -> Option<HeaderValue> {
    let upstream = &destination.upstream;
    let (sessions, endpoint) = (upstream.upstream.affinity.sessions()?, frame.endpoint()?);
    let position = upstream.endpoints.iter().position(|other| Rc::ptr_eq(other, endpoint))?;
    if destination.aim.stay.is_some_and(|stay| stay as usize == position) {
        return None;
    }
    sessions.set_cookie(position, secure).cloned()
}

/// What becomes of a request on its way.
struct Way<'r> {
    /// How the request may be tried again.
    retry: &'r Retry,
    /// Whether endpoints may take its body and say that they have not begun with it.
    may_refuse: bool,
    /// The `Host` to forward, where it is not the one that came.
    host: Option<HeaderValue>,
    /// The path, where it did not come in normal form.
    path: Option<String>,
    /// The protocol to upgrade to.
    upgrade: Option<String>,
    /// The end of the whole exchange.
    deadline: Option<Instant>,
    added: Added,
}

/// Makes the request that an endpoint gets of the one that came.
fn prepare(
    frame: &mut Frame,
    request: Request<Incoming>,
    noted: Noted,
    mut way: Way<'_>,
) -> Result<Outbound, ProxyError> {
    let connection = Rc::clone(&frame.connection);
    let listener = &connection.listener.settings;
    let (mut parts, incoming) = request.into_parts();
    let trailers = headers::welcomes_trailers(&parts.headers, noted);
    headers::remove_hop_by_hop(&mut parts.headers, noted);
    if trailers && way.upgrade.is_none() {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = way.upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, HeaderValue::try_from(protocol).map_err(|_| ProxyError::BadRequest)?);
    }
    if let Some(host) = way.host {
        parts.headers.insert(header::HOST, host.clone());
        frame.host = Some(host);
    }
    connection.peer.forward(&mut parts.headers, noted, frame.host.as_ref(), frame.is_secure, &mut way.added);
    way.added.put(header::VIA, headers::via(frame.version));

    if way.path.is_some() || parts.uri.authority().is_some() {
        parts.uri = target::origin_form(&parts.uri, way.path.as_deref())?;
    }
    parts.version = Version::HTTP_11;
    let held_back = noted.has(Noted::EXPECT) && expects_continue(&parts.headers);
    if http_body::Body::is_end_stream(&incoming) {
        return Ok(Outbound { request: Request::from_parts(parts, Body::Empty), added: way.added });
    }
    let flow = Rc::<Flow>::default();
    frame.request_flow = Some(Rc::clone(&flow));
    let bounds = Bounds {
        limit: listener.max_body_size.unwrap_or(u64::MAX).min(frame.most_of_body),
        // A call's client may listen for long: what its server does not say bounds it.
        pause: if frame.is_call { grpc::LONGEST } else { listener.body_timeout },
        min_rate: if frame.is_call { 0 } else { listener.min_rate },
        beside: None,
        deadline: way.deadline,
        held_back,
        guarded: frame.guarded(),
    };
    let mut body = Body::stream(incoming, flow, bounds);
    if way.retry.is_after_sending() && (way.may_refuse || way.retry.repeats(&parts.method)) {
        body.keep_copy();
    }
    Ok(Outbound { request: Request::from_parts(parts, body), added: way.added })
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}
