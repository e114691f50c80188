//! gRPC through the gateway: calls of Google's own client to Google's own server, and answers that the gateway makes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::consul::{Consul, Service as ConsulService};
use crate::support::gateway::{Gateway, Setup, serving};
use crate::support::multiplexed::{Act, Service};
use crate::support::pki::Authority;
use crate::support::process::Process;
use crate::support::python;
use crate::support::secured::Secured;
use crate::support::tls::{by_hand, empty, http2_over, request};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

fn peer(python: &PathBuf, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/grpc/peer.py")).args(arguments);
    command
}

/// Google's server, and what calls its client.
struct Peers {
    python: PathBuf,
    server: Process,
    address: SocketAddr,
}

impl Peers {
    async fn start() -> Option<Self> {
        let python = python::environment()?;
        let server = Process::start("grpcio", &peer(&python, &["serve"]));
        let port = wait::until_ok(SOON, "a port", || {
            let lines = server.stdout.all();
            let port = lines.iter().find_map(|line| line.strip_prefix("port ")?.parse().ok());
            async move { port.ok_or(lines) }
        })
        .await;
        Some(Self { python, server, address: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    /// What came of these calls.
    async fn call(&self, at: SocketAddr, names: &[&str], options: &[&str]) -> Value {
        let address = at.to_string();
        let mut command = peer(&self.python, &[&["call", &address], names, options].concat());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}\n{errors}"))
    }

    async fn until_said(&self, text: &str) {
        wait::until(SOON, text, || async { self.server.stdout.contains(text) }).await;
    }
}

fn config(endpoint: SocketAddr, upstream: &str, route: &str) -> String {
    let plain = format!("endpoints = [\"{endpoint}\"]\nprotocol = \"http2\"\n{upstream}");
    serving(&format!("match = {{ path = \"/fleetgate.test.Echo\" }}\n{route}"), &plain)
}

/// Calls of each kind.
const CALLS: [&str; 8] = ["unary", "large", "many", "server_stream", "client_stream", "both", "fail", "unknown"];

/// What comes of them.
fn calls_that_went_well() -> Value {
    json!({
        "unary": { "answer": "hello", "initial": "1", "trailing": "seen", "binary": "00ff" },
        "large": { "same": true },
        "many": { "right": 200 },
        "server_stream": { "right": true },
        "client_stream": { "answer": "0,1,2,3,4" },
        "both": { "heard": ["re: one", "re: two", "re: three"] },
        "fail": { "code": "RESOURCE_EXHAUSTED", "details": "zu voll: \u{fc}%", "trailing": "fails" },
        "unknown": { "code": "UNIMPLEMENTED", "details": "Method not found!", "trailing": null },
    })
}

#[tokio::test]
async fn calls_of_every_kind_go_through() {
    let Some(peers) = Peers::start().await else { return };
    let wanted = calls_that_went_well();
    assert_eq!(peers.call(peers.address, &CALLS, &[]).await, wanted, "without a gateway");
    let gateway = Gateway::start(&config(peers.address, "", "")).await;
    assert_eq!(peers.call(gateway.address(), &CALLS, &[]).await, wanted);
}

/// TLS with the client, and with the server.
#[tokio::test]
async fn calls_of_every_kind_go_through_over_tls() {
    let Some(peers) = Peers::start().await else { return };
    let authority = Authority::new("authority");
    let (web, shown) = (authority.issue("web", &["a.example"]), authority.issue("app", &["app.internal"]));
    let secured = Secured::start(peers.address, &shown, None).await;
    secured.speak(&shown, &["h2"]);
    let text = config(secured.address(), "tls = { ca = \"ca.pem\", server_name = \"app.internal\" }", "");
    let text = format!(
        "{}\n[certificates.web]\ncert = \"web.pem\"\nkey = \"web-key.pem\"\n",
        text.replace(
            "listeners.web.address = \"127.0.0.1:0\"",
            "listeners.web = { address = \"127.0.0.1:0\", tls = {} }"
        )
    );
    let setup = Setup::new(&text).file("ca.pem", &authority.pem());
    let gateway = setup.file("web.pem", &web.cert).file("web-key.pem", &web.key).start().await;
    let ca = gateway.folder().join("ca.pem");
    let options = ["--ca", ca.to_str().unwrap(), "--name", "a.example"];
    assert_eq!(peers.call(gateway.address(), &CALLS, &options).await, calls_that_went_well());
    assert_eq!(secured.shaken().len(), 1, "one connection for all");
}

/// The server learns the deadline, and of its end and of a client that cancels at once.
#[tokio::test]
async fn deadlines_and_cancellation_reach_the_server() {
    let Some(peers) = Peers::start().await else { return };
    let gateway = Gateway::start(&config(peers.address, "", "")).await;
    let found = peers.call(gateway.address(), &["deadline", "cancel"], &[]).await;
    let deadline = json!({ "heard": "waits", "code": "DEADLINE_EXCEEDED", "late": false });
    assert_eq!(found, json!({ "deadline": deadline, "cancel": { "heard": "waits", "code": "CANCELLED" } }));
    for text in ["waits with a deadline", "ended deadline", "ended cancel"] {
        peers.until_said(text).await;
    }
}

/// What the gateway answers itself is an error that a client of gRPC understands.
#[tokio::test]
async fn errors_of_the_gateway_are_codes() {
    let Some(peers) = Peers::start().await else { return };
    let unserved = SocketAddr::from(([127, 0, 0, 1], 1));
    let told = |code: &str, details: &str| json!({ "code": code, "details": details, "trailing": null });
    for (text, wanted) in [
        (config(peers.address, "", "").replace("/fleetgate.test.Echo", "/other"), told("UNIMPLEMENTED", "no_route")),
        (config(unserved, "", ""), told("UNAVAILABLE", "endpoint_unreachable")),
        (
            config(unserved, "", "").replace("endpoints = [\"127.0.0.1:1\"]", "endpoints = []"),
            told("UNAVAILABLE", "no_endpoint"),
        ),
        (
            config(peers.address, "", "").replace("upstream = \"app\"", "upstream = \"none\""),
            told("UNAVAILABLE", "unresolved_route"),
        ),
    ] {
        let gateway = Gateway::start(&text).await;
        let found = peers.call(gateway.address(), &["simple"], &[]).await;
        assert_eq!(found["simple"], wanted, "{text}");
    }
}

#[tokio::test]
async fn a_server_that_says_it_does_not_serve_gets_no_calls() {
    let Some(peers) = Peers::start().await else { return };
    let check = "health_check = { grpc = true, interval = \"100ms\", healthy_threshold = 1, unhealthy_threshold = 1 }";
    let gateway = Gateway::start(&config(peers.address, check, "")).await;
    let state = async || gateway.endpoints("app").await[0].1.clone();
    wait::until(SOON, "a healthy endpoint", async || state().await == "healthy").await;
    assert_eq!(peers.call(gateway.address(), &["simple"], &[]).await["simple"], json!({ "answer": "x" }));
    peers.call(peers.address, &["not_serving"], &[]).await;
    wait::until(SOON, "an unhealthy endpoint", async || state().await == "unhealthy").await;
    let reasons = gateway.api("upstreams/app").await["endpoints"][0]["reasons"].to_string();
    assert!(reasons.contains("NOT_SERVING"), "{reasons}");
    let refused = json!({ "code": "UNAVAILABLE", "details": "no_endpoint", "trailing": null });
    assert_eq!(peers.call(gateway.address(), &["simple"], &[]).await["simple"], refused);
}

/// A call with these further headers; the head of its answer, and its trailers.
async fn call(gateway: &Gateway, headers: &[(&str, &str)]) -> (u16, HeaderMap, Option<HeaderMap>) {
    let mut client = http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await;
    let mut sent = request("POST", "http://a.example/fleetgate.test.Echo/X").header("content-type", "application/grpc");
    for (name, value) in headers {
        sent = sent.header(*name, *value);
    }
    let answer = client.send_request(sent.body(empty()).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    assert!(body.to_bytes().is_empty());
    (head.status.as_u16(), head.headers, trailers)
}

/// The client's own time is the exchange's, also when the client does not end it itself; what takes longer is no fault of
/// the endpoint's. Nothing hostile in it does any harm.
#[tokio::test]
async fn a_clients_deadline_is_kept_for_it() {
    let (service, other) = (Service::start().await, Service::start().await);
    let all = |act: Act| [&service, &other].into_iter().for_each(|service| service.set(act.clone()));
    all(Act::Hold(Box::new(Act::Echo)));
    let passive =
        "passive_health = { consecutive_failures = 1 }\nresponse_timeout = \"60s\"\nbalance = \"round_robin\"";
    let text = |route: &str| {
        let text = config(service.address(), passive, route);
        let one = format!("\"{}\"", service.address());
        text.replace(&one, &format!("{one}, \"{}\"", other.address()))
    };
    let gateway = Gateway::start(&text("retry = { attempts = 0 }")).await;
    for (number, timeout) in ["200m", "1n", "100000u", "00000001m", "150m", "100m"].into_iter().enumerate() {
        let (status, head, trailers) = call(&gateway, &[("grpc-timeout", timeout)]).await;
        assert_eq!((status, trailers), (200, None), "{timeout}");
        assert_eq!((&head["grpc-status"], &head["grpc-message"]), (&"4".parse().unwrap(), &"timeout".parse().unwrap()));
        assert_eq!(
            (&head["content-type"], &head["x-fleetgate-flag"]),
            (&"application/grpc".parse().unwrap(), &"UT".parse().unwrap())
        );
        let states: Vec<_> = gateway.endpoints("app").await.into_iter().map(|(_, state)| state).collect();
        assert_eq!(states, ["healthy", "healthy"], "{timeout}");
        let logged = |line: &Value| line["flag"] == "UT" && line["status"] == 200;
        wait::until(SOON, "a line", || async {
            gateway.access_log().iter().filter(|line| logged(line)).count() == number + 1
        })
        .await;
    }
    wait::until(SOON, "resets", || async {
        [&service, &other].iter().all(|service| service.cancelled().len() == service.begun())
    })
    .await;
    assert!(service.begun() >= 1 && other.begun() >= 1);

    // What is no time says nothing, and the route's own holds where that is shorter.
    all(Act::Status(200, vec![("grpc-status", "0"), ("content-type", "application/grpc")]));
    for timeout in ["0S", "99999999H", "999999999S", "-1S", "1x", "1.5S", "S", "m m"] {
        let (status, head, _) = call(&gateway, &[("grpc-timeout", timeout)]).await;
        assert_eq!((status, &head["grpc-status"]), (200, &"0".parse().unwrap()), "{timeout}");
        let came = |service: &Service| service.arrived().iter().any(|call| call.headers["grpc-timeout"] == timeout);
        assert!(came(&service) || came(&other), "{timeout} as it came");
    }
    all(Act::Hold(Box::new(Act::Echo)));
    let strict = Gateway::start(&text("timeout = \"200ms\"")).await;
    let (_, head, _) = call(&strict, &[("grpc-timeout", "1H")]).await;
    assert_eq!(&head["grpc-status"], "4");
}

/// A service that says by gRPC that it fails is taken out of use like one that says so by HTTP; one that was called wrong
/// is not.
#[tokio::test]
async fn failures_told_by_grpc_count() {
    let (service, other) = (Service::start().await, Service::start().await);
    let status = |code: &'static str| Act::Status(200, vec![("grpc-status", code)]);
    other.set(status("0"));
    let passive = "balance = \"round_robin\"\npassive_health = { consecutive_5xx = 2 }";
    let text = config(service.address(), passive, "");
    let two = format!("endpoints = [\"{}\", \"{}\"]", service.address(), other.address());
    let text = text.replace(&format!("endpoints = [\"{}\"]", service.address()), &two);
    let gateway = Gateway::start(&text).await;
    let states = async || {
        let endpoints = gateway.endpoints("app").await;
        let of = |service: &Service| {
            endpoints.iter().find(|(at, _)| *at == service.address().to_string()).unwrap().1.clone()
        };
        (of(&service), of(&other))
    };
    for code in ["12", "4", "5", "0"] {
        service.set(status(code));
        for _ in 0..8 {
            call(&gateway, &[]).await;
        }
    }
    assert_eq!(states().await, ("healthy".to_owned(), "healthy".to_owned()));
    service.set(status("14"));
    for _ in 0..8 {
        call(&gateway, &[]).await;
    }
    assert_eq!(states().await, ("ejected".to_owned(), "healthy".to_owned()));
}

/// Either side may be silent for as long as the other speaks; both together for no longer than the upstream says.
#[tokio::test]
async fn one_side_of_a_call_may_be_silent() {
    let service = Service::start().await;
    let text = config(service.address(), "idle_timeout = \"3s\"", "");
    let gateway =
        Gateway::start(&text.replace("[routes.all]", "listeners.web.body_timeout = \"1s\"\n[routes.all]")).await;
    let mut client = http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await;
    let mut open = async |act: Act| {
        service.set(act);
        let (pieces, body) = by_hand();
        let sent = request("POST", "http://a.example/fleetgate.test.Echo/X").header("content-type", "application/grpc");
        let answer = client.send_request(sent.body(body).unwrap()).await.unwrap();
        (pieces, answer.into_body())
    };
    let piece = || Frame::data(Bytes::from_static(b"a"));

    // The client speaks for longer than any silence may last, and the server does not.
    let (pieces, mut answer) = open(Act::Swallow).await;
    for _ in 0..5 {
        pieces.send(piece()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    drop(pieces);
    assert!(answer.frame().await.is_none_or(|end| end.is_ok_and(|end| end.is_data())));
    assert_eq!(service.last().body, b"aaaaa");

    // Nobody does: longer than the listener waits for other bodies, and no longer than the upstream allows.
    let (pieces, mut answer) = open(Act::Mirror).await;
    pieces.send(piece()).await.unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    pieces.send(piece()).await.unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    let end = tokio::time::timeout(SOON, answer.frame()).await.expect("an end");
    let trailers = end.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!((&trailers["grpc-status"], &trailers["grpc-message"]), (&told("4"), &told("timeout")));
    let line = gateway.until_logged("a silent call", |line| line["flag"] == "UT").await;
    assert_eq!(line["status"], 200);
}

fn told(text: &str) -> http::HeaderValue {
    text.parse().unwrap()
}

/// A body that becomes too large while the answer is under way ends a call as gRPC has it, and other answers with a code
/// that says something. It is the client's fault.
#[tokio::test]
async fn a_call_that_becomes_too_large_ends_with_its_trailers() {
    let service = Service::start().await;
    service.set(Act::Mirror);
    let (plain, route) = (config(service.address(), "", ""), "listeners.web.max_body_size = \"10B\"\n[routes.all]");
    let gateway = Gateway::start(&plain.replace("[routes.all]", route)).await;
    let mut client = http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await;
    for kind in ["application/grpc", "application/grpc+proto", "text/plain"] {
        let (pieces, body) = by_hand();
        let sent = request("POST", "http://a.example/fleetgate.test.Echo/X").header("content-type", kind);
        let answer = client.send_request(sent.body(body).unwrap()).await.unwrap();
        let mut answer = answer.into_body();
        for piece in ["12345", "67890"] {
            pieces.send(Frame::data(Bytes::from_static(piece.as_bytes()))).await.unwrap();
            assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        }
        pieces.send(Frame::data(Bytes::from_static(b"1"))).await.unwrap();
        let end = tokio::time::timeout(SOON, answer.frame()).await.expect("an end").unwrap();
        if kind == "text/plain" {
            let error = end.unwrap_err();
            let reset = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
            assert_eq!(reset.and_then(h2::Error::reason), Some(h2::Reason::ENHANCE_YOUR_CALM));
        } else {
            let trailers = end.unwrap().into_trailers().unwrap();
            assert_eq!((&trailers["grpc-status"], &trailers["grpc-message"]), (&told("8"), &told("body_too_large")));
        }
    }
    wait::until(SOON, "three lines", || async {
        gateway.access_log().iter().filter(|line| line["flag"] == "BL" && line["status"] == 200).count() == 3
    })
    .await;
}

/// An endpoint that is gone in the midst of an answer, too; one that resets it has said what it means.
#[tokio::test]
async fn a_call_whose_server_is_gone_ends_with_its_trailers() {
    let service = Service::start().await;
    service.set(Act::Mirror);
    let gateway = Gateway::start(&config(service.address(), "", "")).await;
    let mut client = http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await;
    let (pieces, body) = by_hand();
    let sent = request("POST", "http://a.example/fleetgate.test.Echo/X").header("content-type", "application/grpc");
    let mut answer = client.send_request(sent.body(body).unwrap()).await.unwrap().into_body();
    pieces.send(Frame::data(Bytes::from_static(b"a"))).await.unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    service.stop();
    let end = tokio::time::timeout(SOON, answer.frame()).await.expect("an end").unwrap();
    let trailers = end.unwrap().into_trailers().unwrap();
    assert_eq!((&trailers["grpc-status"], &trailers["grpc-message"]), (&told("14"), &told("endpoint_reset")));
}

/// fabio's `proto=grpc` makes an upstream of HTTP/2, beside the one that the service has otherwise; the path of a call begins
/// with the name of its service.
#[tokio::test]
async fn fabios_tags_ask_for_grpc() {
    let Some(peers) = Peers::start().await else { return };
    let Some(consul) = Consul::start().await else { return };
    let tags = ["urlprefix-/fleetgate.test.Echo proto=grpc", "urlprefix-/plain"];
    consul.register(&ConsulService::new("echo", "echo-1", peers.address).tags(&tags)).await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        discovery.consul = {{ address = "{}", fabio_tags = true, tag_networks = ["127.0.0.0/8"] }}
        "#,
        consul.url()
    ))
    .await;
    wait::until_ok(SOON, "an answer", || async {
        let found = peers.call(gateway.address(), &["simple"], &[]).await;
        if found["simple"] == json!({ "answer": "x" }) { Ok(()) } else { Err(found) }
    })
    .await;
    let upstreams = gateway.api("upstreams").await["items"].clone();
    let protocols: Vec<_> =
        upstreams.as_array().unwrap().iter().map(|item| item["settings"]["protocol"].clone()).collect();
    assert_eq!(protocols.iter().filter(|protocol| **protocol == json!("http2")).count(), 1, "{upstreams}");
    assert_eq!(gateway.get("/plain").await.status, 502, "a server of HTTP/2 alone, spoken to in HTTP/1.1");
}
