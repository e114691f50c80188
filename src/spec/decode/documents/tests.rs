//! What becomes of keys, edit by edit, over restarts and with registries that are exchanged.

use super::*;

const ROUTE: &str = r#"{"match":{"path":"/a"},"upstream":"u"}"#;

fn set() -> DocumentSet {
    DocumentSet::new(ProviderId::ConsulKv, "fleetgate/")
}

fn stored(bytes: &[u8], past: Past) -> Stored<'_> {
    Stored { bytes, past }
}

fn update(set: &mut DocumentSet, entries: &[(&str, &str)]) -> Documents {
    set.update(entries.iter().map(|(key, text)| (*key, stored(text.as_bytes(), Past::default()))))
}

#[test]
fn keys_become_documents() {
    let mut set = set();
    let documents = update(
        &mut set,
        &[
            ("fleetgate/", ""),
            ("fleetgate/routes/", ""),
            ("fleetgate/routes/empty/", ""),
            ("fleetgate/routes/json", ROUTE),
            ("fleetgate/routes/toml", "upstream = \"u\"\n[match]\npath = \"/b\""),
            ("fleetgate/routes/yaml.yaml", "match: { path: /c }\nupstream: u\n"),
            ("fleetgate/upstreams/u", "consul = { service = \"users\" }"),
            ("elsewhere/routes/other", ROUTE),
            ("fleetgate/middlewares/strip", "strip_prefix = \"/users\""),
            ("fleetgate/plugins/m", "x = 1"),
        ],
    );
    assert_eq!(documents.routes.keys().map(Name::as_str).collect::<Vec<_>>(), ["json", "toml", "yaml"]);
    assert!(documents.routes.values().all(|item| item.good.is_some() && item.problems.is_empty()));
    assert!(documents.upstreams["u"].good.is_some() && documents.middlewares["strip"].good.is_some());
    assert_eq!(
        documents.rejected.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "consul-kv:fleetgate/plugins/m: `plugins/` holds no documents: documents are `routes/NAME`, `upstreams/NAME`, `middlewares/NAME`, `certificates/NAME`, `consumers/NAME`"
        ]
    );
}

#[test]
fn the_smaller_key_wins_a_name() {
    let documents = update(&mut set(), &[("fleetgate/routes/a.toml", "x"), ("fleetgate/routes/a", ROUTE)]);
    assert_eq!(&*documents.routes["a"].place, "consul-kv:fleetgate/routes/a");
    assert!(documents.routes["a"].good.is_some());
    assert_eq!(documents.rejected[0].place, "consul-kv:fleetgate/routes/a.toml");
    assert!(documents.rejected[0].text.contains("`fleetgate/routes/a`"), "{}", documents.rejected[0]);
}

#[test]
fn a_bad_edit_keeps_the_last_good_form_until_it_is_mended_or_removed() {
    let mut set = set();
    let key = "fleetgate/routes/a";
    let good = update(&mut set, &[(key, ROUTE)]).routes["a"].clone();
    for bad in ["{", "\u{1}", r#"{"match":{"path":"/a"},"upstreams":"u"}"#] {
        let item = update(&mut set, &[(key, bad)]).routes["a"].clone();
        assert_eq!(item.good, good.good, "{bad}");
        assert!(!item.problems.is_empty() && item.problems[0].place.starts_with("consul-kv:fleetgate/routes/a:1:"));
    }
    let not_utf8 = set.update([(key, stored(b"\xff", Past::default()))]).routes["a"].clone();
    assert_eq!((not_utf8.good, not_utf8.problems.len()), (good.good.clone(), 1));
    let healed = update(&mut set, &[(key, ROUTE)]).routes["a"].clone();
    assert!(healed.problems.is_empty());
    assert!(Arc::ptr_eq(healed.good.as_ref().expect("good"), good.good.as_ref().expect("good")));
    assert!(update(&mut set, &[]).routes.is_empty());
    assert_eq!(update(&mut set, &[(key, "{")]).routes["a"].good, None);
}

