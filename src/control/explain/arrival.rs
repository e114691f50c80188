//! A question's request as it arrives: who sends it, and without the headers that the gateway does not believe. The same
//! functions do it for requests that are served.

use http::{HeaderMap, HeaderName, Request};

use super::answer::Unless;
use super::question::Question;
use super::rehearsal::copy;
use crate::exchange::forwarded::{self, trusts};
use crate::exchange::protected::{self, Believed, Standing};
use crate::exchange::{ClientAddress, hop};
use crate::spec::settings::Listener;

/// A request on arrival.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) request: Request<()>,
    /// `None`: the question does not say who connects.
    pub(super) client: Option<ClientAddress>,
    /// Whether the client speaks TLS, with the gateway or with a trusted proxy before it.
    pub(super) is_secure: bool,
    /// The headers that were removed.
    pub(super) removed: Vec<String>,
    /// What makes it another request, if a trusted proxy sends it.
    pub(super) unless: Option<Unless>,
}

impl Arrival {
    pub(super) fn new(question: &Question, listener: &Listener) -> Self {
        let proxies = &listener.trusted_proxies;
        let is_trusted = question.peer.is_some_and(|peer| trusts(proxies, peer));
        // Else nobody in front speaks TLS for the gateway.
        let may_be_proxied = !proxies.is_empty() && (question.peer.is_none() || is_trusted);
        let is_secure = listener.tls.is_some() || question.is_secure && may_be_proxied;
        let (client, is_secure) = match question.peer {
            Some(proxy) if is_trusted => {
                let sender = forwarded::sender(question.request.headers(), proxy, proxies, is_secure);
                (Some(sender.client), sender.is_secure)
            }
            peer => (peer.map(ClientAddress::Known), is_secure),
        };
        let mut request = copy(&question.request);
        let standing =
            Standing { is_trusted, shows_certificate: listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some()) };
        protected::settle_claims(request.headers_mut(), standing);
        protected::settle_request_id(request.headers_mut());
        let removed = removed(question.request.headers(), request.headers());
        let unless = match (question.peer, proxies.is_empty()) {
            (None, false) => proxied(&removed),
            (None, true) | (Some(_), _) => None,
        };
        Self { request, client, is_secure, removed, unless }
    }
}

fn removed(before: &HeaderMap, after: &HeaderMap) -> Vec<String> {
    let mut removed: Vec<String> =
        before.keys().filter(|name| !after.contains_key(*name)).map(HeaderName::to_string).collect();
    removed.sort_unstable();
    removed
}

fn proxied(removed: &[String]) -> Option<Unless> {
    let is_of_proxies = |name: &&String| {
        let name = HeaderName::from_bytes(name.as_bytes());
        name.is_ok_and(|name| protected::believed(&name) == Some(Believed::OfProxies))
    };
    let claims: Vec<String> = removed.iter().filter(is_of_proxies).map(|name| format!("`{name}`")).collect();
    if claims.is_empty() {
        return None;
    }
    let reason = format!("{} would count then: give the proxy's address by --client", claims.join(", "));
    Some(Unless { who: Unless::PROXY.to_owned(), reason })
}

/// A request as middlewares get it: without what `Connection` names away.
pub(super) fn settled(request: &Request<()>) -> Request<()> {
    let mut request = copy(request);
    hop::settle_nominated(request.headers_mut());
    request
}
