//! What httplint, which knows HTTP's rules, says of the answers that the gateway makes itself.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::support::client::{Answer, Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::python;

#[tokio::test]
async fn answers_of_the_gateways_own_keep_the_rules() {
    let Some(python) = python::environment() else { return };
    let (app, silent) = (Origin::start("app").await, Origin::start("silent").await);
    silent.set(Behaviour::Hold(Box::new(Behaviour::Echo)));
    app.on("/reset", Behaviour::Reset);
    app.on("/broken", Behaviour::Raw(b"no http\r\n\r\n".to_vec()));
    let route = |name: &str, middlewares: &str| {
        format!("routes.{name} = {{ match.path = \"/{name}\", upstream = \"app\", middlewares = [{middlewares}] }}\n")
    };
    let mut config = format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0", middlewares = ["pages"] }}
        listeners.redirecting = {{ address = "127.0.0.1:0", redirect_to_https = {{}} }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{app}"]
        upstreams.silent = {{ endpoints = ["{silent}"], response_timeout = "200ms" }}
        upstreams.empty.endpoints = ["127.0.0.1:1"]
        routes.silent = {{ match.path = "/silent", upstream = "silent", retry.attempts = 0 }}
        routes.empty = {{ match.path = "/empty", upstream = "empty" }}
        routes.unresolved = {{ match.path = "/unresolved", upstream = "nobody" }}
        middlewares.pages.error_pages.pages.418.body = "<p>tea"
        middlewares.keys.api_key = {{}}
        middlewares.staff.basic = {{}}
        middlewares.login.jwt = {{ issuers = ["i"], audience = [], secret = "ssssssssssssssssssssssssssssssss" }}
        middlewares.inside.ip.allow = []
        middlewares.one.rate_limit = {{ rate = "1/h" }}
        middlewares.small.body_limit = "1B"
        middlewares.closed.maintenance.body = "back soon"
        middlewares.canned.respond = {{ body = "{{}}", content_type = "application/json" }}
        middlewares.nothing.respond.status = 204
        middlewares.away.redirect = {{ host = "other.test", status = 301 }}
        middlewares.tea.fault.abort.status = 418
        middlewares.cors.cors = {{ origins = ["https://a.test"], headers = ["x-a"], max_age = "1h", credentials = true }}
        middlewares.careful.security_headers = {{}}
        "#,
        app = app.address(),
        silent = silent.address(),
    );
    for (name, middlewares) in [
        ("app", ""),
        ("keys", "\"keys\""),
        ("staff", "\"staff\""),
        ("login", "\"login\""),
        ("inside", "\"careful\", \"inside\""),
        ("one", "\"one\""),
        ("small", "\"small\""),
        ("closed", "\"closed\""),
        ("canned", "\"canned\""),
        ("nothing", "\"nothing\""),
        ("away", "\"away\""),
        ("tea", "\"tea\""),
        ("cors", "\"cors\""),
        ("reset", ""),
        ("broken", ""),
    ] {
        config += &route(name, middlewares);
    }
    let gateway = Gateway::start(&config).await;
    let asked = |method: &'static str, path: &str, headers: &[(&'static str, &'static str)], body: &str| {
        let request = Request::new(method, path).host("a.test");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = if body.is_empty() { request } else { request.body(body) };
        Asked { what: format!("{method} {path}"), method, headers: headers.to_vec(), request }
    };
    let preflight = [
        ("origin", "https://a.test"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a"),
    ];
    let mut lines = String::new();
    for (asked, status) in [
        (asked("GET", "/nowhere", &[], ""), 404),
        (asked("HEAD", "/nowhere", &[], ""), 404),
        (asked("GET", "/nowhere", &[("accept", "application/json")], ""), 404),
        (asked("GET", "/%2f", &[], ""), 400),
        (asked("GET", "/keys", &[], ""), 401),
        (asked("GET", "/staff", &[], ""), 401),
        (asked("GET", "/login", &[("authorization", "Bearer x")], ""), 401),
        (asked("GET", "/inside", &[], ""), 403),
        (asked("GET", "/one", &[], ""), 200),
        (asked("GET", "/one", &[], ""), 429),
        (asked("POST", "/small", &[], "too much"), 413),
        (asked("GET", "/closed", &[], ""), 503),
        (asked("GET", "/canned", &[], ""), 200),
        (asked("HEAD", "/canned", &[], ""), 200),
        (asked("GET", "/nothing", &[], ""), 204),
        (asked("GET", "/away", &[], ""), 301),
        (asked("GET", "/tea", &[], ""), 418),
        (asked("OPTIONS", "/cors", &preflight, ""), 204),
        (asked("POST", "/reset", &[], "x"), 502),
        (asked("POST", "/broken", &[], "x"), 502),
        (asked("GET", "/empty", &[], ""), 502),
        (asked("GET", "/unresolved", &[], ""), 503),
        (asked("POST", "/silent", &[], "x"), 504),
    ] {
        let answer = asked.request.clone().send(gateway.listener("web")).await;
        assert_eq!(answer.status, status, "{}: {}", asked.what, answer.text());
        if answer.served_by().is_empty() {
            asked.line(&answer, &mut lines);
        }
    }
    let asked = asked("GET", "/app?a=1", &[], "");
    let answer = asked.request.clone().send(gateway.listener("redirecting")).await;
    assert_eq!(answer.status, 308);
    asked.line(&answer, &mut lines);
    // What hyper refuses is the gateway's answer, too.
    let mut broken = Connection::open(gateway.listener("web")).await.unwrap();
    broken.send(b"GET / HTTP/1.1\r\nbroken header\r\n\r\n").await.unwrap();
    assert!(broken.head().await.unwrap().first_line.contains("400"));

    let wrong = python::ran(&python, "httplint/lint.py", &lines);
    assert_eq!(wrong, "");
}

/// A request that was sent.
struct Asked {
    what: String,
    method: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    request: Request,
}

impl Asked {
    /// Adds it and its answer, for httplint.
    fn line(&self, answer: &Answer, lines: &mut String) {
        let case = json!({
            "what": format!("{} {}", self.what, answer.status),
            "method": self.method,
            "url": "http://a.test/",
            "request": self.headers,
            "status": answer.status,
            "headers": answer.headers,
            "body": BASE64_STANDARD.encode(&answer.body),
        });
        writeln!(lines, "{case}").unwrap();
    }
}
