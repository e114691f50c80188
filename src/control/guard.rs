//! Defines what spans watches: a registry that loses much at once, or whose counter went back or servers are others, was
//! wiped, restored or replaced, and is not believed. What it lost is held until it is back, until `wipe_hold` has passed since the
//! registry filled again, or until an operator accepts the loss, part by part. Pure: time comes in.
//!
//! A watch has confirmed each removal by a second read before it gets here; a wiped registry confirms them all.
//! Nothing but absence is ever held: additions, weights and statuses flow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::moves::Moves;
use super::content::{Content, Part};
use super::damping::Damping;
use super::saved::SavedState;
use crate::discovery::state::{Origin, ProviderState, SourceState};
use crate::snapshot::report::Hold;
use crate::spec::endpoint::{Address, EndpointSpec};
use crate::spec::hold::HeldPart;
use crate::spec::name::ProviderId;
use crate::spec::source::Source;

mod moves;
mod release;

pub(super) use moves::Release;

/// Losses that come within this time count together.
const WINDOW: Duration = Duration::from_secs(10);
/// How long the loss of most of a pool waits for others of its kind. A real scale-to-zero waits no longer.
const GATHER: Duration = Duration::from_millis(500);
/// So many pools, and so many endpoints of theirs, are no coincidence.
const POOLS: usize = 3;
const ENDPOINTS: usize = 10;
/// Watches notice one by one: what a registry still loses so soon after an operator accepted all that was held has the
/// same cause, and nobody has seen it. It is held, too.
const AFTERMATH: Duration = Duration::from_secs(30);
/// How long registries have to answer before the saved state is served.
const SAVED_AFTER: Duration = Duration::from_secs(2);

/// Stands between what providers publish and what is merged.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None`: what is held never goes by itself.
    wipe_hold: Option<Duration>,
    states: BTreeMap<ProviderId, Arc<ProviderState>>,
    served: BTreeMap<ProviderId, Arc<ProviderState>>,
    pools: BTreeMap<(ProviderId, Part), Pool>,
    wipes: BTreeMap<Registry, Wipe>,
    /// Of an earlier process, as far as registries have not answered since.
    saved: BTreeMap<ProviderId, SavedState>,
    saved_at: Instant,
    /// Providers whose registry failed to answer since the start: nothing is gained by waiting for it.
    failed: BTreeSet<ProviderId>,
    /// Providers of documents without which the gateway may start.
    optional: BTreeSet<ProviderId>,
    /// When this process began.
    began: Instant,
    /// Sources whose saved endpoints count as lost until the registry lists them again.
    doubted: BTreeSet<Source>,
    moves: Moves,
    /// What providers read of sources that nobody wants.
    beside: BTreeMap<ProviderId, Beside>,
    /// What is held of sources by whomever, though it belongs to others now.
    released: BTreeMap<Source, Arc<BTreeSet<Address>>>,
    /// That it was released, for whoever tells.
    releases: Vec<Release>,
    pruned_at: Instant,
    /// `None`: switched off.
    damping: Option<Damping>,
    looked_at: Instant,
}

/// What shares its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Registry {
    Consul,
    Etcd,
}

/// A source, or all documents of a provider.
#[derive(Debug)]
struct Pool {
    now: Content,
    /// The most it had within the window, and until when.
    peak: Content,
    peak_at: Instant,
    /// Whether its watch holds some of it.
    held: bool,
    /// What its last read does not list.
    unlisted: Arc<BTreeSet<Address>>,
    /// Before its last change, and when that was.
    before: Content,
    changed_at: Instant,
    /// Until when a loss waits for others.
    gathers: Option<Instant>,
}

type Beside = Arc<BTreeMap<Source, Arc<[EndpointSpec]>>>;

/// A registry that is not believed.
#[derive(Debug)]
struct Wipe {
    why: Arc<str>,
    /// When what is still missing goes; `None` while the registry is empty.
    ends: Option<Instant>,
    /// What was known and has not been listed since.
    unseen: BTreeMap<(ProviderId, Part), Content>,
    /// That something is held was said.
    told: bool,
    /// Operators accepted all that was held; if nothing more is lost by then, the registry is believed again.
    settles: Option<Instant>,
}

