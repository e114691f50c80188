//! Clients and endpoints that take nothing of what goes over HTTP/2: what they hold is taken from them, and from nobody else.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::{SOON, before, client, config, connections, data};
use crate::support::client::{Connection, Request};
use crate::support::frames::{Frame as RawFrame, Frames, SETTINGS, WINDOW_UPDATE};
use crate::support::gateway::Gateway;
use crate::support::multiplexed::{Act, Service};
use crate::support::tls::{Body, by_hand, request};
use crate::support::wait;

fn upload(path: &str, body: Body) -> http::Request<Body> {
    request("POST", &format!("http://a.example{path}")).body(body).unwrap()
}

/// A body of which a piece comes whenever one is taken.
fn endless() -> Body {
    let (pieces, body) = by_hand();
    tokio::spawn(async move { while pieces.send(Frame::data(Bytes::from(vec![b'x'; 64 * 1024]))).await.is_ok() {} });
    body
}

/// Waits until one connection is left to the endpoint, on which nothing is under way.
async fn is_at_rest(gateway: &Gateway) {
    wait::until(SOON, "an idle connection", || async {
        (connections(gateway, "active").await, connections(gateway, "idle").await) == (0.0, 1.0)
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_left_and_stops_nobody() {
    let service = Service::start().await;
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    service.on("/large", Act::Stream(vec![piece; 64], vec![]));
    let of_service = config(&[service.address().to_string()], "protocol = \"http2\"\nkeep_alive = \"300s\"", "");
    let gateway = Gateway::start(&format!("listeners.web.idle_timeout = \"2s\"\n{of_service}")).await;
    let mut deaf = Connection::open(gateway.address()).await.unwrap();
    deaf.send(&Request::get("/large").bytes(gateway.address())).await.unwrap();
    let left = gateway.until_logged("its end", |line| line["path"] == "/large");
    tokio::pin!(left);
    let line = loop {
        assert_eq!(gateway.get("/").await.status, 200);
        if let Ok(line) = tokio::time::timeout(Duration::from_millis(50), &mut left).await {
            break line;
        }
    };
    assert_eq!((&line["status"], &line["flag"]), (&200.into(), &"DC".into()));
    assert!(line["bytes_out"].as_u64().unwrap() < 64 << 20, "{line}");
    is_at_rest(&gateway).await;
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn an_endpoint_that_takes_nothing_of_an_upload_is_not_waited_for() {
    let service = Service::start().await;
    service.on("/deaf", Act::Hold(Box::new(Act::Echo)));
    // It answers, and takes nothing all the same.
    service.on("/early", Act::ResetLater(Reason::CANCEL));
    let lines = "response_timeout = \"1s\"\nidle_timeout = \"1s\"\nkeep_alive = \"300s\"";
    let gateway = before(&[&service], lines, "").await;
    let mut client = client(&gateway).await;
    let answer = client.send_request(upload("/early", endless())).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    assert_eq!(data(&mut body).await, "piece");
    tokio::time::timeout(SOON, body.frame()).await.expect("its end").expect("an end").expect_err("a reset");
    let line = gateway.until_logged("its end", |line| line["path"] == "/early").await;
    assert_eq!((&line["status"], &line["flag"]), (&200.into(), &"UT".into()));
    assert_eq!(gateway.get("/").await.status, 200);
    is_at_rest(&gateway).await;
    assert_eq!(service.connections(), 1, "others go on by the same connection");

    let answer = client.send_request(upload("/deaf", endless())).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-fleetgate-flag"]), (504, &"UT".parse().unwrap()));
    wait::until(SOON, "a reset", || async { service.cancelled() == [Reason::CANCEL] }).await;
    // By another connection, while the endpoint has not said that it is there.
    assert_eq!(gateway.get("/").await.status, 200);
    wait::until(SOON, "the end of both", || async { connections(&gateway, "active").await == 0.0 }).await;
}

/// A connection that nobody has any more is closed, though its endpoint does not take the farewell.
#[tokio::test]
async fn an_endpoint_that_reads_nothing_keeps_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut frames = Frames(stream);
        frames.0.read_exact(&mut [0; 24]).await.unwrap();
        // As much as there is, of each request and of all, so that the connection itself is what stops.
        let most = i32::MAX.cast_unsigned();
        frames
            .send(&RawFrame::new(SETTINGS, 0, 0, [&4u16.to_be_bytes()[..], &most.to_be_bytes()].concat()))
            .await
            .unwrap();
        frames.send(&RawFrame::new(WINDOW_UPDATE, 0, 0, (most - 65_535).to_be_bytes())).await.unwrap();
        std::future::pending::<()>().await;
        drop((frames, listener));
    });
    let gateway =
        Gateway::start(&config(&[address.to_string()], "protocol = \"http2\"\nkeep_alive = \"1s\"", "")).await;
    let mut client = client(&gateway).await;
    let (pieces, body) = by_hand();
    let sending = tokio::spawn(client.send_request(upload("/", body)));
    // Until nothing goes any more.
    let piece = || Frame::data(Bytes::from(vec![b'x'; 64 * 1024]));
    while let Ok(sent) = tokio::time::timeout(Duration::from_secs(1), pieces.send(piece())).await {
        sent.unwrap();
    }
    assert!(is_connected_to(address));
    sending.abort();
    let _ = sending.await;
    drop(pieces);
    wait::until(SOON, "the end of the connection", || async { !is_connected_to(address) }).await;
    service.abort();
}

/// Whether somebody here has an open connection to that address.
fn is_connected_to(address: SocketAddr) -> bool {
    let (port, established) = (format!(":{:04X}", address.port()), "01");
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    connections.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields[2].ends_with(&port) && fields[3] == established
    })
}
