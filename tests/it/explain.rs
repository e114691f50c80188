//! Explain tells what the gateway does: the same requests asked about and sent, and the command's output.

mod arrival;
mod middlewares;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::operator::run;
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::{http, wait};

/// What the table and the requests are drawn from.
const SEED: u64 = 20_261_124;
const ROUTES: usize = 80;
const REQUESTS: usize = 1000;

const HOSTS: &[&str] = &["a.example.com", "b.example.com", "c.d.example.com", "a.example.org", "nobody.test"];
const HOST_PATTERNS: &[&str] =
    &["a.example.com", "b.example.com", "*.example.com", "*.d.example.com", "*.example.org", "example.net"];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/x/../a/b", "//a", "/%61/c", "/n/12", "/q"];
const PATH_PATTERNS: &[&str] = &[
    "\"/\"",
    "\"/a\"",
    "\"/a/b\"",
    "{ exact = \"/a\" }",
    "{ exact = \"/a/b/c\" }",
    "{ regex = \"/a/.*\" }",
    "{ regex = \"/n/[0-9]+\" }",
];
const METHODS: &[&str] = &["GET", "POST", "DELETE"];
/// Headers of which routes ask one each: one that everybody may say, two that nobody may, one of trusted proxies.
const CLAIMS: [&str; 4] = ["x-b", "x-consumer", "x_original_user", "x-original-user"];
const VALUES: &[&str] = &["1", "2", "red"];
const VALUE_PATTERNS: &[&str] = &["\"1\"", "\"2\"", "{ regex = \"^r\" }", "{ present = true }", "{ present = false }"];
/// Upstreams and subsets that targets name; some are absent, some empty, some have nobody well.
const TARGETS: &[(&str, Option<&str>)] = &[
    ("mixed", None),
    ("mixed", Some("one")),
    ("mixed", Some("two")),
    ("mixed", Some("sick")),
    ("mixed", Some("none")),
    ("plain", None),
    ("drained", None),
    ("empty", None),
    ("absent", None),
    ("plain", Some("missing")),
];

/// `key = PATTERN, ...` of some names.
fn conditions(rng: &mut StdRng, names: &[&str], chance: f64) -> Option<String> {
    let mut chosen = Vec::new();
    for name in names {
        if rng.random_bool(chance) {
            chosen.push(format!("{name} = {}", VALUE_PATTERNS.choose(rng).unwrap()));
        }
    }
    (!chosen.is_empty()).then(|| format!("{{ {} }}", chosen.join(", ")))
}

fn route(rng: &mut StdRng, number: usize) -> String {
    let claim = CLAIMS[number % CLAIMS.len()];
    let mut matching = vec![format!("path = {}", PATH_PATTERNS.choose(rng).unwrap())];
    if rng.random_bool(0.9) {
        let count = rng.random_range(1..3);
        let hosts: Vec<String> = HOST_PATTERNS.sample(rng, count).map(|host| format!("\"{host}\"")).collect();
        matching.push(format!("hosts = [{}]", hosts.join(", ")));
    }
    if rng.random_bool(0.2) {
        matching.push(format!("methods = [\"{}\"]", METHODS.choose(rng).unwrap()));
    }
    matching.extend(conditions(rng, &["x-a", "x-b"], 0.15).map(|it| format!("headers = {}", it.replace("x-b", claim))));
    matching.extend(conditions(rng, &["p", "q"], 0.1).map(|it| format!("query = {it}")));
    let mut targets = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        // What is absent breaks its whole route: now and then.
        let choices = if rng.random_bool(0.07) { TARGETS } else { &TARGETS[..8] };
        let (upstream, subset) = choices.choose(rng).unwrap();
        let subset = subset.map(|subset| format!(", subset = \"{subset}\"")).unwrap_or_default();
        let when = if rng.random_bool(0.3) { conditions(rng, &["x-a", "x-canary"], 0.5) } else { None };
        let choice = match when {
            Some(when) if rng.random_bool(0.7) => {
                format!(
                    "when = {{ headers = {} }}",
                    when.replace("x-canary", if claim == "x-b" { "x-canary" } else { claim })
                )
            }
            Some(when) => format!("when = {{ cookies = {when} }}"),
            None => format!("weight = {}", [0, 1, 1, 3, 95].choose(rng).unwrap()),
        };
        targets.push(format!("{{ upstream = \"{upstream}\"{subset}, {choice} }}"));
    }
    let mut text = format!("[routes.r{number}]\nmatch = {{ {} }}\n", matching.join(", "));
    writeln!(text, "targets = [{}]", targets.join(", ")).unwrap();
    if rng.random_bool(0.3) {
        writeln!(text, "priority = {}", rng.random_range(-2..3)).unwrap();
    }
    if rng.random_bool(0.15) {
        writeln!(text, "listeners = [\"{}\"]", ["web", "inside"].choose(rng).unwrap()).unwrap();
    }
    if rng.random_bool(0.4) {
        let sticky = ["{ header = \"x-user\" }", "{ cookie = \"side\" }", "{ client_ip = true }"].choose(rng).unwrap();
        writeln!(text, "sticky = {sticky}").unwrap();
    }
    text
}

