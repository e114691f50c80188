//! What the tests drive: the real gateway, real registries, scripted services, clients and faults.
//! Everything a test starts ends when its value is dropped, also when the test panics.

pub mod client;
pub mod consul;
pub mod etcd;
pub mod gateway;
pub mod load;
pub mod origin;
pub mod place;
pub mod process;
pub mod provider;
pub mod proxy;
pub mod registry;
pub mod wait;

/// A client for registries' and admin APIs; never for the traffic under test (see [`client`]).
pub fn http() -> reqwest::Client {
    static PROVIDER: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).pool_max_idle_per_host(0).build().unwrap()
}
