//! Versions, resumption, slow handshakes, and plain requests that are sent to https.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{exchange, setup};
use crate::support::client::Request;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Behaviour, Origin};
use crate::support::pki::Authority;
use crate::support::tls::{Client, Setup as ClientSetup};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn sessions_are_resumed_at_any_worker_and_after_an_exchange() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let web = authority.issue("web", &["a.example"]);
    let gateway = setup(&origin, "", &web).env("FLEETGATE_RUNTIME__WORKERS", "4").start().await;
    let address = gateway.listener("secure");
    for version in [&TLS12, &TLS13] {
        let client = Client::new(&ClientSetup { versions: &[version], ..ClientSetup::trusting(&authority) });
        assert_eq!(client.get(address, "a.example", "/").await.unwrap().0, 200);
        for _ in 0..8 {
            let secured = client.connect(address, "a.example").await.unwrap();
            assert!(secured.is_resumed(), "{version:?}");
            // TLS 1.3 tickets come after the handshake, each for one use.
            let mut http = secured.http1().await;
            let request = crate::support::tls::request("GET", "/").header("host", "a.example");
            http.send_request(request.body(crate::support::tls::empty()).unwrap()).await.unwrap();
        }
        exchange(&gateway, &authority.issue("web", &["a.example"]));
    }
    let resumed = gateway.metric("fleetgate_tls_handshakes_total", &[("result", "resumed")]).await;
    assert_eq!(resumed, Some(16.0));
}

#[tokio::test]
async fn old_versions_are_refused_where_the_settings_say_so() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let web = authority.issue("web", &["a.example"]);
    let gateway = setup(&origin, "min_version = \"1.3\"", &web).start().await;
    let old = Client::new(&ClientSetup { versions: &[&TLS12], ..ClientSetup::trusting(&authority) });
    let refused = old.get(gateway.listener("secure"), "a.example", "/").await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    let new = Client::new(&ClientSetup { versions: &[&TLS13], ..ClientSetup::trusting(&authority) });
    assert_eq!(new.get(gateway.listener("secure"), "a.example", "/").await.unwrap().0, 200);
}

#[tokio::test]
async fn handshakes_that_take_too_long_or_are_none_end() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let web = authority.issue("web", &["a.example"]);
    let gateway = setup(&origin, "", &web).env("FLEETGATE_LISTENERS__SECURE__HEADER_TIMEOUT", "1s").start().await;
    let address = gateway.listener("secure");
    // As balancers look whether a port is open: no handshake, and none that failed.
    drop(TcpStream::connect(address).await.unwrap());
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    for stream in [&mut slow, &mut silent, &mut plain] {
        // Closed, with or without a word: it was not served.
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the end");
        assert!(answer.len() < 16, "{answer:?}");
    }
    let count = async |result| gateway.metric("fleetgate_tls_handshakes_total", &[("result", result)]).await;
    wait::until(SOON, "the counts", || async {
        (count("timeout").await, count("failed").await) == (Some(2.0), Some(1.0))
    })
    .await;
    assert_eq!(Client::trusting(&authority).get(address, "a.example", "/").await.unwrap().0, 200);
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn upgrades_and_large_bodies_go_through_tls() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    origin.on("/socket", Behaviour::WebSocket);
    origin.on("/large", Behaviour::Answer { status: 200, headers: vec![], body: vec![b'x'; 4 << 20] });
    let gateway = setup(&origin, "", &authority.issue("web", &["a.example"])).start().await;
    let client = Client::trusting(&authority);
    let (status, answer) = client.get(gateway.listener("secure"), "a.example", "/large").await.unwrap();
    assert_eq!((status, answer.bytes().filter(|byte| *byte == b'x').count() >= 4 << 20), (200, true));

    let mut stream = client.connect(gateway.listener("secure"), "a.example").await.unwrap().0;
    let head = "GET /socket HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tokio::time::timeout(SOON, stream.read_exact(&mut byte)).await.unwrap().unwrap();
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    let sent = vec![9u8; 100_000];
    let (mut reading, mut writing) = tokio::io::split(stream);
    let write = async {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let read = async { tokio::time::timeout(SOON, reading.read_to_end(&mut back)).await.unwrap().unwrap() };
    tokio::join!(write, read);
    assert!(back == sent, "{} bytes came back", back.len());
}

#[tokio::test]
async fn plain_requests_are_sent_to_https() {
    let origin = Origin::start("app").await;
    let config = |redirect: &str| {
        format!(
            r#"
            listeners.web = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.0/8"], redirect_to_https = {redirect} }}
            admin.address = "127.0.0.1:0"
            upstreams.app.endpoints = ["{}"]
            routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
            "#,
            origin.address()
        )
    };
    let gateway = Gateway::start(&config("{}")).await;
    let answer = gateway.send(Request::post("/a//b?c=%2F&d", "body").host("Example.com:8080")).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some("https://example.com/a/b?c=%2F&d"));
    let told = gateway.api("explain?method=GET&url=http%3A%2F%2Fexample.com%2Fx%3Fy").await;
    assert_eq!(told["answer"]["status"], 308, "{told}");
    assert!(told["answer"]["reason"].as_str().unwrap().ends_with("this one to https://example.com/x?y"), "{told}");
    // Behind a proxy that speaks TLS itself there is nothing to redirect.
    assert_eq!(gateway.send(Request::get("/").header("x-forwarded-proto", "https")).await.status, 200);
    assert_eq!(gateway.send(Request::new("OPTIONS", "*").host("a")).await.status, 400);
    let gateway = Gateway::start(&config("{ port = 8443, status = 301 }")).await;
    let answer = gateway.send(Request::get("/").host("[::1]:8080")).await;
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://[::1]:8443/")));
    assert_eq!(origin.requests(), 1);

    let both = "listeners.a = { address = \"127.0.0.1:0\", tls = {}, redirect_to_https = {} }";
    let (_, stdout, stderr) = Setup::new(both).fail().await;
    assert!((stdout + &stderr).contains("exclude each other"));
}

#[tokio::test]
async fn cookies_that_the_gateway_sets_over_tls_are_secure() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let web = authority.issue("web", &["a.example"]);
    let gateway = setup(&origin, "", &web).start().await;
    let config = std::fs::read_to_string(gateway.folder().join("fleetgate.toml")).unwrap();
    gateway
        .write_config(&config.replace("upstream = \"app\" }", "upstream = \"app\", sticky = { cookie = \"side\" } }"));
    let client = Client::trusting(&authority);
    wait::until_ok(SOON, "a cookie", || async {
        let (_, answer) = client.get(gateway.listener("secure"), "a.example", "/").await.unwrap();
        let cookie = answer.lines().find(|line| line.starts_with("set-cookie")).map(str::to_owned);
        match cookie {
            Some(cookie) if cookie.ends_with("; Secure") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let plain = Request::get("/").send(gateway.listener("plain")).await;
    assert!(!plain.header("set-cookie").unwrap().contains("Secure"));
}
