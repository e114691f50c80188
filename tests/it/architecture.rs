//! Checks that folders are stages: reads every `crate::` path of `src/` and fails on an arrow that is not
//! listed here. A new arrow is a change of design: argue for it, then add it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may use whom. A target is a folder, or one module of it.
const ARROWS: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("exchange", &[]),
    ("config", &["spec"]),
    ("telemetry", &["spec", "exchange"]),
    ("middleware", &["spec", "exchange", "telemetry"]),
    ("snapshot", &["spec", "exchange", "middleware", "telemetry"]),
    ("discovery", &["spec"]),
    // `exchange`: explain takes requests through middlewares, around an exchange that forwards nothing.
    ("control", &["spec", "exchange", "discovery::state", "middleware", "snapshot", "telemetry"]),
    ("health", &["spec", "snapshot", "telemetry"]),
    ("proxy", &["spec", "exchange", "middleware", "snapshot", "telemetry"]),
    (
        "admin",
        &[
            "spec",
            "middleware",
            "snapshot",
            "telemetry",
            "discovery::status",
            "control::history",
            "control::explain",
            "control::command",
        ],
    ),
];

/// What wires or drives everything.
const FREE: &[&str] = &["app", "cli", "lib", "main"];

#[test]
fn folders_use_only_the_stages_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut report = String::new();
    let mut seen = 0;
    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        for (line, problem) in problems(&module_of(relative), &text) {
            writeln!(report, "src/{}:{line}: {problem}", relative.display()).unwrap();
        }
        seen += 1;
    }
    assert!(seen > 10, "only {seen} files under src/: the test looks at the wrong place");
    assert!(report.is_empty(), "arrows that the design does not have:\n{report}");
}

#[test]
fn a_wrong_arrow_is_found_however_it_is_written() {
    let module = vec!["discovery".to_owned(), "consul".to_owned()];
    for (text, line) in [
        ("use crate::snapshot::Snapshot;", 1),
        ("use std::fmt;\nuse crate::{spec::name::Name, control::build};", 2),
        ("use crate::{\n    spec::{endpoint, name},\n    proxy,\n};", 1),
        ("fn f() -> crate::health::Threshold { todo() }", 1),
        ("/* crate::a */ pub(crate) use crate :: admin :: *;", 1),
        ("use super::super::control::merge;", 1),
        ("mod tests {\n    use super::super::super::control::merge;\n}", 2),
    ] {
        let found = problems(&module, text);
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [line], "{text}: {found:?}");
    }
    for text in [
        "use crate::spec::name::Name;\nuse crate::discovery::state;",
        "// crate::control\n/* crate::control /* nested */ crate::proxy */ let s = \"crate::control\"; let r = r#\"crate::control\"#;",
        "pub(crate) fn f<'a>(_: &'a str) -> char { '\"' }",
        "use super::state;\nmod tests { use super::super::state; use super::*; }",
    ] {
        assert_eq!(problems(&module, text), [], "{text}");
    }
    let control = vec!["control".to_owned(), "merge".to_owned()];
    assert_eq!(problems(&control, "use crate::discovery::{state::ProviderState, state};"), []);
    assert_eq!(problems(&control, "use crate::discovery::{state::ProviderState, Publisher};").len(), 1);
    assert_eq!(problems(&["invented".to_owned()], "").len(), 1);
}

/// What is wrong in one file, by line.
fn problems(module: &[String], text: &str) -> Vec<(usize, String)> {
    let top = module.first().map_or("lib", String::as_str);
    if FREE.contains(&top) {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == top) else {
        return vec![(1, format!("`{top}` is not a folder that the design has"))];
    };
    let mut found = Vec::new();
    for (line, path) in own_paths(module, &tokens(text)) {
        let Some(first) = path.first() else { continue };
        let second = path.get(1).map(|second| format!("{first}::{second}"));
        let fits = |target: &str| target == first || Some(target) == second.as_deref();
        if first != top && !allowed.iter().any(|target| fits(target)) {
            found.push((line, format!("`{top}` uses `{}`", path.join("::"))));
        }
    }
    found
}

/// Every path into this crate, absolute, with the line it starts at.
fn own_paths(module: &[String], tokens: &[(usize, String)]) -> Vec<(usize, Vec<String>)> {
    let mut paths = Vec::new();
    // For each open brace: does it belong to an inline module?
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].1.as_str();
        let text = |index: usize| tokens.get(index).map_or("", |(_, text)| text.as_str());
        let continues = at > 0 && text(at - 1) == "::";
        let base: Option<Vec<String>> = match token {
            "{" => {
                braces.push(at >= 2 && text(at - 2) == "mod");
                None
            }
            "}" => {
                braces.pop();
                None
            }
            "crate" if text(at + 1) == "::" && !continues => Some(Vec::new()),
            "super" if text(at + 1) == "::" && !continues => {
                let depth = module.len() + braces.iter().filter(|inline| **inline).count();
                let mut climbed = 1;
                while text(at + 2) == "super" && text(at + 3) == "::" {
                    climbed += 1;
                    at += 2;
                }
                (climbed >= depth).then(Vec::new)
            }
            _ => None,
        };
        if let Some(base) = base {
            let line = tokens[at].0;
            let mut tails = Vec::new();
            // The group's own braces are walked here, so the outer loop goes on behind them.
            at = use_tree(tokens, at + 2, base, &mut tails);
            paths.extend(tails.into_iter().map(|path| (line, path)));
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads the tree after a `::`; returns where it ends.
fn use_tree(tokens: &[(usize, String)], mut at: usize, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |(_, text)| text.as_str());
    loop {
        match text(at) {
            "{" => {
                at += 1;
                while !matches!(text(at), "}" | "") {
                    if text(at) == "," {
                        at += 1;
                    } else {
                        at = use_tree(tokens, at, path.clone(), found);
                        if text(at) == "as" {
                            at += 2;
                        }
                    }
                }
                return at + 1;
            }
            "*" => {
                found.push(path);
                return at + 1;
            }
            name if name.starts_with(|first: char| first.is_alphabetic() || first == '_') => {
                path.push(name.to_owned());
                at += 1;
                if text(at) != "::" || text(at + 1) == "<" {
                    found.push(path);
                    return at;
                }
                at += 1;
            }
            _ => {
                found.push(path);
                return at + usize::from(text(at) == ",");
            }
        }
    }
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

/// `proxy/balance/mod.rs` is `[proxy, balance]`, `proxy/worker.rs` is `[proxy, worker]`.
fn module_of(relative: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        relative.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.len() > 1 && parts.last().is_some_and(|last| last == "mod") {
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
