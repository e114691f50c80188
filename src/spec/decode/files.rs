//! Defines the documents of files: the dynamic sections of each, merged.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::document::{Documents, Item};
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::Name;
use crate::spec::problem::{Problem, sort};
use crate::spec::route::RouteSpec;
use crate::spec::upstream::UpstreamSpec;

use super::attached::Attached;
use super::format::Format;
use super::item::DecodeItem;
use super::parse::{SyntaxError, parse_bytes};
use super::sections::{SectionItem, Sections, decode_sections};

/// The text of one file as it is now.
#[derive(Clone, Debug)]
pub struct FileText {
    /// As users know it: what places begin with, `/etc/fleetgate/routes.d/users.toml`.
    pub path: String,
    /// From its extension.
    pub format: Format,
    /// Whether it is the main file, which has static sections beside the dynamic ones.
    pub main: bool,
    /// Its bytes, or why it could not be read.
    pub bytes: Result<Vec<u8>, String>,
}

/// Turns the complete present set of files into documents, again and again. A file that cannot be read or
/// parsed keeps all its items' last good forms and is reported; an item that is wrong keeps its own.
#[derive(Debug, Default)]
pub struct FileSet {
    files: BTreeMap<String, Known>,
    last: Documents,
    read: Read,
}

/// Reads what documents name.
#[derive(Clone, Copy, Debug)]
struct Read(fn(&Path) -> Result<Vec<u8>, String>);

/// What documents name, and what was found there. Keys are among it: it is never shown.
type Attachments = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

/// What is known of a file.
struct Known {
    bytes: Result<Vec<u8>, String>,
    attachments: Attachments,
    routes: Vec<KnownItem<RouteSpec>>,
    upstreams: Vec<KnownItem<UpstreamSpec>>,
    middlewares: Vec<KnownItem<MiddlewareSpec>>,
    certificates: Vec<KnownItem<CertificateSpec>>,
    consumers: Vec<KnownItem<ConsumerSpec>>,
    rejected: Vec<Problem>,
}

/// An item as its file says it.
#[derive(Debug)]
struct KnownItem<T> {
    name: Name,
    place: Arc<str>,
    said: Result<Arc<T>, Vec<Problem>>,
}

impl FileSet {
    /// No documents yet. They can name no other files.
    pub fn new() -> Self {
        Self::default()
    }

    /// No documents yet. What they name is read so, at each update anew.
    pub fn reading(read: fn(&Path) -> Result<Vec<u8>, String>) -> Self {
        Self { read: Read(read), ..Self::default() }
    }

    /// The files that the documents of the last update name.
    pub fn attached(&self) -> BTreeSet<PathBuf> {
        self.files.values().flat_map(|known| known.attachments.keys().cloned()).collect()
    }

    /// The documents of the present files, in the order given: of two files that define a name the first one
    /// wins and the other is reported. A file that is not given is gone, with its items.
    pub fn update(&mut self, files: Vec<FileText>) -> Documents {
        let mut known = std::mem::take(&mut self.files);
        let mut documents = Documents::default();
        for file in files {
            let path = file.path.clone();
            let now = match known.remove(&path) {
                Some(before) if before.bytes == file.bytes && before.attachments_are_the_same(&self.read) => before,
                before => Known::read(file, before, &self.read),
            };
            merge(&now.routes, &self.last.routes, &mut documents.routes, &mut documents.rejected);
            merge(&now.upstreams, &self.last.upstreams, &mut documents.upstreams, &mut documents.rejected);
            merge(&now.middlewares, &self.last.middlewares, &mut documents.middlewares, &mut documents.rejected);
            merge(&now.certificates, &self.last.certificates, &mut documents.certificates, &mut documents.rejected);
            merge(&now.consumers, &self.last.consumers, &mut documents.consumers, &mut documents.rejected);
            documents.rejected.extend(now.rejected.iter().cloned());
            self.files.insert(path, now);
        }
        sort(&mut documents.rejected);
        self.last = documents.clone();
        documents
    }
}

