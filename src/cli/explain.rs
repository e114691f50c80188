//! Defines `fleetgate explain`.

use std::io::Write;
use std::net::IpAddr;

use serde_json::Value;

use super::admin::{self, Page, Shape, few_pairs, joined, list, pairs, text};
use super::routes::matching;
use super::table::{Table, percent, printable};
use super::upstreams::{levels, refusing};

/// What to ask.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// The method
    method: String,
    /// `http://HOST/PATH?QUERY`, or `/PATH` with `-H 'host: HOST'`
    url: String,
    /// A header, `name: value`; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The listener it comes in by; the first one by name when not given
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The address that connects: the client's, or that of a trusted proxy whose X-Forwarded-* (-H) tell of the client
    ///
    /// It is wanted for what decides by it: `ip`, `maintenance`, `require`, sticky routes. Without it the request is
    /// explained as of a client that connects itself, so that forwarding headers do not count.
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// Tells of this route, too, what keeps it from being taken
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    #[command(flatten)]
    access: admin::Access,
}

/// A longer question goes into a body: the head of a request to the admin API has 16 KiB.
const MAX_QUERY_BYTES: usize = 8 << 10;

/// Asks and shows.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("method", &arguments.method).append_pair("url", &arguments.url);
    query.extend_pairs(arguments.headers.iter().map(|header| ("header", header)));
    let client = arguments.client.map(|client| client.to_string());
    let more = [("listener", &arguments.listener), ("client", &client), ("route", &arguments.route)];
    query.extend_pairs(more.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))));
    let fields = query.finish();
    let shape: Shape = &[("generation", Value::is_u64), ("request", Value::is_object), ("routes", Value::is_array)];
    let page = Page::new(shape, render);
    if fields.len() > MAX_QUERY_BYTES {
        return admin::show_posted(&arguments.access, "/api/v1/explain", fields, &page, out, remarks);
    }
    admin::show(&arguments.access, &format!("/api/v1/explain?{fields}"), &page, out, remarks)
}

/// The request, the routes in order, the targets, the endpoints, and what comes of it.
fn render(answer: &Value) -> String {
    let mut parts = vec![request(answer)];
    let routes = list(answer, "routes");
    if !routes.is_empty() {
        parts.push(candidates(routes, answer));
    }
    if !list(answer, "middlewares").is_empty() {
        parts.push(middlewares(answer));
    }
    if let Some(route) = answer.get("route").filter(|route| route.is_object()) {
        parts.push(taken(route, answer));
    }
    if !list(answer, "upstreams").is_empty() {
        parts.push(endpoints(answer));
    }
    parts.push(outcome(answer));
    parts.join("\n\n")
}

/// `GET api.example.com/users?debug=1, by listener web, at snapshot 7`
fn request(answer: &Value) -> String {
    let request = answer.get("request").unwrap_or(&Value::Null);
    let field = |key: &str| text(request.get(key));
    let query = request.get("query").and_then(Value::as_str).map(|query| format!("?{query}")).unwrap_or_default();
    let place = match request.get("path").and_then(Value::as_str) {
        Some(path) => format!("{} {}{path}{query}", field("method"), field("host")),
        None => field("method"),
    };
    let told = |key: &str, word: &str| request.get(key).and_then(Value::as_str).map(|it| format!(" {word} {it}"));
    let (client, peer) = (told("client", "from"), told("peer", "through"));
    let generation = text(answer.get("generation"));
    let (client, peer, listener) = (client.unwrap_or_default(), peer.unwrap_or_default(), field("listener"));
    let line = printable(&format!("{place}{client}{peer}, by listener {listener}, at snapshot {generation}"));
    match joined(list(request, "removed"), ", ") {
        removed if removed.is_empty() => line,
        removed => line + "\n" + &printable(&format!("removed on arrival, as the sender is not believed: {removed}")),
    }
}

fn candidates(routes: &[Value], answer: &Value) -> String {
    let mut table = Table::new(&["ROUTE", "PROVIDER", "MATCH", "TAKEN", "WHY"]);
    for route in routes {
        let taken = if route.get("fate").and_then(Value::as_str) == Some("taken") { "yes" } else { "no" };
        table.row([
            text(route.get("name")),
            text(route.get("provider")),
            matching(route.get("match").unwrap_or(&Value::Null)),
            taken.to_owned(),
            text(route.get("reason")),
        ]);
    }
    let mut out = table.render();
    let count = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or_default();
    let (more, others) = (count("more_routes"), count("other_routes"));
    if more > 0 {
        out += &format!("\n{more} more were considered and are not shown (--route NAME asks for one)");
    }
    if others > 0 {
        out += &format!("\nnot considered, being for other hosts or paths: {others}");
    }
    out
}

fn middlewares(answer: &Value) -> String {
    let mut table = Table::new(&["MIDDLEWARE", "TYPE", "OF", "RUNS", "WHY"]);
    for middleware in list(answer, "middlewares") {
        let runs = if middleware.get("runs").and_then(Value::as_bool) == Some(true) { "yes" } else { "no" };
        table.row([
            text(middleware.get("name")),
            text(middleware.get("type")),
            text(middleware.get("of")),
            runs.to_owned(),
            text(middleware.get("reason")),
        ]);
    }
    table.render()
}

