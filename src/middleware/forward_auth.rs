//! Defines the middleware that asks a service whether a request may pass, as Traefik's `forwardAuth` and nginx's
//! `auth_request` do.

use std::collections::HashMap;
use std::fmt;
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
use crate::exchange::error::AuthFault;
use crate::exchange::header::{X_CONSUMER, X_FLEETGATE_FLAG, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::exchange::{Consumer, Exchange, Flag, Identity, Payload, ProxyError, Verdict, protected};
use crate::spec::middleware::forward_auth;

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Between two lines of the log about a service that does not decide.
const TELL_AGAIN: Duration = Duration::from_secs(10);

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
    last_told: Mutex<Option<Instant>>,
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
        Self { spec: spec.clone(), guarded, tags: Tags::default(), yes: Mutex::default(), last_told: Mutex::default() }
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

    /// The service makes no decision, so that everybody is refused. The log says so now and then, and not each time: what
    /// clients send must not fill it.
    fn undecided(&self, error: ProxyError, why: fmt::Arguments<'_>, exchange: &dyn Exchange) -> ProxyError {
        let mut last = self.last_told.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= TELL_AGAIN) {
            *last = Some(Instant::now());
            drop(last);
            tracing::warn!(
                upstream = self.spec.upstream.as_str(),
                route = exchange.route(),
                "an auth service does not decide, and requests are refused: {why}"
            );
        }
        error
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
        // By it a question that comes back to the gateway is known.
        headers.remove(header::VIA);
        for line in request.headers().get_all(header::VIA) {
            headers.append(header::VIA, line.clone());
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
        let question = self.question(&request, &*exchange);
        let key = self.spec.cache.and_then(|_| cache_key(&self.tags, &question));
        let yes = match key.as_ref().and_then(|key| self.remembered(key)) {
            Some(yes) => yes,
            None => {
                let asked = Rc::clone(&exchange).ask(self.spec.upstream.as_str(), question, self.spec.timeout);
                let answer = match asked.await {
                    Ok(answer) => match no_decision(answer.status()) {
                        None => answer,
                        Some(fault) => {
                            let why = format_args!("it answered {}", answer.status());
                            return Err(self.undecided(ProxyError::AuthService(fault), why, &*exchange));
                        }
                    },
                    Err(error) => {
                        let error = error.of_auth_service();
                        return Err(self.undecided(error, format_args!("{}", error.code()), &*exchange));
                    }
                };
                if !answer.status().is_success() {
                    exchange.judged(Verdict { by: "forward_auth", refused: Some("the service says no") });
                    return refused(answer, &*exchange);
                }
                let yes = self.yes(answer.headers());
                if let Some(key) = key {
                    self.remember(key, &yes);
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

/// The cache key of a question: all that the auth service is told, in order. Questions that differ in any byte have
/// different keys, because [`Tags::of`] keeps its parts apart and each header is exactly two of them.
fn cache_key(tags: &Tags, question: &Request<()>) -> Option<Tag> {
    let target = question.uri().path_and_query().map_or("", |target| target.as_str());
    let line = [question.method().as_str(), target].map(str::as_bytes);
    let headers = question.headers().iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
    tags.of(line.into_iter().chain(headers))
}

/// What is wrong with an answer that is neither yes nor no.
fn no_decision(status: StatusCode) -> Option<AuthFault> {
    if status == StatusCode::LOOP_DETECTED {
        return Some(AuthFault::Loop);
    }
    (status.is_server_error() || status.is_informational()).then_some(AuthFault::Failed)
}

/// What the client gets of an answer that does not let it pass.
fn refused(answer: Response<Option<Bytes>>, exchange: &dyn Exchange) -> Result<Response<Payload>, ProxyError> {
    let status = answer.status();
    if exchange.is_call() {
        return Err(if status == StatusCode::UNAUTHORIZED { ProxyError::Unauthenticated } else { ProxyError::Denied });
    }
    let (parts, body) = answer.into_parts();
    exchange.flag(Flag::Unauthorized);
    let text = HeaderValue::from_static("text/plain");
    let has_body = body.is_some();
    let (kind, body) = match body {
        Some(body) => (parts.headers.get(header::CONTENT_TYPE).cloned().unwrap_or(text), body),
        None => (text, Bytes::from(format!("{status}\n"))),
    };
    let mut response = exchange.answer(status, kind, body);
    let headers = response.headers_mut();
    for (name, value) in &parts.headers {
        let describes_body = || name.as_str().starts_with("content-") || OF_ITS_BODY.contains(name);
        if !OF_ITS_CONNECTION.contains(name)
            && *name != header::CONTENT_TYPE
            && *name != X_FLEETGATE_FLAG
            && (has_body || !describes_body())
        {
            headers.append(name, value.clone());
        }
    }
    headers.insert(X_FLEETGATE_FLAG, HeaderValue::from_static(Flag::Unauthorized.as_str()));
    Ok(response)
}

/// What describes the bytes of a body, beside the `Content-*` fields.
const OF_ITS_BODY: [HeaderName; 4] =
    [header::ETAG, header::ACCEPT_RANGES, HeaderName::from_static("digest"), HeaderName::from_static("repr-digest")];

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a question says, as it goes over the wire.
    fn told(question: &Request<()>) -> Vec<(String, Vec<u8>)> {
        let line = [("method", question.method().as_str()), ("target", question.uri().path())];
        let line = line.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        let headers = question.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        line.into_iter().chain(headers).collect()
    }

    /// Questions of few letters, so that values look like names and neighbours like each other.
    fn questions() -> impl Strategy<Value = Request<()>> {
        let name = prop::sample::select(vec!["a", "b", "x-tenant", "authorization"]);
        let value = prop::sample::select(vec!["", "a", "b", "x-tenant", "authorization", "a, b"]);
        let headers = prop::collection::vec((name, value), 0..5);
        let method = prop::sample::select(vec!["GET", "a"]);
        (method, prop::sample::select(vec!["/", "/a", "/ab"]), headers).prop_map(|(method, path, headers)| {
            let mut question = Request::builder().method(method).uri(path).body(()).expect("a question");
            for (name, value) in headers {
                question.headers_mut().append(name, HeaderValue::from_static(value));
            }
            question
        })
    }

    proptest! {
        #[test]
        fn questions_that_differ_in_anything_have_different_cache_keys(one in questions(), other in questions()) {
            let tags = Tags::default();
            let (a, b) = (cache_key(&tags, &one), cache_key(&tags, &other));
            prop_assert!(a.is_some() && b.is_some());
            prop_assert_eq!(a == b, told(&one) == told(&other), "{:?} {:?}", one, other);
        }
    }

    #[test]
    fn a_value_that_is_a_header_name_moves_no_border() {
        let tags = Tags::default();
        let key = |headers: &[(&'static str, &'static str)]| {
            let mut question = Request::new(());
            for (name, value) in headers {
                question.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            cache_key(&tags, &question).expect("a key")
        };
        let victim = [("authorization", "mine"), ("x-tenant", "victim"), ("x-tenant", "x-tenant")];
        let own = [("authorization", "mine"), ("authorization", "x-tenant"), ("authorization", "victim")];
        assert_ne!(key(&victim), key(&own));
        assert_eq!(key(&victim), key(&victim));
    }
}
