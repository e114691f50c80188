//! Many services, large ones, and what they cost Consul, with traffic flowing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::{SOON, config, provider, takes};
use super::answers::scene;
use super::fleet::put;
use super::ways::{self, OUR_TLS};
use crate::consul::tls::{certificates, secured};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::proxy::{Mode, Proxy};
use crate::support::scripted::ScriptedServer;
use crate::support::{long_tests, wait};

/// The services `web000`, `web001`, ..., each with a route of its name.
fn routes(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let name = format!("web{number:03}");
        writeln!(text, "upstreams.{name}.consul.service = \"{name}\"").unwrap();
        writeln!(text, "routes.{name} = {{ match.path = \"/{name}\", upstream = \"{name}\" }}").unwrap();
    }
    text
}

/// As many routes, one request after the other.
fn over(count: u64) -> impl Fn(usize, u64) -> Request {
    move |worker, number| Request::get(&format!("/web{:03}", (number + worker as u64 * count / 2) % count))
}

/// Fault case 32, scripted, as no server adds jitter to a wait here: queries that began together and end without a
/// change do not come back together, but at most at twice their mean rate.
#[tokio::test]
async fn waits_that_begin_together_do_not_end_together() {
    const SERVICES: usize = 399;
    const ROUNDS: usize = 3;
    let origin = Origin::start("a").await;
    let server = ScriptedServer::start(scene(7, &[&origin])).await;
    let more = routes(SERVICES);
    let gateway = Gateway::start(&config(&format!(
        "discovery.consul = {{ address = \"{}\", wait = \"1s\", max_watches = 400 }}\n\
         upstreams.web.consul.service = \"web\"\n{more}",
        server.url()
    )))
    .await;
    let load = Load::start(gateway.address(), 2, over(SERVICES as u64));
    // How long each service's queries asked to be blocked, in their order.
    let waits = || {
        let mut waits: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for target in server.seen("/v1/health/service/") {
            let Some((_, wait)) = target.split_once("wait=") else { continue };
            let wait = wait.split("ms").next().unwrap().parse().unwrap();
            waits.entry(target.split('?').next().unwrap().to_owned()).or_default().push(wait);
        }
        waits
    };
    wait::until(SOON, "three waits of each service", || async {
        let waits = waits();
        waits.len() == SERVICES + 1 && waits.values().all(|waits| waits.len() >= ROUNDS)
    })
    .await;
    load.stop().await.assert_all_ok();

    let waits = waits();
    // Were they all begun at once, when each of them would end, in fifths of the longest wait.
    let (mut ends, mut all) = ([0u64; 5 * ROUNDS], 0);
    let horizon = waits.values().map(|waits| waits[..ROUNDS].iter().sum::<u64>()).min().unwrap() / 200;
    for waits in waits.values() {
        let mut end = 0;
        for wait in &waits[..ROUNDS] {
            end += wait;
            all += wait;
            ends[(end as usize / 200).min(ends.len() - 1)] += 1;
        }
    }
    let mean_wait = all as f64 / (waits.len() * ROUNDS) as f64;
    let mean = waits.len() as f64 * 200.0 / mean_wait;
    for (fifth, ended) in ends[..horizon as usize].iter().enumerate() {
        assert!((*ended as f64) < 2.0 * mean, "{ended} in fifth {fifth}, {mean} on the mean: {ends:?}");
    }
}