impl Wipe {
    /// Of a registry that is empty, as far as is known, and of which nothing is known to be lost.
    fn new(why: Arc<str>) -> Self {
        Self { why, ends: None, unseen: BTreeMap::new(), told: false, settles: None }
    }
}

impl Registry {
    fn of(provider: ProviderId) -> Option<Self> {
        match provider {
            ProviderId::Consul | ProviderId::ConsulKv => Some(Self::Consul),
            ProviderId::Etcd => Some(Self::Etcd),
            // A route of a registration outlives its instances by itself.
            ProviderId::File | ProviderId::ConsulTags | ProviderId::Dns => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Consul => "Consul",
            Self::Etcd => "etcd",
        }
    }
}

impl Pool {
    /// What it lost within the window, when that is more than half of what it had. One that got as many new
    /// endpoints as it lost was deployed anew.
    fn lost_most(&self, now: Instant) -> Option<Content> {
        let fresh = now.saturating_duration_since(self.peak_at) <= WINDOW;
        (fresh && self.now.size() * 2 < self.peak.size()).then(|| self.peak.without(&self.now))
    }
}

impl Guard {
    pub(super) fn new(
        wipe_hold: Option<Duration>,
        damping: bool,
        saved: BTreeMap<ProviderId, SavedState>,
        now: Instant,
    ) -> Self {
        let damping = damping.then(Damping::default);
        let (states, served, pools) = Default::default();
        // What an earlier process held is held on.
        let disbelieved =
            saved.iter().filter_map(|(id, saved)| Some((Registry::of(*id)?, saved.disbelieved.as_ref()?)));
        let wipes = disbelieved.map(|(registry, why)| (registry, Wipe::new(Arc::clone(why)))).collect();
        let (failed, optional) = Default::default();
        let saved_at = now + SAVED_AFTER;
        let (doubted, beside, released, releases) = Default::default();
        let moves = Moves::new(!saved.is_empty());
        Self {
            wipe_hold,
            states,
            served,
            pools,
            wipes,
            saved,
            saved_at,
            failed,
            optional,
            began: now,
            doubted,
            moves,
            beside,
            released,
            releases,
            pruned_at: now,
            damping,
            looked_at: now,
        }
    }

    /// What is to be merged, as of the last [`Self::look`].
    pub(super) fn served(&self) -> &BTreeMap<ProviderId, Arc<ProviderState>> {
        &self.served
    }

    /// With these providers of documents, without which the gateway may start.
    pub(super) fn with_optional(self, optional: BTreeSet<ProviderId>) -> Self {
        Self { optional, ..self }
    }

    /// Notes providers whose registry failed to answer. What was saved of theirs is served from the next look on.
    pub(super) fn note_failed(&mut self, failing: &BTreeSet<ProviderId>) {
        self.failed.extend(failing);
    }

    /// Whether a provider had its time to answer first, as of the last look.
    fn has_waited_for(&self, id: ProviderId) -> bool {
        self.looked_at >= self.saved_at || self.failed.contains(&id)
    }

    /// What is held no longer because another service lists its address, since the last call.
    pub(super) fn take_releases(&mut self) -> Vec<Release> {
        std::mem::take(&mut self.releases)
    }

    /// When to look again though nothing was published.
    pub(super) fn due(&self) -> Option<Instant> {
        let gathers = self.pools.values().filter_map(|pool| pool.gathers);
        let saved = Some(self.saved_at).filter(|at| *at > self.looked_at);
        let damped = self.damping.as_ref().and_then(|damping| damping.due(self.looked_at));
        let wipes = self.wipes.values().flat_map(|wipe| [wipe.ends, wipe.settles]).flatten();
        gathers.chain(damped).chain(wipes).chain(saved).min()
    }

