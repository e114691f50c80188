//! What is tried again, where and how often, and what never is.

use std::time::Duration;

use crate::support::client::{Connection, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::{place, wait};

const SOON: Duration = Duration::from_secs(20);

/// A gateway in front of these endpoints, in turn and whatever they do; with further lines for its route.
async fn before(endpoints: &[&Origin], route: &str) -> Gateway {
    let addresses: Vec<String> = endpoints.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
    Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.app]
        balance = "round_robin"
        passive_health = {{ consecutive_failures = 0 }}
        endpoints = [{}]
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        {route}
        "#,
        addresses.join(", ")
    ))
    .await
}

async fn taken(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("fleetgate_upstream_retries_total", &[("upstream", "app"), ("result", result)]).await.unwrap_or(0.0)
}

#[tokio::test]
async fn one_of_two_that_resets_costs_no_idempotent_request() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let gateway = before(&[&good, &bad], "").await;
    let body = "x".repeat(64 * 1024);
    for turn in 0..10 {
        assert_eq!(gateway.get("/").await.status, 200);
        let answer = gateway.send(Request::new("PUT", "/put").body(format!("{turn}"))).await;
        assert_eq!((answer.status, &answer.json()["body"]), (200, &turn.to_string().into()));
        let answer = gateway.send(Request::new("PUT", "/large").body(body.clone())).await;
        assert_eq!((answer.status, answer.json()["body"].as_str().map(str::len)), (200, Some(64 * 1024)));
    }
    assert!(bad.requests() > 0 && taken(&gateway, "taken").await > 0.0, "the bad one was tried");
    let line = gateway.until_logged("a second try", |line| line["attempts"] == 2).await;
    assert_eq!((&line["status"], &line["flag"]), (&200.into(), &"".into()));
    assert_eq!(line["endpoint"], good.address().to_string());
}

#[tokio::test]
async fn chunks_and_trailers_are_sent_again_as_they_came() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let gateway = before(&[&good, &bad], "").await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    for _ in 0..4 {
        let request = "PUT / HTTP/1.1\r\nhost: a\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
                       3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n";
        client.send(request.as_bytes()).await.expect("to send");
        let answer = client.answer("PUT").await.expect("an answer");
        let seen = answer.json();
        assert_eq!((answer.status, &seen["body"]), (200, &"abcdefg".into()));
        assert_eq!(seen["trailers"], serde_json::json!([["x-sum", "7"]]));
    }
    assert!(bad.requests() > 0, "the bad one was tried");
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let gateway = before(&[&good, &bad], "retry = { attempts = 3 }").await;
    let mut failed = 0;
    for turn in 0..20 {
        let answer = gateway.send(Request::post("/", format!("order {turn}"))).await;
        assert!(matches!(answer.status, 200 | 502), "{}", answer.status);
        if answer.status == 502 {
            assert_eq!(answer.header("x-fleetgate-flag"), Some("UC"));
            failed += 1;
        }
    }
    assert!(failed > 0);
    assert_eq!((good.requests(), bad.requests()), (20 - failed, failed), "each order arrived once");
    // Too large to be kept: sent once, too.
    let large = "x".repeat(64 * 1024 + 1);
    let mut gone = 0.0;
    for _ in 0..20 {
        let answer = gateway.send(Request::new("PUT", "/").body(large.as_str())).await;
        gone += if answer.status == 502 { 1.0 } else { 0.0 };
    }
    assert_eq!(good.requests() + bad.requests(), 40);
    assert!(gone > 0.0);
    assert_eq!(taken(&gateway, "body").await, gone);
}

#[tokio::test]
async fn methods_that_a_service_takes_twice_can_be_named() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let gateway = before(&[&good, &bad], "retry = { methods = [\"POST\"] }").await;
    for turn in 0..4 {
        let answer = gateway.send(Request::post("/", format!("order {turn}"))).await;
        assert_eq!((answer.status, &answer.json()["body"]), (200, &format!("order {turn}").into()));
    }
}

