//! Defines our copy of a range of keys, kept exact by complete lists and the events after them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::past::Past;
use super::pool::Pool;
use crate::discovery::judge::Danger;

/// A key's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The revision of its last change.
    pub modified: i64,
    /// The revision at which the key was created.
    pub created: i64,
    /// How many values the key has had since.
    pub version: i64,
}

/// All keys of a range at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The id of the etcd cluster that has them; 0 where an answer does not tell.
    pub cluster: u64,
    /// The store's revision that all of it belongs to.
    pub revision: i64,
    /// The keys.
    pub entries: BTreeMap<Vec<u8>, Value>,
}

/// A change of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Vec<u8>,
    /// The revision of the change; all changes of one transaction share it.
    pub revision: i64,
    /// The new value; `None` when the key was deleted, or its lease ended.
    pub value: Option<Vec<u8>>,
    /// The revision at which the key was created.
    pub created: i64,
    /// How many values the key has had since.
    pub version: i64,
}

impl Listing {
    /// Bytes of its keys and values.
    pub fn size(&self) -> usize {
        self.entries.iter().map(|(key, value)| key.len() + value.bytes.len()).sum()
    }
}

impl Event {
    /// Bytes of its key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// What came of events or a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The pools that may be shown otherwise now.
    pub changed: BTreeSet<Vec<u8>>,
    /// Removals that were held back.
    pub held: Vec<Held>,
    /// The list belongs to a store that was restored or wiped since.
    pub regressed: bool,
    /// The list belongs to another etcd cluster.
    pub foreign: bool,
    /// The list is older than what is remembered of the events that came meanwhile, and was not used.
    pub outdated: bool,
}

/// A removal that was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The pool that lost something.
    pub pool: Vec<u8>,
    /// Why it is not believed.
    pub danger: Danger,
    /// How many keys.
    pub count: usize,
}

impl Outcome {
    fn note(&mut self, pool: Vec<u8>, changed: bool, held: Option<(Danger, usize)>) {
        if let Some((danger, count)) = held {
            self.held.push(Held { pool: pool.clone(), danger, count });
        }
        if changed {
            self.changed.insert(pool);
        }
    }
}

/// What a batch of events did to a pool.
#[derive(Default)]
struct Touched {
    /// How many keys were shown before.
    before: usize,
    changed: bool,
    lost: BTreeMap<Vec<u8>, (Value, i64)>,
}

/// Our copy of a range.
///
/// It is exact as of revision `next - 1`, and has what came so far of the next one. Removals that look dangerous for
/// their pool leave it, too, but are shown until a complete list confirms them. All keys are one pool without a name,
/// or each folder below a prefix is one, which is named by the beginning its keys have in common.
#[derive(Debug, Default)]
pub struct Mirror {
    /// The length of the prefix whose folders are pools.
    folders: Option<usize>,
    /// The etcd cluster it is of; 0 before the first list.
    cluster: u64,
    pools: BTreeMap<Vec<u8>, Pool>,
    /// The revision to watch from; 0 before the first list.
    next: i64,
    /// The newest revision we know of: that of the last list or event.
    revision: i64,
    past: Past,
}

impl Mirror {
    /// A mirror in which each folder below `prefix` is a pool.
    pub fn of_folders(prefix: &str) -> Self {
        Self { folders: Some(prefix.len()), ..Self::default() }
    }

    /// The revision to watch from: every change before it is in. 0 before the first list.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// The newest revision we know of. A linearizable answer can't be older, unless the store went back.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether what comes with this id is of another etcd cluster, whose revisions say nothing about ours. A store that
    /// was wiped and is configured as before has the same id.
    pub fn is_foreign(&self, cluster: u64) -> bool {
        self.cluster != 0 && cluster != 0 && cluster != self.cluster
    }

    /// How many keys the registry had at a revision, as far as we know; `None` where that is forgotten.
    pub fn count_at(&self, revision: i64) -> Option<usize> {
        self.past.count_at(revision)
    }

