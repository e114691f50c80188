//! Traffic to what a real Consul lists.

mod answers;
mod datacenters;
mod draining;
mod fleet;
mod many;
mod network;
mod ways;

use std::net::SocketAddr;

use serde_json::json;

use super::{live, rejects, stops, takes};
use crate::support::client::{Request, get};
use crate::support::consul::{Consul, Service};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

async fn before(consul: &Consul, more: &str) -> Gateway {
    before_with(consul, "", more).await
}

/// As [`before`], with these lines for the upstream.
async fn before_with(consul: &Consul, lines: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        [discovery.consul]
        address = "{}"
        [upstreams.web]
        consul = {{ service = "web" }}
        balance = "round_robin"
        {lines}
        [routes.all]
        match = {{ path = "/" }}
        upstream = "web"
        {more}
        "#,
        consul.url()
    ))
    .await
}

/// Fault cases 1 (deregister), 2 (register), 3 (deregister the last one: 503, not 404) and 4 (warning, critical,
/// maintenance of the instance and of the node).
#[tokio::test]
async fn instances_take_traffic_exactly_while_consul_says_so() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let of = |origin: &Origin| Service::new("web", &origin.name, origin.address()).weights(9, 1).checked("passing");
    consul.register(&of(&a)).await;
    consul.register(&of(&b)).await;
    let gateway = before(&consul, "").await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    takes(&load, "a/v1").await;
    takes(&load, "b/v1").await;

    consul.register(&of(&c)).await;
    takes(&load, "c/v1").await;
    consul.deregister("c").await;
    stops(&load, "c/v1").await;

    consul.set_check("a", "critical").await;
    stops(&load, "a/v1").await;
    consul.set_check("a", "passing").await;
    takes(&load, "a/v1").await;
    consul.set_check("a", "warning").await;
    // One in ten by its warning weight; half before.
    wait::until(super::SOON, "the share of the warning weight", || async {
        let before = load.report();
        load.more(200).await;
        let (more, after) = (load.report().served_by("a/v1") - before.served_by("a/v1"), load.report());
        let all = after.answers() - before.answers();
        more > 0 && more * 5 < all
    })
    .await;
    consul.set_check("a", "passing").await;

    consul.maintain("b", true).await;
    stops(&load, "b/v1").await;
    consul.maintain("b", false).await;
    takes(&load, "b/v1").await;
    consul.deregister("a").await;
    stops(&load, "a/v1").await;
    load.stop().await.assert_all_ok();

    consul.maintain_node(true).await;
    let nobody = gateway.until_status("/", 503).await;
    assert_eq!(nobody.header("x-fleetgate-flag"), Some("UH"));
    assert!(nobody.header("retry-after").is_some());
    assert_eq!(gateway.endpoints("web").await, [(b.address().to_string(), "maintenance".to_owned())]);
    consul.maintain_node(false).await;
    assert_eq!(gateway.until_status("/", 200).await.served_by(), "b/v1");
    consul.deregister("b").await;
    let nobody = gateway.until_status("/", 503).await;
    assert_eq!(nobody.header("x-fleetgate-flag"), Some("UH"), "a service without instances keeps its routes");
    consul.register(&of(&c)).await;
    assert_eq!(gateway.until_status("/", 200).await.served_by(), "c/v1");
}

/// Fault case 5 without a panic threshold: the servers lose sight of the nodes of all instances, and the pool is empty
/// for clients, which is told, and back with the nodes.
#[tokio::test]
async fn a_node_check_that_fails_everywhere_empties_the_pool_and_keeps_the_route() {
    let Some(consul) = Consul::start().await else { return };
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let set = async |status: &str| {
        for origin in &origins {
            let check = json!({ "Node": origin.name, "CheckID": "sight", "Name": "sight", "Status": status });
            let service = json!({ "ID": origin.name, "Service": "web", "Port": origin.address().port() });
            let node = json!({ "Node": origin.name, "Address": "127.0.0.1", "Service": service, "Check": check });
            consul.catalog_register(node).await;
        }
    };
    set("passing").await;
    let gateway = before(&consul, "").await;
    assert_eq!(gateway.until_status("/", 200).await.status, 200);
    set("critical").await;
    assert_eq!(gateway.until_status("/", 503).await.header("x-fleetgate-flag"), Some("UH"));
    let states: Vec<_> = gateway.endpoints("web").await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["unhealthy"; 3], "they are known, and why they are out is shown");
    set("passing").await;
    gateway.until_status("/", 200).await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    for who in ["a/v1", "b/v1", "c/v1"] {
        takes(&load, who).await;
    }
    load.stop().await.assert_all_ok();
}

/// Fault cases 5 and 4 with a panic threshold: the instances are used all the same, but for one in maintenance.
#[tokio::test]
async fn a_check_that_fails_everywhere_is_not_believed_below_the_panic_threshold() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    for origin in [&a, &b] {
        consul.register(&Service::new("web", &origin.name, origin.address()).checked("passing")).await;
    }
    let gateway = Gateway::start(&super::config(&format!(
        r#"
        discovery.consul.address = "{}"
        upstreams.web = {{ consul = {{ service = "web" }}, balance = "round_robin", panic_threshold = "50%" }}
        routes.all = {{ match = {{ path = "/" }}, upstream = "web" }}
        "#,
        consul.url()
    )))
    .await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    takes(&load, "b/v1").await;
    let panics = async |wanted: bool| {
        wait::until_ok(super::SOON, &format!("panic to be {wanted}"), || async {
            let upstream = gateway.api("upstreams/web").await;
            if upstream["panic"] == wanted { Ok(()) } else { Err(upstream) }
        })
        .await;
    };
    consul.set_check("a", "critical").await;
    stops(&load, "a/v1").await;
    consul.set_check("b", "critical").await;
    panics(true).await;
    takes(&load, "a/v1").await;
    takes(&load, "b/v1").await;
    let explained = gateway.api("explain?method=GET&url=http://x/").await.to_string();
    assert!(explained.contains("used all the same: less than 50% are well"), "{explained}");
    consul.maintain("a", true).await;
    stops(&load, "a/v1").await;
    consul.maintain("a", false).await;
    takes(&load, "a/v1").await;
    consul.set_check("b", "passing").await;
    panics(false).await;
    stops(&load, "a/v1").await;
    load.stop().await.assert_all_ok();
}

