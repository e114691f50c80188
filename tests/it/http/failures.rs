//! What a client gets when something is wrong, and what log and metrics say.

use std::time::Duration;

use super::{before, with};
use crate::support::client::{Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::{place, wait};

const SOON: Duration = Duration::from_secs(20);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn answers_of_the_gateway_say_why_briefly() {
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        upstreams.dead = {{ endpoints = ["{}"] }}
        upstreams.empty = {{ endpoints = [{{ address = "127.0.0.1:9", weight = 0 }}] }}
        routes.dead = {{ match = {{ path = "/dead" }}, upstream = "dead", retry = {{ attempts = 0 }} }}
        routes.twice = {{ match = {{ path = "/twice" }}, upstream = "dead", retry = {{ attempts = 2 }} }}
        routes.empty = {{ match = {{ path = "/empty" }}, upstream = "empty" }}
        "#,
        place::refusing()
    ))
    .await;
    for (path, status, flag, code) in [
        ("/nowhere", 404, "NR", "no_route"),
        ("/dead", 502, "UF", "endpoint_unreachable"),
        ("/twice", 502, "URX", "endpoint_unreachable"),
        ("/empty", 503, "UH", "no_endpoint"),
    ] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some(flag)), "{path}");
        assert_eq!(answer.text(), format!("{status} {code}\n"));
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
        let json = gateway.send(Request::get(path).header("accept", "application/json")).await;
        assert_eq!(json.header("content-type"), Some("application/json"));
        let json = json.json();
        assert_eq!((&json["error"], &json["flag"]), (&code.into(), &flag.into()));
        assert!(json["request_id"].as_str().is_some_and(|id| !id.is_empty()));
        let line = gateway.until_logged(path, |line| line["path"] == path).await;
        assert_eq!((&line["status"], &line["flag"]), (&status.into(), &flag.into()));
        let counted =
            gateway.metric("fleetgate_requests_total", &[("flag", flag), ("code", &status.to_string())]).await;
        assert_eq!(counted, Some(2.0), "{path}");
    }
    let line = gateway.until_logged("/twice", |line| line["path"] == "/twice").await;
    assert_eq!(line["attempts"], 3, "two additional tries");
}

#[tokio::test]
async fn a_dead_endpoint_costs_a_try_elsewhere_and_no_request() {
    let origin = Origin::start("app").await;
    let gateway = with_two(&origin, place::refusing()).await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let refused = gateway.metric("fleetgate_upstream_attempts_total", &[("result", "connect")]).await;
    assert!(refused > Some(0.0), "the dead one was tried: {refused:?}");
}

async fn with_two(origin: &Origin, dead: std::net::SocketAddr) -> Gateway {
    Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        upstreams.app = {{ balance = "round_robin", endpoints = ["{}", "{dead}"] }}
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        "#,
        origin.address()
    ))
    .await
}

