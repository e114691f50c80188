//! Services in several datacenters, and instances by how far they are.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::{SOON, config, fails, live, stops, takes};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

async fn before(consul: &Consul, source: &str) -> Gateway {
    Gateway::start(&config(&format!(
        r#"
        discovery.consul.address = "{}"
        upstreams.web = {{ consul = {{ service = "web", {source} }}, balance = "round_robin" }}
        routes.all = {{ match.path = "/", upstream = "web" }}
        "#,
        consul.url()
    )))
    .await
}

/// Who answers, of many requests.
async fn serving(gateway: &Gateway) -> BTreeSet<String> {
    let mut serving = BTreeSet::new();
    for _ in 0..40 {
        serving.insert(gateway.get("/").await.served_by().to_owned());
    }
    serving
}

#[tokio::test]
async fn another_datacenter_takes_over_and_gives_back() {
    let Some((east, mut west)) = Consul::start_two_datacenters().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    east.register(&Service::new("web", "a", a.address()).checked("passing")).await;
    west.register(&Service::new("web", "b", b.address()).checked("passing")).await;
    let gateway = before(&east, r#"datacenters = ["east", "west"]"#).await;
    let states = |state: &str| {
        let mut states = [(a.address().to_string(), state.to_owned()), (b.address().to_string(), "healthy".to_owned())];
        states.sort();
        states
    };
    wait::until(SOON, "both", || async { gateway.endpoints("web").await == states("healthy") }).await;
    let shown = gateway.api("upstreams/web").await;
    assert_eq!(shown["source"], "consul:web?dc=east, consul:web?dc=west");
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    takes(&load, "a/v1").await;
    stops(&load, "b/v1").await;

    east.set_check("a", "critical").await;
    takes(&load, "b/v1").await;
    stops(&load, "a/v1").await;
    east.set_check("a", "passing").await;
    takes(&load, "a/v1").await;
    stops(&load, "b/v1").await;

    // Out of reach, it keeps all it had: also for when it is needed.
    west.kill();
    fails(&gateway, "consul", "").await;
    assert_eq!(gateway.endpoints("web").await, states("healthy"));
    load.more(200).await;
    east.set_check("a", "critical").await;
    takes(&load, "b/v1").await;
    stops(&load, "a/v1").await;
    assert_eq!(gateway.endpoints("web").await, states("unhealthy"));
    west.start_again().await;
    east.reaches("west").await;
    live(&gateway, "consul").await;
    east.set_check("a", "passing").await;
    takes(&load, "a/v1").await;
    stops(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
    // A start while it is away needs it as little.
    west.kill();
    let gateway = before(&east, r#"datacenters = ["east", "west"]"#).await;
    assert_eq!(gateway.until_status("/", 200).await.served_by(), "a/v1");
}

#[tokio::test]
async fn the_nearer_half_of_the_instances_goes_first() {
    let Some(consul) = Consul::start().await else { return };
    let mut origins = Vec::new();
    for name in ["far", "near", "farther", "nearer"] {
        origins.push(Origin::start(name).await);
    }
    let entry = |origin: &Origin, status: &str| {
        json!({
            "Node": format!("node-{}", origin.name), "Address": "127.0.0.1",
            "Service": { "ID": "web", "Service": "web", "Address": "127.0.0.1", "Port": origin.address().port() },
            "Check": { "Node": format!("node-{}", origin.name), "CheckID": "c", "Name": "c", "ServiceID": "web", "Status": status },
        })
    };
    for origin in &origins {
        consul.catalog_register(entry(origin, "passing")).await;
    }
    let place = async |node: &str, seconds: f64| {
        let vector = [seconds, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let coordinate = json!({ "Vec": vector, "Error": 1.5, "Adjustment": 0, "Height": 0.00001 });
        consul.put("/v1/coordinate/update", json!({ "Node": node, "Coord": coordinate })).await;
    };
    place(consul.node_name(), 0.0).await;
    for (origin, seconds) in origins.iter().zip([0.2, 0.01, 0.3, 0.005]) {
        place(&format!("node-{}", origin.name), seconds).await;
    }
    wait::until_ok(SOON, "Consul to know the distances", || async {
        let instances = consul.get("/v1/health/service/web?near=_agent").await;
        let names =
            instances.as_array().unwrap().iter().map(|entry| entry["Node"]["Node"].as_str().unwrap().to_owned());
        let names: Vec<String> = names.collect();
        if names == ["node-nearer", "node-near", "node-far", "node-farther"] { Ok(()) } else { Err(names) }
    })
    .await;
    let gateway = before(&consul, r#"near = "_agent""#).await;
    let of = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| format!("{name}/v1")).collect() };
    assert_eq!(serving(&gateway).await, of(&["near", "nearer"]));
    for origin in [&origins[1], &origins[3]] {
        consul.catalog_register(entry(origin, "critical")).await;
    }
    let away = |shown: &Value| {
        let endpoints = shown["endpoints"].as_array().unwrap();
        endpoints.iter().filter(|endpoint| endpoint["state"] == "unhealthy").count() == 2
    };
    wait::until(SOON, "the near ones to be away", || async { away(&gateway.api("upstreams/web").await) }).await;
    assert_eq!(serving(&gateway).await, of(&["far", "farther"]));
}
