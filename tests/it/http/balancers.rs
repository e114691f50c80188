//! What the balancers do with real traffic: keys and clients that keep their endpoints, quick and slow endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

/// Services with versions of their own: v0, v1, ...
async fn services(count: usize) -> Vec<Origin> {
    let mut all = Vec::new();
    for number in 0..count {
        all.push(Origin::start_version("app", &format!("v{number}")).await);
    }
    all
}

/// A gateway before them, with these lines for the upstream.
async fn before(services: &[Origin], lines: &str) -> Gateway {
    Gateway::start(&config(services, lines)).await
}

fn config(services: &[Origin], lines: &str) -> String {
    let endpoints: Vec<String> = services.iter().map(|service| format!("\"{}\"", service.address())).collect();
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        runtime.workers = 2
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        [upstreams.app]
        endpoints = [{}]
        {lines}
        "#,
        endpoints.join(", ")
    )
}

fn user(number: usize) -> Request {
    Request::get("/").header("x-user-id", &format!("user-{number}"))
}

/// Who serves each of 60 users.
async fn owners(gateway: &Gateway) -> Vec<String> {
    let mut owners = Vec::new();
    for number in 0..60 {
        owners.push(gateway.send(user(number)).await.served_by().to_owned());
    }
    owners
}

#[tokio::test]
async fn a_user_reaches_the_same_endpoint_through_every_gateway() {
    for balance in ["ring_hash", "maglev"] {
        let mut services = services(4).await;
        let lines = format!("balance = \"{balance}\"\nhash = {{ header = \"x-user-id\" }}");
        let (one, other) = (before(&services, &lines).await, before(&services, &lines).await);
        let owners_before = owners(&one).await;
        assert_eq!(owners_before, owners(&other).await);
        assert_eq!(owners_before, owners(&one).await);
        assert_eq!(owners_before.iter().collect::<BTreeSet<_>>().len(), 4, "{owners_before:?}");

        // One goes: its users go elsewhere, nobody else's.
        services[1].stop().await;
        let owners_after = owners(&one).await;
        for (before, after) in owners_before.iter().zip(&owners_after) {
            assert_ne!(after, "app/v1");
            assert!(before == "app/v1" || before == after, "{before} became {after}");
        }
        let heirs: BTreeSet<_> = owners_before
            .iter()
            .zip(&owners_after)
            .filter(|(before, _)| *before == "app/v1")
            .map(|(_, after)| after)
            .collect();
        assert!(heirs.len() > 1, "its users are spread: {heirs:?}");
        services[1].start_again().await;
        assert_eq!(owners_before, owners(&one).await);
    }
}

#[tokio::test]
async fn what_is_hashed_is_what_the_key_says() {
    let services = services(4).await;
    let spread = |gateway: Gateway, make: fn(usize) -> Request| async move {
        let mut served = BTreeSet::new();
        for number in 0..40 {
            served.insert(gateway.send(make(number)).await.served_by().to_owned());
        }
        served.len()
    };
    let services = &services;
    let by = |key: &str| {
        let lines = format!("balance = \"maglev\"\nhash = {{ {key} }}");
        async move { before(services, &lines).await }
    };
    assert_eq!(spread(by("path = true").await, |n| Request::get(&format!("/a//b?q={n}"))).await, 1);
    assert_eq!(spread(by("path = true").await, |n| Request::get(&format!("/{n}"))).await, 4);
    let same = |n| Request::get(&format!("/{n}")).header("cookie", "a=1; user=7");
    assert_eq!(spread(by("cookie = \"user\"").await, same).await, 1);
    let others = |n| Request::get("/").header("cookie", &format!("user={n}"));
    assert_eq!(spread(by("cookie = \"user\"").await, others).await, 4);
    assert_eq!(spread(by("cookie = \"user\"").await, |_| Request::get("/")).await, 4, "without a key they are drawn");
    assert_eq!(spread(by("client_ip = true").await, |n| Request::get(&format!("/{n}"))).await, 1);
}

#[tokio::test]
async fn one_key_that_all_ask_for_spills_over() {
    let services = services(4).await;
    let gateway = before(&services, "balance = \"ring_hash\"\nhash = { path = true }").await;
    for service in &services {
        service.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    }
    let address = gateway.address();
    let sent: Vec<_> = (0..40).map(|_| tokio::spawn(Request::get("/same").send(address))).collect();
    wait::until(SOON, "40 requests at the services", || async {
        services.iter().map(Origin::requests).sum::<usize>() == 40
    })
    .await;
    let counts: Vec<usize> = services.iter().map(Origin::requests).collect();
    assert!(counts.iter().all(|count| *count <= 13), "a quarter above 10 is 12.5: {counts:?}");
    for service in &services {
        service.release();
    }
    for answer in sent {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn the_quick_endpoint_gets_most_and_one_that_fails_fast_little() {
    let services = services(3).await;
    services[0].set(Behaviour::Delay(Duration::from_millis(150), Box::new(Behaviour::Echo)));
    services[1].set(Behaviour::Status(503));
    services[2].set(Behaviour::Delay(Duration::from_millis(5), Box::new(Behaviour::Echo)));
    let gateway = before(&services, "balance = \"p2c_ewma\"").await;
    let mut counts = BTreeMap::new();
    for _ in 0..200 {
        *counts.entry(gateway.get("/").await.served_by().to_owned()).or_insert(0) += 1;
    }
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    assert!(count("app/v2") > 150, "{counts:?}");
    assert!(count("app/v0") < 25 && count("app/v1") < 40, "{counts:?}");
}
