//! Defines how the conditions on a request are written, and what they resolve to: hosts, paths, values.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderName, Method};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::spec::matching::{Conditions, HostMatch, MatchSpec, PathMatch, Pattern, ValueMatch};
use crate::spec::path::normalize;
use crate::spec::secret::{MASK, is_credential, is_credential_name};

use super::reader::TEXT_OR_TABLE;
use super::scope::Scope;

/// What a route asks of a request; all of it must hold, and what is not given asks nothing.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Match", deny_unknown_fields)]
pub struct RawMatch {
    /// Any of these hosts, without port: `api.example.com`, or `*.example.com` for one or more labels before it.
    hosts: Option<Vec<String>>,
    /// The path: a text is a prefix by whole segments; default `/`.
    path: Option<RawPath>,
    /// Any of these methods.
    methods: Option<Vec<String>>,
    /// By header name; names ignore case.
    headers: Option<BTreeMap<String, RawValue>>,
    /// By name in the query, decoded.
    query: Option<BTreeMap<String, RawValue>>,
}

/// When a target is taken, before any weight is drawn.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "When", deny_unknown_fields)]
pub struct RawWhen {
    /// By header name; names ignore case.
    headers: Option<BTreeMap<String, RawValue>>,
    /// By name in the query, decoded.
    query: Option<BTreeMap<String, RawValue>>,
    /// By cookie name.
    cookies: Option<BTreeMap<String, RawValue>>,
}

/// A path: a prefix by whole segments, or `{ exact = "/p" }`, or `{ regex = "/p/[0-9]+" }` for the whole path.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename = "Path", untagged)]
pub enum RawPath {
    /// A prefix by whole segments: `/users` and `/users/` are the same.
    Prefix(String),
    /// Another kind of condition.
    Other(RawPathTable),
}

/// One of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "PathCondition", deny_unknown_fields)]
pub struct RawPathTable {
    /// Exactly this path.
    exact: Option<String>,
    /// The whole path matches this expression.
    regex: Option<String>,
}

/// A value: a text is the exact value; `{ regex = "..." }` is found in it; `{ present = true }` is any.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename = "Value", untagged)]
pub enum RawValue {
    /// Exactly this value.
    Exact(String),
    /// Another kind of condition.
    Other(RawValueTable),
}

/// One of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ValueCondition", deny_unknown_fields)]
pub struct RawValueTable {
    /// The expression is found somewhere in the value; anchor it with `^` and `$` for the whole.
    regex: Option<String>,
    /// Whether there is such a name at all.
    present: Option<bool>,
}

impl RawMatch {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> MatchSpec {
        MatchSpec {
            hosts: resolve_each(self.hosts, &scope.key("hosts"), |text, scope| scope.check(parse_host(&text))),
            path: resolve_path(self.path, &scope.key("path")),
            methods: resolve_each(self.methods, &scope.key("methods"), |text, scope| scope.check(parse_method(&text))),
            conditions: Conditions {
                headers: resolve_headers(self.headers, &scope.key("headers")),
                query: resolve_values(self.query, is_credential_name, &scope.key("query")),
                cookies: Vec::new(),
            },
        }
    }
}

impl RawWhen {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Conditions {
        let conditions = Conditions {
            headers: resolve_headers(self.headers, &scope.key("headers")),
            query: resolve_values(self.query, is_credential_name, &scope.key("query")),
            cookies: resolve_values(self.cookies, |_| true, &scope.key("cookies")),
        };
        if conditions.is_empty() {
            scope.missing("no condition: give headers, query or cookies, or remove it");
        }
        conditions
    }
}

