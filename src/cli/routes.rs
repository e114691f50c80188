//! Defines `fleetgate routes`.

use serde_json::Value;

use super::admin::{joined, list, pairs, text};
use super::table::Table;

/// A line for each route; why one is not well stands at its end.
pub(super) fn render(answer: &Value) -> String {
    let mut table = Table::new(&["ROUTE", "STATE", "PROVIDER", "MATCH", "TARGETS", "REASONS"]);
    for route in list(answer, "items") {
        let targets: Vec<String> = list(route, "targets").iter().map(target).collect();
        table.row([
            text(route.get("name")),
            text(route.get("state")),
            text(route.get("provider")),
            matching(route.get("match").unwrap_or(&Value::Null)),
            targets.join(", "),
            joined(list(route, "reasons"), "; "),
        ]);
    }
    table.render()
}

/// `GET,POST api.example.com/users x-tenant=acme ?debug=1`
pub(super) fn matching(value: &Value) -> String {
    let mut words = Vec::new();
    words.push(joined(list(value, "methods"), ","));
    let hosts = joined(list(value, "hosts"), ",");
    let path = match value.get("path") {
        None | Some(Value::Null) => "/".to_owned(),
        Some(Value::String(path)) => path.clone(),
        Some(condition) => match (condition.get("exact"), condition.get("starts_with")) {
            (Some(exact), _) => format!("={}", text(Some(exact))),
            (None, Some(start)) => format!("{}*", text(Some(start))),
            (None, None) => format!("~{}", text(condition.get("regex"))),
        },
    };
    words.push(format!("{hosts}{path}"));
    words.push(pairs(value.get("headers")).replace(',', " "));
    let query = pairs(value.get("query"));
    words.push(if query.is_empty() { query } else { format!("?{}", query.replace(',', "&")) });
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// `users/canary 5 (2 usable)`, `users/canary when ... (2 usable)`
fn target(target: &Value) -> String {
    let upstream = text(target.get("upstream"));
    let name = match target.get("subset") {
        Some(Value::String(subset)) => format!("{upstream}/{subset}"),
        _ => upstream,
    };
    let choice = match (target.get("when"), target.get("weight")) {
        (Some(Value::Object(when)), _) => {
            let conditions: Vec<String> = when.values().map(|value| pairs(Some(value))).collect();
            format!(" when {}", conditions.join(" "))
        }
        (_, Some(weight)) => format!(" {weight}"),
        _ => String::new(),
    };
    format!("{name}{choice} ({} usable)", text(target.get("usable")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_a_table() {
        let answer = json!({ "generation": 7, "items": [
            { "name": "users", "provider": "file", "state": "ok", "reasons": [],
              "match": { "hosts": ["api.example.com"], "path": "/users" },
              "targets": [
                { "upstream": "users", "subset": "canary", "when": { "headers": { "x-canary": "always" } }, "usable": 1 },
                { "upstream": "users", "subset": "stable", "weight": 95, "usable": 2 } ] },
            { "name": "orders", "provider": "consul-kv", "state": "degraded", "reasons": ["orders has no usable endpoint"],
              "match": { "path": { "exact": "/orders" }, "methods": ["GET", "POST"], "headers": { "x-tenant": "acme" }, "query": { "debug": "1" } },
              "targets": [{ "upstream": "orders", "weight": 1, "usable": 0 }] },
        ]});
        insta::assert_snapshot!(render(&answer), @"
ROUTE   STATE     PROVIDER   MATCH                                     TARGETS                                                                   REASONS
users   ok        file       api.example.com/users                     users/canary when x-canary=always (1 usable), users/stable 95 (2 usable)  -
orders  degraded  consul-kv  GET,POST =/orders x-tenant=acme ?debug=1  orders 1 (0 usable)                                                       orders has no usable endpoint
");
    }
}
