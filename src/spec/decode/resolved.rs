//! The texts of items in their last form that resolved, and how a later process decodes them again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::document::{Documents, Item, Kind};
use crate::spec::encode;
use crate::spec::endpoint::Labels;
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::{Name, ProviderId};
use crate::spec::route::RouteSpec;
use crate::spec::upstream::{UpstreamSource, UpstreamSpec};

use super::attached::Attached;
use super::format::Format;
use super::item::{DecodeItem, decode_body};
use super::parse::parse_bytes;
use super::saved::{SavedForms, SavedKey, SavedText};
use super::sections::{SectionItem, decode_sections};

/// Reads a file that a document names, or says why it cannot.
pub type ReadFile<'r> = &'r dyn Fn(&Path) -> Result<Vec<u8>, String>;

/// A text that a form was decoded from, and where it lay.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct FormText {
    /// A file's path, or of a key its provider and the key: `consul-kv:fleetgate/routes/users`.
    pub place: Arc<str>,
    /// `None`: the text tells.
    pub format: Option<Format>,
    /// What it is the text of.
    pub extent: Extent,
    /// The text.
    pub text: Arc<str>,
}

/// What a text is the text of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// One item.
    Item,
    /// A file of items.
    File,
    /// The main file, which has static sections beside its items.
    MainFile,
}

/// A provider's items in their last form that resolved, as far as they are not what it defines now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResolvedForms {
    /// Each text with its items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<ResolvedText>,
    /// Routes without a text, each with the middlewares of its last form that resolved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registered: BTreeMap<Name, BTreeSet<String>>,
    /// Listeners whose middlewares all existed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub listeners: BTreeSet<Name>,
}

/// A text, and the items whose form it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedText {
    /// The text.
    #[serde(flatten)]
    pub text: FormText,
    /// The items.
    pub items: Vec<ResolvedItem>,
}

/// An item in a form that resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedItem {
    /// Its kind.
    pub kind: Kind,
    /// Its name among those of its kind.
    pub name: Name,
    /// Whether its bare name stands for it, and not for another provider's item.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_name: bool,
    /// The subsets of earlier forms that are still in use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subsets: BTreeMap<Name, Labels>,
    /// The index at which its key was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// Whether a later form may have resolved that no process of this gateway saw.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_be_outdated: bool,
    /// Whether something that it refers to did not exist, and no earlier form of it resolved either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unresolved: bool,
}

impl ResolvedForms {
    /// Those of these items.
    pub fn of(items: impl IntoIterator<Item = (FormText, ResolvedItem)>) -> Self {
        let mut forms = Self::default();
        let mut positions: BTreeMap<*const u8, usize> = BTreeMap::new();
        for (text, item) in items {
            let position = *positions.entry(text.text.as_ptr()).or_insert(forms.texts.len());
            match forms.texts.get_mut(position) {
                // An empty text has no place of its own.
                Some(known) if known.text == text => known.items.push(item),
                Some(_) | None => forms.texts.push(ResolvedText { text, items: vec![item] }),
            }
        }
        forms
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FormText {
    /// These items as the text defines them; what cannot be decoded is left out.
    pub fn decode<'i>(&self, items: impl IntoIterator<Item = (Kind, &'i Name)>, read: ReadFile<'_>) -> Documents {
        let wanted: BTreeSet<(Kind, &Name)> = items.into_iter().collect();
        let mut documents = Documents::default();
        if self.extent == Extent::Item {
            for (kind, name) in wanted {
                match kind {
                    Kind::Route => self.decode_item(name, &mut documents.routes),
                    Kind::Upstream => self.decode_item(name, &mut documents.upstreams),
                    Kind::Middleware => self.decode_item(name, &mut documents.middlewares),
                    Kind::Certificate => self.decode_item(name, &mut documents.certificates),
                    Kind::Consumer => self.decode_item(name, &mut documents.consumers),
                }
            }
            return documents;
        }
        let Ok(root) = parse_bytes(self.text.as_bytes(), self.format) else { return documents };
        let attached = Attached::new(Path::new(&*self.place), read);
        let sections = decode_sections(&root, &self.place, self.extent == Extent::MainFile, attached);
        documents.routes = good::<RouteSpec>(sections.routes, &wanted);
        documents.upstreams = good::<UpstreamSpec>(sections.upstreams, &wanted);
        documents.middlewares = good::<MiddlewareSpec>(sections.middlewares, &wanted);
        documents.certificates = good::<CertificateSpec>(sections.certificates, &wanted);
        documents.consumers = good::<ConsumerSpec>(sections.consumers, &wanted);
        documents
    }

