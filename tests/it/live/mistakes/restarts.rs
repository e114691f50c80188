//! Mistakes, and then a restart: what an earlier process served last serves on, nothing that a route may need is left out,
//! and nothing that was deleted comes back.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{Place, route, shop, stamp, stamped, text, until_said, until_state, until_status_says};
use crate::live::saved::saves;
use crate::live::{SOON, config, live, takes};
use crate::support::client::{Answer, Request};
use crate::support::consul::{Consul, Service};
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

/// In a provider's saved file, once it has forms that are not the present ones.
const RESOLVED: &str = "\"resolved\":{\"texts\"";

/// Starts it again with what it saved; from the first moment on no answer is other than these, or 503.
async fn restart(gateway: Gateway, path: &'static str, good: fn(&Answer) -> bool) -> Gateway {
    let mut gateway = gateway.restart_unready().await;
    let load = Load::start_judging(
        gateway.address(),
        2,
        move |_, _| Request::get(path),
        move |answer| good(answer) || answer.status == 503,
    );
    gateway.wait_ready().await;
    load.more(20).await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    gateway
}

/// As [`restart`] after a stop, with every answer as it should be from the moment that it is ready.
async fn stop_and_restart(mut gateway: Gateway, path: &'static str, good: fn(&Answer) -> bool) -> Gateway {
    gateway.terminate().await;
    let gateway = restart(gateway, path, good).await;
    serves(&gateway, path, good).await;
    gateway
}

async fn serves(gateway: &Gateway, path: &'static str, good: fn(&Answer) -> bool) {
    let load = Load::start_judging(gateway.address(), 2, move |_, _| Request::get(path), good);
    load.more(40).await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}

/// O6, over restarts: of a process that stops in order, of one that is killed, and of the one after that.
#[tokio::test]
async fn a_mistake_changes_nothing_over_restarts() {
    let a = Origin::start("a").await;
    for place in Place::all().await {
        place.fill(&a).await;
        let mut gateway = place.gateway_saving("state", "").await;
        let file = format!("{}.json", place.provider());
        gateway.until_status("/shop", 200).await;
        let (mut wrong_upstream, mut wrong_subset, mut no_subset) = (route(), route(), shop(&a));
        wrong_upstream["targets"][0]["upstream"] = json!("shpo");
        wrong_subset["targets"][0]["subset"] = json!("stabel");
        no_subset["subsets"] = json!({});
        let mistakes = [
            ("routes/shop", Some(wrong_upstream), "there is no upstream `shpo`"),
            ("routes/shop", Some(wrong_subset), "upstream `shop` has no subset `stabel`"),
            ("upstreams/shop", None, "there is no upstream `shop`"),
            ("upstreams/shop", Some(no_subset), "upstream `shop` has no subset `stable`"),
            ("middlewares/stamp", None, "there is no middleware `stamp`"),
        ];
        for (number, (item, document, reason)) in mistakes.into_iter().enumerate() {
            place.set(Some(&gateway), item, document).await;
            until_state(&gateway, "shop", "kept").await;
            if number == 0 {
                saves(&gateway, &file, &[RESOLVED]).await;
                gateway.kill();
            }
            for _ in 0..2 {
                gateway = stop_and_restart(gateway, "/shop", stamped).await;
                let kept = until_state(&gateway, "shop", "kept").await;
                assert!(kept["reasons"].to_string().contains(reason), "{kept}");
                until_said(&gateway, &format!("routes.shop: {reason}")).await;
                until_status_says(&gateway, place.provider(), reason, true).await;
            }
            let good = match item {
                "routes/shop" => route(),
                "upstreams/shop" => shop(&a),
                _ => stamp(),
            };
            place.set(Some(&gateway), item, Some(good)).await;
            until_state(&gateway, "shop", "ok").await;
            until_status_says(&gateway, place.provider(), reason, false).await;
            serves(&gateway, "/shop", stamped).await;
        }

        // Made while nobody looks, and mended.
        gateway.terminate().await;
        place.set(Some(&gateway), "upstreams/shop", None).await;
        gateway = restart(gateway, "/shop", stamped).await;
        until_state(&gateway, "shop", "kept").await;
        serves(&gateway, "/shop", stamped).await;
        gateway.terminate().await;
        place.set(Some(&gateway), "upstreams/shop", Some(shop(&a))).await;
        gateway = restart(gateway, "/shop", stamped).await;
        until_state(&gateway, "shop", "ok").await;

        // What is deleted is gone, and nothing of it comes back.
        place.set(Some(&gateway), "upstreams/shop", None).await;
        until_state(&gateway, "shop", "kept").await;
        gateway.terminate().await;
        place.set(Some(&gateway), "routes/shop", None).await;
        let gateway = gateway.restart().await;
        gateway.until_status("/shop", 404).await;
        place.set(Some(&gateway), "routes/shop", Some(route())).await;
        let refused = gateway.until_status("/shop", 503).await;
        assert_eq!(refused.header("x-fleetgate-flag"), Some("NC"));

        // Without a saved state there is no earlier form.
        place.set(Some(&gateway), "upstreams/shop", Some(shop(&a))).await;
        gateway.until_status("/shop", 200).await;
        place.set(Some(&gateway), "upstreams/shop", None).await;
        until_state(&gateway, "shop", "kept").await;
        gateway.write_config(&config(&format!("discovery.state_dir = \"off\"\n{}", place.settings())));
        let gateway = gateway.restart().await;
        let refused = gateway.until_status("/shop", 503).await;
        assert_eq!(refused.header("x-fleetgate-flag"), Some("NC"));
    }
}

