//! `fleetgate accept` while traffic flows: what it shows, what it refuses, and what exactly goes.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{SOON, config, fails, live, provider, takes};
use crate::operator::run;
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup, fleetgate};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

const READ: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                    key_prefix \"\" { policy = \"read\" }";

/// An upstream and a route for each of these services of Consul.
fn services(names: &[&str]) -> String {
    let service = |name: &&str| {
        format!(
            "upstreams.{name}.consul.service = \"{name}\"\n\
             routes.{name} = {{ match.path = \"/{name}\", upstream = \"{name}\" }}\n"
        )
    };
    names.iter().map(service).collect()
}

/// The holds of a name, and their digest.
async fn holds(gateway: &Gateway, target: &str) -> Value {
    gateway.api(&format!("holds?target={target}")).await
}

fn ids(holds: &Value) -> Vec<String> {
    let items = holds["items"].as_array().unwrap();
    items.iter().map(|hold| hold["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until exactly these are held under a name.
async fn held(gateway: &Gateway, target: &str, wanted: &[&str]) {
    wait::until_ok(SOON, &format!("{target} to hold {wanted:?}"), || async {
        let holds = holds(gateway, target).await;
        if ids(&holds) == wanted { Ok(()) } else { Err(holds) }
    })
    .await;
}

/// Posts to `/api/v1/accept`: the status, and the error's code.
async fn post(gateway: &Gateway, body: &Value) -> (u16, String) {
    let request = Request::post("/api/v1/accept", body.to_string()).host("localhost");
    let answer = request.header("content-type", "application/json").send(gateway.admin()).await;
    let code = answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned();
    (answer.status, code)
}

/// O2: a token that may not read hides three services. None of them goes by an operator's word, and the cause is told as
/// long as it lasts, also of a service that has no instance.
#[tokio::test]
async fn nothing_is_accepted_and_nothing_offered_while_the_token_may_not_read() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&Service::new("users", "a", a.address())).await;
    consul.register(&Service::new("orders", "b", b.address())).await;
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"users"}"#).await;
    consul.policy("gateway", READ).await;
    let token = consul.token(&["gateway"]).await;
    let discovery =
        format!("discovery.consul = {{ address = \"{}\", token = \"{}\", wait = \"1s\" }}", consul.url(), token.secret);
    let gateway = Gateway::start(&config(&format!("{discovery}\n{}", services(&["users", "orders", "none"])))).await;
    let paths = ["/users", "/orders", "/kv"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let load = Load::start(gateway.address(), 3, move |worker, _| Request::get(paths[worker]));
    // Nothing at all; then one service alone is hidden.
    let orders = "service \"orders\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                  key_prefix \"\" { policy = \"read\" } service \"none\" { policy = \"read\" }";
    for (narrowed, hidden) in [("", &["orders", "users", "none"][..]), (orders, &["users"][..])] {
        consul.policy("gateway", narrowed).await;
        for service in hidden {
            fails(&gateway, "consul", &format!("may not read the service `{service}`")).await;
        }
        let wanted: Vec<_> =
            hidden.iter().filter(|name| **name != "none").map(|name| format!("upstreams/{name}")).collect();
        held(&gateway, "consul", &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for target in ["consul", "upstreams/users", "upstreams/users@consul"] {
            let (fine, said) = run(&gateway, &["accept", target, "--yes"]);
            assert!(!fine && said.contains("may not read the service"), "{target}: {said}");
        }
        if narrowed.is_empty() {
            held(&gateway, "consul-kv", &["routes/of-kv"]).await;
            let (fine, said) = run(&gateway, &["accept", "routes/of-kv", "--yes"]);
            assert!(!fine && said.contains("may not read `fleetgate/routes/of-kv`"), "{said}");
        }
        let digest = holds(&gateway, "consul").await["digest"].clone();
        assert_eq!(post(&gateway, &json!({ "target": "consul", "digest": digest })).await, (409, "refused".to_owned()));
        let (_, status) = run(&gateway, &["status"]);
        assert!(!status.contains("fleetgate accept"), "{status}");
        for service in hidden {
            assert!(status.contains(&format!("may not read the service `{service}`")), "{status}");
        }
        load.more(100).await;
        consul.policy("gateway", READ).await;
        for name in ["consul", "consul-kv"] {
            live(&gateway, name).await;
            held(&gateway, name, &[]).await;
        }
    }
    let log = gateway.stderr().text();
    assert!(!log.contains("fleetgate accept"), "{log}");
    load.stop().await.assert_all_ok();
}

/// O2: of a registry that was wiped one service of three is back. The command shows what it would take, and takes what it
/// is told to.
#[tokio::test]
async fn a_wiped_registry_loses_what_the_operator_names_and_has_seen() {
    let Some(mut consul) = Consul::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    for origin in [&a, &b, &c] {
        consul.register(&Service::new(&origin.name, &origin.name, origin.address())).await;
    }
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"b"}"#).await;
    let discovery = format!("discovery.consul.address = \"{}\"", consul.url());
    let gateway = Gateway::start(&config(&format!("{discovery}\n{}", services(&["a", "b", "c"])))).await;
    for path in ["/a", "/b", "/c", "/kv"] {
        gateway.until_status(path, 200).await;
    }
    consul.kill();
    consul.start_empty().await;
    consul.register(&Service::new("a", "a", a.address())).await;
    held(&gateway, "consul", &["upstreams/b", "upstreams/c"]).await;
    held(&gateway, "consul-kv", &["routes/of-kv"]).await;

    // Nobody to ask, and nothing said in advance.
    let (fine, said) = run(&gateway, &["accept", "consul"]);
    assert!(!fine && said.contains("no terminal to ask on") && said.contains("--yes"), "{said}");
    for shown in
        ["upstreams/b of consul", "upstreams/c of consul", &b.address().to_string(), "route c would answer 503"]
    {
        assert!(said.contains(shown), "{shown}: {said}");
    }
    assert!(said.contains("routes b, of-kv would answer 503"), "{said}");
    held(&gateway, "consul", &["upstreams/b", "upstreams/c"]).await;

    // A look that is out of date accepts nothing.
    let seen = holds(&gateway, "consul").await["digest"].clone();
    assert_eq!(post(&gateway, &json!({ "target": "consul" })).await, (428, "precondition_required".to_owned()));
    assert_eq!(post(&gateway, &json!({ "target": "c", "digest": seen })).await, (404, "not_found".to_owned()));
    assert_eq!(post(&gateway, &json!({ "digest": seen })).await, (400, "malformed".to_owned()));
    consul.register(&Service::new("c", "c", c.address())).await;
    held(&gateway, "consul", &["upstreams/b"]).await;
    assert_eq!(post(&gateway, &json!({ "target": "consul", "digest": seen })).await, (409, "changed".to_owned()));
    gateway.until_status("/b", 200).await;

    // One document goes, the endpoints stay.
    let (fine, said) = run(&gateway, &["accept", "routes/of-kv", "--yes"]);
    assert!(fine && said.contains("routes/of-kv is accepted") && !said.contains("still held"), "{said}");
    gateway.until_status("/kv", 404).await;
    held(&gateway, "consul", &["upstreams/b"]).await;
    assert_eq!(gateway.get("/b").await.status, 200);
    let (fine, said) = run(&gateway, &["accept", "upstreams/b", "--yes", "--json"]);
    assert!(fine && said.contains("\"result\": \"done\""), "{said}");
    gateway.until_status("/b", 503).await;
    for path in ["/a", "/c"] {
        assert_eq!(gateway.get(path).await.status, 200, "{path}");
    }
    let (fine, said) = run(&gateway, &["accept", "consul", "--yes"]);
    assert!(fine && said.contains("nothing is held under consul"), "{said}");
    let events = gateway.api("events?limit=1000").await.to_string();
    assert!(events.contains("upstreams/b is accepted, says an operator"), "{events}");
}

/// A terminal is asked; only a yes is one.
#[tokio::test]
async fn a_terminal_is_asked() {
    let Some(mut consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    consul.register(&Service::new("a", "a", a.address())).await;
    let discovery = format!("discovery.consul.address = \"{}\"", consul.url());
    let gateway = Gateway::start(&config(&format!("{discovery}\n{}", services(&["a"])))).await;
    gateway.until_status("/a", 200).await;
    consul.kill();
    consul.start_empty().await;
    held(&gateway, "consul", &["upstreams/a"]).await;
    let admin = format!("http://{}", gateway.admin());
    let binary = fleetgate(&[]).get_program().to_str().unwrap().to_owned();
    let answered = |answer: &'static str| {
        let command = format!("{binary} accept upstreams/a --admin {admin}");
        // util-linux; where there is none, the unit tests have to do.
        let mut process = std::process::Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        process.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let Some((fine, said)) = answered("n\n") else { return };
    assert!(!fine && said.contains("Accept the loss? [y/N]") && said.contains("nothing is accepted"), "{said}");
    held(&gateway, "consul", &["upstreams/a"]).await;
    let (fine, said) = answered("y\n").unwrap();
    assert!(fine && said.contains("upstreams/a is accepted"), "{said}");
    gateway.until_status("/a", 503).await;
}

/// O13: a query that is blocked for ten minutes does not hide that its token is gone.
#[tokio::test]
async fn a_deleted_token_shows_although_every_query_is_blocked() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&Service::new("users", "a", a.address())).await;
    consul.register(&Service::new("orders", "b", b.address())).await;
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"users"}"#).await;
    consul.policy("gateway", READ).await;
    let (old, new) = (consul.token(&["gateway"]).await, consul.token(&["gateway"]).await);
    let discovery = format!(
        "discovery.consul = {{ address = \"{}\", token_file = \"token\", wait = \"10m\", tags = true, tag_networks = [\"127.0.0.0/8\"] }}",
        consul.url()
    );
    let setup = Setup::new(&config(&format!("{discovery}\n{}", services(&["users", "orders"]))));
    let gateway = setup.file("token", &old.secret).start().await;
    let paths = ["/users", "/orders", "/kv"];
    for path in paths {
        gateway.until_status(path, 200).await;
    }
    let names = ["consul", "consul-kv", "consul-tags"];
    for name in names {
        live(&gateway, name).await;
    }
    let load = Load::start(gateway.address(), 3, move |worker, _| Request::get(paths[worker]));
    consul.delete_token(&old).await;
    for name in names {
        fails(&gateway, name, "ACL not found").await;
    }
    let all_failing = async || {
        let watches = provider(&gateway, "consul").await["watches"].clone();
        watches.as_array().unwrap().iter().all(|watch| watch["state"] == "failing")
    };
    wait::until(SOON, "every watch to tell it", all_failing).await;
    let (_, status) = run(&gateway, &["status"]);
    assert!(status.contains("Consul does not accept the token"), "{status}");
    let failing = gateway.metric("fleetgate_discovery_failing_watches", &[("provider", "consul-kv")]).await;
    assert_eq!(failing, Some(1.0));
    assert!(gateway.stderr().contains("Consul does not accept the token"), "{}", gateway.stderr().text());
    load.more(100).await;
    gateway.write("token", &new.secret);
    for name in names {
        live(&gateway, name).await;
    }
    load.stop().await.assert_all_ok();
    assert!(!gateway.stderr().contains(&old.secret), "secrets stay out of the log");
}

