//! Defines how something is asked of an upstream for an exchange, beside it: by the same balancing, health, retries and
//! breaker as requests.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Limited};

use super::breaker::{Answered, guarded};
use super::carrier::Carrier;
use super::forward::{Aim, Destination};
use super::frame::Frame;
use super::headers;
use super::http1::Head;
use super::outbound::{Added, Outbound};
use crate::exchange::body::Bounds;
use crate::exchange::header::X_REQUEST_ID;
use crate::exchange::{Body, Flow, MAX_AUTH_BODY_BYTES, ProxyError};
use crate::snapshot::RequestView;
use crate::spec::route::HostPolicy;

/// Asks, and waits for the head of the answer; for the body of one that does not let the request pass, too.
pub(super) async fn ask(
    mut frame: Box<Frame>,
    upstream: &str,
    request: Request<()>,
    timeout: Duration,
) -> Result<Response<Option<Bytes>>, ProxyError> {
    let route = frame.route.clone().ok_or(ProxyError::NoRoute)?;
    let local = frame.worker.local();
    let (slot, upstream) = local.upstream_named(upstream).ok_or(ProxyError::Unresolved)?;
    frame.towards(slot, upstream);
    let deadline = frame.started + timeout;
    let view = RequestView {
        listener: &frame.connection.listener.name,
        host: "",
        path: request.uri().path(),
        method: request.method(),
        headers: request.headers(),
        query: request.uri().query(),
    };
    let mut destination = Destination {
        route,
        upstream: Rc::clone(upstream),
        subset: 0,
        fallback: None,
        aim: Aim::new(&upstream.upstream, &view, frame.client),
        deadline: Some(deadline),
        is_clients: false,
        head_suffices: true,
        host: HostPolicy::Kept,
    };
    let pause = upstream.upstream.settings.idle_timeout;
    drop(local);
    let mut added = Added::default();
    if let Some(id) = &frame.request_id {
        added.put(X_REQUEST_ID, id.clone());
    }
    added.put(header::VIA, headers::via(frame.version));
    let outbound = Outbound { request: request.map(|()| Body::Empty), added };
    let (Head { response, .. }, carrier) = match guarded(&mut frame, &mut destination, outbound).await? {
        Answered::Endpoint(head, carrier) => (head, carrier),
        Answered::Canned(_) => return Err(ProxyError::Overloaded { seconds: 1 }),
    };
    // Nobody asked for a switch of protocols.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ProxyError::BadResponse);
    }
    let flow = Rc::<Flow>::default();
    frame.response_flow = Some(Rc::clone(&flow));
    if carrier.has_ended() {
        flow.complete();
        frame.lease = Some(carrier);
        return Ok(response.map(|()| Some(Bytes::new())));
    }
    let bounds = Bounds {
        limit: u64::MAX,
        pause,
        min_rate: 0,
        beside: None,
        deadline: Some(deadline),
        held_back: false,
        guarded: Box::default(),
    };
    let body = Body::stream(carrier, flow, bounds);
    let body = if response.status().is_success() {
        // Nobody reads this body, and the request does not wait for it: it is taken only to keep the connection.
        tokio::task::spawn_local(collect(frame, body));
        Some(Bytes::new())
    } else {
        collect(frame, body).await
    };
    let mut response = response.map(|()| body);
    *response.version_mut() = Version::HTTP_11;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}

/// Reads a body to its end, so that the connection serves others; `None` if it is too large, cut or late.
async fn collect(mut frame: Box<Frame>, mut body: Body<Carrier>) -> Option<Bytes> {
    let collected = Limited::new(&mut body, MAX_AUTH_BODY_BYTES).collect().await;
    frame.lease = body.into_source();
    match collected {
        Ok(collected) => Some(collected.to_bytes()),
        Err(error) => {
            let route = frame.route.as_ref().map_or("", |route| &*route.route.label);
            tracing::debug!(route, "the body of an auth service's answer is not used: {error}");
            None
        }
    }
}
