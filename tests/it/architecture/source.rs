//! Rust source as the modules and paths it names, read without a compiler: words, `use` trees and inline modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's or an item's place in the crate, from its root: `[proxy, balance, mod_name]`.
pub(super) type Segments = Vec<String>;

/// A path into this crate, written somewhere in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Import {
    pub(super) line: usize,
    /// Absolute. The last segment of a glob is `*`.
    pub(super) path: Segments,
    /// The name that it has from then on.
    pub(super) name: String,
    /// `pub use`, in the module of this path.
    pub(super) reexported_in: Option<Segments>,
    /// In a `#[cfg(test)]` module.
    pub(super) is_test: bool,
}

/// One file's imports, and the child modules that it declares.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) imports: Vec<Import>,
    pub(super) test_modules: Vec<String>,
}

/// Every file of a crate, by the module it holds.
#[derive(Debug, Default)]
pub(super) struct Crate {
    files: BTreeMap<Segments, File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    lines: usize,
    source: Source,
}

impl Crate {
    /// Reads a `src` folder.
    pub(super) fn read(root: &Path) -> Self {
        let texts = rust_files(root).into_iter().map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root).unwrap().to_owned(), text)
        });
        Self::of(texts)
    }

    /// Of relative paths and texts.
    pub(super) fn of(texts: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let files = texts.into_iter().map(|(path, text)| {
            let module = module_of(&path);
            let source = Source::parse(&module, &text);
            (module, File { path, lines: text.lines().count(), source })
        });
        Self { files: files.collect() }
    }

    /// Each module, its file and what that imports.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Segments, &Path, &[Import])> {
        self.files.iter().map(|(module, file)| (module, file.path.as_path(), file.source.imports.as_slice()))
    }

    pub(super) fn file_of(&self, module: &[String]) -> &Path {
        &self.files[module].path
    }

    pub(super) fn lines_of(&self, module: &[String]) -> usize {
        self.files[module].lines
    }

    /// Whether a module is compiled for tests only: it, or a folder that it lies in, stands behind `#[cfg(test)]`.
    pub(super) fn is_test(&self, module: &[String]) -> bool {
        (1..=module.len()).any(|depth| {
            let (name, parent) = (&module[depth - 1], &module[..depth - 1]);
            self.files.get(parent).is_some_and(|file| file.source.test_modules.contains(name))
        })
    }

    /// Which modules each module's code uses; tests, and mere re-exports, aside.
    pub(super) fn uses(&self) -> BTreeMap<Segments, BTreeMap<Segments, usize>> {
        let mut all = BTreeMap::new();
        for (module, file) in &self.files {
            let mut used = BTreeMap::new();
            if !self.is_test(module) {
                for import in &file.source.imports {
                    if import.is_test || import.reexported_in.is_some() {
                        continue;
                    }
                    if let Some(target) = self.resolve(&import.path, 0)
                        && target != *module
                    {
                        used.entry(target).or_insert(import.line);
                    }
                }
            }
            all.insert(module.clone(), used);
        }
        all
    }

    /// The module that holds what a path names: re-exports lead on. `None` if the path names a module alone.
    fn resolve(&self, path: &[String], depth: usize) -> Option<Segments> {
        assert!(depth < 16, "{path:?} is re-exported in a circle");
        let known = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
        let module = &path[..known];
        let item = path.get(known)?;
        for import in &self.files[module].source.imports {
            if import.reexported_in.as_deref() != Some(module) {
                continue;
            }
            if import.name == *item {
                let mut on = import.path.clone();
                on.extend_from_slice(&path[known + 1..]);
                return self.resolve(&on, depth + 1);
            }
        }
        Some(module.to_vec())
    }
}

