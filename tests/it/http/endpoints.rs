//! What services may say in HTTP/1.1, and what becomes of it.

use std::time::Duration;

use super::before;
use crate::support::client::{Connection, Request};
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_upload_goes_on_after_an_early_answer() {
    let origin = Origin::start("app").await;
    origin.on("/early", Behaviour::Early(202));
    let gateway = before(&origin).await;
    let body: Vec<u8> = (0..2_000_000u32).map(|index| (index % 251) as u8).collect();
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let head = format!("POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    client.send(head.as_bytes()).await.expect("to send");
    client.send(&body[..10]).await.expect("to send");
    assert_eq!(client.answer("POST").await.expect("an answer").status, 202);
    assert!(origin.seen().is_empty(), "the service has not read it all");
    client.send(&body[10..]).await.expect("to send");
    wait::until(SOON, "the rest at the service", || async { !origin.seen().is_empty() }).await;
    assert!(origin.last_seen().expect("it arrived").body == body);
    // The client's connection is in step for the next request.
    assert_eq!(client.exchange(&Request::get("/next")).await.expect("an answer").json()["target"], "/next");
}

#[tokio::test]
async fn large_bodies_arrive_whole_both_ways() {
    let origin = Origin::start("app").await;
    let body: Vec<u8> = (0..5_000_000u32).map(|index| (index % 241) as u8).collect();
    origin.on("/file", Behaviour::Answer { status: 200, headers: vec![], body: body.clone() });
    let gateway = before(&origin).await;
    for _ in 0..2 {
        let answer = gateway.send(Request::post("/file", body.clone())).await;
        assert!(answer.body == body);
        assert!(origin.last_seen().expect("it arrived").body == body);
    }
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    client.send(b"PUT /file HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("to send");
    for chunk in body.chunks(70_001) {
        client.send(format!("{:x}\r\n", chunk.len()).as_bytes()).await.expect("to send");
        client.send(chunk).await.expect("to send");
        client.send(b"\r\n").await.expect("to send");
    }
    client.send(b"0\r\n\r\n").await.expect("to send");
    assert!(client.answer("PUT").await.expect("an answer").body == body);
    assert!(origin.last_seen().expect("it arrived").body == body);
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let origin = Origin::start("app").await;
    let text = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                HTTP/1.1 200 Fine\r\ncontent-length: 2\r\n\r\nok";
    origin.on("/hints", Behaviour::RawKept(text.into()));
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    client.send(b"GET /hints HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("to send");
    let head = client.head().await.expect("a head");
    assert_eq!(head.first_line.trim_end(), "HTTP/1.1 200 Fine", "an own reason phrase arrives too");
    assert_eq!(client.read_exact(2).await.expect("a body"), b"ok");
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_reaches_nobody() {
    let origin = Origin::start("app").await;
    let stray = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    for _ in 0..5 {
        origin.then(Behaviour::RawKept(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{stray}").into()));
        assert_eq!(client.exchange(&Request::get("/")).await.expect("an answer").text(), "ok");
        assert_eq!(client.exchange(&Request::get("/own")).await.expect("an answer").json()["target"], "/own");
    }
}

#[tokio::test]
async fn what_comes_with_the_switch_reaches_the_client() {
    let origin = Origin::start("app").await;
    let text = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nfirst words";
    origin.on("/chat", Behaviour::Raw(text.into()));
    let gateway = before(&origin).await;
    let mut client = super::upgrades::open(gateway.address()).await;
    assert_eq!(client.read_exact(11).await.expect("the words"), b"first words");
    client.finish().await.expect("to end the sending half");
    assert_eq!(client.read_to_end().await, b"");
    let line = gateway.until_logged("the upgrade's end", |line| line["status"] == 101).await;
    assert_eq!(line["bytes_out"], 11);
}

#[tokio::test]
async fn a_body_may_end_with_its_connection() {
    let origin = Origin::start("app").await;
    origin.on("/close", Behaviour::Raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()));
    origin.on("/old", Behaviour::Raw(b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec()));
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    for path in ["/close", "/old", "/close"] {
        let answer = client.exchange(&Request::get(path)).await.expect("an answer");
        assert_eq!((answer.status, &*answer.text()), (200, "until the end"), "{path}");
    }
}
