//! What our user may read, looked at every few seconds and shared by all watches: etcd checks a stream when it is opened
//! and never again, whatever becomes of the user, the password or the role.
//!
//! A look reads one key of a range from the member itself (serializable), which costs no quorum. It fails as a list
//! would: etcd grants or denies a range as a whole.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use tokio::sync::watch;
use tokio::time::sleep;

use super::layout::KeyRange;
use super::list::get;
use super::members::Members;
use crate::discovery::supervise::{Backoff, ErrorKind, around};

/// Between two looks, give or take a fifth: a user that is gone shows within 5 s.
const INTERVAL: Duration = Duration::from_secs(3);
/// Ranges of a look. Where there are more, each has its turn; the user is the same for all.
const MAX_RANGES: usize = 8;

/// What our user lacks, as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    /// Why the user is not accepted at all.
    pub(super) user: Option<Arc<str>>,
    /// Ranges that may not be read, by the watch of each.
    ranges: BTreeMap<u64, Arc<str>>,
}

/// The ranges that watches read, and which of them may not be.
#[derive(Default)]
pub(super) struct Rights {
    ranges: Mutex<BTreeMap<u64, KeyRange>>,
    next: AtomicU64,
    lacking: watch::Sender<Arc<Lacking>>,
}

/// The range that a watch reads; no longer when dropped.
pub(super) struct Needs {
    rights: Arc<Rights>,
    id: u64,
    lacking: watch::Receiver<Arc<Lacking>>,
}

impl Rights {
    /// For the watch of a range.
    pub(super) fn needs(self: &Arc<Self>, range: &KeyRange) -> Needs {
        let id = self.next.fetch_add(1, Relaxed);
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).insert(id, range.clone());
        Needs { rights: Arc::clone(self), id, lacking: self.lacking.subscribe() }
    }

    /// The ranges after the last one looked at; from the beginning where there are no more.
    fn batch(&self, last: u64) -> Vec<(u64, KeyRange)> {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let later = ranges.range((Excluded(last), Unbounded)).chain(ranges.range(..=last));
        later.take(MAX_RANGES).map(|(id, range)| (*id, range.clone())).collect()
    }

    /// Publishes what a look found. Whether something that was lacking no longer is.
    fn found(&self, mut now: Lacking) -> bool {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        now.ranges.retain(|id, _| ranges.contains_key(id));
        drop(ranges);
        let before = Arc::clone(&self.lacking.borrow());
        if *before == now {
            return false;
        }
        match (&before.user, &now.user) {
            (None, Some(why)) => {
                tracing::warn!("etcd does not accept the user: {why}; what is known stays until it does")
            }
            (Some(_), None) => tracing::info!("etcd accepts the user again"),
            _ => {}
        }
        for (id, why) in now.ranges.iter().filter(|(id, _)| !before.ranges.contains_key(id)) {
            tracing::debug!(id, "a range may not be read: {why}");
        }
        let returned = before.ranges.keys().any(|id| !now.ranges.contains_key(id));
        let returned = returned || (before.user.is_some() && now.user.is_none());
        self.lacking.send_replace(Arc::new(now));
        returned
    }
}

impl Needs {
    /// Waits until it may be read or not, other than before.
    pub(super) async fn changed(&mut self) {
        if self.lacking.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Why the range may not be read.
    pub(super) fn lacks(&mut self) -> Option<Arc<str>> {
        let lacking = self.lacking.borrow_and_update();
        lacking.user.as_ref().or_else(|| lacking.ranges.get(&self.id)).map(Arc::clone)
    }
}

impl Drop for Needs {
    fn drop(&mut self) {
        self.rights.ranges.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Members {
    /// Looks for ever at what our user may read. Watches that wait because they were refused are woken when a right is
    /// back.
    pub(super) async fn follow_rights(&self, backoff: &Backoff) {
        if !self.has_user() {
            return std::future::pending().await;
        }
        let mut last = 0;
        loop {
            sleep(around(INTERVAL, 0.2)).await;
            let mut now = Lacking::clone(&self.rights.lacking.borrow());
            for (id, range) in self.rights.batch(last) {
                last = id;
                match self.may_read(&range).await {
                    Ok(()) => {
                        now.user = None;
                        now.ranges.remove(&id);
                    }
                    Err(error) => match error.kind {
                        ErrorKind::Unauthorised => {
                            now.user = Some(error.text.into());
                            break;
                        }
                        ErrorKind::Denied => {
                            now.user = None;
                            now.ranges.insert(id, error.text.into());
                        }
                        // It says nothing about rights.
                        ErrorKind::Failed | ErrorKind::Throttled(_) | ErrorKind::Refused => break,
                    },
                }
            }
            if self.rights.found(now) {
                backoff.credentials_changed.notify_waiters();
            }
        }
    }

    async fn may_read(&self, range: &KeyRange) -> Result<(), crate::discovery::supervise::WatchError> {
        let asked = |client: Client| async move {
            let options = GetOptions::new().with_range(range.end.clone()).with_limit(1).with_keys_only();
            get(&client, range.start.clone(), options.with_serializable()).await.map(drop)
        };
        self.call(self.preferred(), asked).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_has_its_turn_and_what_ended_is_forgotten() {
        let rights: Arc<Rights> = Arc::default();
        let needs: Vec<Needs> =
            (0..10).map(|number| rights.needs(&KeyRange::of_prefix(&format!("/{number}/")))).collect();
        let ids = |last: u64| rights.batch(last).into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(0), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(ids(8), [9, 0, 1, 2, 3, 4, 5, 6]);
        let denied = Lacking { user: None, ranges: BTreeMap::from([(3, "denied".into()), (4, "denied".into())]) };
        assert!(!rights.found(denied.clone()));
        assert!(!rights.found(denied), "nothing is back");
        drop(needs);
        assert_eq!(ids(0), [0; 0]);
        assert!(rights.found(Lacking::default()));
    }
}
