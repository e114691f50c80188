//! Defines `fleetgate upstreams`.

use serde_json::Value;

use super::admin::{few_pairs, joined, list, text};
use super::table::{Table, percent, printable};

/// A line for each endpoint, and one for an upstream without any.
pub(super) fn render(answer: &Value) -> String {
    let heading = ["UPSTREAM", "PROVIDER", "SOURCE", "ENDPOINT", "STATE", "WEIGHT", "IN FLIGHT", "LABELS", "REASONS"];
    let mut table = Table::new(&heading);
    for upstream in list(answer, "items") {
        let of = |endpoint: Option<&Value>| {
            let field = |key: &str| text(endpoint.and_then(|endpoint| endpoint.get(key)));
            [
                text(upstream.get("name")),
                text(upstream.get("provider")),
                text(upstream.get("source")),
                field("address"),
                field("state"),
                field("weight"),
                field("in_flight"),
                few_pairs(endpoint.and_then(|endpoint| endpoint.get("labels"))),
                endpoint.map(|endpoint| joined(list(endpoint, "reasons"), "; ")).unwrap_or_default(),
            ]
        };
        let endpoints = list(upstream, "endpoints");
        if endpoints.is_empty() {
            table.row(of(None));
        }
        for endpoint in endpoints {
            table.row(of(Some(endpoint)));
        }
    }
    let more = list(answer, "items").iter().flat_map(|upstream| {
        let levels = levels(upstream).map(|levels| format!("levels of {}: {levels}", text(upstream.get("name"))));
        [refusing(upstream), levels, waiting(upstream)].into_iter().flatten()
    });
    let more = more.map(|line| printable(&line));
    std::iter::once(table.render()).chain(more).collect::<Vec<_>>().join("\n")
}

/// What each level takes, where there are several.
pub(super) fn levels(of: &Value) -> Option<String> {
    let levels = list(of, "levels");
    let level = |level: &Value| {
        let field = |key: &str| text(level.get(key));
        let share = percent(level.get("share").and_then(Value::as_f64).unwrap_or_default());
        format!("priority {} ({} of {} usable) {share}", field("priority"), field("usable"), field("endpoints"))
    };
    (!levels.is_empty()).then(|| levels.iter().map(level).collect::<Vec<_>>().join(", "))
}

fn waiting(upstream: &Value) -> Option<String> {
    let waiting = upstream.get("waiting").and_then(Value::as_u64).filter(|waiting| *waiting > 0)?;
    Some(format!("{waiting} requests wait for an endpoint of {} with room", text(upstream.get("name"))))
}

/// What the breaker of an upstream says that refuses requests.
pub(super) fn refusing(upstream: &Value) -> Option<String> {
    let refuses = upstream.get("breaker")?.get("refuses")?;
    Some(format!("the breaker of {} refuses requests: {}", text(upstream.get("name")), text(Some(refuses))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn many_labels_do_not_widen_the_table() {
        let labels: serde_json::Map<_, _> =
            (0..400).map(|tag| (format!("tag.urlprefix-/{tag:03}"), json!("true"))).collect();
        let answer = json!({ "items": [{ "name": "users", "provider": "file", "source": "consul:users",
            "endpoints": [{ "address": "10.0.0.1:80", "weight": 1, "labels": labels, "state": "healthy", "reasons": ["slow"], "in_flight": 0 }] }]});
        let shown = render(&answer);
        let row = shown.lines().nth(1).expect("a row");
        let labels = "tag.urlprefix-/000=true,tag.urlprefix-/001=true and 398 more";
        assert!(row.contains(labels) && row.ends_with("slow") && row.chars().count() < 160, "{row}");
    }

    #[test]
    fn endpoints_are_a_table() {
        let answer = json!({ "generation": 7, "items": [
            { "name": "users", "provider": "file", "source": "consul:users", "verified_at": null, "waiting": 3,
              "levels": [ { "priority": 0, "endpoints": 1, "usable": 1, "share": 1.0 }, { "priority": 2, "endpoints": 1, "usable": 0, "share": 0.0 } ],
              "endpoints": [
                { "address": "10.0.0.1:80", "weight": 3, "labels": { "version": "v1", "zone": "a" }, "state": "healthy", "reasons": [], "in_flight": 2 },
                { "address": "10.0.0.2:80", "weight": 1, "labels": {}, "state": "unhealthy", "reasons": ["connection refused"], "in_flight": 0 } ] },
            { "name": "orders", "provider": "etcd", "source": "etcd:/fleetgate/endpoints/orders/", "endpoints": [],
              "breaker": { "state": "open", "refuses": "too many errors of late" } },
        ]});
        insta::assert_snapshot!(render(&answer), @"
UPSTREAM  PROVIDER  SOURCE                             ENDPOINT     STATE      WEIGHT  IN FLIGHT  LABELS             REASONS
users     file      consul:users                       10.0.0.1:80  healthy    3       2          version=v1,zone=a  -
users     file      consul:users                       10.0.0.2:80  unhealthy  1       0          -                  connection refused
orders    etcd      etcd:/fleetgate/endpoints/orders/  -            -          -       -          -                  -
levels of users: priority 0 (1 of 1 usable) 100 %, priority 2 (0 of 1 usable) 0 %
3 requests wait for an endpoint of users with room
the breaker of orders refuses requests: too many errors of late
");
    }
}
