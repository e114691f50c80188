//! WebSockets and other upgrades.

use std::time::Duration;

use super::before;
use crate::support::client::{Connection, Request};
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

/// Opens a WebSocket's connection through the gateway.
pub(crate) async fn open(address: std::net::SocketAddr) -> Connection {
    let mut client = Connection::open(address).await.expect("to connect");
    let request = Request::get("/chat")
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "WebSocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13");
    client.send(&request.bytes(address)).await.expect("to send");
    let head = client.head().await.expect("a head");
    assert!(head.first_line.contains(" 101 "), "{}", head.first_line);
    assert!(
        head.headers
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case("upgrade") && value.eq_ignore_ascii_case("websocket")),
        "{head:?}"
    );
    client
}

/// Sends bytes and expects them back.
pub(crate) async fn echo(client: &mut Connection, text: &str) -> std::io::Result<()> {
    client.send(text.as_bytes()).await?;
    let back = client.read_exact(text.len()).await?;
    assert_eq!(back, text.as_bytes());
    Ok(())
}

/// A frame as clients send them (RFC 6455, 5.2). The mask is all zeros: what comes back reads the same.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u16::try_from(text.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length as u8),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

/// Sends a frame and expects it back.
pub(crate) async fn echo_frame(client: &mut Connection, text: &str) {
    let frame = frame(text);
    client.send(&frame).await.expect("to send a frame");
    assert!(client.read_exact(frame.len()).await.expect("the frame") == frame, "another frame came back");
}

/// What closes a WebSocket because its server goes away, to its client.
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// Waits for the close frame, with nothing before it, and answers as a client does; then nothing more comes.
pub(crate) async fn closed_in_order(client: &mut Connection) {
    assert_eq!(client.read_exact(4).await.expect("a close frame"), GOING_AWAY);
    client.send(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).await.expect("to answer");
    assert_eq!(client.read_to_end().await, b"");
}

/// Asserts that these frames came to a service, and then the masked frame that closes it.
pub(crate) fn assert_closed(heard: &[u8], frames: &[&str]) {
    let all: Vec<u8> = frames.iter().flat_map(|text| frame(text)).collect();
    assert_eq!(heard.len(), all.len() + 8, "{:?}", &heard[heard.len().saturating_sub(16)..]);
    let (before, close) = heard.split_at(all.len());
    assert!(before == all, "other frames came");
    let [kind, length, a, b, _, _, high, low] = close else { panic!("{close:?}") };
    assert_eq!((*kind, *length, high ^ a, low ^ b), (0x88, 0x82, 0x03, 0xe9), "{close:?}");
}

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_and_half_a_close() {
    let origin = Origin::start("app").await;
    origin.set(Behaviour::WebSocket);
    let gateway = before(&origin).await;
    let mut client = open(gateway.address()).await;
    for text in ["hello", &"x".repeat(100_000)] {
        echo(&mut client, text).await.expect("the same back");
    }
    // The client has said all; what the service still says arrives.
    client.send(b"last words").await.expect("to send");
    client.finish().await.expect("to end the sending half");
    assert_eq!(client.read_to_end().await, b"last words");
    let line = gateway.until_logged("the upgrade's end", |line| line["status"] == 101).await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&100_015.into(), &100_015.into()));
    wait::until(Duration::from_secs(10), "nothing in flight", || async {
        gateway.metric("fleetgate_upstream_connections", &[("state", "active")]).await == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn the_bytes_of_a_websocket_that_breaks_are_in_the_log() {
    let origin = Origin::start("app").await;
    origin.set(Behaviour::WebSocket);
    let gateway = before(&origin).await;
    let mut client = open(gateway.address()).await;
    echo(&mut client, "hello").await.expect("the same back");
    client.reset();
    let line = gateway.until_logged("the upgrade's end", |line| line["status"] == 101).await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &5.into()));
}

#[tokio::test]
async fn upgrades_that_are_not_listed_are_not_forwarded() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "tunnel/1");
    assert_eq!(gateway.send(request).await.status, 200);
    let seen = origin.last_seen().expect("it arrived");
    assert!(seen.header("upgrade").is_empty() && seen.header("connection").is_empty(), "{seen:?}");
}

#[tokio::test]
async fn a_service_may_refuse_an_upgrade() {
    let origin = Origin::start("app").await;
    origin.set(Behaviour::Status(403));
    let gateway = before(&origin).await;
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    assert_eq!(client.exchange(&request).await.expect("an answer").status, 403);
    origin.set(Behaviour::Echo);
    assert_eq!(client.exchange(&Request::get("/")).await.expect("the connection goes on").status, 200);
}

#[tokio::test]
async fn a_service_switches_to_what_was_asked_for_or_to_nothing() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    for protocol in ["h2c", "websocket, h2c", "websocket2", ""] {
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
        origin.set(Behaviour::Raw(head.into_bytes()));
        let request = Request::get("/chat").header("connection", "upgrade").header("upgrade", "websocket");
        let answer = gateway.send(request).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("UPE")), "{protocol}");
    }
}