fn config(rng: &mut StdRng, one: &Origin, two: &Origin, sick: &Origin) -> String {
    let mut text = format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        listeners.inside = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.0/8"] }}
        admin.address = "127.0.0.1:0"
        [upstreams.mixed]
        endpoints = [
          {{ address = "{one}", labels = {{ side = "one" }} }},
          {{ address = "{two}", labels = {{ side = "two" }} }},
          {{ address = "{sick}", labels = {{ side = "sick" }} }},
        ]
        subsets = {{ one = {{ side = "one" }}, two = {{ side = "two" }}, sick = {{ side = "sick" }}, none = {{ side = "none" }} }}
        health_check = {{ path = "/healthz", interval = "100ms", unhealthy_threshold = 1 }}
        [upstreams.plain]
        endpoints = ["{one}", "{two}"]
        [upstreams.drained]
        endpoints = [{{ address = "{one}", weight = 0 }}, {{ address = "{two}", weight = 0 }}]
        [upstreams.empty]
        endpoints = []
        "#,
        one = one.address(),
        two = two.address(),
        sick = sick.address(),
    );
    for number in 0..ROUTES {
        text += &route(rng, number);
    }
    text
}

/// A request, as it is sent and as it is asked about.
#[derive(Clone, Debug)]
struct Case {
    listener: &'static str,
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
}

impl Case {
    fn random(rng: &mut StdRng, number: usize) -> Self {
        let mut target = (*PATHS.choose(rng).unwrap()).to_owned();
        if rng.random_bool(0.03) {
            target = (*["/a%2fb", "/a%zz", "/a%00"].choose(rng).unwrap()).to_owned();
        }
        if rng.random_bool(0.4) {
            let pairs: Vec<String> = ["p", "q"].map(|name| format!("{name}={}", VALUES.choose(rng).unwrap())).into();
            write!(target, "?{}", pairs[..rng.random_range(1..3)].join("&")).unwrap();
        }
        let mut headers = vec![("host", (*HOSTS.choose(rng).unwrap()).to_owned())];
        if rng.random_bool(0.2) {
            headers[0].1 = format!("{}.:8080", headers[0].1.to_uppercase());
        }
        if rng.random_bool(0.02) {
            headers.push(("host", "second.test".to_owned()));
        }
        for name in ["x-a", "x-b", "x-canary"] {
            if rng.random_bool(0.4) {
                headers.push((name, (*VALUES.choose(rng).unwrap()).to_owned()));
            }
        }
        if rng.random_bool(0.5) {
            headers.push(("x-user", rng.random_range(0..1000).to_string()));
        }
        if rng.random_bool(0.5) {
            let canary = VALUES.choose(rng).unwrap();
            headers.push(("cookie", format!("side={}; x-canary={canary}", rng.random_range(0..1000))));
        }
        for name in ["x-consumer", "x-original-user", "x_original_user"] {
            if rng.random_bool(0.3) {
                headers.push((name, (*VALUES.choose(rng).unwrap()).to_owned()));
            }
        }
        if rng.random_bool(0.3) {
            let claimed = ["203.0.113.7", "203.0.113.8, 127.0.0.9", "unknown", "127.0.0.1", ""].choose(rng).unwrap();
            headers.push(("x-forwarded-for", (*claimed).to_owned()));
        }
        if rng.random_bool(0.2) {
            let named = ["x-a", "x-a, x-canary", "x-user", "x-consumer", "keep-alive, cookie"].choose(rng).unwrap();
            headers.push(("connection", (*named).to_owned()));
        }
        headers.push(("x-request-id", format!("case-{number}")));
        let (listener, method) = (["web", "inside"].choose(rng).unwrap(), METHODS.choose(rng).unwrap());
        Self { listener, method, target, headers }
    }

