//! What the gateway writes, and what becomes of it when nobody reads, when files are rotated and when disks are full:
//! lines are lost and counted, and nothing else happens.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::operator::run;
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::{Gateway, Setup, fleetgate};
use crate::support::origin::Origin;
use crate::support::process::Process;
use crate::support::{http, place, wait};

const SOON: Duration = Duration::from_secs(30);

/// Case O1: a stalled log driver. The control plane, the admin API and the stop go on as if somebody read.
#[tokio::test]
async fn a_pipe_that_nobody_reads_stops_nothing() {
    let Some(consul) = Consul::start().await else { return };
    for both in [true, false] {
        unread(&consul, both).await;
    }
}

async fn unread(consul: &Consul, both: bool) {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let users = format!("users-{both}");
    consul.register(&Service::new(&users, &format!("a-{both}"), a.address())).await;
    let [web, admin] = place::free_ports([127, 0, 0, 1].into()).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let config = format!(
        r#"
        listeners.web.address = "{web}"
        admin.address = "{admin}"
        discovery.state_dir = "off"
        discovery.consul = {{ address = "{}", kv_prefix = "{users}/" }}
        upstreams.users.consul.service = "{users}"
        upstreams.users.health_check = {{ path = "/healthz", interval = "200ms", healthy_threshold = 1, unhealthy_threshold = 1 }}
        routes.one = {{ match = {{ path = "/one" }}, upstream = "users" }}
        "#,
        consul.url()
    );
    let setup = Setup::new(&config);
    let command = setup.command(&["run", "--config", "fleetgate.toml"]);
    let (mut gateway, unread) = Process::start_unread("fleetgate", &command, both);
    let serves = async |path: &str, who: &str| {
        wait::until_ok(SOON, &format!("{path} to be served by {who}"), || async {
            let answer = Request::get(path).try_send(web).await.map_err(|error| error.to_string())?;
            let by = if answer.status == 200 { answer.served_by().to_owned() } else { answer.status.to_string() };
            if by == who { Ok(()) } else { Err(by) }
        })
        .await;
    };
    let asks = async |path: &str| {
        let answer = http().get(format!("http://{admin}{path}")).send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if status == 200 { Ok(text) } else { Err(format!("{status}: {text}")) }
    };
    serves("/one", "a/v1").await;

    // Each is a warning.
    for name in ["bad", "worse"] {
        consul.kv_put(&format!("{users}/routes/{name}"), "{ no JSON").await;
    }
    consul.kv_put(&format!("{users}/routes/two"), r#"{"match":{"path":"/two"},"upstream":"users"}"#).await;
    serves("/two", "a/v1").await;
    consul.register(&Service::new(&users, &format!("b-{both}"), b.address())).await;
    serves("/two", "b/v1").await;
    a.set_healthy(false);
    wait::until_ok(SOON, "a to be out of use", || async {
        let text = asks("/api/v1/upstreams/users").await?;
        if text.contains("\"unhealthy\"") { Ok(()) } else { Err(text) }
    })
    .await;
    a.set_healthy(true);
    let admin_url = format!("http://{admin}");
    let drain = ["drain", "users", &b.address().to_string(), "--admin", &admin_url];
    let output = fleetgate(&drain).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serves("/two", "a/v1").await;
    wait::until_ok(SOON, "the trouble to be told", || async {
        let metrics = asks("/metrics").await?;
        for path in ["/healthz", "/readyz"] {
            asks(path).await?;
        }
        let failing = |log: &str| metrics.contains(&format!("fleetgate_log_failing{{log=\"{log}\"}} 1"));
        if failing("own") && (failing("access") || !both) { Ok(()) } else { Err(metrics) }
    })
    .await;
    let output = fleetgate(&["status", "--admin", &admin_url]).output().unwrap();
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(status.contains("own stderr failing since") && status.contains("nobody reads"), "{status}");
    assert_eq!(status.contains("access stdout failing since"), both, "{status}");
    assert!(gateway.terminate(SOON).await.success());
    drop(unread);
}

/// What a reader finds who comes back: whole lines, and how many are missing.
#[tokio::test]
async fn who_reads_again_is_told_how_many_lines_were_dropped() {
    let origin = Origin::start("a").await;
    let config = crate::support::gateway::serving(
        r#"match = { path = "/" }"#,
        &format!("endpoints = [\"{}\"]", origin.address()),
    ) + "\n[telemetry]\nlog = \"trace\"\nlog_format = \"json\"\n";
    let setup = Setup::new(&config);
    let command = setup.command(&["run", "--config", "fleetgate.toml"]);
    let (mut gateway, unread) = Process::start_unread("fleetgate", &command, false);
    let said = |start: &str| gateway.stdout.all().iter().find_map(|line| line.strip_prefix(start)?.parse().ok());
    wait::until(SOON, "ready", || async { gateway.stdout.contains("ready") }).await;
    let (web, admin): (SocketAddr, SocketAddr) = (said("listener web ").unwrap(), said("admin ").unwrap());
    let dropped = async || {
        let text = http().get(format!("http://{admin}/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("fleetgate_log_dropped_lines_total{log=\"own\"} "));
        line.unwrap().parse::<f64>().unwrap()
    };
    wait::until(SOON * 2, "lines to be dropped", || async {
        for _ in 0..20 {
            assert_eq!(Request::get("/").send(web).await.status, 200);
        }
        dropped().await > 0.0
    })
    .await;
    let lines = unread.read();
    wait::until_ok(SOON, "the word of it", || async {
        let text = "lines of the own log were dropped";
        lines.all().iter().find(|line| line.contains(text)).map(|_| ()).ok_or_else(|| lines.count())
    })
    .await;
    assert!(gateway.terminate(SOON).await.success());
    for line in lines.all().iter().filter(|line| !line.starts_with("....")) {
        let _: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

fn logging(origin: &Origin, folder: &str) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        telemetry.access_log = "{folder}/access.log"
        telemetry.audit = "{folder}/audit.jsonl"
        telemetry.audit_accepted = true
        telemetry.events = "{folder}/events.jsonl"
        upstreams.app.endpoints = ["{}"]
        middlewares.near.ip.allow = ["127.0.0.0/8"]
        routes.all = {{ match = {{ path = "/" }}, upstream = "app", middlewares = ["near"] }}
        "#,
        origin.address()
    )
}

const FILES: [&str; 3] = ["access.log", "audit.jsonl", "events.jsonl"];

/// A line into each of the three files.
async fn say(gateway: &Gateway, origin: &Origin) {
    gateway.get("/").await;
    let endpoint = origin.address().to_string();
    for word in ["drain", "undrain"] {
        let (fine, said) = run(gateway, &[word, "app", &endpoint]);
        assert!(fine, "{said}");
    }
}

/// The lines of a file, each of which is JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{}: {line}", path.display())))
        .collect()
}

/// Waits until each of the files has a line more than it had.
async fn written(folder: &Path, before: [usize; 3]) {
    wait::until_ok(SOON, "a line in each file", || async {
        let counts = FILES.map(|file| lines(&folder.join(file)).len());
        if counts.iter().zip(before).all(|(now, before)| *now > before) { Ok(()) } else { Err(counts) }
    })
    .await;
}

/// logrotate, with and without a signal: by moving (`create`), by deleting, and by emptying (`copytruncate`).
#[tokio::test]
async fn rotated_files_are_opened_again() {
    let origin = Origin::start("a").await;
    let setup = Setup::new(&logging(&origin, "logs")).file("logs/keep", "");
    let mut gateway = setup.start().await;
    let folder = gateway.folder().join("logs");
    say(&gateway, &origin).await;
    written(&folder, [0; 3]).await;
    for signal in [Some("HUP"), Some("USR1"), None] {
        let before = FILES.map(|file| fs::read_to_string(folder.join(file)).unwrap());
        for file in FILES {
            fs::rename(folder.join(file), folder.join(format!("{file}.old"))).unwrap();
        }
        if let Some(signal) = signal {
            gateway.process().signal(signal);
        }
        // Nothing need be said for that.
        wait::until(SOON, "new files", || async { FILES.iter().all(|file| folder.join(file).exists()) }).await;
        say(&gateway, &origin).await;
        written(&folder, [0; 3]).await;
        for (file, before) in FILES.iter().zip(before) {
            let old = fs::read_to_string(folder.join(format!("{file}.old"))).unwrap();
            assert!(old.starts_with(&before), "{file}: {old}");
        }
    }
    for file in FILES {
        fs::remove_file(folder.join(file)).unwrap();
    }
    wait::until(SOON, "new files", || async { FILES.iter().all(|file| folder.join(file).exists()) }).await;
    say(&gateway, &origin).await;
    written(&folder, [0; 3]).await;
    for file in FILES {
        fs::File::options().write(true).truncate(true).open(folder.join(file)).unwrap();
    }
    say(&gateway, &origin).await;
    written(&folder, [0; 3]).await;
    let failing = async |wanted: f64| {
        wait::until(SOON, &format!("all to fail: {wanted}"), || async {
            gateway.metric("fleetgate_log_failing", &[]).await == Some(wanted)
        })
        .await;
    };
    failing(0.0).await;

    // The folder is lost, and comes back.
    let gone = gateway.folder().join("gone");
    fs::rename(&folder, &gone).unwrap();
    failing(3.0).await;
    let (_, status) = run(&gateway, &["status"]);
    assert_eq!(status.matches("failing since").count(), 3, "{status}");
    assert_eq!(gateway.get("/").await.status, 200);
    fs::rename(&gone, &folder).unwrap();
    failing(0.0).await;
    let before = FILES.map(|file| lines(&folder.join(file)).len());
    say(&gateway, &origin).await;
    written(&folder, before).await;
}

/// Case O13: the disk is full. What is served is not concerned; `status` and metrics tell it while it lasts, and no more
/// when there is room again.
#[tokio::test]
async fn a_full_disk_costs_lines_and_is_told_while_it_lasts() {
    if place::own_mounts().is_none() {
        return;
    }
    let origin = Origin::start("a").await;
    let mounts = "mkdir logs && mount -t tmpfs -o size=64k none logs \
                  && if head -c 1000000 /dev/zero >logs/ballast 2>/dev/null; then exit 1; fi";
    let mut gateway = Setup::new(&logging(&origin, "logs")).mounts(mounts).start().await;
    let root = format!("/proc/{}/root{}", gateway.process().id(), gateway.folder().join("logs").display());
    let failing = async |wanted: f64| {
        wait::until_ok(SOON, &format!("all to fail: {wanted}"), || async {
            assert_eq!(gateway.get("/").await.status, 200);
            let failing = gateway.metric("fleetgate_log_failing", &[]).await;
            if failing == Some(wanted) { Ok(()) } else { Err(gateway.api("status").await["logs"].to_string()) }
        })
        .await;
    };
    failing(3.0).await;
    say(&gateway, &origin).await;
    let (_, status) = run(&gateway, &["status"]);
    for log in ["access", "audit", "events"] {
        let line = status.lines().find(|line| line.contains(&format!("log        {log} ")));
        assert!(line.is_some_and(|line| line.contains("No space left on device")), "{status}");
    }
    // They wait for a while, then they are dropped.
    for log in ["access", "audit", "events"] {
        wait::until(SOON, &format!("lines of {log} to be dropped"), || async {
            say(&gateway, &origin).await;
            gateway.metric("fleetgate_log_dropped_lines_total", &[("log", log)]).await > Some(0.0)
        })
        .await;
    }
    assert!(gateway.stderr().contains("can't be written"), "{}", gateway.stderr().text());
    fs::remove_file(format!("{root}/ballast")).unwrap();
    failing(0.0).await;
    say(&gateway, &origin).await;
    written(Path::new(&root), [0; 3]).await;
    wait::until(SOON, "the word of it", || async { gateway.stderr().contains("is written again") }).await;
    assert!(gateway.stderr().contains("were dropped"), "{}", gateway.stderr().text());
    let events = lines(&Path::new(&root).join("events.jsonl"));
    assert!(events.iter().any(|line| line["dropped"].as_u64() > Some(0)), "{events:?}");
}

/// A named pipe as destination, as some log shippers want it, while none reads.
#[tokio::test]
async fn a_named_pipe_without_a_reader_is_no_reason_to_wait() {
    let origin = Origin::start("a").await;
    let setup = Setup::new(&logging(&origin, "logs")).file("logs/keep", "");
    let pipe = setup.folder().join("logs/access.log");
    fs::create_dir_all(pipe.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let gateway = setup.start().await;
    assert_eq!(gateway.get("/").await.status, 200);
    let (_, status) = run(&gateway, &["status"]);
    assert!(status.contains("nobody reads this pipe"), "{status}");
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let mut pipe = std::io::BufReader::new(fs::File::open(pipe).unwrap());
        std::io::BufRead::read_line(&mut pipe, &mut text).unwrap();
        text
    });
    wait::until(SOON, "a line", || async {
        assert_eq!(gateway.get("/").await.status, 200);
        reading.is_finished()
    })
    .await;
    let line: Value = serde_json::from_str(&reading.join().unwrap()).unwrap();
    assert_eq!(line["status"], 200);
}

