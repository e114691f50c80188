//! What becomes of exchanges in HTTP/2 at an endpoint that takes no more.

use bytes::Bytes;
use h2::Reason;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde_json::Value;

use super::{SOON, before, client, connections, data, get};
use crate::http::draining::drain;
use crate::support::client::{Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::multiplexed::{Act, Service};
use crate::support::tls::{by_hand, empty, request};
use crate::support::wait;

/// What the log says of the exchange of this path, once it is over.
async fn flag_of(gateway: &Gateway, path: &str) -> Value {
    gateway.until_logged(path, |line| line["path"] == path).await["flag"].clone()
}

#[tokio::test]
async fn streams_end_in_time_or_are_cut() {
    let service = Service::start().await;
    for (path, act) in [
        ("/short", Act::Mirror),
        ("/long", Act::Mirror),
        ("/old", Act::ResetLater(Reason::CANCEL)),
        ("/held", Act::Hold(Box::new(Act::Echo))),
    ] {
        service.on(path, act);
    }
    let gateway = before(&[&service], "drain_timeout = \"5s\"\nkeep_alive = \"60s\"", "").await;
    let mut client = client(&gateway).await;
    let mut mirrors = Vec::new();
    for path in ["/short", "/long"] {
        let (pieces, body) = by_hand();
        let post = request("POST", &format!("http://a.example{path}")).body(body).unwrap();
        let mut back = client.send_request(post).await.unwrap().into_body();
        pieces.send(Frame::data(Bytes::from_static(b"before"))).await.unwrap();
        assert_eq!(data(&mut back).await, "before");
        mirrors.push((pieces, back));
    }
    let mut old = Connection::open(gateway.address()).await.unwrap();
    old.send(&Request::get("/old").bytes(gateway.address())).await.unwrap();
    assert!(old.head().await.unwrap().first_line.contains(" 200 "));
    let held = request("POST", "http://a.example/held").body(empty()).unwrap();
    let held = tokio::spawn(client.send_request(held));
    wait::until(SOON, "the requests", || async { service.begun() == 4 }).await;

    drain(&gateway, service.address(), "drain");
    assert_eq!(gateway.get("/").await.status, 503);
    let [(pieces, mut short), (_kept, mut long)] = <[_; 2]>::try_from(mirrors).expect("two");
    pieces.send(Frame::data(Bytes::from_static(b"after"))).await.unwrap();
    assert_eq!(data(&mut short).await, "after");
    drop(pieces);
    assert_eq!(short.collect().await.expect("an end in order").to_bytes(), "");

    let held = held.await.unwrap().unwrap();
    assert_eq!((held.status().as_u16(), &held.headers()["x-fleetgate-flag"]), (503, &"LR".parse().unwrap()));
    tokio::time::timeout(SOON, long.frame()).await.expect("its end").expect("an end").expect_err("a reset");
    let rest = String::from_utf8(old.read_to_end().await).unwrap();
    assert!(!rest.ends_with("0\r\n\r\n"), "{rest}");
    for (path, flag) in [("/short", ""), ("/long", "LR"), ("/old", "LR"), ("/held", "LR")] {
        assert_eq!(flag_of(&gateway, path).await, flag, "{path}");
    }
    wait::until(SOON, "the end of its connection", || async { service.open_connections() == 0 }).await;
    assert_eq!((service.begun(), service.connections()), (4, 1), "nothing new went there");
    assert_eq!((connections(&gateway, "active").await, connections(&gateway, "idle").await), (0.0, 0.0));

    drain(&gateway, service.address(), "undrain");
    gateway.until_status("/", 200).await;
    assert_eq!(service.connections(), 2);
}

/// As it is in HTTP/1.1: what is idle is closed at once, and what becomes idle then.
#[tokio::test]
async fn idle_connections_to_an_endpoint_that_leaves_are_closed() {
    let service = Service::start().await;
    service.on("/held", Act::Hold(Box::new(Act::Echo)));
    let gateway = before(&[&service], "keep_alive = \"300s\"", "").await;
    let ended = async || wait::until(SOON, "its end", || async { service.open_connections() == 0 }).await;
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(service.open_connections(), 1);
    drain(&gateway, service.address(), "drain");
    ended().await;
    drain(&gateway, service.address(), "undrain");
    gateway.until_status("/", 200).await;

    let mut client = client(&gateway).await;
    let held = tokio::spawn(client.send_request(get("/held")));
    wait::until(SOON, "the request", || async { service.begun() == 3 }).await;
    drain(&gateway, service.address(), "drain");
    assert_eq!(gateway.get("/").await.status, 503);
    assert_eq!(service.open_connections(), 1, "what runs goes on");
    service.release();
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    ended().await;
}
