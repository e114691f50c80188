//! A look at all files of the provider: which there are, what they say, what is missing and why that is suspect, and which
//! folders tell of changes.
//!
//! It blocks, for a bounded time: every call of the file system goes through a [`Clerk`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::clerk::{Clerk, HANGS};
use super::format_of;
use crate::spec::file::{self, Listing, MAX_ATTACHMENT_BYTES, MAX_DOCUMENT_BYTES};
use crate::spec::problem::Problem;
use crate::spec::settings::FileProvider as Settings;

/// Symbolic links followed for one path (Linux's own limit).
const MAX_LINKS: usize = 40;

/// A file that changed this shortly before it was read may change again without showing it: clocks of file systems tick.
const UNSETTLED: Duration = Duration::from_millis(100);

/// What a file says, or why it can't be read.
pub(super) type Content = Result<Vec<u8>, String>;

/// Device and number of a file or folder.
pub(super) type Identity = (u64, u64);

/// What tells that a file is another or has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    identity: Identity,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    fn of(data: &Metadata) -> Self {
        Self {
            identity: (data.dev(), data.ino()),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }

    /// Whether the change it shows is old enough that a later one shows.
    fn is_settled(&self) -> bool {
        let since = |(seconds, nanos): (i64, i64)| {
            let at = SystemTime::UNIX_EPOCH + Duration::new(seconds.try_into().ok()?, nanos.try_into().ok()?);
            at.elapsed().ok()
        };
        [self.modified, self.changed].into_iter().all(|at| since(at).is_some_and(|age| age > UNSETTLED))
    }
}

/// What was seen of a path.
#[derive(Clone, Debug)]
struct Seen {
    /// `None` where it cannot be looked at.
    print: Option<Print>,
    /// Whether it need not be read again while its print is the same.
    settled: bool,
    content: Content,
}

/// What a path turned out to be.
enum Probe {
    /// As it was.
    Same,
    Read(Seen),
    /// No regular file: what it is.
    Other(&'static str),
    /// Nothing of that name.
    Absent,
}

/// Looks at the files again and again, and reads what changed.
#[derive(Debug)]
pub(super) struct Scan {
    settings: Settings,
    /// What patterns without wildcards name.
    literals: BTreeSet<PathBuf>,
    clerk: Arc<Mutex<Clerk>>,
    seen: BTreeMap<PathBuf, Seen>,
    /// The patterns that found a file, now or when it was there, by their position.
    found_by: BTreeMap<PathBuf, BTreeSet<usize>>,
    problems: Vec<Problem>,
    listed: BTreeSet<PathBuf>,
}

/// A look at all files.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// What the files say that are there, or may be.
    pub(super) files: BTreeMap<PathBuf, Content>,
    /// What tells each writing of them from the next one.
    pub(super) writings: BTreeMap<PathBuf, String>,
    /// Why it is suspect that a file is not there, where it is.
    pub(super) absent: BTreeMap<PathBuf, Arc<str>>,
    /// Files that were exchanged for others since the last look, not written to.
    pub(super) replaced: BTreeSet<PathBuf>,
    /// A file is there that was not at the last look.
    pub(super) arrived: bool,
    /// What is wrong with patterns and folders, and what is no file and not meant as one.
    pub(super) problems: Vec<Problem>,
    /// What could not be listed, and why: there may be files in it.
    pub(super) unlisted: Vec<Problem>,
    /// Something is not as it was at the last look.
    pub(super) changed: bool,
}

impl Scan {
    pub(super) fn new(settings: Settings, clerk: Arc<Mutex<Clerk>>) -> Self {
        let (seen, found_by, problems, listed) = Default::default();
        let literals = settings.patterns.iter().filter_map(|pattern| file::literal(pattern)).collect();
        Self { settings, literals, clerk, seen, found_by, problems, listed }
    }

    /// Whether a pattern without wildcards names it.
    pub(super) fn is_literal(&self, path: &Path) -> bool {
        self.literals.contains(path)
    }

