//! Steps around exchanges, as clients and services notice them.

mod answers;
mod auth_circles;
mod cors;
mod fleet;
mod forward_auth;
mod jwt;
mod limits;
mod transform;
mod who;

use std::time::Duration;

use serde_json::json;

use crate::http::upgrades;
use crate::support::client::{Connection, Request};
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::multiplexed::Service;
use crate::support::origin::{Behaviour, Origin};

/// Long enough for everything that is to happen.
const SOON: Duration = Duration::from_secs(30);

/// A gateway before a service, whose only route is around everything with middlewares in this order.
fn around(origin: &Origin, names: &[&str], middlewares: &str) -> String {
    format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{}"]
        routes.all = {{ match = {{ path = "/" }}, upstream = "app", middlewares = {names:?} }}
        {middlewares}
        "#,
        origin.address()
    )
}

/// A gateway whose route `users` (`/users`) has these middlewares, of which some are defined.
fn config(origin: &Origin, of_listener: &str, of_route: &str) -> String {
    format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0", middlewares = [{of_listener}] }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        [upstreams.users]
        endpoints = ["{}"]
        [routes.users]
        match = {{ path = "/users" }}
        upstream = "users"
        middlewares = [{of_route}]
        [middlewares.strip-users]
        strip_prefix = "/users"
        [middlewares.v1]
        add_prefix = "/v1"
        [middlewares.team]
        add_prefix = "/team"
        "#,
        origin.address()
    )
}

async fn target(gateway: &Gateway, origin: &Origin, path: &str) -> String {
    let answer = gateway.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    origin.last_seen().unwrap().target
}

