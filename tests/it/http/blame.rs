//! Faults are blamed on who made them: clients that stall on nobody else, endpoints that hang on these.

use std::time::Duration;

use super::config_of;
use crate::http2::literal;
use crate::support::client::{Connection, Request};
use crate::support::frames::{DATA, END_HEADERS, Frame, Frames, HEADERS};
use crate::support::gateway::Gateway;
use crate::support::multiplexed::Service;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

const STALLED: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello";

/// Clients whose bodies stop halfway: what each of them got.
async fn stall(gateway: &Gateway, clients: usize) -> Vec<(u16, Option<String>)> {
    let mut stalled = Vec::new();
    for _ in 0..clients {
        let mut client = Connection::open(gateway.address()).await.unwrap();
        client.send(STALLED.as_bytes()).await.unwrap();
        stalled.push(client);
    }
    let mut answers = Vec::new();
    for mut client in stalled {
        let answer = client.answer("POST").await.unwrap();
        answers.push((answer.status, answer.header("x-fleetgate-flag").map(str::to_owned)));
    }
    answers
}

async fn states(gateway: &Gateway) -> Vec<String> {
    gateway.endpoints("app").await.into_iter().map(|(_, state)| state).collect()
}

#[tokio::test]
async fn a_client_that_stalls_is_no_fault_of_endpoints() {
    let services = [Origin::start("one").await, Origin::start("two").await];
    let lines = "response_timeout = \"200ms\"\nbreaker = { error_ratio = \"50%\", slow = \"1s\", min_requests = 3 }";
    let config = config_of(&services, lines)
        .replace("listeners.web.address", "listeners.web.body_timeout = \"2s\"\nlisteners.web.address");
    let gateway = Gateway::start(&config).await;
    for (status, flag) in stall(&gateway, 12).await {
        assert_eq!((status, flag.as_deref()), (408, Some("RT")));
    }
    assert_eq!(states(&gateway).await, ["healthy", "healthy"]);
    // One that is slow, and comes to an end: the endpoint has not been slow.
    for _ in 0..4 {
        let mut client = Connection::open(gateway.address()).await.unwrap();
        client.send(STALLED.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        client.send(b"world").await.unwrap();
        assert_eq!(client.answer("POST").await.unwrap().status, 200);
    }
    assert_eq!(gateway.api("upstreams/app").await["breaker"]["state"], "closed");
    // Whoever sent all of it is answered in time, and then it is the endpoint's fault.
    services.iter().for_each(|service| service.set(Behaviour::Hold(Box::new(Behaviour::Echo))));
    let late = gateway.send(Request::post("/", "hello")).await;
    assert_eq!((late.status, late.header("x-fleetgate-flag")), (504, Some("UT")));
    services.iter().for_each(Origin::release);
}

#[tokio::test]
async fn a_client_that_stalls_is_no_fault_of_endpoints_over_http2() {
    let service = Service::start().await;
    let upstream = format!(
        "endpoints = [\"{}\"]\nprotocol = \"http2\"\nresponse_timeout = \"200ms\"\n\
         breaker = {{ error_ratio = \"50%\", min_requests = 3 }}",
        service.address()
    );
    let config = crate::support::gateway::serving("match = { path = \"/\" }", &upstream)
        .replace("listeners.web.address", "listeners.web.body_timeout = \"2s\"\n        listeners.web.address");
    let gateway = Gateway::start(&config).await;
    for (status, flag) in stall(&gateway, 8).await {
        assert_eq!((status, flag.as_deref()), (408, Some("RT")));
    }
    assert_eq!(gateway.api("upstreams/app").await["breaker"]["state"], "closed");
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_client_of_http2_that_stalls_is_no_fault_of_endpoints() {
    let services = [Origin::start("one").await, Origin::start("two").await];
    let lines = "response_timeout = \"200ms\"\nbreaker = { error_ratio = \"50%\", min_requests = 3 }";
    let config = config_of(&services, lines)
        .replace("listeners.web.address", "listeners.web.body_timeout = \"2s\"\nlisteners.web.address");
    let gateway = Gateway::start(&config).await;
    let mut client = Frames::connect(gateway.address(), &[]).await;
    let mut post = vec![0x83, 0x86, 0x84];
    literal(&mut post, false, b":authority", b"a");
    literal(&mut post, false, b"content-length", b"10");
    let streams: Vec<u32> = (0..12).map(|number| 2 * number + 1).collect();
    for stream in &streams {
        client.send(&Frame::new(HEADERS, END_HEADERS, *stream, post.clone())).await.unwrap();
        client.send(&Frame::new(DATA, 0, *stream, "hello")).await.unwrap();
    }
    for _ in &streams {
        client.next_of(HEADERS).await.expect("an answer");
    }
    let labels = [("code", "408"), ("flag", "RT")];
    wait::until(SOON, "12 requests that came too slowly", || async {
        gateway.metric("fleetgate_requests_total", &labels).await == Some(12.0)
    })
    .await;
    assert_eq!(states(&gateway).await, ["healthy", "healthy"]);
    assert_eq!(gateway.api("upstreams/app").await["breaker"]["state"], "closed");
}

/// A request that its client gives up after a while.
async fn give_up(gateway: &Gateway, client: &str, more: &[(&str, &str)]) {
    let mut request = Request::get("/").header("x-forwarded-for", client);
    for (name, value) in more {
        request = request.header(name, value);
    }
    // Whoever is answered in time need not.
    let _ = tokio::time::timeout(Duration::from_millis(300), request.send(gateway.address())).await;
}

async fn hanging(services: [&Origin; 2]) -> Gateway {
    let lines = "balance = \"round_robin\"\npassive_health = { base_ejection = \"60s\" }";
    let config = config_of(services, lines)
        .replace("listeners.web.address", "listeners.web.trusted_proxies = [\"127.0.0.0/8\"]\nlisteners.web.address");
    Gateway::start(&config).await
}

async fn abandoned(gateway: &Gateway) -> f64 {
    gateway.metric("fleetgate_upstream_attempts_total", &[("result", "abandoned")]).await.unwrap_or(0.0)
}

#[tokio::test]
async fn an_endpoint_that_answers_nobody_is_ejected_though_its_clients_give_up_first() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    bad.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    let gateway = hanging([&good, &bad]).await;
    let state = async || {
        let endpoints = gateway.endpoints("app").await;
        endpoints.into_iter().find(|(address, _)| *address == bad.address().to_string()).unwrap().1
    };
    // Whatever one client gives up may be its own fault.
    wait::until(SOON, "enough tries that one client gave up", || async {
        give_up(&gateway, "203.0.113.1", &[]).await;
        abandoned(&gateway).await >= 8.0
    })
    .await;
    assert_eq!(state().await, "healthy");
    // Streams are ended by their clients.
    let others = std::cell::Cell::new(1);
    wait::until(SOON, "enough streams that their clients ended", || async {
        others.set(others.get() + 1);
        give_up(&gateway, &format!("203.0.113.{}", others.get()), &[("accept", "text/event-stream")]).await;
        abandoned(&gateway).await >= 16.0
    })
    .await;
    assert_eq!(state().await, "healthy");
    wait::until(SOON, "the ejection", || async {
        for client in ["203.0.113.1", "203.0.113.2", "203.0.113.3"] {
            give_up(&gateway, client, &[]).await;
        }
        state().await == "ejected"
    })
    .await;
    wait::until(SOON, "its event with the cause", || async {
        let events = gateway.api("events?upstream=app").await["items"].to_string();
        events.contains("clients gave up waiting for it")
    })
    .await;
    let ejections = [("upstream", "app"), ("cause", "abandoned")];
    assert_eq!(gateway.metric("fleetgate_upstream_ejections_total", &ejections).await, Some(1.0));
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    bad.release();
}

#[tokio::test]
async fn an_endpoint_that_answers_others_is_not_given_up() {
    let (good, slow) = (Origin::start("good").await, Origin::start("slow").await);
    for service in [&good, &slow] {
        service.on("/hang", Behaviour::Hold(Box::new(Behaviour::Echo)));
    }
    let gateway = hanging([&good, &slow]).await;
    for turn in 0..24 {
        let hang = Request::get("/hang").header("x-forwarded-for", &format!("203.0.113.{turn}"));
        let _ = tokio::time::timeout(Duration::from_millis(200), hang.send(gateway.address())).await;
        for _ in 0..4 {
            assert_eq!(gateway.get("/").await.status, 200);
        }
    }
    assert_eq!(states(&gateway).await, ["healthy", "healthy"]);
    assert!(abandoned(&gateway).await >= 20.0);
    good.release();
    slow.release();
}
