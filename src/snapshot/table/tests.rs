//! Routing against the plain reading of its rules: sort all routes, take the first that matches.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::snapshot::RouteState;
use crate::spec::condition::Unmet;
use crate::spec::matching::{Conditions, MatchSpec, Pattern};
use crate::spec::name::ProviderId;
use crate::spec::route::RouteSpec;

fn host(text: &str) -> HostMatch {
    match text.strip_prefix("*.") {
        Some(suffix) => HostMatch::Wildcard(suffix.to_owned()),
        None => HostMatch::Exact(text.to_owned()),
    }
}

fn path(text: &str) -> PathMatch {
    if let Some(start) = text.strip_prefix('^') {
        return PathMatch::Start(start.to_owned());
    }
    match (text.strip_prefix('='), text.strip_prefix('~')) {
        (Some(exact), _) => PathMatch::Exact(exact.to_owned()),
        (None, Some(regex)) => PathMatch::Regex(Pattern::whole(regex, Default::default()).expect("a pattern")),
        (None, None) => PathMatch::Prefix(text.trim_end_matches('/').to_owned()),
    }
}

fn spec(hosts: &[&str], at: &str) -> RouteSpec {
    RouteSpec {
        matching: MatchSpec {
            hosts: hosts.iter().map(|text| host(text)).collect(),
            path: path(at),
            methods: Vec::new(),
            conditions: Conditions::default(),
        },
        priority: 0,
        listeners: Vec::new(),
        targets: Vec::new(),
        sticky: None,
        timeout: None,
        retry: Default::default(),
        middlewares: Vec::new(),
        registered: Default::default(),
    }
}

fn with_header(mut spec: RouteSpec, name: &'static str, value: &str) -> RouteSpec {
    spec.matching.conditions.headers.push((HeaderName::from_static(name), ValueMatch::Exact(value.to_owned())));
    spec
}

fn route(name: &str, spec: RouteSpec) -> Arc<Route> {
    Arc::new(Route {
        name: name.parse().expect("a name"),
        label: name.into(),
        provider: ProviderId::File,
        spec: Arc::new(spec),
        targets: Vec::new(),
        middlewares: Vec::new(),
        state: RouteState::Resolved,
    })
}

#[test]
fn a_path_by_text_takes_what_begins_with_it() {
    let table = RouteTable::new(vec![
        route("users", spec(&[], "^/users")),
        route("folder", spec(&[], "^/users/")),
        route("segments", spec(&[], "/u")),
    ]);
    for (path, wanted) in [
        ("/users", Some("users")),
        ("/users2/x", Some("users")),
        ("/users/", Some("folder")),
        ("/users/x", Some("folder")),
        ("/u/x", Some("segments")),
        ("/use", None),
    ] {
        assert_eq!(Asked::new("a", path).of(&table).as_deref(), wanted, "{path}");
    }
}

#[test]
fn a_route_that_yields_goes_behind_all_that_others_cover() {
    let yielding = |hosts: &[&str], at: &str| {
        let mut spec = spec(hosts, at);
        spec.registered.yields = true;
        spec
    };
    let table = RouteTable::new(vec![
        route("claim", yielding(&["a.com"], "/users/admin")),
        route("document", spec(&["a.com"], "/users")),
        route("other", yielding(&["b.com"], "/")),
        route("wide", spec(&["*.com"], "/users/admin")),
        route("nowhere", spec(&[], "/users/admin/all")),
        route("everything", spec(&[], "/")),
        route("rest", yielding(&[], "/rest")),
        route("all", yielding(&[], "/")),
    ]);
    for (host, path, wanted) in [
        ("a.com", "/users/admin", "document"),
        ("a.com", "/users/admin/all", "document"),
        ("b.com", "/users/admin", "wide"),
        ("b.com", "/users", "other"),
        ("c.com", "/users/admin/all", "wide"),
        ("c.org", "/users/admin/all", "nowhere"),
        ("c.org", "/rest", "rest"),
        ("c.org", "/other", "everything"),
    ] {
        assert_eq!(Asked::new(host, path).of(&table).as_deref(), Some(wanted), "{host}{path}");
    }
    // With a middleware it guards all there is; a lower priority guards no less.
    let mut guard = spec(&[], "/");
    guard.middlewares.push("keys".parse().expect("a reference"));
    guard.priority = -1;
    let table = RouteTable::new(vec![route("guard", guard), route("claim", yielding(&["a.com"], "/x"))]);
    assert_eq!(Asked::new("a.com", "/x").of(&table).as_deref(), Some("guard"));
}

