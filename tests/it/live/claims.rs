//! Services that ask for the same by their tags, at a real Consul: who gets it, what is told, and what gateways agree on.

use serde_json::Value;

use super::{SOON, config, stops, takes};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

const SHOP: &str = "fleetgate.host=shop.example.com";

fn settings(consul: &Consul, more: &str, documents: &str) -> String {
    config(&format!(
        r#"
        [discovery.consul]
        address = "{}"
        wait = "5s"
        tags = true
        tag_networks = ["127.0.0.0/8"]
        {more}
        {documents}
        "#,
        consul.url()
    ))
}

async fn gateway(consul: &Consul, more: &str, documents: &str) -> Gateway {
    Gateway::start(&settings(consul, more, documents)).await
}

fn service(name: &str, id: &str, origin: &Origin, tags: &[&str]) -> Service {
    Service::new(name, id, origin.address()).tags(tags)
}

/// Waits until this request is answered so: by an origin, or with a status.
async fn answers(gateway: &Gateway, host: &str, path: &str, wanted: &str) {
    let address = gateway.address();
    wait::until_ok(SOON, &format!("{wanted} at {host}{path}"), || async move {
        let answer = Request::get(path).host(host).send(address).await;
        let who = if answer.status == 200 { answer.served_by().to_owned() } else { answer.status.to_string() };
        if who == wanted { Ok(()) } else { Err(who) }
    })
    .await;
}

async fn route(gateway: &Gateway, name: &str) -> Value {
    let list = gateway.api("routes").await;
    let found = list["items"].as_array().and_then(|items| items.iter().find(|item| item["name"] == name));
    found.unwrap_or(&Value::Null).clone()
}

/// Waits until a route is in this state, with these words as its reasons.
async fn shows(gateway: &Gateway, name: &str, state: &str, words: &str) {
    wait::until_ok(SOON, &format!("`{words}` at {name}"), || async {
        let shown = route(gateway, name).await;
        if shown["state"] == state && shown["reasons"].to_string().contains(words) { Ok(()) } else { Err(shown) }
    })
    .await;
}

