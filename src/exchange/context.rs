//! Defines what a middleware may ask of the exchange that it is a step of.

use std::any::Any;
use std::fmt::{self, Debug};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::client::ClientAddress;
use super::error::ProxyError;
use super::flag::Flag;
use super::payload::Payload;

/// The largest body of an auth service's refusal that clients get.
pub const MAX_AUTH_BODY_BYTES: usize = 64 * 1024;

/// One exchange, as middlewares see it. The data plane implements it.
pub trait Exchange: Debug {
    /// Sends the request on, to an endpoint of the route. What goes wrong is the answer that the client gets. Once only: there
    /// is no route for a second request.
    fn forward(self: Rc<Self>, request: Request<Incoming>) -> LocalBoxFuture<'static, Response<Payload>>;

    /// Asks a service of an upstream of this name, beside the request and without a body. It is no exchange of its own in
    /// log and metrics. An answer of 200 to 299 comes with its head, without a body; of any other the body is `None` where
    /// it is larger than [`MAX_AUTH_BODY_BYTES`], cut, or not there in time: the head has decided already.
    ///
    /// # Errors
    /// Why there is no head in time; `Unresolved` without such an upstream.
    fn ask(
        self: Rc<Self>,
        upstream: &str,
        request: Request<()>,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<Option<Bytes>>, ProxyError>>;

    /// The answer of the gateway's own to what goes wrong.
    fn refuse(&self, error: ProxyError) -> Response<Payload>;

    /// An answer of the gateway's own that was asked for.
    fn answer(&self, status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Payload>;

    /// Marks the exchange in log and metrics, whatever its answer.
    fn flag(&self, flag: Flag);

    /// The client, which is the first one that no trusted proxy is.
    fn client(&self) -> ClientAddress;

    /// Whether the client speaks TLS, with the gateway or with a trusted proxy before it.
    fn is_secure(&self) -> bool;

    /// The host asked for, in lower case and without port; empty when an HTTP/1.0 client sent none.
    fn host(&self) -> &str;

    /// The id of the request.
    fn request_id(&self) -> &str;

    /// The route's name; empty without a route.
    fn route(&self) -> &str;

    /// What the route matched of the path as a prefix, without a trailing slash, or all of it where it wants one path;
    /// `None` without a route, and where an expression decides.
    fn matched(&self) -> Option<&str>;

    /// Whether it is a call of gRPC, whose answers have a form of their own.
    fn is_call(&self) -> bool;

    /// Keeps something until the exchange is over, however it ends.
    fn hold(&self, guard: Box<dyn Any>);

    /// No more bytes of the request's body are taken than this, nor than a limit of before.
    fn limit_body(&self, bytes: u64);

    /// The certificate that the client proved to have, in its handshake with us.
    fn certificate(&self) -> Option<&ClientCertificate>;

    /// Who has what a client shows.
    fn consumer(&self, by: Credential<'_>) -> Option<Arc<Consumer>>;

    /// What checking the password of each consumer that has one costs (bcrypt's logarithm).
    fn password_costs(&self) -> &[u8];

    /// Who the client is, as far as a middleware found out.
    fn identity(&self) -> Rc<Identity>;

    /// A middleware found out who the client is.
    fn identify(&self, identity: Identity);

    /// A middleware judged who the client is or whether it may, for the audit log.
    fn judged(&self, verdict: Verdict);
}

/// What a client shows to prove who it is, or says.
#[derive(Clone, Copy)]
pub enum Credential<'c> {
    /// The SHA-256 of a key.
    Key(&'c [u8; 32]),
    /// The name of a consumer.
    Name(&'c str),
    /// A certificate.
    Certificate(&'c ClientCertificate),
}

/// A client's certificate, which an authority of its listener vouches for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its SHA-256.
    pub hash: [u8; 32],
    /// The URIs among its names.
    pub uris: Vec<String>,
    /// The host names among them, in lower case.
    pub dns: Vec<String>,
    /// Its subject, as RFC 4514 writes it.
    pub subject: String,
}

/// What a middleware judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its type.
    pub by: &'static str,
    /// Why the client may not go on; `None`: it may.
    pub refused: Option<&'static str>,
}

/// Someone who may call.
pub struct Consumer {
    /// Its name.
    pub name: Arc<str>,
    /// The name, for services; `None` where no header can carry it.
    pub header: Option<HeaderValue>,
    /// What it belongs to.
    pub groups: Vec<String>,
    /// The hash of its password by bcrypt.
    pub password: Option<Arc<str>>,
}

impl Consumer {
    /// Someone of this name.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), header: HeaderValue::from_str(name).ok(), groups: Vec::new(), password: None }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("name", &self.name).field("groups", &self.groups).finish_non_exhaustive()
    }
}

/// Who a client is.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The consumer.
    pub consumer: Option<Arc<Consumer>>,
    /// A middleware would have taken a proof of who it is.
    pub was_asked: bool,
    /// What its token says.
    pub claims: Arc<serde_json::Map<String, serde_json::Value>>,
}

/// In the extensions of an answer: no service gave it.
#[derive(Clone, Copy, Debug)]
pub struct Own;
