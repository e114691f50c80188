//! Registries that come back empty or lose most at once, with traffic flowing: what they lost is held, shown, and
//! goes when they fill again, in time or by an operator's word.

use std::collections::BTreeSet;

use serde_json::json;

use super::{SOON, config, live, provider, saved::saves, takes};
use crate::operator::run;
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wait;

async fn before(discovery: &str) -> Gateway {
    Gateway::start(&config(&format!(
        r#"
        discovery.state_dir = "state"
        {discovery}
        [routes.of-file]
        match = {{ path = "/file" }}
        upstream = "web"
        "#
    )))
    .await
}

/// Waits until an upstream has exactly these endpoints in these states.
async fn shows(gateway: &Gateway, upstream: &str, wanted: &[(&Origin, &str)]) {
    let text = |(origin, state): &(&Origin, &str)| (origin.address().to_string(), (*state).to_owned());
    let wanted: BTreeSet<_> = wanted.iter().map(text).collect();
    wait::until_ok(SOON, &format!("{upstream} to be {wanted:?}"), || async {
        let seen: BTreeSet<_> = gateway.endpoints(upstream).await.into_iter().collect();
        if seen == wanted { Ok(()) } else { Err((seen, gateway.stderr().text())) }
    })
    .await;
}

/// Waits until what a provider holds is told with all of these words; without any: until it holds nothing.
async fn holds(gateway: &Gateway, name: &str, words: &[&str]) {
    wait::until_ok(SOON, &format!("{name} to hold {words:?}"), || async {
        let held = provider(gateway, name).await["held"].to_string();
        let fits = words.iter().all(|word| held.contains(word)) && words.is_empty() == (held == "[]");
        if fits { Ok(()) } else { Err(held) }
    })
    .await;
}

