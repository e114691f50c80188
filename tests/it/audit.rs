//! The audit log: who was refused, who was let in, who commanded what, and which documents were applied.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::client::{Answer, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::Origin;
use crate::support::pki::Authority;
use crate::support::tls::{Client, Setup as ClientSetup};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

const SECRET: &str = "a-secret-of-more-than-32-bytes-for-tests";

fn config(origin: &Origin, more: &str) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin = {{ address = "127.0.0.1:0", token = "admin-token" }}
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{}"]
        {more}
        "#,
        origin.address()
    )
}

fn lines(gateway: &Gateway) -> Vec<Value> {
    let text = std::fs::read_to_string(gateway.folder().join("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Waits for a line that says all of this.
async fn line(gateway: &Gateway, wanted: Value) -> Value {
    let says = |line: &Value| wanted.as_object().unwrap().iter().all(|(key, value)| line[key] == *value);
    wait::until_ok(SOON, &format!("a line {wanted}"), || async {
        let lines = lines(gateway);
        lines.iter().rfind(|line| says(line)).cloned().ok_or_else(|| format!("{lines:#?}"))
    })
    .await
}

async fn admin(gateway: &Gateway, method: &str, path: &str, token: &str) -> Answer {
    Request::new(method, path).header("authorization", &format!("Bearer {token}")).send(gateway.admin()).await
}

#[tokio::test]
async fn who_was_refused_and_who_was_let_in() {
    let origin = Origin::start("a").await;
    let password = bcrypt::hash("right", 4).unwrap();
    let key = "sha256:".to_owned()
        + &aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"acme-key")
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
    let more = format!(
        r#"
        telemetry = {{ audit = "audit.jsonl", audit_accepted = true }}
        consumers.acme = {{ keys = ["{key}"], password = "{password}" }}
        middlewares.key.api_key = {{}}
        middlewares.gold.api_key.groups = ["gold"]
        middlewares.staff.basic = {{}}
        middlewares.login.jwt = {{ issuers = ["me"], audience = ["shop"], secret = "{SECRET}", leeway = "0s" }}
        middlewares.far.ip.allow = ["10.9.9.9"]
        middlewares.admins.require = [{{ groups = ["admins"] }}]
        routes.key = {{ match = {{ path = "/key" }}, upstream = "app", middlewares = ["key"] }}
        routes.gold = {{ match = {{ path = "/gold" }}, upstream = "app", middlewares = ["gold"] }}
        routes.staff = {{ match = {{ path = "/staff" }}, upstream = "app", middlewares = ["staff"] }}
        routes.login = {{ match = {{ path = "/login" }}, upstream = "app", middlewares = ["login"] }}
        routes.far = {{ match = {{ path = "/far" }}, upstream = "app", middlewares = ["far"] }}
        routes.admins = {{ match = {{ path = "/admins" }}, upstream = "app", middlewares = ["key", "admins"] }}
        routes.open = {{ match = {{ path = "/open" }}, upstream = "app" }}
        "#
    );
    let gateway = Gateway::start(&config(&origin, &more)).await;
    let token = |issuer: &str, audience: &str, until: u64, secret: &str| {
        let claims = json!({ "iss": issuer, "aud": audience, "sub": "ann", "exp": until });
        let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
        format!("Bearer {token}")
    };
    const FAR: u64 = 4_000_000_000;
    let cases = [
        ("/key", "x-api-key", "acme-key".to_owned(), 200, "api_key", None, "acme"),
        ("/key", "x-api-key", "other".to_owned(), 401, "api_key", Some("unknown key"), ""),
        ("/key", "x-none", String::new(), 401, "api_key", Some("nothing was shown"), ""),
        ("/gold", "x-api-key", "acme-key".to_owned(), 403, "api_key", Some("group"), "acme"),
        ("/staff", "authorization", basic("acme", "right"), 200, "basic", None, "acme"),
        ("/staff", "authorization", basic("acme", "wrong"), 401, "basic", Some("wrong password"), ""),
        ("/staff", "authorization", basic("who", "wrong"), 401, "basic", Some("unknown user"), ""),
        ("/login", "authorization", token("me", "shop", FAR, SECRET), 200, "jwt", None, "ann"),
        ("/login", "authorization", token("me", "shop", 1, SECRET), 401, "jwt", Some("expired"), ""),
        ("/login", "authorization", token("you", "shop", FAR, SECRET), 401, "jwt", Some("another issuer"), ""),
        ("/login", "authorization", token("me", "bank", FAR, SECRET), 401, "jwt", Some("another audience"), ""),
        ("/login", "authorization", token("me", "shop", FAR, "forged"), 401, "jwt", Some("a wrong signature"), ""),
        ("/far", "x-none", String::new(), 403, "ip", Some("address"), ""),
        ("/admins", "x-api-key", "acme-key".to_owned(), 403, "require", Some("no rule holds"), "acme"),
    ];
    for (index, (path, header, value, status, by, why, consumer)) in cases.into_iter().enumerate() {
        let id = format!("case-{index}");
        let request = Request::get(&format!("{path}?secret=hunter2")).host("a.test").header(header, &value);
        let answer = request.header("x-request-id", &id).send(gateway.address()).await;
        assert_eq!(answer.status, status, "{path} {why:?}");
        let outcome = if why.is_some() { "refused" } else { "accepted" };
        let wanted =
            json!({ "audit": "authentication", "outcome": outcome, "by": by, "request_id": id, "status": status });
        let line = line(&gateway, wanted).await;
        assert_eq!(line["why"].as_str(), why, "{line}");
        assert_eq!(line["consumer"].as_str().unwrap_or_default(), consumer, "{line}");
        assert_eq!(line["path"], path);
        let place = (&line["client"], &line["host"], &line["listener"], &line["route"]);
        assert_eq!(place, (&"127.0.0.1".into(), &"a.test".into(), &"web".into(), &path[1..].into()));
    }
    // Where nobody asks who it is, there is nothing to tell.
    assert_eq!(gateway.get("/open").await.status, 200);
    let judged = lines(&gateway).into_iter().filter(|line| line["audit"] == "authentication").collect::<Vec<_>>();
    assert!(judged.iter().all(|line| line["path"] != "/open"), "{judged:?}");
    let text = format!("{:?}", lines(&gateway));
    assert!(!text.contains("hunter2") && !text.contains("acme-key"), "{text}");

    // The log can be told to leave out those who are let in.
    let quiet = Gateway::start(&config(&origin, &more.replace(", audit_accepted = true", ""))).await;
    for key in ["acme-key", "other"] {
        Request::get("/key").header("x-api-key", key).send(quiet.address()).await;
    }
    line(&quiet, json!({ "audit": "authentication", "outcome": "refused" })).await;
    assert!(lines(&quiet).iter().all(|line| line["outcome"] != "accepted"));
}

fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{name}:{password}")))
}

#[tokio::test]
async fn certificates_that_a_listener_refuses() {
    let origin = Origin::start("a").await;
    let authority = Authority::new("authority");
    let web = authority.issue("web", &["a.test"]);
    let more = r#"
        listeners.secure = { address = "127.0.0.1:0", tls = { client_ca = "ca.pem" } }
        certificates.web = { cert = "web.pem", key = "web-key.pem" }
        routes.all = { match = { path = "/" }, upstream = "app" }
        telemetry.audit = "audit.jsonl"
        "#;
    let setup = Setup::new(&config(&origin, more)).file("ca.pem", &authority.pem());
    let gateway = setup.file("web.pem", &web.cert).file("web-key.pem", &web.key).start().await;
    let foreign = Authority::new("another").issue("billing", &["billing.test"]);
    let client = Client::new(&ClientSetup { shows: Some(&foreign), ..ClientSetup::trusting(&authority) });
    client.get(gateway.listener("secure"), "a.test", "/").await.unwrap_err();
    let told = line(&gateway, json!({ "audit": "authentication", "by": "tls", "listener": "secure" })).await;
    assert!(told["why"].as_str().unwrap().contains("UnknownIssuer"), "{told}");
    assert_eq!((&told["client"], &told["outcome"]), (&"127.0.0.1".into(), &"refused".into()));
}

#[tokio::test]
async fn who_commanded_what_and_which_documents_were_applied() {
    let origin = Origin::start("a").await;
    let routes = |weight: u32| {
        format!(
            "telemetry.audit = \"audit.jsonl\"\n\
             routes.all = {{ match = {{ path = \"/\" }}, targets = [{{ upstream = \"app\", weight = {weight} }}] }}\n"
        )
    };
    let gateway = Gateway::start(&config(&origin, &routes(1))).await;
    let added = line(&gateway, json!({ "audit": "document", "event": "route_added", "route": "all" })).await;
    assert_eq!(added["provider"], "file");

    let endpoint = format!("/api/v1/upstreams/app/endpoints/{}", origin.address());
    let drain = format!("{endpoint}/drain");
    assert_eq!(admin(&gateway, "POST", &drain, "guessed").await.status, 401);
    let refused = line(&gateway, json!({ "audit": "authentication", "by": "admin" })).await;
    assert_eq!((&refused["why"], &refused["status"]), (&"unauthorised".into(), &401.into()));
    assert_eq!((&refused["method"], &refused["client"]), (&"POST".into(), &"127.0.0.1".into()));

    for (path, result, before, after) in [
        (drain.clone(), "done", json!({ "drained": false }), json!({ "drained": true })),
        (drain, "unchanged", json!({ "drained": true }), json!({ "drained": true })),
        (format!("{endpoint}/undrain"), "done", json!({ "drained": true }), json!({ "drained": false })),
        ("/api/v1/upstreams/none/endpoints/10.0.0.1:80/drain".to_owned(), "refused", Value::Null, Value::Null),
    ] {
        admin(&gateway, "POST", &path, "admin-token").await;
        let command = if path.ends_with("/undrain") { "undrain" } else { "drain" };
        let line = line(&gateway, json!({ "audit": "command", "command": command, "result": result })).await;
        assert_eq!((&line["before"], &line["after"]), (&before, &after), "{line}");
        assert_eq!((&line["client"], &line["token"]), (&"127.0.0.1".into(), &true.into()));
    }

    gateway.write_config(&config(&origin, &routes(7)));
    let changed = line(&gateway, json!({ "audit": "document", "event": "route_changed", "route": "all" })).await;
    let weight = |shape: &Value| shape.to_string().contains("\"weight\":7");
    assert!(!weight(&changed["before"]) && weight(&changed["after"]), "{changed}");
    let text = format!("{:?}", lines(&gateway));
    assert!(!text.contains("admin-token") && !text.contains("guessed"), "{text}");
}
