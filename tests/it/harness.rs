//! Checks what the other tests stand on: real registries come, fail and come back; services and proxies
//! misbehave as told; children end with their owner.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::support::client::{Connection, Request, get, raw};
use crate::support::consul::{Consul, Fleet, Service};
use crate::support::etcd::Etcd;
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::process::Process;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{place, wait};

const SOON: Duration = Duration::from_secs(20);

fn somewhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

#[tokio::test]
async fn a_consul_server_keeps_or_loses_its_data() {
    let Some(mut consul) = Consul::start().await else { return };
    consul.register(&Service::new("users", "u1", somewhere()).meta("version", "v2").checked("passing")).await;
    consul.kv_put("fleetgate/routes/a", "{}").await;
    consul.set_check("u1", "critical").await;
    let critical =
        |instances: Vec<serde_json::Value>| instances.len() == 1 && instances[0].to_string().contains("critical");
    wait::until(SOON, "the check", || async { critical(consul.instances("users").await) }).await;
    consul.maintain("u1", true).await;
    consul.freeze();
    consul.thaw();
    consul.terminate().await;
    consul.start_again().await;
    assert_eq!(consul.instances("users").await.len(), 1);
    consul.deregister("u1").await;
    wait::until(SOON, "the end of u1", || async { consul.instances("users").await.is_empty() }).await;
    consul.kill();
    consul.start_empty().await;
    assert_eq!(consul.get("/v1/kv/?keys").await, serde_json::json!([]));
}

#[tokio::test]
async fn consul_tokens_allow_what_their_policies_say() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    consul.policy("kv", "key_prefix \"fleetgate/\" { policy = \"read\" }").await;
    let token = consul.token(&["kv"]).await;
    consul.kv_put("fleetgate/routes/a", "{}").await;
    let read = || async {
        let url = format!("{}/v1/kv/fleetgate/routes/a", consul.url());
        let request = crate::support::http().get(url).header("x-consul-token", &token.secret);
        request.send().await.unwrap().status().as_u16()
    };
    wait::until(SOON, "the token", || async { read().await == 200 }).await;
    consul.policy("kv", "").await;
    wait::until(SOON, "the narrowed policy", || async { read().await == 403 }).await;
    consul.delete_token(&token).await;
}

#[tokio::test]
async fn three_consul_servers_survive_the_death_of_one() {
    let Some(mut fleet) = Fleet::start().await else { return };
    fleet.client.register(&Service::new("users", "u1", somewhere())).await;
    let leader = fleet.leading().await.unwrap();
    fleet.servers[leader].kill();
    wait::until(SOON * 3, "another leader", || async { fleet.leading().await.is_some_and(|now| now != leader) }).await;
    fleet.servers[leader].start_again().await;
    wait::until(SOON, "the instance", || async { fleet.client.instances("users").await.len() == 1 }).await;
}

#[tokio::test]
async fn an_etcd_member_keeps_or_loses_its_data() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let first = etcd.put("/fleetgate/routes/a", "{}").await;
    assert_eq!(etcd.put("/fleetgate/routes/b", "{}").await, first + 1);
    etcd.compact(first + 1).await;
    let kept = etcd.kept_lease(1).await;
    let left = etcd.lease(1).await;
    etcd.put_leased("/kept", "1", kept.id).await;
    etcd.put_leased("/left", "1", left).await;
    wait::until(SOON, "the lease to expire", || async { etcd.get("/left").await.is_none() }).await;
    assert_eq!(etcd.get("/kept").await.as_deref(), Some("1"));
    etcd.kill();
    etcd.start_again().await;
    assert_eq!(etcd.get("/fleetgate/routes/a").await.as_deref(), Some("{}"));
    etcd.enable_auth("secret").await;
    etcd.reader("gateway", "other", "/fleetgate/").await;
    assert_eq!(etcd.get("/fleetgate/routes/a").await.as_deref(), Some("{}"));
    etcd.terminate().await;
    etcd.start_empty().await;
    assert_eq!(etcd.get("/fleetgate/routes/a").await, None);
}

