//! Defines the gateway's own answers.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version, header};

use super::carrier::Carrier;
use super::frame::Frame;
use crate::exchange::header::{X_FLEETGATE_FLAG, X_REQUEST_ID};
use crate::exchange::{Body, Flag, Flow, Own, ProxyError, grpc, prefers_json};
use crate::spec::breaker::Canned;

/// Ends the connection after the answer.
pub(super) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The gateway's own answer. The client learns little; causes are in the log.
pub(super) fn refuse(frame: &mut Frame, error: ProxyError) -> Response<Body<Carrier>> {
    frame.flag = Some(error.flag());
    // Who is gone reads no answer, and is in the log as gone.
    let as_call = frame.is_call && error != ProxyError::ClientGone;
    let mut response = if as_call { refused_call(frame, error) } else { refused(frame, error) };
    let headers = response.headers_mut();
    headers.insert(X_FLEETGATE_FLAG, HeaderValue::from_static(error.flag().as_str()));
    if let Some(seconds) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.closes() && frame.version != Version::HTTP_2 {
        headers.insert(header::CONNECTION, CLOSE);
    }
    response
}

fn refused(frame: &mut Frame, error: ProxyError) -> Response<Body<Carrier>> {
    let (status, code) = (error.status(), error.code());
    let id = frame.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (kind, text) = if frame.accept.as_ref().is_some_and(prefers_json) {
        let body = serde_json::json!({ "error": code, "flag": error.flag().as_str(), "request_id": id });
        ("application/json", body.to_string())
    } else {
        ("text/plain; charset=utf-8", format!("{} {code}\n", status.as_u16()))
    };
    own_answer(frame, status, HeaderValue::from_static(kind), text)
}

/// Of a call of gRPC: a head that is its own trailers.
fn refused_call(frame: &mut Frame, error: ProxyError) -> Response<Body<Carrier>> {
    let mut response = own_answer(frame, StatusCode::OK, grpc::CONTENT_TYPE, String::new());
    *response.body_mut() = Body::Empty;
    let headers = response.headers_mut();
    headers.insert(grpc::GRPC_STATUS, HeaderValue::from(u16::from(grpc::status(error))));
    headers.insert(grpc::GRPC_MESSAGE, HeaderValue::from_static(error.code()));
    response
}

/// What a breaker has for those it refuses.
pub(super) fn canned_answer(frame: &mut Frame, canned: &Canned) -> Response<Body<Carrier>> {
    let flag = Flag::UpstreamOverflow;
    frame.flag = Some(flag);
    let mut response = own_answer(frame, canned.status, canned.content_type.clone(), canned.body.clone());
    response.headers_mut().insert(X_FLEETGATE_FLAG, HeaderValue::from_static(flag.as_str()));
    response
}

/// An answer that no endpoint gave.
pub(super) fn own_answer(
    frame: &mut Frame,
    status: StatusCode,
    kind: HeaderValue,
    text: impl Into<Bytes>,
) -> Response<Body<Carrier>> {
    let text = text.into();
    let flow = Flow::default();
    flow.moved(text.len());
    flow.complete();
    frame.response_flow = Some(Rc::new(flow));
    let mut response = Response::new(Body::Full(text));
    response.extensions_mut().insert(Own);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(id) = &frame.request_id {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    response
}
