//! What becomes of exchanges at an endpoint that takes no more.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::upgrades::{GOING_AWAY, assert_closed, closed_in_order, echo_frame, frame, open};
use super::{before_all, config_of};
use crate::operator::run;
use crate::support::client::{Answer, Connection, Request};
use crate::support::frames::{self, Frames, HEADERS, RST_STREAM};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

/// Removes all endpoints but these.
async fn leave_only(gateway: &Gateway, rest: &[&Origin], lines: &str) {
    gateway.write_config(&config_of(rest.iter().copied(), lines));
    let mut wanted: Vec<_> = rest.iter().map(|origin| origin.address().to_string()).collect();
    wanted.sort();
    wait::until(SOON, "the removal", || async {
        let mut there: Vec<_> = gateway.endpoints("app").await.into_iter().map(|(address, _)| address).collect();
        there.sort();
        there == wanted
    })
    .await;
}

/// Tells the gateway to `drain` or `undrain` an endpoint.
pub(crate) fn drain(gateway: &Gateway, endpoint: SocketAddr, command: &str) {
    let (fine, said) = run(gateway, &[command, "app", &endpoint.to_string()]);
    assert!(fine, "{said}");
}

/// The line of the access log for this path, once its exchange is over.
async fn logged(gateway: &Gateway, path: &str) -> Value {
    gateway.until_logged(path, |line| line["path"] == path).await
}

