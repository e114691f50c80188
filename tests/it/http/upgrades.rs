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