    async fn explained(&self, gateway: &Gateway, client: &reqwest::Client) -> Value {
        let mut query: Vec<(&str, String)> = vec![
            ("method", self.method.to_owned()),
            ("url", self.target.clone()),
            ("listener", self.listener.to_owned()),
            ("client", "127.0.0.1".to_owned()),
        ];
        query.extend(self.headers.iter().map(|(name, value)| ("header", format!("{name}: {value}"))));
        let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let url = format!("http://{}/api/v1/explain?{query}", gateway.admin());
        let answer = client.get(url).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{self:?}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn sent(&self, gateway: &Gateway) {
        let mut request = Request::new(self.method, &self.target).host(&self.headers[0].1);
        for (name, value) in &self.headers[1..] {
            request = request.header(name, value);
        }
        request.send(gateway.listener(self.listener)).await;
    }
}

/// The answer to a question of these fields.
async fn explained(gateway: &Gateway, fields: &[(&str, &str)]) -> Value {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    gateway.api(&format!("explain?{query}")).await
}

/// What is likely by target's label; a label may stand twice.
fn shares(explained: &Value) -> BTreeMap<String, f64> {
    let mut shares = BTreeMap::new();
    for target in explained["route"]["targets"].as_array().into_iter().flatten() {
        let probability = target["probability"].as_f64().unwrap();
        *shares.entry(target["target"].as_str().unwrap().to_owned()).or_insert(0.0) += probability;
    }
    shares
}

/// Compares what was said with the line in the access log; what differs.
fn differences(explained: &Value, logged: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, said: &Value, done: &Value| found.push(format!("{what}: said {said}, done {done}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if text(&explained["route"]["name"]) != text(&logged["route"]) {
        differ("route", &explained["route"]["name"], &logged["route"]);
    }
    let answer = &explained["answer"];
    if answer.is_object() {
        for key in ["status", "flag"] {
            if answer[key] != logged[key] {
                differ(key, &answer[key], &logged[key]);
            }
        }
        if !text(&logged["endpoint"]).is_empty() {
            differ("endpoint", &Value::Null, &logged["endpoint"]);
        }
        return found;
    }
    if logged["status"] != 200 || !text(&logged["flag"]).is_empty() {
        differ("answer", &Value::Null, logged);
    }
    let (shares, target) = (shares(explained), text(&logged["target"]));
    if shares.get(&target).is_none_or(|share| *share == 0.0) {
        differ("target", &explained["route"]["targets"], &logged["target"]);
    }
    let endpoints = explained["upstreams"].as_array().into_iter().flatten().filter_map(|up| up["endpoints"].as_array());
    let serves = endpoints.flatten().any(|endpoint| {
        endpoint["address"] == logged["endpoint"]
            && endpoint["usable"] == true
            && endpoint["targets"].as_array().unwrap().iter().any(|served| text(served) == target)
    });
    if !serves {
        differ("endpoint", &explained["upstreams"], &logged["endpoint"]);
    }
    found
}

#[tokio::test]
async fn a_thousand_random_requests_meet_what_explain_says() {
    println!("seed {SEED}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let (one, two, sick) = (Origin::start("one").await, Origin::start("two").await, Origin::start("sick").await);
    sick.set_healthy(false);
    let text = config(&mut rng, &one, &two, &sick);
    let gateway = Gateway::start(&text).await;
    let well = [one.address(), two.address()].map(|address| (address.to_string(), "healthy".to_owned()));
    wait::until(Duration::from_secs(20), "the health checks", || async {
        let states = gateway.endpoints("mixed").await;
        well.iter().all(|state| states.contains(state))
            && states.contains(&(sick.address().to_string(), "unhealthy".to_owned()))
    })
    .await;

    let client = http();
    let cases: Vec<Case> = (0..REQUESTS).map(|number| Case::random(&mut rng, number)).collect();
    let mut said = Vec::new();
    for case in &cases {
        said.push(case.explained(&gateway, &client).await);
        case.sent(&gateway).await;
    }
    let logged = logged(&gateway, REQUESTS).await;
    let (mut outcomes, mut kinds) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    let mut split = Vec::new();
    for (number, (case, explained)) in cases.iter().zip(&said).enumerate() {
        let line = &logged[&format!("case-{number}")];
        let found = differences(explained, line);
        assert!(found.is_empty(), "seed {SEED}, {case:?}:\n{}\n{explained:#}\n{line:#}", found.join("\n"));
        *outcomes.entry(explained["answer"]["flag"].as_str().unwrap_or("endpoint").to_owned()).or_default() += 1;
        let by = explained["route"]["decided_by"].as_str().unwrap_or("nothing");
        *kinds.entry(by.split([' ', ',', ':']).take(2).collect::<Vec<_>>().join(" ")).or_default() += 1;
        if shares(explained).values().any(|share| *share > 0.0 && *share < 1.0) {
            split.push(case);
        }
    }
    // The table is worth asking about: everything that can happen did, and often.
    for outcome in ["NR", "NC", "UH", "DPE", "endpoint"] {
        assert!(outcomes.get(outcome).is_some_and(|count| *count >= 5), "{outcomes:?}");
    }
    for kind in ["the condition", "the client's", "weights"] {
        let count: usize = kinds.iter().filter(|(by, _)| by.starts_with(kind)).map(|(_, count)| count).sum();
        assert!(count >= 20, "{kinds:?}");
    }
    assert!(split.len() >= 20, "{} of the requests have several possible targets", split.len());

    compare_shares(&gateway, &split[..6]).await;
}

/// The access log's lines by request id, once there are so many.
async fn logged(gateway: &Gateway, count: usize) -> BTreeMap<String, Value> {
    wait::until(Duration::from_secs(30), "the access log", || async { gateway.access_log().len() >= count }).await;
    let lines = gateway.access_log().into_iter();
    lines.map(|line| (line["request_id"].as_str().unwrap_or_default().to_owned(), line)).collect()
}

/// Sends some requests many times: targets get the shares that were said.
async fn compare_shares(gateway: &Gateway, cases: &[&Case]) {
    const TIMES: usize = 300;
    let client = http();
    for (number, case) in cases.iter().enumerate() {
        let shares = shares(&case.explained(gateway, &client).await);
        let before = gateway.access_log().len();
        let mut case = (*case).clone();
        for time in 0..TIMES {
            case.headers.last_mut().unwrap().1 = format!("share-{number}-{time}");
            case.sent(gateway).await;
        }
        let logged = logged(gateway, before + TIMES).await;
        let prefix = format!("share-{number}-");
        for (target, share) in &shares {
            let mine = logged.iter().filter(|(id, line)| id.starts_with(&prefix) && line["target"] == **target);
            let (got, wanted) = (mine.count() as f64, share * TIMES as f64);
            // Six standard deviations: one run in a hundred million fails by chance.
            let bound = 6.0 * (wanted * (1.0 - share)).sqrt();
            assert!((got - wanted).abs() <= bound, "{case:?}: {target} got {got} of {wanted}");
        }
    }
}

#[tokio::test]
async fn the_command_shows_routes_targets_and_endpoints() {
    let origin = Origin::start("users").await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        [upstreams.users]
        endpoints = [{{ address = "{}", labels = {{ version = "v1" }} }}]
        subsets = {{ canary = {{ version = "v2" }} }}
        [routes.users]
        match = {{ hosts = ["api.example.com"], path = "/users" }}
        targets = [
          {{ upstream = "users", subset = "canary", when = {{ headers = {{ x-canary = "always" }} }} }},
          {{ upstream = "users", weight = 1 }},
        ]
        [routes.posts]
        match = {{ hosts = ["api.example.com"], path = "/users", methods = ["POST"] }}
        upstream = "absent"
        "#,
        origin.address()
    ))
    .await;
    let explain = |arguments: &[&str]| run(&gateway, &[&["explain"], arguments].concat());
    let address = origin.address().to_string();

    let (fine, said) = explain(&["GET", "http://api.example.com/users/7?x=1"]);
    assert!(fine, "{said}");
    for part in [
        "GET api.example.com/users/7?x=1, by listener web",
        "no     method `GET` is not `POST`",
        "yes    all its conditions hold",
        "route users of file: degraded (users/canary has no usable endpoint)",
        "100 %",
        address.as_str(),
        "the client gets what an endpoint answers",
    ] {
        assert!(said.contains(part), "{part} in:\n{said}");
    }
    for (arguments, part) in [
        (&["GET", "/users", "-H", "host: api.example.com", "-H", "x-canary: always"][..], "503 no_endpoint, flag UH"),
        (&["POST", "api.example.com/users"], "503 unresolved_route, flag NC: there is no upstream `absent`"),
        (&["GET", "http://api.example.com/"], "404 no_route, flag NR"),
        (&["GET", "http://api.example.com/a%2fb"], "400 bad_request, flag DPE: the gate refuses it: an encoded slash"),
        (&["GET", "http://api.example.com/", "--route", "users"], "path `/` is not under `/users`"),
    ] {
        let (fine, said) = explain(arguments);
        assert!(fine && said.contains(part), "{arguments:?}: {part} in:\n{said}");
    }
    let (fine, said) = explain(&["GET", "http://api.example.com/users", "--json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert!(fine && json["route"]["targets"][1]["probability"] == 1.0, "{said}");
    for (arguments, part) in [
        (&["GET", "/users"][..], "no host: write `http://HOST/users`"),
        (&["GET", "http://a/", "--listener", "none"], "there is no listener `none`; there are: web"),
        (&["GET", "http://a/", "-H", "nothing"], "a header is written `name: value`"),
        (&["GET", "http://a/a%2fb", "--route", "nope"], "there is no route `nope`"),
    ] {
        let (fine, said) = explain(arguments);
        assert!(!fine && said.contains(part), "{arguments:?}: {said}");
    }
    assert_eq!(origin.requests(), 0, "nothing is sent");
}
