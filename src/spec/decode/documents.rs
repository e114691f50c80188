//! Defines the documents of a provider that keeps one key an item: Consul's KV store, etcd.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::document::{Documents, Item, Kind};
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;
use crate::spec::upstream::UpstreamSpec;

use super::format::Format;
use super::item::{DecodeItem, decode_item};
use super::key::{Key, decode_key};

/// Turns the complete present set of keys and values into documents, again and again. Between two
/// sets it keeps each item's last good form, and decodes only what changed: an unchanged text keeps its `Arc`.
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

/// Items by name, each with the text it was made from.
type Known<T> = BTreeMap<Name, (Text, Item<T>)>;

#[derive(PartialEq, Eq)]
struct Text {
    key: String,
    bytes: Vec<u8>,
}

/// Of a certificate it holds the key: it is never shown.
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A key that won its name, before decoding.
struct Candidate<'a> {
    key: &'a str,
    bytes: &'a [u8],
    format: Option<Format>,
}

impl DocumentSet {
    /// No documents yet. `prefix` is what every key begins with, slash included: `fleetgate/`.
    pub fn new(provider: ProviderId, prefix: impl Into<String>) -> Self {
        let (routes, upstreams, middlewares, certificates, consumers) = Default::default();
        Self { provider, prefix: prefix.into(), routes, upstreams, middlewares, certificates, consumers }
    }

    /// The documents of the complete present set of whole keys and values. An item whose key is not in it
    /// is gone, with its last good form. Keys outside of the prefix, keys that end in `/` and empty values
    /// are ignored; other things that live below the same prefix (etcd's `endpoints/`) are left out by the caller.
    pub fn update<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Documents {
        let mut entries: Vec<_> = entries.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
        entries.sort_unstable();
        let mut rejected = Vec::new();
        let mut winners: BTreeMap<Kind, BTreeMap<Name, Candidate<'a>>> = BTreeMap::new();
        for (key, bytes) in entries {
            let Some(relative) = key.strip_prefix(self.prefix.as_str()) else { continue };
            match decode_key(relative) {
                Key::Ignored => {}
                Key::Rejected(text) => rejected.push(Problem::new(self.place(key), "", text)),
                Key::Document { kind, name, format } => {
                    let winners = winners.entry(kind).or_default();
                    // Keys come in order: the first one for a name is the smaller.
                    if let Some(winner) = winners.get(&name) {
                        let text = format!("`{}` defines the same name and goes first: remove one of them", winner.key);
                        rejected.push(Problem::new(self.place(key), "", text));
                    } else {
                        winners.insert(name, Candidate { key, bytes, format });
                    }
                }
            }
        }
        let place = |key: &str| format!("{}:{key}", self.provider);
        refresh(&mut self.routes, &mut winners, &place);
        refresh(&mut self.upstreams, &mut winners, &place);
        refresh(&mut self.middlewares, &mut winners, &place);
        refresh(&mut self.certificates, &mut winners, &place);
        refresh(&mut self.consumers, &mut winners, &place);
        Documents {
            routes: items(&self.routes),
            upstreams: items(&self.upstreams),
            middlewares: items(&self.middlewares),
            certificates: items(&self.certificates),
            consumers: items(&self.consumers),
            rejected,
            remarks: Vec::new(),
        }
    }

    fn place(&self, key: &str) -> String {
        format!("{}:{key}", self.provider)
    }
}

fn items<T: Clone>(known: &Known<T>) -> BTreeMap<Name, Item<T>> {
    known.iter().map(|(name, (_, item))| (name.clone(), item.clone())).collect()
}

fn refresh<T: DecodeItem>(
    known: &mut Known<T>,
    winners: &mut BTreeMap<Kind, BTreeMap<Name, Candidate<'_>>>,
    place: &dyn Fn(&str) -> String,
) {
    let present = winners.remove(&T::KIND).unwrap_or_default();
    known.retain(|name, _| present.contains_key(name));
    for (name, candidate) in present {
        let before = known.remove(&name);
        let unchanged = |(text, _): &(Text, Item<T>)| text.key == candidate.key && text.bytes == candidate.bytes;
        let after = match before {
            Some(before) if unchanged(&before) => before,
            before => {
                let place = place(candidate.key);
                let last_good = before.and_then(|(_, item)| item.good);
                let item = match decode_item::<T>(candidate.bytes, candidate.format, &place) {
                    Ok(spec) => {
                        Item { good: Some(keep_equal(last_good, spec)), problems: Vec::new(), place: place.into() }
                    }
                    Err(problems) => Item { good: last_good, problems, place: place.into() },
                };
                (Text { key: candidate.key.to_owned(), bytes: candidate.bytes.to_vec() }, item)
            }
        };
        known.insert(name, after);
    }
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

    fn update(set: &mut DocumentSet, entries: &[(&str, &str)]) -> Documents {
        set.update(entries.iter().map(|(key, text)| (*key, text.as_bytes())))
    }

    #[test]
    fn keys_become_documents() {
        let mut set = set();
        let documents = update(
            &mut set,
            &[
                ("fleetgate/", ""),
                ("fleetgate/routes/", ""),
                ("fleetgate/routes/empty", ""),
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
        let not_utf8 = set.update([(key, &b"\xff"[..])]).routes["a"].clone();
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
}
