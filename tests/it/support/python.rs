//! Python, with what others have made in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Python with its packages, as `scripts/fetch-python` left it. Without it the test is to be skipped, which is said aloud;
/// with `CI=true` that is a failure.
pub fn environment() -> Option<PathBuf> {
    let set = std::env::var_os("FLEETGATE_PYTHON").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cached = || {
        let cache = std::env::var_os("FLEETGATE_CACHE").map(PathBuf::from).or_else(|| {
            let caches = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
            let caches = caches.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
            Some(caches.join("fleetgate"))
        })?;
        Some(cache.join("python/bin/python"))
    };
    let path = set.or_else(cached).filter(|path| path.is_file());
    if path.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
        assert!(!ci, "no Python: run scripts/fetch-python");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no Python (run scripts/fetch-python)");
    }
    path
}

/// What a script of these tests makes of a text.
pub fn ran(python: &Path, script: &str, input: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(script);
    let mut process =
        Command::new(python).arg(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
    let mut stdin = process.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writes = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = process.wait_with_output().expect("its end");
    writes.join().expect("a writer").expect("to write");
    assert!(output.status.success(), "{}", script.display());
    String::from_utf8(output.stdout).expect("text")
}
