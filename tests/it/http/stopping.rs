//! Starting twice, and stopping without hurting anyone.

use std::time::Duration;

use super::upgrades::{GOING_AWAY, assert_closed, closed_in_order, echo_frame, open};
use super::{before, with};
use crate::support::client::{Connection, Request};
use crate::support::gateway::Setup;
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_second_instance_on_the_same_address_fails_and_says_so() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let config = format!("listeners.web.address = \"{}\"\nadmin.address = \"127.0.0.1:0\"", gateway.address());
    let (status, stdout, stderr) = Setup::new(&config).fail().await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("listeners.web") && stderr.contains("in use"), "{stderr}");
    assert_eq!(stdout, "");
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_stop_under_load_fails_no_request() {
    let origin = Origin::start("app").await;
    let mut gateway = with(&origin, &[("runtime", "shutdown_delay = \"1s\"\nshutdown_grace = \"20s\"")]).await;
    let load = Load::start(gateway.address(), 4, |_, _| Request::get("/"));
    wait::until(SOON, "some load", || async { load.report().answers() > 100 }).await;
    gateway.process().signal("TERM");
    // Not ready at once, and still serving.
    wait::until(SOON, "not ready", || async { gateway.admin_get("/readyz").await.0 == 503 }).await;
    assert_eq!(gateway.get("/").await.status, 200);
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(gateway.process().end(SOON).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_connected_when_it_stops_is_answered() {
    for _ in 0..5 {
        let origin = Origin::start("app").await;
        let mut gateway = before(&origin).await;
        let address = gateway.address();
        let clients: Vec<_> = (0..32)
            .map(|_| {
                tokio::spawn(async move {
                    let mut answers = 0;
                    while let Ok(mut client) = Connection::open(address).await {
                        let answer = client.exchange(&Request::get("/")).await.expect("an answer, once connected");
                        assert_eq!(answer.status, 200);
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        wait::until(SOON, "some load", || async { origin.requests() > 200 }).await;
        gateway.process().signal("TERM");
        for client in clients {
            assert!(client.await.unwrap() > 0);
        }
        assert!(gateway.process().end(SOON).await.success());
    }
}

#[tokio::test]
async fn exchanges_in_flight_end_and_connections_close_after_them() {
    let origin = Origin::start("app").await;
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let mut gateway = before(&origin).await;
    let address = gateway.address();
    let mut held = Connection::open(address).await.expect("to connect");
    held.send(&Request::get("/held").bytes(address)).await.expect("to send");
    wait::until(SOON, "the request at the service", || async { origin.open_connections() == 1 }).await;
    gateway.process().signal("TERM");
    wait::until(SOON, "no new connections", || async { Connection::open(address).await.is_err() }).await;
    origin.release();
    let answer = held.answer("GET").await.expect("the answer of an exchange that was in flight");
    assert_eq!(answer.status, 200);
    assert!(answer.closes(), "{:?}", answer.headers);
    assert!(gateway.process().end(SOON).await.success());
}

#[tokio::test]
async fn a_stop_closes_websockets_in_order_before_its_grace_is_over() {
    let origin = Origin::start("app").await;
    origin.set(Behaviour::WebSocket);
    let mut gateway = with(&origin, &[("runtime", "shutdown_grace = \"12s\"")]).await;
    let address = gateway.address();
    let (mut socket, mut deaf) = (open(address).await, open(address).await);
    gateway.process().signal("TERM");
    wait::until(SOON, "no new connections", || async { Connection::open(address).await.is_err() }).await;
    echo_frame(&mut socket, "still here").await;
    closed_in_order(&mut socket).await;
    // Who does not answer is cut.
    assert_eq!(deaf.read_to_end().await, GOING_AWAY);
    assert!(gateway.process().end(SOON).await.success());
    let flag = |line: &serde_json::Value| line["flag"].as_str().unwrap_or_default().to_owned();
    assert_eq!(gateway.access_log().iter().map(flag).collect::<Vec<_>>(), ["", "LR"]);
    let [heard, other] = <[_; 2]>::try_from(origin.heard()).expect("two connections");
    assert_closed(&heard, &["still here"]);
    assert_closed(&other, &[]);
}

#[tokio::test]
async fn many_connections_are_spread_over_the_workers() {
    let origin = Origin::start("app").await;
    let gateway = with(&origin, &[("runtime", "workers = 2")]).await;
    let mut clients = Vec::new();
    for index in 0..200 {
        let mut client = Connection::open(gateway.address()).await.expect("to connect");
        let answer = client.exchange(&Request::get("/")).await.expect("an answer");
        assert_eq!(answer.status, 200, "connection {index}");
        clients.push(client);
    }
    let open = gateway.metric("fleetgate_downstream_connections", &[("listener", "web")]).await;
    assert_eq!(open, Some(200.0));
    drop(clients);
    wait::until(SOON, "no connections", || async {
        gateway.metric("fleetgate_downstream_connections", &[("listener", "web")]).await == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn silent_and_slow_clients_are_let_go() {
    let origin = Origin::start("app").await;
    let gateway =
        with(&origin, &[("listeners.web", "header_timeout = \"1s\"\nidle_timeout = \"1s\"\nmax_connections = 3")])
            .await;
    let address = gateway.address();
    let mut silent = Connection::open(address).await.expect("to connect");
    let mut slow = Connection::open(address).await.expect("to connect");
    slow.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-slow").await.expect("to send");
    let mut idle = Connection::open(address).await.expect("to connect");
    assert_eq!(idle.exchange(&Request::get("/")).await.expect("an answer").status, 200);
    // There is no place for a fourth.
    let mut fourth = Connection::open(address).await.expect("the kernel accepts it");
    assert_eq!(fourth.read_to_end().await, b"");
    for (who, client) in [("silent", &mut silent), ("slow", &mut slow), ("idle", &mut idle)] {
        assert_eq!(client.read_to_end().await, b"", "{who}");
    }
    assert_eq!(gateway.get("/").await.status, 200, "their places are free again");
}
