//! Defines a route as someone asked for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use super::matching::{Conditions, MatchSpec, PathMatch};
use super::name::{ItemRef, Name};
use super::retry::Retry;

/// What to match in a request, and what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The conditions.
    pub matching: MatchSpec,
    /// Greater goes first; default 0.
    pub priority: i32,
    /// Only on these listeners; empty: on all.
    pub listeners: Vec<Name>,
    /// At least one.
    pub targets: Vec<TargetSpec>,
    /// How a client keeps its side of a split.
    pub sticky: Option<Sticky>,
    /// The whole exchange, from the request's head to the response's end; ends at an upgrade.
    pub timeout: Option<Duration>,
    /// When and how its requests are tried again.
    pub retry: Retry,
    /// The steps around its exchanges, the outermost first.
    pub middlewares: Vec<ItemRef>,
    /// What comes with a route that a registration asked for; empty for one of a document.
    pub registered: Registered,
}

impl RouteSpec {
    /// A route that answers every request 503 `NC`, in place of one whose good form is not known.
    pub fn blocked(matching: MatchSpec, priority: i32, listeners: Vec<Name>) -> Self {
        let reason = "its text is wrong, and this gateway has no good form of it";
        let registered = Registered { broken: vec![reason.to_owned()], ..Registered::default() };
        let (targets, middlewares) = (Vec::new(), Vec::new());
        let (sticky, timeout, retry) = (None, None, Retry::default());
        Self { matching, priority, listeners, targets, sticky, timeout, retry, middlewares, registered }
    }

    /// The middlewares of the route and of all its targets.
    pub fn all_middlewares(&self) -> impl Iterator<Item = &ItemRef> {
        self.middlewares.iter().chain(self.targets.iter().flat_map(|target| &target.middlewares))
    }

    /// A route that answers every request 503 `NC` that this one matches.
    pub fn blocking(&self) -> Self {
        Self::blocked(self.matching.clone(), self.priority, self.listeners.clone())
    }
}

/// What comes with a route that a registration asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// It goes behind the routes of documents, whatever their hosts and paths, but for those that cover nothing.
    pub yields: bool,
    /// For each of its hosts (once, where it has none) since when it is claimed; the smallest of equal routes goes first.
    pub since: Vec<u64>,
    /// What it asks for and cannot have: every request gets 503 `NC`.
    pub broken: Vec<String>,
    /// What people should know of it though it is served.
    pub remarks: Vec<String>,
}

impl Registered {
    /// Later than any time of a claim: from here on `since` is the age of the instances of a service whose claim is not
    /// known.
    pub const UNCLAIMED: u64 = 1 << 62;
}

/// One possible destination of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// The upstream.
    pub upstream: ItemRef,
    /// The subset of it; `None` is all of it.
    pub subset: Option<Name>,
    /// When it is taken.
    pub choice: Choice,
    /// What is done with a request that takes this target, beyond forwarding it.
    pub steps: Option<Arc<Steps>>,
    /// The steps around its exchanges, inside those of the route.
    pub middlewares: Vec<ItemRef>,
}

/// What is done with a request beyond forwarding it, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Who may come; anybody by default.
    pub access: Access,
    /// Answers instead of forwarding.
    pub redirect: Option<Redirect>,
    /// What a path that begins with it loses.
    pub strip_prefix: Option<StripPrefix>,
    /// What is put before the path.
    pub prepend: Option<String>,
    /// The `Host` that the endpoint gets.
    pub host: HostPolicy,
}

/// What a path that begins with it loses, as text; what is left begins with a slash. Endpoints are told of it in
/// `X-Forwarded-Prefix`, as fabio tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripPrefix(HeaderValue);

impl StripPrefix {
    /// Wraps a path.
    ///
    /// # Errors
    /// A text that no header can carry.
    pub fn new(path: &str) -> Result<Self, String> {
        HeaderValue::from_str(path).map(Self).map_err(|_| format!("`{path}` is not a path"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // Made of text that `from_str` took.
        self.0.to_str().unwrap_or_default()
    }

    /// As the header's value.
    pub fn as_header(&self) -> &HeaderValue {
        &self.0
    }
}

/// Whose requests are taken, by the client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody's.
    #[default]
    Anybody,
    /// Those from these networks.
    Only(Vec<IpNet>),
    /// Those from elsewhere.
    Except(Vec<IpNet>),
}

impl Access {
    /// Whether a client may come. An unknown one (`None`) is in no list that allows, and may be in any that denies.
    pub fn admits(&self, client: Option<IpAddr>) -> bool {
        let listed = |networks: &[IpNet], address| networks.iter().any(|network| network.contains(address));
        match (self, &client) {
            (Self::Anybody, _) => true,
            (Self::Only(networks), Some(client)) => listed(networks, client),
            (Self::Except(networks), Some(client)) => !listed(networks, client),
            (Self::Only(_), None) => false,
            (Self::Except(networks), None) => networks.is_empty(),
        }
    }
}

/// Which `Host` an endpoint gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostPolicy {
    /// The one that came.
    #[default]
    Kept,
    /// The endpoint's own address.
    Endpoint,
    /// This one.
    Fixed(HeaderValue),
}

