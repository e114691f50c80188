//! Tokens that may read less than they should, with traffic flowing: what is hidden is not gone, and what is missing is
//! named.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::saved::saves;
use super::{SOON, config, fails, live, provider, stops, takes};
use crate::readme::{blocks, readme};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::scripted::{Scene, ScriptedServer, instances};
use crate::support::wait;

const READ: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                    key_prefix \"\" { policy = \"read\" }";

/// A Consul with ACLs, two instances of `web`, a route to them in KV, and a token with the policy `gateway`.
async fn consul(policy: &str, instances: [&Origin; 2]) -> Option<(Consul, String)> {
    let consul = Consul::start_with_acl().await?;
    for origin in instances {
        consul.register(&Service::new("web", &origin.name, origin.address())).await;
    }
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"web"}"#).await;
    consul.policy("gateway", policy).await;
    let token = consul.token(&["gateway"]).await;
    Some((consul, token.secret))
}

fn before(consul: &Consul, token: &str, more: &str) -> Setup {
    let discovery =
        format!("discovery.consul = {{ address = \"{}\", token_file = \"token\", wait = \"1s\" }}", consul.url());
    let web = "upstreams.web.consul.service = \"web\"\nroutes.of-file = { match.path = \"/file\", upstream = \"web\" }";
    Setup::new(&config(&format!("{discovery}\n{web}\n{more}"))).file("token", token)
}

/// Waits until a provider tells that it holds something; without: that it holds nothing.
async fn holds(gateway: &Gateway, name: &str, something: bool) {
    wait::until_ok(SOON, &format!("{name} to hold: {something}"), || async {
        let shown = provider(gateway, name).await;
        if (shown["held"] != serde_json::json!([])) == something { Ok(()) } else { Err(shown) }
    })
    .await;
}

/// Fault case 18: Consul answers `200 []`, by its looks an empty fleet, or leaves out a part.
#[tokio::test]
async fn a_policy_that_is_narrowed_takes_nothing_away() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let Some((consul, token)) = consul(READ, [&a, &b]).await else { return };
    let gateway = before(&consul, &token, "").start().await;
    gateway.until_status("/kv", 200).await;
    let load = Load::start(gateway.address(), 2, |worker, _| Request::get(["/file", "/kv"][worker]));
    takes(&load, "b/v1").await;
    // Nothing; another service; this service without its nodes.
    for narrowed in ["", "service \"other\" { policy = \"read\" }", "service \"web\" { policy = \"read\" }"] {
        consul.policy("gateway", narrowed).await;
        fails(&gateway, "consul", "may not read the").await;
        fails(&gateway, "consul-kv", "may not read `fleetgate/routes/of-kv`").await;
        for name in ["consul", "consul-kv"] {
            holds(&gateway, name, true).await;
        }
        for who in ["a/v1", "b/v1"] {
            takes(&load, who).await;
        }
        consul.policy("gateway", READ).await;
        for name in ["consul", "consul-kv"] {
            live(&gateway, name).await;
            holds(&gateway, name, false).await;
        }
    }
    consul.deregister("b").await;
    stops(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
    assert!(!gateway.stderr().contains(&token), "secrets stay out of the log");
}

