//! Requests that are refused at once, what they get, and how an upstream is tried again.

use std::time::Duration;

use crate::support::client::{Answer, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Behaviour, Origin};
use crate::support::{place, wait};

const SOON: Duration = Duration::from_secs(20);

fn config(app: &Origin, breaker: &str) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.app]
        endpoints = ["{}"]
        breaker = {{ {breaker} }}
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        retry = {{ attempts = 0 }}
        "#,
        app.address()
    )
}

async fn before(app: &Origin, breaker: &str) -> Gateway {
    Gateway::start(&config(app, breaker)).await
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("UO")), "{}", answer.text());
    assert_eq!(answer.text(), "503 overloaded\n");
    assert!(answer.header("retry-after").and_then(|after| after.parse().ok()) >= Some(1));
}

async fn refused(gateway: &Gateway, reason: &str) -> Option<f64> {
    gateway.metric("fleetgate_upstream_refused_requests_total", &[("upstream", "app"), ("reason", reason)]).await
}

async fn circuit(gateway: &Gateway) -> String {
    gateway.api("upstreams/app").await["breaker"]["state"].as_str().unwrap_or_default().to_owned()
}

/// Requests in flight that the service holds.
async fn held(gateway: &Gateway, app: &Origin, count: usize) -> Vec<tokio::task::JoinHandle<Answer>> {
    let before = app.requests();
    app.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let held = (0..count).map(|_| tokio::spawn(Request::get("/").send(gateway.address()))).collect();
    wait::until(SOON, "the requests at the service", || async { app.requests() == before + count }).await;
    held
}

async fn let_go(app: &Origin, held: Vec<tokio::task::JoinHandle<Answer>>) {
    app.set(Behaviour::Echo);
    app.release();
    for answer in held {
        assert_eq!(answer.await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn requests_in_flight_are_limited() {
    let app = Origin::start("app").await;
    let gateway = before(&app, "max_requests = 3").await;
    let requests = held(&gateway, &app, 3).await;
    assert_refused(&gateway.get("/refused").await);
    assert_eq!(app.requests(), 3);
    let line = gateway.until_logged("the refused one", |line| line["path"] == "/refused").await;
    assert_eq!((&line["flag"], &line["attempts"], &line["upstream"]), (&"UO".into(), &0.into(), &"app".into()));
    assert_eq!(refused(&gateway, "requests").await, Some(1.0));
    let shown = gateway.api("upstreams/app").await["breaker"].clone();
    assert_eq!(
        (&shown["requests"], &shown["refuses"]),
        (&3.into(), &"as many requests are in flight as may be".into())
    );
    let explained = gateway.api("explain?method=GET&url=http://a/").await;
    assert_eq!((&explained["answer"]["status"], &explained["answer"]["flag"]), (&503.into(), &"UO".into()));
    let_go(&app, requests).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 200, "places are given back");
    }
    assert!(gateway.api("explain?method=GET&url=http://a/").await["answer"].is_null());
}

#[tokio::test]
async fn connections_are_limited_and_idle_ones_are_in_nobodys_way() {
    let app = Origin::start("app").await;
    let gateway = before(&app, "max_connections = 2").await;
    let requests = held(&gateway, &app, 2).await;
    assert_refused(&gateway.get("/").await);
    assert_eq!((refused(&gateway, "connections").await, app.open_connections()), (Some(1.0), 2));
    let_go(&app, requests).await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.status, 200, "whichever worker takes it");
    }
    assert!(app.open_connections() <= 2);
}

#[tokio::test]
async fn those_that_wait_for_a_connection_are_limited() {
    let full = place::full().await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        upstreams.app = {{ endpoints = ["{}"], connect_timeout = "60s", breaker = {{ max_pending = 2 }} }}
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        "#,
        full.address
    ))
    .await;
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(Request::get("/").send(gateway.address()))).collect();
    wait::until(SOON, "two that wait", || async { gateway.api("upstreams/app").await["breaker"]["pending"] == 2 })
        .await;
    assert_refused(&gateway.get("/").await);
    assert_eq!(refused(&gateway, "pending").await, Some(1.0));
    waiting.into_iter().for_each(|waiting| waiting.abort());
}

