//! The shape of `src`: folders are stages, and no files import each other in a circle. Reads every path of `src/` and
//! fails on an arrow that is not listed here. A new arrow is a change of design: argue for it, then add it.

mod circles;
mod source;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use self::circles::{arrows_within, circles};
use self::source::{Crate, Import, Source};

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
    let source = Crate::read(&source_folder());
    let mut report = String::new();
    for (module, file, imports) in source.files() {
        for (line, problem) in problems(module, imports) {
            writeln!(report, "src/{}:{line}: {problem}", file.display()).unwrap();
        }
    }
    assert!(source.files().count() > 10, "the test looks at the wrong place");
    assert!(report.is_empty(), "arrows that the design does not have:\n{report}");
}

/// Folders whose files still import each other in circles.
const TANGLED: &[&str] = &[
    "admin",
    "app",
    "cli",
    "config",
    "control",
    "discovery",
    "health",
    "middleware",
    "proxy",
    "snapshot",
    "spec",
    "telemetry",
];

#[test]
fn no_files_import_each_other_in_a_circle() {
    let source = Crate::read(&source_folder());
    let found: Vec<String> = circles(&source)
        .iter()
        .filter(|circle| circle.iter().any(|module| !TANGLED.contains(&module.first().map_or("", String::as_str))))
        .map(|circle| arrows_within(&source, circle))
        .collect();
    assert!(found.is_empty(), "{} circles:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let circles_of = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned()));
        circles(&Crate::of(files))
            .iter()
            .map(|circle| circle.iter().map(|module| module.join("::")).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    let none: [Vec<String>; 0] = [];
    let map = ("a/mod.rs", "mod x; mod y;\npub(crate) use self::y::Y;");
    for (x, y) in [
        ("use super::y::Y;", "use super::x::X;"),
        ("use super::Y;", "fn f() -> super::x::X { todo() }"),
        ("use super::y;\nfn f() -> y::Y { y::make() }", "use crate::a::{self, x::{X as Z}};"),
    ] {
        assert_eq!(circles_of(&[map, ("a/x.rs", x), ("a/y.rs", y)]), [["a::x", "a::y"]], "{x} / {y}");
    }
    // Through a third file; between a folder's map and what it maps.
    let three =
        [("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C;"), ("c.rs", "use crate::{a::A, d};"), ("d.rs", "")];
    assert_eq!(circles_of(&three), [["a", "b", "c"]]);
    assert_eq!(circles_of(&[("a/mod.rs", "mod x;\nfn f() { x::g() }"), ("a/x.rs", "use super::f;")]), [["a", "a::x"]]);
    // What tests use, and what a map only names, makes no circle.
    for x in ["", "#[cfg(test)]\nmod tests { use super::super::y::Y; }", "use super::y;"] {
        assert_eq!(circles_of(&[map, ("a/x.rs", x), ("a/y.rs", "use super::x::X;")]), none, "{x}");
    }
    let tests = [("a/mod.rs", "#[cfg(test)]\nmod tests;\nfn f() { tests::g() }"), ("a/tests.rs", "use super::f;")];
    assert_eq!(circles_of(&tests), none);
}

/// Prints import circles, and files and lines by folder: `scripts/structure` shows it, of any version.
#[test]
fn report() {
    let source = Crate::read(&source_folder());
    let found = circles(&source);
    println!("{} import circles", found.len());
    for circle in &found {
        println!("\n{} files in a circle:\n{}", circle.len(), arrows_within(&source, circle));
    }
    let mut folders: BTreeMap<PathBuf, (usize, usize)> = BTreeMap::new();
    for (module, file, _) in source.files() {
        let (files, lines) = folders.entry(file.parent().unwrap().to_owned()).or_default();
        (*files, *lines) = (*files + 1, *lines + source.lines_of(module));
    }
    println!("\n{:>6} {:>7}  folder", "files", "lines");
    for (folder, (files, lines)) in folders {
        println!("{files:>6} {lines:>7}  src/{}", folder.display());
    }
}

/// This version's, or another's if `SOURCE_FOLDER` says where.
fn source_folder() -> PathBuf {
    std::env::var_os("SOURCE_FOLDER").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), PathBuf::from)
}

#[test]
fn a_wrong_arrow_is_found_however_it_is_written() {
    let problems = |module: &[String], text: &str| problems(module, &Source::parse(module, text).imports);
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
fn problems(module: &[String], imports: &[Import]) -> Vec<(usize, String)> {
    let top = module.first().map_or("lib", String::as_str);
    if FREE.contains(&top) {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == top) else {
        return vec![(1, format!("`{top}` is not a folder that the design has"))];
    };
    let mut found = Vec::new();
    for Import { line, path, .. } in imports {
        let Some(first) = path.first() else { continue };
        let second = path.get(1).map(|second| format!("{first}::{second}"));
        let fits = |target: &str| target == first || Some(target) == second.as_deref();
        if first != top && !allowed.iter().any(|target| fits(target)) {
            found.push((*line, format!("`{top}` uses `{}`", path.join("::"))));
        }
    }
    found
}
