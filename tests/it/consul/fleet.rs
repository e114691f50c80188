//! Three Consul servers and a client agent: leaders and majorities come and go.

use std::time::Duration;

use serde_json::json;

use super::{Running, SOON, failure, settings};
use crate::support::consul::{Consul, Fleet};
use crate::support::wait;

fn instance(id: &str) -> serde_json::Value {
    json!({ "Node": "n1", "Address": "10.0.0.1", "Service": { "ID": id, "Service": "web", "Port": 80 } })
}

async fn removed(server: &Consul, id: &str) {
    server.catalog_deregister(json!({ "Node": "n1", "ServiceID": id })).await;
}

#[tokio::test]
async fn a_frozen_leader_and_a_lost_majority_lose_nothing() {
    let Some(mut fleet) = Fleet::start().await else { return };
    for id in ["a", "b", "c"] {
        fleet.client.catalog_register(instance(id)).await;
    }
    let running = Running::start(&settings(&fleet.client.url()), &["web"]);
    running.shows("web", "a b c").await;

    let frozen = fleet.leading().await.unwrap();
    fleet.servers[frozen].freeze();
    wait::until(SOON * 2, "another leader", || async { fleet.leading().await.is_some_and(|now| now != frozen) }).await;
    assert_eq!(running.shown("web"), "a b c");
    let leading = fleet.leading().await.unwrap();
    removed(&fleet.servers[leading], "c").await;
    // Blocked on the frozen server, the query would return after 35 s; `wait` is 60 s.
    running.shows("web", "a b").await;
    fleet.servers[frozen].thaw();
    fleet.servers[frozen].leader().await;

    let watch = running.watch("web");
    for server in 0..3 {
        if server != frozen {
            fleet.servers[server].kill();
        }
    }
    wait::until(Duration::from_secs(60), "the majority to be missed", || async { fleet.leading().await.is_none() })
        .await;
    wait::always(Duration::from_secs(3), "the instances stay", || async { running.shown("web") == "a b" }).await;
    for server in 0..3 {
        if server != frozen {
            fleet.servers[server].run();
        }
    }
    for server in &mut fleet.servers {
        server.leader().await;
    }
    fleet.client.leader().await;
    fleet.client.catalog_register(instance("d")).await;
    running.shows("web", "a b d").await;
    wait::until(SOON * 2, "the watch to live", || async { failure(&watch).is_none() }).await;
    running.stop().await;
}
