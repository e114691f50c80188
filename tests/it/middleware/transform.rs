//! Middlewares that change requests and answers, or answer themselves.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::support::client::Request;
use crate::support::gateway::{Gateway, Setup};
use crate::support::multiplexed::Service;
use crate::support::origin::{Behaviour, Origin};
use crate::support::pki::Authority;
use crate::support::tls::{Client, empty, http2_over, request};

use super::around;

fn with_header(name: &'static str, value: &str) -> Behaviour {
    Behaviour::Answer { status: 200, headers: vec![(name, value.to_owned())], body: b"of the service".to_vec() }
}

#[tokio::test]
async fn headers_hold_values_of_the_request_and_no_client_gets_around_them() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(
        &origin,
        &["tell"],
        r#"
        [middlewares.tell.headers]
        request.set = { x-client = "${client_ip}", x-user = "${claims.sub}", x-asked = "${method} ${path}?${query}" }
        request.add = { x-tag = "${header.x-team}/${cookie.c}" }
        response.set = { x-by = "${route} for ${request_id}", server = "" }
        response.remove = ["x-served-by"]
        "#,
    ))
    .await;
    let asked = Request::get("/a?b=1")
        .header("x-client", "8.8.8.8")
        .header("x-user", "root")
        .header("x-team", "red")
        .header("cookie", "c=7")
        .header("x-request-id", "one")
        .header("connection", "close, x-client, x-tag");
    let answer = gateway.send(asked).await;
    let seen = origin.last_seen().unwrap();
    assert_eq!(seen.header("x-client"), ["127.0.0.1"]);
    assert_eq!(seen.header("x-asked"), ["GET /a?b=1"]);
    assert_eq!(seen.header("x-tag"), ["red/7"]);
    assert!(seen.header("x-user").is_empty(), "nobody said who the client is, and its own word does not count");
    assert_eq!(answer.header("x-by"), Some("all for one"));
    assert_eq!((answer.header("server"), answer.header("x-served-by")), (None, None));
    // An answer of the gateway's own has them, too.
    drop(origin);
    let answer = gateway.send(Request::get("/").header("x-request-id", "two")).await;
    assert_eq!((answer.status, answer.header("x-by")), (502, Some("all for two")));
}

#[tokio::test]
async fn rewritten_paths_stay_in_normal_form() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(
        &origin,
        &["by-regex"],
        r#"middlewares.by-regex.rewrite.path = { regex = "^/users/([^/]+)(.*)$", to = "/u${2}//${1}" }"#,
    ))
    .await;
    for (path, wanted) in [
        ("/users/7/a?x=%2f", "/u/a/7?x=%2f"),
        ("/users/7", "/u/7"),
        ("/users/..a", "/u/..a"),
        ("/users/a/%2e%2e/b", "/u/b"),
        ("/other", "/other"),
    ] {
        assert_eq!(gateway.get(path).await.status, 200, "{path}");
        assert_eq!(origin.last_seen().unwrap().target, wanted, "{path}");
    }
}

#[tokio::test]
async fn canned_answers_reach_no_service() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(
        &origin,
        &["robots"],
        r#"middlewares.robots.respond = { body = "none\n", headers = { Cache-Control = "max-age=60" } }"#,
    ))
    .await;
    let answer = gateway.get("/robots.txt").await;
    assert_eq!((answer.status, answer.text()), (200, "none\n".into()));
    assert_eq!(answer.header("cache-control"), Some("max-age=60"));
    assert_eq!(answer.header("content-length"), Some("5"));
    assert_eq!(gateway.send(Request::new("HEAD", "/")).await.header("content-length"), Some("5"));
    assert_eq!(gateway.send(Request::post("/", vec![b'x'; 100_000])).await.status, 200);
    assert_eq!(origin.requests(), 0);
    let line = gateway.until_logged("it", |line| line["path"] == "/robots.txt").await;
    assert_eq!((&line["flag"], line["bytes_out"].as_u64(), &line["upstream"]), (&"".into(), Some(5), &"".into()));
}

