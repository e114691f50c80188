//! Tokens that say who a client is, and the issuers that publish what they are checked with.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use serde_json::{Value, json};

use crate::support::client::{Answer, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;
use crate::support::{node, python};

use super::{SOON, around};

/// A key of an issuer's, under a name.
struct Key {
    name: &'static str,
    pair: KeyPair,
}

impl Key {
    fn new(name: &'static str) -> Self {
        Self { name, pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    fn jwk(&self) -> Value {
        // An uncompressed point: 4, then x and y of 32 bytes each.
        let (x, y) = self.pair.der_bytes()[1..].split_at(32);
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.name, "use": "sig", "alg": "ES256", "x": text(x), "y": text(y) })
    }

    fn token(&self, more: &Value) -> String {
        let mut claims = json!({ "iss": "https://login.test", "aud": "shop", "sub": "ann", "exp": 4_000_000_000u64 });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = Header { kid: Some(self.name.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &EncodingKey::from_ec_der(&self.pair.serialize_der())).unwrap()
    }
}

fn publishes(keys: &[&Key]) -> Behaviour {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    let body = json!({ "keys": keys }).to_string().into_bytes();
    Behaviour::Answer { status: 200, headers: vec![("content-type", "application/json".to_owned())], body }
}

const RULES: &str = r#"issuers = ["https://login.test"], audience = ["shop"], algorithms = ["ES256"]"#;

fn bearer(token: &str) -> Request {
    bearer_to("/", token)
}

fn bearer_to(path: &str, token: &str) -> Request {
    Request::get(path).header("authorization", &format!("Bearer {token}"))
}

#[tokio::test]
async fn a_token_says_who_it_is_and_services_are_told_what_it_says() {
    let origin = Origin::start("a").await;
    let key = Key::new("one");
    let middlewares = format!(
        r#"
        consumers.ann.groups = ["gold"]
        middlewares.login.jwt = {{ {RULES}, keys = ["issuer.pem"], claims = {{ sub = "x-user", "realm.roles" = "x-roles" }} }}
        middlewares.gold.jwt = {{ {RULES}, keys = ["issuer.pem"], groups = ["gold"], cookie = "session", forward = true }}
        middlewares.writers.require = [{{ scopes = ["write"], claims = {{ realm = "shop" }} }}]
        routes.gold = {{ match = {{ path = "/gold" }}, upstream = "app", middlewares = ["gold"] }}
        routes.write = {{ match = {{ path = "/write" }}, upstream = "app", middlewares = ["login", "writers"] }}
        "#
    );
    let setup = Setup::new(&around(&origin, &["login"], &middlewares)).file("issuer.pem", &key.pair.public_key_pem());
    let gateway = setup.start().await;

    let token = key.token(&json!({ "realm": { "roles": ["a", "b"] } }));
    let answer = gateway.send(bearer(&token).header("x-user", "root").header("x-roles", "admin")).await;
    assert_eq!(answer.status, 200);
    let seen = origin.last_seen().unwrap();
    let told = ["x-user", "x-roles", "x-consumer"].map(|name| seen.header(name).join("|"));
    assert_eq!(told, ["ann", "a,b", "ann"]);
    assert!(seen.header("authorization").is_empty(), "the token stays here");
    // A claim that is not there leaves no header of the client's.
    assert_eq!(gateway.send(bearer(&key.token(&json!({}))).header("x-roles", "admin")).await.status, 200);
    assert!(origin.last_seen().unwrap().header("x-roles").is_empty());
    assert_eq!(gateway.until_logged("ann's", |line| line["consumer"] == "ann").await["status"], 200);

    let before = origin.requests();
    let refused = |answer: &Answer| (answer.status, answer.header("www-authenticate").map(str::to_owned));
    let challenge = |more: &str| (401, Some(format!("Bearer realm=\"fleetgate\"{more}")));
    assert_eq!(refused(&gateway.get("/").await), challenge(""));
    for wrong in [key.token(&json!({ "exp": 1 })), Key::new("one").token(&json!({})), "x".to_owned()] {
        assert_eq!(refused(&gateway.send(bearer(&wrong)).await), challenge(", error=\"invalid_token\""), "{wrong}");
    }
    let twice = bearer(&token).header("authorization", &format!("Bearer {token}"));
    assert_eq!(gateway.send(twice).await.status, 401);
    assert_eq!(origin.requests(), before);

    let with_cookie = |path: &str, token: &str| Request::get(path).header("cookie", &format!("a=1; session={token}"));
    assert_eq!(gateway.send(with_cookie("/gold", &token)).await.status, 200);
    assert!(origin.last_seen().unwrap().header("cookie")[0].contains("session="), "as it is asked for");
    assert_eq!(gateway.send(with_cookie("/gold", &key.token(&json!({ "sub": "bob" })))).await.status, 403);
    for (claims, wanted) in [
        (json!({ "scope": "read write", "realm": "shop" }), 200),
        (json!({ "scope": "read", "realm": "shop" }), 403),
        (json!({ "scope": "write" }), 403),
    ] {
        assert_eq!(gateway.send(bearer_to("/write", &key.token(&claims))).await.status, wanted, "{claims}");
    }
    // No token and no key is anywhere in what the gateway says.
    let said = gateway.api("config").await.to_string()
        + &gateway.access_log().iter().map(ToString::to_string).collect::<String>()
        + &gateway.stderr().text();
    let signature = token.rsplit('.').next().unwrap();
    assert!(!said.contains(signature) && !said.contains("BEGIN PUBLIC KEY"), "{said}");
}

#[tokio::test]
async fn an_issuers_keys_are_read_exchanged_and_kept_while_it_is_down() {
    let (origin, issuer) = (Origin::start("a").await, Origin::start("issuer").await);
    let (old, new) = (Key::new("old"), Key::new("new"));
    issuer.set(Behaviour::Status(500));
    let middlewares = format!("middlewares.login.jwt = {{ {RULES}, jwks_url = \"http://{}/jwks\" }}", issuer.address());
    let gateway = Gateway::start(&around(&origin, &["login"], &middlewares)).await;
    let status = |token: String| {
        let gateway = &gateway;
        async move { gateway.send(bearer(&token)).await.status }
    };
    // Nobody is let in unchecked before the keys are there.
    let answer = gateway.send(bearer(&old.token(&json!({})))).await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("NC")));
    wait::until(SOON, "the problem", || async { gateway.stderr().contains("it answers 500") }).await;
    issuer.set(publishes(&[&old]));
    wait::until(SOON, "the keys", || async { status(old.token(&json!({}))).await == 200 }).await;

    // A key that nobody knows is asked for; others are not let in by that.
    issuer.set(publishes(&[&old, &new]));
    wait::until(SOON, "the new key", || async { status(new.token(&json!({}))).await == 200 }).await;
    let asked = issuer.requests();
    for _ in 0..20 {
        assert_eq!(status(Key::new("nobody's").token(&json!({}))).await, 401);
    }
    assert!(issuer.requests() <= asked + 1, "the same unknown key is asked for once");
    for number in 0..20 {
        let key = Key { name: format!("junk {number}").leak(), ..Key::new("") };
        assert_eq!(status(key.token(&json!({}))).await, 401);
    }
    assert!(issuer.requests() <= asked + 10, "other unknown keys are asked for four times, then every 10 s");

    // Without the issuer those that are known count; a document that says the same of it keeps them, too.
    drop(issuer);
    assert_eq!(status(old.token(&json!({}))).await, 200);
    gateway.write_config(&around(&origin, &["login"], &middlewares.replace("jwks_url", "leeway = \"5s\", jwks_url")));
    let known = || async { gateway.api("config").await.to_string().contains("\"leeway\":\"5s\"") };
    wait::until(SOON, "the change", known).await;
    assert_eq!(status(new.token(&json!({}))).await, 200);
}

