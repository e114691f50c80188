//! Defines how the balancing of an upstream is written, and what it resolves to.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::settings::Secret;
use crate::spec::upstream::{Balance, Hash, HashKey, Priorities, Session};

use super::condition::parse_header_name;
use super::route::parse_cookie_name;
use super::scalar::RawDuration;
use super::scope::Scope;

/// How one endpoint is picked.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Balance")]
pub enum RawBalance {
    /// In turn, by weight.
    RoundRobin,
    /// The fewest requests in flight for its weight.
    LeastRequests,
    /// Of two drawn by weight, the one with the lower latency times requests in flight: peak EWMA.
    P2cEwma,
    /// Drawn by weight.
    Random,
    /// The endpoint that the request's `hash` leads to, on a ring.
    RingHash,
    /// The endpoint that the request's `hash` leads to, in a table: more even than a ring, a few more keys move.
    Maglev,
}

impl RawBalance {
    pub(super) fn resolve(self) -> Balance {
        match self {
            Self::RoundRobin => Balance::RoundRobin,
            Self::LeastRequests => Balance::LeastRequests,
            Self::P2cEwma => Balance::P2cEwma,
            Self::Random => Balance::Random,
            Self::RingHash => Balance::RingHash,
            Self::Maglev => Balance::Maglev,
        }
    }
}

/// What `ring_hash` and `maglev` lead a request by: exactly one of `header`, `cookie`, `path` and `client_ip`. Requests
/// without it are drawn by weight.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Hash", deny_unknown_fields)]
pub struct RawHash {
    /// The value of this header.
    header: Option<String>,
    /// The value of this cookie.
    cookie: Option<String>,
    /// `true`: the path, without the query.
    path: Option<bool>,
    /// `true`: the client's address.
    client_ip: Option<bool>,
    /// Most requests in flight of an endpoint, in percent of its share of all: who comes beyond goes to the next one.
    /// 101 to 10000, or 0 for no bound; default 125.
    #[schemars(range(min = 0, max = 10_000))]
    balance_factor: Option<i64>,
}

/// Percent; "Consistent Hashing with Bounded Loads" (Mirrokni et al., 2018) calls 25 % above the mean a good trade.
const BALANCE_FACTOR: u16 = 125;

/// The hash of an upstream: there where the balancer needs it, and nowhere else.
pub(super) fn resolve_hash(raw: Option<RawHash>, balance: Balance, scope: &Scope<'_>) -> Option<Hash> {
    match (raw, balance.hashes()) {
        (Some(raw), true) => raw.resolve(&scope.key("hash")),
        (None, false) => None,
        (None, true) => {
            let balance = balance.as_str();
            // A `hash` of the wrong type is reported as that.
            if !scope.has("hash") {
                scope.key("balance").problem(format!(
                    "`{balance}` needs to know what to hash: add `hash = {{ header = \"x-user-id\" }}`, or `cookie`, \
                     `path = true` or `client_ip = true`"
                ));
            }
            None
        }
        (Some(_), false) => {
            scope.key("hash").problem(format!(
                "only `ring_hash` and `maglev` hash, and `balance` is `{}`: change it, or remove `hash`",
                balance.as_str()
            ));
            None
        }
    }
}

impl RawHash {
    fn resolve(self, scope: &Scope<'_>) -> Option<Hash> {
        const ONE: &str = "give one of `header`, `cookie`, `path = true` and `client_ip = true`";
        for (key, value) in [("path", self.path), ("client_ip", self.client_ip)] {
            if value == Some(false) {
                scope.key(key).problem("only `true` means something");
                return None;
            }
        }
        let key = match (self.header, self.cookie, self.path, self.client_ip) {
            (Some(header), None, None, None) => {
                scope.key("header").check(parse_header_name(&header)).map(HashKey::Header)
            }
            (None, Some(cookie), None, None) => {
                scope.key("cookie").check(parse_cookie_name(cookie)).map(HashKey::Cookie)
            }
            (None, None, Some(_), None) => Some(HashKey::Path),
            (None, None, None, Some(_)) => Some(HashKey::ClientIp),
            (None, None, None, None) => {
                scope.missing(ONE);
                None
            }
            _ => {
                scope.problem(format!("{ONE}: they exclude each other"));
                None
            }
        };
        let factor_scope = scope.key("balance_factor");
        let factor = factor_scope.number(self.balance_factor, BALANCE_FACTOR, 0..=10_000);
        if (1..=100).contains(&factor) {
            factor_scope.problem("must be above 100, or not even a fair share fits; 0 for no bound");
        }
        Some(Hash { key: key?, balance_factor: (factor > 0).then_some(factor) })
    }
}

/// Keeps a client at its endpoint while that is usable.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Session", deny_unknown_fields)]
pub struct RawSession {
    /// The cookie that tells the endpoint, by a digest of its address. Clients get it with their first answer, and again
    /// when they were moved. Another one than the `sticky` of a route.
    cookie: Option<String>,
    /// Keys that digest, so that no client finds the address by trying all there are; 16 bytes at least, and the same at
    /// every gateway. Another one moves every client once.
    secret: Option<String>,
}

/// What nobody finds by trying.
const SHORTEST_SECRET: usize = 16;

impl RawSession {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Session> {
        let Some(cookie) = self.cookie else {
            scope.missing("`cookie` is missing: the name of the cookie that tells a client's endpoint");
            return None;
        };
        if self.secret.as_ref().is_some_and(|secret| secret.len() < SHORTEST_SECRET) {
            scope.key("secret").problem(format!("is too short: it takes {SHORTEST_SECRET} bytes at least"));
        }
        let cookie = scope.key("cookie").check(parse_cookie_name(cookie))?;
        Some(Session { cookie, secret: self.secret.map(Secret::new) })
    }
}

/// The slow start of an upstream, where its balancer has one.
pub(super) fn resolve_slow_start(raw: Option<RawDuration>, balance: Balance, scope: &Scope<'_>) -> Option<Duration> {
    let RawDuration(window) = raw?;
    if balance.hashes() {
        scope.key("slow_start").problem(format!(
            "`{}` has none: keys would move all the while; remove it, or choose another `balance`",
            balance.as_str()
        ));
        return None;
    }
    Some(window)
}

/// More levels than that are a mistake.
const MOST_LEVELS: usize = 16;

/// Which endpoints of an upstream go first.
pub(super) fn resolve_priorities(
    levels: Option<Vec<BTreeMap<String, String>>>,
    nearest: Option<Vec<String>>,
    scope: &Scope<'_>,
) -> Priorities {
    let check = |scope: &Scope<'_>, count: usize, empty: Option<usize>| {
        if !(1..=MOST_LEVELS).contains(&count) {
            scope.problem(format!("give 1 to {MOST_LEVELS} of them, or remove the key"));
        }
        if let Some(index) = empty {
            scope.index(index).problem("needs at least one label, such as `zone`");
        }
    };
    match (levels, nearest) {
        (None, None) => Priorities::None,
        (Some(levels), None) => {
            check(&scope.key("priorities"), levels.len(), levels.iter().position(BTreeMap::is_empty));
            Priorities::Levels(levels)
        }
        (None, Some(names)) => {
            check(&scope.key("nearest"), names.len(), names.iter().position(String::is_empty));
            Priorities::Nearest(names)
        }
        (Some(_), Some(_)) => {
            scope.key("nearest").problem("`priorities` and `nearest` exclude each other");
            Priorities::None
        }
    }
}
