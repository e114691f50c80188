//! Defines how limits are written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::condition::resolve_each;
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::limit::{Concurrency, LimitKey, RateLimit};

/// So many requests in a time; more get 429 with `Retry-After`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "RateLimit", deny_unknown_fields)]
pub(super) struct RawRateLimit {
    /// `100/s`, `5/m`, `1000/h`, `20/d`.
    rate: Option<String>,
    /// How many may come at once after a pause; default what comes in a second, at least 1.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    burst: Option<i64>,
    /// Who shares a limit: `client_ip` (of IPv6 the network of 64 bits), `consumer`, `route`, `header.NAME`,
    /// `claims.NAME`; of several all must be equal. Default `["client_ip"]`. Who has none of it goes by address.
    key: Option<Vec<String>>,
    /// Whether answers say what is left, in `RateLimit` and `RateLimit-Policy`; default true.
    headers: Option<bool>,
    /// Keys that are told apart at once, each of which takes 18 bytes; default 65536. What is beyond that shares limits.
    #[schemars(range(min = 64, max = 16_777_216))]
    max_keys: Option<i64>,
}

/// So many requests in flight; more get 429.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Concurrency", deny_unknown_fields)]
pub(super) struct RawConcurrency {
    /// The most of them.
    #[schemars(range(min = 1, max = 1_000_000))]
    limit: Option<i64>,
    /// Who shares a limit, as in `rate_limit`.
    key: Option<Vec<String>>,
}

impl RawRateLimit {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<RateLimit> {
        let Some(rate) = self.rate else {
            scope.missing("say how many, by `rate`");
            return None;
        };
        let rate: crate::spec::middleware::limit::Rate = scope.key("rate").check(rate.parse())?;
        let in_a_second = u64::from(rate.amount) / rate.per.as_secs().max(1);
        let default = u32::try_from(in_a_second).unwrap_or(u32::MAX).max(1);
        Some(RateLimit {
            rate,
            burst: scope.key("burst").number(self.burst, default, 1..=1_000_000_000),
            key: keys(self.key, scope),
            headers: self.headers.unwrap_or(true),
            max_keys: scope.key("max_keys").number(self.max_keys, 65_536, 64..=16_777_216),
        })
    }
}

impl RawConcurrency {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Concurrency> {
        if self.limit.is_none() {
            scope.missing("say how many, by `limit`");
        }
        let limit = scope.key("limit").number(self.limit, 1, 1..=1_000_000);
        Some(Concurrency { limit, key: keys(self.key, scope) })
    }
}

fn keys(raw: Option<Vec<String>>, scope: &Scope<'_>) -> Vec<LimitKey> {
    match raw {
        None => vec![LimitKey::ClientIp],
        given => resolve_each(given, &scope.key("key"), |text, scope| scope.check(text.parse())),
    }
}
