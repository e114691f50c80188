//! Defines how long an endpoint takes to answer, as one worker sees it: the peak EWMA of Finagle and linkerd.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// An average that follows what got slower at once, and what got better, or is not asked, with time.
#[derive(Debug, Default)]
pub(crate) struct Latency(Cell<Option<Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    seconds: f64,
    as_of: Instant,
}

/// In so long what is known decays to 1/e.
const DECAY: Duration = Duration::from_secs(10);

/// A failure counts as an answer that took so many times what is known: who fails fast must not look quick, and one
/// failure must not cost an endpoint all its traffic.
const FAILED: f64 = 4.0;

/// No failure counts for more, or an endpoint that was down for a while would be shunned for minutes after it.
const WORST: Duration = Duration::from_secs(10);

impl Latency {
    /// It answered.
    pub(crate) fn answered(&self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let seconds = match self.0.get() {
            Some(known) if known.at(now) > took => {
                let left = known.left(now);
                known.seconds * left + took * (1.0 - left)
            }
            Some(_) | None => took,
        };
        self.0.set(Some(Known { seconds, as_of: now }));
    }

    /// It failed.
    pub(crate) fn failed(&self, took: Duration, now: Instant) {
        let known = self.at(now).unwrap_or(0.0).max(took.as_secs_f64());
        self.answered(Duration::from_secs_f64((known * FAILED).min(WORST.as_secs_f64())), now);
    }

    /// In seconds; `None` before the first answer.
    pub(crate) fn at(&self, now: Instant) -> Option<f64> {
        self.0.get().map(|known| known.at(now))
    }
}

impl Known {
    /// What is left of its weight.
    fn left(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.as_of);
        (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    fn at(&self, now: Instant) -> f64 {
        self.seconds * self.left(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_rises_at_once_and_falls_with_time() {
        let (latency, began) = (Latency::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(latency.at(began), None);
        latency.answered(10 * MS, began);
        assert_eq!(latency.at(began), Some(0.01));
        latency.answered(500 * MS, began);
        assert_eq!(latency.at(began), Some(0.5), "a peak");
        latency.answered(10 * MS, began + MS);
        assert!(latency.at(began + MS).expect("known") > 0.49, "one quick answer is no proof");
        assert!(latency.at(at(10)).expect("known") < 0.2, "who is not asked is forgiven");
        for second in 1..=60 {
            latency.answered(10 * MS, at(second));
        }
        let settled = latency.at(at(60)).expect("known");
        assert!((0.009..0.013).contains(&settled), "{settled}");
    }

    #[test]
    fn who_fails_fast_does_not_look_quick() {
        let (latency, now) = (Latency::default(), Instant::now());
        latency.answered(10 * MS, now);
        latency.failed(MS, now);
        assert_eq!(latency.at(now), Some(0.04));
        (0..100).for_each(|_| latency.failed(MS, now));
        assert_eq!(latency.at(now), Some(10.0));
        let unknown = Latency::default();
        unknown.failed(MS, now);
        assert_eq!(unknown.at(now), Some(0.004));
    }
}
