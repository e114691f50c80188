//! What documents say, and what is said of mistakes in them.

use proptest::prelude::*;

use super::*;

fn decoded<T: DecodeItem + std::fmt::Debug>(text: &str) -> String {
    match decode_item::<T>(text.as_bytes(), None, "kv") {
        Ok(item) => format!("{item:#?}"),
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

#[test]
fn a_route_with_everything() {
    let text = r#"
            match = { hosts = ["API.example.com", "*.example.org"], path = "//users/", methods = ["GET"], headers = { X-Tenant = "acme", x-a = { regex = "^b" } }, query = { debug = { present = true } } }
            targets = [
              { upstream = "users@consul-kv", subset = "canary", when = { cookies = { canary = "1" } } },
              { upstream = "users", weight = 0 },
            ]
            sticky = { header = "X-User" }
            timeout = "1m 30s"
            retry = { attempts = 0 }
            priority = -5
            listeners = ["web"]
        "#;
    insta::assert_snapshot!(decoded::<RouteSpec>(text), @r#"
RouteSpec {
    matching: MatchSpec {
        hosts: [
            Exact(
                "api.example.com",
            ),
            Wildcard(
                "example.org",
            ),
        ],
        path: Prefix(
            "/users",
        ),
        methods: [
            GET,
        ],
        conditions: Conditions {
            headers: [
                (
                    "x-tenant",
                    Exact(
                        "acme",
                    ),
                ),
                (
                    "x-a",
                    Regex(
                        "^b",
                    ),
                ),
            ],
            query: [
                (
                    "debug",
                    Present(
                        true,
                    ),
                ),
            ],
            cookies: [],
        },
    },
    priority: -5,
    listeners: [
        "web",
    ],
    targets: [
        TargetSpec {
            upstream: ItemRef {
                name: "users",
                provider: Some(
                    ConsulKv,
                ),
            },
            subset: Some(
                "canary",
            ),
            choice: When(
                Conditions {
                    headers: [],
                    query: [],
                    cookies: [
                        (
                            "canary",
                            Exact(
                                "1",
                            ),
                        ),
                    ],
                },
            ),
            steps: None,
            middlewares: [],
        },
        TargetSpec {
            upstream: ItemRef {
                name: "users",
                provider: None,
            },
            subset: None,
            choice: Weight(
                0,
            ),
            steps: None,
            middlewares: [],
        },
    ],
    sticky: Some(
        Header(
            "x-user",
        ),
    ),
    timeout: Some(
        90s,
    ),
    retry: Retry {
        attempts: 0,
        on: {
            Connect,
            Reset,
            RefusedStream,
        },
        methods: None,
        per_try_timeout: None,
        backoff: Backoff {
            base: 25ms,
            max: 250ms,
        },
    },
    middlewares: [],
    registered: Registered {
        yields: false,
        since: [],
        broken: [],
        remarks: [],
    },
}
"#);
}

#[test]
fn a_short_route_has_defaults() {
    insta::assert_snapshot!(decoded::<RouteSpec>(r#"{"match":{"path":"/a"},"upstream":"u"}"#), @r#"
RouteSpec {
    matching: MatchSpec {
        hosts: [],
        path: Prefix(
            "/a",
        ),
        methods: [],
        conditions: Conditions {
            headers: [],
            query: [],
            cookies: [],
        },
    },
    priority: 0,
    listeners: [],
    targets: [
        TargetSpec {
            upstream: ItemRef {
                name: "u",
                provider: None,
            },
            subset: None,
            choice: Weight(
                1,
            ),
            steps: None,
            middlewares: [],
        },
    ],
    sticky: None,
    timeout: None,
    retry: Retry {
        attempts: 1,
        on: {
            Connect,
            Reset,
            RefusedStream,
        },
        methods: None,
        per_try_timeout: None,
        backoff: Backoff {
            base: 25ms,
            max: 250ms,
        },
    },
    middlewares: [],
    registered: Registered {
        yields: false,
        since: [],
        broken: [],
        remarks: [],
    },
}
"#);
}

#[test]
fn all_that_is_wrong_in_a_route_comes_out_at_once() {
    let text = r#"
priorty = 5
upstream = "Users"
targets = [
  7,
  { upstream = "b", weight = 1000001 },
  { upstream = "b", weight = 1, when = {} },
  { subset = "x" },
]
timeout = 30
retry = { attempts = 11, attempt = 3 }
listeners = []
priority = 1.5
[match]
host = ["a"]
hosts = ["a:80", 5, "*", "*.ok.com"]
path = { exact = "a", exakt = "/" }
methods = ["get"]
headers = { "b d" = "x", a = { regex = "(" }, c = {}, d = { regex = "a", present = true }, e = true }
[sticky]
header = "a"
cookie = "b"
"#;
    insta::assert_snapshot!(decoded::<RouteSpec>(text), @r#"
kv:2:1: priorty: unknown key; did you mean `priority`?
kv:3:12: upstream: `Users` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
kv:3:12: upstream: `targets` and `upstream` exclude each other
kv:5:3: targets[0]: expected a table, found a number
kv:6:30: targets[1].weight: 1000001 is not from 0 to 1000000
kv:7:30: targets[2].weight: `when` and `weight` exclude each other: a target is taken by one of them
kv:8:3: targets[3]: `upstream` is missing
kv:10:11: timeout: a duration needs a unit: write "30s" or "30ms"
kv:11:22: retry.attempts: 11 is not from 0 to 10
kv:11:26: retry.attempt: unknown key; did you mean `attempts`?
kv:12:13: listeners: the list is empty: remove the key to allow all
kv:13:12: priority: expected a whole number, found a number with a fraction
kv:15:1: match.host: unknown key; did you mean `hosts`?
kv:16:10: match.hosts[0]: `a:80`: write the host without its port, which is ignored (an IPv6 address in brackets)
kv:16:18: match.hosts[1]: expected a text, found a number: put it in quotes
kv:16:21: match.hosts[2]: `*`: `*` stands only at the front, as in `*.example.com`
kv:17:18: match.path.exact: `a`: a path begins with `/`
kv:17:23: match.path.exakt: unknown key; did you mean `exact`?
kv:18:12: match.methods[0]: methods are written in capitals: `GET`
kv:19:21: match.headers.b d: `b d` is not a header name
kv:19:40: match.headers.a.regex: `(` is not a regular expression: unclosed group
kv:19:47: match.headers.c: give `regex` or `present`, or a text for the exact value
kv:19:55: match.headers.d: `regex` and `present` exclude each other
kv:19:96: match.headers.e: expected a text or a table, found true or false
kv:20:2: sticky: `header`, `cookie` and `client_ip` exclude each other
"#);
    insta::assert_snapshot!(decoded::<RouteSpec>("[match]\n[sticky]\n"), @"
kv:1:1: `targets` is missing (or `upstream`, short for one target)
kv:2:2: sticky: give one of `header`, `cookie` and `client_ip = true`
");
    insta::assert_snapshot!(decoded::<RouteSpec>("{\"match\": null, \"upstream\": \"u\"}"), @"kv:1:11: match: has no value: give it one or remove the key");
    insta::assert_snapshot!(decoded::<RouteSpec>("upstream = "), @"kv:1:12: string values must be quoted, expected literal string");
}

#[test]
fn an_upstream_with_everything() {
    let text = r#"
            endpoints = ["10.0.0.7:80", { address = "orders-2.internal:8080", weight = 3, labels = { zone = "a" } }]
            balance = "round_robin"
            subsets = { a = { zone = "a" } }
            connect_timeout = "1s"
            response_timeout = "2s"
            idle_timeout = "3s"
            max_idle_per_endpoint = 0
            keep_alive = "5s"
            drain_timeout = "90s"
            health_check = { path = "/healthz?full=1", host = "orders", interval = "1s", timeout = "500ms", healthy_threshold = 1, unhealthy_threshold = 5 }
        "#;
    insta::assert_snapshot!(decoded::<UpstreamSpec>(text), @r#"
UpstreamSpec {
    source: Static(
        [
            EndpointSpec {
                address: Ip(
                    10.0.0.7:80,
                ),
                weight: 1,
                labels: {},
                status: Unchecked,
                id: "0",
                modified: 0,
                created: 0,
            },
            EndpointSpec {
                address: Name {
                    host: "orders-2.internal",
                    port: 8080,
                },
                weight: 3,
                labels: {
                    "zone": "a",
                },
                status: Unchecked,
                id: "1",
                modified: 0,
                created: 0,
            },
        ],
    ),
    settings: UpstreamSettings {
        balance: RoundRobin,
        hash: None,
        session: None,
        slow_start: None,
        priorities: None,
        subsets: {
            "a": {
                "zone": "a",
            },
        },
        connect_timeout: 1s,
        response_timeout: 2s,
        idle_timeout: 3s,
        max_idle_per_endpoint: 0,
        max_requests_per_endpoint: None,
        queue: None,
        keep_alive: 5s,
        drain_timeout: 90s,
        health_check: Some(
            HealthCheck {
                probe: Http {
                    path: "/healthz?full=1",
                    host: Some(
                        "orders",
                    ),
                },
                interval: 1s,
                timeout: 500ms,
                healthy_threshold: 1,
                unhealthy_threshold: 5,
            },
        ),
        passive_health: PassiveHealth {
            consecutive_failures: 5,
            consecutive_5xx: 0,
            success_ratio: None,
            base_ejection: 10s,
            max_ejection: 300s,
            max_ejected: Percent(
                50,
            ),
        },
        panic_threshold: Percent(
            0,
        ),
        breaker: None,
        retry_budget: RetryBudget {
            percent: 20,
            min: 3,
        },
        host: Kept,
        tls: None,
        protocol: Http1,
        allow_self: false,
    },
}
"#);
    let text = "etcd = {}\nhealth_check = { tcp = true }";
    insta::assert_snapshot!(decoded::<UpstreamSpec>(text), @"
UpstreamSpec {
    source: Etcd {
        prefix: None,
        format: Fleetgate,
    },
    settings: UpstreamSettings {
        balance: LeastRequests,
        hash: None,
        session: None,
        slow_start: None,
        priorities: None,
        subsets: {},
        connect_timeout: 2s,
        response_timeout: 30s,
        idle_timeout: 60s,
        max_idle_per_endpoint: 32,
        max_requests_per_endpoint: None,
        queue: None,
        keep_alive: 4s,
        drain_timeout: 30s,
        health_check: Some(
            HealthCheck {
                probe: Tcp,
                interval: 5s,
                timeout: 2s,
                healthy_threshold: 2,
                unhealthy_threshold: 3,
            },
        ),
        passive_health: PassiveHealth {
            consecutive_failures: 5,
            consecutive_5xx: 0,
            success_ratio: None,
            base_ejection: 10s,
            max_ejection: 300s,
            max_ejected: Percent(
                50,
            ),
        },
        panic_threshold: Percent(
            0,
        ),
        breaker: None,
        retry_budget: RetryBudget {
            percent: 20,
            min: 3,
        },
        host: Kept,
        tls: None,
        protocol: Http1,
        allow_self: false,
    },
}
");
}

#[test]
fn all_that_is_wrong_in_an_upstream_comes_out_at_once() {
    let text = r#"
consul = { service = "a/b" }
endpoints = ["a", { weight = -1 }, { address = "a:80", weight = 70000 }, "a:80", { adress = "b:80" }]
balance = "fastest"
subsets = { A = { v = "1" }, b = {} }
connect_timeout = "0s"
max_idle_per_endpoint = "many"
[health_check]
path = "healthz"
interval = "1ms"
healthy_threshold = 0
host = "a b"
tls = true
"#;
    insta::assert_snapshot!(decoded::<UpstreamSpec>(text), @r#"
kv:1:1: `consul`, `etcd`, `dns` and `endpoints` exclude each other: an upstream has one source
kv:2:22: consul.service: "a/b" is not a service's name
kv:3:14: endpoints[0]: `a` is not `host:port`: its port is missing, as in `a:8080`
kv:3:19: endpoints[1]: `address` is missing
kv:3:30: endpoints[1].weight: -1 is not from 0 to 65535
kv:3:65: endpoints[2].weight: 70000 is not from 0 to 65535
kv:3:74: endpoints[3]: `a:80` is there already
kv:3:82: endpoints[4]: `address` is missing
kv:3:84: endpoints[4].adress: unknown key; did you mean `address`?
kv:4:11: balance: `fastest` is not one of its values; known are round_robin, least_requests, p2c_ewma, random, ring_hash, maglev
kv:5:13: subsets.A: `A` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
kv:5:30: subsets.b: a subset needs at least one label, such as `{ version = "v2" }`
kv:6:19: connect_timeout: `0s`: must be more than 0
kv:7:25: max_idle_per_endpoint: expected a whole number, found a text
kv:9:8: health_check.path: `healthz`: a path begins with `/`
kv:10:12: health_check.interval: must be at least 100ms
kv:12:8: health_check.host: `a b` is not a host or `host:port`
kv:13:1: health_check.tls: unknown key; known are path, host, tcp, grpc, interval, timeout, healthy_threshold, unhealthy_threshold
"#);
    insta::assert_snapshot!(decoded::<UpstreamSpec>("{\"health_check\": {}}"), @"
kv:1:1: it has no source: give one of `consul`, `etcd`, `dns` and `endpoints`
kv:1:2: health_check: give a `path` to ask for, `grpc = true` for gRPC's health service, or `tcp = true` for a connect
");
}

#[test]
fn mistakes_about_datacenters_are_told() {
    let told = |text: &str| decoded::<UpstreamSpec>(text);
    insta::assert_snapshot!(told("consul = { service = \"a\", datacenter = \"b\", datacenters = [\"c\", \"c\", \"d d\"] }"), @r#"
kv:1:1: consul: `datacenter` and `datacenters` exclude each other
kv:1:65: consul.datacenters[1]: `c` is there already
kv:1:70: consul.datacenters[2]: "d d" is not a name that Consul has: letters, digits, `-`, `_` and `.`
"#);
    insta::assert_snapshot!(told("consul = { service = \"a\", datacenters = [] }"), @"
kv:1:41: consul.datacenters: name at least one datacenter
");
    insta::assert_snapshot!(told("nearest = [\"zone\"]\nconsul = { service = \"a\", near = \"_agent\" }"), @"
kv:2:34: consul.near: `near` excludes `priorities` and `nearest`: both say who goes first
");
}

proptest! {
    #[test]
    fn hostile_items_never_panic(
        key in "match|targets|upstream|endpoints|health_check|subsets|sticky|timeout|retry|consul",
        inner in "path|regex|exact|hosts|headers|address|weight|when|attempts|service|x",
        value in "\"\\PC{0,20}\"|-?[0-9]{1,25}|true|null|\\[\\]|\\{\\}|[0-9]e[0-9]{1,3}",
    ) {
        for text in [
            format!("{{\"{key}\": {value}}}"),
            format!("{{\"{key}\": {{\"{inner}\": {value}}}}}"),
            format!("{{\"{key}\": [{{\"{inner}\": {value}}}, {value}]}}"),
            format!("{{\"{key}\": {{\"{inner}\": {{\"{inner}\": {value}}}}}}}"),
        ] {
            let _ = decode_item::<RouteSpec>(text.as_bytes(), None, "kv");
            let _ = decode_item::<UpstreamSpec>(text.as_bytes(), None, "kv");
        }
    }
}
