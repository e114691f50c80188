//! The history of a running gateway: what a real Consul, a real etcd, files, checks and operators change is told,
//! with its cause; how it was at a time; followers; the file of events.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::Value;

use crate::operator::run;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup, fleetgate};
use crate::support::origin::Origin;
use crate::support::process::Process;
use crate::support::{place, wait};

const SOON: Duration = Duration::from_secs(40);

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 3, last], 8080))
}

/// Waits for an event that `wanted` accepts among those a query shows.
async fn until_event(gateway: &Gateway, query: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until_ok(SOON, &format!("an event: {what}"), || async {
        let page = gateway.api(&format!("events?limit=1000&{query}")).await;
        let items = page["items"].as_array().unwrap();
        items.iter().rev().find(|event| wanted(event)).cloned().ok_or_else(|| format!("{page:#}"))
    })
    .await
}

/// Whether an event is of this kind and endpoint, and ends in this state.
fn of(event: &Value, kind: &str, endpoint: SocketAddr, state: Option<&str>) -> bool {
    event["event"] == kind && event["endpoint"] == endpoint.to_string() && event["after"]["state"].as_str() == state
}

fn later() -> String {
    format!("{:.3}", Timestamp::try_from(SystemTime::now()).unwrap())
}

/// What `fleetgate events --at` says of an endpoint.
fn stood(gateway: &Gateway, upstream: &str, time: &str, endpoint: SocketAddr) -> String {
    let (fine, said) = run(gateway, &["events", "--at", time, "--upstream", upstream]);
    assert!(fine, "{said}");
    let line = said.lines().find(|line| line.contains(&endpoint.to_string()));
    line.unwrap_or_else(|| panic!("no {endpoint} at {time} in:\n{said}")).to_owned()
}

