//! What becomes of exchanges at instances that Consul takes out of use.

use std::time::Duration;

use super::super::takes;
use super::before_with;
use crate::http::upgrades::{assert_closed, closed_in_order, echo_frame, open};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

async fn stands(gateway: &Gateway, origin: &Origin, state: &str) {
    let wanted = [(origin.address().to_string(), state.to_owned())];
    wait::until(SOON, state, || async { gateway.endpoints("web").await == wanted }).await;
}

#[tokio::test]
async fn instances_that_are_critical_maintained_or_gone_are_drained() {
    let Some(consul) = Consul::start().await else { return };
    let origin = Origin::start("a").await;
    origin.set(Behaviour::WebSocket);
    let service = Service::new("web", "a", origin.address()).checked("passing");
    consul.register(&service).await;
    let gateway = before_with(&consul, "drain_timeout = \"6s\"", "").await;
    gateway.until_status("/", 200).await;

    // Critical for less than a drain lasts, and gone for less: nothing happens to who is there.
    let mut socket = open(gateway.address()).await;
    consul.set_check("a", "critical").await;
    stands(&gateway, &origin, "unhealthy").await;
    echo_frame(&mut socket, "critical").await;
    consul.set_check("a", "passing").await;
    stands(&gateway, &origin, "healthy").await;
    consul.deregister("a").await;
    wait::until(SOON, "its end", || async { gateway.endpoints("web").await.is_empty() }).await;
    echo_frame(&mut socket, "gone").await;
    consul.register(&service).await;
    stands(&gateway, &origin, "healthy").await;
    let back = tokio::time::Instant::now();
    while back.elapsed() < Duration::from_secs(7) {
        echo_frame(&mut socket, "back").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    consul.set_check("a", "critical").await;
    closed_in_order(&mut socket).await;
    consul.set_check("a", "passing").await;
    stands(&gateway, &origin, "healthy").await;
    let mut socket = open(gateway.address()).await;
    consul.maintain("a", true).await;
    stands(&gateway, &origin, "maintenance").await;
    closed_in_order(&mut socket).await;
    consul.maintain("a", false).await;
    stands(&gateway, &origin, "healthy").await;
    let mut socket = open(gateway.address()).await;
    consul.deregister("a").await;
    closed_in_order(&mut socket).await;
    for heard in &origin.heard()[1..] {
        assert_closed(heard, &[]);
    }
    assert!(gateway.access_log().iter().filter(|line| line["status"] == 101).all(|line| line["flag"] == ""));
}

/// Below the panic threshold critical instances take their share, and go on to however long they are critical.
#[tokio::test]
async fn critical_instances_are_not_drained_where_they_may_be_wanted() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let register =
        async |of: &Origin| consul.register(&Service::new("web", &of.name, of.address()).checked("passing")).await;
    register(&a).await;
    a.set(Behaviour::WebSocket);
    let gateway = before_with(&consul, "panic_threshold = \"50%\"\ndrain_timeout = \"1s\"", "").await;
    gateway.until_status("/", 200).await;
    let mut socket = open(gateway.address()).await;
    register(&b).await;
    register(&c).await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::post("/", ""));
    takes(&load, "c/v1").await;
    for id in ["a", "b"] {
        consul.set_check(id, "critical").await;
    }
    wait::until(SOON, "panic", || async { gateway.api("upstreams/web").await["panic"] == true }).await;
    let since = tokio::time::Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        echo_frame(&mut socket, "here").await;
        for who in ["a/v1", "b/v1", "c/v1"] {
            takes(&load, who).await;
        }
    }
    load.stop().await.assert_all_ok();
}
