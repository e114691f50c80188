//! A machine's clock that is set by an hour while the gateway runs, with traffic flowing.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::{SOON, fails, live, provider, takes};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

const HOUR: i64 = 3_600;
/// What nobody here is ever as old as, and an hour is more than.
const LONG: f64 = 600.0;

/// A wall clock of the gateway's own.
struct Clock(PathBuf);

impl Clock {
    /// A clock in this folder, and the library that makes a process go by it; `None` (said aloud) without a compiler.
    fn new(folder: &Path) -> Option<(Self, PathBuf)> {
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        fs::write(&source, include_str!("clock.c")).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
        let Ok(compiled) = compiled else {
            let _ = writeln!(std::io::stderr(), "SKIPPED: clocks are not set without a C compiler `cc`");
            return None;
        };
        assert!(compiled.status.success(), "{compiled:?}");
        let clock = Self(folder.join("clock"));
        clock.set(0);
        Some((clock, library))
    }

    /// Sets it this many seconds ahead of ours.
    fn set(&self, ahead: i64) {
        // At once, or a reader would find nothing in it.
        let new = self.0.with_extension("new");
        fs::write(&new, ahead.to_string()).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

async fn age(gateway: &Gateway) -> f64 {
    gateway.metric("fleetgate_snapshot_age_seconds", &[]).await.unwrap()
}

/// Waits until what it knows has not been confirmed for so long, and not much longer.
async fn ages(gateway: &Gateway, seconds: f64) {
    wait::until_ok(SOON, &format!("an age of {seconds} s"), || async {
        let age = age(gateway).await;
        assert!(age < LONG, "{age} s");
        if age >= seconds { Ok(()) } else { Err(age) }
    })
    .await;
}

/// It tells times by the clock as it is now.
async fn tells_time(gateway: &Gateway, ahead: i64) {
    for name in ["consul", "consul-kv", "etcd"] {
        let at = provider(gateway, name).await["verified_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + ahead as f64;
        let off = now - at.as_millisecond() as f64 / 1_000.0;
        assert!(off.abs() < LONG, "{name} was verified at {at}, {off} s ago");
    }
}

/// Fault case 57: how old things are, what is held and who is ready go by a clock that nobody sets.
#[tokio::test]
async fn a_clock_that_is_set_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some((clock, library)) = Clock::new(folder.path()) else { return };
    let (Some(mut consul), Some(mut etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&Service::new("web", "a", a.address())).await;
    etcd.put("/fleetgate/endpoints/own/b", &b.address().to_string()).await;
    let gateway = Setup::new(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "state"
        discovery.consul = {{ address = "{}", wait = "1s" }}
        discovery.etcd.endpoints = ["{}"]
        upstreams.web.consul.service = "web"
        upstreams.own.etcd = {{}}
        routes.web = {{ match = {{ path = "/web" }}, upstream = "web" }}
        routes.own = {{ match = {{ path = "/own" }}, upstream = "own" }}
        "#,
        consul.url(),
        etcd.url()
    ))
    .env("LD_PRELOAD", &library)
    .env("TEST_CLOCK", &clock.0)
    .start()
    .await;
    let paths = ["/web", "/own"];
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    for ahead in [HOUR, -HOUR, 0] {
        clock.set(ahead);
        let fresh = || async { age(&gateway).await < LONG && gateway.admin_get("/readyz").await.0 == 200 };
        wait::always(Duration::from_secs(1), "fresh and ready", fresh).await;
        tells_time(&gateway, ahead).await;
    }
    assert!(gateway.api("status").await["uptime_seconds"].as_f64().unwrap() < LONG);

    // A wiped registry is held for ten minutes of real time.
    etcd.kill();
    etcd.start_empty().await;
    let held = || async { gateway.endpoints("own").await == [(b.address().to_string(), "held".to_owned())] };
    wait::until(SOON, "b to be held", held).await;
    clock.set(HOUR);
    wait::always(Duration::from_secs(2), "b to be held", held).await;
    etcd.put("/fleetgate/endpoints/own/b", &b.address().to_string()).await;
    wait::until(SOON, "b to be listed again", || async { !held().await }).await;
    live(&gateway, "etcd").await;

    // Set back while nothing is confirmed any more: its age grows all the same.
    super::saved::saves(&gateway, "consul.json", &[&a.address().to_string()]).await;
    super::saved::saves(&gateway, "etcd.json", &[&b.address().to_string()]).await;
    consul.kill();
    etcd.kill();
    for name in ["consul", "consul-kv", "etcd"] {
        fails(&gateway, name, "").await;
    }
    clock.set(-HOUR);
    let before = age(&gateway).await;
    ages(&gateway, before + 2.0).await;
    takes(&load, "a/v1").await;
    takes(&load, "b/v1").await;
    load.stop().await.assert_all_ok();

    // The next process can go by the clock alone; from then on its age grows by itself.
    clock.set(0);
    let gateway = gateway.restart().await;
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    let before = age(&gateway).await;
    clock.set(HOUR);
    ages(&gateway, before + 1.0).await;
    clock.set(-HOUR);
    ages(&gateway, before + 2.0).await;
    tells_time(&gateway, -HOUR).await;
    load.stop().await.assert_all_ok();
}
