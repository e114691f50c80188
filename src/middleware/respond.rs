//! Defines the middlewares that answer without a service: always, and in maintenance.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::values::Values;
use super::{Middleware, Next};
use crate::exchange::header::X_FLEETGATE_FLAG;
use crate::exchange::{Flag, Payload, ProxyError};
use crate::spec::middleware::transform;

/// Answers everybody alike.
#[derive(Debug)]
pub(super) struct Respond {
    spec: transform::Respond,
    body: Bytes,
}

impl Respond {
    pub(super) fn new(spec: &transform::Respond) -> Self {
        Self { body: Bytes::from(spec.answer.body.clone()), spec: spec.clone() }
    }
}

#[async_trait(?Send)]
impl Middleware for Respond {
    async fn handle(&self, _: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let answer = &self.spec.answer;
        let mut response = next.exchange().answer(answer.status, answer.content_type.clone(), self.body.clone());
        for (name, value) in &self.spec.headers {
            response.headers_mut().append(name, value.clone());
        }
        Ok(response)
    }
}

/// Answers everybody with 503 but those who look after the service.
#[derive(Debug)]
pub(super) struct Maintenance {
    spec: transform::Maintenance,
    seconds: u32,
}

impl Maintenance {
    pub(super) fn new(spec: &transform::Maintenance) -> Self {
        // At most 366 days.
        Self { spec: spec.clone(), seconds: u32::try_from(spec.retry_after.as_secs().max(1)).unwrap_or(u32::MAX) }
    }
}

#[async_trait(?Send)]
impl Middleware for Maintenance {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = next.exchange();
        if exchange.client().is_in(&self.spec.allow) {
            return Ok(next.run(request).await);
        }
        let error = ProxyError::Maintenance { seconds: self.seconds };
        let Some(page) = self.spec.page.as_ref().filter(|_| !exchange.is_call()) else { return Err(error) };
        let body = Values::new(&request, &**exchange).page(&page.body, &page.content_type);
        exchange.flag(Flag::Maintenance);
        let mut response =
            exchange.answer(StatusCode::SERVICE_UNAVAILABLE, page.content_type.clone(), Bytes::from(body));
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(self.seconds));
        headers.insert(X_FLEETGATE_FLAG, HeaderValue::from_static(Flag::Maintenance.as_str()));
        Ok(response)
    }
}
