//! Defines what a middleware may ask of the exchange that it is a step of.

use std::fmt::Debug;
use std::net::IpAddr;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;

use super::error::ProxyError;
use super::payload::Payload;

/// One exchange, as middlewares see it. The data plane implements it.
pub trait Exchange: Debug {
    /// Sends the request on, to an endpoint of the route. What goes wrong is the answer that the client gets. Once only: there
    /// is no route for a second request.
    fn forward(self: Rc<Self>, request: Request<Incoming>) -> LocalBoxFuture<'static, Response<Payload>>;

    /// The answer of the gateway's own to what goes wrong.
    fn refuse(&self, error: ProxyError) -> Response<Payload>;

    /// The client, which is the first one that no trusted proxy is.
    fn client(&self) -> IpAddr;
}
