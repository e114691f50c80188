//! Registrations that make no endpoint: they are an answer, are told with what to do, and keep nobody from serving.

use serde_json::{Value, json};

use super::{config, live, provider, rejects};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::wait;

async fn gateway(consul: &Consul, more: &str, documents: &str) -> Gateway {
    let consul = format!("[discovery.consul]\naddress = \"{}\"\nwait = \"5s\"\n{more}", consul.url());
    Gateway::start(&config(&format!("discovery.state_dir = \"off\"\n{consul}\n{documents}"))).await
}

const BATCH: &str = r#"
    [upstreams.batch]
    consul.service = "batch"
    [routes.batch]
    match = { path = "/batch" }
    upstream = "batch"
"#;

#[tokio::test]
async fn a_service_without_a_usable_instance_keeps_no_gateway_unready() {
    let Some(consul) = Consul::start().await else { return };
    let batch = Origin::start("batch").await;
    let register = async |id: &str, address: &str, port: u16| {
        let service = json!({ "Name": "batch", "ID": id, "Address": address, "Port": port });
        consul.put("/v1/agent/service/register", service).await;
    };
    register("no-port", "", 0).await;
    for (id, address) in [
        ("url", "http://127.0.0.1"),
        ("port", "127.0.0.1:80"),
        ("blank", "127.0.0.1 "),
        ("zone", "fe80::1%eth0"),
        ("comma", "10.0.0.1,10.0.0.2"),
    ] {
        register(id, address, 80).await;
    }
    // It is ready, which `start` waits for.
    let gateway = gateway(&consul, "", BATCH).await;
    live(&gateway, "consul").await;
    let answer = gateway.get("/batch").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("UH")));
    let node = consul.node_name();
    for (id, words) in [
        ("no-port", "it has no port: register the service with one"),
        ("url", "is a URL: register the host alone"),
        ("port", "has a port in it: register the host alone"),
        ("blank", "begins or ends with a blank: register it without"),
        ("zone", "has a zone"),
        ("comma", "is neither an IP address nor a host name: register one of these"),
    ] {
        rejects(&gateway, "consul", &[&format!("{node}/{id}"), words]).await;
    }
    let misleads = |text: &str| text.contains("node:read") || text.contains("has not answered yet");
    let told = provider(&gateway, "consul").await.to_string() + &gateway.stderr().text();
    assert!(!misleads(&told), "{told}");

    // One that can be used stands beside the others, and loses its port.
    register("good", "127.0.0.1", batch.address().port()).await;
    gateway.until_status("/batch", 200).await;
    for id in ["url", "port", "blank", "zone", "comma", "no-port"] {
        consul.deregister(id).await;
    }
    wait::until(super::SOON, "the others to go", || async {
        provider(&gateway, "consul").await["rejected"] == json!([])
    })
    .await;
    register("good", "127.0.0.1", 0).await;
    gateway.until_status("/batch", 503).await;
    rejects(&gateway, "consul", &[&format!("{node}/good"), "it has no port: register the service with one"]).await;
    live(&gateway, "consul").await;
    let told = provider(&gateway, "consul").await;
    assert_eq!(told["held"], json!([]), "{told}");
    let text = told.to_string() + &gateway.stderr().text();
    assert!(!misleads(&text), "{text}");
    register("good", "127.0.0.1", batch.address().port()).await;
    gateway.until_status("/batch", 200).await;
}