/// Of a consumer of theirs.
const KEY: &str = "secret-of-alice";

/// A route that everybody may use, which would answer for a protected one that is not there.
fn open(origin: &Origin) -> String {
    format!(
        "[upstreams.app]\nendpoints = [\"{}\"]\n[routes.open]\nmatch = {{ path = \"/\" }}\nupstream = \"app\"\n\
         [consumers.alice]\nkeys = [\"sha256:{}\"]\n",
        origin.address(),
        digest(&SHA256, KEY.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    )
}

fn protected(upstream: &str, middlewares: &[&str]) -> Value {
    json!({ "match": { "path": "/admin" }, "upstream": upstream, "middlewares": middlewares })
}

fn keys() -> Value {
    json!({ "api_key": { "header": "x-key" } })
}

fn unauthorized(answer: &Answer) -> bool {
    answer.status == 401
}

/// Whatever comes of it: not open.
fn closed(answer: &Answer) -> bool {
    matches!(answer.status, 401 | 503)
}

fn refused(answer: &Answer) -> bool {
    answer.status == 503 && answer.header("x-fleetgate-flag") == Some("NC")
}

/// Kind 1: a protected route that does not resolve is never open, whatever happened to it and whenever.
#[tokio::test]
async fn what_is_protected_stays_so_over_mistakes_and_restarts() {
    let a = Origin::start("a").await;
    for place in Place::all().await {
        let items = [
            ("upstreams/admin", json!({ "endpoints": [a.address().to_string()] })),
            ("middlewares/keys", keys()),
            ("middlewares/stamp", stamp()),
            ("routes/admin", protected("admin", &["keys"])),
        ];
        for (item, document) in items {
            place.set(None, item, Some(document)).await;
        }
        for number in 0..6 {
            place.set(None, &format!("upstreams/other-{number}"), Some(json!({ "endpoints": [] }))).await;
        }
        let mut gateway = place.gateway_saving("state", &open(&a)).await;
        gateway.until_status("/admin", 401).await;

        // Kept, with its protection: by a wrong name, and by what is removed.
        let mistakes = [
            ("routes/admin", Some(protected("admni", &["keys"])), protected("admin", &["keys"])),
            ("middlewares/keys", None, keys()),
        ];
        for (item, mistake, mended) in mistakes {
            place.set(Some(&gateway), item, mistake).await;
            until_state(&gateway, "admin", "kept").await;
            for _ in 0..2 {
                gateway = stop_and_restart(gateway, "/admin", unauthorized).await;
                until_state(&gateway, "admin", "kept").await;
                let authorized = Request::get("/admin").header("x-key", KEY);
                assert_eq!(gateway.send(authorized).await.status, 200, "{item}");
            }
            place.set(Some(&gateway), item, Some(mended)).await;
            until_state(&gateway, "admin", "ok").await;
        }

        // An edit that names a middleware which does not exist, before a restart and while nobody looks.
        place.set(Some(&gateway), "routes/admin", Some(protected("admin", &["kyes"]))).await;
        gateway.until_status("/admin", 503).await;
        for _ in 0..2 {
            gateway = stop_and_restart(gateway, "/admin", refused).await;
            until_state(&gateway, "admin", "unresolved").await;
        }
        place.set(Some(&gateway), "routes/admin", Some(protected("admni", &["keys"]))).await;
        gateway.until_status("/admin", 401).await;
        place.set(Some(&gateway), "routes/admin", Some(protected("admin", &["keys"]))).await;
        until_state(&gateway, "admin", "ok").await;
        gateway.terminate().await;
        place.set(Some(&gateway), "routes/admin", Some(protected("admin", &["kyes"]))).await;
        // In a file, the form that had `keys` serves until a second look.
        gateway = restart(gateway, "/admin", closed).await;
        until_state(&gateway, "admin", "unresolved").await;

        // Protected while it is down, where others see it, and then edited once more, with a mistake.
        place.set(Some(&gateway), "routes/admin", Some(protected("admin", &[]))).await;
        gateway.until_status("/admin", 200).await;
        gateway.terminate().await;
        for upstream in ["admin", "admni"] {
            place.set(Some(&gateway), "routes/admin", Some(protected(upstream, &["keys"]))).await;
        }
        for _ in 0..2 {
            // Until the registry answers, what it said last is served.
            gateway = gateway.restart().await;
            gateway.until_status("/admin", 503).await;
            serves(&gateway, "/admin", refused).await;
            gateway.terminate().await;
        }

        // Deleted and made anew while it is down: another route, which nobody has an earlier form of.
        place.set(Some(&gateway), "routes/admin", Some(protected("admin", &[]))).await;
        gateway = gateway.restart().await;
        gateway.until_status("/admin", 200).await;
        gateway.terminate().await;
        if place.has_feedback() {
            place.set(None, "routes/admin", None).await;
            place.set(None, "routes/admin", Some(protected("admni", &[]))).await;
            gateway = gateway.restart().await;
            gateway.until_status("/admin", 503).await;
            serves(&gateway, "/admin", refused).await;
        }
        drop(gateway);
    }
}

/// The endpoints of a removed upstream are those of the saved state while its registry is away, and are followed again.
#[tokio::test]
async fn a_removed_upstream_is_followed_again_after_a_restart() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&Service::new("web", "a", a.address())).await;
    consul.kv_put("fleetgate/upstreams/web", r#"{"consul":{"service":"web"}}"#).await;
    consul.kv_put("fleetgate/routes/web", r#"{"match":{"path":"/"},"upstream":"web"}"#).await;
    let mut place = Place::Kv(consul);
    let mut gateway = place.gateway_saving("state", "").await;
    gateway.until_status("/", 200).await;
    let Place::Kv(consul) = &mut place else { unreachable!() };
    consul.kv_delete("fleetgate/upstreams/web").await;
    until_state(&gateway, "web", "kept").await;
    saves(&gateway, "consul-kv.json", &[RESOLVED]).await;
    saves(&gateway, "consul.json", &[&a.address().to_string()]).await;
    gateway.kill();
    consul.kill();
    let by_a: fn(&Answer) -> bool = |answer| answer.served_by() == "a/v1";
    for _ in 0..2 {
        gateway = stop_and_restart(gateway, "/", by_a).await;
        until_state(&gateway, "web", "kept").await;
    }
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    consul.start_again().await;
    live(&gateway, "consul").await;
    live(&gateway, "consul-kv").await;
    consul.register(&Service::new("web", "b", b.address())).await;
    takes(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
    until_state(&gateway, "web", "kept").await;
    consul.kv_put("fleetgate/upstreams/web", r#"{"consul":{"service":"web"}}"#).await;
    until_state(&gateway, "web", "ok").await;
}

/// What a registration asks for has no text: that its middlewares are those that it had is enough.
#[tokio::test]
async fn a_route_of_a_registration_keeps_its_middleware_over_restarts() {
    let Some(consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    let tags = ["fleetgate.path=/admin", "fleetgate.middlewares=keys"];
    consul.register(&Service::new("admin", "a", a.address()).tags(&tags)).await;
    consul.kv_put("fleetgate/middlewares/keys", &keys().to_string()).await;
    let settings = |state: &str| {
        let consul = format!(
            "discovery.consul = {{ address = \"{}\", tags = true, tag_networks = [\"127.0.0.0/8\"] }}",
            consul.url()
        );
        config(&format!("discovery.state_dir = \"{state}\"\n{consul}\n{}", open(&a)))
    };
    let mut gateway = Setup::new(&settings("state")).start().await;
    gateway.until_status("/admin", 401).await;
    consul.kv_delete("fleetgate/middlewares/keys").await;
    until_state(&gateway, "admin", "kept").await;
    for _ in 0..2 {
        gateway = stop_and_restart(gateway, "/admin", unauthorized).await;
        until_state(&gateway, "admin", "kept").await;
    }
    consul
        .register(
            &Service::new("admin", "a", a.address()).tags(&["fleetgate.path=/admin", "fleetgate.middlewares=kyes"]),
        )
        .await;
    gateway.until_status("/admin", 503).await;
    gateway = stop_and_restart(gateway, "/admin", refused).await;
    gateway.write_config(&settings("off"));
    consul.register(&Service::new("admin", "a", a.address()).tags(&tags)).await;
    let gateway = gateway.restart().await;
    serves(&gateway, "/admin", refused).await;
}

/// A file of the saved state that is cut tells nothing, and opens nothing.
#[tokio::test]
async fn a_saved_state_that_is_cut_is_no_earlier_form() {
    let a = Origin::start("a").await;
    let items = [
        ("upstreams/admin".to_owned(), json!({ "endpoints": [a.address().to_string()] })),
        ("middlewares/keys".to_owned(), keys()),
        ("routes/admin".to_owned(), protected("admin", &["keys"])),
    ];
    let place = Place::File(std::sync::Mutex::new(items.into()));
    let mut gateway = place.gateway_saving("state", &open(&a)).await;
    gateway.until_status("/admin", 401).await;
    place.set(Some(&gateway), "routes/admin", Some(protected("admni", &["keys"]))).await;
    until_state(&gateway, "admin", "kept").await;
    gateway.terminate().await;
    let path = gateway.folder().join("state/file.json");
    let saved = std::fs::read_to_string(&path).unwrap();
    assert!(saved.contains(RESOLVED), "{saved}");
    std::fs::write(&path, &saved[..saved.len() / 2]).unwrap();
    let gateway = restart(gateway, "/admin", refused).await;
    until_said(&gateway, "file.json is not used").await;
    wait::until(SOON, "the metric", || async {
        gateway.metric("fleetgate_saved_state_errors_total", &[("reason", "corrupt")]).await == Some(1.0)
    })
    .await;
    serves(&gateway, "/admin", refused).await;
    let Place::File(items) = &place else { unreachable!() };
    assert!(text(&items.lock().unwrap()).contains("admni"));
}
