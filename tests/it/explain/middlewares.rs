//! What explain says of middlewares is what they do: random chains, random requests, the answer that was told and the one
//! that came; and, for each that can't be foreseen, that this is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::operator::run;
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::http;
use crate::support::origin::{Behaviour, Origin};

const SEED: u64 = 20_261_130;
const ROUTES: usize = 64;
const REQUESTS: usize = 800;

const KEY: &str = "key-of-acme-which-is-secret";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Middlewares by name; those that come often are listed often. `NOBODY`, `AUTH`: filled in.
const KINDS: &[(&str, &str)] = &[
    ("here", r#"ip = { allow = ["127.0.0.0/8"] }"#),
    ("elsewhere", r#"ip = { allow = ["10.0.0.0/8"] }"#),
    ("not-here", r#"ip = { deny = ["127.0.0.1/32"] }"#),
    ("outside", r#"ip = { allow = ["203.0.113.0/24"] }"#),
    ("not-outside", r#"ip = { deny = ["203.0.113.0/24"] }"#),
    ("only-root", r#"require = [{ when = { headers = { x-consumer = "root" } } }]"#),
    ("closed", r#"maintenance = { retry_after = "5m", body = "back soon" }"#),
    ("closed-but", r#"maintenance = { allow = ["127.0.0.1/32"] }"#),
    ("teapot", r#"respond = { status = 418, body = "short" }"#),
    ("moved", r#"redirect = { host = "b.test", status = 301 }"#),
    ("keys", "api_key = {}"),
    ("keys-or-not", "api_key = { optional = true }"),
    ("gold", r#"api_key = { groups = ["gold"] }"#),
    ("logins", "basic = {}"),
    ("tokens", r#"jwt = { issuers = ["build"], audience = [], secret = "SECRET" }"#),
    (
        "unreachable",
        r#"jwt = { issuers = ["build"], audience = [], jwks_url = "http://127.0.0.1:1/keys", header = "x-token" }"#,
    ),
    ("only-get", r#"require = [{ methods = ["GET"] }]"#),
    (
        "only-acme",
        r#"require = [{ consumers = ["acme"] }, { when = { headers = { x-inside = { present = true } } } }]"#,
    ),
    ("only-a", r#"require = [{ paths = ["/a"] }]"#),
    ("small", "body_limit = \"10B\""),
    ("broken", "fault = { abort = { status = 500 } }"),
    ("slow", r#"fault = { delay = { time = "1ms" } }"#),
    (
        "broken-if",
        r#"fault = { abort = { status = 502 }, delay = { time = "1ms" }, when = { headers = { x-inside = "1" } } }"#,
    ),
    ("pages", r#"cors = { origins = ["https://a.test"], methods = ["GET"] }"#),
    ("strip", r#"rewrite = { path = { prefix = "/a" } }"#),
    ("add", r#"add_prefix = "/v1""#),
    ("inside", r#"headers = { request = { set = { x-inside = "1" } } }"#),
    ("rate", r#"rate_limit = { rate = "1000000/s" }"#),
    ("slots", "concurrency = { limit = 1000 }"),
    ("asked", r#"forward_auth = { upstream = "auth", path = "/verify", request_headers = ["x-inside"] }"#),
    ("nobody-asked", r#"forward_auth = { upstream = "absent" }"#),
    ("errors", r#"error_pages = { pages = { 4xx = { body = "sorry" }, 5xx = { body = "sorry" } } }"#),
];

/// These depend on what explain can't know; here they always let requests pass.
const OPEN: &[&str] = &["rate", "slots", "asked"];

fn hashed(key: &str) -> String {
    let hash: String = digest(&SHA256, key.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

fn token(secret: &str, expires: u64) -> String {
    let claims = json!({ "iss": "build", "sub": "acme", "exp": expires });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn config(rng: &mut StdRng, origin: &Origin, auth: &Origin) -> String {
    let mut text = format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        listeners.proxied = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.1"] }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{}"]
        upstreams.auth.endpoints = ["{}"]
        consumers.acme = {{ keys = ["{}"], groups = ["silver"], password = "{}" }}
        "#,
        origin.address(),
        auth.address(),
        hashed(KEY),
        bcrypt::hash("right", 4).unwrap(),
    );
    for (name, spec) in KINDS {
        writeln!(text, "middlewares.{name}.{}", spec.replace("SECRET", SECRET)).unwrap();
    }
    for number in 0..ROUTES {
        let count = rng.random_range(1..5);
        // Each kind comes first now and then, so that none hides behind those that always answer.
        let first = KINDS[number % KINDS.len()].0;
        let mut names = vec![first];
        names.extend(KINDS.sample(rng, count).map(|(name, _)| *name).filter(|name| *name != first));
        let of_target = if rng.random_bool(0.2) { names.pop() } else { None };
        let is_single = |name: &&str| ["pages", "errors"].contains(name);
        let of_target = of_target.filter(|name| !is_single(name));
        let of_target = of_target.map(|name| format!(", middlewares = [\"{name}\"]")).unwrap_or_default();
        writeln!(
            text,
            "[routes.r{number}]\nmatch = {{ path = \"/r{number}\" }}\nmiddlewares = {names:?}\n\
             targets = [{{ upstream = \"app\", weight = 1{of_target} }}]"
        )
        .unwrap();
    }
    text
}

struct Case {
    listener: &'static str,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
}

impl Case {
    fn random(rng: &mut StdRng) -> Self {
        let mut headers = Vec::new();
        let mut may = |rng: &mut StdRng, chance: f64, name: &'static str, values: &[String]| {
            if rng.random_bool(chance) {
                headers.push((name, values.choose(rng).unwrap().clone()));
            }
        };
        may(rng, 0.5, "x-api-key", &[KEY.to_owned(), "wrong".to_owned()]);
        let basic = |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("acme:{password}")));
        let tokens = [
            token(SECRET, 4_000_000_000),
            token(SECRET, 1),
            token("another secret that is long enough", 4_000_000_000),
        ];
        let bearers = tokens.iter().map(|token| format!("Bearer {token}"));
        let credentials: Vec<String> = bearers.chain([basic("right"), basic("wrong"), "Basic ?".to_owned()]).collect();
        may(rng, 0.6, "authorization", &credentials);
        may(rng, 0.3, "x-token", &tokens);
        may(rng, 0.2, "x-inside", &["1".to_owned()]);
        let claimed = ["203.0.113.7", "192.0.2.1, 127.0.0.1", "unknown", "127.0.0.1"].map(str::to_owned);
        may(rng, 0.3, "x-forwarded-for", &claimed);
        may(rng, 0.2, "x-consumer", &["root".to_owned()]);
        may(rng, 0.1, "x_consumer", &["root".to_owned()]);
        may(rng, 0.2, "connection", &["x-inside", "x-api-key, authorization", "x-consumer"].map(str::to_owned));
        may(rng, 0.3, "origin", &["https://a.test".to_owned(), "https://evil.test".to_owned()]);
        may(rng, 0.3, "access-control-request-method", &["GET".to_owned()]);
        let method = ["GET", "POST", "OPTIONS"].choose(rng).unwrap();
        let body = if *method == "POST" { ["", "short", "longer than ten bytes"].choose(rng).unwrap() } else { "" };
        if *method == "POST" {
            headers.push(("content-length", body.len().to_string()));
        }
        let path = format!("/r{}{}", rng.random_range(0..ROUTES), ["", "/a", "/b"].choose(rng).unwrap());
        let listener = ["web", "proxied"].choose(rng).unwrap();
        Self { listener, method, path, headers, body }
    }

    /// What each kind answers first: a preflight, and a body that is long.
    fn of_each_kind() -> Vec<Self> {
        let both = |number: usize| {
            let path = format!("/r{number}");
            let preflight =
                vec![("origin", "https://a.test".to_owned()), ("access-control-request-method", "GET".to_owned())];
            let body = "longer than ten bytes";
            let length = vec![("content-length", body.len().to_string())];
            [
                Self { listener: "web", method: "OPTIONS", path: path.clone(), headers: preflight, body: "" },
                Self { listener: "web", method: "POST", path, headers: length, body },
            ]
        };
        (0..KINDS.len()).flat_map(both).collect()
    }

    fn question(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("method", self.method).append_pair("url", &format!("http://a.test{}", self.path));
        query.append_pair("client", "127.0.0.1").append_pair("listener", self.listener);
        query.extend_pairs(self.headers.iter().map(|(name, value)| ("header", format!("{name}: {value}"))));
        query.finish()
    }

    async fn sent(&self, gateway: &Gateway) -> (u64, String) {
        let mut request = Request::new(self.method, &self.path).host("a.test");
        for (name, value) in self.headers.iter().filter(|(name, _)| *name != "content-length") {
            request = request.header(name, value);
        }
        if self.method == "POST" {
            request = request.body(self.body);
        }
        let answer = request.send(gateway.listener(self.listener)).await;
        (answer.status.into(), answer.header("x-fleetgate-flag").unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn random_middlewares_do_what_explain_says() {
    println!("seed {SEED}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let (origin, auth) = (Origin::start("a").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&mut rng, &origin, &auth)).await;
    let client = http();
    let mut answers = BTreeMap::<u64, usize>::new();
    let mut open = 0;
    let mut cases = Case::of_each_kind();
    cases.extend((0..REQUESTS).map(|_| Case::random(&mut rng)));
    for case in cases {
        let url = format!("http://{}/api/v1/explain?{}", gateway.admin(), case.question());
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        let said: Value = serde_json::from_str(&text).unwrap();
        let (status, flag) = case.sent(&gateway).await;
        let answer = &said["answer"];
        let wanted = match answer.is_object() {
            true => (answer["status"].as_u64().unwrap(), answer["flag"].as_str().unwrap().to_owned()),
            false => (200, String::new()),
        };
        let unless = said["unless"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Who the client is may be open behind one that is: that it is refused for that was told, then.
        let is_open = unless.iter().any(|one| one["reason"].to_string().contains("depends on a middleware before it"));
        let request = format!("{} {} {} {:?}", case.listener, case.method, case.path, case.headers);
        // A delay that was injected leaves its flag, and no other trace.
        let flag = if flag == "DI" { String::new() } else { flag };
        assert!((status, &flag) == (wanted.0, &wanted.1) || is_open, "{request}: came {status} {flag}\n{said:#}");
        for one in unless {
            let who = one["who"].as_str().unwrap();
            assert!(is_open || OPEN.iter().any(|name| who.contains(name)), "{request}: {one}");
        }
        open += usize::from(!unless.is_empty());
        *answers.entry(wanted.0).or_default() += 1;
    }
    // The table is worth asking about: everything that can happen did.
    for status in [200, 204, 301, 401, 403, 413, 418, 500, 502, 503] {
        assert!(answers.contains_key(&status), "{status}: {answers:?}");
    }
    assert!(open >= 20, "{open}");
}

/// The last line of the command's answer.
fn last_line(gateway: &Gateway, arguments: &[&str]) -> String {
    let (fine, said) = run(gateway, &[&["explain"], arguments].concat());
    assert!(fine, "{said}");
    said.trim_end().lines().last().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_cannot_be_foreseen_is_told_with_its_reason() {
    let (origin, auth) = (Origin::start("a").await, Origin::start("auth").await);
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{}"]
        upstreams.auth.endpoints = ["{}"]
        upstreams.empty.endpoints = []
        middlewares.fair.rate_limit.rate = "1/h"
        middlewares.few.concurrency.limit = 1
        middlewares.ask.forward_auth.upstream = "auth"
        middlewares.ask-nobody.forward_auth.upstream = "empty"
        middlewares.chaos.fault.abort = {{ status = 500, percent = "10%" }}
        middlewares.lan.ip.allow = ["10.0.0.0/8"]
        middlewares.known.require = [{{ consumers = ["*"] }}]
        middlewares.closed.maintenance = {{}}
        routes.fair = {{ match = {{ path = "/fair" }}, upstream = "app", middlewares = ["fair"] }}
        routes.few = {{ match = {{ path = "/few" }}, upstream = "app", middlewares = ["few"] }}
        routes.chaos = {{ match = {{ path = "/chaos" }}, upstream = "app", middlewares = ["chaos"] }}
        routes.asked = {{ match = {{ path = "/asked" }}, upstream = "app", middlewares = ["ask", "known"] }}
        routes.unasked = {{ match = {{ path = "/unasked" }}, upstream = "app", middlewares = ["ask-nobody"] }}
        routes.lan = {{ match = {{ path = "/lan" }}, upstream = "app", middlewares = ["lan"] }}
        routes.closed = {{ match = {{ path = "/closed" }}, upstream = "app", middlewares = ["fair", "closed"] }}
        "#,
        origin.address(),
        auth.address()
    ))
    .await;
    auth.set(Behaviour::Answer { status: 403, headers: vec![], body: vec![] });
    let endpoint = "the client gets what an endpoint answers";
    for (arguments, wanted) in [
        (&["/fair"][..], format!("{endpoint}, unless middleware `fair` refuses it (it depends on the requests before it)")),
        (&["/few"], format!("{endpoint}, unless middleware `few` refuses it (it depends on the requests in flight)")),
        (&["/chaos"], format!("{endpoint}, unless middleware `chaos` refuses it (chance decides)")),
        (
            &["/asked"],
            format!(
                "{endpoint}, unless middleware `ask` refuses it (its service decides), or middleware `known` refuses it \
                 (who the client is depends on a middleware before it)"
            ),
        ),
        (
            &["/unasked"],
            "the client gets 503 auth_service_no_endpoint, flag UH: middleware `ask-nobody` (forward_auth) refuses it: \
             auth_service_no_endpoint"
                .to_owned(),
        ),
        (
            &["/lan"],
            format!(
                "{endpoint}, unless middleware `lan` refuses it (the question does not give the client's address (--client))"
            ),
        ),
        (
            &["/lan", "--client", "192.0.2.1"],
            "the client gets 403 denied, flag UAEX: middleware `lan` (ip) refuses it: address".to_owned(),
        ),
        (&["/lan", "--client", "10.1.2.3"], endpoint.to_owned()),
        (
            &["/closed"],
            "the client gets 503 maintenance, flag MT: middleware `closed` (maintenance) refuses it: maintenance, unless \
             middleware `fair` refuses it (it depends on the requests before it)"
                .to_owned(),
        ),
        (
            &["/closed", "-H", "content-type: application/grpc"],
            "the client gets 200 with grpc-status 14 maintenance, flag MT: middleware `closed` (maintenance) refuses it: \
             maintenance, unless middleware `fair` refuses it (it depends on the requests before it)"
                .to_owned(),
        ),
    ] {
        let url = format!("http://a.test{}", arguments[0]);
        let arguments = [&["GET", &url], &arguments[1..]].concat();
        assert_eq!(last_line(&gateway, &arguments), wanted, "{arguments:?}");
    }
    // Explaining takes nothing from a limit, and asks nobody.
    assert_eq!(gateway.get("/fair").await.status, 200);
    assert_eq!(auth.requests(), 0);
}
