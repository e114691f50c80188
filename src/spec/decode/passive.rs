//! Defines how passive health is written, and what it resolves to.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::passive::{PassiveHealth, SuccessRatio};
use crate::spec::percent::Percent;

use super::scalar::RawDuration;
use super::scope::Scope;

/// What becomes of requests to an endpoint takes it out of use for a while: it is ejected, and comes back when a single
/// request went well.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "PassiveHealth", deny_unknown_fields)]
pub struct RawPassiveHealth {
    /// Requests in a row that met no connection, a reset, no answer in time or one that is not HTTP; 0: not looked at;
    /// default 5.
    #[schemars(range(min = 0, max = 1000))]
    consecutive_failures: Option<i64>,
    /// Answers of 500 to 599 in a row; default 0: not looked at.
    #[schemars(range(min = 0, max = 1000))]
    consecutive_5xx: Option<i64>,
    /// The share of requests of late that must have been answered with less than 500, such as `80%`; not looked at by
    /// default.
    success_ratio: Option<String>,
    /// What is of late; default 30s.
    window: Option<RawDuration>,
    /// Fewer requests than these of late say nothing of the ratio; default 10.
    #[schemars(range(min = 1, max = 100_000))]
    min_requests: Option<i64>,
    /// How long the first ejection lasts; each that follows twice as long; default 10s.
    base_ejection: Option<RawDuration>,
    /// How long the longest one lasts; default 5m.
    max_ejection: Option<RawDuration>,
    /// How many endpoints may be out of use, of those that would be used; always one, never the last; default `50%`.
    max_ejected: Option<String>,
}

impl RawPassiveHealth {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> PassiveHealth {
        let default = PassiveHealth::default();
        let percent =
            |text: Option<String>, key: &str| text.and_then(|text| scope.key(key).check(text.parse::<Percent>()));
        let window_scope = scope.key("window");
        let window = self.window.map_or(DEFAULT_WINDOW, |RawDuration(window)| window);
        if window < SHORTEST_WINDOW {
            window_scope.problem("must be at least 1s");
        }
        let min_requests = scope.key("min_requests").number(self.min_requests, DEFAULT_MIN_REQUESTS, 1..=100_000);
        for key in ["window", "min_requests"] {
            if self.success_ratio.is_none() && scope.has(key) {
                scope.key(key).problem("belongs to `success_ratio`, which is not given");
            }
        }
        let success_ratio =
            percent(self.success_ratio, "success_ratio").map(|min| SuccessRatio { min, window, min_requests });
        let base_ejection = self.base_ejection.map_or(default.base_ejection, |RawDuration(base)| base);
        let max_ejection = self.max_ejection.map(|RawDuration(max)| max);
        if max_ejection.is_some_and(|max| max < base_ejection) {
            scope.key("max_ejection").problem("must not be less than `base_ejection`");
        }
        let count = |value, key: &str, default| scope.key(key).number(value, default, 0..=1000);
        PassiveHealth {
            consecutive_failures: count(
                self.consecutive_failures,
                "consecutive_failures",
                default.consecutive_failures,
            ),
            consecutive_5xx: count(self.consecutive_5xx, "consecutive_5xx", default.consecutive_5xx),
            success_ratio,
            base_ejection,
            max_ejection: max_ejection.unwrap_or(default.max_ejection.max(base_ejection)),
            max_ejected: percent(self.max_ejected, "max_ejected").unwrap_or(default.max_ejected),
        }
    }
}

const DEFAULT_WINDOW: std::time::Duration = std::time::Duration::from_secs(30);
const DEFAULT_MIN_REQUESTS: u32 = 10;

/// A tenth of it is the resolution.
const SHORTEST_WINDOW: std::time::Duration = std::time::Duration::from_secs(1);
