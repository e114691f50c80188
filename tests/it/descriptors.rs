//! File descriptors: raised, divided, kept in reserve, and what a lack of them means.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpSocket;

use crate::support::client::{Connection, Request, get};
use crate::support::gateway::{Gateway, Setup, serving};
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// A gateway that may have so many files open.
async fn limited(limit: &str, upstream: &str) -> Gateway {
    Setup::new(&serving("match = { path = \"/\" }", upstream)).before(&format!("ulimit {limit}")).start().await
}

fn endpoints(origin: &Origin, more: &str) -> String {
    format!("endpoints = [\"{}\"]\n{more}", origin.address())
}

async fn connection_from(source: &str, to: SocketAddr) -> Connection {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    Connection::over(socket.connect(to).await.unwrap())
}

#[tokio::test]
async fn the_soft_limit_is_raised_and_what_there_is_is_divided() {
    let origin = Origin::start("app").await;
    let raised = limited("-Sn 64", &endpoints(&origin, "")).await;
    let limit = raised.api("status").await["descriptors"]["limit"].as_u64().unwrap();
    assert!(limit > 64, "{limit}");
    let gateway = limited("-n 1024", &endpoints(&origin, "")).await;
    let mut told = gateway.api("status").await["descriptors"].clone();
    let advice = told["advice"].take();
    assert!(advice.as_str().unwrap().contains("raise the limit"), "{advice}");
    assert_eq!(
        told,
        json!({
            "limit": 1024, "reserve": 102, "upstream_per_client": 346, "advice": null,
            "downstream": { "open": 0, "max": 461 }, "upstream": { "open": 0, "max": 461 }
        })
    );
    assert_eq!(gateway.stderr().all().iter().filter(|line| line.contains("max_connections allows 20000")).count(), 1);
    assert_eq!(gateway.get("/").await.status, 200);
    for (purpose, most) in [("reserve", 102.0), ("downstream", 461.0), ("upstream", 461.0)] {
        assert_eq!(gateway.metric("fleetgate_descriptors_max", &[("purpose", purpose)]).await, Some(most));
    }
    let output =
        crate::support::gateway::fleetgate(&["status", "--admin", &gateway.admin().to_string()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("of 461 (346 for one client), reserve 102, limit 1024"), "{text}");
}

#[tokio::test]
async fn one_client_leaves_connections_to_endpoints_for_others() {
    let origin = Origin::start("app").await;
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let gateway = limited("-n 256", &endpoints(&origin, "")).await;
    let most = gateway.api("status").await["descriptors"]["upstream_per_client"].as_u64().unwrap() as usize;
    let mut held = Vec::new();
    for _ in 0..most {
        let mut client = Connection::open(gateway.address()).await.unwrap();
        client.send(&Request::get("/held").bytes(gateway.address())).await.unwrap();
        held.push(client);
    }
    wait::until(SOON, "all of them at the service", || async { origin.requests() == most }).await;
    let refused = gateway.get("/").await;
    assert_eq!((refused.status, refused.header("x-fleetgate-flag")), (503, Some("UO")), "{}", refused.text());
    let mut other = connection_from("127.0.0.2", gateway.address()).await;
    assert_eq!(other.exchange(&Request::get("/")).await.unwrap().status, 200);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.admin(), path).await.status, 200, "{path}");
    }
    let reason = [("upstream", "app"), ("reason", "client_descriptors")];
    assert_eq!(gateway.metric("fleetgate_upstream_refused_requests_total", &reason).await, Some(1.0));
    assert_eq!(gateway.endpoints("app").await[0].1, "healthy");
    origin.release();
    for client in &mut held {
        assert_eq!(client.answer("GET").await.unwrap().status, 200);
    }
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn clients_that_take_all_they_can_leave_the_admin_api_checks_and_files_alone() {
    let origin = Origin::start("app").await;
    let checked =
        endpoints(&origin, "health_check = { path = \"/healthz\", interval = \"100ms\", unhealthy_threshold = 1 }");
    let gateway = limited("-n 256", &checked).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Connection::open(gateway.address()).await.unwrap());
    }
    let probes = origin.probes();
    wait::until(SOON, "more checks", || async { origin.probes() > probes + 3 }).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.admin(), path).await.status, 200, "{path}");
    }
    assert_eq!(gateway.endpoints("app").await[0].1, "healthy");
    let config = serving("match = { path = \"/other\" }", &checked);
    gateway.write_config(&config);
    wait::until(SOON, "the edit", || async {
        gateway.api("routes").await["items"][0]["match"] == json!({ "path": "/other" })
    })
    .await;
    drop(silent);
    gateway.until_status("/other", 200).await;
}

/// Lets a process have so many files open from now on.
fn limit(pid: u32, limit: &str) {
    let nofile = format!("--nofile={limit}");
    let set = std::process::Command::new("prlimit").args(["--pid", &pid.to_string(), &nofile]).status().unwrap();
    assert!(set.success());
}

#[tokio::test]
async fn a_lack_of_descriptors_marks_nobody() {
    let origin = Origin::start("app").await;
    let upstream = endpoints(
        &origin,
        "max_idle_per_endpoint = 0\nbreaker = { error_ratio = \"1%\", min_requests = 1 }\n\
         health_check = { path = \"/healthz\", interval = \"100ms\", unhealthy_threshold = 1 }",
    );
    let mut gateway = limited("-Sn 1024", &upstream).await;
    let mut client = Connection::open(gateway.address()).await.unwrap();
    assert_eq!(client.exchange(&Request::get("/")).await.unwrap().status, 200);
    let pid = gateway.process().id();
    // Nothing new can be opened from here on.
    limit(pid, "3:");
    wait::until(SOON, "checks that cannot be made", || async {
        gateway.stderr().contains("active checks can't be made")
            || gateway.stderr().contains("cannot connect to endpoints")
    })
    .await;
    for _ in 0..10 {
        let answer = client.exchange(&Request::get("/")).await.unwrap();
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("UO")), "{}", answer.text());
    }
    // It waits in the listener's queue.
    let mut waiting = Connection::open(gateway.address()).await.unwrap();
    waiting.send(&Request::get("/").bytes(gateway.address())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    limit(pid, "1024:");
    assert_eq!(waiting.answer("GET").await.unwrap().status, 200);
    assert_eq!(client.exchange(&Request::get("/")).await.unwrap().status, 200);
    assert_eq!(gateway.endpoints("app").await[0].1, "healthy");
    let upstream = gateway.api("upstreams/app").await;
    assert_eq!(upstream["breaker"]["state"], "closed");
    let events = gateway.api("events?upstream=app").await["items"].to_string();
    // Nothing but the first check, which passed.
    assert_eq!(events.matches("endpoint_changed").count(), 1, "{events}");
    assert!(gateway.metric("fleetgate_accept_failures_total", &[]).await > Some(0.0));
    let told = gateway.stderr().all().iter().filter(|line| line.contains("open files")).count();
    assert!(told < 10, "{told} lines");
}
