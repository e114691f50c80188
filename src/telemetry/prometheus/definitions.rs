//! Defines every metric family of the gateway: name, help, type and labels.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::MetricType;

/// A metric family. Absent label values are empty.
#[derive(Debug)]
pub struct Definition {
    /// The whole name, with its unit.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Names of its labels, in the order of values.
    pub labels: &'static [&'static str],
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It grows and shrinks.
    Gauge,
    /// Durations by size.
    Histogram,
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::COUNTER,
            Kind::Gauge => Self::GAUGE,
            Kind::Histogram => Self::HISTOGRAM,
        }
    }
}

impl Definition {
    const fn new(kind: Kind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, help, kind, labels }
    }

    pub(super) fn description(&self) -> prometheus::Result<Desc> {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new())
    }
}

/// Exchanges.
pub const REQUESTS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_requests_total",
    &["listener", "route", "upstream", "code", "flag"],
    "Exchanges that ended, by the status code the client got (499: it left) and the flag of the access log.",
);

/// Durations of exchanges.
pub const REQUEST_DURATION: &Definition = &Definition::new(
    Kind::Histogram,
    "fleetgate_request_duration_seconds",
    &["route"],
    "Time from a request's head to its response's end.",
);

/// Durations of attempts.
pub const UPSTREAM_DURATION: &Definition = &Definition::new(
    Kind::Histogram,
    "fleetgate_upstream_request_duration_seconds",
    &["upstream"],
    "Time an upstream took for a request.",
);

/// Attempts.
pub const UPSTREAM_ATTEMPTS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_upstream_attempts_total",
    &["upstream", "result"],
    "Tries at endpoints, by result: ok, connect, reset, timeout, protocol, abandoned.",
);

/// Retries.
pub const UPSTREAM_RETRIES: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_upstream_retries_total",
    &["upstream", "result"],
    "Requests that were to be tried again, by what came of it: taken, or refused by budget, limit, body, deadline.",
);

/// Ejections.
pub const UPSTREAM_EJECTIONS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_upstream_ejections_total",
    &["upstream", "cause"],
    "Endpoints that requests took out of use, by why: failures, errors, ratio, abandoned.",
);

/// Requests for want of better endpoints.
pub const UPSTREAM_PANICS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_upstream_panic_attempts_total",
    &["upstream"],
    "Tries made while endpoints that look bad are used, too, because too few others are left.",
);

/// Refused requests.
pub const UPSTREAM_REFUSED: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_upstream_refused_requests_total",
    &["upstream", "reason"],
    "Requests that were refused, by reason: open, requests, pending, connections (the upstream's breaker), descriptors, client_descriptors.",
);

/// Breakers.
pub const UPSTREAM_BREAKER: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_upstream_breaker",
    &["upstream", "state"],
    "1 for the state that the upstream's breaker is in, 0 for the others: closed, open, half_open.",
);

/// Endpoints.
pub const UPSTREAM_ENDPOINTS: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_upstream_endpoints",
    &["upstream", "state"],
    "Endpoints by state: healthy, unhealthy, draining, maintenance, held, ejected.",
);

/// Levels.
pub const UPSTREAM_LEVEL_SHARE: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_upstream_level_share",
    &["upstream", "priority"],
    "Part of the requests that the endpoints of a priority take now, of 1; absent where all endpoints go together.",
);

/// Requests in line.
pub const UPSTREAM_QUEUED: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_upstream_queued_requests",
    &["upstream"],
    "Requests that wait for an endpoint with room; absent where they may not.",
);

/// Slow starts.
pub const UPSTREAM_STARTING: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_upstream_starting_endpoints",
    &["upstream"],
    "Endpoints that have less than their weight because they start slowly; absent where none does so.",
);

/// Dates of the gateway's own certificates.
pub const UPSTREAM_CERTIFICATE_EXPIRES: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_upstream_certificate_expires_timestamp_seconds",
    &["upstream"],
    "When the gateway's own certificate for an upstream's endpoints expires, in Unix time.",
);

