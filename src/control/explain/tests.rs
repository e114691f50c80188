//! What explain says of small pictures. That it says what the gateway does is shown by the integration tests.

use serde_json::{Value, json};

use super::super::build::Builder;
use super::super::fixture::{World, consul};
use super::super::merge::Affected;
use super::*;
use crate::snapshot::Health;
use crate::spec::name::ProviderId;

const TABLE: &str = r#"
    [upstreams.users]
    consul = { service = "users" }
    subsets = { stable = { version = "v1" }, canary = { version = "v2" } }
    [upstreams.empty]
    endpoints = []

    [routes.users]
    match = { hosts = ["api.example.com", "*.example.org"], path = "/users" }
    targets = [
      { upstream = "users", subset = "canary", when = { headers = { x-canary = "always" } } },
      { upstream = "users", subset = "stable", weight = 3 },
      { upstream = "users", subset = "canary", weight = 1 },
    ]
    sticky = { header = "x-user-id" }
    [routes.posts]
    match = { hosts = ["api.example.com"], path = "/users", methods = ["POST"] }
    upstream = "empty"
    [routes.inside]
    match = { hosts = ["api.example.com"], path = "/users" }
    listeners = ["inside"]
    upstream = "empty"
    priority = 5
    [routes.broken]
    match = { path = "/broken" }
    upstream = "absent"
"#;

fn snapshot() -> Arc<Snapshot> {
    let mut world = World::new();
    world.documents(ProviderId::File, TABLE);
    world.source(&consul("users"), "10.0.0.1:80 version=v1\n10.0.0.2:80 version=v2\n10.0.0.3:80 version=v2 critical");
    world.read_the_rest();
    let now = tokio::time::Instant::now();
    let built = Builder::new(now).build(&world.merge(), &Affected::All, &Snapshot::empty(), now);
    Arc::new(built.expect("a snapshot"))
}

/// Nothing here waits for anything.
fn explain(
    question: &Question,
    snapshot: &Arc<Snapshot>,
    listeners: &BTreeMap<Name, Listener>,
) -> Result<Explanation, Wrong> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(super::explain(question, snapshot, listeners))
}

fn listeners() -> BTreeMap<Name, Listener> {
    let listener = Listener::new(([127, 0, 0, 1], 80).into());
    ["inside", "web"].map(|name| (name.parse().expect("a name"), listener.clone())).into()
}

fn asked(snapshot: &Arc<Snapshot>, method: &str, url: &str, headers: &[&str]) -> Value {
    let web = Some("web".parse().expect("a name"));
    let question = Question::read(method, url, headers).expect("a question").by(web);
    serde_json::to_value(explain(&question, snapshot, &listeners()).expect("an answer")).expect("JSON")
}

#[test]
fn a_gateway_that_has_not_read_everything_serves_nothing() {
    let mut world = World::new();
    world.documents(ProviderId::File, TABLE);
    let now = tokio::time::Instant::now();
    let snapshot = Builder::new(now).build(&world.merge(), &Affected::All, &Snapshot::empty(), now);
    let shown = asked(&Arc::new(snapshot.expect("a snapshot")), "GET", "http://api.example.com/users", &[]);
    assert_eq!((&shown["answer"]["status"], &shown["answer"]["flag"]), (&json!(503), &json!("NC")), "{shown}");
    let reason = shown["answer"]["reason"].as_str().expect("a reason");
    assert!(reason.ends_with("etcd has not been read yet; consul-kv has not been read yet"), "{reason}");
}

