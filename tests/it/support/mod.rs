//! What the tests drive: the real gateway, real registries, scripted services, clients and faults.
//! Everything a test starts ends when its value is dropped, also when the test panics.

pub mod between;
pub mod browser;
pub mod client;
pub mod consul;
pub mod dns;
pub mod etcd;
pub mod frames;
pub mod gateway;
pub mod load;
pub mod multiplexed;
pub mod network;
pub mod node;
pub mod origin;
pub mod pki;
pub mod place;
pub mod process;
pub mod provider;
pub mod proxy;
pub mod python;
pub mod redis;
pub mod registry;
pub mod scripted;
pub mod secured;
pub mod tls;
pub mod wait;

/// Says aloud that a test is left out for want of something, and how that is had; with `CI=true` it is a failure.
pub fn skip(what: &str, how: &str) {
    use std::io::Write as _;
    let ci = std::env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
    assert!(!ci, "no {what}: run {how}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the test harness's capture: a skip must be seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no {what} (run {how})");
}

/// A folder of what the scripts fetch.
pub fn cache(folder: &str) -> Option<std::path::PathBuf> {
    use std::path::PathBuf;
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let cache = set("FLEETGATE_CACHE").or_else(|| caches().map(|caches| caches.join("fleetgate")))?;
    Some(cache.join(folder))
}

/// Whether tests that take longer than about 20 s shall run; said aloud where they shall not.
pub fn long_tests() -> bool {
    use std::io::Write as _;
    let wanted = wants_long();
    if !wanted {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Past the test harness's capture: what is left out must be seen.
        let _ = writeln!(std::io::stderr(), "LEFT OUT {test}: it takes long (scripts/test-faults runs it)");
    }
    wanted
}

/// How often a test does something: a few times, or often where tests may take long.
pub fn rounds(few: usize, many: usize) -> usize {
    if wants_long() { many } else { few }
}

fn wants_long() -> bool {
    std::env::var("FLEETGATE_LONG_TESTS").is_ok_and(|value| value == "1")
}

/// A client for registries' and admin APIs; never for the traffic under test (see [`client`]).
pub fn http() -> reqwest::Client {
    static PROVIDER: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).pool_max_idle_per_host(0).build().unwrap()
}