impl Known {
    fn attachments_are_the_same(&self, read: &Read) -> bool {
        self.attachments.iter().all(|(path, content)| (read.0)(path) == *content)
    }

    fn read(file: FileText, before: Option<Self>, read: &Read) -> Self {
        let parsed = match &file.bytes {
            Ok(bytes) => parse_bytes(bytes, Some(file.format)).map_err(|errors| {
                let problem = |error: SyntaxError| Problem::new(error.spot.in_origin(&file.path), "", error.text);
                errors.into_iter().map(problem).collect()
            }),
            Err(error) => Err(vec![Problem::new(file.path.as_str(), "", format!("cannot be read: {error}"))]),
        };
        match parsed {
            Ok(root) => {
                let attachments = RefCell::new(Attachments::new());
                let noted = |path: &Path| {
                    let mut attachments = attachments.borrow_mut();
                    attachments.entry(path.to_owned()).or_insert_with(|| (read.0)(path)).clone()
                };
                let attached = Attached::new(Path::new(&file.path), &noted);
                let Sections { routes, upstreams, middlewares, certificates, consumers, rejected } =
                    decode_sections(&root, &file.path, file.main, attached);
                Self {
                    bytes: file.bytes,
                    routes: known_items(routes),
                    upstreams: known_items(upstreams),
                    middlewares: known_items(middlewares),
                    certificates: known_items(certificates),
                    consumers: known_items(consumers),
                    attachments: attachments.into_inner(),
                    rejected,
                }
            }
            Err(rejected) => match before {
                Some(before) => Self { bytes: file.bytes, rejected, ..before },
                None => Self {
                    bytes: file.bytes,
                    attachments: Attachments::new(),
                    routes: Vec::new(),
                    upstreams: Vec::new(),
                    middlewares: Vec::new(),
                    certificates: Vec::new(),
                    consumers: Vec::new(),
                    rejected,
                },
            },
        }
    }
}

impl Default for Read {
    fn default() -> Self {
        Self(|_| Err("no file can be named here".to_owned()))
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("attachments", &self.attachments.keys()).finish_non_exhaustive()
    }
}

fn known_items<T>(items: Vec<SectionItem<T>>) -> Vec<KnownItem<T>> {
    let known = |item: SectionItem<T>| KnownItem {
        name: item.name,
        place: item.place.into(),
        said: item.decoded.item.map(Arc::new),
    };
    items.into_iter().map(known).collect()
}

