//! Many services, large ones, and what they cost Consul, with traffic flowing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::consul_answers::scene;
use super::{SOON, config};
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::scripted::ScriptedServer;
use crate::support::wait;

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
