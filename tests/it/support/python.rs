//! Python, with what others have made in it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{cache, skip};

/// Python with its packages, as `scripts/fetch-python` left it. Without it the test is to be skipped, which is said aloud;
/// with `CI=true` that is a failure.
pub fn environment() -> Option<PathBuf> {
    let set = std::env::var_os("FLEETGATE_PYTHON").filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = set.or_else(|| cache("python/bin/python")).filter(|path| path.is_file());
    if path.is_none() {
        skip("Python", "scripts/fetch-python");
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
