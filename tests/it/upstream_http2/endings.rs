//! What becomes of exchanges over HTTP/2 when the endpoint, the client or the connection ends them.

use bytes::Bytes;
use h2::Reason;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::{SOON, before, client, config, connections, data, get};
use crate::support::client::{Connection, Request};
use crate::support::frames::{ACK, END_HEADERS, END_STREAM, Frame as RawFrame, Frames, GOAWAY, HEADERS, SETTINGS};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::multiplexed::{Act, Service};
use crate::support::tls::{by_hand, empty, request};
use crate::support::wait;

/// Whatever its method: the endpoint has not begun with it.
#[tokio::test]
async fn refused_streams_are_tried_again() {
    let (good, bad) = (Service::start().await, Service::start().await);
    bad.set(Act::Reset(Reason::REFUSED_STREAM));
    let gateway = before(&[&good, &bad], "", "").await;
    for turn in 0..10 {
        let answer = gateway.send(Request::post("/", format!("turn {turn}"))).await;
        assert_eq!((answer.status, &answer.json()["body"]), (200, &format!("turn {turn}").into()));
    }
    assert!(bad.begun() >= 4 && good.arrived().len() == 10, "{} {}", bad.begun(), good.arrived().len());
    let taken = [("upstream", "app"), ("result", "taken")];
    assert!(gateway.metric("fleetgate_upstream_retries_total", &taken).await.unwrap() >= 4.0);

    // What it had begun with is not done twice.
    bad.set(Act::Reset(Reason::CANCEL));
    let statuses = async |gateway: &Gateway| {
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let answer = gateway.send(Request::post("/", "once")).await;
            statuses.push((answer.status, answer.header("x-fleetgate-flag").map(str::to_owned)));
        }
        statuses.sort();
        statuses
    };
    let reset = (502, Some("UC".to_owned()));
    assert_eq!(statuses(&gateway).await, [(200, None), reset.clone()]);

    let strict = before(&[&good, &bad], "", "retry = { on = [\"connect\"] }").await;
    bad.set(Act::Reset(Reason::REFUSED_STREAM));
    assert_eq!(statuses(&strict).await, [(200, None), reset]);
}

/// GOAWAY: what runs goes on, what is new goes elsewhere, what was disowned is tried again. Nothing fails.
#[tokio::test]
async fn an_endpoint_that_leaves_loses_nothing() {
    let service = Service::start().await;
    let gateway = before(&[&service], "", "").await;
    let mut client = client(&gateway).await;
    service.on("/leave", Act::Leave(Box::new(Act::Echo)));
    let leaving = tokio::spawn(client.send_request(get("/leave")));
    wait::until(SOON, "the request", || async { service.begun() == 1 }).await;
    wait::until(SOON, "another connection", async || {
        let answer = gateway.get("/").await;
        assert_eq!(answer.status, 200);
        answer.json()["connection"] == 2
    })
    .await;
    service.release();
    let answer = leaving.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap()["connection"], 1);
    wait::until(SOON, "the end of the first", || async { service.open_connections() == 1 }).await;

    let load = Load::start(gateway.address(), 8, |_, n| Request::post("/", format!("{n}")));
    for _ in 0..20 {
        service.then(Act::Leave(Box::new(Act::Echo)));
        load.more(20).await;
        service.release();
    }
    load.stop().await.assert_all_ok();
    assert!(service.connections() > 20);
}

