//! HTTP/2 to endpoints: what goes through, how connections are shared, and what becomes of them when endpoints leave.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::{Connection, Request};
use crate::support::frames::{ACK, END_HEADERS, END_STREAM, Frame as RawFrame, Frames, GOAWAY, HEADERS, SETTINGS};
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::multiplexed::{Act, Service};
use crate::support::origin::{Behaviour, Origin};
use crate::support::pki::Authority;
use crate::support::secured::Secured;
use crate::support::tls::{Body, by_hand, empty, http2_over, request};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// A gateway of one worker before these endpoints, with further lines of the upstream and of the route.
async fn before(endpoints: &[&Service], upstream: &str, route: &str) -> Gateway {
    let endpoints: Vec<_> = endpoints.iter().map(|service| service.address().to_string()).collect();
    Setup::new(&config(&endpoints, &format!("protocol = \"http2\"\n{upstream}"), route)).start().await
}

fn config(endpoints: &[String], upstream: &str, route: &str) -> String {
    format!(
        r#"
        runtime.workers = 1
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        {route}
        [upstreams.app]
        endpoints = [{}]
        balance = "round_robin"
        passive_health = {{ consecutive_failures = 0 }}
        {upstream}
        "#,
        endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect::<Vec<_>>().join(", ")
    )
}

/// A client that speaks HTTP/2.
async fn client(gateway: &Gateway) -> SendRequest<Body> {
    http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await
}

fn get(path: &str) -> http::Request<Body> {
    request("GET", &format!("http://a.example{path}")).body(empty()).unwrap()
}

async fn data(body: &mut hyper::body::Incoming) -> Bytes {
    let frame = tokio::time::timeout(SOON, body.frame()).await.expect("a piece in time");
    frame.expect("a piece").expect("no error").into_data().expect("data")
}

async fn connections(gateway: &Gateway, state: &str) -> f64 {
    let labels = [("upstream", "app"), ("state", state)];
    gateway.metric("fleetgate_upstream_connections", &labels).await.unwrap_or(0.0)
}

