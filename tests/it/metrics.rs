//! `/metrics`: what Prometheus's own tool says of it, and that it tells what happened.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fleetgate::admin::metrics::Picture;
use fleetgate::discovery::status::{ProviderStatus, Registered};
use fleetgate::snapshot::Snapshot;
use fleetgate::spec::name::ProviderId;
use fleetgate::telemetry::lines::{Destination, Destinations, LogName, LogStates, Writer};
use fleetgate::telemetry::prometheus::Metrics;
use fleetgate::telemetry::stats::{AttemptResult, ConnectionState, RetryResult, WorkersStats};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::support::client::Request;
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::proxy::Proxy;
use crate::support::{registry, wait};

const SOON: Duration = Duration::from_secs(20);

/// Panics with what `promtool check metrics` has to say, if anything.
fn check(promtool: &Path, text: &str) {
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.is_empty() && output.status.success(), "{said}\n{text}");
}

/// Every family of the gateway with samples of every kind of label.
#[test]
fn promtool_has_nothing_to_say_about_any_family() {
    let Some(promtool) = registry::binary("promtool") else { return };
    let workers = Arc::new(WorkersStats::default());
    let worker = workers.worker();
    let web = "web".parse().unwrap();
    worker.requests(&web, "users", "users", 200, "").add(2);
    worker.requests(&web, "", "", 404, "NR").add(1);
    worker.request_duration("users").observe(Duration::from_micros(2_100));
    worker.upstream_duration("users").observe(Duration::from_secs(90));
    worker.attempts("users", AttemptResult::Connect).add(1);
    worker.retries("users", RetryResult::Budget).add(1);
    worker.ejections("users", "failures").add(1);
    worker.panics("users").add(1);
    worker.refused("users", "open").add(1);
    worker.target_requests("users", "users/v2").add(2);
    worker.upstream_connections("users", ConnectionState::Idle).add(3);
    worker.downstream_connections(&web).add(4);

    let consul = ProviderStatus::new(ProviderId::Consul);
    consul.watch("consul:users").confirmed(Instant::now());
    consul.set_registered(Registered { place: "fleetgate-gw-1".to_owned(), stands: true, error: None });
    let (_publish, snapshot) = watch::channel(Arc::new(Snapshot::empty()));
    let logs = [LogName::Own, LogName::Access, LogName::Audit, LogName::Events];
    let logs = logs.map(|name| Writer::start(name, &Destination::Off, &Destinations::default()).unwrap().state());

    let metrics = Metrics::new().unwrap();
    metrics.register(workers).unwrap();
    metrics.register(LogStates(logs.into())).unwrap();
    metrics
        .register(Picture { snapshot, providers: vec![consul], fleet: Arc::default(), started: Instant::now() })
        .unwrap();
    check(&promtool, &metrics.render().unwrap());
}

fn config(origin: &Origin, route: &str) -> String {
    format!(
        r#"
            listeners.web.address = "127.0.0.1:0"
            admin.address = "127.0.0.1:0"
            [upstreams.users]
            endpoints = [{{ address = "{}", labels = {{ version = "v2" }} }}]
            subsets = {{ v2 = {{ version = "v2" }} }}
            [routes.{route}]
            match = {{ path = "/users" }}
            targets = [{{ upstream = "users", subset = "v2" }}]
        "#,
        origin.address()
    )
}

#[tokio::test]
async fn exchanges_are_counted_and_logged_with_what_happened_to_them() {
    let origin = Origin::start("users").await;
    origin.on("/users/broken", Behaviour::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()));
    origin.on("/users/teapot", Behaviour::Status(418));
    let gateway = Gateway::start(&config(&origin, "users")).await;
    for target in ["/users/1?secret=s3cret", "/users/2", "/users/teapot", "/users/broken", "/nowhere"] {
        let request = Request::get(target).host("api.example.com").header("user-agent", "a \"test\"");
        gateway.send(request.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")).await;
    }

    let requests = async |labels: &[(&str, &str)]| gateway.metric("fleetgate_requests_total", labels).await;
    let served = [("listener", "web"), ("route", "users"), ("upstream", "users")];
    let with = |code, flag| [served[0], served[1], served[2], ("code", code), ("flag", flag)];
    wait::until(SOON, "two counted", || async { requests(&with("200", "")).await == Some(2.0) }).await;
    assert_eq!(requests(&with("418", "")).await, Some(1.0));
    assert_eq!(requests(&with("502", "UPE")).await, Some(1.0));
    assert_eq!(requests(&[("route", ""), ("upstream", ""), ("code", "404"), ("flag", "NR")]).await, Some(1.0));
    let attempts = async |result| {
        gateway.metric("fleetgate_upstream_attempts_total", &[("upstream", "users"), ("result", result)]).await
    };
    assert_eq!((attempts("ok").await, attempts("protocol").await), (Some(3.0), Some(1.0)));
    let target = [("route", "users"), ("target", "users/v2")];
    assert_eq!(gateway.metric("fleetgate_target_requests_total", &target).await, Some(4.0));
    let count = gateway.metric("fleetgate_request_duration_seconds_count", &[("route", "users")]).await;
    assert_eq!(count, Some(4.0));
    if let Some(promtool) = registry::binary("promtool") {
        check(&promtool, &gateway.metrics().await);
    }

    let line = gateway.until_logged("of /users/1", |line| line["path"] == "/users/1").await;
    let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys.join(", "),
        "time, listener, client, method, host, path, protocol, status, flag, route, target, upstream, endpoint, \
         attempts, bytes_in, bytes_out, duration_ms, upstream_duration_ms, request_id, trace_id, user_agent"
    );
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    assert_eq!((text("route"), text("target"), text("upstream")), ("users".into(), "users/v2".into(), "users".into()));
    assert_eq!((text("host"), text("user_agent")), ("api.example.com".into(), "a \"test\"".into()));
    assert_eq!((text("endpoint"), text("client")), (origin.address().to_string(), "127.0.0.1".into()));
    assert_eq!(text("trace_id"), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((&line["status"], &line["attempts"]), (&Value::from(200), &Value::from(1)));
    assert!(line["bytes_out"].as_u64() > Some(0) && line["duration_ms"].is_number(), "{line}");
    let lost = gateway.until_logged("of /nowhere", |line| line["path"] == "/nowhere").await;
    assert_eq!((&lost["status"], &lost["flag"]), (&Value::from(404), &Value::from("NR")));
    assert!(lost["upstream_duration_ms"].is_null(), "{lost}");
    assert!(!gateway.stdout().text().contains("s3cret"), "the query is not logged");
}