/// What the endpoint says it has not begun with is tried on another connection, by any method; a body that is kept for
/// further tries goes along, and where none are allowed it is tried as far as it has none.
#[tokio::test]
async fn what_was_disowned_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let disowning = tokio::spawn(async move {
        // Each connection answers one request, and disowns the next; closed with bytes unread, it would lose its last word.
        let mut left = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let mut frames = Frames(stream);
            let mut preface = [0; 24];
            tokio::io::AsyncReadExt::read_exact(&mut frames.0, &mut preface).await.unwrap();
            frames.send(&RawFrame::new(SETTINGS, 0, 0, [])).await.unwrap();
            frames.next_of(HEADERS).await.unwrap();
            // `:status: 204` (RFC 7541, A).
            frames.send(&RawFrame::new(HEADERS, END_STREAM | END_HEADERS, 1, [0x89])).await.unwrap();
            let Some(next) = frames.next_of(HEADERS).await else { continue };
            let last = 1_u32.to_be_bytes();
            frames.send(&RawFrame::new(GOAWAY, 0, 0, [&last[..], &[0; 4]].concat())).await.unwrap();
            assert_eq!(next.stream, 3);
            left.push(frames);
        }
    });
    for (retry, sent) in [("retry = { attempts = 0 }", Request::new("POST", "/")), ("", Request::post("/", "once"))] {
        let gateway = Gateway::start(&config(&[address.to_string()], "protocol = \"http2\"", retry)).await;
        for _ in 0..5 {
            let answer = gateway.send(sent.clone()).await;
            assert_eq!(answer.status, 204, "{answer:?}");
        }
    }
    disowning.abort();
}

#[tokio::test]
async fn the_end_of_a_connection_ends_what_it_carries_and_nothing_else() {
    let service = Service::start().await;
    service.on("/held", Act::Hold(Box::new(Act::Echo)));
    let gateway = before(&[&service], "", "retry = { attempts = 0 }").await;
    let mut client = client(&gateway).await;
    let held: Vec<_> = (0..5)
        .map(|_| {
            let held = request("POST", "http://a.example/held").body(empty()).unwrap();
            tokio::spawn(client.send_request(held))
        })
        .collect();
    wait::until(SOON, "5 requests", || async { service.begun() == 5 }).await;
    service.then(Act::Die);
    let died = gateway.send(Request::post("/", "x")).await;
    assert_eq!((died.status, died.header("x-fleetgate-flag")), (502, Some("UC")));
    for held in held {
        let answer = held.await.unwrap().unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["x-fleetgate-flag"]), (502, &"UC".parse().unwrap()));
    }
    assert_eq!(gateway.get("/").await.json()["connection"], 2);

    // One that may be repeated is, when a connection that was idle ends under it.
    service.then(Act::Die);
    assert_eq!(gateway.get("/").await.json()["connection"], 3);
}