/// Waits until claims of a place are shared in this order.
async fn shared(consul: &Consul, services: &[&str]) {
    wait::until_ok(SOON, &format!("{services:?} in Consul"), || async {
        let keys = consul.kv_keys("fleetgate-fleet/claims/").await.unwrap_or_default();
        let mut found = Vec::new();
        for key in keys {
            let value: Value = serde_json::from_str(&consul.kv_raw(&key).await).unwrap_or_default();
            let claims = value["claims"].as_array().cloned().unwrap_or_default();
            found.push(
                claims.iter().map(|claim| claim["service"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>(),
            );
        }
        if found.iter().any(|found| found == services) { Ok(()) } else { Err(found) }
    })
    .await;
}

/// O4: another team's service of an earlier name asks for a host that is taken.
#[tokio::test]
async fn the_first_claim_of_a_host_stays_and_the_loser_is_told() {
    let Some(consul) = Consul::start().await else { return };
    let (web, evil) = (Origin::start("web").await, Origin::start("evil").await);
    consul.register(&service("web", "web-1", &web, &[SHOP])).await;
    let first = gateway(&consul, "write_status = true", "").await;
    answers(&first, "shop.example.com", "/", "web/v1").await;
    shared(&consul, &["web"]).await;
    let load = Load::start(first.address(), 1, |_, _| Request::get("/x").host("shop.example.com"));
    takes(&load, "web/v1").await;

    consul.register(&service("evil", "evil-1", &evil, &[SHOP])).await;
    shared(&consul, &["web", "evil"]).await;
    let second = gateway(&consul, "write_status = true", "").await;
    for gateway in [&first, &second] {
        shows(gateway, "evil", "shadowed", "shadowed by web").await;
        shows(gateway, "web", "ok", "also asked for by evil").await;
        answers(gateway, "shop.example.com", "/", "web/v1").await;
        assert_eq!(gateway.metric("fleetgate_routes_shadowed", &[("provider", "consul-tags")]).await, Some(1.0));
    }
    assert!(first.stderr().contains("shadowed by web"), "{}", first.stderr().text());
    let events = first.api("events?limit=1000").await;
    let told = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .any(|event| event["event"] == "route_shadowed" && event["route"] == "evil");
    assert!(told, "{events}");
    let explained = first.api("explain?url=http%3A%2F%2Fshop.example.com%2F").await.to_string();
    assert!(explained.contains("first claim"), "{explained}");
    wait::until_ok(SOON, "feedback for evil", || async {
        let keys = consul.kv_keys("fleetgate-fleet/status/").await.unwrap_or_default();
        if !keys.contains(&"fleetgate-fleet/status/services/evil".to_owned()) {
            return Err(format!("{keys:?}"));
        }
        let told = consul.kv_raw("fleetgate-fleet/status/services/evil").await;
        if told.contains("shadowed by web") { Ok(()) } else { Err(told) }
    })
    .await;

    // A redeploy: all of web's instances are newer than evil's.
    let again = Origin::start("again").await;
    consul.register(&service("web", "web-2", &again, &[SHOP])).await;
    takes(&load, "again/v1").await;
    consul.deregister("web-1").await;
    answers(&first, "shop.example.com", "/", "again/v1").await;
    assert_eq!(load.report().served_by("evil/v1"), 0);
    let second = second.restart().await;
    answers(&second, "shop.example.com", "/", "again/v1").await;
    shows(&second, "evil", "shadowed", "shadowed by web").await;
    load.stop().await.assert_all_ok();
}

/// O3: blue and green by name, whichever way their names go.
#[tokio::test]
async fn a_claim_without_instances_yields_and_returns_with_them() {
    let Some(consul) = Consul::start().await else { return };
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    for (old, new, host) in [("shop-v1", "shop-v2", "shop.test"), ("mail-v2", "mail-v1", "mail.test")] {
        let tag = format!("fleetgate.host={host}");
        consul.register(&service(old, old, &one, &[&tag]).checked("passing")).await;
        let first = gateway(&consul, "", "").await;
        answers(&first, host, "/", "one/v1").await;
        consul.register(&service(new, new, &two, &[&tag])).await;
        shows(&first, new, "shadowed", &format!("shadowed by {old}")).await;

        consul.set_check(old, "critical").await;
        answers(&first, host, "/", "two/v1").await;
        consul.set_check(old, "passing").await;
        answers(&first, host, "/", "one/v1").await;

        let load = Load::start(first.address(), 1, move |_, _| Request::get("/").host(host));
        takes(&load, "one/v1").await;
        consul.deregister(old).await;
        takes(&load, "two/v1").await;
        load.stop().await.assert_all_ok();
        shows(&first, old, "shadowed", "no registered instance").await;
        // One that starts now says the same.
        let second = gateway(&consul, "", "").await;
        answers(&second, host, "/", "two/v1").await;
        let first = first.restart().await;
        answers(&first, host, "/", "two/v1").await;

        consul.register(&service(old, old, &one, &[&tag])).await;
        for gateway in [&first, &second] {
            answers(gateway, host, "/", "one/v1").await;
        }
        consul.deregister(old).await;
        consul.deregister(new).await;
    }
}

/// A claim that was not registered for `route_ttl` is the next one's.
#[tokio::test]
async fn a_claim_ends_with_its_time() {
    let Some(consul) = Consul::start().await else { return };
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    consul.register(&service("v1", "v1", &one, &[SHOP])).await;
    let gateway = gateway(&consul, "route_ttl = \"1s\"", "").await;
    shared(&consul, &["v1"]).await;
    consul.register(&service("v2", "v2", &two, &[SHOP])).await;
    shared(&consul, &["v1", "v2"]).await;
    consul.deregister("v1").await;
    shared(&consul, &["v2"]).await;
    consul.register(&service("v1", "v1", &one, &[SHOP])).await;
    shared(&consul, &["v2", "v1"]).await;
    answers(&gateway, "shop.example.com", "/", "two/v1").await;
    consul.deregister("v1").await;
    consul.deregister("v2").await;
    wait::until(SOON, "all claims to be released", || async {
        consul.kv_keys("fleetgate-fleet/claims/").await.unwrap_or_default().is_empty()
    })
    .await;
}

/// A wiped registry renews no claim that a gateway still remembers, running or from its saved state.
#[tokio::test]
async fn a_wiped_registry_renews_no_claim() {
    let Some(mut consul) = Consul::start().await else { return };
    let (web, evil) = (Origin::start("web").await, Origin::start("evil").await);
    consul.register(&service("web", "web", &web, &[SHOP])).await;
    let state = "[discovery]\nstate_dir = \"state\"";
    let first = gateway(&consul, "", state).await;
    shared(&consul, &["web"]).await;
    consul.register(&service("evil", "evil", &evil, &[SHOP])).await;
    shared(&consul, &["web", "evil"]).await;
    super::saved::saves(&first, "claims.json", &["web", "evil"]).await;

    for restarts in [false, true] {
        consul.start_empty().await;
        // The other one comes first this time.
        consul.register(&service("evil", "evil", &evil, &[SHOP])).await;
        consul.register(&service("web", "web", &web, &[SHOP])).await;
        if restarts {
            let restarted = first.restart().await;
            shared(&consul, &["web", "evil"]).await;
            answers(&restarted, "shop.example.com", "/", "web/v1").await;
            return;
        }
        shared(&consul, &["web", "evil"]).await;
        answers(&first, "shop.example.com", "/", "web/v1").await;
    }
}

/// A claim that cannot be saved shows like everything that cannot, and is saved once there is room.
#[tokio::test]
async fn claims_that_cannot_be_saved_are_told_and_saved_later() {
    let Some(consul) = Consul::start().await else { return };
    let web = Origin::start("web").await;
    consul.register(&service("web", "web", &web, &[SHOP])).await;
    // A folder of this name takes no file's place.
    let setup = Setup::new(&settings(&consul, "", "[discovery]\nstate_dir = \"state\""));
    let gateway = setup.file("state/claims.json/x", "").start().await;
    answers(&gateway, "shop.example.com", "/", "web/v1").await;
    let failing = async |wanted: f64| {
        wait::until(SOON, "what is told of saving", || async {
            gateway.metric("fleetgate_saved_state_failing", &[]).await == Some(wanted)
        })
        .await;
    };
    failing(1.0).await;
    let (_, status) = crate::operator::run(&gateway, &["status"]);
    assert!(status.contains("failing since"), "{status}");
    std::fs::remove_dir_all(gateway.folder().join("state/claims.json")).unwrap();
    failing(0.0).await;
    super::saved::saves(&gateway, "claims.json", &["web"]).await;
}

/// Values that nobody can use are told, and cost no route.
#[tokio::test]
async fn broken_claims_are_told_and_cost_nothing() {
    let Some(consul) = Consul::start().await else { return };
    let (web, evil) = (Origin::start("web").await, Origin::start("evil").await);
    consul.register(&service("web", "web", &web, &[SHOP])).await;
    for (key, value) in [("junk", "{ no JSON"), ("a/b/c", "null"), ("ffff", r#"{"place":"x/","claims":[]}"#)] {
        consul.kv_put(&format!("fleetgate-fleet/claims/{key}"), value).await;
    }
    let gateway = gateway(&consul, "", "").await;
    answers(&gateway, "shop.example.com", "/", "web/v1").await;
    shared(&consul, &["web"]).await;
    wait::until_ok(SOON, "a word about them", || async {
        let status = gateway.api("status").await.to_string();
        if status.contains("fleetgate-fleet/claims/junk") { Ok(()) } else { Err(status) }
    })
    .await;
    let keys = consul.kv_keys("fleetgate-fleet/claims/").await.unwrap();
    let own = keys.iter().find(|key| key.len() == "fleetgate-fleet/claims/".len() + 32).expect("a claim").clone();
    consul.kv_put(&own, "ruined").await;
    consul.register(&service("evil", "evil", &evil, &[SHOP])).await;
    shows(&gateway, "evil", "shadowed", "shadowed by web").await;
    answers(&gateway, "shop.example.com", "/", "web/v1").await;
    assert_eq!(consul.kv_raw(&own).await, "ruined", "a later version's words would stay, too");
}

const READ: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                    key_prefix \"\" { policy = \"read\" }";

/// Without the right to write, the service with the oldest instance goes first, and status says so.
#[tokio::test]
async fn without_the_right_to_write_claims_are_not_shared() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    let (web, evil) = (Origin::start("web").await, Origin::start("evil").await);
    consul.policy("read", READ).await;
    consul.policy("write", &format!("{READ} key_prefix \"fleetgate-fleet/\" {{ policy = \"write\" }}")).await;
    let (read, write) = (consul.token(&["read"]).await, consul.token(&["write"]).await);
    consul.register(&service("web", "web", &web, &[SHOP])).await;
    consul.register(&service("evil", "evil", &evil, &[SHOP])).await;
    let start = |token: String| {
        let text = settings(&consul, "token_file = \"token\"", "");
        async move { Setup::new(&text).file("token", &token).start().await }
    };
    let reader = start(read.secret.clone()).await;
    answers(&reader, "shop.example.com", "/", "web/v1").await;
    shows(&reader, "evil", "shadowed", "shadowed by web").await;
    wait::until_ok(SOON, "a word about the right", || async {
        let status = reader.api("status").await.to_string();
        if status.contains("claims are not shared") { Ok(()) } else { Err(status) }
    })
    .await;
    shows(&reader, "evil", "shadowed", "the service with the oldest instance goes first").await;
    // Beside one that may write it uses what that one has written.
    let writer = start(write.secret.clone()).await;
    answers(&writer, "shop.example.com", "/", "web/v1").await;
    wait::until_ok(SOON, "claims to be shared", || async {
        let status = reader.api("status").await.to_string();
        if status.contains("claims are not shared") { Err(status) } else { Ok(()) }
    })
    .await;
    shows(&reader, "evil", "shadowed", "the first claim stays").await;
}

/// S-M4: what a document covers is no tag's, whatever its host.
#[tokio::test]
async fn tags_never_take_what_a_document_covers() {
    let Some(consul) = Consul::start().await else { return };
    let (tag, doc) = (Origin::start("tag").await, Origin::start("doc").await);
    let documents = format!(
        r#"
        [upstreams.doc]
        endpoints = ["{}"]
        [middlewares.keys.ip]
        allow = ["10.0.0.0/8"]
        [routes.corp]
        match = {{ hosts = ["*.corp.example.com"] }}
        upstream = "doc"
        middlewares = ["keys"]
        [routes.nh]
        match = {{ path = "/nh" }}
        upstream = "doc"
        [routes.rest]
        match = {{ path = "/" }}
        upstream = "doc"
        "#,
        doc.address()
    );
    consul.register(&service("native", "n", &tag, &["fleetgate.host=x.corp.example.com"])).await;
    consul.register(&service("fabio", "f", &tag, &["urlprefix-y.corp.example.com/"])).await;
    consul.register(&service("taker", "h", &tag, &["fleetgate.host=z", "fleetgate.path=/nh"])).await;
    consul.register(&service("free", "e", &tag, &["fleetgate.host=free.test"])).await;
    let gateway = self::gateway(&consul, "fabio_tags = true", &documents).await;
    answers(&gateway, "free.test", "/a", "tag/v1").await;
    answers(&gateway, "other.test", "/a", "doc/v1").await;
    answers(&gateway, "x.corp.example.com", "/", "403").await;
    answers(&gateway, "y.corp.example.com", "/", "403").await;
    answers(&gateway, "z", "/nh", "doc/v1").await;
    answers(&gateway, "free.test", "/nh", "doc/v1").await;
    shows(&gateway, "native", "shadowed", "shadowed by corp").await;
    shows(&gateway, "free", "ok", "goes behind nh").await;
    assert!(gateway.stderr().contains("covers x.corp.example.com/"), "{}", gateway.stderr().text());

    let allowed = self::gateway(&consul, "tag_hosts = [\"x.corp.example.com\", \"free.test\"]", &documents).await;
    answers(&allowed, "x.corp.example.com", "/", "tag/v1").await;
    answers(&allowed, "free.test", "/nh", "tag/v1").await;
    answers(&allowed, "z", "/nh", "doc/v1").await;
}

/// D10: Nomad's canary_tags, other tags on one of three.
#[tokio::test]
async fn a_canary_moves_nothing_but_its_own_host() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    for (id, origin) in [("a", &a), ("b", &b)] {
        consul.register(&service("app", id, origin, &["fleetgate.host=app.test"])).await;
    }
    let gateway = gateway(&consul, "", "").await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/").host("app.test"));
    takes(&load, "a/v1").await;
    takes(&load, "b/v1").await;
    consul.register(&service("app", "c", &c, &["fleetgate.host=canary.app.test"])).await;
    answers(&gateway, "canary.app.test", "/", "c/v1").await;
    stops(&load, "c/v1").await;
    for _ in 0..12 {
        let canary = Request::get("/").host("canary.app.test").send(gateway.address()).await;
        assert_eq!(canary.served_by(), "c/v1");
    }
    takes(&load, "a/v1").await;
    takes(&load, "b/v1").await;
    shows(&gateway, "app", "ok", "2 of 3 ask for this").await;
    // By a name of its own, and Meta.
    let named = service("app", "c", &c, &["fleetgate"]).meta("fleetgate-routes-canary-host", "green.app.test");
    consul.register(&named).await;
    answers(&gateway, "green.app.test", "/", "c/v1").await;
    answers(&gateway, "canary.app.test", "/", "404").await;
    takes(&load, "a/v1").await;
    stops(&load, "c/v1").await;
    load.stop().await.assert_all_ok();
}

/// Of documents that match the same the older key goes first, whatever their names.
#[tokio::test]
async fn of_equal_documents_the_older_key_goes_first() {
    let (Some(consul), Some(etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let (old, new) = (Origin::start("old").await, Origin::start("new").await);
    let upstream = |origin: &Origin| format!(r#"{{"endpoints":["{}"]}}"#, origin.address());
    let route = |host: &str, upstream: &str| format!(r#"{{"match":{{"hosts":["{host}"]}},"upstream":"{upstream}"}}"#);
    for (name, origin) in [("old", &old), ("new", &new)] {
        consul.kv_put(&format!("fleetgate/upstreams/{name}"), &upstream(origin)).await;
    }
    for (name, upstream) in [("zzz", "old"), ("aaa", "new")] {
        consul.kv_put(&format!("fleetgate/routes/kv-{name}"), &route("kv.test", upstream)).await;
        etcd.put(&format!("/fleetgate/routes/etcd-{name}"), &route("etcd.test", upstream)).await;
    }
    // An edit makes no key younger.
    consul.kv_put("fleetgate/routes/kv-zzz", &route("kv.test", "old").replace('}', "} ")).await;
    let documents = format!("[discovery.etcd]\nendpoints = [\"{}\"]", etcd.url());
    let gateway = gateway(&consul, "", &documents).await;
    for provider in ["kv", "etcd"] {
        answers(&gateway, &format!("{provider}.test"), "/", "old/v1").await;
        shows(&gateway, &format!("{provider}-aaa"), "shadowed", &format!("shadowed by {provider}-zzz")).await;
    }
}
