//! Defines how fast a watch may ask: a bucket for its loop, and times that grow with the size of answers.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

/// A bucket of two reads, refilled by one per interval: a service that changes all the time is read at a
/// steady rate, one that changes now and then at once.
#[derive(Debug)]
pub(super) struct Bucket {
    interval: Duration,
    /// When the bucket is full again.
    full_at: Instant,
}

const BURST: u32 = 2;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

impl Bucket {
    pub(super) fn new() -> Self {
        Self { interval: SHORTEST, full_at: Instant::now() }
    }

    /// A transfer took so long: at most a tenth of the time goes into transfers.
    pub(super) fn spent(&mut self, transfer: Duration) {
        self.interval = transfer.saturating_mul(10).clamp(SHORTEST, LONGEST);
    }

    /// Takes one out of the bucket, in advance if need be: the read may begin at the time returned.
    pub(super) fn take(&mut self) -> Instant {
        let now = Instant::now();
        self.full_at = self.full_at.max(now) + self.interval;
        (self.full_at.checked_sub(self.interval * BURST)).map_or(now, |at| at.max(now))
    }
}

/// `time`, longer for big answers: an answer of many megabytes every minute would be nothing but load.
pub(super) fn scaled(time: Duration, body: usize) -> Duration {
    const CAP: Duration = Duration::from_secs(300);
    let mebibytes = u32::try_from(body >> 20).unwrap_or(u32::MAX);
    time.saturating_mul(mebibytes.max(1)).min(CAP.max(time))
}

/// How long a query is to block, at most `wait`. Queries that began together, after a start, a leader change or a change
/// that concerns many services, would end together each time: the server's own sixteenth hardly parts them.
pub(super) fn apart(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_at_once_then_one_an_interval() {
        let mut bucket = Bucket::new();
        let start = Instant::now();
        let waits: Vec<_> = (0..4).map(|_| bucket.take() - start).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, SHORTEST, SHORTEST * 2]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((bucket.take(), bucket.take()), (Instant::now(), Instant::now()));
        bucket.spent(Duration::from_millis(500));
        let waits: Vec<_> = (0..3).map(|_| bucket.take() - Instant::now()).collect();
        assert!(waits[0] < SHORTEST && waits[2] > Duration::from_secs(5), "{waits:?}");
    }

    #[test]
    fn times_grow_with_the_answer() {
        let minute = Duration::from_secs(60);
        for (body, time) in [(0, minute), (2 << 20, minute * 2), (60 << 20, minute * 5)] {
            assert_eq!(scaled(minute, body), time);
        }
        assert_eq!(scaled(minute * 10, 60 << 20), minute * 10);
    }
}