/// The elements of a list that are right; an empty list is a mistake, for it would match everything.
pub(super) fn resolve_each<R, T>(
    raw: Option<Vec<R>>,
    scope: &Scope<'_>,
    resolve: impl Fn(R, &Scope<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(raw) = raw else { return Vec::new() };
    if raw.is_empty() {
        scope.missing("the list is empty: remove the key to allow all");
    }
    raw.into_iter().enumerate().filter_map(|(index, element)| resolve(element, &scope.index(index))).collect()
}

pub(super) fn parse_host(text: &str) -> Result<HostMatch, String> {
    let lower = text.to_ascii_lowercase();
    let (wildcard, name) = match lower.strip_prefix("*.") {
        Some(suffix) => (true, suffix),
        None => (false, lower.as_str()),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.contains('*') {
        return Err(format!("`{text}`: `*` stands only at the front, as in `*.example.com`"));
    }
    if name.contains("://") || name.contains('/') {
        return Err(format!("`{text}`: write the host alone, without scheme and path"));
    }
    if !wildcard && let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let parsed = address.parse::<std::net::Ipv6Addr>();
        return parsed.map(|ip| HostMatch::Exact(format!("[{ip}]"))).map_err(|_| format!("`{text}` is not an address"));
    }
    if name.contains(':') {
        return Err(format!(
            "`{text}`: write the host without its port, which is ignored (an IPv6 address in brackets)"
        ));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("`{text}` is not a host name (other scripts in their `xn--` form)"));
    }
    Ok(if wildcard { HostMatch::Wildcard(name.to_owned()) } else { HostMatch::Exact(name.to_owned()) })
}

pub(super) fn parse_method(text: &str) -> Result<Method, String> {
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(text.as_bytes()) {
        // Methods are case-sensitive (RFC 9110, 9.1); `get` would never match.
        Ok(_) if upper != text => Err(format!("methods are written in capitals: `{upper}`")),
        Ok(method) => Ok(method),
        Err(_) => Err(format!("`{text}` is not a method")),
    }
}

fn resolve_path(raw: Option<RawPath>, scope: &Scope<'_>) -> PathMatch {
    let everything = || PathMatch::Prefix(String::new());
    match raw {
        None => everything(),
        Some(RawPath::Prefix(text)) => match scope.check(parse_prefix(&text)) {
            Some(prefix) => PathMatch::Prefix(prefix),
            None => everything(),
        },
        Some(RawPath::Other(RawPathTable { exact: Some(text), regex: None })) => {
            let path = scope.key("exact").check(parse_path(&text));
            path.map_or_else(everything, PathMatch::Exact)
        }
        Some(RawPath::Other(RawPathTable { exact: None, regex: Some(text) })) => {
            let pattern = scope.key("regex").check(Pattern::whole(&text, scope.pattern_budget()));
            pattern.map_or_else(everything, PathMatch::Regex)
        }
        Some(RawPath::Other(RawPathTable { exact: None, regex: None })) => {
            scope.missing("give `exact` or `regex`, or a text for a prefix");
            everything()
        }
        Some(RawPath::Other(RawPathTable { exact: Some(_), regex: Some(_) })) => {
            scope.problem("`exact` and `regex` exclude each other");
            everything()
        }
    }
}

pub(super) fn parse_prefix(text: &str) -> Result<String, String> {
    if let Some(prefix) = text.strip_suffix("/*").or_else(|| text.strip_suffix("/**")) {
        let prefix = if prefix.is_empty() { "/" } else { prefix };
        return Err(format!("`{text}`: a path is a prefix already: write `{prefix}` (or `{{ regex = ... }}`)"));
    }
    let path = parse_path(text)?;
    Ok(path.strip_suffix('/').unwrap_or(&path).to_owned())
}

pub(super) fn parse_path(text: &str) -> Result<String, String> {
    if text.contains('?') {
        return Err(format!("`{text}`: a path has no query; conditions on it go to `query`"));
    }
    if text.contains('#') {
        return Err(format!("`{text}`: a path has no fragment"));
    }
    normalize(text, false).map(|path| path.into_owned()).map_err(|error| format!("`{text}`: {error}"))
}

pub(super) fn parse_header_name(text: &str) -> Result<HeaderName, String> {
    // `*` may stand in names (RFC 9110, 5.6.2) and does in none: whoever writes one means a pattern.
    if text.contains('*') {
        return Err(format!("`{text}`: there are no patterns here: write the name of each header"));
    }
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not a header name"))
}

fn resolve_headers(raw: Option<BTreeMap<String, RawValue>>, scope: &Scope<'_>) -> Vec<(HeaderName, ValueMatch)> {
    let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
    for (name, value) in raw.unwrap_or_default() {
        let scope = scope.key(&name);
        let Some(header) = scope.check(parse_header_name(&name)) else { continue };
        if headers.iter().any(|(known, _)| *known == header) {
            scope.problem(format!("the header `{header}` has a condition already; names ignore case"));
        }
        if let Some(value) = value.resolve(is_credential(&header), &scope) {
            headers.push((header, value));
        }
    }
    headers
}

