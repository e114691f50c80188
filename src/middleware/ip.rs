//! Defines the middleware that takes requests by the client's address.

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{Middleware, Next};
use crate::exchange::{Payload, ProxyError, Verdict};
use crate::spec::middleware::access;

/// Takes requests by the client's address.
#[derive(Debug)]
pub(super) struct Ip(access::Ip);

impl Ip {
    pub(super) fn new(spec: &access::Ip) -> Self {
        Self(spec.clone())
    }
}

#[async_trait(?Send)]
impl Middleware for Ip {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = next.exchange();
        if self.0.admits(exchange.client().known()) {
            return Ok(next.run(request).await);
        }
        exchange.judged(Verdict { by: "ip", refused: Some("address") });
        Err(ProxyError::Denied)
    }
}
