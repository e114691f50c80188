//! The admin API of the running gateway: pages, who may see them, readiness, health checks seen from outside.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, Request};
use crate::support::gateway::{Gateway, Setup, fleetgate};
use crate::support::origin::Origin;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

fn config(origins: &[&Origin], more: &str) -> String {
    let endpoints: Vec<String> = origins.iter().map(|it| format!("{{ address = \"{}\" }}", it.address())).collect();
    format!(
        r#"
            listeners.web.address = "127.0.0.1:0"
            admin.address = "127.0.0.1:0"
            [upstreams.users]
            endpoints = [{}]
            subsets = {{ none = {{ version = "v9" }} }}
            [routes.users]
            match = {{ path = "/users" }}
            upstream = "users"
            {more}
        "#,
        endpoints.join(", ")
    )
}

/// Starts a gateway that does not get ready by itself: waits until it is bound.
async fn bound(setup: Setup) -> Gateway {
    let gateway = setup.launch().await;
    wait::until(SOON, "the admin address", || async { gateway.stdout().contains("admin ") }).await;
    gateway
}

async fn ask(admin: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).host("localhost");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send(admin).await
}

#[tokio::test]
async fn the_pages_tell_what_is_served() {
    let origin = Origin::start("users").await;
    let more = r#"
        [routes.lost]
        match = { path = "/lost" }
        upstream = "nowhere"
        [routes.thin]
        match = { path = "/thin" }
        targets = [{ upstream = "users" }, { upstream = "users", subset = "none" }]
    "#;
    let gateway = Gateway::start(&config(&[&origin], more)).await;

    let routes = gateway.api("routes").await;
    let states: Vec<_> = routes["items"].as_array().unwrap().iter().map(|it| (&it["name"], &it["state"])).collect();
    assert_eq!(
        states,
        [(&json!("lost"), &json!("unresolved")), (&json!("thin"), &json!("degraded")), (&json!("users"), &json!("ok"))]
    );
    assert!(routes["items"][0]["reasons"].to_string().contains("nowhere"), "{routes}");
    assert!(routes["items"][1]["reasons"].to_string().contains("users/none"), "{routes}");
    assert_eq!(routes["items"][2]["match"], json!({ "path": "/users" }));

    let upstream = gateway.api("upstreams/users").await;
    assert_eq!(upstream["source"], "static");
    assert_eq!(
        upstream["endpoints"],
        json!([{
            "address": origin.address().to_string(), "weight": 1, "labels": {}, "state": "healthy",
            "reasons": [], "in_flight": 0, "priority": 0
        }])
    );
    assert_eq!(gateway.api("upstreams").await["items"][0], upstream);

    let status = gateway.api("status").await;
    assert_eq!(status["routes"], json!({ "ok": 1, "degraded": 1, "kept": 0, "shadowed": 0, "unresolved": 1 }));
    assert_eq!(status["endpoints"]["healthy"], 1);
    assert_eq!(status["listeners"], json!([{ "name": "web", "address": gateway.address().to_string() }]));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["generation"].as_u64() >= Some(1));

    let providers = gateway.api("providers").await;
    assert!(providers["items"].as_array().unwrap().iter().any(|it| it["name"] == "file"), "{providers}");
    let config = gateway.api("config").await;
    assert_eq!(config["settings"]["listeners"]["web"]["idle_timeout"], "75s");
    assert_eq!(config["routes"][2]["document"]["targets"], json!([{ "upstream": "users", "weight": 1 }]));
}

#[tokio::test]
async fn a_rejected_document_is_told_and_changes_nothing() {
    let origin = Origin::start("users").await;
    let gateway = Gateway::start(&config(&[&origin], "")).await;
    gateway.write_config(&config(&[&origin], "retry = { attempts = \"many\" }"));
    let rejected = wait::until_ok(SOON, "the rejected route", || async {
        let providers = gateway.api("providers").await;
        let items = providers["items"].as_array().unwrap().clone();
        let file = items.into_iter().find(|it| it["name"] == "file").unwrap_or_default();
        if file["rejected"] == json!([]) { Err(file) } else { Ok(file["rejected"].clone()) }
    })
    .await;
    assert!(rejected.to_string().contains("attempts"), "{rejected}");
    let told = format!("routes.users.retry.attempts: {}", rejected[0]["text"].as_str().unwrap());
    wait::until(SOON, "the mistake in the log", async || gateway.stderr().contains(&told)).await;
    let status = fleetgate(&["status", "--admin", &format!("http://{}", gateway.admin())]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(&told), "{status}");
    assert_eq!(gateway.get("/users").await.served_by(), "users/v1");
    assert_eq!(gateway.metric("fleetgate_discovery_rejected_items", &[("provider", "file")]).await, Some(1.0));
}

