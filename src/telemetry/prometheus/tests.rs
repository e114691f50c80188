use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::telemetry::stats::{AttemptResult, ConnectionState, WorkersStats};

/// Samples of every family that is not a worker's.
struct Rest;

impl Source for Rest {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[
            definitions::UPSTREAM_ENDPOINTS,
            definitions::DISCOVERY_UPDATES,
            definitions::DISCOVERY_LAST_SUCCESS,
            definitions::DISCOVERY_REJECTED,
            definitions::DISCOVERY_WATCHES,
            definitions::DISCOVERY_ANSWERS,
            definitions::DISCOVERY_WAKEUPS,
            definitions::DISCOVERY_BYTES,
            definitions::DISCOVERY_TOKEN_EXPIRES,
            definitions::SNAPSHOT_GENERATION,
            definitions::SNAPSHOT_AGE,
            definitions::ACCESS_LOG_DROPPED,
        ]
    }

    fn collect(&self, samples: &mut Samples) {
        for definition in self.definitions() {
            samples.value(definition, &vec!["a\"b\\c\nd"; definition.labels.len()], 7.0);
        }
    }
}

fn all() -> Metrics {
    let workers = Arc::new(WorkersStats::default());
    let web = "web".parse().expect("a name");
    for worker in [workers.worker(), workers.worker()] {
        worker.requests(&web, "users", "users", 200, "").add(2);
        worker.requests(&web, "", "", 404, "NR").add(1);
        worker.request_duration("users").observe(Duration::from_micros(2_100));
        worker.request_duration("users").observe(Duration::from_secs(90));
        worker.upstream_duration("users").observe(Duration::from_millis(2));
        worker.attempts("users", AttemptResult::Ok).add(2);
        worker.target_requests("users", "users/v2").add(2);
        worker.upstream_connections("users", ConnectionState::Idle).add(3);
        worker.downstream_connections(&web).add(4);
    }
    let metrics = Metrics::new().expect("a registry");
    metrics.register(workers).expect("families of workers");
    metrics.register(Rest).expect("other families");
    metrics
}

#[test]
fn a_scrape_sums_over_workers() {
    let text = all().render().expect("text");
    for line in [
        r#"fleetgate_requests_total{listener="web",route="users",upstream="users",code="200",flag=""} 4"#,
        r#"fleetgate_requests_total{listener="web",route="",upstream="",code="404",flag="NR"} 2"#,
        r#"fleetgate_request_duration_seconds_bucket{route="users",le="0.001"} 0"#,
        r#"fleetgate_request_duration_seconds_bucket{route="users",le="0.0025"} 2"#,
        r#"fleetgate_request_duration_seconds_bucket{route="users",le="60"} 2"#,
        r#"fleetgate_request_duration_seconds_bucket{route="users",le="+Inf"} 4"#,
        r#"fleetgate_request_duration_seconds_sum{route="users"} 180.0042"#,
        r#"fleetgate_request_duration_seconds_count{route="users"} 4"#,
        r#"fleetgate_upstream_request_duration_seconds_bucket{upstream="users",le="0.0005"} 0"#,
        r#"fleetgate_upstream_attempts_total{upstream="users",result="ok"} 4"#,
        r#"fleetgate_target_requests_total{route="users",target="users/v2"} 4"#,
        r#"fleetgate_upstream_connections{upstream="users",state="idle"} 6"#,
        r#"fleetgate_downstream_connections{listener="web"} 8"#,
        concat!("fleetgate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "# TYPE fleetgate_request_duration_seconds histogram",
        "# TYPE fleetgate_requests_total counter",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
    }
    assert!(text.contains("process_open_fds "), "{text}");
}

#[test]
fn label_values_are_escaped() {
    let text = all().render().expect("text");
    assert!(text.contains(r#"fleetgate_discovery_rejected_items{provider="a\"b\\c\nd"} 7"#), "{text}");
}

#[test]
fn a_family_has_one_source() {
    assert!(all().register(Rest).is_err());
}
