//! Answers that a Consul of this version gives rarely or never, scripted, with traffic flowing: no request fails, no
//! route is lost, and the next sound answer counts.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::{SOON, config, fails, live, provider, stops, takes};
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::scripted::{Damage, Scene, ScriptedServer, instances_at};
use crate::support::wait;

/// An answer with these instances, beside a route in the keys.
pub(super) fn scene(index: u64, origins: &[&Origin]) -> Scene {
    let instances: Vec<(&str, SocketAddr)> =
        origins.iter().map(|origin| (origin.name.as_str(), origin.address())).collect();
    let value = STANDARD.encode(r#"{"match":{"path":"/kv"},"upstream":"web"}"#);
    let keys = format!(r#"[{{"Key":"fleetgate/routes/of-kv","Value":"{value}"}}]"#);
    Scene { keys: Some(keys), ..Scene::new(index, instances_at(&instances)) }
}

/// A gateway before a server that answers so, under load on a route of its file and one of the keys.
async fn before(scene: Scene) -> (ScriptedServer, Gateway, Load) {
    let server = ScriptedServer::start(scene).await;
    let gateway = Gateway::start(&config(&format!(
        r#"
        discovery.consul = {{ address = "{}", wait = "1s" }}
        upstreams.web.consul.service = "web"
        routes.of-file = {{ match.path = "/file", upstream = "web" }}
        "#,
        server.url()
    )))
    .await;
    gateway.until_status("/kv", 200).await;
    let load = Load::start(gateway.address(), 2, |worker, _| Request::get(["/file", "/kv"][worker]));
    (server, gateway, load)
}

/// Fault case 15, scripted: indexes that make no sense are followed by few reads, and by what changes.
#[tokio::test]
async fn an_index_that_makes_no_sense_costs_nothing() {
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    for shown in [Some("0"), None, Some("some"), Some("9223372036854775808")] {
        let mut first = scene(7, &[&a, &b]);
        first.shown_index = shown.map(str::to_owned);
        let began = std::time::Instant::now();
        let (server, gateway, load) = before(first.clone()).await;
        load.more(500).await;
        wait::until(SOON, "some reads", || async { server.seen("/v1/health/").len() > 5 }).await;
        let reads = server.seen("/v1/health/").len() as u128;
        // A first read, a burst of two, then one each 100 ms.
        let most = 4 + began.elapsed().as_millis() / 100;
        assert!(reads <= most, "{shown:?}: {reads} reads, {most} at most");
        server.set(Scene { index: 8, ..scene(8, &[&a, &b, &c]) });
        takes(&load, "c/v1").await;
        live(&gateway, "consul").await;
        load.stop().await.assert_all_ok();
    }
}

/// Fault case 16, scripted: errors carry an index of 1, which nobody takes.
#[tokio::test]
async fn errors_change_nothing_and_their_index_is_not_taken() {
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let (server, gateway, load) = before(scene(4711, &[&a, &b])).await;
    server.change(|scene| {
        (scene.status, scene.shown_index) = (500, Some("1".to_owned()));
    });
    for name in ["consul", "consul-kv"] {
        fails(&gateway, name, "500").await;
    }
    wait::until(SOON, "three errors", || async {
        provider(&gateway, "consul").await["updates"]["failed"].as_u64() >= Some(3)
    })
    .await;
    load.more(500).await;
    server.set(scene(4712, &[&a, &b, &c]));
    takes(&load, "c/v1").await;
    for name in ["consul", "consul-kv"] {
        live(&gateway, name).await;
    }
    assert_eq!(server.seen("index=1&"), [""; 0]);
    load.stop().await.assert_all_ok();
}

/// Fault case 21, scripted (Consul 1.11 and later say so): an answer that was filtered adds, and removes nothing.
#[tokio::test]
async fn a_filtered_answer_adds_and_never_removes() {
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let (server, gateway, load) = before(scene(10, &[&a, &b])).await;
    server.set(scene(11, &[&c]).header("X-Consul-Results-Filtered-By-ACLs", "true"));
    takes(&load, "c/v1").await;
    fails(&gateway, "consul", "left out").await;
    wait::until_ok(SOON, "the hold to be shown", || async {
        let shown = provider(&gateway, "consul").await["held"].to_string();
        if shown.contains("consul:web") { Ok(()) } else { Err(shown) }
    })
    .await;
    for who in ["a/v1", "b/v1"] {
        takes(&load, who).await;
    }
    server.set(scene(12, &[&a, &c]));
    stops(&load, "b/v1").await;
    live(&gateway, "consul").await;
    assert_eq!(provider(&gateway, "consul").await["held"], serde_json::json!([]));
    load.stop().await.assert_all_ok();
}

/// Fault case 22, scripted (client agents stream from Consul 1.10 on): they deny knowing a leader, and are believed.
#[tokio::test]
async fn an_agent_that_streams_is_followed() {
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let streamed = |index: u64, origins: &[&Origin]| {
        scene(index, origins).header("X-Consul-KnownLeader", "false").header("X-Consul-Query-Backend", "streaming")
    };
    let (server, gateway, load) = before(streamed(10, &[&a, &b])).await;
    server.set(streamed(11, &[&a, &b, &c]));
    takes(&load, "c/v1").await;
    server.set(streamed(12, &[&a, &c]));
    stops(&load, "b/v1").await;
    live(&gateway, "consul").await;
    assert_eq!(provider(&gateway, "consul").await["updates"]["failed"], 0);
    load.stop().await.assert_all_ok();
}

/// Fault cases 27 (keys that are not found, without an index) and 29 (answers damaged on their way, and a captive
/// portal's page), scripted.
#[tokio::test]
async fn damaged_answers_change_nothing() {
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let (server, gateway, load) = before(scene(10, &[&a, &b])).await;
    let page = || Some("<html>Sign in</html>".to_owned());
    let bad = |index: u64, damage: Damage| Scene { damage, ..scene(index, &[&a]) };
    let captive = Scene { body: page().unwrap(), keys: page(), ..scene(0, &[]) };
    let absent = Scene { status: 404, shown_index: None, ..scene(0, &[]) };
    let mut index = 10;
    for wrong in [bad(0, Damage::Truncated), bad(0, Damage::ShortLength), bad(0, Damage::NoGzip), captive, absent] {
        index += 1;
        let shown_index = wrong.shown_index.as_ref().map(|_| index.to_string());
        server.set(Scene { index, shown_index, ..wrong });
        for name in ["consul", "consul-kv"] {
            fails(&gateway, name, "").await;
        }
        for who in ["a/v1", "b/v1"] {
            takes(&load, who).await;
        }
        index += 1;
        server.set(scene(index, &[&a, &b]));
        for name in ["consul", "consul-kv"] {
            live(&gateway, name).await;
        }
    }
    server.set(scene(index + 1, &[&a, &b, &c]));
    takes(&load, "c/v1").await;
    load.stop().await.assert_all_ok();
}

/// Fault case 29 of the second read alone, scripted: as long as it is damaged it confirms no removal, whatever the others
/// say.
#[tokio::test]
async fn a_damaged_second_read_confirms_nothing() {
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let (server, gateway, load) = before(scene(10, &[&a, &b, &c])).await;
    let mut index = 10;
    let captive = Scene { consistent: Some("<html>Sign in</html>".to_owned()), ..scene(0, &[&a]) };
    let bad = |damage: Damage| Scene { damage, damaged: "consistent", ..scene(0, &[&a]) };
    for wrong in [bad(Damage::Truncated), bad(Damage::ShortLength), bad(Damage::NoGzip), captive] {
        index += 1;
        server.set(Scene { index, shown_index: Some(index.to_string()), ..wrong });
        fails(&gateway, "consul", "a removal is held").await;
        for who in ["b/v1", "c/v1"] {
            takes(&load, who).await;
        }
        index += 1;
        server.set(scene(index, &[&a, &b, &c]));
        live(&gateway, "consul").await;
    }
    server.set(scene(index + 1, &[&a]));
    for who in ["b/v1", "c/v1"] {
        stops(&load, who).await;
    }
    load.stop().await.assert_all_ok();
}
