//! Defines the middleware that gives errors bodies of the operator's own.

use std::rc::Rc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::values::Values;
use super::{Middleware, Next};
use crate::exchange::{Own, Payload, ProxyError, prefers_json};
use crate::spec::middleware::transform::{self, Page};

/// Gives errors bodies of the operator's own. Status and other headers stay.
#[derive(Debug)]
pub(super) struct ErrorPages {
    spec: transform::ErrorPages,
    /// Whether a page has values of the request.
    has_values: bool,
}

impl ErrorPages {
    pub(super) fn new(spec: &transform::ErrorPages) -> Self {
        let has_values = spec.pages.iter().any(|(_, page)| page.body.fixed().is_none());
        Self { spec: spec.clone(), has_values }
    }

    /// The page for an answer.
    fn page(&self, response: &Response<Payload>) -> Option<&Page> {
        if !self.spec.services && response.extensions().get::<Own>().is_none() {
            return None;
        }
        let page = self.spec.pages.iter().find(|(statuses, _)| statuses.have(response.status()));
        page.map(|(_, page)| page)
    }
}

#[async_trait(?Send)]
impl Middleware for ErrorPages {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = Rc::clone(next.exchange());
        if exchange.is_call() {
            return Ok(next.run(request).await);
        }
        let json = request.headers().get(header::ACCEPT).is_some_and(prefers_json);
        // The request is gone when a page is made.
        let mut asked = Request::new(());
        if self.has_values {
            *asked.method_mut() = request.method().clone();
            *asked.uri_mut() = request.uri().clone();
            *asked.headers_mut() = request.headers().clone();
        }
        let mut response = next.run(request).await;
        let Some(page) = self.page(&response).filter(|page| !json || is_json(&page.content_type)) else {
            return Ok(response);
        };
        let body = Values::new(&asked, &*exchange).page(&page.body, &page.content_type);
        let headers = response.headers_mut();
        for name in OF_A_BODY {
            headers.remove(name);
        }
        headers.insert(header::CONTENT_TYPE, page.content_type.clone());
        *response.body_mut() = Payload::full(body);
        Ok(response)
    }
}

/// What says something of the body that goes.
const OF_A_BODY: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::TRAILER,
];

fn is_json(content_type: &HeaderValue) -> bool {
    content_type.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("json"))
}