    fn decode_item<T: DecodeItem>(&self, name: &Name, into: &mut BTreeMap<Name, Item<T>>) {
        if let Ok(spec) = decode_body::<T>(self.text.as_bytes(), self.format, &self.place).item {
            into.insert(name.clone(), Item::good(Arc::new(spec), Arc::clone(&self.place)));
        }
    }

    /// A text that says what an upstream is that no document defines. `None`: there is none that says all of it.
    pub fn written(provider: ProviderId, name: &Name, spec: &UpstreamSpec) -> Option<Self> {
        let UpstreamSource::Consul(services) = &spec.source else { return None };
        let [service] = &**services else { return None };
        let mut document = encode::settings(&spec.settings);
        document.insert("consul".to_owned(), json!({ "service": service.name }));
        let (place, text) = (format!("{provider}:upstreams/{name}").into(), Value::Object(document).to_string().into());
        let text = Self { place, format: Some(Format::Json), extent: Extent::Item, text };
        let read = text.decode([(Kind::Upstream, name)], &|path| Err(format!("{} is not read", path.display())));
        let is_all = read.upstreams.get(name).and_then(|item| item.good.as_deref()) == Some(spec);
        is_all.then_some(text)
    }

    fn of_file(path: &str, saved: &SavedText) -> Self {
        let extent = if saved.main { Extent::MainFile } else { Extent::File };
        Self { place: path.into(), format: Some(saved.format), extent, text: Arc::clone(&saved.text) }
    }
}

fn good<T: DecodeItem>(items: Vec<SectionItem<T>>, wanted: &BTreeSet<(Kind, &Name)>) -> BTreeMap<Name, Item<T>> {
    let wanted = items.into_iter().filter(|item| wanted.contains(&(T::KIND, &item.name)));
    let good = wanted.filter_map(|SectionItem { name, place, decoded }| {
        Some((name, Item::good(Arc::new(decoded.item.ok()?), place.into())))
    });
    good.collect()
}

impl SavedForms {
    /// The last good forms of what files defined.
    pub fn decode_files(&self, read: ReadFile<'_>) -> Documents {
        let mut documents = Documents::default();
        for (path, file) in &self.files {
            for saved in &file.texts {
                let items = saved.items.iter().map(|item| (item.kind, &item.name));
                documents = FormText::of_file(path, saved).decode(items, read).with(documents);
            }
        }
        documents
    }

    /// What its items' last good forms were decoded from.
    pub fn texts(&self) -> FormTexts<'_> {
        let mut of_files = BTreeMap::new();
        for (path, file) in &self.files {
            for saved in &file.texts {
                let text = FormText::of_file(path, saved);
                of_files.extend(saved.items.iter().map(|item| ((item.kind, &item.name), text.clone())));
            }
        }
        FormTexts { keys: &self.keys, of_files }
    }
}

/// What a provider's items were decoded from.
#[derive(Debug)]
pub struct FormTexts<'f> {
    keys: &'f BTreeMap<String, SavedKey>,
    of_files: BTreeMap<(Kind, &'f Name), FormText>,
}

impl FormTexts<'_> {
    /// What the item that lies at a place was decoded from.
    pub fn of(&self, provider: ProviderId, kind: Kind, name: &Name, place: &Arc<str>) -> Option<FormText> {
        if let Some(text) = self.of_files.get(&(kind, name)) {
            return Some(text.clone());
        }
        let key = place.strip_prefix(provider.as_str())?.strip_prefix(':')?;
        let text = Arc::clone(self.keys.get(key)?.good.as_ref()?);
        let format = key.rsplit_once('.').and_then(|(_, extension)| Format::of_extension(extension));
        Some(FormText { place: Arc::clone(place), format, extent: Extent::Item, text })
    }
}

