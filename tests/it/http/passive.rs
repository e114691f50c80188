//! Endpoints that requests take out of use, and how they come back.

use std::time::Duration;

use crate::support::client::Request;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

fn config(endpoints: &[&Origin], upstream: &str) -> String {
    let addresses: Vec<String> = endpoints.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.app]
        balance = "round_robin"
        endpoints = [{}]
        {upstream}
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        "#,
        addresses.join(", ")
    )
}

async fn state(gateway: &Gateway, origin: &Origin) -> String {
    let endpoints = gateway.endpoints("app").await;
    endpoints.into_iter().find(|(address, _)| *address == origin.address().to_string()).expect("the endpoint").1
}

async fn reasons(gateway: &Gateway, origin: &Origin) -> String {
    let upstream = gateway.api("upstreams/app").await;
    let endpoints = upstream["endpoints"].as_array().expect("endpoints");
    let address = origin.address().to_string();
    endpoints.iter().find(|endpoint| endpoint["address"] == address).expect("the endpoint")["reasons"].to_string()
}

/// Requests that may be repeated, all of which must succeed, until this endpoint has this state.
async fn until_state(gateway: &Gateway, origin: &Origin, wanted: &str) {
    wait::until(SOON, &format!("{} to be {wanted}", origin.name), || async {
        assert_eq!(gateway.get("/").await.status, 200);
        state(gateway, origin).await == wanted
    })
    .await;
}

#[tokio::test]
async fn one_that_resets_is_ejected_and_the_rest_of_the_pool_answers() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let gateway = Gateway::start(&config(&[&good, &bad], "passive_health = { base_ejection = \"60s\" }")).await;
    until_state(&gateway, &bad, "ejected").await;
    assert_eq!(bad.requests(), 5, "five in a row by default");
    for turn in 0..20 {
        let answer = gateway.send(Request::post("/", format!("order {turn}"))).await;
        assert_eq!((answer.status, answer.served_by()), (200, "good/v1"), "what cannot be repeated is safe now");
    }
    assert_eq!(bad.requests(), 5);

    assert!(reasons(&gateway, &bad).await.contains("requests to it failed in a row; a request tries it in"));
    let ejected = [("upstream", "app"), ("cause", "failures")];
    assert_eq!(gateway.metric("fleetgate_upstream_ejections_total", &ejected).await, Some(1.0));
    let counted = gateway.metric("fleetgate_upstream_endpoints", &[("upstream", "app"), ("state", "ejected")]).await;
    assert_eq!(counted, Some(1.0));
    let explained = gateway.api("explain?method=GET&url=http://a/").await;
    let endpoints = explained["upstreams"][0]["endpoints"].as_array().expect("endpoints").clone();
    let shown =
        endpoints.iter().find(|endpoint| endpoint["address"] == bad.address().to_string()).expect("the bad one");
    assert_eq!((&shown["state"], &shown["usable"]), (&"ejected".into(), &false.into()));
    wait::until(SOON, "an event", || async {
        let events = gateway.api("events?upstream=app").await;
        events["items"].as_array().is_some_and(|items| {
            let of = |item: &serde_json::Value| item["endpoint"] == bad.address().to_string();
            items.iter().any(|item| of(item) && item["cause"].to_string().contains("ejected: requests to it failed"))
        })
    })
    .await;
}

#[tokio::test]
async fn an_ejected_one_comes_back_by_a_single_request_that_went_well() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let gateway = Gateway::start(&config(&[&good, &bad], "passive_health = { base_ejection = \"1s\" }")).await;
    until_state(&gateway, &bad, "ejected").await;
    // It fails its first trials, which cost no client anything; each ejection is longer.
    wait::until(SOON, "a failed trial", || async {
        assert_eq!(gateway.get("/").await.status, 200);
        reasons(&gateway, &bad).await.contains("ejected 2 times of late")
    })
    .await;
    assert_eq!(bad.requests(), 6, "five, and a trial");

    bad.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let mut waiting = tokio::task::JoinSet::new();
    wait::until(SOON, "a trial", || {
        waiting.spawn(Request::get("/").send(gateway.address()));
        async { bad.requests() == 7 }
    })
    .await;
    for _ in 0..50 {
        assert_eq!(gateway.get("/").await.served_by(), "good/v1", "one request at a time tries it");
    }
    assert_eq!((bad.requests(), state(&gateway, &bad).await), (7, "ejected".to_owned()));
    bad.set(Behaviour::Echo);
    bad.release();
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.expect("an answer").status, 200);
    }
    assert_eq!(state(&gateway, &bad).await, "healthy");
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert!(bad.requests() >= 7 + 4, "it takes its share again");
}

#[tokio::test]
async fn a_trial_whose_client_left_is_made_by_the_next() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let gateway = Gateway::start(&config(&[&good, &bad], "passive_health = { base_ejection = \"1s\" }")).await;
    until_state(&gateway, &bad, "ejected").await;
    bad.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let mut waiting = tokio::task::JoinSet::new();
    wait::until(SOON, "a trial", || {
        waiting.spawn(Request::get("/").send(gateway.address()));
        async { bad.requests() == 6 }
    })
    .await;
    waiting.abort_all();
    bad.set(Behaviour::Echo);
    until_state(&gateway, &bad, "healthy").await;
}