/// Connections to endpoints.
pub const UPSTREAM_CONNECTIONS: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_upstream_connections",
    &["upstream", "state"],
    "Open connections to endpoints, by state: active, idle.",
);

/// Chosen targets.
pub const TARGET_REQUESTS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_target_requests_total",
    &["route", "target"],
    "Exchanges a target was chosen for.",
);

/// Targets whose share went to others.
pub const TARGET_PASSED_OVER: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_target_passed_over_total",
    &["route", "target"],
    "Exchanges a target was drawn for that had no usable endpoint.",
);

/// Connections of clients.
pub const DOWNSTREAM_CONNECTIONS: &Definition =
    &Definition::new(Kind::Gauge, "fleetgate_downstream_connections", &["listener"], "Open connections of clients.");

/// Descriptors of connections.
pub const DESCRIPTORS: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_descriptors",
    &["side"],
    "File descriptors that connections hold: downstream to clients, upstream to endpoints.",
);

/// What there is of them.
pub const DESCRIPTORS_MAX: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_descriptors_max",
    &["purpose"],
    "File descriptors that there are for a purpose: downstream, upstream, reserve.",
);

/// Connections that could not be accepted.
pub const ACCEPT_FAILURES: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_accept_failures_total",
    &[],
    "Times that a connection could not be accepted, mostly for want of file descriptors.",
);

/// Handshakes of TLS listeners.
pub const TLS_HANDSHAKES: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_tls_handshakes_total",
    &["listener", "result"],
    "TLS handshakes of clients, by result: full, resumed, unknown_name, client_certificate, timeout, failed.",
);

/// Dates of certificates.
pub const CERTIFICATE_EXPIRES: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_certificate_expires_timestamp_seconds",
    &["certificate"],
    "When a certificate that clients are shown expires, in Unix time.",
);

/// What came of reads of sources.
pub const DISCOVERY_UPDATES: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_discovery_updates_total",
    &["provider", "result"],
    "Reads of a provider, by result: applied, unchanged, failed, held.",
);

/// Freshness of sources.
pub const DISCOVERY_LAST_SUCCESS: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_last_success_timestamp_seconds",
    &["provider"],
    "When the least recently confirmed watch of a provider was confirmed, in Unix time.",
);

/// Routes behind others.
pub const ROUTES_SHADOWED: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_routes_shadowed",
    &["provider"],
    "Routes that get no request, or none at one of their hosts, because others claim the same.",
);

/// Items that can't be used.
pub const DISCOVERY_REJECTED: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_rejected_items",
    &["provider"],
    "Documents and registrations that can't be used as they are.",
);

/// Items served in an earlier form.
pub const DISCOVERY_KEPT: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_kept_items",
    &["provider"],
    "Routes, upstreams and middlewares that refer to something that does not exist, served in their last form that resolved.",
);

/// Items that can't be served.
pub const DISCOVERY_UNRESOLVED: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_unresolved_items",
    &["provider"],
    "Routes, upstreams and middlewares that refer to something that does not exist, and have no earlier form to serve.",
);

/// Items without effect.
pub const DISCOVERY_SHADOWED: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_shadowed_items",
    &["provider"],
    "Items that another item of the same name or claim keeps from use.",
);

/// Watches, by how they learn of changes.
pub const DISCOVERY_WATCHES: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_watches",
    &["provider", "mode"],
    "Watches that are told of changes (told), and watches that ask every few seconds (polled).",
);

/// Answers of a registry.
pub const DISCOVERY_ANSWERS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_discovery_answers_total",
    &["provider"],
    "Answers read from the provider's registry.",
);

/// Answers that the registry sent of itself.
pub const DISCOVERY_WAKEUPS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_discovery_wakeups_total",
    &["provider"],
    "Answers that the registry sent because something had changed or a wait was over.",
);

/// Their bytes.
pub const DISCOVERY_BYTES: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_discovery_received_bytes_total",
    &["provider"],
    "Bytes of the answers of the provider's registry: decompressed bodies, keys and values.",
);