#[test]
fn an_unchanged_text_is_the_same_object() {
    let mut set = set();
    let entries = [("fleetgate/routes/a", ROUTE), ("fleetgate/routes/b", ROUTE)];
    let before = update(&mut set, &entries);
    let after = update(&mut set, &[entries[0], ("fleetgate/routes/b", "upstream = \"v\"\nmatch = {}")]);
    let good = |documents: &Documents, name: &str| documents.routes[name].good.clone().expect("good");
    assert!(Arc::ptr_eq(&good(&before, "a"), &good(&after, "a")));
    assert!(!Arc::ptr_eq(&good(&before, "b"), &good(&after, "b")));
}

/// A key that was created at `created` and written last at `modified`, as Consul tells of it.
fn consul(created: u64, modified: u64) -> Past {
    let version = (created == modified).then_some(1);
    Past { created: Some(created), modified: Some(modified), version }
}

/// What a route is: `good`, `new` (it never had a good form), `blocked`, or `blocked at PATH`.
fn form(documents: &Documents) -> String {
    let Some(item) = documents.routes.get("a") else { return "gone".to_owned() };
    let path = |spec: &RouteSpec| format!("{:?}", spec.matching.path);
    match (&item.good, &item.blocked) {
        (Some(_), None) if item.problems.is_empty() => "good".to_owned(),
        (Some(good), None) => format!("last good at {}", path(good)),
        (None, None) => "new".to_owned(),
        (None, Some(Blocked { stand_in: Some(spec), .. })) => format!("blocked at {}", path(spec)),
        (None, Some(Blocked { stand_in: None, .. })) => "blocked".to_owned(),
        (Some(_), Some(_)) => unreachable!("a good form blocks nothing"),
    }
}

const KEY: &str = "fleetgate/routes/a";
const UNKNOWN_KEY: &str = r#"{"match":{"path":"/a"},"upstream":"u","timout":"3s"}"#;
const WRONG_MATCH: &str = r#"{"match":{"path":"/a","metods":["GET"]},"upstream":"u"}"#;

#[test]
fn a_bad_text_blocks_unless_it_is_the_first_of_its_key() {
    let first = |text: &str, past| form(&set().update([(KEY, stored(text.as_bytes(), past))]));
    let at_a = form(&set().update([(KEY, stored(UNKNOWN_KEY.as_bytes(), Past::default()))]));
    assert!(at_a.starts_with("blocked at") && at_a.contains("/a"), "{at_a}");
    for text in [UNKNOWN_KEY, WRONG_MATCH, "{", "", " \n", "\u{1}"] {
        assert_eq!(first(text, consul(5, 5)), "new", "{text}");
    }
    for text in [UNKNOWN_KEY, r#"{"match":{"path":"/a"},"upstream":5}"#, r#"{"match":{"path":"/a"}}"#] {
        assert_eq!(first(text, consul(5, 9)), at_a, "{text}");
    }
    // What a route matches is not known when anything about that is wrong, or may be meant for it.
    for text in [
        WRONG_MATCH,
        "{",
        "",
        r#"{"upstream":"u","timout":"3s"}"#,
        r#"{"upstream":"u","timeout":5}"#,
        r#"{"match":7,"upstream":"u"}"#,
        r#"{"match":{"path":"/a"},"upstream":"u","priorty":7}"#,
        r#"{"match":{"path":"/a"},"upstream":"u","priority":"high"}"#,
        r#"{"match":{"path":"/a"},"upstream":"u","Listeners":["web"]}"#,
        r#"{"match":{"path":"/a"},"upstream":"u","listeners":[7]}"#,
        r#"{"match":{"path":"/a"},"upstream":"u","macth":{"path":"/b"}}"#,
    ] {
        assert_eq!(first(text, consul(5, 9)), "blocked", "{text}");
    }
}

#[test]
fn a_key_that_was_created_anew_has_no_last_good_form() {
    let mut set = set();
    let mut form_at = |text: &str, past| form(&set.update([(KEY, stored(text.as_bytes(), past))]));
    assert_eq!(form_at(ROUTE, consul(5, 5)), "good");
    assert!(form_at("{", consul(5, 6)).starts_with("last good"));
    assert_eq!(form_at("{", consul(7, 7)), "new");
    // It may have been good between 7 and 9.
    assert_eq!(form_at("{{", consul(7, 9)), "blocked");
    assert_eq!(form_at(ROUTE, consul(7, 10)), "good");
    // Deleted and made anew, and edited twice, since the last look.
    assert_eq!(form_at("{", consul(11, 13)), "blocked");
}