#[tokio::test]
async fn reloads_forget_no_ejection() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Reset);
    let settings =
        |turn: usize| format!("passive_health = {{ base_ejection = \"60s\" }}\nresponse_timeout = \"{turn}s\"");
    let gateway = Gateway::start(&config(&[&good, &bad], &settings(20))).await;
    until_state(&gateway, &bad, "ejected").await;
    let requests = bad.requests();
    for turn in 21..26 {
        gateway.write_config(&config(&[&good, &bad], &settings(turn)));
        wait::until(SOON, "the reload", || async {
            assert_eq!(gateway.get("/").await.status, 200);
            gateway.api("upstreams/app").await["settings"]["response_timeout"] == format!("{turn}s")
        })
        .await;
        assert_eq!(state(&gateway, &bad).await, "ejected");
    }
    assert_eq!(bad.requests(), requests, "nobody asked it meanwhile");
    // Switched off, it is used again.
    gateway.write_config(&config(&[&good, &bad], "passive_health = { consecutive_failures = 0 }"));
    until_state(&gateway, &bad, "healthy").await;
}

#[tokio::test]
async fn bad_answers_count_where_that_is_asked_for() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Status(500));
    let gateway = Gateway::start(&config(&[&good, &bad], "")).await;
    for _ in 0..40 {
        gateway.get("/").await;
    }
    assert_eq!(state(&gateway, &bad).await, "healthy", "it answers");
    // Each of the two workers goes in turns of its own.
    assert!((19..=21).contains(&bad.requests()), "{}", bad.requests());
    let rules = "passive_health = { success_ratio = \"60%\", min_requests = 6, base_ejection = \"60s\" }";
    gateway.write_config(&config(&[&good, &bad], rules));
    wait::until(SOON, "the ejection", || async {
        gateway.get("/").await;
        state(&gateway, &bad).await == "ejected"
    })
    .await;
    assert!(reasons(&gateway, &bad).await.contains("less than 60% of the requests to it went well"));

    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Status(500));
    let rules = "passive_health = { consecutive_5xx = 3, base_ejection = \"60s\" }";
    let gateway = Gateway::start(&config(&[&good, &bad], rules)).await;
    for _ in 0..40 {
        gateway.get("/").await;
    }
    assert_eq!((state(&gateway, &bad).await, bad.requests()), ("ejected".to_owned(), 3));
}

#[tokio::test]
async fn when_everything_looks_bad_everything_is_used() {
    let (one, other) = (Origin::start("one").await, Origin::start("other").await);
    let gateway = Gateway::start(&config(&[&one, &other], "passive_health = { base_ejection = \"60s\" }")).await;
    for origin in [&one, &other] {
        origin.set(Behaviour::Reset);
    }
    wait::until(SOON, "both to be ejected", || async {
        assert_eq!(gateway.get("/").await.status, 502);
        let endpoints = gateway.endpoints("app").await;
        endpoints.iter().all(|(_, state)| state == "ejected")
    })
    .await;
    assert_eq!(gateway.api("upstreams/app").await["panic"], true);
    assert_eq!(gateway.get("/").await.status, 502);
    let panics = gateway.metric("fleetgate_upstream_panic_attempts_total", &[("upstream", "app")]).await;
    assert!(panics >= Some(2.0), "{panics:?}");
    for origin in [&one, &other] {
        origin.set(Behaviour::Echo);
    }
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 200, "who works again is not waited for");
    }
}

#[tokio::test]
async fn the_only_one_is_never_ejected() {
    let only = Origin::start("only").await;
    only.set(Behaviour::Reset);
    let gateway = Gateway::start(&config(&[&only], "")).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 502);
    }
    assert_eq!(state(&gateway, &only).await, "healthy");
    only.set(Behaviour::Echo);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn with_the_usable_ones_gone_an_ejected_one_is_better_than_none() {
    let (mut one, two) = (Origin::start("one").await, Origin::start("two").await);
    two.set(Behaviour::Reset);
    let gateway = Gateway::start(&config(&[&one, &two], "passive_health = { base_ejection = \"60s\" }")).await;
    until_state(&gateway, &two, "ejected").await;
    two.set(Behaviour::Echo);
    one.stop().await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.served_by(), "two/v1");
    }
}

#[tokio::test]
async fn a_rolling_restart_under_load_costs_no_client_anything() {
    let mut origins = [Origin::start("one").await, Origin::start("two").await];
    let gateway = Gateway::start(&config(&[&origins[0], &origins[1]], "")).await;
    let load = Load::start(gateway.address(), 8, |_, _| Request::get("/"));
    for turn in 0..6 {
        let restarted = &mut origins[turn % 2];
        restarted.stop().await;
        load.more(300).await;
        restarted.start_again().await;
        load.more(100).await;
    }
    load.stop().await.assert_all_ok();
    let ejections = gateway.metric("fleetgate_upstream_ejections_total", &[("upstream", "app")]).await;
    assert!(ejections >= Some(1.0), "{ejections:?}: what is out still serves when the other one goes");
}

#[tokio::test]
async fn mistakes_are_told_with_their_place() {
    let config = r#"
        listeners.web.address = "127.0.0.1:0"
        [upstreams.app]
        endpoints = ["127.0.0.1:9"]
        passive_health = { max_ejected = "half", window = "5s", base_ejection = "10s", max_ejection = "1s", consecutive_failure = 3 }
        "#;
    Setup::new(config).assert_check_tells(&[
        "5:42: upstreams.app.passive_health.max_ejected: `half` is not a percentage: write `50%`",
        "upstreams.app.passive_health.window: belongs to `success_ratio`, which is not given",
        "upstreams.app.passive_health.max_ejection: must not be less than `base_ejection`",
        "upstreams.app.passive_health.consecutive_failure: unknown key; did you mean `consecutive_failures`?",
    ]);
}
