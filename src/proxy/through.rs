//! Defines the exchanges that pass middlewares: each is shared by its chain, which is a way around the forwarding to an
//! endpoint.

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response, StatusCode};
use http_body::{Frame as BodyFrame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::arrive::Arrived;
use super::carrier::Carrier;
use super::frame::{Frame, Outgoing};
use super::kept::Connection;
use super::local::Chain;
use super::own::refuse;
use super::serve::{Answer, conclude, forward_stepped, switch};
use crate::exchange::body::BodyError;
use crate::exchange::{Body, Exchange, Payload, ProxyError};
use crate::middleware::Next;

/// An exchange on its way through middlewares.
struct Through {
    client: IpAddr,
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
    frame: Box<Frame>,
    chain: Rc<Chain>,
    request: Request<Incoming>,
    arrived: Arrived,
) -> Response<Outgoing> {
    let through = Rc::new(Through {
        client: frame.client,
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
            let response = match forward_stepped(&mut frame, request, arrived).await {
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

    fn refuse(&self, error: ProxyError) -> Response<Payload> {
        let Some(mut frame) = self.frame.take() else { return status(error.status()) };
        let response = refuse(&mut frame, error);
        self.frame.set(Some(frame));
        response.map(|body| lend(body, &self.lent))
    }

    fn client(&self) -> IpAddr {
        self.client
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
