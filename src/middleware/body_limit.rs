//! Defines the middleware that limits the bodies of requests.

use async_trait::async_trait;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{Middleware, Next};
use crate::exchange::{Payload, ProxyError};

/// Limits the bodies of requests, in bytes.
#[derive(Debug)]
pub(super) struct BodyLimit(u64);

impl BodyLimit {
    pub(super) fn new(limit: u64) -> Self {
        Self(limit)
    }
}

#[async_trait(?Send)]
impl Middleware for BodyLimit {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        // What is announced; what comes without that is counted as it comes.
        if request.body().size_hint().lower() > self.0 {
            return Err(ProxyError::BodyTooLarge);
        }
        next.exchange().limit_body(self.0);
        Ok(next.run(request).await)
    }
}
