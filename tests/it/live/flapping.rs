//! Endpoints that come and go all the time, with traffic flowing.

use super::{SOON, config, stops, takes};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

/// Fault case 26: few publications, the last state is right, and who flaps is shown and does not get traffic; alone it
/// does.
#[tokio::test]
async fn an_instance_that_flaps_waits_and_is_shown_and_costs_few_publications() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    for origin in [&a, &b] {
        consul.register(&Service::new("web", &origin.name, origin.address()).checked("passing")).await;
    }
    let gateway = Gateway::start(&config(&format!(
        r#"
        discovery.state_dir = "off"
        discovery.consul.address = "{}"
        upstreams.web = {{ consul = {{ service = "web" }}, balance = "round_robin" }}
        routes.all = {{ match = {{ path = "/" }}, upstream = "web" }}
        "#,
        consul.url()
    )))
    .await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    takes(&load, "b/v1").await;
    let shows = async |states: &[&str]| {
        wait::until_ok(SOON, &format!("b to be {states:?}"), || async {
            let endpoints = gateway.endpoints("web").await;
            let state = endpoints.iter().find(|(address, _)| *address == b.address().to_string());
            let fits = state.is_some_and(|(_, state)| states.contains(&state.as_str()));
            if fits { Ok(()) } else { Err(endpoints) }
        })
        .await;
    };
    // Seen each time: what flips faster than it is read is not seen at all.
    for _ in 0..3 {
        consul.set_check("b", "critical").await;
        shows(&["unhealthy"]).await;
        consul.set_check("b", "passing").await;
        shows(&["healthy", "ejected"]).await;
    }
    shows(&["ejected"]).await;
    let generation = async || gateway.api("status").await["generation"].as_u64().unwrap();
    let before = (generation().await, std::time::Instant::now());
    for _ in 0..100 {
        consul.set_check("b", "critical").await;
        consul.set_check("b", "passing").await;
    }
    let seconds = before.1.elapsed().as_secs();
    shows(&["ejected"]).await;
    let published = generation().await - before.0;
    assert!(published <= 10 + 2 * seconds, "{published} publications in {seconds} s");
    let upstream = gateway.api("upstreams/web").await.to_string();
    assert!(upstream.contains("flaps: its registry took it out again and again, penalty"), "{upstream}");
    stops(&load, "b/v1").await;

    // When and why is told, its return as well.
    let told = async |state: &str, cause: &str| {
        let address = b.address().to_string();
        wait::until_ok(SOON, &format!("an event: {state}, {cause}"), || async {
            let page = gateway.api("events?upstream=web&limit=1000").await;
            let fits = |event: &serde_json::Value| {
                let of = event["endpoint"] == address.as_str() && event["after"]["state"] == state;
                of && event["cause"].as_str().is_some_and(|text| text.contains(cause))
            };
            if page["items"].as_array().unwrap().iter().any(fits) { Ok(()) } else { Err(page.to_string()) }
        })
        .await;
    };
    told("ejected", "flaps: its registry took it out again and again").await;

    // The last one that is usable is used.
    consul.set_check("a", "critical").await;
    takes(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
}
