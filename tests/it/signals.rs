//! Every signal that people and supervisors send, in every phase of a gateway's life.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::client::{Connection, Request};
use crate::support::gateway::{Gateway, Setup, serving};
use crate::support::origin::{Behaviour, Origin};
use crate::support::process::Process;
use crate::support::{place, wait};

const SOON: Duration = Duration::from_secs(30);

/// USR1, HUP, and what means nothing: USR2, PIPE, ALRM, STKFLT, XFSZ, VTALRM, PROF, WINCH, IO, PWR, and some that are
/// real-time.
const HARMLESS: [&str; 15] = ["10", "1", "12", "13", "14", "16", "25", "26", "27", "28", "29", "30", "34", "37", "64"];

/// Those that stop.
const STOPPING: [&str; 3] = ["TERM", "INT", "QUIT"];

async fn gateway(origin: &Origin) -> Gateway {
    let config = serving(r#"match = { path = "/" }"#, &format!("endpoints = [\"{}\"]", origin.address()));
    Gateway::start(&format!("runtime.shutdown_grace = \"60s\"\n{config}")).await
}

/// Waits until a process listens to SIGTERM.
async fn listens(process: &mut Process) {
    wait::until_ok(SOON, "handlers of signals", || {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default().trim().to_owned();
        let mask = u64::from_str_radix(&caught, 16).unwrap_or_default();
        async move { if mask & 1 << 14 != 0 { Ok(()) } else { Err(caught) } }
    })
    .await;
}

/// An exchange whose answer the service holds back.
async fn held(gateway: &Gateway, origin: &Origin) -> Connection {
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Echo)));
    let mut held = Connection::open(gateway.address()).await.expect("to connect");
    held.send(&Request::get("/held").bytes(gateway.address())).await.expect("to send");
    wait::until(SOON, "the request at the service", || async { origin.open_connections() == 1 }).await;
    held
}

async fn refuses(gateway: &Gateway) {
    let address = gateway.address();
    wait::until(SOON, "no new connections", || async { Connection::open(address).await.is_err() }).await;
}

#[tokio::test]
async fn what_does_not_stop_harms_nothing_while_it_serves_and_while_it_stops() {
    let origin = Origin::start("app").await;
    let mut gateway = gateway(&origin).await;
    let mut held = held(&gateway, &origin).await;
    for signal in HARMLESS {
        gateway.process().signal(signal);
        assert_eq!(gateway.get("/").await.status, 200, "after signal {signal}");
    }
    wait::until(SOON, "the word of it", || async { gateway.stderr().contains("SIGUSR2") }).await;
    gateway.process().signal("TERM");
    refuses(&gateway).await;
    for signal in HARMLESS {
        gateway.process().signal(signal);
    }
    assert!(gateway.process().exited().is_none());
    origin.release();
    assert_eq!(held.answer("GET").await.expect("the answer of an exchange that was in flight").status, 200);
    assert!(gateway.process().end(SOON).await.success());
}

#[tokio::test]
async fn what_stops_lets_exchanges_end() {
    for signal in STOPPING {
        let origin = Origin::start("app").await;
        let mut gateway = gateway(&origin).await;
        let mut held = held(&gateway, &origin).await;
        // As `timeout` does it: one to the group, one to the child.
        let twice = format!("kill -s {signal} {0}; kill -s {signal} {0}", gateway.process().id());
        assert!(Command::new("sh").args(["-c", &twice]).status().unwrap().success());
        refuses(&gateway).await;
        origin.release();
        assert_eq!(held.answer("GET").await.expect("the answer of an exchange that was in flight").status, 200);
        assert!(gateway.process().end(SOON).await.success(), "SIG{signal}");
    }
}

#[tokio::test]
async fn a_second_one_ends_at_once_whichever_it_is() {
    for second in STOPPING {
        let origin = Origin::start("app").await;
        let mut gateway = gateway(&origin).await;
        let mut held = held(&gateway, &origin).await;
        gateway.process().signal("TERM");
        refuses(&gateway).await;
        // From then on it is another one.
        tokio::time::sleep(Duration::from_millis(600)).await;
        gateway.process().signal(second);
        assert!(gateway.process().end(SOON).await.success(), "SIG{second}");
        wait::until(SOON, "the word of it", || async { gateway.stderr().contains("ended at once") }).await;
        assert!(held.answer("GET").await.is_err());
    }
}

/// It waits for a registry that is away.
#[tokio::test]
async fn before_it_is_ready_signals_mean_the_same() {
    for stopping in STOPPING {
        let config = format!(
            "discovery.consul.address = \"http://{}\"\n{}",
            place::refusing(),
            serving(r#"match = { path = "/" }"#, "consul.service = \"app\"")
        );
        let mut gateway = Setup::new(&config).launch().await;
        wait::until(SOON, "the listeners", || async { gateway.stdout().contains("admin ") }).await;
        for signal in HARMLESS {
            gateway.process().signal(signal);
        }
        wait::until(SOON, "the word of it", || async { gateway.stderr().contains("SIGUSR2") }).await;
        assert!(!gateway.stdout().contains("ready"));
        gateway.process().signal(stopping);
        assert!(gateway.process().end(SOON).await.success(), "SIG{stopping}");
    }
}

/// As soon as it listens, whatever it is at: reading its configuration, opening its files, binding.
#[tokio::test]
async fn from_its_first_instant_signals_mean_the_same() {
    for stopping in STOPPING {
        let setup = Setup::new(&serving("", "endpoints = [\"127.0.0.1:9\"]"));
        let mut process = Process::start("fleetgate", &setup.command(&["run", "--config", "fleetgate.toml"]));
        listens(&mut process).await;
        for signal in HARMLESS {
            process.signal(signal);
        }
        assert!(process.exited().is_none(), "{}", process.stderr.text());
        process.signal(stopping);
        assert!(process.end(SOON).await.success(), "SIG{stopping}");
    }
}

#[tokio::test]
async fn the_demo_obeys_them_too() {
    for stopping in ["TERM", "INT", "QUIT", "HUP"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
        command.args(["demo", "--port", "0", "--admin-port", "0"]).env("TMPDIR", temporary.path());
        let mut demo = Process::start("demo", &command);
        wait::until(SOON, "the demo's instructions", || async { demo.stdout.contains("Ctrl-C") }).await;
        for signal in HARMLESS.iter().filter(|signal| **signal != "1") {
            demo.signal(signal);
        }
        assert!(demo.exited().is_none());
        demo.signal(stopping);
        assert!(demo.end(SOON).await.success(), "SIG{stopping}");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "it cleans up");
    }
}
