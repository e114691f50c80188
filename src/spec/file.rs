//! Reads of files that people name, which never wait for a writer and never take more memory than a bound, and the
//! files that a pattern names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use glob::Pattern;
use rustix::fs::OFlags;

use super::settings::FileProvider;

/// Largest file with documents, and largest main configuration file.
pub const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// Largest file that a document or a setting names: certificates, keys, revocation lists.
pub const MAX_ATTACHMENT_BYTES: u64 = 1 << 20;
/// Largest file with a token or a password.
pub const MAX_SECRET_BYTES: u64 = 64 << 10;
/// Folders that `**` descends into below each other.
const MAX_DEPTH: usize = 16;

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// What the system says; and for a folder, a named pipe, a socket, a device or a larger file what it is.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    check(&fs::metadata(path)?, limit)?;
    // It may have become a pipe since: opened so, a pipe without a writer does not block.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    check(&file.metadata()?, limit)?;
    let mut content = Vec::new();
    // A file of /proc has no size, and another may grow.
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit { Err(too_large(limit)) } else { Ok(content) }
}

/// As [`read`], as text.
///
/// # Errors
/// As [`read`], and for what is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

fn check(data: &Metadata, limit: u64) -> io::Result<()> {
    match not_a_file(data.file_type()) {
        Some(what) => Err(io::Error::other(format!("it is {what}, not a file"))),
        None if data.len() > limit => Err(too_large(limit)),
        None => Ok(()),
    }
}

/// What something is that is no regular file.
pub fn not_a_file(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

fn too_large(limit: u64) -> io::Error {
    let limit = if limit >= 1 << 20 { format!("{} MiB", limit >> 20) } else { format!("{} KiB", limit >> 10) };
    io::Error::other(format!("it is larger than {limit}"))
}

/// A path without `.` and `..`, by its text alone: links are not followed.
pub fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// What a pattern names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Everything whose path matches, whatever it is: nothing of it was looked at.
    pub paths: BTreeSet<PathBuf>,
    /// The folders that were listed, and those that a path without wildcards leads into.
    pub folders: BTreeSet<PathBuf>,
    /// Folders that cannot be listed, with the reason: what is in them is not known.
    pub unreadable: BTreeMap<PathBuf, String>,
    /// What the pattern names without wildcards and is not there, the file itself or the folder it begins in, with the
    /// reason.
    pub missing: Option<(PathBuf, &'static str)>,
}

/// A part of a pattern between two slashes.
enum Part {
    /// Without wildcards.
    Plain(String),
    Wild(Pattern),
    /// `**`
    Deep,
}

/// Lists what a pattern names. Links to folders are followed, except into a folder they lie in. Names that begin with a
/// dot are found without wildcards only.
///
/// # Errors
/// Why it is not a pattern.
pub fn list(pattern: &Path) -> Result<Listing, String> {
    let (root, parts) = split(pattern)?;
    let mut listing = Listing::default();
    expand(&root, &parts, &mut Vec::new(), &mut listing);
    listing.missing = missing(&root, &parts, &listing);
    Ok(listing)
}

/// The one path that a pattern without wildcards names.
pub fn literal(pattern: &Path) -> Option<PathBuf> {
    let (mut path, parts) = split(pattern).ok()?;
    for part in &parts {
        let Part::Plain(name) = part else { return None };
        path.push(name);
    }
    Some(path)
}

/// Whether a pattern names this path, which need not exist.
pub fn names(pattern: &Path, path: &Path) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..FileProvider::MATCHING };
    // As `list` builds its paths: without `.` and doubled slashes.
    let pattern: PathBuf = pattern.components().collect();
    let pattern = pattern.to_str().and_then(|text| Pattern::new(text).ok());
    pattern.is_some_and(|pattern| pattern.matches_path_with(path, options))
}

/// The root of a pattern, and its parts below.
fn split(pattern: &Path) -> Result<(PathBuf, Vec<Part>), String> {
    let text = pattern.to_str().ok_or("it is not UTF-8")?;
    Pattern::new(text).map_err(|error| error.to_string())?;
    let (mut root, mut parts) = (PathBuf::new(), Vec::new());
    for component in pattern.components() {
        match component {
            Component::Normal(part) => parts.push(Part::of(&part.to_string_lossy())?),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir
                if parts.is_empty() =>
            {
                root.push(component);
            }
            other => parts.push(Part::Plain(other.as_os_str().to_string_lossy().into_owned())),
        }
    }
    Ok((root, parts))
}

