//! Defines `fleetgate events`: what changed, when and why; and how endpoints stood at a time.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::admin::{self, Access, ITEMS, Page, Shape, few_pairs, list, text};
use super::table::{Table, printable};
use super::{FAILED, FINE, say};

/// What to ask.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Goes on with what happens next, until it is interrupted; also over a restart of the gateway
    #[arg(long, short, conflicts_with = "at")]
    follow: bool,
    /// Only of this upstream, its endpoints and its source
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only of this route
    #[arg(long, value_name = "NAME", conflicts_with = "at")]
    route: Option<String>,
    /// Only what this provider brought
    #[arg(long, value_name = "NAME", conflicts_with = "at")]
    provider: Option<String>,
    /// Not before: `14:02`, `14:02:30` (UTC, the last time it was so), or RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with = "at")]
    since: Option<String>,
    /// Shows how endpoints stood at a time, since when, and why; TIME as for --since
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Most events to begin with, up to 1000
    #[arg(long, value_name = "COUNT", default_value_t = 100, conflicts_with = "at")]
    limit: u32,
    #[command(flatten)]
    access: Access,
}

/// How long the gateway lets a follower wait, in seconds; less than a request may take.
const WAIT: &str = "5";

/// A page of events; `next` is where the page behind it begins.
const EVENTS: Shape = &[("generation", Value::is_u64), ("items", Value::is_array), ("next", Value::is_u64)];

/// Between two tries to reach a gateway that was there before, and between two empty answers that came without a wait.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks and shows.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
    if let Some(at) = &arguments.at {
        let path = path("/api/v1/events/at", &[("time", Some(at)), ("upstream", arguments.upstream.as_ref())]);
        return admin::show(&arguments.access, &path, &Page::new(ITEMS, past), out, remarks);
    }
    let limit = arguments.limit.to_string();
    if !arguments.follow {
        let verdict = |answer: &Value| if list(answer, "unknown").is_empty() { FINE } else { FAILED };
        let page = Page { shape: EVENTS, render: table, verdict };
        return admin::show(&arguments.access, &arguments.path(&[("limit", &limit)]), &page, out, remarks);
    }
    match arguments.access.ask(&arguments.path(&[("limit", &limit)]), EVENTS) {
        Ok(page) => follow(arguments, page, out, remarks),
        Err(failure) => admin::failed(remarks, &failure),
    }
}

