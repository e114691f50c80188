//! A request taken through its middlewares without being sent: each runs the code that serves, around an exchange that
//! forwards nothing and notes what becomes of the request.
//!
//! What depends on more than the question says (other requests, other services, chance, facts that were not given) is
//! passed without being run, and told as open.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::answer::Answer;
use crate::exchange::{
    ClientAddress, ClientCertificate, Consumer, Credential, Exchange, Flag, Identity, Own, Payload, ProxyError,
    Verdict, grpc,
};
use crate::middleware::{self, Middleware, Next};
use crate::snapshot::{NamedMiddleware, Snapshot};
use crate::spec::condition::all_hold;
use crate::spec::matching::PathMatch;
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::middleware::access::Rule;
use crate::spec::middleware::transform::{Fault, Share};

/// A middleware that takes longer (a password check queued behind others) is reported as undecided.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of a request beside its head.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) snapshot: Arc<Snapshot>,
    /// The position of the route in the table, if one takes the request.
    pub(super) route: Option<usize>,
    /// `None`: the question does not say.
    pub(super) client: Option<ClientAddress>,
    pub(super) host: String,
    pub(super) is_secure: bool,
    /// Whether the listener asks clients for a certificate; the question never shows one.
    pub(super) may_have_certificate: bool,
}

/// What becomes of a request at its middlewares.
#[derive(Debug)]
pub(super) struct Rehearsed {
    /// Why it is open what a middleware does, by its position.
    pub(super) open: BTreeMap<usize, &'static str>,
    pub(super) ending: Ending,
}

/// Where a request ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// Behind all middlewares, which made this of it, and found out this.
    Forwarded(Request<()>, Known),
    /// At the middleware at this position.
    Answered(usize, Answer),
}

/// Who the client is, as far as middlewares found out.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    identity: Rc<Identity>,
    /// One of those that are open may find out more.
    is_open: bool,
}

/// Takes a request through middlewares.
pub(super) async fn rehearse(
    chain: &[&Arc<NamedMiddleware>],
    request: &Request<()>,
    facts: &Facts,
    known: &Known,
) -> Rehearsed {
    let mut slow = None;
    loop {
        let notes = Arc::new(Mutex::new(Notes { identity_is_open: known.is_open, slow, ..Notes::default() }));
        let watched = chain.iter().enumerate().map(|(position, named)| -> Arc<dyn Middleware> {
            let (named, notes) = (Arc::clone(named), Arc::clone(&notes));
            Arc::new(Watched { position, named, facts: facts.clone(), notes })
        });
        let rehearsal = Rc::new(Rehearsal {
            facts: facts.clone(),
            is_call: grpc::is_call(request.headers()),
            request_id: request_id(request.headers()),
            identity: RefCell::new(Rc::clone(&known.identity)),
            verdict: Cell::default(),
            refused: Cell::default(),
            flag: Cell::default(),
            forwarded: RefCell::default(),
        });
        let exchange: Rc<dyn Exchange> = Rc::<Rehearsal>::clone(&rehearsal);
        let Some(body) = body_of(request.headers()).await else {
            return Rehearsed { open: BTreeMap::new(), ending: Ending::Forwarded(copy(request), known.clone()) };
        };
        let next = Next::new(watched.collect(), exchange);
        let run = next.run(copy(request).map(|()| body));
        let finished = tokio::time::timeout(PATIENCE, run).await;
        let notes = lock(&notes);
        let Ok(response) = finished else {
            slow = Some(notes.reached);
            continue;
        };
        let ending = match rehearsal.forwarded.take() {
            Some(request) => {
                let identity = Rc::clone(&rehearsal.identity.borrow());
                Ending::Forwarded(request, Known { identity, is_open: notes.identity_is_open })
            }
            None => {
                let named = chain.get(notes.reached);
                let label = named.map_or("", |named| &*named.label);
                let kind = named.map_or("", |named| named.spec.kind());
                Ending::Answered(notes.reached, rehearsal.answer_of(&response, label, kind))
            }
        };
        return Rehearsed { open: notes.open.clone(), ending };
    }
}

/// What is noted on the way.
#[derive(Debug, Default)]
struct Notes {
    /// The last middleware that the request came to.
    reached: usize,
    open: BTreeMap<usize, &'static str>,
    identity_is_open: bool,
    /// One that did not finish in time.
    slow: Option<usize>,
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A middleware that is watched, or passed where what it does is open.
#[derive(Debug)]
struct Watched {
    position: usize,
    named: Arc<NamedMiddleware>,
    facts: Facts,
    notes: Arc<Mutex<Notes>>,
}

#[async_trait(?Send)]
impl Middleware for Watched {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let open = {
            let mut notes = lock(&self.notes);
            notes.reached = self.position;
            let open = self.open(&request, &notes);
            if let Some(why) = open {
                notes.open.insert(self.position, why);
                notes.identity_is_open |= finds_out_who(&self.named.spec);
            }
            open
        };
        match (open, &*self.named.spec) {
            (Some(_), _) => Ok(next.run(request).await),
            (None, MiddlewareSpec::Fault(fault)) => middleware::undelayed(fault).handle(request, next).await,
            (None, _) => self.named.middleware.handle(request, next).await,
        }
    }
}

