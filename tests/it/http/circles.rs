//! Gateways one behind another, and one that is its own service.

use std::time::Duration;

use super::{before, config_of, with};
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

/// A gateway before another one.
async fn in_front_of(gateway: &Gateway) -> Gateway {
    Gateway::start(&config_of([], "").replace("endpoints = []", &format!("endpoints = [\"{}\"]", gateway.address())))
        .await
}

#[tokio::test]
async fn a_gateway_that_is_its_own_service_says_so_and_lives() {
    let origin = Origin::start("app").await;
    // What comes back answers with 508, which a gateway is not asked twice for.
    let retry = ("routes.all", "retry = { attempts = 3, on = [\"5xx\", \"reset\"] }");
    let gateway = with(&origin, &[retry, ("upstreams.app", "allow_self = true")]).await;
    let address = gateway.address().to_string();
    let config = std::fs::read_to_string(gateway.folder().join("fleetgate.toml")).expect("its configuration");
    gateway.write_config(&config.replace(&origin.address().to_string(), &address));
    wait::until(SOON, "the circle", || async { gateway.endpoints("app").await[0].0 == address }).await;
    for _ in 0..20 {
        let answer = gateway.send(Request::get("/around")).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (508, Some("NC")), "{}", answer.text());
        assert_eq!(answer.text(), "508 loop_detected\n");
    }
    assert_eq!(origin.requests(), 0);
    let rounds = gateway.access_log().iter().filter(|line| line["path"] == "/around").count();
    assert!(rounds <= 20 * 9, "{rounds} exchanges of 20");
    let refused = gateway.until_logged("the last of a circle", |line| line["flag"] == "NC").await;
    assert_eq!((&refused["status"], &refused["route"], &refused["attempts"]), (&508.into(), &"all".into(), &0.into()));
    // It serves others as soon as the mistake is mended.
    gateway.write_config(&config);
    gateway.until_status("/", 200).await;
}

#[tokio::test]
async fn gateways_in_a_row_are_no_circle() {
    let origin = Origin::start("app").await;
    let last = before(&origin).await;
    let middle = in_front_of(&last).await;
    let first = in_front_of(&middle).await;
    assert_eq!(first.get("/").await.status, 200);
    assert_eq!(origin.last_seen().expect("it arrived").header("via"), ["1.1 fleetgate"; 3]);
}
