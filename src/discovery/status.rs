//! Defines the live status of providers and their watches, written by discovery and read by admin.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

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
    /// By a clock that nobody sets, as all ages must be.
    verified_at: Mutex<Option<Instant>>,
    index: AtomicU64,
    sessions: AtomicU64,
    polled: AtomicBool,
    /// Where another watch confirms what this one is named for: its status is the one shown.
    shared: Mutex<Option<Arc<WatchStatus>>>,
    /// Counts, for all watches of the provider, how often one began to fail or no longer does.
    turns: watch::Sender<u64>,
}

impl WatchStatus {
    fn beginning(remembered: Option<&(SystemTime, u64)>, turns: watch::Sender<u64>) -> Self {
        // An earlier process can be told from by the wall clock alone; from now on it ages by ours.
        let verified_at = remembered.and_then(|(at, _)| Instant::now().checked_sub(at.elapsed().unwrap_or_default()));
        Self {
            state: Mutex::new(WatchState::Starting),
            verified_at: Mutex::new(verified_at),
            index: AtomicU64::new(remembered.map_or(0, |(_, index)| *index)),
            sessions: AtomicU64::new(0),
            polled: AtomicBool::new(false),
            shared: Mutex::new(None),
            turns,
        }
    }

    /// An authoritative answer confirmed what is known as of `at` (the start of the request that was answered).
    pub fn confirmed(&self, at: Instant) {
        {
            let mut verified_at = self.verified_at.lock().unwrap_or_else(PoisonError::into_inner);
            *verified_at = (*verified_at).max(Some(at));
        }
        self.set_state(WatchState::Live);
    }

    /// The registry's counter that goes with what is known: Consul's index, etcd's revision.
    pub fn set_index(&self, index: u64) {
        self.index.store(index, Relaxed);
    }

    /// The last index or revision; before the first answer that of an earlier process, or 0.
    pub fn index(&self) -> u64 {
        self.shared().map_or_else(|| self.index.load(Relaxed), |shared| shared.index())
    }

    /// How long ago what is known was last confirmed.
    pub fn age(&self) -> Option<Duration> {
        if let Some(shared) = self.shared() {
            return shared.age();
        }
        let verified_at = *self.verified_at.lock().unwrap_or_else(PoisonError::into_inner);
        verified_at.map(|at| at.elapsed())
    }

    /// When that was, by the wall clock as it is now.
    pub fn verified_at(&self) -> Option<SystemTime> {
        SystemTime::now().checked_sub(self.age()?)
    }

    /// Sessions begun: 1, and one more for each reconnect.
    pub fn sessions(&self) -> u64 {
        self.shared().map_or_else(|| self.sessions.load(Relaxed), |shared| shared.sessions())
    }

    /// Whether it is read now and then instead of being told of changes, for want of a place among the blocked queries.
    pub fn is_polled(&self) -> bool {
        self.polled.load(Relaxed)
    }

    pub(super) fn set_polled(&self, polled: bool) {
        self.polled.store(polled, Relaxed);
    }

    /// Where it stands.
    pub fn state(&self) -> WatchState {
        match self.shared() {
            Some(shared) => shared.state(),
            None => self.state.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Whether it is a name for another watch, which has others, too.
    pub fn is_shared(&self) -> bool {
        self.shared().is_some()
    }

    fn shared(&self) -> Option<Arc<WatchStatus>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on that of another watch, which is none of this kind itself.
    fn share(&self, watch: &Arc<WatchStatus>) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(watch));
    }

    /// From now on its own, which begins with what the shared one had.
    fn separate(&self) {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(shared) = shared {
            let verified_at = *shared.verified_at.lock().unwrap_or_else(PoisonError::into_inner);
            *self.verified_at.lock().unwrap_or_else(PoisonError::into_inner) = verified_at;
            self.set_index(shared.index());
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = WatchState::Starting;
        }
    }

    pub(super) fn session_begins(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    pub(super) fn set_state(&self, state: WatchState) {
        let failing = |state: &WatchState| matches!(state, WatchState::Failing { .. });
        let now = failing(&state);
        let before = std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), state);
        if failing(&before) != now {
            self.turns.send_modify(|turns| *turns += 1);
        }
    }
}

fn millis(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
}

fn time_of(milliseconds: u64) -> Option<SystemTime> {
    (milliseconds > 0).then(|| UNIX_EPOCH + Duration::from_millis(milliseconds))
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

/// What a provider asks of its registry, since the start.
#[derive(Debug, Default)]
pub struct Cost {
    /// Answers read, and messages of streams.
    pub answers: AtomicU64,
    /// Those of them that the registry sent because something had changed, or a wait was over.
    pub wakeups: AtomicU64,
    /// Bytes of all of them, decompressed; of etcd those of keys and values.
    pub bytes: AtomicU64,
    /// The connections to it.
    pub connections: Arc<Connections>,
}

/// Connections to a registry.
#[derive(Debug, Default)]
pub struct Connections {
    opened: AtomicU64,
    closed: AtomicU64,
    /// Whether the client that opens them tells when one is closed.
    followed: AtomicBool,
}

/// A connection whose end is noticed: it is over when this is dropped.
#[derive(Debug)]
pub struct Open(Arc<Connections>);

impl Connections {
    /// One was opened, and nobody will tell when it is closed.
    pub(super) fn opens(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// One was opened.
    pub fn open(self: &Arc<Self>) -> Open {
        self.followed.store(true, Relaxed);
        self.opens();
        Open(Arc::clone(self))
    }

    /// How many were opened since the start.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// How many are open now; `None` where nobody tells when one is closed, or none was opened yet.
    pub fn now(&self) -> Option<u64> {
        // In this order: one that is closed meanwhile is not subtracted before it was added.
        let closed = self.closed.load(Relaxed);
        self.followed.load(Relaxed).then(|| self.opened().saturating_sub(closed))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Relaxed);
    }
}

impl Cost {
    /// An answer of so many bytes came.
    pub(super) fn answered(&self, bytes: usize) {
        self.answers.fetch_add(1, Relaxed);
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Relaxed);
    }
}