fn taken(route: &Value, answer: &Value) -> String {
    let field = |key: &str| text(route.get(key));
    let mut head = format!("route {} of {}: {}", field("name"), field("provider"), field("state"));
    let reasons = joined(list(route, "reasons"), "; ");
    if !reasons.is_empty() {
        head += &format!(" ({reasons})");
    }
    let answers = |one: &&Value| one.get("effect").and_then(Value::as_str) == Some("answers");
    if let Some(middleware) = list(answer, "middlewares").iter().find(answers) {
        head += &format!("\nnot reached: middleware {} answers before its targets", text(middleware.get("name")));
    }
    let decided = field("decided_by");
    if !decided.is_empty() {
        head += &format!("\ndecided by {decided}");
    }
    let head: Vec<String> = head.lines().map(printable).collect();
    let targets = list(route, "targets");
    if targets.is_empty() {
        return head.join("\n");
    }
    let mut table = Table::new(&["TARGET", "CHOICE", "PROBABILITY", "USABLE", "WHY"]);
    for target in targets {
        let choice = match target.get("when").and_then(Value::as_object) {
            Some(when) => {
                let conditions: Vec<String> = when.values().map(|value| pairs(Some(value))).collect();
                format!("when {}", conditions.join(" "))
            }
            None => format!("weight {}", text(target.get("weight"))),
        };
        let probability = target.get("probability").and_then(Value::as_f64).unwrap_or_default();
        table.row([
            text(target.get("target")),
            choice,
            percent(probability),
            text(target.get("usable")),
            std::iter::once(text(target.get("reason")))
                .chain(levels(target))
                .chain(list(target, "steps").iter().map(|step| text(Some(step))))
                .collect::<Vec<_>>()
                .join("; "),
        ]);
    }
    let more = route.get("more_targets").and_then(Value::as_u64).unwrap_or_default();
    let more = if more > 0 { format!("\n{more} more targets, none of which gets it") } else { String::new() };
    format!("{}\n{}{more}", head.join("\n"), table.render())
}

fn endpoints(answer: &Value) -> String {
    let mut table = Table::new(&["UPSTREAM", "ENDPOINT", "STATE", "WEIGHT", "SERVES", "LABELS", "REASONS"]);
    let mut more = Vec::new();
    for upstream in list(answer, "upstreams") {
        let name = text(upstream.get("name"));
        let endpoints = list(upstream, "endpoints");
        if endpoints.is_empty() {
            let source = text(upstream.get("source"));
            let known = upstream.get("known").and_then(Value::as_bool).unwrap_or(true);
            let why = if known { format!("{source} has none") } else { format!("{source} has not answered yet") };
            let nothing = String::new;
            table.row([name.clone(), nothing(), nothing(), nothing(), nothing(), nothing(), why]);
        }
        for endpoint in endpoints {
            table.row([
                name.clone(),
                text(endpoint.get("address")),
                text(endpoint.get("state")),
                text(endpoint.get("weight")),
                joined(list(endpoint, "targets"), ", "),
                few_pairs(endpoint.get("labels")),
                joined(list(endpoint, "reasons"), "; "),
            ]);
        }
        more.extend(refusing(upstream));
        let host = upstream.get("host").and_then(Value::as_str).filter(|host| *host != "preserve");
        more.extend(host.map(|host| format!("the Host that {name} gets: {host}")));
        let hidden = upstream.get("more_endpoints").and_then(Value::as_u64).unwrap_or_default();
        if hidden > 0 {
            more.push(format!("{hidden} more endpoints of {name}: fleetgate upstreams"));
        }
    }
    let hidden = answer.get("more_upstreams").and_then(Value::as_u64).unwrap_or_default();
    if hidden > 0 {
        more.push(format!("{hidden} more upstreams: fleetgate upstreams"));
    }
    let lines: Vec<String> = std::iter::once(table.render()).chain(more.iter().map(|line| printable(line))).collect();
    lines.join("\n")
}

