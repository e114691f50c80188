//! `/metrics`: what Prometheus's own tool says of it, and that it tells what happened.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fleetgate::admin::metrics::Picture;
use fleetgate::discovery::status::ProviderStatus;
use fleetgate::snapshot::Snapshot;
use fleetgate::spec::name::ProviderId;
use fleetgate::spec::settings::AccessLog;
use fleetgate::telemetry::access_log::Writer;
use fleetgate::telemetry::prometheus::Metrics;
use fleetgate::telemetry::stats::{AttemptResult, ConnectionState, WorkersStats};
use tokio::sync::watch;

use crate::support::registry;

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
    worker.target_requests("users", "users/v2").add(2);
    worker.upstream_connections("users", ConnectionState::Idle).add(3);
    worker.downstream_connections(&web).add(4);

    let consul = ProviderStatus::new(ProviderId::Consul);
    consul.watch("consul:users").confirmed(SystemTime::now());
    let (_publish, snapshot) = watch::channel(Arc::new(Snapshot::empty()));
    let access_log = Writer::start(&AccessLog::Off).unwrap();

    let metrics = Metrics::new().unwrap();
    metrics.register(workers).unwrap();
    metrics.register(access_log.dropped_lines()).unwrap();
    metrics.register(Picture { snapshot, providers: vec![consul], started_at: SystemTime::now() }).unwrap();
    check(&promtool, &metrics.render().unwrap());
}
