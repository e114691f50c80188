//! Defines how endpoints are judged by what becomes of requests to them.

use std::time::Duration;

use super::percent::Percent;

/// When an endpoint is ejected, for how long, and how many may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassiveHealth {
    /// Requests in a row that met no connection, a reset, no answer in time or one that is not HTTP; 0: not looked at;
    /// default 5.
    pub consecutive_failures: u32,
    /// Answers of 500 to 599 in a row; 0: not looked at, the default.
    pub consecutive_5xx: u32,
    /// How many requests of late must have been answered well; not looked at by default.
    pub success_ratio: Option<SuccessRatio>,
    /// Of the first ejection; doubled by each that follows; default 10 s.
    pub base_ejection: Duration,
    /// Of the longest one; default 5 min.
    pub max_ejection: Duration,
    /// How many of those that would be used may be out of use, but always one, and never the last; default half.
    pub max_ejected: Percent,
}

/// How many requests of late must have been answered, with less than 500.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessRatio {
    /// Less than this is too little.
    pub min: Percent,
    /// What is of late; default 30 s.
    pub window: Duration,
    /// Fewer requests than these say nothing; default 10.
    pub min_requests: u32,
}

impl Default for PassiveHealth {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            consecutive_5xx: 0,
            success_ratio: None,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
            max_ejected: Percent::HALF,
        }
    }
}

impl PassiveHealth {
    /// Whether anything is looked at.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.consecutive_failures > 0 || self.consecutive_5xx > 0 || self.success_ratio.is_some()
    }

    /// How many of so many endpoints may be out of use.
    pub fn may_eject(&self, of: usize) -> usize {
        self.max_ejected.of(of).max(1)
    }

    /// How long the `times`-th ejection in a row lasts, counted from 1.
    pub fn ejection(&self, times: u32) -> Duration {
        let doubled = 1u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base_ejection.saturating_mul(doubled).min(self.max_ejection)
    }
}
