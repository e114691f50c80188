//! Middlewares that limit how much clients ask for.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::http::upgrades;
use crate::support::client::{Answer, Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

use super::{SOON, around};

fn number(answer: &Answer, header: &str, parameter: &str) -> u64 {
    let value = answer.header(header).unwrap_or_else(|| panic!("no {header}"));
    let found = value.split(';').find_map(|part| part.strip_prefix(parameter)).unwrap_or_else(|| panic!("{value}"));
    found.parse().unwrap()
}

#[tokio::test]
async fn more_than_the_rate_is_refused_and_everybody_is_told_what_is_left() {
    let origin = Origin::start("a").await;
    let limit = |numbers: &str| around(&origin, &["few"], &format!("middlewares.few.rate_limit = {{ {numbers} }}"));
    let gateway = Gateway::start(&limit("rate = \"60/h\", burst = 3")).await;
    for left in [2, 1, 0] {
        let answer = gateway.get("/").await;
        assert_eq!((answer.status, number(&answer, "ratelimit", "r=")), (200, left));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"rate\";q=3;w=180"));
        assert!((1..=180).contains(&number(&answer, "ratelimit", "t=")));
    }
    let refused = gateway.get("/").await;
    assert_eq!((refused.status, refused.header("x-fleetgate-flag")), (429, Some("RL")));
    assert_eq!(refused.text(), "429 too_many_requests\n");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    assert_eq!((number(&refused, "ratelimit", "r="), origin.requests()), (0, 3));
    // Other numbers are for the same clients: the limit begins with what was asked for before.
    gateway.write_config(&limit("rate = \"60/h\", burst = 4, headers = false"));
    let known = || async { gateway.api("config").await.to_string().contains("\"burst\":4") };
    wait::until(SOON, "the new numbers", known).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.header("ratelimit")), (200, None));
    assert_eq!(gateway.get("/").await.status, 429, "three of four were taken before");
    assert_eq!(gateway.until_logged("it", |line| line["status"] == 429).await["flag"], "RL");
}

#[tokio::test]
async fn limits_are_each_ones_own() {
    let origin = Origin::start("a").await;
    let middlewares = r#"
        middlewares.each.rate_limit = { rate = "1/h", key = ["header.x-tenant", "route"] }
        middlewares.address.rate_limit = { rate = "1/h", headers = false }
        routes.other = { match = { path = "/other" }, upstream = "app", middlewares = ["each"] }
        routes.address = { match = { path = "/address" }, upstream = "app", middlewares = ["address"] }
        "#;
    let config = around(&origin, &["each"], middlewares)
        .replace("\"127.0.0.1:0\" }", "\"127.0.0.1:0\", trusted_proxies = [\"127.0.0.1\"] }");
    let gateway = Gateway::start(&config).await;
    for (path, header, wanted) in [
        ("/", ("x-tenant", "red"), 200),
        ("/", ("x-tenant", "red"), 429),
        ("/", ("x-tenant", "blue"), 200),
        ("/other", ("x-tenant", "red"), 200),
        ("/other", ("x-tenant", "red"), 429),
        // Without a tenant it goes by address.
        ("/", ("x-forwarded-for", "10.0.0.1"), 200),
        ("/", ("x-forwarded-for", "10.0.0.1"), 429),
        ("/", ("x-forwarded-for", "10.0.0.2"), 200),
        ("/address", ("x-forwarded-for", "2001:db8::1"), 200),
        ("/address", ("x-forwarded-for", "2001:db8::2"), 429),
        ("/address", ("x-forwarded-for", "2001:db8:0:1::1"), 200),
    ] {
        let answer = gateway.send(Request::get(path).header(header.0, header.1)).await;
        assert_eq!(answer.status, wanted, "{path} {header:?}");
    }
}

/// A place is taken for as long as an exchange lasts, and given back however it ends.
#[tokio::test]
async fn so_many_are_in_flight_and_no_more() {
    let origin = Origin::start("a").await;
    let limit = "middlewares.two.concurrency = { limit = 2, key = [\"route\"] }";
    let gateway = Gateway::start(&around(&origin, &["two"], limit)).await;
    let full = || async { gateway.get("/probe").await.status == 429 };
    let free = || async { gateway.get("/probe").await.status == 200 };

    // While an endpoint has not answered, and its client leaves.
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        client.write_all(b"GET /held HTTP/1.1\r\nhost: a.test\r\n\r\n").await.unwrap();
        held.push(client);
    }
    // A probe before that would take the place of one.
    wait::until(SOON, "two in flight", || async { origin.requests() == 2 }).await;
    assert!(full().await);
    let refused = gateway.get("/probe").await;
    assert_eq!((refused.header("x-fleetgate-flag"), refused.header("retry-after")), (Some("RL"), Some("1")));
    drop(held);
    wait::until(SOON, "their places", free).await;
    origin.release();

    // While a body is on its way.
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfive5".to_vec();
    origin.on("/long", Behaviour::RawKept(begun));
    let mut long = Vec::new();
    for _ in 0..2 {
        let mut client = Connection::open(gateway.address()).await.unwrap();
        client.send(&Request::get("/long").bytes(gateway.address())).await.unwrap();
        client.head().await.unwrap();
        long.push(client);
    }
    assert!(full().await);
    drop(long);
    wait::until(SOON, "their places", free).await;

    // While a WebSocket is open.
    origin.set(Behaviour::WebSocket);
    let one = upgrades::open(gateway.address()).await;
    let two = upgrades::open(gateway.address()).await;
    assert!(full().await);
    drop((one, two));
    wait::until(SOON, "their places", free).await;
}

#[tokio::test]
async fn bodies_are_as_large_as_their_route_takes() {
    let origin = Origin::start("a").await;
    let middlewares = r#"
        middlewares.small.body_limit = "1KiB"
        routes.small = { match = { path = "/small" }, upstream = "app", middlewares = ["small"] }
        "#;
    let gateway = Gateway::start(&around(&origin, &[], middlewares)).await;
    for (path, size, wanted) in [("/", 2048, 200), ("/small", 1024, 200), ("/small", 1025, 413)] {
        let announced = gateway.send(Request::post(path, vec![b'x'; size])).await;
        assert_eq!(announced.status, wanted, "{path} {size}");
        assert_eq!(announced.header("x-fleetgate-flag"), (wanted == 413).then_some("BL"));
        let mut client = Connection::open(gateway.address()).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
        client.send(&[head.as_bytes(), chunk.as_bytes()].concat()).await.unwrap();
        let head = client.head().await.unwrap();
        assert!(head.first_line.contains(&wanted.to_string()), "{path} {size}: {}", head.first_line);
    }
}
