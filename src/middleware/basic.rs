//! Defines the middleware that knows consumers by name and password (RFC 7617).

mod desk;
mod queue;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;

use self::desk::{Credentials, Desk};
use super::who::{Door, Proof, Shown};
use super::{Middleware, Next, key};
use crate::exchange::{Consumer, Credential, Exchange, Payload, ProxyError};
use crate::spec::middleware::access;

/// Knows consumers by name and password.
#[derive(Debug)]
pub(super) struct Basic {
    /// `None`: all consumers that have a password.
    users: Option<HashMap<String, Arc<Consumer>>>,
    /// What checking the password of each user costs (bcrypt's logarithm).
    costs: Vec<u8>,
    forward: bool,
    door: Door,
    desk: Desk,
}

impl Basic {
    pub(super) fn new(spec: &access::Basic) -> Self {
        let users = spec.users.as_ref().map(|users| {
            let user = |(name, hash): &(String, crate::spec::consumer::PasswordHash)| {
                let password = Some(Arc::from(hash.as_str()));
                let consumer = Consumer { password, ..Consumer::named(name) };
                (name.clone(), Arc::new(consumer))
            };
            users.iter().map(user).collect()
        });
        let costs = spec.users.iter().flatten().map(|(_, hash)| hash.cost()).collect();
        let door = Door {
            by: "basic",
            challenge: Some(spec.challenge.clone()),
            wrong: Some(spec.challenge.clone()),
            optional: spec.optional,
            groups: spec.groups.clone(),
        };
        Self { users, costs, forward: spec.forward, door, desk: Desk::default() }
    }

    async fn shown(&self, headers: &HeaderMap, exchange: &dyn Exchange) -> Result<Shown, ProxyError> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(line), second) = (lines.next(), lines.next()) else { return Ok(Shown::Nothing) };
        if second.is_some() {
            return Ok(Shown::Wrong("several credentials"));
        }
        let Some((name, password)) = credentials(line.as_bytes()) else {
            // That of another scheme is no business of this one.
            let is_basic = line.as_bytes().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic "));
            return Ok(if is_basic { Shown::Wrong("malformed credentials") } else { Shown::Nothing });
        };
        let consumer = match &self.users {
            Some(users) => users.get(&name).map(Arc::clone),
            None => exchange.consumer(Credential::Name(&name)),
        };
        let known = consumer.as_ref().and_then(|consumer| consumer.password.clone());
        let costs = if self.users.is_some() { &self.costs } else { exchange.password_costs() };
        let network = key::network(exchange.client().accountable());
        let proves = self.desk.proves(Credentials { name, password }, known, costs, network).await?;
        Ok(match consumer {
            Some(consumer) if proves => Shown::Proof(Proof::of(consumer)),
            Some(_) => Shown::Wrong("wrong password"),
            None => Shown::Wrong("unknown user"),
        })
    }
}

#[async_trait(?Send)]
impl Middleware for Basic {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = std::rc::Rc::clone(next.exchange());
        let shown = self.shown(request.headers(), &*exchange).await?;
        if !self.forward && matches!(shown, Shown::Proof(_)) {
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        self.door.pass(request, next, shown).await
    }
}

/// Name and password.
fn credentials(line: &[u8]) -> Option<(String, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let (scheme, encoded) = line.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_a_name_and_a_password() {
        let some = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        for (text, wanted) in [
            ("a:b", some("a", "b")),
            ("a:b:c", some("a", "b:c")),
            (":", some("", "")),
            ("Jürgen:geheim", some("Jürgen", "geheim")),
            ("none", None),
        ] {
            for scheme in ["Basic", "basic", "BASIC"] {
                let line = format!("{scheme} {}", BASE64_STANDARD.encode(text));
                assert_eq!(credentials(line.as_bytes()), wanted, "{line}");
            }
        }
        for line in ["Bearer YTpi", "Basic", "Basic !", "Basic /w==", ""] {
            assert_eq!(credentials(line.as_bytes()), None, "{line}");
        }
    }
}
