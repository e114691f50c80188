//! Regular expressions: the bounds on what documents may ask for, and on what of a request is searched.

use std::fmt::Write as _;

use crate::support::client::Request;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::Origin;

fn config(origin: &Origin) -> String {
    format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0", max_header_size = "64KiB" }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        upstreams.app.endpoints = ["{}"]
        middlewares.keys.api_key = {{}}
        middlewares.moved.rewrite.path = {{ regex = "^/old/(.*)$", to = "/new/$1" }}
        [routes.open]
        match = {{ path = "/" }}
        upstream = "app"
        "#,
        origin.address()
    )
}

const PROTECTED: &str = r#"
        [routes.protected]
        upstream = "app"
        middlewares = ["keys"]
"#;

/// A route by an expression that protects something is not got around by a text that is too long to be searched.
#[tokio::test]
async fn what_is_too_long_to_be_searched_gets_around_no_route() {
    let origin = Origin::start("a").await;
    let long = "a".repeat(9_000);
    let half = "a".repeat(4_500);
    for (matching, protected, too_long, status) in [
        (
            r#"match = { path = { regex = "/admin/.*" } }"#,
            Request::get("/admin/x"),
            vec![Request::get(&format!("/admin/{long}"))],
            414,
        ),
        (
            r#"match = { path = "/", headers = { x-team = { regex = "secret" } } }"#,
            Request::get("/").header("x-team", "secret"),
            vec![
                Request::get("/").header("x-team", &format!("secret{long}")),
                Request::get("/").header("x-team", &format!("secret{half}")).header("x-team", &half),
            ],
            431,
        ),
        (
            r#"match = { path = "/", query = { team = { regex = "secret" } } }"#,
            Request::get("/?team=secret"),
            vec![
                Request::get(&format!("/?team=secret{long}")),
                Request::get(&format!("/?team=secret{half}&team={half}")),
            ],
            414,
        ),
    ] {
        let config = format!("{}{PROTECTED}{matching}\n", config(&origin));
        let gateway = Gateway::start(&config).await;
        assert_eq!(gateway.send(protected).await.status, 401, "{matching}");
        // Middlewares of the listener come before the refusal, and change nothing of it.
        let around = "max_header_size = \"64KiB\", middlewares = [\"noted\"]";
        let noted = "middlewares.noted.headers.response.set = { x-noted = \"1\" }\n";
        let with_steps =
            Gateway::start(&format!("{noted}{}", config.replace("max_header_size = \"64KiB\"", around))).await;
        for request in too_long {
            let answer = gateway.send(request.clone()).await;
            assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some("HL")), "{matching}");
            let answer = with_steps.send(request).await;
            assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some("HL")), "{matching}");
            assert_eq!(answer.header("x-noted"), Some("1"), "{matching}");
        }
        assert_eq!(gateway.get("/").await.status, 200, "{matching}");
        // What no expression looks at may be long.
        let request = Request::get("/other?b=1").header("x-other", &long);
        assert_eq!(gateway.send(request).await.status, 200, "{matching}");
    }
    assert_eq!(origin.requests(), 6);
    // Without expressions nothing is searched.
    let gateway = Gateway::start(&config(&origin)).await;
    assert_eq!(gateway.get(&format!("/admin/{long}")).await.status, 200);
}

