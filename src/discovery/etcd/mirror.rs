//! Defines our copy of a range of keys, kept exact by complete lists and the events after them. Pure.

use std::collections::BTreeMap;

use crate::discovery::judge::{self, Danger, Signs};

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
    /// Whether what is shown may differ now.
    pub changed: bool,
    /// Why removals were held back, and how many.
    pub held: Option<(Danger, usize)>,
    /// The list belongs to a store that was restored or wiped since.
    pub regressed: bool,
    /// The list belongs to another etcd cluster.
    pub foreign: bool,
    /// The list is older than events that came meanwhile, and was not used.
    pub outdated: bool,
}

/// Our copy of a range.
///
/// It is exact as of revision `next - 1`, and has what came so far of the next one. Removals that look dangerous leave it, too, but are shown until a
/// complete list confirms them.
#[derive(Debug, Default)]
pub struct Mirror {
    /// The etcd cluster it is of; 0 before the first list.
    cluster: u64,
    entries: BTreeMap<Vec<u8>, Value>,
    /// What the registry lost without confirmation: the value, and the revision of the loss.
    held: BTreeMap<Vec<u8>, (Value, i64)>,
    /// The revision to watch from; 0 before the first list.
    next: i64,
    /// The newest revision we know of: that of the last list or event.
    revision: i64,
}

impl Mirror {
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

    /// How many keys the registry has, as far as we know.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether removals wait for a confirmation.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is to be shown: what the registry has, and what is held. In no order.
    pub fn shown(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        let held = self.held.iter().map(|(key, (value, _))| (key.as_slice(), value));
        self.entries.iter().map(|(key, value)| (key.as_slice(), value)).chain(held)
    }

