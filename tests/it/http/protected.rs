//! Headers that services believe because a gateway sets them: no client says them itself, in no spelling and no trailer.

use crate::http2::literal;
use crate::support::client::{Connection, Request};
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS};
use crate::support::gateway::Gateway;
use crate::support::multiplexed::Service;
use crate::support::origin::{Behaviour, Origin, Seen};
use crate::support::wait;

const SECRET: &str = "a-secret-of-more-than-32-bytes-for-tests";

/// Names under which services that fold header names know a header.
fn folded(seen: &Seen, name: &str) -> Vec<String> {
    let fold = |name: &str| name.to_ascii_lowercase().replace(|one: char| !one.is_ascii_alphanumeric(), "-");
    let heads = seen.headers.iter().chain(&seen.trailers);
    heads.filter(|(other, _)| fold(other) == fold(name)).map(|(name, value)| format!("{name}: {value}")).collect()
}

fn config(app: &Origin, auth: &Origin) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        listeners.trusted = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.1"] }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{0}"]
        upstreams.auth.endpoints = ["{1}"]
        middlewares.login.jwt = {{ issuers = ["i"], audience = [], secret = "{SECRET}", optional = true, claims = {{ roles = "x-roles" }} }}
        middlewares.keys.api_key = {{ optional = true }}
        middlewares.asked.forward_auth = {{ upstream = "auth", path = "/", request_headers = ["x-tenant"], response_headers = ["x-user"], consumer = "x-user" }}
        middlewares.tell.headers.request = {{ set = {{ x-role = "${{claims.role}}" }}, remove = ["x-debug"] }}
        routes.open = {{ match = {{ path = "/" }}, upstream = "app" }}
        routes.login = {{ match = {{ path = "/login" }}, upstream = "app", middlewares = ["login"] }}
        routes.keys = {{ match = {{ path = "/keys" }}, upstream = "app", middlewares = ["keys"] }}
        routes.asked = {{ match = {{ path = "/asked" }}, upstream = "app", middlewares = ["asked"] }}
        routes.tell = {{ match = {{ path = "/tell" }}, upstream = "app", middlewares = ["tell"] }}
        routes.split.match.path = "/split"
        routes.split.targets = [{{ upstream = "app", weight = 1, middlewares = ["tell"] }}]
        "#,
        app.address(),
        auth.address()
    )
}

/// Spellings that CGI and its heirs fold into one name.
fn spellings(name: &str) -> [String; 5] {
    let capitals = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect::<Vec<_>>();
    [name.to_owned(), capitals.join("-"), capitals.join("_"), name.replace('-', "."), name.replacen('-', "_", 1)]
}

#[tokio::test]
async fn no_client_says_who_it_is_in_any_spelling_on_any_route() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth)).await;
    for (path, names) in [
        ("/", &["x-consumer"][..]),
        ("/login", &["x-consumer", "x-roles"]),
        ("/keys", &["x-consumer"]),
        ("/asked", &["x-consumer", "x-user"]),
        ("/tell", &["x-consumer", "x-role", "x-debug"]),
        ("/split", &["x-consumer", "x-role", "x-debug"]),
    ] {
        for listener in ["web", "trusted"] {
            for name in names {
                let request =
                    spellings(name).iter().fold(Request::post(path, "x"), |request, it| request.header(it, "root"));
                let answer = request.send(gateway.listener(listener)).await;
                assert_eq!(answer.status, 200, "{path} {name}");
                assert_eq!(folded(&app.last_seen().unwrap(), name), Vec::<String>::new(), "{path} {listener}");
            }
        }
    }
    // What a service was asked about is what the other one gets.
    let request = Request::get("/asked").header("x-tenant", "mine").header("X_Tenant", "theirs");
    assert_eq!(gateway.send(request).await.status, 200);
    assert_eq!(folded(&app.last_seen().unwrap(), "x-tenant"), ["x-tenant: mine"]);
    // A request's id has one value, too.
    let request = Request::get("/").header("x-request-id", "mine").header("X_Request_Id", "theirs");
    assert_eq!(gateway.send(request).await.status, 200);
    assert_eq!(folded(&app.last_seen().unwrap(), "x-request-id"), ["x-request-id: mine"]);
}

#[tokio::test]
async fn what_is_said_of_clients_is_what_trusted_proxies_say_by_its_name() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth)).await;
    for name in [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-ssl",
        "x-forwarded-server",
        "x-forwarded-scheme",
        "x-forwarded-uri",
        "x-forwarded-method",
        "x-forwarded-path",
        "x-forwarded-user",
        "x-forwarded-client-cert",
        "x-original-url",
        "x-original-host",
        "x-rewrite-url",
        "x-real-ip",
        "true-client-ip",
        "client-cert",
    ] {
        for (listener, is_trusted) in [("web", false), ("trusted", true)] {
            let request = spellings(name).iter().fold(Request::get("/"), |request, it| request.header(it, "6.6.6.6"));
            assert_eq!(request.send(gateway.listener(listener)).await.status, 200);
            let seen = app.last_seen().unwrap();
            let of_strangers: Vec<_> =
                folded(&seen, name).into_iter().filter(|line| line.contains("6.6.6.6")).collect();
            let plain = of_strangers.iter().all(|line| line.starts_with(&format!("{name}: ")));
            assert_eq!(!of_strangers.is_empty(), is_trusted, "{listener}: {of_strangers:?}");
            assert!(plain, "{listener}: {of_strangers:?}");
        }
    }
}

