//! The documents of files: the dynamic sections of each, merged, with what files lost and is not believed to be gone.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::spec::document::{Documents, TextId, Unreadable};
use crate::spec::problem::{Problem, sort};

use self::items::{Items, Lost, Origin, Origins};
use super::attached::Attached;
use super::format::Format;
use super::parse::{SyntaxError, parse_bytes};
use super::saved::{SavedFile, SavedForms, SavedItem, SavedText};
use super::sections::{Sections, decode_sections};
use super::tree::Node;

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
    /// What tells this writing of it from others, of the same text as well; `None` where nothing does.
    pub writing: Option<String>,
}

/// Turns the complete present set of files into documents, again and again. A file that cannot be read or
/// parsed keeps all its items' last good forms and is reported; an item that is wrong keeps its own.
#[derive(Debug, Default)]
pub struct FileSet {
    files: BTreeMap<String, Known>,
    last: Documents,
    /// The texts that the last good forms were decoded from.
    origins: Origins,
    /// Whether a file that is not known was not there before.
    knows_all_files: bool,
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
    /// Whether an item that it does not have is known not to have been in it: all of it could be told at an earlier look,
    /// or it was not there.
    is_complete: bool,
    /// An earlier process knew it, and this one has not looked at it: what is not among its items may have been in it since.
    is_recalled: bool,
    /// What it said when it was looked at last, by this process or an earlier one, where that is known.
    seen: Option<TextId>,
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

    /// As an earlier process left them. The first update says which of their files are still there.
    pub fn remembering(mut self, saved: &SavedForms) -> Self {
        for (path, file) in &saved.files {
            let mut known = Known { seen: file.seen.clone(), ..Known::unread(file.is_complete) };
            for version in &file.texts {
                known.recall(path, version, &self.read);
            }
            known.items.add(Items::wrong(path, &file.blocked, false));
            known.items.add(Items::wrong(path, &file.new, true));
            known.items.merge(None, &Documents::default(), &mut self.last, &mut self.origins);
            self.files.insert(path.clone(), known);
        }
        self.last.rejected.clear();
        self
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
        self.update_beside(files, &[], judge)
    }

