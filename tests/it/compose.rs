//! The compose stack, without Docker: the commands and the configuration of docker-compose.yml against real
//! registries on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::Request;
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Setup, fleetgate};
use crate::support::process::Process;
use crate::support::{http, registry, wait};

const SOON: Duration = Duration::from_secs(30);

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The commands of the services of docker-compose.yml that run Fleetgate's image.
fn commands() -> BTreeMap<String, Vec<String>> {
    let compose: Value = serde_saphyr::from_str(&text("docker-compose.yml")).unwrap();
    let services = compose["services"].as_object().unwrap().clone();
    let words = |service: &Value| Some(service["command"].as_str()?.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let ours = |words: &Vec<String>| words[0] == "run" || words[0] == "sample-service";
    services.iter().filter_map(|(name, service)| Some((name.clone(), words(service).filter(ours)?))).collect()
}

#[tokio::test]
async fn the_compose_stack_works() {
    let (Some(consul), Some(etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let here = |text: &str| {
        text.replace("http://consul:8500", &consul.url())
            .replace("http://etcd:2379", &etcd.url())
            .replace("0.0.0.0:8080", "127.0.0.1:0")
            .replace("0.0.0.0:9901", "127.0.0.1:0")
    };
    let mut commands = commands();
    assert_eq!(commands.remove("fleetgate").unwrap(), ["run", "--config", "/config/fleetgate.toml"]);
    let mut samples = BTreeMap::new();
    for (name, words) in commands {
        let words: Vec<_> = words.iter().map(|word| here(word)).collect();
        let mut command = fleetgate(&words.iter().map(String::as_str).collect::<Vec<_>>());
        command.args(["--address", "127.0.0.1:0"]);
        samples.insert(name.clone(), Process::start(&name, &command));
    }
    assert_eq!(samples.keys().collect::<Vec<_>>(), ["orders-v1", "orders-v2", "users-v1", "users-v2"]);
    let config = here(&text("config/compose/fleetgate.toml"));
    let token = text("config/compose/admin.token");
    let gateway = Setup::new(&config).file("admin.token", &token).start().await;
    let address = gateway.address();

    let version = |path: &'static str, canary: bool| async move {
        let request = Request::get(path);
        let request = if canary { request.header("x-canary", "always") } else { request };
        let answer = request.send(address).await;
        if answer.status == 200 {
            answer.json()["version"].as_str().unwrap().to_owned()
        } else {
            answer.status.to_string()
        }
    };
    for path in ["/users", "/orders"] {
        wait::until(SOON, "both versions", || async {
            version(path, true).await == "v2" && version(path, false).await == "v1"
        })
        .await;
        let mut seen = BTreeMap::<String, usize>::new();
        for _ in 0..300 {
            *seen.entry(version(path, false).await).or_default() += 1;
            assert_eq!(version(path, true).await, "v2");
        }
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["v1", "v2"], "{path}");
        // One in ten; six standard deviations to each side.
        assert!((1..=61).contains(&seen["v2"]), "{path}: {seen:?}");
    }

    let admin = |path: &str| http().get(format!("http://{}{path}", gateway.admin()));
    assert_eq!(admin("/api/v1/upstreams").send().await.unwrap().status(), 401);
    let upstreams = admin("/api/v1/upstreams").bearer_auth(token.trim()).send().await.unwrap();
    let upstreams: Value = upstreams.json().await.unwrap();
    assert_eq!(upstreams["items"].as_array().unwrap().len(), 2, "{upstreams}");
    let metrics = admin("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("fleetgate_target_requests_total{"), "{metrics}");

    // Services that leave: their canary's testers are told, everyone else is served by the other.
    for (name, path) in [("users-v2", "/users"), ("orders-v2", "/orders")] {
        samples.get_mut(name).unwrap().signal("TERM");
        wait::until(SOON, "the canary to be gone", || async { version(path, true).await == "503" }).await;
        for _ in 0..50 {
            assert_eq!(version(path, false).await, "v1");
        }
        let ended = samples.get_mut(name).unwrap().end(SOON).await;
        assert!(ended.success(), "{name}: {ended}");
    }
}

#[test]
fn prometheus_accepts_its_configuration() {
    let Some(promtool) = registry::binary("promtool") else { return };
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/compose/prometheus.yml");
    let output = Command::new(promtool).arg("check").arg("config").arg(config).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_configuration_has_no_problem() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/compose/fleetgate.toml");
    let found = fleetgate::config::check(Some(&path), []);
    assert!(found.is_empty(), "{}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}