#[tokio::test]
async fn a_service_that_asks_for_a_route_and_cannot_be_used_delays_no_other_route() {
    let Some(consul) = Consul::start().await else { return };
    let good = Origin::start("good").await;
    consul.register(&Service::new("good", "g", good.address()).tags(&["fleetgate.path=/good"])).await;
    let bad = Service::new("bad", "b", good.address()).field("Port", json!(0)).tags(&["fleetgate.path=/bad"]);
    consul.register(&bad).await;
    let before = std::time::Instant::now();
    let gateway = gateway(&consul, "tags = true\ntag_networks = [\"127.0.0.0/8\"]", "").await;
    gateway.until_status("/good", 200).await;
    rejects(&gateway, "consul", &["/b", "it has no port"]).await;
    // What is not read is waited for: 5 s. Nothing else takes a time that could be told here.
    let told = gateway.stderr().text();
    assert!(!told.contains("node:read"), "after {:?}: {told}", before.elapsed());
}

/// A proxy of Consul's mesh has the tags of its service, which Consul gives it itself; and gateways of the mesh have their
/// own. `api-gateway` is newer than the Consul that is asked here: its catalog takes every kind.
#[tokio::test]
async fn proxies_and_gateways_of_the_mesh_make_no_routes() {
    let Some(consul) = Consul::start().await else { return };
    let (dash, zzz) = (Origin::start("dash").await, Origin::start("zzz").await);
    let tags = ["urlprefix-dash.test/", "fleetgate.path=/dash"];
    let sidecar = json!({ "SidecarService": { "Port": 9 } });
    consul.register(&Service::new("dash", "dash", dash.address()).tags(&tags).field("Connect", sidecar)).await;
    // Their names come before the service's.
    let proxy = json!({ "DestinationServiceName": "zzz" });
    let tags = ["fleetgate.path=/zzz"];
    let mesh = |name: &str, kind: &str| {
        Service::new(name, name, ([127, 0, 0, 1], 9).into()).tags(&tags).field("Kind", json!(kind))
    };
    consul.register(&mesh("aaa-proxy", "connect-proxy").field("Proxy", proxy)).await;
    for kind in ["mesh-gateway", "ingress-gateway", "terminating-gateway"] {
        consul.register(&mesh(&format!("aaa-{kind}"), kind)).await;
    }
    let api_gateway = json!({ "Node": "other", "Address": "127.0.0.1", "Service":
        { "ID": "aaa-api", "Service": "aaa-api", "Port": 9, "Kind": "api-gateway", "Tags": tags } });
    consul.catalog_register(api_gateway).await;
    consul.register(&Service::new("zzz", "zzz", zzz.address()).tags(&tags)).await;
    let gateway = gateway(
        &consul,
        "tags = true\nfabio_tags = true\ntag_networks = [\"127.0.0.0/8\"]",
        r#"
        [upstreams.proxy]
        consul.service = "dash-sidecar-proxy"
        [routes.proxy]
        match = { path = "/proxy" }
        upstream = "proxy"
        "#,
    )
    .await;
    gateway.until_status("/zzz", 200).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/zzz").await.served_by(), "zzz/v1");
        assert_eq!(gateway.get("/dash").await.served_by(), "dash/v1");
        let answer = Request::get("/x").host("dash.test").send(gateway.address()).await;
        assert_eq!(answer.served_by(), "dash/v1");
    }
    let routes = gateway.api("routes").await;
    let routes: Vec<&Value> = routes["items"].as_array().unwrap().iter().map(|route| &route["name"]).collect();
    let of_mesh = |name: &&&Value| name.as_str().is_some_and(|name| name.contains("proxy") || name.contains("aaa"));
    assert_eq!(routes.iter().filter(of_mesh).collect::<Vec<_>>(), [&"proxy"], "{routes:?}");
    // Named by an upstream it is what an operator asked for.
    assert_eq!(gateway.endpoints("proxy").await.len(), 1);
    let status = gateway.api("status").await;
    for kind in ["connect-proxy", "mesh-gateway", "ingress-gateway", "terminating-gateway", "api-gateway"] {
        let told = format!("instances of kind `{kind}` belong to Consul's mesh");
        assert!(status["remarks"].to_string().contains(&told), "{status}");
    }
    assert_eq!(provider(&gateway, "consul-tags").await["rejected"], json!([]));
}
