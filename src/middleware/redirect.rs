//! Defines the middleware that sends clients elsewhere.

use async_trait::async_trait;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;

use super::rewrite::rewritten;
use super::{Middleware, Next};
use crate::exchange::{Exchange, Payload, ProxyError};
use crate::spec::middleware::transform::Redirection;

/// Sends clients elsewhere.
#[derive(Debug)]
pub(super) struct Redirect(Redirection);

impl Redirect {
    pub(super) fn new(spec: &Redirection) -> Self {
        Self(spec.clone())
    }
}

#[async_trait(?Send)]
impl Middleware for Redirect {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = next.exchange();
        let path = match &self.0.path {
            Some(rewrite) => rewritten(rewrite, request.uri().path(), &**exchange)?,
            None => None,
        };
        let came = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let location =
            location(&self.0, request.uri(), path.as_deref(), came, &**exchange).ok_or(ProxyError::BadRequest)?;
        let location = HeaderValue::try_from(location).map_err(|_| ProxyError::BadRequest)?;
        let text = format!("{}\n", self.0.status);
        let mut response =
            exchange.answer(self.0.status, HeaderValue::from_static("text/plain; charset=utf-8"), Bytes::from(text));
        response.headers_mut().insert(header::LOCATION, location);
        Ok(response)
    }
}

/// Where it leads. `came`: the `Host` of the request, whose port stays unless the scheme is another
/// (Gateway API, `HTTPRequestRedirectFilter.port`, which takes the listener's; the client's is that to the client).
///
/// A client of HTTP/1.0 that names no host gets a reference within where it is; `None` where the redirection leads away
/// from there, and nobody knows to what host.
fn location(
    redirection: &Redirection,
    uri: &Uri,
    path: Option<&str>,
    came: &str,
    exchange: &dyn Exchange,
) -> Option<String> {
    let came_by = if exchange.is_secure() { &Scheme::HTTPS } else { &Scheme::HTTP };
    let scheme = redirection.scheme.as_ref().unwrap_or(came_by);
    let host = redirection.host.as_deref().unwrap_or(exchange.host());
    let came_to = || came.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'))?.1.parse().ok();
    let port: Option<u16> = redirection.port.or_else(|| if scheme == came_by { came_to() } else { None });
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };

    let mut location = match host {
        "" if scheme == came_by && redirection.port.is_none() => String::new(),
        "" => return None,
        host => format!("{scheme}://{host}"),
    };
    if let Some(port) = port.filter(|port| !host.is_empty() && *port != default) {
        location.push_str(&format!(":{port}"));
    }
    let path = path.unwrap_or(uri.path());
    // `OPTIONS *` has none.
    location.push_str(if path.starts_with('/') { path } else { "/" });
    let query = redirection.query.as_deref().or(uri.query()).filter(|query| !query.is_empty());
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    Some(location)
}
