//! Changes of the configuration under load.

use std::time::Duration;

use super::upgrades::{echo, open};
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

fn config(app: &Origin, dead: &Origin, sockets: &Origin, turn: usize) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.app]
        endpoints = [{{ address = "{}", weight = {} }}, {{ address = "{}", weight = {} }}]
        response_timeout = "{}s"
        health_check = {{ path = "/healthz", interval = "1h", unhealthy_threshold = 1 }}
        [upstreams.sockets]
        endpoints = ["{}"]
        [routes.app]
        match = {{ path = "/" }}
        targets = [{{ upstream = "app", weight = {} }}]
        [routes.sockets]
        match = {{ path = "/chat" }}
        upstream = "sockets"
        [routes.turn-{turn}]
        match = {{ path = "/turn" }}
        upstream = "app"
        "#,
        app.address(),
        1 + turn % 7,
        dead.address(),
        1 + turn % 5,
        20 + turn % 10,
        sockets.address(),
        1 + turn % 3,
    )
}

#[tokio::test]
async fn ten_reloads_a_second_fail_no_request_drop_no_websocket_and_reset_no_health() {
    let (app, sick, sockets) =
        (Origin::start("app").await, Origin::start("sick").await, Origin::start("sockets").await);
    sockets.set(Behaviour::WebSocket);
    sick.set_healthy(false);
    let gateway = Gateway::start(&config(&app, &sick, &sockets, 0)).await;
    let sick_state = (sick.address().to_string(), "unhealthy".to_owned());
    wait::until(SOON, "the sick one to be seen", || async { gateway.endpoints("app").await.contains(&sick_state) })
        .await;
    let probes = (app.probes(), sick.probes());
    let mut open_sockets = Vec::new();
    for _ in 0..10 {
        open_sockets.push(open(gateway.address()).await);
    }
    let load = Load::start(gateway.address(), 4, |_, _| Request::get("/"));
    let before = gateway.api("status").await["generation"].as_u64().expect("a number");

    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for turn in 1..=100 {
        tick.tick().await;
        gateway.write_config(&config(&app, &sick, &sockets, turn));
        if turn % 10 == 0 {
            for socket in &mut open_sockets {
                echo(socket, "still open").await.expect("no dropped WebSocket");
            }
            assert!(gateway.endpoints("app").await.contains(&sick_state), "its health is not forgotten");
        }
    }
    wait::until(SOON, "the last of the reloads", || async {
        gateway.api("routes").await.to_string().contains("turn-100")
    })
    .await;
    let after = gateway.api("status").await["generation"].as_u64().expect("a number");
    assert!(after >= before + 20, "{} reloads were seen", after - before);
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(report.served_by("sick/v1"), 0);
    assert_eq!((app.probes(), sick.probes()), probes, "no check was started anew");
}

#[tokio::test]
async fn a_bad_edit_is_reported_and_changes_nothing() {
    let (app, sick, sockets) =
        (Origin::start("app").await, Origin::start("sick").await, Origin::start("sockets").await);
    let gateway = Gateway::start(&config(&app, &sick, &sockets, 0)).await;
    assert_eq!(gateway.get("/turn").await.status, 200);
    let good = config(&app, &sick, &sockets, 0);
    gateway.write_config(&good.replace("match = { path = \"/turn\" }", "match = { pfad = \"/turn\" }"));
    let reported = || async { gateway.api("providers").await.to_string() };
    wait::until(SOON, "the report", || async { reported().await.contains("pfad") }).await;
    assert!(reported().await.contains("path"), "it names the nearest key: {}", reported().await);
    assert_eq!(gateway.get("/turn").await.status, 200);
    gateway.write_config(&good.replace("[routes.turn-0]", "[routes.turn-0"));
    wait::until(SOON, "the report", || async { reported().await.contains("unclosed table") }).await;
    assert_eq!(gateway.get("/turn").await.status, 200, "a file that does not parse takes nothing away");
    gateway.write_config(&good.replace("/turn", "/elsewhere"));
    gateway.until_status("/elsewhere", 200).await;
}
