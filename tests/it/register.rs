//! The gateway in the registries: there while it is ready, gone before it stops serving, back after a registry
//! forgot it; and `fleetgate register`, which does the same for a service.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Request, get};
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

mod service;

const SOON: Duration = Duration::from_secs(40);

/// The keys below a prefix, each with its value and lease.
async fn keys(etcd: &Etcd, prefix: &str) -> Vec<(String, Value, i64)> {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let range = json!({ "key": base64.encode(prefix), "range_end": base64.encode(end) });
    let answer = etcd.call("kv/range", range).await;
    let text = |value: &Value| String::from_utf8(base64.decode(value.as_str().unwrap()).unwrap()).unwrap();
    let key = |key: &Value| {
        let lease = key["lease"].as_str().unwrap_or("0").parse().unwrap();
        (text(&key["key"]), serde_json::from_str(&text(&key["value"])).unwrap(), lease)
    };
    answer["kvs"].as_array().map(|all| all.iter().map(key).collect()).unwrap_or_default()
}

/// The instances of `fleetgate` in Consul's catalog with the state of their check.
async fn gateways(consul: &Consul) -> Vec<(Value, String)> {
    let all = consul.instances("fleetgate").await;
    let state = |entry: &Value| {
        let checks = entry["Checks"].as_array().cloned().unwrap_or_default();
        let own = checks.iter().find(|check| check["ServiceID"] != "").expect("a check");
        own["Status"].as_str().unwrap_or_default().to_owned()
    };
    all.iter().map(|entry| (entry["Service"].clone(), state(entry))).collect()
}

