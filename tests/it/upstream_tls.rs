//! TLS with endpoints: whom the gateway believes, who it is to them, and that nothing is lost when that changes.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use crate::support::client::{Answer, Request};
use crate::support::consul::{Consul, Service};
use crate::support::gateway::{Gateway, Setup, serving};
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::pki::{Authority, Issued};
use crate::support::secured::Secured;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// A gateway of one worker before one endpoint, with these further lines of the upstream. `ca.pem` lies beside it.
fn setup(endpoint: &str, ca: &Authority, upstream: &str) -> Setup {
    Setup::new(&config(endpoint, upstream)).file("ca.pem", &ca.pem())
}

fn config(endpoint: &str, upstream: &str) -> String {
    let plain = format!(
        "endpoints = [\"{endpoint}\"]\nkeep_alive = \"60s\"\npassive_health = {{ consecutive_failures = 0 }}\n{upstream}"
    );
    serving("match = { path = \"/\" }\nretry = { attempts = 0 }", &plain)
}

const NAMED: &str = "tls = { ca = \"ca.pem\", server_name = \"app.internal\" }";

#[track_caller]
fn assert_unreached(answer: &Answer) {
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("UF")), "{answer:?}");
}

/// What the admin API says against the one endpoint.
async fn reasons(gateway: &Gateway) -> String {
    gateway.api("upstreams/app").await["endpoints"][0]["reasons"].to_string()
}

/// Waits until the log has a line with this.
async fn until_said(gateway: &Gateway, text: &str) {
    wait::until(SOON, text, || async { gateway.stderr().all().iter().any(|line| line.contains(text)) }).await;
}

#[tokio::test]
async fn an_endpoint_is_verified_and_its_connection_kept() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let shown = authority.issue("app", &["app.internal"]);
    let secured = Secured::start(origin.address(), &shown, None).await;
    let gateway = setup(&secured.address().to_string(), &authority, NAMED).start().await;
    for _ in 0..5 {
        let answer = gateway.send(Request::get("/x").host("api.example.com")).await;
        assert_eq!((answer.status, answer.served_by()), (200, "app/v1"));
    }
    let shaken = secured.shaken();
    assert_eq!(shaken.len(), 1, "one connection for all: {shaken:?}");
    assert_eq!(shaken[0].name.as_deref(), Some("app.internal"));
    assert_eq!(origin.last_seen().unwrap().header("host"), ["api.example.com"], "`Host` stays as it came");
}

#[tokio::test]
async fn sessions_are_resumed() {
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
        let shown = authority.issue("app", &["app.internal"]);
        let secured = Secured::start(origin.address(), &shown, None).await;
        secured.show_in(&shown, None, versions);
        let none_kept = format!("max_idle_per_endpoint = 0\n{NAMED}");
        let gateway = setup(&secured.address().to_string(), &authority, &none_kept).start().await;
        for _ in 0..4 {
            assert_eq!(gateway.get("/").await.status, 200);
        }
        let resumed: Vec<bool> = secured.shaken().iter().map(|shaken| shaken.resumed).collect();
        assert_eq!(resumed, [false, true, true, true], "{versions:?}");
    }
}

/// Bodies of every kind, and what is none: all of it goes through TLS as without.
#[tokio::test]
async fn large_bodies_streams_and_upgrades_go_through() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let secured = Secured::start(origin.address(), &authority.issue("app", &["app.internal"]), None).await;
    let gateway = setup(&secured.address().to_string(), &authority, NAMED).start().await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = gateway.send(Request::post("/up", body.clone())).await;
    assert_eq!(sent.status, 200);
    assert!(origin.last_seen().unwrap().body == body, "what arrived is what was sent");
    origin.on("/down", Behaviour::Answer { status: 200, headers: Vec::new(), body: body.clone() });
    assert!(gateway.get("/down").await.body == body, "what came back is what was sent");
    let (chunks, trailers) = (vec!["one".into(), "two".into()], vec![("x-sum", "3")]);
    origin.on("/stream", Behaviour::Stream { chunks, pause: Duration::from_millis(5), trailers });
    assert_eq!(gateway.get("/stream").await.body, b"onetwo");
    // Answered before the body was sent, which then goes on beside the answer.
    origin.on("/early", Behaviour::Early(200));
    assert_eq!(gateway.send(Request::post("/early", body)).await.status, 200);
    origin.set(Behaviour::WebSocket);
    let mut client = crate::http::upgrades::open(gateway.address()).await;
    crate::http::upgrades::echo(&mut client, &"x".repeat(100_000)).await.unwrap();
    client.send(b"last words").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(client.read_to_end().await, b"last words");
}

