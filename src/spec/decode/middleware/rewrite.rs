//! Defines how other paths and hosts are written, for services and for redirects.

use std::fmt;

use http::uri::Scheme;
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::spec::decode::condition::{parse_host, parse_path, parse_prefix};
use crate::spec::decode::reader::TEXT_OR_TABLE;
use crate::spec::decode::scope::Scope;
use crate::spec::matching::{HostMatch, Substitution};
use crate::spec::middleware::transform::{PathRewrite, Redirection, Rewrite};

/// Another path and host for services.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Rewrite", deny_unknown_fields)]
pub(super) struct RawRewrite {
    /// The path.
    path: Option<RawPathRewrite>,
    /// The `Host`, perhaps with a port. An upstream's own `host` goes before it.
    host: Option<String>,
}

/// Sends clients elsewhere; what is not said stays as the request has it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Redirect", deny_unknown_fields)]
pub(super) struct RawRedirect {
    /// `http` or `https`.
    scheme: Option<String>,
    /// The host, without port.
    host: Option<String>,
    /// The port; without it that of the scheme, where scheme or host are others.
    #[schemars(range(min = 1, max = 65535))]
    port: Option<i64>,
    /// The path.
    path: Option<RawPathRewrite>,
    /// The query, without question mark; empty for none.
    query: Option<String>,
    /// 301, 302, 303, 307 or 308; default 302.
    #[schemars(range(min = 301, max = 308))]
    status: Option<i64>,
}

/// A path: this one, or `{ prefix = "/new" }` for what the route matched as a prefix, or `{ regex = "^/old/(.*)$", to =
/// "/new/$1" }` for all matches of an expression.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename = "PathRewrite", untagged)]
pub(super) enum RawPathRewrite {
    /// This path.
    Full(String),
    /// Another kind.
    Other(RawPathRewriteTable),
}

/// One of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "PathRewriteBy", deny_unknown_fields)]
pub(super) struct RawPathRewriteTable {
    /// This instead of the prefix, or the whole path, that the route matched.
    prefix: Option<String>,
    /// Every match of this expression is replaced; anchor it with `^` and `$` for the whole path.
    regex: Option<String>,
    /// What takes its place; `$1` is what the first group matched.
    to: Option<String>,
}

impl RawRewrite {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Rewrite> {
        if self.path.is_none() && self.host.is_none() {
            scope.missing("changes nothing: give `path` or `host`");
        }
        let path = self.path.and_then(|path| path.resolve(&scope.key("path")));
        let host = self.host.and_then(|host| scope.key("host").check(parse_authority(&host)));
        Some(Rewrite { path, host })
    }
}

/// The value of `Host`: a host, perhaps with a port.
fn parse_authority(text: &str) -> Result<HeaderValue, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(format!("`{text}` has no port from 1 to 65535 behind its colon"));
    }
    let host = one_host(host)?;
    let whole = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    HeaderValue::try_from(whole).map_err(|_| format!("`{text}` is not a host"))
}

fn one_host(text: &str) -> Result<String, String> {
    match parse_host(text)? {
        HostMatch::Exact(host) => Ok(host),
        HostMatch::Wildcard(_) => Err(format!("`{text}` is not one host")),
    }
}

impl RawRedirect {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Redirection> {
        if ["scheme", "host", "port", "path", "query", "status"].into_iter().all(|key| !scope.has(key)) {
            scope.missing("leads nowhere else: give `scheme`, `host`, `port`, `path`, `query` or `status`");
        }
        let scheme = |text: String| match &*text {
            "http" => Ok(Scheme::HTTP),
            "https" => Ok(Scheme::HTTPS),
            _ => Err(format!("`{text}` is neither `http` nor `https`")),
        };
        let status = self.status.unwrap_or(302);
        let known = [301, 302, 303, 307, 308].contains(&status);
        if !known {
            scope.key("status").problem(format!("{status} is none of 301, 302, 303, 307 and 308"));
        }
        let query = |text: String| {
            let fits = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if fits { Ok(text) } else { Err(format!("`{text}`: a query holds no spaces, no `#` and ASCII alone")) }
        };
        Some(Redirection {
            scheme: self.scheme.and_then(|text| scope.key("scheme").check(scheme(text))),
            host: self.host.and_then(|host| scope.key("host").check(one_host(&host))),
            port: self.port.map(|port| scope.key("port").number(Some(port), 1, 1..=65535)),
            path: self.path.and_then(|path| path.resolve(&scope.key("path"))),
            query: self.query.and_then(|text| scope.key("query").check(query(text))),
            status: u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok())?,
        })
    }
}

impl RawPathRewrite {
    fn resolve(self, scope: &Scope<'_>) -> Option<PathRewrite> {
        match self {
            Self::Full(path) => scope.check(parse_path(&path)).map(PathRewrite::Full),
            Self::Other(RawPathRewriteTable { prefix: Some(prefix), regex: None, to: None }) => {
                scope.key("prefix").check(parse_prefix(&prefix)).map(PathRewrite::Prefix)
            }
            Self::Other(RawPathRewriteTable { prefix: None, regex: Some(regex), to: Some(to) }) => {
                if to.contains(['?', '#']) {
                    let text = format!(
                        "`{to}`: a path holds no `?` and no `#`; a redirect's `query` says its query, and else the request's stays"
                    );
                    scope.key("to").problem(text);
                    return None;
                }
                scope.key("regex").check(Substitution::new(&regex, &to, scope.pattern_budget())).map(PathRewrite::Regex)
            }
            Self::Other(RawPathRewriteTable { prefix: Some(_), .. }) => {
                scope.problem("`prefix` and `regex` exclude each other");
                None
            }
            Self::Other(RawPathRewriteTable { prefix: None, .. }) => {
                scope.missing("give `prefix`, or `regex` and `to`, or a text for the whole path");
                None
            }
        }
    }
}

impl<'de> Deserialize<'de> for RawPathRewrite {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawPathRewrite;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, `{ prefix = ... }` or `{ regex = ..., to = ... }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawPathRewrite, E> {
                Ok(RawPathRewrite::Full(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawPathRewrite, A::Error> {
                RawPathRewriteTable::deserialize(MapAccessDeserializer::new(map)).map(RawPathRewrite::Other)
            }
        }

        deserializer.deserialize_struct(TEXT_OR_TABLE, &["prefix", "regex", "to"], Either)
    }
}
