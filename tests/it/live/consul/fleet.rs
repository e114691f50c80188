//! Three Consul servers and a client agent that lose a leader, the agent's own server, and their majority, with
//! traffic flowing.
//!
//! Servers that come back do not vote for ten seconds: no test takes a second one away from a fleet that must go on.

use std::time::Duration;

use serde_json::json;

use super::super::{SOON, config, fails, live, provider, stops, takes};
use crate::support::client::Request;
use crate::support::consul::{Consul, Fleet};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::long_tests;
use crate::support::origin::Origin;
use crate::support::wait;

/// Registers an instance of `web` past all agents, by the word of one of them.
pub(super) async fn put(agent: &Consul, origin: &Origin) {
    let address = origin.address();
    let service = json!({ "ID": origin.name, "Service": "web", "Address": address.ip(), "Port": address.port() });
    agent.catalog_register(json!({ "Node": "n1", "Address": "127.0.0.1", "Service": service })).await;
}

pub(super) async fn gateway(consul: &Consul, wait: &str, more: &str) -> Gateway {
    Gateway::start(&config(&format!(
        r#"
        discovery.consul = {{ address = "{}", wait = "{wait}" }}
        upstreams.web.consul.service = "web"
        routes.of-file = {{ match.path = "/file", upstream = "web" }}
        {more}
        "#,
        consul.url()
    )))
    .await
}

/// Two paths: a route of the file, and one of Consul's KV.
pub(super) fn load(gateway: &Gateway) -> Load {
    Load::start(gateway.address(), 2, |worker, _| Request::get(["/file", "/kv"][worker]))
}

pub(super) const OF_KV: &str = r#"{"match":{"path":"/kv"},"upstream":"web"}"#;

/// The server on which the agent's queries are blocked freezes. `leads`: it is the leader.
async fn the_server_that_is_asked_freezes(leads: bool) {
    if !long_tests() {
        return;
    }
    let Some(mut fleet) = Fleet::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    for origin in [&a, &b] {
        put(&fleet.client, origin).await;
    }
    fleet.client.kv_put("fleetgate/routes/of-kv", OF_KV).await;
    // An agent asks a server of its choice, chosen anew with each start.
    let asked = loop {
        fleet.client.kill();
        fleet.client.start_again().await;
        wait::until(SOON, "one server to be asked", || async { fleet.asked().is_some() }).await;
        let (asked, leader) = (fleet.asked().unwrap(), fleet.leading().await.unwrap());
        if (asked == leader) == leads {
            break asked;
        }
    };
    let gateway = gateway(&fleet.client, "60s", "").await;
    let load = load(&gateway);
    takes(&load, "b/v1").await;
    assert_eq!(fleet.asked(), Some(asked), "the server of the blocked queries");

    fleet.servers[asked].freeze();
    let other = &fleet.servers[(asked + 1) % 3];
    wait::until(SOON, "a leader that is not frozen", || async {
        fleet.leading_by(other).await.is_some_and(|leader| leader != asked)
    })
    .await;
    let leader = fleet.leading_by(other).await.unwrap();
    fleet.servers[leader].catalog_deregister(json!({ "Node": "n1", "ServiceID": "b" })).await;
    // How soon the agent gives a silent server up is its own affair, and on a busy machine takes it a while.
    wait::until(SOON, "the agent to ask another server", || async {
        let leading = tokio::time::timeout(Duration::from_secs(1), fleet.leading_by(&fleet.client)).await;
        leading.is_ok_and(|leading| leading == Some(leader))
    })
    .await;
    wait::until(Duration::from_secs(10), "b to be gone: blocked, the query would hang for 34 s", || async {
        let shown = gateway.endpoints("web").await;
        !shown.iter().any(|(address, _)| *address == b.address().to_string())
    })
    .await;
    stops(&load, "b/v1").await;

    fleet.servers[asked].thaw();
    for name in ["consul", "consul-kv"] {
        live(&gateway, name).await;
    }
    put(&fleet.client, &b).await;
    takes(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
}

/// Fault case 9, where the agent asks the leader.
#[tokio::test]
async fn a_removal_is_seen_soon_although_the_leader_that_is_asked_freezes() {
    the_server_that_is_asked_freezes(true).await;
}

/// Fault case 9, where the agent asks a follower.
#[tokio::test]
async fn a_removal_is_seen_soon_although_the_follower_that_is_asked_freezes() {
    the_server_that_is_asked_freezes(false).await;
}

/// Fault cases 10 (two of three servers are killed) and 11 (the gateway starts again while they are away).
#[tokio::test]
async fn a_lost_majority_costs_nothing_and_neither_does_a_restart_before_it() {
    if !long_tests() {
        return;
    }
    let Some(mut fleet) = Fleet::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    for origin in [&a, &b] {
        put(&fleet.client, origin).await;
    }
    fleet.client.kv_put("fleetgate/routes/of-kv", OF_KV).await;
    let mut gateway = gateway(&fleet.client, "1s", "discovery.state_dir = \"state\"").await;
    let first = load(&gateway);
    takes(&first, "b/v1").await;
    super::super::saved::saves(&gateway, "consul.json", &[&a.address().to_string(), &b.address().to_string()]).await;
    super::super::saved::saves(&gateway, "consul-kv.json", &["fleetgate/routes/of-kv"]).await;

    let leader = fleet.leading().await.unwrap();
    let lost = [leader, (leader + 1) % 3];
    for server in lost {
        fleet.servers[server].kill();
    }
    for name in ["consul", "consul-kv"] {
        // The one that is left answers, but knows no leader.
        fails(&gateway, name, "eader").await;
    }
    let verified = async |gateway: &Gateway| provider(gateway, "consul").await["verified_at"].clone();
    let last = verified(&gateway).await;
    first.more(500).await;
    assert_eq!(verified(&gateway).await, last, "what can't be confirmed is not called confirmed");
    first.stop().await.assert_all_ok();

    gateway = gateway.restart().await;
    let second = load(&gateway);
    for name in ["consul", "consul-kv"] {
        fails(&gateway, name, "eader").await;
        let shown = provider(&gateway, name).await;
        assert!(shown["held"].to_string().contains("saved by an earlier process"), "{shown}");
    }
    for who in ["a/v1", "b/v1"] {
        takes(&second, who).await;
    }

    for server in lost {
        fleet.servers[server].run();
    }
    for server in lost {
        fleet.servers[server].leader().await;
    }
    for name in ["consul", "consul-kv"] {
        live(&gateway, name).await;
    }
    put(&fleet.client, &c).await;
    takes(&second, "c/v1").await;
    wait::until_ok(SOON, "nothing to be held", || async {
        let shown = provider(&gateway, "consul").await;
        if shown["held"] == json!([]) { Ok(()) } else { Err(shown) }
    })
    .await;
    second.stop().await.assert_all_ok();
}
