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
use super::scope::Reference;

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
    /// What is known was read by an earlier process.
    is_recalled: bool,
    /// Of which registry it is, as [`DocumentSet::of_registry`] counts them.
    registry: u64,
}

/// What is known of keys.
type Known<T> = BTreeMap<String, KnownKey<T>>;

struct KnownKey<T> {
    bytes: Arc<[u8]>,
    past: Past,
    /// It was read of another registry than the present one, whose word of the key's past does not reach back so far.
    is_former: bool,
    /// Its key is not there: it waits to be imported.
    is_absent: bool,
    /// The text of the good form, or of the last one that was seen.
    good_text: Option<Arc<str>>,
    item: Item<T>,
}

/// What may have been missed between two sets of texts.
#[derive(Clone, Copy, Debug)]
enum Missed<'s> {
    /// Texts that a key had for a moment.
    Moments,
    /// Texts that it had while no process of this gateway looked.
    Edits,
    /// What an earlier process says.
    AsSaved(&'s SavedForms),
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
        let (prefix, is_recalled, registry) = (prefix.into(), false, 0);
        Self { provider, prefix, routes, upstreams, middlewares, certificates, consumers, is_recalled, registry }
    }

    /// As an earlier process left them. The first [`Self::update`] says which of their keys are still there.
    pub fn remembering(self, saved: &SavedForms) -> Self {
        let mut set = self;
        // What was good goes first, so that what is bad now finds it.
        set.update(saved.keys.iter().filter_map(|(key, saved)| Some((key.as_str(), saved.good()?))));
        set.remembered(saved);
        set.mark_new(saved);
        if saved.is_former {
            set.begin_anew();
        }
        set.is_recalled = true;
        set
    }

    /// Says of which registry the texts are from now on: `count` is another number where the former one was wiped,
    /// restored or replaced. Then a key that is there for the first time may be an old one that was imported.
    pub fn of_registry(&mut self, count: u64) {
        if count != self.registry {
            self.registry = count;
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        fn forget<T>(known: &mut Known<T>) {
            known.values_mut().for_each(|known| known.is_former = true);
        }
        forget(&mut self.routes);
        forget(&mut self.upstreams);
        forget(&mut self.middlewares);
        forget(&mut self.certificates);
        forget(&mut self.consumers);
    }

    /// What is served of them while the registry has not answered.
    pub fn remembered(&mut self, saved: &SavedForms) -> Documents {
        self.take(saved.keys.iter().map(|(key, saved)| (key.as_str(), saved.present())), Missed::AsSaved(saved))
    }

    /// The documents of the complete present set of whole keys and values. An item whose key is not in it
    /// is gone, with its last good form, unless the registry is another one. Keys outside of the prefix and keys that end in `/` are ignored; other things
    /// that live below the same prefix (etcd's `endpoints/`) are left out by the caller.
    pub fn update<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, Stored<'a>)>) -> Documents {
        let missed = if std::mem::take(&mut self.is_recalled) { Missed::Edits } else { Missed::Moments };
        self.take(entries, missed)
    }

    fn take<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, Stored<'a>)>, missed: Missed<'_>) -> Documents {
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
        if self.has_later(&present) {
            self.begin_anew();
        }
        let place = |key: &str| format!("{}:{key}", self.provider);
        let documents = Documents {
            routes: refresh(&mut self.routes, &mut present, missed, &mut rejected, &place),
            upstreams: refresh(&mut self.upstreams, &mut present, missed, &mut rejected, &place),
            middlewares: refresh(&mut self.middlewares, &mut present, missed, &mut rejected, &place),
            certificates: refresh(&mut self.certificates, &mut present, missed, &mut rejected, &place),
            consumers: refresh(&mut self.consumers, &mut present, missed, &mut rejected, &place),
            ..Documents::default()
        };
        rejected.sort();
        Documents { rejected, ..documents }
    }

    /// Whether a later text of one of these keys is known, so that they are of another registry, or of one that went back:
    /// an edit, or a deletion and a new key, has a higher index than all before it.
    fn has_later(&self, present: &BTreeMap<Kind, BTreeMap<&str, Candidate<'_>>>) -> bool {
        fn of<T: DecodeItem>(known: &Known<T>, present: &BTreeMap<Kind, BTreeMap<&str, Candidate<'_>>>) -> bool {
            let mut present = present.get(&T::KIND).into_iter().flatten();
            present.any(|(key, candidate)| {
                let known = known.get(*key).and_then(|known| known.known_past().modified);
                known.zip(candidate.stored.past.modified).is_some_and(|(known, now)| now < known)
            })
        }
        of(&self.routes, present)
            || of(&self.upstreams, present)
            || of(&self.middlewares, present)
            || of(&self.certificates, present)
            || of(&self.consumers, present)
    }

    /// What is to be remembered of the last update.
    pub fn forms(&self) -> SavedForms {
        fn of<T>(known: &Known<T>) -> impl Iterator<Item = (String, SavedKey)> {
            known.iter().filter(|(_, known)| !known.is_absent).map(|(key, known)| (key.clone(), known.saved()))
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
    fn is(&self, stored: &Stored<'_>) -> bool {
        *self.bytes == *stored.bytes && self.past == stored.past
    }

    /// Its past, as far as the present registry tells it.
    fn known_past(&self) -> Past {
        if self.is_former { Past::default() } else { self.past }
    }

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
            outdated: self.item.good.is_none() && self.good_text.is_some(),
        }
    }
}