/// Fault case 13.
#[tokio::test]
async fn a_consul_that_comes_back_empty_takes_nothing_away() {
    let Some(mut consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let service = |origin: &Origin| Service::new("web", &origin.name, origin.address());
    consul.register(&service(&a)).await;
    consul.register(&service(&b)).await;
    let route = r#"{"match":{"path":"/kv"},"upstream":"web"}"#;
    consul.kv_put("fleetgate/routes/of-kv", route).await;
    let discovery = format!("discovery.consul.address = \"{}\"\nupstreams.web.consul.service = \"web\"", consul.url());
    let gateway = before(&discovery).await;
    let paths = ["/file", "/kv"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    takes(&load, "b/v1").await;

    consul.kill();
    consul.start_empty().await;
    shows(&gateway, "web", &[(&a, "held"), (&b, "held")]).await;
    holds(&gateway, "consul", &["consul:web", "2 of 2 endpoints are held"]).await;
    // Its server has a new id, too: whichever is noticed first is told.
    let told = provider(&gateway, "consul").await["held"].to_string();
    assert!(told.contains("counter went back") || told.contains("other servers answer"), "{told}");
    holds(&gateway, "consul-kv", &["consul-kv:fleetgate/routes/of-kv", "routes.of-kv is held"]).await;
    for name in ["consul", "consul-kv"] {
        live(&gateway, name).await;
    }
    load.more(300).await;
    let (_, status) = run(&gateway, &["status"]);
    assert!(status.contains("routes.of-kv is held") && status.contains("fleetgate accept routes/of-kv"), "{status}");
    assert!(gateway.stderr().contains("Consul looks wiped, restored or replaced"), "{}", gateway.stderr().text());
    let of = |provider: &'static str| [("provider", provider)];
    assert_eq!(gateway.metric("fleetgate_discovery_held_items", &of("consul-kv")).await, Some(1.0));
    let held = [("provider", "consul"), ("result", "held")];
    assert!(gateway.metric("fleetgate_discovery_updates_total", &held).await >= Some(1.0));

    // Half of it comes back; the other half is what the operator says.
    consul.register(&service(&a)).await;
    consul.kv_put("fleetgate/routes/of-kv", route).await;
    shows(&gateway, "web", &[(&a, "healthy"), (&b, "held")]).await;
    holds(&gateway, "consul-kv", &[]).await;
    takes(&load, "b/v1").await;
    let (fine, said) = run(&gateway, &["accept", "consul", "--yes"]);
    assert!(fine, "{said}");
    shows(&gateway, "web", &[(&a, "healthy")]).await;
    holds(&gateway, "consul", &[]).await;
    load.more(100).await;
    load.stop().await.assert_all_ok();

    // What is believed again is believed at once.
    consul.deregister("a").await;
    gateway.until_status("/file", 503).await;
}

/// Its agent makes its checks again in its own time, and calls instances critical until then: that is no word on those
/// that passed before.
#[tokio::test]
async fn a_consul_that_comes_back_empty_has_not_checked_anything_yet() {
    let Some(mut consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    let checked = |every: &str| {
        Service::new("web", "a", a.address()).unreported_check(&format!("http://{}/", a.address()), every)
    };
    consul.register(&checked("1s")).await;
    let discovery = format!("discovery.consul.address = \"{}\"\nupstreams.web.consul.service = \"web\"", consul.url());
    let gateway = before(&discovery).await;
    gateway.until_status("/file", 200).await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/file"));
    takes(&load, "a/v1").await;

    consul.kill();
    consul.start_empty().await;
    shows(&gateway, "web", &[(&a, "held")]).await;
    consul.register(&checked("10m")).await;
    shows(&gateway, "web", &[(&a, "healthy")]).await;
    load.more(100).await;
    load.stop().await.assert_all_ok();
    // A check that says something is believed.
    consul.deregister("a").await;
    consul.register(&Service::new("web", "a", a.address()).unreported_check("http://127.0.0.1:1/", "1s")).await;
    gateway.until_status("/file", 503).await;
}

/// Fault case 44, and who is held but dead is not used.
#[tokio::test]
async fn an_etcd_that_comes_back_empty_takes_nothing_away() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let key = |origin: &Origin| format!("/fleetgate/endpoints/web/{}", origin.name);
    let put = async |etcd: &Etcd, origin: &Origin| {
        etcd.put(&key(origin), &origin.address().to_string()).await;
    };
    for origin in [&a, &b, &c] {
        put(&etcd, origin).await;
    }
    let route = r#"{"match":{"path":"/etcd"},"upstream":"web"}"#;
    etcd.put("/fleetgate/routes/of-etcd", route).await;
    let discovery = format!("discovery.etcd.endpoints = [\"{}\"]\nupstreams.web.etcd = {{}}", etcd.url());
    let gateway = before(&discovery).await;
    let paths = ["/file", "/etcd"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    takes(&load, "c/v1").await;

    etcd.kill();
    etcd.start_empty().await;
    shows(&gateway, "web", &[(&a, "held"), (&b, "held"), (&c, "held")]).await;
    let source = "etcd:/fleetgate/endpoints/web/";
    holds(&gateway, "etcd", &[source, "3 of 3 endpoints are held", "routes.of-etcd is held"]).await;
    live(&gateway, "etcd").await;
    load.more(300).await;
    assert!(gateway.stderr().contains("etcd looks wiped, restored or replaced"), "{}", gateway.stderr().text());

    put(&etcd, &a).await;
    etcd.put("/fleetgate/routes/of-etcd", route).await;
    shows(&gateway, "web", &[(&a, "healthy"), (&b, "held"), (&c, "held")]).await;
    takes(&load, "b/v1").await;
    put(&etcd, &b).await;
    shows(&gateway, "web", &[(&a, "healthy"), (&b, "healthy"), (&c, "held")]).await;
    load.more(100).await;
    load.stop().await.assert_all_ok();

    let address = c.address().to_string();
    drop(c);
    wait::until(SOON, "the connects to c to fail", || async {
        gateway.endpoints("web").await.contains(&(address.clone(), "unhealthy".to_owned()))
    })
    .await;
    let upstream = gateway.api("upstreams/web").await.to_string();
    assert!(upstream.contains("used while it answers") && upstream.contains("connect: "), "{upstream}");
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    load.more(100).await;
    let (fine, said) = run(&gateway, &["accept", "etcd", "--yes"]);
    assert!(fine, "{said}");
    shows(&gateway, "web", &[(&a, "healthy"), (&b, "healthy")]).await;
    load.more(100).await;
    load.stop().await.assert_all_ok();
}

/// Another Consul stands at the address of the one that is followed, its index higher: what it does not list is held
/// all the same.
#[tokio::test]
async fn another_consul_at_the_same_address_takes_nothing_away() {
    let (Some(one), Some(other)) = (Consul::start().await, Consul::start().await) else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let service = |origin: &Origin| Service::new("web", &origin.name, origin.address());
    one.register(&service(&a)).await;
    one.register(&service(&b)).await;
    one.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"web"}"#).await;
    // The other one is older, and knows one of both.
    other.register(&service(&b)).await;
    let index = async |consul: &Consul| {
        let key = consul.get("/v1/kv/elsewhere").await;
        key[0]["ModifyIndex"].as_u64().expect("an index")
    };
    one.kv_put("elsewhere", "").await;
    for number in 0.. {
        other.kv_put("elsewhere", &number.to_string()).await;
        if index(&other).await > index(&one).await + 50 {
            break;
        }
    }
    let proxy = Proxy::start(one.http_address()).await;
    let upstream = "upstreams.web.consul.service = \"web\"";
    let gateway = before(&format!("discovery.consul.address = \"{}\"\n{upstream}", proxy.url())).await;
    let paths = ["/file", "/kv"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    // That connections are cut says nothing yet: the same servers are behind them.
    proxy.cut();
    live(&gateway, "consul").await;
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    takes(&load, "a/v1").await;

    proxy.lead_to(other.http_address());
    shows(&gateway, "web", &[(&a, "held"), (&b, "healthy")]).await;
    holds(&gateway, "consul", &["consul:web", "1 of 2 endpoints are held", "other servers answer"]).await;
    holds(&gateway, "consul-kv", &["routes.of-kv is held", "other servers answer"]).await;
    takes(&load, "a/v1").await;
    // What it adds is served, what it takes away goes.
    other.register(&service(&c)).await;
    other.deregister("b").await;
    shows(&gateway, "web", &[(&a, "held"), (&c, "healthy")]).await;
    takes(&load, "c/v1").await;
    load.more(100).await;
    load.stop().await.assert_all_ok();
    for name in ["consul", "consul-kv"] {
        let (fine, said) = run(&gateway, &["accept", name, "--yes"]);
        assert!(fine, "{said}");
    }
    shows(&gateway, "web", &[(&c, "healthy")]).await;
    gateway.until_status("/kv", 404).await;
    for name in ["consul", "consul-kv"] {
        holds(&gateway, name, &[]).await;
    }
}

/// A token that may not see the servers tells nothing of them, and nothing follows from that.
#[tokio::test]
async fn a_token_that_sees_no_servers_takes_and_gives_as_ever() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let origins = [&a, &b, &c];
    for origin in origins {
        consul.register(&Service::new("web", &origin.name, origin.address())).await;
    }
    let rules = "service \"web\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                 key_prefix \"fleetgate/\" { policy = \"read\" }";
    consul.policy("narrow", rules).await;
    let token = consul.token(&["narrow"]).await;
    let proxy = Proxy::start(consul.http_address()).await;
    let gateway = before(&format!(
        "discovery.consul = {{ address = \"{}\", token = \"{}\" }}\nupstreams.web.consul.service = \"web\"",
        proxy.url(),
        token.secret
    ))
    .await;
    shows(&gateway, "web", &origins.map(|origin| (origin, "healthy"))).await;
    proxy.cut();
    live(&gateway, "consul").await;
    consul.deregister("a").await;
    shows(&gateway, "web", &[(&b, "healthy"), (&c, "healthy")]).await;
    holds(&gateway, "consul", &[]).await;
    assert!(!gateway.stderr().contains("other Consul servers"), "{}", gateway.stderr().text());
}

/// The same with etcd, its revision higher.
#[tokio::test]
async fn another_etcd_at_the_same_address_takes_nothing_away() {
    let (Some(one), Some(other)) = (Etcd::start().await, Etcd::start().await) else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let put = async |etcd: &Etcd, origin: &Origin| {
        etcd.put(&format!("/fleetgate/endpoints/web/{}", origin.name), &origin.address().to_string()).await
    };
    put(&one, &a).await;
    put(&one, &b).await;
    let revision = one.put("/fleetgate/routes/of-etcd", r#"{"match":{"path":"/etcd"},"upstream":"web"}"#).await;
    while other.put("/elsewhere", "").await < revision + 50 {}
    put(&other, &b).await;
    let proxy = Proxy::start(one.client_address()).await;
    let gateway = before(&format!("discovery.etcd.endpoints = [\"{}\"]\nupstreams.web.etcd = {{}}", proxy.url())).await;
    let paths = ["/file", "/etcd"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    takes(&load, "a/v1").await;

    proxy.lead_to(other.client_address());
    shows(&gateway, "web", &[(&a, "held"), (&b, "healthy")]).await;
    let source = "etcd:/fleetgate/endpoints/web/";
    holds(&gateway, "etcd", &[source, "1 of 2 endpoints are held", "routes.of-etcd is held", "other servers"]).await;
    put(&other, &c).await;
    shows(&gateway, "web", &[(&a, "held"), (&b, "healthy"), (&c, "healthy")]).await;
    takes(&load, "a/v1").await;
    load.more(100).await;
    load.stop().await.assert_all_ok();
    let (fine, said) = run(&gateway, &["accept", "etcd", "--yes"]);
    assert!(fine, "{said}");
    shows(&gateway, "web", &[(&b, "healthy"), (&c, "healthy")]).await;
    gateway.until_status("/etcd", 404).await;
    holds(&gateway, "etcd", &[]).await;
}

/// Fault case 35: a lease of a thousand keys of a hundred services ends.
#[tokio::test]
async fn a_lease_of_a_whole_fleet_that_ends_takes_nothing_away() {
    let Some(etcd) = Etcd::start().await else { return };
    let origin = Origin::start_at("0.0.0.0:0".parse().unwrap(), "fleet", "v1").await;
    let port = origin.address().port();
    let lease = etcd.lease(600).await;
    let services: Vec<String> = (0..100).map(|number| format!("s{number:02}")).collect();
    for service in &services {
        etcd.put(&format!("/fleetgate/upstreams/{service}"), r#"{"etcd":{}}"#).await;
        let route = format!(r#"{{"match":{{"path":"/{service}"}},"upstream":"{service}"}}"#);
        etcd.put(&format!("/fleetgate/routes/{service}"), &route).await;
        for host in 1..=10 {
            let key = format!("/fleetgate/endpoints/{service}/{host}");
            etcd.put_leased(&key, &format!("127.0.0.{host}:{port}"), lease).await;
        }
    }
    let discovery = format!("discovery.etcd.endpoints = [\"{}\"]\nupstreams.web.etcd = {{}}", etcd.url());
    let gateway = before(&discovery).await;
    for service in &services {
        gateway.until_status(&format!("/{service}"), 200).await;
    }
    let load = Load::start(gateway.address(), 4, |worker, number| {
        Request::get(&format!("/s{:02}", (worker as u64 * 25 + number) % 100))
    });
    load.more(200).await;
    etcd.revoke(lease).await;
    holds(&gateway, "etcd", &["etcd:/fleetgate/endpoints/s00/", "10 of 10", "etcd:/fleetgate/endpoints/s99/"]).await;
    load.more(2_000).await;
    load.stop().await.assert_all_ok();
    let status = gateway.api("status").await;
    assert_eq!(status["endpoints"]["held"], 1_000, "{status}");
    let (fine, said) = run(&gateway, &["accept", "etcd", "--yes"]);
    assert!(fine, "{said}");
    gateway.until_status("/s00", 503).await;
    holds(&gateway, "etcd", &[]).await;
}

/// Fault case 14: a snapshot of an earlier time is restored. What is in it is live at once; what is not is held, and
/// goes in time.
#[tokio::test]
async fn a_restored_consul_takes_away_in_time_what_it_does_not_know() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    // Past the agent, which would register what it knows again.
    let register = async |origin: &Origin| {
        let address = origin.address();
        let service = json!({ "ID": origin.name, "Service": "web", "Address": address.ip(), "Port": address.port() });
        consul.catalog_register(json!({ "Node": "n1", "Address": "127.0.0.1", "Service": service })).await;
    };
    register(&a).await;
    let snapshot = consul.snapshot().await;
    register(&b).await;
    let discovery = |wipe_hold: &str| {
        format!(
            "discovery.wipe_hold = \"{wipe_hold}\"\ndiscovery.consul = {{ address = \"{}\", wait = \"1s\" }}\n\
             upstreams.web.consul.service = \"web\"",
            consul.url()
        )
    };
    let (patient, hasty) = (before(&discovery("10m")).await, before(&discovery("1s")).await);
    for gateway in [&patient, &hasty] {
        shows(gateway, "web", &[(&a, "healthy"), (&b, "healthy")]).await;
    }
    let load = Load::start(patient.address(), 2, |_, _| Request::get("/file"));
    consul.restore(&snapshot).await;
    shows(&patient, "web", &[(&a, "healthy"), (&b, "held")]).await;
    shows(&hasty, "web", &[(&a, "healthy")]).await;
    assert!(hasty.stderr().contains("Consul looks wiped, restored or replaced"), "{}", hasty.stderr().text());
    takes(&load, "b/v1").await;
    let (fine, said) = run(&patient, &["accept", "consul", "--yes"]);
    assert!(fine, "{said}");
    shows(&patient, "web", &[(&a, "healthy")]).await;
    load.more(50).await;
    load.stop().await.assert_all_ok();
}

/// Starts a gateway again and again, which serves and holds `web` and the route `of-NAME` of a provider all the time.
async fn still_held(mut gateway: Gateway, a: &Origin, provider: &str, name: &str) -> Gateway {
    for restart in 0..4 {
        shows(&gateway, "web", &[(a, "held")]).await;
        holds(&gateway, provider, &[&format!("routes.of-{name} is held")]).await;
        for path in ["/file", &format!("/{name}")] {
            assert_eq!(gateway.get(path).await.status, 200, "{path}, after {restart} restarts");
        }
        gateway = if restart == 2 { gateway.restart_unready().await } else { gateway.restart_in_order().await };
        gateway.wait_ready().await;
    }
    gateway
}

/// What is held stays held, however a gateway ends, and however often.
#[tokio::test]
async fn what_a_wiped_consul_lost_is_held_over_restarts() {
    let Some(mut consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    let service = Service::new("web", "a", a.address());
    let route = r#"{"match":{"path":"/kv"},"upstream":"web"}"#;
    consul.register(&service).await;
    consul.kv_put("fleetgate/routes/of-kv", route).await;
    let discovery = format!("discovery.consul.address = \"{}\"\nupstreams.web.consul.service = \"web\"", consul.url());
    let gateway = before(&discovery).await;
    gateway.until_status("/kv", 200).await;
    saves(&gateway, "consul-kv.json", &["/kv"]).await;
    saves(&gateway, "consul.json", &[&a.address().to_string()]).await;
    consul.kill();
    consul.start_empty().await;
    let gateway = still_held(gateway, &a, "consul-kv", "kv").await;
    // Filled again, it is believed.
    shows(&gateway, "web", &[(&a, "held")]).await;
    consul.register(&service).await;
    consul.kv_put("fleetgate/routes/of-kv", route).await;
    shows(&gateway, "web", &[(&a, "healthy")]).await;
    holds(&gateway, "consul-kv", &[]).await;
    consul.deregister("a").await;
    gateway.until_status("/file", 503).await;
    let gateway = gateway.restart_in_order().await;
    gateway.until_status("/kv", 503).await;
}

#[tokio::test]
async fn what_a_wiped_etcd_lost_is_held_over_restarts() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let a = Origin::start("a").await;
    let route = r#"{"match":{"path":"/etcd"},"upstream":"web"}"#;
    let fill = async |etcd: &Etcd| {
        etcd.put("/fleetgate/endpoints/web/a", &a.address().to_string()).await;
        etcd.put("/fleetgate/routes/of-etcd", route).await;
    };
    fill(&etcd).await;
    let discovery = format!("discovery.etcd.endpoints = [\"{}\"]\nupstreams.web.etcd = {{}}", etcd.url());
    let gateway = before(&discovery).await;
    gateway.until_status("/etcd", 200).await;
    saves(&gateway, "etcd.json", &["routes/of-etcd", &a.address().to_string()]).await;
    etcd.kill();
    etcd.start_empty().await;
    let gateway = still_held(gateway, &a, "etcd", "etcd").await;
    shows(&gateway, "web", &[(&a, "held")]).await;
    fill(&etcd).await;
    shows(&gateway, "web", &[(&a, "healthy")]).await;
    holds(&gateway, "etcd", &[]).await;
    etcd.delete("/fleetgate/endpoints/web/a").await;
    gateway.until_status("/file", 503).await;
}
