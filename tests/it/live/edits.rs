//! Edits that point an upstream or a route at another list of endpoints, with traffic flowing.

use super::{SOON, live, stops, takes};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait;

/// Fault case 58: while the new list is being read the old one serves, and who is in no list any more gets nothing. A
/// removed pool goes by that edit alone, and so does its watch.
#[tokio::test]
async fn an_edit_to_another_list_fails_no_request() {
    let (Some(consul), Some(etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    etcd.put("/fleetgate/endpoints/svc/a", &a.address().to_string()).await;
    etcd.put("/elsewhere/b", &b.address().to_string()).await;
    consul.register(&Service::new("web", "c", c.address())).await;
    // Far away, so that there is something to wait for.
    let (to_etcd, to_consul) = (Proxy::start(etcd.client_address()).await, Proxy::start(consul.http_address()).await);
    let config = |items: &str| {
        format!(
            r#"
            listeners.web = {{ address = "127.0.0.1:0" }}
            admin.address = "127.0.0.1:0"
            discovery.state_dir = "off"
            discovery.etcd.endpoints = ["{}"]
            discovery.consul.address = "{}"
            {items}
            "#,
            to_etcd.url(),
            to_consul.url()
        )
    };
    let with = |source: &str| {
        config(&format!(
            "upstreams.svc = {{ {source} }}\nroutes.svc = {{ match = {{ path = \"/\" }}, upstream = \"svc\" }}"
        ))
    };
    let (plain, elsewhere) = ("etcd = {}", r#"etcd = { prefix = "/elsewhere/" }"#);
    let service = r#"consul = { service = "web" }"#;
    let gateway = Gateway::start(&with(plain)).await;
    etcd.put("/fleetgate/upstreams/stays", r#"{"etcd":{"prefix":"/fleetgate/endpoints/svc/"}}"#).await;
    etcd.put("/fleetgate/routes/stays", r#"{"match":{"path":"/stays"},"upstream":"stays"}"#).await;
    gateway.until_status("/stays", 200).await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    let stays = Load::start(gateway.address(), 1, |_, _| Request::get("/stays"));
    takes(&load, "a/v1").await;
    for proxy in [&to_etcd, &to_consul] {
        proxy.set(Mode::Delay(std::time::Duration::from_millis(200)));
    }
    let edits = [
        (elsewhere, "b/v1"),
        (service, "c/v1"),
        (plain, "a/v1"),
        (service, "c/v1"),
        (elsewhere, "b/v1"),
        (plain, "a/v1"),
    ];
    let mut before = "a/v1";
    for (source, who) in edits {
        gateway.write_config(&with(source));
        takes(&load, who).await;
        stops(&load, before).await;
        before = who;
    }

    // The same by documents: an upstream that is edited, and a route that goes to an upstream as new as itself.
    etcd.put("/fleetgate/upstreams/stays", r#"{"etcd":{"prefix":"/elsewhere/"}}"#).await;
    takes(&stays, "b/v1").await;
    etcd.put("/fleetgate/upstreams/new", r#"{"consul":{"service":"web"}}"#).await;
    etcd.put("/fleetgate/routes/stays", r#"{"match":{"path":"/stays"},"upstream":"new"}"#).await;
    takes(&stays, "c/v1").await;
    stops(&stays, "b/v1").await;
    load.stop().await.assert_all_ok();

    gateway.write_config(&config(""));
    gateway.until_status("/", 404).await;
    etcd.delete("/fleetgate/upstreams/stays").await;
    wait::until_ok(SOON, "the watches of lists that nobody reads to end", || async {
        let watches = super::provider(&gateway, "etcd").await["watches"].to_string();
        if watches.contains("endpoints/svc") || watches.contains("elsewhere") { Err(watches) } else { Ok(()) }
    })
    .await;
    let upstreams = gateway.api("upstreams").await;
    assert_eq!(upstreams["items"].as_array().unwrap().len(), 1, "{upstreams}");
    stays.more(50).await;
    for name in ["etcd", "consul", "consul-kv"] {
        live(&gateway, name).await;
    }
    stays.stop().await.assert_all_ok();
}

/// All documents of a registry are deleted by one command: they go, unlike those of files, and the log says which.
#[tokio::test]
async fn documents_that_are_deleted_at_once_are_named_in_the_log() {
    let (Some(consul), Some(etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let a = Origin::start("a").await;
    let upstream = format!(r#"{{"endpoints":["{}"]}}"#, a.address());
    let route = |name: &str| format!(r#"{{"match":{{"path":"/{name}"}},"upstream":"app"}}"#);
    consul.kv_put("fleetgate/upstreams/app", &upstream).await;
    for name in ["a", "b"] {
        consul.kv_put(&format!("fleetgate/routes/{name}"), &route(name)).await;
    }
    for name in ["c", "d"] {
        etcd.put(&format!("/fleetgate/routes/{name}"), &route(name)).await;
    }
    let gateway = Gateway::start(&format!(
        "listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\n\
         discovery.consul.address = \"{}\"\ndiscovery.etcd.endpoints = [\"{}\"]",
        consul.url(),
        etcd.url()
    ))
    .await;
    for path in ["/a", "/b", "/c", "/d"] {
        gateway.until_status(path, 200).await;
    }
    let logged = async |text: &str| {
        wait::until_ok(SOON, text, || async {
            let log = gateway.stderr().text();
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
        .await;
    };
    etcd.delete("/fleetgate/routes/c").await;
    logged("a document is gone from etcd: route c").await;
    gateway.until_status("/c", 404).await;
    consul.kv_delete_tree("fleetgate/").await;
    logged("3 documents are gone from consul-kv: routes a, b, upstream app; it has none left").await;
    for path in ["/a", "/b"] {
        gateway.until_status(path, 404).await;
    }
    assert_eq!(gateway.get("/d").await.served_by(), "a/v1", "what a route still needs is retained");
}
