//! The gateway's own addresses as endpoints: the admin API is out of reach for clients, whoever names it and however.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::Value;

use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::{Gateway, serving};
use crate::support::origin::Origin;
use crate::support::{place, wait};

const SOON: Duration = Duration::from_secs(20);

/// A route for everything.
const ALL: &str = "match = { path = \"/\" }";

/// The reasons that `/api/v1/upstreams` gives for each endpoint of an upstream.
async fn reasons(gateway: &Gateway, upstream: &str) -> Vec<(String, String)> {
    let upstream = gateway.api(&format!("upstreams/{upstream}")).await;
    let told = |endpoint: &Value| (endpoint["state"].as_str().unwrap().to_owned(), endpoint["reasons"].to_string());
    upstream["endpoints"].as_array().unwrap().iter().map(told).collect()
}

#[tokio::test]
async fn an_endpoint_at_the_admin_address_is_never_used() {
    let [admin] = place::free_ports(IpAddr::from(Ipv4Addr::LOCALHOST));
    for endpoint in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let upstream = format!(
            "endpoints = [\"{endpoint}:{admin}\"]\nhost = \"localhost\"\nallow_self = true\npanic_threshold = \"50%\"\n\
             health_check = {{ path = \"/healthz\", interval = \"100ms\" }}"
        );
        let config = serving(ALL, &upstream)
            .replace("admin.address = \"127.0.0.1:0\"", &format!("admin.address = \"127.0.0.1:{admin}\""));
        let gateway = Gateway::start(&config).await;
        wait::until(SOON, "the endpoint", || async { !reasons(&gateway, "app").await.is_empty() }).await;
        for (state, reasons) in reasons(&gateway, "app").await {
            assert!(
                state == "unhealthy" && reasons.contains("it is the admin API of this gateway"),
                "{state} {reasons}"
            );
        }
        let drain = format!("/api/v1/upstreams/app/endpoints/127.0.0.1:{admin}/drain");
        for request in [
            Request::get("/api/v1/config"),
            Request::get("/metrics"),
            Request::new("POST", &drain),
            Request::get("/readyz").header("connection", "upgrade").header("upgrade", "websocket"),
        ] {
            let answer = gateway.send(request.host("localhost")).await;
            assert_eq!(
                (answer.status, answer.header("x-fleetgate-flag")),
                (503, Some("UH")),
                "{endpoint}: {}",
                answer.text()
            );
        }
        let status = gateway.api("status").await;
        let told = format!(":{admin}: never used: it is the admin API");
        assert!(status["remarks"].to_string().contains(&told), "{told}: {}", status["remarks"]);
        assert!(gateway.stderr().contains("it is the admin API of this gateway"));
        assert_eq!(gateway.api("routes").await["items"][0]["state"], "degraded");
    }
}

#[tokio::test]
async fn a_listener_is_an_endpoint_only_where_its_upstream_says_so() {
    let origin = Origin::start("app").await;
    let upstream = |more: &str| format!("endpoints = [\"{}\"]\n{more}", origin.address());
    let gateway = Gateway::start(&serving(ALL, &upstream(""))).await;
    let config = serving(ALL, &upstream("")).replace(&origin.address().to_string(), &gateway.address().to_string());
    gateway.write_config(&config);
    gateway.until_status("/", 503).await;
    let (state, reasons) = reasons(&gateway, "app").await.remove(0);
    assert!(state == "unhealthy" && reasons.contains("set `allow_self = true` on the upstream"), "{state} {reasons}");
    let remarks = gateway.api("status").await["remarks"].to_string();
    assert!(remarks.contains("upstreams.app") && remarks.contains("it is a listener of this gateway"), "{remarks}");
    gateway.write_config(&format!("{config}\nallow_self = true"));
    gateway.until_status("/", 508).await;
    assert_eq!(gateway.api("upstreams/app").await["settings"]["allow_self"], true);
}

#[tokio::test]
async fn the_admin_api_refuses_what_came_through_a_gateway() {
    let other = Gateway::start(&serving(ALL, "endpoints = [\"127.0.0.1:9\"]")).await;
    let upstream = format!("endpoints = [\"{}\"]\nhost = \"localhost\"", other.admin());
    let gateway = Gateway::start(&serving(ALL, &upstream)).await;
    let drain = "/api/v1/upstreams/app/endpoints/127.0.0.1:9/drain";
    for request in [Request::get("/api/v1/config"), Request::get("/readyz"), Request::new("POST", drain)] {
        let answer = gateway.send(request.host("localhost")).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("came through a gateway"), "{}", answer.text());
    }
    assert_eq!(other.endpoints("app").await[0].1, "healthy", "nobody drained it");
    for mark in ["x-forwarded-for", "forwarded", "x-request-id"] {
        let answer =
            Request::get("/api/v1/status").host("localhost").header(mark, "10.0.0.1").send(other.admin()).await;
        assert_eq!(answer.status, 403, "{mark}: {}", answer.text());
    }
}

#[tokio::test]
async fn tags_name_local_addresses_only_within_tag_networks() {
    let Some(consul) = Consul::start().await else { return };
    let origin = Origin::start("app").await;
    consul
        .register(&Service::new("app", "a", origin.address()).tags(&["fleetgate.path=/app", "urlprefix-/fabio"]))
        .await;
    let gateway = async |more: &str| {
        let consul =
            format!("discovery.consul = {{ address = \"{}\", tags = true, fabio_tags = true{more} }}", consul.url());
        let config = format!(
            "listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\ndiscovery.state_dir = \"off\"\n{consul}"
        );
        Gateway::start(&config).await
    };
    let bounded = gateway("").await;
    for path in ["/app", "/fabio"] {
        let answer = bounded.until_status(path, 503).await;
        assert_eq!(answer.header("x-fleetgate-flag"), Some("UH"), "{}", answer.text());
    }
    let (_, reasons) = reasons(&bounded, "app").await.remove(0);
    assert!(reasons.contains("only within `discovery.consul.tag_networks`"), "{reasons}");
    assert_eq!(origin.connections(), 0);
    let open = gateway(", tag_networks = [\"127.0.0.0/8\"]").await;
    open.until_status("/app", 200).await;
    open.until_status("/fabio", 200).await;
    // The admin API is never among them.
    consul.register(&Service::new("sneak", "s", open.admin()).tags(&["fleetgate.path=/api/v1"])).await;
    open.until_status("/api/v1/config", 503).await;
    let answer = open.send(Request::get("/api/v1/config").host("localhost")).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
}