/// Lines that are under way when it ends are there afterwards.
#[tokio::test]
async fn nothing_is_lost_at_the_end() {
    let origin = Origin::start("a").await;
    let mut gateway = Setup::new(&logging(&origin, ".")).start().await;
    let requests = 50;
    for _ in 0..requests {
        gateway.get("/").await;
    }
    assert!(gateway.terminate().await.success());
    assert_eq!(lines(&gateway.folder().join("access.log")).len(), requests);
    let events = lines(&gateway.folder().join("events.jsonl"));
    assert_eq!(events.last().unwrap()["event"], "gateway_stopped");
    wait::until(SOON, "the last line", || async { gateway.stderr().contains("stopping") }).await;
}

/// A panic is told as any line is, also where nobody reads. This binary is its own victim.
#[test]
fn a_panic_waits_for_nobody() {
    const CHILD: &str = "FLEETGATE_TEST_PANICS";
    if std::env::var_os(CHILD).is_some() {
        panics();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "outputs::a_panic_waits_for_nobody", "--nocapture"]).env(CHILD, "1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut blocked, unread) = Process::start_unread("panics", &command, false);
        assert_eq!(blocked.end(SOON).await.code(), Some(7), "it went on after the panics");
        drop(unread);
        let mut read = Process::start("panics", &command);
        assert_eq!(read.end(SOON).await.code(), Some(7));
        wait::until(SOON, "the panic", || async { read.stderr.contains("a thread panicked: number 1") }).await;
        assert!(read.stderr.contains("outputs.rs"), "{}", read.stderr.text());
    });
}

fn panics() -> ! {
    let outputs = fleetgate::telemetry::outputs::Outputs::start().unwrap();
    fleetgate::telemetry::log::tell_panics(&outputs);
    let settings = fleetgate::config::load(None, [("FLEETGATE_LISTENERS__WEB__ADDRESS".into(), "127.0.0.1:0".into())]);
    fleetgate::telemetry::log::init(&settings.unwrap().telemetry, &outputs).unwrap();
    for number in 0..5_000 {
        std::thread::spawn(move || assert!(number > 5_000, "number {number}")).join().unwrap_err();
    }
    outputs.finish();
    std::process::exit(7);
}
