//! Defines the exchanges that pass middlewares: each is shared by its chain, which is a way around the forwarding to an
//! endpoint.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Frame as BodyFrame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::arrive::{Arrived, Onward};
use super::ask::ask;
use super::carrier::Carrier;
use super::frame::{Frame, Outgoing};
use super::kept::Connection;
use super::local::{Chain, LocalRoute};
use super::own::{own_answer, refuse};
use super::serve::{Answer, aim_stepped, conclude, forward_stepped, switch};
use crate::exchange::body::BodyError;
use crate::exchange::{
    Body, ClientAddress, ClientCertificate, Consumer, Credential, Exchange, Flag, Identity, Payload, ProxyError,
    Verdict,
};
use crate::middleware::Next;
use crate::snapshot::Consumers;
use crate::spec::matching::PathMatch;

/// An exchange on its way through middlewares.
struct Through {
    client: ClientAddress,
    is_secure: bool,
    is_call: bool,
    host: Rc<str>,
    request_id: Option<HeaderValue>,
    route: Option<Rc<LocalRoute>>,
    certificate: Option<Arc<ClientCertificate>>,
    consumers: Arc<Consumers>,
    identity: RefCell<Rc<Identity>>,
    verdict: Cell<Option<Verdict>>,
    /// `None` while it is at an endpoint.
    frame: Cell<Option<Box<Frame>>>,
    /// `None` once it was sent on.
    arrived: Cell<Option<Arrived>>,
    /// What switches protocols, if the answer stays at that.
    switched: Cell<Option<(OnUpgrade, Connection)>>,
    lent: Rc<Lent>,
}

/// Where the endpoint's connection comes back to when nobody reads the answer any more.
#[derive(Default)]
pub(super) struct Lent(Cell<Option<Carrier>>);

impl Lent {
    pub(super) fn take(&self) -> Option<Carrier> {
        self.0.take()
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}

/// Serves a request that passes middlewares.
pub(super) async fn serve(
    mut frame: Box<Frame>,
    chain: Rc<Chain>,
    request: Request<Incoming>,
    arrived: Arrived,
) -> Response<Outgoing> {
    frame.chains[0] = Some(Rc::clone(&chain));
    let peer = &frame.connection.peer;
    let through = Rc::new(Through {
        client: frame.client,
        is_secure: frame.is_secure,
        is_call: frame.is_call,
        host: Rc::clone(&arrived.host),
        request_id: frame.request_id.clone(),
        route: frame.route.clone(),
        certificate: peer.certificate(),
        consumers: Arc::clone(&frame.worker.local().consumers),
        identity: RefCell::default(),
        verdict: Cell::default(),
        frame: Cell::new(Some(frame)),
        arrived: Cell::new(Some(arrived)),
        switched: Cell::default(),
        lent: Rc::default(),
    });
    let mut response = Next::new(chain, Rc::<Through>::clone(&through)).run(request).await;
    let Some(mut frame) = through.frame.take() else {
        // It is at an endpoint only while somebody waits for that.
        return status(StatusCode::INTERNAL_SERVER_ERROR).map(|_| Outgoing::new(Body::Empty, None));
    };
    frame.consumer.clone_from(&through.identity.borrow().consumer);
    frame.verdict = through.verdict.get();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some((client, endpoint)) = through.switched.take()
    {
        return switch(frame, response, client, endpoint);
    }
    conclude(&mut frame, &mut response);
    response.map(|payload| Outgoing::through(payload, frame, Rc::clone(&through.lent)))
}

impl Exchange for Through {
    fn forward(self: Rc<Self>, request: Request<Incoming>) -> LocalBoxFuture<'static, Response<Payload>> {
        async move {
            let (Some(mut frame), Some(arrived)) = (self.frame.take(), self.arrived.take()) else {
                return self.refuse(ProxyError::Unresolved);
            };
            let Arrived { host, added, onward, is_preflight } = arrived;
            if is_preflight {
                // Its route was found by the method it asks about, and need not take OPTIONS.
                self.frame.set(Some(frame));
                return self.refuse(ProxyError::NoRoute);
            }
            let sent = match onward {
                Onward::Aimed(aimed) => forward_stepped(&mut frame, request, aimed, added).await,
                Onward::Unaimed(route) => match route.and_then(|route| aim_stepped(&mut frame, &request, route, &host))
                {
                    Ok(aimed) => {
                        if let Some(chain) = aimed.route.chain_of(aimed.target).map(Rc::clone) {
                            frame.chains[1] = Some(Rc::clone(&chain));
                            self.frame.set(Some(frame));
                            self.arrived.set(Some(Arrived { host, added, onward: Onward::Aimed(aimed), is_preflight }));
                            return Next::new(chain, self).run(request).await;
                        }
                        forward_stepped(&mut frame, request, aimed, added).await
                    }
                    Err(error) => Err(error),
                },
            };
            let response = match sent {
                Ok(Answer::Response(response)) => response,
                Ok(Answer::Upgrade { response, client, endpoint }) => {
                    self.switched.set(Some((client, endpoint)));
                    response.map(|()| Body::Empty)
                }
                Err(error) => refuse(&mut frame, error),
            };
            self.frame.set(Some(frame));
            response.map(|body| lend(body, &self.lent))
        }
        .boxed_local()
    }

