//! A service that is asked whether requests may pass.

use crate::support::client::{Connection, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

use super::{SOON, around};

fn config(app: &Origin, auth: &Origin, more: &str) -> String {
    let middlewares = format!(
        r#"
        upstreams.auth = {{ endpoints = ["{}"] }}
        [middlewares.ask.forward_auth]
        upstream = "auth"
        path = "/verify?a=1"
        response_headers = ["x-user", "x-team"]
        consumer = "x-user"
        {more}
        "#,
        auth.address()
    );
    around(app, &["ask"], &middlewares)
}

fn answers(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Behaviour {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Behaviour::Answer { status, headers, body: body.to_vec() }
}

#[tokio::test]
async fn a_request_passes_when_the_service_says_so_and_what_it_says_goes_with_it() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth, "")).await;
    auth.set(answers(200, &[("x-user", "ann"), ("set-cookie", "a=1"), ("x-other", "1")], b"fine"));
    let asked = Request::post("/orders?id=7", "a body")
        .host("shop.test:80")
        .header("authorization", "Bearer t")
        .header("cookie", "s=1")
        .header("x-secret", "not its business")
        .header("x-team", "root")
        .header("x-user", "root")
        .header("x-consumer", "root")
        .header("x-forwarded-uri", "/forged");
    let answer = gateway.send(asked).await;
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("a body")));
    let question = auth.last_seen().unwrap();
    assert_eq!((question.method.as_str(), question.target.as_str()), ("GET", "/verify?a=1"));
    for (name, wanted) in [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-uri", "/orders?id=7"),
        ("x-forwarded-host", "shop.test:80"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "127.0.0.1"),
        ("authorization", "Bearer t"),
        ("cookie", "s=1"),
    ] {
        assert_eq!(question.header(name), [wanted], "{name}");
    }
    assert!(
        question.header("x-secret").is_empty()
            && question.body.is_empty()
            && question.header("content-length").is_empty()
    );
    let seen = app.last_seen().unwrap();
    let told = ["x-user", "x-consumer", "x-team", "x-other", "set-cookie"].map(|name| seen.header(name).join("|"));
    assert_eq!(told, ["ann", "ann", "", "", ""]);
    assert_eq!(seen.header("x-request-id"), question.header("x-request-id"));
    // The question is part of its exchange, not one of its own.
    let line = gateway.until_logged("it", |line| line["path"] == "/orders").await;
    assert_eq!((&line["consumer"], &line["upstream"]), (&"ann".into(), &"app".into()));
    assert_eq!(gateway.access_log().len(), 1);
    // Its connections are kept, of each worker.
    let mut client = Connection::open(gateway.address()).await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.exchange(&Request::get("/")).await.unwrap().status, 200);
    }
    assert!(auth.last_seen().unwrap().connection <= 2);
}

#[tokio::test]
async fn what_it_answers_else_is_what_the_client_gets() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth, "")).await;
    auth.set(answers(401, &[("www-authenticate", "Bearer"), ("content-type", "text/html")], b"who are you?"));
    let answer = gateway.get("/").await;
    assert_eq!(
        (answer.status, answer.text(), answer.header("www-authenticate")),
        (401, "who are you?".into(), Some("Bearer"))
    );
    assert_eq!((answer.header("x-fleetgate-flag"), answer.header("content-type")), (Some("UAEX"), Some("text/html")));
    auth.set(answers(302, &[("location", "https://login.test/?r=1"), ("set-cookie", "n=1")], b""));
    let answer = gateway.get("/").await;
    assert_eq!(answer.status, 302);
    assert_eq!(
        (answer.header("location"), answer.header("set-cookie")),
        (Some("https://login.test/?r=1"), Some("n=1"))
    );
    assert_eq!(gateway.until_logged("it", |line| line["status"] == 302).await["flag"], "UAEX");
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn without_an_answer_nobody_passes() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth, "timeout = \"300ms\"")).await;
    for (behaviour, status, flag, code) in [
        (Behaviour::Status(500), 502, "UAEX", "auth_service_failed"),
        (Behaviour::Status(503), 502, "UAEX", "auth_service_failed"),
        (Behaviour::Hold(Box::new(Behaviour::Echo)), 504, "UT", "auth_service_timeout"),
        (Behaviour::Reset, 502, "URX", "auth_service_reset"),
        (Behaviour::Raw(b"no HTTP at all\r\n\r\n".to_vec()), 502, "UAEX", "auth_service_failed"),
        (
            Behaviour::Raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_vec()),
            502,
            "UAEX",
            "auth_service_failed",
        ),
    ] {
        auth.set(behaviour.clone());
        let answer = gateway.get("/").await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some(flag)), "{behaviour:?}");
        assert_eq!(answer.text(), format!("{status} {code}\n"), "{behaviour:?}");
    }
    // The operator is told, and not with every request.
    let told = "an auth service does not decide, and requests are refused: it answered 500";
    wait::until(SOON, "the log", || async { gateway.stderr().contains(told) }).await;
    drop(auth);
    assert_eq!(gateway.get("/").await.status, 502);
    assert_eq!(app.requests(), 0);
    // Without such an upstream, too.
    let auth = Origin::start("auth").await;
    let gateway = Gateway::start(&config(&app, &auth, "").replace("upstreams.auth", "upstreams.other")).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("NC")));
    assert_eq!(app.requests(), 0);
}

