//! Middlewares that find out who a client is, and whether it may.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::support::client::{Answer, Connection, Request};
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

use super::{SOON, around};

/// What a document holds of a key.
fn hashed(key: &str) -> String {
    let hash: String = digest(&SHA256, key.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

const GOLD: &str = "key-of-acme-which-is-secret";
const OTHER: &str = "key-of-umbrella-also-secret";

/// Two consumers, of which one is gold.
fn consumers() -> String {
    format!(
        "consumers.acme = {{ keys = [\"{}\"], groups = [\"gold\"] }}\nconsumers.umbrella.keys = [\"{}\", \"{}\"]\n",
        hashed(GOLD),
        hashed("one that is being given up"),
        hashed(OTHER)
    )
}

#[tokio::test]
async fn consumers_are_known_by_their_keys_and_keys_stay_where_they_are() {
    let origin = Origin::start("a").await;
    let middlewares = consumers()
        + r#"
        middlewares.by-header.api_key = {}
        middlewares.gold.api_key = { groups = ["gold"] }
        middlewares.by-query.api_key.query = "key"
        middlewares.by-cookie.api_key.cookie = "key"
        middlewares.open-handed.api_key = { header = "x-other", forward = true }
        "#;
    let mut config = around(&origin, &["by-header"], &middlewares);
    for name in ["gold", "by-query", "by-cookie", "open-handed"] {
        config += &format!(
            "\nroutes.{name} = {{ match = {{ path = \"/{name}\" }}, upstream = \"app\", middlewares = [\"{name}\"] }}"
        );
    }
    let gateway = Gateway::start(&config).await;
    for (path, header, wanted, arrives) in [
        ("/", ("x-api-key", GOLD), Ok("acme"), "/"),
        ("/", ("x-api-key", OTHER), Ok("umbrella"), "/"),
        ("/", ("x-api-key", "wrong"), Err(401), ""),
        ("/", ("x-api-key", ""), Err(401), ""),
        ("/", ("x-other", GOLD), Err(401), ""),
        ("/gold", ("x-api-key", GOLD), Ok("acme"), "/gold"),
        ("/gold", ("x-api-key", OTHER), Err(403), ""),
        ("/by-query?a=1&key=key-of-acme-which-is-secret&b", ("x-a", "1"), Ok("acme"), "/by-query?a=1&b"),
        ("/by-query?key=key-of-acme-which-is-secret&key=x", ("x-a", "1"), Err(401), ""),
        ("/by-cookie", ("cookie", "a=1; key=key-of-acme-which-is-secret"), Ok("acme"), "/by-cookie"),
        ("/open-handed", ("x-other", GOLD), Ok("acme"), "/open-handed"),
    ] {
        let before = origin.requests();
        let asked = Request::get(path).header(header.0, header.1).header("x-consumer", "root");
        let answer = gateway.send(asked).await;
        match wanted {
            Ok(consumer) => {
                assert_eq!(answer.status, 200, "{path} {header:?}");
                let seen = origin.last_seen().unwrap();
                assert_eq!((seen.target.as_str(), seen.header("x-consumer")), (arrives, vec![consumer]), "{path}");
                let has_key = seen.headers.iter().any(|(_, value)| value.contains("secret"));
                assert_eq!(has_key, path == "/open-handed", "{path}: {:?}", seen.headers);
            }
            Err(status) => {
                assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some("UAEX")), "{path}");
                let challenge = answer.header("www-authenticate");
                assert_eq!(challenge, (status == 401).then_some("ApiKey realm=\"fleetgate\""), "{path}");
                assert_eq!(origin.requests(), before, "{path}");
            }
        }
    }
    let two = Request::get("/").header("x-api-key", GOLD).header("x-api-key", OTHER);
    assert_eq!(gateway.send(two).await.status, 401, "nobody can say which one counts");
    let line = gateway.until_logged("acme's", |line| line["consumer"] == "acme").await;
    assert_eq!(line["status"], 200);
    // No key is anywhere: not the hashes in what is shown, and not the keys.
    let shown = gateway.api("config").await.to_string() + &gateway.api("events").await.to_string();
    assert!(shown.contains("consumer_added") && !shown.contains(&hashed(GOLD)), "{shown}");
    let log: String = gateway.access_log().iter().map(ToString::to_string).collect();
    assert!(!log.contains("secret") && !gateway.stderr().contains("secret"), "{log}");
}

