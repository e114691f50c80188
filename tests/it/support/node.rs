//! Node.js, with what others have made for it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with Node's packages, as `scripts/fetch-node` left it. Without it the test is to be skipped, which is said
/// aloud; with `CI=true` that is a failure.
pub fn environment() -> Option<PathBuf> {
    let set = std::env::var_os("FLEETGATE_NODE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cached = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/fleetgate/node"));
    let folder = set.or_else(cached).filter(|folder| folder.join("node_modules").is_dir());
    if folder.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
        assert!(!ci, "no packages of npm: run scripts/fetch-node");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no packages of npm (run scripts/fetch-node)");
    }
    folder
}

/// What a script of these tests prints.
pub fn ran(folder: &Path, script: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(script);
    // Packages are looked for beside a script, not where it is started.
    let beside = tempfile::Builder::new().suffix(".mjs").tempfile_in(folder).unwrap();
    std::fs::copy(&script, beside.path()).unwrap();
    let output = Command::new("node").arg(beside.path()).output().expect("node");
    assert!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
