//! Writes middlewares, without what is secret of them.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{conditions, duration_text};
use crate::spec::breaker::Canned;
use crate::spec::consumer::PasswordHash;
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::middleware::access::{ApiKey, Basic, KeyPlace, Rule};
use crate::spec::middleware::cors::{Cors, OriginMatch};
use crate::spec::middleware::jwt::{Jwt, JwtKeys};
use crate::spec::middleware::limit::{RateLimit, Scope};
use crate::spec::middleware::template::Template;
use crate::spec::middleware::transform::{
    ErrorPages, Fault, HeaderEdits, Maintenance, Page, PathRewrite, Redirection, Respond, Rewrite, SECURITY_HEADERS,
    SecurityHeaders, Statuses,
};
use crate::spec::secret::{MASK, is_credential, masked_path, masked_url};

/// A middleware.
pub fn middleware(spec: &MiddlewareSpec) -> Value {
    let settings = match spec {
        MiddlewareSpec::StripPrefix(prefix) => prefix.as_str().into(),
        MiddlewareSpec::AddPrefix(prefix) => prefix.as_str().into(),
        MiddlewareSpec::Rewrite(spec) => rewrite(spec),
        MiddlewareSpec::Headers(spec) => table([
            ("request", some(!is_empty(&spec.request), || edits(&spec.request))),
            ("response", some(!is_empty(&spec.response), || edits(&spec.response))),
        ]),
        MiddlewareSpec::Redirect(spec) => redirect(spec),
        MiddlewareSpec::Respond(spec) => respond(spec),
        MiddlewareSpec::Maintenance(spec) => maintenance(spec),
        MiddlewareSpec::ErrorPages(spec) => error_pages(spec),
        MiddlewareSpec::SecurityHeaders(spec) => security_headers(spec),
        MiddlewareSpec::Cors(spec) => cors(spec),
        MiddlewareSpec::Compression(spec) => json!({
            "encodings": spec.encodings.iter().map(|encoding| encoding.as_str()).collect::<Vec<_>>(),
            "types": spec.types,
            "min_size": format!("{}B", spec.min_size),
        }),
        MiddlewareSpec::Ip(spec) => table([
            ("allow", spec.allow.as_ref().map(|list| texts(list))),
            ("deny", some(!spec.deny.is_empty(), || texts(&spec.deny))),
        ]),
        MiddlewareSpec::ApiKey(spec) => api_key(spec),
        MiddlewareSpec::ClientCertificate(spec) => table([
            ("consumer", spec.consumer.map(|part| part.as_str().into())),
            ("optional", Some(spec.optional.into())),
            ("groups", some(!spec.groups.is_empty(), || spec.groups.as_slice().into())),
        ]),
        MiddlewareSpec::Basic(spec) => basic(spec),
        MiddlewareSpec::Require(rules) => rules.iter().map(rule).collect(),
        MiddlewareSpec::RateLimit(spec) => rate_limit(spec),
        MiddlewareSpec::Concurrency(spec) => json!({ "limit": spec.limit, "key": texts(&spec.key) }),
        MiddlewareSpec::BodyLimit(limit) => format!("{limit}B").into(),
        MiddlewareSpec::Jwt(spec) => jwt(spec),
        MiddlewareSpec::ForwardAuth(spec) => table([
            ("upstream", Some(spec.upstream.as_str().into())),
            ("path", Some(masked_path(spec.path.as_str()).into())),
            ("timeout", Some(duration_text(spec.timeout).into())),
            ("request_headers", Some(texts(&spec.request_headers))),
            ("response_headers", Some(texts(&spec.response_headers))),
            ("consumer", spec.consumer.as_ref().map(|name| name.as_str().into())),
            ("cache", spec.cache.map(|time| duration_text(time).into())),
        ]),
        MiddlewareSpec::Fault(spec) => fault(spec),
    };
    json!({ spec.kind(): settings })
}

fn rate_limit(spec: &RateLimit) -> Value {
    let (scope, without) = match spec.scope {
        Scope::Gateway => ("gateway", None),
        Scope::Fleet { without } => ("fleet", Some(without.as_str().into())),
    };
    table([
        ("rate", Some(spec.rate.to_string().into())),
        ("burst", Some(spec.burst.into())),
        ("key", Some(texts(&spec.key))),
        ("headers", Some(spec.headers.into())),
        ("max_keys", Some(spec.max_keys.into())),
        ("scope", Some(scope.into())),
        ("without_redis", without),
    ])
}

/// A table of those values that there are.
fn table<const N: usize>(entries: [(&str, Option<Value>); N]) -> Value {
    let there = entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(there.collect())
}

fn some(there: bool, value: impl FnOnce() -> Value) -> Option<Value> {
    there.then(value)
}