/// Consumers come and go in a registry.
async fn follow(registry: &str, put: impl AsyncFn(&str, &str), delete: impl AsyncFn(&str)) {
    let origin = Origin::start("a").await;
    let config = format!("{registry}\n{}", around(&origin, &["keys"], "middlewares.keys.api_key = {}"));
    let gateway = Gateway::start(&config).await;
    let status = |key: &'static str| {
        let gateway = &gateway;
        async move { gateway.send(Request::get("/").header("x-api-key", key)).await.status }
    };
    assert_eq!(status(GOLD).await, 401);
    put("consumers/acme", &format!("keys = [\"{}\"]", hashed(GOLD))).await;
    wait::until(SOON, "the consumer", || async { status(GOLD).await == 200 }).await;
    put("consumers/acme", "keys = [\"a key in plain text\"]").await;
    let told = || async { gateway.stderr().contains("consumers/acme") };
    wait::until(SOON, "the mistake to be told", told).await;
    assert!(!gateway.stderr().contains("a key in plain text"));
    assert_eq!(status(GOLD).await, 200, "a bad edit takes nobody's key away");
    put("consumers/acme", &format!("keys = [\"{}\"]", hashed(OTHER))).await;
    wait::until(SOON, "the new key", || async { status(OTHER).await == 200 }).await;
    assert_eq!(status(GOLD).await, 401);
    delete("consumers/acme").await;
    wait::until(SOON, "its end", || async { status(OTHER).await == 401 }).await;
}

#[tokio::test]
async fn consumers_in_consul_come_change_and_go() {
    let Some(consul) = Consul::start().await else { return };
    let registry = format!("discovery.consul.address = \"{}\"", consul.url());
    let put = async |key: &str, text: &str| consul.kv_put(&format!("fleetgate/{key}"), text).await;
    follow(&registry, put, async |key: &str| consul.kv_delete(&format!("fleetgate/{key}")).await).await;
}

