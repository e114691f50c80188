//! What explain makes of headers that nobody, or only a trusted proxy, may say: the same as the gateway on arrival.

use serde_json::{Value, json};

use super::explained;
use crate::operator::run;
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;

async fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        r#"
        listeners.open.address = "127.0.0.1:0"
        listeners.web = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"] }}
        listeners.secure = {{ address = "127.0.0.1:0", trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"], redirect_to_https = {{}} }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{}"]
        middlewares.outside.ip.allow = ["203.0.113.0/24"]
        middlewares.not-evil.ip.deny = ["198.51.100.0/24"]
        middlewares.inside.require = [{{ when = {{ headers = {{ x-inside = {{ present = true }} }} }} }}]
        routes.root = {{ match = {{ path = "/root", headers = {{ x-consumer = "root" }} }}, upstream = "app" }}
        routes.twin = {{ match = {{ path = "/twin", headers = {{ x_forwarded_user = "root" }} }}, upstream = "app" }}
        routes.claim = {{ match = {{ path = "/claim", headers = {{ x-forwarded-user = "root" }} }}, upstream = "app" }}
        routes.id = {{ match = {{ path = "/id", headers = {{ x-request-id = {{ present = true }} }} }}, upstream = "app" }}
        routes.outside = {{ match = {{ path = "/outside" }}, upstream = "app", middlewares = ["outside"] }}
        routes.not-evil = {{ match = {{ path = "/not-evil" }}, upstream = "app", middlewares = ["not-evil"] }}
        routes.inside = {{ match = {{ path = "/inside" }}, upstream = "app", middlewares = ["inside"] }}
        routes.any = {{ match = {{ path = "/any" }}, upstream = "app" }}
        "#,
        origin.address()
    ))
    .await
}

/// What is said of a request from this machine, which is the one that is sent, too.
async fn said_and_done(gateway: &Gateway, listener: &str, path: &str, headers: &[(&str, &str)]) -> (u64, u64, Value) {
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let url = format!("http://a.test{path}");
    let mut fields = vec![("url", url.as_str()), ("listener", listener), ("client", "::ffff:127.0.0.1")];
    fields.extend(lines.iter().map(|line| ("header", line.as_str())));
    let said = explained(gateway, &fields).await;
    let mut request = Request::get(path).host("a.test");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let done = request.send(gateway.listener(listener)).await.status;
    (said["answer"]["status"].as_u64().unwrap_or(200), done.into(), said)
}

#[tokio::test]
async fn headers_that_the_sender_may_not_say_match_nothing() {
    let origin = Origin::start("app").await;
    let gateway = gateway(&origin).await;
    let hops = "1.1 fleetgate, ".repeat(9);
    for (listener, path, headers, wanted) in [
        ("open", "/root", &[("x-consumer", "root")][..], 404),
        ("web", "/root", &[("X-Consumer", "root")], 404),
        ("web", "/twin", &[("x_forwarded_user", "root")], 404),
        ("open", "/claim", &[("x-forwarded-user", "root")], 404),
        ("web", "/claim", &[("x-forwarded-user", "root")], 200),
        ("open", "/id", &[("x-request-id", "7")], 200),
        ("open", "/id", &[("x-request-id", "with space")], 404),
        ("open", "/outside", &[("x-forwarded-for", "203.0.113.7")], 403),
        ("web", "/outside", &[("x-forwarded-for", "203.0.113.7")], 200),
        ("web", "/outside", &[("x-forwarded-for", "203.0.113.7, 10.1.1.1")], 200),
        ("web", "/outside", &[("x-forwarded-for", "203.0.113.7, 192.0.2.1")], 403),
        ("web", "/outside", &[("x-forwarded-for", "203.0.113.7, _hidden")], 403),
        ("web", "/not-evil", &[("x-forwarded-for", "198.51.100.1")], 403),
        ("web", "/not-evil", &[("x-forwarded-for", "unknown")], 403),
        ("web", "/not-evil", &[("x-forwarded-for", "192.0.2.1")], 200),
        ("open", "/not-evil", &[("x-forwarded-for", "198.51.100.1")], 200),
        ("secure", "/any", &[], 308),
        ("secure", "/any", &[("x-forwarded-proto", "http")], 308),
        ("secure", "/any", &[("x-forwarded-proto", "https")], 200),
        ("open", "/inside", &[], 403),
        ("open", "/inside", &[("x-inside", "1")], 200),
        ("open", "/inside", &[("x-inside", "1"), ("connection", "x-inside")], 403),
        ("open", "/any", &[("via", hops.as_str())], 508),
    ] {
        let (said, done, shown) = said_and_done(&gateway, listener, path, headers).await;
        assert_eq!((said, done), (wanted, wanted), "{listener} {path} {headers:?}: {shown:#}");
        assert_eq!(shown["unless"], Value::Null, "{listener} {path} {headers:?}");
    }
    let (.., said) = said_and_done(&gateway, "open", "/any", &[("x_consumer", "a"), ("x-real-ip", "10.0.0.1")]).await;
    assert_eq!(said["request"]["removed"], json!(["x-real-ip", "x_consumer"]));
    assert_eq!((&said["request"]["client"], &said["request"]["peer"]), (&json!("127.0.0.1"), &Value::Null));
    let (.., said) = said_and_done(&gateway, "web", "/any", &[("x-forwarded-for", "[2001:db8::1]:80")]).await;
    let client = (&said["request"]["client"], &said["request"]["peer"]);
    assert_eq!(client, (&json!("2001:db8::1"), &json!("127.0.0.1")));
    let (.., said) = said_and_done(&gateway, "web", "/any", &[("x-forwarded-for", "?")]).await;
    assert_eq!(said["request"]["client"], "unknown");
}

