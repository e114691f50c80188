//! Defines a look at all files of the provider: which there are, what they say, and which folders tell of changes.
//!
//! It blocks, and runs on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use glob::glob_with;

use crate::spec::problem::Problem;
use crate::spec::settings::FileProvider as Settings;

/// Symbolic links followed for one path (Linux's own limit).
const MAX_LINKS: usize = 40;

/// What a glance at a file sees: a change of it means that the file has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Print {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    fn of(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

/// What there is, without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Glance {
    /// The files by path, with their prints; `None` for one that can't be looked at.
    pub(super) files: BTreeMap<PathBuf, Option<Print>>,
    /// The files that documents name, likewise.
    pub(super) attached: BTreeMap<PathBuf, Option<Print>>,
    /// Folders that can't be read, with the reason: what is in them is unknown, not gone.
    pub(super) unreadable: BTreeMap<PathBuf, String>,
    /// Patterns that are none.
    pub(super) problems: Vec<Problem>,
}

/// Finds the files: the main one, and those that match a pattern; and looks at those that their documents named.
pub(super) fn glance(settings: &Settings, attached: &BTreeSet<PathBuf>) -> Glance {
    let mut seen = Glance::default();
    for path in attached {
        seen.attached.insert(path.clone(), fs::metadata(path).ok().map(|data| Print::of(&data)));
    }
    for pattern in &settings.patterns {
        let found = pattern.to_str().ok_or_else(|| "it is not UTF-8".to_owned());
        let found = found.and_then(|pattern| glob_with(pattern, Settings::MATCHING).map_err(|error| error.to_string()));
        match found {
            Ok(found) => {
                for entry in found {
                    match entry {
                        Ok(path) => look(path, &mut seen),
                        Err(error) if error.error().kind() == ErrorKind::NotFound => {}
                        Err(error) => {
                            seen.unreadable.insert(error.path().to_owned(), error.error().to_string());
                        }
                    }
                }
            }
            Err(error) => {
                let text = format!("not a pattern of paths: {error}");
                seen.problems.push(Problem::new(pattern.display().to_string(), "discovery.file.paths", text));
            }
        }
    }
    if let Some(main) = &settings.main {
        look(main.clone(), &mut seen);
        // A pattern that finds the main file by another path must not make all of it look defined twice.
        if let Some(Some(of_main)) = seen.files.get(main).cloned() {
            let same = |print: &Print| (print.device, print.inode) == (of_main.device, of_main.inode);
            seen.files.retain(|path, print| path == main || !print.as_ref().is_some_and(same));
        }
    }
    seen
}

fn look(path: PathBuf, seen: &mut Glance) {
    match fs::metadata(&path) {
        Ok(data) if data.is_dir() => {}
        Ok(data) => {
            seen.files.insert(path, Some(Print::of(&data)));
        }
        // Deleted meanwhile, or a link to nothing.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) => {
            seen.files.insert(path, None);
        }
    }
}