/// Texts hold private keys: they are never shown.
impl fmt::Debug for FormText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormText").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::decode::{DocumentSet, FileSet, FileText, Past, Stored};

    const ROUTE: &str = r#"{"match":{"path":"/a"},"upstream":"u"}"#;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn unread(path: &Path) -> Result<Vec<u8>, String> {
        Err(format!("{} is not read here", path.display()))
    }

    fn item(kind: Kind, text: &str) -> ResolvedItem {
        let (subsets, created) = Default::default();
        let (may_be_outdated, unresolved) = (false, false);
        ResolvedItem { kind, name: name(text), has_name: true, subsets, created, may_be_outdated, unresolved }
    }

    /// What the next process reads of it.
    fn again(forms: &ResolvedForms) -> ResolvedForms {
        serde_json::from_str(&serde_json::to_string(forms).expect("JSON")).expect("forms")
    }

    #[test]
    fn a_key_is_decoded_again_as_it_was() {
        let mut set = DocumentSet::new(ProviderId::ConsulKv, "fleetgate/");
        let toml = "upstream = \"u\"\n[match]\npath = \"/b\"";
        let entries = [("fleetgate/routes/a", ROUTE), ("fleetgate/routes/b.toml", toml), ("fleetgate/routes/c", "{")];
        let stored = |text: &'static str| Stored { bytes: text.as_bytes(), past: Past::default() };
        let documents = set.update(entries.map(|(key, text)| (key, stored(text))));
        let saved = set.forms();
        let texts = saved.texts();
        let of = |text: &str| {
            let item = &documents.routes[text];
            texts.of(ProviderId::ConsulKv, Kind::Route, &name(text), &item.place)
        };
        assert_eq!(of("c"), None, "it never was good");
        for key in ["a", "b"] {
            let forms = ResolvedForms::of([(of(key).expect("a text"), item(Kind::Route, key))]);
            let again = again(&forms);
            assert_eq!(again, forms);
            let decoded = again.texts[0].text.decode([(Kind::Route, &name(key))], &unread);
            assert_eq!(decoded.routes[key].good, documents.routes[key].good);
            assert!(!format!("{again:?}").contains("upstream"), "{again:?}");
        }
    }

    #[test]
    fn a_file_is_saved_once_and_gives_what_is_asked_for() {
        const FILE: &str = "[routes.a]\nmatch = { path = \"/a\" }\nupstream = \"u\"\n[upstreams.u]\nendpoints = [\"h:80\"]\n\
                            [upstreams.ca]\nendpoints = [\"h:80\"]\ntls.ca = \"absent.pem\"\n";
        let mut set = FileSet::new();
        let bytes = Ok(FILE.into());
        let documents = set.update(vec![FileText {
            path: "d/a.toml".into(),
            format: Format::Toml,
            main: false,
            bytes,
            writing: None,
        }]);
        let saved = set.forms();
        assert_eq!(saved.decode_files(&unread).upstreams.keys().map(Name::as_str).collect::<Vec<_>>(), ["u"]);
        let texts = saved.texts();
        let of = |kind, text: &str, place| texts.of(ProviderId::File, kind, &name(text), place).expect("a text");
        let route = (of(Kind::Route, "a", &documents.routes["a"].place), item(Kind::Route, "a"));
        let upstream = (of(Kind::Upstream, "u", &documents.upstreams["u"].place), item(Kind::Upstream, "u"));
        let forms = again(&ResolvedForms::of([route, upstream]));
        assert_eq!((forms.texts.len(), forms.texts[0].items.len()), (1, 2));
        let decoded = forms.texts[0].text.decode([(Kind::Upstream, &name("u")), (Kind::Route, &name("u"))], &unread);
        assert_eq!(decoded.upstreams["u"].good, documents.upstreams["u"].good);
        assert!(decoded.routes.is_empty());
        // What the text names and nobody can read leaves its item out.
        let decoded = forms.texts[0].text.decode([(Kind::Upstream, &name("ca"))], &unread);
        assert!(decoded.upstreams.is_empty());
        let broken = FormText { text: "[routes.a".into(), ..forms.texts[0].text.clone() };
        assert_eq!(broken.decode([(Kind::Route, &name("a"))], &unread), Documents::default());
    }
}