    fn ask(
        self: Rc<Self>,
        upstream: &str,
        request: Request<()>,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<Response<Option<Bytes>>, ProxyError>> {
        let mut beside = None;
        self.with_frame(|frame| beside = Some(frame.beside(request.method().clone())));
        let upstream = upstream.to_owned();
        async move {
            let frame = beside.ok_or(ProxyError::Unresolved)?;
            ask(frame, &upstream, request, timeout).await
        }
        .boxed_local()
    }

    fn refuse(&self, error: ProxyError) -> Response<Payload> {
        self.own(error.status(), |frame| refuse(frame, error))
    }

    fn answer(&self, status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Payload> {
        self.own(status, |frame| own_answer(frame, status, content_type, body))
    }

    fn flag(&self, flag: Flag) {
        self.with_frame(|frame| frame.flag = Some(flag));
    }

    fn client(&self) -> ClientAddress {
        self.client
    }

    fn is_secure(&self) -> bool {
        self.is_secure
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn request_id(&self) -> &str {
        self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or("", |local| &local.route.label)
    }

    fn matched(&self) -> Option<&str> {
        match &self.route.as_ref()?.route.matching().path {
            PathMatch::Prefix(path) | PathMatch::Exact(path) => Some(path),
            PathMatch::Start(_) | PathMatch::Regex(_) => None,
        }
    }

    fn is_call(&self) -> bool {
        self.is_call
    }

    fn hold(&self, guard: Box<dyn Any>) {
        self.with_frame(|frame| frame.held.push(guard));
    }

    fn limit_body(&self, bytes: u64) {
        self.with_frame(|frame| frame.most_of_body = frame.most_of_body.min(bytes));
    }

    fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_deref()
    }

    fn consumer(&self, by: Credential<'_>) -> Option<Arc<Consumer>> {
        self.consumers.find(by).map(Arc::clone)
    }

    fn password_costs(&self) -> &[u8] {
        self.consumers.password_costs()
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

impl Through {
    /// Changes the exchange, unless it is at an endpoint.
    fn with_frame(&self, change: impl FnOnce(&mut Frame)) {
        if let Some(mut frame) = self.frame.take() {
            change(&mut frame);
            self.frame.set(Some(frame));
        }
    }

    /// An answer of the gateway's own.
    fn own(
        &self,
        otherwise: StatusCode,
        make: impl FnOnce(&mut Frame) -> Response<Body<Carrier>>,
    ) -> Response<Payload> {
        // It is at an endpoint: nobody asks for an answer then.
        let Some(mut frame) = self.frame.take() else { return status(otherwise) };
        let response = make(&mut frame);
        self.frame.set(Some(frame));
        response.map(|body| lend(body, &self.lent))
    }
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Through").field("client", &self.client).finish_non_exhaustive()
    }
}

fn status(status: StatusCode) -> Response<Payload> {
    let mut response = Response::new(Payload::default());
    *response.status_mut() = status;
    response
}

/// A body for middlewares, whose connection comes back in the end.
fn lend(body: Body<Carrier>, lent: &Rc<Lent>) -> Payload {
    match body {
        Body::Empty => Payload::default(),
        Body::Full(bytes) => Payload::full(bytes),
        body @ Body::Stream(_) => Payload::stream(Lending { body, lent: Rc::clone(lent) }),
    }
}

struct Lending {
    body: Body<Carrier>,
    lent: Rc<Lent>,
}

impl Drop for Lending {
    fn drop(&mut self) {
        self.lent.0.set(std::mem::take(&mut self.body).into_source());
    }
}

impl http_body::Body for Lending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        http_body::Body::poll_frame(Pin::new(&mut self.get_mut().body), cx)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.body)
    }
}
