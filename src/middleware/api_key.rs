//! Defines the middleware that knows consumers by a key.

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use super::hide::{without_cookie, without_parameter};
use super::who::{Door, Proof, Shown};
use super::{Middleware, Next};
use crate::exchange::{Credential, Exchange, Payload, ProxyError};
use crate::spec::condition::{cookie_values, query_values};
use crate::spec::middleware::access::{self, KeyPlace};

/// Knows consumers by a key.
#[derive(Debug)]
pub(super) struct ApiKey {
    from: KeyPlace,
    forward: bool,
    door: Door,
}

impl ApiKey {
    pub(super) fn new(spec: &access::ApiKey) -> Self {
        let challenge = Some(HeaderValue::from_static("ApiKey realm=\"fleetgate\""));
        let door = Door {
            by: "api_key",
            wrong: challenge.clone(),
            challenge,
            optional: spec.optional,
            groups: spec.groups.clone(),
        };
        Self { from: spec.from.clone(), forward: spec.forward, door }
    }

    fn shown(&self, request: &Request<Incoming>, exchange: &dyn Exchange) -> Shown {
        match &self.from {
            KeyPlace::Header(name) => {
                look_up(request.headers().get_all(name).iter().map(HeaderValue::as_bytes), exchange)
            }
            KeyPlace::Cookie(name) => look_up(cookie_values(request.headers(), name), exchange),
            KeyPlace::Query(name) => look_up(query_values(request.uri().query(), name), exchange),
        }
    }

    /// Takes the key out of a request.
    fn hide(&self, request: &mut Request<Incoming>) -> Result<(), ProxyError> {
        match &self.from {
            KeyPlace::Header(name) => drop(request.headers_mut().remove(name)),
            KeyPlace::Cookie(name) => without_cookie(request.headers_mut(), name),
            KeyPlace::Query(name) => *request.uri_mut() = without_parameter(request.uri(), name)?,
        }
        Ok(())
    }
}

#[async_trait(?Send)]
impl Middleware for ApiKey {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let shown = self.shown(&request, &**next.exchange());
        if !self.forward && matches!(shown, Shown::Proof(_)) {
            self.hide(&mut request)?;
        }
        self.door.pass(request, next, shown).await
    }
}

/// Whose key it is. Several are as good as none: nobody could say which one counts.
fn look_up<K: AsRef<[u8]>>(mut keys: impl Iterator<Item = K>, exchange: &dyn Exchange) -> Shown {
    let (Some(key), second) = (keys.next(), keys.next()) else { return Shown::Nothing };
    if second.is_some() {
        return Shown::Wrong("several keys");
    }
    // What is compared is the hash of what came, of which nobody learns the key a byte at a time.
    let hash = digest(&SHA256, key.as_ref());
    let found = hash.as_ref().try_into().ok().and_then(|hash: &[u8; 32]| exchange.consumer(Credential::Key(hash)));
    found.map_or(Shown::Wrong("unknown key"), |consumer| Shown::Proof(Proof::of(consumer)))
}