/// Connections that were opened.
pub const DISCOVERY_CONNECTIONS_OPENED: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_discovery_connections_opened_total",
    &["provider"],
    "Connections that the provider opened to its registry.",
);

/// Connections that are open.
pub const DISCOVERY_CONNECTIONS: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_connections",
    &["provider"],
    "Connections to the registry that are open now; absent where that is not known, as with Consul.",
);

/// When a token ends.
pub const DISCOVERY_TOKEN_EXPIRES: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_token_expires_timestamp_seconds",
    &["provider"],
    "When the token that the provider uses expires; absent when it does not.",
);

/// The gateway's own registration.
pub const DISCOVERY_REGISTERED: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_registered",
    &["provider"],
    "Whether this gateway is registered there (1) or not (0), as of the last assertion; absent where it should not be.",
);

/// What registries lost, and is served.
pub const DISCOVERY_HELD: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_held_items",
    &["provider"],
    "Sources and documents of a provider that are served though its registry does not list them now.",
);

/// Watches that fail.
pub const DISCOVERY_FAILING: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_discovery_failing_watches",
    &["provider"],
    "Watches of a provider that fail, or whose credentials are refused; what they knew stays.",
);

/// Rate limits.
pub const RATE_LIMIT_REQUESTS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_rate_limit_requests_total",
    &["middleware", "by", "result"],
    "Requests that a rate limit let pass or refused (result), by who decided: gateway, redis, or without Redis share, local, open, closed.",
);

/// Gateways of the fleet.
pub const FLEET_GATEWAYS: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_fleet_gateways",
    &[],
    "Gateways of the fleet as this one knows it: as registered, else as they meet in Redis; 1 where nobody tells.",
);

/// Redis.
pub const REDIS_CONNECTED: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_redis_connected",
    &[],
    "Whether there is a connection to Redis (1) or not (0); absent without `[redis]`.",
);

/// What is asked of Redis.
pub const REDIS_EXCHANGES: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_redis_exchanges_total",
    &["result"],
    "Exchanges with Redis about the keys of limits, by result: answered, failed.",
);

/// Saved files that are no use.
pub const SAVED_STATE_ERRORS: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_saved_state_errors_total",
    &["reason"],
    "Saved files that were not read or written, by reason: unreadable, corrupt, foreign, unwritable.",
);

/// Whether states are saved.
pub const SAVED_STATE_FAILING: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_saved_state_failing",
    &[],
    "Whether what registries say and operators drained can't be saved (1) or is (0); absent with `state_dir = \"off\"`.",
);

/// The snapshot's number.
pub const SNAPSHOT_GENERATION: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_snapshot_generation",
    &[],
    "Number of the snapshot that is served from; it starts again with the process.",
);

/// The snapshot's age.
pub const SNAPSHOT_AGE: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_snapshot_age_seconds",
    &[],
    "Time since the least recently confirmed source in use was confirmed.",
);

/// Lost lines.
pub const LOG_DROPPED: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_log_dropped_lines_total",
    &["log"],
    "Lines that were lost because their destination was too slow or failed, by log: own, access, audit, events.",
);

/// Destinations that take no lines.
pub const LOG_FAILING: &Definition = &Definition::new(
    Kind::Gauge,
    "fleetgate_log_failing",
    &["log"],
    "Whether the destination of a log fails or blocks (1) or takes lines (0), by log: own, access, audit, events.",
);

/// Lost lines of the access log.
pub const ACCESS_LOG_DROPPED: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_access_log_dropped_lines_total",
    &[],
    "As fleetgate_log_dropped_lines_total{log=\"access\"}, under its former name.",
);

/// Lost lines of the audit.
pub const AUDIT_DROPPED: &Definition = &Definition::new(
    Kind::Counter,
    "fleetgate_audit_dropped_lines_total",
    &[],
    "As fleetgate_log_dropped_lines_total{log=\"audit\"}, under its former name.",
);

/// The build.
pub const BUILD_INFO: &Definition =
    &Definition::new(Kind::Gauge, "fleetgate_build_info", &["version"], "Always 1; its labels tell what was built.");
