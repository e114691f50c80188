//! Defines `fleetgate demo`: the gateway and three sample services in one process, and commands to try on them.
//!
//! What is tried is the real thing: the configuration lies in files of a temporary directory and is read as
//! `fleetgate run` would read it; only the sample services are at home in this process.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{FAILED, FINE, sample, say};
use crate::app::{self, App, Signals};
use crate::spec::problem::Problem;
use crate::spec::settings::Settings;
use crate::telemetry::outputs::Outputs;
use crate::{config, telemetry};

/// What `fleetgate demo` is told.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// The gateway's port; without it 8080, or a free one where that is taken
    #[arg(long)]
    port: Option<u16>,
    /// The admin API's port; without it 9901, or a free one where that is taken
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

/// The sample services: instance and version.
const SERVICES: [(&str, &str); 3] = [("users-1", "v1"), ("users-2", "v1"), ("users-3", "v2")];

/// How long the sample services may take to end once the gateway has.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the demo until a signal ends it.
pub(super) fn run(arguments: &Arguments, outputs: &Outputs) -> u8 {
    match try_run(arguments, outputs) {
        Ok(()) => FINE,
        Err(error) => {
            say(&mut outputs.stderr(), &format!("fleetgate: {error}"));
            FAILED
        }
    }
}

fn try_run(arguments: &Arguments, outputs: &Outputs) -> Result<(), String> {
    let runtime = app::runtime().map_err(|error| error.to_string())?;
    let ended = runtime.block_on(demonstrate(arguments, outputs));
    runtime.shutdown_background();
    ended
}

async fn demonstrate(arguments: &Arguments, outputs: &Outputs) -> Result<(), String> {
    // Before there is anything to clean up.
    let mut signals = Signals::listen().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let shutdown = CancellationToken::new();
    let mut services = JoinSet::new();
    let mut addresses = Vec::new();
    for (instance, version) in SERVICES {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(|error| format!("cannot listen on 127.0.0.1: {error}"))?;
        addresses.push(listener.local_addr().map_err(|error| error.to_string())?);
        let info =
            sample::Info { name: "users".to_owned(), version: version.to_owned(), instance: instance.to_owned() };
        services.spawn(sample::serve(listener, info, shutdown.clone()));
    }

    let place = Place::new().map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let written = fs::write(place.file("routes.toml"), routes(&addresses));
    written.map_err(|error| format!("cannot write into {}: {error}", place.0.display()))?;
    let app = start(arguments, &place, outputs).await?;
    let web = app.listeners().first().map(|(_, bound)| *bound).ok_or("there is no listener")?;

    let readiness = app.readiness();
    tokio::select! {
        () = signals.stop_or_hang_up() => {}
        () = readiness.settled() => {
            let instructions = Instructions { web, admin: app.admin(), service: addresses[1], place: &place.0 };
            say(&mut outputs.stdout(), &instructions.text());
            signals.stop_or_hang_up().await;
        }
    }
    let ending = async {
        app.stop().await;
        shutdown.cancel();
        let ended = async { while services.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, ended).await;
    };
    tokio::select! {
        () = ending => {}
        () = signals.stop_again(|_| {}) => {}
    }
    Ok(())
}

