//! Steps around the exchanges of routes: each may change a request before it goes on, answer instead, and change the
//! answer that comes back.
//!
//! A new one is a variant of [`MiddlewareSpec`] with its key in `spec::decode::middleware`, a line in `spec::encode`, and
//! a file here with its [`Middleware`], which [`build`] makes of the spec. What it keeps between exchanges is its own: the
//! object stays the same as long as its document says the same.

use std::any::Any;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, Request, Response};
use hyper::body::Incoming;

use crate::exchange::{Exchange, Payload, ProxyError};
use crate::spec::middleware::{MiddlewareSpec, transform};

use self::fleet::Fleet;

mod api_key;
mod basic;
mod body_limit;
mod client_certificate;
mod compression;
mod concurrency;
mod cors;
mod error_pages;
mod fault;
pub mod fleet;
mod forward_auth;
mod headers;
mod hide;
mod ip;
mod jwt;
mod key;
mod layer;
mod prefix;
mod rate_limit;
mod redirect;
mod require;
mod respond;
mod rewrite;
mod security;
mod tag;
mod values;
mod who;

/// A step around an exchange. One object serves all workers.
#[async_trait(?Send)]
pub trait Middleware: Debug + Send + Sync {
    /// Takes a request to its answer: what [`Next::run`] gives, or one of its own.
    ///
    /// # Errors
    /// What the client gets instead; the middlewares around it see that as an answer.
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError>;

    /// The request's headers that services believe because it sets or removes them: no trailer of a client has their names.
    fn guarded(&self) -> &[HeaderName] {
        &[]
    }

    /// What goes over to the one that follows it when its document changes.
    fn state(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// What is wrong with it.
    fn trouble(&self) -> Option<Trouble> {
        None
    }

    /// Requests that it let pass and that it refused, by who decided.
    fn counted(&self) -> Vec<Counted> {
        Vec::new()
    }
}

/// What is wrong with a middleware, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it is.
    pub text: String,
    /// Whether requests get 503 by it.
    pub refuses: bool,
}

/// Requests that were decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Who decided.
    pub by: &'static str,
    /// Those that passed.
    pub passed: u64,
    /// Those that did not.
    pub refused: u64,
}

/// What a middleware is made among.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// What it is called.
    pub label: &'a Arc<str>,
    /// The fleet.
    pub fleet: &'a Arc<Fleet>,
    /// The one that it follows under its name.
    pub before: Option<&'a dyn Middleware>,
}

impl Surroundings<'_> {
    /// What goes over from the one before.
    fn state(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.before.and_then(Middleware::state)
    }
}

/// The middlewares of an exchange, the outermost first.
pub type Chain = [Arc<dyn Middleware>];

/// What is left of the way to an endpoint.
#[derive(Debug)]
pub struct Next {
    chain: Rc<Chain>,
    passed: usize,
    exchange: Rc<dyn Exchange>,
}

impl Next {
    /// The whole way.
    pub fn new(chain: Rc<Chain>, exchange: Rc<dyn Exchange>) -> Self {
        Self { chain, passed: 0, exchange }
    }

    /// The exchange.
    pub fn exchange(&self) -> &Rc<dyn Exchange> {
        &self.exchange
    }

    /// Goes on: through the middlewares that are left, then to an endpoint. What goes wrong there comes back as the answer
    /// that the client gets.
    pub async fn run(self, request: Request<Incoming>) -> Response<Payload> {
        let Self { chain, passed, exchange } = self;
        let Some(middleware) = chain.get(passed) else { return exchange.forward(request).await };
        let next = Self { chain: Rc::clone(&chain), passed: passed + 1, exchange: Rc::clone(&exchange) };
        middleware.handle(request, next).await.unwrap_or_else(|error| exchange.refuse(error))
    }
}

/// A `fault` without its delays, for who asks what becomes of a request and does not wait.
pub fn undelayed(spec: &transform::Fault) -> Arc<dyn Middleware> {
    Arc::new(fault::Fault::new(&transform::Fault { delay: None, ..spec.clone() }))
}

/// Makes what a spec asks for.
pub fn build(spec: &MiddlewareSpec, around: &Surroundings<'_>) -> Arc<dyn Middleware> {
    match spec {
        MiddlewareSpec::StripPrefix(prefix) => Arc::new(prefix::StripPrefix::new(prefix)),
        MiddlewareSpec::AddPrefix(prefix) => Arc::new(prefix::AddPrefix::new(prefix)),
        MiddlewareSpec::Rewrite(spec) => Arc::new(rewrite::Rewrite::new(spec)),
        MiddlewareSpec::Headers(spec) => Arc::new(headers::Headers::new(spec)),
        MiddlewareSpec::Redirect(spec) => Arc::new(redirect::Redirect::new(spec)),
        MiddlewareSpec::Respond(spec) => Arc::new(respond::Respond::new(spec)),
        MiddlewareSpec::Maintenance(spec) => Arc::new(respond::Maintenance::new(spec)),
        MiddlewareSpec::ErrorPages(spec) => Arc::new(error_pages::ErrorPages::new(spec)),
        MiddlewareSpec::SecurityHeaders(spec) => Arc::new(security::SecurityHeaders::new(spec)),
        MiddlewareSpec::Cors(spec) => Arc::new(cors::Cors::new(spec)),
        MiddlewareSpec::Compression(spec) => Arc::new(compression::Compression::new(spec)),
        MiddlewareSpec::Ip(spec) => Arc::new(ip::Ip::new(spec)),
        MiddlewareSpec::ApiKey(spec) => Arc::new(api_key::ApiKey::new(spec)),
        MiddlewareSpec::Basic(spec) => Arc::new(basic::Basic::new(spec)),
        MiddlewareSpec::ClientCertificate(spec) => Arc::new(client_certificate::ClientCertificate::new(spec)),
        MiddlewareSpec::Require(spec) => Arc::new(require::Require::new(spec)),
        MiddlewareSpec::RateLimit(spec) => Arc::new(rate_limit::RateLimit::new(spec, around)),
        MiddlewareSpec::Concurrency(spec) => Arc::new(concurrency::Concurrency::new(spec)),
        MiddlewareSpec::BodyLimit(limit) => Arc::new(body_limit::BodyLimit::new(*limit)),
        MiddlewareSpec::Jwt(spec) => Arc::new(jwt::Jwt::new(spec, around.state())),
        MiddlewareSpec::ForwardAuth(spec) => Arc::new(forward_auth::ForwardAuth::new(spec)),
        MiddlewareSpec::Fault(spec) => Arc::new(fault::Fault::new(spec)),
    }
}
