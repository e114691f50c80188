//! What finding a route costs, in instructions: a table of 10,000 routes must not be much dearer than one of 10.
//!
//! The test runs itself again under valgrind's callgrind, which counts the instructions of each call of
//! [`measured_lookups`] and nothing else. Instructions are not times: they are the same on a busy machine.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use fleetgate::snapshot::{RequestView, Route, RouteState, RouteTable};
use fleetgate::spec::matching::{Conditions, HostMatch, MatchSpec, PathMatch, Pattern, ValueMatch};
use fleetgate::spec::name::{Name, ProviderId};
use fleetgate::spec::route::RouteSpec;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const FEW: usize = 10;
const MANY: usize = 10_000;
/// Different requests, and how often they are looked up in turn.
const REQUESTS: usize = 100;
/// So many times the instructions are allowed.
const LIMIT: f64 = 2.0;

/// The variable that makes the second process measure.
const MEASURE: &str = "FLEETGATE_MEASURE_ROUTING";

#[test]
fn many_routes_cost_at_most_twice_as_much_as_few() {
    if env::var_os(MEASURE).is_some() {
        return measure();
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        let ci = env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
        assert!(!ci, "no valgrind: run scripts/need valgrind=valgrind");
        let _ = writeln!(std::io::stderr(), "SKIPPED routing_cost: no valgrind (run scripts/need valgrind=valgrind)");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--cache-sim=no", "--branch-sim=no"])
        .args(["--toggle-collect=*measured_lookups*", "--dump-before=*lookups_are_counted*"])
        .arg(format!("--callgrind-out-file={}", place.path().join("out").display()))
        .arg(env::current_exe().unwrap())
        .args(["routing_cost::many_routes_cost_at_most_twice_as_much_as_few", "--exact", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(MEASURE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));

    // One file for each call, numbered from 1 in the order of the calls.
    let lookups: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("lookups ")).collect();
    assert_eq!(lookups.len(), 2 * SHAPES.len(), "{said}");
    let mut costs: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (number, line) in (1..).zip(lookups) {
        let (size, shape) = line.split_once(' ').unwrap();
        let text = std::fs::read_to_string(place.path().join(format!("out.{number}"))).unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("summary: ")).unwrap_or_else(|| panic!("{text}"));
        let place = usize::from(size.parse::<usize>().unwrap() == MANY);
        costs.entry(shape).or_default()[place] = total.trim().parse::<u64>().unwrap() / REQUESTS as u64;
    }
    let mut report = String::new();
    let mut dear = false;
    for (shape, [few, many]) in costs {
        let ratio = many as f64 / few as f64;
        dear |= ratio > LIMIT;
        writeln!(report, "{shape:>16}: {few:>6} with {FEW}, {many:>6} with {MANY}: {ratio:.2}").unwrap();
    }
    println!("instructions of one lookup in a table of so many routes (this build):\n{report}");
    assert!(!dear, "at most {LIMIT} times as many are allowed:\n{report}");
}

/// Looks requests up in tables of every shape and size, a call of [`measured_lookups`] for each.
fn measure() {
    for (shape, make) in SHAPES {
        for size in [FEW, MANY] {
            let routes = (0..size).map(|index| route(&format!("r{index:05}"), make(index).spec)).collect();
            let table = RouteTable::new(routes);
            let made: Vec<Made> = (0..REQUESTS).map(|index| make(index * size / REQUESTS)).collect();
            let listener: Name = "web".parse().unwrap();
            let mut requests = Vec::new();
            for Made { host, path, method, headers, query, .. } in &made {
                requests.push(RequestView {
                    listener: &listener,
                    host,
                    path,
                    method,
                    headers,
                    query: query.as_deref(),
                });
            }
            // Behind the harness's own line.
            println!("\nlookups {size} {shape}");
            let found = measured_lookups(&table, &requests);
            lookups_are_counted(found);
            assert_eq!(found, REQUESTS, "{shape}: every request has a route");
        }
    }
}

