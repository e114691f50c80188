//! The documents of a provider that keeps one key an item (Consul's KV store, etcd), and the last good form of each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::document::{Blocked, Documents, Item, Kind, TextId};
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;
use crate::spec::upstream::UpstreamSpec;

use super::format::Format;
use super::item::{DecodeItem, Decoded, decode_body};
use super::key::{Key, decode_key};
use super::saved::{SavedForms, SavedKey};

/// A key's value as its registry has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What the registry tells of the key's past.
    pub past: Past,
}

/// What a registry tells of a key's past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The index at which the key was created.
    pub created: Option<u64>,
    /// The index at which its present value was written.
    pub modified: Option<u64>,
    /// How many values it has had since it was created, where that is known.
    pub version: Option<u64>,
}

/// Turns the complete present set of keys and values into documents, again and again. Between two sets it keeps each
/// key's last good form, and decodes only what changed: an unchanged text keeps its `Arc`.
#[derive(Debug)]
pub struct DocumentSet {
    provider: ProviderId,
    prefix: String,
    routes: Known<RouteSpec>,
    upstreams: Known<UpstreamSpec>,
    middlewares: Known<MiddlewareSpec>,
    certificates: Known<CertificateSpec>,
    consumers: Known<ConsumerSpec>,
}

/// What is known of keys.
type Known<T> = BTreeMap<String, KnownKey<T>>;

struct KnownKey<T> {
    bytes: Arc<[u8]>,
    past: Past,
    /// The text of the good form.
    good_text: Option<Arc<str>>,
    item: Item<T>,
}

/// A certificate's text holds its private key, which is never shown.
impl<T: fmt::Debug> fmt::Debug for KnownKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKey").field("item", &self.item).field("past", &self.past).finish_non_exhaustive()
    }
}

/// A key that names a document, before decoding.
struct Candidate<'a> {
    name: Name,
    format: Option<Format>,
    stored: Stored<'a>,
}

impl DocumentSet {
    /// No documents yet. `prefix` is what every key begins with, slash included: `fleetgate/`.
    pub fn new(provider: ProviderId, prefix: impl Into<String>) -> Self {
        let (routes, upstreams, middlewares, certificates, consumers) = Default::default();
        Self { provider, prefix: prefix.into(), routes, upstreams, middlewares, certificates, consumers }
    }

    /// As an earlier process left them. The first [`Self::update`] says which of their keys are still there.
    pub fn remembering(self, saved: &SavedForms) -> Self {
        let mut set = self;
        // What was good goes first, so that what is bad now finds it.
        set.update(saved.keys.iter().filter_map(|(key, saved)| Some((key.as_str(), saved.good()?))));
        set.update(saved.keys.iter().map(|(key, saved)| (key.as_str(), saved.present())));
        set.mark_new(saved);
        set
    }

    /// What is served of them while the registry has not answered.
    pub fn remembered(&mut self, saved: &SavedForms) -> Documents {
        self.update(saved.keys.iter().map(|(key, saved)| (key.as_str(), saved.present())))
    }

    /// The documents of the complete present set of whole keys and values. An item whose key is not in it
    /// is gone, with its last good form. Keys outside of the prefix and keys that end in `/` are ignored; other things
    /// that live below the same prefix (etcd's `endpoints/`) are left out by the caller.
    pub fn update<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, Stored<'a>)>) -> Documents {
        let mut rejected = Vec::new();
        let mut present: BTreeMap<Kind, BTreeMap<&'a str, Candidate<'a>>> = BTreeMap::new();
        for (key, stored) in entries {
            let Some(relative) = key.strip_prefix(self.prefix.as_str()) else { continue };
            match decode_key(relative) {
                Key::Ignored => {}
                Key::Rejected(text) => rejected.push(Problem::new(self.place(key), "", text)),
                Key::Document { kind, name, format } => {
                    present.entry(kind).or_default().insert(key, Candidate { name, format, stored });
                }
            }
        }
        let place = |key: &str| format!("{}:{key}", self.provider);
        let documents = Documents {
            routes: refresh(&mut self.routes, &mut present, &mut rejected, &place),
            upstreams: refresh(&mut self.upstreams, &mut present, &mut rejected, &place),
            middlewares: refresh(&mut self.middlewares, &mut present, &mut rejected, &place),
            certificates: refresh(&mut self.certificates, &mut present, &mut rejected, &place),
            consumers: refresh(&mut self.consumers, &mut present, &mut rejected, &place),
            ..Documents::default()
        };
        rejected.sort();
        Documents { rejected, ..documents }
    }

    /// What is to be remembered of the last update.
    pub fn forms(&self) -> SavedForms {
        fn of<T>(known: &Known<T>) -> impl Iterator<Item = (String, SavedKey)> {
            known.iter().map(|(key, known)| (key.clone(), known.saved()))
        }
        let keys = of(&self.routes)
            .chain(of(&self.upstreams))
            .chain(of(&self.middlewares))
            .chain(of(&self.certificates))
            .chain(of(&self.consumers));
        SavedForms { keys: keys.collect(), ..SavedForms::default() }
    }

    fn place(&self, key: &str) -> String {
        format!("{}:{key}", self.provider)
    }

    /// Keys that provably never had a good form are so still.
    fn mark_new(&mut self, saved: &SavedForms) {
        fn of<T>(known: &mut Known<T>, saved: &SavedForms) {
            for (key, known) in known {
                if saved.keys.get(key).is_some_and(|saved| saved.is_new) {
                    known.item.blocked = None;
                }
            }
        }
        of(&mut self.routes, saved);
        of(&mut self.upstreams, saved);
        of(&mut self.middlewares, saved);
        of(&mut self.certificates, saved);
        of(&mut self.consumers, saved);
    }
}