/// Starts the gateway at the ports asked for, else at the usual ones, else at free ones. Nobody is asked before
/// whether a port is free: only binding it tells.
async fn start(arguments: &Arguments, place: &Place, outputs: &Outputs) -> Result<App, String> {
    let either = |asked: Option<u16>, usual: u16| asked.map_or_else(|| vec![usual, 0], |asked| vec![asked]);
    let (webs, admins) = (either(arguments.port, 8080), either(arguments.admin_port, 9901));
    let mut logged = false;
    let mut failure = String::new();
    for ports in webs.iter().flat_map(|web| admins.iter().map(move |admin| (*web, *admin))) {
        let settings = settings(place, ports)?;
        if !logged {
            telemetry::log::init(&settings.telemetry, outputs).map_err(|error| error.to_string())?;
            logged = true;
        }
        match App::start(settings, None, outputs).await {
            Ok(app) => return Ok(app),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}

/// The settings as `fleetgate run` would read them, but for the environment: the demo is the same everywhere.
fn settings(place: &Place, ports: (u16, u16)) -> Result<Settings, String> {
    let file = place.file("fleetgate.toml");
    fs::write(&file, static_part(ports)).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let listed = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    config::load(Some(&file), []).map_err(listed)
}

fn static_part((web, admin): (u16, u16)) -> String {
    format!(
        r#"# The demo's configuration, read once at start.

[listeners.web]
address = "127.0.0.1:{web}"

[admin]
address = "127.0.0.1:{admin}"

[discovery]
state_dir = "off"

[discovery.file]
paths = ["routes.toml"]

[runtime]
shutdown_grace = "1s"

[telemetry]
access_log = "access.log"
log = "warn,fleetgate::health=info,fleetgate::control=info"
"#
    )
}

fn routes(services: &[SocketAddr]) -> String {
    let endpoints: String = SERVICES
        .iter()
        .zip(services)
        .map(|((instance, version), address)| {
            let labels = format!("{{ version = \"{version}\", instance = \"{instance}\" }}");
            format!("  {{ address = \"{address}\", labels = {labels} }},\n")
        })
        .collect();
    format!(
        r#"# The demo's routes and upstreams: edit and save, it is live at once.

[upstreams.users]
endpoints = [
{endpoints}]
balance = "round_robin"
subsets = {{ v1 = {{ version = "v1" }}, v2 = {{ version = "v2" }} }}
health_check = {{ path = "/healthz", interval = "200ms", healthy_threshold = 1, unhealthy_threshold = 1 }}

[routes.users]
match = {{ path = "/" }}
upstream = "users"

[routes.canary]
match = {{ path = "/canary" }}
targets = [
  {{ upstream = "users", subset = "v2", when = {{ headers = {{ x-canary = "always" }} }} }},
  {{ upstream = "users", subset = "v1", weight = 90 }},
  {{ upstream = "users", subset = "v2", weight = 10 }},
]
"#
    )
}

/// What there is to try. No command has a comment in it: not every shell takes one from the keyboard.
struct Instructions<'a> {
    web: SocketAddr,
    admin: SocketAddr,
    /// The service that goes down and comes back.
    service: SocketAddr,
    place: &'a Path,
}

impl Instructions<'_> {
    fn text(&self) -> String {
        let Self { web, admin, service, place } = self;
        let directory = quoted(&place.display().to_string());
        let fleetgate = own_name();
        let instances = format!("curl -s 'http://{web}/?[1-9]' | grep -o 'users-[1-3]' | sort | uniq -c");
        let versions = "grep -o '\"v[12]\"' | sort | uniq -c";
        let split = format!("curl -s 'http://{web}/canary?[1-1000]' | {versions}");
        let asks = if admin.port() == 9901 { String::new() } else { format!(" --admin http://{admin}") };
        format!(
            "\
http://{web}
admin http://{admin}

Fleetgate in front of three small services: users-1 and users-2 (version v1), users-3 (v2).
Paste these commands into another terminal.

Balancing: every instance has its turn.
    {instances}

Split by weight: 9 in 10 requests go to v1.
    {split}

Canary by header: who asks for it always gets v2.
    curl -s -H 'x-canary: always' 'http://{web}/canary?[1-100]' | {versions}

A service goes down and comes back: users-2 is out, and in again, within a second.
    curl -s -X POST http://{service}/healthz/down
    sleep 1; {instances}
    curl -s -X POST http://{service}/healthz/up
    sleep 1; {instances}

A route edited in its file is live within a second: all to v2, and as it was.
    sed -i.bak 's/weight = 90/weight = 0/' {directory}/routes.toml
    sleep 1; {split}
    mv {directory}/routes.toml.bak {directory}/routes.toml
    sleep 1; {split}

What the gateway knows, counts and logs.
    {fleetgate} status{asks}
    {fleetgate} routes{asks}
    {fleetgate} upstreams{asks}
    curl -s http://{admin}/metrics | grep ^fleetgate_target_requests_total
    tail -n 1 {directory}/access.log

Ctrl-C ends it and removes {directory}."
        )
    }
}

/// How this program is called from another terminal: by its name if it was found by that, else by its path.
fn own_name() -> String {
    let called = env::args_os().next().unwrap_or_default();
    let by_name = Path::new(&called).components().count() == 1;
    match env::current_exe() {
        Ok(path) if !by_name => quoted(&path.display().to_string()),
        _ => quoted(&called.to_string_lossy()),
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A directory of our own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> io::Result<Self> {
        let name = format!("fleetgate-demo-{:08x}", rand::random::<u32>());
        let path = std::path::absolute(env::temp_dir())?.join(name);
        // Fails where somebody else made it before.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_shell_as_they_are() {
        assert_eq!(quoted("/tmp/fleetgate-demo-1a"), "/tmp/fleetgate-demo-1a");
        assert_eq!(quoted("/my tools/it's"), r"'/my tools/it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
