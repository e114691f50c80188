//! Defines what a watch knows of its range and whom it shows it. Sources may join and leave between two events.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::mirror::{Event, Listing, Mirror, Outcome};
use super::view::View;
use crate::discovery::Publisher;
use crate::spec::hold::HeldPart;

/// A watch's mirror and its view, published under one lock: who has left is shown nothing any more.
pub(super) struct Known {
    inside: Mutex<Inside>,
    /// Wakes the watch when what was joined may have to be verified.
    pub(super) joined: Notify,
    /// Whether we may not read the range as a whole.
    pub(super) denied: watch::Sender<bool>,
}

/// What the lock is for.
pub(super) struct Inside {
    pub(super) mirror: Mirror,
    pub(super) view: View,
}

impl Known {
    /// What is known at first.
    pub(super) fn new(mirror: Mirror, view: View) -> Self {
        let inside = Mutex::new(Inside { mirror, view });
        Self { inside, joined: Notify::new(), denied: watch::Sender::new(false) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision.
    pub(super) fn revision(&self) -> i64 {
        self.lock().mirror.revision()
    }

    /// Whether removals wait for a confirmation.
    pub(super) fn holds(&self) -> bool {
        self.lock().mirror.holds()
    }

    /// Whether answers with this id are of another etcd cluster.
    pub(super) fn is_foreign(&self, cluster: u64) -> bool {
        self.lock().mirror.is_foreign(cluster)
    }
}

impl Inside {
    /// See [`Mirror::apply`].
    pub(super) fn apply(&mut self, events: Vec<Event>) -> Outcome {
        let outcome = self.mirror.apply(events);
        self.believing(outcome)
    }

    /// See [`Mirror::adopt`].
    pub(super) fn adopt(&mut self, listing: Listing, floor: i64) -> Outcome {
        let outcome = self.mirror.adopt(listing, floor);
        self.believing(outcome)
    }

    /// Publishes what is shown now of these pools; `None`: of all.
    pub(super) fn publish(&mut self, pools: Option<&BTreeSet<Vec<u8>>>, publisher: &Publisher) {
        self.view.publish(&self.mirror, pools, publisher);
    }

    /// Lets go of an accepted part, if it is one of ours. The pools that held it.
    pub(super) fn release(&mut self, part: &HeldPart) -> BTreeSet<Vec<u8>> {
        let Self { mirror, view } = self;
        match view.pool_of(part) {
            Some((pool, None)) if mirror.pool_holds(&pool) => {
                mirror.release_pool(&pool);
                BTreeSet::from([pool])
            }
            Some((pool, Some(key))) if mirror.release_key(&pool, &key) => BTreeSet::from([pool]),
            Some(_) | None => BTreeSet::new(),
        }
    }

    /// A pool that nobody is shown loses what it loses.
    fn believing(&mut self, mut outcome: Outcome) -> Outcome {
        let Self { mirror, view } = self;
        outcome.held.retain(|held| {
            let wanted = view.wants(&held.pool);
            if !wanted {
                mirror.release_pool(&held.pool);
            }
            wanted
        });
        outcome
    }
}
