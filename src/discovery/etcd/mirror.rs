//! Defines our copy of a range of keys, kept exact by complete lists and the events after them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::past::Past;
use super::pool::Pool;
use crate::discovery::judge::Danger;

/// A key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The revision of its last change.
    pub modified: i64,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Vec<u8>,
    /// The revision of the change; all changes of one transaction share it.
    pub revision: i64,
    /// The new value; `None` when the key was deleted, or its lease ended.
    pub value: Option<Vec<u8>>,
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

    /// Applies events in the order they came. Events of what is known already change nothing: after a break
    /// the stream is asked for from the last event's own revision again, since a revision may have come in
    /// parts. A response's header tells the store's revision, not how far its events reach: it is no guide.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Outcome {
        let mut all: BTreeMap<Vec<u8>, Touched> = BTreeMap::new();
        for Event { key, revision, value } in events {
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
                let (changed, new) = pool.put(key, Value { bytes, modified: revision });
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

    /// Lets go of all that is held: an operator says that the registry is right. The pools that held something.
    pub fn release(&mut self) -> BTreeSet<Vec<u8>> {
        let released = self.pools.iter_mut().filter_map(|(name, pool)| pool.release().then(|| name.clone())).collect();
        self.pools.retain(|_, pool| pool.size() > 0);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(key: &str, revision: i64) -> Event {
        Event { key: key.into(), revision, value: Some(format!("{key}@{revision}").into_bytes()) }
    }

    fn delete(key: &str, revision: i64) -> Event {
        Event { key: key.into(), revision, value: None }
    }

    fn listing(revision: i64, keys: &[(&str, i64)]) -> Listing {
        let value = |key: &str, modified: i64| Value { bytes: format!("{key}@{modified}").into_bytes(), modified };
        Listing {
            cluster: 7,
            revision,
            entries: keys.iter().map(|(key, at)| ((*key).into(), value(key, *at))).collect(),
        }
    }

    fn shown(mirror: &Mirror) -> String {
        let mut all: Vec<_> =
            mirror.shown(&[]).map(|(_, value)| String::from_utf8_lossy(&value.bytes).into_owned()).collect();
        all.sort();
        all.join(" ")
    }

    impl Mirror {
        fn entries(&self) -> BTreeMap<Vec<u8>, Value> {
            self.pools.values().flat_map(Pool::entries).map(|(key, value)| (key.clone(), value.clone())).collect()
        }
    }

    fn changed(outcome: &Outcome) -> bool {
        !outcome.changed.is_empty()
    }

    fn held(outcome: &Outcome) -> Option<(Danger, usize)> {
        outcome.held.first().map(|held| (held.danger, held.count))
    }

    /// A mirror of a, b and c, listed at revision 10.
    fn mirror() -> Mirror {
        let mut mirror = Mirror::default();
        assert!(changed(&mirror.adopt(listing(10, &[("a", 3), ("b", 4), ("c", 5)]), 0)));
        mirror
    }

    #[test]
    fn events_follow_the_list() {
        let mut mirror = mirror();
        assert_eq!(mirror.next(), 11);
        let outcome = mirror.apply([put("d", 11), put("a", 12), delete("b", 12)]);
        assert!(changed(&outcome) && outcome.held.is_empty());
        assert_eq!(shown(&mirror), "a@12 c@5 d@11");
        // From the last event's own revision: the rest of it may still be to come.
        assert_eq!(mirror.next(), 12);
    }

    #[test]
    fn what_was_told_before_changes_nothing() {
        let mut mirror = mirror();
        mirror.apply([put("d", 11), put("a", 12), delete("b", 12)]);
        assert!(mirror.apply([put("b", 4), delete("d", 11), put("a", 12), delete("b", 12)]).changed.is_empty());
        assert_eq!(shown(&mirror), "a@12 c@5 d@11");
        assert!(mirror.apply([]).changed.is_empty());
        assert_eq!(mirror.next(), 12);
    }

    #[test]
    fn a_dangerous_removal_is_shown_until_a_list_confirms_it() {
        let mut mirror = mirror();
        let outcome = mirror.apply([delete("a", 11), delete("b", 11), put("d", 11)]);
        assert_eq!(held(&outcome), Some((Danger::Takes { lost: 2, of: 3 }, 2)));
        assert_eq!(shown(&mirror), "a@3 b@4 c@5 d@11", "additions flow");
        assert!(mirror.holds());
        // Older than the loss: no word on it.
        let early = mirror.adopt(listing(10, &[("a", 3), ("b", 4), ("c", 5)]), 10);
        assert!(!changed(&early) && mirror.holds());
        // Written again meanwhile; the other one is confirmed.
        let outcome = mirror.adopt(listing(12, &[("b", 12), ("c", 5), ("d", 11)]), 11);
        assert!(changed(&outcome) && outcome.held.is_empty() && !mirror.holds());
        assert_eq!(shown(&mirror), "b@12 c@5 d@11");
        assert_eq!(mirror.next(), 13);
    }

    #[test]
    fn while_something_is_held_no_further_removal_goes_unconfirmed() {
        let mut mirror = mirror();
        mirror.apply([put("d", 11), put("e", 11)]);
        mirror.apply([delete("a", 12), delete("b", 12), delete("c", 12)]);
        let outcome = mirror.apply([delete("d", 13)]);
        assert_eq!(held(&outcome), Some((Danger::Unconfirmed, 1)));
        assert_eq!(shown(&mirror), "a@3 b@4 c@5 d@11 e@11");
        mirror.apply([put("a", 14)]);
        assert_eq!(shown(&mirror), "a@14 b@4 c@5 d@11 e@11");
        assert!(changed(&mirror.adopt(listing(14, &[("a", 14), ("e", 11)]), mirror.revision())));
        assert_eq!(shown(&mirror), "a@14 e@11");
    }

    #[test]
    fn what_another_cluster_lacks_is_shown_until_a_list_of_it_confirms_that() {
        let mut mirror = mirror();
        let of = |cluster, listing| Listing { cluster, ..listing };
        assert!(mirror.is_foreign(8) && !mirror.is_foreign(7) && !mirror.is_foreign(0));
        // Its revisions are all newer than ours, and it lists the most of ours: alone they would be believed.
        let outcome = mirror.adopt(of(8, listing(90, &[("a", 80), ("b", 81), ("e", 82)])), 10);
        assert!(outcome.foreign && outcome.regressed, "{outcome:?}");
        assert_eq!(held(&outcome), Some((Danger::Regressed, 1)));
        assert_eq!(shown(&mirror), "a@80 b@81 c@5 e@82");
        assert!(!mirror.is_foreign(8) && mirror.is_foreign(7));
        assert!(!mirror.adopt(of(8, listing(91, &[("a", 80), ("b", 81), ("e", 82)])), 90).foreign);
        assert_eq!(shown(&mirror), "a@80 b@81 e@82");
    }

    #[test]
    fn an_outdated_list_confirms_what_it_can() {
        let mut mirror = mirror();
        mirror.apply([delete("a", 11), delete("b", 11), delete("c", 11)]);
        // Asked for at 11, it answered for 12, and 13 came by the stream meanwhile.
        mirror.apply([put("d", 13)]);
        let outcome = mirror.adopt(listing(12, &[]), 11);
        assert!(!outcome.outdated && changed(&outcome) && !mirror.holds());
        assert_eq!(shown(&mirror), "d@13");
    }

    #[test]
    fn a_store_that_went_back_removes_nothing_unconfirmed() {
        let mut wiped = mirror();
        let outcome = wiped.adopt(listing(1, &[]), wiped.revision());
        assert!(outcome.regressed);
        assert_eq!(held(&outcome), Some((Danger::Regressed, 3)));
        assert_eq!((shown(&wiped).as_str(), wiped.next()), ("a@3 b@4 c@5", 2));
        assert!(changed(&wiped.adopt(listing(1, &[]), 1)));
        assert_eq!(shown(&wiped), "");

        // Wiped, and already beyond the revision we know: a key with a smaller one gives it away.
        let mut overtaken = mirror();
        overtaken.apply([put("a", 20), put("x", 21)]);
        let outcome = overtaken.adopt(listing(30, &[("a", 7), ("b", 4), ("x", 21)]), overtaken.revision());
        assert_eq!(held(&outcome), Some((Danger::Regressed, 1)));
        assert_eq!(shown(&overtaken), "a@7 b@4 c@5 x@21");
    }

    /// A mirror with two pools.
    fn pools() -> Mirror {
        let mut mirror = Mirror::of_folders("/e/");
        let all = [("/e/svc/a", 3), ("/e/svc/b", 4), ("/e/svc2/a", 5), ("/e/svc2/b", 6), ("/e/stray", 7)];
        let outcome = mirror.adopt(listing(10, &all), 0);
        assert_eq!(outcome.changed.into_iter().collect::<Vec<_>>(), [&b"/e/"[..], b"/e/svc/", b"/e/svc2/"]);
        mirror
    }

    fn shown_of(mirror: &Mirror, pool: &str) -> String {
        let mut all: Vec<_> = mirror.shown(pool.as_bytes()).map(|(key, _)| String::from_utf8_lossy(key)).collect();
        all.sort();
        all.join(" ")
    }

    #[test]
    fn each_pool_is_judged_by_itself() {
        let mut mirror = pools();
        let outcome = mirror.apply([delete("/e/svc/a", 11), delete("/e/svc/b", 11), delete("/e/svc2/a", 12)]);
        let held = Held { pool: b"/e/svc/".to_vec(), danger: Danger::Empties { of: 2 }, count: 2 };
        assert_eq!(outcome.held, [held]);
        assert_eq!(shown_of(&mirror, "/e/svc/"), "/e/svc/a /e/svc/b");
        assert_eq!(shown_of(&mirror, "/e/svc2/"), "/e/svc2/b", "one pool's doubt holds no other");
        assert_eq!(mirror.only_held(), Some(&b"/e/svc/"[..]));
        // A list of the pool alone confirms it; one from before the loss does not.
        assert!(!mirror.confirm(b"/e/svc/", &listing(10, &[])) && mirror.pool_holds(b"/e/svc/"));
        assert!(mirror.confirm(b"/e/svc/", &listing(12, &[])) && !mirror.holds());
        assert_eq!(shown_of(&mirror, "/e/svc/"), "");
        // Two of them are confirmed by a list of all.
        mirror.apply([put("/e/svc/a", 13), put("/e/svc/b", 13)]);
        mirror.apply([delete("/e/svc/a", 14), delete("/e/svc/b", 14), delete("/e/svc2/b", 14)]);
        assert_eq!((mirror.holds(), mirror.only_held()), (true, None));
        assert_eq!(mirror.adopt(listing(14, &[("/e/stray", 7)]), 14).changed.len(), 2);
        assert!(!mirror.holds());
        assert_eq!(mirror.count_at(14), Some(1));
    }

    #[test]
    fn a_list_that_events_have_overtaken_is_compared_as_it_would_be_now() {
        let mut mirror = pools();
        mirror.apply([put("/e/svc/c", 12), delete("/e/svc2/a", 13), put("/e/svc/b", 14)]);
        // The list is of revision 11; it knows of a key that we were never told of, and lacks one.
        let all = [("/e/svc/b", 4), ("/e/svc2/a", 5), ("/e/svc2/b", 6), ("/e/svc2/missed", 11), ("/e/stray", 7)];
        let outcome = mirror.adopt(listing(11, &all), 10);
        assert!(!outcome.outdated && !outcome.regressed);
        assert_eq!(outcome.changed.into_iter().collect::<Vec<_>>(), [b"/e/svc/".to_vec(), b"/e/svc2/".to_vec()]);
        assert_eq!(shown_of(&mirror, "/e/svc/"), "/e/svc/b /e/svc/c");
        assert_eq!(shown_of(&mirror, "/e/svc2/"), "/e/svc2/b /e/svc2/missed");
        assert_eq!((mirror.next(), mirror.revision()), (14, 14));
    }

    #[test]
    fn what_two_watches_of_a_pool_know_is_joined_without_a_loss() {
        let mut alone = pools().part(b"/e/svc/");
        assert_eq!(shown(&alone), "/e/svc/a@3 /e/svc/b@4");
        alone.apply([put("/e/svc/b", 20), put("/e/svc/c", 21)]);
        let mut mirror = pools();
        assert!(mirror.join(b"/e/svc/", &alone));
        assert_eq!(shown_of(&mirror, "/e/svc/"), "/e/svc/a /e/svc/b /e/svc/c");
        assert!(mirror.holds());
        // What is told of late changes nothing that is newer, and what was held comes.
        mirror.apply([delete("/e/svc/b", 18), put("/e/svc/b", 20), put("/e/svc/c", 21)]);
        assert!(!mirror.holds());
        assert_eq!(shown_of(&mirror, "/e/svc/"), "/e/svc/a /e/svc/b /e/svc/c");
        assert!(!mirror.join(b"/e/svc/", &alone), "the same again is no news");
    }

    /// What a store does, and a stream that may repeat itself or come in any pieces.
    fn history() -> impl Strategy<Value = Vec<(u8, bool)>> {
        proptest::collection::vec((0u8..6, any::<bool>()), 1..40)
    }

    proptest! {
        /// Whatever is held or repeated on the way: at rest the mirror is the store, and at no time does it
        /// show less than the store has.
        #[test]
        fn at_rest_the_mirror_is_the_store(
            history in history(), listed_at in 0usize..40, pieces in proptest::collection::vec(1usize..5, 40)
        ) {
            let mut store: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
            let (mut events, mut listed) = (Vec::new(), Listing { cluster: 7, revision: 1, entries: BTreeMap::new() });
            for (at, (key, put)) in history.iter().enumerate() {
                let (key, revision) = (vec![b'a' + key], i64::try_from(at).expect("small") + 2);
                let value = put.then(|| vec![*key.first().expect("one byte")]);
                match &value {
                    Some(bytes) => { store.insert(key.clone(), Value { bytes: bytes.clone(), modified: revision }); }
                    None => { store.remove(&key); }
                }
                events.push(Event { key, revision, value });
                if at == listed_at {
                    listed = Listing { cluster: 7, revision, entries: store.clone() };
                }
            }
            let mut mirror = Mirror::default();
            mirror.adopt(listed.clone(), 0);
            let mut rest: &[Event] = &events;
            let mut sent = 0;
            for piece in pieces {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                // Every piece but the first repeats the last event of the one before.
                let again = &events[sent.max(1) - 1..sent];
                mirror.apply(again.iter().chain(now).cloned());
                sent += now.len();
                rest = later;
                let shown: Vec<_> = mirror.shown(&[]).map(|(key, _)| key.to_vec()).collect();
                for key in mirror.entries().keys() {
                    prop_assert!(shown.contains(key));
                }
            }
            mirror.apply(rest.iter().cloned());
            prop_assert_eq!(&mirror.entries(), &store);
            prop_assert_eq!(mirror.count_at(mirror.revision()), Some(store.len()));
            let last = Listing { cluster: 7, revision: i64::try_from(events.len()).expect("small") + 1, entries: store.clone() };
            mirror.adopt(last, mirror.revision());
            prop_assert!(!mirror.holds());
            prop_assert_eq!(mirror.shown(&[]).count(), store.len());
        }
    }
}
