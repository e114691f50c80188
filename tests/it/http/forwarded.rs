//! Who sends a request, as trusted proxies in front tell: everything that goes by the client's address or protocol.

use std::time::Duration;

use serde_json::Value;

use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// A gateway that trusts its peers of 127.0.0.1 and of 10.0.0.0/8, with a route for everything that goes by addresses.
/// Allowed are the networks of the proxies themselves, as where everything inside is trusted.
fn config(app: &Origin, auth: &Origin) -> String {
    let mut config = format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.1/32", "10.0.0.0/8"] }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        telemetry.audit = "audit.jsonl"
        upstreams.app = {{ endpoints = ["{0}"], balance = "maglev", hash = {{ client_ip = true }} }}
        upstreams.auth.endpoints = ["{1}"]
        middlewares.allowed.ip = {{ allow = ["127.0.0.0/8", "10.0.0.0/8"] }}
        middlewares.not-denied.ip = {{ deny = ["192.0.2.0/24"] }}
        middlewares.required.require = [{{ ips = ["127.0.0.0/8", "10.0.0.0/8"] }}]
        middlewares.maintained.maintenance = {{ allow = ["127.0.0.0/8", "10.0.0.0/8"] }}
        middlewares.told.headers.request.set = {{ x-client = "${{client_ip}}", x-scheme = "${{scheme}}" }}
        middlewares.asked.forward_auth = {{ upstream = "auth", path = "/" }}
        middlewares.limited.rate_limit = {{ rate = "1/d", burst = 1 }}
        "#,
        app.address(),
        auth.address()
    );
    for name in ["allowed", "not-denied", "required", "maintained", "told", "asked", "limited"] {
        config += &format!(
            "\nroutes.{name} = {{ match = {{ path = \"/{name}\" }}, upstream = \"app\", middlewares = [\"{name}\"] }}"
        );
    }
    config + "\nroutes.sticky = { match = { path = \"/sticky\" }, upstream = \"app\", sticky = { client_ip = true } }"
}

/// What proxies send on, and who the client is; the empty list is no header.
const LINES: [(&[&[u8]], &str); 26] = [
    (&[], "127.0.0.1"),
    (&[b"10.1.2.3"], "10.1.2.3"),
    (&[b"10.1.2.3:443"], "10.1.2.3"),
    (&[b"203.0.113.9"], "203.0.113.9"),
    // A client's own line, and what the proxy appends.
    (&[b"\xff, 203.0.113.9"], "203.0.113.9"),
    (&[b"\xff", b"203.0.113.9"], "203.0.113.9"),
    (&[b"127.0.0.1, 203.0.113.9"], "203.0.113.9"),
    (&[b"J\xc3\xb6rg, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
    (&[b"unknown, 203.0.113.9"], "203.0.113.9"),
    (&[b", 203.0.113.9"], "203.0.113.9"),
    // As proxies write addresses.
    (&[b"203.0.113.9:443, 10.1.2.3"], "203.0.113.9"),
    (&[b"\"203.0.113.9\""], "203.0.113.9"),
    (&[b"203.0.113.9,"], "203.0.113.9"),
    (&[b"203.0.113.9,, 10.1.2.3, "], "203.0.113.9"),
    (&[b"[2001:db8::1]"], "2001:db8::1"),
    (&[b"[2001:db8::1]:443"], "2001:db8::1"),
    (&[b"2001:db8::1%eth0"], "2001:db8::1"),
    (&[b"::ffff:203.0.113.9"], "203.0.113.9"),
    // What nobody can read.
    (&[b"203.0.113.9, \xff"], "unknown"),
    (&[b"10.1.2.3, \xff, 10.1.2.3"], "unknown"),
    (&[b"10.1.2.3\xff"], "unknown"),
    (&[b"unknown"], "unknown"),
    (&[b"10.1.2.3, _hidden"], "unknown"),
    (&[b"010.1.2.3"], "unknown"),
    (&[b""], "unknown"),
    (&[b",", b" "], "unknown"),
];

fn asked(path: &str, lines: &[&[u8]]) -> Request {
    lines.iter().fold(Request::get(path), |request, line| request.header_bytes("x-forwarded-for", line))
}

#[tokio::test]
async fn nobody_is_the_trusted_proxy_by_what_cannot_be_read() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth)).await;
    for (lines, client) in LINES {
        let is_inside = client.starts_with("127.") || client.starts_with("10.");
        let status = async |path: &str| gateway.send(asked(path, lines)).await.status;
        assert_eq!(status("/allowed").await, if is_inside { 200 } else { 403 }, "{lines:?}");
        assert_eq!(status("/required").await, if is_inside { 200 } else { 403 }, "{lines:?}");
        assert_eq!(status("/maintained").await, if is_inside { 200 } else { 503 }, "{lines:?}");
        assert_eq!(status("/not-denied").await, if client == "unknown" { 403 } else { 200 }, "{lines:?}");
        assert_eq!((status("/told").await, status("/sticky").await, status("/asked").await), (200, 200, 200));
        let seen = app.seen();
        let told = seen.iter().rfind(|seen| seen.target == "/told").unwrap();
        assert_eq!(told.header("x-client"), [client], "{lines:?}");
        assert_eq!(auth.last_seen().unwrap().header("x-forwarded-for"), [client], "{lines:?}");
        let forwarded = told.header("x-forwarded-for").join(" + ");
        assert!(forwarded.is_ascii() && forwarded.ends_with("127.0.0.1") && !forwarded.contains('+'), "{forwarded}");
        assert!(forwarded.split(',').all(|member| !member.trim().is_empty()), "{lines:?}: {forwarded}");
    }
}