#[tokio::test]
async fn consumers_in_etcd_come_change_and_go() {
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
async fn names_and_passwords_are_those_of_htpasswd_or_of_consumers() {
    let origin = Origin::start("a").await;
    let (ann, acme) = (bcrypt::hash("of ann", 5).unwrap(), bcrypt::hash("of: acme", 5).unwrap());
    let middlewares = format!(
        r#"
        consumers.acme = {{ password = "{acme}", groups = ["gold"] }}
        consumers.keyed.keys = ["{}"]
        middlewares.staff.basic = {{ realm = "staff only", users = ["ann:{ann}"] }}
        middlewares.gold.basic = {{ groups = ["gold"], forward = true }}
        routes.gold = {{ match = {{ path = "/gold" }}, upstream = "app", middlewares = ["gold"] }}
        "#,
        hashed(GOLD)
    );
    let gateway = Gateway::start(&around(&origin, &["staff"], &middlewares)).await;
    for (path, authorization, wanted) in [
        ("/", basic("ann", "of ann"), Ok("ann")),
        ("/", basic("ann", "of ann"), Ok("ann")),
        ("/", basic("ann", "of bob"), Err(401)),
        ("/", basic("bob", "of ann"), Err(401)),
        ("/", basic("acme", "of: acme"), Err(401)),
        ("/", "Basic !!".to_owned(), Err(401)),
        ("/", "Bearer x".to_owned(), Err(401)),
        ("/gold", basic("acme", "of: acme"), Ok("acme")),
        ("/gold", basic("acme", ""), Err(401)),
        ("/gold", basic("keyed", ""), Err(401)),
        ("/gold", basic("ann", "of ann"), Err(401)),
    ] {
        let before = origin.requests();
        let answer = gateway.send(Request::get(path).header("authorization", &authorization)).await;
        match wanted {
            Ok(name) => {
                assert_eq!(answer.status, 200, "{path} {authorization}");
                let seen = origin.last_seen().unwrap();
                assert_eq!(seen.header("x-consumer"), [name]);
                assert_eq!(seen.header("authorization").is_empty(), path == "/", "{path}");
            }
            Err(status) => {
                let realm = if path == "/" { "staff only" } else { "fleetgate" };
                assert_eq!((answer.status, origin.requests()), (status, before), "{path} {authorization}");
                let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
                assert_eq!(answer.header("www-authenticate"), Some(challenge.as_str()));
            }
        }
    }
    assert!(!gateway.api("config").await.to_string().contains("$2"), "no hash is shown");
}

/// A flood of wrong passwords takes cores only up to a bound, and what is beyond it is refused at once.
#[tokio::test]
async fn wrong_passwords_leave_the_workers_to_others() {
    let origin = Origin::start("a").await;
    // The cheapest hash but one: the last of a full queue must be answered before its client gives up, on any machine.
    // The queue fills all the same, since every client that is answered asks again at once.
    let hash = bcrypt::hash("right", 5).unwrap();
    let middlewares = format!(
        r#"
        middlewares.staff.basic.users = ["ann:{hash}"]
        routes.open = {{ match = {{ path = "/open" }}, upstream = "app" }}
        "#
    );
    let gateway = Gateway::start(&around(&origin, &["staff"], &middlewares)).await;
    let flood = Load::start_judging(
        gateway.address(),
        100,
        |worker, number| Request::get("/").header("authorization", &basic("ann", &format!("{worker} {number}"))),
        |answer| matches!((answer.status, answer.header("x-fleetgate-flag")), (401, Some("UAEX")) | (503, Some("UO"))),
    );
    flood.more(200).await;
    let open = Load::start(gateway.address(), 2, |_, _| Request::get("/open"));
    open.more(300).await;
    open.stop().await.assert_all_ok();
    let report = flood.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures.first());
    assert!(
        report.statuses.contains_key(&503),
        "nobody was refused, so nothing bounds the work: {:?}",
        report.statuses
    );
    let right = || async {
        let answer = gateway.send(Request::get("/").header("authorization", &basic("ann", "right"))).await;
        answer.status == 200
    };
    wait::until(Duration::from_secs(60), "the one who is right", right).await;
}

/// A flood fills the places of its own address; and names that nobody has never go before those that somebody has.
#[tokio::test]
async fn a_flood_of_wrong_logins_keeps_nobody_else_out() {
    let origin = Origin::start("a").await;
    let (ann, bob) = (bcrypt::hash("of ann", 6).unwrap(), bcrypt::hash("of bob", 6).unwrap());
    let middlewares = format!("middlewares.staff.basic.users = [\"ann:{ann}\", \"bob:{bob}\"]");
    let gateway = Gateway::start(&around(&origin, &["staff"], &middlewares)).await;
    let is_judged = |answer: &Answer| {
        matches!((answer.status, answer.header("x-fleetgate-flag")), (401, Some("UAEX")) | (503, Some("UO")))
    };
    let login = |name: &str, password: &str| Request::get("/").header("authorization", &basic(name, password));
    for name in ["ann", "nobody"] {
        let flood = Load::start_judging(
            gateway.address(),
            100,
            move |worker, number| login(name, &format!("wrong {worker} {number}")),
            is_judged,
        );
        flood.more(100).await;
        // From another address, and from the same one: with another name, or where the flood has no name that is known.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut other = Connection::over(socket.connect(gateway.address()).await.unwrap());
        assert_eq!(other.exchange(&login("ann", "of ann")).await.unwrap().status, 200, "{name}");
        assert_eq!(gateway.send(login("bob", "of bob")).await.status, 200, "{name}");
        let report = flood.stop().await;
        assert!(report.failures.is_empty(), "{:?}", report.failures.first());
        assert!(report.statuses.contains_key(&503), "the flood is bounded: {:?}", report.statuses);
    }
}