impl HostPolicy {
    /// Always this one.
    ///
    /// # Errors
    /// A text that no header can carry.
    pub fn fixed(host: &str) -> Result<Self, String> {
        HeaderValue::from_str(host).map(Self::Fixed).map_err(|_| format!("`{host}` is not a host"))
    }

    /// The host of a fixed one, without its port.
    pub fn name(&self) -> Option<String> {
        let Self::Fixed(host) = self else { return None };
        let authority: http::uri::Authority = host.to_str().ok()?.parse().ok()?;
        Some(authority.host().trim_start_matches('[').trim_end_matches(']').to_owned())
    }
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 300 to 399.
    pub status: StatusCode,
    /// `scheme://host`, with `$host` for the request's `Host`; empty for a path on the same host.
    pub origin: String,
    /// The path, with `$path` for the request's; begins with a slash otherwise.
    pub path: String,
    /// The query; without one, and with `$path`, the request's.
    pub query: Option<String>,
}

impl RouteSpec {
    /// Whether it keeps routes that yield from all that it matches. A route for everything that guards nothing does not:
    /// it is what is left when nobody else asks.
    pub fn covers(&self) -> bool {
        let has_place = !self.matching.hosts.is_empty() || self.matching.path != PathMatch::Prefix(String::new());
        let has_middlewares = |target: &TargetSpec| !target.middlewares.is_empty();
        // What is broken may have had middlewares.
        let is_guarded = !self.middlewares.is_empty() || !self.registered.broken.is_empty();
        has_place || is_guarded || self.targets.iter().any(has_middlewares)
    }

    /// Since when it is claimed for its host at this position.
    pub fn since(&self, host: usize) -> u64 {
        self.registered.since.get(host).copied().unwrap_or(u64::MAX)
    }

    /// Whether that host is ordered by the age of instances, since no claim of it is known.
    pub fn is_unclaimed(&self, host: usize) -> bool {
        self.registered.since.get(host).is_some_and(|since| *since >= Registered::UNCLAIMED)
    }

    /// Whether a request that passes one passes the same as with the other: middlewares, and who may come.
    pub fn is_guarded_like(&self, other: &Self) -> bool {
        fn guards(spec: &RouteSpec) -> Vec<(&[ItemRef], &Access)> {
            let mut guards: Vec<(&[ItemRef], &Access)> = Vec::new();
            for TargetSpec { middlewares, steps, .. } in &spec.targets {
                let access = steps.as_ref().map_or(&Access::Anybody, |steps| &steps.access);
                if !guards.contains(&(middlewares, access)) {
                    guards.push((middlewares, access));
                }
            }
            guards
        }
        let (own, others) = (guards(self), guards(other));
        self.middlewares == other.middlewares
            && self.registered.broken.is_empty() == other.registered.broken.is_empty()
            && own.len() == others.len()
            && own.iter().all(|guard| others.contains(guard))
    }
}

impl TargetSpec {
    /// As metrics and logs show it: `UPSTREAM` or `UPSTREAM/SUBSET`.
    pub fn label(&self) -> Arc<str> {
        match &self.subset {
            Some(subset) => format!("{}/{subset}", self.upstream).into(),
            None => self.upstream.to_string().into(),
        }
    }
}

/// When a target is taken: by a condition or by a share, never both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first target whose conditions hold is taken, before any share.
    When(Conditions),
    /// Its share: 0 to 1,000,000.
    Weight(u32),
}

/// What identifies a client for its side of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value; a client without it gets one.
    Cookie(String),
    /// The client's address (the first untrusted one).
    ClientIp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_admitted_by_network() {
        let networks = || vec!["10.0.0.0/8".parse().expect("a network")];
        let client = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        assert!(Access::Only(networks()).admits(client("10.1.2.3")));
        assert!(!Access::Only(networks()).admits(client("11.1.2.3")));
        assert!(!Access::Except(networks()).admits(client("10.1.2.3")));
        assert!(Access::Except(networks()).admits(client("::1")) && Access::Anybody.admits(client("::1")));
        // Nobody knows where it is.
        assert!(!Access::Only(networks()).admits(None) && !Access::Except(networks()).admits(None));
        assert!(Access::Except(Vec::new()).admits(None) && Access::Anybody.admits(None));
    }
}