    fn clerk(&self) -> MutexGuard<'_, Clerk> {
        self.clerk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at everything; `former` are files that had items, `reread`: also reads what looks unchanged.
    pub(super) fn look(&mut self, former: &BTreeSet<PathBuf>, reread: bool) -> Look {
        let mut look = Look::default();
        let listings = self.clerk().ask(self.settings.patterns.iter().cloned(), file::list);
        let mut unreadable: BTreeMap<PathBuf, String> = BTreeMap::new();
        let mut hanging = BTreeSet::new();
        let mut found: BTreeMap<PathBuf, BTreeSet<usize>> = BTreeMap::new();
        self.listed.clear();
        for (at, pattern) in self.settings.patterns.iter().enumerate() {
            let place = pattern.display().to_string();
            match listings.get(pattern) {
                Some(Some(Ok(Listing { paths, folders, unreadable: closed, missing }))) => {
                    if let Some((path, what)) = missing {
                        look.problems.push(Problem::new(path.display().to_string(), "discovery.file.paths", *what));
                    }
                    for path in paths {
                        found.entry(path.clone()).or_default().insert(at);
                    }
                    self.listed.extend(folders.iter().cloned());
                    unreadable.extend(closed.iter().map(|(folder, reason)| (folder.clone(), reason.clone())));
                }
                Some(Some(Err(error))) => {
                    let text = format!("not a pattern of paths: {error}");
                    look.problems.push(Problem::new(place, "discovery.file.paths", text));
                }
                Some(None) | None => {
                    look.unlisted.push(Problem::new(place, "", format!("cannot be listed: {HANGS}")));
                    hanging.insert(at);
                }
            }
        }
        let closed = |(folder, reason): (&PathBuf, &String)| {
            Problem::new(folder.display().to_string(), "", format!("cannot be read: {reason}"))
        };
        look.unlisted.extend(unreadable.iter().map(closed));
        look.problems.extend(look.unlisted.iter().cloned());
        let candidates = found.keys().chain(&self.settings.main).cloned().collect();
        let mut seen = self.probe(candidates, reread, &mut look);
        self.drop_other_names_of_main(&mut seen);

        // What a folder that cannot be looked into had is not gone.
        let known: BTreeSet<PathBuf> = self.seen.keys().chain(former).cloned().collect();
        let missing = |path: &&PathBuf| !seen.contains_key(*path) && !self.is_main_by_another_name(path, &seen);
        let mut gone: Vec<PathBuf> = known.iter().filter(missing).cloned().collect();
        // Those of an earlier process were found by nothing yet.
        for path in &gone {
            let patterns = &self.settings.patterns;
            self.found_by.entry(path.clone()).or_insert_with(|| {
                let names_it = |(_, pattern): &(usize, &PathBuf)| file::names(pattern, path);
                patterns.iter().enumerate().filter(names_it).map(|(at, _)| at).collect()
            });
        }
        gone.retain(|path| {
            let closed = unreadable.iter().find(|(folder, _)| path.starts_with(folder));
            let of_hanging = || {
                let by = self.found_by.get(path).is_some_and(|by| by.iter().all(|at| hanging.contains(at)));
                (by && self.settings.main.as_ref() != Some(path)).then(|| HANGS.to_owned())
            };
            let Some(reason) = closed.map(|(_, reason)| reason.clone()).or_else(of_hanging) else { return true };
            seen.insert(path.clone(), Seen { print: None, settled: false, content: Err(reason) });
            false
        });
        self.found_by.retain(|path, _| known.contains(path));
        for (path, by) in found {
            if seen.contains_key(&path) {
                self.found_by.insert(path, by);
            }
        }
        look.absent = self.absences(&gone, &seen);

        look.arrived = seen.keys().any(|path| !self.seen.contains_key(path));
        look.changed |= look.arrived || self.seen.keys().any(|path| !seen.contains_key(path));
        for (path, now) in &seen {
            let Some(before) = self.seen.get(path) else { continue };
            look.changed |= before.content != now.content;
            if let (Some(before), Some(now)) = (before.print, now.print)
                && before.identity != now.identity
            {
                look.replaced.insert(path.clone());
            }
        }
        look.problems.sort();
        look.changed |= look.problems != self.problems;
        self.problems.clone_from(&look.problems);
        look.files = seen.iter().map(|(path, seen)| (path.clone(), seen.content.clone())).collect();
        let writing = |(path, seen): (&PathBuf, &Seen)| Some((path.clone(), format!("{:?}", seen.print?)));
        look.writings = seen.iter().filter_map(writing).collect();
        self.seen = seen;
        look
    }

