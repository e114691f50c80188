//! What arrives at a service, and what comes back.

use std::time::Duration;

use bytes::Bytes;

use super::{before, with};
use crate::support::client::{Connection, Request};
use crate::support::origin::{Behaviour, Origin};

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_but_for_what_a_gateway_owes() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let request = Request::post("/a//b/../c%7e?q=%2F..//&q", "body")
        .host("Example.com:80")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "gopher")
        .header("forwarded", "for=6.6.6.6")
        .header("connection", "x-private")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("te", "trailers, deflate")
        .header("x-plain", "as is");
    let answer = gateway.send(request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = origin.last_seen().expect("it arrived");
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/a/c~?q=%2F..//&q"));
    assert_eq!(seen.body, b"body");
    assert_eq!(seen.header("host"), ["Example.com:80"]);
    assert_eq!(seen.header("via"), ["1.1 fleetgate"]);
    assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.header("x-forwarded-host"), ["Example.com:80"]);
    assert_eq!(seen.header("x-request-id").first().map(|id| id.len()), Some(32));
    assert_eq!((seen.header("te"), seen.header("x-plain")), (vec!["trailers"], vec!["as is"]));
    for gone in ["forwarded", "x-private", "keep-alive"] {
        assert_eq!(seen.header(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!(answer.values("via"), ["1.1 fleetgate"]);
}

#[tokio::test]
async fn trusted_proxies_are_believed_and_request_ids_kept() {
    let origin = Origin::start("app").await;
    let gateway = with(&origin, &[("listeners.web", "trusted_proxies = [\"127.0.0.0/8\"]")]).await;
    let request = Request::get("/")
        .header("x-forwarded-for", "203.0.113.9, 127.0.0.2")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "given-id")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    gateway.send(request).await;
    let seen = origin.last_seen().expect("it arrived");
    assert_eq!(seen.header("x-forwarded-for"), ["203.0.113.9, 127.0.0.2, 127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.header("x-request-id"), ["given-id"]);
    let line = gateway.until_logged("the exchange", |line| line["status"] == 200).await;
    assert_eq!(line["client"], "203.0.113.9");
    assert_eq!(line["request_id"], "given-id");
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn bodies_stream_both_ways_without_waiting_for_their_ends() {
    let origin = Origin::start("app").await;
    let chunks = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
    let trailers = vec![("x-sum", "42")];
    origin.on("/stream", Behaviour::Stream { chunks, pause: Duration::from_millis(400), trailers });
    let gateway = before(&origin).await;

    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    client.send(b"GET /stream HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n").await.expect("to send");
    let head = client.head().await.expect("a head");
    assert!(head.first_line.contains("200"), "{}", head.first_line);
    let first = client.read_some().await.expect("the first piece");
    assert!(!String::from_utf8_lossy(&first).contains("two"), "the first piece waits for no other");
    let mut rest = Vec::new();
    while !rest.windows(5).any(|end| end == b"0\r\nx-") {
        rest.extend(client.read_some().await.expect("more"));
    }
    let text = String::from_utf8_lossy(&rest).into_owned();
    assert!(text.contains("two") && text.to_lowercase().contains("x-sum: 42"), "{text}");

    // The service sees the first piece of a request before the client sends the last.
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let head = "POST /up HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n";
    client.send(head.as_bytes()).await.expect("to send");
    let connections = origin.connections();
    crate::support::wait::until(Duration::from_secs(10), "the request's head at the service", || async {
        origin.connections() >= connections.max(1)
    })
    .await;
    client.send(b"6\r\n world\r\n0\r\nx-sum: 7\r\n\r\n").await.expect("to send");
    let answer = client.answer("POST").await.expect("an answer");
    assert_eq!(answer.status, 200);
    let seen = origin.last_seen().expect("it arrived");
    assert_eq!(seen.body, b"hello world");
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[tokio::test]
async fn trailers_cannot_say_what_belongs_into_a_head() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let text = "POST /up HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
                content-length: 9\r\ntransfer-encoding: chunked\r\nhost: b\r\nauthorization: Basic eA==\r\n\
                x-forwarded-for: 6.6.6.6\r\nconnection: close\r\nx-sum: 7\r\n\r\n";
    client.send(text.as_bytes()).await.expect("to send");
    assert_eq!(client.answer("POST").await.expect("an answer").status, 200);
    assert_eq!(origin.last_seen().expect("it arrived").trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[tokio::test]
async fn a_get_with_a_chunked_body_keeps_it() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let text = b"GET /search HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    client.send(text).await.expect("to send");
    assert_eq!(client.answer("GET").await.expect("an answer").status, 200);
    assert_eq!(origin.last_seen().expect("it arrived").body, b"abc");
    // The connection is in step for the next request.
    assert_eq!(client.exchange(&Request::get("/next")).await.expect("an answer").json()["target"], "/next");
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let origin = Origin::start("app").await;
    let body = vec![b'x'; 1000];
    origin.on("/file", Behaviour::Answer { status: 200, headers: vec![("x-a", "1".to_owned())], body });
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    for _ in 0..2 {
        let answer = client.exchange(&Request::new("HEAD", "/file")).await.expect("an answer");
        assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("1000"), 0));
    }
    assert_eq!(client.exchange(&Request::get("/file")).await.expect("an answer").body.len(), 1000);
}

#[tokio::test]
async fn a_client_that_expects_100_is_asked_only_when_the_service_asks() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    // The service refuses by the head alone: the client must not be told to continue.
    origin
        .on("/refused", Behaviour::Raw(b"HTTP/1.1 417 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()));
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let head = "POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    client.send(head.as_bytes()).await.expect("to send");
    // This origin reads bodies before it answers, so the gateway's own patience of a second decides here.
    let first = client.head().await.expect("a head");
    assert!(first.first_line.contains(" 100 "), "{}", first.first_line);
    client.send(b"body").await.expect("to send");
    assert_eq!(client.answer("POST").await.expect("an answer").status, 417);

    // One that answers at once, before any body.
    origin.on("/early", Behaviour::Early(413));
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let head = "POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n";
    client.send(head.as_bytes()).await.expect("to send");
    let first = client.head().await.expect("a head");
    assert!(first.first_line.contains(" 413 "), "{}", first.first_line);
}

#[tokio::test]
async fn clients_of_http_1_0_are_served() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let text = crate::support::client::raw(gateway.address(), b"GET /old HTTP/1.0\r\n\r\n").await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200"), "{text}");
    let seen = origin.last_seen().expect("it arrived");
    assert_eq!((seen.version.as_str(), seen.target.as_str()), ("HTTP/1.1", "/old"));
    assert_eq!(seen.header("via"), ["1.0 fleetgate"]);
    assert_eq!(seen.header("host"), [origin.address().to_string()], "HTTP/1.1 has a Host in every request");
    // They know no chunks (RFC 9112, 6.1): the connection's end ends the body.
    let chunks = vec![Bytes::from_static(b"one "), Bytes::from_static(b"two")];
    origin.on("/stream", Behaviour::Stream { chunks, pause: Duration::ZERO, trailers: vec![("x-sum", "42")] });
    let request = b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\nte: trailers\r\n\r\n";
    let text = crate::support::client::raw(gateway.address(), request).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.ends_with("\r\n\r\none two") && !text.to_lowercase().contains("transfer-encoding"), "{text}");
    assert!(text.contains("connection: close\r\n") && !text.contains("keep-alive"), "{text}");
    let mut kept = Connection::open(gateway.address()).await.expect("a connection");
    for _ in 0..2 {
        kept.send(b"GET /old HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.expect("to send");
        let answer = kept.answer("GET").await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("keep-alive")));
    }
    let upgrade = b"GET /old HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    crate::support::client::raw(gateway.address(), upgrade).await;
    assert_eq!(origin.last_seen().expect("it arrived").header("upgrade"), [""; 0], "HTTP/1.0 knows no upgrade");
}

#[tokio::test]
async fn an_absolute_target_decides_over_host() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let request = Request::get("http://other.example/x?y=1").host("a.example");
    assert_eq!(gateway.send(request).await.status, 200);
    let seen = origin.last_seen().expect("it arrived");
    assert_eq!((seen.target.as_str(), seen.header("host")), ("/x?y=1", vec!["other.example"]));
}

#[tokio::test]
async fn connections_to_services_are_kept_and_used_again() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    for index in 0..50 {
        let body = if index % 2 == 0 { String::new() } else { "x".repeat(index * 100) };
        assert_eq!(gateway.send(Request::post("/", body)).await.status, 200);
    }
    // One a worker at most, the clients' connections being spread over them.
    assert!(origin.connections() <= 4, "{} connections for 50 requests in turn", origin.connections());
}
