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
        let gateway = Gateway::start(&format!("{}{PROTECTED}{matching}\n", config(&origin))).await;
        assert_eq!(gateway.send(protected).await.status, 401, "{matching}");
        for request in too_long {
            let answer = gateway.send(request).await;
            assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (status, Some("HL")), "{matching}");
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