/// The first tokens after a rotation wait for the keys to be read again; junk before them holds nothing off.
#[tokio::test]
async fn a_rotation_of_keys_costs_no_request() {
    let (origin, issuer) = (Origin::start("a").await, Origin::start("issuer").await);
    let first = Key::new("first");
    issuer.set(publishes(&[&first]));
    let middlewares = format!("middlewares.login.jwt = {{ {RULES}, jwks_url = \"http://{}/jwks\" }}", issuer.address());
    let gateway = Gateway::start(&around(&origin, &["login"], &middlewares)).await;
    wait::until(SOON, "the keys", || async { gateway.send(bearer(&first.token(&json!({})))).await.status == 200 })
        .await;
    // Requests wait for a second; where a busy machine takes longer to read the keys, the next rotation shows it.
    let mut statuses = Vec::new();
    for name in ["second", "third", "fourth"] {
        let junk = Key::new(format!("junk before the {name}").leak());
        assert_eq!(gateway.send(bearer(&junk.token(&json!({})))).await.status, 401);
        let key = Key::new(name);
        issuer.set(publishes(&[&first, &key]));
        let token = key.token(&json!({}));
        let herd = (0..10).map(|_| gateway.send(bearer(&token)));
        statuses = futures_util::future::join_all(herd).await.iter().map(|answer| answer.status).collect();
        if statuses == [200; 10] {
            break;
        }
    }
    assert_eq!(statuses, [200; 10]);
    assert!(issuer.requests() <= 8, "a herd reads the keys once: {}", issuer.requests());
}