    /// Whether removals wait for a confirmation.
    pub fn holds(&self) -> bool {
        self.pools.values().any(Pool::holds)
    }

    /// Whether removals of a pool do.
    pub fn pool_holds(&self, pool: &[u8]) -> bool {
        self.pools.get(pool).is_some_and(Pool::holds)
    }

    /// The only pool of several whose removals do: a list of it alone tells.
    pub fn only_held(&self) -> Option<&[u8]> {
        self.folders?;
        let mut held = self.pools.iter().filter(|(_, pool)| pool.holds());
        let (name, _) = held.next()?;
        held.next().is_none().then_some(name.as_slice())
    }

    /// What is to be shown of a pool: what the registry has, and what is held. In no order.
    pub fn shown(&self, pool: &[u8]) -> impl Iterator<Item = (&[u8], &Value)> {
        self.pools.get(pool).into_iter().flat_map(Pool::shown)
    }

    /// The pools that have keys.
    pub fn pools(&self) -> impl Iterator<Item = &[u8]> {
        self.pools.keys().map(Vec::as_slice)
    }

    /// Applies events in the order they came. Events of what is known already change nothing: after a break
    /// the stream is asked for from the last event's own revision again, since a revision may have come in
    /// parts. A response's header tells the store's revision, not how far its events reach: it is no guide.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Outcome {
        let mut all: BTreeMap<Vec<u8>, Touched> = BTreeMap::new();
        for Event { key, revision, value, created, version } in events {
            if revision < self.next {
                continue;
            }
            (self.next, self.revision) = (revision, revision);
            let name = pool_of(self.folders, &key).to_vec();
            let pool = self.pools.entry(name.clone()).or_default();
            if pool.entries().get(&key).is_some_and(|known| known.modified > revision) {
                // It came with what another watch knew.
                continue;
            }
            let touched = all.entry(name).or_insert_with(|| Touched { before: pool.size(), ..Touched::default() });
            if let Some(bytes) = value {
                touched.lost.remove(&key);
                let (changed, new) = pool.put(key, Value { bytes, modified: revision, created, version });
                touched.changed |= changed;
                if new {
                    self.past.added(revision);
                }
            } else if let Some(value) = pool.remove(&key) {
                self.past.removed(revision, key.clone());
                touched.lost.insert(key, (value, revision));
                touched.changed = true;
            }
        }
        let mut outcome = Outcome::default();
        for (name, Touched { before, changed, lost }) in all {
            let held = self.pools.get_mut(&name).and_then(|pool| pool.judge(lost, before, false));
            self.drop_empty(&name);
            outcome.note(name, changed, held);
        }
        outcome
    }

    /// Takes over a complete list. `floor` is what [`revision`](Self::revision) was when it was asked for: a
    /// linearizable list can't be older than that, unless the store itself went back. What changed while it was read
    /// came by the stream, and is left as it is.
    pub fn adopt(&mut self, mut listing: Listing, floor: i64) -> Outcome {
        // At its revision a list must show each change we know of up to then, or the key must be gone.
        let went_back = |(key, value): (&Vec<u8>, &Value)| {
            let known = self.entries_of(key).and_then(|entries| entries.get(key)).map_or(0, |known| known.modified);
            value.modified < known && known <= listing.revision
        };
        let foreign = self.is_foreign(listing.cluster);
        let regressed = foreign || listing.revision < floor || listing.entries.iter().any(went_back);
        let mut outcome = Outcome { regressed, foreign, ..Outcome::default() };
        if listing.revision >= self.revision || regressed {
            (self.next, self.revision) = (listing.revision + 1, listing.revision);
        } else if self.past.covers(listing.revision) {
            self.bring_up(&mut listing);
        } else {
            outcome.outdated = true;
            let confirmed = self
                .pools
                .iter_mut()
                .filter_map(|(name, pool)| pool.confirm(listing.revision, &listing.entries).then(|| name.clone()));
            outcome.changed = confirmed.collect();
            return outcome;
        }
        if listing.cluster != 0 {
            self.cluster = listing.cluster;
        }
        let mut listed: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Value>> = BTreeMap::new();
        for (key, value) in listing.entries {
            let name = pool_of(self.folders, &key);
            if !listed.contains_key(name) {
                listed.insert(name.to_vec(), BTreeMap::new());
            }
            if let Some(entries) = listed.get_mut(name) {
                entries.insert(key, value);
            }
        }
        let names: BTreeSet<Vec<u8>> = self.pools.keys().chain(listed.keys()).cloned().collect();
        for name in names {
            let entries = listed.remove(&name).unwrap_or_default();
            let pool = self.pools.entry(name.clone()).or_default();
            let (changed, held) = pool.adopt(entries, listing.revision, regressed);
            self.drop_empty(&name);
            outcome.note(name, changed, held);
        }
        let count = self.pools.values().map(|pool| pool.entries().len()).sum();
        self.past.begin(self.revision, count);
        outcome
    }

    /// Makes of a list what it would be now, by the events that came since.
    fn bring_up(&self, listing: &mut Listing) {
        for key in self.past.removed_after(listing.revision) {
            listing.entries.remove(key);
        }
        let newer = self.pools.values().flat_map(Pool::entries).filter(|(_, value)| value.modified > listing.revision);
        listing.entries.extend(newer.map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Lets go of what a pool holds where a list of the pool confirms it. Whether anything was.
    pub fn confirm(&mut self, pool: &[u8], listing: &Listing) -> bool {
        let confirmed = self.pools.get_mut(pool).is_some_and(|pool| pool.confirm(listing.revision, &listing.entries));
        self.drop_empty(pool);
        confirmed
    }

    /// The keys of a pool that are held.
    pub fn held(&self, pool: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.pools.get(pool).into_iter().flat_map(Pool::held)
    }

    /// Lets go of a key that a pool holds. Whether it did.
    pub fn release_key(&mut self, pool: &[u8], key: &[u8]) -> bool {
        let released = self.pools.get_mut(pool).is_some_and(|pool| pool.release_key(key));
        self.drop_empty(pool);
        released
    }

    /// Lets go of what a pool holds.
    pub fn release_pool(&mut self, pool: &[u8]) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.release();
        }
        self.drop_empty(pool);
    }

    /// What is known of a pool, as a mirror of it alone.
    pub fn part(&self, pool: &[u8]) -> Self {
        let pool = self.pools.get(pool).cloned().unwrap_or_default();
        let mut past = Past::default();
        past.begin(self.revision, pool.entries().len());
        let pools = BTreeMap::from([(Vec::new(), pool)]);
        Self { folders: None, cluster: self.cluster, pools, next: self.next, revision: self.revision, past }
    }

    /// Adds to a pool what a mirror of it alone knows: what is there only is held, since one of the two missed something
    /// or will be told of it. Whether that is news.
    pub fn join(&mut self, pool: &[u8], part: &Self) -> bool {
        let lost_at = self.revision.max(part.revision);
        let Some(theirs) = part.pools.get(&[][..]) else { return false };
        let changed = self.pools.entry(pool.to_vec()).or_default().join(theirs, lost_at);
        self.drop_empty(pool);
        changed
    }

    fn entries_of(&self, key: &[u8]) -> Option<&BTreeMap<Vec<u8>, Value>> {
        self.pools.get(pool_of(self.folders, key)).map(Pool::entries)
    }

    /// Names that nobody uses any more take no memory.
    fn drop_empty(&mut self, pool: &[u8]) {
        if self.pools.get(pool).is_some_and(|pool| pool.size() == 0) {
            self.pools.remove(pool);
        }
    }
}

/// The pool a key belongs to. Keys beside the folders are a pool, too: it is named by the prefix.
fn pool_of(folders: Option<usize>, key: &[u8]) -> &[u8] {
    let Some(prefix) = folders.map(|length| length.min(key.len())) else { return &[] };
    let (above, below) = key.split_at(prefix);
    match below.iter().position(|byte| *byte == b'/') {
        Some(slash) => &key[..=prefix + slash],
        None => above,
    }
}

#[cfg(test)]
mod tests;
