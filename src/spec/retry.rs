//! Defines when and how a request is tried again, and how much of an upstream's traffic that may be.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use http::{Method, StatusCode};

/// When and how a route's requests are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Additional tries; 0 to 10, default 1.
    pub attempts: u32,
    /// What a request is tried again after; default connect, reset and refused-stream, and per-try-timeout where
    /// there is one.
    pub on: BTreeSet<Condition>,
    /// Methods of requests that may reach services twice; `None`: those that RFC 9110, 9.2.2, calls idempotent.
    /// Whatever was not sent is tried again by any method.
    pub methods: Option<Vec<Method>>,
    /// From a request sent to its response's head, for one try; none by default.
    pub per_try_timeout: Option<Duration>,
    /// How long is waited before another try.
    pub backoff: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            on: Self::DEFAULT_ON.into(),
            methods: None,
            per_try_timeout: None,
            backoff: Backoff::default(),
        }
    }
}

impl Retry {
    /// What a request is tried again after, unless something else is asked for.
    pub const DEFAULT_ON: [Condition; 3] = [Condition::Connect, Condition::Reset, Condition::RefusedStream];

    /// The methods that RFC 9110, 9.2.2, calls idempotent.
    pub const IDEMPOTENT: [Method; 6] =
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];

    /// Whether a request of this method may reach services twice.
    pub fn repeats(&self, method: &Method) -> bool {
        self.methods.as_deref().unwrap_or(&Self::IDEMPOTENT).contains(method)
    }

    /// Whether an answer of this status is asked for again.
    #[inline]
    pub fn on_status(&self, status: StatusCode) -> bool {
        status.as_u16() >= 400 && self.on.iter().any(|condition| condition.is_of(status))
    }

    /// Whether a request may be tried again that was sent.
    pub fn is_after_sending(&self) -> bool {
        self.attempts > 0 && self.on.iter().any(|condition| *condition != Condition::Connect)
    }
}

/// How long is waited before another try: a random time up to a bound that doubles with every try (full jitter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first bound; default 25 ms.
    pub base: Duration,
    /// The greatest bound; default 250 ms.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl Backoff {
    /// The wait before the `retry`-th additional try, counted from 1; `random` is uniform.
    pub fn wait(self, retry: u32, random: u64) -> Duration {
        let doubled = 1u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX);
        some_of(self.base.saturating_mul(doubled).min(self.max), random)
    }

    /// A wait up to the greatest bound.
    pub fn longest(self, random: u64) -> Duration {
        some_of(self.max, random)
    }
}

fn some_of(bound: Duration, random: u64) -> Duration {
    bound.mul_f64(random as f64 / u64::MAX as f64)
}

/// What a request is tried again after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// No connection could be made.
    Connect,
    /// The connection ended before there was an answer.
    Reset,
    /// The endpoint said of an HTTP/2 stream that it had not begun with it.
    RefusedStream,
    /// No answer in the time for one try.
    PerTryTimeout,
    /// An answer of 502, 503 or 504.
    GatewayError,
    /// An answer of 500 to 599.
    ServerError,
    /// An answer of this status, 400 to 599.
    Status(u16),
}

impl Condition {
    /// Those that are words.
    pub const WORDS: [Self; 6] =
        [Self::Connect, Self::Reset, Self::RefusedStream, Self::PerTryTimeout, Self::GatewayError, Self::ServerError];

    fn is_of(self, status: StatusCode) -> bool {
        match self {
            Self::Connect | Self::Reset | Self::RefusedStream | Self::PerTryTimeout => false,
            Self::GatewayError => matches!(status.as_u16(), 502..=504),
            // What went in a circle goes in the same one again.
            Self::ServerError => status.is_server_error() && status != StatusCode::LOOP_DETECTED,
            Self::Status(wanted) => status.as_u16() == wanted,
        }
    }
}

impl fmt::Display for Condition {
    /// As users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::RefusedStream => "refused-stream",
            Self::PerTryTimeout => "per-try-timeout",
            Self::GatewayError => "gateway-error",
            Self::ServerError => "5xx",
            Self::Status(status) => return status.fmt(f),
        })
    }
}

/// How many of an upstream's requests may be tried again at once, for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests in flight; 0 to 100, default 20.
    pub percent: u32,
    /// So many in any case; default 3.
    pub min: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min: 3 }
    }
}

impl RetryBudget {
    /// How many may be tried again while so many requests are in flight.
    pub fn allows(self, in_flight: u32) -> u32 {
        let share = u64::from(in_flight) * u64::from(self.percent) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.min)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses_are_those_listed() {
        let statuses = |on: &[Condition]| -> Vec<u16> {
            let retry = Retry { on: on.iter().copied().collect(), ..Retry::default() };
            (100..600).filter(|status| retry.on_status(StatusCode::from_u16(*status).expect("a status"))).collect()
        };
        assert!(statuses(&Retry::DEFAULT_ON).is_empty());
        assert_eq!(statuses(&[Condition::GatewayError, Condition::Status(429)]), [429, 502, 503, 504]);
        let all_but_loops: Vec<u16> = (500..600).filter(|status| *status != 508).collect();
        assert_eq!(statuses(&[Condition::ServerError]), all_but_loops);
    }

    #[test]
    fn only_idempotent_methods_are_repeated_unless_others_are_named() {
        let repeats = |retry: &Retry| -> Vec<bool> {
            [Method::GET, Method::PUT, Method::POST, Method::PATCH].iter().map(|method| retry.repeats(method)).collect()
        };
        assert_eq!(repeats(&Retry::default()), [true, true, false, false]);
        let named = Retry { methods: Some(vec![Method::POST]), ..Retry::default() };
        assert_eq!(repeats(&named), [false, false, true, false]);
    }

    proptest! {
        #[test]
        fn waits_are_bounded_and_reach_their_bound(retry in 0u32..1000, random: u64) {
            let backoff = Backoff::default();
            let longest = backoff.wait(retry, u64::MAX);
            prop_assert!(backoff.wait(retry, random) <= longest);
            prop_assert!(longest <= backoff.max);
            prop_assert_eq!(backoff.wait(retry, 0), Duration::ZERO);
        }

        #[test]
        fn the_budget_is_a_share_with_a_floor(in_flight: u32, percent in 0u32..=100, min in 0u32..1000) {
            let allowed = RetryBudget { percent, min }.allows(in_flight);
            prop_assert!(allowed >= min);
            prop_assert!(allowed == min || u64::from(allowed) * 100 <= u64::from(in_flight) * u64::from(percent));
        }
    }

    #[test]
    fn bounds_double_up_to_the_greatest() {
        let bounds: Vec<u128> = (1..=6).map(|retry| Backoff::default().wait(retry, u64::MAX).as_millis()).collect();
        assert_eq!(bounds, [25, 50, 100, 200, 250, 250]);
    }
}