impl<T> KnownKey<T> {
    /// Whether it provably never had a good form.
    fn is_new(&self) -> bool {
        self.item.good.is_none() && self.item.blocked.is_none()
    }

    fn saved(&self) -> SavedKey {
        let is_good = self.item.problems.is_empty();
        SavedKey {
            good: self.good_text.clone(),
            // What is not UTF-8 is as wrong as nothing at all.
            bad: (!is_good).then(|| String::from_utf8(self.bytes.to_vec()).unwrap_or_default().into()),
            created: self.past.created,
            modified: self.past.modified,
            version: self.past.version,
            is_new: self.is_new(),
        }
    }
}

/// Of the texts that a key had, those between two that were seen are not known.
fn had_only_what_was_seen(before: Past, now: Past) -> bool {
    let same_key = before.created == now.created;
    let same_text = before.modified.is_some() && before.modified == now.modified;
    let next_text = before.version.zip(now.version).is_some_and(|(before, now)| now == before + 1);
    same_key && (same_text || next_text)
}

/// Decodes what changed of one kind, and decides who has each name: of several keys the one that was created first.
fn refresh<'a, T: DecodeItem + Clone>(
    known: &mut Known<T>,
    present: &mut BTreeMap<Kind, BTreeMap<&'a str, Candidate<'a>>>,
    rejected: &mut Vec<Problem>,
    place: &dyn Fn(&str) -> String,
) -> BTreeMap<Name, Item<T>> {
    let present = present.remove(&T::KIND).unwrap_or_default();
    known.retain(|key, _| present.contains_key(key.as_str()));
    let mut by_name: BTreeMap<Name, Vec<&'a str>> = BTreeMap::new();
    for (key, candidate) in present {
        by_name.entry(candidate.name.clone()).or_default().push(key);
        let now = match known.remove(key) {
            Some(before) if *before.bytes == *candidate.stored.bytes && before.past == candidate.stored.past => before,
            before => decode(candidate, before, place(key)),
        };
        known.insert(key.to_owned(), now);
    }
    let mut items = BTreeMap::new();
    for (name, mut keys) in by_name {
        // What never was any good takes a name from nobody.
        keys.sort_by_key(|key| (known[*key].is_new(), known[*key].past.created, *key));
        let winner = keys[0];
        for loser in &keys[1..] {
            let text = format!("`{winner}` defines the same name and goes first: remove one of them");
            rejected.push(Problem::new(place(loser), "", text));
        }
        let mut item = known[winner].item.clone();
        if let Some(blocked) = &mut item.blocked {
            for loser in &keys[1..] {
                match &known[*loser].item {
                    Item { good: Some(good), .. } => blocked.hides.push(good.blocking().map(Arc::new)),
                    Item { blocked: Some(of_loser), .. } => blocked.hides.push(of_loser.stand_in.clone()),
                    Item { good: None, blocked: None, .. } => {}
                }
            }
        }
        items.insert(name, item);
    }
    items
}

fn decode<T: DecodeItem>(candidate: Candidate<'_>, before: Option<KnownKey<T>>, place: String) -> KnownKey<T> {
    let Candidate { format, stored: Stored { bytes, past }, .. } = candidate;
    let created = past.created;
    let same_key = |before: &KnownKey<T>| before.past.created.zip(created).is_none_or(|(before, now)| before == now);
    let Decoded { item, stand_in, .. } = decode_body::<T>(bytes, format, &place);
    let (good, good_text, problems) = match (item, before) {
        (Ok(spec), before) => {
            let good = keep_equal(before.and_then(|before| before.item.good), spec);
            (Some(good), std::str::from_utf8(bytes).ok().map(Arc::from), Vec::new())
        }
        (Err(problems), Some(before)) if same_key(&before) && before.item.good.is_some() => {
            (before.item.good, before.good_text, problems)
        }
        (Err(problems), before) => {
            let is_new = past.version == Some(1)
                || before.as_ref().is_some_and(|before| before.is_new() && had_only_what_was_seen(before.past, past));
            // What an earlier text of the key matched stays blocked where this one does not tell.
            let former = before.filter(&same_key).and_then(|before| before.item.blocked?.stand_in);
            let stand_in = stand_in.map(Arc::new).or(former);
            let blocked =
                (!is_new).then(|| Blocked { stand_in, hides: Vec::new(), text: TextId::of(bytes, past.modified) });
            let item = Item { good: None, problems, place: place.into(), created, blocked };
            return KnownKey { bytes: bytes.into(), past, good_text: None, item };
        }
    };
    let item = Item { good, problems, place: place.into(), created, blocked: None };
    KnownKey { bytes: bytes.into(), past, good_text, item }
}

/// The former `Arc` when the new form says the same: what did not change must not look changed.
pub(super) fn keep_equal<T: PartialEq>(before: Option<Arc<T>>, now: T) -> Arc<T> {
    match before {
        Some(before) if *before == now => before,
        _ => Arc::new(now),
    }
}

#[cfg(test)]
mod tests {
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
}
