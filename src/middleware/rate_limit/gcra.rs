//! Defines the generic cell rate algorithm (ITU-T I.371, annex A; the virtual scheduling form), in nanoseconds.
//!
//! A key has one number, its theoretical arrival time: when its next request would come if all came evenly. A request
//! may be early by what a burst is early.

/// A limit in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    /// From one request to the next.
    interval: u64,
    /// How far ahead of its time the last of a burst comes, and one interval more.
    burst: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It may pass.
    Passes {
        /// The key's new arrival time.
        arrival: u64,
    },
    /// It comes too early by this.
    TooEarly(u64),
}

impl Gcra {
    pub(super) fn new(interval: u64, burst: u32) -> Self {
        let interval = interval.max(1);
        Self { interval, burst: interval.saturating_mul(u64::from(burst.max(1))) }
    }

    /// Decides on a request at `now` of a key with this arrival time, 0 for a new one.
    pub(super) fn decide(self, arrival: u64, now: u64) -> Decision {
        let next = arrival.max(now).saturating_add(self.interval);
        let earliest = next.saturating_sub(self.burst);
        if now < earliest { Decision::TooEarly(earliest - now) } else { Decision::Passes { arrival: next } }
    }

    /// From one request to the next.
    pub(super) fn interval(self) -> u64 {
        self.interval
    }

    /// The part of it that each of so many has.
    pub(super) fn share(self, parts: u32) -> Self {
        let parts = u64::from(parts.max(1));
        let burst = (self.most() / parts).max(1);
        let interval = self.interval.saturating_mul(parts);
        Self { interval, burst: interval.saturating_mul(burst) }
    }

    /// The arrival time after so many more requests.
    pub(super) fn after(self, arrival: u64, requests: u64, now: u64) -> u64 {
        if requests == 0 { arrival } else { arrival.max(now).saturating_add(self.interval.saturating_mul(requests)) }
    }

    /// That a request does not pass, and how long until one does.
    pub(super) fn wait(self, arrival: u64, now: u64) -> Decision {
        match self.decide(arrival, now) {
            Decision::Passes { .. } => Decision::TooEarly(self.interval),
            too_early @ Decision::TooEarly(_) => too_early,
        }
    }

    /// How many more would pass at `now`.
    pub(super) fn left(self, arrival: u64, now: u64) -> u64 {
        let ahead = arrival.saturating_sub(now);
        self.burst.saturating_sub(ahead) / self.interval
    }

    /// The burst, in requests.
    pub(super) fn most(self) -> u64 {
        self.burst / self.interval
    }

    /// How long it takes until a burst may come again, at most.
    pub(super) fn window(self) -> u64 {
        self.burst
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use governor::clock::{Clock as _, FakeRelativeClock};
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The same requests pass as with the library that is known for it.
        #[test]
        fn it_decides_as_governor_does(
            interval in 1u64..2_000_000_000,
            burst in 1u32..50,
            gaps in prop::collection::vec(prop_oneof![Just(0u64), 0u64..3_000_000_000, 0u64..1000], 1..200),
        ) {
            let quota = Quota::with_period(Duration::from_nanos(interval)).expect("more than 0");
            let quota = quota.allow_burst(NonZeroU32::new(burst).expect("more than 0"));
            let clock = FakeRelativeClock::default();
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let began = clock.now();
            let (gcra, mut arrival) = (Gcra::new(interval, burst), 0);
            let mut now = 0;
            for gap in gaps {
                clock.advance(Duration::from_nanos(gap));
                now += gap;
                let decision = gcra.decide(arrival, now);
                match oracle.check() {
                    Ok(()) => {
                        let Decision::Passes { arrival: next } = decision else {
                            return Err(TestCaseError::fail(format!("governor lets it pass at {now}")));
                        };
                        arrival = next;
                    }
                    Err(not_yet) => {
                        let wait = not_yet.wait_time_from(clock.now()).as_nanos() as u64;
                        prop_assert_eq!(decision, Decision::TooEarly(wait), "at {}", now);
                    }
                }
            }
            prop_assert!(clock.now() >= began);
        }

        /// What is left is what would pass.
        #[test]
        fn what_is_left_passes_and_no_more(interval in 1u64..1000, burst in 1u32..30, arrival in 0u64..40_000, now in 0u64..20_000) {
            let gcra = Gcra::new(interval, burst);
            let arrival = arrival.min(now + gcra.window());
            let (left, mut at) = (gcra.left(arrival, now), arrival);
            for _ in 0..left {
                let Decision::Passes { arrival: next } = gcra.decide(at, now) else {
                    return Err(TestCaseError::fail("it was left"));
                };
                at = next;
            }
            prop_assert!(matches!(gcra.decide(at, now), Decision::TooEarly(_)));
            prop_assert!(left <= gcra.most());
        }
    }
}