async fn registered(consul: &Consul, status: &str) {
    wait::until_ok(SOON, &format!("one gateway, {status}"), || async {
        match gateways(consul).await.as_slice() {
            [(_, state)] if state == status => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// Waits until the gateway says this of its own registration, with this in the error, if any.
async fn says(gateway: &Gateway, provider: &str, place: &str, registered: bool, error: Option<&str>) {
    wait::until_ok(SOON, &format!("{place} in {provider}: {registered}, {error:?}"), || async {
        let list = gateway.api("providers").await;
        let found = list["items"].as_array().and_then(|items| items.iter().find(|item| item["name"] == provider));
        let told = found.map(|it| it["registration"].clone()).unwrap_or_default();
        let as_told = match (error, told["error"].as_str()) {
            (None, None) => true,
            (Some(part), Some(text)) => text.contains(part),
            _ => false,
        };
        let metric = gateway.metric("fleetgate_discovery_registered", &[("provider", provider)]).await;
        let fits = as_told && told["registered"] == registered && metric == Some(f64::from(u8::from(registered)));
        if fits && told["place"] == place { Ok(()) } else { Err(format!("{told} {metric:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_gateway_is_in_consul_while_it_should_get_traffic() {
    let (Some(mut consul), Some(mut etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let origin = Origin::start("app").await;
    etcd.terminate().await;
    let mut gateway = Setup::new(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        runtime.shutdown_delay = "2s"
        [discovery.consul]
        address = "{}"
        register = {{ tags = ["edge"], id = "gw-1" }}
        [discovery.etcd]
        endpoints = ["{}"]
        [upstreams.app]
        endpoints = ["{}"]
        [routes.app]
        match = {{ path = "/" }}
        upstream = "app"
        "#,
        consul.url(),
        etcd.url(),
        origin.address()
    ))
    .launch()
    .await;
    // It waits for etcd, and says so.
    registered(&consul, "critical").await;
    // The catalog learns of a text alone much later; the agent knows it.
    wait::until_ok(SOON, "the reason", || async {
        let said = consul.get("/v1/agent/checks").await["service:fleetgate-gw-1"]["Output"].to_string();
        if said.contains("etcd has not been read yet") { Ok(()) } else { Err(said) }
    })
    .await;
    etcd.start_again().await;
    gateway.wait_ready().await;
    registered(&consul, "passing").await;
    says(&gateway, "consul", "fleetgate-gw-1", true, None).await;
    assert!(gateway.metric("fleetgate_discovery_registered", &[("provider", "etcd")]).await.is_none());
    let (service, _) = gateways(&consul).await.remove(0);
    assert_eq!(service["ID"], "fleetgate-gw-1");
    assert_eq!((&service["Address"], &service["Tags"]), (&json!("127.0.0.1"), &json!(["edge"])));
    assert_eq!(service["Port"], gateway.address().port());

    // An agent that starts again with nothing has forgotten it, and is told.
    consul.kill();
    assert_eq!(gateway.get("/").await.status, 200);
    says(&gateway, "consul", "fleetgate-gw-1", false, Some("refused")).await;
    consul.start_empty().await;
    registered(&consul, "passing").await;
    says(&gateway, "consul", "fleetgate-gw-1", true, None).await;

    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    load.more(50).await;
    gateway.process().signal("TERM");
    wait::until(SOON, "it to have left", || async { gateways(&consul).await.is_empty() }).await;
    // Gone from the registry, and still serving.
    assert_eq!(get(gateway.address(), "/").await.status, 200);
    load.stop().await.assert_all_ok();
    assert!(gateway.process().end(SOON).await.success());
}

/// The lease of the only gateway's key, which must be as it should be.
async fn own_key(etcd: &Etcd, address: SocketAddr) -> Result<i64, String> {
    match keys(etcd, "/fleetgate/gateways/").await.as_slice() {
        [(key, value, lease)] => {
            assert_eq!(key, "/fleetgate/gateways/gw-1");
            assert_eq!((&value["name"], &value["address"]), (&json!("gw-1"), &json!(address.to_string())));
            assert!(value["version"].is_string() && *lease != 0, "{value} {lease}");
            Ok(*lease)
        }
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn a_gateway_is_in_etcd_while_it_is_ready() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let mut gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        runtime.shutdown_delay = "2s"
        [discovery.etcd]
        endpoints = ["{}"]
        register = {{ id = "gw-1", ttl = "10s" }}
        "#,
        etcd.url()
    ))
    .await;
    let address = gateway.address();
    let lease = wait::until_ok(SOON, "its key", || own_key(&etcd, address)).await;
    says(&gateway, "etcd", "/fleetgate/gateways/gw-1", true, None).await;
    // A lease that is revoked, and a key that is deleted, come back.
    etcd.revoke(lease).await;
    let other = wait::until_ok(SOON, "its key again", || own_key(&etcd, address)).await;
    assert_ne!(lease, other);
    etcd.delete("/fleetgate/gateways/gw-1").await;
    wait::until_ok(SOON, "its key again", || own_key(&etcd, address)).await;
    etcd.freeze();
    says(&gateway, "etcd", "/fleetgate/gateways/gw-1", false, Some("no answer")).await;
    etcd.thaw();
    says(&gateway, "etcd", "/fleetgate/gateways/gw-1", true, None).await;
    etcd.kill();
    etcd.start_empty().await;
    wait::until_ok(SOON, "its key in an etcd that lost its data", || own_key(&etcd, address)).await;

    gateway.process().signal("TERM");
    wait::until(SOON, "it to have left", || async { keys(&etcd, "/fleetgate/gateways/").await.is_empty() }).await;
    wait::until(SOON, "a word about it", || async { gateway.stderr().contains("left the registry") }).await;
    assert_eq!(get(address, "/").await.status, 404, "it serves on");
    assert!(gateway.process().end(SOON).await.success());
}

#[tokio::test]
async fn a_registry_that_is_away_hinders_neither_start_nor_stop() {
    let Some(mut consul) = Consul::start().await else { return };
    consul.kill();
    let mut gateway = Setup::new(&format!(
        "listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\n\
         runtime.ready_timeout = \"1s\"\ndiscovery.optional = [\"consul-kv\"]\n[discovery.consul]\naddress = \"{}\"\nregister = {{}}\n",
        consul.url()
    ))
    .start()
    .await;
    assert_eq!(gateway.get("/").await.status, 404);
    wait::until(SOON, "a word", || async { gateway.stderr().contains("cannot register") }).await;
    assert!(gateway.terminate().await.success());
}