/// A client that goes ends what is done for it, at every stage.
#[tokio::test]
async fn a_client_that_gives_up_resets_the_stream() {
    let service = Service::start().await;
    service.on("/held", Act::Hold(Box::new(Act::Echo)));
    service.on("/mirror", Act::Mirror);
    let gateway = before(&[&service], "", "").await;
    let cancelled = async |count: usize| {
        wait::until(SOON, "a reset", || async { service.cancelled().len() == count }).await;
        assert_eq!(service.cancelled(), vec![Reason::CANCEL; count]);
    };

    // Before the answer, by either protocol.
    let mut client = client(&gateway).await;
    let pending = tokio::spawn(client.send_request(get("/held")));
    wait::until(SOON, "a request", || async { service.begun() == 1 }).await;
    pending.abort();
    cancelled(1).await;
    let mut old = Connection::open(gateway.address()).await.unwrap();
    old.send(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    wait::until(SOON, "a request", || async { service.begun() == 2 }).await;
    drop(old);
    cancelled(2).await;

    // While bodies go both ways.
    let (pieces, body) = by_hand();
    let answer = client.send_request(request("POST", "http://a.example/mirror").body(body).unwrap()).await.unwrap();
    let mut back = answer.into_body();
    pieces.send(Frame::data(Bytes::from_static(b"a"))).await.unwrap();
    assert_eq!(data(&mut back).await, "a");
    drop((back, pieces));
    cancelled(3).await;

    // While the request's body is sent.
    let (pieces, body) = by_hand();
    let sending = tokio::spawn(client.send_request(request("POST", "http://a.example/").body(body).unwrap()));
    pieces.send(Frame::data(Bytes::from_static(b"a"))).await.unwrap();
    wait::until(SOON, "a request", || async { service.begun() == 4 }).await;
    sending.abort();
    let _ = sending.await;
    drop(pieces);
    cancelled(4).await;
    assert_eq!((service.connections(), gateway.get("/").await.status), (1, 200), "the connection goes on");
}

#[tokio::test]
async fn an_endpoints_reset_reaches_the_client_with_its_code() {
    let service = Service::start().await;
    let gateway = before(&[&service], "", "").await;
    let mut client = client(&gateway).await;
    for (reason, told) in [
        (Reason::CANCEL, Reason::CANCEL),
        (Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
        (Reason::INTERNAL_ERROR, Reason::INTERNAL_ERROR),
        // It would say that nothing was done.
        (Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR),
        (Reason::NO_ERROR, Reason::INTERNAL_ERROR),
    ] {
        service.set(Act::ResetLater(reason));
        let answer = client.send_request(get("/")).await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(data(&mut body).await, "piece");
        service.release();
        let error = body.frame().await.expect("an end").expect_err("no whole body");
        let found = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>());
        assert_eq!(found.and_then(h2::Error::reason), Some(told), "{reason:?}");
    }
    let line = gateway.until_logged("a broken answer", |line| line["flag"] == "UC").await;
    assert_eq!(line["status"], 200);
    // To one of HTTP/1.1 it is the end of the connection before that of the body.
    service.set(Act::ResetLater(Reason::NO_ERROR));
    let mut old = Connection::open(gateway.address()).await.unwrap();
    old.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let begun = service.begun();
    wait::until(SOON, "the request", || async { service.begun() > begun || begun == 6 }).await;
    wait::until(SOON, "an end", || {
        service.release();
        async { gateway.access_log().iter().filter(|line| line["flag"] == "UC").count() == 6 }
    })
    .await;
    old.answer("GET").await.unwrap_err();
}

/// An endpoint that is silent, as one behind a broken network is, is left when it does not say that it is there.
#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Service::start().await;
    let target = service.address();
    let silent = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut frames = Frames(stream);
        let mut preface = [0; 24];
        tokio::io::AsyncReadExt::read_exact(&mut frames.0, &mut preface).await.unwrap();
        frames.send(&RawFrame::new(SETTINGS, 0, 0, [])).await.unwrap();
        frames.send(&RawFrame::new(SETTINGS, ACK, 0, [])).await.unwrap();
        // The next connection is to one that answers.
        let (mut client, _) = listener.accept().await.unwrap();
        let mut other = TcpStream::connect(target).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut other).await;
        frames
    });
    let text =
        config(&[address.to_string()], "protocol = \"http2\"\nresponse_timeout = \"300ms\"\nkeep_alive = \"60s\"", "");
    let gateway = Gateway::start(&text).await;
    let first = gateway.get("/").await;
    assert_eq!((first.status, first.header("x-fleetgate-flag")), (504, Some("UT")));
    assert_eq!(gateway.get("/").await.status, 200, "by another connection");
    wait::until(SOON, "the end of the silent one", async || connections(&gateway, "idle").await == 1.0).await;
    silent.abort();
}

/// An endpoint that is removed ends what it has begun, and its connection then ends.
#[tokio::test]
async fn a_removed_endpoint_finishes_what_it_has() {
    let (first, second) = (Service::start().await, Service::start().await);
    let text = |service: &Service| config(&[service.address().to_string()], "protocol = \"http2\"", "");
    let gateway = Gateway::start(&text(&first)).await;
    let mut client = client(&gateway).await;
    first.on("/held", Act::Hold(Box::new(Act::Echo)));
    let held = tokio::spawn(client.send_request(get("/held")));
    wait::until(SOON, "the request", || async { first.begun() == 1 }).await;
    gateway.write_config(&text(&second));
    wait::until(SOON, "the other endpoint", async || {
        assert_eq!(gateway.get("/").await.status, 200);
        second.begun() > 0
    })
    .await;
    assert_eq!(first.open_connections(), 1);
    first.release();
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    wait::until(SOON, "the end of its connection", || async { first.open_connections() == 0 }).await;

    // Another protocol means other connections.
    let before = second.connections();
    gateway.write_config(&text(&second).replace("protocol = \"http2\"", ""));
    wait::until(SOON, "an answer that is none", async || gateway.get("/").await.status == 502).await;
    wait::until(SOON, "the end of those before", || async { second.open_connections() == 0 }).await;
    gateway.write_config(&text(&second));
    gateway.until_status("/", 200).await;
    assert!(second.connections() > before);
}