#[tokio::test]
async fn the_logs_tell_an_unknown_client_with_the_proxy_before_it() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth)).await;
    for (line, client, peer) in
        [("203.0.113.9:1", "203.0.113.9", Value::Null), ("203.0.113.9, nobody", "unknown", "127.0.0.1".into())]
    {
        assert_eq!(gateway.send(Request::get("/allowed").header("x-forwarded-for", line)).await.status, 403);
        let logged = gateway.until_logged("the exchange", |line| line["client"] == client).await;
        assert_eq!(logged["peer"], peer);
        let audited = wait::until_ok(SOON, "the audit log", || async {
            let text = std::fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            lines.iter().rfind(|line| line["client"] == client).cloned().ok_or(text)
        })
        .await;
        assert_eq!((&audited["peer"], &audited["by"]), (&peer, &"ip".into()));
    }
}

#[tokio::test]
async fn a_client_has_one_budget_however_it_is_written_and_unknown_ones_share_one() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth)).await;
    for (line, status) in [
        (&b"203.0.113.1:1"[..], 200),
        (b"203.0.113.1:2", 429),
        (b"[::ffff:203.0.113.1]:3", 429),
        (b"\xff, 203.0.113.1", 429),
        (b"203.0.113.2:1", 200),
        (b"203.0.113.3:1", 200),
        (b"\xff", 200),
        (b"203.0.113.7, unknown", 429),
        (b"_hidden", 429),
        // Nor is that budget the proxy's own.
        (b"127.0.0.1", 200),
    ] {
        let answer = gateway.send(Request::get("/limited").header_bytes("x-forwarded-for", line)).await;
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(line));
    }
}

#[tokio::test]
async fn the_protocol_is_read_as_proxies_write_it_and_never_redirects_in_a_circle() {
    let origin = Origin::start("app").await;
    let config = format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.1"], redirect_to_https = {{}} }}
        listeners.plain = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.1"] }}
        listeners.direct.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        upstreams.app.endpoints = ["{}"]
        routes.all = {{ match = {{ path = "/" }}, upstream = "app", middlewares = ["told"] }}
        middlewares.told.headers.request.set.x-scheme = "${{scheme}}"
        "#,
        origin.address()
    );
    let gateway = Gateway::start(&config).await;
    for (protos, client, scheme) in [
        (&[][..], None, "http"),
        (&["https"][..], None, "https"),
        (&["http"], None, "http"),
        (&["HTTPS"], None, "https"),
        (&["https, http"], None, "https"),
        (&["https,https"], None, "https"),
        (&[" https ,"], None, "https"),
        (&["\"https\""], None, "https"),
        (&["https", "http"], None, "https"),
        (&["http, https"], None, "http"),
        (&["wss"], None, "https"),
        (&["httpsx"], None, "http"),
        (&["on"], None, "http"),
        // Two proxies append, and the client said something of its own.
        (&["https, http, http"], Some("6.6.6.6, 203.0.113.9, 127.0.0.1"), "http"),
        (&["http, https, http"], Some("6.6.6.6, 203.0.113.9, 127.0.0.1"), "https"),
        (&["https"], Some("6.6.6.6, 203.0.113.9, 127.0.0.1"), "https"),
    ] {
        let ask = |listener: &str| {
            let request = protos.iter().fold(Request::get("/"), |it, proto| it.header("x-forwarded-proto", proto));
            let request = client.into_iter().fold(request, |it, line| it.header("x-forwarded-for", line));
            request.send(gateway.listener(listener))
        };
        let is_https = scheme == "https";
        assert_eq!(ask("web").await.status, if is_https { 200 } else { 308 }, "{protos:?} {client:?}");
        ask("plain").await;
        let seen = origin.last_seen().unwrap();
        assert_eq!(seen.header("x-scheme"), [scheme], "{protos:?} {client:?}");
        let sent = seen.header("x-forwarded-proto");
        assert!(sent == [scheme] || sent == ["wss"], "{protos:?}: {sent:?}");
        // Nobody believes a stranger.
        ask("direct").await;
        let seen = origin.last_seen().unwrap();
        assert_eq!((seen.header("x-scheme"), seen.header("x-forwarded-proto")), (vec!["http"], vec!["http"]));
    }
}