/// Goes on until nobody listens any more.
fn follow(arguments: &Arguments, mut page: Value, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
    let mut silent = false;
    loop {
        for event in list(&page, "items") {
            let text = if arguments.access.is_json() { admin::compact(event) } else { line(event) };
            if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
                return FINE;
            }
        }
        let next = text(page.get("next"));
        page = loop {
            let asked = Instant::now();
            let path = arguments.path(&[("after", &next), ("limit", "1000"), ("wait", WAIT)]);
            match arguments.access.ask(&path, EVENTS) {
                Ok(page) => {
                    if list(&page, "items").is_empty() && asked.elapsed() < PAUSE {
                        std::thread::sleep(PAUSE);
                    }
                    break page;
                }
                Err(failure) => {
                    if !std::mem::replace(&mut silent, true) {
                        say(remarks, &format!("fleetgate: {}; trying again", printable(&failure.text)));
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        };
        silent = false;
    }
}

impl Arguments {
    fn path(&self, more: &[(&str, &str)]) -> String {
        let after = more.iter().any(|(name, _)| *name == "after");
        let mut query = vec![
            ("upstream", self.upstream.as_ref()),
            ("route", self.route.as_ref()),
            ("provider", self.provider.as_ref()),
            // Whoever follows has it behind him.
            ("since", self.since.as_ref().filter(|_| !after)),
        ];
        let more: Vec<(&str, String)> = more.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        query.extend(more.iter().map(|(name, value)| (*name, Some(value))));
        path("/api/v1/events", &query)
    }
}

fn path(page: &str, query: &[(&str, Option<&String>)]) -> String {
    let pairs = query.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    format!("{page}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

/// A line an event.
fn table(answer: &Value) -> String {
    let mut table = Table::new(&["TIME", "EVENT", "OF", "CHANGE", "WHY", "BY"]);
    for event in list(answer, "items") {
        table.row([
            text(event.get("time")),
            text(event.get("event")),
            subject(event),
            change(event),
            text(event.get("cause")),
            origin(event),
        ]);
    }
    let mut notes: Vec<String> = list(answer, "unknown").iter().map(|what| printable(&text(Some(what)))).collect();
    if list(answer, "items").is_empty() && notes.is_empty() {
        let since = answer.get("since").and_then(Value::as_str);
        notes.push(match since {
            Some(since) => format!("no such event since {}", printable(since)),
            None => "no such event".to_owned(),
        });
    }
    if answer.get("more").and_then(Value::as_bool) == Some(true) {
        notes.push("there are more; --limit shows up to 1000".to_owned());
    }
    let dropped = answer.get("dropped").and_then(Value::as_u64).unwrap_or_default();
    if dropped > 0 {
        notes.push(format!("{dropped} older ones had to go"));
    }
    let damaged = answer.get("damaged").and_then(Value::as_u64).unwrap_or_default();
    if damaged > 0 {
        notes.push(format!("{damaged} lines of the file of earlier events are damaged, and left out"));
    }
    std::iter::once(table.render()).chain(notes).collect::<Vec<_>>().join("\n")
}

/// An event alone, as it comes.
fn line(event: &Value) -> String {
    let (time, kind) = (text(event.get("time")), text(event.get("event")));
    let (change, origin) = (change(event), origin(event));
    let change = if change.is_empty() { change } else { format!(" [{change}]") };
    let origin = if origin.is_empty() { origin } else { format!(" ({origin})") };
    let of = subject(event);
    let of = if of.is_empty() { of } else { format!(" {of}") };
    printable(&format!("{time} {kind:<16}{of}{change}: {}{origin}", text(event.get("cause"))))
}

/// `users 10.0.0.1:80`, `users`, `consul:users`
fn subject(event: &Value) -> String {
    let field = |key: &str| event.get(key).map(|value| text(Some(value)));
    let name = field("upstream").or_else(|| field("route"));
    let name = name
        .or_else(|| field("middleware"))
        .or_else(|| field("certificate"))
        .or_else(|| field("consumer"))
        .or_else(|| field("source"))
        .or_else(|| field("provider"));
    [name, field("endpoint")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// `consul 42`: who brought it, and the index or revision.
fn origin(event: &Value) -> String {
    let parts = [text(event.get("provider")), text(event.get("index"))];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `state healthy -> unhealthy, weight 1 -> 3`: the keys that differ; of what came or went nothing but an endpoint's
/// state and weight.
fn change(event: &Value) -> String {
    match (event.get("before").and_then(Value::as_object), event.get("after").and_then(Value::as_object)) {
        (Some(before), Some(after)) => {
            let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            let differ = keys.into_iter().filter(|key| before.get(*key) != after.get(*key) && *key != "reasons");
            let value = |value: Option<&Value>| match value {
                None => "nothing".to_owned(),
                some => text(some),
            };
            let told = differ.map(|key| format!("{key} {} -> {}", value(before.get(key)), value(after.get(key))));
            told.collect::<Vec<_>>().join(", ")
        }
        (Some(one), None) | (None, Some(one)) if event.get("endpoint").is_some() => {
            format!("{}, weight {}", text(one.get("state")), text(one.get("weight")))
        }
        _ => String::new(),
    }
}

/// How endpoints stood: a line each.
fn past(answer: &Value) -> String {
    let mut table = Table::new(&["UPSTREAM", "ENDPOINT", "STATE", "WEIGHT", "LABELS", "SINCE", "WHY", "UNTIL", "THEN"]);
    for item in list(answer, "items") {
        let facts = item.get("facts").unwrap_or(&Value::Null);
        let state = if facts.is_object() { text(facts.get("state")) } else { "absent".to_owned() };
        let known = item.get("since").is_some_and(Value::is_string);
        let since = if known { text(item.get("since")) } else { "before the oldest event".to_owned() };
        table.row([
            text(item.get("upstream")),
            text(item.get("address")),
            state,
            text(facts.get("weight")),
            few_pairs(facts.get("labels")),
            since,
            text(item.get("cause")),
            text(item.get("until")),
            text(item.get("then")),
        ]);
    }
    let field = |key: &str| text(answer.get(key));
    let run = match answer.get("started_at").and_then(Value::as_str) {
        Some(started_at) => format!("the gateway started at {started_at}"),
        None => "no gateway is known to have run then".to_owned(),
    };
    let mut out = printable(&format!("at {} ({run})", field("at")));
    out += "\n";
    out += &table.render();
    if list(answer, "items").is_empty() {
        let oldest = answer.get("oldest").and_then(Value::as_str);
        let oldest = oldest.map(|oldest| format!("; the oldest event is of {}", printable(oldest))).unwrap_or_default();
        out += &format!("\nno endpoint is known of {} (UTC){oldest}", printable(&field("at")));
    }
    let more = answer.get("more").and_then(Value::as_u64).unwrap_or_default();
    if more > 0 {
        out += &format!("\n{more} more endpoints: --upstream NAME shows those of one upstream");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint_event() -> Value {
        json!({ "id": 7, "time": "2026-11-24T14:02:03.000Z", "generation": 3, "event": "endpoint_changed",
            "provider": "consul", "source": "consul:users", "index": 42, "upstream": "users", "endpoint": "10.0.3.7:80",
            "before": { "state": "healthy", "weight": 1, "labels": {}, "reasons": [] },
            "after": { "state": "unhealthy", "weight": 3, "labels": {}, "reasons": ["a registry check is critical"] },
            "cause": "consul:users says that a check is critical" })
    }

    #[test]
    fn events_are_a_table_or_lines() {
        let route = json!({ "id": 8, "time": "2026-11-24T14:02:04.000Z", "generation": 4, "event": "route_changed",
            "provider": "etcd", "route": "users", "before": { "priority": 3 }, "after": {}, "cause": "its document\u{1b} is another" });
        let failing = json!({ "id": 9, "time": "2026-11-24T14:02:05.000Z", "generation": 4, "event": "provider_failing",
            "provider": "consul", "source": "consul:users", "cause": "connection refused" });
        let events = [endpoint_event(), route, failing];
        let answer = json!({ "generation": 4, "items": events, "next": 9, "more": true, "dropped": 2 });
        insta::assert_snapshot!(table(&answer), @"
TIME                      EVENT             OF                 CHANGE                                     WHY                                         BY
2026-11-24T14:02:03.000Z  endpoint_changed  users 10.0.3.7:80  state healthy -> unhealthy, weight 1 -> 3  consul:users says that a check is critical  consul 42
2026-11-24T14:02:04.000Z  route_changed     users              priority 3 -> nothing                      its document? is another                    etcd
2026-11-24T14:02:05.000Z  provider_failing  consul:users       -                                          connection refused                          consul
there are more; --limit shows up to 1000
2 older ones had to go
");
        insta::assert_snapshot!(events.each_ref().map(line).join("\n"), @"
2026-11-24T14:02:03.000Z endpoint_changed users 10.0.3.7:80 [state healthy -> unhealthy, weight 1 -> 3]: consul:users says that a check is critical (consul 42)
2026-11-24T14:02:04.000Z route_changed    users [priority 3 -> nothing]: its document? is another (etcd)
2026-11-24T14:02:05.000Z provider_failing consul:users: connection refused (consul)
");
    }

    #[test]
    fn the_past_is_a_table() {
        let answer = json!({ "generation": 4, "at": "2026-11-24T14:02:00.000Z", "started_at": "2026-11-24T09:00:00.000Z", "more": 0,
            "items": [
                { "upstream": "users", "address": "10.0.3.7:80", "facts": endpoint_event()["after"], "since": "2026-11-24T14:01:12.000Z",
                  "cause": "active checks fail: status 500", "event": 7, "until": "2026-11-24T14:05:00.000Z", "then": "active checks pass" },
                { "upstream": "users", "address": "10.0.3.8:80", "facts": null, "since": null, "cause": null, "until": null, "then": null },
            ] });
        insta::assert_snapshot!(past(&answer), @"
at 2026-11-24T14:02:00.000Z (the gateway started at 2026-11-24T09:00:00.000Z)
UPSTREAM  ENDPOINT     STATE      WEIGHT  LABELS  SINCE                     WHY                             UNTIL                     THEN
users     10.0.3.7:80  unhealthy  3       -       2026-11-24T14:01:12.000Z  active checks fail: status 500  2026-11-24T14:05:00.000Z  active checks pass
users     10.0.3.8:80  absent     -       -       before the oldest event   -                               -                         -
");
    }

    #[test]
    fn names_are_encoded() {
        let name = "a&b=c".to_owned();
        assert_eq!(path("/x", &[("upstream", Some(&name)), ("route", None)]), "/x?upstream=a%26b%3Dc");
    }
}
