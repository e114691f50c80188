//! Writes resolved routes and upstreams in the form users write documents in, and what may be shown of certificates.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::spec::breaker::{Breaker, Fallback};
use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::matching::{Conditions, MatchSpec, PathMatch, ValueMatch};
use crate::spec::passive::PassiveHealth;
use crate::spec::percent::Percent;
use crate::spec::retry::Retry;
use crate::spec::route::{Choice, HostPolicy, RouteSpec, Sticky, TargetSpec};
use crate::spec::secret::{MASK, is_credential, is_credential_name, masked_path};
use crate::spec::upstream::{Hash, HashKey, HealthCheck, Priorities, Probe, Protocol, UpstreamSettings};
use crate::spec::upstream_tls::{Trust, UpstreamTls};

mod middleware;

pub use middleware::middleware;

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
    map.insert("retry".to_owned(), retry(&spec.retry));
    if !spec.middlewares.is_empty() {
        map.insert("middlewares".to_owned(), spec.middlewares.iter().map(ToString::to_string).collect());
    }
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
    if !spec.middlewares.is_empty() {
        map.insert("middlewares".to_owned(), spec.middlewares.iter().map(ToString::to_string).collect());
    }
    map
}

/// An upstream's settings, without its source.
pub fn settings(settings: &UpstreamSettings) -> Map<String, Value> {
    let mut map = Map::new();
    let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
    add("balance", settings.balance.as_str().into());
    if let Some(hash) = &settings.hash {
        add("hash", hash_key(hash));
    }
    if let Some(session) = &settings.session {
        let mut told = json!({ "cookie": session.cookie });
        if session.secret.is_some() {
            told["secret"] = "...".into();
        }
        add("session", told);
    }
    if let Some(window) = settings.slow_start {
        add("slow_start", duration_text(window).into());
    }
    match &settings.priorities {
        Priorities::None => None,
        Priorities::Levels(levels) => add("priorities", json!(levels)),
        Priorities::Nearest(names) => add("nearest", json!(names)),
    };
    if !settings.subsets.is_empty() {
        add("subsets", json!(settings.subsets));
    }
    add("connect_timeout", duration_text(settings.connect_timeout).into());
    add("response_timeout", duration_text(settings.response_timeout).into());
    add("idle_timeout", duration_text(settings.idle_timeout).into());
    add("max_idle_per_endpoint", settings.max_idle_per_endpoint.into());
    if let Some(most) = settings.max_requests_per_endpoint {
        add("max_requests_per_endpoint", most.into());
    }
    if let Some(queue) = settings.queue {
        add("queue", json!({ "size": queue.size, "timeout": duration_text(queue.timeout) }));
    }
    add("keep_alive", duration_text(settings.keep_alive).into());
    add("drain_timeout", duration_text(settings.drain_timeout).into());
    if let Some(check) = &settings.health_check {
        add("health_check", health_check(check));
    }
    add("passive_health", passive_health(&settings.passive_health));
    if settings.panic_threshold > Percent::NONE {
        add("panic_threshold", settings.panic_threshold.to_string().into());
    }
    if let Some(rules) = &settings.breaker {
        add("breaker", breaker(rules));
    }
    let budget = settings.retry_budget;
    add("retry_budget", json!({ "percent": budget.percent, "min": budget.min }));
    if settings.host != HostPolicy::Kept {
        add("host", host(&settings.host).into());
    }
    if let Some(tls) = &settings.tls {
        add("tls", upstream_tls(tls));
    }
    if settings.protocol != Protocol::default() {
        add("protocol", settings.protocol.as_str().into());
    }
    if settings.allow_self {
        add("allow_self", true.into());
    }
    map
}

/// The `Host` that endpoints get.
pub fn host(policy: &HostPolicy) -> String {
    match policy {
        HostPolicy::Kept => "preserve".to_owned(),
        HostPolicy::Endpoint => "endpoint".to_owned(),
        HostPolicy::Fixed(host) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
    }
}

/// What may be shown of TLS with endpoints: of certificates their fingerprints.
fn upstream_tls(tls: &UpstreamTls) -> Value {
    let mut map = Map::new();
    if let Some(name) = &tls.server_name {
        map.insert("server_name".to_owned(), name.to_str().into());
    }
    match &tls.trust {
        Trust::System => {}
        Trust::Authorities(authorities) => {
            map.insert("ca".to_owned(), authorities.fingerprints.as_slice().into());
        }
        Trust::Anybody => {
            map.insert("insecure_skip_verify".to_owned(), true.into());
        }
    }
    if let Some(pair) = &tls.identity {
        map.insert("cert".to_owned(), pair.fingerprint().into());
    }
    map.into()
}

fn retry(retry: &Retry) -> Value {
    let mut map = Map::new();
    let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
    add("attempts", retry.attempts.into());
    add("on", retry.on.iter().map(ToString::to_string).collect());
    if let Some(methods) = &retry.methods {
        add("methods", methods.iter().map(|method| method.as_str()).collect());
    }
    if let Some(timeout) = retry.per_try_timeout {
        add("per_try_timeout", duration_text(timeout).into());
    }
    let backoff = retry.backoff;
    add("backoff", json!({ "base": duration_text(backoff.base), "max": duration_text(backoff.max) }));
    map.into()
}

