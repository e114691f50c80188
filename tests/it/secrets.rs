//! Secrets are planted wherever there can be some, used rightly and wrongly, and searched for in all that the gateway says.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::operator::run;
use crate::support::client::Request;
use crate::support::consul::Consul;
use crate::support::gateway::Setup;
use crate::support::origin::{Behaviour, Origin};
use crate::support::pki::Authority;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// Long and random enough to stand nowhere by chance.
const KEY: &str = "pLant3d-key-of-a-consumer-Zq8";
const PASSWORD: &str = "pLant3d-password-Zq8";
const SHARED: &str = "pLant3d-secret-that-signs-tokens-Zq8";
const SESSION: &str = "pLant3d-session-of-a-user-Zq8";
const REGISTRY: &str = "pLant3d-token-of-a-registry-Zq8";
const REDIS: &str = "pLant3d-password-of-redis-Zq8";
const IN_QUERY: &str = "pLant3d-parameter-Zq8";
const IN_URL: &str = "pLant3d-part-of-a-URL-Zq8";
const IN_HEADER: &str = "pLant3d-header-of-a-document-Zq8";
/// What marks them all.
const MARK: &str = "pLant3d";

#[tokio::test]
async fn no_secret_is_in_anything_that_the_gateway_says() {
    let Some(consul) = Consul::start().await else { return };
    let authority = Authority::new("authority");
    let issued = authority.issue("web", &["a.test"]);
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let hash = bcrypt::hash(PASSWORD, 5).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let config = format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        listeners.secure = {{ address = "127.0.0.1:0", tls = {{}} }}
        certificates.web = {{ cert = "web.pem", key = "web-key.pem" }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        discovery.consul = {{ address = "{consul}", token = "{REGISTRY}" }}
        redis = {{ address = "redis://127.0.0.1:1", user = "u", password = "{REDIS}" }}
        telemetry = {{ log = "debug", events = "events.jsonl", audit = "audit.jsonl", audit_accepted = true }}
        upstreams.app.endpoints = ["{app}"]
        upstreams.auth.endpoints = ["{auth}"]
        upstreams.app.session = {{ cookie = "at", secret = "{SHARED}" }}
        consumers.acme = {{ keys = ["sha256:{digest}"], password = "{hash}" }}
        middlewares.keys.api_key = {{}}
        middlewares.by-query.api_key.query = "key"
        middlewares.staff.basic = {{ users = ["ann:{hash}"] }}
        middlewares.partners.basic = {{}}
        middlewares.login.jwt = {{ issuers = ["i"], audience = [], secret = "{SHARED}" }}
        middlewares.ask.forward_auth = {{ upstream = "auth", cache = "1m" }}
        middlewares.remote.jwt = {{ issuers = ["i"], audience = [], jwks_url = "http://u:{IN_URL}@127.0.0.1:1/k?t={IN_URL}" }}
        middlewares.asks-with.forward_auth = {{ upstream = "auth", path = "/verify?t={IN_URL}" }}
        middlewares.tells.headers.request = {{ set = {{ authorization = "Bearer {IN_HEADER}" }}, add = {{ x-api-key = "{IN_HEADER}" }} }}
        middlewares.tells-more.headers.request.set = {{ x-goog-iap-jwt-assertion = "{IN_HEADER}", dpop = "{IN_HEADER}" }}
        middlewares.hands-out.respond.headers = {{ x-csrf = "{IN_HEADER}" }}
        routes.known-by-cookie = {{ match = {{ path = "/cookie" }}, targets = [{{ upstream = "app", when = {{ cookies = {{ at = "{SESSION}" }} }} }}, {{ upstream = "app", when = {{ cookies = {{ at = {{ regex = "^{SESSION}" }} }}, query = {{ sig = "{IN_QUERY}" }} }} }}, {{ upstream = "app" }}] }}
        routes.hands-out = {{ match = {{ path = "/hands-out" }}, upstream = "app", middlewares = ["hands-out"] }}
        upstreams.probed = {{ endpoints = ["{app}"], health_check.path = "/health?t={IN_URL}" }}
        routes.remote = {{ match = {{ path = "/remote" }}, upstream = "probed", middlewares = ["remote"] }}
        routes.asks-with = {{ match = {{ path = "/asks-with" }}, upstream = "app", middlewares = ["asks-with", "tells", "tells-more"] }}
        routes.known-by-header = {{ upstream = "app", match = {{ path = "/known", headers = {{ x-api-key = "{IN_HEADER}", cookie = {{ regex = "{IN_HEADER}" }} }} }} }}
        middlewares.each.rate_limit = {{ rate = "100/s", key = ["header.x-api-key"] }}
        routes.keys = {{ match = {{ path = "/keys" }}, upstream = "app", middlewares = ["each", "keys"] }}
        routes.by-query = {{ match = {{ path = "/by-query" }}, upstream = "app", middlewares = ["by-query"] }}
        routes.staff = {{ match = {{ path = "/staff" }}, upstream = "app", middlewares = ["staff"] }}
        routes.partners = {{ match = {{ path = "/partners" }}, upstream = "app", middlewares = ["partners"] }}
        routes.login = {{ match = {{ path = "/login" }}, upstream = "app", middlewares = ["login"] }}
        routes.ask = {{ match = {{ path = "/ask" }}, upstream = "app", middlewares = ["ask"] }}
        "#,
        consul = consul.url(),
        app = app.address(),
        auth = auth.address(),
    );
    let setup = Setup::new(&config).file("web.pem", &issued.cert).file("web-key.pem", &issued.key);
    let gateway = setup.start().await;
    let web = gateway.listener("web");

    // Rightly and wrongly, and with services that fail.
    let token = |secret: &str| {
        let claims = json!({ "iss": "i", "sub": "ann", "exp": 4_000_000_000u64 });
        encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let basic = |name: &str, password: &str| {
        let encoded = BASE64_STANDARD.encode(format!("{name}:{password}"));
        (format!("Basic {encoded}"), encoded)
    };
    let (signed, forged) = (token(SHARED), token(&SHARED.replace("signs", "forges")));
    let (ann, ann_encoded) = basic("ann", PASSWORD);
    let (acme, acme_encoded) = basic("acme", PASSWORD);
    let (wrong, wrong_encoded) = basic("ann", &format!("{PASSWORD}-wrong"));
    let mut answers = String::new();
    for behaviour in [Behaviour::Reset, Behaviour::Echo] {
        app.set(Behaviour::Status(200));
        auth.set(behaviour);
        for (path, header, value) in [
            ("/keys", "x-api-key", KEY.to_owned()),
            ("/keys", "x-api-key", format!("{KEY}-wrong")),
            ("/staff", "authorization", ann.clone()),
            ("/staff", "authorization", wrong.clone()),
            ("/partners", "authorization", acme.clone()),
            ("/login", "authorization", format!("Bearer {signed}")),
            ("/login", "authorization", format!("Bearer {forged}")),
            ("/ask", "cookie", format!("session={SESSION}")),
            ("/remote", "authorization", format!("Bearer {signed}")),
            ("/asks-with", "x-a", "1".to_owned()),
            ("/known", "x-a", "1".to_owned()),
            ("/cookie", "cookie", format!("at={SESSION}")),
            ("/cookie", "cookie", "at=another".to_owned()),
        ] {
            let answer = Request::get(path).header(header, &value).send(web).await;
            answers += &format!("{path} {} {:?} {}\n", answer.status, answer.headers, answer.text());
        }
        for key in [KEY, IN_QUERY] {
            let answer = Request::get(&format!("/by-query?key={key}")).send(web).await;
            answers += &format!("/by-query {} {:?} {}\n", answer.status, answer.headers, answer.text());
        }
    }
    for wanted in
        ["/keys 200", "/keys 401", "/staff 200", "/staff 401", "/partners 200", "/login 200", "/login 401", "/ask 502"]
    {
        assert!(answers.contains(wanted), "{wanted} not in\n{answers}");
    }
    gateway.until_logged("the last one", |line| line["path"] == "/by-query" && line["status"] == 401).await;
    // A bad edit repeats nothing either.
    let broken = config.replace(&hash, &format!("{PASSWORD}-in-plain-text")).replace("http://u:", "ftp://u:");
    let broken = format!(
        r#"{broken}
        routes.wrong-header = {{ upstream = "app", match = {{ path = "/w", headers = {{ x-api-key = {{ regex = "({IN_HEADER}" }} }} }} }}
        routes.wrong-dpop = {{ upstream = "app", match = {{ path = "/w", headers = {{ dpop = {{ regex = "{IN_HEADER}[" }} }} }} }}
        routes.wrong-query = {{ upstream = "app", match = {{ path = "/w", query = {{ token = {{ regex = "({IN_QUERY}" }} }} }} }}
        middlewares.wrong-cookie.require = [{{ when.cookies.at.regex = "({SESSION}" }}]
        middlewares.wrong-value.headers.request.set = {{ authorization = "${{{IN_HEADER}}}" }}
        middlewares.wrong-answer.respond.headers = {{ set-cookie = "{SESSION}\n" }}
        "#
    );
    gateway.write_config(&broken);
    wait::until(SOON, "the mistake", || async { gateway.stderr().contains("staff.basic") }).await;
    for name in ["wrong-header", "wrong-dpop", "wrong-query", "wrong-cookie", "wrong-value", "wrong-answer"] {
        wait::until(SOON, name, || async { gateway.stderr().contains(name) }).await;
    }
    wait::until(SOON, "the other mistake", || async { gateway.stderr().contains("remote.jwt") }).await;

    let mut said = vec![("answers", answers), ("standard error", gateway.stderr().text())];
    said.push(("access log", gateway.access_log().iter().map(ToString::to_string).collect()));
    said.push(("events on disk", std::fs::read_to_string(gateway.folder().join("events.jsonl")).unwrap()));
    let audit = gateway.folder().join("audit.jsonl");
    wait::until(SOON, "the audit log", || async {
        std::fs::read_to_string(&audit).unwrap().matches("\"by\":\"api_key\"").count() >= 8
    })
    .await;
    said.push(("audit log", std::fs::read_to_string(&audit).unwrap()));
    for path in [
        "status",
        "routes",
        "upstreams",
        "upstreams/app",
        "providers",
        "config",
        "events",
        "explain?method=GET&url=http://a.test/keys",
        "explain?method=GET&url=http://a.test/remote",
        "explain?method=GET&url=http://a.test/asks-with",
        "explain?method=GET&url=http://a.test/known",
        "explain?method=GET&url=http://a.test/cookie",
        "explain?method=GET&url=http://a.test/cookie&header=cookie:at%3D1",
        "explain?method=GET&url=http://a.test/known&header=x-api-key:1&header=cookie:1",
    ] {
        said.push((path, gateway.api(path).await.to_string()));
    }
    said.push(("metrics", gateway.metrics().await));
    for arguments in
        [&["status"][..], &["routes"], &["upstreams"], &["events"], &["explain", "GET", "http://a.test/staff"]]
    {
        said.push((arguments[0], run(&gateway, arguments).1));
    }
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let private = issued.key.lines().nth(1).unwrap().to_owned();
    let planted = [
        MARK.to_owned(),
        hash,
        digest,
        ann_encoded,
        acme_encoded,
        wrong_encoded,
        signature(&signed),
        signature(&forged),
        private,
    ];
    for (what, text) in &said {
        assert!(!text.is_empty(), "{what} says nothing");
        for secret in &planted {
            let at = text.find(secret.as_str());
            let around =
                at.map(|at| &text[text.floor_char_boundary(at.saturating_sub(200))..text.ceil_char_boundary(at + 40)]);
            assert!(around.is_none(), "{what} holds {secret}: {}", around.unwrap_or_default());
        }
    }
    // They are where they belong: the registry got its token, and services got what was theirs.
    assert!(auth.seen().iter().any(|seen| seen.header("cookie").concat().contains(SESSION)));
    assert!(auth.seen().iter().any(|seen| seen.target == format!("/verify?t={IN_URL}")));
    assert!(app.seen().iter().any(|seen| seen.header("authorization") == [format!("Bearer {IN_HEADER}")]));
}