/// Fault case 19: without `node:read` Consul shows no instance at all. That is no empty fleet: the gateway is not ready,
/// and says what the token lacks.
#[tokio::test]
async fn a_token_that_hides_instances_from_the_start_is_named() {
    let (a, b, own) = (Origin::start("a").await, Origin::start("b").await, Origin::start("own").await);
    let half = "service_prefix \"\" { policy = \"read\" } key_prefix \"\" { policy = \"read\" }";
    let Some((consul, token)) = consul(half, [&a, &b]).await else { return };
    let more = format!(
        "upstreams.own.endpoints = [\"{}\"]\nroutes.own = {{ match.path = \"/own\", upstream = \"own\" }}",
        own.address()
    );
    let mut gateway = before(&consul, &token, &more).launch().await;
    wait::until(SOON, "the listeners", || async { gateway.stdout().contains("admin ") }).await;
    gateway.until_status("/own", 200).await;
    let load = Load::start(gateway.address(), 1, |_, _| Request::get("/own"));
    fails(&gateway, "consul", "`node:read`").await;
    assert!(gateway.stderr().contains("`node:read`"), "{}", gateway.stderr().text());
    let (status, text) = gateway.admin_get("/readyz").await;
    assert!(status == 503 && text.contains("consul:web"), "{status}: {text}");
    let upstream = gateway.api("upstreams/web").await;
    assert_eq!(upstream["verified_at"], serde_json::Value::Null, "never read: {upstream}");
    for path in ["/file", "/kv"] {
        let answer = gateway.until_status(path, 503).await;
        assert_eq!(answer.header("x-fleetgate-flag"), Some("UH"), "{path}");
    }
    load.more(200).await;

    consul.policy("gateway", READ).await;
    gateway.wait_ready().await;
    for path in ["/file", "/kv"] {
        gateway.until_status(path, 200).await;
    }
    load.stop().await.assert_all_ok();
}

/// S-H2d: keys that a token may not read are missing in a list, which says so (Consul 1.11 and later): one of them may
/// protect what the others serve. So nothing of it is used.
#[tokio::test]
async fn a_list_of_keys_that_was_filtered_keeps_a_first_start_closed() {
    let origin = Origin::start("a").await;
    let web = format!("upstreams.app.endpoints = [\"{}\"]", origin.address());
    let value = STANDARD.encode(r#"{"match":{"path":"/open"},"upstream":"app"}"#);
    let keys = json!([{ "Key": "fleetgate/routes/open", "Value": value, "CreateIndex": 5, "ModifyIndex": 5 }]);
    let sound = Scene { keys: Some(keys.to_string()), ..Scene::new(7, instances(&[])) };
    let filtered = sound.clone().header("X-Consul-Results-Filtered-By-ACLs", "true");
    let server = ScriptedServer::start(filtered).await;
    let discovery = format!("discovery.state_dir = \"off\"\ndiscovery.consul.address = \"{}\"", server.url());
    let mut gateway = Setup::new(&config(&format!("{discovery}\n{web}"))).start_listening().await;
    let why = "left out what the token may not read";
    fails(&gateway, "consul-kv", why).await;
    wait::until_ok(SOON, "the reason", || async {
        let (status, text) = gateway.admin_get("/readyz").await;
        if status == 503 && text.contains("consul-kv") && text.contains(why) { Ok(()) } else { Err((status, text)) }
    })
    .await;
    let answer = gateway.get("/open").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("NC")), "{}", answer.text());
    let mut sound = sound;
    (sound.index, sound.shown_index) = (8, Some("8".to_owned()));
    server.set(sound);
    gateway.wait_ready().await;
    gateway.until_status("/open", 200).await;
    live(&gateway, "consul-kv").await;
}