impl<T: DecodeItem> KnownKey<T> {
    /// Whether a bad text with this past, which names these, may have followed a good one that is not known.
    fn is_outdated(&self, key: &str, now: Past, names: &[Reference], missed: Missed<'_>) -> bool {
        let before = self.known_past();
        let skips_texts = before.version.zip(now.version).is_some_and(|(before, now)| now > before + 1);
        match missed {
            Missed::AsSaved(saved) => saved.keys.get(key).is_some_and(|saved| saved.outdated),
            Missed::Moments | Missed::Edits if had_only_what_was_seen(before, now) => false,
            // What asks for more may be a mistake made in one that was more protected already.
            Missed::Moments | Missed::Edits if skips_texts => {
                self.item.good.as_ref().is_some_and(|good| good.is_open() || good.has_less_than(names))
            }
            Missed::Moments => false,
            Missed::Edits => self.item.good.as_ref().is_some_and(|good| good.has_less_than(names)),
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
    missed: Missed<'_>,
    rejected: &mut Vec<Problem>,
    place: &dyn Fn(&str) -> String,
) -> BTreeMap<Name, Item<T>> {
    let present = present.remove(&T::KIND).unwrap_or_default();
    known.retain(|key, known| {
        known.is_absent = !present.contains_key(key.as_str());
        known.is_former || !known.is_absent
    });
    let mut by_name: BTreeMap<Name, Vec<&'a str>> = BTreeMap::new();
    for (key, candidate) in present {
        by_name.entry(candidate.name.clone()).or_default().push(key);
        let now = match known.remove(key) {
            Some(before) if before.is(&candidate.stored) => before,
            before => decode(key, candidate, before, missed, place(key)),
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

fn decode<T: DecodeItem>(
    key: &str,
    candidate: Candidate<'_>,
    before: Option<KnownKey<T>>,
    missed: Missed<'_>,
    place: String,
) -> KnownKey<T> {
    let Candidate { format, stored: Stored { bytes, past }, .. } = candidate;
    let created = past.created;
    let same_key =
        |before: &KnownKey<T>| before.known_past().created.zip(created).is_none_or(|(before, now)| before == now);
    let Decoded { item, stand_in, references } = decode_body::<T>(bytes, format, &place);
    let is_last_good = |before: &KnownKey<T>| {
        same_key(before) && before.item.good.is_some() && !before.is_outdated(key, past, &references, missed)
    };
    let (good, good_text, problems) = match (item, before) {
        (Ok(spec), before) => {
            let good = keep_equal(before.and_then(|before| before.item.good), spec);
            (Some(good), std::str::from_utf8(bytes).ok().map(Arc::from), Vec::new())
        }
        (Err(problems), Some(before)) if is_last_good(&before) => (before.item.good, before.good_text, problems),
        (Err(problems), before) => {
            let before = before.filter(&same_key);
            let is_first = past.version == Some(1);
            let is_new = before.as_ref().map_or(is_first, |before| {
                before.is_new() && (is_first || had_only_what_was_seen(before.known_past(), past))
            });
            // What earlier texts of the key matched stays blocked where this one does not tell, and the last good form of
            // those that were seen in any case.
            let (former, good_text, hides) = match before {
                Some(KnownKey { item: Item { good: Some(good), .. }, good_text, .. }) => {
                    let blocking = good.blocking().map(Arc::new);
                    (blocking.clone(), good_text, Vec::from_iter(blocking.map(Some)))
                }
                Some(KnownKey { item: Item { blocked: Some(blocked), .. }, good_text, .. }) => {
                    (blocked.stand_in, good_text, blocked.hides)
                }
                Some(_) | None => Default::default(),
            };
            let stand_in = stand_in.map(Arc::new).or(former);
            let blocked = (!is_new).then(|| Blocked { stand_in, hides, text: TextId::of(bytes, past.modified) });
            let item = Item { good: None, problems, place: place.into(), created, blocked };
            return KnownKey { bytes: bytes.into(), past, is_former: false, is_absent: false, good_text, item };
        }
    };
    let item = Item { good, problems, place: place.into(), created, blocked: None };
    KnownKey { bytes: bytes.into(), past, is_former: false, is_absent: false, good_text, item }
}

/// The former `Arc` when the new form says the same: what did not change must not look changed.
pub(super) fn keep_equal<T: PartialEq>(before: Option<Arc<T>>, now: T) -> Arc<T> {
    match before {
        Some(before) if *before == now => before,
        _ => Arc::new(now),
    }
}

#[cfg(test)]
mod tests;
