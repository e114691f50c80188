//! What a mirror shows, whatever comes.

use proptest::prelude::*;

use super::*;

fn put(key: &str, revision: i64) -> Event {
    Event { key: key.into(), revision, value: Some(format!("{key}@{revision}").into_bytes()), ..Event::default() }
}

fn delete(key: &str, revision: i64) -> Event {
    Event { key: key.into(), revision, ..Event::default() }
}

fn listing(revision: i64, keys: &[(&str, i64)]) -> Listing {
    let value = |key: &str, modified: i64| Value {
        bytes: format!("{key}@{modified}").into_bytes(),
        modified,
        ..Value::default()
    };
    Listing { cluster: 7, revision, entries: keys.iter().map(|(key, at)| ((*key).into(), value(key, *at))).collect() }
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
                Some(bytes) => { store.insert(key.clone(), Value { bytes: bytes.clone(), modified: revision, ..Value::default() }); }
                None => { store.remove(&key); }
            }
            events.push(Event { key, revision, value, ..Event::default() });
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