#[test]
fn a_request_is_followed_to_its_endpoints() {
    let told = asked(&snapshot(), "GET", "http://API.example.com:80//users?x", &[]);
    assert_eq!(told["request"]["host"], "api.example.com");
    assert_eq!(told["request"]["path"], "/users");
    assert_eq!(told["answer"], Value::Null);
    let fates: Vec<[&str; 3]> = told["routes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|route| ["name", "fate", "reason"].map(|key| route[key].as_str().expect("text")))
        .collect();
    assert_eq!(
        fates,
        [
            ["inside", "unmet", "listener `web` is not `inside`"],
            ["posts", "unmet", "method `GET` is not `POST`"],
            ["users", "taken", "all its conditions hold"],
        ]
    );
    assert_eq!((&told["more_routes"], &told["other_routes"]), (&json!(0), &json!(1)));
    let route = &told["route"];
    assert_eq!((&route["name"], &route["state"]), (&json!("users"), &json!("ok")));
    assert_eq!(route["decided_by"], "weights: the request has no header `x-user-id`");
    let targets: Vec<_> =
        route["targets"].as_array().expect("a list").iter().map(|it| (&it["probability"], &it["reason"])).collect();
    assert_eq!(
        targets,
        [
            (&json!(0.0), &json!("header `x-canary` is absent, and must be `always`")),
            (&json!(0.75), &json!("its share of the weights")),
            (&json!(0.25), &json!("its share of the weights")),
        ]
    );
    let endpoints = told["upstreams"][0]["endpoints"].as_array().expect("a list");
    assert_eq!(endpoints[0]["targets"], json!(["users/stable"]));
    assert_eq!(endpoints[1]["targets"], json!(["users/canary"]));
    assert_eq!((&endpoints[2]["state"], &endpoints[2]["usable"]), (&json!("unhealthy"), &json!(false)));
    assert_eq!(endpoints[2]["reasons"], json!(["a registry check is critical"]));
}

#[test]
fn what_the_client_gets_is_told_where_it_is_sure() {
    let snapshot = snapshot();
    let answer = |method: &str, url: &str, headers: &[&str]| {
        let told = asked(&snapshot, method, url, headers);
        ["flag", "reason"].map(|key| told["answer"][key].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(answer("GET", "http://nobody/", &[]), ["NR", "no route's conditions all hold"]);
    assert_eq!(answer("GET", "http://a/broken", &[]), ["NC", "there is no upstream `absent`"]);
    let encoded = "the gate refuses it: an encoded slash, backslash or NUL in the path";
    assert_eq!(answer("GET", "http://a/b%2fc", &[]), ["DPE", encoded]);
    let empty = "no target with a weight has a usable endpoint";
    assert_eq!(answer("POST", "http://api.example.com/users", &[]), ["UH", empty]);
    let canary = answer("GET", "http://a.example.org/users", &["x-canary: always"]);
    assert_eq!(canary, ["", ""]);

    let upstream = snapshot.upstreams().find(|upstream| &*upstream.label == "users").expect("users");
    assert!(!upstream.checked(), "else this would be an active check's word");
    upstream.endpoints[1].state.set_health(Health::Unhealthy);
    assert_eq!(answer("GET", "http://a.example.org/users", &["x-canary: always"]), ["", ""], "unchecked");
}

#[test]
fn a_sticky_client_has_one_sure_target() {
    let snapshot = snapshot();
    let mut sides = std::collections::BTreeSet::new();
    for user in 0..40 {
        let told = asked(&snapshot, "GET", "http://api.example.com/users", &[&format!("x-user-id: {user}")]);
        assert_eq!(told["route"]["decided_by"], "the client's key, its header `x-user-id`");
        let targets = told["route"]["targets"].as_array().expect("a list").clone();
        let sure: Vec<usize> = (0..targets.len()).filter(|at| targets[*at]["probability"] == 1.0).collect();
        assert_eq!(sure.len(), 1);
        sides.extend(sure);
    }
    assert_eq!(sides, [1, 2].into());
}

#[test]
fn a_route_asked_for_says_what_keeps_it_away() {
    let snapshot = snapshot();
    let told = |url: &str, route: &str| {
        let question =
            Question::read("GET", url, &[""; 0]).expect("a question").about(Some(route.parse().expect("a name")));
        explain(&question, &snapshot, &listeners())
    };
    let told_broken = told("http://api.example.com/users", "broken").expect("an answer");
    let last = told_broken.routes.last().expect("a route");
    assert_eq!((last.name.as_str(), &*last.reason), ("broken", "path `/users` is not under `/broken`"));
    let hosts = told("http://nobody/users", "users").expect("an answer");
    let last = hosts.routes.last().expect("a route");
    assert_eq!(last.reason, "host `nobody` is not `api.example.com` or `*.example.org`");
    assert_eq!(told("http://nobody/", "none").expect_err("no such route").to_string(), "there is no route `none`");
}

#[test]
fn a_large_table_is_not_shown_whole() {
    let mut world = World::new();
    let routes: String = (0..1000)
        .map(|n| {
            format!("[routes.r{n}]\nmatch = {{ path = \"/\", headers = {{ x-n = \"{n}\" }} }}\nupstream = \"u\"\n")
        })
        .collect();
    world.documents(ProviderId::File, &format!("[upstreams.u]\nendpoints = []\n{routes}"));
    world.read_the_rest();
    let now = tokio::time::Instant::now();
    let built = Builder::new(now).build(&world.merge(), &Affected::All, &Snapshot::empty(), now).expect("a snapshot");
    let snapshot = Arc::new(built);
    let told = asked(&snapshot, "GET", "http://a/", &["x-n: 999"]);
    assert_eq!(told["routes"].as_array().expect("a list").len(), MOST_ROUTES + 1, "the one taken is always there");
    assert_eq!(told["routes"][MOST_ROUTES]["name"], "r999");
    assert_eq!(told["more_routes"], 1000 - MOST_ROUTES - 1);
}
