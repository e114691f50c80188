//! The documents of files: the dynamic sections of each, merged, with what files lost and is not believed to be gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::spec::document::Documents;
use crate::spec::problem::{Problem, sort};

use self::items::{Items, Lost};
use super::attached::Attached;
use super::format::Format;
use super::parse::{SyntaxError, parse_bytes};
use super::sections::decode_sections;

mod items;

pub use items::{ItemKey, Kept, Loss};

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
#[derive(Clone)]
struct Read(Arc<ReadFile>);

/// Reads a file that a document names, or says why it cannot.
type ReadFile = dyn Fn(&Path) -> Result<Vec<u8>, String> + Send + Sync;

/// What documents name, and what was found there. Keys are among it: it is never shown.
type Attachments = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

/// What is known of a file.
struct Known {
    bytes: Result<Vec<u8>, String>,
    attachments: Attachments,
    items: Items,
    /// What the file had and lost, or lost a part of, and what is kept of it for now.
    lost: Lost,
    rejected: Vec<Problem>,
    /// Whether `items` are what `bytes` say; they are older when the bytes cannot be parsed.
    parsed: bool,
    /// The file is not there any more: `bytes` are what it said last.
    gone: bool,
}

impl FileSet {
    /// No documents yet. They can name no other files.
    pub fn new() -> Self {
        Self::default()
    }

    /// No documents yet. What they name is read so, at each update anew.
    pub fn reading(read: impl Fn(&Path) -> Result<Vec<u8>, String> + Send + Sync + 'static) -> Self {
        Self { read: Read(Arc::new(read)), ..Self::default() }
    }

    /// The files that the documents of the last update name.
    pub fn attached(&self) -> BTreeSet<PathBuf> {
        self.files.values().flat_map(|known| known.attachments.keys().cloned()).collect()
    }

    /// The files of the last update that have items, whether or not they are still there.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The documents of the present files, in the order given: of two files that define a name the first one
    /// wins and the other is reported. A file that is not given is gone, with its items.
    pub fn update(&mut self, files: Vec<FileText>) -> Documents {
        self.update_judged(files, |_| BTreeMap::new())
    }

    /// As [`Self::update`], but what files lost stays where `judge` says so, and is judged again at the next update.
    /// It is asked at each update, and answers with the items to keep, by file. An item that another file defines now is not lost: it moved.
    pub fn update_judged(&mut self, files: Vec<FileText>, judge: impl FnOnce(&[Loss]) -> Kept) -> Documents {
        let mut before = std::mem::take(&mut self.files);
        let mut present = Vec::new();
        for file in files {
            let path = file.path.clone();
            let former = before.remove(&path);
            let changed = former.as_ref().is_none_or(|former| former.gone || former.bytes != file.bytes);
            let now = match former {
                Some(former) if !changed && former.attachments_are_the_same(&self.read) => former,
                former => Known::read(file, former, &self.read),
            };
            present.push((path, now, changed));
        }
        let defined: BTreeSet<ItemKey> = present.iter().flat_map(|(_, known, _)| known.items.keys()).collect();
        let mut losses = Vec::new();
        for (path, known, changed) in &mut present {
            losses.extend(known.loss(path, false, *changed, &defined));
        }
        let mut gone: Vec<(String, Known)> = Vec::new();
        for (path, former) in before {
            let mut known = former.gone();
            losses.extend(known.loss(&path, true, false, &defined));
            gone.push((path, known));
        }
        let kept = judge(&losses);
        let present_files = present.iter_mut().map(|(path, known, _)| (path, known));
        for (path, known) in present_files.chain(gone.iter_mut().map(|(path, known)| (path, known))) {
            let kept = kept.get(path);
            known.lost.retain(|key| kept.is_some_and(|kept| kept.contains(key)));
        }
        let mut documents = Documents::default();
        for (_, known, _) in &present {
            known.items.merge(Some(&known.lost), &self.last, &mut documents);
            documents.rejected.extend(known.rejected.iter().cloned());
        }
        // What was lost comes last: whatever is defined somewhere goes before it.
        let rejected = std::mem::take(&mut documents.rejected);
        for known in present.iter().map(|(_, known, _)| known).chain(gone.iter().map(|(_, known)| known)) {
            known.lost.items.merge(None, &self.last, &mut documents);
        }
        documents.rejected = rejected;
        sort(&mut documents.rejected);
        self.last = documents.clone();
        self.files = present.into_iter().map(|(path, known, _)| (path, known)).collect();
        self.files.extend(gone.into_iter().filter(|(_, known)| !known.lost.items.is_empty()));
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
                let (items, rejected) = Items::of(decode_sections(&root, &file.path, file.main, attached));
                let lost = before.map_or_else(Lost::default, |before| {
                    let cut = is_cut(before.bytes.as_deref(), file.bytes.as_deref());
                    Lost::between(before.lost.over(before.items), &items, cut)
                });
                let attachments = attachments.into_inner();
                Self { bytes: file.bytes, attachments, items, lost, rejected, parsed: true, gone: false }
            }
            Err(rejected) => match before {
                Some(before) => Self { bytes: file.bytes, rejected, parsed: false, gone: false, ..before },
                None => Self {
                    bytes: file.bytes,
                    attachments: Attachments::new(),
                    items: Items::default(),
                    lost: Lost::default(),
                    rejected,
                    parsed: false,
                    gone: false,
                },
            },
        }
    }

    /// The same once its file is not there any more.
    fn gone(self) -> Self {
        let lost = Lost::between(self.lost.over(self.items), &Items::default(), false);
        Self { items: Items::default(), lost, rejected: Vec::new(), parsed: true, gone: true, ..self }
    }

    /// What is lost, without what is defined elsewhere now.
    fn loss(&mut self, path: &str, gone: bool, changed: bool, defined: &BTreeSet<ItemKey>) -> Option<Loss> {
        let own: BTreeSet<ItemKey> = self.items.keys().collect();
        self.lost.retain(|key| own.contains(key) || !defined.contains(key));
        if self.lost.items.is_empty() {
            return None;
        }
        let (reduced, items) = self.lost.items.keys().partition(|key| own.contains(key));
        let items: BTreeSet<ItemKey> = items;
        Some(Loss {
            file: path.to_owned(),
            gone,
            changed,
            unparsed: !self.parsed,
            misplaced: self.parsed && !self.rejected.is_empty(),
            cut: self.lost.cut,
            had: own.len() + items.len(),
            items,
            reduced,
        })
    }
}

/// Whether a text is a beginning of what it was: its writer may not be done.
fn is_cut(before: Result<&[u8], &String>, now: Result<&[u8], &String>) -> bool {
    matches!((before, now), (Ok(before), Ok(now)) if now.len() < before.len() && before.starts_with(now))
}

impl Default for Read {
    fn default() -> Self {
        Self(Arc::new(|_| Err("no file can be named here".to_owned())))
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Read")
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("attachments", &self.attachments.keys()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::route::RouteSpec;

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