impl Watched {
    /// Why it is open what it does with a request; `None`: its own code knows.
    fn open(&self, request: &Request<Incoming>, notes: &Notes) -> Option<&'static str> {
        const ADDRESS: &str = "the question does not give the client's address (--client)";
        let client_is_open = self.facts.client.is_none();
        if notes.slow == Some(self.position) {
            return Some("it takes too long to find out");
        }
        match &*self.named.spec {
            MiddlewareSpec::RateLimit(_) => Some("it depends on the requests before it"),
            MiddlewareSpec::Concurrency(_) => Some("it depends on the requests in flight"),
            MiddlewareSpec::ForwardAuth(spec) => match self.facts.has_endpoint(spec.upstream.as_str()) {
                // Its own code finds nobody to ask.
                Err(_) => None,
                Ok(()) => Some("its service decides"),
            },
            MiddlewareSpec::Fault(Fault { abort: Some((_, share)), when, .. }) => {
                let holds = all_hold(when, request.headers(), request.uri().query()) == Ok(true);
                let is_chance = *share != Share::ALL && holds;
                is_chance.then_some("chance decides")
            }
            MiddlewareSpec::Ip(_) => client_is_open.then_some(ADDRESS),
            MiddlewareSpec::Maintenance(spec) => (client_is_open && !spec.allow.is_empty()).then_some(ADDRESS),
            MiddlewareSpec::Require(rules) => {
                let asks_address = client_is_open && rules.iter().any(|rule| !rule.ips.is_empty());
                let asks_who = notes.identity_is_open && rules.iter().any(Rule::asks_who);
                let who = asks_who.then_some("who the client is depends on a middleware before it");
                who.or(asks_address.then_some(ADDRESS))
            }
            MiddlewareSpec::ClientCertificate(_) => {
                let why = "it depends on the client's certificate, which a question can't show";
                self.facts.may_have_certificate.then_some(why)
            }
            MiddlewareSpec::StripPrefix(_)
            | MiddlewareSpec::AddPrefix(_)
            | MiddlewareSpec::Rewrite(_)
            | MiddlewareSpec::Headers(_)
            | MiddlewareSpec::Redirect(_)
            | MiddlewareSpec::Respond(_)
            | MiddlewareSpec::ErrorPages(_)
            | MiddlewareSpec::SecurityHeaders(_)
            | MiddlewareSpec::Cors(_)
            | MiddlewareSpec::Compression(_)
            | MiddlewareSpec::ApiKey(_)
            | MiddlewareSpec::Basic(_)
            | MiddlewareSpec::BodyLimit(_)
            | MiddlewareSpec::Jwt(_)
            | MiddlewareSpec::Fault(_) => None,
        }
    }
}

/// Whether a middleware may find out who the client is.
fn finds_out_who(spec: &MiddlewareSpec) -> bool {
    matches!(
        spec,
        MiddlewareSpec::ForwardAuth(_)
            | MiddlewareSpec::ClientCertificate(_)
            | MiddlewareSpec::ApiKey(_)
            | MiddlewareSpec::Basic(_)
            | MiddlewareSpec::Jwt(_)
    )
}

impl Facts {
    /// Whether there is somebody to ask at an upstream.
    fn has_endpoint(&self, upstream: &str) -> Result<(), ProxyError> {
        let found = self.snapshot.upstreams().find(|one| &*one.label == upstream).ok_or(ProxyError::Unresolved)?;
        let usable = found.selector(0).is_some_and(|all| !found.usable(all).is_empty());
        if usable { Ok(()) } else { Err(ProxyError::NoEndpoint) }
    }
}

/// An exchange that forwards nothing.
#[derive(Debug)]
struct Rehearsal {
    facts: Facts,
    is_call: bool,
    request_id: String,
    identity: RefCell<Rc<Identity>>,
    verdict: Cell<Option<Verdict>>,
    refused: Cell<Option<ProxyError>>,
    flag: Cell<Option<Flag>>,
    forwarded: RefCell<Option<Request<()>>>,
}