/// Fault case 28 as far as traffic shows it: an IPv6 address, a host name, no address but the node's, no port.
/// How the rest of it is read is tested at the provider.
#[tokio::test]
async fn unusual_registrations_take_traffic_too() {
    let Some(consul) = Consul::start().await else { return };
    let six = Origin::start_at("[::1]:0".parse().unwrap(), "six", "v1").await;
    let named = Origin::start("named").await;
    let of_node = Origin::start_at(SocketAddr::new(consul.address, 0), "of-node", "v1").await;
    consul.register(&Service::new("web", "six", six.address())).await;
    consul.register(&Service::new("web", "named", named.address()).field("Address", "localhost".into())).await;
    consul.register(&Service::new("web", "of-node", of_node.address()).field("Address", "".into())).await;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    consul.register(&Service::new("web", "no-port", nowhere)).await;
    let gateway = before(&consul, "retry = { attempts = 3 }").await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    for who in ["six/v1", "named/v1", "of-node/v1"] {
        takes(&load, who).await;
    }
    rejects(&gateway, "consul", &["no-port", "it has no port"]).await;
    load.stop().await.assert_all_ok();
}

/// Fault case 27: keys deleted one by one, until there is nothing below the prefix and Consul answers 404.
#[tokio::test]
async fn keys_that_are_deleted_one_by_one_go_one_by_one() {
    let Some(consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    consul.register(&Service::new("web", "a", a.address())).await;
    let names = ["one", "two", "three"];
    let put = async |name: &str| {
        let route = format!(r#"{{"match":{{"path":"/{name}"}},"upstream":"web"}}"#);
        consul.kv_put(&format!("fleetgate/routes/{name}"), &route).await;
    };
    for name in names {
        put(name).await;
    }
    let gateway = Gateway::start(&super::config(&format!(
        r#"
        discovery.consul.address = "{}"
        upstreams.web.consul.service = "web"
        routes.of-file = {{ match.path = "/file", upstream = "web" }}
        "#,
        consul.url()
    )))
    .await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/file"));
    for (gone, name) in names.into_iter().enumerate() {
        consul.kv_delete(&format!("fleetgate/routes/{name}")).await;
        gateway.until_status(&format!("/{name}"), 404).await;
        for left in &names[gone + 1..] {
            assert_eq!(gateway.get(&format!("/{left}")).await.status, 200, "{left} without {name}");
        }
    }
    live(&gateway, "consul-kv").await;
    put("two").await;
    gateway.until_status("/two", 200).await;
    // Consul's `null`, as a pipe into `consul kv put` leaves it when its first half fails: a mistake, and no deletion.
    consul.kv_put("fleetgate/routes/two", "").await;
    wait::until(super::SOON, "the empty value is told", || async {
        super::provider(&gateway, "consul-kv").await["rejected"].to_string().contains("empty value: delete the key")
    })
    .await;
    assert_eq!(gateway.get("/two").await.status, 200);
    consul.kv_delete("fleetgate/routes/two").await;
    gateway.until_status("/two", 404).await;
    load.more(50).await;
    load.stop().await.assert_all_ok();
}

/// Fault case 27 as far as bad values go: documents in the KV store, with traffic.
#[tokio::test]
async fn a_route_in_kv_works_changes_and_is_not_broken_by_a_bad_edit() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&Service::new("web", "a", a.address())).await;
    let gateway = before(&consul, "").await;
    consul.kv_put("fleetgate/upstreams/kv.toml", &format!("endpoints = [\"{}\"]", b.address())).await;
    consul.kv_put("fleetgate/routes/kv", r#"{"match":{"path":"/kv"},"upstream":"kv"}"#).await;
    let address = gateway.address();
    let by = |path: &'static str, who: &'static str| {
        wait::until_ok(super::SOON, who, move || async move {
            let answer = get(address, path).await;
            if answer.served_by() == who { Ok(()) } else { Err(answer) }
        })
    };
    by("/kv", "b/v1").await;
    let load = Load::start(address, 2, |_, _| Request::get("/kv"));

    for (bad, words) in [
        ("{ no JSON", &["fleetgate/routes/kv:1:"][..]),
        (r#"{"match":{"pfad":"/kv"},"upstream":"kv"}"#, &["fleetgate/routes/kv", "pfad", "path"]),
    ] {
        consul.kv_put("fleetgate/routes/kv", bad).await;
        rejects(&gateway, "consul-kv", words).await;
        load.more(50).await;
    }
    // A bad document beside it takes nothing away either.
    consul.kv_put("fleetgate/upstreams/other", r#"{"endpoints":["nonsense"]}"#).await;
    rejects(&gateway, "consul-kv", &["fleetgate/upstreams/other"]).await;
    load.more(50).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(report.answers(), report.served_by("b/v1"), "the last good form serves");

    consul.kv_put("fleetgate/routes/kv", r#"{"match":{"path":"/kv2"},"upstream":"kv"}"#).await;
    by("/kv2", "b/v1").await;
    by("/kv", "a/v1").await;
    consul.kv_delete("fleetgate/routes/kv").await;
    by("/kv2", "a/v1").await;
}
