//! Real etcd: one member or three, driven through its JSON gateway, so that the client under test does not
//! check itself.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::between::Between;
use super::place::{free_ports, fresh_address};
use super::process::Process;
use super::{http, registry, wait};

const START: Duration = Duration::from_secs(60);

/// One etcd member and its private data directory.
pub struct Etcd {
    pub address: IpAddr,
    name: String,
    /// Its program, by name.
    binary: &'static str,
    /// Client, peer.
    ports: [u16; 2],
    folder: TempDir,
    arguments: Vec<String>,
    /// Where the other members reach it, if not where it listens.
    reached_at: Option<SocketAddr>,
    initial: String,
    process: Option<Process>,
    client: reqwest::Client,
    /// Sent with each request once auth is on.
    login: Mutex<Option<(String, String)>>,
}

impl Etcd {
    /// A healthy single member; `None` (said aloud) where no etcd can be had.
    pub async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`] with further arguments, such as `--auth-token-ttl=3`.
    pub async fn start_with(arguments: &[&str]) -> Option<Self> {
        Self::start_of("etcd", arguments).await
    }

    /// As [`Self::start`], of the version 3.4.23, which answers a request for progress before it has sent what is
    /// pending.
    pub async fn start_early() -> Option<Self> {
        Self::start_of("etcd-3.4", &[]).await
    }

    async fn start_of(binary: &'static str, arguments: &[&str]) -> Option<Self> {
        registry::binary(binary)?;
        let mut etcd = Self { binary, ..Self::prepare("m0", arguments) };
        etcd.initial = etcd.as_initial();
        etcd.run();
        etcd.healthy().await;
        Some(etcd)
    }

    /// Three healthy members; `None` (said aloud) where no etcd can be had.
    pub async fn start_three() -> Option<Vec<Self>> {
        registry::binary("etcd")?;
        let members = ["m0", "m1", "m2"].iter().map(|name| Self::prepare(name, &[])).collect();
        Some(Self::start_together(members).await)
    }

    /// Three healthy members, and the network between them.
    pub async fn start_three_apart() -> Option<(Vec<Self>, Between)> {
        registry::binary("etcd")?;
        let mut members: Vec<_> = ["m0", "m1", "m2"].iter().map(|name| Self::prepare(name, &[])).collect();
        let between = Between::new();
        for member in &mut members {
            member.reached_at = Some(between.before(member.peer_address()).await);
        }
        Some((Self::start_together(members).await, between))
    }

    async fn start_together(mut members: Vec<Self>) -> Vec<Self> {
        let initial = members.iter().map(Self::as_initial).collect::<Vec<_>>().join(",");
        for member in &mut members {
            member.initial.clone_from(&initial);
            member.run();
        }
        for member in &mut members {
            member.healthy().await;
        }
        members
    }

    /// A healthy single member that also listens for TLS, with the certificate of `folder` (see [`certificates`]),
    /// and wants one of a client; its `https://` URL. `None` (said aloud) where no etcd can be had.
    pub async fn start_with_tls(folder: &std::path::Path) -> Option<(Self, String)> {
        registry::binary("etcd")?;
        let mut etcd = Self::prepare("m0", &[]);
        certificates(folder, etcd.address)?;
        let [port] = free_ports(etcd.address);
        let secure = format!("https://{}:{port}", etcd.address);
        let file = |name: &str| folder.join(name).display().to_string();
        etcd.arguments = vec![
            format!("--listen-client-urls={},{secure}", etcd.url()),
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.pem")),
            "--client-cert-auth".to_owned(),
        ];
        etcd.initial = etcd.as_initial();
        etcd.run();
        etcd.healthy().await;
        Some((etcd, secure))
    }

    fn prepare(name: &str, arguments: &[&str]) -> Self {
        let address = fresh_address();
        Self {
            address,
            name: name.to_owned(),
            binary: "etcd",
            ports: free_ports(address),
            folder: tempfile::Builder::new().prefix("fleetgate-etcd-").tempdir().unwrap(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            reached_at: None,
            initial: String::new(),
            process: None,
            client: http(),
            login: Mutex::new(None),
        }
    }

    fn as_initial(&self) -> String {
        format!("{}={}", self.name, self.reached_url())
    }

    fn reached_url(&self) -> String {
        self.reached_at.map_or_else(|| self.peer_url(), |address| format!("http://{address}"))
    }

    fn peer_url(&self) -> String {
        format!("http://{}:{}", self.address, self.ports[1])
    }

    /// `http://ADDRESS:PORT` for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.client_address())
    }

