//! Server-Sent Events: each arrives as it is sent, for as long as both sides want it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::support::client::Connection;
use crate::support::gateway::{Gateway, serving};
use crate::support::tls::{empty, http2_over, request};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// A gateway before one service, with these lines of its upstream and route.
async fn before(service: &TcpListener, upstream: &str, route: &str) -> Gateway {
    let plain = format!("endpoints = [\"{}\"]\n{upstream}", service.local_addr().unwrap());
    Gateway::start(&serving(&format!("match = {{ path = \"/\" }}\n{route}"), &plain)).await
}

/// The service's side of a stream of events.
struct Events(TcpStream);

impl Events {
    /// Takes a request, and answers it with the head of a stream.
    async fn accept(service: &TcpListener) -> Self {
        let (mut stream, _) = timeout(SOON, service.accept()).await.expect("a connection").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(timeout(SOON, stream.read_buf(&mut head)).await.expect("a head").unwrap() > 0);
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, event: &str) {
        self.0.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
    }

    /// Waits for the end of the connection.
    async fn ended(mut self) {
        let mut rest = Vec::new();
        let _ = timeout(SOON, self.0.read_to_end(&mut rest)).await.expect("the end");
        assert!(rest.is_empty());
    }
}

/// A client of either protocol.
enum Client {
    Old(Connection),
    New(hyper::body::Incoming),
}

impl Client {
    async fn old(gateway: &Gateway) -> Self {
        let mut connection = Connection::open(gateway.address()).await.unwrap();
        connection.send(b"GET /events HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n").await.unwrap();
        let head = connection.head().await.unwrap();
        assert!(head.headers.iter().any(|(name, value)| name == "content-type" && value == "text/event-stream"));
        Self::Old(connection)
    }

    async fn new(gateway: &Gateway) -> Self {
        let mut client = http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await;
        let answer = client.send_request(request("GET", "http://a/events").body(empty()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self::New(answer.into_body())
    }

    /// The next event; `None` when the stream was cut off.
    async fn next(&mut self) -> Option<String> {
        match self {
            Self::Old(connection) => Some(String::from_utf8(connection.chunk().await.ok()?).unwrap()),
            Self::New(body) => {
                let frame = timeout(SOON, body.frame()).await.expect("an event in time")?.ok()?;
                Some(String::from_utf8(frame.into_data().unwrap_or(Bytes::new()).to_vec()).unwrap())
            }
        }
    }
}

/// A client of HTTP/1.1 or, `multiplexed`, of HTTP/2, and the other side of its stream.
async fn open(service: &TcpListener, gateway: &Gateway, multiplexed: bool) -> (Client, Events) {
    if multiplexed {
        tokio::join!(Client::new(gateway), Events::accept(service))
    } else {
        tokio::join!(Client::old(gateway), Events::accept(service))
    }
}

#[tokio::test]
async fn events_arrive_as_they_are_sent_until_the_client_leaves() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The time for a response's head is over with it.
    let gateway = before(&service, "response_timeout = \"2s\"", "").await;
    for multiplexed in [false, true] {
        let (mut client, mut events) = open(&service, &gateway, multiplexed).await;
        for number in 0..5 {
            let event = format!("id: {number}\ndata: {}\n\n", "x".repeat(number * 10));
            events.send(&event).await;
            assert_eq!(client.next().await, Some(event), "before the next one is sent");
        }
        tokio::time::sleep(Duration::from_millis(2500)).await;
        events.send(": still here\n\n").await;
        assert_eq!(client.next().await.as_deref(), Some(": still here\n\n"));
        drop(client);
        events.ended().await;
    }
    wait::until(SOON, "two lines", || async {
        gateway.access_log().iter().filter(|line| line["flag"] == "DC").count() == 2
    })
    .await;
}

/// Silence for longer than `idle_timeout` ends a stream, which a comment now and then prevents; the route's own time ends
/// it whatever comes.
#[tokio::test]
async fn silence_and_the_routes_time_end_a_stream() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = before(&service, "idle_timeout = \"3s\"", "").await;
    for multiplexed in [false, true] {
        let (mut client, mut events) = open(&service, &gateway, multiplexed).await;
        // For longer than the longest silence.
        for _ in 0..5 {
            events.send(":\n\n").await;
            assert_eq!(client.next().await.as_deref(), Some(":\n\n"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(client.next().await, None, "cut off in silence");
        events.ended().await;
    }

    let strict = before(&service, "", "timeout = \"1s\"").await;
    for multiplexed in [false, true] {
        let (mut client, mut events) = open(&service, &strict, multiplexed).await;
        let mut heard = 0;
        let (over, mut told) = tokio::sync::oneshot::channel::<()>();
        let sending = tokio::spawn(async move {
            while told.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty) {
                let event = ":\n\n";
                if events.0.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            events
        });
        while client.next().await.is_some() {
            heard += 1;
        }
        let _ = over.send(());
        assert!(heard > 0);
        sending.await.unwrap().ended().await;
    }
    let cut = |line: &serde_json::Value| line["flag"] == "UT" && line["status"] == 200;
    for gateway in [&gateway, &strict] {
        wait::until(SOON, "two lines", || async { gateway.access_log().iter().filter(|line| cut(line)).count() == 2 })
            .await;
    }
}