    /// Takes what a provider publishes.
    pub(super) fn take(&mut self, id: ProviderId, state: Arc<ProviderState>, now: Instant) {
        let before = self.states.insert(id, Arc::clone(&state)).unwrap_or_default();
        let registry = Registry::of(id);
        let why = match (state.regressions > before.regressions, state.other_servers > before.other_servers) {
            (_, true) => Some("other servers answer than before"),
            (true, false) => Some("its counter went back"),
            (false, false) => None,
        };
        if let (Some(registry), Some(why)) = (registry, why) {
            // Its watches say so before they publish what they read, so what is known here is older than that.
            self.disbelieve(registry, why.into(), &BTreeMap::new(), now);
        }
        // As before, by a registry that went back: it has it still.
        let listed = state.listed.iter().filter(|(source, count)| before.listed.get(source) != Some(count));
        let part = |source: &Option<Source>| source.clone().map_or(Part::Documents, Part::Source);
        let listed: BTreeSet<Part> = listed.map(|(source, _)| part(source)).collect();
        let changed = state.changed_sources(&before).into_iter().cloned().map(Part::Source).chain([Part::Documents]);
        let changed: BTreeSet<Part> = changed.chain(listed.iter().cloned()).collect();
        for part in changed {
            // What a watch holds itself is not the registry's word either.
            let held = match &part {
                Part::Documents => state.documents_held,
                Part::Source(source) => state.sources.get(source).is_some_and(|known| known.origin == Origin::Held),
            };
            let unlisted = match &part {
                Part::Documents => Arc::default(),
                Part::Source(source) => {
                    state.sources.get(source).map(|it| Arc::clone(&it.unlisted)).unwrap_or_default()
                }
            };
            let again = listed.contains(&part);
            match Content::of(&state, &part) {
                Some(content) => self.change((id, part), content, unlisted, (held, again), now),
                None => self.forget(&(id, part)),
            }
        }
        self.note_beside(id, &state, now);
        let Some(registry) = registry else { return };
        if let Some(damping) = &mut self.damping {
            damping.note(&before, &state, now);
        }
        self.add_up(registry, now);
    }

    /// An operator accepts a loss: it is held no longer. Whether it was held here.
    pub(super) fn release(&mut self, hold: &Hold, now: Instant) -> bool {
        let Some(registry) = Registry::of(hold.provider) else { return false };
        let part = match (&hold.part, &hold.item) {
            (HeldPart::Endpoints(source), _) => Part::Source(source.clone()),
            (HeldPart::Document(_), Some(_)) => Part::Documents,
            (HeldPart::Document(_) | HeldPart::File(_), _) => return false,
        };
        let key = (hold.provider, part);
        let Some(wipe) = self.wipes.get(&registry) else { return false };
        let Some(held) = self.held(wipe).remove(&key) else { return false };
        let Some(pool) = self.pools.get_mut(&key) else { return false };
        let Some(unseen) = self.wipes.get_mut(&registry).and_then(|wipe| wipe.unseen.get_mut(&key)) else {
            return false;
        };
        match &hold.item {
            Some(item) if !held.items().contains(item) => return false,
            Some(item) => {
                *unseen = unseen.without_item(item);
                // Else it counts as lost once more.
                pool.peak = pool.peak.without_item(item);
            }
            None => {
                *unseen = unseen.without(&held);
                pool.peak = pool.now.clone();
            }
        }
        let rest = self.wipes.get(&registry).is_some_and(|wipe| !self.held(wipe).is_empty());
        if let (false, Some(wipe)) = (rest, self.wipes.get_mut(&registry)) {
            (wipe.settles, wipe.ends, wipe.told) = (Some(now + AFTERMATH), None, false);
        }
        true
    }

    /// Lets go of what has waited long enough, and brings [`Self::served`] up to date.
    pub(super) fn look(&mut self, wanted: &BTreeSet<Source>, now: Instant) {
        for pool in self.pools.values_mut() {
            pool.gathers = pool.gathers.filter(|until| *until > now);
        }
        self.settle(now);
        let over = |wipe: &Wipe| wipe.ends.is_some_and(|ends| ends <= now);
        let ended: Vec<Registry> = self.wipes.iter().filter(|(_, wipe)| over(wipe)).map(|(it, _)| *it).collect();
        for registry in ended {
            let filled = self.lists(registry);
            let Some(wipe) = self.wipes.get_mut(&registry) else { continue };
            if !filled {
                // It was emptied once more, while what it had lost before had its time.
                wipe.ends = None;
                continue;
            }
            if wipe.told {
                tracing::warn!("{} does not list what is held, and has had its time: it goes", registry.name());
            }
            self.believe(registry);
        }
        if let Some(damping) = &mut self.damping {
            damping.look(now);
        }
        self.release_moved(wanted, now);
        self.tell();
        self.looked_at = now;
        let served = self.states.iter().map(|(id, state)| (*id, self.guarded(*id, state, wanted))).collect();
        self.served = served;
    }