#[test]
fn equal_routes_go_by_contests_then_by_seniority_then_by_name() {
    let routes = || {
        vec![route("a", spec(&["x.com"], "/")), route("b", spec(&["x.com"], "/")), route("c", spec(&["x.com"], "/"))]
    };
    let asked = |table: &RouteTable| Asked::new("x.com", "/").of(table);
    assert_eq!(asked(&RouteTable::new(routes())).as_deref(), Some("a"));
    assert_eq!(asked(&RouteTable::ordered(routes(), vec![2, 0, 1], &[])).as_deref(), Some("b"));
    let lost = Contest {
        route: "b".parse().expect("a name"),
        provider: ProviderId::ConsulTags,
        lies: "consul:b".into(),
        host: Some(0),
        place: "x.com/".to_owned(),
        by: "c".parse().expect("a name"),
        by_provider: ProviderId::ConsulTags,
        reason: crate::snapshot::contest::ContestReason::NoInstance,
    };
    assert_eq!(asked(&RouteTable::ordered(routes(), vec![2, 0, 1], &[lost])).as_deref(), Some("c"));
}

struct Asked {
    host: &'static str,
    path: String,
    method: Method,
    headers: HeaderMap,
    query: Option<String>,
}

impl Asked {
    fn new(host: &'static str, path: &str) -> Self {
        Self { host, path: path.to_owned(), method: Method::GET, headers: HeaderMap::new(), query: None }
    }

    fn of(&self, table: &RouteTable) -> Option<String> {
        self.view(|view| table.take(view).ok().map(|position| table.routes()[position].name.to_string()))
    }

