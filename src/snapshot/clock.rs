//! Defines times that fit into a word: milliseconds since the process first asked.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A time as milliseconds; 0 for all before the first.
pub(super) fn millis(time: Instant) -> u64 {
    time.saturating_duration_since(*FIRST).as_millis() as u64
}

/// Milliseconds of a duration, for sums with [`millis`].
pub(super) fn of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}
