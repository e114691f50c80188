//! HTTP/2 of clients, over TLS and in plain text.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::setup;
use crate::support::client::{PATIENCE, Request};
use crate::support::frames::{Frame as RawFrame, Frames, GOAWAY, HEADERS, RST_STREAM};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::pki::Authority;
use crate::support::tls::{Body, Client, Setup as ClientSetup, empty, http2_over, request};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

struct World {
    origin: Origin,
    authority: Authority,
    gateway: Gateway,
}

impl World {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    async fn with(variables: &[(&str, &str)]) -> Self {
        let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
        let mut setup = setup(&origin, "", &authority.issue("web", &["a.example"]));
        for (key, value) in variables {
            setup = setup.env(key, *value);
        }
        Self { origin, authority, gateway: setup.start().await }
    }

    async fn secured(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        let client = Client::new(&ClientSetup { alpn: &["h2", "http/1.1"], ..ClientSetup::trusting(&self.authority) });
        let secured = client.connect(self.gateway.listener("secure"), "a.example").await.unwrap();
        assert_eq!(secured.alpn(), "h2");
        secured.http2().await
    }

    async fn plain(&self) -> hyper::client::conn::http2::SendRequest<Body> {
        http2_over(TcpStream::connect(self.gateway.listener("plain")).await.unwrap()).await
    }
}

#[tokio::test]
async fn clients_choose_their_protocol() {
    let world = World::start().await;
    let address = world.gateway.listener("secure");
    for (alpn, chosen) in [(&["http/1.1"][..], "http/1.1"), (&["http/1.1", "h2"], "h2"), (&[], "")] {
        let client = Client::new(&ClientSetup { alpn, ..ClientSetup::trusting(&world.authority) });
        assert_eq!(client.connect(address, "a.example").await.unwrap().alpn(), chosen);
    }
    let alien = Client::new(&ClientSetup { alpn: &["spdy/3"], ..ClientSetup::trusting(&world.authority) });
    alien.connect(address, "a.example").await.unwrap_err();

    let without =
        World::with(&[("FLEETGATE_LISTENERS__SECURE__HTTP2", "false"), ("FLEETGATE_LISTENERS__PLAIN__HTTP2", "false")])
            .await;
    let both = Client::new(&ClientSetup { alpn: &["h2", "http/1.1"], ..ClientSetup::trusting(&without.authority) });
    let secured = both.connect(without.gateway.listener("secure"), "a.example").await.unwrap();
    assert_eq!(secured.alpn(), "http/1.1");
    let mut refused = without.plain().await;
    refused.send_request(request("GET", "http://a.example/").body(empty()).unwrap()).await.unwrap_err();
}

/// Either way a service sees a request of HTTP/1.1, with all that stands for it there.
#[tokio::test]
async fn services_see_a_request_of_http_1() {
    let world = World::start().await;
    for (mut client, scheme) in [(world.secured().await, "https"), (world.plain().await, "http")] {
        let sent = request("GET", &format!("{scheme}://a.example/a//b?c=1"))
            .header("cookie", "x=1")
            .header("cookie", "y=2")
            .header("te", "trailers")
            .header("expect", "100-continue")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x_forwarded_for", "6.6.6.6")
            .header("x-forwarded-prefix", "/evil")
            .header("x-consumer", "root")
            .header("x.consumer", "root")
            .body(empty())
            .unwrap();
        let answer = client.send_request(sent).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
        assert!(answer.headers().get("connection").is_none() && answer.headers().get("transfer-encoding").is_none());
        let seen = world.origin.last_seen().unwrap();
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str(), seen.version.as_str()),
            ("GET", "/a/b?c=1", "HTTP/1.1")
        );
        for (name, values) in [
            ("host", &["a.example"][..]),
            ("cookie", &["x=1; y=2"]),
            ("te", &["trailers"]),
            ("via", &["2.0 fleetgate"]),
            ("x-forwarded-proto", &[scheme]),
            ("x-forwarded-host", &["a.example"]),
            ("x-forwarded-for", &["127.0.0.1"]),
            ("expect", &[]),
            ("x_forwarded_for", &[]),
            ("x-forwarded-prefix", &[]),
            ("x-consumer", &[]),
            ("x.consumer", &[]),
            ("transfer-encoding", &[]),
        ] {
            assert_eq!(seen.header(name), values, "{name}");
        }
        let odd = request("GET", &format!("{scheme}://a.example../")).body(empty()).unwrap();
        assert_eq!(client.send_request(odd).await.unwrap().status(), 400);
        let logged = world.gateway.until_logged("the request", |line| line["path"] == "/a//b").await;
        assert_eq!((&logged["protocol"], &logged["host"]), (&json!("HTTP/2.0"), &json!("a.example")));
    }
}

