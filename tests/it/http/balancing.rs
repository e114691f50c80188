//! Shares, canaries, sticky clients, turns and health checks, with real traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::client::{Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

struct Split {
    gateway: Gateway,
    stable: Origin,
    canary: Origin,
}

fn config(stable: &Origin, canary: &Origin, weights: (u32, u32), sticky: &str) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.users]
        endpoints = [
          {{ address = "{}", labels = {{ version = "v1" }} }},
          {{ address = "{}", labels = {{ version = "v2" }} }},
        ]
        subsets = {{ stable = {{ version = "v1" }}, canary = {{ version = "v2" }} }}
        [routes.users]
        match = {{ path = "/" }}
        {sticky}
        targets = [
          {{ upstream = "users", subset = "canary", when = {{ headers = {{ x-canary = "always" }} }} }},
          {{ upstream = "users", subset = "stable", weight = {} }},
          {{ upstream = "users", subset = "canary", weight = {} }},
        ]
        "#,
        stable.address(),
        canary.address(),
        weights.0,
        weights.1
    )
}

async fn split(weights: (u32, u32), sticky: &str) -> Split {
    let (stable, canary) = (Origin::start_version("users", "v1").await, Origin::start_version("users", "v2").await);
    let gateway = Gateway::start(&config(&stable, &canary, weights, sticky)).await;
    Split { gateway, stable, canary }
}

#[tokio::test]
async fn a_share_of_five_percent_is_five_percent_of_100_000_requests() {
    let split = split((95, 5), "").await;
    let load = Load::start(split.gateway.address(), 16, |_, _| Request::get("/"));
    wait::until(Duration::from_secs(300), "100,000 answers", || async { load.report().answers() >= 100_000 }).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let share = report.served_by("users/v2") as f64 / report.answers() as f64 * 100.0;
    assert!((share - 5.0).abs() <= 0.35, "{share} % of {}", report.answers());
    let counted = split.gateway.metric("fleetgate_target_requests_total", &[("route", "users")]).await;
    assert_eq!(counted, Some(report.answers() as f64));
}

#[tokio::test]
async fn requests_with_the_header_always_reach_the_canary_or_fail() {
    let mut split = split((100, 0), "").await;
    for _ in 0..200 {
        let answer = split.gateway.send(Request::get("/").header("x-canary", "always")).await;
        assert_eq!(answer.served_by(), "users/v2");
        assert_eq!(split.gateway.get("/").await.served_by(), "users/v1");
    }
    split.canary.stop().await;
    let answer = split.gateway.send(Request::get("/").header("x-canary", "always")).await;
    assert_eq!(answer.status, 502, "the tester must know");
    assert_eq!(split.gateway.get("/").await.served_by(), "users/v1");
    assert!(split.stable.requests() > 200);
}

#[tokio::test]
async fn a_version_without_endpoints_gives_its_share_back_and_that_is_counted() {
    let (stable, canary) = (Origin::start_version("users", "v1").await, Origin::start_version("users", "v2").await);
    let drained = config(&stable, &canary, (1, 1), "")
        .replace("labels = { version = \"v2\" }", "weight = 0, labels = { version = \"v2\" }");
    let gateway = Gateway::start(&drained).await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.served_by(), "users/v1");
    }
    let counted = gateway.metric("fleetgate_target_passed_over_total", &[("target", "users/canary")]).await;
    assert!((Some(5.0)..=Some(35.0)).contains(&counted), "about half of 40: {counted:?}");
    let tester = gateway.send(Request::get("/").header("x-canary", "always")).await;
    assert_eq!((tester.status, tester.header("x-fleetgate-flag")), (503, Some("UH")));
}

