//! Traffic while tokens end, roles are taken away and authentication is switched on and off.

use super::super::{SOON, fails, live, stops, takes};
use super::{Scene, key};
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait;

const PASSWORD: &str = "correct-horse";
const LOGIN: &str = "user = \"gateway\"\npassword = \"correct-horse\"";

async fn with_auth(etcd: &Etcd) {
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", PASSWORD, "/fleetgate/").await;
}

/// Fault case 46: a token that ended while nothing asked for it, a role that is taken away and given back,
/// authentication switched off and on.
#[tokio::test]
async fn whatever_happens_to_its_user_costs_no_request() {
    let Some(etcd) = Etcd::start_with(&["--auth-token-ttl=2"]).await else { return };
    with_auth(&etcd).await;
    let proxy = Proxy::start(etcd.client_address()).await;
    let scene = Scene::start(&etcd, &[proxy.url()], LOGIN).await;
    let c = Origin::start("c").await;

    // Longer than a token lives, which an open watch does not use.
    let is_live = || async { super::super::provider(&scene.gateway, "etcd").await["state"] == "live" };
    wait::always(std::time::Duration::from_secs(4), "a live watch", is_live).await;
    proxy.set(Mode::Hold);
    super::put(&etcd, &c).await;
    proxy.cut();
    fails(&scene.gateway, "etcd", "").await;
    proxy.set(Mode::Pass);
    takes(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;

    etcd.revoke_reader("gateway").await;
    proxy.cut();
    fails(&scene.gateway, "etcd", "permission denied").await;
    scene.load.more(200).await;
    takes(&scene.load, "c/v1").await;
    etcd.call("auth/user/grant", serde_json::json!({ "user": "gateway", "role": "gateway" })).await;
    live(&scene.gateway, "etcd").await;
    etcd.delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;

    etcd.disable_auth().await;
    proxy.cut();
    super::put(&etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    etcd.call("auth/enable", serde_json::json!({})).await;
    etcd.log_in("root-secret");
    proxy.cut();
    etcd.delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    assert!(!scene.gateway.stderr().contains(PASSWORD), "a secret in the log");
    scene.end().await;
}

/// Fault case 46: a token of a store that was wiped since, which would block calls until their deadline. The store is
/// empty: what it lost is held.
#[tokio::test]
async fn a_token_from_before_a_wipe_costs_no_request() {
    let Some(mut etcd) = Etcd::start().await else { return };
    for number in 0..50 {
        etcd.put(&key("early"), &format!("10.0.0.{number}:80")).await;
    }
    etcd.delete(&key("early")).await;
    with_auth(&etcd).await;
    let scene = Scene::start(&etcd, &[etcd.url()], LOGIN).await;
    etcd.kill();
    etcd.start_empty().await;
    with_auth(&etcd).await;
    let c = Origin::start("c").await;
    super::put(&etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    wait::until(SOON, "both to be held", || async {
        let states = scene.gateway.endpoints("svc").await;
        states.iter().filter(|(_, state)| state == "held").count() == 2
    })
    .await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}