/// Nor does it get around a target, a rule or a fault; what other hosts, or more exact routes, search binds nobody.
#[tokio::test]
async fn what_is_too_long_to_be_searched_gets_around_no_condition() {
    let origin = Origin::start("a").await;
    let (long, half) = ("a".repeat(9_000), "a".repeat(4_500));
    let conditions = [
        ("headers = { x-team = { regex = \"secret\" } }", 431),
        ("cookies = { team = { regex = \"secret\" } }", 431),
        ("query = { team = { regex = \"secret\" } }", 414),
    ];
    for (condition, status) in conditions {
        let with = |value: &str| {
            Request::get(&format!("/?team={value}")).header("x-team", value).header("cookie", &format!("team={value}"))
        };
        let targets = format!(
            "targets = [\n{{ upstream = \"app\", middlewares = [\"keys\"], when = {{ {condition} }} }},\n\
             {{ upstream = \"app\" }} ]\n"
        );
        let fault = format!("middlewares.fails.fault = {{ abort = {{ status = 418 }}, when = {{ {condition} }} }}\n");
        let rule = format!("middlewares.rule.require = [{{ when = {{ {condition} }} }}]\n");
        for (text, met, unmet) in [
            (("", targets.as_str()), 401, 200),
            ((&fault, "upstream = \"app\"\nmiddlewares = [\"fails\"]\n"), 418, 200),
            ((&rule, "upstream = \"app\"\nmiddlewares = [\"rule\"]\n"), 200, 403),
        ] {
            let (before, behind) = text;
            let config = config(&origin).replace("upstream = \"app\"", "");
            let gateway = Gateway::start(&format!("{before}{config}{behind}")).await;
            for (request, wanted) in [
                (with("secret"), met),
                (with("other"), unmet),
                (with(&format!("secret{long}")), status),
                (with(&format!("other{long}")), status),
            ] {
                let told = gateway.send(request).await;
                assert_eq!(told.status, wanted, "{text:?}");
            }
            if !condition.starts_with("cookies") {
                let request = Request::get(&format!("/?team=secret{half}&team={half}"));
                let request = request.header("x-team", &format!("secret{half}")).header("x-team", &half);
                assert_eq!(gateway.send(request).await.status, status, "{text:?}");
            }
            let question = match condition.split(' ').next() {
                Some("headers") => [("url", "http://a.test/".to_owned()), ("header", format!("x-team: {long}"))],
                Some("cookies") => [("url", "http://a.test/".to_owned()), ("header", format!("cookie: team={long}"))],
                _ => [("url", format!("http://a.test/?team={long}")), ("header", "x-team: a".to_owned())],
            };
            let question = form_urlencoded::Serializer::new(String::new()).extend_pairs(question).finish();
            let answer = gateway.api(&format!("explain?{question}")).await["answer"].clone();
            assert_eq!(answer["status"], status, "{text:?}\n{answer}");
            if behind.starts_with("targets") {
                assert!(answer["reason"].as_str().unwrap().contains("searches 8 KiB"), "{answer}");
            }
        }
    }
    let others = r#"
        [routes.elsewhere]
        match = { path = { regex = "/.*" }, hosts = ["other.test"], headers = { x-team = { regex = "." } } }
        upstream = "app"
        [routes.exact]
        match = { path = { exact = "/exact" } }
        upstream = "app"
        [routes.posts]
        match = { path = { regex = "/[a-z]*" }, methods = ["POST"], headers = { x-team = { regex = "." } } }
        upstream = "app"
    "#;
    let gateway = Gateway::start(&format!("{}{others}", config(&origin))).await;
    for (request, wanted) in [
        (Request::get(&format!("/{long}")).header("x-team", &long), 200),
        (Request::new("POST", "/exact").header("x-team", &long), 200),
        (Request::new("POST", "/else").header("x-team", &long), 431),
        (Request::get("/").host("other.test").header("x-team", &long), 431),
    ] {
        let told = format!("{request:?}");
        assert_eq!(gateway.send(request).await.status, wanted, "{}", &told[..told.len().min(300)]);
    }
}

#[tokio::test]
async fn a_path_that_is_too_long_to_be_rewritten_goes_nowhere() {
    let origin = Origin::start("a").await;
    let config = config(&origin) + "middlewares = [\"moved\"]\n";
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/old/x").await.status, 200);
    assert_eq!(origin.last_seen().unwrap().target, "/new/x");
    let answer = gateway.get(&format!("/old/{}", "a".repeat(9_000))).await;
    assert_eq!((answer.status, answer.text()), (414, "414 uri_too_long\n".to_owned()));
    assert_eq!(origin.requests(), 1);
}

/// One expression may take 64 KiB, and all of a provider 16 MiB; which one is too many depends on the text alone.
#[test]
fn documents_may_not_take_all_memory_by_expressions() {
    let mut text = "listeners.web.address = \"127.0.0.1:0\"\nupstreams.a.endpoints = [\"127.0.0.1:1\"]\n".to_owned();
    for number in 0..1000 {
        let pattern = format!("/p{number}/([a-z0-9]{{1,20}}/){{1,8}}");
        writeln!(text, "routes.r{number} = {{ match = {{ path = {{ regex = \"{pattern}\" }} }}, upstream = \"a\" }}")
            .unwrap();
    }
    writeln!(
        text,
        "routes.large = {{ match = {{ path = {{ regex = \"/[ab]*a[ab]{{3000}}c\" }} }}, upstream = \"a\" }}"
    )
    .unwrap();
    let setup = Setup::new(&text);
    let check = || {
        let output = setup.output(&["check", "--config", "fleetgate.toml"]);
        assert!(!output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let told = check();
    assert!(told.contains("routes.large") && told.contains("more than 64 KiB when compiled"), "{told}");
    assert!(told.contains("is one regular expression too many: all of this provider may take 16 MiB"), "{told}");
    assert_eq!(told, check());
}