fn missing(root: &Path, parts: &[Part], listing: &Listing) -> Option<(PathBuf, &'static str)> {
    let mut start = root.to_owned();
    let plain = parts.iter().map_while(|part| if let Part::Plain(name) = part { Some(name) } else { None });
    start.extend(plain);
    let is_literal = parts.iter().all(|part| matches!(part, Part::Plain(_)));
    if is_literal {
        let is_there = listing.paths.contains(&start) || listing.unreadable.contains_key(&start);
        return (!is_there).then_some((start, "there is no such file"));
    }
    let what = match fs::metadata(if start.as_os_str().is_empty() { Path::new(".") } else { &start }) {
        Ok(data) if data.is_dir() => return None,
        Ok(_) => "is not a folder",
        Err(error) if is_absent(&error) => "there is no such folder",
        // It cannot be listed, for the same reason.
        Err(_) => return None,
    };
    Some((start, what))
}

impl Part {
    fn of(text: &str) -> Result<Self, String> {
        if text == "**" {
            return Ok(Self::Deep);
        }
        // What `Pattern::escape` makes of a name with wildcards in it.
        let (mut plain, mut rest) = (String::new(), text);
        while let Some(letter) = rest.chars().next() {
            let escaped = rest.strip_prefix('[').and_then(|rest| rest.split_at_checked(1));
            match escaped {
                Some((letter @ ("[" | "]" | "?" | "*"), after)) if after.starts_with(']') => {
                    plain.push_str(letter);
                    rest = after.get(1..).unwrap_or_default();
                }
                _ if matches!(letter, '*' | '?' | '[') => {
                    return Pattern::new(text).map(Self::Wild).map_err(|error| error.to_string());
                }
                _ => {
                    plain.push(letter);
                    rest = rest.get(letter.len_utf8()..).unwrap_or_default();
                }
            }
        }
        Ok(Self::Plain(plain))
    }
}

