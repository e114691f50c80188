//! Defines the middleware that asks what requests must be like.

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use super::{Middleware, Next};
use crate::exchange::{Exchange, Identity, Payload, ProxyError, Verdict};
use crate::spec::condition::all_hold;
use crate::spec::matching::TooLong;
use crate::spec::middleware::access::{self, Rule};

/// Lets requests pass for which one of its rules holds.
#[derive(Debug)]
pub(super) struct Require(access::Require);

impl Require {
    pub(super) fn new(spec: &access::Require) -> Self {
        Self(spec.clone())
    }
}

#[async_trait(?Send)]
impl Middleware for Require {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = next.exchange();
        let identity = exchange.identity();
        let mut too_long = None;
        for rule in &self.0 {
            match holds(rule, &request, &identity, &**exchange) {
                Ok(true) => return Ok(next.run(request).await),
                Ok(false) => {}
                Err(part) => too_long = Some(part),
            }
        }
        let is_nobody = identity.consumer.is_none() && identity.claims.is_empty();
        let would_help = identity.was_asked && self.0.iter().any(Rule::asks_who);
        exchange.judged(Verdict { by: "require", refused: Some("no rule holds") });
        if let Some(part) = too_long {
            return Err(part.into());
        }
        Err(if is_nobody && would_help { ProxyError::Unauthenticated } else { ProxyError::Denied })
    }
}

fn holds<B>(rule: &Rule, request: &Request<B>, identity: &Identity, exchange: &dyn Exchange) -> Result<bool, TooLong> {
    let consumer = identity.consumer.as_ref();
    let path = request.uri().path();
    let others =
        any_or_none(&rule.consumers, |name| consumer.is_some_and(|consumer| name == "*" || **name == *consumer.name))
            && any_or_none(&rule.groups, |group| consumer.is_some_and(|consumer| consumer.groups.contains(group)))
            && rule.scopes.iter().all(|scope| has_scope(&identity.claims, scope))
            && rule
                .claims
                .iter()
                .all(|(name, value)| identity.claims.get(name).is_some_and(|claim| says(claim, value)))
            && any_or_none(&rule.methods, |method| method == request.method())
            && any_or_none(&rule.paths, |prefix| is_below(path, prefix))
            && (rule.ips.is_empty() || exchange.client().is_in(&rule.ips));
    if others { all_hold(&rule.when, request.headers(), request.uri().query()) } else { Ok(false) }
}

/// Whether something holds of one of a list, which asks nothing when it is empty.
fn any_or_none<T>(list: &[T], holds: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(holds)
}

/// By whole segments.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a claim is a value, or a list that has it.
fn says(claim: &Value, wanted: &str) -> bool {
    match claim {
        Value::String(text) => text == wanted,
        Value::Array(list) => list.iter().any(|one| says(one, wanted)),
        Value::Null | Value::Object(_) => false,
        Value::Bool(flag) => wanted.parse() == Ok(*flag),
        Value::Number(number) => wanted.parse().is_ok_and(|wanted: serde_json::Number| wanted == *number),
    }
}

/// `scope` is a text of words (RFC 8693, 4.2); `scp`, in its place, is that or a list.
fn has_scope(claims: &Map<String, Value>, wanted: &str) -> bool {
    ["scope", "scp"].into_iter().filter_map(|name| claims.get(name)).any(|claim| match claim {
        Value::String(text) => text.split_ascii_whitespace().any(|word| word == wanted),
        other => says(other, wanted),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_and_scopes_say_what_they_say() {
        for (claim, wanted, says_it) in [
            (json!("a"), "a", true),
            (json!("ab"), "a", false),
            (json!(["b", "a"]), "a", true),
            (json!(true), "true", true),
            (json!(7), "7", true),
            (json!({ "a": 1 }), "a", false),
            (json!(null), "", false),
        ] {
            assert_eq!(says(&claim, wanted), says_it, "{claim} {wanted}");
        }
        let claims = |value: Value| value.as_object().expect("claims").clone();
        for (value, has) in [
            (json!({ "scope": "read write" }), true),
            (json!({ "scope": "write-all" }), false),
            (json!({ "scp": ["write"] }), true),
            (json!({ "scp": "write" }), true),
            (json!({}), false),
        ] {
            assert_eq!(has_scope(&claims(value.clone()), "write"), has, "{value}");
        }
        assert!(is_below("/a/b", "/a") && is_below("/a", "/a") && is_below("/a", "") && !is_below("/ab", "/a"));
    }
}