/// Each kind of certificate that is not to be believed: no answer, no byte of a request sent, and the reason told.
#[tokio::test]
async fn a_bad_certificate_is_a_failure_to_connect_that_says_why() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    for (shown, why) in [
        (other.issue("app", &["app.internal"]), "none of the authorities that are believed"),
        (authority.issue("app", &["elsewhere.internal"]), "not for `app.internal` but for"),
        (authority.issue_until("app", &["app.internal"], 2025), "certificate has expired"),
    ] {
        let origin = Origin::start("app").await;
        let secured = Secured::start(origin.address(), &shown, None).await;
        let gateway = setup(&secured.address().to_string(), &authority, NAMED).start().await;
        assert_unreached(&gateway.send(Request::post("/", "secret")).await);
        assert!(reasons(&gateway).await.contains(why), "{}", reasons(&gateway).await);
        until_said(&gateway, why).await;
        assert_unreached(&gateway.get("/").await);
        let said = gateway.stderr().all().iter().filter(|line| line.contains("TLS with an endpoint fails")).count();
        assert_eq!(said, 1, "said once, not for each request");
        let attempts = [("upstream", "app"), ("result", "connect")];
        assert_eq!(gateway.metric("fleetgate_upstream_attempts_total", &attempts).await, Some(2.0));
        assert_eq!(origin.requests(), 0);

        secured.show(&authority.issue("app", &["app.internal"]), None);
        assert_eq!(gateway.get("/").await.status, 200);
        assert_eq!(reasons(&gateway).await, "[]");
    }
}

#[tokio::test]
async fn an_endpoint_without_tls_or_that_says_nothing_is_a_failure_to_connect() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let gateway = setup(&origin.address().to_string(), &authority, NAMED).start().await;
    assert_unreached(&gateway.get("/").await);
    assert!(reasons(&gateway).await.contains("TLS"), "{}", reasons(&gateway).await);

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let lines = format!("connect_timeout = \"200ms\"\n{NAMED}");
    let gateway = setup(&silent.local_addr().unwrap().to_string(), &authority, &lines).start().await;
    assert_unreached(&gateway.get("/").await);
}