    /// Applies events in the order they came. Events of what is known already change nothing: after a break
    /// the stream is asked for from the last event's own revision again, since a revision may have come in
    /// parts. A response's header tells the store's revision, not how far its events reach: it is no guide.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Outcome {
        let before = self.entries.len() + self.held.len();
        let mut lost = BTreeMap::new();
        let mut changed = false;
        for Event { key, revision, value } in events {
            if revision < self.next {
                continue;
            }
            (self.next, self.revision) = (revision, revision);
            if let Some(bytes) = value {
                let value = Value { bytes, modified: revision };
                lost.remove(&key);
                changed |= self.held.remove(&key).is_some();
                changed |= self.entries.get(&key) != Some(&value);
                self.entries.insert(key, value);
            } else if let Some(value) = self.entries.remove(&key) {
                lost.insert(key, (value, revision));
                changed = true;
            }
        }
        let held = self.judge(lost, before, false);
        Outcome { changed, held, ..Outcome::default() }
    }

    /// Takes over a complete list. `floor` is what [`revision`](Self::revision) was when it was asked for: a
    /// linearizable list can't be older than that, unless the store itself went back.
    pub fn adopt(&mut self, listing: Listing, floor: i64) -> Outcome {
        // At its revision a list must show each change we know of up to then, or the key must be gone.
        let went_back = |(key, value): (&Vec<u8>, &Value)| {
            let known = self.entries.get(key).map_or(0, |known| known.modified);
            value.modified < known && known <= listing.revision
        };
        let foreign = self.is_foreign(listing.cluster);
        let regressed = foreign || listing.revision < floor || listing.entries.iter().any(went_back);
        if listing.revision < self.revision && !regressed {
            return Outcome { changed: self.confirm(&listing), outdated: true, ..Outcome::default() };
        }
        let before = self.entries.len() + self.held.len();
        let mut changed = self.confirm(&listing);
        if listing.cluster != 0 {
            self.cluster = listing.cluster;
        }
        let former = std::mem::replace(&mut self.entries, listing.entries);
        (self.next, self.revision) = (listing.revision + 1, listing.revision);
        for key in self.entries.keys() {
            changed |= self.held.remove(key).is_some();
        }
        changed |= former != self.entries;
        let lost = former
            .into_iter()
            .filter(|(key, _)| !self.entries.contains_key(key))
            .map(|(key, value)| (key, (value, listing.revision)))
            .collect();
        if regressed {
            // Their revisions belong to the store as it was.
            self.held.values_mut().for_each(|(_, revision)| *revision = listing.revision);
        }
        let held = self.judge(lost, before, regressed);
        Outcome { changed, held, regressed, foreign, outdated: false }
    }

    /// Lets go of all that is held: an operator says that the registry is right. Whether anything was.
    pub fn release(&mut self) -> bool {
        !std::mem::take(&mut self.held).is_empty()
    }

    /// Lets go of what is held where a list at or after the loss has no such key, either.
    fn confirm(&mut self, listing: &Listing) -> bool {
        let before = self.held.len();
        self.held.retain(|key, (_, lost_at)| listing.revision < *lost_at || listing.entries.contains_key(key));
        self.held.len() < before
    }

    fn judge(
        &mut self,
        lost: BTreeMap<Vec<u8>, (Value, i64)>,
        before: usize,
        regressed: bool,
    ) -> Option<(Danger, usize)> {
        let signs = Signs { regressed, held: self.holds(), ..Signs::default() };
        let danger = judge::danger(lost.len(), before, self.entries.len(), signs)?;
        let count = lost.len();
        self.held.extend(lost);
        Some((danger, count))
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
            mirror.shown().map(|(_, value)| String::from_utf8_lossy(&value.bytes).into_owned()).collect();
        all.sort();
        all.join(" ")
    }

    /// A mirror of a, b and c, listed at revision 10.
    fn mirror() -> Mirror {
        let mut mirror = Mirror::default();
        assert!(mirror.adopt(listing(10, &[("a", 3), ("b", 4), ("c", 5)]), 0).changed);
        mirror
    }

    #[test]
    fn events_follow_the_list() {
        let mut mirror = mirror();
        assert_eq!(mirror.next(), 11);
        let outcome = mirror.apply([put("d", 11), put("a", 12), delete("b", 12)]);
        assert_eq!(outcome, Outcome { changed: true, ..Outcome::default() });
        assert_eq!(shown(&mirror), "a@12 c@5 d@11");
        // From the last event's own revision: the rest of it may still be to come.
        assert_eq!(mirror.next(), 12);
    }

    #[test]
    fn what_was_told_before_changes_nothing() {
        let mut mirror = mirror();
        mirror.apply([put("d", 11), put("a", 12), delete("b", 12)]);
        assert!(!mirror.apply([put("b", 4), delete("d", 11), put("a", 12), delete("b", 12)]).changed);
        assert_eq!(shown(&mirror), "a@12 c@5 d@11");
        assert!(!mirror.apply([]).changed);
        assert_eq!(mirror.next(), 12);
    }

    #[test]
    fn a_dangerous_removal_is_shown_until_a_list_confirms_it() {
        let mut mirror = mirror();
        let outcome = mirror.apply([delete("a", 11), delete("b", 11), put("d", 11)]);
        assert_eq!(outcome.held, Some((Danger::Takes { lost: 2, of: 3 }, 2)));
        assert_eq!(shown(&mirror), "a@3 b@4 c@5 d@11", "additions flow");
        assert!(mirror.holds());
        // Older than the loss: no word on it.
        let early = mirror.adopt(listing(10, &[("a", 3), ("b", 4), ("c", 5)]), 10);
        assert!(early.outdated && !early.changed && mirror.holds());
        // Written again meanwhile; the other one is confirmed.
        let outcome = mirror.adopt(listing(12, &[("b", 12), ("c", 5), ("d", 11)]), 11);
        assert!(outcome.changed && outcome.held.is_none() && !mirror.holds());
        assert_eq!(shown(&mirror), "b@12 c@5 d@11");
        assert_eq!(mirror.next(), 13);
    }

    #[test]
    fn while_something_is_held_no_further_removal_goes_unconfirmed() {
        let mut mirror = mirror();
        mirror.apply([put("d", 11), put("e", 11)]);
        mirror.apply([delete("a", 12), delete("b", 12), delete("c", 12)]);
        let outcome = mirror.apply([delete("d", 13)]);
        assert_eq!(outcome.held, Some((Danger::Unconfirmed, 1)));
        assert_eq!(shown(&mirror), "a@3 b@4 c@5 d@11 e@11");
        mirror.apply([put("a", 14)]);
        assert_eq!(shown(&mirror), "a@14 b@4 c@5 d@11 e@11");
        assert!(mirror.adopt(listing(14, &[("a", 14), ("e", 11)]), mirror.revision()).changed);
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
        assert_eq!(outcome.held, Some((Danger::Regressed, 1)));
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
        assert!(outcome.outdated && outcome.changed && !mirror.holds());
        assert_eq!(shown(&mirror), "d@13");
    }

    #[test]
    fn a_store_that_went_back_removes_nothing_unconfirmed() {
        let mut wiped = mirror();
        let outcome = wiped.adopt(listing(1, &[]), wiped.revision());
        assert!(outcome.regressed);
        assert_eq!(outcome.held, Some((Danger::Regressed, 3)));
        assert_eq!((shown(&wiped).as_str(), wiped.next()), ("a@3 b@4 c@5", 2));
        assert!(wiped.adopt(listing(1, &[]), 1).changed);
        assert_eq!(shown(&wiped), "");

        // Wiped, and already beyond the revision we know: a key with a smaller one gives it away.
        let mut overtaken = mirror();
        overtaken.apply([put("a", 20), put("x", 21)]);
        let outcome = overtaken.adopt(listing(30, &[("a", 7), ("b", 4), ("x", 21)]), overtaken.revision());
        assert_eq!(outcome.held, Some((Danger::Regressed, 1)));
        assert_eq!(shown(&overtaken), "a@7 b@4 c@5 x@21");
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
                let shown: Vec<_> = mirror.shown().map(|(key, _)| key.to_vec()).collect();
                for key in mirror.entries.keys() {
                    prop_assert!(shown.contains(key));
                }
            }
            mirror.apply(rest.iter().cloned());
            prop_assert_eq!(&mirror.entries, &store);
            let last = Listing { cluster: 7, revision: i64::try_from(events.len()).expect("small") + 1, entries: store.clone() };
            mirror.adopt(last, mirror.revision());
            prop_assert!(!mirror.holds());
            prop_assert_eq!(mirror.shown().count(), store.len());
        }
    }
}
