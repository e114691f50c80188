//! Registries that die, freeze, restart and refuse, with traffic flowing: no request fails, no route is lost.

use super::{SOON, fails, live, stops, takes};
use crate::support::client::{Request, get};
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::Setup;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

const READ: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                    key_prefix \"\" { policy = \"read\" }";

/// Fault cases 6 (a frozen Consul agent), 7 (killed, started again with its data) and 17 (its token deleted, and a
/// new one in the file), and the same of etcd, all while every route of every provider has traffic.
///
/// With traffic a lost or frozen member of three (36, 38) would show nothing else: the provider's own tests have them.
#[tokio::test]
async fn no_fault_of_a_registry_fails_a_request_or_loses_a_route() {
    let (Some(mut consul), Some(mut etcd)) = (Consul::start_with_acl().await, Etcd::start().await) else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let (d, e) = (Origin::start("d").await, Origin::start("e").await);
    consul.policy("read", READ).await;
    let (old, new) = (consul.token(&["read"]).await, consul.token(&["read"]).await);
    // Checks that the agent makes itself: it forgets their results as it starts again.
    let checked = |origin: &Origin| {
        let check = serde_json::json!({ "HTTP": format!("http://{}/healthz", origin.address()), "Interval": "10s",
            "Timeout": "1s", "Status": "passing" });
        Service::new("web", &origin.name, origin.address()).field("Check", check)
    };
    for origin in [&a, &b] {
        consul.register(&checked(origin)).await;
    }
    consul.kv_put("fleetgate/routes/of-consul", r#"{"match":{"path":"/consul"},"upstream":"web"}"#).await;
    let lease = etcd.kept_lease(60).await;
    etcd.put_leased("/fleetgate/endpoints/own/d", &d.address().to_string(), lease.id).await;
    etcd.put("/fleetgate/upstreams/own", r#"{"etcd":{}}"#).await;
    etcd.put("/fleetgate/routes/of-etcd", r#"{"match":{"path":"/etcd"},"upstream":"own"}"#).await;
    let gateway = Setup::new(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        [discovery.consul]
        address = "{}"
        token_file = "token"
        wait = "1s"
        [discovery.etcd]
        endpoints = ["{}"]
        [upstreams.web]
        consul = {{ service = "web" }}
        [routes.of-file]
        match = {{ path = "/file" }}
        upstream = "web"
        "#,
        consul.url(),
        etcd.url()
    ))
    .file("token", &old.secret)
    .start()
    .await;
    let paths = ["/file", "/consul", "/etcd"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let load = Load::start(gateway.address(), 3, move |worker, _| Request::get(paths[worker]));

    // Killed, and started again with their data.
    consul.kill();
    etcd.kill();
    for provider in ["consul", "consul-kv", "etcd"] {
        fails(&gateway, provider, "").await;
    }
    load.more(200).await;
    consul.start_again().await;
    etcd.start_again().await;
    // Only what is live again tells of these.
    consul.register(&Service::new("web", "c", c.address())).await;
    etcd.put("/fleetgate/endpoints/own/e", &e.address().to_string()).await;
    takes(&load, "c/v1").await;
    takes(&load, "e/v1").await;
    consul.deregister("c").await;
    stops(&load, "c/v1").await;
    for who in ["a/v1", "b/v1", "d/v1"] {
        takes(&load, who).await;
    }

    // Frozen: connections stay, nothing answers, until our own patience ends.
    consul.freeze();
    etcd.freeze();
    for provider in ["consul", "consul-kv"] {
        fails(&gateway, provider, "no complete answer").await;
    }
    load.more(200).await;
    consul.thaw();
    etcd.thaw();
    etcd.delete("/fleetgate/endpoints/own/e").await;
    stops(&load, "e/v1").await;
    for provider in ["consul", "consul-kv", "etcd"] {
        live(&gateway, provider).await;
    }

    // The token deleted, and a new one written.
    consul.delete_token(&old).await;
    for provider in ["consul", "consul-kv"] {
        fails(&gateway, provider, "403").await;
    }
    consul.register(&Service::new("web", "c", c.address())).await;
    load.more(200).await;
    assert_eq!(gateway.endpoints("web").await.len(), 2, "nothing is read with a deleted token, and nothing is lost");
    gateway.write("token", &new.secret);
    takes(&load, "c/v1").await;
    for provider in ["consul", "consul-kv"] {
        live(&gateway, provider).await;
    }

    load.stop().await.assert_all_ok();
    let log = gateway.stderr().text();
    assert!(!log.contains(&old.secret) && !log.contains(&new.secret), "secrets stay out of the log");
}

/// Fault case 56: registries that are down as the gateway starts.
#[tokio::test]
async fn a_start_without_registries_serves_static_routes_and_waits_for_the_rest() {
    let (Some(mut consul), Some(mut etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let (a, d, own) = (Origin::start("a").await, Origin::start("d").await, Origin::start("static").await);
    consul.register(&Service::new("web", "a", a.address())).await;
    etcd.put("/fleetgate/endpoints/own/d", &d.address().to_string()).await;
    consul.kill();
    etcd.kill();
    let mut gateway = Setup::new(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        discovery.consul.address = "{}"
        discovery.etcd.endpoints = ["{}"]
        discovery.optional = ["consul-kv", "etcd"]
        upstreams.static.endpoints = ["{}"]
        upstreams.web.consul.service = "web"
        upstreams.own.etcd = {{}}
        routes.static = {{ match = {{ path = "/static" }}, upstream = "static" }}
        routes.web = {{ match = {{ path = "/web" }}, upstream = "web" }}
        routes.own = {{ match = {{ path = "/own" }}, upstream = "own" }}
        "#,
        consul.url(),
        etcd.url(),
        own.address()
    ))
    .launch()
    .await;
    wait::until(SOON, "the listeners", || async { gateway.stdout().contains("admin ") }).await;
    for provider in ["consul", "consul-kv", "etcd"] {
        fails(&gateway, provider, "").await;
    }
    assert_eq!(gateway.until_status("/static", 200).await.served_by(), "static/v1");
    for path in ["/web", "/own"] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("UH")), "{path}");
    }
    let (status, text) = gateway.admin_get("/readyz").await;
    assert_eq!(status, 503, "{text}");
    for missing in ["consul:web", "etcd:/fleetgate/endpoints/own/"] {
        assert!(text.contains(missing), "{missing} in {text}");
    }
    assert!(!gateway.stdout().all().contains(&"ready".to_owned()));

    let load = Load::start(gateway.address(), 1, |_, _| Request::get("/static"));
    consul.start_again().await;
    etcd.start_again().await;
    gateway.wait_ready().await;
    assert_eq!(get(gateway.address(), "/web").await.served_by(), "a/v1");
    assert_eq!(get(gateway.address(), "/own").await.served_by(), "d/v1");
    assert_eq!(gateway.admin_get("/readyz").await.0, 200);
    load.stop().await.assert_all_ok();
}
