//! `fleetgate register`: an endpoint that follows its check, and comes back whatever becomes of etcd.

use std::process::Command;

use super::*;
use crate::support::gateway::fleetgate;
use crate::support::process::Process;

const KEYS: &str = "/fleetgate/endpoints/users/";

/// `fleetgate register` for this service, checked often.
fn command(origin: &Origin, more: &[&str]) -> Command {
    let mut command = fleetgate(&["register", "--upstream", "users", "--address", &origin.address().to_string()]);
    command.args(["--check", &format!("http://{}/healthz", origin.address()), "--ttl", "10s", "--interval", "100ms"]);
    command.args(more);
    command
}

async fn says(process: &Process, from: usize, start: &str) {
    wait::until_ok(SOON, &format!("`{start}`"), || async {
        let lines = process.stdout.from(from);
        if lines.iter().any(|line| line.starts_with(start)) {
            Ok(())
        } else {
            Err(format!("{lines:?}; {}", process.stderr.text()))
        }
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_follows_its_check_and_leaves_at_the_end() {
    let Some(etcd) = Etcd::start().await else { return };
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.etcd.endpoints = ["{}"]
        upstreams.users.etcd = {{}}
        routes.users = {{ match = {{ path = "/" }}, upstream = "users" }}
        "#,
        etcd.url()
    ))
    .await;
    origin.set_healthy(false);
    let labels = ["--endpoints", &etcd.client_address().to_string(), "--label", "version=v7", "--weight", "3"];
    let mut process = Process::start("register", &command(&origin, &labels));
    says(&process, 0, "waiting, not registered yet: http://").await;
    says(&process, 0, "unhealthy http://").await;
    assert!(keys(&etcd, KEYS).await.is_empty());
    assert_eq!(gateway.get("/").await.status, 503);

    origin.set_healthy(true);
    says(&process, 0, "registered /fleetgate/endpoints/users/127.").await;
    assert_eq!(gateway.until_status("/", 200).await.served_by(), "a/v1");
    let (key, value, lease) = keys(&etcd, KEYS).await.remove(0);
    assert_eq!(key, format!("{KEYS}{}", origin.address()));
    let wanted = json!({ "address": origin.address().to_string(), "weight": 3, "labels": { "version": "v7" } });
    assert_eq!(value, wanted);
    assert_ne!(lease, 0);

    let before = process.stdout.count();
    origin.set_healthy(false);
    says(&process, before, "removed /fleetgate/").await;
    gateway.until_status("/", 503).await;
    let before = process.stdout.count();
    origin.set_healthy(true);
    says(&process, before, "registered /fleetgate/").await;
    gateway.until_status("/", 200).await;

    process.signal("TERM");
    assert!(process.end(SOON).await.success());
    says(&process, before, "left /fleetgate/").await;
    assert!(keys(&etcd, KEYS).await.is_empty());
    gateway.until_status("/", 503).await;
    // One line a change, and nothing else.
    let words: Vec<_> =
        process.stdout.all().iter().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect();
    let round = ["healthy", "registered", "unhealthy", "removed", "healthy", "registered", "left"];
    assert_eq!(words, [&["waiting,", "unhealthy"][..], &round].concat());
    assert_eq!(process.stderr.text(), "");
}

#[tokio::test]
async fn an_endpoint_comes_back_after_etcd_does() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let origin = Origin::start("a").await;
    // What the usual variables and a file with other mistakes say is enough.
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("fleetgate.toml");
    std::fs::write(&config, format!("nonsense = 1\n[discovery.etcd]\nendpoints = [\"{}\"]\n", etcd.url())).unwrap();
    let mut process = Process::start("register", &command(&origin, &["--config", config.to_str().unwrap()]));
    says(&process, 0, "registered ").await;
    etcd.kill();
    wait::until(SOON, "a word", || async { process.stderr.contains("trying again") }).await;
    etcd.start_again().await;
    let alive = || async {
        let lease = keys(&etcd, KEYS).await.first().map_or(0, |(_, _, lease)| *lease);
        let answer = etcd.call("lease/timetolive", json!({ "ID": lease.to_string() })).await;
        answer["TTL"].as_str().and_then(|ttl| ttl.parse::<i64>().ok()).is_some_and(|ttl| ttl > 5)
    };
    wait::until(SOON, "a lease that is kept", alive).await;
    wait::always(Duration::from_secs(11), "the key outlives its lease", || async {
        !keys(&etcd, KEYS).await.is_empty()
    })
    .await;
    let before = process.stdout.count();
    let (_, _, lease) = keys(&etcd, KEYS).await.remove(0);
    etcd.revoke(lease).await;
    says(&process, before, "registered ").await;
    etcd.kill();
    let before = process.stdout.count();
    etcd.start_empty().await;
    says(&process, before, "registered ").await;
    assert!(!keys(&etcd, KEYS).await.is_empty());

    // A service that can't leave says so; its key ends with its lease.
    etcd.kill();
    process.signal("TERM");
    assert_eq!(process.end(SOON).await.code(), Some(1));
    wait::until(SOON, "its last words", || async { process.stderr.contains("ends with its lease") }).await;
}

#[tokio::test]
async fn users_and_certificates_are_those_of_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let Some((etcd, url)) = Etcd::start_with_tls(folder.path()).await else { return };
    let origin = Origin::start("a").await;
    etcd.enable_auth("root-secret").await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(file("password"), "root-secret\n").unwrap();
    let mut command = command(&origin, &["--endpoints", &url, "--user", "root", "--password-file", &file("password")]);
    command.args(["--cacert", &file("ca.pem"), "--cert", &file("client.pem"), "--key", &file("client.key")]);
    let mut process = Process::start("register", &command);
    says(&process, 0, "registered ").await;
    process.signal("TERM");
    assert!(process.end(SOON).await.success());
    assert!(!process.stderr.contains("root-secret"));
}

#[test]
fn mistakes_are_told_with_the_flag_that_makes_them() {
    let told = |arguments: &[&str]| {
        let all = ["register", "--upstream", "users", "--address", "10.0.0.5:8080"];
        let output = fleetgate(&all).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let check = ["--check", "tcp://10.0.0.5:8080"];
    for (arguments, code, part) in [
        (&[][..], 2, "--check"),
        (&["--check", "https://10.0.0.5/healthz"], 2, "tcp://HOST:PORT"),
        (&[check[0], check[1], "--ttl", "5s"], 2, "10s to 1h"),
        (&[check[0], check[1], "--label", "version"], 2, "KEY=VALUE"),
        (&[check[0], check[1], "--weight", "65536"], 2, "65536"),
        (&[check[0], check[1], "--endpoints", "ftp://a"], 1, "--endpoints: discovery.etcd.endpoints[0]"),
        (&[check[0], check[1], "--cacert", "/nowhere/ca.pem"], 1, "--cacert: discovery.etcd.tls.ca"),
        (&[check[0], check[1], "--config", "/nowhere/fleetgate.toml"], 1, "/nowhere/fleetgate.toml"),
    ] {
        let (status, text) = told(arguments);
        assert!(status == Some(code) && text.contains(part), "{arguments:?}: {status:?} {text}");
    }
}
