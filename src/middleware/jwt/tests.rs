//! What proves something, and what does not: RFC 8725 and what has gone wrong elsewhere.

use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::json;

use super::*;

/// An issuer with a key of each kind.
struct Issuer {
    ec: KeyPair,
    ed: KeyPair,
    jwt: Jwt,
    ring: Arc<Ring>,
}

impl Issuer {
    fn new() -> Self {
        let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let ed = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let spec = spec(JwtKeys::Pem(vec![ec.public_key_pem(), ed.public_key_pem()]), &["ES256", "EdDSA"]);
        let jwt = Jwt::new(&spec, None);
        let Keys::Fixed(Ok(ring)) = &jwt.keys else { panic!("no keys: {:?}", jwt.keys) };
        let ring = Arc::clone(ring);
        Self { ec, ed, jwt, ring }
    }

    fn check(&self, token: &str) -> Result<Map<String, Value>, Flaw> {
        self.jwt.check(token, &self.ring, now())
    }

    /// Signs whatever it is given.
    fn sign(&self, head: &str, body: &str) -> String {
        let message = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(head), BASE64_URL_SAFE_NO_PAD.encode(body));
        let key = EncodingKey::from_ec_der(&self.ec.serialize_der());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::ES256).expect("a signature");
        format!("{message}.{signature}")
    }
}

fn spec(keys: JwtKeys, algorithms: &[&str]) -> jwt::Jwt {
    jwt::Jwt {
        issuers: vec!["https://login.test".to_owned()],
        audience: vec!["shop".to_owned(), "api".to_owned()],
        keys,
        algorithms: algorithms.iter().map(|text| text.parse().expect(text)).collect(),
        leeway: std::time::Duration::from_secs(30),
        from: KeyPlace::Header(header::AUTHORIZATION),
        claims: Vec::new(),
        consumer: "sub".to_owned(),
        forward: false,
        optional: false,
        groups: Vec::new(),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({ "iss": "https://login.test", "aud": "shop", "sub": "ann", "exp": now() + 300, "iat": now() })
}

fn with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    claims.to_string()
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().expect("claims").remove(name);
    claims.to_string()
}

const HEAD: &str = r#"{"alg":"ES256","typ":"JWT"}"#;

#[test]
fn what_an_issuer_signed_is_believed() {
    let issuer = Issuer::new();
    for body in [
        claims().to_string(),
        with("aud", json!(["other", "api"])),
        with("exp", json!(now() - 20)),
        with("nbf", json!(now() + 20)),
        with("iat", json!(now() + 20)),
        without("iat"),
        without("sub"),
    ] {
        assert!(issuer.check(&issuer.sign(HEAD, &body)).is_ok(), "{body}");
    }
    let key = EncodingKey::from_ed_der(&issuer.ed.serialize_der());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims(), &key).expect("a token");
    assert_eq!(issuer.check(&token).expect("a proof")["sub"], "ann");
}

#[test]
fn what_it_did_not_sign_or_not_for_this_or_not_for_now_is_not() {
    let issuer = Issuer::new();
    let stranger = Issuer::new();
    assert_eq!(issuer.check(&stranger.sign(HEAD, &claims().to_string())), Err(Flaw::Signature));
    for (body, flaw) in [
        (with("iss", json!("https://evil.test")), Flaw::Issuer),
        (with("iss", json!(7)), Flaw::Invalid),
        (without("iss"), Flaw::Invalid),
        (with("aud", json!("other")), Flaw::Audience),
        (with("aud", json!([])), Flaw::Audience),
        (with("aud", json!({ "shop": true })), Flaw::Invalid),
        (without("aud"), Flaw::Invalid),
        (with("exp", json!(now() - 31)), Flaw::Expired),
        (with("exp", json!("4000000000")), Flaw::Invalid),
        (with("exp", json!(-1)), Flaw::Invalid),
        (with("exp", Value::Null), Flaw::Invalid),
        (without("exp"), Flaw::Invalid),
        (with("nbf", json!(now() + 40)), Flaw::NotYet),
        (with("nbf", json!("tomorrow")), Flaw::Invalid),
    ] {
        assert_eq!(issuer.check(&issuer.sign(HEAD, &body)), Err(flaw), "{body}");
    }
    for (body, flaw) in [
        (with("iat", json!(now() + 40)), Flaw::FromTheFuture),
        (with("iat", json!(1e300)), Flaw::FromTheFuture),
        (with("iat", json!("now")), Flaw::Malformed),
    ] {
        assert_eq!(issuer.check(&issuer.sign(HEAD, &body)), Err(flaw), "{body}");
    }
}

#[test]
fn a_token_that_is_known_is_checked_no_less() {
    let issuer = Issuer::new();
    let (good, forged) = (issuer.sign(HEAD, &claims().to_string()), Issuer::new().sign(HEAD, &claims().to_string()));
    let jwt = &issuer.jwt;
    let first = jwt.claims(&good, &issuer.ring, now()).expect("a proof");
    let again = jwt.claims(&good, &issuer.ring, now()).expect("a proof");
    assert!(Arc::ptr_eq(&first, &again), "it is known");
    // The same, but for its signature; and the same long after.
    let (message, signature) = good.rsplit_once('.').expect("a token");
    let other = format!("{message}.{}", forged.rsplit_once('.').expect("a token").1);
    let changed = if signature.starts_with('A') { 'B' } else { 'A' };
    for token in [&other, &format!("{message}."), &format!("{message}.{changed}{}", &signature[1..])] {
        for _ in 0..2 {
            assert_eq!(jwt.claims(token, &issuer.ring, now()), Err(Flaw::Signature));
        }
    }
    // What is remembered holds until it expires, without leeway: then it is checked anew.
    let expires = first["exp"].as_u64().expect("a time");
    let late = jwt.claims(&good, &issuer.ring, expires).expect("within the leeway of the library's clock");
    assert!(!Arc::ptr_eq(&first, &late));
    // Other keys know nothing of it.
    let stranger = Issuer::new();
    assert_eq!(jwt.claims(&good, &stranger.ring, now()), Err(Flaw::Signature));
}