#[tokio::test]
async fn too_many_errors_open_it_and_reloads_leave_it_open() {
    let app = Origin::start("app").await;
    app.set(Behaviour::Status(500));
    let breaker = "error_ratio = \"50%\", min_requests = 5, open = \"60s\"";
    let gateway = before(&app, breaker).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/").await.status, 500);
    }
    let answer = gateway.get("/").await;
    assert_refused(&answer);
    let after: u32 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&after));
    app.set(Behaviour::Echo);
    assert_eq!((app.requests(), circuit(&gateway).await.as_str()), (5, "open"));
    let open = [("upstream", "app"), ("state", "open")];
    assert_eq!(gateway.metric("fleetgate_upstream_breaker", &open).await, Some(1.0));
    let explained = gateway.api("explain?method=GET&url=http://a/").await;
    assert_eq!(explained["answer"]["flag"], "UO");
    assert!(explained["answer"]["reason"].to_string().contains("too many errors of late"), "{explained}");
    wait::until(SOON, "the event", || async {
        gateway.api("events?upstream=app").await["items"].to_string().contains("breaker_opened")
    })
    .await;

    gateway.write_config(&config(&app, &breaker.replace("5,", "6,")));
    wait::until(SOON, "the reload", || async {
        gateway.api("upstreams/app").await["settings"]["breaker"]["min_requests"] == 6
    })
    .await;
    assert_refused(&gateway.get("/").await);
    assert_eq!(app.requests(), 5, "nobody asked it meanwhile");
    gateway.write_config(&config(&app, "max_requests = 10"));
    gateway.until_status("/", 200).await;
}

#[tokio::test]
async fn slow_answers_are_errors_where_that_is_asked_for() {
    let app = Origin::start("app").await;
    app.set(Behaviour::Delay(Duration::from_millis(50), Box::new(Behaviour::Echo)));
    let gateway = before(&app, "error_ratio = \"100%\", slow = \"20ms\", min_requests = 4, open = \"60s\"").await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_refused(&gateway.get("/").await);
}

