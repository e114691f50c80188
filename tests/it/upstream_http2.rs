//! HTTP/2 to endpoints: what goes through, how connections are shared, and what is asked for and refused.

mod endings;

mod circles;
mod draining;
mod slow;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use tokio::net::TcpStream;

use crate::support::client::{Connection, Request};
use crate::support::gateway::{Gateway, Setup, serving};
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
    let plain = format!(
        "endpoints = {endpoints:?}\nbalance = \"round_robin\"\npassive_health = {{ consecutive_failures = 0 }}\n{upstream}"
    );
    serving(&format!("match = {{ path = \"/\" }}\n{route}"), &plain)
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