/// What the client gets, and what may answer before that.
fn outcome(answer: &Value) -> String {
    let gets = match answer.get("answer").filter(|own| own.is_object()) {
        None => "the client gets what an endpoint answers".to_owned(),
        Some(own) => {
            let field = |key: &str| text(own.get(key));
            let (flag, error, reason) = (field("flag"), field("error"), field("reason"));
            let mut words = vec![field("status")];
            words.extend(own.get("grpc_status").map(|status| format!("with grpc-status {}", text(Some(status)))));
            words.push(error);
            words.retain(|word| !word.is_empty());
            let flag = if flag.is_empty() { flag } else { format!(", flag {flag}") };
            format!("the client gets {}{flag}: {reason}", words.join(" "))
        }
    };
    let unless = list(answer, "unless").iter().map(|open| {
        let (who, reason) = (text(open.get("who")), text(open.get("reason")));
        // A target says what it answers itself.
        let verb = match who.as_str() {
            "a trusted proxy" => " sends it",
            who if who.starts_with("middleware") => " refuses it",
            _ => "",
        };
        format!("{who}{verb} ({reason})")
    });
    let unless: Vec<String> = unless.collect();
    match unless.is_empty() {
        true => printable(&gets),
        false => printable(&format!("{gets}, unless {}", unless.join(", or "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_is_a_few_tables() {
        let answer = json!({
            "generation": 7,
            "request": { "listener": "web", "client": null, "method": "GET", "host": "api.example.com", "path": "/users", "query": "debug=1" },
            "answer": null,
            "routes": [
                { "name": "posts", "provider": "etcd", "match": { "hosts": ["api.example.com"], "path": "/users", "methods": ["POST"] },
                  "fate": "unmet", "reason": "method `GET` is not `POST`" },
                { "name": "users", "provider": "file", "match": { "hosts": ["api.example.com"], "path": "/users" },
                  "fate": "taken", "reason": "all its conditions hold" },
            ],
            "more_routes": 0, "other_routes": 12,
            "route": { "name": "users", "provider": "file", "state": "degraded", "reasons": ["users/canary has no usable endpoint"],
                "decided_by": "weights", "more_targets": 0, "targets": [
                { "target": "users/canary", "when": { "headers": { "x-canary": "always" } }, "drawn": 0.0, "probability": 0.0, "usable": 0,
                  "reason": "header `x-canary` is absent, and must be `always`" },
                { "target": "users/stable", "weight": 95, "drawn": 0.95, "probability": 1.0, "usable": 1, "reason": "its share of the weights",
                  "levels": [ { "priority": 0, "endpoints": 4, "usable": 2, "share": 0.7 }, { "priority": 1, "endpoints": 2, "usable": 2, "share": 0.3 } ] } ] },
            "upstreams": [
                { "name": "users", "provider": "file", "source": "consul:users", "known": true, "host": "app.internal", "more_endpoints": 3, "endpoints": [
                    { "address": "10.0.0.1:80", "state": "healthy", "weight": 1, "labels": { "version": "v1" }, "usable": true,
                      "targets": ["users/stable"], "reasons": [] },
                    { "address": "10.0.0.2:80", "state": "unhealthy", "weight": 1, "labels": { "version": "v2" }, "usable": false,
                      "targets": [], "reasons": ["a registry check is critical"] } ] },
                { "name": "new", "provider": "file", "source": "consul:new", "known": false, "more_endpoints": 0, "endpoints": [] },
            ],
            "more_upstreams": 0,
        });
        insta::assert_snapshot!(render(&answer), @"
GET api.example.com/users?debug=1, by listener web, at snapshot 7

ROUTE  PROVIDER  MATCH                       TAKEN  WHY
posts  etcd      POST api.example.com/users  no     method `GET` is not `POST`
users  file      api.example.com/users       yes    all its conditions hold
not considered, being for other hosts or paths: 12

route users of file: degraded (users/canary has no usable endpoint)
decided by weights
TARGET        CHOICE                PROBABILITY  USABLE  WHY
users/canary  when x-canary=always  0 %          0       header `x-canary` is absent, and must be `always`
users/stable  weight 95             100 %        1       its share of the weights; priority 0 (2 of 4 usable) 70 %, priority 1 (2 of 2 usable) 30 %

UPSTREAM  ENDPOINT     STATE      WEIGHT  SERVES        LABELS      REASONS
users     10.0.0.1:80  healthy    1       users/stable  version=v1  -
users     10.0.0.2:80  unhealthy  1       -             version=v2  a registry check is critical
new       -            -          -       -             -           consul:new has not answered yet
the Host that users gets: app.internal
3 more endpoints of users: fleetgate upstreams

the client gets what an endpoint answers
");
    }

    #[test]
    fn the_gateways_own_answer_ends_it() {
        let answer = json!({
            "generation": 7,
            "request": { "listener": "web", "client": "10.1.2.3", "method": "GET", "host": null, "path": null, "query": null },
            "answer": { "status": 400, "flag": "DPE", "error": "bad_request", "reason": "the gate refuses it: an empty Host" },
            "routes": [], "more_routes": 0, "other_routes": 0, "route": null, "upstreams": [], "more_upstreams": 0,
        });
        insta::assert_snapshot!(render(&answer), @"
GET from 10.1.2.3, by listener web, at snapshot 7

the client gets 400 bad_request, flag DPE: the gate refuses it: an empty Host
");
    }

    #[test]
    fn shares_are_short() {
        let shown = [0.0, 1.0, 0.5, 1.0 / 3.0, 0.05, 0.0003, 0.999, 0.999_99, 0.000_000_1].map(percent);
        let wanted = ["0 %", "100 %", "50 %", "33.33 %", "5 %", "0.03 %", "99.9 %", ">99.99 %", "<0.01 %"];
        assert_eq!(shown, wanted);
    }
}