/// The value of a header that is set.
fn shown(name: &HeaderName, value: &HeaderValue) -> Value {
    if is_credential(name) { MASK.into() } else { text(value) }
}

fn text(value: &HeaderValue) -> Value {
    String::from_utf8_lossy(value.as_bytes()).into()
}

fn is_empty(edits: &HeaderEdits) -> bool {
    edits.set.is_empty() && edits.add.is_empty() && edits.remove.is_empty()
}

fn edits(edits: &HeaderEdits) -> Value {
    let values = |list: &[(HeaderName, Template)]| -> Map<String, Value> {
        let shown = |name: &HeaderName, text: &str| if is_credential(name) { MASK.into() } else { text.into() };
        list.iter().map(|(name, template)| (name.to_string(), shown(name, template.source()))).collect()
    };
    let names = || edits.remove.iter().map(HeaderName::as_str).collect();
    table([
        ("set", some(!edits.set.is_empty(), || values(&edits.set).into())),
        ("add", some(!edits.add.is_empty(), || values(&edits.add).into())),
        ("remove", some(!edits.remove.is_empty(), names)),
    ])
}

fn rewrite(spec: &Rewrite) -> Value {
    table([("path", spec.path.as_ref().map(path)), ("host", spec.host.as_ref().map(text))])
}

fn path(rewrite: &PathRewrite) -> Value {
    match rewrite {
        PathRewrite::Full(path) => path.as_str().into(),
        PathRewrite::Prefix(prefix) if prefix.is_empty() => json!({ "prefix": "/" }),
        PathRewrite::Prefix(prefix) => json!({ "prefix": prefix }),
        PathRewrite::Regex(by) => json!({ "regex": by.source(), "to": by.replacement() }),
    }
}

fn redirect(spec: &Redirection) -> Value {
    table([
        ("scheme", spec.scheme.as_ref().map(|scheme| scheme.as_str().into())),
        ("host", spec.host.as_deref().map(Value::from)),
        ("port", spec.port.map(Value::from)),
        ("path", spec.path.as_ref().map(path)),
        ("query", spec.query.as_deref().map(Value::from)),
        ("status", Some(spec.status.as_u16().into())),
    ])
}