#[test]
fn where_every_text_was_seen_a_key_that_was_never_good_is_new() {
    let mut set = set();
    let mut form_at = |text: &str, modified, version| {
        let past = Past { created: Some(3), modified: Some(modified), version: Some(version) };
        form(&set.update([(KEY, stored(text.as_bytes(), past))]))
    };
    assert_eq!(form_at("{", 3, 1), "new");
    assert_eq!(form_at("{{", 6, 2), "new");
    assert_eq!(form_at("{", 9, 4), "blocked");
}

#[test]
fn an_earlier_process_tells_of_last_good_forms_and_of_keys_that_never_had_one() {
    let restart = |forms: &SavedForms| {
        let text = serde_json::to_string(forms).expect("JSON");
        set().remembering(&serde_json::from_str(&text).expect("forms"))
    };
    let mut before = set();
    before.update([(KEY, stored(ROUTE.as_bytes(), consul(5, 5)))]);
    // Its text was good when it was saved, and when it was bad already.
    let of_good = before.forms();
    before.update([(KEY, stored(b"{", consul(5, 8)))]);
    for saved in [&of_good, &before.forms()] {
        for text in ["{", "", UNKNOWN_KEY] {
            let documents = restart(saved).update([(KEY, stored(text.as_bytes(), consul(5, 8)))]);
            assert_eq!(form(&documents), "last good at Prefix(\"/a\")", "{text}");
            assert!(!documents.routes["a"].problems.is_empty());
        }
        assert_eq!(form(&restart(saved).update([(KEY, stored(b"{", consul(9, 9)))])), "new");
        assert_eq!(form(&restart(saved).update([])), "gone");
    }
    assert_eq!(form(&restart(&before.forms()).remembered(&before.forms())), "last good at Prefix(\"/a\")");

    let mut unknown = set();
    unknown.update([(KEY, stored(b"{", consul(5, 7)))]);
    assert_eq!(form(&restart(&unknown.forms()).update([(KEY, stored(b"{", consul(5, 7)))])), "blocked");
    let mut new = set();
    let past = |modified, version| Past { created: Some(5), modified: Some(modified), version: Some(version) };
    new.update([(KEY, stored(b"{", past(5, 1)))]);
    new.update([(KEY, stored(b"{{", past(7, 2)))]);
    assert_eq!(form(&restart(&new.forms()).update([(KEY, stored(b"{{", consul(5, 7)))])), "new");
    assert_eq!(form(&restart(&new.forms()).update([(KEY, stored(b"{{", consul(5, 9)))])), "blocked");
}

#[test]
fn the_key_that_was_created_first_has_the_name_unless_it_never_was_any_good() {
    let mut set = set();
    let [older, newer] = ["fleetgate/routes/a.toml", "fleetgate/routes/a"];
    let toml = "upstream = \"u\"\n[match]\npath = \"/a\"";
    let mut place = |of_older: &str, past| {
        let entries = [(older, stored(of_older.as_bytes(), past)), (newer, stored(ROUTE.as_bytes(), consul(6, 6)))];
        let documents = set.update(entries);
        assert_eq!(documents.rejected.len(), 1);
        (documents.routes["a"].place.to_string(), form(&documents))
    };
    assert_eq!(place("{", consul(5, 5)), (format!("consul-kv:{newer}"), "good".to_owned()));
    assert_eq!(place("{", consul(5, 7)), (format!("consul-kv:{older}"), "blocked".to_owned()));
    assert_eq!(place(toml, consul(5, 8)), (format!("consul-kv:{older}"), "good".to_owned()));
    assert!(place("{", consul(5, 9)).1.starts_with("last good"));
}

/// What etcd tells of a key that was created at `created`, at its `version`th text.
fn etcd(created: u64, version: u64) -> Past {
    Past { created: Some(created), modified: Some(created + 2 * version - 2), version: Some(version) }
}