    /// Where it listens for the other members.
    pub fn peer_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports[1])
    }

    /// Its id in the cluster.
    pub async fn id(&self) -> u64 {
        let list = self.call("cluster/member/list", json!({})).await;
        let members = list["members"].as_array().unwrap();
        let own = members.iter().find(|member| member["name"] == self.name.as_str()).unwrap();
        own["ID"].as_str().unwrap().parse().unwrap()
    }

    pub fn client_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports[0])
    }

    // The process.

    /// Starts the member with the data it has, and does not wait for it.
    pub fn run(&mut self) {
        let mut command = Command::new(registry::binary(self.binary).unwrap());
        command
            .args(["--name", &self.name, "--log-level", "warn", "--logger", "zap", "--log-outputs", "stderr"])
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &self.peer_url(), "--initial-advertise-peer-urls", &self.reached_url()])
            .args(["--initial-cluster", &self.initial, "--initial-cluster-token", "fleetgate-test"])
            // Tests restart it often; the disk's promise is not what they are about.
            .arg("--unsafe-no-fsync")
            .args(&self.arguments);
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("ETCD")) {
            command.env_remove(key);
        }
        // Its ports are free only once it is gone.
        drop(self.process.take());
        self.process = Some(Process::start(&format!("etcd {}", self.address), &command));
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the member was started")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// SIGTERM; waits for the end.
    pub async fn terminate(&mut self) {
        self.process().terminate(START).await;
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&mut self) {
        self.process().signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.process().signal("CONT");
    }

    /// Starts a killed or terminated member again with its data, and waits until it is healthy.
    pub async fn start_again(&mut self) {
        self.run();
        self.healthy().await;
    }

    /// Starts a killed or terminated single member again with nothing, and waits until it is healthy.
    pub async fn start_empty(&mut self) {
        let _ = fs::remove_dir_all(self.folder.path().join("data"));
        *self.login.lock().unwrap() = None;
        self.start_again().await;
    }

    /// Waits until the member answers reads that need a leader.
    pub async fn healthy(&mut self) {
        let (client, url) = (self.client.clone(), self.url());
        let process = Mutex::new(self.process());
        wait::until_ok(START, "a healthy etcd", || {
            let ended = {
                let mut process = process.lock().unwrap();
                process.exited().map(|status| format!("{status}: {}", process.stderr.text()))
            };
            let (client, url) = (client.clone(), url.clone());
            async move {
                assert_eq!(ended, None, "etcd ended");
                let answer = client.get(format!("{url}/health")).send().await.map_err(|error| error.to_string())?;
                let answer: Value = answer.json().await.map_err(|error| error.to_string())?;
                if answer["health"] == "true" { Ok(()) } else { Err(answer.to_string()) }
            }
        })
        .await;
    }

    // Requests.

    /// Any call of the gateway, such as `kv/put`; panics unless it succeeds.
    pub async fn call(&self, path: &str, body: Value) -> Value {
        self.try_call(path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// As [`Self::call`], with etcd's error as text.
    pub async fn try_call(&self, path: &str, body: Value) -> Result<Value, String> {
        let mut request = self.client.post(format!("{}/v3/{path}", self.url())).json(&body);
        let login = self.login.lock().unwrap().clone();
        if let Some((user, password)) = login {
            let credentials = json!({ "name": user, "password": password });
            let answer = self.client.post(format!("{}/v3/auth/authenticate", self.url())).json(&credentials);
            let answer: Value = answer.send().await.map_err(said)?.json().await.map_err(said)?;
            request = request.header("authorization", answer["token"].as_str().unwrap_or_default());
        }
        let answer = request.send().await.map_err(said)?;
        let status = answer.status();
        let text = answer.text().await.map_err(said)?;
        if status.is_success() { serde_json::from_str(&text).map_err(said) } else { Err(format!("{status}: {text}")) }
    }

    /// Writes a key; returns the revision.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        revision(&self.call("kv/put", json!({ "key": encoded(key), "value": encoded(value) })).await)
    }

    /// Writes a key under a lease; returns the revision.
    pub async fn put_leased(&self, key: &str, value: &str, lease: i64) -> i64 {
        let body = json!({ "key": encoded(key), "value": encoded(value), "lease": lease.to_string() });
        revision(&self.call("kv/put", body).await)
    }

    /// Writes many keys in transactions of 100: fast, and one revision each.
    pub async fn put_many(&self, entries: &[(String, String)]) {
        for part in entries.chunks(100) {
            let puts: Vec<_> = part
                .iter()
                .map(|(key, value)| json!({ "requestPut": { "key": encoded(key), "value": encoded(value) } }))
                .collect();
            self.call("kv/txn", json!({ "success": puts })).await;
        }
    }

    pub async fn delete(&self, key: &str) -> i64 {
        revision(&self.call("kv/deleterange", json!({ "key": encoded(key) })).await)
    }

    pub async fn delete_prefix(&self, prefix: &str) -> i64 {
        let body = json!({ "key": encoded(prefix), "range_end": prefix_end(prefix) });
        revision(&self.call("kv/deleterange", body).await)
    }

    pub async fn get(&self, key: &str) -> Option<String> {
        let answer = self.call("kv/range", json!({ "key": encoded(key) })).await;
        let value = answer["kvs"][0]["value"].as_str()?;
        Some(String::from_utf8(BASE64.decode(value).unwrap()).unwrap())
    }

    /// All keys below a prefix with their values, in order.
    pub async fn below(&self, prefix: &str) -> Vec<(String, String)> {
        let body = json!({ "key": encoded(prefix), "range_end": prefix_end(prefix) });
        let answer = self.call("kv/range", body).await;
        let text =
            |value: &Value| String::from_utf8(BASE64.decode(value.as_str().unwrap_or_default()).unwrap()).unwrap();
        let pairs = answer["kvs"].as_array().cloned().unwrap_or_default();
        pairs.iter().map(|pair| (text(&pair["key"]), text(&pair["value"]))).collect()
    }

    /// The store's current revision.
    pub async fn revision(&self) -> i64 {
        revision(&self.call("kv/range", json!({ "key": encoded("\0"), "count_only": true })).await)
    }

    /// A gauge or counter of the member's own, such as `etcd_debugging_mvcc_watcher_total`.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.client.get(format!("{}/metrics", self.url())).send().await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    pub async fn compact(&self, revision: i64) {
        self.call("kv/compaction", json!({ "revision": revision.to_string(), "physical": true })).await;
    }

    pub async fn defragment(&self) {
        self.call("maintenance/defragment", json!({})).await;
    }

    /// How many messages clients have sent on streams of watches: one for each watch, and one for each request for
    /// progress.
    pub async fn watch_messages(&self) -> u64 {
        let answer = self.client.get(format!("{}/metrics", self.url())).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let counts = text.lines().filter(|line| {
            line.starts_with("grpc_server_msg_received_total{") && line.contains("grpc_method=\"Watch\"")
        });
        counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
    }

    // Backups.

    /// Saves the store as it is now.
    pub fn save(&self, file: &std::path::Path) {
        let mut command = Command::new(registry::binary("etcdctl").unwrap());
        command.args(["--endpoints", &self.url(), "snapshot", "save"]).arg(file).env("ETCDCTL_API", "3");
        let saved = command.output().unwrap();
        assert!(saved.status.success(), "{saved:?}");
    }

    /// Kills a single member, and starts it again with what was saved; `more` are arguments of `etcdutl snapshot
    /// restore`.
    pub async fn restore(&mut self, file: &std::path::Path, more: &[&str]) {
        self.kill();
        let data = self.folder.path().join("data");
        let _ = fs::remove_dir_all(&data);
        let mut command = Command::new(registry::binary("etcdutl").unwrap());
        command.args(["snapshot", "restore"]).arg(file).arg("--data-dir").arg(data);
        command.args(["--name", &self.name, "--initial-cluster", &self.initial]);
        command.args(["--initial-cluster-token", "fleetgate-test", "--initial-advertise-peer-urls", &self.peer_url()]);
        let restored = command.args(more).output().unwrap();
        assert!(restored.status.success(), "{restored:?}");
        self.start_again().await;
    }

    // Leases.

    /// A lease that nobody keeps alive.
    pub async fn lease(&self, seconds: i64) -> i64 {
        let answer = self.call("lease/grant", json!({ "TTL": seconds.to_string() })).await;
        answer["ID"].as_str().unwrap().parse().unwrap()
    }

    /// A lease kept alive until the value is dropped.
    pub async fn kept_lease(&self, seconds: u32) -> KeptLease {
        let id = self.lease(i64::from(seconds)).await;
        let (client, url) = (self.client.clone(), format!("{}/v3/lease/keepalive", self.url()));
        let every = Duration::from_secs(u64::from(seconds)) / 3;
        let keeper = tokio::spawn(async move {
            loop {
                let _ = client.post(&url).json(&json!({ "ID": id.to_string() })).send().await;
                tokio::time::sleep(every).await;
            }
        });
        KeptLease { id, keeper }
    }

    pub async fn revoke(&self, lease: i64) {
        self.call("lease/revoke", json!({ "ID": lease.to_string() })).await;
    }

    // Users.

    /// Makes user `root` with this password and turns auth on; later calls here are root's.
    pub async fn enable_auth(&self, root_password: &str) {
        self.call("auth/user/add", json!({ "name": "root", "password": root_password })).await;
        self.call("auth/role/add", json!({ "name": "root" })).await;
        self.call("auth/user/grant", json!({ "user": "root", "role": "root" })).await;
        self.call("auth/enable", json!({})).await;
        self.log_in(root_password);
    }

    pub async fn disable_auth(&self) {
        self.call("auth/disable", json!({})).await;
        *self.login.lock().unwrap() = None;
    }

    /// Later calls here are root's, with this password: auth is on already.
    pub fn log_in(&self, root_password: &str) {
        *self.login.lock().unwrap() = Some(("root".to_owned(), root_password.to_owned()));
    }

    /// Makes a user whose role, of the same name, may read this prefix.
    pub async fn reader(&self, name: &str, password: &str, prefix: &str) {
        self.call("auth/user/add", json!({ "name": name, "password": password })).await;
        self.call("auth/role/add", json!({ "name": name })).await;
        self.permit(name, "READ", prefix).await;
        self.call("auth/user/grant", json!({ "user": name, "role": name })).await;
    }

    /// Lets a role do this below a prefix: `READ`, `READWRITE`.
    pub async fn permit(&self, role: &str, what: &str, prefix: &str) {
        let permission = json!({ "permType": what, "key": encoded(prefix), "range_end": prefix_end(prefix) });
        self.call("auth/role/grant", json!({ "name": role, "perm": permission })).await;
    }

    /// Takes from a role what it may do below a prefix.
    pub async fn forbid(&self, role: &str, prefix: &str) {
        let range = json!({ "role": role, "key": encoded(prefix), "range_end": prefix_end(prefix) });
        self.call("auth/role/revoke", range).await;
    }

    /// Lets a user read what the role of another [`Self::reader`] may.
    pub async fn grant(&self, name: &str, role: &str) {
        self.call("auth/user/grant", json!({ "user": name, "role": role })).await;
    }

    pub async fn change_password(&self, name: &str, password: &str) {
        self.call("auth/user/changepw", json!({ "name": name, "password": password })).await;
    }

    /// Takes the role of a [`Self::reader`] away.
    pub async fn revoke_reader(&self, name: &str) {
        self.call("auth/user/revoke", json!({ "name": name, "role": name })).await;
    }
}

