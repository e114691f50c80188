//! The end of holds on addresses that have moved to another service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::moves::{Before, Release, listed};
use super::{Content, Guard, Part, Pool, Registry, WINDOW};
use crate::discovery::state::ProviderState;
use crate::spec::endpoint::Address;
use crate::spec::name::ProviderId;
use crate::spec::source::Source;

/// Between two looks for losses that nobody holds any more.
const PRUNE: Duration = Duration::from_secs(1);

impl Guard {
    /// Notes which addresses a read of a source gained and lost. `saved`: what an earlier process knew of it.
    pub(super) fn note_addresses(
        &mut self,
        key: &(ProviderId, Part),
        content: &Content,
        unlisted: &BTreeSet<Address>,
        saved: Option<&Content>,
        now: Instant,
    ) {
        let none = BTreeSet::new();
        let (Some(_), Part::Source(source), Content::Endpoints(endpoints)) = (Registry::of(key.0), &key.1, content)
        else {
            return;
        };
        let beside = self.beside.get(&key.0).and_then(|all| all.get(source));
        let before = match (self.pools.get(key), saved) {
            (Some(Pool { now: Content::Endpoints(known), unlisted, .. }), _) => Before::Listed(listed(known, unlisted)),
            (None, _) if beside.is_some() => {
                Before::Listed(beside.map(|known| listed(known, &none)).unwrap_or_default())
            }
            (_, Some(Content::Endpoints(saved))) => Before::Saved(listed(saved, &none), self.began),
            (_, _) => Before::Unread,
        };
        self.moves.read(source, before, &listed(endpoints, unlisted), now);
    }

    /// Notes what a provider reads of sources that nobody wants.
    pub(super) fn note_beside(&mut self, id: ProviderId, state: &ProviderState, now: Instant) {
        let before = self.beside.insert(id, Arc::clone(&state.beside)).unwrap_or_default();
        if Arc::ptr_eq(&before, &state.beside) {
            return;
        }
        let none = BTreeSet::new();
        for (source, endpoints) in state.beside.iter() {
            let known = before.get(source);
            if known.is_some_and(|known| Arc::ptr_eq(known, endpoints)) {
                continue;
            }
            let known = known.map_or(Before::Unread, |known| Before::Listed(listed(known, &none)));
            self.moves.read(source, known, &listed(endpoints, &none), now);
        }
        let gone = before.iter().filter(|(source, _)| !state.beside.contains_key(*source));
        for (source, known) in gone.filter(|(source, _)| !state.sources.contains_key(*source)) {
            self.moves.read(source, Before::Listed(listed(known, &none)), &[], now);
        }
    }

    /// Finds out what is held of a service that belongs to another one now.
    pub(super) fn release_moved(&mut self, wanted: &BTreeSet<Source>, now: Instant) {
        self.moves.awaits_saved = !self.saved.is_empty();
        for (id, saved) in &self.saved {
            let unread = |source: &&Source| {
                source.provider() == *id && !self.pools.contains_key(&(*id, Part::Source(Source::clone(source))))
            };
            for source in wanted.iter().filter(unread) {
                let Some((endpoints, _)) = saved.sources.get(&source.to_string()) else { continue };
                if self.doubted.insert(source.clone()) {
                    endpoints.iter().for_each(|endpoint| self.moves.doubt(source, &endpoint.address, self.began));
                }
            }
        }
        if self.moves.is_empty() {
            self.released.clear();
            return;
        }
        let mut moves = std::mem::take(&mut self.moves);
        let mut releases = moves.take_releases();
        releases.retain(|release| self.holds(&release.from, &release.address));
        for release in releases {
            let Release { address, from, to } = &release;
            tracing::warn!("{address} of {from} is held no longer: {to} lists it");
            self.releases.push(release);
        }
        if now.saturating_duration_since(self.pruned_at) >= PRUNE {
            self.pruned_at = now;
            moves.prune(now, WINDOW, |source, address| {
                self.holds(source, address) || self.remembers(source, address, now)
            });
        }
        let mut released: BTreeMap<Source, BTreeSet<Address>> = BTreeMap::new();
        for (source, address) in moves.released().filter(|(source, address)| self.holds(source, address)) {
            released.entry(source.clone()).or_default().insert(address.clone());
        }
        self.moves = moves;
        // What did not change is the same object.
        let before = std::mem::take(&mut self.released);
        let shared = |source: &Source, addresses: BTreeSet<Address>| match before.get(source) {
            Some(before) if **before == addresses => Arc::clone(before),
            _ => Arc::new(addresses),
        };
        self.released = released.into_iter().map(|(it, addresses)| (it.clone(), shared(&it, addresses))).collect();
    }

    /// Whether a loss of most of a source, now, would hold this address of it, which it may have lost before.
    fn remembers(&self, source: &Source, address: &Address, now: Instant) -> bool {
        let pool = self.pools.get(&(source.provider(), Part::Source(source.clone())));
        pool.is_some_and(|pool| now.saturating_duration_since(pool.peak_at) <= WINDOW && pool.peak.has(address))
    }

    /// Whether an address would be served of a source though its last read does not list it.
    pub(super) fn holds(&self, source: &Source, address: &Address) -> bool {
        let id = source.provider();
        let key = (id, Part::Source(source.clone()));
        let Some(pool) = self.pools.get(&key) else {
            let saved = self.saved.get(&id).and_then(|saved| saved.sources.get(&source.to_string()));
            return saved.is_some_and(|(endpoints, _)| Content::Endpoints(Arc::clone(endpoints)).has(address));
        };
        let wipe = Registry::of(id).and_then(|registry| self.wipes.get(&registry));
        pool.unlisted.contains(address)
            || (pool.gathers.is_some() && pool.before.has(address))
            || wipe.and_then(|wipe| wipe.unseen.get(&key)).is_some_and(|unseen| unseen.has(address))
    }
}
