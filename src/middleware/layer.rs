//! Lets layers of tower be steps of an exchange.
//!
//! A layer fits when it calls what is inside it at most once, leaves the request's body what it is, and asks for no
//! `Clone` or `Send` of the service: of tower-http `compression`, `set-header`, `sensitive-headers`,
//! `normalize-path`, `validate-request`, `map-response-body` and their kind. Those that do not fit: `retry`, `buffer`,
//! `hedge` and `follow-redirect` (they send twice, or spawn), `limit` and `decompression` of requests (another body).
//! Time, load and retries are the upstream's affair, whose breaker and budgets know of all workers.

use std::convert::Infallible;
use std::error::Error;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tower::{Layer, Service, ServiceExt as _};

use super::Next;
use crate::exchange::body::BodyError;
use crate::exchange::{Exchange, Payload, ProxyError};

/// The way to an endpoint, for one request.
#[derive(Debug)]
pub(super) struct Rest {
    exchange: Rc<dyn Exchange>,
    next: Option<Next>,
}

impl Service<Request<Incoming>> for Rest {
    type Response = Response<Payload>;
    type Error = Infallible;
    type Future = LocalBoxFuture<'static, Result<Response<Payload>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match self.next.take() {
            Some(next) => async move { Ok(next.run(request).await) }.boxed_local(),
            None => {
                let response = self.exchange.refuse(ProxyError::Unresolved);
                std::future::ready(Ok(response)).boxed_local()
            }
        }
    }
}

/// Takes a request through a layer, and on.
pub(super) async fn through<L, S, B>(layer: &L, request: Request<Incoming>, next: Next) -> Response<Payload>
where
    L: Layer<Rest, Service = S>,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let rest = Rest { exchange: Rc::clone(next.exchange()), next: Some(next) };
    let Ok(response) = layer.layer(rest).oneshot(request).await;
    response.map(|body| {
        let body = body.map_err(|error| BodyError::within(error.into()));
        if body.is_end_stream() { Payload::default() } else { Payload::stream(body) }
    })
}
