//! Defines how a route is written, and what it resolves to.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::name::{ItemRef, Name};
use crate::spec::route::{Choice, Registered, RouteSpec, Sticky, TargetSpec};

use super::condition::{RawMatch, RawWhen, parse_header_name, resolve_each};
use super::retry::RawRetry;
use super::scalar::RawDuration;
use super::scope::{Referent, Scope};

/// What to match in a request, and what to do with it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Route", deny_unknown_fields)]
pub struct RawRoute {
    /// The conditions on a request; `{ path = "/" }` takes every one.
    #[serde(rename = "match")]
    matching: Option<RawMatch>,
    /// Where requests go: the first target whose `when` holds, else one drawn by `weight`.
    targets: Option<Vec<RawTarget>>,
    /// Short for one target: an upstream's name, or `NAME@PROVIDER`.
    upstream: Option<String>,
    /// Beside `upstream`: a subset of it.
    subset: Option<String>,
    /// What keeps a client on its side of a split by weights.
    sticky: Option<RawSticky>,
    /// For the whole exchange, from the request's head to the response's end; none by default.
    timeout: Option<RawDuration>,
    /// When a request is tried again, and how.
    retry: Option<RawRetry>,
    /// Routes with a greater one are tried first; default 0.
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    priority: Option<i64>,
    /// Only on these listeners; default all.
    listeners: Option<Vec<String>>,
    /// Steps around its exchanges, by `NAME` or `NAME@PROVIDER`, the outermost first; those of the listener are around
    /// them.
    middlewares: Option<Vec<String>>,
}

/// One possible destination.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Target", deny_unknown_fields)]
pub struct RawTarget {
    /// An upstream's name, or `NAME@PROVIDER`.
    upstream: Option<String>,
    /// A subset of it.
    subset: Option<String>,
    /// Its share of the requests; any sum; default 1.
    #[schemars(range(min = 0, max = 1_000_000))]
    weight: Option<i64>,
    /// Instead of a weight: requests for which this holds.
    when: Option<RawWhen>,
    /// Steps around its exchanges, inside those of the route: by `NAME` or `NAME@PROVIDER`, the outermost first.
    middlewares: Option<Vec<String>>,
}

/// Exactly one of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Sticky", deny_unknown_fields)]
pub struct RawSticky {
    /// The value of this header.
    header: Option<String>,
    /// The value of this cookie; a client without it gets one.
    cookie: Option<String>,
    /// `true`: the client's address.
    client_ip: Option<bool>,
}

impl RawRoute {
    /// The route, as far as it is right; what is not is reported.
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<RouteSpec> {
        let match_scope = scope.key("match");
        if self.matching.is_none() {
            scope.missing("`match` is missing: `match = { path = \"/\" }` takes every request");
        }
        let matching = self.matching.unwrap_or_default().resolve(&match_scope);
        let (short, long) = (self.upstream.is_some(), self.targets.is_some());
        if self.subset.is_some() && !short {
            scope.key("subset").problem("stands beside `upstream`; with `targets` it belongs into one of them");
        }
        if short && long {
            scope.key("upstream").problem("`targets` and `upstream` exclude each other");
        }
        if !short && !long {
            scope.missing("`targets` is missing (or `upstream`, short for one target)");
        }
        let mut targets = resolve_targets(self.targets, &scope.key("targets"));
        if let upstream @ Some(_) = self.upstream {
            let target = RawTarget { upstream, subset: self.subset, weight: None, when: None, middlewares: None };
            targets.extend(target.resolve(scope));
        }
        let listeners = resolve_each(self.listeners, &scope.key("listeners"), |name, scope| {
            let name: Name = scope.check(name.parse())?;
            scope.refers(Referent::Listener(name.clone()));
            Some(name)
        });
        Some(RouteSpec {
            matching,
            priority: scope.key("priority").number(self.priority, 0, -1_000_000..=1_000_000),
            listeners,
            targets,
            sticky: self.sticky.and_then(|sticky| sticky.resolve(&scope.key("sticky"))),
            timeout: self.timeout.map(|RawDuration(timeout)| timeout),
            retry: self.retry.unwrap_or_default().resolve(&scope.key("retry")),
            middlewares: resolve_middlewares(self.middlewares, &scope.key("middlewares")),
            registered: Registered::default(),
        })
    }
}

