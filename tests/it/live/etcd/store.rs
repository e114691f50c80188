//! Traffic while operators put an older backup in place, and while a store is defragmented.

use super::super::{SOON, fails, live, stops, takes};
use super::{Scene, key};
use crate::operator::run;
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait;

/// Fault case 45: an older backup is put in place; the second time so that its revisions look like later ones. What
/// the backup knows is live, what it lacks is used until somebody says that it is right.
#[tokio::test]
async fn a_restored_store_costs_no_request() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let scene = Scene::start(&etcd, &[etcd.url()], "").await;
    let (c, d, e) = (Origin::start("c").await, Origin::start("d").await, Origin::start("e").await);
    super::put(&etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    etcd.save(&file);
    for (more, went_back) in [(&[][..], true), (&["--bump-revision=1000000", "--mark-compacted"], false)] {
        etcd.delete(&key("c")).await;
        stops(&scene.load, "c/v1").await;
        for _ in 0..20 {
            super::put(&etcd, &d).await;
        }
        takes(&scene.load, "d/v1").await;
        etcd.restore(&file, more).await;
        takes(&scene.load, "c/v1").await;
        if went_back {
            takes(&scene.load, "d/v1").await;
            let held = (d.address().to_string(), "held".to_owned());
            assert!(scene.gateway.endpoints("svc").await.contains(&held));
            let (fine, said) = run(&scene.gateway, &["accept", "etcd", "--yes"]);
            assert!(fine, "{said}");
        }
        stops(&scene.load, "d/v1").await;
        // The stream follows the store as it is now.
        super::put(&etcd, &e).await;
        takes(&scene.load, "e/v1").await;
        etcd.delete(&key("e")).await;
        stops(&scene.load, "e/v1").await;
        live(&scene.gateway, "etcd").await;
    }
    scene.end().await;
}

/// As fault case 45 with a backup that lacks nothing: nothing is held, and who leaves afterwards goes at once.
#[tokio::test]
async fn a_restored_store_that_lacks_nothing_is_believed_at_once() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let scene = Scene::start(&etcd, &[etcd.url()], "").await;
    let c = Origin::start("c").await;
    super::put(&etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    etcd.save(&file);
    for number in 0..20 {
        etcd.put("/elsewhere", &number.to_string()).await;
    }
    // The watch has seen more than there will be.
    let count = |count: usize| {
        let gateway = &scene.gateway;
        wait::until(SOON, "the endpoint that gets nothing", move || async move {
            gateway.endpoints("svc").await.len() == count
        })
    };
    etcd.put(&key("d"), r#"{"address":"127.0.0.1:1","weight":0}"#).await;
    count(4).await;
    etcd.delete(&key("d")).await;
    count(3).await;
    etcd.restore(&file, &[]).await;
    wait::until_ok(SOON, "the regression to be seen", || async {
        let log = scene.gateway.stderr().text();
        if log.contains("etcd's revision went back") { Ok(()) } else { Err(log) }
    })
    .await;
    live(&scene.gateway, "etcd").await;
    etcd.delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;
    scene.end().await;
}

/// As fault case 45 with a store that counts further than it did by the time the gateway reaches it again: its
/// revisions are those of other changes, and as many keys as before tell nothing either.
#[tokio::test]
async fn a_restored_store_that_has_overtaken_the_gateway_costs_no_request_and_no_change() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let proxy = Proxy::start(etcd.client_address()).await;
    let scene = Scene::start(&etcd, &[proxy.url()], "").await;
    let (c, d) = (Origin::start("c").await, Origin::start("d").await);
    etcd.save(&file);
    super::put(&etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    proxy.set(Mode::Hold);
    proxy.cut();
    fails(&scene.gateway, "etcd", "").await;
    let before = etcd.revision().await;
    etcd.restore(&file, &[]).await;
    super::put(&etcd, &d).await;
    while etcd.revision().await <= before {
        etcd.put("/elsewhere", "").await;
    }
    proxy.set(Mode::Pass);
    takes(&scene.load, "d/v1").await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}

/// Fault case 49.
#[tokio::test]
async fn a_defragmentation_among_writes_costs_no_request() {
    let Some(etcd) = Etcd::start().await else { return };
    let padding = "x".repeat(100_000);
    for number in 0..100 {
        etcd.put(&format!("/padding/{number}"), &padding).await;
    }
    etcd.delete_prefix("/padding/").await;
    let scene = Scene::start(&etcd, &[etcd.url()], "").await;
    let c = Origin::start("c").await;
    let writes = async {
        for number in 1..=200 {
            let value = format!(r#"{{"address":"{}","labels":{{"number":"{number}"}}}}"#, c.address());
            etcd.put(&key("c"), &value).await;
        }
    };
    tokio::join!(writes, etcd.defragment());
    takes(&scene.load, "c/v1").await;
    wait::until(SOON, "the last value", || async {
        let endpoints = scene.gateway.api("upstreams/svc").await["endpoints"].clone();
        endpoints.as_array().unwrap().iter().any(|endpoint| endpoint["labels"]["number"] == "200")
    })
    .await;
    let watches = super::super::provider(&scene.gateway, "etcd").await["watches"].clone();
    assert!(watches.as_array().unwrap().iter().all(|watch| watch["sessions"] == 1), "{watches}");
    scene.end().await;
}