    /// Believes registries that lost nothing more after operators had accepted all that was held.
    fn settle(&mut self, now: Instant) {
        let settling: Vec<(Registry, Instant)> =
            self.wipes.iter().filter_map(|(registry, wipe)| Some((*registry, wipe.settles?))).collect();
        for (registry, settles) in settling {
            let loses = self.wipes.get(&registry).is_some_and(|wipe| !self.held(wipe).is_empty());
            let ends = self.wipe_hold.filter(|_| self.lists(registry)).map(|hold| now + hold);
            match self.wipes.get_mut(&registry) {
                // What nobody has seen yet has the full time.
                Some(wipe) if loses => (wipe.settles, wipe.ends) = (None, ends),
                Some(_) if settles <= now => self.believe(registry),
                Some(_) | None => {}
            }
        }
    }

    /// Whether a registry lists anything.
    fn lists(&self, registry: Registry) -> bool {
        let lists = |pool: &Pool| !pool.held && pool.now.size() > 0;
        self.pools.iter().any(|((id, _), pool)| Registry::of(*id) == Some(registry) && lists(pool))
    }

    /// Nobody wants it any more.
    fn forget(&mut self, key: &(ProviderId, Part)) {
        self.pools.remove(key);
        if let Part::Source(source) = &key.1 {
            self.moves.forget(source);
        }
        for wipe in self.wipes.values_mut() {
            wipe.unseen.remove(key);
        }
    }

    /// `again`: it was listed for the first time since its registry went back, whether or not that changes it.
    fn change(
        &mut self,
        key: (ProviderId, Part),
        content: Content,
        unlisted: Arc<BTreeSet<Address>>,
        (held, again): (bool, bool),
        now: Instant,
    ) {
        let same = |pool: &Pool| pool.now.is(&content) && pool.held == held;
        let known = self.pools.get(&key);
        if known.is_some_and(|pool| same(pool) && !again && pool.unlisted == unlisted) {
            return;
        }
        // What was saved counts as known.
        let saved = match known {
            Some(_) => None,
            None => self.saved.get_mut(&key.0).and_then(|saved| saved.answered(&key.1)),
        };
        self.saved.retain(|_, saved| !saved.is_empty());
        self.note_addresses(&key, &content, &unlisted, saved.as_ref(), now);
        let listed = if unlisted.is_empty() { content.clone() } else { content.without_addresses(&unlisted) };
        let wipe = Registry::of(key.0).and_then(|registry| self.wipes.get_mut(&registry));
        match self.pools.get_mut(&key) {
            Some(pool) if same(pool) => pool.unlisted = unlisted,
            Some(pool) => {
                if pool.now.size() >= pool.peak.size() || now.saturating_duration_since(pool.peak_at) > WINDOW {
                    (pool.peak, pool.peak_at) = (pool.now.clone(), now);
                }
                let before = std::mem::replace(&mut pool.now, content.clone());
                if pool.gathers.is_none() {
                    pool.before = before;
                }
                (pool.held, pool.unlisted, pool.changed_at) = (held, unlisted, now);
            }
            None => {
                let peak = saved.unwrap_or_else(|| content.clone());
                if let Some(wipe) = wipe {
                    wipe.unseen.insert(key.clone(), peak.clone());
                }
                let before = peak.clone();
                let (peak_at, changed_at, gathers) = (now, now, None);
                let now = content.clone();
                let pool = Pool { now, peak, peak_at, held, unlisted, before, changed_at, gathers };
                self.pools.insert(key.clone(), pool);
            }
        }
        let Some(wipe) = Registry::of(key.0).and_then(|registry| self.wipes.get_mut(&registry)) else { return };
        if held {
            return;
        }
        if listed.size() > 0 && wipe.ends.is_none() {
            wipe.ends = self.wipe_hold.map(|hold| now + hold);
        }
        // What is listed again is the registry's word from now on.
        if let Some(unseen) = wipe.unseen.get_mut(&key) {
            *unseen = unseen.without(&listed);
        }
    }

