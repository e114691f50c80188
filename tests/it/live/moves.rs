//! Addresses that go from one service to another while what a registry lost is held: no request meets a service that it
//! is not for.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::future::join_all;

use super::{SOON, config};
use crate::support::client::{Answer, Request};
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::place::{free_ports, fresh_address};
use crate::support::wait;

const SERVICES: usize = 12;

/// Addresses of machines, with one port that is free at each.
fn machines(count: usize) -> Vec<SocketAddr> {
    loop {
        let IpAddr::V4(first) = fresh_address() else { unreachable!("it is of IPv4") };
        let [one, two, three, _] = first.octets();
        let ips: Vec<IpAddr> = (1..=count).map(|last| Ipv4Addr::new(one, two, three, last as u8).into()).collect();
        let [port] = free_ports(ips[0]);
        let all: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if all.iter().all(|address| std::net::TcpListener::bind(address).is_ok()) {
            return all;
        }
    }
}

fn documents(services: &[String], source: impl Fn(&str) -> String) -> String {
    let document = |name: &String| {
        let source = source(name);
        format!(
            "[upstreams.{name}]\n{source}\n[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"{name}\"\n"
        )
    };
    services.iter().map(document).collect()
}

/// Whether an answer comes from the service that was asked for, or from none.
fn is_own(answer: &Answer) -> bool {
    if answer.served_by().is_empty() {
        return answer.status >= 500;
    }
    let echo = answer.json();
    echo["target"] == format!("/{}", echo["service"].as_str().unwrap())
}

/// Waits until an upstream has these endpoints, each with its address and whether it is held.
async fn shows(gateway: &Gateway, upstream: &str, wanted: &[(SocketAddr, bool)]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|(address, held)| (address.to_string(), *held)).collect();
    wait::until_ok(SOON, &format!("{upstream} to be {wanted:?}"), || async {
        let seen = gateway.endpoints(upstream).await.into_iter();
        let seen: BTreeSet<_> = seen.map(|(address, state)| (address, state == "held")).collect();
        if seen == wanted { Ok(()) } else { Err((seen, gateway.stderr().text())) }
    })
    .await;
}

/// The causes of releases so far.
async fn releases(gateway: &Gateway) -> Vec<String> {
    let page = gateway.api("events?limit=1000&after=0").await;
    let events = page["items"].as_array().unwrap().iter().filter(|event| event["event"] == "endpoint_released");
    events.map(|event| event["cause"].as_str().unwrap().to_owned()).collect()
}