/// The same with etcd, whose streams are never checked again: a role that is taken away, a password that is changed, a
/// user that is deleted. What is deleted meanwhile is held, and can't be accepted.
#[tokio::test]
async fn an_etcd_user_without_rights_shows_while_the_streams_go_on() {
    let Some(etcd) = Etcd::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let put = async || {
        for origin in [&a, &b] {
            etcd.put(&format!("/fleetgate/endpoints/web/{}", origin.name), &origin.address().to_string()).await;
        }
    };
    put().await;
    etcd.put("/fleetgate/routes/of-etcd", r#"{"match":{"path":"/etcd"},"upstream":"web"}"#).await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", "secret", "/fleetgate/").await;
    let gateway = Gateway::start(&config(&format!(
        "discovery.etcd = {{ endpoints = [\"{}\"], user = \"gateway\", password = \"secret\" }}\n\
         upstreams.web.etcd = {{}}",
        etcd.url()
    )))
    .await;
    gateway.until_status("/etcd", 200).await;
    live(&gateway, "etcd").await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/etcd"));
    takes(&load, "b/v1").await;

    etcd.revoke_reader("gateway").await;
    fails(&gateway, "etcd", "permission denied").await;
    let watches = provider(&gateway, "etcd").await["watches"].clone();
    assert!(watches.as_array().unwrap().iter().all(|watch| watch["sessions"] == 1), "the streams stand: {watches}");
    for origin in [&a, &b] {
        etcd.delete(&format!("/fleetgate/endpoints/web/{}", origin.name)).await;
    }
    held(&gateway, "etcd", &["upstreams/web"]).await;
    let (fine, said) = run(&gateway, &["accept", "etcd", "--yes"]);
    assert!(!fine && said.contains("permission denied"), "{said}");
    let (_, status) = run(&gateway, &["status"]);
    assert!(status.contains("permission denied") && !status.contains("fleetgate accept"), "{status}");
    load.more(100).await;
    put().await;
    etcd.grant("gateway", "gateway").await;
    live(&gateway, "etcd").await;
    held(&gateway, "etcd", &[]).await;

    etcd.change_password("gateway", "another").await;
    fails(&gateway, "etcd", "authentication failed").await;
    assert!(gateway.stderr().contains("etcd does not accept the user"), "{}", gateway.stderr().text());
    load.more(100).await;
    etcd.change_password("gateway", "secret").await;
    live(&gateway, "etcd").await;
    etcd.call("auth/user/delete", json!({ "name": "gateway" })).await;
    fails(&gateway, "etcd", "authentication failed").await;
    load.stop().await.assert_all_ok();
}