fn restarted(set: &DocumentSet) -> DocumentSet {
    let text = serde_json::to_string(&set.forms()).expect("JSON");
    super::DocumentSet::new(ProviderId::ConsulKv, "fleetgate/")
        .remembering(&serde_json::from_str(&text).expect("forms"))
}

const WIDER: &str = r#"{"match":{"path":"/a"},"upstream":"u","middlewares":["keys"],"timout":"3s"}"#;

#[test]
fn a_good_text_that_was_missed_is_no_longer_the_last_one() {
    let known = "last good at Prefix(\"/a\")";
    for text in ["{", UNKNOWN_KEY, WIDER] {
        let mut set = set();
        let mut next = |text: &str, past| form(&set.update([(KEY, stored(text.as_bytes(), past))]));
        assert_eq!(next(ROUTE, etcd(3, 1)), "good");
        assert_eq!(next(text, etcd(3, 2)), known, "all were seen");
        assert_eq!(next(ROUTE, etcd(3, 3)), "good");
        // The fourth may have been good, and more protected.
        assert_eq!(next(text, etcd(3, 5)), "blocked at Prefix(\"/a\")", "{text}");
        // It stays so, over a restart as well.
        assert_eq!(next("{", etcd(3, 6)), "blocked at Prefix(\"/a\")");
        let mut next = restarted(&set);
        assert_eq!(form(&next.update([(KEY, stored(b"{", etcd(3, 6)))])), "blocked at Prefix(\"/a\")");
        assert_eq!(form(&restarted(&set).update([(KEY, stored(b"{{", etcd(3, 9)))])), "blocked at Prefix(\"/a\")");
        assert_eq!(form(&next.update([(KEY, stored(ROUTE.as_bytes(), etcd(3, 7)))])), "good");
        assert_eq!(form(&next.update([(KEY, stored(text.as_bytes(), etcd(3, 8)))])), known);
    }
}

/// It protects, if less well than the one that was missed may have.
#[test]
fn a_protected_form_serves_where_another_one_was_missed_that_asks_for_no_more() {
    let guarded = WIDER.replace(",\"timout\":\"3s\"", "");
    let more = WIDER.replace("[\"keys\"]", "[\"keys\",\"more\"]");
    for (text, wanted) in [("{", "last good"), (WIDER, "last good"), (&more, "blocked at")] {
        let mut set = set();
        set.update([(KEY, stored(guarded.as_bytes(), etcd(3, 1)))]);
        let shown = form(&set.update([(KEY, stored(text.as_bytes(), etcd(3, 5)))]));
        assert!(shown.starts_with(wanted), "{text}: {shown}");
    }
}

#[test]
fn where_another_match_was_missed_both_are_blocked() {
    let mut set = set();
    set.update([(KEY, stored(ROUTE.as_bytes(), etcd(3, 1)))]);
    // Nothing of it asks for protection.
    let moved = UNKNOWN_KEY.replace("/a", "/b");
    let documents = set.update([(KEY, stored(moved.as_bytes(), etcd(3, 3)))]);
    assert_eq!(form(&documents), "blocked at Prefix(\"/b\")");
    let hides = &documents.routes["a"].blocked.as_ref().expect("blocked").hides;
    assert!(matches!(&hides[..], [Some(spec)] if format!("{:?}", spec.matching.path).contains("/a")), "{hides:?}");
}

