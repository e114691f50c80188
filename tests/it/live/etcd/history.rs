//! Traffic while the gateway misses history: held up, compacted away, cut in the middle, too heavy for one message.

use futures_util::future::join_all;

use super::super::{SOON, fails, live, stops, takes};
use super::{Scene, key};
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{long_tests, wait};

/// Writes many keys of `svc` at addresses where a pool may have them but nobody is sent: weight 0.
async fn crowd(etcd: &Etcd, count: u32, padding: &str) {
    let ids: Vec<u32> = (0..count).collect();
    for part in ids.chunks(50) {
        join_all(part.iter().map(|id| async move {
            let address = format!("10.1.{}.{}:80", id / 250, id % 250);
            let value = format!(r#"{{"address":"{address}","weight":0,"labels":{{"p":"{padding}"}}}}"#);
            etcd.put(&key(&format!("crowd-{id:04}")), &value).await;
        }))
        .await;
    }
}

/// Waits until a pool has so many endpoints.
async fn counts(scene: &Scene, count: usize) {
    wait::until_ok(SOON, &format!("{count} endpoints"), || async {
        let now = scene.gateway.endpoints("svc").await.len();
        if now == count { Ok(()) } else { Err(now) }
    })
    .await;
}

/// What etcd has sent is lost on the way, and nothing arrives until [`Mode::Pass`].
async fn broken(scene: &Scene, proxy: &Proxy) {
    proxy.cut();
    fails(&scene.gateway, "etcd", "").await;
}

/// Fault case 40: the stream is held up during 1,500 writes, which are compacted away: only a list can tell, and all
/// at once.
#[tokio::test]
async fn history_that_is_compacted_away_costs_no_request() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(etcd.client_address()).await;
    let scene = Scene::start(&etcd, &[proxy.url()], "").await;
    let (c, d) = (Origin::start("c").await, Origin::start("d").await);
    super::put(&etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    proxy.set(Mode::Hold);
    crowd(&etcd, 1_500, "").await;
    etcd.delete_prefix(&key("crowd-")).await;
    etcd.delete(&key("c")).await;
    super::put(&etcd, &d).await;
    etcd.compact(etcd.revision().await).await;
    broken(&scene, &proxy).await;
    scene.load.more(100).await;
    proxy.set(Mode::Pass);
    takes(&scene.load, "d/v1").await;
    stops(&scene.load, "c/v1").await;
    counts(&scene, 3).await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}

/// Fault case 41: after an interruption etcd sends the history in batches that all claim its newest revision; the
/// connection ends after the first. Returns who came by it.
async fn cut_in_the_middle(etcd: &Etcd, scene: &Scene, proxy: &Proxy) -> Origin {
    let (c, d) = (Origin::start("c").await, Origin::start("d").await);
    super::put(etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    proxy.set(Mode::Hold);
    crowd(etcd, 2_600, "").await;
    etcd.delete(&key("crowd-0007")).await;
    etcd.delete(&key("c")).await;
    super::put(etcd, &d).await;
    broken(scene, proxy).await;
    // Enough for a thousand changes, too little for all.
    proxy.set(Mode::CutAfter(150_000));
    wait::until(SOON, "a part of the history", || async { scene.gateway.endpoints("svc").await.len() > 500 }).await;
    proxy.set(Mode::Pass);
    counts(scene, 2 + 2_599 + 1).await;
    takes(&scene.load, "d/v1").await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    d
}

#[tokio::test]
async fn history_that_is_cut_in_the_middle_costs_no_request() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(etcd.client_address()).await;
    let scene = Scene::start(&etcd, &[proxy.url()], "").await;
    let _came = cut_in_the_middle(&etcd, &scene, &proxy).await;
    scene.end().await;
}

/// What a slow network delivers all at once are hundreds of messages, a change each. Values that change tell which of
/// them were taken: of keys that come or go the next count would tell.
#[tokio::test]
async fn changes_that_arrive_all_at_once_are_all_seen() {
    const COUNT: u32 = 300;
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(etcd.client_address()).await;
    let scene = Scene::start(&etcd, &[proxy.url()], "").await;
    crowd(&etcd, COUNT, "before").await;
    counts(&scene, 2 + COUNT as usize).await;
    proxy.set(Mode::Hold);
    crowd(&etcd, COUNT, "after").await;
    proxy.set(Mode::Pass);
    wait::until_ok(SOON, "the last values of all", || async {
        let upstream = scene.gateway.api("upstreams/svc").await;
        let all = upstream["endpoints"].as_array().cloned().unwrap_or_default();
        let stale: Vec<_> = all.iter().filter(|it| it["labels"]["p"] == "before").map(|it| &it["address"]).collect();
        if stale.is_empty() { Ok(()) } else { Err(format!("{stale:?} are as before")) }
    })
    .await;
    scene.end().await;
}

/// Fault case 42: more history than a message may have.
#[tokio::test]
async fn history_that_is_too_heavy_for_a_message_costs_no_request() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(etcd.client_address()).await;
    let scene = Scene::start(&etcd, &[proxy.url()], "").await;
    proxy.set(Mode::Hold);
    crowd(&etcd, 600, &"x".repeat(10_000)).await;
    broken(&scene, &proxy).await;
    proxy.set(Mode::Pass);
    counts(&scene, 602).await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}

/// Fault cases 43 and 48: nothing happens for more than a minute, on both versions. The connection stays, and the
/// watches are asked whether they live; 3.4.23 answers that with a revision whose changes it has not sent yet. Then
/// the history is cut in the middle: nothing of it is lost.
#[tokio::test]
async fn what_etcd_answers_when_nothing_happens_is_no_reason_to_skip_anything() {
    if !long_tests() {
        return;
    }
    let (Some(early), Some(usual)) = (Etcd::start_early().await, Etcd::start().await) else { return };
    for etcd in [early, usual] {
        let proxy = Proxy::start(etcd.client_address()).await;
        let scene = Scene::start(&etcd, &[proxy.url()], "").await;
        let connections = proxy.connections();
        let watches = etcd.watch_messages().await;
        wait::always(std::time::Duration::from_secs(70), "the same connections", || async {
            proxy.connections() == connections
        })
        .await;
        assert!(etcd.watch_messages().await > watches, "progress was asked for");
        let _came = cut_in_the_middle(&etcd, &scene, &proxy).await;
        scene.end().await;
    }
}