/// A handshake that fails at one endpoint is tried at another, also for what must not be sent twice.
#[tokio::test]
async fn a_failed_handshake_is_tried_again_elsewhere() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let good = Secured::start(origin.address(), &authority.issue("app", &["app.internal"]), None).await;
    let bad = Secured::start(origin.address(), &authority.issue("app", &["no"]), None).await;
    let endpoints = format!("{}\", \"{}", good.address(), bad.address());
    let text = config(&endpoints, NAMED).replace("attempts = 0", "attempts = 1");
    let gateway = Setup::new(&text).file("ca.pem", &authority.pem()).start().await;
    for _ in 0..10 {
        assert_eq!(gateway.send(Request::post("/", "once")).await.status, 200);
    }
    assert_eq!(origin.requests(), 10);
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_wanted() {
    let (authority, ours) = (Authority::new("authority"), Authority::new("ours"));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let origin = Origin::start("app").await;
        let shown = authority.issue("app", &["app.internal"]);
        let secured = Secured::start(origin.address(), &shown, Some(&ours)).await;
        secured.show_in(&shown, Some(&ours), versions);
        let gateway = setup(&secured.address().to_string(), &authority, NAMED).start().await;
        assert_unreached(&gateway.get("/").await);
        let told = reasons(&gateway).await;
        assert!(told.contains("asks for a certificate") || told.contains("refused"), "{versions:?}: {told}");

        let (foreign, own) = (authority.issue("gateway", &["gateway"]), ours.issue("gateway", &["gateway"]));
        let write = |issued: &Issued| {
            gateway.write("own.pem", &issued.cert);
            gateway.write("own-key.pem", &issued.key);
        };
        write(&own);
        let mutual =
            "tls = { ca = \"ca.pem\", server_name = \"app.internal\", cert = \"own.pem\", key = \"own-key.pem\" }";
        gateway.write_config(&config(&secured.address().to_string(), mutual));
        gateway.until_status("/", 200).await;
        assert!(secured.shaken().last().unwrap().identified);
        let expires =
            gateway.metric("fleetgate_upstream_certificate_expires_timestamp_seconds", &[("upstream", "app")]);
        assert!(expires.await.is_some_and(|at| at > 1e9));
        let view = gateway.api("upstreams/app").await["settings"]["tls"].to_string();
        assert!(view.contains("\"cert\":\""), "{view}");

        // Another's: refused, and the connections made with the one before are not used any more.
        write(&foreign);
        gateway.until_status("/", 502).await;
        // No pair: the last one stays.
        write(&own);
        gateway.until_status("/", 200).await;
        gateway.write("own-key.pem", &foreign.key);
        wait::until(SOON, "a word about the key", || async {
            gateway.api("status").await.to_string().contains("not the key of the certificate")
        })
        .await;
        assert_eq!(gateway.get("/").await.status, 200);
        keeps_keys_to_itself(&gateway, &[&own, &foreign]).await;
    }
}

/// No part of a key is in anything that the gateway says.
async fn keeps_keys_to_itself(gateway: &Gateway, issued: &[&Issued]) {
    let mut said = gateway.stderr().all().join("\n");
    for path in ["config", "upstreams", "upstreams/app", "status", "providers", "events"] {
        said += &gateway.api(path).await.to_string();
    }
    said += &gateway.metrics().await;
    for issued in issued {
        let line = issued.key.lines().nth(1).unwrap();
        assert!(!said.contains(line), "the key is told");
    }
}

/// Endpoints move to certificates of another authority, and the gateway follows in its file: nothing fails meanwhile.
#[tokio::test]
async fn files_are_replaced_under_load_without_a_failed_request() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let next = Authority::new("next");
    let secured = Secured::start(origin.address(), &authority.issue("app", &["app.internal"]), None).await;
    let gateway = setup(&secured.address().to_string(), &authority, NAMED).start().await;
    let load = Load::start(gateway.address(), 4, |_, _| Request::get("/"));
    load.more(50).await;
    let trusted = async || {
        let settings = gateway.api("upstreams/app").await["settings"]["tls"]["ca"].clone();
        settings.as_array().map_or(0, Vec::len)
    };
    gateway.write("ca.pem", &format!("{}{}", authority.pem(), next.pem()));
    wait::until(SOON, "both authorities", async || trusted().await == 2).await;
    load.more(50).await;
    secured.show(&next.issue("app", &["app.internal"]), None);
    gateway.write("ca.pem", &next.pem());
    wait::until(SOON, "the next authority alone", async || trusted().await == 1).await;
    load.more(50).await;
    let before = secured.shaken().len();
    load.more(200).await;
    // Old connections are gone, and the new ones are kept.
    assert!(before > 4 && secured.shaken().len() <= before + 1, "{before}: {}", secured.shaken().len());
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn the_name_is_the_endpoints_own_where_none_is_given() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let secured = Secured::start(origin.address(), &authority.issue("app", &["localhost", "127.0.0.1"]), None).await;
    let port = secured.address().port();
    for (endpoint, lines, name, host) in [
        // An address is verified, and never asked for (RFC 6066, 3).
        ("127.0.0.1", "", None, "api.example.com".to_owned()),
        ("127.0.0.1", "host = \"endpoint\"", None, format!("127.0.0.1:{port}")),
        ("localhost", "", Some("localhost"), "api.example.com".to_owned()),
        ("localhost", "host = \"endpoint\"", Some("localhost"), format!("localhost:{port}")),
        ("127.0.0.1", "host = \"localhost\"", Some("localhost"), "localhost".to_owned()),
        ("127.0.0.1", "host = \"localhost:99\"", Some("localhost"), "localhost:99".to_owned()),
    ] {
        let lines = format!("{lines}\ntls = {{ ca = \"ca.pem\" }}");
        let gateway = setup(&format!("{endpoint}:{port}"), &authority, &lines).start().await;
        wait::until_ok(SOON, "an answer", || async {
            let answer = gateway.send(Request::get("/").host("api.example.com")).await;
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        })
        .await;
        assert_eq!(secured.shaken().last().unwrap().name.as_deref(), name, "{endpoint} {lines}");
        assert_eq!(origin.last_seen().unwrap().header("host"), [host], "{endpoint} {lines}");
    }
}