/// Twelve machines with a container each start again, and their addresses are dealt in another order; and back.
#[tokio::test]
async fn addresses_dealt_anew_in_consul_take_no_request_of_another_service() {
    let Some(consul) = Consul::start().await else { return };
    let at = machines(SERVICES);
    let names: Vec<String> = (0..SERVICES).map(|number| format!("s{number}")).collect();
    let register = async |round: usize, number: usize, at: SocketAddr| {
        consul.register(&Service::new(&names[number], &format!("{round}-{number}"), at)).await;
    };
    let mut origins = Vec::new();
    for (number, name) in names.iter().enumerate() {
        origins.push(Origin::start_at(at[number], name, "0").await);
        register(0, number, at[number]).await;
    }
    let discovery = format!("discovery.state_dir = \"off\"\ndiscovery.consul.address = \"{}\"\n", consul.url());
    let documents = documents(&names, |name| format!("consul = {{ service = \"{name}\" }}"));
    let gateway = Gateway::start(&config(&format!("{discovery}{documents}"))).await;
    for name in &names {
        gateway.until_status(&format!("/{name}"), 200).await;
    }
    let request =
        |worker: usize, number: u64| Request::get(&format!("/s{}", (worker as u64 + number) % SERVICES as u64));
    let load = Load::start_judging(gateway.address(), 4, request, is_own);
    load.more(200).await;

    // The first time each address goes to another service, the second time it returns.
    for (round, (before, shift)) in [(0, 5), (5, 0)].into_iter().enumerate() {
        let now = |number: usize| at[(number + shift) % SERVICES];
        let ids: Vec<String> = (0..SERVICES).map(|number| format!("{round}-{number}")).collect();
        join_all(ids.iter().map(|id| consul.deregister(id))).await;
        // The last ones lose too little to be held, once most have been lost.
        let held = wait::until_ok(SOON, "all to be held or gone", || async {
            let mut held = Vec::new();
            for (number, name) in names.iter().enumerate() {
                match gateway.endpoints(name).await.as_slice() {
                    [] => {}
                    [(_, state)] if state == "held" => held.push(number),
                    other => return Err(format!("{name}: {other:?}")),
                }
            }
            Ok(held)
        })
        .await;
        assert!(held.len() >= 10, "{held:?}");
        for origin in &mut origins {
            origin.stop().await;
        }
        // Registered before they serve: no request can meet one that the gateway could not know of.
        for number in 0..SERVICES {
            register(round + 1, number, now(number)).await;
        }
        for (number, name) in names.iter().enumerate() {
            shows(&gateway, name, &[(now(number), false)]).await;
        }
        origins.clear();
        for (number, name) in names.iter().enumerate() {
            origins.push(Origin::start_at(now(number), name, &(round + 1).to_string()).await);
        }
        for name in &names {
            let answer = gateway.until_status(&format!("/{name}"), 200).await;
            assert_eq!(answer.served_by(), format!("{name}/{}", round + 1));
        }
        load.more(500).await;
        let told = releases(&gateway).await;
        for number in held {
            let to = (number + before + SERVICES - shift) % SERVICES;
            let cause = format!(
                "{} of consul:s{number} is held no longer: consul:s{to} lists it",
                at[(number + before) % SERVICES]
            );
            assert!(told.contains(&cause), "{cause}: {told:#?}");
            assert!(gateway.stderr().contains(&cause));
        }
    }
    let report = load.stop().await;
    assert_eq!(report.failures.len(), 0, "{:#?}", &report.failures[..report.failures.len().min(5)]);
}

/// A wiped registry holds one service; its address goes to one that no upstream names, but that asks for a route. What
/// was released does not come back with the saved state.
#[tokio::test]
async fn an_address_held_since_a_wipe_goes_to_a_service_that_was_never_wanted() {
    let Some(mut consul) = Consul::start().await else { return };
    let web = Origin::start("web").await;
    let spare = Origin::start("web").await;
    consul.register(&Service::new("web", "a", web.address())).await;
    consul.register(&Service::new("web", "b", spare.address())).await;
    let discovery = format!(
        "discovery.state_dir = \"state\"\n[discovery.consul]\naddress = \"{}\"\ntags = true\ntag_networks = [\"127.0.0.0/8\"]\nwait = \"5s\"\n",
        consul.url()
    );
    let documents = documents(&["web".to_owned()], |_| "consul.service = \"web\"".to_owned());
    let gateway = Gateway::start(&config(&format!("{discovery}{documents}"))).await;
    gateway.until_status("/web", 200).await;
    super::saved::saves(&gateway, "consul.json", &[&spare.address().to_string()]).await;

    consul.kill();
    consul.start_empty().await;
    shows(&gateway, "web", &[(web.address(), true), (spare.address(), true)]).await;
    let address = web.address();
    drop(web);
    let other = Service::new("other", "o", address).tags(&["fleetgate.path=/other"]);
    consul.register(&other).await;
    shows(&gateway, "web", &[(spare.address(), true)]).await;
    let other = Origin::start_at(address, "other", "v1").await;
    let found = wait::until_ok(SOON, "other to be found", || async {
        let answer = gateway.get("/other").await;
        if answer.status == 200 { Ok(answer) } else { Err((gateway.api("routes").await, gateway.stderr().text())) }
    });
    assert_eq!(found.await.served_by(), "other/v1");
    assert_eq!(releases(&gateway).await, [format!("{address} of consul:web is held no longer: consul:other lists it")]);
    for _ in 0..20 {
        assert_eq!(gateway.get("/web").await.served_by(), "web/v1");
    }

    // The next start would serve what is saved.
    let file = gateway.folder().join("state/consul.json");
    let addresses = |source: &str| -> Vec<String> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let saved: serde_json::Value =
            text.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let endpoints = saved["content"]["sources"][source].as_array().cloned().unwrap_or_default();
        endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap().to_owned()).collect()
    };
    wait::until_ok(SOON, "all to be saved as it is served", || async {
        let saved = (addresses("consul:web"), addresses("consul:other"));
        if saved == (vec![spare.address().to_string()], vec![address.to_string()]) { Ok(()) } else { Err(saved) }
    })
    .await;
    assert_eq!(other.address(), address);
}