/// What is counted is what a registry sees.
#[tokio::test]
async fn connections_to_registries_are_counted() {
    let (Some(consul), Some(etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let to_consul = Proxy::start(consul.http_address()).await;
    let to_etcd = Proxy::start(etcd.client_address()).await;
    let gateway = Gateway::start(&format!(
        r#"
            listeners.web.address = "127.0.0.1:0"
            admin.address = "127.0.0.1:0"
            discovery.consul.address = "{}"
            discovery.etcd.endpoints = ["{}"]
            upstreams.a.consul.service = "a"
            upstreams.b.etcd = {{}}
        "#,
        to_consul.url(),
        to_etcd.url()
    ))
    .await;
    let counted = |provider: &'static str, proxy: Proxy| {
        let gateway = &gateway;
        let value = async move |name| gateway.metric(name, &[("provider", provider)]).await;
        async move {
            let opened = "fleetgate_discovery_connections_opened_total";
            let all_counted = || async {
                let (told, seen) = (value(opened).await, proxy.connections() as f64);
                if told == Some(seen) && seen > 0.0 { Ok(seen) } else { Err((told, seen)) }
            };
            let before = wait::until_ok(SOON, "all connections to be counted", all_counted).await;
            proxy.cut();
            wait::until(SOON, "new connections", || async { value(opened).await > Some(before) }).await;
            wait::until_ok(SOON, "all connections to be counted", all_counted).await;
            value("fleetgate_discovery_connections").await
        }
    };
    assert_eq!(counted("consul", to_consul).await, None, "nobody can tell");
    // All watches share one; that of before is closed. Then it is away altogether.
    assert_eq!(counted("etcd", to_etcd).await, Some(1.0));
    let open = || async { gateway.metric("fleetgate_discovery_connections", &[("provider", "etcd")]).await };
    wait::until(SOON, "no connection to be open", || async { open().await == Some(0.0) }).await;
    let providers = gateway.api("providers").await;
    let etcd = providers["items"].as_array().unwrap().iter().find(|item| item["name"] == "etcd").unwrap();
    assert!(etcd["cost"]["connections_opened"].as_u64() >= Some(2), "{etcd}");
    if let Some(promtool) = registry::binary("promtool") {
        check(&promtool, &gateway.metrics().await);
    }
}

#[tokio::test]
async fn a_series_dies_with_its_route() {
    let origin = Origin::start("users").await;
    let gateway = Gateway::start(&config(&origin, "users")).await;
    gateway.get("/users").await;
    let requests = async |route| gateway.metric("fleetgate_requests_total", &[("route", route)]).await;
    wait::until(SOON, "the series", || async { requests("users").await == Some(1.0) }).await;
    gateway.write_config(&config(&origin, "people"));
    wait::until(SOON, "the series to die", || async {
        gateway.get("/users").await;
        requests("users").await.is_none() && requests("people").await.is_some()
    })
    .await;
    assert_eq!(gateway.metric("fleetgate_request_duration_seconds_count", &[("route", "users")]).await, None);
}

/// An exchange that ends after its route is counted, but its series does not stay for that.
#[tokio::test]
async fn a_series_that_an_exchange_makes_again_dies_too() {
    let origin = Origin::start("users").await;
    origin.on("/users/slow", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let with = |route| format!("runtime.workers = 1\n{}", config(&origin, route));
    let gateway = Gateway::start(&with("users")).await;
    let slow = tokio::spawn(Request::get("/users/slow").send(gateway.address()));
    wait::until(SOON, "the request to be there", || async { origin.requests() == 1 }).await;
    let requests = async |route| gateway.metric("fleetgate_requests_total", &[("route", route)]).await;
    gateway.write_config(&with("people"));
    wait::until(SOON, "the other route", || async {
        gateway.get("/users").await;
        requests("people").await.is_some()
    })
    .await;
    origin.release();
    assert_eq!(slow.await.unwrap().status, 200);
    let logged = gateway.until_logged("the slow one", |line| line["path"] == "/users/slow").await;
    assert_eq!(logged["route"], "users");
    wait::until(SOON, "the series to die", || async { requests("users").await.is_none() }).await;
}
