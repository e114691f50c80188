//! What operators tell a running gateway: drain, undrain, accept; and who may not.

use std::time::Duration;

use serde_json::json;

use crate::support::client::Request;
use crate::support::gateway::{Gateway, Setup, fleetgate};
use crate::support::origin::Origin;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

fn config(origins: &[&Origin]) -> String {
    let endpoints: Vec<String> = origins.iter().map(|it| format!("{{ address = \"{}\" }}", it.address())).collect();
    format!(
        r#"
            listeners.web.address = "127.0.0.1:0"
            admin.address = "127.0.0.1:0"
            [upstreams.users]
            endpoints = [{}]
            [routes.users]
            match = {{ path = "/users" }}
            upstream = "users"
        "#,
        endpoints.join(", ")
    )
}

/// Runs a command against the gateway: whether it exited with 0, and all it printed.
pub(crate) fn run(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let admin = format!("http://{}", gateway.admin());
    let output = fleetgate(&[arguments, &["--admin", &admin]].concat()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[tokio::test]
async fn a_drained_endpoint_gets_no_new_request_until_it_is_undrained() {
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let gateway = Gateway::start(&config(&[&one, &two])).await;
    let address = one.address().to_string();

    let (fine, said) = run(&gateway, &["drain", "users", &address]);
    assert!(fine && said.contains(&format!("{address} of upstream `users` is drained")), "{said}");
    assert!(!said.contains("no endpoint left"), "{said}");
    let states = gateway.endpoints("users").await;
    assert!(states.contains(&(address.clone(), "draining".to_owned())), "{states:?}");
    for _ in 0..20 {
        assert_eq!(gateway.get("/users").await.served_by(), "two/v1");
    }
    let (fine, said) = run(&gateway, &["drain", "users", &address]);
    assert!(fine && said.contains("already"), "{said}");

    // The document is edited meanwhile: the drain is not in it, and stays.
    gateway.write_config(&config(&[&two]));
    wait::until(SOON, "its removal", || async { gateway.endpoints("users").await.len() == 1 }).await;
    let (_, status) = run(&gateway, &["status"]);
    assert!(status.contains(&format!("{address} is drained by an operator and not there")), "{status}");
    gateway.write_config(&config(&[&one, &two]));
    wait::until(SOON, "its return", || async {
        gateway.endpoints("users").await.contains(&(address.clone(), "draining".to_owned()))
    })
    .await;

    let (fine, said) = run(&gateway, &["undrain", "users", &address]);
    assert!(fine, "{said}");
    wait::until(SOON, "traffic at it", || async { gateway.get("/users").await.served_by() == "one/v1" }).await;
}

#[tokio::test]
async fn a_refused_command_says_why_and_fails() {
    let origin = Origin::start("users").await;
    let gateway = Gateway::start(&config(&[&origin])).await;
    let address = origin.address().to_string();
    for (arguments, why) in [
        (&["drain", "nobody", &address][..], "there is no upstream `nobody`"),
        (&["drain", "users", "127.0.0.9:9"], "upstream `users` has no endpoint `127.0.0.9:9`"),
        (&["undrain", "users", "127.0.0.9:9"], "upstream `users` has no endpoint `127.0.0.9:9`"),
        (&["drain", "users", "localhost"], "`localhost` is no address of an endpoint"),
        (&["drain", "../status", &address], "there is no upstream `../status`"),
        (&["accept", "consul"], "provider `consul` is not on"),
        (&["accept", "nobody"], "`nobody` is not a provider"),
        (&["accept", "routes/user"], "nothing of that name is defined"),
        (&["accept", "routes.d/users.toml"], "file:PATH"),
        (&["accept", "file:/nowhere/users.toml"], "no document comes from such a file"),
    ] {
        let (fine, said) = run(&gateway, arguments);
        assert!(!fine && said.contains(why), "{arguments:?}: {said}");
    }
    let (fine, said) = run(&gateway, &["accept", "file"]);
    assert!(fine && said.contains("nothing is held under file"), "{said}");
    assert_eq!(gateway.endpoints("users").await, [(address, "healthy".to_owned())]);
}

#[tokio::test]
async fn commands_come_by_post_and_from_nobody_elses_page() {
    let origin = Origin::start("users").await;
    let gateway = Gateway::start(&config(&[&origin])).await;
    let path = format!("/api/v1/upstreams/users/endpoints/{}/drain", origin.address().to_string().replace(':', "%3A"));
    let send = async |method: &str, headers: &[(&str, &str)]| {
        let request = Request::new(method, &path).host("localhost");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.send(gateway.admin()).await
    };
    for method in ["GET", "PUT", "DELETE"] {
        let answer = send(method, &[]).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
    }
    for foreign in [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example"), ("origin", "null")] {
        let answer = send("POST", &[foreign]).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (403, &json!("foreign_origin")), "{foreign:?}");
    }
    let rebound = Request::new("POST", &path).host("rebound.example").send(gateway.admin()).await;
    assert_eq!(rebound.status, 403);
    assert_eq!(gateway.endpoints("users").await[0].1, "healthy", "nobody was heard");
    let done = send("POST", &[]).await;
    assert_eq!((done.status, &done.json()["result"]), (200, &json!("done")));
    assert_eq!(gateway.endpoints("users").await[0].1, "draining");
}

#[tokio::test]
async fn commands_need_the_token() {
    let origin = Origin::start("users").await;
    let text = config(&[&origin]).replace("[upstreams.users]", "admin.token_file = \"admin.token\"\n[upstreams.users]");
    let gateway = Setup::new(&text).file("admin.token", "t0ken\n").start().await;
    let address = origin.address().to_string();
    let (fine, said) = run(&gateway, &["drain", "users", &address]);
    assert!(!fine && said.contains("401") && said.contains("--token-file"), "{said}");
    let file = gateway.folder().join("admin.token");
    let (fine, said) = run(&gateway, &["drain", "users", &address, "--token-file", file.to_str().unwrap()]);
    assert!(fine, "{said}");
}

#[tokio::test]
async fn a_drain_says_whether_a_restart_forgets_it() {
    let one = Origin::start("one").await;
    let address = one.address().to_string();
    for (state_dir, forgets) in
        [("state", ""), ("off", "`discovery.state_dir` is off: a restart forgets it"), ("open", "not saved: ")]
    {
        let setup = Setup::new(&format!("discovery.state_dir = \"{state_dir}\"\n{}", config(&[&one])));
        let open = setup.folder().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let gateway = setup.start().await;
        for again in ["", " already"] {
            let (fine, said) = run(&gateway, &["drain", "users", &address]);
            assert!(fine && said.contains(&format!("is drained{again}")) && said.contains(forgets), "{said}");
            assert_eq!(said.contains("a restart"), state_dir != "state", "{said}");
            assert!(said.contains("upstream `users` has no endpoint left that takes traffic"), "{said}");
        }
        let saved = std::fs::read_to_string(gateway.folder().join(state_dir).join("overlay.json")).unwrap_or_default();
        assert_eq!(saved.contains(&address), state_dir == "state", "{saved}");
        let (_, status) = run(&gateway, &["status"]);
        assert_eq!(status.contains("state_dir "), state_dir == "open", "{status}");
        let (fine, said) = run(&gateway, &["undrain", "users", &address]);
        let again = format!("{address} of upstream `users` takes new requests again");
        assert!(fine && said.contains(&again) && said.contains(';') == (state_dir == "open"), "{said}");
        let (fine, said) = run(&gateway, &["undrain", "users", &address]);
        assert!(fine && said.contains("of upstream `users` was not drained"), "{said}");
    }
}
