//! A network that swallows what an agent sends to its servers, with traffic flowing.

use super::super::{fails, live, stops, takes};
use super::fleet::{OF_KV, gateway, load, put};
use crate::support::consul::Fleet;
use crate::support::network::{Swallowed, is_own};
use crate::support::origin::Origin;
use crate::support::{long_tests, registry};

/// Fault case 12. The agent would answer a blocked query after some forty seconds; our own patience ends it.
#[tokio::test]
async fn an_agent_cut_off_from_its_servers_fails_nothing() {
    if !long_tests() || registry::binary("consul").is_none() {
        return;
    }
    if !is_own("live::consul::network::an_agent_cut_off_from_its_servers_fails_nothing").await {
        return;
    }
    let Some(fleet) = Fleet::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    for origin in [&a, &b] {
        put(&fleet.client, origin).await;
    }
    fleet.client.kv_put("fleetgate/routes/of-kv", OF_KV).await;
    let gateway = gateway(&fleet.client, "1s", "").await;
    let load = load(&gateway);
    takes(&load, "b/v1").await;

    let rules: Vec<_> =
        fleet.servers.iter().map(|server| Swallowed::start(fleet.client.address, server.rpc_address())).collect();
    for name in ["consul", "consul-kv"] {
        fails(&gateway, name, "no complete answer within").await;
    }
    // What happens meanwhile is seen afterwards.
    let server = &fleet.servers[0];
    server.catalog_deregister(serde_json::json!({ "Node": "n1", "ServiceID": "b" })).await;
    put(server, &c).await;
    load.more(500).await;
    assert_eq!(gateway.endpoints("web").await.len(), 2, "{:?}", gateway.endpoints("web").await);
    for rule in rules {
        rule.stop();
    }
    takes(&load, "c/v1").await;
    stops(&load, "b/v1").await;
    for name in ["consul", "consul-kv"] {
        live(&gateway, name).await;
    }
    load.stop().await.assert_all_ok();
}