fn merge<T: DecodeItem>(
    items: &[KnownItem<T>],
    last: &BTreeMap<Name, Item<T>>,
    merged: &mut BTreeMap<Name, Item<T>>,
    rejected: &mut Vec<Problem>,
) {
    for KnownItem { name, place, said } in items {
        if let Some(winner) = merged.get(name) {
            let text = format!("`{name}` is defined at {} already: remove one of them", winner.place);
            rejected.push(Problem::new(&**place, format!("{}.{name}", T::KIND.as_str()), text));
            continue;
        }
        let last_good = last.get(name).and_then(|item| item.good.clone());
        let (good, problems) = match (said, last_good) {
            // What says the same must not look changed.
            (Ok(spec), Some(last)) if *last == **spec => (Some(last), Vec::new()),
            (Ok(spec), _) => (Some(Arc::clone(spec)), Vec::new()),
            (Err(problems), last_good) => (last_good, problems.clone()),
        };
        merged.insert(name.clone(), Item { good, problems, place: Arc::clone(place) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "[routes.a]\nmatch = { path = \"/a\" }\nupstream = \"u\"\n[upstreams.u]\nendpoints = [\"h:80\"]\n";

    fn file(path: &str, text: &str) -> FileText {
        FileText { path: path.into(), format: Format::Toml, main: false, bytes: Ok(text.into()) }
    }

    fn route(documents: &Documents, name: &str) -> Option<Arc<RouteSpec>> {
        documents.routes.get(name).and_then(|item| item.good.clone())
    }

    #[test]
    fn a_broken_file_keeps_all_its_items() {
        let mut set = FileSet::new();
        let before = set.update(vec![file("a.toml", GOOD)]);
        assert_eq!((before.routes.len(), before.upstreams.len(), before.rejected.len()), (1, 1, 0));
        let broken = set.update(vec![file("a.toml", "[routes.a")]);
        assert_eq!((broken.routes, broken.upstreams), (before.routes.clone(), before.upstreams.clone()));
        assert_eq!(broken.rejected.first().map(|problem| problem.place.as_str()), Some("a.toml:1:10"));
        let unreadable = FileText { bytes: Err("permission denied".into()), ..file("a.toml", "") };
        let unread = set.update(vec![unreadable]);
        assert_eq!(unread.routes, before.routes);
        assert!(unread.rejected[0].to_string().contains("permission denied"), "{:?}", unread.rejected);
        let gone = set.update(vec![]);
        assert_eq!(gone, Documents::default());
    }

    #[test]
    fn a_wrong_item_keeps_its_last_good_form_and_the_others_change() {
        let mut set = FileSet::new();
        let before = set.update(vec![file("a.toml", GOOD)]);
        let edited = GOOD.replace("\"/a\"", "5").replace("h:80", "h:81");
        let after = set.update(vec![file("a.toml", &edited)]);
        assert_eq!(route(&after, "a"), route(&before, "a"));
        let problem = after.routes["a"].problems[0].to_string();
        assert_eq!(problem, "a.toml:2:18: routes.a.match.path: expected a text or a table, found a number");
        assert_ne!(after.upstreams["u"].good, before.upstreams["u"].good);
        let healed = set.update(vec![file("a.toml", &GOOD.replace("\"/a\"", "\"/b\""))]);
        assert!(healed.routes["a"].problems.is_empty());
        assert_ne!(route(&healed, "a"), route(&before, "a"));
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let mut set = FileSet::new();
        let before = set.update(vec![file("a.toml", GOOD)]);
        let after = set.update(vec![file("a.toml", &format!("# moved\n\n{GOOD}"))]);
        let (before, after) = (route(&before, "a").expect("a route"), route(&after, "a").expect("a route"));
        assert!(Arc::ptr_eq(&before, &after));
    }

    #[test]
    fn the_first_file_wins_a_name() {
        let mut set = FileSet::new();
        let other = "[routes.a]\nmatch = { path = \"/other\" }\nupstream = \"u\"\n";
        let both = set.update(vec![file("a.toml", GOOD), file("b.toml", other)]);
        assert_eq!(&*both.routes["a"].place, "a.toml:1:9");
        let problem = both.rejected[0].to_string();
        assert_eq!(problem, "b.toml:1:9: routes.a: `a` is defined at a.toml:1:9 already: remove one of them");
        let one = set.update(vec![file("b.toml", other)]);
        assert_eq!(&*one.routes["a"].place, "b.toml:1:9");
        assert!(one.rejected.is_empty() && one.upstreams.is_empty());
    }

    #[test]
    fn sections_are_told_apart() {
        let mut set = FileSet::new();
        let text = "[route.a]\n[admin]\naddress = 5\n[routes.A]\n[upstreams]\nu = 5\n";
        let other = set.update(vec![file("a.toml", text)]);
        let main = set.update(vec![FileText { main: true, ..file("main.toml", text) }]);
        let shown = |documents: &Documents| {
            let items = documents.upstreams.values().flat_map(|item| &item.problems);
            documents.rejected.iter().chain(items).map(|problem| format!("{problem}\n")).collect::<String>()
        };
        insta::assert_snapshot!(shown(&other), @"
a.toml:1:2: route: unknown key; did you mean `routes`?
a.toml:2:2: admin: this section belongs into the main configuration file: here stand routes, upstreams, middlewares, certificates and consumers
a.toml:4:9: routes.A: `A` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
a.toml:6:5: upstreams.u: expected a table, found a number
");
        insta::assert_snapshot!(shown(&main), @"
main.toml:1:2: route: unknown key; did you mean `routes`?
main.toml:4:9: routes.A: `A` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
main.toml:6:5: upstreams.u: expected a table, found a number
");
    }
}