#[tokio::test]
async fn websockets_of_a_removed_endpoint_are_closed_between_frames() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    one.set(Behaviour::WebSocket);
    let lines = "drain_timeout = \"12s\"";
    let gateway = before_all([&one], lines).await;
    let (mut idle, mut busy) = (open(gateway.address()).await, open(gateway.address()).await);
    echo_frame(&mut idle, "hello").await;
    leave_only(&gateway, &[&two], lines).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.served_by(), "two/v1");
    }
    // What runs there goes on.
    echo_frame(&mut idle, "still here").await;
    let long = "x".repeat(100_000);
    let frame = frame(&long);
    let (first, rest) = frame.split_at(60_000);
    busy.send(first).await.expect("to send");
    assert!(busy.read_exact(first.len()).await.expect("the first part") == first);
    closed_in_order(&mut idle).await;
    // The other one is within a frame, which neither side is to lose.
    busy.send(rest).await.expect("to send");
    assert!(busy.read_exact(rest.len()).await.expect("the rest") == rest);
    closed_in_order(&mut busy).await;
    wait::until(SOON, "the end of its connections", || async { one.open_connections() == 0 }).await;
    let [of_idle, of_busy] = <[_; 2]>::try_from(one.heard()).expect("two connections");
    assert_closed(&of_idle, &["hello", "still here"]);
    assert_closed(&of_busy, &[&long]);
    let flags = || {
        let upgrades = gateway.access_log().into_iter().filter(|line| line["status"] == 101);
        upgrades.map(|line| line["flag"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    wait::until(SOON, "the log to tell of both, without a flag", || async { flags() == ["", ""] }).await;
}

#[tokio::test]
async fn websockets_of_a_drained_endpoint_are_closed_unless_it_is_undrained() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    one.set(Behaviour::WebSocket);
    two.set(Behaviour::WebSocket);
    let gateway = before_all([&one], "drain_timeout = \"4s\"").await;
    let mut stays = open(gateway.address()).await;
    drain(&gateway, one.address(), "drain");
    assert_eq!(gateway.get("/").await.status, 503);
    drain(&gateway, one.address(), "undrain");
    // As long as the drain would have lasted.
    let over = tokio::time::Instant::now() + Duration::from_secs(6);
    while tokio::time::Instant::now() < over {
        echo_frame(&mut stays, "here").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut deaf = open(gateway.address()).await;
    drain(&gateway, one.address(), "drain");
    closed_in_order(&mut stays).await;
    assert_eq!(deaf.read_to_end().await, GOING_AWAY);
    let cut = gateway.until_logged("who did not answer", |line| line["flag"] == "LR").await;
    assert_eq!(cut["status"], 101);
    let counted = gateway.metric("fleetgate_requests_total", &[("upstream", "app"), ("flag", "LR")]).await;
    assert_eq!(counted, Some(1.0));
}

#[tokio::test]
async fn a_websocket_whose_client_reads_nothing_is_cut_at_the_end() {
    let one = Origin::start("one").await;
    one.set(Behaviour::WebSocket);
    let gateway = before_all([&one], "drain_timeout = \"2s\"").await;
    let mut deaf = open(gateway.address()).await;
    // All comes back, until nothing goes any more.
    let stall = Duration::from_secs(1);
    while let Ok(sent) = tokio::time::timeout(stall, deaf.send(&[b'x'; 64 * 1024])).await {
        sent.expect("to send");
    }
    drain(&gateway, one.address(), "drain");
    let line = gateway.until_logged("its end", |line| line["status"] == 101).await;
    assert_eq!(line["flag"], "LR");
    wait::until(SOON, "no connections", || async {
        gateway.metric("fleetgate_downstream_connections", &[("listener", "web")]).await == Some(0.0)
            && gateway.metric("fleetgate_upstream_connections", &[("state", "active")]).await == Some(0.0)
            && one.open_connections() == 0
    })
    .await;
}

#[tokio::test]
async fn other_upgrades_go_on_until_the_end_of_the_drain() {
    let one = Origin::start("one").await;
    one.set(Behaviour::RawKept(b"HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nupgrade: tunnel/1\r\n\r\nhello".to_vec()));
    let lines = "drain_timeout = \"2s\"\n[listeners.other]\naddress = \"127.0.0.1:0\"\nupgrades = [\"tunnel/1\"]";
    let gateway = before_all([&one], lines).await;
    let address = gateway.listener("other");
    let mut client = Connection::open(address).await.expect("to connect");
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "tunnel/1");
    client.send(&request.bytes(address)).await.expect("to send");
    assert!(client.head().await.expect("a head").first_line.contains(" 101 "));
    drain(&gateway, one.address(), "drain");
    assert_eq!(client.read_to_end().await, b"hello");
    assert_eq!(logged(&gateway, "/").await["flag"], "LR");
}

#[tokio::test]
async fn downloads_end_in_time_or_are_cut() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let chunks = |count: usize| vec![Bytes::from_static(b"some of it"); count];
    let pause = Duration::from_millis(100);
    one.on("/short", Behaviour::Stream { chunks: chunks(20), pause, trailers: vec![] });
    one.on("/long", Behaviour::Stream { chunks: chunks(1_000), pause, trailers: vec![] });
    // More than any buffer on the way holds: who does not read it stops it.
    one.on("/huge", Behaviour::Answer { status: 200, headers: vec![], body: vec![b'x'; 64 << 20] });
    let lines = "drain_timeout = \"6s\"";
    let gateway = before_all([&one], lines).await;
    let mut clients = Vec::new();
    for path in ["/short", "/long", "/huge"] {
        let mut client = Connection::open(gateway.address()).await.expect("to connect");
        client.send(&Request::get(path).bytes(gateway.address())).await.expect("to send");
        clients.push(client);
    }
    let mut many = Frames::connect(gateway.address(), &[]).await;
    many.send(&frames::Frame::get(1, "/long")).await.expect("to send");
    wait::until(SOON, "the requests", || async { one.requests() == 4 }).await;
    leave_only(&gateway, &[&two], lines).await;
    let [short, long, huge] = clients.as_mut_slice() else { unreachable!("three") };
    let all = short.answer("GET").await.expect("all of it");
    assert_eq!(all.text(), "some of it".repeat(20));
    short.send(&Request::get("/").bytes(gateway.address())).await.expect("to send");
    assert_eq!(short.answer("GET").await.expect("the client's connection goes on").served_by(), "two/v1");
    let some = String::from_utf8(long.read_to_end().await).expect("text");
    assert!(some.contains("some of it") && !some.ends_with("\r\n0\r\n\r\n"), "{some}");
    // Of many exchanges on a connection, only those there are ended.
    assert_eq!(many.next_of(RST_STREAM).await.expect("a reset").stream, 1);
    many.send(&frames::Frame::get(3, "/")).await.expect("to send");
    assert_eq!(many.next_of(HEADERS).await.expect("an answer").stream, 3);
    for (path, flag) in [("/short", ""), ("/long", "LR"), ("/huge", "LR")] {
        assert_eq!(logged(&gateway, path).await["flag"], flag, "{path}");
    }
    assert!(huge.read_to_end().await.len() < 64 << 20);
    wait::until(SOON, "the end of its connections", || async { one.open_connections() == 0 }).await;
    let counted = gateway.metric("fleetgate_requests_total", &[("upstream", "app"), ("flag", "LR")]).await;
    assert_eq!(counted, Some(3.0));
}