#[test]
fn what_guards_nothing_keeps_its_last_good_form() {
    let key = "fleetgate/upstreams/u";
    let mut set = set();
    set.update([(key, stored(br#"{"endpoints":["10.0.0.1:80"]}"#, etcd(3, 1)))]);
    let documents = set.update([(key, stored(b"{", etcd(3, 5)))]);
    assert!(documents.upstreams["u"].good.is_some() && !documents.upstreams["u"].problems.is_empty());
}

/// Consul does not tell how many texts a key has had.
#[test]
fn a_text_that_asks_for_more_protection_after_a_restart_is_no_mistake_in_the_saved_form() {
    let mut set = set();
    set.update([(KEY, stored(ROUTE.as_bytes(), consul(5, 5)))]);
    let known = "last good at Prefix(\"/a\")";
    let missed =
        |set: &DocumentSet, text: &str| form(&restarted(set).update([(KEY, stored(text.as_bytes(), consul(5, 9)))]));
    assert_eq!(missed(&set, UNKNOWN_KEY), known);
    assert_eq!(missed(&set, WIDER), "blocked at Prefix(\"/a\")");
    // What this process sees being edited is no more than an edit.
    assert_eq!(form(&set.update([(KEY, stored(WIDER.as_bytes(), consul(5, 9)))])), known);
    assert_eq!(missed(&set, WIDER), known, "nor was anything missed then");
    let guarded = WIDER.replace(",\"timout\":\"3s\"", "");
    set.update([(KEY, stored(guarded.as_bytes(), consul(5, 11)))]);
    assert_eq!(form(&restarted(&set).update([(KEY, stored(WIDER.as_bytes(), consul(5, 12)))])), known);
}

#[test]
fn a_key_that_is_imported_into_another_registry_is_no_new_one() {
    let known = "last good at Prefix(\"/a\")";
    let wiped = |texts: [&str; 2]| {
        let mut set = set();
        let past = [consul(50, 50), consul(50, 60)];
        texts.into_iter().zip(past).for_each(|(text, past)| drop(set.update([(KEY, stored(text.as_bytes(), past))])));
        set.of_registry(1);
        set
    };
    for index in [7, 700] {
        for texts in [[ROUTE, ROUTE], [ROUTE, "{"]] {
            let mut set = wiped(texts);
            // While its loss is not confirmed, it is shown on.
            set.update([(KEY, stored(texts[1].as_bytes(), consul(50, 60)))]);
            assert_eq!(set.forms().keys.len(), 1);
            assert_eq!(form(&set.update([])), "gone");
            assert!(set.forms().keys.is_empty(), "it is not there");
            set.of_registry(1);
            assert_eq!(form(&set.update([(KEY, stored(b"{", consul(index, index)))])), known);
            let mut set = wiped(texts);
            assert_eq!(form(&set.update([(KEY, stored(b"{", consul(index, index)))])), known, "at once");
            assert_eq!(form(&restarted(&set).update([(KEY, stored(b"{", consul(index, index)))])), known);
            // From here on it is the registry's own.
            assert_eq!(form(&set.update([])), "gone");
            assert_eq!(form(&set.update([(KEY, stored(b"{", consul(index + 9, index + 9)))])), "new");
        }
        // What may have had a good form may have had it there, and what never had one has none.
        let mut set = wiped(["{", "{"]);
        assert_eq!(form(&set.update([(KEY, stored(b"{", consul(index, index)))])), "blocked");
        let mut set = self::set();
        set.update([(KEY, stored(b"{", consul(5, 5)))]);
        set.of_registry(1);
        assert_eq!(form(&set.update([(KEY, stored(b"{", consul(index, index)))])), "new");
    }
    // No process saw it: a registry does not go back but by being another one, or restored.
    for texts in [[ROUTE, ROUTE], [ROUTE, "{"]] {
        let mut set = set();
        let past = [etcd(30, 1), etcd(30, 2)];
        texts.into_iter().zip(past).for_each(|(text, past)| drop(set.update([(KEY, stored(text.as_bytes(), past))])));
        for now in [etcd(2, 1), etcd(29, 1), consul(31, 31)] {
            assert_eq!(form(&restarted(&set).update([(KEY, stored(b"{", now))])), known, "{now:?}");
            let mut here = restarted(&set);
            here.update([(KEY, stored(texts[1].as_bytes(), past[1]))]);
            assert_eq!(form(&here.update([(KEY, stored(b"{", now))])), known, "{now:?}");
        }
        assert_eq!(form(&restarted(&set).update([(KEY, stored(b"{", etcd(40, 1)))])), "new", "it was put anew");
    }
    // An earlier process saw the registry wiped.
    let mut before = set();
    before.update([(KEY, stored(ROUTE.as_bytes(), consul(50, 50)))]);
    let mut next = set().remembering(&SavedForms { is_former: true, ..before.forms() });
    assert_eq!(form(&next.update([])), "gone");
    assert_eq!(form(&next.update([(KEY, stored(b"{", consul(700, 700)))])), known);
}
