//! Defines how a middleware is written: one key, which names its type.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::middleware::MiddlewareSpec;
use crate::spec::route::StripPrefix;

use self::access::{RawApiKey, RawBasic, RawClientCertificate, RawIp, RawRule, resolve_rules};
use self::answer::{RawErrorPages, RawMaintenance, RawRespond};
use self::compression::RawCompression;
use self::cors::RawCors;
use self::fault::RawFault;
use self::forward_auth::RawForwardAuth;
use self::headers::RawHeaders;
use self::jwt::RawJwt;
use self::limit::{RawConcurrency, RawRateLimit};
use self::rewrite::{RawRedirect, RawRewrite};
use self::security::RawSecurityHeaders;
use super::condition::{parse_prefix, resolve_each};
use super::network::parse_network;
use super::scalar::RawSize;
use super::scope::Scope;

mod access;
mod answer;
mod compression;
mod cors;
mod fault;
mod forward_auth;
mod header_name;
mod headers;
mod jwt;
mod limit;
mod rewrite;
mod security;

/// A step around the exchanges of the routes that name it; one key says what it does.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Middleware", deny_unknown_fields)]
pub struct RawMiddleware {
    /// What a path that begins with it, by whole segments, loses; services are told in `X-Forwarded-Prefix`.
    strip_prefix: Option<String>,
    /// What is put before the path.
    add_prefix: Option<String>,
    /// Another path and host for services.
    rewrite: Option<RawRewrite>,
    /// Changes of headers.
    headers: Option<RawHeaders>,
    /// Sends clients elsewhere.
    redirect: Option<RawRedirect>,
    /// An answer without a service.
    respond: Option<RawRespond>,
    /// 503 for everybody but a few.
    maintenance: Option<RawMaintenance>,
    /// Bodies for errors.
    error_pages: Option<RawErrorPages>,
    /// Headers that tell browsers to be careful.
    security_headers: Option<RawSecurityHeaders>,
    /// Which pages of other origins may use a service.
    cors: Option<RawCors>,
    /// Compresses answers.
    compression: Option<RawCompression>,
    /// Whose requests are taken, by the client's address.
    ip: Option<RawIp>,
    /// A key that says which consumer a client is.
    api_key: Option<RawApiKey>,
    /// A name and a password.
    basic: Option<RawBasic>,
    /// A certificate that says which consumer a client is.
    client_certificate: Option<RawClientCertificate>,
    /// Rules, one of which must hold: 401 where nobody knows who the client is, 403 otherwise.
    require: Option<Vec<RawRule>>,
    /// So many requests in a time.
    rate_limit: Option<RawRateLimit>,
    /// So many requests in flight.
    concurrency: Option<RawConcurrency>,
    /// The largest body of a request; a listener's own limit stands. More gets 413.
    body_limit: Option<RawSize>,
    /// A token that says who a client is.
    jwt: Option<RawJwt>,
    /// Asks a service whether a request may pass.
    forward_auth: Option<RawForwardAuth>,
    /// What goes wrong on purpose.
    fault: Option<RawFault>,
}

/// The types, as they are written.
const TYPES: [&str; 22] = [
    "strip_prefix",
    "add_prefix",
    "rewrite",
    "headers",
    "redirect",
    "respond",
    "maintenance",
    "error_pages",
    "security_headers",
    "cors",
    "compression",
    "ip",
    "api_key",
    "basic",
    "client_certificate",
    "require",
    "rate_limit",
    "concurrency",
    "body_limit",
    "jwt",
    "forward_auth",
    "fault",
];

impl RawMiddleware {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<MiddlewareSpec> {
        let given: Vec<&str> = TYPES.into_iter().filter(|key| scope.has(key)).collect();
        match given[..] {
            [] => scope.missing(format!("has no type: give one of `{}`", TYPES.join("`, `"))),
            [_] => {}
            [first, ..] => scope
                .problem(format!("has several types: make a middleware of `{first}` alone, and others of the rest")),
        }
        let first = TYPES.into_iter().find(|key| scope.has(key))?;
        let scope = &scope.key(first);
        match first {
            "strip_prefix" => {
                let prefix = some_prefix(&self.strip_prefix?, scope)?;
                scope.check(StripPrefix::new(&prefix)).map(MiddlewareSpec::StripPrefix)
            }
            "add_prefix" => Some(MiddlewareSpec::AddPrefix(some_prefix(&self.add_prefix?, scope)?)),
            "rewrite" => self.rewrite?.resolve(scope).map(MiddlewareSpec::Rewrite),
            "headers" => Some(MiddlewareSpec::Headers(self.headers?.resolve(scope))),
            "redirect" => self.redirect?.resolve(scope).map(MiddlewareSpec::Redirect),
            "respond" => self.respond?.resolve(scope).map(MiddlewareSpec::Respond),
            "maintenance" => self.maintenance?.resolve(scope).map(MiddlewareSpec::Maintenance),
            "error_pages" => self.error_pages?.resolve(scope).map(MiddlewareSpec::ErrorPages),
            "security_headers" => Some(MiddlewareSpec::SecurityHeaders(self.security_headers?.resolve(scope))),
            "cors" => self.cors?.resolve(scope).map(MiddlewareSpec::Cors),
            "compression" => Some(MiddlewareSpec::Compression(self.compression?.resolve(scope))),
            "ip" => Some(MiddlewareSpec::Ip(self.ip?.resolve(scope))),
            "api_key" => self.api_key?.resolve(scope).map(MiddlewareSpec::ApiKey),
            "basic" => self.basic?.resolve(scope).map(MiddlewareSpec::Basic),
            "client_certificate" => Some(MiddlewareSpec::ClientCertificate(self.client_certificate?.resolve(scope))),
            "require" => Some(MiddlewareSpec::Require(resolve_rules(self.require?, scope))),
            "rate_limit" => self.rate_limit?.resolve(scope).map(MiddlewareSpec::RateLimit),
            "concurrency" => self.concurrency?.resolve(scope).map(MiddlewareSpec::Concurrency),
            "body_limit" => self.body_limit.map(|RawSize(limit)| MiddlewareSpec::BodyLimit(limit)),
            "jwt" => self.jwt?.resolve(scope).map(Box::new).map(MiddlewareSpec::Jwt),
            "forward_auth" => self.forward_auth?.resolve(scope).map(Box::new).map(MiddlewareSpec::ForwardAuth),
            _ => self.fault?.resolve(scope).map(MiddlewareSpec::Fault),
        }
    }
}

/// Networks, as CIDRs or addresses.
fn networks(raw: Option<Vec<String>>, scope: &Scope<'_>) -> Vec<IpNet> {
    resolve_each(raw, scope, |text, scope| scope.check(parse_network(&text)))
}

/// A prefix that is more than the slash every path begins with.
fn some_prefix(path: &str, scope: &Scope<'_>) -> Option<String> {
    let prefix = scope.check(parse_prefix(path))?;
    if prefix.is_empty() {
        scope.problem(format!("`{path}` changes no path"));
        return None;
    }
    Some(prefix)
}

#[cfg(test)]
mod tests;