fn hash_key(hash: &Hash) -> Value {
    let (key, value): (_, Value) = match &hash.key {
        HashKey::Header(name) => ("header", name.as_str().into()),
        HashKey::Cookie(name) => ("cookie", name.as_str().into()),
        HashKey::Path => ("path", true.into()),
        HashKey::ClientIp => ("client_ip", true.into()),
    };
    json!({ key: value, "balance_factor": hash.balance_factor.unwrap_or(0) })
}

fn health_check(check: &HealthCheck) -> Value {
    let mut map = Map::new();
    let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
    match &check.probe {
        Probe::Tcp => {
            add("tcp", true.into());
        }
        Probe::Grpc { service, host } => {
            add("grpc", if service.is_empty() { true.into() } else { service.as_str().into() });
            if let Some(host) = host {
                add("host", host.as_str().into());
            }
        }
        Probe::Http { path, host } => {
            add("path", masked_path(path.as_str()).into());
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

fn passive_health(rules: &PassiveHealth) -> Value {
    let mut map = Map::new();
    let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
    add("consecutive_failures", rules.consecutive_failures.into());
    add("consecutive_5xx", rules.consecutive_5xx.into());
    if let Some(ratio) = &rules.success_ratio {
        add("success_ratio", ratio.min.to_string().into());
        add("window", duration_text(ratio.window).into());
        add("min_requests", ratio.min_requests.into());
    }
    add("base_ejection", duration_text(rules.base_ejection).into());
    add("max_ejection", duration_text(rules.max_ejection).into());
    add("max_ejected", rules.max_ejected.to_string().into());
    map.into()
}

fn breaker(rules: &Breaker) -> Value {
    let mut map = Map::new();
    let mut add = |key: &str, value: Value| map.insert(key.to_owned(), value);
    for (key, most) in [
        ("max_requests", rules.max_requests),
        ("max_pending", rules.max_pending),
        ("max_connections", rules.max_connections),
    ] {
        if let Some(most) = most {
            add(key, most.into());
        }
    }
    if let Some(errors) = &rules.errors {
        add("error_ratio", errors.ratio.to_string().into());
        if let Some(slow) = errors.slow {
            add("slow", duration_text(slow).into());
        }
        add("window", duration_text(errors.window).into());
        add("min_requests", errors.min_requests.into());
        add("open", duration_text(errors.open).into());
        add("probes", errors.probes.into());
    }
    match &rules.fallback {
        None => {}
        Some(Fallback::Upstream(upstream)) => {
            add("fallback", json!({ "upstream": upstream.to_string() }));
        }
        Some(Fallback::Answer(canned)) => {
            let content_type = String::from_utf8_lossy(canned.content_type.as_bytes());
            let status = canned.status.as_u16();
            add("fallback", json!({ "status": status, "content_type": content_type, "body": canned.body }));
        }
    }
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
    let headers = conditions.headers.iter().map(|(name, value)| (name.as_str(), value, is_credential(name)));
    let query = conditions.query.iter().map(|(name, value)| (name.as_str(), value, is_credential_name(name)));
    // A session, as likely as not.
    let cookies = conditions.cookies.iter().map(|(name, value)| (name.as_str(), value, true));
    for (key, values) in [("headers", values(headers)), ("query", values(query)), ("cookies", values(cookies))] {
        if !values.is_empty() {
            map.insert(key.to_owned(), values.into());
        }
    }
}

/// Names, the conditions on their values, and whether those may be secrets.
fn values<'a>(conditions: impl Iterator<Item = (&'a str, &'a ValueMatch, bool)>) -> Map<String, Value> {
    let value = |value: &ValueMatch, is_secret: bool| match value {
        ValueMatch::Exact(_) | ValueMatch::Regex(_) if is_secret => MASK.into(),
        ValueMatch::Exact(text) => text.as_str().into(),
        ValueMatch::Regex(pattern) => json!({ "regex": pattern.source() }),
        ValueMatch::Present(present) => json!({ "present": present }),
    };
    conditions.map(|(name, condition, is_secret)| (name.to_owned(), value(condition, is_secret))).collect()
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

/// A consumer without what proves who it is: of keys and the password the beginnings of hashes of their hashes.
pub fn consumer(consumer: &ConsumerSpec) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("keys".to_owned(), consumer.keys.iter().map(|key| fingerprint(&key.0)).collect());
    map.insert(
        "password".to_owned(),
        consumer.password.as_ref().map(|hash| fingerprint(hash.as_str().as_bytes())).into(),
    );
    map.insert("certificates".to_owned(), consumer.certificates.iter().map(ToString::to_string).collect());
    map.insert("groups".to_owned(), consumer.groups.as_slice().into());
    map
}

/// Tells a secret from another, and nothing else of it.
fn fingerprint(secret: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret);
    digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
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
