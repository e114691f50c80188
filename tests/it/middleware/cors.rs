//! CORS: who answers preflights, and who says which pages may read an answer.

use tokio::net::TcpStream;

use crate::support::client::{Answer, Request};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};
use crate::support::tls::{empty, http2_over, request};

use super::around;

/// The `Access-Control-*` fields of an answer, in order.
fn told(answer: &Answer) -> Vec<(String, String)> {
    let mut told: Vec<(String, String)> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| name.starts_with("access-control-"))
        .collect();
    told.sort();
    told
}

fn preflight(path: &str, method: &str) -> Request {
    Request::new("OPTIONS", path).header("origin", "https://shop.test").header("access-control-request-method", method)
}

#[tokio::test]
async fn what_a_service_says_about_other_origins_never_reaches_the_client() {
    let origin = Origin::start("a").await;
    let own = [
        ("access-control-allow-origin", "https://evil.test"),
        ("Access-Control-Allow-Credentials", "true"),
        ("access-control-expose-headers", "x-secret"),
        ("access-control-allow-private-network", "true"),
        ("access-control-allow-methods", "*"),
        ("vary", "Accept, ORIGIN"),
    ];
    let headers = own.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    origin.set(Behaviour::Answer { status: 200, headers, body: Vec::new() });
    let cors = |rules: &str| around(&origin, &["cors"], &format!("middlewares.cors.cors = {{ {rules} }}"));
    let from = |page: &str| Request::get("/").header("origin", page);
    let strict = r#"origins = ["https://shop.test"], credentials = true, expose = ["x-id"]"#;
    let gateway = Gateway::start(&cors(strict)).await;
    for request in [from("https://evil.test"), Request::get("/"), from("https://shop.test").header("origin", "x")] {
        let answer = gateway.send(request).await;
        assert_eq!((answer.status, told(&answer)), (200, vec![]));
        assert_eq!(answer.values("vary"), ["Accept, ORIGIN"], "it is named once");
    }
    let answer = gateway.send(from("https://shop.test")).await;
    let allowed = [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", "https://shop.test"),
        ("access-control-expose-headers", "x-id"),
    ];
    assert_eq!(told(&answer), allowed.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // Caches learn that answers differ even where nobody named an origin.
    origin.set(Behaviour::Echo);
    assert_eq!(gateway.get("/").await.values("vary"), ["origin"]);
    let gateway = Gateway::start(&cors(r#"origins = ["*"]"#)).await;
    let answer = gateway.send(from("https://evil.test")).await;
    assert_eq!(told(&answer), [("access-control-allow-origin".to_owned(), "*".to_owned())]);
    assert_eq!(answer.header("vary"), None);
}

/// Routes by method: `/api` takes POST, with cors; `/plain` takes POST, without; `/own` leaves preflights to its service.
fn routes(origin: &Origin) -> String {
    let route = |name: &str, matching: &str, more: &str| {
        format!("routes.{name} = {{ match = {{ {matching} }}, upstream = \"app\", {more} }}\n")
    };
    let cors = r#"middlewares.cors.cors = { origins = ["https://shop.test"], methods = ["POST"], headers = ["*"] }"#;
    let all = [
        route("api", r#"path = "/api", methods = ["POST"]"#, r#"middlewares = ["cors"]"#),
        route("changed", r#"path = "/changed", methods = ["POST"]"#, r#"middlewares = ["hidden", "cors"]"#),
        route("plain", r#"path = "/plain", methods = ["POST"]"#, ""),
        route("own", r#"path = "/own", methods = ["POST"]"#, r#"middlewares = ["cors"]"#),
        route("own-options", r#"path = "/own", methods = ["OPTIONS"]"#, ""),
        route("closed", r#"path = "/closed", methods = ["POST"]"#, r#"middlewares = ["absent", "cors"]"#),
        route("open", r#"path = "/open", methods = ["POST"]"#, r#"middlewares = ["cors"]"#),
        route("open-rest", r#"path = "/open""#, ""),
    ];
    let middlewares = format!("{cors}\nmiddlewares.hidden.headers.request.remove = [\"origin\"]\n{}", all.concat());
    around(origin, &[], &middlewares)
        .replace("routes.all = { match = { path = \"/\" }", "routes.all = { match = { path = \"/all\" }")
}

#[tokio::test]
async fn a_preflight_is_for_the_route_of_the_method_that_it_asks_about() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&routes(&origin)).await;
    for (path, method, status, flag) in [
        ("/api", "POST", 204, None),
        ("/open", "POST", 204, None),
        ("/api", "PUT", 404, Some("NR")),
        ("/plain", "POST", 404, Some("NR")),
        // A header that a middleware takes away makes it no preflight any more; no endpoint gets it all the same.
        ("/changed", "POST", 404, Some("NR")),
        ("/closed", "POST", 503, Some("NC")),
    ] {
        let answer = gateway.send(preflight(path, method)).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, flag), "{path} {method}");
        assert_eq!(answer.header("access-control-allow-origin").is_some(), status == 204, "{path} {method}");
        let explained = gateway
            .api(&format!(
                "explain?method=OPTIONS&url=http://a.test{path}&header=origin:https://shop.test&header=access-control-request-method:{method}"
            ))
            .await;
        let taken = explained["routes"].as_array().unwrap().iter().any(|route| route["fate"] == "taken");
        assert_eq!(taken, status != 404 || path == "/changed", "{explained}");
    }
    assert_eq!(origin.requests(), 0);
    // What is no preflight is matched as it is.
    for request in [
        Request::new("OPTIONS", "/api"),
        Request::new("OPTIONS", "/api").header("origin", "https://shop.test"),
        Request::new("OPTIONS", "/api").header("access-control-request-method", "POST"),
        preflight("/api", "POST").header("origin", "https://other.test"),
        preflight("/api", "POST").header("access-control-request-method", "PUT"),
    ] {
        assert_eq!(gateway.send(request).await.status, 404);
    }
    assert_eq!(origin.requests(), 0);
    // A service that takes OPTIONS itself gets them.
    assert_eq!(gateway.send(preflight("/own", "POST")).await.status, 200);
    assert_eq!(gateway.send(preflight("/open", "PUT")).await.status, 200);
    assert_eq!(origin.requests(), 2);
}

#[tokio::test]
async fn preflights_over_http2_are_matched_alike() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&routes(&origin)).await;
    let mut client = http2_over(TcpStream::connect(gateway.address()).await.unwrap()).await;
    for (path, status) in [("/api", 204), ("/plain", 404)] {
        let asked = request("OPTIONS", &format!("http://a.test{path}"))
            .header("origin", "https://shop.test")
            .header("access-control-request-method", "POST");
        let answer = client.send_request(asked.body(empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn any_headers_are_allowed_by_repeating_those_that_were_asked_for() {
    let origin = Origin::start("a").await;
    for credentials in [false, true] {
        let rules = format!("origins = [\"https://shop.test\"], headers = [\"*\"], credentials = {credentials}");
        let gateway =
            Gateway::start(&around(&origin, &["cors"], &format!("middlewares.cors.cors = {{ {rules} }}"))).await;
        let asked = preflight("/", "PUT").header("access-control-request-headers", "authorization,x-a");
        let answer = gateway.send(asked).await;
        assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,x-a"), "{credentials}");
        assert!(answer.header("vary").unwrap().contains("access-control-request-headers"));
        assert_eq!(gateway.send(preflight("/", "PUT")).await.header("access-control-allow-headers"), None);
        // A page that is not allowed is told nothing.
        let other = Request::new("OPTIONS", "/")
            .header("origin", "https://evil.test")
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "x-a");
        assert_eq!(told(&gateway.send(other).await), vec![]);
    }
}