#[tokio::test]
async fn no_trailer_says_what_services_believe_of_a_head() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth)).await;
    for (path, names) in [
        ("/", &["x-consumer", "x_consumer", "x-forwarded-user", "x_forwarded_for", "x-request_id", "x-real-ip"][..]),
        ("/login", &["x-consumer", "x-roles", "x_roles"]),
        ("/asked", &["x-user", "x.user", "x-tenant", "x_tenant"]),
        ("/tell", &["x-role", "x_role", "x-debug", "x_debug"]),
        ("/split", &["x-role", "x_role", "x-debug", "x_debug"]),
    ] {
        let mut client = Connection::open(gateway.address()).await.unwrap();
        let lines: String = names.iter().map(|name| format!("{name}: root\r\n")).collect();
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n{lines}x-sum: 7\r\n\r\n"
        );
        client.send(text.as_bytes()).await.unwrap();
        assert_eq!(client.answer("POST").await.unwrap().status, 200, "{path}");
        assert_eq!(app.last_seen().unwrap().trailers, [("x-sum".to_owned(), "7".to_owned())], "{path}");
    }
}

#[tokio::test]
async fn no_websocket_and_no_call_of_grpc_says_who_its_client_is() {
    let (app, auth, service) = (Origin::start("app").await, Origin::start("auth").await, Service::start().await);
    app.on("/tell", Behaviour::WebSocket);
    let calls = format!(
        r#"
        upstreams.calls = {{ endpoints = ["{}"], protocol = "http2" }}
        routes.calls = {{ match = {{ path = "/calls" }}, upstream = "calls", middlewares = ["tell"] }}
        "#,
        service.address()
    );
    let gateway = Gateway::start(&(config(&app, &auth) + &calls)).await;
    let names = ["x-consumer", "x-role", "x-debug", "x-forwarded-user"];

    let upgrade = Request::get("/tell").header("connection", "upgrade").header("upgrade", "websocket");
    let spelt = names.iter().flat_map(|name| spellings(name));
    let mut client = Connection::open(gateway.listener("web")).await.unwrap();
    client
        .send(&spelt.fold(upgrade, |request, it| request.header(&it, "root")).bytes(gateway.listener("web")))
        .await
        .unwrap();
    assert!(client.head().await.unwrap().first_line.contains(" 101 "));
    for name in names {
        assert_eq!(folded(&app.last_seen().unwrap(), name), Vec::<String>::new());
    }

    let mut head = vec![0x83, 0x86];
    literal(&mut head, false, b":path", b"/calls/one");
    literal(&mut head, false, b":authority", b"a");
    literal(&mut head, false, b"content-type", b"application/grpc");
    literal(&mut head, false, b"te", b"trailers");
    let mut trailers = Vec::new();
    for spelling in names.iter().flat_map(|name| spellings(name)).map(|it| it.to_lowercase()) {
        literal(&mut head, false, spelling.as_bytes(), b"root");
        literal(&mut trailers, false, spelling.as_bytes(), b"root");
    }
    let mut client = Frames::connect(gateway.listener("web"), &[]).await;
    client.send(&Frame::new(HEADERS, END_HEADERS, 1, head)).await.unwrap();
    client.send(&Frame::new(DATA, 0, 1, [0; 5])).await.unwrap();
    client.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, trailers)).await.unwrap();
    client.next_of(HEADERS).await.expect("an answer");
    let call = service.last();
    assert_eq!((call.uri.ends_with("/calls/one"), call.body.len()), (true, 5));
    let told = call
        .headers
        .iter()
        .chain(call.trailers.iter().flat_map(http::HeaderMap::iter))
        .filter(|(_, value)| *value == "root");
    assert_eq!(told.count(), 0, "{:?}", (&call.headers, &call.trailers));
}

#[tokio::test]
async fn a_trusted_proxy_that_cannot_be_read_is_told_of() {
    let (app, auth) = (Origin::start("app").await, Origin::start("auth").await);
    let gateway = Gateway::start(&config(&app, &auth)).await;
    for _ in 0..3 {
        let request = Request::get("/").header_bytes("x-forwarded-for", b"203.0.113.9, \xffoops");
        assert_eq!(request.send(gateway.listener("trusted")).await.status, 200);
    }
    let told = gateway.api("status").await["problems"].to_string();
    for part in ["listeners.trusted.trusted_proxies", "127.0.0.1", "oops", "3 requests"] {
        assert!(told.contains(part), "{told}");
    }
    let logged = || async { gateway.stderr().text().matches("names no client").count() == 1 };
    wait::until(std::time::Duration::from_secs(30), "one line in the log", logged).await;
}
