//! Defines for how long what was served stays, while the source of what replaces it has not answered yet.
//!
//! An edit that points a route or an upstream somewhere new is known before the registry has said who is there.
//! Served at once, it would answer 503 for the moment in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::spec::document::Kind;

/// The longest wait. An edit that names what does not exist must show in the end.
const GRACE: Duration = Duration::from_secs(5);

/// Who waits, since when.
#[derive(Debug)]
pub(super) struct Grace {
    now: Instant,
    waited: BTreeMap<(Kind, Arc<str>), Instant>,
    waits: BTreeMap<(Kind, Arc<str>), Instant>,
}

impl Grace {
    pub(super) fn new(now: Instant) -> Self {
        Self { now, waited: BTreeMap::new(), waits: BTreeMap::new() }
    }

    /// A build begins; who waited in the last one and does not ask again waits no more.
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = now;
        self.waited = std::mem::take(&mut self.waits);
    }

    /// Whether an item waited in the build before: equal input does not mean equal output then.
    pub(super) fn waited(&self, kind: Kind, label: &Arc<str>) -> bool {
        self.waited.contains_key(&(kind, Arc::clone(label)))
    }

    /// Whether an item may stay as it was. Its time begins with the first build that asks.
    pub(super) fn lasts(&mut self, kind: Kind, label: &Arc<str>) -> bool {
        let key = (kind, Arc::clone(label));
        let since = self.waited.get(&key).copied().unwrap_or(self.now);
        let lasts = self.now < since + GRACE;
        if lasts {
            self.waits.insert(key, since);
        }
        lasts
    }

    /// When the next build is due because somebody has waited long enough.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.waits.values().min().map(|since| *since + GRACE)
    }
}
