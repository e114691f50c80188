//! Defines how a circuit breaker is written, and what it resolves to.

use std::time::Duration;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::breaker::{Breaker, Errors, Fallback};
use crate::spec::name::ItemRef;

use super::answer::canned;
use super::scalar::RawDuration;
use super::scope::{Referent, Scope};

/// Refuses requests at once, with 503 or as `fallback` says, instead of letting them wait for an upstream that cannot
/// serve them. Every limit is for the process.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Breaker", deny_unknown_fields)]
pub struct RawBreaker {
    /// Most requests in flight; no limit by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_requests: Option<i64>,
    /// Most requests that wait for a connection to be made; no limit by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_pending: Option<i64>,
    /// Most connections, idle ones included; no limit by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_connections: Option<i64>,
    /// It opens from this share of errors of late on, such as `50%`: tries that failed, were answered with 500 to 599,
    /// or were slow. It never does by default.
    error_ratio: Option<String>,
    /// Longer than this to a response's head is slow, and an error; nothing is by default.
    slow: Option<RawDuration>,
    /// What is of late; default 10s.
    window: Option<RawDuration>,
    /// Fewer tries than these of late say nothing; default 20.
    #[schemars(range(min = 1, max = 100_000))]
    min_requests: Option<i64>,
    /// How long everything is refused once it opened; default 10s.
    open: Option<RawDuration>,
    /// Requests that are let through then; when all of them went well it closes. Default 3.
    #[schemars(range(min = 1, max = 100))]
    probes: Option<i64>,
    /// What is done with refused requests; 503 by default.
    fallback: Option<RawFallback>,
}

/// Another upstream, or an answer.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Fallback", deny_unknown_fields)]
pub struct RawFallback {
    /// The upstream that refused requests go to: a name, or `NAME@PROVIDER`.
    upstream: Option<String>,
    /// The status of the answer; default 503.
    #[schemars(range(min = 200, max = 599))]
    status: Option<i64>,
    /// The body of the answer; default empty.
    body: Option<String>,
    /// What the body is; default `text/plain; charset=utf-8`.
    content_type: Option<String>,
}

/// The keys that say more of `error_ratio`.
const OF_ERRORS: [&str; 5] = ["slow", "window", "min_requests", "open", "probes"];

/// A tenth of a window is its resolution.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

impl RawBreaker {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Breaker {
        let most = |value: Option<i64>, key: &str| value.map(|value| limit(value, &scope.key(key)));
        Breaker {
            max_requests: most(self.max_requests, "max_requests"),
            max_pending: most(self.max_pending, "max_pending"),
            max_connections: most(self.max_connections, "max_connections"),
            fallback: self.fallback.clone().and_then(|fallback| fallback.resolve(&scope.key("fallback"))),
            errors: self.errors(scope),
        }
    }

    fn errors(self, scope: &Scope<'_>) -> Option<Errors> {
        let Some(ratio) = self.error_ratio else {
            for key in OF_ERRORS.into_iter().filter(|key| scope.has(key)) {
                scope.key(key).problem("belongs to `error_ratio`, which is not given");
            }
            return None;
        };
        let or = |raw: Option<RawDuration>| raw.map_or(Duration::from_secs(10), |RawDuration(duration)| duration);
        let window = or(self.window);
        if window < SHORTEST_WINDOW {
            scope.key("window").problem("must be at least 1s");
        }
        Some(Errors {
            ratio: scope.key("error_ratio").check(ratio.parse())?,
            slow: self.slow.map(|RawDuration(slow)| slow),
            window,
            min_requests: scope.key("min_requests").number(self.min_requests, 20, 1..=100_000),
            open: or(self.open),
            probes: scope.key("probes").number(self.probes, 3, 1..=100),
        })
    }
}

fn limit(value: i64, scope: &Scope<'_>) -> u32 {
    scope.number(Some(value), 1, 1..=1_000_000)
}

impl RawFallback {
    fn resolve(self, scope: &Scope<'_>) -> Option<Fallback> {
        let answers = ["status", "body", "content_type"].into_iter().any(|key| scope.has(key));
        let upstream_scope = scope.key("upstream");
        match self.upstream {
            Some(_) if answers => {
                scope.problem("`upstream` and an answer exclude each other");
                None
            }
            Some(upstream) => {
                let upstream: ItemRef = upstream_scope.check(upstream.parse())?;
                upstream_scope.refers(Referent::Upstream(upstream.clone()));
                Some(Fallback::Upstream(upstream))
            }
            None if !answers => {
                scope.missing("give an `upstream`, or a `status` and a `body` to answer with");
                None
            }
            None => {
                let canned = canned(self.status, self.body, self.content_type, StatusCode::SERVICE_UNAVAILABLE, scope)?;
                Some(Fallback::Answer(canned.into()))
            }
        }
    }
}