/// Makes an authority (`ca.pem`) and certificates of a server at `address` and a client (`server.pem`,
/// `server.key`, `client.pem`, `client.key`), by Consul's means.
pub fn certificates(folder: &std::path::Path, address: IpAddr) -> Option<()> {
    let binary = registry::binary("consul")?;
    let ip = format!("-additional-ipaddress={address}");
    for arguments in [&["ca", "create"][..], &["cert", "create", "-server", &ip], &["cert", "create", "-client"]] {
        let made = Command::new(&binary).arg("tls").args(arguments).current_dir(folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    for (from, to) in [
        ("consul-agent-ca.pem", "ca.pem"),
        ("dc1-server-consul-0.pem", "server.pem"),
        ("dc1-server-consul-0-key.pem", "server.key"),
        ("dc1-client-consul-0.pem", "client.pem"),
        ("dc1-client-consul-0-key.pem", "client.key"),
    ] {
        fs::rename(folder.join(from), folder.join(to)).unwrap();
    }
    Some(())
}

/// A lease kept alive until dropped; afterwards it expires by itself.
pub struct KeptLease {
    pub id: i64,
    keeper: JoinHandle<()>,
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn encoded(text: &str) -> String {
    BASE64.encode(text)
}

/// The end of a range over a prefix: the prefix with its last byte raised.
fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    BASE64.encode(end)
}

fn revision(answer: &Value) -> i64 {
    answer["header"]["revision"].as_str().unwrap().parse().unwrap()
}

fn said(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