#[tokio::test]
async fn a_request_passes_the_listeners_middlewares_and_then_the_routes_in_order() {
    let origin = Origin::start("a").await;
    for (of_listener, of_route, path, wanted) in [
        ("", r#""strip-users""#, "/users/1?a=%2f", "/1?a=%2f"),
        ("", r#""strip-users""#, "/users", "/"),
        ("", r#""strip-users", "v1""#, "/users//x/../1", "/v1/1"),
        ("", r#""v1", "strip-users""#, "/users/1", "/v1/users/1"),
        (r#""strip-users""#, r#""v1""#, "/users/1", "/v1/1"),
        (r#""v1""#, r#""team@file""#, "/users/1", "/team/v1/users/1"),
        // Named by both, it is passed once, where the listener has it.
        (r#""strip-users", "team""#, r#""v1", "team""#, "/users/1", "/v1/team/1"),
    ] {
        let gateway = Gateway::start(&config(&origin, of_listener, of_route)).await;
        assert_eq!(target(&gateway, &origin, path).await, wanted, "{of_listener} {of_route}");
        let stripped = origin.last_seen().unwrap();
        let told = format!("{of_listener} {of_route}").contains("strip") && !of_route.starts_with("\"v1\", \"strip");
        assert_eq!(stripped.header("x-forwarded-prefix"), if told { vec!["/users"] } else { vec![] });
    }
}

#[tokio::test]
async fn a_route_whose_middleware_is_absent_is_never_served_without_it() {
    let origin = Origin::start("a").await;
    let refused = async |gateway: &Gateway, path: &str| {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("NC")), "{path}");
    };
    let gateway = Gateway::start(&config(&origin, "", r#""absent""#)).await;
    refused(&gateway, "/users/1").await;
    assert_eq!(gateway.get("/elsewhere").await.status, 404);
    let routes = gateway.api("routes").await;
    assert!(routes["items"][0].to_string().contains("there is no middleware `absent`"), "{routes}");
    // Of a listener: on every route, and where there is none.
    let gateway = Gateway::start(&config(&origin, r#""absent""#, "")).await;
    refused(&gateway, "/users/1").await;
    refused(&gateway, "/elsewhere").await;
    assert_eq!(origin.requests(), 0);
}

/// Documents of middlewares come, change and go in a registry; what is in flight is served by what it began with.
async fn follow(registry: &str, put: impl AsyncFn(&str, &str), delete: impl AsyncFn(&str)) {
    let origin = Origin::start("a").await;
    let text = format!("{registry}\n{}", config(&origin, "", r#""late""#));
    let gateway = Gateway::start(&text).await;
    assert_eq!(gateway.get("/users/1").await.status, 503);
    put("middlewares/late", "strip_prefix = \"/users\"").await;
    gateway.until_status("/users/1", 200).await;
    assert_eq!(origin.last_seen().unwrap().target, "/1");

    let load = Load::start(gateway.address(), 2, |_, number| Request::get(&format!("/users/{number}")));
    load.more(50).await;
    put("middlewares/late.json", "{\"add_prefix\": \"/other\"}").await;
    put("middlewares/late", "{\"add_prefix\": \"/v2\"}").await;
    let changed = || async { target(&gateway, &origin, "/users/1").await.starts_with("/v2/users/") };
    crate::support::wait::until(SOON, "the new form", changed).await;
    // A bad edit changes nothing.
    put("middlewares/late", "{\"add_prefix\": 7}").await;
    let told = || async {
        gateway.api("routes").await.to_string().contains("late") || gateway.stderr().text().contains("add_prefix")
    };
    crate::support::wait::until(SOON, "the mistake to be told", told).await;
    load.more(50).await;
    load.stop().await.assert_all_ok();
    delete("middlewares/late.json").await;
    delete("middlewares/late").await;
    // The route needs it, and has its last form.
    let kept = || async { gateway.api("routes").await.to_string().contains("\"kept\"") };
    crate::support::wait::until(SOON, "the route to be kept", kept).await;
    assert!(target(&gateway, &origin, "/users/1").await.starts_with("/v2/users/"));
    let again = Gateway::start(&text).await;
    assert_eq!(again.get("/users/1").await.status, 503);
}

#[tokio::test]
async fn middlewares_in_consul_come_change_and_go() {
    let Some(consul) = Consul::start().await else { return };
    let registry = format!("discovery.consul.address = \"{}\"", consul.url());
    let put = async |key: &str, text: &str| consul.kv_put(&format!("fleetgate/{key}"), text).await;
    follow(&registry, put, async |key: &str| consul.kv_delete(&format!("fleetgate/{key}")).await).await;
}

#[tokio::test]
async fn middlewares_in_etcd_come_change_and_go() {
    let Some(etcd) = Etcd::start().await else { return };
    let registry = format!("discovery.etcd.endpoints = [\"{}\"]", etcd.url());
    let put = async |key: &str, text: &str| {
        etcd.put(&format!("/fleetgate/{key}"), text).await;
    };
    let delete = async |key: &str| {
        etcd.delete(&format!("/fleetgate/{key}")).await;
    };
    follow(&registry, put, delete).await;
}

#[tokio::test]
async fn websockets_pass_middlewares() {
    let origin = Origin::start("a").await;
    origin.set(Behaviour::WebSocket);
    let text = config(&origin, "", r#""v1""#).replace(r#"path = "/users""#, r#"path = "/chat""#);
    let gateway = Gateway::start(&text).await;
    let mut client = upgrades::open(gateway.address()).await;
    upgrades::echo(&mut client, "hello").await.unwrap();
    assert_eq!(origin.last_seen().unwrap().target, "/v1/chat");
    drop(client);
    let line = gateway.until_logged("the upgrade", |line| line["status"] == 101).await;
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(5), Some(5)), "{line}");
}

/// What an answer is made of comes as its service sends it, its connection is used again, and the log has its bytes.
#[tokio::test]
async fn answers_stream_through_middlewares_and_connections_are_kept() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&config(&origin, r#""v1""#, "")).await;
    let mut client = Connection::open(gateway.address()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.exchange(&Request::get("/users/1")).await.unwrap().status, 200);
    }
    assert_eq!(origin.last_seen().unwrap().connection, 1, "one connection for all");

    origin.then(Behaviour::RawKept(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n".to_vec()));
    client.send(&Request::get("/users/2").bytes(gateway.address())).await.unwrap();
    client.head().await.unwrap();
    assert_eq!(client.chunk().await.unwrap(), b"first", "nothing waits for what is to come");
    client.reset();
    let line = gateway.until_logged("the broken one", |line| line["path"] == "/users/2").await;
    assert_eq!((line["bytes_out"].as_u64(), line["flag"].as_str()), (Some(5), Some("DC")), "{line}");

    let line = gateway.until_logged("a whole one", |line| line["path"] == "/users/1").await;
    assert_eq!((&line["flag"], line["status"].as_u64()), (&"".into(), Some(200)), "{line}");
}

/// What the gateway answers itself, too: a call of gRPC is told as such what goes wrong behind middlewares.
#[tokio::test]
async fn calls_over_http2_pass_middlewares() {
    let service = Service::start().await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0", middlewares = ["v1"] }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.up = {{ endpoints = ["{}"], protocol = "http2" }}
        routes.all = {{ match = {{ path = "/" }}, upstream = "up" }}
        middlewares.v1.add_prefix = "/v1"
        "#,
        service.address()
    ))
    .await;
    let answer = gateway.send(Request::post("/a", "body")).await;
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("body")));
    assert!(service.last().uri.ends_with("/v1/a"), "{}", service.last().uri);
}

#[tokio::test]
async fn explain_lists_and_history_tell_of_middlewares() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&config(&origin, r#""strip-users""#, r#""v1", "strip-users@file""#)).await;
    let told = gateway.api("explain?method=GET&url=http://a.test/users/1").await;
    let passed: Vec<String> = told["middlewares"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {} {} {}", one["name"], one["type"], one["of"], one["runs"]).replace('"', ""))
        .collect();
    assert_eq!(
        passed,
        ["strip-users strip_prefix listener true", "v1 add_prefix route true", "strip-users strip_prefix route false"]
    );
    assert_eq!(gateway.api("routes").await["items"][0]["middlewares"], json!(["v1", "strip-users@file"]));
    let shown = gateway.api("config").await;
    assert_eq!(shown["middlewares"][0]["document"], json!({ "strip_prefix": "/users" }), "{shown}");
    assert_eq!(shown["settings"]["listeners"]["web"]["middlewares"], json!(["strip-users"]));

    gateway.write_config(
        &config(&origin, r#""strip-users""#, r#""v1", "strip-users@file""#).replace("\"/v1\"", "\"/v2\""),
    );
    let changed = || async { target(&gateway, &origin, "/users/1").await == "/v2/1" };
    crate::support::wait::until(SOON, "the change", changed).await;
    let events = gateway.api("events").await["items"].clone();
    let event = events.as_array().unwrap().iter().find(|event| event["event"] == "middleware_changed");
    let event = event.unwrap_or_else(|| panic!("{events}"));
    assert_eq!(
        (&event["middleware"], &event["before"], &event["after"]),
        (&json!("v1"), &json!({ "add_prefix": "/v1" }), &json!({ "add_prefix": "/v2" }))
    );
}

#[test]
fn a_middleware_that_no_file_defines_is_told_by_check() {
    let setup = Setup::new(
        r#"
listeners.web = { address = "127.0.0.1:0", middlewares = ["strip-user"] }
routes.users = { match = { path = "/" }, upstream = "users", middlewares = ["strip-users", "v1"] }
upstreams.users.endpoints = ["127.0.0.1:1"]
middlewares.strip-users.strip_prefix = "/users"
"#,
    );
    setup.assert_check_tells(&[
        "listeners.web.middlewares[0]: there is no middleware `strip-user`; did you mean `strip-users`?",
        "routes.users.middlewares[1]: there is no middleware `v1`",
    ]);
}