#[tokio::test]
async fn health_checks_speak_tls_too() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let secured =
        Secured::start(origin.address(), &Authority::new("other").issue("app", &["app.internal"]), None).await;
    let checked = "health_check = { path = \"/healthz\", interval = \"100ms\", unhealthy_threshold = 1 }";
    let lines = format!("{checked}\n{NAMED}");
    let gateway = setup(&secured.address().to_string(), &authority, &lines).start().await;
    let state = async || gateway.endpoints("app").await[0].1.clone();
    wait::until(SOON, "an unhealthy endpoint", async || state().await == "unhealthy").await;
    let told = reasons(&gateway).await;
    assert!(told.contains("active checks fail: TLS: ") && told.contains("authorities"), "{told}");
    assert_eq!(origin.probes(), 0);
    secured.show(&authority.issue("app", &["app.internal"]), None);
    wait::until(SOON, "a healthy endpoint", async || state().await == "healthy").await;
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_connect_that_is_checked_is_one_with_tls() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let shown = authority.issue("app", &["app.internal"]);
    let secured = Secured::start(origin.address(), &shown, None).await;
    let lines = format!("{NAMED}\nhealth_check = {{ tcp = true, interval = \"100ms\", unhealthy_threshold = 1 }}");
    let stands = async |endpoint: String, state: &str| {
        let gateway = setup(&endpoint, &authority, &lines).start().await;
        wait::until(SOON, state, || async { gateway.endpoints("app").await == [(endpoint.clone(), state.to_owned())] })
            .await;
        reasons(&gateway).await
    };
    assert_eq!(stands(secured.address().to_string(), "healthy").await, "[]");
    // It accepts connections, as somebody else.
    secured.show(&Authority::new("other").issue("app", &["app.internal"]), None);
    let told = stands(secured.address().to_string(), "unhealthy").await;
    assert!(told.contains("active checks fail: TLS: "), "{told}");
}

#[tokio::test]
async fn whoever_is_not_verified_is_named() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let secured = Secured::start(origin.address(), &authority.issue_until("app", &["no"], 2025), None).await;
    let lines = "tls = { insecure_skip_verify = true }";
    let gateway = setup(&secured.address().to_string(), &authority, lines).start().await;
    assert_eq!(gateway.get("/").await.status, 200);
    let told = gateway.api("status").await.to_string();
    assert!(told.contains("upstreams.app.tls.insecure_skip_verify") && told.contains("not verified"), "{told}");
}

#[tokio::test]
async fn documents_of_a_registry_carry_their_certificates_as_text() {
    let Some(consul) = Consul::start().await else { return };
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let shown = authority.issue("app", &["app.internal"]);
    let secured = Secured::start(origin.address(), &shown, Some(&authority)).await;
    let own = authority.issue("gateway", &["gateway"]);
    let document = |tls: Value| json!({ "endpoints": [secured.address().to_string()], "tls": tls }).to_string();
    let whole = json!({ "ca": authority.pem(), "server_name": "app.internal", "cert": own.cert, "key": own.key });
    consul.kv_put("fleetgate/upstreams/app", &document(whole)).await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        discovery.consul.address = "{}"
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        "#,
        consul.url()
    ))
    .await;
    gateway.until_status("/", 200).await;
    consul.kv_put("fleetgate/upstreams/app", &document(json!({ "ca": "/etc/ssl/ca.pem" }))).await;
    wait::until(SOON, "a word about files", || async {
        gateway.api("providers").await.to_string().contains("only documents from files may name files")
    })
    .await;
    assert_eq!(gateway.get("/").await.status, 200, "the last good form stays");
    keeps_keys_to_itself(&gateway, &[&own]).await;
}