#[tokio::test]
async fn no_user_leaves_a_share_that_grows() {
    let split = split((95, 5), "sticky = { header = \"x-user-id\" }").await;
    let mut canary_before = BTreeSet::new();
    for weight in [5, 20, 50] {
        split.gateway.write_config(&config(
            &split.stable,
            &split.canary,
            (100 - weight, weight),
            "sticky = { header = \"x-user-id\" }",
        ));
        wait::until(SOON, "the new share", || async {
            split.gateway.api("routes").await.to_string().contains(&format!("\"weight\":{weight}"))
        })
        .await;
        let mut client = Connection::open(split.gateway.address()).await.expect("to connect");
        let mut canary = BTreeSet::new();
        for user in 0..400 {
            let request = Request::get("/").header("x-user-id", &format!("user-{user}"));
            let mut sides = BTreeSet::new();
            for _ in 0..2 {
                sides.insert(client.exchange(&request).await.expect("an answer").served_by().to_owned());
            }
            assert_eq!(sides.len(), 1, "user {user} stays on one side");
            if sides.contains("users/v2") {
                canary.insert(user);
            }
        }
        assert!(canary.is_superset(&canary_before), "{:?}", canary_before.difference(&canary));
        assert!(canary.len() > canary_before.len());
        canary_before = canary;
    }
}

#[tokio::test]
async fn a_client_without_its_cookie_gets_one_that_holds() {
    let split = split((50, 50), "sticky = { cookie = \"side\" }").await;
    for _ in 0..10 {
        let first = split.gateway.get("/").await;
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        assert!(cookie.starts_with("side=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
        let pair = cookie.split(';').next().expect("a pair");
        for _ in 0..5 {
            let again = split.gateway.send(Request::get("/").header("cookie", &format!("other=1; {pair}"))).await;
            assert_eq!(again.served_by(), first.served_by());
            assert_eq!(again.header("set-cookie"), None);
        }
    }
}

#[tokio::test]
async fn turns_follow_weights_and_a_drained_endpoint_gets_none() {
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let [a, b, c] = origins.each_ref().map(Origin::address);
    let gateway = Gateway::start(&format!(
        r#"
        runtime.workers = 1
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.app]
        balance = "round_robin"
        endpoints = [{{ address = "{a}", weight = 3 }}, "{b}", {{ address = "{c}", weight = 0 }}]
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        "#
    ))
    .await;
    let mut served = BTreeMap::<String, u32>::new();
    for _ in 0..400 {
        *served.entry(gateway.get("/").await.served_by().to_owned()).or_default() += 1;
    }
    assert!(served["a/v1"].abs_diff(300) <= 1 && served["b/v1"].abs_diff(100) <= 1, "{served:?}");
    assert_eq!(served.get("c/v1"), None);
    let states = gateway.endpoints("app").await;
    assert!(states.contains(&(c.to_string(), "draining".to_owned())), "{states:?}");
}

#[tokio::test]
async fn an_endpoint_whose_checks_fail_gets_no_traffic_until_they_pass() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.app]
        balance = "round_robin"
        endpoints = ["{}", "{}"]
        health_check = {{ path = "/healthz", interval = "100ms", timeout = "1s", unhealthy_threshold = 2, healthy_threshold = 2 }}
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        "#,
        good.address(),
        bad.address()
    ))
    .await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    let state = |wanted: &'static str| {
        let (gateway, address) = (&gateway, bad.address().to_string());
        wait::until(SOON, wanted, move || {
            let address = address.clone();
            async move { gateway.endpoints("app").await.contains(&(address, wanted.to_owned())) }
        })
    };
    state("healthy").await;
    wait::until(SOON, "traffic", || async { bad.requests() > 0 }).await;
    bad.set_healthy(false);
    state("unhealthy").await;
    let before = bad.requests();
    wait::until(SOON, "traffic to the other", || async { good.requests() > before + 50 }).await;
    // What was on its way when the state flipped may still arrive.
    assert!(bad.requests() <= before + 2, "{} requests more", bad.requests() - before);
    bad.set_healthy(true);
    state("healthy").await;
    let before = bad.requests();
    wait::until(SOON, "traffic again", || async { bad.requests() > before }).await;
    load.stop().await.assert_all_ok();
}
