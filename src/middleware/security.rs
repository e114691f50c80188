//! Defines the middleware that tells browsers to be careful.

use async_trait::async_trait;
use http::header::{Entry, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;

use super::{Middleware, Next};
use crate::exchange::{Payload, ProxyError};
use crate::spec::middleware::transform;

/// Adds headers that tell browsers to be careful.
#[derive(Debug)]
pub(super) struct SecurityHeaders {
    spec: transform::SecurityHeaders,
    hsts: Option<HeaderValue>,
}

impl SecurityHeaders {
    pub(super) fn new(spec: &transform::SecurityHeaders) -> Self {
        let hsts = spec.hsts.and_then(|hsts| HeaderValue::try_from(hsts.text()).ok());
        Self { spec: spec.clone(), hsts }
    }

    fn add(&self, headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
        match headers.entry(name) {
            Entry::Occupied(mut there) if self.spec.overrides => {
                there.insert(value.clone());
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(value.clone());
            }
        }
    }
}

#[async_trait(?Send)]
impl Middleware for SecurityHeaders {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let secure = next.exchange().is_secure();
        let mut response = next.run(request).await;
        let headers = response.headers_mut();
        // Browsers believe it over TLS alone.
        if let Some(hsts) = self.hsts.as_ref().filter(|_| secure) {
            self.add(headers, &STRICT_TRANSPORT_SECURITY, hsts);
        }
        for (name, value) in &self.spec.headers {
            self.add(headers, name, value);
        }
        Ok(response)
    }
}
