//! What outlives the gateway: registries that are away as it starts again, drains, files that are no use.

use std::fs;

use super::{SOON, config, fails, live, provider, takes};
use crate::operator::run;
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::{http, rounds, wait};

/// Waits until a saved file has all of these words.
pub(super) async fn saves(gateway: &Gateway, file: &str, words: &[&str]) {
    let path = gateway.folder().join("state").join(file);
    wait::until_ok(SOON, &format!("{file} with {words:?}"), || async {
        let text = fs::read_to_string(&path).unwrap_or_default();
        if words.iter().all(|word| text.contains(word)) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// As fault case 11 with nothing of the registries left: a restart serves what was saved, and says how old it is.
#[tokio::test]
async fn a_restart_without_registries_serves_what_was_saved() {
    let (Some(mut consul), Some(mut etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let (a, b, d) = (Origin::start("a").await, Origin::start("b").await, Origin::start("d").await);
    for origin in [&a, &b] {
        consul.register(&Service::new("web", &origin.name, origin.address())).await;
    }
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"web"}"#).await;
    etcd.put("/fleetgate/endpoints/own/d", &d.address().to_string()).await;
    etcd.put("/fleetgate/upstreams/own", r#"{"etcd":{}}"#).await;
    etcd.put("/fleetgate/routes/of-etcd", r#"{"match":{"path":"/etcd"},"upstream":"own"}"#).await;
    let gateway = Gateway::start(&config(&format!(
        r#"
        discovery.state_dir = "state"
        discovery.consul.address = "{}"
        discovery.etcd.endpoints = ["{}"]
        upstreams.web.consul.service = "web"
        routes.of-file = {{ match = {{ path = "/file" }}, upstream = "web" }}
        "#,
        consul.url(),
        etcd.url(),
    )))
    .await;
    let paths = ["/file", "/kv", "/etcd"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let drained = b.address().to_string();
    let (fine, said) = run(&gateway, &["drain", "web", &drained]);
    assert!(fine, "{said}");
    saves(&gateway, "consul.json", &[&a.address().to_string(), &drained]).await;
    saves(&gateway, "consul-kv.json", &["fleetgate/routes/of-kv"]).await;
    saves(&gateway, "etcd.json", &[&d.address().to_string(), "/fleetgate/routes/of-etcd"]).await;
    saves(&gateway, "overlay.json", &[&drained]).await;

    consul.kill();
    etcd.kill();
    // Who comes before anything is known waits for it.
    let mut gateway = gateway.restart_unready().await;
    let load = Load::start(gateway.address(), 3, move |worker, _| Request::get(paths[worker]));
    gateway.wait_ready().await;
    load.more(300).await;
    for name in ["consul", "consul-kv", "etcd"] {
        fails(&gateway, name, "").await;
        let provider = provider(&gateway, name).await;
        assert!(provider["held"].to_string().contains("saved by an earlier process"), "{provider}");
        assert!(provider["verified_at"].is_string(), "{provider}");
    }
    assert!(gateway.api("upstreams/web").await["verified_at"].is_string());
    assert!(gateway.metric("fleetgate_snapshot_age_seconds", &[]).await > Some(0.0));
    let states = gateway.endpoints("web").await;
    assert!(states.contains(&(drained.clone(), "draining".to_owned())), "{states:?}");

    // Live again, and followed.
    consul.start_again().await;
    etcd.start_again().await;
    for name in ["consul", "consul-kv", "etcd"] {
        live(&gateway, name).await;
        wait::until(SOON, "the end of the saved state", || async {
            provider(&gateway, name).await["held"] == serde_json::json!([])
        })
        .await;
    }
    let c = Origin::start("c").await;
    consul.register(&Service::new("web", "c", c.address())).await;
    takes(&load, "c/v1").await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(report.served_by("b/v1"), 0, "a drain outlives the gateway");
}

/// Fault case 20: without a token a Consul that denies shows nothing, and looks like an empty one.
#[tokio::test]
async fn a_start_without_permission_keeps_what_was_saved() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    let a = Origin::start("a").await;
    consul.register(&Service::new("web", "a", a.address())).await;
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"web"}"#).await;
    let config = |token: &str| {
        config(&format!(
            r#"
            discovery.state_dir = "state"
            discovery.consul.address = "{}"
            {token}
            upstreams.web.consul.service = "web"
            "#,
            consul.url()
        ))
    };
    let token = format!("discovery.consul.token = \"{}\"", crate::support::consul::MANAGEMENT);
    let gateway = Gateway::start(&config(&token)).await;
    gateway.until_status("/kv", 200).await;
    saves(&gateway, "consul.json", &[&a.address().to_string()]).await;
    saves(&gateway, "consul-kv.json", &["fleetgate/routes/of-kv"]).await;
    gateway.write_config(&config(""));
    let gateway = gateway.restart().await;
    let load = Load::start(gateway.address(), 1, |_, _| Request::get("/kv"));
    for name in ["consul", "consul-kv"] {
        fails(&gateway, name, "").await;
    }
    load.more(200).await;
    load.stop().await.assert_all_ok();
}

/// Fault cases 54 and 55: files that are no use, and a gateway that is killed while it writes, 200 times where tests
/// may take long.
#[tokio::test]
async fn whatever_happens_to_the_files_the_gateway_starts() {
    let origin = Origin::start("users").await;
    let config = |folder: &str| {
        config(&format!(
            r#"
            discovery.state_dir = "{folder}"
            upstreams.users.endpoints = ["{}"]
            routes.users = {{ match = {{ path = "/" }}, upstream = "users" }}
            "#,
            origin.address()
        ))
    };
    let errors = async |gateway: &Gateway, reason: &str| {
        gateway.metric("fleetgate_saved_state_errors_total", &[("reason", reason)]).await
    };
    let address = origin.address().to_string();
    let mut gateway = Gateway::start(&config("state")).await;
    for round in 0..rounds(12, 200) {
        // Each of them writes; the kill comes in the middle of it.
        let url =
            format!("http://{}/api/v1/upstreams/users/endpoints/{}", gateway.admin(), address.replace(':', "%3A"));
        let writer = tokio::spawn(async move {
            loop {
                for command in ["drain", "undrain"] {
                    let _ = http().post(format!("{url}/{command}")).send().await;
                }
            }
        });
        saves(&gateway, "overlay.json", &["sha256"]).await;
        tokio::time::sleep(std::time::Duration::from_millis(10 * (round as u64 % 12))).await;
        gateway.kill();
        writer.abort();
        gateway = gateway.restart().await;
        for reason in ["corrupt", "foreign", "unreadable", "unwritable"] {
            assert_eq!(errors(&gateway, reason).await, Some(0.0), "{reason} in round {round}");
        }
    }
    run(&gateway, &["drain", "users", &address]);
    saves(&gateway, "overlay.json", &[&address]).await;
    gateway.kill();
    let file = gateway.folder().join("state/overlay.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    let gateway = gateway.restart().await;
    assert_eq!(errors(&gateway, "corrupt").await, Some(1.0));
    gateway.until_status("/", 200).await;
    drop(gateway);

    let in_the_way = Setup::new(&config("file/below")).file("file", "").start().await;
    // Once at the start, and once for each write that was tried since.
    assert!(errors(&in_the_way, "unwritable").await >= Some(1.0));
    in_the_way.until_status("/", 200).await;
}

/// Registries that were wiped while the gateway was down: its saved state knows how far they had counted.
#[tokio::test]
async fn a_wipe_while_the_gateway_is_down_takes_nothing_away() {
    let (Some(mut consul), Some(mut etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let (a, d) = (Origin::start("a").await, Origin::start("d").await);
    consul.register(&Service::new("web", "a", a.address())).await;
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"web"}"#).await;
    etcd.put("/fleetgate/endpoints/own/d", &d.address().to_string()).await;
    etcd.put("/fleetgate/upstreams/own", r#"{"etcd":{}}"#).await;
    etcd.put("/fleetgate/routes/of-etcd", r#"{"match":{"path":"/etcd"},"upstream":"own"}"#).await;
    let mut gateway = Gateway::start(&config(&format!(
        r#"
        discovery.state_dir = "state"
        discovery.consul.address = "{}"
        discovery.etcd.endpoints = ["{}"]
        upstreams.web.consul.service = "web"
        "#,
        consul.url(),
        etcd.url(),
    )))
    .await;
    let paths = ["/kv", "/etcd"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    // A stop writes what there is.
    gateway.terminate().await;
    consul.kill();
    etcd.kill();
    consul.start_empty().await;
    etcd.start_empty().await;
    let gateway = gateway.restart().await;
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    for name in ["consul", "consul-kv", "etcd"] {
        live(&gateway, name).await;
        wait::until_ok(SOON, "the hold", || async {
            let held = provider(&gateway, name).await["held"].to_string();
            if held.contains("counter went back") { Ok(()) } else { Err(held) }
        })
        .await;
    }
    load.more(200).await;
    load.stop().await.assert_all_ok();
    for name in ["consul", "consul-kv", "etcd"] {
        let (fine, said) = run(&gateway, &["accept", name, "--yes"]);
        assert!(fine, "{said}");
    }
    for path in paths {
        gateway.until_status(path, 404).await;
    }
}