#[tokio::test]
async fn what_consul_says_is_told_with_its_index_and_cause() {
    let Some(mut consul) = Consul::start().await else { return };
    let (a, b) = (at(6), at(7));
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.consul.address = "{}"
        [upstreams.users]
        consul = {{ service = "users" }}
        "#,
        consul.url()
    ))
    .await;
    for (id, address) in [("a", a), ("b", b)] {
        consul.register(&Service::new("users", id, address).checked("passing")).await;
    }
    let users = "upstream=users";
    let added = until_event(&gateway, users, "b came", |event| of(event, "endpoint_added", b, Some("healthy"))).await;
    assert_eq!((&added["provider"], &added["source"]), (&"consul".into(), &"consul:users".into()));
    assert!(added["index"].as_u64().is_some_and(|index| index > 0), "{added}");
    assert!(added["generation"].as_u64() > Some(0) && added["before"].is_null(), "{added}");

    consul.set_check("b", "critical").await;
    let out =
        until_event(&gateway, users, "b is out", |event| of(event, "endpoint_changed", b, Some("unhealthy"))).await;
    assert_eq!(out["cause"], "consul:users says that a check is critical");
    assert_eq!(out["before"]["state"], "healthy");
    assert!(out["index"].as_u64() > added["index"].as_u64(), "{added} {out}");
    let while_out = later();
    consul.set_check("b", "passing").await;
    until_event(&gateway, users, "b is back", |event| of(event, "endpoint_changed", b, Some("healthy"))).await;

    let (fine, said) = run(&gateway, &["drain", "users", &a.to_string()]);
    assert!(fine, "{said}");
    let drained =
        until_event(&gateway, users, "a is drained", |event| of(event, "endpoint_changed", a, Some("draining"))).await;
    assert_eq!(drained["cause"], "drained by an operator");
    until_event(&gateway, users, "the command", |event| {
        event["event"] == "command" && event["endpoint"] == a.to_string()
    })
    .await;
    consul.deregister("b").await;
    until_event(&gateway, users, "b left", |event| of(event, "endpoint_removed", b, None)).await;

    // Why was it out?
    let line = stood(&gateway, "users", &while_out, b);
    assert!(
        line.contains("unhealthy") && line.contains("a check is critical") && line.contains("checks pass"),
        "{line}"
    );
    let line = stood(&gateway, "users", &while_out, a);
    assert!(line.contains("healthy") && line.contains("drained by an operator"), "{line}");
    let line = stood(&gateway, "users", &later(), b);
    assert!(line.contains("absent") && line.contains("consul:users has it no more"), "{line}");

    consul.kv_put("fleetgate/routes/users", r#"{"match":{"path":"/users"},"upstream":"users"}"#).await;
    let (route, kv) =
        ("route=users", |event: &Value, kind: &str| event["event"] == kind && event["provider"] == "consul-kv");
    let added = until_event(&gateway, route, "the route came", |event| kv(event, "route_added")).await;
    assert_eq!(added["after"]["match"]["path"], "/users");
    consul.kv_put("fleetgate/routes/users", r#"{"match":{"path":7},"upstream":"users"}"#).await;
    let rejected = until_event(&gateway, route, "its bad edit", |event| kv(event, "item_rejected")).await;
    assert!(rejected["cause"].as_str().unwrap().ends_with("its last good form serves"), "{rejected}");
    consul.kv_put("fleetgate/routes/users", r#"{"match":{"path":"/people"},"upstream":"users"}"#).await;
    until_event(&gateway, route, "that it is mended", |event| kv(event, "item_accepted")).await;
    let changed = until_event(&gateway, route, "its change", |event| kv(event, "route_changed")).await;
    assert_eq!(
        (&changed["before"]["match"]["path"], &changed["after"]["match"]["path"]),
        (&"/users".into(), &"/people".into())
    );
    assert!(changed["before"].get("targets").is_none(), "only what differs: {changed}");

    consul.kill();
    let failing = until_event(&gateway, users, "the failure", |event| event["event"] == "provider_failing").await;
    assert_eq!(failing["source"], "consul:users");
    consul.start_again().await;
    let id = failing["id"].as_u64().unwrap();
    until_event(&gateway, &format!("provider=consul&after={id}"), "the recovery", |event| {
        event["event"] == "provider_live"
    })
    .await;
}

#[tokio::test]
async fn what_etcd_says_is_told_with_its_revision() {
    let Some(etcd) = Etcd::start().await else { return };
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.etcd.endpoints = ["{}"]
        [upstreams.users]
        etcd = {{}}
        "#,
        etcd.url()
    ))
    .await;
    let (key, a) = ("/fleetgate/endpoints/users/a", at(1));
    let users = "upstream=users&provider=etcd";
    let revision = etcd.put(key, &format!(r#"{{"address":"{a}"}}"#)).await;
    let added = until_event(&gateway, users, "a came", |event| of(event, "endpoint_added", a, Some("healthy"))).await;
    assert_eq!(added["index"].as_i64(), Some(revision));
    let revision = etcd.put(key, &format!(r#"{{"address":"{a}","weight":0,"labels":{{"version":"v2"}}}}"#)).await;
    let changed =
        until_event(&gateway, users, "its weight", |event| of(event, "endpoint_changed", a, Some("draining"))).await;
    assert_eq!(changed["index"].as_i64(), Some(revision));
    assert_eq!((&changed["before"]["weight"], &changed["after"]["labels"]["version"]), (&1.into(), &"v2".into()));
    let cause = changed["cause"].as_str().unwrap();
    assert!(cause.contains("gives it weight 0") && cause.contains("gives it other labels"), "{cause}");

    etcd.put(key, "nonsense").await;
    let rejected =
        until_event(&gateway, "provider=etcd", "the bad entry", |event| event["event"] == "item_rejected").await;
    assert!(rejected["source"].as_str().unwrap().contains(key), "{rejected}");
    etcd.put(key, &a.to_string()).await;
    until_event(&gateway, "provider=etcd", "that it is mended", |event| event["event"] == "item_accepted").await;

    etcd.put("/fleetgate/upstreams/orders", r#"{"endpoints":["10.0.9.9:80"]}"#).await;
    until_event(&gateway, "upstream=orders", "an upstream", |event| event["event"] == "upstream_added").await;
    etcd.delete("/fleetgate/upstreams/orders").await;
    until_event(&gateway, "upstream=orders", "its end", |event| event["event"] == "upstream_removed").await;
    let line = stood(&gateway, "orders", &later(), "10.0.9.9:80".parse().unwrap());
    assert!(line.contains("absent") && line.contains("its upstream is gone"), "{line}");
    etcd.delete(key).await;
    until_event(&gateway, users, "a left", |event| of(event, "endpoint_removed", a, None)).await;
}

/// A checked service, a route, and a file of events.
fn checked(origin: &Origin, path: &str) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        telemetry.events = "events.jsonl"
        [upstreams.users]
        endpoints = ["{}"]
        health_check = {{ path = "/healthz", interval = "100ms", unhealthy_threshold = 2 }}
        [routes.users]
        match = {{ path = "{path}" }}
        upstream = "users"
        "#,
        origin.address()
    )
}

#[tokio::test]
async fn checks_flip_followers_see_it_and_the_file_keeps_it() {
    let origin = Origin::start("users").await;
    let mut gateway = Setup::new(&checked(&origin, "/users")).start().await;
    let admin = format!("http://{}", gateway.admin());
    let lines = Process::start("events", &fleetgate(&["events", "--follow", "--upstream", "users", "--admin", &admin]));
    let json = ["events", "--follow", "--json", "--route", "users", "--limit", "1", "--admin", &admin];
    let json = Process::start("events as JSON", &fleetgate(&json));
    let shows = async |process: &Process, parts: &[&str]| {
        wait::until_ok(SOON, &format!("a line of the follower with {parts:?}"), || async {
            let all = process.stdout.all();
            let found = all.iter().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err(process.stdout.text() + &process.stderr.text()) }
        })
        .await;
    };
    shows(&lines, &["endpoint_added", &origin.address().to_string()]).await;
    shows(&json, &["route_added"]).await;

    origin.set_healthy(false);
    shows(&lines, &["endpoint_changed", "healthy -> unhealthy", "active checks fail: "]).await;
    let while_out = later();
    origin.set_healthy(true);
    shows(&lines, &["endpoint_changed", "unhealthy -> healthy", "active checks pass"]).await;
    let line = stood(&gateway, "users", &while_out, origin.address());
    assert!(line.contains("unhealthy") && line.contains("active checks fail: "), "{line}");
    gateway.write_config(&checked(&origin, "/people"));
    shows(&json, &["\"route_changed\"", "/people"]).await;
    assert!(!lines.stdout.contains("route_changed"), "it follows an upstream: {}", lines.stdout.text());

    let (fine, said) = run(&gateway, &["events", "--at", "23:59:61"]);
    assert!(!fine && said.contains("is no time: write `14:02`"), "{said}");
    let (fine, said) = run(&gateway, &["events", "--limit", "2"]);
    assert!(fine && said.lines().count() == 3 && said.starts_with("TIME"), "{said}");

    let wanted = gateway.api("events?limit=1000").await["items"].clone();
    assert!(gateway.terminate().await.success());
    let file = gateway.folder().join("events.jsonl");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let mut written: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written.pop().unwrap()["event"], "gateway_stopped");
    assert_eq!(Value::from(written), wanted, "every event is there, once and in order");
}

/// Why was it out? A gateway that was started again since still knows.
#[tokio::test]
async fn what_an_earlier_process_wrote_has_its_answer_after_a_restart() {
    let (origin, gone) = (Origin::start("users").await, Origin::start("gone").await);
    let both = |path: &str| {
        let one = format!("endpoints = [\"{}\"]", origin.address());
        let two = format!("endpoints = [\"{}\", \"{}\"]", origin.address(), gone.address());
        checked(&origin, path).replace(&one, &two)
    };
    let mut gateway = Setup::new(&both("/users")).start().await;
    let address = origin.address();
    let state = |state| move |event: &Value| of(event, "endpoint_changed", address, Some(state));
    origin.set_healthy(false);
    until_event(&gateway, "", "it is out", state("unhealthy")).await;
    let while_out = later();
    origin.set_healthy(true);
    until_event(&gateway, "", "it is back", state("healthy")).await;
    let file = gateway.folder().join("events.jsonl");
    let written = async |part: &str| {
        wait::until(SOON, "the file to have it", || async {
            std::fs::read_to_string(&file).is_ok_and(|text| text.contains(part))
        })
        .await;
    };
    written("active checks pass").await;

    // Its host dies: nothing is said at the end, and the last line is cut short.
    gateway.process().kill();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "{\"id\":17,\"ev").unwrap();
    let dead = later();
    gateway.write_config(&checked(&origin, "/users"));
    let gateway = gateway.restart().await;
    until_event(&gateway, "", "the second start", |event| event["event"] == "gateway_started").await;
    written("gateway_started").await;
    let second = later();
    let line = stood(&gateway, "users", &while_out, origin.address());
    assert!(line.contains("unhealthy") && line.contains("active checks fail: "), "{line}");
    assert!(line.contains("active checks pass"), "{line}");
    // It was there when the process died, and has not been since.
    let line = stood(&gateway, "users", &dead, gone.address());
    assert!(line.contains("healthy") && line.contains("the gateway starts"), "{line}");
    let (_, said) = run(&gateway, &["events", "--at", &second, "--upstream", "users"]);
    assert!(!said.contains(&gone.address().to_string()), "{said}");
    let (_, said) = run(&gateway, &["events", "--limit", "1000"]);
    assert!(said.contains("1 lines of the file") && said.contains("gateway_started"), "{said}");

    // A stop is told, and while nobody ran nobody knows.
    let mut gateway = gateway;
    assert!(gateway.terminate().await.success());
    let stopped = later();
    let gateway = gateway.restart().await;
    let (_, said) = run(&gateway, &["events", "--at", &stopped]);
    assert!(said.contains("no gateway is known to have run then") && !said.contains("healthy"), "{said}");
    let line = stood(&gateway, "users", &while_out, origin.address());
    assert!(line.contains("unhealthy"), "{line}");
    let page = gateway.api("events?limit=1000").await;
    let ids: Vec<u64> = page["items"].as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{page}");
    written("gateway_stopped").await;
    let text = std::fs::read_to_string(&file).unwrap();
    let starts = text.lines().filter(|line| line.contains("gateway_started")).count();
    assert_eq!(starts, 3, "what was read back is not written again: {text}");
}

#[tokio::test]
async fn a_follower_outlives_a_restart_of_the_gateway() {
    let origin = Origin::start("users").await;
    // Port 0 would be another one after the restart.
    let admin = place::refusing();
    let config =
        checked(&origin, "/users").replace("admin.address = \"127.0.0.1:0\"", &format!("admin.address = \"{admin}\""));
    let gateway = Gateway::start(&config).await;
    let follower = fleetgate(&["events", "--follow", "--route", "users", "--admin", &format!("http://{admin}")]);
    let follower = Process::start("events", &follower);
    let added = |count: usize| {
        let follower = &follower;
        wait::until(SOON, "the route, once a start", move || async move {
            follower.stdout.all().iter().filter(|line| line.contains("route_added")).count() == count
        })
    };
    added(1).await;
    let _gateway = gateway.restart().await;
    added(2).await;
}
