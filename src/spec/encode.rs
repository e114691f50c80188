//! Writes resolved routes and upstreams in the form users write documents in, and what may be shown of certificates.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::spec::certificate::CertificateSpec;
use crate::spec::matching::{Conditions, MatchSpec, PathMatch, ValueMatch};
use crate::spec::route::{Choice, RouteSpec, Sticky, TargetSpec};
use crate::spec::upstream::{HealthCheck, Probe, UpstreamSettings};

/// A route.
pub fn route(spec: &RouteSpec) -> Value {
    let mut map = Map::new();
    map.insert("match".to_owned(), matching(&spec.matching));
    if spec.priority != 0 {
        map.insert("priority".to_owned(), spec.priority.into());
    }
    if !spec.listeners.is_empty() {
        map.insert("listeners".to_owned(), json!(spec.listeners));
    }
    let targets = spec.targets.iter().map(|spec| Value::Object(target(spec)));
    map.insert("targets".to_owned(), targets.collect());
    if let Some(sticky) = &spec.sticky {
        map.insert("sticky".to_owned(), self::sticky(sticky));
    }
    if let Some(timeout) = spec.timeout {
        map.insert("timeout".to_owned(), duration_text(timeout).into());
    }
    map.insert("retry".to_owned(), json!({ "attempts": spec.retry_attempts }));
    Value::Object(map)
}

/// What a route asks of a request.
pub fn matching(spec: &MatchSpec) -> Value {
    let mut map = Map::new();
    if !spec.hosts.is_empty() {
        map.insert("hosts".to_owned(), spec.hosts.iter().map(ToString::to_string).collect());
    }
    let path = match &spec.path {
        PathMatch::Prefix(prefix) if prefix.is_empty() => "/".into(),
        PathMatch::Prefix(prefix) => prefix.as_str().into(),
        PathMatch::Start(text) => json!({ "starts_with": text }),
        PathMatch::Exact(path) => json!({ "exact": path }),
        PathMatch::Regex(pattern) => json!({ "regex": pattern.source() }),
    };
    map.insert("path".to_owned(), path);
    if !spec.methods.is_empty() {
        map.insert("methods".to_owned(), spec.methods.iter().map(|method| method.as_str()).collect());
    }
    add_conditions(&mut map, &spec.conditions);
    Value::Object(map)
}

/// One of a route's targets.
pub fn target(spec: &TargetSpec) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("upstream".to_owned(), spec.upstream.to_string().into());
    if let Some(subset) = &spec.subset {
        map.insert("subset".to_owned(), subset.as_str().into());
    }
    match &spec.choice {
        Choice::Weight(weight) => map.insert("weight".to_owned(), (*weight).into()),
        Choice::When(when) => map.insert("when".to_owned(), conditions(when).into()),
    };
    map
}

/// An upstream's settings, without its source.
pub fn settings(settings: &UpstreamSettings) -> Map<String, Value> {
    let mut map = Map::new();
    let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
    add("balance", settings.balance.as_str().into());
    if !settings.subsets.is_empty() {
        add("subsets", json!(settings.subsets));
    }
    add("connect_timeout", duration_text(settings.connect_timeout).into());
    add("response_timeout", duration_text(settings.response_timeout).into());
    add("idle_timeout", duration_text(settings.idle_timeout).into());
    add("max_idle_per_endpoint", settings.max_idle_per_endpoint.into());
    add("keep_alive", duration_text(settings.keep_alive).into());
    if let Some(check) = &settings.health_check {
        add("health_check", health_check(check));
    }
    map
}

fn health_check(check: &HealthCheck) -> Value {
    let mut map = Map::new();
    let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
    match &check.probe {
        Probe::Tcp => {
            add("tcp", true.into());
        }
        Probe::Http { path, host } => {
            add("path", path.as_str().into());
            if let Some(host) = host {
                add("host", host.as_str().into());
            }
        }
    }
    add("interval", duration_text(check.interval).into());
    add("timeout", duration_text(check.timeout).into());
    add("healthy_threshold", check.healthy_threshold.into());
    add("unhealthy_threshold", check.unhealthy_threshold.into());
    map.into()
}

fn sticky(sticky: &Sticky) -> Value {
    match sticky {
        Sticky::Header(name) => json!({ "header": name.as_str() }),
        Sticky::Cookie(name) => json!({ "cookie": name }),
        Sticky::ClientIp => "client_ip".into(),
    }
}

/// Conditions on headers, query and cookies.
pub fn conditions(conditions: &Conditions) -> Map<String, Value> {
    let mut map = Map::new();
    add_conditions(&mut map, conditions);
    map
}

fn add_conditions(map: &mut Map<String, Value>, conditions: &Conditions) {
    let headers = conditions.headers.iter().map(|(name, value)| (name.as_str(), value));
    let query = conditions.query.iter().map(|(name, value)| (name.as_str(), value));
    let cookies = conditions.cookies.iter().map(|(name, value)| (name.as_str(), value));
    for (key, values) in [("headers", values(headers)), ("query", values(query)), ("cookies", values(cookies))] {
        if !values.is_empty() {
            map.insert(key.to_owned(), values.into());
        }
    }
}

fn values<'a>(conditions: impl Iterator<Item = (&'a str, &'a ValueMatch)>) -> Map<String, Value> {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => text.as_str().into(),
        ValueMatch::Regex(pattern) => json!({ "regex": pattern.source() }),
        ValueMatch::Present(present) => json!({ "present": present }),
    };
    conditions.map(|(name, condition)| (name.to_owned(), value(condition))).collect()
}

/// A certificate without what makes it one: whom it is shown for, and what it says of itself.
pub fn certificate(certificate: &CertificateSpec) -> Map<String, Value> {
    let time = |at: SystemTime| jiff::Timestamp::try_from(at).unwrap_or_default().to_string();
    let facts = certificate.pair.facts();
    let mut map = Map::new();
    map.insert("hosts".to_owned(), certificate.hosts.iter().map(ToString::to_string).collect());
    map.insert("default".to_owned(), certificate.default.into());
    map.insert("subject".to_owned(), facts.subject.as_str().into());
    map.insert("fingerprint".to_owned(), certificate.pair.fingerprint().into());
    map.insert("not_before".to_owned(), time(facts.not_before).into());
    map.insert("not_after".to_owned(), time(facts.not_after).into());
    map
}

/// As users write it: `250ms`, `30s`, `5m`.
pub fn duration_text(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (0, 0) => "0s".to_owned(),
        (seconds, 0) if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds % 60 == 0 => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        (_, nanos) if nanos % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
        (_, nanos) if nanos % 1_000 == 0 => format!("{}us", duration.as_micros()),
        _ => format!("{}ns", duration.as_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_users_write_them() {
        for (micros, text) in
            [(0, "0s"), (250_000, "250ms"), (1_500_000, "1500ms"), (30_000_000, "30s"), (120_000_000, "2m"), (7, "7us")]
        {
            assert_eq!(duration_text(Duration::from_micros(micros)), text);
        }
        assert_eq!(duration_text(Duration::from_secs(7200)), "2h");
    }
}