impl Source {
    pub(super) fn parse(module: &[String], text: &str) -> Self {
        let tokens = tokens(text);
        let word = |index: usize| tokens.get(index).map_or("", |(_, text): &(usize, String)| text.as_str());
        let mut source = Self::default();
        let mut children = BTreeSet::new();
        for at in 0..tokens.len() {
            if word(at) == "mod" && word(at + 2) == ";" {
                children.insert(word(at + 1).to_owned());
                if is_behind_test(&tokens, at) {
                    source.test_modules.push(word(at + 1).to_owned());
                }
            }
        }
        source.imports = paths(module, &tokens, &children, &BTreeMap::new());
        // `use super::pick;` and then `pick::choose()`: what is used lies behind the imported module.
        let modules: BTreeMap<String, Segments> = source
            .imports
            .iter()
            .filter(|import| import.name.starts_with(char::is_lowercase))
            .map(|import| (import.name.clone(), import.path.clone()))
            .collect();
        source.imports = paths(module, &tokens, &children, &modules);
        source
    }
}

/// Every path into this crate, absolute. `imported` says which modules have a name of their own in this file.
fn paths(
    module: &[String],
    tokens: &[(usize, String)],
    children: &BTreeSet<String>,
    imported: &BTreeMap<String, Segments>,
) -> Vec<Import> {
    let word = |index: usize| tokens.get(index).map_or("", |(_, text)| text.as_str());
    let mut imports = Vec::new();
    // For each open brace: the inline module that it belongs to, and whether that is a test's.
    let mut braces: Vec<Option<(String, bool)>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here: Segments = module.iter().chain(braces.iter().flatten().map(|(name, _)| name)).cloned().collect();
        let is_inline = here.len() > module.len();
        let continues = at > 0 && word(at - 1) == "::";
        let starts_path = word(at + 1) == "::" && !continues;
        let first = at;
        let base: Option<Segments> = match word(at) {
            "{" => {
                let is_module = at >= 2 && word(at - 2) == "mod";
                let opened = is_module.then(|| (word(at - 1).to_owned(), is_behind_test(tokens, at - 2)));
                braces.push(opened);
                None
            }
            "}" => {
                braces.pop();
                None
            }
            "crate" if starts_path => Some(Vec::new()),
            "self" if starts_path => Some(here.clone()),
            "super" if starts_path => {
                let mut base = here.clone();
                base.pop();
                while word(at + 2) == "super" && word(at + 3) == "::" {
                    base.pop();
                    at += 2;
                }
                Some(base)
            }
            child if starts_path && !is_inline && children.contains(child) => {
                let mut base = here.clone();
                base.push(child.to_owned());
                Some(base)
            }
            name if starts_path => imported.get(name).cloned(),
            _ => None,
        };
        let Some(base) = base else {
            at += 1;
            continue;
        };
        let reexported_in = is_reexport(tokens, first).then_some(here);
        let is_test = braces.iter().flatten().any(|(_, is_test)| *is_test);
        let mut found = Vec::new();
        // The tree's own braces are walked here: the loop goes on behind them.
        at = use_tree(tokens, at + 2, base, &mut found);
        imports.extend(found.into_iter().map(|(path, name)| Import {
            line: tokens[first].0,
            path,
            name,
            reexported_in: reexported_in.clone(),
            is_test,
        }));
    }
    imports
}

/// Whether the `mod` at `at` has `#[cfg(test)]` before it.
fn is_behind_test(tokens: &[(usize, String)], at: usize) -> bool {
    let mut before = at;
    // Back over a visibility: `pub`, `pub(crate)`.
    while before > 0 && matches!(tokens[before - 1].1.as_str(), "pub" | "crate" | "super" | "(" | ")") {
        if tokens[before - 1].1 == ")" && before > 1 && tokens[before - 2].1 == "test" {
            break;
        }
        before -= 1;
    }
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    before >= attribute.len()
        && tokens[before - attribute.len()..before].iter().map(|(_, text)| text.as_str()).eq(attribute)
}

