//! What the balancers do with real traffic: keys and clients that keep their endpoints, quick and slow endpoints.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::{before_all, config_of};
use crate::support::client::{Answer, Request};
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
        // What is away is back as soon as it answers.
        let lines = "passive_health = { consecutive_failures = 0 }\nhash = { header = \"x-user-id\" }";
        let lines = format!("balance = \"{balance}\"\n{lines}");
        let (one, other) = (before_all(&services, &lines).await, before_all(&services, &lines).await);
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
        async move { before_all(services, &lines).await }
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
    let gateway = before_all(&services, "balance = \"ring_hash\"\nhash = { path = true }").await;
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
    let slow = Behaviour::Delay(Duration::from_millis(100), Box::new(Behaviour::Echo));
    for (bad, most) in [(slow, 10), (Behaviour::Status(503), 20)] {
        let services = services(2).await;
        services[0].set(bad.clone());
        services[1].set(Behaviour::Delay(Duration::from_millis(2), Box::new(Behaviour::Echo)));
        let gateway = before_all(&services, "balance = \"p2c_ewma\"").await;
        for _ in 0..100 {
            gateway.get("/").await;
        }
        assert!(services[0].requests() <= most, "{bad:?}: {} of 100", services[0].requests());
        assert_eq!(services[0].requests() + services[1].requests(), 100);
    }
}

/// The pair in a `Set-Cookie`, and whether it has all that a cookie of ours must have.
fn cookie(set: &str) -> String {
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
    set.split(';').next().unwrap().to_owned()
}

async fn ask(gateway: &Gateway, cookie: &str) -> Answer {
    gateway.send(Request::get("/").header("cookie", cookie)).await
}

#[tokio::test]
async fn a_client_stays_at_its_endpoint_while_that_is_usable() {
    let mut services = services(3).await;
    let lines = "balance = \"round_robin\"\nsession = { cookie = \"at\" }\nconnect_timeout = \"2s\"";
    let (gateway, other) = (before_all(&services, lines).await, before_all(&services, lines).await);
    let mut clients = Vec::new();
    for _ in 0..12 {
        let first = gateway.get("/").await;
        let set = first.values("set-cookie");
        assert_eq!(set.len(), 1);
        clients.push((cookie(set[0]), first.served_by().to_owned()));
    }
    assert_eq!(clients.iter().map(|(_, at)| at).collect::<BTreeSet<_>>().len(), 3, "{clients:?}");
    // A hash may hold one service's port by chance, but not each service's own.
    let told = services.iter().enumerate().all(|(number, service)| {
        let port = service.address().port();
        let forms = ["127.0.0.1".to_owned(), port.to_string(), format!("{port:x}")];
        let at_it = clients.iter().filter(|(_, at)| *at == format!("app/v{number}"));
        at_it.map(|(cookie, _)| cookie).any(|cookie| forms.iter().any(|form| cookie.contains(form)))
    });
    assert!(!told, "the address stands in {clients:?}");
    for (cookie, at) in &clients {
        for gateway in [&gateway, &other, &gateway] {
            let answer = ask(gateway, &format!("a=1; {cookie}")).await;
            assert_eq!(answer.served_by(), at);
            assert_eq!(answer.header("set-cookie"), None, "it has it");
        }
    }

    services[0].stop().await;
    let (lost, _) = clients.iter().find(|(_, at)| at == "app/v0").unwrap();
    let moved = ask(&gateway, lost).await;
    assert_ne!(moved.served_by(), "app/v0");
    let next = cookie(moved.header("set-cookie").expect("a new one"));
    let stays = ask(&gateway, &next).await;
    assert_eq!((stays.served_by(), stays.header("set-cookie")), (moved.served_by(), None));
    let invented = ask(&gateway, "at=127.0.0.1:80").await;
    assert!(invented.status == 200 && invented.header("set-cookie").is_some());
}

#[tokio::test]
async fn an_endpoint_that_comes_begins_slowly() {
    let services = services(3).await;
    let lines = "balance = \"round_robin\"\nslow_start = \"1h\"";
    let gateway = before_all(&services[..2], lines).await;
    for _ in 0..40 {
        gateway.get("/").await;
    }
    assert!(services[0].requests().abs_diff(services[1].requests()) <= 2, "both began with the gateway");

    gateway.write_config(&config_of(&services, lines));
    wait::until(SOON, "three endpoints", || async { gateway.endpoints("app").await.len() == 3 }).await;
    let shown = gateway.api("upstreams/app").await["endpoints"].clone();
    for endpoint in shown.as_array().expect("a list") {
        let new = endpoint["address"] == services[2].address().to_string();
        let (share, told) = (endpoint["slow_start"].as_f64(), endpoint["reasons"].to_string());
        assert_eq!((share, told.contains("starts slowly: has 10 %")), (new.then_some(0.1), new), "{endpoint}");
    }
    let starting = gateway.metric("fleetgate_upstream_starting_endpoints", &[("upstream", "app")]).await;
    assert_eq!(starting, Some(1.0));
    for _ in 0..210 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    // A tenth beside two whole ones: 1 of 21; two workers may each round it up.
    let begun = services[2].requests();
    assert!((5..=16).contains(&begun), "{begun} of 210");
}

#[tokio::test]
async fn the_gateways_own_zone_goes_first_and_spills_over() {
    let services = services(3).await;
    let endpoint = |(service, zone): (&Origin, &str)| {
        format!("{{ address = \"{}\", labels = {{ zone = \"{zone}\" }} }}", service.address())
    };
    let endpoints: Vec<String> = services.iter().zip(["a", "a", "b"]).map(endpoint).collect();
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        runtime.labels = {{ zone = "a" }}
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        [upstreams.app]
        endpoints = [{}]
        balance = "round_robin"
        nearest = ["zone"]
        health_check = {{ path = "/healthz", interval = "100ms", unhealthy_threshold = 1 }}
        "#,
        endpoints.join(", ")
    ))
    .await;
    let healthy = |count: usize| {
        let gateway = &gateway;
        wait::until(SOON, "the checks to see it", move || async move {
            gateway.endpoints("app").await.iter().filter(|(_, state)| state == "healthy").count() == count
        })
    };
    healthy(3).await;
    let far = || async {
        let before = services[2].requests();
        for _ in 0..200 {
            assert_eq!(gateway.get("/").await.status, 200);
        }
        services[2].requests() - before
    };
    assert_eq!(far().await, 0, "its own zone can take all");
    services[0].set_healthy(false);
    healthy(2).await;
    let spilled = far().await;
    assert!((35..=90).contains(&spilled), "{spilled} of 200 are not 30 %");
    let levels = json!([
        { "priority": 0, "endpoints": 2, "usable": 1, "share": 0.7 },
        { "priority": 1, "endpoints": 1, "usable": 1, "share": 0.3 },
    ]);
    assert_eq!(gateway.api("upstreams/app").await["levels"], levels);
    let explained = gateway.api("explain?method=GET&url=http://a/").await;
    assert_eq!(explained["route"]["targets"][0]["levels"], levels);
    assert_eq!(explained["upstreams"][0]["host"], "preserve");
    let share = gateway.metric("fleetgate_upstream_level_share", &[("upstream", "app"), ("priority", "1")]).await;
    assert_eq!(share, Some(0.3));
    services[1].set_healthy(false);
    healthy(1).await;
    assert_eq!(far().await, 200);
    services[0].set_healthy(true);
    services[1].set_healthy(true);
    healthy(3).await;
    assert_eq!(far().await, 0);
}
