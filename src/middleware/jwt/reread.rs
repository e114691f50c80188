//! When an issuer's keys are read again because a token names a key that nobody knows.
//!
//! Such a token may be the first one after a rotation, or junk. Both wait for the same read; a budget bounds how often
//! junk makes the gateway read, and leaves some reads for a rotation that comes meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// Reads in a row that unknown keys may ask for.
const BURST: u32 = 4;

/// The budget grows by one read in this time.
const REFILL: Duration = Duration::from_secs(10);

/// A key that a read did not bring is not asked for again in this time.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);

/// Unknown keys remembered.
const MAX_UNKNOWN: usize = 256;

/// How long a request waits for a read.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Requests that wait for an issuer at once.
const MAX_WAITING: usize = 1024;

/// Asks for reads, and knows how they go.
#[derive(Debug)]
pub(super) struct Reread {
    budget: Mutex<Budget>,
    reads: watch::Sender<Reads>,
    wanted: Notify,
}

/// Reads that began and that ended.
#[derive(Clone, Copy, Debug, Default)]
struct Reads {
    begun: u64,
    ended: u64,
    /// Whether the last one that ended brought keys.
    is_good: bool,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    refilled: Instant,
    /// A read was asked for and has not begun.
    is_asked: bool,
    waiting: usize,
    /// Hashes of keys that a read did not bring, and when.
    unknown: HashMap<u64, Instant>,
}

impl Default for Reread {
    fn default() -> Self {
        let budget =
            Budget { left: BURST, refilled: Instant::now(), is_asked: false, waiting: 0, unknown: HashMap::new() };
        Self { budget: Mutex::new(budget), reads: watch::Sender::default(), wanted: Notify::new() }
    }
}

impl Reread {
    /// Waits, for a second at most, until the keys were read again for the sake of this unknown one. Returns at once where
    /// they are not to be read, and says whether new ones came.
    pub(super) async fn wait(&self, key: u64) -> bool {
        let Some(number) = self.ask(key) else { return false };
        let mut reads = self.reads.subscribe();
        let has_ended = timeout(MAX_WAIT, reads.wait_for(|reads| reads.ended >= number)).await;
        let is_good = has_ended.is_ok_and(|reads| reads.is_ok_and(|reads| reads.is_good));
        self.lock().waiting -= 1;
        is_good
    }

    /// A read did not bring this key.
    pub(super) fn is_unknown(&self, key: u64) {
        let (mut budget, now) = (self.lock(), Instant::now());
        if budget.unknown.len() >= MAX_UNKNOWN {
            budget.unknown.retain(|_, since| now.duration_since(*since) < UNKNOWN_FOR);
        }
        if budget.unknown.len() < MAX_UNKNOWN {
            budget.unknown.insert(key, now);
        }
    }

    /// Asks for a read, or joins one that is under way or asked for: the number of the one to wait for.
    fn ask(&self, key: u64) -> Option<u64> {
        let (mut budget, now) = (self.lock(), Instant::now());
        let is_fresh = |since: &Instant| now.duration_since(*since) < UNKNOWN_FOR;
        if budget.waiting >= MAX_WAITING || budget.unknown.get(&key).is_some_and(is_fresh) {
            return None;
        }
        let Reads { begun, ended, .. } = *self.reads.borrow();
        let number = if budget.is_asked {
            begun + 1
        } else if begun > ended {
            begun
        } else if budget.take(now) {
            budget.is_asked = true;
            self.wanted.notify_one();
            begun + 1
        } else {
            return None;
        };
        budget.waiting += 1;
        Some(number)
    }

    /// Somebody wants a read.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A read begins.
    pub(super) fn begin(&self) {
        let mut budget = self.lock();
        budget.is_asked = false;
        self.reads.send_modify(|reads| reads.begun += 1);
    }

    /// It ended, and brought keys or not.
    pub(super) fn end(&self, is_good: bool) {
        self.reads.send_modify(|reads| *reads = Reads { ended: reads.begun, is_good, ..*reads });
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let refills = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        if refills > 0 {
            self.left = self.left.saturating_add(refills).min(BURST);
            self.refilled = now;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_one_read_together() {
        let reread = Arc::new(Reread::default());
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let reread = Arc::clone(&reread);
                tokio::spawn(async move { reread.wait(1).await })
            })
            .collect();
        tokio::task::yield_now().await;
        reread.wanted().await;
        assert!(reread.wanted().now_or_never().is_none(), "one read is enough for all");
        reread.begin();
        reread.end(true);
        for task in tasks {
            assert!(task.await.expect("no panic"));
        }
        let budget = reread.lock();
        assert_eq!((budget.left, budget.waiting), (BURST - 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn junk_leaves_reads_for_a_rotation_and_is_bounded() {
        let reread = Reread::default();
        // The same junk asks once.
        assert!(!reread.wait(7).await, "nobody reads, so the second passes");
        reread.begin();
        reread.end(true);
        reread.is_unknown(7);
        assert_eq!(reread.wait(7).now_or_never(), Some(false));
        assert_eq!(reread.lock().left, BURST - 1);
        // Other junk uses the budget up, and gets it back in time.
        for key in 10..10 + u64::from(BURST) {
            let asked = reread.ask(key);
            assert_eq!(asked.is_some(), key < 9 + u64::from(BURST), "{key}");
            reread.begin();
            reread.end(true);
        }
        tokio::time::advance(REFILL).await;
        assert!(reread.ask(99).is_some());
        assert!(reread.ask(98).is_some(), "it joins the read that was asked for");
        reread.begin();
        assert!(reread.ask(97).is_some(), "it joins the read that is under way");
        reread.end(true);
        assert!(reread.ask(96).is_none());
        tokio::time::advance(UNKNOWN_FOR).await;
        assert!(reread.ask(7).is_some());
    }
}
