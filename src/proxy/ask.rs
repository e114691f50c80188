//! Defines how something is asked of an upstream for an exchange, beside it: by the same balancing, health, retries and
//! breaker as requests.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::breaker::{Answered, guarded};
use super::forward::{Aim, Destination};
use super::frame::Frame;
use super::http1::Head;
use super::outbound::{Added, Outbound};
use crate::exchange::body::Bounds;
use crate::exchange::header::X_REQUEST_ID;
use crate::exchange::{Body, Flow, LARGEST_ANSWER, ProxyError};
use crate::snapshot::RequestView;
use crate::spec::route::HostPolicy;

/// Asks, and waits for the whole answer.
pub(super) async fn ask(
    mut frame: Box<Frame>,
    upstream: &str,
    request: Request<()>,
    timeout: Duration,
) -> Result<Response<Bytes>, ProxyError> {
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
        host: HostPolicy::Kept,
    };
    let pause = upstream.upstream.settings.idle_timeout;
    drop(local);
    let mut added = Added::default();
    if let Some(id) = &frame.request_id {
        added.put(X_REQUEST_ID, id.clone());
    }
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
        return Ok(response.map(|()| Bytes::new()));
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
    let mut body = Body::stream(carrier, flow, bounds);
    let collected = Limited::new(&mut body, LARGEST_ANSWER).collect().await;
    let bytes = collected.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => ProxyError::BadResponse,
        Err(_) => ProxyError::Reset { retried: false },
    })?;
    frame.lease = body.into_source();
    let mut response = response.map(|()| bytes.to_bytes());
    *response.version_mut() = Version::HTTP_11;
    response.headers_mut().remove(header::CONTENT_LENGTH);
    Ok(response)
}
