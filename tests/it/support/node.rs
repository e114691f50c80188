//! Node.js, with what others have made for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{cache, skip};

/// A folder with Node's packages, as `scripts/fetch-node` left it. Without it the test is to be skipped, which is said
/// aloud; with `CI=true` that is a failure.
pub fn environment() -> Option<PathBuf> {
    let set = std::env::var_os("FLEETGATE_NODE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set.or_else(|| cache("node")).filter(|folder| folder.join("node_modules").is_dir());
    if folder.is_none() {
        skip("packages of npm", "scripts/fetch-node");
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