#[tokio::test]
async fn requests_without_an_answer_at_the_end_of_a_drain_go_elsewhere_or_fail() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    one.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let gateway = before_all([&one, &two], "balance = \"round_robin\"\ndrain_timeout = \"2s\"").await;
    let address = gateway.address();
    let mut sent = Vec::new();
    for method in ["GET", "POST"] {
        let before = one.requests();
        while one.requests() == before {
            let arrived = one.requests() + two.requests();
            let request = tokio::spawn(Request::new(method, "/").body("x").send(address));
            wait::until(SOON, "the request", || async { one.requests() + two.requests() > arrived }).await;
            if one.requests() > before {
                sent.push(request);
            }
        }
    }
    drain(&gateway, one.address(), "drain");
    let [get, post] = <[_; 2]>::try_from(sent).expect("two");
    assert_eq!(get.await.unwrap().served_by(), "two/v1");
    let post = post.await.unwrap();
    assert_eq!(
        (post.status, post.header("x-fleetgate-flag"), post.header("retry-after")),
        (503, Some("LR"), Some("1"))
    );
}

/// Whoever waits for less than a second has a timer of its own, and looks up at the end of it or with an answer.
#[tokio::test]
async fn an_answer_that_begins_after_the_end_of_a_drain_is_none() {
    // On a slow machine the second may be over before the drain is.
    let mut answer = None;
    for _ in 0..20 {
        answer = answered_after_a_drain().await;
        if answer.is_some() {
            break;
        }
    }
    let answer = answer.expect("a machine that is quick enough once");
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("LR")));
}

/// Sends a request that is answered once its endpoint is drained; nothing if the request had no time for that.
async fn answered_after_a_drain() -> Option<Answer> {
    let one = Origin::start("one").await;
    let stream = Behaviour::Stream {
        chunks: vec![Bytes::from_static(b"some of it"); 1_000],
        pause: SOON / 200,
        trailers: vec![],
    };
    one.on("/held", Behaviour::Hold(Box::new(stream.clone())));
    one.on("/long", stream);
    let config = config_of([&one], "drain_timeout = \"100ms\"\nresponse_timeout = \"999ms\"");
    // Each worker comes to the end of a drain by itself: one is cut just before the other.
    let gateway = Gateway::start(&config.replace("workers = 2", "workers = 1")).await;
    let mut long = Connection::open(gateway.address()).await.expect("to connect");
    long.send(&Request::get("/long").bytes(gateway.address())).await.expect("to send");
    if !long.head().await.expect("a head").first_line.contains("200") {
        return None;
    }
    let held = tokio::spawn(Request::post("/held", "x").send(gateway.address()));
    wait::until(SOON, "the request", || async { held.is_finished() || one.requests() == 2 }).await;
    drain(&gateway, one.address(), "drain");
    // It is cut with the drain.
    long.read_to_end().await;
    one.release();
    let answer = held.await.unwrap();
    ((answer.status, answer.header("x-fleetgate-flag")) != (504, Some("UT"))).then_some(answer)
}

#[tokio::test]
async fn idle_connections_to_an_endpoint_that_leaves_are_closed() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let gateway = before_all([&one, &two], "balance = \"round_robin\"\nkeep_alive = \"60s\"").await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert!(one.open_connections() > 0);
    drain(&gateway, one.address(), "drain");
    wait::until(SOON, "their end", || async { one.open_connections() == 0 }).await;
    drain(&gateway, one.address(), "undrain");
    let served = || async { gateway.get("/").await.served_by() == "one/v1" };
    wait::until(SOON, "traffic at it", served).await;
    assert!(one.open_connections() > 0, "they are kept again");
}