#[tokio::test]
async fn the_command_says_whose_word_counts() {
    let origin = Origin::start("app").await;
    let gateway = gateway(&origin).await;
    let endpoint = "the client gets what an endpoint answers";
    let redirect = "the client gets 308: the listener sends every request to https, this one to https://a.test/any";
    let claim = ["-H", "x-forwarded-for: 203.0.113.7"];
    let https = ["-H", "x-forwarded-proto: http"];
    for (listener, url, more, part) in [
        ("web", "http://a.test/outside", &[claim[0], claim[1], "--client", "::ffff:10.0.0.1"][..], endpoint),
        (
            "web",
            "http://a.test/outside",
            &[claim[0], claim[1], "--client", "::ffff:10.0.0.1"],
            "GET a.test/outside from 203.0.113.7 through 10.0.0.1, by listener web",
        ),
        ("web", "http://a.test/outside", &[claim[0], claim[1], "--client", "192.0.2.1"], "the client gets 403 denied"),
        (
            "web",
            "http://a.test/outside",
            &[claim[0], claim[1], "--client", "192.0.2.1"],
            "removed on arrival, as the sender is not believed: x-forwarded-for",
        ),
        (
            "web",
            "http://a.test/any",
            &claim[..],
            "the client gets what an endpoint answers, unless a trusted proxy sends it (`x-forwarded-for` would count \
             then: give the proxy's address by --client)",
        ),
        ("secure", "http://a.test/any", &[], redirect),
        ("secure", "https://a.test/any", &[], endpoint),
        ("secure", "https://a.test/any", &["--client", "10.0.0.1"], endpoint),
        ("secure", "https://a.test/any", &[https[0], https[1], "--client", "10.0.0.1"], redirect),
        ("secure", "https://a.test/any", &["--client", "192.0.2.1"], redirect),
        ("secure", "http://a.test/any", &["-H", "x-forwarded-proto: https"], "unless a trusted proxy sends it"),
    ] {
        let (fine, said) = run(&gateway, &[&["explain", "GET", url, "--listener", listener], more].concat());
        assert!(fine && said.contains(part), "{listener} {url} {more:?}: {part} in:\n{said}");
    }
    let (_, said) = run(&gateway, &["explain", "GET", "http://a.test/any", "-H", "x-forwarded-for: 203.0.113.7"]);
    assert!(!said.contains("unless"), "the listener trusts nobody: {said}");
}

/// A head of this size has no room in a URL.
fn long_headers() -> Vec<String> {
    (0..20).map(|number| format!("x-long-{number}: {}", "a".repeat(1500))).collect()
}

#[tokio::test]
async fn a_question_is_as_long_as_a_request_may_be() {
    let origin = Origin::start("app").await;
    let gateway = gateway(&origin).await;
    let headers = long_headers();
    let mut arguments = vec!["explain", "GET", "http://a.test/root", "--listener", "open"];
    arguments.extend(headers.iter().flat_map(|header| ["-H", header.as_str()]));
    let (fine, said) = run(&gateway, &arguments);
    assert!(fine && said.contains("404 no_route") && said.contains("header `x-consumer` is absent"), "{said}");

    let url = format!("http://{}/api/v1/explain", gateway.admin());
    let client = crate::support::http();
    let form = "application/x-www-form-urlencoded";
    let most = format!("url=http://a.test/any&header=x:{}", "a".repeat(255 << 10));
    for (kind, body, status, part) in [
        (Some(form), "url=http://a.test/any".to_owned(), 200, "\"answer\":null"),
        (Some("Application/X-WWW-Form-Urlencoded; charset=utf-8"), "url=http://a.test/any".to_owned(), 200, "any"),
        (Some(form), most, 200, "any"),
        (Some(form), "a".repeat((256 << 10) + 1), 413, "262144 bytes"),
        (Some(form), String::new(), 400, "`url` is missing"),
        (Some(form), "url=http://a.test/any&what=1".to_owned(), 400, "there is no parameter `what`"),
        (Some("application/json"), "{}".to_owned(), 415, form),
        (Some("text/plain"), "url=http://a.test/any".to_owned(), 415, form),
        (None, "url=http://a.test/any".to_owned(), 415, form),
    ] {
        let mut request = client.post(&url).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let answer = request.send().await.unwrap();
        let (got, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(got == status && text.contains(part), "{kind:?}: {got} {text:.500}");
    }
    let answer = client.post(format!("{url}?url=http://a.test/any")).header("content-type", form).body("url=/x");
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 400, "one question at a time");
    assert_eq!(origin.requests(), 0, "nothing is sent");
}