    /// As [`Self::update_judged`], where some folders could not be read: there may be other files.
    pub fn update_beside(
        &mut self,
        files: Vec<FileText>,
        unread: &[Problem],
        judge: impl FnOnce(&[Loss]) -> Kept,
    ) -> Documents {
        let mut before = std::mem::take(&mut self.files);
        let mut present = Vec::new();
        for file in files {
            let path = file.path.clone();
            let former = before.remove(&path);
            let changed = former.as_ref().is_none_or(|former| former.gone || former.bytes != file.bytes);
            let now = match former {
                Some(former) if !changed && former.attachments_are_the_same(&self.read) => former,
                former => Known::read(file, former, self.knows_all_files, &self.read),
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
        for loss in &mut losses {
            let other = present.iter().find(|(path, known, _)| *path != loss.file && !known.rejected.is_empty());
            loss.unknown = other.map(|(path, ..)| path.as_str().into());
        }
        let kept = judge(&losses);
        let present_files = present.iter_mut().map(|(path, known, _)| (path, known));
        for (path, known) in present_files.chain(gone.iter_mut().map(|(path, known)| (path, known))) {
            let kept = kept.get(path);
            known.lost.retain(|key| kept.is_some_and(|kept| kept.contains(key)));
        }
        let mut documents = Documents::default();
        let mut origins = Origins::new();
        for (path, known, _) in &present {
            known.items.merge(Some(&known.lost), &self.last, &mut documents, &mut origins);
            documents.rejected.extend(known.rejected.iter().cloned());
            if !known.is_complete {
                documents.unreadable.push(known.why_unreadable(path));
            }
        }
        // What was lost comes last: whatever is defined somewhere goes before it.
        let rejected = std::mem::take(&mut documents.rejected);
        for known in present.iter().map(|(_, known, _)| known).chain(gone.iter().map(|(_, known)| known)) {
            known.lost.items.merge(None, &self.last, &mut documents, &mut origins);
        }
        documents.rejected = rejected;
        sort(&mut documents.rejected);
        // Forms of before that serve on keep the texts they were decoded from.
        for (item, origin) in std::mem::take(&mut self.origins) {
            if documents.place(item.0, item.1.as_str()).is_some() {
                origins.entry(item).or_insert(origin);
            }
        }
        self.origins = origins;
        if !self.knows_all_files {
            let folder = |problem: &Problem| Unreadable {
                problem: problem.clone(),
                text: TextId::of(problem.text.as_bytes(), None),
            };
            documents.unreadable.extend(unread.iter().map(folder));
        }
        self.knows_all_files |= unread.is_empty();
        self.last = documents.clone();
        self.files = present.into_iter().map(|(path, known, _)| (path, known)).collect();
        self.files.extend(gone.into_iter().filter(|(_, known)| !known.lost.items.is_empty()));
        documents
    }

    /// What is to be remembered of the last update.
    pub fn forms(&self) -> SavedForms {
        let mut forms = SavedForms::default();
        for (path, known) in &self.files {
            let (is_complete, seen) = (known.is_complete, known.seen.clone());
            forms.files.insert(path.clone(), SavedFile { is_complete, seen, ..SavedFile::default() });
        }
        for entry in self.last.entries() {
            let item = (entry.kind, entry.name.clone());
            let id = SavedItem { kind: entry.kind, name: entry.name.clone() };
            if let Some(origin) = self.origins.get(&item).filter(|_| entry.serves) {
                // The last good form may be of another file than the one that defines it now.
                let path = self.defined_in(&item).unwrap_or(&origin.path);
                let Some(file) = forms.files.get_mut(path) else { continue };
                let same = file.texts.iter_mut().find(|saved| Arc::ptr_eq(&saved.text, &origin.text));
                match same {
                    Some(saved) => saved.items.push(id),
                    None => file.texts.push(SavedText {
                        format: origin.format,
                        main: origin.main,
                        text: Arc::clone(&origin.text),
                        items: vec![id],
                    }),
                }
            } else if let Some(file) = self.defined_in(&item).and_then(|path| forms.files.get_mut(path)) {
                if entry.blocks.is_some() { file.blocked.push(id) } else { file.new.push(id) }
            }
        }
        forms
    }

    /// The file that defines an item now.
    fn defined_in(&self, (kind, name): &ItemKey) -> Option<&str> {
        let place = self.last.place(*kind, name.as_str())?;
        let of_file = |path: &&String| {
            place.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        self.files.keys().filter(of_file).map(String::as_str).max_by_key(|path| path.len())
    }
}

impl Known {
    fn attachments_are_the_same(&self, read: &Read) -> bool {
        self.attachments.iter().all(|(path, content)| (read.0)(path) == *content)
    }

    /// Nothing was read of it yet.
    fn unread(is_complete: bool) -> Self {
        let (attachments, items, lost, rejected) = Default::default();
        let (bytes, parsed, gone, is_recalled) = (Err(String::new()), false, false, true);
        Self { bytes, attachments, items, lost, rejected, parsed, gone, is_complete, is_recalled, seen: None }
    }

    /// `knows_all_files`: one that was not known was not there.
    fn read(file: FileText, before: Option<Self>, knows_all_files: bool, read: &Read) -> Self {
        let was_complete = before.as_ref().map_or(knows_all_files, |before| before.is_complete);
        let are_new = was_complete && before.as_ref().is_none_or(|before| !before.is_recalled);
        // Whether it may have said something else meanwhile.
        let seen = seen(&file.bytes, file.writing.as_deref());
        let missed =
            before.as_ref().is_some_and(|before| before.is_recalled && (before.seen.is_none() || before.seen != seen));
        let parsed = match &file.bytes {
            Ok(bytes) => parse_bytes(bytes, Some(file.format)).map_err(|errors| {
                let problem = |error: SyntaxError| Problem::new(error.spot.in_origin(&file.path), "", error.text);
                errors.into_iter().map(problem).collect()
            }),
            Err(error) => Err(vec![Problem::new(file.path.as_str(), "", format!("cannot be read: {error}"))]),
        };
        match parsed {
            Ok(root) => {
                let text = file.bytes.as_ref().ok().and_then(|bytes| std::str::from_utf8(bytes).ok());
                let origin = text.map(|text| {
                    let (path, format, main) = (file.path.clone(), file.format, file.main);
                    Arc::new(Origin { path, format, main, text: text.into() })
                });
                let (sections, attachments) = decode(&root, &file.path, file.main, read);
                let text = TextId::of(file.bytes.as_deref().unwrap_or_default(), None);
                let (mut items, rejected) = Items::of(sections, origin.as_ref(), &text, are_new);
                if let Some(before) = &before {
                    items.recall(&before.items, missed);
                }
                let lost = before.map_or_else(Lost::default, |before| {
                    let cut = is_cut(before.bytes.as_deref(), file.bytes.as_deref());
                    Lost::between(before.lost.over(before.items), &items, cut)
                });
                // What stands in a section that nobody knows, or has no name, may have been an item.
                let is_complete = was_complete || rejected.is_empty();
                let (bytes, parsed, gone, is_recalled) = (file.bytes, true, false, false);
                Self { bytes, attachments, items, lost, rejected, parsed, gone, is_complete, is_recalled, seen }
            }
            Err(rejected) => {
                let before = before.unwrap_or_else(|| Self::unread(was_complete));
                let (bytes, parsed, gone) = (file.bytes, false, false);
                // One without anything good may have had its first good text then.
                let is_complete = before.is_complete && (!missed || before.items.has_good());
                // One that cannot be read at all may still be the one that was.
                let seen = seen.or_else(|| before.seen.clone());
                Self { bytes, rejected, parsed, gone, is_complete, seen, ..before }
            }
        }
    }

    /// Adds the items that an earlier process decoded from a text.
    fn recall(&mut self, path: &str, saved: &SavedText, read: &Read) {
        let Ok(root) = parse_bytes(saved.text.as_bytes(), Some(saved.format)) else { return };
        let (sections, attachments) = decode(&root, path, saved.main, read);
        let (format, main, text) = (saved.format, saved.main, Arc::clone(&saved.text));
        let origin = Arc::new(Origin { path: path.to_owned(), format, main, text });
        let (items, _) = Items::of(sections, Some(&origin), &TextId::of(saved.text.as_bytes(), None), false);
        let is_saved = |(kind, name): &ItemKey| saved.items.iter().any(|it| it.kind == *kind && it.name == *name);
        self.items.add(items.only(is_saved));
        self.attachments.extend(attachments);
    }

    fn why_unreadable(&self, path: &str) -> Unreadable {
        let first = self.rejected.first().cloned().unwrap_or_else(|| Problem::new(path, "", "cannot be read"));
        let text = TextId::of(self.bytes.as_ref().map_or_else(String::as_bytes, Vec::as_slice), None);
        let told = format!("{}: what it defines is not known", first.text);
        Unreadable { problem: Problem { place: path.to_owned(), text: told, ..first }, text }
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
            unknown: None,
            cut: self.lost.cut,
            had: own.len() + items.len(),
            items,
            reduced,
        })
    }
}

/// What tells what a file said, and that it was not written again; nothing where it cannot be read.
fn seen(bytes: &Result<Vec<u8>, String>, writing: Option<&str>) -> Option<TextId> {
    let bytes = bytes.as_ref().ok()?;
    Some(TextId::of(&[bytes.as_slice(), b"\0", writing.unwrap_or_default().as_bytes()].concat(), None))
}

fn decode(root: &Node, path: &str, main: bool, read: &Read) -> (Sections, Attachments) {
    let attachments = RefCell::new(Attachments::new());
    let noted = |path: &Path| {
        let mut attachments = attachments.borrow_mut();
        attachments.entry(path.to_owned()).or_insert_with(|| (read.0)(path)).clone()
    };
    let sections = decode_sections(root, path, main, Attached::new(Path::new(path), &noted));
    (sections, attachments.into_inner())
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
mod tests;
