//! Where the real registries' binaries are, and what to do where they are not.

use std::env;
use std::io::Write as _;
use std::path::PathBuf;

/// The path of `consul`, `etcd`, `etcd-3.4`, `etcdctl`, `etcdutl` or `promtool`, as `scripts/fetch-registries` left it.
///
/// Without it the test is to be skipped, which is said aloud; with `CI=true` that is a failure.
pub fn binary(name: &str) -> Option<PathBuf> {
    let folder = env::var_os("FLEETGATE_REGISTRIES").map(PathBuf::from).or_else(|| {
        let cache = env::var_os("FLEETGATE_CACHE").map(PathBuf::from).or_else(|| {
            let caches = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
            let caches = caches.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
            Some(caches.join("fleetgate"))
        })?;
        Some(cache.join("registries/bin"))
    });
    let path = folder.map(|folder| folder.join(name)).filter(|path| path.is_file());
    if path.is_none() {
        let ci = env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
        assert!(!ci, "no {name}: run scripts/fetch-registries");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Past the test harness's capture: a skip must be seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no {name} (run scripts/fetch-registries)");
    }
    path
}
