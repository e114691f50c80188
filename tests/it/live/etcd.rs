//! Traffic to what a real etcd lists.

use super::{rejects, removals, stops, takes};
use crate::support::client::{Request, get};
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

mod history;
mod members;
mod store;
mod user;

/// The key of an endpoint of `svc`.
fn key(id: &str) -> String {
    format!("/fleetgate/endpoints/svc/{id}")
}

async fn put(etcd: &Etcd, origin: &Origin) {
    etcd.put(&key(&origin.name), &origin.address().to_string()).await;
}

async fn before(etcd: &Etcd) -> Gateway {
    before_urls(&[etcd.url()], "").await
}

/// A gateway that reads `svc` and `svc2` from these members; `more` are further keys of `[discovery.etcd]`.
async fn before_urls(urls: &[String], more: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        [discovery.etcd]
        endpoints = {urls:?}
        {more}
        [upstreams.svc]
        etcd = {{}}
        [upstreams.svc2]
        etcd = {{}}
        [routes.all]
        match = {{ path = "/" }}
        upstream = "svc"
        [routes.second]
        match = {{ path = "/second" }}
        upstream = "svc2"
        "#
    ))
    .await
}

/// Load on a pool of two that never leave it, whatever happens.
struct Scene {
    kept: [Origin; 2],
    gateway: Gateway,
    load: Load,
}

impl Scene {
    /// Writes the two to etcd, and starts a gateway that reaches it by these URLs.
    async fn start(etcd: &Etcd, urls: &[String], more: &str) -> Self {
        let kept = [Origin::start("a").await, Origin::start("b").await];
        for origin in &kept {
            put(etcd, origin).await;
        }
        let gateway = before_urls(urls, more).await;
        let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
        let scene = Self { kept, gateway, load };
        scene.serves().await;
        scene
    }

    /// Both take traffic.
    async fn serves(&self) {
        takes(&self.load, "a/v1").await;
        takes(&self.load, "b/v1").await;
    }

    /// Both take traffic still, neither was ever taken out, and no request failed.
    async fn end(self) {
        self.serves().await;
        self.load.stop().await.assert_all_ok();
        let removals = removals(&self.gateway, "svc").await;
        for origin in &self.kept {
            assert_eq!(removals.get(&origin.address().to_string()), None);
        }
    }
}

