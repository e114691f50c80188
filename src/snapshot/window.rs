//! Defines what went well and what did not, of late, counted by any number of threads without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Counts by tenths of the time that is looked at.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Each a [`Bucket`], at its tick's place.
    buckets: [AtomicU64; BUCKETS as usize],
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// What went well.
    pub(super) good: u64,
    /// What did not.
    pub(super) bad: u64,
}

impl Counts {
    /// All of them.
    pub(super) fn all(self) -> u64 {
        self.good + self.bad
    }
}

const BUCKETS: u64 = 10;

/// What a tenth counts: 24 bits of its tick, then 20 of each count.
#[derive(Clone, Copy)]
struct Bucket {
    tick: u64,
    counts: Counts,
}

const MOST: u64 = (1 << 20) - 1;
const TICKS: u64 = 1 << 24;

impl Bucket {
    fn of(word: u64) -> Self {
        Self { tick: word >> 40, counts: Counts { good: (word >> 20) & MOST, bad: word & MOST } }
    }

    fn word(self) -> u64 {
        self.tick << 40 | self.counts.good.min(MOST) << 20 | self.counts.bad.min(MOST)
    }
}

impl Window {
    /// Counts one more. `length`: what is of late.
    pub(super) fn count(&self, good: bool, length: Duration, now: Instant) {
        let tick = tick(length, now);
        let one_more = |word| {
            let bucket = Bucket::of(word);
            // What is left of another time is over.
            let mut counts = if bucket.tick == tick % TICKS { bucket.counts } else { Counts::default() };
            *(if good { &mut counts.good } else { &mut counts.bad }) += 1;
            Some(Bucket { tick: tick % TICKS, counts }.word())
        };
        // It always has a next value.
        let _ = self.buckets[(tick % BUCKETS) as usize].fetch_update(Relaxed, Relaxed, one_more);
    }

    /// What was counted of late.
    pub(super) fn counts(&self, length: Duration, now: Instant) -> Counts {
        let tick = tick(length, now);
        let recent = |bucket: &Bucket| (tick.wrapping_sub(bucket.tick)) % TICKS < BUCKETS;
        let buckets = self.buckets.iter().map(|word| Bucket::of(word.load(Relaxed)));
        buckets.filter(recent).fold(Counts::default(), |sum, Bucket { counts, .. }| Counts {
            good: sum.good + counts.good,
            bad: sum.bad + counts.bad,
        })
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }
}

/// Ticks begin late enough that empty buckets are of no time.
fn tick(length: Duration, now: Instant) -> u64 {
    super::clock::millis(now) / (length.as_millis() as u64 / BUCKETS).max(1) + BUCKETS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    /// Not before the clock's first time.
    fn begin() -> Instant {
        tick(LENGTH, Instant::now());
        Instant::now()
    }

    fn at(base: Instant, millis: u64) -> Instant {
        base + Duration::from_millis(millis)
    }

    #[test]
    fn what_is_past_is_forgotten() {
        let (window, now) = (Window::default(), begin());
        assert_eq!(window.counts(LENGTH, now), Counts::default());
        for second in 0..5 {
            window.count(second != 0, LENGTH, at(now, second * 1000));
        }
        assert_eq!(window.counts(LENGTH, at(now, 4000)), Counts { good: 4, bad: 1 });
        assert_eq!(window.counts(LENGTH, at(now, 10_001)), Counts { good: 4, bad: 0 });
        assert_eq!(window.counts(LENGTH, at(now, 60_000)), Counts::default());
        window.count(true, LENGTH, at(now, 4000));
        window.clear();
        assert_eq!(window.counts(LENGTH, at(now, 4000)), Counts::default());
    }

    proptest! {
        #[test]
        fn all_of_the_last_nine_tenths_is_counted_and_nothing_older_than_the_whole(
            mut events in prop::collection::vec((0u64..60_000, any::<bool>()), 0..200),
            later in 0u64..20_000,
        ) {
            let (window, base) = (Window::default(), begin());
            events.sort_unstable();
            for (millis, good) in &events {
                window.count(*good, LENGTH, at(base, *millis));
            }
            let now = events.last().map_or(0, |(millis, _)| *millis) + later;
            let within = |most: u64| events.iter().filter(|(millis, _)| now - *millis < most).count() as u64;
            let counted = window.counts(LENGTH, at(base, now)).all();
            prop_assert!(counted >= within(9_000) && counted <= within(10_000), "{counted}");
        }
    }

    #[test]
    fn threads_lose_no_count() {
        let (window, now) = (Window::default(), begin());
        std::thread::scope(|scope| {
            for good in [true, false, true] {
                let window = &window;
                scope.spawn(move || (0..10_000).for_each(|_| window.count(good, LENGTH, now)));
            }
        });
        assert_eq!(window.counts(LENGTH, now), Counts { good: 20_000, bad: 10_000 });
    }
}