#[tokio::test]
async fn services_that_break_the_exchange_are_told_apart() {
    let origin = Origin::start("app").await;
    let gateway = with(&origin, &[("upstreams.app", "response_timeout = \"300ms\"\nidle_timeout = \"300ms\"")]).await;
    origin.on("/reset", Behaviour::Reset);
    origin.on("/close", Behaviour::Close);
    origin.on("/nonsense", Behaviour::Raw(b"SMTP 220 hello\r\n\r\n".to_vec()));
    origin.on(
        "/lengths",
        Behaviour::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde".to_vec()),
    );
    origin.on("/switch", Behaviour::Raw(b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_vec()));
    origin.on("/silent", Behaviour::Hold(Box::new(Behaviour::Echo)));
    // Such answers in any number are no answer; a few are.
    let before = |count| [b"HTTP/1.1 102 Processing\r\n\r\n".repeat(count).as_slice(), OK].concat();
    origin.on("/before", Behaviour::Raw(before(50)));
    assert_eq!(gateway.get("/before").await.status, 200);
    origin.on("/never", Behaviour::Raw(before(1_000)));
    for (path, status, flag) in [
        ("/reset", 502, "UC"),
        ("/close", 502, "UC"),
        ("/nonsense", 502, "UPE"),
        ("/lengths", 502, "UPE"),
        ("/switch", 502, "UPE"),
        ("/silent", 504, "UT"),
        ("/never", 502, "UPE"),
    ] {
        let answer = gateway.send(Request::post(path, "x")).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some(flag)), "{path}");
    }
    // A body that is cut off is never whole: there is no answer but the gateway's own where that is known in time, else
    // the answer that was begun ends with its connection. The log says why.
    let cut = Behaviour::CutBody { declared: 100, sent: 10, reset: false };
    origin.on("/cut", cut);
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    let cut = client.exchange(&Request::get("/cut")).await.map(|answer| answer.status);
    assert!(cut.as_ref().is_err() || cut.as_ref().is_ok_and(|status| *status == 502), "{cut:?}");
    let line = gateway.until_logged("the cut body", |line| line["path"] == "/cut").await;
    assert_eq!((&line["status"], &line["flag"]), (&if cut.is_ok() { 502 } else { 200 }.into(), &"UC".into()));
    let chunks = vec![bytes::Bytes::from_static(b"a"), bytes::Bytes::from_static(b"b")];
    origin.on("/pause", Behaviour::Stream { chunks, pause: Duration::from_secs(30), trailers: vec![] });
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    assert!(client.exchange(&Request::get("/pause")).await.is_err(), "the body is not all there");
    let line = gateway.until_logged("the paused body", |line| line["path"] == "/pause").await;
    assert_eq!((&line["status"], &line["flag"]), (&200.into(), &"UT".into()));
}

#[tokio::test]
async fn a_whole_exchange_has_its_time() {
    let origin = Origin::start("app").await;
    origin.on("/slow", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let gateway = with(&origin, &[("routes.all", "timeout = \"200ms\"")]).await;
    let answer = gateway.get("/slow").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (504, Some("UT")));
    assert_eq!(gateway.get("/quick").await.status, 200);
}