/// A list of middlewares, each once.
pub(crate) fn resolve_middlewares(raw: Option<Vec<String>>, scope: &Scope<'_>) -> Vec<ItemRef> {
    let mut named: Vec<ItemRef> = Vec::new();
    let mut seen = HashSet::new();
    for (index, text) in raw.into_iter().flatten().enumerate() {
        let scope = scope.index(index);
        let Some(reference) = scope.check(text.parse::<ItemRef>()) else { continue };
        if !seen.insert(reference.clone()) {
            scope.problem(format!("`{reference}` is there already"));
            continue;
        }
        scope.refers(Referent::Middleware(reference.clone()));
        named.push(reference);
    }
    named
}

fn resolve_targets(raw: Option<Vec<RawTarget>>, scope: &Scope<'_>) -> Vec<TargetSpec> {
    let Some(raw) = raw else { return Vec::new() };
    if raw.is_empty() {
        scope.missing("at least one target is needed");
    }
    raw.into_iter().enumerate().filter_map(|(index, target)| target.resolve(&scope.index(index))).collect()
}

impl RawTarget {
    fn resolve(self, scope: &Scope<'_>) -> Option<TargetSpec> {
        let subset_scope = scope.key("subset");
        let subset: Option<Name> = self.subset.and_then(|subset| subset_scope.check(subset.parse()));
        let upstream_scope = scope.key("upstream");
        let upstream: Option<ItemRef> = match self.upstream {
            Some(upstream) => upstream_scope.check(upstream.parse()),
            None => {
                scope.missing("`upstream` is missing");
                None
            }
        };
        if let Some(upstream) = &upstream {
            upstream_scope.refers(Referent::Upstream(upstream.clone()));
            if let Some(subset) = &subset {
                subset_scope.refers(Referent::Subset(upstream.clone(), subset.clone()));
            }
        }
        let choice = match (self.when, self.weight) {
            (Some(_), Some(_)) => {
                scope.key("weight").problem("`when` and `weight` exclude each other: a target is taken by one of them");
                return None;
            }
            (Some(when), None) => Choice::When(when.resolve(&scope.key("when"))),
            (None, weight) => Choice::Weight(scope.key("weight").number(weight, 1, 0..=1_000_000)),
        };
        let middlewares = resolve_middlewares(self.middlewares, &scope.key("middlewares"));
        Some(TargetSpec { upstream: upstream?, subset, choice, steps: None, middlewares })
    }
}

impl RawSticky {
    fn resolve(self, scope: &Scope<'_>) -> Option<Sticky> {
        match (self.header, self.cookie, self.client_ip) {
            (Some(header), None, None) => scope.key("header").check(parse_header_name(&header)).map(Sticky::Header),
            (None, Some(cookie), None) => scope.key("cookie").check(parse_cookie_name(cookie)).map(Sticky::Cookie),
            (None, None, Some(true)) => Some(Sticky::ClientIp),
            (None, None, Some(false)) => {
                scope.key("client_ip").problem("only `true` means something; remove `sticky` to draw anew each time");
                None
            }
            (None, None, None) => {
                scope.missing("give one of `header`, `cookie` and `client_ip = true`");
                None
            }
            _ => {
                scope.problem("`header`, `cookie` and `client_ip` exclude each other");
                None
            }
        }
    }
}

/// A cookie name is a token (RFC 6265, 4.1.1), as a header name is.
pub(in crate::spec::decode) fn parse_cookie_name(text: String) -> Result<String, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(token) {
        return Err(format!("`{text}` is not a cookie name"));
    }
    Ok(text)
}
