//! The middleware `cors`: answers preflights and tells browsers which pages may read an answer (Fetch Standard, 3.2).
//!
//! It alone decides: a service's own `Access-Control-*` fields never reach the client, because what a service allows
//! without credentials and what the gateway allows with them would add up to more than either allows.

use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{Middleware, Next};
use crate::exchange::{Payload, ProxyError, preflight};
use crate::spec::middleware::cors;

const ANY: HeaderValue = HeaderValue::from_static("*");

/// Answers preflights, and tells browsers who may read an answer.
#[derive(Debug)]
pub(super) struct Cors {
    /// `None`: any.
    origins: Option<Arc<[cors::OriginMatch]>>,
    methods: Allowed,
    headers: Allowed,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

/// What preflights are told of methods or headers.
#[derive(Debug)]
enum Allowed {
    /// These.
    List(HeaderValue),
    /// Any, said by `*`.
    Any,
    /// Any, said by repeating what was asked: beside credentials browsers take no `*`, and `*` never stands for
    /// `Authorization`.
    Mirrored,
    /// None beside those that every page may use.
    Nothing,
}

impl Cors {
    pub(super) fn new(spec: &cors::Cors) -> Self {
        let methods = match &spec.methods {
            None if spec.credentials => Allowed::Mirrored,
            None => Allowed::Any,
            Some(list) => Allowed::list(list.iter().map(http::Method::as_str)),
        };
        let headers = match &spec.headers {
            None => Allowed::Mirrored,
            Some(list) => Allowed::list(list.iter().map(HeaderName::as_str)),
        };
        let expose = match &spec.expose {
            None if spec.credentials => None,
            None => Some(ANY),
            Some(list) => joined(list.iter().map(HeaderName::as_str)),
        };
        Self {
            origins: spec.origins.as_deref().map(Arc::from),
            methods,
            headers,
            expose,
            credentials: spec.credentials,
            max_age: spec.max_age.map(|age| HeaderValue::from(age.as_secs())),
        }
    }

    /// Whether all clients are told the same, whatever their origin.
    fn is_for_any(&self) -> bool {
        self.origins.is_none() && !self.credentials
    }

    /// Which origin may read an answer, as the client is told; `None`: not the one that asks.
    fn allowed_origin(&self, asked: &HeaderMap) -> Option<HeaderValue> {
        if self.is_for_any() {
            return Some(ANY);
        }
        let origin = preflight::origin(asked)?;
        let fits = self.origins.as_ref().is_none_or(|list| list.iter().any(|one| one.fits(origin.as_bytes())));
        fits.then(|| origin.clone())
    }

    /// What an answer to a page of an allowed origin says, whatever it answers.
    fn allow(&self, origin: HeaderValue, answer: &mut HeaderMap) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// What the answer to a preflight says.
    fn answer_preflight(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        answer.insert(
            header::VARY,
            HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
        );
        let Some(origin) = self.allowed_origin(asked) else { return };
        self.allow(origin, answer);
        self.methods.tell(asked, &header::ACCESS_CONTROL_REQUEST_METHOD, &header::ACCESS_CONTROL_ALLOW_METHODS, answer);
        self.headers.tell(
            asked,
            &header::ACCESS_CONTROL_REQUEST_HEADERS,
            &header::ACCESS_CONTROL_ALLOW_HEADERS,
            answer,
        );
        if let Some(age) = &self.max_age {
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, age.clone());
        }
    }
}

impl Allowed {
    fn list<'t>(texts: impl Iterator<Item = &'t str>) -> Self {
        joined(texts).map_or(Self::Nothing, Self::List)
    }

    fn tell(&self, asked: &HeaderMap, of: &HeaderName, name: &HeaderName, answer: &mut HeaderMap) {
        match self {
            Self::List(list) => drop(answer.insert(name, list.clone())),
            Self::Any => drop(answer.insert(name, ANY)),
            Self::Mirrored => {
                for value in asked.get_all(of) {
                    answer.append(name, value.clone());
                }
            }
            Self::Nothing => {}
        }
    }
}

fn joined<'t>(texts: impl Iterator<Item = &'t str>) -> Option<HeaderValue> {
    let text = texts.collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

#[async_trait(?Send)]
impl Middleware for Cors {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        if preflight::asked_method(request.method(), request.headers()).is_some() {
            let exchange = Rc::clone(next.exchange());
            let mut response =
                exchange.answer(StatusCode::NO_CONTENT, HeaderValue::from_static("text/plain"), Bytes::new());
            response.headers_mut().remove(header::CONTENT_TYPE);
            self.answer_preflight(request.headers(), response.headers_mut());
            return Ok(response);
        }
        let allowed = self.allowed_origin(request.headers());
        let mut response = next.run(request).await;
        let headers = response.headers_mut();
        remove_own(headers);
        if let Some(origin) = allowed {
            self.allow(origin, headers);
        }
        if !self.is_for_any() {
            vary_by_origin(headers);
        }
        Ok(response)
    }
}

/// Takes out what a service says about other origins.
fn remove_own(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| name.as_str().starts_with("access-control-")).cloned() {
        headers.remove(name);
    }
}

/// Tells caches that the answer depends on the origin, also where this one is not allowed or none was named.
fn vary_by_origin(headers: &mut HeaderMap) {
    let names = headers.get_all(header::VARY).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut names = names.map(<[u8]>::trim_ascii);
    if !names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin")) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}