#[tokio::test]
async fn what_reached_nobody_is_tried_elsewhere_by_any_method() {
    let good = Origin::start("good").await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        upstreams.app = {{ balance = "round_robin", endpoints = ["{}", "{}"], retry_budget = {{ percent = 0, min = 0 }} }}
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        "#,
        good.address(),
        place::refusing()
    ))
    .await;
    for turn in 0..10 {
        let answer = gateway.send(Request::post("/", format!("order {turn}"))).await;
        assert_eq!((answer.status, &answer.json()["body"]), (200, &format!("order {turn}").into()));
    }
    assert!(taken(&gateway, "taken").await > 0.0, "the budget is for what services get twice");
}

#[tokio::test]
async fn listed_statuses_are_asked_for_again_and_the_last_answer_is_passed_on() {
    let (good, busy) = (Origin::start("good").await, Origin::start("busy").await);
    busy.set(Behaviour::Status(503));
    let gateway = before(&[&good, &busy], "retry = { attempts = 2, on = [\"503\", \"gateway-error\"] }").await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.served_by(), "good/v1");
        let answer = gateway.send(Request::post("/", "order")).await;
        assert_eq!(answer.status, if answer.served_by() == "good/v1" { 200 } else { 503 });
    }
    assert!(busy.connections() < busy.requests(), "connections of unwanted answers are used again");
    busy.set(Behaviour::Status(500));
    good.set(Behaviour::Status(500));
    let before_500 = good.requests() + busy.requests();
    assert_eq!(gateway.get("/").await.status, 500);
    assert_eq!(good.requests() + busy.requests(), before_500 + 1, "500 is not listed");
    good.set(Behaviour::Status(503));
    busy.set(Behaviour::Status(502));
    let answer = gateway.get("/all-busy").await;
    assert!(matches!(answer.status, 502 | 503) && !answer.served_by().is_empty(), "{answer:?}");
    assert_eq!(answer.header("x-fleetgate-flag"), None, "the answer is the service's");
    let line = gateway.until_logged("all tries", |line| line["path"] == "/all-busy").await;
    assert_eq!((&line["attempts"], &line["flag"]), (&3.into(), &"URX".into()));
    assert_eq!(taken(&gateway, "limit").await, 1.0);
}

#[tokio::test]
async fn one_that_is_frozen_costs_its_time_for_a_try() {
    let (good, frozen) = (Origin::start("good").await, Origin::start("frozen").await);
    frozen.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let gateway = before(&[&good, &frozen], "retry = { per_try_timeout = \"200ms\" }").await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.served_by(), "good/v1");
    }
    assert!(frozen.requests() > 0);
    let mut late = gateway.send(Request::post("/", "a")).await;
    for _ in 0..20 {
        if late.status == 200 {
            late = gateway.send(Request::post("/", "a")).await;
        }
    }
    assert_eq!((late.status, late.header("x-fleetgate-flag")), (504, Some("UT")), "it may have been done");
}

#[tokio::test]
async fn tries_end_with_the_time_of_their_exchange() {
    let frozen = Origin::start("frozen").await;
    frozen.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let route = "timeout = \"500ms\"\nretry = { attempts = 10, per_try_timeout = \"200ms\" }";
    let gateway = before(&[&frozen], route).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (504, Some("UT")));
    assert!((1..=3).contains(&frozen.requests()), "{} tries of 200 ms in 500 ms", frozen.requests());
}

