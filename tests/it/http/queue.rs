//! What clients get when endpoints have as much to do as they may.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::before_all;
use crate::support::client::{Answer, Request};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

async fn holding(name: &str) -> Origin {
    let service = Origin::start(name).await;
    service.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    service
}

fn send(gateway: &Gateway, count: usize) -> Vec<JoinHandle<Answer>> {
    let address = gateway.address();
    (0..count).map(|_| tokio::spawn(Request::get("/").send(address))).collect()
}

async fn arrived(service: &Origin, count: usize) {
    wait::until(SOON, "the requests to arrive", || async { service.requests() >= count }).await;
}

fn assert_overloaded(answer: &Answer) {
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("UO")), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn no_endpoint_gets_more_than_it_takes_and_the_rest_waits() {
    let (one, other) = (holding("one").await, holding("other").await);
    let lines = "max_requests_per_endpoint = 3\nqueue = { size = 100, timeout = \"60s\" }";
    let gateway = before_all([&one, &other], lines).await;
    let sent = send(&gateway, 24);
    for round in 1..=4 {
        arrived(&one, 3 * round).await;
        arrived(&other, 3 * round).await;
        assert_eq!((one.requests(), other.requests()), (3 * round, 3 * round), "of all workers together");
        let waiting = 24 - 6 * round;
        wait::until(SOON, "the rest in line", || async {
            let shown = gateway.api("upstreams/app").await["waiting"].clone();
            let counted = gateway.metric("fleetgate_upstream_queued_requests", &[("upstream", "app")]).await;
            shown == waiting && counted == Some(waiting as f64)
        })
        .await;
        one.release();
        other.release();
    }
    for answer in sent {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let service = holding("app").await;
    let lines = "max_requests_per_endpoint = 1\nqueue = { size = 2, timeout = \"60s\" }";
    let gateway = before_all([&service], lines).await;
    let mut sent = send(&gateway, 5);
    arrived(&service, 1).await;
    // One is there, two wait: the others have their answer.
    wait::until(SOON, "two refusals", || async { sent.iter().filter(|answer| answer.is_finished()).count() == 2 })
        .await;
    let (refused, waiting): (Vec<_>, Vec<_>) = sent.drain(..).partition(JoinHandle::is_finished);
    for answer in refused {
        assert_overloaded(&answer.await.unwrap());
    }
    for served in 1..=3 {
        arrived(&service, served).await;
        assert_eq!(service.requests(), served);
        service.release();
    }
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let counted = gateway.metric("fleetgate_requests_total", &[("code", "503"), ("flag", "UO")]).await;
    assert_eq!(counted, Some(2.0));
}

#[tokio::test]
async fn who_waits_for_too_long_is_refused_and_who_left_takes_no_place() {
    let service = holding("app").await;
    let lines = "max_requests_per_endpoint = 1\nqueue = { size = 1, timeout = \"300ms\" }";
    let gateway = before_all([&service], lines).await;
    let first = send(&gateway, 1);
    arrived(&service, 1).await;
    for _ in 0..3 {
        assert_overloaded(&gateway.get("/").await);
    }
    // Its client goes while it waits.
    send(&gateway, 1).remove(0).abort();
    service.release();
    for answer in first {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    service.set(Behaviour::Echo);
    gateway.until_status("/", 200).await;
    assert_eq!(gateway.endpoints("app").await.len(), 1);
}

#[tokio::test]
async fn without_a_queue_nobody_waits() {
    let service = holding("app").await;
    let gateway = before_all([&service], "max_requests_per_endpoint = 2").await;
    let held = send(&gateway, 2);
    arrived(&service, 2).await;
    assert_overloaded(&gateway.get("/").await);
    service.release();
    for answer in held {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    service.set(Behaviour::Echo);
    assert_eq!(gateway.get("/").await.status, 200);
}