#[tokio::test]
async fn redirects_of_clients_without_a_host_name_none() {
    let origin = Origin::start("a").await;
    let mut config = around(&origin, &["query"], "");
    for (name, spec) in [
        ("query", r#"{ query = "q" }"#),
        ("secure", r#"{ scheme = "https" }"#),
        ("port", "{ port = 8443 }"),
        ("elsewhere", r#"{ scheme = "https", host = "b.test" }"#),
    ] {
        config += &format!(
            "\nmiddlewares.{name}.redirect = {spec}\nroutes.{name} = {{ match = {{ path = \"/{name}\" }}, upstream = \"app\", middlewares = [\"{name}\"] }}"
        );
    }
    let gateway = Gateway::start(&config).await;
    for (path, location) in [
        ("/query/x", Some("/query/x?q")),
        ("/secure", None),
        ("/port", None),
        ("/elsewhere", Some("https://b.test/elsewhere")),
    ] {
        let text =
            crate::support::client::raw(gateway.address(), format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
        let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
        let told = text.lines().find_map(|line| line.strip_prefix("location: "));
        assert_eq!(told, location, "{path}: {text}");
        assert_eq!(text.contains(" 302 "), location.is_some(), "{text}");
        assert_eq!(text.contains(" 400 "), location.is_none(), "{text}");
    }
}

#[tokio::test]
async fn in_maintenance_only_those_who_look_after_it_are_served() {
    let origin = Origin::start("a").await;
    let closed = |allow: &str| {
        around(
            &origin,
            &["closed"],
            &format!(
                r#"middlewares.closed.maintenance = {{ retry_after = "2m", body = "back soon, ${{host}}", allow = [{allow}] }}"#
            ),
        )
    };
    let gateway = Gateway::start(&closed("\"10.0.0.0/8\"")).await;
    let answer = gateway.send(Request::get("/").host("a.test:80")).await;
    assert_eq!((answer.status, answer.text()), (503, "back soon, a.test".into()));
    assert_eq!((answer.header("retry-after"), answer.header("x-fleetgate-flag")), (Some("120"), Some("MT")));
    assert_eq!(origin.requests(), 0);
    gateway.write_config(&closed("\"10.0.0.0/8\", \"127.0.0.1\""));
    gateway.until_status("/", 200).await;
    gateway.write_config(&around(&origin, &["closed"], "middlewares.closed.maintenance = {}"));
    let answer = gateway.until_status("/", 503).await;
    assert_eq!((answer.text(), answer.header("retry-after")), ("503 maintenance\n".into(), Some("300")));
    assert_eq!(gateway.until_logged("it", |line| line["status"] == 503).await["flag"], "MT");
}

#[tokio::test]
async fn errors_have_pages_and_keep_their_status_and_flag() {
    let origin = Origin::start("a").await;
    let config = |services: bool| {
        let middlewares = format!(
            r#"
            [middlewares.pages.error_pages]
            services = {services}
            pages.404 = {{ body = "<p>not here: $${{path}} ${{path}}, ${{request_id}}" }}
            pages.5xx = {{ body = '{{ "agent": "${{header.user-agent}}" }}', content_type = "application/problem+json" }}
            "#
        );
        let text = around(&origin, &[], &middlewares).replace(r#"path = "/" "#, r#"path = "/app" "#);
        text.replace("address = \"127.0.0.1:0\" }", "address = \"127.0.0.1:0\", middlewares = [\"pages\"] }")
    };
    let gateway = Gateway::start(&config(false)).await;
    let of_gateway = gateway.send(Request::get("/none").header("x-request-id", "r1")).await;
    assert_eq!((of_gateway.status, of_gateway.text()), (404, "<p>not here: ${path} /none, r1".into()));
    assert_eq!(of_gateway.header("x-fleetgate-flag"), Some("NR"));
    assert_eq!(of_gateway.header("content-type"), Some("text/html; charset=utf-8"));
    // What a client says is shown, and is no part of the page.
    let script = gateway.send(Request::get("/none?a").header("x-request-id", "<script>alert('1')</script>")).await;
    assert!(script.text().ends_with(", &lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"), "{}", script.text());
    // Who reads JSON gets what it reads.
    let json = gateway.send(Request::get("/none").header("accept", "application/json")).await;
    assert_eq!(json.json()["error"], "no_route");
    let missing = Behaviour::Answer {
        status: 404,
        headers: vec![("etag", "\"1\"".to_owned()), ("x-own", "1".to_owned())],
        body: b"of the service".to_vec(),
    };
    origin.set(missing);
    assert_eq!(gateway.get("/app").await.text(), "of the service");

    gateway.write_config(&config(true));
    let paged = || async { gateway.get("/app").await.text().starts_with("<p>not here") };
    crate::support::wait::until(super::SOON, "the page", paged).await;
    let answer = gateway.get("/app").await;
    assert_eq!((answer.status, answer.header("etag"), answer.header("x-own")), (404, None, Some("1")));
    origin.set(Behaviour::Reset);
    let agent = r#"x", "admin": true, "y": "<\"#;
    let asked = Request::post("/app", "x").header("accept", "application/json").header("user-agent", agent);
    let answer = gateway.send(asked).await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (502, Some("UC")));
    assert_eq!(answer.json(), serde_json::json!({ "agent": agent }), "{}", answer.text());
}

#[tokio::test]
async fn browsers_are_told_to_be_careful_and_of_hsts_over_tls_alone() {
    let authority = Authority::new("authority");
    let issued = authority.issue("web", &["a.test"]);
    let origin = Origin::start("a").await;
    let config = |overrides: bool| {
        let middlewares = format!(
            r#"
            listeners.secure = {{ address = "127.0.0.1:0", tls = {{}} }}
            certificates.web = {{ cert = "web.pem", key = "web-key.pem" }}
            [middlewares.careful.security_headers]
            hsts = {{ max_age = "8760h", include_subdomains = true, preload = true }}
            referrer_policy = ""
            content_security_policy = "default-src 'self'"
            override = {overrides}
            "#
        );
        around(&origin, &["careful"], &middlewares)
    };
    let setup = Setup::new(&config(false)).file("web.pem", &issued.cert).file("web-key.pem", &issued.key);
    let gateway = setup.start().await;
    origin.set(with_header("x-frame-options", "SAMEORIGIN"));
    let answer = Request::get("/").send(gateway.listener("web")).await;
    assert_eq!(answer.values("x-frame-options"), ["SAMEORIGIN"], "the service knows better");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("content-security-policy"), Some("default-src 'self'"));
    assert_eq!((answer.header("referrer-policy"), answer.header("strict-transport-security")), (None, None));

    let secured = Client::trusting(&authority).connect(gateway.listener("secure"), "a.test").await.unwrap();
    let asked = request("GET", "/").header("host", "a.test").body(empty()).unwrap();
    let answer = secured.http1().await.send_request(asked).await.unwrap();
    let hsts = answer.headers().get("strict-transport-security").and_then(|value| value.to_str().ok());
    assert_eq!(hsts, Some("max-age=31536000; includeSubDomains; preload"));

    gateway.write_config(&config(true));
    let denied =
        || async { Request::get("/").send(gateway.listener("web")).await.values("x-frame-options") == ["DENY"] };
    crate::support::wait::until(super::SOON, "the gateway's own", denied).await;
}

#[tokio::test]
async fn faults_come_to_those_who_ask_for_them() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(
        &origin,
        &["slow", "broken", "half"],
        r#"
        middlewares.slow.fault = { delay.time = "300ms", when.headers.x-slow = { present = true } }
        middlewares.broken.fault = { abort.status = 418, when.query.broken = "1" }
        middlewares.half.fault = { abort.percent = "50%", when.cookies.half = "1" }
        "#,
    ))
    .await;
    assert_eq!(gateway.get("/fine").await.status, 200);
    let began = Instant::now();
    assert_eq!(gateway.send(Request::get("/slow").header("x-slow", "")).await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300));
    let broken = gateway.get("/broken?broken=1").await;
    assert_eq!((broken.status, broken.header("x-fleetgate-flag")), (418, Some("FI")));
    assert_eq!(origin.requests(), 2);
    let mut failed = 0;
    for _ in 0..400 {
        failed += usize::from(gateway.send(Request::get("/half").header("cookie", "half=1")).await.status == 503);
    }
    // More than seven deviations of a fair coin.
    assert!((125..=275).contains(&failed), "{failed} of 400");
    for (path, flag) in [("/fine", ""), ("/slow", "DI"), ("/broken", "FI")] {
        assert_eq!(gateway.until_logged(path, |line| line["path"] == path).await["flag"], flag, "{path}");
    }
}

