//! Instances as a healthy Consul tells them.

use std::net::SocketAddr;

use serde_json::json;

use super::{Running, SOON, settings};
use crate::support::consul::{Consul, Service};
use crate::support::wait;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn weights(running: &Running, service: &str) -> Vec<u16> {
    running.source(service).unwrap().endpoints.iter().map(|endpoint| endpoint.weight).collect()
}

#[tokio::test]
async fn instances_come_change_and_go() {
    let Some(consul) = Consul::start().await else { return };
    let running = Running::start(&settings(&consul.url()), &["web"]);
    // Read and empty is not the same as not read.
    running.shows("web", "").await;

    for (port, id) in [(1001, "a"), (1002, "b"), (1003, "c"), (1004, "d")] {
        consul.register(&Service::new("web", id, at(port)).weights(10, 3).checked("passing")).await;
    }
    running.shows("web", "a b c d").await;
    assert_eq!(weights(&running, "web"), [10, 10, 10, 10]);

    consul.set_check("a", "warning").await;
    running.shows("web", "a! b c d").await;
    assert_eq!(weights(&running, "web"), [3, 10, 10, 10]);
    consul.set_check("a", "critical").await;
    running.shows("web", "ax b c d").await;
    consul.set_check("a", "passing").await;
    consul.maintain("b", true).await;
    running.shows("web", "a bm c d").await;
    consul.maintain_node(true).await;
    running.shows("web", "am bm cm dm").await;
    consul.maintain_node(false).await;
    consul.maintain("b", false).await;
    running.shows("web", "a b c d").await;

    // One of four, then two of three (verified), then the last (verified).
    consul.deregister("d").await;
    running.shows("web", "a b c").await;
    consul.deregister("a").await;
    consul.deregister("b").await;
    running.shows("web", "c").await;
    consul.deregister("c").await;
    running.shows("web", "").await;
    assert_eq!(running.status.updates.held.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert!(running.watch("web").verified_at().is_some());
    running.stop().await;
}

#[tokio::test]
async fn every_service_has_a_watch_of_its_own_while_it_is_wanted() {
    let Some(consul) = Consul::start().await else { return };
    consul.register(&Service::new("one", "one-1", at(1001))).await;
    consul.register(&Service::new("two", "two-1", at(1002))).await;
    let running = Running::start(&settings(&consul.url()), &["one"]);
    running.shows("one", "one-1").await;
    assert_eq!(running.shown("two"), "-");
    running.want(&["one", "two"]);
    running.shows("two", "two-1").await;
    let sessions = running.watch("two").sessions();
    running.want(&["two"]);
    wait::until(SOON, "the end of the first watch", || async { running.shown("one") == "-" }).await;
    assert_eq!(running.status.watches().into_keys().collect::<Vec<_>>(), ["consul:two"]);
    consul.register(&Service::new("two", "two-2", at(1003))).await;
    running.shows("two", "two-1 two-2").await;
    assert_eq!(running.watch("two").sessions(), sessions, "another service's watch began anew");
    running.stop().await;
}

#[tokio::test]
async fn names_and_unusual_registrations_are_read_as_they_are_meant() {
    let Some(consul) = Consul::start().await else { return };
    let entry = |node: &str, address: &str, service: serde_json::Value| json!({ "Node": node, "Address": address, "Service": service });
    for entry in [
        entry("n1", "10.0.0.1", json!({ "ID": "dup", "Service": "web", "Port": 80, "Meta": { "version": "v2" } })),
        entry("n2", "10.0.0.2", json!({ "ID": "dup", "Service": "web", "Port": 80, "Tags": ["canary"] })),
        entry("n3", "10.0.0.3", json!({ "ID": "six", "Service": "web", "Port": 80, "Address": "2001:db8::1" })),
        entry("n4", "10.0.0.4", json!({ "ID": "name", "Service": "web", "Port": 80, "Address": "Host.Internal" })),
        entry("n5", "10.0.0.5", json!({ "ID": "none", "Service": "web" })),
    ] {
        consul.catalog_register(entry).await;
    }
    // Consul compares names without case.
    let running = Running::start(&settings(&consul.url()), &["WEB"]);
    running.shows("WEB", "dup dup six name").await;
    let state = running.source("WEB").unwrap();
    let mut shown: Vec<_> = state
        .endpoints
        .iter()
        .map(|endpoint| {
            let labels: Vec<_> = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("{} {} {}", endpoint.id, endpoint.address, labels.join(","))
        })
        .collect();
    shown.sort();
    assert_eq!(
        shown,
        [
            "n1/dup 10.0.0.1:80 version=v2",
            "n2/dup 10.0.0.2:80 tag.canary=true",
            "n3/six [2001:db8::1]:80 ",
            "n4/name host.internal:80 "
        ]
    );
    let problems: Vec<_> = state.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["consul:WEB: n5/none: it has no port: register the service with one"]);
    running.stop().await;
}