#[test]
fn a_token_has_no_say_in_how_it_is_checked() {
    let issuer = Issuer::new();
    let body = claims().to_string();
    for (head, flaw) in [
        (r#"{"alg":"none"}"#, Flaw::Algorithm),
        (r#"{"alg":"None"}"#, Flaw::Algorithm),
        (r#"{"alg":"HS256"}"#, Flaw::Algorithm),
        (r#"{"alg":"ES384"}"#, Flaw::Algorithm),
        (r#"{"alg":["ES256"]}"#, Flaw::Algorithm),
        (r#"{"typ":"JWT"}"#, Flaw::Algorithm),
        (r#"{"alg":"ES256","crit":["b64"],"b64":false}"#, Flaw::Critical),
        (r#"{"alg":"ES256","crit":[]}"#, Flaw::Critical),
        (r#"{"alg":"ES256","alg":"none"}"#, Flaw::Malformed),
        (r#"{"alg":"none","alg":"ES256"}"#, Flaw::Malformed),
        (r#"{"alg":"ES256","kid":7}"#, Flaw::Malformed),
        (r#"["ES256"]"#, Flaw::Malformed),
        ("", Flaw::Malformed),
    ] {
        assert_eq!(issuer.check(&issuer.sign(head, &body)), Err(flaw), "{head}");
    }
    // What it says of where keys are is not looked at: it is signed with another one.
    let stranger = Issuer::new();
    for head in [
        r#"{"alg":"ES256","jku":"https://evil.test/jwks"}"#,
        r#"{"alg":"ES256","x5u":"https://evil.test/cert"}"#,
        r#"{"alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}"#,
        r#"{"alg":"ES256","kid":"../../dev/null"}"#,
    ] {
        assert_eq!(issuer.check(&stranger.sign(head, &body)), Err(Flaw::Signature), "{head}");
    }
    // The public key as a secret, where only keys are taken.
    let confused = EncodingKey::from_secret(issuer.ec.public_key_pem().as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &confused).expect("a token");
    assert_eq!(issuer.check(&token), Err(Flaw::Algorithm));
    // And a key's token where a secret is.
    let shared = Jwt::new(&spec(JwtKeys::Secret("s".repeat(32)), &["HS256"]), None);
    let Keys::Fixed(Ok(ring)) = &shared.keys else { panic!("no secret") };
    assert_eq!(shared.check(&issuer.sign(HEAD, &body), ring, now()), Err(Flaw::Algorithm));
    let key = EncodingKey::from_secret("s".repeat(32).as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &key).expect("a token");
    assert!(shared.check(&token, ring, now()).is_ok());
}

#[test]
fn what_is_no_token_is_refused_before_anything_is_computed() {
    let issuer = Issuer::new();
    let good = issuer.sign(HEAD, &claims().to_string());
    let (message, signature) = good.rsplit_once('.').expect("a token");
    let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let body = BASE64_URL_SAFE_NO_PAD.encode(claims().to_string());
    for (token, flaw) in [
        (String::new(), Flaw::Malformed),
        ("a.b".to_owned(), Flaw::Malformed),
        ("..".to_owned(), Flaw::Malformed),
        (format!("{good}.x"), Flaw::Malformed),
        (format!("{none}.{body}."), Flaw::Algorithm),
        (format!("{message}."), Flaw::Signature),
        (format!("{message}.{}", &signature[..20]), Flaw::Signature),
        (format!("{message}.{}", "A".repeat(86)), Flaw::Signature),
        (format!("{message}=.{signature}"), Flaw::Malformed),
        (issuer.sign(HEAD, r#"{"sub":"a","sub":"b"}"#), Flaw::Malformed),
        (issuer.sign(HEAD, "7"), Flaw::Malformed),
        (issuer.sign(HEAD, &with("x", json!("y".repeat(MAX_TOKEN_BYTES)))), Flaw::TooLong),
    ] {
        assert_eq!(issuer.check(&token), Err(flaw), "{}", &token[..token.len().min(200)]);
    }
}

#[test]
fn claims_are_found_behind_dots_and_written_for_headers() {
    let claims = json!({ "a": { "b": ["x", 1, true, null] }, "a.b": "first", "c": {}, "d": "", "e": 7 });
    let claims = claims.as_object().expect("claims");
    let written = |path: &str| claim(claims, path).and_then(text);
    for (path, wanted) in
        [("a.b", Some("first")), ("c", None), ("d", None), ("e", Some("7")), ("a.c", None), ("e.f", None), ("x", None)]
    {
        assert_eq!(written(path).as_deref(), wanted, "{path}");
    }
    let nested = claims["a"].as_object().expect("claims");
    assert_eq!(claim(nested, "b").and_then(text).as_deref(), Some("x,1,true"));
}
