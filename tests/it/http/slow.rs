//! Clients that are slow on purpose, or stop half-way: what they hold is taken from them.

use std::io;
use std::time::Duration;

use tokio::net::TcpSocket;

use super::upgrades::{echo, open};
use super::with;
use crate::support::client::{Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

/// Sends a body a few bytes at a time, until all of it is sent or an answer comes; its status and flag.
async fn trickle(gateway: &Gateway, head: &str, pieces: usize, piece: &str, pause: Duration) -> (u16, Option<String>) {
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    client.send(head.as_bytes()).await.expect("to send");
    for _ in 0..pieces {
        tokio::time::sleep(pause).await;
        if client.send(piece.as_bytes()).await.is_err() {
            break;
        }
    }
    let answer = client.answer("POST").await.expect("an answer");
    (answer.status, answer.header("x-fleetgate-flag").map(str::to_owned))
}

/// As a virtual machine that moves to another host: nobody else notices but by the time that it takes.
#[tokio::test]
async fn clients_of_a_gateway_that_was_frozen_have_been_neither_slow_nor_idle() {
    let origin = Origin::start("app").await;
    let times = "idle_timeout = \"4s\"\nheader_timeout = \"4s\"\nbody_timeout = \"4s\"";
    let mut gateway = with(&origin, &[("listeners.web", times), ("upstreams.app", "response_timeout = \"4s\"")]).await;
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let (request, post) =
        (Request::get("/").bytes(gateway.address()), Request::post("/", "hello").bytes(gateway.address()));
    let mut kept = Connection::open(gateway.address()).await.expect("to connect");
    assert_eq!(kept.exchange(&Request::get("/")).await.expect("an answer").status, 200);
    let (mut heading, mut uploading) =
        (Connection::open(gateway.address()).await.unwrap(), Connection::open(gateway.address()).await.unwrap());
    heading.send(&request[..10]).await.expect("to send");
    uploading.send(&post[..post.len() - 2]).await.expect("to send");
    let mut waiting = Connection::open(gateway.address()).await.unwrap();
    waiting.send(&Request::get("/held").bytes(gateway.address())).await.expect("to send");
    wait::until(SOON, "two requests on their way", || async {
        gateway.api("upstreams/app").await["endpoints"][0]["in_flight"] == 2
    })
    .await;

    gateway.process().signal("STOP");
    kept.send(&request).await.expect("to send");
    heading.send(&request[10..]).await.expect("to send");
    uploading.send(&post[post.len() - 2..]).await.expect("to send");
    origin.release();
    tokio::time::sleep(Duration::from_secs(6)).await;
    gateway.process().signal("CONT");
    for (what, client, method) in [
        ("an idle client", &mut kept, "GET"),
        ("a client with half a head", &mut heading, "GET"),
        ("a client with half a body", &mut uploading, "POST"),
        ("a client of an endpoint", &mut waiting, "GET"),
    ] {
        let answer = client.answer(method).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, 200, "{what}");
    }
}

#[tokio::test]
async fn a_body_that_comes_a_byte_at_a_time_is_not_waited_for() {
    let origin = Origin::start("app").await;
    let gateway = with(&origin, &[("listeners.web", "body_timeout = \"3s\"\nmin_rate = 100")]).await;
    let pause = Duration::from_millis(100);
    let head = |more: &str| format!("POST /slow HTTP/1.1\r\nhost: a\r\n{more}\r\n");
    let slow = (408, Some("RT".to_owned()));
    let (known, chunked) = (head("content-length: 1000\r\n"), head("transfer-encoding: chunked\r\n"));
    let grpc = head("content-length: 50\r\ncontent-type: application/grpc\r\n");
    let fair = head("content-length: 600\r\n");
    let (known, chunked, grpc, fair) = tokio::join!(
        trickle(&gateway, &known, 1000, "x", pause),
        trickle(&gateway, &chunked, 1000, "1\r\nx\r\n", pause),
        // gRPC is none without HTTP/2: its name alone excuses nothing.
        trickle(&gateway, &grpc, 50, "x", pause),
        trickle(&gateway, &fair, 50, "twelve bytes", pause),
    );
    assert_eq!((known, chunked, grpc), (slow.clone(), slow.clone(), slow));
    assert_eq!(fair, (200, None));
}

