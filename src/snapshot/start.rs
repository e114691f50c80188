//! Defines slow starts: how much of its weight an endpoint has that is new, or well again. Pure.

use std::time::{Duration, Instant};

/// A fresh one begins with a tenth: with less it might get nothing for most of its time.
const FIRST: f64 = 0.1;

/// Whether endpoints that go together slow down at their start: not where most are fresh, who would then be no less than
/// each other. `fresh_since` has each of them.
pub fn slows(fresh_since: impl Iterator<Item = Option<Instant>>, window: Duration) -> bool {
    let (mut all, mut fresh) = (0, 0);
    for since in fresh_since {
        all += 1;
        fresh += usize::from(since.is_some_and(|since| since.elapsed() < window));
    }
    fresh > 0 && fresh * 2 <= all
}

/// What part of its weight one has that is fresh since then.
pub fn share(since: Instant, now: Instant, window: Duration) -> f64 {
    let grown = now.saturating_duration_since(since).as_secs_f64() / window.as_secs_f64();
    grown.clamp(FIRST, 1.0)
}
