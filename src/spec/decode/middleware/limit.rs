//! Defines how limits are written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::condition::resolve_each;
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::limit::{self, Concurrency, LimitKey, RateLimit, Without};

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
    /// Whose requests count: of each gateway by itself (`gateway`, the default), or of all together (`fleet`): through
    /// `[redis]`, and without it each gateway has its share, if they register themselves. A key takes 56 bytes then.
    scope: Option<RawScope>,
    /// With `scope = "fleet"`: what holds while Redis does not answer. `share` (the default): the limit divided by the
    /// number of gateways; `local`: the whole limit at each; `open`: no limit; `closed`: no request passes.
    without_redis: Option<RawWithout>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "RateLimitScope")]
enum RawScope {
    Gateway,
    Fleet,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "RateLimitWithoutRedis")]
enum RawWithout {
    Share,
    Local,
    Open,
    Closed,
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
        let rate: limit::Rate = scope.key("rate").check(rate.parse())?;
        let in_a_second = u64::from(rate.amount) / rate.per.as_secs().max(1);
        let default = u32::try_from(in_a_second).unwrap_or(u32::MAX).max(1);
        Some(RateLimit {
            rate,
            burst: scope.key("burst").number(self.burst, default, 1..=1_000_000_000),
            key: keys(self.key, scope),
            headers: self.headers.unwrap_or(true),
            max_keys: scope.key("max_keys").number(self.max_keys, 65_536, 64..=16_777_216),
            scope: resolve_scope(self.scope, self.without_redis, scope),
        })
    }
}

fn resolve_scope(raw: Option<RawScope>, without: Option<RawWithout>, scope: &Scope<'_>) -> limit::Scope {
    let known = without.map_or(Without::Share, |without| match without {
        RawWithout::Share => Without::Share,
        RawWithout::Local => Without::Local,
        RawWithout::Open => Without::Open,
        RawWithout::Closed => Without::Closed,
    });
    match raw {
        Some(RawScope::Fleet) => limit::Scope::Fleet { without: known },
        Some(RawScope::Gateway) | None => {
            if without.is_some() {
                scope.key("without_redis").problem("says something with `scope = \"fleet\"` only");
            }
            limit::Scope::Gateway
        }
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
