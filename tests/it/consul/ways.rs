//! How an agent is asked: over a socket, at other places, by whom, how many at once, and with which certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use fleetgate::spec::settings::{Consistency, ConsulProvider as Settings};
use fleetgate::spec::source::ConsulService;
use serde_json::json;

use super::{Running, SOON, failure, settings, with_token};
use crate::support::consul::{Consul, Service};
use crate::support::scripted::{Scene, ScriptedServer, instances};
use crate::support::wait;

/// Fault case 30 as far as sockets go: one that is left behind by a killed agent, and one made anew.
#[tokio::test]
async fn an_agent_may_listen_on_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("consul.sock");
    let both = |address| json!({ "addresses": { "http": format!("{address} unix://{}", socket.display()) } });
    let Some(mut consul) = Consul::start_with(both).await else { return };
    let service = |id: &str, port| Service::new("web", id, ([127, 0, 0, 1], port).into());
    consul.register(&service("a", 1001)).await;
    let running = Running::start(&settings(&format!("unix://{}", socket.display())), &["web"]);
    running.shows("web", "a").await;
    consul.kill();
    let watch = running.watch("web");
    wait::until(SOON, "a failure", || async { failure(&watch).is_some() }).await;
    assert!(socket.exists(), "left behind");
    consul.start_again().await;
    consul.register(&service("b", 1002)).await;
    running.shows("web", "a b").await;
    running.stop().await;
}

#[tokio::test]
async fn a_service_is_asked_for_where_it_is_and_taken_at_the_address_wanted() {
    let Some(consul) = Consul::start().await else { return };
    let tagged = json!({ "wan": { "Address": "198.51.100.7", "Port": 8443 }, "lan_ipv6": { "Address": "2001:db8::7", "Port": 80 } });
    let service = Service::new("web", "a", ([127, 0, 0, 1], 1001).into()).field("TaggedAddresses", tagged);
    consul.register(&service).await;
    consul.register(&Service::new("web", "b", ([127, 0, 0, 1], 1002).into())).await;
    let running = Running::start(&settings(&consul.url()), &[]);
    let named = |tagged: Option<&str>, datacenter: Option<&str>| ConsulService {
        tagged_address: tagged.map(Into::into),
        datacenter: datacenter.map(Into::into),
        ..ConsulService::named("web")
    };
    // An agent tells its own node's `wan` address, which is where the other one is found.
    let node = consul.address;
    for (service, addresses) in [
        (named(None, None), ["127.0.0.1:1001".to_owned(), "127.0.0.1:1002".to_owned()]),
        (named(Some("wan"), Some("dc1")), [format!("{node}:1002"), "198.51.100.7:8443".to_owned()]),
        (named(Some("lan_ipv6"), None), ["127.0.0.1:1002".to_owned(), "[2001:db8::7]:80".to_owned()]),
    ] {
        running.want_one(service.clone());
        running.is_at(&service, &addresses.each_ref().map(String::as_str)).await;
    }
    let elsewhere = named(None, Some("nowhere"));
    running.want_one(elsewhere.clone());
    let watch = running.status.watch(&format!("consul:{elsewhere}"));
    wait::until_ok(SOON, "a word about the datacenter", || async {
        match failure(&watch) {
            Some(text) if text.contains("No path to datacenter") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    running.stop().await;
}

/// A Consul with namespaces and partitions is not to be had: what is asked of one is scripted.
#[tokio::test]
async fn namespaces_partitions_and_consistency_are_passed_on() {
    for (consistency, parameter) in
        [(Consistency::Stale, "?stale&"), (Consistency::Default, "?index="), (Consistency::Consistent, "?consistent&")]
    {
        let server = ScriptedServer::start(Scene::new(7, instances(&["a"]))).await;
        let of_provider = Settings {
            consistency,
            namespace: Some("team".into()),
            partition: Some("eu".into()),
            ..settings(&server.url())
        };
        let running = Running::start(&of_provider, &["web"]);
        running.shows("web", "a").await;
        wait::until(SOON, "a blocked query", || async { !server.seen("index=7&").is_empty() }).await;
        for query in server.seen("/v1/health/service/web?") {
            assert!(query.contains("ns=team&partition=eu&"), "{query}");
        }
        for query in server.seen("index=7&") {
            assert!(query.contains(parameter), "{query}");
        }
        let own = ConsulService { namespace: Some("own".into()), ..ConsulService::named("web") };
        running.want_one(own.clone());
        running.is_at(&own, &["10.0.0.1:80"]).await;
        assert!(!server.seen("ns=own&partition=eu&").is_empty());
        running.stop().await;
    }
}

/// Fault case 23: more services than an agent allows connections. All are followed, and no connection is refused.
#[tokio::test]
async fn more_services_than_connections_are_all_followed() {
    let Some(consul) = Consul::start().await else { return };
    let names: Vec<String> = (0..260).map(|number| format!("s{number:03}")).collect();
    let at = |port| ([127, 0, 0, 1], port).into();
    for name in &names {
        consul.register(&Service::new(name, &format!("{name}-1"), at(1001))).await;
    }
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let running = Running::start(&settings(&consul.url()), &words);
    for name in &words {
        running.shows(name, &format!("{name}-1")).await;
    }
    let polled = || words.iter().filter(|name| running.watch(name).is_polled()).count();
    wait::until(SOON, "100 blocked queries", || async { polled() == 160 }).await;
    for name in &words {
        consul.register(&Service::new(name, &format!("{name}-2"), at(1002))).await;
    }
    for name in &words {
        running.shows(name, &format!("{name}-1 {name}-2")).await;
    }
    let failed = running.status.updates.failed.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(failed, 0, "a refused connection is a failed read");
    // A place that becomes free is taken.
    let watched: Vec<&str> = words.iter().copied().filter(|name| !running.watch(name).is_polled()).collect();
    let rest: Vec<&str> = words.iter().copied().filter(|name| !watched[..60].contains(name)).collect();
    running.want(&rest);
    wait::until(SOON, "the free places to be taken", || async {
        rest.iter().filter(|name| running.watch(name).is_polled()).count() == 100
    })
    .await;
    let cost = &running.status.cost;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert!(load(&cost.wakeups) > 0 && load(&cost.wakeups) < load(&cost.answers), "{cost:?}");
    assert!(load(&cost.bytes) > 260 * 100, "{cost:?}");
    running.stop().await;
}

#[tokio::test]
async fn the_end_of_a_token_is_known_before_it_comes() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    let made = consul.put("/v1/acl/token", json!({ "ExpirationTTL": "1h" })).await;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let running = Running::start(&with_token(&consul.url(), made["SecretID"].as_str().unwrap()), &["web"]);
    wait::until(SOON, "the token's end", || async { running.status.token_expires_at().is_some() }).await;
    let left = running.status.token_expires_at().unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3000) && left <= Duration::from_secs(3600), "{left:?}");
    running.stop().await;
}