    /// Adds up what the pools of a registry lost of late.
    fn add_up(&mut self, registry: Registry, now: Instant) {
        let (mut lost, mut sum) = (BTreeMap::new(), 0);
        let (mut pools, mut size) = (0, 0);
        for (key, pool) in self.pools.iter().filter(|(key, _)| Registry::of(key.0) == Some(registry)) {
            (pools, size) = (pools + 1, size + pool.peak.size());
            let Some(missing) = pool.lost_most(now) else { continue };
            let held = self.wipes.get(&registry).and_then(|wipe| wipe.unseen.get(key));
            let missing = held.map_or_else(|| missing.clone(), |held| missing.without(held));
            if missing.size() > 0 {
                sum += missing.size();
                lost.insert(key.clone(), missing);
            }
        }
        if lost.len() >= POOLS && sum >= ENDPOINTS {
            let why = format!("{} pools lost {sum} of their endpoints and documents at once", lost.len());
            self.disbelieve(registry, why.into(), &lost, now);
        } else if pools >= POOLS && size >= ENDPOINTS {
            for key in lost.keys() {
                if let Some(pool) = self.pools.get_mut(key).filter(|pool| pool.changed_at == now) {
                    pool.gathers.get_or_insert(now + GATHER);
                }
            }
        }
    }

    fn disbelieve(
        &mut self,
        registry: Registry,
        why: Arc<str>,
        lost: &BTreeMap<(ProviderId, Part), Content>,
        now: Instant,
    ) {
        // Losses show that it fills no more; a counter says nothing of what is there now.
        let filled = !lost.is_empty();
        let of_registry = |key: &(ProviderId, Part)| Registry::of(key.0) == Some(registry);
        let pools = self.pools.iter().filter(|(key, _)| of_registry(key));
        let filled = filled && pools.clone().any(|(_, pool)| pool.now.size() > 0);
        let ends = self.wipe_hold.filter(|_| filled).map(|hold| now + hold);
        let wipe = self.wipes.entry(registry).or_insert_with(|| Wipe { ends, ..Wipe::new(why) });
        // Its watches notice one after the other; those that list nothing would never start the clock again.
        wipe.ends = ends.or(wipe.ends.and(self.wipe_hold).map(|hold| now + hold));
        for (key, pool) in pools {
            let known = lost.get(key).map_or_else(|| pool.now.clone(), |lost| lost.clone());
            if let (Part::Source(source), Content::Endpoints(known)) = (&key.1, &known) {
                known.iter().for_each(|endpoint| self.moves.doubt(source, &endpoint.address, now));
            }
            let unseen = wipe.unseen.get(key).map_or_else(|| known.clone(), |unseen| known.with(unseen));
            wipe.unseen.insert(key.clone(), unseen);
        }
        for (_, pool) in self.pools.iter_mut().filter(|(key, _)| of_registry(key)) {
            pool.gathers = None;
        }
    }

    fn believe(&mut self, registry: Registry) {
        self.wipes.remove(&registry);
        for (_, pool) in self.pools.iter_mut().filter(|(key, _)| Registry::of(key.0) == Some(registry)) {
            (pool.peak, pool.gathers) = (pool.now.clone(), None);
        }
    }

    /// What a wipe holds of each pool.
    fn held(&self, wipe: &Wipe) -> BTreeMap<(ProviderId, Part), Content> {
        let held = wipe.unseen.iter().filter_map(|(key, unseen)| {
            let mut held = unseen.without(&self.pools.get(key)?.now);
            if let Part::Source(source) = &key.1
                && let Some(released) = self.released.get(source)
            {
                held = held.without_addresses(released);
            }
            (held.size() > 0).then(|| (key.clone(), held))
        });
        held.collect()
    }

    fn tell(&mut self) {
        let counts: Vec<(Registry, usize)> = self
            .wipes
            .iter()
            .map(|(registry, wipe)| (*registry, self.held(wipe).values().map(Content::size).sum()))
            .collect();
        for (registry, held) in counts {
            let Some(wipe) = self.wipes.get_mut(&registry) else { continue };
            let (name, why) = (registry.name(), &wipe.why);
            match (held, wipe.told) {
                (1.., false) => {
                    tracing::warn!(
                        "{name} looks wiped, restored or replaced ({why}): {held} endpoints and documents that it lost are \
                         held; `fleetgate status` lists them, and what accepts each"
                    );
                    wipe.told = true;
                }
                (0, true) => {
                    tracing::info!("{name} lists again all that was held");
                    wipe.told = false;
                }
                _ => {}
            }
        }
    }