/// As in Consul; and an address that two prefixes had before the loss is held for both.
#[tokio::test]
async fn an_address_that_moves_in_a_wiped_etcd_takes_no_request_of_another_service() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let names: Vec<String> = ["a", "b", "one", "two"].map(ToOwned::to_owned).into();
    let at = machines(3);
    let (moving, own, shared) = (at[0], at[1], at[2]);
    let first = Origin::start_at(moving, "a", "v1").await;
    let second = Origin::start_at(own, "b", "v1").await;
    let _shared = Origin::start_at(shared, "one", "v1").await;
    let put = async |etcd: &Etcd, name: &str, address: SocketAddr| {
        etcd.put(&format!("/fleetgate/endpoints/{name}/{address}"), &address.to_string()).await;
    };
    for (name, address) in [("a", moving), ("b", own), ("one", shared), ("two", shared)] {
        put(&etcd, name, address).await;
    }
    let discovery = format!("discovery.state_dir = \"off\"\ndiscovery.etcd.endpoints = [\"{}\"]\n", etcd.url());
    // One of the prefixes is written out, and has a watch of its own.
    let documents = documents(&names, |name| match name {
        "b" => "etcd = { prefix = \"/fleetgate/endpoints/b/\", format = \"plain\" }".to_owned(),
        _ => "etcd = {}".to_owned(),
    });
    let gateway = Gateway::start(&config(&format!("{discovery}{documents}"))).await;
    for name in ["a", "b"] {
        gateway.until_status(&format!("/{name}"), 200).await;
    }
    shows(&gateway, "two", &[(shared, false)]).await;
    let load =
        Load::start_judging(gateway.address(), 2, |_, number| Request::get(["/a", "/b"][number as usize % 2]), is_own);
    load.more(50).await;

    etcd.kill();
    etcd.start_empty().await;
    for (name, address) in [("a", moving), ("b", own), ("one", shared), ("two", shared)] {
        shows(&gateway, name, &[(address, true)]).await;
    }
    drop(first);
    put(&etcd, "b", moving).await;
    shows(&gateway, "a", &[]).await;
    shows(&gateway, "b", &[(moving, false), (own, true)]).await;
    let _moved = Origin::start_at(moving, "b", "v2").await;
    load.more(200).await;

    // To a folder that no upstream reads.
    drop(second);
    etcd.put("/fleetgate/endpoints/unwanted/1", &own.to_string()).await;
    shows(&gateway, "b", &[(moving, false)]).await;

    // It returns, under another key.
    put(&etcd, "two", shared).await;
    etcd.put("/fleetgate/endpoints/a/again", &moving.to_string()).await;
    etcd.delete(&format!("/fleetgate/endpoints/b/{moving}")).await;
    shows(&gateway, "a", &[(moving, false)]).await;
    shows(&gateway, "two", &[(shared, false)]).await;
    shows(&gateway, "one", &[(shared, true)]).await;
    wait::until(SOON, "b to have left it", || async {
        !gateway.endpoints("b").await.iter().any(|(address, _)| *address == moving.to_string())
    })
    .await;
    let told = releases(&gateway).await;
    assert!(
        told.iter().any(|cause| cause.starts_with(&format!("{moving} of etcd:/fleetgate/endpoints/a/"))),
        "{told:?}"
    );
    assert!(!told.iter().any(|cause| cause.starts_with(&shared.to_string())), "{told:?}");
    // The one process there was answered as `b` all the time: what was sent to `a` after its return is not counted.
    let wrong = load.stop().await.failures.into_iter().filter(|failure| failure.text.contains("\"service\":\"a\""));
    assert_eq!(wrong.count(), 0);
}
