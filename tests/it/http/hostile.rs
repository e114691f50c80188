//! Requests that are malformed or could be read in two ways: none reaches a service as such.

use super::{before, with};
use crate::support::client::{Connection, Request, raw};
use crate::support::origin::Origin;

#[tokio::test]
async fn what_is_ambiguous_is_refused_and_the_connection_closed() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let requests: &[&str] = &[
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost:\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a..\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a..:80\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: ..\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: .a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a..b\r\n\r\n",
        "GET http://a../ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a:99999\r\n\r\n",
        "GET http://user@a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n",
        "GET /a%2fb HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a%5cb HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a\\b HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a%00 HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a%zz HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 1\r\n\r\na",
        "GET / HTTP/1.1\r\nhost: a\r\n folded: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx\0y: 1\r\n\r\n",
        "GET /\u{1}x HTTP/1.1\r\nhost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/3.7\r\nhost: a\r\n\r\n",
    ];
    for request in requests {
        // A second request behind it would be served if the connection stayed.
        let both = format!("{request}GET /second HTTP/1.1\r\nhost: a\r\n\r\n");
        let text = String::from_utf8_lossy(&raw(gateway.address(), both.as_bytes()).await).into_owned();
        let status = text.split(' ').nth(1).unwrap_or_default();
        assert!(matches!(status, "400" | "501" | "505"), "{request:?}: {text:?}");
        assert_eq!(text.matches("HTTP/1.").count(), 1, "{request:?}: {text:?}");
    }
    assert_eq!(origin.requests(), 0, "{:?}", origin.last_seen());
    // Counted, and the gateway lives.
    assert!(gateway.metric("fleetgate_requests_total", &[("flag", "DPE")]).await >= Some(20.0));
    assert_eq!(gateway.get("/fine").await.status, 200);
}

#[tokio::test]
async fn a_length_beside_chunks_never_reaches_a_service() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let smuggling = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                     3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let text = String::from_utf8_lossy(&raw(gateway.address(), smuggling.as_bytes()).await).into_owned();
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "the connection ends with it: {text}");
    for seen in origin.seen() {
        assert!(seen.header("content-length").is_empty(), "{seen:?}");
        assert_eq!((seen.target.as_str(), seen.body.as_slice()), ("/", &b"abc"[..]));
    }
}

#[tokio::test]
async fn broken_chunks_are_the_clients_fault() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    for broken in ["zz\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "fffffffffffffffff\r\na", "-1\r\na\r\n0\r\n\r\n"]
    {
        let request = format!("POST /broken HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{broken}");
        let text = String::from_utf8_lossy(&raw(gateway.address(), request.as_bytes()).await).into_owned();
        assert!(text.contains(" 400 "), "{broken:?}: {text}");
    }
    let line = gateway.until_logged("the broken chunks", |line| line["path"] == "/broken").await;
    assert_eq!(line["flag"], "DPE");
}

#[tokio::test]
async fn encoded_slashes_pass_where_the_listener_allows_them() {
    let origin = Origin::start("app").await;
    let gateway = with(&origin, &[("listeners.web", "allow_encoded_slashes = true")]).await;
    assert_eq!(gateway.get("/a%2fb/%7e").await.status, 200);
    assert_eq!(origin.last_seen().expect("it arrived").target, "/a%2Fb/~");
}

#[tokio::test]
async fn an_upgrade_to_h2c_is_answered_as_if_nobody_had_asked() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let request = Request::get("/")
        .header("connection", "Upgrade, HTTP2-Settings")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA");
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    assert_eq!(client.exchange(&request).await.expect("an answer").status, 200);
    let seen = origin.last_seen().expect("it arrived");
    assert!(seen.header("upgrade").is_empty() && seen.header("http2-settings").is_empty(), "{seen:?}");
}