    /// Reads those of the paths that are files and have changed.
    fn probe(&self, paths: BTreeSet<PathBuf>, reread: bool, look: &mut Look) -> BTreeMap<PathBuf, Seen> {
        let settled = self.seen.iter().filter(|(_, seen)| seen.settled && !reread);
        let prints: BTreeMap<PathBuf, Print> =
            settled.filter_map(|(path, seen)| Some((path.clone(), seen.print?))).collect();
        let answers = self.clerk().ask(paths, move |path| probe(path, prints.get(path)));
        let mut seen = BTreeMap::new();
        for (path, answer) in answers {
            let unusable = |text: String| Seen { print: None, settled: false, content: Err(text) };
            // A folder that `d/*` finds is none of its documents.
            let is_meant = || {
                let is_main = self.settings.main.as_ref() == Some(&path);
                is_main || self.is_literal(&path) || format_of(&path).is_some()
            };
            let now = match answer {
                Some(Probe::Same) => match self.seen.get(&path) {
                    Some(before) => before.clone(),
                    None => continue,
                },
                Some(Probe::Read(seen)) => seen,
                Some(Probe::Other(what)) if is_meant() => unusable(format!("it is {what}, not a file")),
                Some(Probe::Other(what)) => {
                    let text = format!("is {what}, not a file: it is ignored");
                    look.problems.push(Problem::new(path.display().to_string(), "", text));
                    continue;
                }
                Some(Probe::Absent) => continue,
                None => unusable(HANGS.to_owned()),
            };
            seen.insert(path, now);
        }
        seen
    }

    /// A pattern that finds the main file by another path must not make all of it look defined twice.
    fn drop_other_names_of_main(&self, seen: &mut BTreeMap<PathBuf, Seen>) {
        let Some(main) = &self.settings.main else { return };
        let identity = |seen: &Seen| seen.print.map(|print| print.identity);
        if let Some(of_main) = seen.get(main).and_then(identity) {
            seen.retain(|path, seen| path == main || identity(seen) != Some(of_main));
        }
    }

    fn is_main_by_another_name(&self, path: &Path, seen: &BTreeMap<PathBuf, Seen>) -> bool {
        let Some(main) = self.settings.main.as_ref().filter(|main| *main != path) else { return false };
        let identity = |seen: &Seen| seen.print.map(|print| print.identity);
        let (before, of_main) = (self.seen.get(path).and_then(identity), seen.get(main).and_then(identity));
        before.is_some() && before == of_main
    }

    /// Of files that are gone those whose place is: the main file, a folder, everything that a pattern found.
    fn absences(&self, gone: &[PathBuf], seen: &BTreeMap<PathBuf, Seen>) -> BTreeMap<PathBuf, Arc<str>> {
        let parents: BTreeSet<PathBuf> = gone.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
        let lost = self.clerk().ask(parents, |folder| !fs::metadata(folder).is_ok_and(|data| data.is_dir()));
        let still_found: BTreeSet<usize> =
            seen.keys().filter_map(|path| self.found_by.get(path)).flatten().copied().collect();
        let folders: BTreeSet<&Path> = seen.keys().filter_map(|path| path.parent()).collect();
        let why = |path: &PathBuf| -> Option<String> {
            let parent = path.parent()?;
            if self.settings.main.as_ref() == Some(path) {
                return Some("the main configuration file is gone".to_owned());
            }
            if lost.get(parent) != Some(&Some(false)) {
                return Some(format!("the folder {} is gone", parent.display()));
            }
            let emptied = |at: &&usize| !still_found.contains(at);
            if let Some(at) = self.found_by.get(path).and_then(|by| by.iter().find(emptied)) {
                let pattern = self.settings.patterns.get(*at).map(|pattern| pattern.display().to_string());
                return Some(format!("no file of {} is left", pattern.unwrap_or_default()));
            }
            let siblings = gone.iter().filter(|other| other.parent() == Some(parent)).count();
            (siblings > 1 && !folders.contains(parent)).then(|| format!("all files of {} are gone", parent.display()))
        };
        let mut absent: BTreeMap<PathBuf, Arc<str>> =
            gone.iter().filter_map(|path| Some((path.clone(), why(path)?.into()))).collect();
        // Also where nothing of it is known any more.
        if let Some(main) = self.settings.main.as_ref().filter(|main| !seen.contains_key(*main)) {
            absent.entry(main.clone()).or_insert_with(|| "the main configuration file is gone".into());
        }
        absent
    }