    /// A provider's state as it is served.
    fn guarded(&self, id: ProviderId, state: &Arc<ProviderState>, wanted: &BTreeSet<Source>) -> Arc<ProviderState> {
        let quiet = Registry::of(id).is_none_or(|registry| !self.wipes.contains_key(&registry))
            && self.damping.as_ref().is_none_or(Damping::is_empty)
            && !self.saved.contains_key(&id)
            && !(state.documents.is_none() && self.optional.contains(&id))
            && self.released.keys().all(|source| source.provider() != id)
            && self.pools.iter().all(|((of, _), pool)| *of != id || pool.gathers.is_none());
        if quiet {
            return Arc::clone(state);
        }
        let mut guarded = ProviderState::clone(state);
        let mut changed = false;
        if let Some(wipe) = Registry::of(id).and_then(|registry| self.wipes.get(&registry)) {
            for ((_, part), held) in self.held(wipe).into_iter().filter(|((of, _), _)| *of == id) {
                changed = true;
                guarded.kept.why = Some(Arc::clone(&wipe.why));
                match &part {
                    Part::Documents => guarded.kept.documents = held.items(),
                    Part::Source(source) => {
                        let addresses: BTreeSet<_> = held.addresses();
                        guarded.kept.addresses.insert(source.clone(), Arc::new(addresses));
                        if let Some(known) = guarded.sources.get_mut(source) {
                            known.origin = Origin::Held;
                        }
                    }
                }
                held.add_to(&part, &mut guarded);
            }
        }
        for ((_, part), pool) in self.pools.iter().filter(|((of, _), pool)| *of == id && pool.gathers.is_some()) {
            changed = true;
            pool.before.without(&pool.now).add_to(part, &mut guarded);
        }
        if let Some(saved) = self.saved.get(&id).filter(|_| self.has_waited_for(id)) {
            changed = true;
            if let (None, Some((documents, at))) = (&guarded.documents, &saved.documents) {
                guarded.documents = Some(Arc::clone(documents));
                guarded.forms = saved.forms.clone().unwrap_or_default();
                guarded.kept.saved_documents = Some(*at);
            }
            for source in wanted.iter().filter(|source| source.provider() == id) {
                if let Some((endpoints, at)) = saved.sources.get(&source.to_string()) {
                    let (endpoints, origin) = (Arc::clone(endpoints), Origin::Saved(*at));
                    let known = || SourceState { origin, ..SourceState::live(endpoints, []) };
                    guarded.sources.entry(source.clone()).or_insert_with(known);
                }
            }
        }
        if guarded.documents.is_none() && self.optional.contains(&id) && self.has_waited_for(id) {
            changed = true;
            guarded.kept.documents_may_be_missing = true;
        }
        for (source, released) in self.released.iter().filter(|(source, _)| source.provider() == id) {
            let Some(known) = guarded.sources.get_mut(source) else { continue };
            changed = true;
            if let Content::Endpoints(left) =
                Content::Endpoints(Arc::clone(&known.endpoints)).without_addresses(released)
            {
                known.endpoints = left;
            }
            if known.origin == Origin::Held
                && !known.unlisted.is_empty()
                && !guarded.kept.addresses.contains_key(source)
                && known.unlisted.iter().all(|address| released.contains(address))
            {
                // Its watch holds nothing else.
                known.origin = Origin::Live;
            }
            if let Some(held) = guarded.holds.get_mut(&HeldPart::Endpoints(source.clone())) {
                held.lost.retain(|lost| released.iter().all(|address| *lost != address.to_string()));
            }
            guarded.kept.released.insert(source.clone(), Arc::clone(released));
        }
        if let Some(damping) = &self.damping {
            for (source, known) in &guarded.sources {
                if let Some(penalties) = damping.of(source, &known.endpoints) {
                    changed = true;
                    guarded.kept.penalties.insert(source.clone(), penalties);
                }
            }
        }
        if !changed {
            return Arc::clone(state);
        }
        let Some(before) = self.served.get(&id) else { return Arc::new(guarded) };
        if **before == guarded {
            return Arc::clone(before);
        }
        // What did not change must not look changed.
        for (source, known) in &mut guarded.sources {
            if let Some(before) = before.sources.get(source)
                && before.endpoints == known.endpoints
            {
                known.endpoints = Arc::clone(&before.endpoints);
            }
        }
        Arc::new(guarded)
    }
}

#[cfg(test)]
mod tests;