impl Exchange for Rehearsal {
    fn forward(self: Rc<Self>, request: Request<Incoming>) -> LocalBoxFuture<'static, Response<Payload>> {
        self.forwarded.replace(Some(request.map(drop)));
        std::future::ready(Response::new(Payload::default())).boxed_local()
    }

    fn ask(
        self: Rc<Self>,
        upstream: &str,
        _: Request<()>,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<Option<Bytes>>, ProxyError>> {
        // Nobody asks who could be answered: that is open.
        let error = self.facts.has_endpoint(upstream).err().unwrap_or(ProxyError::NoEndpoint);
        std::future::ready(Err(error)).boxed_local()
    }

    fn password_costs(&self) -> &[u8] {
        self.facts.snapshot.consumers.password_costs()
    }

    fn refuse(&self, error: ProxyError) -> Response<Payload> {
        self.refused.set(Some(error));
        self.flag.set(Some(error.flag()));
        own(if self.is_call { StatusCode::OK } else { error.status() })
    }

    fn answer(&self, status: StatusCode, _: HeaderValue, _: Bytes) -> Response<Payload> {
        own(status)
    }

    fn flag(&self, flag: Flag) {
        self.flag.set(Some(flag));
    }

    fn client(&self) -> ClientAddress {
        // Those that decide by it are not asked without one.
        let unknown = ClientAddress::Unknown { peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        self.facts.client.unwrap_or(unknown)
    }

    fn is_secure(&self) -> bool {
        self.facts.is_secure
    }

    fn host(&self) -> &str {
        &self.facts.host
    }

    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn route(&self) -> &str {
        self.facts.route().map_or("", |route| &route.label)
    }

    fn matched(&self) -> Option<&str> {
        match &self.facts.route()?.matching().path {
            PathMatch::Prefix(path) | PathMatch::Exact(path) => Some(path),
            PathMatch::Start(_) | PathMatch::Regex(_) => None,
        }
    }

    fn is_call(&self) -> bool {
        self.is_call
    }

    fn hold(&self, _: Box<dyn Any>) {}

    fn limit_body(&self, _: u64) {}

    fn certificate(&self) -> Option<&ClientCertificate> {
        None
    }

    fn consumer(&self, by: Credential<'_>) -> Option<Arc<Consumer>> {
        self.facts.snapshot.consumers.find(by).map(Arc::clone)
    }

    fn identity(&self) -> Rc<Identity> {
        Rc::clone(&self.identity.borrow())
    }

    fn identify(&self, identity: Identity) {
        self.identity.replace(Rc::new(identity));
    }

    fn judged(&self, verdict: Verdict) {
        self.verdict.set(Some(verdict));
    }
}

impl Facts {
    fn route(&self) -> Option<&crate::snapshot::Route> {
        self.snapshot.routes.routes().get(self.route?).map(Arc::as_ref)
    }
}

impl Rehearsal {
    /// What the client gets of a middleware.
    fn answer_of(&self, response: &Response<Payload>, label: &str, kind: &str) -> Answer {
        let who = format!("middleware `{label}` ({kind})");
        let refusal = self.verdict.get().and_then(|verdict| verdict.refused);
        let location = response.headers().get(header::LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()));
        let refused = self.refused.get();
        let reason = match (refusal, location, refused) {
            (Some(why), ..) => format!("{who} refuses it: {why}"),
            (None, Some(to), _) => format!("{who} redirects it to {to}"),
            (None, None, Some(ProxyError::Injected(_))) => format!("{who} fails it on purpose"),
            (None, None, Some(error)) => format!("{who} refuses it: {}", error.code()),
            (None, None, None) => format!("{who} answers it itself"),
        };
        let flag = self.flag.get().map_or("", Flag::as_str);
        let code = refused.map_or("", ProxyError::code);
        let grpc_status = refused.filter(|_| self.is_call).map(grpc::status);
        Answer { status: response.status().as_u16(), flag, error: code, grpc_status, reason }
    }
}

fn own(status: StatusCode) -> Response<Payload> {
    let mut response = Response::new(Payload::default());
    *response.status_mut() = status;
    response.extensions_mut().insert(Own);
    response
}

fn request_id(headers: &HeaderMap) -> String {
    let id = headers.get(crate::exchange::header::X_REQUEST_ID).and_then(|id| id.to_str().ok());
    id.unwrap_or_default().to_owned()
}

pub(super) fn copy(request: &Request<()>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// A body as a request with these headers announces it. Only a connection makes one: this is one in memory.
async fn body_of(headers: &HeaderMap) -> Option<Incoming> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let framing = match length {
        _ if headers.contains_key(header::TRANSFER_ENCODING) => "transfer-encoding: chunked".to_owned(),
        Some(length) => format!("content-length: {length}"),
        None => "content-length: 0".to_owned(),
    };
    let (mut client, server) = tokio::io::duplex(256);
    client.write_all(format!("POST / HTTP/1.1\r\nhost: explain\r\n{framing}\r\n\r\n").as_bytes()).await.ok()?;
    let body = Rc::new(Cell::new(None));
    let taken = Rc::clone(&body);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        taken.set(Some(request.into_body()));
        // Nothing is answered: the connection ends here.
        std::future::ready(Err::<Response<Empty<Bytes>>, _>(std::io::Error::from(
            std::io::ErrorKind::ConnectionAborted,
        )))
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service).await;
    drop(served);
    body.take()
}