/// Whether the path at `at` is that of a `pub use`.
fn is_reexport(tokens: &[(usize, String)], at: usize) -> bool {
    let word = |index: Option<usize>| index.and_then(|index| tokens.get(index)).map_or("", |(_, text)| text.as_str());
    if word(at.checked_sub(1)) != "use" {
        return false;
    }
    let mut before = at.checked_sub(2);
    while matches!(word(before), ")" | "(" | "crate" | "super" | "in" | "self") {
        before = before.and_then(|before| before.checked_sub(1));
    }
    word(before) == "pub"
}

/// Reads the tree after a `::`; returns where it ends.
fn use_tree(
    tokens: &[(usize, String)],
    mut at: usize,
    mut path: Segments,
    found: &mut Vec<(Segments, String)>,
) -> usize {
    let word = |index: usize| tokens.get(index).map_or("", |(_, text)| text.as_str());
    loop {
        match word(at) {
            "{" => {
                at += 1;
                while !matches!(word(at), "}" | "") {
                    if word(at) == "," {
                        at += 1;
                    } else {
                        at = use_tree(tokens, at, path.clone(), found);
                    }
                }
                return at + 1;
            }
            "*" => {
                path.push("*".to_owned());
                found.push((path, "*".to_owned()));
                return at + 1;
            }
            "self" => {
                let name = path.last().cloned().unwrap_or_default();
                return renamed(tokens, at + 1, path, name, found);
            }
            name if name.starts_with(|first: char| first.is_alphabetic() || first == '_') => {
                path.push(name.to_owned());
                at += 1;
                if word(at) != "::" || word(at + 1) == "<" {
                    let name = name.to_owned();
                    return renamed(tokens, at, path, name, found);
                }
                at += 1;
            }
            _ => {
                let name = path.last().cloned().unwrap_or_default();
                found.push((path, name));
                return at + usize::from(word(at) == ",");
            }
        }
    }
}

fn renamed(
    tokens: &[(usize, String)],
    at: usize,
    path: Segments,
    name: String,
    found: &mut Vec<(Segments, String)>,
) -> usize {
    let word = |index: usize| tokens.get(index).map_or("", |(_, text)| text.as_str());
    // `x as u32` is a cast, not a name, but harms nothing: nobody asks for a re-export of `u32`.
    if word(at) == "as" {
        found.push((path, word(at + 1).to_owned()));
        return at + 2;
    }
    found.push((path, name));
    at
}

/// Words and the punctuation that paths need, without comments and literals.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    let next = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let from = at;
        match chars[at] {
            '/' if next(at + 1) == '/' => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            '/' if next(at + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (next(at), next(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 || at >= chars.len() {
                        break;
                    }
                }
            }
            'r' if matches!(next(at + 1), '"' | '#') && raw_string_end(&chars, at + 1).is_some() => {
                at = raw_string_end(&chars, at + 1).unwrap();
            }
            '"' => {
                at += 1;
                while at < chars.len() && chars[at] != '"' {
                    at += if chars[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
            }
            // A character literal, as against a lifetime.
            '\'' if next(at + 1) == '\\' || next(at + 2) == '\'' => {
                at += if next(at + 1) == '\\' { 3 } else { 2 };
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            }
            ':' if next(at + 1) == ':' => {
                tokens.push((line, "::".to_owned()));
                at += 2;
            }
            c if is_word(c) => {
                while at < chars.len() && is_word(chars[at]) {
                    at += 1;
                }
                tokens.push((line, chars[from..at].iter().collect()));
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push((line, c.to_string()));
                }
                at += 1;
            }
        }
        line += chars[from..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The end of a raw string whose `#` or `"` is at `at`; nothing when it is none (`r#type`).
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + hashes) != Some(&'"') {
        return None;
    }
    let mut end = at + hashes + 1;
    while end < chars.len() {
        if chars[end] == '"' && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(end)
}

/// `proxy/balance/mod.rs` is `[proxy, balance]`, `proxy/worker.rs` is `[proxy, worker]`; `lib.rs` is the root.
pub(super) fn module_of(relative: &Path) -> Segments {
    let mut parts: Segments =
        relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts == ["lib"] || parts.len() > 1 && parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
