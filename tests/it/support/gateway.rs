//! The real `fleetgate` binary as a user runs it: a configuration file, ports 0, signals, its outputs.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Answer, Request};
use super::process::{Lines, Process};
use super::{http, place, wait};

const START: Duration = Duration::from_secs(30);

/// A configuration of one worker with a listener, the admin API, and a route `all` to the upstream `app`; with these keys
/// of the route and of the upstream.
pub fn serving(route: &str, upstream: &str) -> String {
    format!(
        r#"
        runtime.workers = 1
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        [routes.all]
        upstream = "app"
        {route}
        [upstreams.app]
        {upstream}
        "#
    )
}

/// How to start a gateway.
pub struct Setup {
    config_name: String,
    files: Vec<(String, String)>,
    env: Vec<(String, OsString)>,
    mounts: Option<String>,
    before: Option<String>,
    folder: TempDir,
}

impl Setup {
    /// With this text as its `fleetgate.toml`.
    pub fn new(config: &str) -> Self {
        Self::named("fleetgate.toml", config)
    }

    /// With this text under another name: `fleetgate.yaml`, `fleetgate.json`.
    pub fn named(name: &str, config: &str) -> Self {
        Self {
            config_name: name.to_owned(),
            files: vec![(name.to_owned(), config.to_owned())],
            env: Vec::new(),
            mounts: None,
            before: None,
            folder: tempfile::Builder::new().prefix("fleetgate-test-").tempdir().unwrap(),
        }
    }

    /// A further file, by its path from the configuration's folder.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Runs these commands of a shell before it, in the gateway's folder and in a mount namespace of its own: see
    /// [`super::place::own_mounts`].
    pub fn mounts(mut self, commands: &str) -> Self {
        self.mounts = Some(commands.to_owned());
        self
    }

    /// Runs these commands of a shell before it, in the process that becomes the gateway: `ulimit -n 256`.
    pub fn before(mut self, commands: &str) -> Self {
        self.before = Some(commands.to_owned());
        self
    }

    /// The configuration's folder, also the gateway's working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command in this setup: `run` with its configuration, or another with its arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        for (path, text) in &self.files {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut command = fleetgate(arguments);
        command.current_dir(self.folder.path()).envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs a command that ends of itself, such as `check`.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Asserts that `fleetgate check` tells all of these lines of the configuration.
    #[track_caller]
    pub fn assert_check_tells(&self, lines: &[&str]) {
        let output = self.output(&["check", "--config", &self.config_name]);
        let text = String::from_utf8_lossy(&output.stdout);
        for line in lines {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    /// Starts `fleetgate run` and waits for `ready`.
    pub async fn start(self) -> Gateway {
        let mut gateway = self.launch().await;
        gateway.wait_ready().await;
        gateway
    }

    /// Starts `fleetgate run` and waits only until its listener is open.
    pub async fn start_listening(self) -> Gateway {
        let gateway = self.launch().await;
        let listens = |line: &String| line.starts_with("listener ");
        wait::until(START, "a listener", || async { gateway.stdout().all().iter().any(listens) }).await;
        gateway
    }

    /// Starts `fleetgate run` and does not wait.
    pub async fn launch(self) -> Gateway {
        let config = self.folder.path().join(&self.config_name);
        let mut command = self.command(&["run", "--config", config.to_str().unwrap()]);
        if let Some(commands) = &self.mounts {
            command = place::with_mounts(commands, &command);
        }
        if let Some(commands) = &self.before {
            command = place::after(commands, &command);
        }
        Gateway { process: Process::start("fleetgate", &command), setup: self }
    }

    /// Starts `fleetgate run`, which is to end of itself: its status, stdout and stderr.
    pub async fn fail(self) -> (ExitStatus, String, String) {
        let mut gateway = self.launch().await;
        let status = gateway.process.end(START).await;
        (status, gateway.process.stdout.text(), gateway.process.stderr.text())
    }
}

/// `fleetgate` with these arguments, without what the tester's environment says to it.
pub fn fleetgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
    command.args(arguments);
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        let speaks = ["FLEETGATE_", "CONSUL_", "ETCDCTL_"].iter().any(|prefix| name.starts_with(prefix));
        if speaks || name == "RUST_LOG" {
            command.env_remove(&key);
        }
    }
    command
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    process: Process,
    setup: Setup,
}

impl Gateway {
    /// Starts `fleetgate run` with this TOML and waits for `ready`.
    pub async fn start(config: &str) -> Self {
        Setup::new(config).start().await
    }

    /// Waits for the line `ready`; panics with its log if the gateway ends before.
    pub async fn wait_ready(&mut self) {
        let process = Mutex::new(&mut self.process);
        wait::until_ok(START, "the gateway's `ready`", || {
            let mut process = process.lock().unwrap();
            if let Some(status) = process.exited() {
                panic!("the gateway ended ({status}): {}\n{}", process.stdout.text(), process.stderr.text());
            }
            let ready = process.stdout.all().iter().any(|line| line == "ready");
            let seen = if ready { Ok(()) } else { Err(process.stderr.text()) };
            async move { seen }
        })
        .await;
    }

