//! Defines the values a worker writes: counter, gauge and histogram, each with a single writing thread.
//!
//! Any thread may read; two writers would lose updates, which is why handles are given out by a
//! [`WorkerStats`](super::WorkerStats) that belongs to one worker.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The present value.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative. Only the owning worker may call it.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The present value.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Durations by size, from 0.5 ms to 60 s and above.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than the bounds: the last counts what is above all of them.
    buckets: [AtomicU64; Histogram::BOUNDS_MICROS.len() + 1],
    /// In microseconds: in nanoseconds 20,000 waiting clients would overflow it within days.
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Upper bounds of the buckets, inclusive, in microseconds.
    pub const BOUNDS_MICROS: [u64; 16] = [
        500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
        10_000_000, 30_000_000, 60_000_000,
    ];

    /// Counts one duration. Only the owning worker may call it.
    #[inline]
    pub fn observe(&self, duration: Duration) {
        let micros = duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros().into());
        let place = Self::BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(Self::BOUNDS_MICROS.len());
        let bucket = &self.buckets[place];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum_micros.store(self.sum_micros.load(Relaxed).wrapping_add(micros), Relaxed);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// The sum of all durations counted, in whole microseconds.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.load(Relaxed))
    }
}

/// Several histograms added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramTotal {
    /// Durations in each bucket of [`Histogram::BOUNDS_MICROS`] alone, then those above all bounds.
    pub buckets: [u64; Histogram::BOUNDS_MICROS.len() + 1],
    /// The sum of all durations.
    pub sum: Duration,
}

impl HistogramTotal {
    /// Adds what `histogram` holds now.
    pub fn add(&mut self, histogram: &Histogram) {
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += bucket.load(Relaxed);
        }
        self.sum = self.sum.saturating_add(histogram.sum());
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 60_000_000, 60_000_001, 7_000_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::MAX);
        let mut total = HistogramTotal::default();
        total.add(&histogram);
        assert_eq!(total.buckets[..2], [2, 1]);
        assert_eq!(total.buckets[15..], [1, 3]);
        assert_eq!((histogram.count(), total.count()), (7, 7));
    }

    #[test]
    fn sums_add_up_over_histograms() {
        let (one, two) = (Histogram::default(), Histogram::default());
        one.observe(Duration::from_millis(3));
        two.observe(Duration::from_millis(4));
        let mut total = HistogramTotal::default();
        total.add(&one);
        total.add(&two);
        assert_eq!(total.sum, Duration::from_millis(7));
    }

    #[test]
    fn gauges_shrink() {
        let gauge = Gauge::default();
        gauge.add(3);
        gauge.add(-2);
        assert_eq!(gauge.value(), 1);
    }
}