#[tokio::test]
async fn bodies_and_trailers_go_both_ways_as_they_come() {
    let world = World::start().await;
    let chunks = vec![Bytes::from_static(b"one "), Bytes::from_static(b"two")];
    let stream = Behaviour::Stream { chunks, pause: Duration::from_millis(50), trailers: vec![("x-sum", "7")] };
    world.origin.on("/stream", stream);
    for mut client in [world.secured().await, world.plain().await] {
        // The answer's first piece is there before its last.
        let answer = client.send_request(request("GET", "http://a.example/stream").body(empty()).unwrap());
        let mut body = answer.await.unwrap().into_body();
        let (mut text, mut trailers, mut frames) = (Vec::new(), None, 0);
        while let Some(frame) = body.frame().await {
            frames += 1;
            match frame.unwrap().into_data() {
                Ok(data) => text.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        assert_eq!((String::from_utf8_lossy(&text).as_ref(), frames), ("one two", 3));
        assert_eq!(trailers.unwrap()["x-sum"], "7");

        // A request of unknown length, with trailers, sent while its answer has not begun.
        let (pieces, received) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
        let pieces_come = futures_util::stream::unfold(received, async |mut received| {
            let frame = received.recv().await?;
            Some((Ok::<_, std::io::Error>(frame), received))
        });
        let body = StreamBody::new(pieces_come).boxed();
        let sent = request("POST", "http://a.example/up").header("trailer", "x-end").body(body).unwrap();
        let sending = async {
            for piece in ["a", "b", "c"] {
                pieces.send(Frame::data(Bytes::from_static(piece.as_bytes()))).await.unwrap();
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-end", "1".parse().unwrap());
            pieces.send(Frame::trailers(trailers)).await.unwrap();
            drop(pieces);
        };
        let (answer, ()) = tokio::join!(client.send_request(sent), sending);
        assert_eq!(answer.unwrap().status(), 200);
        let seen = world.origin.last_seen().unwrap();
        assert_eq!((seen.body.as_slice(), seen.header("transfer-encoding")), (&b"abc"[..], vec!["chunked"]));
        assert_eq!(seen.trailers, [("x-end".to_owned(), "1".to_owned())]);

        // One of known length, larger than every window.
        let large = Bytes::from(vec![7u8; 3 << 20]);
        let sent = request("POST", "http://a.example/large")
            .body(Full::new(large.clone()).map_err(|never| match never {}).boxed());
        let answer = client.send_request(sent.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        assert!(world.origin.last_seen().unwrap().body == large);
    }
}

/// Answers without a body, and one that comes before the request's body has.
#[tokio::test]
async fn answers_of_every_shape_come_through() {
    let world = World::start().await;
    world.origin.on("/none", Behaviour::Answer { status: 204, headers: vec![], body: vec![] });
    world.origin.on("/early", Behaviour::Early(413));
    world.origin.on("/cut", Behaviour::CutBody { declared: 100, sent: 10, reset: false });
    for mut client in [world.secured().await, world.plain().await] {
        let head = client.send_request(request("HEAD", "http://a.example/").body(empty()).unwrap()).await.unwrap();
        let length: usize = head.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert!(head.status() == 200 && length > 100, "{head:?}");
        assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
        let none = client.send_request(request("GET", "http://a.example/none").body(empty()).unwrap()).await.unwrap();
        assert!(none.status() == 204 && none.headers().get("content-length").is_none(), "{none:?}");

        let (pieces, received) = tokio::sync::mpsc::channel::<Frame<Bytes>>(1);
        let pieces_come = futures_util::stream::unfold(received, async |mut received| {
            Some((Ok::<_, std::io::Error>(received.recv().await?), received))
        });
        pieces.send(Frame::data(Bytes::from_static(b"a"))).await.unwrap();
        let sent = request("POST", "http://a.example/early").body(StreamBody::new(pieces_come).boxed()).unwrap();
        assert_eq!(client.send_request(sent).await.unwrap().status(), 413);
        drop(pieces);

        // What is cut must not look whole; its reset may go before its head. Where the end comes with the head, it is 502.
        let cut = client.send_request(request("GET", "http://a.example/cut").body(empty()).unwrap()).await;
        if let Ok(cut) = cut
            && cut.status() != 502
        {
            cut.into_body().collect().await.unwrap_err();
        }
        let after = client.send_request(request("GET", "http://a.example/").body(empty()).unwrap()).await.unwrap();
        assert_eq!(after.status(), 200, "the connection goes on");
    }
}

#[tokio::test]
async fn the_gate_stands_before_http_2_too() {
    let world = World::start().await;
    let mut client = world.plain().await;
    for (sent, status) in [
        (request("GET", "http://a.example/%2F"), 400),
        (request("GET", "http://a.example/").header("host", "other.example"), 400),
        (request("GET", "http://a.example/").header("host", "A.example"), 200),
        (request("GET", "ftp://a.example/"), 400),
        (request("CONNECT", "a.example:443"), 400),
        (request("OPTIONS", "http://a.example"), 200),
    ] {
        let sent = sent.body(empty()).unwrap();
        let what = format!("{sent:?}");
        let answer = client.send_request(sent).await.unwrap();
        assert_eq!(answer.status(), status, "{what}");
        assert!(answer.headers().get("connection").is_none(), "{what}");
    }
    assert_eq!(world.origin.requests(), 2);
    // The same connection all the while.
    let connections = world.gateway.metric("fleetgate_downstream_connections", &[("listener", "plain")]).await;
    assert_eq!(connections, Some(1.0));
}

/// What looks like the preface for a while and then is not, and one that comes byte by byte.
#[tokio::test]
async fn the_preface_is_read_to_its_end() {
    let world = World::start().await;
    let address = world.gateway.listener("plain");
    let mut stream = TcpStream::connect(address).await.unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        stream.write_all(&[*byte]).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut head = [0; 9];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head[3], 4, "SETTINGS: {head:?}");
    for (text, status) in [
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx", "200"),
        ("PRI * HTTP/2.0\r\nhost: a\r\n\r\n", "400"),
        ("PRIVATE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "200"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (first, rest) = text.as_bytes().split_at(2);
        stream.write_all(first).await.unwrap();
        stream.write_all(rest).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer.get(9..12), Some(status), "{text}: {answer}");
    }
    // One that never ends is a head that never ends.
    let slow = World::with(&[("FLEETGATE_LISTENERS__PLAIN__HEADER_TIMEOUT", "1s")]).await;
    let mut stream = TcpStream::connect(slow.gateway.listener("plain")).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let _ = tokio::time::timeout(SOON, stream.read_to_string(&mut String::new())).await.expect("the end");
}

/// A stop lets exchanges end and takes no more: GOAWAY (RFC 9113, 6.8).
#[tokio::test]
async fn a_stop_ends_exchanges_in_order() {
    let mut world = World::start().await;
    world.origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Status(200))));
    let mut secured = world.secured().await;
    let held = secured.send_request(request("GET", "http://a.example/held").body(empty()).unwrap());
    let held = tokio::spawn(held);
    let mut plain = Frames::connect(world.gateway.listener("plain"), &[]).await;
    plain.send(&RawFrame::get(1, "/held")).await.unwrap();
    let mut idle = Frames::connect(world.gateway.listener("plain"), &[]).await;
    wait::until(SOON, "two requests", || async { world.origin.requests() == 2 }).await;
    world.gateway.process().signal("TERM");
    for client in [&mut plain, &mut idle] {
        let goaway = client.next_of(GOAWAY).await.expect("a word");
        assert_eq!(goaway.payload[4..8], [0; 4], "no error: {goaway:?}");
    }
    assert_eq!(idle.next_of(HEADERS).await, None, "its end");
    world.origin.release();
    let answer = tokio::time::timeout(SOON, held).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
    assert_eq!(plain.next_of(HEADERS).await.unwrap().stream, 1);
    assert_eq!(plain.next_of(RST_STREAM).await, None, "its end");
    assert!(world.gateway.process().end(SOON).await.success());
}

/// A connection without exchanges is closed in time, whatever its client says to keep it.
#[tokio::test]
async fn idle_connections_are_closed() {
    let world = World::with(&[("FLEETGATE_LISTENERS__PLAIN__IDLE_TIMEOUT", "1s")]).await;
    let mut client = world.plain().await;
    let answer = client.send_request(request("GET", "http://a.example/").body(empty()).unwrap()).await.unwrap();
    answer.into_body().collect().await.unwrap();
    wait::until(SOON, "the end", || {
        let closed = client.is_closed();
        async move { closed }
    })
    .await;
    // One that was used meanwhile by another listener's client is not.
    assert_eq!(Request::get("/").send(world.gateway.listener("plain")).await.status, 200);
}