#[tokio::test]
async fn a_retry_never_leaves_its_target() {
    let (stable, canary) = (Origin::start_version("app", "v1").await, Origin::start_version("app", "v2").await);
    canary.set(Behaviour::Reset);
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.app]
        endpoints = [
          {{ address = "{}", labels = {{ version = "v1" }} }},
          {{ address = "{}", labels = {{ version = "v2" }} }},
        ]
        subsets = {{ stable = {{ version = "v1" }}, canary = {{ version = "v2" }} }}
        [routes.all]
        match = {{ path = "/" }}
        retry = {{ attempts = 3 }}
        targets = [
          {{ upstream = "app", subset = "canary", when = {{ headers = {{ x-canary = "always" }} }} }},
          {{ upstream = "app", subset = "stable" }},
        ]
        "#,
        stable.address(),
        canary.address()
    ))
    .await;
    let answer = gateway.send(Request::get("/").header("x-canary", "always")).await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("URX")));
    assert_eq!((stable.requests(), canary.requests()), (0, 4));
}

#[tokio::test]
async fn a_storm_of_retries_is_kept_to_the_budget() {
    let busy = Origin::start("busy").await;
    busy.set(Behaviour::Hold(Box::new(Behaviour::Status(503))));
    let gateway = before(&[&busy], "retry = { attempts = 5, on = [\"503\"] }").await;
    let clients: Vec<_> = (0..40).map(|_| tokio::spawn(Request::get("/").send(gateway.address()))).collect();
    wait::until(SOON, "all clients' requests", || async { busy.requests() == 40 }).await;
    busy.release();
    wait::until(SOON, "a decision for each", || async {
        taken(&gateway, "taken").await + taken(&gateway, "budget").await == 40.0
    })
    .await;
    let granted = taken(&gateway, "taken").await;
    assert!((3.0..=8.0).contains(&granted), "{granted} of 40 were sent again: a fifth at most, at least 3");
    wait::until(SOON, "those to arrive", || async { busy.requests() == 40 + granted as usize }).await;
    // The last retries are few enough to be allowed; what is left of the storm ends.
    busy.set(Behaviour::Status(503));
    busy.release();
    for client in clients {
        assert_eq!(client.await.expect("an answer").status, 503);
    }
    assert!(busy.requests() <= 40 + 5 * granted as usize, "{}", busy.requests());
}

#[tokio::test]
async fn under_load_one_that_begins_to_reset_costs_no_client_anything() {
    for balance in ["least_requests", "round_robin"] {
        let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
        let gateway = Gateway::start(&format!(
            r#"
            listeners.web.address = "127.0.0.1:0"
            admin.address = "127.0.0.1:0"
            upstreams.app = {{ balance = "{balance}", endpoints = ["{}", "{}"] }}
            routes.all = {{ match = {{ path = "/" }}, upstream = "app", retry = {{ attempts = 2 }} }}
            "#,
            good.address(),
            bad.address()
        ))
        .await;
        let load = Load::start(gateway.address(), 32, |_, _| Request::get("/"));
        load.more(300).await;
        bad.set(Behaviour::Reset);
        load.more(1_000).await;
        let report = load.stop().await;
        let refused = taken(&gateway, "budget").await;
        assert_eq!(refused, 0.0, "{balance}");
        report.assert_all_ok();
        assert!(taken(&gateway, "taken").await > 0.0);
    }
}

#[tokio::test]
async fn mistakes_are_told_with_their_place() {
    let config = r#"
        listeners.web.address = "127.0.0.1:0"
        [upstreams.app]
        endpoints = ["127.0.0.1:9"]
        retry_budget = { percent = 101 }
        [routes.all]
        match = { path = "/" }
        upstream = "app"
        retry = { on = ["conect", "200", "503"], backoff = { base = "1s", max = "10ms" }, methods = ["get"] }
        "#;
    Setup::new(config).assert_check_tells(&[
        "5:36: upstreams.app.retry_budget.percent: 101 is not from 0 to 100",
        "9:25: routes.all.retry.on[0]: unknown condition `conect`; did you mean `connect`?",
        "9:35: routes.all.retry.on[1]: `200` is not a status from 400 to 599",
        "routes.all.retry.backoff.max: must not be less than `base`",
        "routes.all.retry.methods[0]: methods are written in capitals: `GET`",
    ]);
}