    /// The folders in which something must happen before a look or a file's content can change: those of each
    /// file and of every link on the way to it, and those that a pattern looks into. With what identifies them,
    /// since a folder that was made anew has to be watched anew.
    pub(super) fn folders(&self, attached: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Identity> {
        let files = self.seen.keys().chain(&self.settings.main).chain(attached).cloned();
        let ways = files.chain(self.listed.iter().map(|folder| folder.join("x")));
        let folders = self.clerk().ask(ways, |path| {
            let mut folders = BTreeSet::new();
            along(path, &mut folders);
            folders
        });
        let folders: BTreeSet<PathBuf> = folders.into_values().flatten().flatten().collect();
        let identities = self.clerk().ask(folders, |folder| {
            let data = fs::metadata(folder).ok().filter(Metadata::is_dir)?;
            Some((data.dev(), data.ino()))
        });
        identities.into_iter().filter_map(|(folder, identity)| Some((folder, identity??))).collect()
    }
}

fn probe(path: &Path, known: Option<&Print>) -> Probe {
    let unusable = |print, text: String| Probe::Read(Seen { print, settled: false, content: Err(text) });
    let data = match fs::metadata(path) {
        Ok(data) => data,
        Err(error) if file::is_absent(&error) => {
            // A link may lead nowhere for a moment, while what it leads to is exchanged.
            return match fs::symlink_metadata(path) {
                Ok(_) => unusable(None, "the link leads nowhere".to_owned()),
                Err(_) => Probe::Absent,
            };
        }
        Err(error) => return unusable(None, error.to_string()),
    };
    if let Some(what) = file::not_a_file(data.file_type()) {
        return Probe::Other(what);
    }
    let print = Print::of(&data);
    if known == Some(&print) {
        return Probe::Same;
    }
    let settled = print.is_settled();
    match file::read(path, MAX_DOCUMENT_BYTES) {
        Ok(content) => Probe::Read(Seen { print: Some(print), settled, content: Ok(content) }),
        Err(error) if file::is_absent(&error) => Probe::Absent,
        Err(error) => unusable(Some(print), error.to_string()),
    }
}

/// Reads the files that documents name, again only where they changed.
#[derive(Debug)]
pub(super) struct Attachments {
    clerk: Arc<Mutex<Clerk>>,
    read: Mutex<BTreeMap<PathBuf, (Option<Print>, Content)>>,
}

impl Attachments {
    pub(super) fn new(clerk: Arc<Mutex<Clerk>>) -> Self {
        Self { clerk, read: Mutex::default() }
    }

    /// The content of a file that a document names.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn read(&self, path: &Path) -> Content {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = read.get(path).cloned();
        let answer = self.clerk.lock().unwrap_or_else(PoisonError::into_inner).ask_one(path, move |path| {
            let print = attachment_print(path);
            match &known {
                Some((before, content)) if print.is_some() && *before == print => (print, content.clone()),
                _ => {
                    let content = file::read(path, MAX_ATTACHMENT_BYTES).map_err(|error: io::Error| error.to_string());
                    (print.filter(Print::is_settled), content)
                }
            }
        });
        let (print, content) = answer.unwrap_or_else(|| (None, Err(HANGS.to_owned())));
        read.insert(path.to_owned(), (print, content.clone()));
        content
    }

    /// Whether one of them is not what was read; forgets all others.
    pub(super) fn changed(&self, attached: &BTreeSet<PathBuf>) -> bool {
        let prints =
            self.clerk.lock().unwrap_or_else(PoisonError::into_inner).ask(attached.iter().cloned(), attachment_print);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.retain(|path, _| attached.contains(path));
        // Of one that cannot be looked at nothing has changed, unless it could be read.
        let is_same = |(path, print): (&PathBuf, &Option<Option<Print>>)| {
            let known = read.get(path).map(|(print, content)| (*print, content.is_ok()));
            match (print.flatten(), known) {
                (Some(now), Some((before, _))) => before == Some(now),
                (None, Some((_, could_be_read))) => !could_be_read,
                (_, None) => false,
            }
        };
        !prints.iter().all(is_same)
    }
}

fn attachment_print(path: &Path) -> Option<Print> {
    fs::metadata(path).ok().map(|data| Print::of(&data))
}

