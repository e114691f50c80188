//! Where the real registries' binaries are, and what to do where they are not.

use std::env;
use std::path::PathBuf;

use super::{cache, skip};

/// The path of `consul`, `etcd`, `etcd-3.4`, `etcdctl`, `etcdutl` or `promtool`, as `scripts/fetch-registries` left it.
///
/// Without it the test is to be skipped, which is said aloud; with `CI=true` that is a failure.
pub fn binary(name: &str) -> Option<PathBuf> {
    let set = env::var_os("FLEETGATE_REGISTRIES").map(PathBuf::from);
    let path = set.or_else(|| cache("registries/bin")).map(|folder| folder.join(name)).filter(|path| path.is_file());
    if path.is_none() {
        skip(name, "scripts/fetch-registries");
    }
    path
}