/// Fault case 23: more services than an agent allows connections. Every change is seen, and once all are followed
/// connections are not made again and again.
#[tokio::test]
async fn more_services_than_connections_all_take_traffic() {
    if !long_tests() {
        return;
    }
    const SERVICES: usize = 260;
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let names: Vec<String> = (0..SERVICES).map(|number| format!("web{number:03}")).collect();
    let register = async |origin: &Origin| {
        for name in &names {
            consul.register(&Service::new(name, &format!("{name}-{}", origin.name), origin.address())).await;
        }
    };
    register(&a).await;
    let proxy = Proxy::start(consul.http_address()).await;
    let gateway =
        Gateway::start(&config(&format!("discovery.consul.address = \"{}\"\n{}", proxy.url(), routes(SERVICES)))).await;
    let load = Load::start(gateway.address(), 2, over(SERVICES as u64));
    load.more(2 * SERVICES as u64).await;
    register(&b).await;
    let all = [a.address().to_string(), b.address().to_string()];
    // As long as a change of what is read now and then may take.
    let within = Duration::from_secs(15);
    for name in &names {
        wait::until_ok(within, &format!("both instances of {name}"), || async {
            let mut shown: Vec<_> = gateway.endpoints(name).await.into_iter().map(|(address, _)| address).collect();
            shown.sort();
            if all.iter().all(|address| shown.contains(address)) { Ok(()) } else { Err(shown) }
        })
        .await;
    }
    let consul_view = async || provider(&gateway, "consul").await;
    let polled =
        |view: &Value| view["watches"].as_array().unwrap().iter().filter(|watch| watch["polled"] == true).count();
    assert_eq!(polled(&consul_view().await), SERVICES - 100);
    // A round of all that are read now and then, over connections that are there.
    let (connections, answers) = (proxy.connections(), consul_view().await["cost"]["answers"].as_u64().unwrap());
    let round = SERVICES as u64 - 100;
    wait::until(SOON, "a round of reads", || async {
        consul_view().await["cost"]["answers"].as_u64().unwrap() >= answers + round
    })
    .await;
    let made = proxy.connections() - connections;
    assert!(made <= 10, "{made} new connections in a round of {round} reads");
    assert_eq!(consul_view().await["updates"]["failed"], 0, "a refused connection is a failed read");
    load.stop().await.assert_all_ok();
}

