//! Defines `fleetgate status`.

use serde_json::Value;

use super::admin::{Page, joined, list, text};
use super::table::{Table, printable};
use super::{FAILED, FINE};

/// The page, which is an answer also to whether the gateway is ready.
pub(super) fn page() -> Page {
    Page {
        shape: &[("version", Value::is_string), ("ready", Value::is_boolean), ("providers", Value::is_array)],
        render,
        verdict: |answer| match is(answer, "ready") && !is(answer, "draining") {
            true => FINE,
            false => FAILED,
        },
    }
}

fn is(answer: &Value, key: &str) -> bool {
    answer.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// The gateway in a few lines, then its providers.
fn render(answer: &Value) -> String {
    let flag = |key: &str| is(answer, key);
    let reasons = joined(list(answer, "reasons"), "; ");
    let readiness = match (flag("draining"), flag("ready")) {
        (true, _) => "draining".to_owned(),
        (false, true) => "ready".to_owned(),
        (false, false) => format!("not ready: {reasons}"),
    };
    let uptime = answer.get("uptime_seconds").and_then(Value::as_u64).unwrap_or_default();
    let listener = |value: &Value| format!("{} {}", text(value.get("name")), text(value.get("address")));
    let listeners: Vec<String> = list(answer, "listeners").iter().map(listener).collect();
    // Told where it matters.
    let gateways = answer.get("gateways").filter(|count| count.as_u64() != Some(1));
    let redis = answer.get("redis").map(|redis| {
        let [address, state, error] = ["address", "state", "error"].map(|key| text(redis.get(key)));
        if state == "connected" { format!("{address} {state}") } else { format!("{address} {state}: {error}") }
    });
    let lines = [
        ("version", text(answer.get("version"))),
        ("state", readiness),
        ("up", format!("{} (since {})", duration(uptime), text(answer.get("started_at")))),
        ("snapshot", format!("{} (of {})", text(answer.get("generation")), text(answer.get("published_at")))),
        ("workers", text(answer.get("workers"))),
        ("listeners", listeners.join(", ")),
        ("routes", counts(answer.get("routes"))),
        ("upstreams", text(answer.get("upstreams"))),
        ("endpoints", counts(answer.get("endpoints"))),
    ];
    let saved = answer.get("saved_state").and_then(trouble);
    let files = answer.get("descriptors").map(descriptors);
    let logs = list(answer, "logs").iter().filter_map(log).map(|log| ("log", Some(log)));
    let further = [
        ("gateways", gateways.map(|count| text(Some(count)))),
        ("redis", redis),
        ("state_dir", saved),
        ("files", files),
    ];
    let further = further.into_iter().chain(logs).filter_map(|(key, value)| Some((key, value?)));
    let line = |(key, value): (&str, String)| {
        let value = if value.is_empty() { "-".to_owned() } else { printable(&value) };
        format!("{key:<10} {value}\n")
    };
    let mut out: String = lines.into_iter().chain(further).map(line).collect();
    let mut table = Table::new(&["PROVIDER", "STATE", "CONFIRMED", "REJECTED", "KEPT", "UNRESOLVED", "SHADOWED"]);
    for provider in list(answer, "providers") {
        table.row(
            ["name", "state", "verified_at", "rejected", "kept", "unresolved", "shadowed"]
                .map(|key| text(provider.get(key))),
        );
    }
    out += "\n";
    out += &table.render();
    let mut told = Vec::new();
    for provider in list(answer, "providers") {
        let problems = list(provider, "problems");
        told.extend(problems.iter().map(problem));
        if let Some(more) = provider.get("more_problems").and_then(Value::as_u64).filter(|more| *more > 0) {
            told.push(printable(&format!("{more} more of {}: /api/v1/providers", text(provider.get("name")))));
        }
    }
    told.extend(["problems", "remarks"].iter().flat_map(|key| list(answer, key)).map(problem));
    if !told.is_empty() {
        out += "\n\n";
        out += &told.join("\n");
    }
    out
}

/// How many connections each side has, and may have.
fn descriptors(of: &Value) -> String {
    let side = |name: &str| {
        let side = of.get(name);
        let [open, max] = ["open", "max"].map(|key| text(side.and_then(|side| side.get(key))));
        format!("{open} of {max}")
    };
    let advice = of.get("advice").and_then(Value::as_str).map(|advice| format!("; {advice}"));
    format!(
        "connections of clients {}, to endpoints {} ({} for one client), reserve {}, limit {}{}",
        side("downstream"),
        side("upstream"),
        text(of.get("upstream_per_client")),
        text(of.get("reserve")),
        text(of.get("limit")),
        advice.unwrap_or_default()
    )
}

/// A log that lost lines, or can't be written.
fn log(log: &Value) -> Option<String> {
    let trouble = trouble(log);
    let dropped = log.get("dropped").and_then(Value::as_u64).filter(|dropped| *dropped > 0);
    let dropped = dropped.map(|dropped| format!("{dropped} lines dropped"));
    let told: Vec<String> = trouble.into_iter().chain(dropped).collect();
    (!told.is_empty()).then(|| format!("{} {}", text(log.get("name")), told.join(", ")))
}

/// What is failing, and since when.
fn trouble(of: &Value) -> Option<String> {
    let error = of.get("error").filter(|error| !error.is_null())?;
    let place = of.get("destination").or_else(|| of.get("folder"));
    Some(format!("{} failing since {}: {}", text(place), text(of.get("since")), text(Some(error))))
}

/// A problem in one line.
fn problem(problem: &Value) -> String {
    let [place, key, what] = ["place", "key", "text"].map(|field| text(problem.get(field)));
    let key = if key.is_empty() { key } else { format!("{key}: ") };
    printable(&format!("{place}: {key}{what}"))
}

/// `12 (ok 10, degraded 2)`; states that nothing is in are left out.
fn counts(value: Option<&Value>) -> String {
    let numbers = value.and_then(Value::as_object).into_iter().flatten();
    let counts: Vec<(&String, u64)> =
        numbers.filter_map(|(state, count)| Some((state, count.as_u64()?))).filter(|(_, count)| *count > 0).collect();
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let states: Vec<String> = counts.iter().map(|(state, count)| format!("{state} {count}")).collect();
    if states.is_empty() { all.to_string() } else { format!("{all} ({})", states.join(", ")) }
}

/// `3d 4h`, `5m 2s`: the two greatest units.
fn duration(seconds: u64) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let shown: Vec<String> = parts
        .iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_a_few_lines() {
        let answer = json!({
            "version": "0.1.0", "started_at": "2026-11-23T12:00:00.000Z", "uptime_seconds": 93_784, "generation": 7,
            "published_at": "2026-11-23T12:34:56.007Z", "ready": false, "draining": false, "reasons": ["waiting for consul:users"],
            "workers": 2, "listeners": [{ "name": "web", "address": "0.0.0.0:8080" }], "routes": { "ok": 10, "degraded": 2 },
            "upstreams": 3, "endpoints": { "healthy": 5, "held": 0 },
            "saved_state": { "folder": "/var/lib/fleetgate", "state": "failing", "error": "No space left on device",
                "since": "2026-11-23T12:35:00Z" },
            "logs": [
                { "name": "own", "destination": "stderr", "state": "ok", "error": null, "since": null, "dropped": 7 },
                { "name": "access", "destination": "stdout", "state": "ok", "error": null, "since": null, "dropped": 0 },
                { "name": "audit", "destination": "/var/log/audit.jsonl", "state": "failing", "error": "No space left",
                    "since": "2026-11-23T12:36:00Z", "dropped": 12 },
            ],
            "providers": [{ "name": "consul", "state": "failing", "verified_at": null, "rejected": 2,
                "kept": 1, "unresolved": 0, "shadowed": 3, "more_problems": 5,
                "problems": [{ "place": "consul:users", "key": "", "text": "connection refused" }] }],
            "problems": [{ "place": "configuration", "key": "listeners.web.trusted_proxies", "text": "the trusted proxy" }],
            "remarks": [{ "place": "a.toml:1:1", "key": "", "text": "two registrations of one address" }],
        });
        insta::assert_snapshot!(render(&answer), @"
version    0.1.0
state      not ready: waiting for consul:users
up         1d 2h (since 2026-11-23T12:00:00.000Z)
snapshot   7 (of 2026-11-23T12:34:56.007Z)
workers    2
listeners  web 0.0.0.0:8080
routes     12 (ok 10, degraded 2)
upstreams  3
endpoints  5 (healthy 5)
state_dir  /var/lib/fleetgate failing since 2026-11-23T12:35:00Z: No space left on device
log        own 7 lines dropped
log        audit /var/log/audit.jsonl failing since 2026-11-23T12:36:00Z: No space left, 12 lines dropped

PROVIDER  STATE    CONFIRMED  REJECTED  KEPT  UNRESOLVED  SHADOWED
consul    failing  -          2         1     0           3

consul:users: connection refused
5 more of consul: /api/v1/providers
configuration: listeners.web.trusted_proxies: the trusted proxy
a.toml:1:1: two registrations of one address
");
        assert_eq!(duration(0), "0s");
        assert_eq!(duration(61), "1m 1s");
    }
}