#[tokio::test]
async fn the_token_is_needed_and_told_to_nobody() {
    let secrets = ["t0ken-of-admin", "t0ken-of-consul"];
    let origin = Origin::start("users").await;
    let more = "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"";
    let text = config(&[&origin], more).replace("admin.address = \"127.0.0.1:0\"", "");
    let setup = Setup::new(&text).file("admin.token", "t0ken-of-admin\n").env("CONSUL_HTTP_TOKEN", secrets[1]);
    let gateway = bound(setup.env("FLEETGATE_DISCOVERY__CONSUL__ADDRESS", "http://127.0.0.1:9")).await;
    let admin = gateway.admin();

    assert_eq!(ask(admin, "/healthz", &[]).await.status, 200);
    let readiness = ask(admin, "/readyz", &[]).await;
    assert_eq!((readiness.status, readiness.json()), (503, json!({ "ready": false })));
    for page in ["/metrics", "/api/v1/status", "/api/v1/config", "/api/v1/events", "/nowhere"] {
        let answer = ask(admin, page, &[]).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!("unauthorised")), "{page}");
        assert_eq!(ask(admin, page, &[("authorization", "Bearer t0ken-of-admi")]).await.status, 401, "{page}");
    }
    let bearer = [("authorization", "Bearer t0ken-of-admin")];
    // any:t0ken-of-admin
    let basic = [("authorization", "Basic YW55OnQwa2VuLW9mLWFkbWlu")];
    assert_eq!(ask(admin, "/api/v1/status", &basic).await.status, 200);
    let readiness = ask(admin, "/readyz", &bearer).await;
    assert!(readiness.text().contains("consul-kv has not been read yet"), "{}", readiness.text());
    let pages =
        ["status", "routes", "upstreams", "upstreams/users", "providers", "config", "events", "explain?url=a/users"];
    let pages = pages.map(|page| format!("/api/v1/{page}"));
    for page in pages.iter().map(String::as_str).chain(["/metrics", "/readyz"]) {
        let text = ask(admin, page, &bearer).await.text();
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{page}: {text}");
    }
    let log = gateway.stderr().text();
    assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
}

