//! Defines the middleware that asks a service whether a request may pass, as Traefik's `forwardAuth` and nginx's
//! `auth_request` do.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::tag::{Tag, Tags};
use super::who::tell;
use super::{Middleware, Next};
use crate::exchange::header::{X_CONSUMER, X_FLEETGATE_FLAG, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::exchange::{Consumer, Exchange, Flag, Identity, Payload, ProxyError, Verdict, protected};
use crate::spec::middleware::forward_auth;

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// So many answers are remembered.
const MOST_REMEMBERED: usize = 4096;

/// Asks a service whether a request may pass.
#[derive(Debug)]
pub(super) struct ForwardAuth {
    spec: forward_auth::ForwardAuth,
    /// What services learn of its question and its answer.
    guarded: Vec<HeaderName>,
    tags: Tags,
    yes: Mutex<HashMap<Tag, Yes>>,
}

/// A request may pass.
#[derive(Clone, Debug)]
struct Yes {
    until: Instant,
    /// What services are told of it.
    headers: Arc<[(HeaderName, HeaderValue)]>,
    consumer: Option<Arc<Consumer>>,
}

impl ForwardAuth {
    pub(super) fn new(spec: &forward_auth::ForwardAuth) -> Self {
        let guarded = spec.response_headers.iter().chain(&spec.request_headers).cloned().collect();
        Self { spec: spec.clone(), guarded, tags: Tags::default(), yes: Mutex::default() }
    }

    /// What requests that are alike have in common.
    fn tag(&self, request: &Request<Incoming>, exchange: &dyn Exchange) -> Option<Tag> {
        self.spec.cache?;
        let client = exchange.client().to_string();
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let named = [request.method().as_str(), exchange.host(), target, &client, scheme(exchange)];
        let headers = self.spec.request_headers.iter().flat_map(|name| {
            let values = request.headers().get_all(name).iter().map(HeaderValue::as_bytes);
            std::iter::once(name.as_str().as_bytes()).chain(values)
        });
        self.tags.of(named.iter().map(|text| text.as_bytes()).chain(headers))
    }

    fn remembered(&self, tag: &Tag) -> Option<Yes> {
        let yes = self.yes.lock().unwrap_or_else(PoisonError::into_inner);
        yes.get(tag).filter(|yes| Instant::now() < yes.until).cloned()
    }

    fn remember(&self, tag: Tag, yes: &Yes) {
        let mut all = self.yes.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_REMEMBERED {
            let now = Instant::now();
            all.retain(|_, yes| now < yes.until);
        }
        if all.len() < MOST_REMEMBERED {
            all.insert(tag, yes.clone());
        }
    }

    /// What the service is asked.
    fn question(&self, request: &Request<Incoming>, exchange: &dyn Exchange) -> Request<()> {
        let mut question = Request::new(());
        *question.uri_mut() = self.spec.path.clone().into();
        let headers = question.headers_mut();
        for name in &self.spec.request_headers {
            for value in request.headers().get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let host = request.headers().get(header::HOST).cloned();
        let texts = [
            (X_FORWARDED_METHOD, request.method().as_str().to_owned()),
            (X_FORWARDED_URI, target.to_owned()),
            (X_FORWARDED_PROTO, scheme(exchange).to_owned()),
            (X_FORWARDED_FOR, exchange.client().to_string()),
        ];
        for (name, text) in texts {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
        if let Some(host) = host {
            headers.insert(X_FORWARDED_HOST, host.clone());
            headers.insert(header::HOST, host);
        }
        question
    }

    /// What an answer that lets the request pass says.
    fn yes(&self, answer: &HeaderMap) -> Yes {
        let told = self
            .spec
            .response_headers
            .iter()
            .flat_map(|name| answer.get_all(name).iter().map(move |value| (name.clone(), value.clone())));
        let name = self.spec.consumer.as_ref().and_then(|name| std::str::from_utf8(answer.get(name)?.as_bytes()).ok());
        let consumer = name.filter(|name| !name.is_empty()).map(|name| Arc::new(Consumer::named(name)));
        Yes { until: Instant::now() + self.spec.cache.unwrap_or(Duration::ZERO), headers: told.collect(), consumer }
    }
}

#[async_trait(?Send)]
impl Middleware for ForwardAuth {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = Rc::clone(next.exchange());
        let tag = self.tag(&request, &*exchange);
        let yes = match tag.as_ref().and_then(|tag| self.remembered(tag)) {
            Some(yes) => yes,
            None => {
                let question = self.question(&request, &*exchange);
                let asked = Rc::clone(&exchange).ask(self.spec.upstream.as_str(), question, self.spec.timeout);
                let answer = asked.await.inspect_err(|error| {
                    tracing::debug!(route = exchange.route(), "nobody says whether a request may pass: {error:?}");
                })?;
                if !answer.status().is_success() {
                    if !answer.status().is_server_error() {
                        exchange.judged(Verdict { by: "forward_auth", refused: Some("the service says no") });
                    }
                    return refused(answer, &*exchange);
                }
                let yes = self.yes(answer.headers());
                if let Some(tag) = tag {
                    self.remember(tag, &yes);
                }
                yes
            }
        };
        let headers = request.headers_mut();
        headers.remove(X_CONSUMER);
        for name in &self.spec.response_headers {
            protected::remove(headers, name);
        }
        // What it was asked about is all that services see by these names.
        for name in &self.spec.request_headers {
            protected::remove_twins(headers, name);
        }
        for (name, value) in yes.headers.iter() {
            headers.append(name, value.clone());
        }
        let before = exchange.identity();
        let consumer = yes.consumer.or_else(|| before.consumer.clone());
        if let Some(consumer) = &consumer {
            tell(headers, consumer);
        }
        exchange.judged(Verdict { by: "forward_auth", refused: None });
        exchange.identify(Identity { consumer, was_asked: true, ..Identity::clone(&before) });
        Ok(next.run(request).await)
    }

    fn guarded(&self) -> &[HeaderName] {
        &self.guarded
    }
}

fn scheme(exchange: &dyn Exchange) -> &'static str {
    if exchange.is_secure() { "https" } else { "http" }
}

/// What the client gets of an answer that does not let it pass.
fn refused(answer: Response<Bytes>, exchange: &dyn Exchange) -> Result<Response<Payload>, ProxyError> {
    let status = answer.status();
    // Who cannot tell says neither yes nor no.
    if status.is_server_error() || status.is_informational() {
        tracing::debug!(route = exchange.route(), "whether a request may pass is answered by {status}");
        return Err(ProxyError::BadResponse);
    }
    if exchange.is_call() {
        return Err(if status == StatusCode::UNAUTHORIZED { ProxyError::Unauthenticated } else { ProxyError::Denied });
    }
    let (parts, body) = answer.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE).cloned();
    exchange.flag(Flag::Unauthorized);
    let mut response = exchange.answer(status, kind.unwrap_or(HeaderValue::from_static("text/plain")), body);
    let headers = response.headers_mut();
    for (name, value) in &parts.headers {
        if !OF_ITS_CONNECTION.contains(name) && *name != header::CONTENT_TYPE {
            headers.append(name, value.clone());
        }
    }
    headers.insert(X_FLEETGATE_FLAG, HeaderValue::from_static(Flag::Unauthorized.as_str()));
    Ok(response)
}

/// What is the answer's own, and not the client's.
const OF_ITS_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];