    fn view<T>(&self, with: impl FnOnce(&RequestView<'_>) -> T) -> T {
        let listener = "web".parse().expect("a name");
        with(&RequestView {
            listener: &listener,
            host: self.host,
            path: &self.path,
            method: &self.method,
            headers: &self.headers,
            query: self.query.as_deref(),
        })
    }
}

fn table(routes: Vec<(&str, RouteSpec)>) -> RouteTable {
    RouteTable::new(routes.into_iter().map(|(name, spec)| route(name, spec)).collect())
}

#[test]
fn hosts_go_before_paths_and_paths_before_the_rest() {
    let table = table(vec![
        ("exact-host", spec(&["a.example.com"], "/")),
        ("long-wildcard", spec(&["*.example.com"], "/")),
        ("short-wildcard", spec(&["*.com"], "=/users/7")),
        ("any", spec(&[], "/users")),
        ("any-exact", spec(&[], "=/users/7")),
        ("any-regex", spec(&[], "~/users/[0-9]+")),
        ("any-long", spec(&[], "/users/7/orders")),
    ]);
    for (host, path, name) in [
        ("a.example.com", "/users/7", Some("exact-host")),
        ("b.example.com", "/users/7", Some("long-wildcard")),
        ("c.b.example.com", "/x", Some("long-wildcard")),
        ("example.com", "/users/7", Some("short-wildcard")),
        ("example.com", "/users/8", Some("any-regex")),
        ("example.org", "/users/7", Some("any-exact")),
        ("example.org", "/users/7/orders/1", Some("any-long")),
        ("example.org", "/users/7/orderss", Some("any")),
        ("example.org", "/users/", Some("any")),
        ("example.org", "/userss", None),
        ("", "/users", Some("any")),
    ] {
        assert_eq!(Asked::new(host, path).of(&table).as_deref(), name, "{host} {path}");
    }
}

#[test]
fn a_priority_goes_before_everything() {
    let mut first = spec(&[], "/");
    first.priority = 1;
    let mut last = spec(&["a.example.com"], "=/x");
    last.priority = -1;
    let table = table(vec![("first", first), ("plain", spec(&["a.example.com"], "/")), ("last", last)]);
    assert_eq!(Asked::new("a.example.com", "/x").of(&table).as_deref(), Some("first"));
}

#[test]
fn more_conditions_go_first_and_then_names() {
    let mut method = spec(&[], "/");
    method.matching.methods.push(Method::GET);
    let table = table(vec![
        ("b-plain", spec(&[], "/")),
        ("a-plain", spec(&[], "/")),
        ("one", with_header(spec(&[], "/"), "x-a", "1")),
        ("two", with_header(with_header(spec(&[], "/"), "x-a", "1"), "x-b", "1")),
        ("method", method),
    ]);
    let mut asked = Asked::new("h", "/");
    asked.method = Method::POST;
    assert_eq!(asked.of(&table).as_deref(), Some("a-plain"));
    asked.headers.insert("x-a", HeaderValue::from_static("1"));
    assert_eq!(asked.of(&table).as_deref(), Some("one"));
    asked.headers.insert("x-b", HeaderValue::from_static("1"));
    assert_eq!(asked.of(&table).as_deref(), Some("two"));
    asked.method = Method::GET;
    assert_eq!(asked.of(&table).as_deref(), Some("method"));
}

#[test]
fn tenants_by_header_are_found_among_many() {
    let tenant = |index: usize| with_header(spec(&[], "/orders"), "x-tenant", &format!("t{index}"));
    let mut routes: Vec<_> = (0..100).map(|index| route(&format!("tenant-{index}"), tenant(index))).collect();
    routes.push(route("rest", spec(&[], "/orders")));
    let table = RouteTable::new(routes);
    let mut asked = Asked::new("h", "/orders/1");
    assert_eq!(asked.of(&table).as_deref(), Some("rest"));
    asked.headers.insert("x-tenant", HeaderValue::from_static("t42"));
    assert_eq!(asked.of(&table).as_deref(), Some("tenant-42"));
}

#[test]
fn tenants_by_query_are_found_among_many() {
    let tenant = |index: usize| {
        let mut spec = spec(&[], "/orders");
        spec.matching.conditions.query.push(("tenant".to_owned(), ValueMatch::Exact(format!("t {index}"))));
        spec
    };
    let mut routes: Vec<_> = (0..100).map(|index| route(&format!("tenant-{index}"), tenant(index))).collect();
    routes.push(route("rest", spec(&[], "/orders")));
    let table = RouteTable::new(routes);
    let mut asked = Asked::new("h", "/orders/1");
    assert_eq!(asked.of(&table).as_deref(), Some("rest"));
    asked.query = Some("a=1&tenant=t+42".to_owned());
    assert_eq!(asked.of(&table).as_deref(), Some("tenant-42"));
    asked.query = Some("tenant=none&tenant=t%207".to_owned());
    assert_eq!(asked.of(&table).as_deref(), Some("tenant-7"));
}

#[test]
fn listeners_restrict_routes() {
    let mut elsewhere = spec(&[], "/a");
    elsewhere.listeners.push("other".parse().expect("a name"));
    let table = table(vec![("elsewhere", elsewhere), ("here", spec(&[], "/"))]);
    assert_eq!(Asked::new("h", "/a").of(&table).as_deref(), Some("here"));
}

/// Hosts, paths and headers small enough to meet often.
fn any_spec() -> impl Strategy<Value = RouteSpec> {
    let hosts = prop::collection::vec(prop::sample::select(vec!["a.b.c", "b.c", "*.b.c", "*.c", "x.b.c"]), 0..3);
    let paths =
        prop::sample::select(vec!["/", "/a", "/a/b", "=/a", "=/a/", "~/a.*", "~/a/b|/c", "/c", "^/a", "^/a/", "^/c"]);
    let headers = prop::collection::vec(prop::sample::select(vec![("x-a", "1"), ("x-a", "2"), ("x-b", "1")]), 0..3);
    let query = prop::collection::vec(prop::sample::select(vec![("a", "1"), ("a", "2"), ("b", "1")]), 0..3);
    let method = prop::sample::select(vec![None, Some(Method::GET), Some(Method::POST)]);
    let order = (-1..2i32, any::<bool>());
    (hosts, paths, headers, query, method, order).prop_map(|(hosts, at, headers, query, method, order)| {
        let mut spec = headers.into_iter().fold(spec(&hosts, at), |spec, (name, value)| with_header(spec, name, value));
        let query = query.into_iter().map(|(name, value)| (name.to_owned(), ValueMatch::Exact(value.to_owned())));
        spec.matching.conditions.query.extend(query);
        spec.matching.hosts.dedup();
        spec.matching.methods.extend(method);
        (spec.priority, spec.registered.yields) = order;
        spec
    })
}

/// The rules read aloud, one route after the other.
fn plainly<'t>(table: &'t RouteTable, asked: &Asked) -> Option<&'t Arc<Route>> {
    let mut matching: Vec<(Specificity, &str, &Arc<Route>)> = Vec::new();
    for route in table.routes() {
        let path_matches = match &route.matching().path {
            PathMatch::Exact(path) => *path == asked.path,
            PathMatch::Prefix(prefix) => {
                asked.path == *prefix
                    || asked.path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
            PathMatch::Start(text) => asked.path.starts_with(text.as_str()),
            PathMatch::Regex(_) => true,
        };
        if !path_matches || !asked.view(|view| unmet(route, view).is_none()) {
            continue;
        }
        let hosts = &route.matching().hosts;
        let of_host = |host: &HostMatch| match host {
            HostMatch::Exact(host) => host == asked.host,
            HostMatch::Wildcard(suffix) => {
                asked.host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
        };
        if hosts.is_empty() {
            matching.push((specificity(&route.spec, None), &route.label, route));
        }
        let of_request = hosts.iter().filter(|host| of_host(host));
        matching.extend(of_request.map(|host| (specificity(&route.spec, Some(host)), &*route.label, route)));
    }
    let yields = |route: &Route| route.spec.registered.yields;
    matching.sort_by(|a, b| (&a.0, yields(a.2), a.1).cmp(&(&b.0, yields(b.2), b.1)));
    let first = |yields: bool| matching.iter().position(|(.., route)| route.spec.registered.yields == yields);
    let taken = match (first(false), first(true)) {
        (Some(other), _) if matching[other].2.spec.covers() => other,
        (Some(other), Some(yielding)) => other.min(yielding),
        (other, yielding) => other.or(yielding)?,
    };
    Some(matching[taken].2)
}

/// Wherever they lie in the index: of the documents the one that goes first says whether those that yield do.
#[test]
fn a_route_behind_one_that_covers_nothing_keeps_nobody_away() {
    let of = |hosts: &[&str], priority, yields| {
        let mut spec = RouteSpec { priority, ..spec(hosts, "/") };
        spec.registered.yields = yields;
        spec
    };
    for tag in [&["*.b.c"][..], &["x.b.c"]] {
        for behind in [&["*.b.c"][..], &["x.b.c"]] {
            let routes = [of(&[], 0, false), of(behind, -1, false), of(tag, 0, true)];
            let routes = routes.into_iter().zip(["all", "behind", "tag"]).map(|(spec, name)| route(name, spec));
            let table = RouteTable::new(routes.collect());
            let asked = Asked::new("x.b.c", "/");
            assert_eq!(asked.of(&table).as_deref(), Some("tag"), "{tag:?} {behind:?}");
        }
    }
}

proptest! {
    #[test]
    fn the_index_finds_what_a_plain_reading_finds(
        specs in prop::collection::vec(any_spec(), 0..40),
        host in prop::sample::select(vec!["a.b.c", "b.c", "x.b.c", "y.x.b.c", "c", ""]),
        path in prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/c", "/cc", "/d"]),
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]),
        sent in prop::collection::vec(prop::sample::select(vec![("x-a", "1"), ("x-a", "2"), ("x-b", "1")]), 0..3),
        query in prop::option::of(prop::sample::select(vec!["a=1", "a=2&b=1", "b=1&a=3", "a=1&a=2", "c=1"])),
    ) {
        let routes = specs.into_iter().enumerate().map(|(index, spec)| route(&format!("r{index}"), spec)).collect();
        let table = RouteTable::new(routes);
        let mut asked = Asked { method, query: query.map(str::to_owned), ..Asked::new(host, path) };
        for (name, value) in sent {
            asked.headers.append(name, HeaderValue::from_static(value));
        }
        let wanted = plainly(&table, &asked).map(|route| route.name.to_string());
        prop_assert_eq!(asked.of(&table), wanted.clone());

        // Explain sees the same: all candidates in order, the first that meets everything is the one found.
        asked.view(|view| {
            let name = |position: usize| table.routes()[position].name.to_string();
            let all = table.candidates(view, usize::MAX);
            let first = all.routes.iter().find(|candidate| candidate.unmet.is_none());
            prop_assert_eq!(first.map(|candidate| name(candidate.position)), wanted.clone());
            prop_assert_eq!((all.more, all.routes.len() + all.others), (0, table.routes().len()));
            let few = table.candidates(view, 2);
            prop_assert!(few.routes.len() <= 3 && few.routes.len() + few.more == all.routes.len());
            let taken = few.routes.iter().find(|candidate| candidate.unmet.is_none());
            prop_assert_eq!(taken.map(|candidate| name(candidate.position)), wanted);
            for position in 0..table.routes().len() {
                let candidate = all.routes.iter().find(|candidate| candidate.position == position);
                match (table.unmet_of(position, view), candidate) {
                    (unmet, Some(candidate)) => prop_assert_eq!(unmet, candidate.unmet),
                    (unmet, None) => prop_assert!(matches!(unmet, Some(Unmet::Host(_) | Unmet::Path(_)))),
                }
            }
            Ok(())
        })?;
    }
}