#[tokio::test]
async fn public_pages_answer_load_balancers_whatever_they_add() {
    let origin = Origin::start("users").await;
    let admin = |more: &str| {
        let text = config(&[&origin], &format!("[admin]\naddress = \"127.0.0.1:0\"\n{more}"));
        Setup::new(&text.replacen("admin.address = \"127.0.0.1:0\"", "", 1)).file("admin.token", "t0ken-of-admin\n")
    };
    let marks = [
        ("x-forwarded-for", "10.0.0.9"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "10.0.0.9"),
        ("x-request-id", "7"),
        ("forwarded", "for=10.0.0.9"),
        ("via", "1.1 lb"),
        ("via", "1.1 fleetgate"),
    ];
    let guarded = admin("token_file = \"admin.token\"").start().await;
    let open = admin("token_file = \"admin.token\"\nmetrics_public = true").start().await;
    for mark in marks {
        for (gateway, metrics) in [(&guarded, 403), (&open, 200)] {
            let admin = gateway.admin();
            for (page, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", metrics), ("/api/v1/status", 403)]
            {
                let answer = ask(admin, page, &[mark]).await;
                assert_eq!(answer.status, status, "{page} with {mark:?}: {}", answer.text());
                if status == 403 {
                    assert_eq!(answer.json()["error"]["code"], "forwarded", "{page} with {mark:?}");
                }
            }
            assert_eq!(ask(admin, "/readyz", &[mark]).await.json(), json!({ "ready": true }), "{mark:?}: no reasons");
        }
    }
}

#[tokio::test]
async fn without_a_token_only_this_machine_is_answered() {
    let origin = Origin::start("users").await;
    let gateway = Gateway::start(&config(&[&origin], "")).await;
    for (host, status) in [("localhost", 200), ("127.0.0.1:9901", 200), ("rebound.example", 403)] {
        let answer = Request::get("/api/v1/status").host(host).send(gateway.admin()).await;
        assert_eq!(answer.status, status, "{host}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{host}");
    }
    // HTTP/1.0 without a host, as plain health checks are.
    for (page, status) in [("/healthz", 200), ("/readyz", 200), ("/api/v1/status", 403), ("/metrics", 403)] {
        let mut client = Connection::open(gateway.admin()).await.unwrap();
        client.send(format!("GET {page} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(client.answer("GET").await.unwrap().status, status, "{page}");
    }
    let refused = Request::new("DELETE", "/api/v1/routes").host("localhost").send(gateway.admin()).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn readiness_waits_for_sources_unless_told_not_to() {
    let origin = Origin::start("users").await;
    let unreachable = "\n[discovery.etcd]\nendpoints = [\"http://127.0.0.1:9\"]\n";
    let gateway = bound(Setup::new(&config(&[&origin], unreachable))).await;
    assert_eq!(gateway.until_status("/users", 503).await.header("x-fleetgate-flag"), Some("NC"));
    let (status, text) = gateway.admin_get("/readyz").await;
    assert!(status == 503 && text.contains("etcd has not been read yet"), "{status}: {text}");

    // The limit is for endpoints, not for documents.
    let waits = "discovery.optional = [\"etcd\"]\nupstreams.late.etcd = {}";
    let text = config(&[&origin], unreachable).replacen("listeners.web", &format!("{waits}\nlisteners.web"), 1);
    let gateway = bound(Setup::new(&text)).await;
    assert_eq!(gateway.until_status("/users", 200).await.served_by(), "users/v1");
    let (status, said) = gateway.admin_get("/readyz").await;
    assert!(status == 503 && said.contains("upstream late"), "{status}: {said}");
    let gateway = Gateway::start(&format!("runtime.ready_timeout = \"300ms\"\n{text}")).await;
    wait::until(SOON, "readiness", || async { gateway.admin_get("/readyz").await.0 == 200 }).await;
}

#[tokio::test]
async fn a_stop_is_told_before_it_begins() {
    let origin = Origin::start("users").await;
    let more = "\n[runtime]\nshutdown_delay = \"1500ms\"\n";
    let mut gateway = Gateway::start(&config(&[&origin], more)).await;
    wait::until(SOON, "readiness", || async { gateway.admin_get("/readyz").await.0 == 200 }).await;
    gateway.process().signal("TERM");
    wait::until(SOON, "no readiness", || async { gateway.admin_get("/readyz").await.0 == 503 }).await;
    assert_eq!(gateway.get("/users").await.status, 200, "it serves on while others take note");
    let status = gateway.process().end(SOON).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn health_checks_are_seen_and_decide() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let check = |path: &str| {
        format!("[upstreams.users.health_check]\npath = \"{path}\"\ninterval = \"100ms\"\nunhealthy_threshold = 2\n")
    };
    let gateway = Gateway::start(&config(&[&one, &two], &check("/healthz"))).await;
    let state = async |origin: &Origin| {
        let endpoints = gateway.endpoints("users").await;
        let address = origin.address().to_string();
        endpoints.into_iter().find(|(endpoint, _)| *endpoint == address).map(|(_, state)| state).unwrap_or_default()
    };
    wait::until(SOON, "both healthy", || async { state(&one).await == "healthy" && state(&two).await == "healthy" })
        .await;
    wait::until(SOON, "readiness", || async { gateway.admin_get("/readyz").await.0 == 200 }).await;

    one.set_healthy(false);
    wait::until(SOON, "one unhealthy", || async { state(&one).await == "unhealthy" }).await;
    let upstream = gateway.api("upstreams/users").await;
    assert!(upstream.to_string().contains("active checks fail: status 503"), "{upstream}");
    for _ in 0..20 {
        assert_eq!(gateway.get("/users").await.served_by(), "two/v1");
    }
    let unhealthy = [("upstream", "users"), ("state", "unhealthy")];
    assert_eq!(gateway.metric("fleetgate_upstream_endpoints", &unhealthy).await, Some(1.0));

    // A reload that leaves the check alone leaves what it found alone.
    let generation = async || gateway.api("status").await["generation"].clone();
    let before = generation().await;
    gateway.write_config(&config(&[&one, &two], &check("/healthz")).replace("[routes.users]", "[routes.people]"));
    wait::until(SOON, "a new snapshot", || async { generation().await != before }).await;
    let upstream = gateway.api("upstreams/users").await;
    assert!(upstream.to_string().contains("active checks fail: status 503"), "{upstream}");
    one.set_healthy(true);
    wait::until(SOON, "one healthy again", || async { state(&one).await == "healthy" }).await;
    let log = gateway.stderr().text();
    assert!(log.contains("endpoint is unhealthy") && log.contains("endpoint is healthy"), "{log}");
}

#[tokio::test]
async fn a_kept_connection_asks_again() {
    let origin = Origin::start("users").await;
    let gateway = Gateway::start(&config(&[&origin], "")).await;
    let mut connection = Connection::open(gateway.admin()).await.unwrap();
    for _ in 0..3 {
        let request = Request::get("/api/v1/status").host("localhost");
        let status: Value = connection.exchange(&request).await.unwrap().json();
        assert_eq!(status["upstreams"], 1);
    }
}