/// Issuers whose keys have no names exchange them, too.
#[tokio::test]
async fn a_rotation_of_keys_without_names_is_noticed() {
    let (origin, issuer) = (Origin::start("a").await, Origin::start("issuer").await);
    let unnamed = |key: &Key| {
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("kid");
        let body = json!({ "keys": [jwk] }).to_string().into_bytes();
        Behaviour::Answer { status: 200, headers: vec![], body }
    };
    let (old, new) = (Key::new("old"), Key::new("new"));
    issuer.set(unnamed(&old));
    let middlewares = format!("middlewares.login.jwt = {{ {RULES}, jwks_url = \"http://{}/jwks\" }}", issuer.address());
    let gateway = Gateway::start(&around(&origin, &["login"], &middlewares)).await;
    let token = old.token(&json!({}));
    wait::until(SOON, "the keys", || async { gateway.send(bearer(&token)).await.status == 200 }).await;
    issuer.set(unnamed(&new));
    let token = new.token(&json!({}));
    wait::until(SOON, "the new key", || async { gateway.send(bearer(&token)).await.status == 200 }).await;
    assert_eq!(gateway.send(bearer(&old.token(&json!({ "exp": 3_999_999_999u64 })))).await.status, 401);
}

#[tokio::test]
async fn a_token_that_is_too_long_is_called_that() {
    let origin = Origin::start("a").await;
    let key = Key::new("one");
    let middlewares = format!("middlewares.login.jwt = {{ {RULES}, keys = [\"issuer.pem\"] }}");
    let setup = Setup::new(&around(&origin, &["login"], &middlewares)).file("issuer.pem", &key.pair.public_key_pem());
    let gateway = setup.start().await;
    let answer = gateway.send(bearer(&key.token(&json!({ "groups": "x".repeat(16 * 1024) })))).await;
    assert_eq!(answer.status, 401);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("error_description=\"The token is longer than 16 KiB\""), "{challenge}");
    wait::until(SOON, "the reason", || async { gateway.stderr().contains("refused a token longer than 16 KiB") }).await;
    assert_eq!(gateway.send(bearer(&key.token(&json!({ "groups": "x".repeat(8 * 1024) })))).await.status, 200);
}

/// A gateway that takes tokens of this set of keys, by more rules.
async fn believing(origin: &Origin, rules: &str, jwks: &Value) -> Gateway {
    let middleware = format!(
        "middlewares.login.jwt = {{ issuers = [\"https://login.test\"], audience = [\"shop\"], jwks = '{jwks}', {rules} }}"
    );
    Gateway::start(&around(origin, &["login"], &middleware)).await
}