#[tokio::test]
async fn rules_ask_who_it_is_what_it_does_and_from_where() {
    let origin = Origin::start("a").await;
    let middlewares = consumers()
        + r#"
        middlewares.keys.api_key.optional = true
        middlewares.rules.require = [
          { consumers = ["umbrella"], methods = ["GET"] },
          { groups = ["gold"], paths = ["/gold/"] },
          { methods = ["GET"], paths = ["/open"], ips = ["127.0.0.0/8"], when = { query = { public = { present = true } } } },
        ]
        "#;
    let gateway = Gateway::start(&around(&origin, &["keys", "rules"], &middlewares)).await;
    for (method, path, key, wanted) in [
        ("GET", "/a", OTHER, 200),
        ("POST", "/a", OTHER, 403),
        ("GET", "/a", GOLD, 403),
        ("POST", "/gold/x", GOLD, 200),
        ("GET", "/golden", GOLD, 403),
        ("GET", "/open?public", "", 200),
        ("GET", "/open", "", 401),
        ("POST", "/open?public", "", 401),
        ("GET", "/open?public", "wrong", 401),
    ] {
        let asked = Request::new(method, path).header("x-consumer", "umbrella");
        let asked = if key.is_empty() { asked } else { asked.header("x-api-key", key) };
        let answer = gateway.send(asked).await;
        assert_eq!(answer.status, wanted, "{method} {path} {key}");
        assert_eq!(answer.header("www-authenticate").is_some(), wanted == 401, "{method} {path}");
        if wanted == 200 {
            let known = origin.last_seen().unwrap().header("x-consumer").len();
            assert_eq!(known, usize::from(!key.is_empty()), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn either_of_two_proofs_is_enough() {
    let origin = Origin::start("a").await;
    let ann = bcrypt::hash("of ann", 5).unwrap();
    let middlewares = consumers()
        + &format!(
            r#"
            middlewares.keys.api_key.optional = true
            middlewares.staff.basic = {{ optional = true, users = ["ann:{ann}"] }}
            middlewares.somebody.require = [{{ consumers = ["*"] }}]
            "#
        );
    let gateway = Gateway::start(&around(&origin, &["keys", "staff", "somebody"], &middlewares)).await;
    for (header, wanted) in [
        (("x-api-key", GOLD.to_owned()), Some("acme")),
        (("authorization", basic("ann", "of ann")), Some("ann")),
        (("authorization", basic("ann", "wrong")), None),
        (("x-none", String::new()), None),
    ] {
        let answer = gateway.send(Request::get("/").header(header.0, &header.1)).await;
        assert_eq!(answer.status, if wanted.is_some() { 200 } else { 401 }, "{header:?}");
        match wanted {
            Some(consumer) => assert_eq!(origin.last_seen().unwrap().header("x-consumer"), [consumer]),
            None => assert!(!answer.values("www-authenticate").is_empty(), "{header:?}"),
        }
    }
    let nothing = gateway.get("/").await;
    let asked: Vec<&str> = nothing.values("www-authenticate").iter().map(|value| &value[..5]).collect();
    assert_eq!(asked, ["Basic", "ApiKe"], "it is told of both");
}

#[tokio::test]
async fn addresses_are_those_that_trusted_proxies_tell() {
    let origin = Origin::start("a").await;
    let middlewares = r#"middlewares.lists.ip = { allow = ["10.0.0.0/8", "fd00::1"], deny = ["10.6.6.0/24"] }"#;
    let config = around(&origin, &["lists"], middlewares)
        .replace("\"127.0.0.1:0\" }", "\"127.0.0.1:0\", trusted_proxies = [\"127.0.0.1\"] }");
    let gateway = Gateway::start(&config).await;
    for (from, wanted) in [
        ("10.1.2.3", 200),
        ("::ffff:10.1.2.3", 200),
        ("fd00::1", 200),
        ("10.6.6.7", 403),
        ("11.0.0.1", 403),
        ("10.1.2.3, 11.0.0.1", 403),
        ("fd00::2", 403),
    ] {
        let answer = gateway.send(Request::get("/").header("x-forwarded-for", from)).await;
        assert_eq!(answer.status, wanted, "{from}");
    }
    assert_eq!(gateway.get("/").await.status, 403);
    let told = gateway.api("explain?method=GET&url=http://a.test/").await;
    assert_eq!(told["middlewares"][0]["type"], json!("ip"));
}

#[tokio::test]
async fn networks_written_as_ipv4_mapped_ones_have_the_same_clients() {
    let origin = Origin::start("a").await;
    let middlewares = r#"
        middlewares.denies.ip.deny = ["::ffff:10.6.6.0/120", "::ffff:10.7.7.7"]
        middlewares.allows.ip.allow = ["::ffff:10.0.0.0/104"]
        middlewares.requires.require = [{ ips = ["::ffff:10.0.0.0/104"] }]
        middlewares.closed.maintenance.allow = ["::ffff:10.0.0.0/104"]
        routes.denies = { match = { path = "/denies" }, upstream = "app", middlewares = ["denies"] }
        routes.allows = { match = { path = "/allows" }, upstream = "app", middlewares = ["allows"] }
        routes.requires = { match = { path = "/requires" }, upstream = "app", middlewares = ["requires"] }
        routes.closed = { match = { path = "/closed" }, upstream = "app", middlewares = ["closed"] }
    "#;
    let config = around(&origin, &["denies"], middlewares)
        .replace("\"127.0.0.1:0\" }", "\"127.0.0.1:0\", trusted_proxies = [\"::ffff:127.0.0.1/128\"] }");
    let gateway = Gateway::start(&config).await;
    for (path, from, wanted) in [
        ("/denies", "10.6.6.6", 403),
        ("/denies", "::ffff:10.6.6.6", 403),
        ("/denies", "10.7.7.7", 403),
        ("/denies", "10.7.7.8", 200),
        ("/allows", "10.6.6.6", 200),
        ("/allows", "11.0.0.1", 403),
        ("/requires", "10.6.6.6", 200),
        ("/requires", "11.0.0.1", 403),
        ("/closed", "10.6.6.6", 200),
        ("/closed", "11.0.0.1", 503),
    ] {
        let answer = gateway.send(Request::get(path).header("x-forwarded-for", from)).await;
        assert_eq!(answer.status, wanted, "{path} {from}");
    }
}

#[test]
fn a_network_that_is_ipv4_mapped_in_part_is_told_by_check() {
    let setup = Setup::new(
        r#"
listeners.web = { address = "127.0.0.1:0", trusted_proxies = ["::ffff:10.0.0.0/8"] }
discovery.consul = { tags = true, tag_networks = ["::ffff:0:0/90"] }
middlewares.lists.ip = { allow = ["::/0"], deny = ["::ffff:127.0.0.0/95"] }
"#,
    );
    setup.assert_check_tells(&[
        "listeners.web.trusted_proxies[0]: `::ffff:10.0.0.0/8` has IPv4-mapped addresses and others",
        "discovery.consul.tag_networks[0]: `::ffff:0:0/90` has IPv4-mapped addresses and others",
        "middlewares.lists.ip.deny[0]: `::ffff:127.0.0.0/95` has IPv4-mapped addresses and others",
    ]);
}

#[test]
fn secrets_in_wrong_places_are_told_and_not_repeated() {
    let setup = Setup::new(
        r#"
listeners.web.address = "127.0.0.1:0"
consumers.acme = { keys = ["hunter2"], password = "hunter2" }
middlewares.staff.basic.users = ["ann:hunter2", "hunter2"]
"#,
    );
    setup.assert_check_tells(&["consumers.acme.keys[0]", "consumers.acme.password", "staff.basic.users[1]"]);
    let output = setup.output(&["check", "--config", "fleetgate.toml"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !told.contains("hunter2"), "{told}");
}