/// The status of a provider and its watches.
#[derive(Debug)]
pub struct ProviderStatus {
    id: ProviderId,
    watches: Mutex<BTreeMap<String, Arc<WatchStatus>>>,
    turns: watch::Sender<u64>,
    /// What an earlier process knew of watches by name: when they were confirmed, and their index.
    remembered: BTreeMap<String, (SystemTime, u64)>,
    /// Update counters.
    pub updates: Updates,
    /// What it costs its registry.
    pub cost: Cost,
    token_expires_at_ms: AtomicU64,
    registered: Mutex<Option<Registered>>,
}

/// How the gateway's own registration stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// What it is called in the registry: a service's id, a key.
    pub place: String,
    /// Whether the last assertion of it succeeded, and left it in the registry.
    pub stands: bool,
    /// Why it can't be asserted.
    pub error: Option<String>,
}

impl ProviderStatus {
    /// The status of a provider without watches.
    pub fn new(id: ProviderId) -> Arc<Self> {
        Self::remembering(id, BTreeMap::new())
    }

    /// As [`Self::new`], with what an earlier process knew of watches: each begins with the time it was confirmed
    /// then, and with its index.
    pub fn remembering(id: ProviderId, remembered: BTreeMap<String, (SystemTime, u64)>) -> Arc<Self> {
        Arc::new(Self {
            id,
            watches: Mutex::new(BTreeMap::new()),
            turns: watch::Sender::new(0),
            remembered,
            updates: Updates::default(),
            cost: Cost::default(),
            token_expires_at_ms: AtomicU64::new(0),
            registered: Mutex::new(None),
        })
    }

    /// Whose status it is.
    pub fn id(&self) -> ProviderId {
        self.id
    }

    /// When the token in use ends; `None` when it does not, or there is none.
    pub fn token_expires_at(&self) -> Option<SystemTime> {
        time_of(self.token_expires_at_ms.load(Relaxed))
    }

    /// Notes when the token in use ends.
    pub fn set_token_expires_at(&self, at: Option<SystemTime>) {
        self.token_expires_at_ms.store(at.map_or(0, millis), Relaxed);
    }

    /// How the gateway's own registration stands; `None` where none is wanted.
    pub fn registered(&self) -> Option<Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how the gateway's own registration stands.
    pub fn set_registered(&self, registered: Registered) {
        *self.registered.lock().unwrap_or_else(PoisonError::into_inner) = Some(registered);
    }

    /// The status of the watch with this name, made when there is none. The watch of a source is named by
    /// the source's text (`consul:users`), that of documents by what it reads (`kv:fleetgate/`).
    pub fn watch(&self, name: &str) -> Arc<WatchStatus> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(WatchStatus::beginning(self.remembered.get(name), self.turns.clone()));
        Arc::clone(watches.entry(name.to_owned()).or_insert_with(new))
    }

    /// The status of a watch that is listed only while it serves.
    pub(super) fn unlisted(&self, name: &str) -> Arc<WatchStatus> {
        Arc::new(WatchStatus::beginning(self.remembered.get(name), self.turns.clone()))
    }

    /// Lists such a watch.
    pub(super) fn list(&self, name: &str, watch: &Arc<WatchStatus>) {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(watch));
    }

    /// What is named so is confirmed by this watch.
    pub(super) fn share(&self, name: &str, watch: &Arc<WatchStatus>) {
        self.watch(name).share(watch);
        self.turns.send_modify(|turns| *turns += 1);
    }

    /// What is named so has a watch of its own again.
    pub(super) fn separate(&self, name: &str) {
        self.watch(name).separate();
        self.turns.send_modify(|turns| *turns += 1);
    }

    /// Forgets a watch that ended.
    pub fn forget(&self, name: &str) {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.turns.send_modify(|turns| *turns += 1);
    }

    /// Changes when a watch begins to fail, no longer does, or is forgotten.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    /// The watches that fail, and what went wrong.
    pub fn failing(&self) -> BTreeMap<String, String> {
        let failing = |(name, watch): (String, Arc<WatchStatus>)| match watch.state() {
            WatchState::Failing { error, .. } => Some((name, error)),
            WatchState::Starting | WatchState::Live => None,
        };
        self.watches().into_iter().filter_map(failing).collect()
    }

    /// The index or revision of a watch; without a name the newest of all, which the documents are of.
    pub fn index(&self, watch: Option<&str>) -> Option<u64> {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match watch {
            Some(name) => watches.get(name)?.index(),
            None => watches.values().map(|watch| watch.index()).max()?,
        };
        (index > 0).then_some(index)
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

    /// The watches that there really are, however many things each is named for.
    pub fn distinct(&self) -> Vec<Arc<WatchStatus>> {
        self.watches().into_values().filter(|watch| !watch.is_shared()).collect()
    }

    /// All watches by name, and what is named apart though it shares one.
    pub fn watches(&self) -> BTreeMap<String, Arc<WatchStatus>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
