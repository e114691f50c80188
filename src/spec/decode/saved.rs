//! What a provider's documents were decoded from, for the next process: texts, and what is known of items without a good
//! form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::spec::document::{Kind, TextId};
use crate::spec::name::Name;

use super::documents::{Past, Stored};
use super::format::Format;

/// What is remembered of a provider's documents.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedForms {
    /// By key, of a provider that keeps one key an item.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, SavedKey>,
    /// By path, of files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, SavedFile>,
    /// Of routes that services ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<SavedTags>,
    /// The registry has been another one since, so that keys may have another past there.
    #[serde(skip)]
    pub is_former: bool,
}

/// What is remembered of routes that services ask for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedTags {
    /// Whether a service that is not among these asked for nothing.
    #[serde(default)]
    pub is_complete: bool,
    /// Services that were not read yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unread: BTreeSet<Arc<str>>,
    /// By name.
    pub services: BTreeMap<Arc<str>, SavedService>,
}

/// What is remembered of a service that asks for routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedService {
    /// Its instances, by their ids; the last ones, where it has none.
    pub instances: BTreeMap<Arc<str>, SavedInstance>,
    /// Since when it has none, in milliseconds of Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<u64>,
    /// Since which index of the registry its routes are asked for, by their names and places.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub asked: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What is remembered of an instance that asks for routes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedInstance {
    /// Its last good tags, and those of fabio's that have no place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Routes that may have had a good form, which is not known: tags that say what they match, where that is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocked: BTreeMap<String, Vec<String>>,
    /// The same, of fabio's tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_prefixes: Vec<String>,
    /// A tag of fabio's without a place may have had one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unknown: bool,
    /// Whether it might take traffic.
    #[serde(default)]
    pub is_usable: bool,
    /// The registry's index at which it was changed last.
    #[serde(default)]
    pub modified: u64,
    /// The registry's index at which it was registered.
    #[serde(default)]
    pub created: u64,
}

/// What is remembered of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedFile {
    /// Whether all that it defined is among this.
    #[serde(default)]
    pub is_complete: bool,
    /// What it said last, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<TextId>,
    /// The texts that its items' last good forms were decoded from.
    #[serde(default)]
    pub texts: Vec<SavedText>,
    /// Items that may have had a good form, which is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<SavedItem>,
    /// Items that provably never had a good form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new: Vec<SavedItem>,
}

/// A text of a file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedText {
    /// How it is written.
    pub format: Format,
    /// Whether it is the main file's.
    pub main: bool,
    /// The text.
    pub text: Arc<str>,
    /// The items whose last good form it has.
    pub items: Vec<SavedItem>,
}

/// An item's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedItem {
    /// Its kind.
    pub kind: Kind,
    /// Its name among those of its kind.
    pub name: Name,
}

/// What is remembered of a key.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedKey {
    /// The text of its last good form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Arc<str>>,
    /// Its present text, where that is not it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<Arc<str>>,
    /// The index at which it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// The index at which its present text was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<u64>,
    /// How many texts it has had, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// It provably never had a good form.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_new: bool,
    /// Its last good form is known no more: it may have had a later one than `good`, unseen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outdated: bool,
}

impl SavedForms {
    /// Keys of which nothing but a good text is known.
    pub fn of_good_keys(texts: BTreeMap<String, Arc<str>>) -> Self {
        let keys = texts.into_iter().map(|(key, text)| (key, SavedKey { good: Some(text), ..SavedKey::default() }));
        Self { keys: keys.collect(), ..Self::default() }
    }
}

impl SavedKey {
    /// Its last good text.
    pub fn good(&self) -> Option<Stored<'_>> {
        let past = Past { created: self.created, ..Past::default() };
        self.good.as_ref().map(|text| Stored { bytes: text.as_bytes(), past })
    }

    /// Its present text.
    pub fn present(&self) -> Stored<'_> {
        let text = self.bad.as_ref().or(self.good.as_ref()).map_or("", |text| text);
        let Self { created, modified, version, .. } = *self;
        Stored { bytes: text.as_bytes(), past: Past { created, modified, version } }
    }
}

/// Texts hold private keys: they are never shown.
impl fmt::Debug for SavedForms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, files, tags, .. } = self;
        f.debug_struct("SavedForms").field("keys", &keys.keys()).field("files", files).field("tags", tags).finish()
    }
}

/// See [`SavedForms`].
impl fmt::Debug for SavedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedText").field("items", &self.items).finish_non_exhaustive()
    }
}

/// See [`SavedForms`].
impl fmt::Debug for SavedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedKey").field("modified", &self.modified).finish_non_exhaustive()
    }
}