#[tokio::test]
async fn slow_and_large_bodies_end_their_connection() {
    let origin = Origin::start("app").await;
    let gateway = with(&origin, &[("listeners.web", "body_timeout = \"200ms\"\nmax_body_size = \"1KiB\"")]).await;
    let slow = "POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc";
    let large = "POST /large HTTP/1.1\r\nhost: a\r\ncontent-length: 1025\r\n\r\n";
    let endless = format!(
        "POST /endless HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n800\r\n{}\r\n",
        "x".repeat(2048)
    );
    for (request, status, flag) in [(slow, " 408 ", "RT"), (large, " 413 ", "BL"), (endless.as_str(), " 413 ", "BL")] {
        let answer = crate::support::client::raw(gateway.address(), request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains(status) && text.contains(&format!("x-fleetgate-flag: {flag}")), "{request}: {text}");
    }
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(64 * 1024));
    let answer = crate::support::client::raw(gateway.address(), head.as_bytes()).await;
    assert!(String::from_utf8_lossy(&answer).contains(" 431 "));
    let line = gateway.until_logged("the long head", |line| line["status"] == 431).await;
    assert_eq!((&line["flag"], &line["route"]), (&"HL".into(), &"".into()));
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_and_its_service_let_go() {
    let origin = Origin::start("app").await;
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let gateway = before(&origin).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    client.send(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("to send");
    wait::until(SOON, "the request at the service", || async { origin.open_connections() == 1 }).await;
    drop(client);
    let line = gateway.until_logged("the client that left", |line| line["path"] == "/held").await;
    assert_eq!((&line["status"], &line["flag"]), (&499.into(), &"DC".into()));
    // The service notices as it answers.
    origin.release();
    wait::until(SOON, "the service's connection to end", || async { origin.open_connections() == 0 }).await;
    assert_eq!(gateway.metric("fleetgate_requests_total", &[("code", "499")]).await, Some(1.0));
}

#[tokio::test]
async fn a_kept_connection_that_died_costs_no_request() {
    let mut origin = Origin::start("app").await;
    let gateway = with(&origin, &[("runtime", "workers = 1")]).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 200);
        // The service is replaced at the same address: its kept connections are all dead.
        origin.stop().await;
        origin.start_again().await;
    }
    // One that closes as the request is on its way: sent again, since it is idempotent.
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 200);
        origin.then(Behaviour::Close);
        let answer = gateway.get("/once-more").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_request_that_kills_its_service_meets_it_twice_at_most() {
    let origin = Origin::start("app").await;
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Echo)));
    origin.on("/deadly", Behaviour::Reset);
    let gateway = with(&origin, &[("runtime", "workers = 1"), ("upstreams.app", "keep_alive = \"60s\"")]).await;
    let held: Vec<_> = (0..8).map(|_| tokio::spawn(Request::get("/held").send(gateway.address()))).collect();
    wait::until(SOON, "eight connections", || async { origin.open_connections() == 8 && origin.requests() == 8 }).await;
    origin.release();
    for answer in held {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let answer = gateway.get("/deadly").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("URX")));
    assert_eq!(origin.requests(), 8 + 2, "once on a kept connection, once on a new one");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let origin = Origin::start("app").await;
    let body = vec![b'x'; 64 << 20];
    origin.on("/large", Behaviour::Answer { status: 200, headers: vec![], body });
    let gateway = with(&origin, &[("listeners.web", "idle_timeout = \"1s\"")]).await;
    let mut client = Connection::open(gateway.address()).await.expect("to connect");
    client.send(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("to send");
    assert!(client.head().await.expect("a head").first_line.contains(" 200 "));
    let line = gateway.until_logged("the client that stalls", |line| line["path"] == "/large").await;
    assert_eq!((&line["status"], &line["flag"]), (&200.into(), &"DC".into()));
    wait::until(SOON, "no connections", || async {
        gateway.metric("fleetgate_downstream_connections", &[("listener", "web")]).await == Some(0.0)
    })
    .await;
}

/// A head with a body that is broken as it comes: nothing of it is passed on, and nobody gets an empty answer.
#[tokio::test]
async fn a_body_that_is_broken_with_its_head_is_a_bad_gateway() {
    let origin = Origin::start("app").await;
    let gateway = before(&origin).await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in
        ["ZZ\r\nhello\r\n", "5\r\nhello\r\nZZ\r\n", "3\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\nbad name: 1\r\n\r\n"]
    {
        origin.set(Behaviour::Raw(format!("{chunked}{body}").into_bytes()));
        let answer = gateway.send(Request::post("/", "x")).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("UPE")), "{body:?}");
    }
    for (head, body) in [("content-length: 100", "hello"), ("transfer-encoding: chunked", "5\r\nhello\r\n")] {
        origin.set(Behaviour::Raw(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into_bytes()));
        let answer =
            crate::support::client::raw(gateway.address(), b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        // The end may come a moment later than the rest.
        assert!(
            text.starts_with("HTTP/1.1 502 ") || text.starts_with("HTTP/1.1 200 ") && !text.ends_with("0\r\n\r\n"),
            "{text:?}"
        );
    }
    // Many chunks at once come through as they are.
    let chunks: String = (0..500).map(|number| format!("4\r\n{number:04}\r\n")).collect();
    origin.set(Behaviour::RawKept(format!("{chunked}{chunks}0\r\nx-sum: 1\r\n\r\n").into_bytes()));
    let whole: String = (0..500).map(|number| format!("{number:04}")).collect();
    for _ in 0..2 {
        assert_eq!(gateway.get("/").await.text(), whole);
    }
}