/// Of more services than may be watched, those that get requests are; nobody loses anything by the exchange.
#[tokio::test]
async fn services_that_are_used_are_watched() {
    let Some(consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    for name in ["web000", "web001", "web002"] {
        consul.register(&Service::new(name, &format!("{name}-a"), a.address())).await;
    }
    let discovery = format!("discovery.consul = {{ address = \"{}\", max_watches = 1 }}", consul.url());
    let gateway = Gateway::start(&config(&format!("{discovery}\n{}", routes(3)))).await;
    let watched = async || -> Vec<String> {
        let view = provider(&gateway, "consul").await;
        let watches = view["watches"].as_array().unwrap().iter().filter(|watch| watch["polled"] == false);
        watches.map(|watch| watch["name"].as_str().unwrap().to_owned()).collect()
    };
    wait::until(SOON, "one of them to be watched", || async { watched().await.len() == 1 }).await;
    let before = watched().await;
    let other = ["web000", "web001", "web002"].into_iter().find(|name| before != [format!("consul:{name}")]).unwrap();
    let load = Load::start(gateway.address(), 1, move |_, _| Request::get(&format!("/{other}")));
    wait::until(2 * SOON, "the watch of who is used", || async { watched().await == [format!("consul:{other}")] })
        .await;
    let b = Origin::start("b").await;
    consul.register(&Service::new(other, &format!("{other}-b"), b.address())).await;
    takes(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
}

/// Fault case 24: over HTTPS many services share few connections, and all are followed.
#[tokio::test]
async fn services_share_connections_over_https_and_all_take_traffic() {
    const SERVICES: usize = 500;
    let folder = tempfile::tempdir().unwrap();
    let Some(tls) = certificates(folder.path()) else { return };
    let Some((consul, url)) = secured(folder.path()).await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let register = async |number: usize, origin: &Origin| {
        let name = format!("web{number:03}");
        consul.register(&Service::new(&name, &format!("{name}-{}", origin.name), origin.address())).await;
    };
    for number in 0..SERVICES {
        register(number, &a).await;
    }
    let proxy = Proxy::start(url.trim_start_matches("https://").parse().unwrap()).await;
    let discovery = format!("discovery.consul = {{ address = \"https://{}\"{OUR_TLS} }}\n", proxy.address());
    let setup = Setup::new(&config(&format!("{discovery}{}", routes(SERVICES))));
    ways::put(&tls, setup.folder());
    let gateway = setup.start().await;
    let load = Load::start(gateway.address(), 2, over(SERVICES as u64));
    load.more(2 * SERVICES as u64).await;
    for number in [0, 250, 499] {
        register(number, &b).await;
        let path = format!("/web{number:03}");
        wait::until(SOON, &format!("{path} to reach both"), || async {
            gateway.get(&path).await.served_by() == "b/v1"
        })
        .await;
    }
    load.more(SERVICES as u64).await;
    load.stop().await.assert_all_ok();
    let provider = provider(&gateway, "consul").await;
    let polled = provider["watches"].as_array().unwrap().iter().filter(|watch| watch["polled"] == true).count();
    assert_eq!(polled, 0);
    assert!(proxy.connections() <= 3, "{} connections", proxy.connections());
}

/// Fault case 25: a service of ten thousand instances. A change is seen; a check that flaps twenty times a second over a
/// slow network costs few reads, each of which is megabytes; and memory does not grow with them.
#[tokio::test]
async fn a_service_of_ten_thousand_instances_is_followed_at_a_steady_rate() {
    if !long_tests() {
        return;
    }
    const INSTANCES: usize = 10_000;
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start_at("0.0.0.0:0".parse().unwrap(), "a", "v1").await, Origin::start("b").await);
    let node = json!({ "Verb": "set", "Node": { "Node": "n1", "Address": "127.0.0.1" } });
    consul.put("/v1/txn", json!([{ "Node": node }])).await;
    let numbers: Vec<usize> = (0..INSTANCES).collect();
    for some in numbers.chunks(64) {
        let set = |number: &usize| {
            let address = format!("127.1.{}.{}", number / 250, number % 250 + 1);
            let service = json!({ "ID": format!("web-{number}"), "Service": "web", "Address": address,
                "Port": a.address().port() });
            json!({ "Service": { "Verb": "set", "Node": "n1", "Service": service } })
        };
        consul.put("/v1/txn", some.iter().map(set).collect()).await;
    }
    let flip = async |status: &str| {
        let check =
            json!({ "Node": "n1", "CheckID": "flips", "Name": "flips", "ServiceID": "web-0", "Status": status });
        consul.catalog_register(json!({ "Node": "n1", "Address": "127.0.0.1", "Check": check })).await;
    };
    flip("passing").await;
    let proxy = Proxy::start(consul.http_address()).await;
    let mut gateway = Gateway::start(&config(&format!(
        "discovery.consul.address = \"{}\"\nupstreams.web = {{ consul.service = \"web\", balance = \"round_robin\" }}\n\
         routes.web = {{ match.path = \"/\", upstream = \"web\" }}",
        proxy.url()
    )))
    .await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    load.more(500).await;
    let shows = async |count: usize| {
        wait::until_ok(SOON, &format!("{count} endpoints"), || async {
            let shown = gateway.endpoints("web").await.len();
            if shown == count { Ok(()) } else { Err(shown) }
        })
        .await;
    };
    shows(INSTANCES).await;
    // The case wants this within 3 s. A build for tests took up to 1.8 s, with the list that shows it, on two cores that had
    // more to do; where they have still more it would say nothing of the gateway, so how long it takes is not asserted.
    put(&consul, &b).await;
    shows(INSTANCES + 1).await;

    let process = gateway.process().id();
    let wakeups = async || provider(&gateway, "consul").await["cost"]["wakeups"].as_u64().unwrap();
    // A body that takes a second: a tenth of the time may go into transfers, so the next read is to wait for ten.
    proxy.set(Mode::Delay(Duration::from_millis(200)));
    let flips = async |count: usize| {
        for flips in 0..count {
            flip(["critical", "passing"][flips % 2]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // An allocator has what it wants after a few reads.
    let begun = wakeups().await;
    wait::until(3 * SOON, "three slow answers", || async {
        flips(20).await;
        wakeups().await >= begun + 3
    })
    .await;
    let (before, peak_before, began) = (wakeups().await, peak(process), Instant::now());
    flips(300).await;
    let (reads, seconds) = (wakeups().await - before, began.elapsed().as_secs());
    assert!(reads <= 2 + seconds / 4, "{reads} reads in {seconds} s");
    let (peak_before, peak) = (peak_before >> 10, peak(process) >> 10);
    assert!(peak <= peak_before + 64, "{peak_before} MiB at most before, {peak} MiB after {reads} reads");
    load.stop().await.assert_all_ok();
}

/// The most memory that a process ever had, in kB.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