/// What another library signs is believed, and what it makes to deceive is not.
#[tokio::test]
async fn tokens_of_jwcrypto_are_told_apart() {
    let Some(python) = python::environment() else { return };
    let vectors: Value = serde_json::from_str(&python::ran(&python, "middleware/jwt/vectors.py", "")).unwrap();
    let origin = Origin::start("a").await;
    let gateway =
        believing(&origin, r#"algorithms = ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"]"#, &vectors["jwks"])
            .await;
    for (kind, wanted) in [("good", 200), ("bad", 401)] {
        let tokens = vectors[kind].as_object().unwrap();
        assert!(tokens.len() > 5);
        for (what, token) in tokens {
            let answer = gateway.send(bearer(token.as_str().unwrap())).await;
            assert_eq!(answer.status, wanted, "{kind}: {what}: {}", answer.text());
        }
    }
}

/// Of odd tokens no one is believed that another library does not believe.
#[tokio::test]
async fn odd_tokens_of_jose_are_told_apart_as_jose_does() {
    let Some(node) = node::environment() else { return };
    let odd: Value = serde_json::from_str(&node::ran(&node, "middleware/jwt/odd.mjs")).unwrap();
    let origin = Origin::start("a").await;
    let gateway =
        believing(&origin, r#"algorithms = ["RS256", "PS256", "ES256", "EdDSA"], leeway = "0s""#, &odd["jwks"]).await;
    // What jose knows of, and what it mends: here no header is critical that could be left out, and text is exact.
    let stricter = ["crit of something known", "padding"];
    let mut good = 0;
    for (name, said) in odd["said"].as_object().unwrap() {
        let answer = gateway.send(bearer(said["token"].as_str().unwrap())).await;
        let wanted = if said["good"] == true && !stricter.contains(&name.as_str()) { 200 } else { 401 };
        assert_eq!(answer.status, wanted, "{name}: jose says {said}");
        good += usize::from(wanted == 200);
    }
    assert!(good > 5 && odd["said"].as_object().unwrap().len() > good + 20);
}

/// A middleware that cannot check anything lets nobody through, and everybody who looks is told why.
#[tokio::test]
async fn keys_that_cannot_be_used_are_told_everywhere() {
    let origin = Origin::start("a").await;
    let middlewares = format!(
        r#"
        middlewares.broken.jwt = {{ {RULES}, jwks = '{{"keys":[]}}' }}
        middlewares.down.jwt = {{ {RULES}, jwks_url = "http://127.0.0.1:1/jwks" }}
        middlewares.asks.forward_auth.upstream = "gone"
        routes.down = {{ match = {{ path = "/down" }}, upstream = "app", middlewares = ["down"] }}
        routes.asks = {{ match = {{ path = "/asks" }}, upstream = "app", middlewares = ["asks"] }}
        "#
    );
    let gateway = Gateway::start(&around(&origin, &["broken"], &middlewares)).await;
    let unread = || async { gateway.api("status").await.to_string().contains("127.0.0.1:1/jwks cannot be read") };
    wait::until(SOON, "why", unread).await;
    for (name, path, why) in [
        ("all", "/", "no token can be checked"),
        ("down", "/down", "http://127.0.0.1:1/jwks cannot be read"),
        ("asks", "/asks", "there is no upstream `gone`"),
    ] {
        let request = Request::get(path).header("authorization", "Bearer e30.e30.x");
        let answer = gateway.send(request).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("NC")), "{path}");
        let routes = gateway.api("routes").await;
        let route = routes["items"].as_array().unwrap().iter().find(|route| route["name"] == name).unwrap();
        assert_eq!(route["state"], "unresolved", "{route}");
        assert!(route["reasons"].to_string().contains(why), "{route}");
        let asked = format!("explain?method=GET&url=http://a.test{path}");
        for (header, status) in
            [("&header=authorization:Bearer%20e30.e30.x", 503), ("", if name == "asks" { 503 } else { 401 })]
        {
            let explained = gateway.api(&format!("{asked}{header}")).await;
            assert_eq!(explained["answer"]["status"], status, "{explained:#}");
            assert_eq!(explained["route"]["state"], "unresolved", "{explained:#}");
            assert!(explained["middlewares"][0]["reason"].to_string().contains(why), "{explained:#}");
        }
        let status = gateway.api("status").await.to_string();
        assert!(status.contains(why), "{status}");
    }
    // Not only that they can't be read, but why.
    assert!(gateway.api("status").await.to_string().contains("Connection refused"));
    assert_eq!(origin.requests(), 0);
}