/// `is_secret`: whether the values of a name may be.
fn resolve_values(
    raw: Option<BTreeMap<String, RawValue>>,
    is_secret: impl Fn(&str) -> bool,
    scope: &Scope<'_>,
) -> Vec<(String, ValueMatch)> {
    let resolve = |(name, value): (String, RawValue)| {
        let value = value.resolve(is_secret(&name), &scope.key(&name))?;
        Some((name, value))
    };
    raw.unwrap_or_default().into_iter().filter_map(resolve).collect()
}

impl RawValue {
    fn resolve(self, is_secret: bool, scope: &Scope<'_>) -> Option<ValueMatch> {
        match self {
            Self::Exact(text) => Some(ValueMatch::Exact(text)),
            Self::Other(RawValueTable { regex: Some(text), present: None }) => {
                let shown = if is_secret { MASK } else { &text };
                let pattern = Pattern::unanchored_shown(&text, shown, scope.pattern_budget());
                scope.key("regex").check(pattern).map(ValueMatch::Regex)
            }
            Self::Other(RawValueTable { regex: None, present: Some(present) }) => Some(ValueMatch::Present(present)),
            Self::Other(RawValueTable { regex: None, present: None }) => {
                scope.missing("give `regex` or `present`, or a text for the exact value");
                None
            }
            Self::Other(RawValueTable { regex: Some(_), present: Some(_) }) => {
                scope.problem("`regex` and `present` exclude each other");
                None
            }
        }
    }
}

impl<'de> Deserialize<'de> for RawPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawPath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, `{ exact = ... }` or `{ regex = ... }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawPath, E> {
                Ok(RawPath::Prefix(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawPath, A::Error> {
                RawPathTable::deserialize(MapAccessDeserializer::new(map)).map(RawPath::Other)
            }
        }

        deserializer.deserialize_struct(TEXT_OR_TABLE, &["exact", "regex"], Either)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, `{ regex = ... }` or `{ present = true }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawValue, E> {
                Ok(RawValue::Exact(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawValue, A::Error> {
                RawValueTable::deserialize(MapAccessDeserializer::new(map)).map(RawValue::Other)
            }
        }

        deserializer.deserialize_struct(TEXT_OR_TABLE, &["regex", "present"], Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_lower_case() {
        let exact = |host: &str| Ok(HostMatch::Exact(host.to_owned()));
        let wildcard = |host: &str| Ok(HostMatch::Wildcard(host.to_owned()));
        for (text, wanted) in [
            ("api.example.com", exact("api.example.com")),
            ("API.Example.com.", exact("api.example.com")),
            ("localhost", exact("localhost")),
            ("10.0.0.1", exact("10.0.0.1")),
            ("[::1]", exact("[::1]")),
            ("*.Example.com", wildcard("example.com")),
            ("*.com", wildcard("com")),
        ] {
            assert_eq!(parse_host(text), wanted, "{text}");
        }
        for bad in [
            "", "*", "*.", "a.*.com", "*a.com", "*.*.com", "a:80", "http://a", "a/b", "a..b", "a b", "ä.de", "[x]",
            ".a", "::1",
        ] {
            assert!(parse_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_are_in_normal_form() {
        for (text, wanted) in [
            ("/", ""),
            ("/users", "/users"),
            ("/users/", "/users"),
            ("//a//./b/../%63/", "/a/c"),
            ("/a%c3%a4", "/a%C3%A4"),
            ("/aä", "/a%C3%A4"),
        ] {
            assert_eq!(parse_prefix(text).as_deref(), Ok(wanted), "{text}");
        }
        for bad in ["", "users", "/a?b", "/a#b", "/a%2Fb", "/a\\b", "/a b", "/a%", "/api/*", "/*", "http://a/b"] {
            assert!(parse_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn methods_are_capitals() {
        assert_eq!(parse_method("GET"), Ok(Method::GET));
        assert_eq!(parse_method("PROPFIND").map(|method| method.to_string()), Ok("PROPFIND".to_owned()));
        assert_eq!(parse_method("get"), Err("methods are written in capitals: `GET`".to_owned()));
        assert!(parse_method("G T").is_err());
        assert!(parse_method("").is_err());
    }
}