/// `above`: the folders that `**` came through.
fn expand(folder: &Path, parts: &[Part], above: &mut Vec<(u64, u64)>, listing: &mut Listing) {
    match parts {
        [] => {}
        [Part::Plain(name)] => {
            let path = folder.join(name);
            listing.folders.insert(folder.to_owned());
            match fs::symlink_metadata(&path) {
                Ok(_) => drop(listing.paths.insert(path)),
                Err(error) if is_absent(&error) => {}
                Err(error) => drop(listing.unreadable.insert(path, error.to_string())),
            }
        }
        [Part::Plain(name), rest @ ..] => expand(&folder.join(name), rest, above, listing),
        [Part::Wild(pattern), rest @ ..] => {
            for (path, name, kind) in entries(folder, listing) {
                if name.starts_with('.') || !pattern.matches_with(&name, FileProvider::MATCHING) {
                    continue;
                }
                if rest.is_empty() {
                    listing.paths.insert(path);
                } else if kind.is_none_or(|kind| kind.is_dir() || kind.is_symlink()) {
                    listing.folders.insert(path.clone());
                    expand(&path, rest, above, listing);
                }
            }
        }
        [Part::Deep, rest @ ..] => {
            expand(folder, rest, above, listing);
            let here = fs::metadata(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
            let Some(here) = here.ok().map(|data| (data.dev(), data.ino())).filter(|here| !above.contains(here)) else {
                return;
            };
            if above.len() >= MAX_DEPTH {
                return;
            }
            above.push(here);
            for (path, name, kind) in entries(folder, listing) {
                let is_folder = match kind {
                    Some(kind) if !kind.is_symlink() => kind.is_dir(),
                    Some(_) | None => fs::metadata(&path).is_ok_and(|data| data.is_dir()),
                };
                if is_folder && !name.starts_with('.') {
                    expand(&path, parts, above, listing);
                }
            }
            above.pop();
        }
    }
}

/// The entries of a folder, each with its name and, where the system tells at once, what it is.
fn entries(folder: &Path, listing: &mut Listing) -> Vec<(PathBuf, String, Option<FileType>)> {
    listing.folders.insert(folder.to_owned());
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut found = Vec::new();
    let listed = fs::read_dir(here).and_then(|entries| {
        for entry in entries {
            let entry = entry?;
            // A name that is not UTF-8 matches no pattern.
            if let Ok(name) = entry.file_name().into_string() {
                found.push((folder.join(&name), name, entry.file_type().ok()));
            }
        }
        Ok(())
    });
    if let Err(error) = listed
        && !is_absent(&error)
    {
        listing.unreadable.insert(folder.to_owned(), error.to_string());
    }
    found
}

/// Whether there is nothing of that name, as opposed to something that cannot be reached.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_not_a_file_is_named_and_not_opened() {
        let root = tempfile::tempdir().expect("a folder");
        let path = |name: &str| root.path().join(name);
        assert!(Command::new("mkfifo").arg(path("pipe")).status().expect("mkfifo").success());
        let _socket = UnixListener::bind(path("socket")).expect("a socket");
        symlink("/dev/zero", path("zero")).expect("a link");
        fs::write(path("large"), vec![b'x'; 2049]).expect("written");
        fs::write(path("fits"), vec![b'x'; 2048]).expect("written");
        let told = |name: &str| read(&path(name), 2048).map(|bytes| bytes.len()).map_err(|error| error.to_string());
        assert_eq!(told("pipe"), Err("it is a named pipe, not a file".to_owned()));
        assert_eq!(told("socket"), Err("it is a socket, not a file".to_owned()));
        assert_eq!(told("zero"), Err("it is a device, not a file".to_owned()));
        assert_eq!(told("."), Err("it is a folder, not a file".to_owned()));
        assert_eq!(told("large"), Err("it is larger than 2 KiB".to_owned()));
        assert_eq!(told("fits"), Ok(2048));
        // Its size is 0 by the system's word.
        assert!(read(Path::new("/proc/self/status"), MAX_SECRET_BYTES).is_ok_and(|bytes| !bytes.is_empty()));
    }

    fn listed(root: &Path, pattern: &str) -> Vec<String> {
        let pattern = PathBuf::from(Pattern::escape(&root.to_string_lossy())).join(pattern);
        let listing = list(&pattern).expect("a pattern");
        assert!(listing.paths.iter().all(|path| names(&pattern, path)), "{pattern:?}: {listing:?}");
        let shown = |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).display().to_string();
        listing.paths.iter().map(shown).collect()
    }

    #[test]
    fn what_a_pattern_needs_and_does_not_find_is_told() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("d")).expect("made");
        fs::write(root.path().join("f.toml"), "").expect("written");
        symlink("nowhere", root.path().join("l.toml")).expect("a link");
        let missing = |pattern: &str| {
            let (path, what) = list(&root.path().join(pattern)).expect("a pattern").missing?;
            Some(format!("{} {what}", path.strip_prefix(root.path()).expect("below the root").display()))
        };
        for there in ["d/*.toml", "f.toml", "l.toml", "*/x/*.toml", "**/*.toml"] {
            assert_eq!(missing(there), None, "{there}");
        }
        assert_eq!(missing("e.toml").as_deref(), Some("e.toml there is no such file"));
        assert_eq!(missing("e/x/*.toml").as_deref(), Some("e/x there is no such folder"));
        assert_eq!(missing("f.toml/*.toml").as_deref(), Some("f.toml is not a folder"));
        assert_eq!(literal(Path::new("/a/b[*].toml")), Some(PathBuf::from("/a/b*.toml")));
        assert_eq!(literal(Path::new("/a/*.toml")), None);
    }

    #[test]
    fn patterns_name_files_as_glob_has_it() {
        let root = tempfile::Builder::new().prefix("odd[name]*").tempdir().expect("a folder");
        let root = root.path();
        for folder in ["a/x", "a/y/z", ".hidden"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        for name in ["1.toml", ".2.toml", "a/3.toml", "a/x/4.toml", "a/y/z/5.toml", ".hidden/6.toml", "7.yaml"] {
            fs::write(root.join(name), "").expect("written");
        }
        symlink("a", root.join("linked")).expect("a link");
        symlink("nowhere", root.join("dangling.toml")).expect("a link");
        let patterns = [
            "*.toml",
            "1.toml",
            "absent.toml",
            "?.toml",
            "*/*.toml",
            "*/x/*.toml",
            "**/*.toml",
            "a/**/z/*.toml",
            ".*.toml",
            "[0-9].toml",
            "1.toml/x.toml",
            "absent/*.toml",
        ];
        for pattern in patterns {
            let escaped = PathBuf::from(Pattern::escape(&root.to_string_lossy())).join(pattern);
            let escaped = escaped.to_str().expect("UTF-8");
            let found = glob::glob_with(escaped, FileProvider::MATCHING).expect("a pattern").filter_map(Result::ok);
            let mut expected: Vec<String> =
                found.map(|path| path.strip_prefix(root).expect("below the root").display().to_string()).collect();
            expected.sort();
            assert_eq!(listed(root, pattern), expected, "{pattern}");
        }
        let names = |pattern: &str, path: &str| {
            names(&PathBuf::from(Pattern::escape(&root.to_string_lossy())).join(pattern), &root.join(path))
        };
        assert!(names("gone/*.toml", "gone/1.toml") && names("./gone//*", "gone/1.toml") && names("**/x", "gone/y/x"));
        assert!(!names("*.toml", "gone/1.toml") && !names("gone/*", "gone/.1") && !names("gone/1", "gone/2"));
        assert!(list(Path::new("/x/a**b")).is_err());
        symlink(".", root.join("a/here")).expect("a link");
        symlink("..", root.join("a/up")).expect("a link");
        assert!(listed(root, "**/5.toml").len() < 10);
    }
}