/// Fault cases 33 (put, update, delete), 34 (a lease expires), 50 (a bad value over a good one, then deleted) and
/// 51 (names that begin alike do not mix).
#[tokio::test]
async fn endpoints_take_traffic_exactly_while_etcd_says_so() {
    let Some(etcd) = Etcd::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let other = Origin::start("other").await;
    let key = |id: &str| format!("/fleetgate/endpoints/svc/{id}");
    let lease = etcd.kept_lease(2).await;
    etcd.put_leased(&key("leased"), &a.address().to_string(), lease.id).await;
    etcd.put(&key("b"), &b.address().to_string()).await;
    etcd.put("/fleetgate/endpoints/svc2/a", &other.address().to_string()).await;
    let gateway = before(&etcd).await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    let second = Load::start(gateway.address(), 1, |_, _| Request::get("/second"));
    takes(&load, "a/v1").await;
    takes(&load, "b/v1").await;

    etcd.put(&key("c"), &format!(r#"{{"address":"{}","weight":2}}"#, c.address())).await;
    takes(&load, "c/v1").await;
    etcd.put(&key("c"), &format!(r#"{{"address":"{}","weight":0}}"#, c.address())).await;
    stops(&load, "c/v1").await;
    etcd.put(&key("c"), &c.address().to_string()).await;
    takes(&load, "c/v1").await;
    etcd.delete(&key("c")).await;
    stops(&load, "c/v1").await;

    etcd.put(&key("b"), "{ no JSON").await;
    rejects(&gateway, "etcd", &["/fleetgate/endpoints/svc/b"]).await;
    takes(&load, "b/v1").await;
    takes(&load, "a/v1").await;
    // Its machine died: nobody keeps the lease.
    drop(lease);
    stops(&load, "a/v1").await;
    takes(&load, "b/v1").await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(report.served_by("other/v1"), 0);
    etcd.delete(&key("b")).await;
    assert_eq!(gateway.until_status("/", 503).await.header("x-fleetgate-flag"), Some("UH"));
    let report = second.stop().await;
    report.assert_all_ok();
    assert_eq!(report.answers(), report.served_by("other/v1"), "svc2 is not svc");
}

/// Documents in etcd, with traffic.
#[tokio::test]
async fn a_route_in_etcd_works_changes_and_is_not_broken_by_a_bad_edit() {
    let Some(etcd) = Etcd::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    etcd.put("/fleetgate/endpoints/svc/a", &a.address().to_string()).await;
    let gateway = before(&etcd).await;
    etcd.put("/fleetgate/upstreams/own.toml", &format!("endpoints = [\"{}\"]", b.address())).await;
    etcd.put("/fleetgate/routes/own", r#"{"match":{"path":"/own"},"upstream":"own"}"#).await;
    let address = gateway.address();
    let by = |path: &'static str, who: &'static str| {
        wait::until_ok(super::SOON, who, move || async move {
            let answer = get(address, path).await;
            if answer.served_by() == who { Ok(()) } else { Err(answer) }
        })
    };
    by("/own", "b/v1").await;
    let load = Load::start(address, 2, |_, _| Request::get("/own"));
    etcd.put("/fleetgate/routes/own", "{ no JSON").await;
    rejects(&gateway, "etcd", &["/fleetgate/routes/own:1:"]).await;
    load.more(50).await;
    etcd.put("/fleetgate/routes/own", r#"{"match":{"path":"/own"},"upsteam":"own"}"#).await;
    rejects(&gateway, "etcd", &["/fleetgate/routes/own", "upsteam", "upstream"]).await;
    load.more(50).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(report.answers(), report.served_by("b/v1"), "the last good form serves");

    etcd.put("/fleetgate/routes/own", r#"{"match":{"path":"/new"},"upstream":"own"}"#).await;
    by("/new", "b/v1").await;
    by("/own", "a/v1").await;
    etcd.delete("/fleetgate/routes/own").await;
    by("/new", "a/v1").await;
}

/// Fault case 53 with traffic: what services of other frameworks write about themselves, as they write it.
#[tokio::test]
async fn services_of_other_frameworks_take_traffic() {
    let Some(etcd) = Etcd::start().await else { return };
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        discovery.etcd.endpoints = ["{}"]
        upstreams.grpc.etcd = {{ prefix = "services/users", format = "grpc" }}
        upstreams.kratos.etcd = {{ prefix = "/microservices/users", format = "kratos" }}
        upstreams.go-zero.etcd = {{ prefix = "users.rpc", format = "go-zero" }}
        upstreams.plain.etcd = {{ prefix = "/plain/users/", format = "plain" }}
        routes.grpc = {{ match = {{ path = "/grpc" }}, upstream = "grpc" }}
        routes.kratos = {{ match = {{ path = "/kratos" }}, upstream = "kratos" }}
        routes.go-zero = {{ match = {{ path = "/go-zero" }}, upstream = "go-zero" }}
        routes.plain = {{ match = {{ path = "/plain" }}, upstream = "plain" }}
        "#,
        etcd.url()
    ))
    .await;
    let lease = etcd.lease(600).await;
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let (c, d) = (Origin::start("c").await, Origin::start("d").await);
    let kratos = format!(
        r#"{{"id":"vm-1","name":"users","version":"v3","metadata":{{"zone":"a"}},"endpoints":["grpc://127.0.0.1:1","http://{}?isSecure=false"]}}"#,
        b.address()
    );
    let written = [
        ("grpc", "services/users/1", format!(r#"{{"Op":0,"Addr":"{}","Metadata":null}}"#, a.address())),
        ("kratos", "/microservices/users/vm-1", kratos),
        ("go-zero", &format!("users.rpc/{lease}"), c.address().to_string()),
        ("plain", "/plain/users/vm-1", d.address().to_string()),
    ];
    for (path, key, value) in &written {
        etcd.put_leased(key, value, lease).await;
        gateway.until_status(&format!("/{path}"), 200).await;
    }
    for (path, who) in [("/grpc", "a/v1"), ("/kratos", "b/v1"), ("/go-zero", "c/v1"), ("/plain", "d/v1")] {
        assert_eq!(get(gateway.address(), path).await.served_by(), who, "{path}");
    }
    let shown = gateway.api("upstreams/kratos").await;
    assert_eq!(shown["source"], "etcd+kratos:/microservices/users/");
    assert_eq!(shown["endpoints"][0]["labels"], serde_json::json!({ "version": "v3", "zone": "a" }));
    // The last good form stays; what another service registers below is not ours.
    etcd.put("/microservices/users/vm-1", r#"{"name":"users","endpoints":["grpc://127.0.0.1:1"]}"#).await;
    etcd.put("/microservices/users/admin/vm-1", r#"{"name":"users/admin","endpoints":["http://127.0.0.1:1"]}"#).await;
    rejects(&gateway, "etcd", &["/microservices/users/vm-1", "the format `kratos` reads no others", "former value"])
        .await;
    assert_eq!(get(gateway.address(), "/kratos").await.served_by(), "b/v1");
    etcd.revoke(lease).await;
    // Its key was written again, without the lease.
    for path in ["/grpc", "/go-zero", "/plain"] {
        gateway.until_status(path, 503).await;
    }
    assert_eq!(get(gateway.address(), "/kratos").await.status, 200);
}

/// Fault case 52: a key that is written again and again costs few snapshots, and its last value wins.
#[tokio::test]
async fn a_key_that_is_written_all_the_time_is_coalesced() {
    let Some(etcd) = Etcd::start().await else { return };
    let a = Origin::start("a").await;
    let key = "/fleetgate/endpoints/svc/a";
    etcd.put(key, &a.address().to_string()).await;
    let gateway = before(&etcd).await;
    let generation = || async { gateway.api("upstreams").await["generation"].as_u64().unwrap() };
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    takes(&load, "a/v1").await;
    let first = generation().await;
    let weighted = |weight: u32| format!(r#"{{"address":"{}","weight":{weight}}}"#, a.address());
    let (writes, began) = (2_000, std::time::Instant::now());
    for weight in 1..=writes {
        etcd.put(key, &weighted(weight)).await;
    }
    etcd.put(key, &weighted(7)).await;
    let weight = || async { gateway.api("upstreams/svc").await["endpoints"][0]["weight"].clone() };
    wait::until(super::SOON, "the last value", || async { weight().await == 7 }).await;
    let (snapshots, seconds) = (generation().await - first, began.elapsed().as_secs());
    assert!(snapshots <= 10 + 3 * seconds, "{snapshots} snapshots of {writes} writes in {seconds} s");
    load.stop().await.assert_all_ok();
}

/// What upstreams share is counted once, and still shown for each.
#[tokio::test]
async fn a_watch_that_upstreams_share_is_counted_once_and_shown_for_each() {
    let Some(etcd) = Etcd::start().await else { return };
    let a = Origin::start("a").await;
    etcd.put("/fleetgate/endpoints/svc/a", &a.address().to_string()).await;
    let gateway = before(&etcd).await;
    gateway.until_status("/", 200).await;
    super::live(&gateway, "etcd").await;
    let labels = [("provider", "etcd"), ("mode", "told")];
    assert_eq!(gateway.metric("fleetgate_discovery_watches", &labels).await, Some(3.0));
    let shown = super::provider(&gateway, "etcd").await;
    let watches = shown["watches"].as_array().unwrap();
    let named = |name: &str| watches.iter().find(|watch| watch["name"] == name).unwrap_or_else(|| panic!("{shown}"));
    let shared = named("endpoints:/fleetgate/");
    for upstream in ["svc", "svc2"] {
        let watch = named(&format!("etcd:/fleetgate/endpoints/{upstream}/"));
        assert_eq!((&watch["state"], &watch["index"]), (&"live".into(), &shared["index"]));
        assert!(watch["verified_at"].is_string(), "{watch}");
        assert!(gateway.api(&format!("upstreams/{upstream}")).await["verified_at"].is_string());
    }
}
