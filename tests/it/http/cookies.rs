//! Cookies beside others that are no ASCII: all that reads one reads it whatever stands around it.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;

const SECRET: &str = "a-secret-of-more-than-32-bytes-for-tests";

/// The SHA-256 of `the key`.
const KEY: &str = "sha256:3a0aac44832e55528a834fec737786c999e7b8dea8bd601bb59f195237d58b2e";

fn config(one: &Origin, other: &Origin) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.one.endpoints = ["{0}"]
        upstreams.other.endpoints = ["{1}"]
        upstreams.session = {{ endpoints = ["{0}", "{1}"], balance = "round_robin", session = {{ cookie = "at", secret = "what every gateway has" }} }}
        consumers.acme.keys = ["{KEY}"]
        middlewares.keys.api_key.cookie = "key"
        middlewares.login.jwt = {{ issuers = ["i"], audience = [], secret = "{SECRET}", cookie = "token" }}
        middlewares.tell.headers.request.set.x-told = "${{cookie.name}}"
        routes.sticky.match.path = "/sticky"
        routes.sticky.sticky.cookie = "side"
        routes.sticky.targets = [{{ upstream = "one", weight = 1 }}, {{ upstream = "other", weight = 1 }}]
        routes.session = {{ match = {{ path = "/session" }}, upstream = "session" }}
        routes.when.match.path = "/when"
        routes.when.targets = [{{ upstream = "one", when = {{ cookies = {{ canary = "yes" }} }} }}, {{ upstream = "other" }}]
        routes.keys = {{ match = {{ path = "/keys" }}, upstream = "one", middlewares = ["keys"] }}
        routes.login = {{ match = {{ path = "/login" }}, upstream = "one", middlewares = ["login"] }}
        routes.tell = {{ match = {{ path = "/tell" }}, upstream = "one", middlewares = ["tell"] }}
        "#,
        one.address(),
        other.address()
    )
}

#[tokio::test]
async fn a_byte_beyond_ascii_hides_no_cookie() {
    let (one, other) = (Origin::start("one").await, Origin::start("other").await);
    let gateway = Gateway::start(&config(&one, &other)).await;
    let beside = |pair: &str| [&b"latin=J\xf6rg; name=J\xc3\xb6rg; "[..], pair.as_bytes(), b"; \xff"].concat();
    let send =
        async |path: &str, pair: &str| gateway.send(Request::get(path).header_bytes("cookie", &beside(pair))).await;

    let first = send("/sticky", "side=abc").await.served_by().to_owned();
    let at = send("/session", "a=1").await;
    let session = at.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..6 {
        let answer = send("/sticky", "side=abc").await;
        assert_eq!((answer.served_by(), answer.header("set-cookie")), (&*first, None));
        let answer = send("/session", &session).await;
        assert_eq!((answer.served_by(), answer.header("set-cookie")), (at.served_by(), None));
        assert_eq!(send("/when", "canary=yes").await.served_by(), "one/v1");
    }

    // What is shown is taken out, and all others stay as they came.
    let claims = json!({ "iss": "i", "sub": "ann", "exp": 4_000_000_000_u64 });
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    for (path, pair, consumer) in
        [("/keys", "key=the key".to_owned(), "acme"), ("/login", format!("token={token}"), "ann")]
    {
        assert_eq!(send(path, &pair).await.status, 200, "{path}");
        let seen = one.last_seen().unwrap();
        assert_eq!(seen.header("x-consumer"), [consumer], "{path}");
        assert_eq!(seen.header("cookie"), ["latin=J\u{fffd}rg; name=Jörg; \u{fffd}"], "{path}");
    }
    assert_eq!(send("/keys", "key=\u{e9}").await.status, 401);
    assert_eq!(send("/login", "token=\u{e9}").await.status, 401);
    assert_eq!(send("/tell", "a=1").await.status, 200);
    assert_eq!(one.last_seen().unwrap().header("x-told"), ["Jörg"]);
}
