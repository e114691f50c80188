//! Defines the middleware that lets pages of other origins use a service.

use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use super::{Middleware, Next, layer};
use crate::exchange::{Payload, ProxyError};
use crate::spec::middleware::cors;

/// Answers what browsers ask before a request, and tells them who may read an answer.
#[derive(Debug)]
pub(super) struct Cors {
    layer: CorsLayer,
    /// What answers of the layer to questions lack, and the Gateway API has.
    expose: Option<HeaderValue>,
}

impl Cors {
    pub(super) fn new(spec: &cors::Cors) -> Self {
        // Beside credentials a browser takes no `*` (Fetch Standard, 3.2.5): it is told what it asked for.
        let mirrors = spec.credentials;
        let origins = match &spec.origins {
            None if mirrors => AllowOrigin::mirror_request(),
            None => AllowOrigin::any(),
            Some(list) => {
                let list: Arc<[cors::OriginMatch]> = list.as_slice().into();
                AllowOrigin::predicate(move |origin, _| list.iter().any(|one| one.fits(origin.as_bytes())))
            }
        };
        let methods = match &spec.methods {
            None if mirrors => AllowMethods::mirror_request(),
            None => AllowMethods::any(),
            Some(list) => AllowMethods::list(list.iter().cloned()),
        };
        let headers = match &spec.headers {
            None if mirrors => AllowHeaders::mirror_request(),
            None => AllowHeaders::any(),
            Some(list) => AllowHeaders::list(list.iter().cloned()),
        };
        let expose = spec.expose.as_ref().filter(|list| !list.is_empty());
        let expose = expose.map(|list| list.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", "));
        let expose = expose.and_then(|text| HeaderValue::try_from(text).ok());
        let mut layer = CorsLayer::new().allow_origin(origins).allow_methods(methods).allow_headers(headers);
        match &spec.expose {
            None if mirrors => {}
            None => layer = layer.expose_headers(ExposeHeaders::any()),
            Some(list) if list.is_empty() => {}
            Some(list) => layer = layer.expose_headers(list.clone()),
        }
        if spec.credentials {
            layer = layer.allow_credentials(true);
        }
        if let Some(age) = spec.max_age {
            layer = layer.max_age(age);
        }
        Self { layer, expose }
    }
}

#[async_trait(?Send)]
impl Middleware for Cors {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        if *request.method() != Method::OPTIONS {
            return Ok(layer::through(&self.layer, request, next).await);
        }
        let headers = request.headers();
        if !headers.contains_key(header::ORIGIN) || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            // The layer takes every OPTIONS for a question about another request; a service may have some of its own.
            return Ok(layer::through_as(&self.layer, Method::GET, request, next).await);
        }
        let exchange = Rc::clone(next.exchange());
        let told = layer::through(&self.layer, request, next).await;
        let mut response =
            exchange.answer(StatusCode::NO_CONTENT, HeaderValue::from_static("text/plain"), Bytes::new());
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        headers.extend(told.headers().clone());
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        Ok(response)
    }
}
