//! Defines how retries and their budget are written, and what they resolve to.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::retry::{Backoff, Condition, Retry, RetryBudget};

use super::condition::{parse_method, resolve_each};
use super::reader::nearest;
use super::scalar::RawDuration;
use super::scope::Scope;

/// When a request is tried again, and how. Other endpoints of the same target come first.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Retry", deny_unknown_fields)]
pub struct RawRetry {
    /// Additional tries; default 1.
    #[schemars(range(min = 0, max = 10))]
    attempts: Option<i64>,
    /// What a request is tried again after: `connect`, `reset`, `refused-stream` (these three by default),
    /// `per-try-timeout` (by default where there is one), `gateway-error` (502, 503, 504), `5xx`, or a status such
    /// as `429`.
    on: Option<Vec<String>>,
    /// The methods of requests that may reach services twice; default the idempotent ones: GET, HEAD, OPTIONS, TRACE,
    /// PUT, DELETE. What was not sent is tried again by any method.
    methods: Option<Vec<String>>,
    /// From a request sent to its response's head, for one try; none by default.
    per_try_timeout: Option<RawDuration>,
    /// How long is waited before another try.
    backoff: Option<RawBackoff>,
}

/// A random time up to a bound that doubles with every try.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Backoff", deny_unknown_fields)]
pub struct RawBackoff {
    /// The first bound; default 25ms.
    base: Option<RawDuration>,
    /// The greatest bound; default 250ms, or `base` where that is more.
    max: Option<RawDuration>,
}

/// How many of an upstream's requests may be tried again at once, for the process.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "RetryBudget", deny_unknown_fields)]
pub struct RawRetryBudget {
    /// Of the requests in flight; default 20.
    #[schemars(range(min = 0, max = 100))]
    percent: Option<i64>,
    /// So many in any case; default 3.
    #[schemars(range(min = 0, max = 10_000))]
    min: Option<i64>,
}

impl RawRetry {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Retry {
        let default = Retry::default();
        let per_try_timeout = self.per_try_timeout.map(|RawDuration(timeout)| timeout);
        let on = match self.on {
            None if per_try_timeout.is_some() => {
                Retry::DEFAULT_ON.into_iter().chain([Condition::PerTryTimeout]).collect()
            }
            None => default.on,
            Some(on) => resolve_on(on, &scope.key("on")),
        };
        let methods = self.methods.map(|methods| {
            resolve_each(Some(methods), &scope.key("methods"), |text, scope| scope.check(parse_method(&text)))
        });
        Retry {
            attempts: scope.key("attempts").number(self.attempts, default.attempts, 0..=10),
            on,
            methods,
            per_try_timeout,
            backoff: self.backoff.map_or(default.backoff, |backoff| backoff.resolve(&scope.key("backoff"))),
        }
    }
}

fn resolve_on(raw: Vec<String>, scope: &Scope<'_>) -> BTreeSet<Condition> {
    if raw.is_empty() {
        scope.missing("the list is empty: `attempts = 0` is how nothing is tried again");
    }
    let each = raw.into_iter().enumerate();
    each.filter_map(|(index, text)| scope.index(index).check(parse_condition(&text))).collect()
}

fn parse_condition(text: &str) -> Result<Condition, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(status) if (400..=599).contains(&status) => Ok(Condition::Status(status)),
            _ => Err(format!("`{text}` is not a status from 400 to 599")),
        };
    }
    Condition::WORDS.into_iter().find(|condition| condition.to_string() == text).ok_or_else(|| {
        let known = Condition::WORDS.map(|condition| condition.to_string());
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        format!("unknown condition `{text}`; {}", nearest(text, &known))
    })
}

impl RawBackoff {
    fn resolve(self, scope: &Scope<'_>) -> Backoff {
        let default = Backoff::default();
        let base = self.base.map_or(default.base, |RawDuration(base)| base);
        let max = match self.max {
            None => default.max.max(base),
            Some(RawDuration(max)) => {
                if max < base {
                    scope.key("max").problem("must not be less than `base`");
                }
                max
            }
        };
        Backoff { base, max }
    }
}

impl RawRetryBudget {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> RetryBudget {
        let default = RetryBudget::default();
        RetryBudget {
            percent: scope.key("percent").number(self.percent, default.percent, 0..=100),
            min: scope.key("min").number(self.min, default.min, 0..=10_000),
        }
    }
}
