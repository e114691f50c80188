//! Defines what middlewares have in common that find out who a client is.

use std::sync::Arc;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Next;
use crate::exchange::header::X_CONSUMER;
use crate::exchange::{Consumer, Exchange, Identity, Own, Payload, ProxyError};

/// What a client showed.
#[derive(Debug)]
pub(super) enum Shown {
    /// Nothing.
    Nothing,
    /// What proves nothing.
    Wrong,
    /// What proves who it is.
    Proof(Arc<Consumer>),
}

/// What a client without a proof gets, and who may go on.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) challenge: HeaderValue,
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
            Shown::Proof(consumer) => {
                if !self.groups.is_empty() && !consumer.groups.iter().any(|group| self.groups.contains(group)) {
                    return Err(ProxyError::Denied);
                }
                tell(request.headers_mut(), &consumer.name);
                let before = exchange.identity();
                exchange.identify(Identity { consumer: Some(consumer), ..Identity::clone(&before) });
                Ok(next.run(request).await)
            }
            Shown::Nothing if self.optional => {
                let before = exchange.identity();
                if let Some(consumer) = &before.consumer {
                    tell(request.headers_mut(), &consumer.name);
                }
                exchange.identify(Identity { was_asked: true, ..Identity::clone(&before) });
                let mut response = next.run(request).await;
                // Of the gateway's own, which asks for a proof: one like this is.
                if response.status() == StatusCode::UNAUTHORIZED && response.extensions().get::<Own>().is_some() {
                    response.headers_mut().append(WWW_AUTHENTICATE, self.challenge.clone());
                }
                Ok(response)
            }
            Shown::Nothing | Shown::Wrong => Ok(self.refuse(&*exchange)),
        }
    }

    /// What a client gets whose proof is none (RFC 9110, 15.5.2).
    fn refuse(&self, exchange: &dyn Exchange) -> Response<Payload> {
        let mut response = exchange.refuse(ProxyError::Unauthenticated);
        response.headers_mut().append(WWW_AUTHENTICATE, self.challenge.clone());
        response
    }
}

/// Tells services who a client is; not of names that no header can carry.
fn tell(headers: &mut HeaderMap, name: &str) {
    if let Ok(value) = HeaderValue::from_str(name) {
        headers.insert(X_CONSUMER, value);
    }
}
