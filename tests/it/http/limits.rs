//! What hyper, towards clients, cannot do: the README tells of it. 103 is dropped, and trailers for clients of HTTP/1.1
//! must have been announced; nothing else suffers from either.

use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame as Piece;
use tokio::net::TcpStream;

use super::before;
use crate::support::client::Connection;
use crate::support::frames::{DATA, Frame, Frames, HEADERS};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::tls::{Body, empty, http2_over, request};

/// `:status: 200` (RFC 7541, A).
const STATUS_200: u8 = 0x88;

async fn http2(gateway: &Gateway) -> hyper::client::conn::http2::SendRequest<Body> {
    http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await
}

#[tokio::test]
async fn early_hints_are_dropped_and_harm_nothing() {
    let origin = Origin::start("app").await;
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    let late = "HTTP/1.1 200 OK\r\nlink: </b.css>; rel=preload\r\ncontent-length: 4\r\n\r\nlate";
    origin.set(Behaviour::RawKept(format!("{early}{early}HTTP/1.1 102 Processing\r\n\r\n{late}").into_bytes()));
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    for method in ["GET", "POST"] {
        let body = if method == "POST" { "content-length: 1\r\n\r\nx" } else { "\r\n" };
        client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n{body}").as_bytes()).await.expect("to send");
        let head = client.head().await.expect("a head");
        assert!(head.first_line.contains(" 200 "), "{}", head.first_line);
        let links: Vec<_> = head.headers.iter().filter(|(name, _)| name == "link").map(|(_, link)| link).collect();
        assert_eq!(links, ["</b.css>; rel=preload"], "{method}");
        assert_eq!(client.read_exact(4).await.expect("the body"), b"late");
    }
    let mut frames = Frames::connect(gateway.address(), &[]).await;
    for stream in [1, 3] {
        frames.send(&Frame::get(stream, "/")).await.expect("to send");
        let head = frames.next_of(HEADERS).await.expect("a head");
        assert_eq!((head.stream, head.payload[0]), (stream, STATUS_200), "the first head is the last");
        assert_eq!(frames.next_of(DATA).await.expect("the body").payload, b"late");
    }
    // All on connections to the service that stayed in step.
    assert_eq!(origin.requests(), 4);
    let failed = gateway.metric("fleetgate_upstream_attempts_total", &[("result", "protocol")]).await;
    assert_eq!(failed.unwrap_or(0.0), 0.0);
}

#[tokio::test]
async fn clients_of_http_1_get_the_trailers_that_were_announced_if_they_want_any() {
    let origin = Origin::start("app").await;
    let answer = |head: &str| {
        let rest = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\nx-more: 8\r\n\r\n";
        Behaviour::RawKept(format!("HTTP/1.1 200 OK\r\n{head}{rest}").into_bytes())
    };
    origin.on("/silent", answer(""));
    origin.on("/announced", answer("trailer: x-sum\r\n"));
    let gateway = before(&origin).await;
    let sum = [("x-sum".to_owned(), "7".to_owned())];
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    for (path, te, trailers) in [
        ("/silent", "te: trailers\r\n", &[][..]),
        ("/announced", "te: trailers\r\n", &sum),
        ("/announced", "", &[]),
        ("/silent", "", &[]),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{te}\r\n").as_bytes()).await.expect("to send");
        let answer = client.answer("GET").await.expect("an answer");
        assert_eq!((answer.body.as_slice(), answer.trailers.as_slice()), (&b"abc"[..], trailers), "{path} {te}");
    }

    // HTTP/2 announces nothing.
    let mut client = http2(&gateway).await;
    for path in ["/silent", "/announced"] {
        let sent = request("GET", &format!("http://a{path}")).body(empty()).unwrap();
        let body = client.send_request(sent).await.unwrap().into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        assert_eq!((&trailers["x-sum"], &trailers["x-more"]), (&"7".parse().unwrap(), &"8".parse().unwrap()), "{path}");
        assert_eq!(body.to_bytes(), "abc");
    }
}

/// Towards services trailers need no announcement, since the gateway writes their requests itself.
#[tokio::test]
async fn services_get_all_trailers() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let sum = [("x-sum".to_owned(), "7".to_owned())];
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let text = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n";
    client.send(text.as_bytes()).await.expect("to send");
    assert_eq!(client.answer("POST").await.expect("an answer").status, 200);
    assert_eq!(origin.last_seen().expect("it arrived").trailers, sum);

    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let pieces = [Piece::data("abc".into()), Piece::trailers(trailers)].map(Ok::<_, std::io::Error>);
    let body = StreamBody::new(futures_util::stream::iter(pieces)).boxed();
    let sent = request("POST", "http://a/").body(body).unwrap();
    assert_eq!(http2(&gateway).await.send_request(sent).await.unwrap().status(), 200);
    let seen = origin.last_seen().expect("it arrived");
    assert_eq!((seen.body.as_slice(), seen.trailers.as_slice()), (&b"abc"[..], &sum[..]));
    assert_eq!(origin.requests(), 2);
}