    /// The address of the listener of this name.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.said(&format!("listener {name} "))
    }

    /// The address of the only listener.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let lines = self.process.stdout.all();
        let line = lines.iter().find_map(|line| line.strip_prefix("listener ")).expect("a listener line");
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.said("admin ")
    }

    #[track_caller]
    fn said(&self, start: &str) -> SocketAddr {
        let lines = self.process.stdout.all();
        let line = lines.iter().find_map(|line| line.strip_prefix(start));
        line.unwrap_or_else(|| panic!("no `{start}` line in {lines:?}")).parse().unwrap()
    }

    // Traffic.

    /// GET through the only listener, on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> impl Future<Output = Answer> {
        self.send(Request::get(target))
    }

    /// A request through the only listener, on a connection of its own.
    #[track_caller]
    pub fn send(&self, request: Request) -> impl Future<Output = Answer> {
        request.send(self.address())
    }

    /// Waits until GET of `target` is answered with `status`.
    #[track_caller]
    pub fn until_status(&self, target: &str, status: u16) -> impl Future<Output = Answer> {
        let (address, target) = (self.address(), target.to_owned());
        let what = format!("{target} to give {status}");
        wait::until_ok(START, &what, move || {
            let target = target.clone();
            async move {
                let answer = Request::get(&target).try_send(address).await.map_err(|error| error.to_string())?;
                if answer.status == status { Ok(answer) } else { Err(format!("{}: {}", answer.status, answer.text())) }
            }
        })
    }

    // Admin.

    /// GET of the admin API, as JSON; panics unless it succeeds.
    pub async fn api(&self, path: &str) -> Value {
        let answer = http().get(format!("http://{}/api/v1/{path}", self.admin())).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// The status of GET of any admin path, and its text.
    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        let answer = http().get(format!("http://{}{path}", self.admin())).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The endpoints of an upstream by address, each with its state.
    pub async fn endpoints(&self, upstream: &str) -> Vec<(String, String)> {
        let upstream = self.api(&format!("upstreams/{upstream}")).await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let endpoints = upstream["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().map(|endpoint| (text(&endpoint["address"]), text(&endpoint["state"]))).collect()
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let (status, text) = self.admin_get("/metrics").await;
        assert_eq!(status, 200, "{text}");
        text
    }

    /// The sum of a metric's series whose labels contain all of `labels`; nothing without any such series.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self.metrics().await;
        let wanted: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let mut sum = None;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            if !rest.starts_with(['{', ' ']) || !wanted.iter().all(|label| rest.contains(label)) {
                continue;
            }
            let value: f64 = rest.rsplit(' ').next().unwrap().parse().unwrap();
            sum = Some(sum.unwrap_or(0.0) + value);
        }
        sum
    }

    // Outputs.

    /// The access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        let lines = self.process.stdout.all();
        lines.iter().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for an access log line that `wanted` accepts.
    #[track_caller]
    pub fn until_logged<F>(&self, what: &str, wanted: F) -> impl Future<Output = Value>
    where
        F: Fn(&Value) -> bool,
    {
        wait::until_ok(Duration::from_secs(10), &format!("an access log line: {what}"), move || {
            let lines = self.access_log();
            let found = lines.iter().find(|line| wanted(line)).cloned().ok_or(lines);
            async move { found }
        })
    }

    pub fn stdout(&self) -> &Lines {
        &self.process.stdout
    }

    pub fn stderr(&self) -> &Lines {
        &self.process.stderr
    }

    // Files.

    pub fn folder(&self) -> &Path {
        self.setup.folder.path()
    }

    /// Replaces a file of the configuration's folder at once, as careful editors do.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.folder().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let new = path.with_extension("new~");
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }

    /// Replaces the configuration's own file.
    pub fn write_config(&self, text: &str) {
        self.write(&self.setup.config_name, text);
    }

    // The process.

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGHUP: read the files again.
    pub fn reload(&mut self) {
        self.process.signal("HUP");
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(START).await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it and starts it again in the same folder.
    pub async fn restart(self) -> Self {
        self.killed().start().await
    }

    /// As [`Self::restart`], but waits only until its listener is open.
    pub async fn restart_unready(self) -> Self {
        self.killed().start_listening().await
    }

    /// As [`Self::restart_unready`], but it ends by SIGTERM, as service managers do it.
    pub async fn restart_in_order(mut self) -> Self {
        self.terminate().await;
        self.ended().start_listening().await
    }

    fn killed(mut self) -> Setup {
        self.process.kill();
        self.ended()
    }

    fn ended(mut self) -> Setup {
        // What tests wrote since the start is to stay.
        self.setup.files.clear();
        std::mem::replace(&mut self.setup, Setup::new(""))
    }
}

/// A test that fails shows what its gateway said and knew.
impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?} said:\n{}", self.process, self.stderr().text());
            let lines = self.process.stdout.all();
            if let Some(admin) = lines.iter().find_map(|line| line.strip_prefix("admin ")?.parse().ok()) {
                for path in ["providers", "events?limit=100"] {
                    eprintln!("{path}: {}", read(admin, path).unwrap_or_else(|error| error.to_string()));
                }
            }
        }
    }
}

/// What the admin API answers, without a runtime.
fn read(admin: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET /api/v1/{path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
