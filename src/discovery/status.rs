//! Defines the live status of providers and their watches, written by discovery and read by admin.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::spec::name::ProviderId;

/// Where a watch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// No answer yet.
    Starting,
    /// Answers come.
    Live,
    /// The last try failed; what was known is kept.
    Failing {
        /// Tries in a row that failed.
        failures: u32,
        /// What went wrong last. Never a secret.
        error: String,
    },
}

/// The status of one watch.
#[derive(Debug)]
pub struct WatchStatus {
    state: Mutex<WatchState>,
    verified_at_ms: AtomicU64,
    index: AtomicU64,
    sessions: AtomicU64,
}

impl WatchStatus {
    fn beginning(remembered: Option<&(SystemTime, u64)>) -> Self {
        let (at, index) = remembered.map_or((0, 0), |(at, index)| (millis(*at), *index));
        Self {
            state: Mutex::new(WatchState::Starting),
            verified_at_ms: AtomicU64::new(at),
            index: AtomicU64::new(index),
            sessions: AtomicU64::new(0),
        }
    }

    /// An authoritative answer confirmed what is known as of `at` (the start of the request that was answered).
    pub fn confirmed(&self, at: SystemTime) {
        self.verified_at_ms.fetch_max(millis(at), Relaxed);
        self.set_state(WatchState::Live);
    }

    /// The registry's counter that goes with what is known: Consul's index, etcd's revision.
    pub fn set_index(&self, index: u64) {
        self.index.store(index, Relaxed);
    }

    /// The last index or revision; before the first answer that of an earlier process, or 0.
    pub fn index(&self) -> u64 {
        self.index.load(Relaxed)
    }

    /// When what is known was last confirmed.
    pub fn verified_at(&self) -> Option<SystemTime> {
        match self.verified_at_ms.load(Relaxed) {
            0 => None,
            at => Some(UNIX_EPOCH + Duration::from_millis(at)),
        }
    }

    /// Sessions begun: 1, and one more for each reconnect.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Relaxed)
    }

    /// Where it stands.
    pub fn state(&self) -> WatchState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn session_begins(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    pub(super) fn set_state(&self, state: WatchState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

fn millis(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
}

/// What happened to updates, for `fleetgate_discovery_updates_total`.
#[derive(Debug, Default)]
pub struct Updates {
    /// Changed the published state.
    pub applied: AtomicU64,
    /// Answers that changed nothing.
    pub unchanged: AtomicU64,
    /// Reads that failed.
    pub failed: AtomicU64,
    /// Removals that were held back.
    pub held: AtomicU64,
}

/// The status of a provider and its watches.
#[derive(Debug)]
pub struct ProviderStatus {
    id: ProviderId,
    watches: Mutex<BTreeMap<String, Arc<WatchStatus>>>,
    /// What an earlier process knew of watches by name: when they were confirmed, and their index.
    remembered: BTreeMap<String, (SystemTime, u64)>,
    /// Update counters.
    pub updates: Updates,
}

impl ProviderStatus {
    /// The status of a provider without watches.
    pub fn new(id: ProviderId) -> Arc<Self> {
        Self::remembering(id, BTreeMap::new())
    }

    /// As [`Self::new`], with what an earlier process knew of watches: each begins with the time it was confirmed
    /// then, and with its index.
    pub fn remembering(id: ProviderId, remembered: BTreeMap<String, (SystemTime, u64)>) -> Arc<Self> {
        Arc::new(Self { id, watches: Mutex::new(BTreeMap::new()), remembered, updates: Updates::default() })
    }

    /// Whose status it is.
    pub fn id(&self) -> ProviderId {
        self.id
    }

    /// The status of the watch with this name, made when there is none. The watch of a source is named by
    /// the source's text (`consul:users`), that of documents by what it reads (`kv:fleetgate/`).
    pub fn watch(&self, name: &str) -> Arc<WatchStatus> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(WatchStatus::beginning(self.remembered.get(name)));
        Arc::clone(watches.entry(name.to_owned()).or_insert_with(new))
    }

    /// Forgets a watch that ended.
    pub fn forget(&self, name: &str) {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// When each watch was confirmed last, and its index; of those that are not watched yet, as an earlier process
    /// knew it.
    pub fn verified(&self) -> BTreeMap<String, (SystemTime, u64)> {
        let watches = self.watches().into_iter();
        let watches = watches.filter_map(|(name, watch)| Some((name, (watch.verified_at()?, watch.index()))));
        let mut verified = self.remembered.clone();
        verified.extend(watches);
        verified
    }

    /// All watches by name.
    pub fn watches(&self) -> BTreeMap<String, Arc<WatchStatus>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