/// The only part that is counted. No closure in here: its name would match, too.
#[inline(never)]
fn measured_lookups(table: &RouteTable, requests: &[RequestView<'_>]) -> usize {
    let mut found = 0;
    for request in requests {
        if table.take(request).is_ok() {
            found += 1;
        }
    }
    found
}

/// Where callgrind writes down what it counted.
#[inline(never)]
fn lookups_are_counted(found: usize) {
    std::hint::black_box(found);
}

/// A route, and a request that it is the right one for.
#[derive(Clone)]
struct Made {
    spec: RouteSpec,
    host: String,
    path: String,
    method: Method,
    headers: HeaderMap,
    query: Option<String>,
}

/// A name, and the route of a number.
type Shape = (&'static str, fn(usize) -> Made);

/// Of all shapes names have the same lengths whatever the size, so that hashing them costs the same.
const SHAPES: [Shape; 9] = [
    ("hosts", hosts),
    ("wildcard hosts", wildcard_hosts),
    ("paths", paths),
    ("deep prefixes", deep_prefixes),
    ("methods", methods),
    ("header tenants", header_tenants),
    ("query tenants", query_tenants),
    ("expressions", expressions),
    ("mixed", mixed),
];

fn plain(path: PathMatch, asked: &str) -> Made {
    let matching = MatchSpec { hosts: Vec::new(), path, methods: Vec::new(), conditions: Conditions::default() };
    let (priority, listeners, targets, sticky, timeout) = (0, Vec::new(), Vec::new(), None, None);
    let spec = RouteSpec {
        matching,
        priority,
        listeners,
        targets,
        sticky,
        timeout,
        retry: Default::default(),
        middlewares: Vec::new(),
        registered: Default::default(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    let host = "api.example.com".to_owned();
    Made { spec, host, path: asked.to_owned(), method: Method::GET, headers, query: None }
}

fn prefix(path: &str, asked: &str) -> Made {
    plain(PathMatch::Prefix(path.to_owned()), asked)
}

fn hosts(index: usize) -> Made {
    let mut made = prefix("", "/orders/7");
    made.host = format!("s{index:05}.example.com");
    made.spec.matching.hosts.push(HostMatch::Exact(made.host.clone()));
    made
}

fn wildcard_hosts(index: usize) -> Made {
    let mut made = prefix("", "/orders/7");
    made.host = format!("a.s{index:05}.example.com");
    made.spec.matching.hosts.push(HostMatch::Wildcard(format!("s{index:05}.example.com")));
    made
}

fn paths(index: usize) -> Made {
    let path = format!("/orders/{index:05}");
    plain(PathMatch::Exact(path.clone()), &path)
}

fn prefixes(index: usize) -> Made {
    prefix(&format!("/s{index:05}"), &format!("/s{index:05}/orders/7"))
}

fn deep_prefixes(index: usize) -> Made {
    let (a, b) = (index / 100, index % 100);
    prefix(&format!("/team/{a:03}/service/{b:03}"), &format!("/team/{a:03}/service/{b:03}/orders/7"))
}

fn methods(index: usize) -> Made {
    let mut made = prefix(&format!("/s{:05}", index / 5), &format!("/s{:05}/orders", index / 5));
    let all = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH];
    made.method = all[index % all.len()].clone();
    made.spec.matching.methods.push(made.method.clone());
    made
}

fn header_tenants(index: usize) -> Made {
    let mut made = prefix("/orders", "/orders/7");
    let (name, value) = (HeaderName::from_static("x-tenant"), format!("t{index:05}"));
    made.headers.insert(&name, HeaderValue::from_str(&value).unwrap());
    made.spec.matching.conditions.headers.push((name, ValueMatch::Exact(value)));
    made
}

fn query_tenants(index: usize) -> Made {
    let mut made = prefix("/orders", "/orders/7");
    let value = format!("t{index:05}");
    made.query = Some(format!("page=2&tenant={value}"));
    made.spec.matching.conditions.query.push(("tenant".to_owned(), ValueMatch::Exact(value)));
    made
}

/// An expression on a host of its own: those of one host can only be tried one after the other.
fn expressions(index: usize) -> Made {
    // Compiled once: compiling is not what is measured.
    static PATTERN: LazyLock<Pattern> = LazyLock::new(|| Pattern::whole("/orders/[0-9]+", Default::default()).unwrap());
    let mut made = plain(PathMatch::Regex(PATTERN.clone()), "/orders/7");
    made.host = format!("s{index:05}.example.com");
    made.spec.matching.hosts.push(HostMatch::Exact(made.host.clone()));
    made
}

fn priorities(index: usize) -> Made {
    let mut made = prefixes(index);
    made.spec.priority = i32::try_from(index % 100).unwrap();
    made
}

fn mixed(index: usize) -> Made {
    let shapes = [hosts, wildcard_hosts, paths, prefixes, deep_prefixes, methods, header_tenants, priorities];
    shapes[index % shapes.len()](index)
}

fn route(name: &str, spec: RouteSpec) -> Arc<Route> {
    Arc::new(Route {
        name: name.parse().unwrap(),
        label: name.into(),
        provider: ProviderId::File,
        spec: Arc::new(spec),
        targets: Vec::new(),
        middlewares: Vec::new(),
        state: RouteState::Resolved,
    })
}