#[tokio::test]
async fn three_etcd_members_survive_the_death_of_one() {
    let Some(mut members) = Etcd::start_three().await else { return };
    members[0].put("/a", "1").await;
    members[0].kill();
    wait::until(SOON, "the others to go on", || async {
        members[1].try_call("kv/put", serde_json::json!({ "key": "YQ==", "value": "YQ==" })).await.is_ok()
    })
    .await;
    members[0].start_again().await;
    assert_eq!(members[0].get("/a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn an_origin_does_as_it_is_told() {
    let mut origin = Origin::start_version("users", "v2").await;
    let address = origin.address();
    let echo = Request::post("/a?b=c", "body").header("x-one", "1").send(address).await;
    let json = echo.json();
    assert_eq!((echo.status, echo.served_by()), (200, "users/v2"));
    assert_eq!((json["target"].as_str(), json["body"].as_str()), (Some("/a?b=c"), Some("body")));
    assert_eq!(origin.last_seen().unwrap().header("X-One"), ["1"]);

    origin.then(Behaviour::Status(418));
    origin.then(Behaviour::Reset);
    origin.then(Behaviour::CutBody { declared: 10, sent: 3, reset: false });
    assert_eq!(get(address, "/").await.status, 418);
    assert!(Request::get("/").try_send(address).await.is_err());
    assert!(Request::get("/").try_send(address).await.unwrap_err().to_string().contains("xxx"));
    origin.on("/raw", Behaviour::Raw(b"nonsense".to_vec()));
    assert_eq!(raw(address, b"GET /raw HTTP/1.1\r\n\r\n").await, b"nonsense");

    let chunks = vec!["one".into(), "two".into()];
    origin.on("/stream", Behaviour::Stream { chunks, pause: Duration::ZERO, trailers: vec![("x-sum", "6")] });
    let streamed = get(address, "/stream").await;
    assert_eq!((streamed.text(), streamed.trailers), ("onetwo".to_owned(), vec![("x-sum".to_owned(), "6".to_owned())]));

    origin.on("/ws", Behaviour::WebSocket);
    let mut socket = Connection::open(address).await.unwrap();
    let upgrade = Request::get("/ws").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(socket.exchange(&upgrade).await.unwrap().status, 101);
    socket.send(b"hello").await.unwrap();
    assert_eq!(socket.read_exact(5).await.unwrap(), b"hello");
    socket.finish().await.unwrap();
    assert_eq!(socket.read_to_end().await, b"");

    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Status(204))));
    let held = tokio::spawn(get(address, "/held"));
    wait::until(SOON, "the held request", || async { origin.last_seen().unwrap().target == "/held" }).await;
    assert!(!held.is_finished());
    origin.release();
    assert_eq!(held.await.unwrap().status, 204);

    origin.set_healthy(false);
    assert_eq!(get(address, "/healthz").await.status, 503);
    assert_eq!(origin.probes(), 1);
    origin.stop().await;
    assert!(Connection::open(address).await.is_err());
    origin.start_again().await;
    assert_eq!(get(address, "/").await.status, 200);
    assert!(Connection::open(place::refusing()).await.is_err());
}

#[tokio::test]
async fn load_counts_what_comes_and_what_fails() {
    let mut origin = Origin::start("users").await;
    let load = Load::start(origin.address(), 4, |worker, number| Request::get(&format!("/{worker}/{number}")));
    load.more(200).await;
    load.report().assert_all_ok();
    origin.then(Behaviour::Status(503));
    wait::until(SOON, "the 503", || async { load.report().failures.len() == 1 }).await;
    origin.stop().await;
    wait::until(SOON, "failures", || async { load.report().failures.len() > 4 }).await;
    let report = load.stop().await;
    assert!(report.served_by("users/v1") > 200, "{:?}", report.served);
    assert_eq!(report.statuses[&503], 1);
}

#[tokio::test]
async fn a_proxy_fails_as_networks_do() {
    let origin = Origin::start("users").await;
    let proxy = Proxy::start(origin.address()).await;
    let mut kept = Connection::open(proxy.address()).await.unwrap();
    assert_eq!(kept.exchange(&Request::get("/")).await.unwrap().status, 200);

    proxy.set(Mode::Hold);
    kept.send(&Request::get("/").bytes(proxy.address())).await.unwrap();
    wait::always(Duration::from_millis(100), "held", || async { origin.requests() == 1 }).await;
    proxy.set(Mode::Pass);
    assert_eq!(kept.answer("GET").await.unwrap().status, 200);

    proxy.cut();
    assert!(kept.exchange(&Request::get("/")).await.is_err());
    proxy.set(Mode::CutAfter(20));
    assert!(Request::get("/").try_send(proxy.address()).await.is_err());
    proxy.set(Mode::Refuse);
    assert!(Request::get("/").try_send(proxy.address()).await.is_err());
    proxy.set(Mode::Pass);
    assert_eq!(get(proxy.address(), "/").await.status, 200);
}

#[tokio::test]
async fn a_child_ends_with_its_owner() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo one; echo two >&2; exec sleep 1000"]);
    let child = Process::start("sleep", &command);
    wait::until(SOON, "its output", || async { child.stdout.contains("one") && child.stderr.contains("two") }).await;
    let id = child.id().to_string();
    let runs = || Command::new("sh").args(["-c", "kill -0 \"$0\" 2>/dev/null", &id]).status().unwrap().success();
    assert!(runs());
    drop(child);
    assert!(!runs());
}