#[tokio::test]
async fn an_answer_that_is_taken_a_little_at_a_time_ends() {
    let origin = Origin::start("app").await;
    let body = vec![b'x'; 64 << 20];
    origin.on("/large", Behaviour::Answer { status: 200, headers: vec![], body });
    let rate = "idle_timeout = \"3s\"\nmin_rate = 100_000_000";
    let gateway = with(&origin, &[("listeners.web", rate)]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = Connection::over(socket.connect(gateway.address()).await.unwrap());
    client.send(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("to send");
    let mut taken = 0;
    let end = loop {
        match client.read_some().await {
            Ok(some) if some.is_empty() => panic!("an orderly end after {taken} bytes"),
            Ok(some) => taken += some.len(),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    assert!(taken < 64 << 20);
    let line = gateway.until_logged("the slow reader", |line| line["path"] == "/large").await;
    assert_eq!((&line["status"], &line["flag"]), (&200.into(), &"DC".into()));
}

/// Waits until the only upgraded connection is over, on both sides; what the log says of it.
async fn ended(gateway: &Gateway, origin: &Origin) -> serde_json::Value {
    let line = gateway.until_logged("the upgrade's end", |line| line["status"] == 101).await;
    wait::until(SOON, "no connections", || async {
        gateway.metric("fleetgate_downstream_connections", &[("listener", "web")]).await == Some(0.0)
            && gateway.metric("fleetgate_upstream_connections", &[("state", "active")]).await == Some(0.0)
            && origin.open_connections() == 0
    })
    .await;
    line
}

#[tokio::test]
async fn a_websocket_whose_client_reads_nothing_ends() {
    let origin = Origin::start("app").await;
    origin.set(Behaviour::WebSocket);
    let gateway = with(&origin, &[("listeners.web", "idle_timeout = \"1s\"")]).await;
    let mut quiet = open(gateway.address()).await;
    let mut deaf = open(gateway.address()).await;
    // All comes back, until nothing goes any more.
    let sent = async { while deaf.send(&[b'x'; 64 * 1024]).await.is_ok() {} };
    tokio::time::timeout(SOON, sent).await.expect("its end");
    let line = gateway.until_logged("the upgrade's end", |line| line["status"] == 101).await;
    assert_eq!(line["flag"], "DC");
    // Who has nothing to say, and reads, stays.
    echo(&mut quiet, "still here").await.expect("the same back");
}

/// A service that upgrades, reads a request over what it has upgraded to, and then nothing more.
async fn deaf() -> Origin {
    let origin = Origin::start("app").await;
    let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    origin.on("/chat", Behaviour::RawKept(switched.into()));
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Close)));
    origin
}

const HOLD: &[u8] = b"GET /held HTTP/1.1\r\n\r\n";

#[tokio::test]
async fn a_websocket_whose_service_reads_nothing_ends() {
    let origin = deaf().await;
    let gateway = with(&origin, &[("upstreams.app", "idle_timeout = \"1s\"")]).await;
    let mut client = open(gateway.address()).await;
    client.send(HOLD).await.expect("to send");
    let sent = async { while client.send(&[b'x'; 64 * 1024]).await.is_ok() {} };
    tokio::time::timeout(SOON, sent).await.expect("its end");
    origin.release();
    assert_eq!(ended(&gateway, &origin).await["flag"], "UT");
}

#[tokio::test]
async fn half_a_websocket_does_not_wait_for_the_other_half_for_ever() {
    let origin = deaf().await;
    let gateway = with(&origin, &[("upstreams.app", "idle_timeout = \"1s\"")]).await;
    let mut client = open(gateway.address()).await;
    client.send(HOLD).await.expect("to send");
    wait::until(SOON, "what is said at the service", || async { origin.requests() == 2 }).await;
    client.finish().await.expect("to end the sending half");
    assert_eq!(client.read_to_end().await, b"");
    origin.release();
    assert_eq!(ended(&gateway, &origin).await["flag"], "UT");
}

/// The connection of a client that says it will send a body, and never does, is not kept.
#[tokio::test]
async fn a_body_that_was_asked_for_and_never_comes_ends() {
    let origin = Origin::start("app").await;
    let gateway = with(&origin, &[("listeners.web", "body_timeout = \"1s\"")]).await;
    let request = Request::new("POST", "/asked").header("expect", "100-continue").header("content-length", "10");
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    client.send(&request.bytes(gateway.address())).await.expect("to send");
    let answer = client.answer("POST").await.expect("an answer");
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (408, Some("RT")));
    assert_eq!(client.read_to_end().await, b"");
}