#[tokio::test]
async fn requests_of_http_1_become_requests_of_http_2() {
    let service = Service::start().await;
    let gateway = before(&[&service], "", "").await;
    let sent = Request::new("PUT", "/a//b?c=%20")
        .host("a.example")
        .header("connection", "x-hop, te")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("keep-alive", "timeout=5")
        .header("upgrade", "h2c")
        .header("cookie", "a=1; b=2")
        .body("hello");
    let answer = gateway.send(sent).await;
    assert_eq!((answer.status, answer.header("via")), (200, Some("2.0 fleetgate")), "{answer:?}");
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    let arrived = service.last();
    assert_eq!((arrived.method.as_str(), arrived.uri.as_str()), ("PUT", "http://a.example/a/b?c=%20"));
    assert_eq!(arrived.body, b"hello");
    for (name, values) in [
        ("host", &[][..]),
        ("connection", &[]),
        ("x-hop", &[]),
        ("keep-alive", &[]),
        ("upgrade", &[]),
        ("te", &["trailers"]),
        ("cookie", &["a=1; b=2"]),
        ("content-length", &["5"]),
        ("via", &["1.1 fleetgate"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-host", &["a.example"]),
    ] {
        let found: Vec<_> = arrived.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(found, values, "{name}");
    }

    service.on("/none", Act::Status(204, vec![("x-a", "1")]));
    let none = gateway.get("/none").await;
    assert_eq!((none.status, none.header("x-a"), none.header("content-length")), (204, Some("1"), None));
    let head = gateway.send(Request::new("HEAD", "/")).await;
    assert!(head.status == 200 && head.header("content-length").is_some() && head.body.is_empty(), "{head:?}");

    // Chunks of unknown length, with trailers; an answer with trailers.
    service.on("/trailers", Act::Stream(vec!["one".into(), "two".into()], vec![("x-sum", "7")]));
    let mut client = Connection::open(gateway.address()).await.unwrap();
    let chunked = "POST /trailers HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-end\r\n\
                   transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-end: 1\r\ncontent-length: 9\r\n\r\n";
    client.send(chunked.as_bytes()).await.unwrap();
    let answer = client.answer("POST").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "onetwo"));
    let arrived = service.last();
    assert_eq!((arrived.body.as_slice(), arrived.headers.get("content-length")), (&b"abc"[..], None));
    let trailers = arrived.trailers.unwrap();
    assert_eq!((trailers.len(), trailers["x-end"].as_bytes()), (1, &b"1"[..]), "no length, which would be believed");
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn bodies_go_both_ways_at_once_and_trailers_behind_them() {
    let service = Service::start().await;
    service.set(Act::Mirror);
    let gateway = before(&[&service], "", "").await;
    let mut client = client(&gateway).await;
    let (pieces, body) = by_hand();
    let answer = client.send_request(request("POST", "http://a.example/").body(body).unwrap()).await.unwrap();
    let mut back = answer.into_body();
    for word in ["one", "two", "three"] {
        pieces.send(Frame::data(Bytes::from_static(word.as_bytes()))).await.unwrap();
        assert_eq!(data(&mut back).await, word, "each before the next is sent");
    }
    let trailers = [("x-end".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    pieces.send(Frame::trailers(trailers)).await.unwrap();
    drop(pieces);
    let last = back.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(last["x-end"], "1");

    // Larger than every window, many at once.
    let large = Bytes::from((0..3_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let exchanges = (0..4).map(|_| {
        let (mut client, large) = (client.clone(), large.clone());
        async move {
            let body = Full::new(large.clone()).map_err(|never| match never {}).boxed();
            let answer = client.send_request(request("POST", "http://a.example/").body(body).unwrap()).await.unwrap();
            assert!(answer.into_body().collect().await.unwrap().to_bytes() == large);
        }
    });
    tokio::time::timeout(SOON, futures_util::future::join_all(exchanges)).await.expect("an end");
    let answer = gateway.send(Request::post("/", large.clone())).await;
    assert!(answer.status == 200 && answer.body == large, "of a client of HTTP/1.1");
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn a_held_back_body_is_sent_when_it_is_asked_for() {
    let service = Service::start().await;
    service.on("/continue", Act::Continue);
    let gateway = before(&[&service], "", "").await;
    let mut client = Connection::open(gateway.address()).await.unwrap();
    client
        .send(b"PUT /continue HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        .await
        .unwrap();
    let first = client.head().await.unwrap().first_line;
    assert!(first.contains(" 100 "), "{first}");
    client.send(b"abc").await.unwrap();
    assert_eq!(client.answer("PUT").await.unwrap().json()["body"], "abc");
    service.on("/early", Act::Early(413));
    client.send(b"PUT /early HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await.unwrap();
    assert_eq!(client.answer("PUT").await.unwrap().status, 413);
}

/// Many exchanges share a connection; where the endpoint says how many, there are more connections, as far as the
/// breaker lets them be made; idle ones end.
#[tokio::test]
async fn connections_are_shared_as_far_as_the_endpoint_allows() {
    for (most, wanted) in [(None, 1), (Some(10), 4)] {
        let service = Service::allowing(most).await;
        service.on("/held", Act::Hold(Box::new(Act::Echo)));
        let gateway = before(&[&service], "keep_alive = \"3s\"", "").await;
        let mut client = client(&gateway).await;
        let held: Vec<_> = (0..40).map(|_| tokio::spawn(client.send_request(get("/held")))).collect();
        wait::until(SOON, "40 requests", || async { service.begun() == 40 }).await;
        assert_eq!(service.connections(), wanted, "{most:?}");
        assert_eq!((connections(&gateway, "active").await, connections(&gateway, "idle").await), (wanted as f64, 0.0));
        let state = gateway.api("upstreams/app").await["endpoints"][0]["in_flight"].clone();
        assert_eq!(state, 40);
        service.release();
        for held in held {
            let answer = held.await.unwrap().unwrap();
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.unwrap();
        }
        wait::until(SOON, "idle connections", async || connections(&gateway, "idle").await == wanted as f64).await;
        assert_eq!(connections(&gateway, "active").await, 0.0);
        wait::until(SOON, "their end", || async { service.open_connections() == 0 }).await;
        assert_eq!(connections(&gateway, "idle").await, 0.0);
    }

    let service = Service::allowing(Some(2)).await;
    service.on("/held", Act::Hold(Box::new(Act::Echo)));
    let gateway = before(&[&service], "breaker = { max_connections = 2 }", "").await;
    let mut client = client(&gateway).await;
    let held: Vec<_> = (0..4).map(|_| tokio::spawn(client.send_request(get("/held")))).collect();
    wait::until(SOON, "4 requests", || async { service.begun() == 4 }).await;
    let refused = gateway.get("/").await;
    assert_eq!((refused.status, refused.header("x-fleetgate-flag")), (503, Some("UO")));
    service.release();
    for held in held {
        assert_eq!(held.await.unwrap().unwrap().status(), 200);
    }
}

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

/// Who speaks something else is a failure to connect that says so; nothing of a request is sent, so that any is tried
/// elsewhere.
#[tokio::test]
async fn an_endpoint_that_does_not_speak_http_2_is_told() {
    let (old, service) = (Origin::start("old").await, Service::start().await);
    let endpoints = [old.address().to_string(), service.address().to_string()];
    let gateway = Gateway::start(&config(&endpoints, "protocol = \"http2\"", "")).await;
    for _ in 0..6 {
        assert_eq!(gateway.send(Request::post("/", "once")).await.status, 200);
    }
    assert_eq!(service.arrived().len(), 6);
    assert!(old.seen().iter().all(|seen| seen.method == "PRI"), "the first words of HTTP/2, and nothing of a request");
    let alone = Gateway::start(&config(&endpoints[..1], "protocol = \"http2\"", "")).await;
    let answer = alone.get("/").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("URX")));
    let attempts = [("upstream", "app"), ("result", "connect")];
    assert_eq!(alone.metric("fleetgate_upstream_attempts_total", &attempts).await, Some(2.0));
}

#[tokio::test]
async fn endpoints_choose_their_protocol_over_tls() {
    let (old, service, authority) = (Origin::start("old").await, Service::start().await, Authority::new("authority"));
    let shown = authority.issue("app", &["app.internal"]);
    let to_new = Secured::start(service.address(), &shown, None).await;
    to_new.speak(&shown, &["h2", "http/1.1"]);
    let to_old = Secured::start(old.address(), &shown, None).await;
    to_old.speak(&shown, &["http/1.1"]);
    let without = Secured::start(old.address(), &shown, None).await;
    let tls = "tls = { ca = \"ca.pem\", server_name = \"app.internal\" }";
    let start = async |secured: &Secured, protocol: &str| {
        let lines = format!("protocol = \"{protocol}\"\n{tls}");
        let text = config(&[secured.address().to_string()], &lines, "retry = { attempts = 0 }");
        Setup::new(&text).file("ca.pem", &authority.pem()).start().await
    };
    for protocol in ["http2", "auto"] {
        let gateway = start(&to_new, protocol).await;
        let answer = gateway.send(Request::get("/x").host("a.example")).await;
        assert_eq!((answer.status, service.last().uri.as_str()), (200, "https://a.example/x"), "{protocol}");
    }
    for (secured, protocol) in [(&to_old, "auto"), (&without, "auto"), (&to_old, "http1"), (&without, "http1")] {
        let gateway = start(secured, protocol).await;
        let before = secured.shaken().len();
        for _ in 0..3 {
            assert_eq!(gateway.get("/").await.served_by(), "old/v1", "{protocol}");
        }
        assert_eq!(secured.shaken().len(), before + 1, "its connection is kept");
    }
    for (secured, why) in
        [(&to_old, "speaks nothing that the upstream's `protocol` allows"), (&without, "did not choose HTTP/2")]
    {
        let gateway = start(secured, "http2").await;
        let answer = gateway.get("/").await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("UF")));
        let told = gateway.api("upstreams/app").await["endpoints"][0]["reasons"].to_string();
        assert!(told.contains(why), "{told}");
    }
    // An endpoint that learns HTTP/2 is spoken to in it.
    let gateway = start(&to_new, "auto").await;
    to_new.speak(&shown, &["h2"]);
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(gateway.api("upstreams/app").await["settings"]["protocol"], "auto");
}

#[tokio::test]
async fn an_upgrade_needs_http_1() {
    let service = Service::start().await;
    let gateway = before(&[&service], "", "").await;
    let upgrade = |path: &str| {
        Request::get(path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-version", "13")
    };
    let answer = gateway.send(upgrade("/")).await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (501, Some("UPE")));
    assert_eq!(answer.text(), "501 no_upgrade\n");
    assert_eq!(service.begun(), 0);

    // Where the endpoint can choose, it is offered nothing else.
    let (old, authority) = (Origin::start("old").await, Authority::new("authority"));
    old.set(Behaviour::WebSocket);
    let shown = authority.issue("app", &["app.internal"]);
    let secured = Secured::start(old.address(), &shown, None).await;
    secured.speak(&shown, &["h2", "http/1.1"]);
    let lines = "protocol = \"auto\"\ntls = { ca = \"ca.pem\", server_name = \"app.internal\" }";
    let text = config(&[secured.address().to_string()], lines, "");
    let gateway = Setup::new(&text).file("ca.pem", &authority.pem()).start().await;
    let mut client = crate::http::upgrades::open(gateway.address()).await;
    crate::http::upgrades::echo(&mut client, "hello").await.unwrap();
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

/// Checks of a path and gRPC's own are asked in HTTP/2, in plain text and over TLS, and say why they fail.
#[tokio::test]
async fn health_checks_speak_http_2_too() {
    let (service, authority) = (Service::start().await, Authority::new("authority"));
    let shown = authority.issue("app", &["app.internal"]);
    let secured = Secured::start(service.address(), &shown, None).await;
    secured.speak(&shown, &["h2", "http/1.1"]);
    let says = |status: u8| Act::Stream(vec![Bytes::from(vec![0, 0, 0, 0, 2, 8, status])], vec![("grpc-status", "0")]);
    let check = "/grpc.health.v1.Health/Check";
    let pass = "interval = \"100ms\", healthy_threshold = 1, unhealthy_threshold = 1";
    let tls = "tls = { ca = \"ca.pem\", server_name = \"app.internal\" }";
    for (address, protocol) in [
        (service.address(), "protocol = \"http2\"".to_owned()),
        (secured.address(), format!("protocol = \"http2\"\n{tls}")),
        (secured.address(), format!("protocol = \"auto\"\n{tls}")),
    ] {
        for (asks, path, good, bad, why) in [
            ("path = \"/healthz\"", "/healthz", Act::Status(204, vec![]), Act::Status(503, vec![]), "status 503"),
            ("grpc = true", check, says(1), says(2), "NOT_SERVING"),
            (
                "grpc = \"users.v1.Users\"",
                check,
                says(1),
                Act::Status(200, vec![("grpc-status", "5")]),
                "does not know the service",
            ),
        ] {
            service.on(path, bad);
            let lines = format!("{protocol}\nhealth_check = {{ {asks}, {pass} }}");
            let text = config(&[address.to_string()], &lines, "");
            let gateway = Setup::new(&text).file("ca.pem", &authority.pem()).start().await;
            let state = async || gateway.endpoints("app").await[0].1.clone();
            wait::until(SOON, "an unhealthy endpoint", async || state().await == "unhealthy").await;
            let told = gateway.api("upstreams/app").await["endpoints"][0]["reasons"].to_string();
            assert!(told.contains(why), "{asks}: {told}");
            service.on(path, good);
            wait::until(SOON, "a healthy endpoint", async || state().await == "healthy").await;
            let arrived = service.arrived().pop().unwrap();
            if path == check {
                let name = if asks.contains("users") { "\n\u{e}users.v1.Users" } else { "" };
                let message = [&[0, 0, 0, 0, name.len() as u8][..], name.as_bytes()].concat();
                assert_eq!((arrived.method.as_str(), &arrived.body), ("POST", &message));
                assert_eq!(arrived.headers["content-type"], "application/grpc");
            }
        }
    }
    // One that speaks something else.
    let old = Origin::start("old").await;
    let lines = format!("protocol = \"http2\"\nhealth_check = {{ grpc = true, {pass} }}");
    let gateway = Gateway::start(&config(&[old.address().to_string()], &lines, "")).await;
    wait::until(SOON, "the reason", async || {
        let told = gateway.api("upstreams/app").await["endpoints"][0]["reasons"].to_string();
        told.contains("does not speak HTTP/2") || told.contains("connection")
    })
    .await;
    assert_eq!(gateway.endpoints("app").await[0].1, "unhealthy");
}

#[tokio::test]
async fn mistakes_are_told_with_their_place() {
    for (lines, told) in [
        ("protocol = \"auto\"", "upstreams.app.protocol: `auto` asks endpoints in TLS what they speak: give `tls`"),
        ("protocol = \"h2\"", "upstreams.app.protocol: "),
        (
            "health_check = { grpc = true }",
            "upstreams.app.health_check.grpc: gRPC is spoken in HTTP/2: give the upstream",
        ),
        (
            "protocol = \"http2\"\nhealth_check = { grpc = \"a/b\" }",
            "upstreams.app.health_check.grpc: `a/b` is not the full name of a service",
        ),
        (
            "protocol = \"http2\"\nhealth_check = { grpc = true, path = \"/\" }",
            "upstreams.app.health_check: `path`, `grpc` and `tcp` exclude each other",
        ),
    ] {
        Setup::new(&config(&["127.0.0.1:1".to_owned()], lines, "")).assert_check_tells(&[told]);
    }
}
