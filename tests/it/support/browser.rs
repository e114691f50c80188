//! A real browser without a window.

use std::path::Path;
use std::process::Command;

use super::skip;

/// The page at a URL as Chromium has it once it is loaded and its scripts have run; `None` (said aloud) where there is no
/// Chromium.
pub fn page(url: &str) -> Option<String> {
    const BROWSER: &str = "/usr/bin/chromium-headless-shell";
    if !Path::new(BROWSER).exists() {
        skip("browser", "scripts/need chromium-headless-shell=chromium-headless-shell");
        return None;
    }
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(BROWSER)
        // The sandbox refuses root; what it loads here is our own.
        .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