/// What the files of a glance say; `None` for one that went away meanwhile.
pub(super) fn read(path: &Path) -> Option<Result<Vec<u8>, String>> {
    match fs::read(path) {
        Ok(bytes) => Some(Ok(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// What a document names.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn attachment(path: &Path) -> Result<Vec<u8>, String> {
    let open = || {
        // A pipe would never open, a device never end.
        if !fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is no file"));
        }
        let mut content = Vec::new();
        fs::File::open(path)?.take(LARGEST_ATTACHMENT + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = open().map_err(|error| error.to_string())?;
    if content.len() as u64 > LARGEST_ATTACHMENT {
        return Err("it is larger than 1 MiB".to_owned());
    }
    Ok(content)
}

/// Largest file that a document names, in bytes.
const LARGEST_ATTACHMENT: u64 = 1 << 20;

/// The folders in which something must happen before [`glance`] or a file's content can change: those of each
/// file and of every link on the way to it, and those that a pattern looks into. With what identifies them,
/// since a folder that was made anew has to be watched anew.
pub(super) fn folders(
    settings: &Settings,
    seen: &Glance,
    attached: &BTreeSet<PathBuf>,
) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut folders = BTreeSet::new();
    let files = seen.files.keys().chain(&settings.main).chain(attached);
    for file in files {
        along(file, &mut folders);
    }
    for pattern in &settings.patterns {
        for folder in looked_into(pattern) {
            along(&folder.join("x"), &mut folders);
        }
    }
    let identified = |folder: PathBuf| {
        let data = fs::metadata(&folder).ok().filter(Metadata::is_dir)?;
        Some((folder, (data.dev(), data.ino())))
    };
    folders.into_iter().filter_map(identified).collect()
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

/// The folders that a pattern looks into: the one before its first wildcard, and those that match up to each
/// further part.
fn looked_into(pattern: &Path) -> Vec<PathBuf> {
    let wild = |part: &OsStr| part.to_string_lossy().contains(['*', '?', '[']);
    let parts: Vec<_> = pattern.components().map(Component::as_os_str).collect();
    let first = parts.iter().position(|part| wild(part)).unwrap_or(parts.len().saturating_sub(1));
    let mut folders = vec![parts[..first].iter().collect::<PathBuf>()];
    for upto in first + 1..parts.len() {
        let folder: PathBuf = parts[..upto].iter().collect();
        let found = folder.to_str().and_then(|pattern| glob::glob(pattern).ok());
        folders.extend(found.into_iter().flatten().filter_map(Result::ok).filter(|path| path.is_dir()));
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn settings(patterns: &[PathBuf]) -> Settings {
        Settings { main: None, patterns: patterns.to_vec() }
    }

    fn names(paths: impl IntoIterator<Item = PathBuf>, root: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.strip_prefix(root).unwrap_or(&path).display().to_string();
        paths.into_iter().map(name).collect()
    }

    #[test]
    fn patterns_find_files_and_no_editor_leftovers() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::write(root.path().join(name), "x").unwrap();
        fs::create_dir_all(root.path().join("d/e.toml")).unwrap();
        for name in ["a.toml", ".#a.toml", "a.toml~", "d/b.toml"] {
            file(name);
        }
        symlink("nowhere", root.path().join("broken.toml")).unwrap();
        let patterns = ["*.toml", "d/*.toml", "a.*"].map(|pattern| root.path().join(pattern));
        let seen = glance(&settings(&patterns), &BTreeSet::new());
        assert_eq!(names(seen.files.keys().cloned(), root.path()), ["a.toml", "a.toml~", "d/b.toml"]);
        assert!(seen.problems.is_empty() && seen.unreadable.is_empty());
        let bad = glance(&settings(&[root.path().join("a**b")]), &BTreeSet::new());
        assert_eq!(bad.problems.len(), 1);
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
        let watched = |settings: &Settings| {
            let none = BTreeSet::new();
            let folders = folders(settings, &glance(settings, &none), &none);
            names(folders.into_keys().filter(|folder| folder.starts_with(&root)), &root)
        };
        assert_eq!(watched(&settings(&[root.join("mount/*.toml")])), ["mount", "mount/..2026"]);
        let main = Settings { main: Some(root.join("mount/users.toml")), patterns: Vec::new() };
        assert_eq!(watched(&main), ["mount", "mount/..2026"]);
        let attached = [root.join("mount/users.toml")].into();
        let none = settings(&[]);
        let of_attached = folders(&none, &glance(&none, &attached), &attached);
        assert_eq!(names(of_attached.into_keys().filter(|it| it.starts_with(&root)), &root), ["mount", "mount/..2026"]);
        // What does not exist yet is awaited where it would begin.
        assert_eq!(watched(&settings(&[root.join("later/x/*.toml")])), [""]);
        fs::create_dir_all(root.join("teams/a/routes")).unwrap();
        let teams = watched(&settings(&[root.join("teams/*/routes/*.toml")]));
        assert_eq!(teams, ["teams", "teams/a", "teams/a/routes"]);
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let main = Settings { main: Some(root.path().join("a")), patterns: Vec::new() };
        let none = BTreeSet::new();
        assert!(!folders(&main, &glance(&main, &none), &none).is_empty());
    }
}
