//! Defines what middlewares have in common that find out who a client is.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use super::Next;
use crate::exchange::header::X_CONSUMER;
use crate::exchange::{Consumer, Exchange, Identity, Own, Payload, ProxyError, Verdict};

/// What a client showed.
#[derive(Debug)]
pub(super) enum Shown {
    /// Nothing.
    Nothing,
    /// What proves nothing, and why.
    Wrong(&'static str),
    /// What proves who it is.
    Proof(Proof),
}

/// Who a client proved to be.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// `None`: a token names nobody.
    pub(super) consumer: Option<Arc<Consumer>>,
    pub(super) claims: Arc<Map<String, Value>>,
}

impl Proof {
    pub(super) fn of(consumer: Arc<Consumer>) -> Self {
        Self { consumer: Some(consumer), claims: Arc::default() }
    }
}

/// What a client without a proof gets, and who may go on.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// The type of the middleware.
    pub(super) by: &'static str,
    /// How a request proves it; `None`: no request can, so that nobody is asked to.
    pub(super) challenge: Option<HeaderValue>,
    /// Instead, for a client whose proof is none.
    pub(super) wrong: Option<HeaderValue>,
    pub(super) optional: bool,
    pub(super) groups: Vec<String>,
}

impl Door {
    /// Lets a request go on, or not.
    ///
    /// # Errors
    /// A client that is known and may not.
    pub(super) async fn pass(
        &self,
        mut request: Request<Incoming>,
        next: Next,
        shown: Shown,
    ) -> Result<Response<Payload>, ProxyError> {
        let exchange = std::rc::Rc::clone(next.exchange());
        // Services believe it: no client says it itself.
        request.headers_mut().remove(X_CONSUMER);
        match shown {
            Shown::Proof(Proof { consumer, claims }) => {
                let groups = consumer.as_ref().map_or(&[][..], |consumer| &consumer.groups);
                if !self.groups.is_empty() && !groups.iter().any(|group| self.groups.contains(group)) {
                    exchange.identify(Identity { consumer, ..Identity::clone(&exchange.identity()) });
                    exchange.judged(self.refused("group"));
                    return Err(ProxyError::Denied);
                }
                exchange.judged(Verdict { by: self.by, refused: None });
                let before = exchange.identity();
                let consumer = consumer.or_else(|| before.consumer.clone());
                if let Some(consumer) = &consumer {
                    tell(request.headers_mut(), consumer);
                }
                let claims = if claims.is_empty() { Arc::clone(&before.claims) } else { claims };
                exchange.identify(Identity {
                    consumer,
                    claims,
                    was_asked: before.was_asked || self.challenge.is_some(),
                });
                Ok(next.run(request).await)
            }
            Shown::Nothing if self.optional => {
                let before = exchange.identity();
                if let Some(consumer) = &before.consumer {
                    tell(request.headers_mut(), consumer);
                }
                let Some(challenge) = &self.challenge else { return Ok(next.run(request).await) };
                exchange.identify(Identity { was_asked: true, ..Identity::clone(&before) });
                let mut response = next.run(request).await;
                // Of the gateway's own, which asks for a proof: one like this is.
                if response.status() == StatusCode::UNAUTHORIZED && response.extensions().get::<Own>().is_some() {
                    response.headers_mut().append(WWW_AUTHENTICATE, challenge.clone());
                }
                Ok(response)
            }
            Shown::Nothing => {
                exchange.judged(self.refused("nothing was shown"));
                Ok(refuse(&*exchange, self.challenge.as_ref()))
            }
            Shown::Wrong(why) => {
                exchange.judged(self.refused(why));
                Ok(refuse(&*exchange, self.wrong.as_ref()))
            }
        }
    }
}

impl Door {
    fn refused(&self, why: &'static str) -> Verdict {
        Verdict { by: self.by, refused: Some(why) }
    }
}

/// What a client gets without a proof (RFC 9110, 15.5.2).
fn refuse(exchange: &dyn Exchange, challenge: Option<&HeaderValue>) -> Response<Payload> {
    let Some(challenge) = challenge else { return exchange.refuse(ProxyError::Denied) };
    let mut response = exchange.refuse(ProxyError::Unauthenticated);
    response.headers_mut().append(WWW_AUTHENTICATE, challenge.clone());
    response
}

/// Tells services who a client is.
pub(super) fn tell(headers: &mut HeaderMap, consumer: &Consumer) {
    if let Some(name) = &consumer.header {
        headers.insert(X_CONSUMER, name.clone());
    }
}