fn canned(answer: &Canned) -> [(&'static str, Option<Value>); 3] {
    [
        ("status", Some(answer.status.as_u16().into())),
        ("content_type", Some(text(&answer.content_type))),
        ("body", Some(answer.body.as_str().into())),
    ]
}

fn respond(spec: &Respond) -> Value {
    let [status, content_type, body] = canned(&spec.answer);
    let headers = || -> Map<String, Value> {
        spec.headers.iter().map(|(name, value)| (name.to_string(), shown(name, value))).collect()
    };
    table([status, content_type, body, ("headers", some(!spec.headers.is_empty(), || headers().into()))])
}

fn maintenance(spec: &Maintenance) -> Value {
    let page = spec.page.as_ref();
    let networks = || spec.allow.iter().map(ToString::to_string).collect();
    table([
        ("retry_after", Some(duration_text(spec.retry_after).into())),
        ("content_type", page.map(|page| text(&page.content_type))),
        ("body", page.map(|page| page.body.source().into())),
        ("allow", some(!spec.allow.is_empty(), networks)),
    ])
}

fn error_pages(spec: &ErrorPages) -> Value {
    let page = |(statuses, page): &(Statuses, Page)| {
        let statuses = match statuses {
            Statuses::One(status) => status.to_string(),
            Statuses::Hundred(digit) => format!("{digit}xx"),
        };
        (statuses, json!({ "content_type": text(&page.content_type), "body": page.body.source() }))
    };
    json!({ "pages": spec.pages.iter().map(page).collect::<Map<_, _>>(), "services": spec.services })
}

fn security_headers(spec: &SecurityHeaders) -> Value {
    let mut map = Map::new();
    if let Some(hsts) = spec.hsts {
        let (below, preload) = (hsts.include_subdomains, hsts.preload);
        let hsts = json!({ "max_age": duration_text(hsts.max_age), "include_subdomains": below, "preload": preload });
        map.insert("hsts".to_owned(), hsts);
    }
    for (key, name, default) in SECURITY_HEADERS {
        match spec.headers.iter().find(|(other, _)| *other == name) {
            Some((_, value)) => map.insert(key.to_owned(), text(value)),
            None if default.is_some() => map.insert(key.to_owned(), "".into()),
            None => None,
        };
    }
    map.insert("override".to_owned(), spec.overrides.into());
    map.into()
}

fn cors(spec: &Cors) -> Value {
    fn all_or<T>(list: &Option<Vec<T>>, text: impl Fn(&T) -> String) -> Option<Value> {
        Some(list.as_ref().map_or_else(|| json!(["*"]), |list| list.iter().map(text).collect()))
    }
    table([
        ("origins", all_or(&spec.origins, OriginMatch::text)),
        ("methods", all_or(&spec.methods, ToString::to_string)),
        ("headers", all_or(&spec.headers, ToString::to_string)),
        ("expose", all_or(&spec.expose, ToString::to_string)),
        ("credentials", Some(spec.credentials.into())),
        ("max_age", spec.max_age.map(|age| duration_text(age).into())),
    ])
}

fn texts<T: ToString>(list: &[T]) -> Value {
    list.iter().map(ToString::to_string).collect()
}

fn api_key(spec: &ApiKey) -> Value {
    let (key, name) = match &spec.from {
        KeyPlace::Header(name) => ("header", name.as_str()),
        KeyPlace::Query(name) => ("query", name.as_str()),
        KeyPlace::Cookie(name) => ("cookie", name.as_str()),
    };
    table([
        (key, Some(name.into())),
        ("forward", Some(spec.forward.into())),
        ("optional", Some(spec.optional.into())),
        ("groups", some(!spec.groups.is_empty(), || texts(&spec.groups))),
    ])
}

/// Of users their names alone.
fn basic(spec: &Basic) -> Value {
    let names = |users: &Vec<(String, PasswordHash)>| users.iter().map(|(name, _)| name.as_str()).collect();
    table([
        ("realm", Some(spec.realm.as_str().into())),
        ("users", spec.users.as_ref().map(names)),
        ("forward", Some(spec.forward.into())),
        ("optional", Some(spec.optional.into())),
        ("groups", some(!spec.groups.is_empty(), || texts(&spec.groups))),
    ])
}

/// Of keys and secrets nothing but how many there are.
fn jwt(spec: &Jwt) -> Value {
    let (key, keys) = match &spec.keys {
        JwtKeys::Url { url, .. } => ("jwks_url", masked_url(url).into()),
        JwtKeys::Pem(keys) => ("keys", keys.len().into()),
        JwtKeys::Set(_) => ("jwks", "...".into()),
        JwtKeys::Secret(_) => ("secret", "...".into()),
    };
    let refresh = match &spec.keys {
        JwtKeys::Url { refresh, .. } => Some(duration_text(*refresh).into()),
        JwtKeys::Pem(_) | JwtKeys::Set(_) | JwtKeys::Secret(_) => None,
    };
    let (place, name) = match &spec.from {
        KeyPlace::Header(name) => ("header", name.as_str()),
        KeyPlace::Query(name) => ("query", name.as_str()),
        KeyPlace::Cookie(name) => ("cookie", name.as_str()),
    };
    let claims =
        || spec.claims.iter().map(|(claim, name)| (claim.clone(), name.as_str().into())).collect::<Map<_, _>>();
    table([
        ("issuers", Some(texts(&spec.issuers))),
        ("audience", Some(texts(&spec.audience))),
        (key, Some(keys)),
        ("refresh", refresh),
        ("algorithms", Some(spec.algorithms.iter().map(|algorithm| algorithm.as_str()).collect())),
        ("leeway", Some(duration_text(spec.leeway).into())),
        (place, Some(name.into())),
        ("claims", some(!spec.claims.is_empty(), || claims().into())),
        ("consumer", Some(spec.consumer.as_str().into())),
        ("forward", Some(spec.forward.into())),
        ("optional", Some(spec.optional.into())),
        ("groups", some(!spec.groups.is_empty(), || texts(&spec.groups))),
    ])
}

fn rule(rule: &Rule) -> Value {
    let path = |path: &String| if path.is_empty() { "/".to_owned() } else { path.clone() };
    let claims =
        || rule.claims.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect::<Map<_, _>>();
    table([
        ("consumers", some(!rule.consumers.is_empty(), || texts(&rule.consumers))),
        ("groups", some(!rule.groups.is_empty(), || texts(&rule.groups))),
        ("scopes", some(!rule.scopes.is_empty(), || texts(&rule.scopes))),
        ("claims", some(!rule.claims.is_empty(), || claims().into())),
        ("methods", some(!rule.methods.is_empty(), || texts(&rule.methods))),
        ("paths", some(!rule.paths.is_empty(), || rule.paths.iter().map(path).collect())),
        ("ips", some(!rule.ips.is_empty(), || texts(&rule.ips))),
        ("when", some(!rule.when.is_empty(), || conditions(&rule.when).into())),
    ])
}

fn fault(spec: &Fault) -> Value {
    let delay = spec.delay.map(|(time, share)| json!({ "time": duration_text(time), "percent": share.text() }));
    let abort = spec.abort.map(|(status, share)| json!({ "status": status.as_u16(), "percent": share.text() }));
    let when = || conditions(&spec.when).into();
    table([("delay", delay), ("abort", abort), ("when", some(!spec.when.is_empty(), when))])
}
