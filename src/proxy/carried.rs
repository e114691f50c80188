//! Defines what is known of an upgraded connection while it is carried.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::exchange::Flag;

/// It serves the log, however the connection ends (most end by breaking), and the worker's sweep.
#[derive(Debug)]
pub(super) struct Carried {
    /// Bytes that came from each side so far.
    pub(super) from_client: Cell<u64>,
    pub(super) from_endpoint: Cell<u64>,
    /// Since which second the endpoint has taken nothing of what is to be sent; `None`: it takes it. Of the client its
    /// connection tells.
    stalled: Cell<Option<u32>>,
    /// Since which second one side has ended and nothing has come from the other.
    alone: Cell<Option<u32>>,
    /// How long either may last.
    longest: Duration,
    cut: Cell<Option<Flag>>,
    /// Seconds of the worker.
    clock: Arc<AtomicU32>,
}

impl Carried {
    pub(super) fn new(longest: Duration, clock: &Arc<AtomicU32>) -> Rc<Self> {
        Rc::new(Self {
            from_client: Cell::new(0),
            from_endpoint: Cell::new(0),
            stalled: Cell::new(None),
            alone: Cell::new(None),
            longest,
            cut: Cell::new(None),
            clock: Arc::clone(clock),
        })
    }

    /// For how many seconds a side has been waited for that owes something, and how long it may be. A connection on which
    /// nobody has anything to say is not waited for.
    pub(super) fn waits(&self, now: u32) -> (u32, Duration) {
        let longest = |since: &Cell<Option<u32>>| since.get().map_or(0, |since| now.saturating_sub(since));
        let seconds = longest(&self.stalled).max(longest(&self.alone));
        if Duration::from_secs(seconds.into()) > self.longest {
            self.cut(Flag::UpstreamTimeout);
        }
        (seconds, self.longest)
    }

    /// It ends for this reason.
    pub(super) fn cut(&self, flag: Flag) {
        self.cut.set(Some(flag));
    }

    /// Why it was ended, when it was.
    pub(super) fn was_cut(&self) -> Option<Flag> {
        self.cut.get()
    }

    /// So many bytes came from one side; none: it has ended.
    pub(super) fn came(&self, count: &Cell<u64>, bytes: usize) {
        count.set(count.get() + bytes as u64);
        if bytes == 0 || self.alone.get().is_some() {
            self.alone.set(Some(self.clock.load(Relaxed)));
        }
    }

    /// The endpoint was given bytes; whether it took any.
    pub(super) fn went(&self, taken: bool) {
        let now = self.clock.load(Relaxed);
        self.stalled.set(if taken { None } else { self.stalled.get().or(Some(now)) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_owes_something_is_waited_for() {
        let clock = Arc::<AtomicU32>::default();
        let carried = Carried::new(Duration::from_secs(5), &clock);
        let waits_at = |second: u32| {
            clock.store(second, Relaxed);
            carried.waits(second).0
        };
        carried.came(&carried.from_client, 10);
        assert_eq!(waits_at(100), 0, "nobody has anything to say");
        carried.went(false);
        carried.went(false);
        assert_eq!(waits_at(103), 3);
        carried.went(true);
        assert_eq!((waits_at(104), carried.was_cut()), (0, None));
        carried.came(&carried.from_client, 0);
        assert_eq!(waits_at(108), 4);
        carried.came(&carried.from_endpoint, 7);
        assert_eq!((waits_at(110), carried.was_cut()), (2, None));
        assert_eq!((waits_at(114), carried.was_cut()), (6, Some(Flag::UpstreamTimeout)));
        assert_eq!((carried.from_client.get(), carried.from_endpoint.get()), (10, 7));
    }
}