/// S-H2d: what a token no longer reads after a restart protects as before, and what was deleted meanwhile is gone: each key
/// that was saved and is not listed is read by itself.
#[tokio::test]
async fn a_key_that_is_hidden_at_a_restart_still_protects() {
    let origin = Origin::start("a").await;
    let Some(consul) = Consul::start_with_acl().await else { return };
    let protected = |path: &str| format!(r#"{{"match":{{"path":"{path}"}},"upstream":"app","middlewares":["keys"]}}"#);
    consul.kv_put("fleetgate/routes/hidden", &protected("/hidden")).await;
    consul.kv_put("fleetgate/routes/deleted", &protected("/deleted")).await;
    consul.kv_put("fleetgate/routes/open", r#"{"match":{"path":"/"},"upstream":"app"}"#).await;
    consul.policy("gateway", READ).await;
    let token = consul.token(&["gateway"]).await;
    let mut gateway = Gateway::start(&config(&format!(
        r#"
        discovery.state_dir = "state"
        discovery.consul = {{ address = "{}", token = "{}" }}
        upstreams.app.endpoints = ["{}"]
        middlewares.keys.api_key = {{ header = "x-key" }}
        "#,
        consul.url(),
        token.secret,
        origin.address(),
    )))
    .await;
    for (path, status) in [("/hidden", 401), ("/deleted", 401), ("/", 200)] {
        gateway.until_status(path, status).await;
    }
    saves(&gateway, "consul-kv.json", &["routes/hidden", "routes/deleted", "routes/open"]).await;
    gateway.kill();
    consul
        .policy(
            "gateway",
            "key_prefix \"fleetgate/routes/\" { policy = \"deny\" } \
        key \"fleetgate/routes/open\" { policy = \"read\" } key \"fleetgate/routes/deleted\" { policy = \"read\" }",
        )
        .await;
    consul.kv_delete("fleetgate/routes/deleted").await;
    let mut gateway = gateway.restart_unready().await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/hidden"));
    gateway.wait_ready().await;
    gateway.until_status("/deleted", 200).await;
    fails(&gateway, "consul-kv", "may not read `fleetgate/routes/hidden`").await;
    load.more(100).await;
    let report = load.stop().await;
    assert!(report.statuses.keys().all(|status| [401, 503].contains(status)), "{:?}", report.statuses);
    let held = provider(&gateway, "consul-kv").await["held"].to_string();
    assert!(held.contains("routes.hidden is held") && !held.contains("routes.deleted"), "{held}");
    consul.policy("gateway", READ).await;
    live(&gateway, "consul-kv").await;
    assert_eq!(gateway.get("/hidden").await.status, 401);
}

/// Waits until the providers tell this.
async fn told(gateway: &Gateway, part: &str) {
    wait::until_ok(SOON, &format!("a word about `{part}`"), || async {
        let providers = gateway.api("providers").await.to_string();
        let remarks = gateway.api("status").await["remarks"].to_string();
        if providers.contains(part) || remarks.contains(part) { Ok(()) } else { Err(providers + &remarks) }
    })
    .await;
}

/// Waits until every provider is live, and what it writes is written.
async fn until_all_is_well(gateway: &Gateway, names: &[&str], registered: &str) {
    for name in names {
        live(gateway, name).await;
    }
    wait::until_ok(SOON, "its registration", || async {
        let registration = provider(gateway, registered).await["registration"].clone();
        if registration["registered"] == true && registration["error"].is_null() { Ok(()) } else { Err(registration) }
    })
    .await;
}

/// A newcomer copies the policy from the README: a gateway that does all it can does it with that, and says what it lacks
/// without any line of it.
#[tokio::test]
async fn the_policy_of_the_readme_suffices_and_each_line_is_needed() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    let origin = Origin::start("a").await;
    consul.register(&Service::new("web", "a", origin.address()).tags(&["fleetgate.path=/tag"])).await;
    consul.kv_put("fleetgate/routes/of-kv", r#"{"match":{"path":"/kv"},"upstream":"web"}"#).await;
    consul.kv_put("fleetgate/routes/bad", "{ no JSON").await;
    let policy = blocks(&readme(), "hcl").remove(0);
    consul.policy("gateway", &policy).await;
    let token = consul.token(&["gateway"]).await;
    let gateway = Gateway::start(&config(&format!(
        "[discovery.consul]\naddress = \"{}\"\ntoken = \"{}\"\nwait = \"1s\"\ntags = true\ntag_networks = [\"127.0.0.0/8\"]\nwrite_status = true\n\
         register = {{ id = \"gw\" }}\n[upstreams.web]\nconsul.service = \"web\"",
        consul.url(),
        token.secret
    )))
    .await;
    for path in ["/kv", "/tag"] {
        gateway.until_status(path, 200).await;
    }
    let names = ["consul", "consul-kv", "consul-tags"];
    until_all_is_well(&gateway, &names, "consul").await;
    wait::until_ok(SOON, "a claim and the problem in KV", || async {
        let keys = consul.kv_keys("fleetgate-fleet/").await.unwrap_or_default();
        let has = |start: &str| keys.iter().any(|key| key.starts_with(start));
        let both = has("fleetgate-fleet/claims/") && has("fleetgate-fleet/status/routes/bad");
        if both { Ok(()) } else { Err(keys) }
    })
    .await;
    assert_eq!(gateway.api("status").await["remarks"], json!([]));
    let said = gateway.stderr().text();
    assert!(!said.contains("cannot write") && !said.contains("may not"), "{said}");

    let lines: Vec<&str> = policy.lines().collect();
    let lacks = |line: &str| match line.split(" {").next() {
        Some("service_prefix \"\"") => "may not read the service `web`",
        Some("node_prefix \"\"") => "`node:read`",
        Some("key_prefix \"fleetgate/\"") => "may not read `fleetgate/routes/of-kv`",
        Some("key_prefix \"fleetgate-fleet/\"") => "claims are not shared",
        Some("service \"fleetgate\"") => "403",
        _ => panic!("what is lacking without `{line}`?"),
    };
    for line in &lines {
        let rest: Vec<&str> = lines.iter().filter(|other| *other != line).copied().collect();
        consul.policy("gateway", &rest.join("\n")).await;
        if line.contains("\"fleetgate\"") {
            // Only a registration that is gone is made again.
            consul.deregister("fleetgate-gw").await;
        }
        told(&gateway, lacks(line)).await;
        consul.policy("gateway", &policy).await;
        until_all_is_well(&gateway, &names, "consul").await;
    }
}

/// The same with the ranges of etcd.
#[tokio::test]
async fn the_ranges_of_the_readme_suffice_and_each_is_needed() {
    let Some(etcd) = Etcd::start().await else { return };
    let origin = Origin::start("a").await;
    etcd.put("/fleetgate/endpoints/web/a", &origin.address().to_string()).await;
    etcd.put("/fleetgate/routes/web", r#"{"match":{"path":"/web"},"upstream":"web"}"#).await;
    etcd.put("/fleetgate/routes/bad", "{ no JSON").await;
    let commands = blocks(&readme(), "sh").into_iter().find(|block| block.contains("grant-permission")).unwrap();
    let ranges: Vec<(String, &str)> = commands
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().take(7).collect();
            let ["etcdctl", "role", "grant-permission", "fleetgate", what, "--prefix=true", prefix] = words[..] else {
                panic!("{line}")
            };
            (what.to_uppercase(), prefix)
        })
        .collect();
    etcd.call("auth/user/add", json!({ "name": "fleetgate", "password": "secret" })).await;
    etcd.call("auth/role/add", json!({ "name": "fleetgate" })).await;
    for (what, prefix) in &ranges {
        etcd.permit("fleetgate", what, prefix).await;
    }
    etcd.grant("fleetgate", "fleetgate").await;
    etcd.enable_auth("root-secret").await;
    let text = config(&format!(
        "[discovery.etcd]\nendpoints = [\"{}\"]\nuser = \"fleetgate\"\npassword = \"secret\"\nwrite_status = true\n\
         register = {{ id = \"gw\" }}\n[upstreams.web]\netcd = {{}}",
        etcd.url()
    ));
    let gateway = Gateway::start(&text).await;
    gateway.until_status("/web", 200).await;
    until_all_is_well(&gateway, &["etcd"], "etcd").await;
    wait::until_ok(SOON, "the problem in etcd", || async {
        let told = etcd.below("/fleetgate-fleet/status/").await;
        if told.iter().any(|(key, _)| key.ends_with("routes/bad")) { Ok(()) } else { Err(told) }
    })
    .await;
    let said = gateway.stderr().text();
    assert!(!said.contains("cannot write") && !said.contains("permission"), "{said}");
    drop(gateway);

    for (what, prefix) in &ranges {
        etcd.forbid("fleetgate", prefix).await;
        let gateway = Setup::new(&text).start_listening().await;
        wait::until_ok(SOON, &format!("what is lacking without {prefix}"), || async {
            let said = gateway.stderr().text();
            if said.contains("permission denied") { Ok(()) } else { Err(said) }
        })
        .await;
        drop(gateway);
        etcd.permit("fleetgate", what, prefix).await;
    }
}