#[tokio::test]
async fn a_few_requests_try_the_upstream_before_all_may() {
    let app = Origin::start("app").await;
    app.set(Behaviour::Reset);
    let gateway = before(&app, "error_ratio = \"50%\", min_requests = 3, open = \"1s\", probes = 2").await;
    wait::until(SOON, "it to open", || async {
        gateway.get("/").await;
        circuit(&gateway).await == "open"
    })
    .await;
    let failed = app.requests();
    app.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let mut waiting = tokio::task::JoinSet::new();
    wait::until(SOON, "two that try it", || {
        waiting.spawn(Request::get("/").send(gateway.address()));
        async { app.requests() == failed + 2 }
    })
    .await;
    for _ in 0..10 {
        assert_refused(&gateway.get("/").await);
    }
    assert_eq!((app.requests(), circuit(&gateway).await.as_str()), (failed + 2, "half_open"));
    app.set(Behaviour::Echo);
    app.release();
    let mut statuses = Vec::new();
    while let Some(answer) = waiting.join_next().await {
        statuses.push(answer.expect("an answer").status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
    assert_eq!(circuit(&gateway).await, "closed");
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn the_refused_go_to_another_upstream_or_get_an_answer() {
    let (app, other) = (Origin::start("app").await, Origin::start("other").await);
    let further = format!("[upstreams.other]\nendpoints = [\"{}\"]\n", other.address());
    let with = |fallback: &str| {
        let config = config(&app, &format!("max_requests = 1, fallback = {{ {fallback} }}"));
        format!("{config}\n{further}")
    };
    let gateway = Gateway::start(&with("upstream = \"other\"")).await;
    let requests = held(&gateway, &app, 1).await;
    let answer = gateway.send(Request::post("/elsewhere", "order")).await;
    assert_eq!((answer.served_by(), &answer.json()["body"]), ("other/v1", &"order".into()));
    let line = gateway.until_logged("of /elsewhere", |line| line["path"] == "/elsewhere").await;
    assert_eq!((&line["upstream"], &line["target"], &line["flag"]), (&"other".into(), &"app".into(), &"".into()));
    let_go(&app, requests).await;

    gateway.write_config(&with("status = 200, content_type = \"application/json\", body = '{\"items\":[]}'"));
    wait::until(SOON, "the reload", || async {
        gateway.api("upstreams/app").await["settings"]["breaker"]["fallback"]["status"] == 200
    })
    .await;
    let requests = held(&gateway, &app, 1).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"items":[]}"#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-fleetgate-flag"), Some("UO"));
    let_go(&app, requests).await;

    // An edit to one that is not there changes nothing, and is told; without an earlier one the plain answer is left.
    gateway.write_config(&with("upstream = \"absent\""));
    let told = async |gateway: &Gateway| {
        wait::until(SOON, "the status to tell it", || async {
            gateway.api("status").await.to_string().contains("there is no upstream `absent`")
        })
        .await;
    };
    told(&gateway).await;
    let requests = held(&gateway, &app, 1).await;
    assert_eq!(gateway.get("/").await.text(), r#"{"items":[]}"#);
    let_go(&app, requests).await;
    let gateway = Gateway::start(&with("upstream = \"absent\"")).await;
    told(&gateway).await;
    let requests = held(&gateway, &app, 1).await;
    assert_refused(&gateway.get("/").await);
    let_go(&app, requests).await;
}

#[tokio::test]
async fn the_refused_stay_at_one_endpoint_of_the_other_upstream() {
    let (app, one, two) = (Origin::start("app").await, Origin::start("one").await, Origin::start("two").await);
    let others = format!("[upstreams.other]\nendpoints = [\"{}\", \"{}\"]\n", one.address(), two.address());
    let with = |lines: &str| {
        let config = config(&app, "max_requests = 1, fallback = { upstream = \"other\" }");
        format!("{config}\n{others}{lines}")
    };
    let gateway = Gateway::start(&with("balance = \"ring_hash\"\nhash = { header = \"x-user\" }")).await;
    let requests = held(&gateway, &app, 1).await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let ask =
            async || gateway.send(Request::get("/").header("x-user", &user.to_string())).await.served_by().to_owned();
        let first = ask().await;
        for _ in 0..5 {
            assert_eq!(ask().await, first, "user {user}");
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "not all users at one");

    gateway.write_config(&with("session = { cookie = \"at\" }"));
    wait::until(SOON, "the reload", || async {
        gateway.api("upstreams/other").await["settings"]["session"]["cookie"] == "at"
    })
    .await;
    let first = gateway.get("/").await;
    let cookie = first.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie").to_owned();
    for _ in 0..20 {
        let again = gateway.send(Request::get("/").header("cookie", &cookie)).await;
        assert_eq!((again.served_by(), again.header("set-cookie")), (first.served_by(), None));
    }
    let_go(&app, requests).await;
}

#[tokio::test]
async fn mistakes_are_told_with_their_place() {
    let config = r#"
        listeners.web.address = "127.0.0.1:0"
        [upstreams.app]
        endpoints = ["127.0.0.1:9"]
        breaker = { max_request = 1, max_pending = 0, open = "1s", fallback = { upstream = "othr", body = "" } }
        [upstreams.other]
        endpoints = ["127.0.0.1:9"]
        breaker = { error_ratio = "0.5", fallback = { upstream = "ap" } }
        "#;
    Setup::new(config).assert_check_tells(&[
        "5:21: upstreams.app.breaker.max_request: unknown key; did you mean `max_requests`?",
        "upstreams.app.breaker.max_pending: 0 is not from 1 to 1000000",
        "upstreams.app.breaker.open: belongs to `error_ratio`, which is not given",
        "upstreams.app.breaker.fallback: `upstream` and an answer exclude each other",
        "upstreams.other.breaker.error_ratio: `0.5` is not a percentage: write `50%`",
        "upstreams.other.breaker.fallback.upstream: there is no upstream `ap`; did you mean `app`?",
    ]);
}
