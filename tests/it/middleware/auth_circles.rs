//! Auth services whose answer needs an answer of the gateway that asks them.

use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::wait;

use super::{SOON, around};

/// A gateway that asks `auth` about every request, and tries 3 times where something fails.
fn asking(app: &Origin, auth: &str) -> String {
    let middlewares = format!(
        r#"
        upstreams.auth = {{ endpoints = ["{auth}"], allow_self = true }}
        middlewares.ask.forward_auth = {{ upstream = "auth", path = "/verify", timeout = "10s", request_headers = ["x-a"] }}
        "#
    );
    let retry = r#"upstream = "app", retry = { attempts = 3, on = ["5xx", "reset"] }, middlewares"#;
    around(app, &["ask"], &middlewares).replace("upstream = \"app\", middlewares", retry)
}

/// Sends requests into a circle of these gateways, and sees that each ends where it comes through the eighth gateway.
async fn assert_ends(first: &Gateway, others: &[&Gateway], app: &Origin) {
    let exchanges = || std::iter::once(&first).chain(others).map(|gateway| gateway.access_log().len()).sum::<usize>();
    let (known, passed) = (exchanges(), app.requests());
    for turn in 1..=3 {
        let answer = first.send(Request::get("/").header("x-a", "1")).await;
        let told = (answer.status, answer.header("x-fleetgate-flag"), answer.text());
        assert_eq!(told, (508, Some("UAEX"), "508 auth_service_loop\n".to_owned()));
        wait::until(SOON, "the whole circle in the log", || async { exchanges() >= known + turn * 9 }).await;
        assert_eq!(exchanges(), known + turn * 9);
    }
    assert_eq!(app.requests(), passed, "nobody was let through");
}

#[tokio::test]
async fn a_gateway_that_asks_itself_refuses_and_lives() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let config = asking(&app, &auth.address().to_string());
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.send(Request::get("/").header("via", "1.0 cdn")).await.status, 200);
    assert_eq!(auth.last_seen().unwrap().header("via"), ["1.0 cdn", "1.1 fleetgate"]);
    let address = gateway.address().to_string();
    gateway.write_config(&asking(&app, &address));
    wait::until(SOON, "the circle", || async { gateway.endpoints("auth").await[0].0 == address }).await;
    assert_ends(&gateway, &[], &app).await;
}

#[tokio::test]
async fn gateways_that_ask_each_other_refuse() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let first = Gateway::start(&asking(&app, &auth.address().to_string())).await;
    let second = Gateway::start(&asking(&app, &first.address().to_string())).await;
    let address = second.address().to_string();
    first.write_config(&asking(&app, &address));
    wait::until(SOON, "the circle", || async { first.endpoints("auth").await[0].0 == address }).await;
    assert_ends(&first, &[&second], &app).await;
}

#[tokio::test]
async fn a_gateway_that_asks_itself_through_another_one_refuses() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let first = Gateway::start(&asking(&app, &auth.address().to_string())).await;
    let between = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{}"]
        routes.all = {{ match = {{ path = "/" }}, upstream = "app", retry = {{ attempts = 3, on = ["5xx"] }} }}
        "#,
        first.address()
    ))
    .await;
    let address = between.address().to_string();
    first.write_config(&asking(&app, &address));
    wait::until(SOON, "the circle", || async { first.endpoints("auth").await[0].0 == address }).await;
    assert_ends(&first, &[&between], &app).await;
}
