//! Defines the middleware that lets things go wrong on purpose.

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{Middleware, Next};
use crate::exchange::{Flag, Payload, ProxyError};
use crate::spec::condition::all_hold;
use crate::spec::middleware::transform;

/// Delays requests, and fails some.
#[derive(Debug)]
pub(super) struct Fault(transform::Fault);

impl Fault {
    pub(super) fn new(spec: &transform::Fault) -> Self {
        Self(spec.clone())
    }
}

#[async_trait(?Send)]
impl Middleware for Fault {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let Self(spec) = self;
        if !all_hold(&spec.when, request.headers(), request.uri().query())? {
            return Ok(next.run(request).await);
        }
        if let Some((time, share)) = spec.delay
            && share.takes(rand::random())
        {
            next.exchange().flag(Flag::DelayInjected);
            tokio::time::sleep(time).await;
        }
        if let Some((status, share)) = spec.abort
            && share.takes(rand::random())
        {
            return Err(ProxyError::Injected(status));
        }
        Ok(next.run(request).await)
    }
}