/// Calls of gRPC get what is one of theirs.
#[tokio::test]
async fn calls_get_codes_instead_of_pages() {
    let service = Service::start().await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0", middlewares = ["pages"] }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.up = {{ endpoints = ["{}"], protocol = "http2" }}
        routes.closed = {{ match = {{ path = "/closed" }}, upstream = "up", middlewares = ["closed"] }}
        routes.broken = {{ match = {{ path = "/broken" }}, upstream = "up", middlewares = ["broken"] }}
        middlewares.closed.maintenance.body = "back soon"
        middlewares.broken.fault.abort.status = 401
        middlewares.pages.error_pages = {{ services = true, pages.4xx.body = "4xx", pages.5xx.body = "5xx" }}
        "#,
        service.address()
    ))
    .await;
    for (path, code, flag) in [("/closed", "14", "MT"), ("/broken", "16", "FI"), ("/none", "12", "NR")] {
        let mut client = http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await;
        let call = request("POST", &format!("http://a.test{path}")).header("content-type", "application/grpc");
        let answer = client.send_request(call.body(empty()).unwrap()).await.unwrap();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        assert_eq!((answer.status().as_u16(), header("grpc-status").as_deref()), (200, Some(code)), "{path}");
        assert_eq!(header("x-fleetgate-flag").as_deref(), Some(flag), "{path}");
    }
}