/// The head of an answer decides: 200 to 299 lets a request pass whatever becomes of the body.
#[tokio::test]
async fn the_body_of_a_yes_is_not_waited_for() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth, "timeout = \"60s\"")).await;
    for behaviour in [
        answers(200, &[], &[b'x'; 70_000]),
        Behaviour::CutBody { declared: 10, sent: 5, reset: false },
        // The rest never comes.
        Behaviour::RawKept(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
        Behaviour::RawKept(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nbroken".to_vec()),
        answers(204, &[], b""),
    ] {
        auth.set(behaviour.clone());
        assert_eq!(gateway.get("/").await.status, 200, "{behaviour:?}");
    }
}

/// A refusal stays one when its body is of no use; clients get a short body of the gateway's own then.
#[tokio::test]
async fn a_no_stays_a_no_whatever_its_body_is() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth, "timeout = \"1s\"")).await;
    let challenge = [("www-authenticate", "Bearer"), ("content-encoding", "gzip"), ("etag", "\"a\"")];
    let large = [b'x'; 64 * 1024 + 1];
    for (behaviour, status) in [
        (answers(401, &challenge, &large), 401),
        (answers(302, &[("location", "https://login.test/"), ("content-md5", "x")], &large), 302),
        (Behaviour::RawKept(b"HTTP/1.1 403 No\r\ncontent-length: 10\r\n\r\nhello".to_vec()), 403),
        (Behaviour::Raw(b"HTTP/1.1 403 No\r\ncontent-length: 10\r\n\r\nhello".to_vec()), 403),
    ] {
        auth.set(behaviour);
        let answer = gateway.get("/").await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some("UAEX")));
        assert!(answer.text().starts_with(&format!("{status} ")), "{}", answer.text());
        for name in ["content-encoding", "content-md5", "etag"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
        if status == 401 {
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    // 64 KiB are passed on whole.
    auth.set(answers(401, &challenge, &large[1..]));
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.body.len(), answer.header("etag")), (401, 64 * 1024, Some("\"a\"")));
    assert_eq!(app.requests(), 0);
}

/// A yes counts only for requests about which the auth service is told exactly the same.
#[tokio::test]
async fn a_yes_for_one_request_never_counts_for_another() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let more = "cache = \"5m\"\nrequest_headers = [\"authorization\", \"x-tenant\"]";
    let gateway = Gateway::start(&config(&app, &auth, more)).await;
    let asks = async |host: &str, headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(Request::get("/").host(host), |request, (name, value)| request.header(name, value));
        gateway.send(request).await.status
    };
    let victim = [("authorization", "mine"), ("x-tenant", "victim"), ("x-tenant", "x-tenant")];
    let own = [("authorization", "mine"), ("authorization", "x-tenant"), ("authorization", "victim")];
    auth.set(answers(200, &[], b""));
    assert_eq!(asks("a", &own).await, 200);
    for (host, headers) in
        [("a", &victim[..]), ("a", &victim[..2]), ("a:81", &own[..]), ("A", &own[..]), ("a.", &own[..])]
    {
        auth.set(Behaviour::Status(403));
        assert_eq!(asks(host, headers).await, 403, "{host} {headers:?}");
    }
    assert_eq!(asks("a", &own).await, 200);
    assert_eq!(auth.requests(), 6);
}

#[tokio::test]
async fn a_yes_counts_for_requests_that_are_alike() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth, "cache = \"5m\"")).await;
    let with = |path: &str, token: &str| Request::get(path).header("authorization", token);
    auth.set(answers(200, &[("x-user", "ann")], b""));
    for (path, token, asked) in
        [("/a", "one", 1), ("/a", "one", 1), ("/b", "one", 2), ("/a", "two", 3), ("/a", "one", 3)]
    {
        assert_eq!(gateway.send(with(path, token)).await.status, 200);
        assert_eq!(auth.requests(), asked, "{path} {token}");
        assert_eq!(app.last_seen().unwrap().header("x-user"), ["ann"]);
    }
    // A no is not remembered.
    auth.set(Behaviour::Status(403));
    for asked in [4, 5] {
        assert_eq!(gateway.send(with("/c", "one")).await.status, 403);
        assert_eq!(auth.requests(), asked);
    }
}

#[test]
fn an_upstream_that_is_not_there_is_told_by_check() {
    let setup = Setup::new(
        r#"
listeners.web.address = "127.0.0.1:0"
middlewares.ask.forward_auth.upstream = "auth"
"#,
    );
    setup.assert_check_tells(&["middlewares.ask.forward_auth.upstream: there is no upstream `auth`"]);
}

/// Its breaker is that of its own upstream: what opens it is what goes wrong there, and nobody else is refused by it.
#[tokio::test]
async fn a_service_that_fails_is_not_asked_for_a_while() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let breaker = "breaker = { error_ratio = \"50%\", min_requests = 5, open = \"60s\" }";
    let open = "routes.open = { match = { path = \"/open\" }, upstream = \"app\" }";
    let config = config(&app, &auth, "").replace("routes.all", &format!("{open}\n        routes.all"));
    let endpoint = format!("upstreams.auth = {{ endpoints = [\"{}\"] }}", auth.address());
    assert!(config.contains(&endpoint));
    let broken = endpoint.replace(" }", &format!(", {breaker} }}"));
    let gateway = Gateway::start(&config.replace(&endpoint, &broken)).await;
    auth.set(answers(500, &[], b"broken"));
    wait::until(SOON, "the breaker", || async {
        let answer = gateway.get("/").await;
        (answer.status, answer.header("x-fleetgate-flag")) == (503, Some("UO"))
    })
    .await;
    let asked = auth.requests();
    assert!((5..10).contains(&asked), "{asked}");
    auth.set(answers(200, &[], b"well again"));
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 503, "nobody passes unchecked");
        assert_eq!(gateway.get("/open").await.status, 200);
    }
    assert_eq!((auth.requests(), app.requests()), (asked, 10));
}