/// fabio's `proto=https`, verified by the system's authorities as there; and beside it the same service in plain text.
#[tokio::test]
async fn fabios_tags_ask_for_tls() {
    let Some(consul) = Consul::start().await else { return };
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let shown = authority.issue("app", &["127.0.0.1", "app.internal"]);
    let secured = Secured::start(origin.address(), &shown, None).await;
    let tags = [
        "urlprefix-/address proto=https",
        "urlprefix-/name proto=https host=app.internal",
        "urlprefix-/other proto=https host=other.internal",
        "urlprefix-/skip proto=https host=other.internal tlsskipverify=true",
        "urlprefix-/plain",
    ];
    consul.register(&Service::new("app", "app-1", secured.address()).tags(&tags)).await;
    let setup = Setup::new(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        discovery.consul = {{ address = "{}", fabio_tags = true, tag_networks = ["127.0.0.0/8"] }}
        "#,
        consul.url()
    ));
    let setup = setup.file("system.pem", &authority.pem());
    let system = setup.folder().join("system.pem");
    let gateway = setup.env("SSL_CERT_FILE", system).start().await;
    for (path, status, name, host) in [
        ("/address", 200, None, "x.com"),
        ("/name", 200, Some("app.internal"), "app.internal"),
        ("/skip", 200, Some("other.internal"), "other.internal"),
    ] {
        gateway.until_status(path, status).await;
        assert_eq!(gateway.send(Request::get(path).host("x.com")).await.status, 200);
        assert_eq!(secured.shaken().last().unwrap().name.as_deref(), name, "{path}");
        assert_eq!(origin.last_seen().unwrap().header("host"), [host], "{path}");
    }
    // Not the one of that name; and in plain text to a port of TLS there is no answer that is one.
    let before = origin.requests();
    for path in ["/other", "/plain"] {
        assert_eq!(gateway.get(path).await.status, 502, "{path}");
    }
    assert_eq!(origin.requests(), before);
    let told = gateway.api("status").await.to_string();
    assert_eq!(told.matches("endpoints are not verified").count(), 1, "{told}");
}

#[tokio::test]
async fn mistakes_are_told_with_their_place() {
    let authority = Authority::new("authority");
    let issued = authority.issue("app", &["app"]);
    for (tls, told) in [
        ("ca = \"none.pem\"", "upstreams.app.tls.ca: the file that it names cannot be read"),
        ("ca = \"own-key.pem\"", "upstreams.app.tls.ca: there is no certificate in it"),
        ("server_name = \"a b\"", "upstreams.app.tls.server_name: `a b` is neither a host name nor an IP address"),
        ("cert = \"own.pem\"", "upstreams.app.tls: `key` is missing"),
        ("key = \"own-key.pem\"", "upstreams.app.tls: `cert` is missing"),
        ("cert = \"ca.pem\", key = \"own-key.pem\"", "upstreams.app.tls.key: it is not the key of the certificate"),
        ("ca = \"ca.pem\", insecure_skip_verify = true", "upstreams.app.tls.ca: `ca` verifies"),
        ("sni = \"a\"", "upstreams.app.tls.sni: unknown key"),
    ] {
        let setup = setup("127.0.0.1:1", &authority, &format!("tls = {{ {tls} }}"));
        let setup = setup.file("own.pem", &issued.cert).file("own-key.pem", &issued.key);
        let output = setup.output(&["check", "--config", "fleetgate.toml"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(told), "{tls}: {text}");
    }
}
