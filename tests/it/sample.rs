//! The sample service: it answers, registers itself, comes back after its registry did, and leaves.

use std::time::Duration;

use clap::Parser as _;
use fleetgate::cli::sample::{self, Info};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::support::client::{Request, get};
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::{http, wait};

const SOON: Duration = Duration::from_secs(30);

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    arguments: sample::Arguments,
}

/// Runs one until the sender is used.
fn start(words: &[&str]) -> (oneshot::Sender<()>, tokio::task::JoinHandle<Result<(), String>>) {
    let _ = http();
    let (stop, stopped) = oneshot::channel();
    let all = ["x", "--address", "127.0.0.1:0", "--drain", "0"].iter().chain(words);
    let arguments = Command::try_parse_from(all).unwrap().arguments;
    let running = tokio::spawn(sample::run(arguments, async {
        let _ = stopped.await;
    }));
    (stop, running)
}

#[tokio::test]
async fn it_says_who_it_is_and_how_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let info = Info { name: "users".into(), version: "v2".into(), instance: "one".into() };
    let running = tokio::spawn(sample::serve(listener, info, stop.clone()));
    let answer = Request::post("/a/b?c=d", "x").host("api.example.com").send(address).await.json();
    for (key, value) in [
        ("service", "users"),
        ("version", "v2"),
        ("instance", "one"),
        ("method", "POST"),
        ("path", "/a/b"),
        ("query", "c=d"),
        ("host", "api.example.com"),
    ] {
        assert_eq!(answer[key], value, "{key}");
    }
    assert_eq!(get(address, "/healthz").await.status, 200);
    Request::post("/healthz/down", "").send(address).await;
    assert_eq!(get(address, "/healthz").await.status, 503);
    assert_eq!(get(address, "/").await.status, 200);
    Request::post("/healthz/up", "").send(address).await;
    assert_eq!(get(address, "/healthz").await.status, 200);
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn it_registers_in_consul_and_leaves() {
    let Some(mut consul) = Consul::start().await else { return };
    let (stop, running) = start(&["--consul", &consul.url(), "--version", "v2"]);
    let passing = || async {
        let instances = consul.get("/v1/health/service/users?passing").await;
        instances.as_array().is_some_and(|instances| instances.len() == 1)
    };
    wait::until(SOON, "a passing instance", passing).await;
    assert_eq!(consul.instances("users").await[0]["Service"]["Meta"]["version"], "v2");
    consul.kill();
    consul.start_empty().await;
    let known = || async { !consul.instances("users").await.is_empty() };
    wait::until(SOON, "the instance in a Consul that lost its data", known).await;
    let _ = stop.send(());
    running.await.unwrap().unwrap();
    wait::until(SOON, "it to have left", || async { consul.instances("users").await.is_empty() }).await;
}

#[tokio::test]
async fn it_registers_in_etcd_under_a_lease_and_leaves() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let (stop, running) = start(&["--etcd", &etcd.url(), "--lease-ttl", "2"]);
    let under = serde_json::json!({ "key": "L2ZsZWV0Z2F0ZS9lbmRwb2ludHMvdXNlcnMv", "range_end": "L2ZsZWV0Z2F0ZS9lbmRwb2ludHMvdXNlcnMw" });
    let keys = || async {
        let answer = etcd.call("kv/range", under.clone()).await;
        answer["kvs"].as_array().cloned().unwrap_or_default()
    };
    wait::until(SOON, "its key", || async { keys().await.len() == 1 }).await;
    let key = keys().await.remove(0);
    assert!(key["lease"].as_str().is_some_and(|lease| lease != "0"), "{key}");
    let created = key["create_revision"].clone();
    // Longer than the lease lasts by itself.
    wait::always(Duration::from_secs(4), "the key lives on", || async {
        keys().await.first().map(|key| key["create_revision"].clone()) == Some(created.clone())
    })
    .await;
    etcd.kill();
    etcd.start_empty().await;
    let keys = || async {
        let answer: Value = etcd.call("kv/range", under.clone()).await;
        answer["kvs"].as_array().cloned().unwrap_or_default()
    };
    wait::until(SOON, "the key in an etcd that lost its data", || async { keys().await.len() == 1 }).await;
    let _ = stop.send(());
    running.await.unwrap().unwrap();
    assert_eq!(keys().await.len(), 0);
}