/// The folder of `path`, and the folders of all links on the way to it; where one does not exist, the nearest
/// one above it that does.
fn along(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    'links: for _ in 0..MAX_LINKS {
        let mut walked = PathBuf::new();
        let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_owned()).collect();
        for (at, part) in parts.iter().enumerate() {
            let parent = walked.clone();
            walked.push(part);
            match fs::symlink_metadata(&walked) {
                Ok(data) if data.is_symlink() => {
                    folders.insert(parent.clone());
                    let Ok(target) = fs::read_link(&walked) else { return };
                    path = parent.join(target);
                    path.extend(&parts[at + 1..]);
                    continue 'links;
                }
                Ok(_) => {}
                Err(_) => {
                    folders.insert(parent);
                    return;
                }
            }
        }
        folders.extend(path.parent().map(Path::to_owned));
        return;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scan(main: Option<PathBuf>, patterns: &[PathBuf]) -> Scan {
        Scan::new(Settings { main, patterns: patterns.to_vec() }, Arc::new(Mutex::new(Clerk::new())))
    }

    fn names(paths: impl IntoIterator<Item = PathBuf>, root: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.strip_prefix(root).unwrap_or(&path).display().to_string();
        paths.into_iter().map(name).collect()
    }

    #[test]
    fn patterns_find_files_and_no_editor_leftovers() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::write(root.path().join(name), "x").unwrap();
        fs::create_dir_all(root.path().join("d/a.d")).unwrap();
        for name in ["a.toml", ".#a.toml", "a.toml~", "d/b.toml"] {
            file(name);
        }
        symlink("nowhere", root.path().join("broken.toml")).unwrap();
        let patterns = ["*.toml", "d/*", "a.*"].map(|pattern| root.path().join(pattern));
        let mut all = scan(None, &patterns);
        let seen = all.look(&BTreeSet::new(), false);
        assert_eq!(names(seen.files.keys().cloned(), root.path()), ["a.toml", "a.toml~", "broken.toml", "d/b.toml"]);
        assert_eq!(seen.files[&root.path().join("broken.toml")], Err("the link leads nowhere".to_owned()));
        let problems: Vec<_> = seen.problems.iter().map(|problem| problem.text.as_str()).collect();
        assert_eq!(problems, ["is a folder, not a file: it is ignored"]);
        assert!(seen.changed && !all.look(&BTreeSet::new(), false).changed);
        let bad = scan(None, &[root.path().join("a**b")]).look(&BTreeSet::new(), false);
        assert_eq!(bad.problems.len(), 1);
        let missing = scan(None, &[root.path().join("e/*.toml"), root.path().join("b.toml")]);
        let problems = { missing }.look(&BTreeSet::new(), false).problems;
        let problems: Vec<_> = problems.iter().map(|problem| problem.text.as_str()).collect();
        assert_eq!(problems, ["there is no such file", "there is no such folder"]);
    }

    #[test]
    fn what_is_meant_as_a_document_and_is_no_file_is_not_ignored() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("folder.toml")).unwrap();
        fs::create_dir_all(path("folder")).unwrap();
        fs::create_dir_all(path("literal")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("pipe.yaml")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(path("socket.json")).unwrap();
        symlink("/dev/zero", path("zero.yml")).unwrap();
        let look = scan(None, &[path("*"), path("literal")]).look(&BTreeSet::new(), false);
        let shown = |(path, content): (PathBuf, Content)| (names([path], root.path()).remove(0), content);
        let files: BTreeMap<String, Content> = look.files.into_iter().map(shown).collect();
        let expected = [
            ("folder.toml", "it is a folder, not a file"),
            ("literal", "it is a folder, not a file"),
            ("pipe.yaml", "it is a named pipe, not a file"),
            ("socket.json", "it is a socket, not a file"),
            ("zero.yml", "it is a device, not a file"),
        ];
        assert_eq!(files, expected.map(|(name, text)| (name.to_owned(), Err(text.to_owned()))).into());
        let ignored: Vec<_> = look.problems.into_iter().map(|problem| problem.place.into()).collect();
        assert_eq!(names(ignored, root.path()), ["folder"]);
    }

    #[test]
    fn what_an_earlier_process_knew_is_missed_as_what_this_one_saw() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let former = BTreeSet::from([path("d/1.toml")]);
        let told = || {
            let mut scan = scan(None, &[path("other.toml"), path("d/*.toml")]);
            // At the start, and later.
            let looks = [scan.look(&former, false), scan.look(&former, false)];
            let whys = looks.map(|look| look.absent.get(&path("d/1.toml")).map(ToString::to_string));
            assert_eq!(whys[0], whys[1]);
            whys[0].as_ref().map(|why| why.replace(&format!("{}/", root.path().display()), ""))
        };
        assert_eq!(told().as_deref(), Some("the folder d is gone"));
        fs::create_dir(path("empty")).unwrap();
        symlink("empty", path("d")).unwrap();
        assert_eq!(told().as_deref(), Some("no file of d/*.toml is left"));
        fs::remove_file(path("d")).unwrap();
        fs::write(path("d"), "").unwrap();
        assert_eq!(told().as_deref(), Some("the folder d is gone"));
        fs::remove_file(path("d")).unwrap();
        fs::create_dir(path("d")).unwrap();
        assert_eq!(told().as_deref(), Some("no file of d/*.toml is left"));
        fs::write(path("d/2.toml"), "").unwrap();
        assert_eq!(told(), None, "one of several is deleted");
    }

    #[test]
    fn a_place_that_is_gone_is_told_from_a_file_that_is() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let all = ["main.toml", "teams/a/1.toml", "teams/a/2.toml", "teams/b/3.toml", "single.toml"];
        let former: BTreeSet<PathBuf> = all.map(path).into();
        let absences = |gone: &[&str]| {
            let _ = fs::remove_dir_all(path("teams"));
            for name in all {
                fs::create_dir_all(path(name).parent().unwrap()).unwrap();
                fs::write(path(name), "").unwrap();
            }
            let mut scan = scan(Some(path("main.toml")), &[path("teams/*/*.toml"), path("single.toml")]);
            scan.look(&former, false);
            for name in gone {
                if path(name).is_dir() {
                    fs::remove_dir_all(path(name)).unwrap()
                } else {
                    fs::remove_file(path(name)).unwrap()
                }
            }
            let look = scan.look(&former, false);
            let shown = |(path, why): (&PathBuf, &Arc<str>)| {
                format!(
                    "{}: {}",
                    path.strip_prefix(root.path()).unwrap().display(),
                    why.replace(&format!("{}/", root.path().display()), "")
                )
            };
            look.absent.iter().map(shown).collect::<Vec<_>>()
        };
        assert_eq!(absences(&["teams/a/1.toml"]), [] as [&str; 0]);
        assert_eq!(absences(&["teams/b/3.toml"]), [] as [&str; 0], "one file of a folder that is there");
        assert_eq!(absences(&["main.toml"]), ["main.toml: the main configuration file is gone"]);
        assert_eq!(absences(&["single.toml"]), ["single.toml: no file of single.toml is left"]);
        assert_eq!(absences(&["teams/b"]), ["teams/b/3.toml: the folder teams/b is gone"]);
        assert_eq!(
            absences(&["teams/a/1.toml", "teams/a/2.toml"]),
            ["teams/a/1.toml: all files of teams/a are gone", "teams/a/2.toml: all files of teams/a are gone"]
        );
        assert_eq!(absences(&["teams/a/1.toml", "teams/a/2.toml", "teams/b/3.toml"]).len(), 3);
    }

    #[test]
    fn every_folder_on_the_way_is_watched() {
        // As Kubernetes mounts a ConfigMap: users.toml -> ..data/users.toml, ..data -> ..2026.
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        fs::create_dir_all(root.join("mount/..2026")).unwrap();
        fs::write(root.join("mount/..2026/users.toml"), "x").unwrap();
        symlink("..2026", root.join("mount/..data")).unwrap();
        symlink("..data/users.toml", root.join("mount/users.toml")).unwrap();
        let watched = |main: Option<&str>, patterns: &[&str], attached: &[&str]| {
            let path = |name: &&str| root.join(name);
            let mut scan = scan(main.as_ref().map(path), &patterns.iter().map(path).collect::<Vec<_>>());
            scan.look(&BTreeSet::new(), false);
            let folders = scan.folders(&attached.iter().map(path).collect());
            names(folders.into_keys().filter(|folder| folder.starts_with(&root)), &root)
        };
        assert_eq!(watched(None, &["mount/*.toml"], &[]), ["mount", "mount/..2026"]);
        assert_eq!(watched(Some("mount/users.toml"), &[], &[]), ["mount", "mount/..2026"]);
        assert_eq!(watched(None, &[], &["mount/users.toml"]), ["mount", "mount/..2026"]);
        // What does not exist yet is awaited where it would begin.
        assert_eq!(watched(None, &["later/x/*.toml"], &[]), [""]);
        fs::create_dir_all(root.join("teams/a/routes")).unwrap();
        assert_eq!(watched(None, &["teams/*/routes/*.toml"], &[]), ["teams", "teams/a", "teams/a/routes"]);
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let mut scan = scan(Some(root.path().join("a")), &[]);
        scan.look(&BTreeSet::new(), false);
        assert!(!scan.folders(&BTreeSet::new()).is_empty());
    }
}
