//! Real Consul agents: one server, or three servers and a client agent, each on a loopback address of its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::place::{free_ports, fresh_address};
use super::process::Process;
use super::{http, registry, wait};

/// The secret of a token that may do everything, on agents with ACLs.
pub const MANAGEMENT: &str = "11111111-2222-3333-4444-555555555555";

const START: Duration = Duration::from_secs(60);

/// One Consul agent and its private data directory.
pub struct Consul {
    pub address: IpAddr,
    /// HTTP, server RPC, Serf LAN, Serf WAN.
    ports: [u16; 4],
    folder: TempDir,
    config: Value,
    acl: bool,
    process: Option<Process>,
    client: reqwest::Client,
}

/// Three servers and the client agent that the gateway talks to.
pub struct Fleet {
    pub servers: Vec<Consul>,
    pub client: Consul,
}

impl Consul {
    /// A server with a leader; `None` (said aloud) where no Consul can be had.
    pub async fn start() -> Option<Self> {
        Self::launch(false).await
    }

    /// As [`Self::start`], with ACLs on and everything denied by default; see [`MANAGEMENT`].
    pub async fn start_with_acl() -> Option<Self> {
        Self::launch(true).await
    }

    /// As [`Self::start`], with more configuration, made for the agent's address.
    pub async fn start_with(more: impl FnOnce(IpAddr) -> Value) -> Option<Self> {
        registry::binary("consul")?;
        let mut consul = Self::prepare(false, json!({ "server": true, "bootstrap_expect": 1 }));
        let more = more(consul.address);
        merge(&mut consul.config, more);
        consul.run();
        consul.leader().await;
        Some(consul)
    }

    /// Servers of two datacenters, `east` and `west`, that know each other; `None` (said aloud) where no Consul can be had.
    pub async fn start_two_datacenters() -> Option<(Self, Self)> {
        registry::binary("consul")?;
        let server =
            |name: &str| Self::prepare(false, json!({ "server": true, "bootstrap_expect": 1, "datacenter": name }));
        let (mut east, mut west) = (server("east"), server("west"));
        let join = json!({ "retry_join_wan": [east.wan()], "retry_interval_wan": "1s" });
        merge(&mut west.config, join);
        for consul in [&mut east, &mut west] {
            consul.run();
            consul.leader().await;
        }
        for (consul, other) in [(&east, "west"), (&west, "east")] {
            consul.reaches(other).await;
        }
        Some((east, west))
    }

    /// Waits until it answers for another datacenter.
    pub async fn reaches(&self, datacenter: &str) {
        wait::until(START, "the other datacenter", || async {
            let request = self.client.get(format!("{}/v1/catalog/nodes?dc={datacenter}", self.url()));
            request.send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    async fn launch(acl: bool) -> Option<Self> {
        registry::binary("consul")?;
        let mut consul = Self::prepare(acl, json!({ "server": true, "bootstrap_expect": 1 }));
        consul.run();
        consul.leader().await;
        Some(consul)
    }

    fn prepare(acl: bool, role: Value) -> Self {
        let address = fresh_address();
        let ports = free_ports(address);
        let mut config = json!({
            "bind_addr": address,
            "client_addr": address,
            "node_name": format!("node-{}", address.to_string().replace('.', "-")),
            "ports": { "http": ports[0], "server": ports[1], "serf_lan": ports[2], "serf_wan": ports[3], "dns": -1, "grpc": -1 },
            "disable_update_check": true,
            "enable_local_script_checks": false,
            "leave_on_terminate": false,
            "log_level": "WARN",
            "performance": { "raft_multiplier": 1 },
        });
        if acl {
            config["acl"] = json!({
                "enabled": true,
                "default_policy": "deny",
                "tokens": { "master": MANAGEMENT, "agent": MANAGEMENT },
            });
        }
        merge(&mut config, role);
        let folder = tempfile::Builder::new().prefix("fleetgate-consul-").tempdir().unwrap();
        Self { address, ports, folder, config, acl, process: None, client: http() }
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.http_address())
    }

    pub fn http_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports[0])
    }

    pub fn node_name(&self) -> &str {
        self.config["node_name"].as_str().unwrap()
    }

    /// Where servers are asked by other agents.
    pub fn rpc_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports[1])
    }

    fn wan(&self) -> String {
        format!("{}:{}", self.address, self.ports[3])
    }

    fn serf(&self) -> String {
        format!("{}:{}", self.address, self.ports[2])
    }

    // The process.

    /// Starts the agent with the data it has, and does not wait for it.
    pub fn run(&mut self) {
        let config = self.folder.path().join("agent.json");
        fs::write(&config, self.config.to_string()).unwrap();
        let mut command = Command::new(registry::binary("consul").unwrap());
        command.arg("agent").arg("-config-file").arg(&config).arg("-data-dir").arg(self.folder.path().join("data"));
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("CONSUL_")) {
            command.env_remove(key);
        }
        // Its ports are free only once it is gone.
        drop(self.process.take());
        self.process = Some(Process::start(&format!("consul {}", self.address), &command));
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent was started")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// SIGTERM, without leaving its cluster; waits for the end.
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

    /// Starts a killed or terminated agent again with its data, and waits for a leader.
    pub async fn start_again(&mut self) {
        self.run();
        self.leader().await;
    }

    /// Starts a killed or terminated agent again with nothing, and waits for a leader.
    pub async fn start_empty(&mut self) {
        let _ = fs::remove_dir_all(self.folder.path().join("data"));
        self.start_again().await;
    }

    /// Waits until the agent knows a leader (and, with ACLs, until the management token works).
    pub async fn leader(&mut self) {
        let (client, acl, url) = (self.client.clone(), self.acl, self.url());
        let process = std::sync::Mutex::new(self.process());
        wait::until_ok(START, "a Consul leader", || {
            let ended = {
                let mut process = process.lock().unwrap();
                process.exited().map(|status| format!("{status}: {}", process.stdout.text()))
            };
            let (client, url) = (client.clone(), url.clone());
            async move {
                assert_eq!(ended, None, "Consul ended");
                let ask = |path: &str| client.get(format!("{url}{path}")).header("x-consul-token", MANAGEMENT).send();
                let leader: String = ask("/v1/status/leader").await.map_err(said)?.json().await.map_err(said)?;
                if leader.is_empty() {
                    return Err("no leader".to_owned());
                }
                // A leader is announced before it serves reads, and before its first ACL tokens are there.
                let path = if acl { "/v1/acl/token/self" } else { "/v1/catalog/nodes?consistent" };
                let answer = ask(path).await.map_err(said)?;
                if answer.status().is_success() { Ok(()) } else { Err(answer.text().await.map_err(said)?) }
            }
        })
        .await;
    }

    // Requests, with the management token where there are ACLs.

    /// Any PUT; panics unless it succeeds.
    pub async fn put(&self, path: &str, body: Value) -> String {
        self.send(self.client.put(format!("{}{path}", self.url())).json(&body)).await
    }

    /// Any GET; panics unless it succeeds.
    pub async fn get(&self, path: &str) -> Value {
        let text = self.send(self.client.get(format!("{}{path}", self.url()))).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> String {
        let request = if self.acl { request.header("x-consul-token", MANAGEMENT) } else { request };
        let answer = request.send().await.unwrap();
        let (status, url) = (answer.status(), answer.url().clone());
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{url}: {status}: {text}");
        text
    }

    // Services of this agent.

    pub async fn register(&self, service: &Service) {
        self.put("/v1/agent/service/register", service.0.clone()).await;
        // Only a status that was reported survives a restart of the agent; others begin anew as critical.
        if let (Some(_), Some(status)) = (service.0["Check"]["TTL"].as_str(), service.0["Check"]["Status"].as_str()) {
            self.set_check(service.0["ID"].as_str().unwrap(), status).await;
        }
    }

    pub async fn deregister(&self, id: &str) {
        self.put(&format!("/v1/agent/service/deregister/{id}"), Value::Null).await;
    }

    /// Sets the check of a service registered with [`Service::checked`]: `passing`, `warning` or `critical`.
    pub async fn set_check(&self, id: &str, status: &str) {
        self.put(&format!("/v1/agent/check/update/service:{id}"), json!({ "Status": status })).await;
    }

    pub async fn maintain(&self, id: &str, on: bool) {
        self.put(&format!("/v1/agent/service/maintenance/{id}?enable={on}&reason=test"), Value::Null).await;
    }

    pub async fn maintain_node(&self, on: bool) {
        self.put(&format!("/v1/agent/maintenance?enable={on}&reason=test"), Value::Null).await;
    }

    // The catalog, past any agent: nodes and services that no agent looks after.

    pub async fn catalog_register(&self, entry: Value) {
        self.put("/v1/catalog/register", entry).await;
    }

    pub async fn catalog_deregister(&self, entry: Value) {
        self.put("/v1/catalog/deregister", entry).await;
    }

    /// The instances of a service as `/v1/health/service` tells them.
    pub async fn instances(&self, service: &str) -> Vec<Value> {
        self.get(&format!("/v1/health/service/{service}")).await.as_array().unwrap().clone()
    }

    // KV.

    pub async fn kv_put(&self, key: &str, value: &str) {
        let request = self.client.put(format!("{}/v1/kv/{key}", self.url())).body(value.to_owned());
        assert_eq!(self.send(request).await.trim(), "true", "{key}");
    }

    /// The keys below a prefix, in order; `None` without any.
    pub async fn kv_keys(&self, prefix: &str) -> Option<Vec<String>> {
        let request = self.client.get(format!("{}/v1/kv/{prefix}?keys", self.url()));
        let request = if self.acl { request.header("x-consul-token", MANAGEMENT) } else { request };
        let answer = request.send().await.unwrap();
        if answer.status().is_success() { Some(answer.json().await.unwrap()) } else { None }
    }

    /// The value of a key; empty without one.
    pub async fn kv_raw(&self, key: &str) -> String {
        let answer = self.client.get(format!("{}/v1/kv/{key}?raw", self.url())).send().await.unwrap();
        if answer.status().is_success() { answer.text().await.unwrap() } else { String::new() }
    }

    pub async fn kv_delete(&self, key: &str) {
        self.send(self.client.delete(format!("{}/v1/kv/{key}", self.url()))).await;
    }

    pub async fn kv_delete_tree(&self, prefix: &str) {
        self.send(self.client.delete(format!("{}/v1/kv/{prefix}?recurse", self.url()))).await;
    }

    // ACLs.

    /// Makes a policy, or changes its rules.
    pub async fn policy(&self, name: &str, rules: &str) {
        let known = self.get("/v1/acl/policies").await;
        let known = known.as_array().unwrap().iter().find(|policy| policy["Name"] == name);
        let id = known.map(|policy| format!("/{}", policy["ID"].as_str().unwrap())).unwrap_or_default();
        self.put(&format!("/v1/acl/policy{id}"), json!({ "Name": name, "Rules": rules })).await;
    }

    /// Makes a token with these policies.
    pub async fn token(&self, policies: &[&str]) -> Token {
        let policies: Vec<_> = policies.iter().map(|name| json!({ "Name": name })).collect();
        let made = self.put("/v1/acl/token", json!({ "Policies": policies })).await;
        let made: Value = serde_json::from_str(&made).unwrap();
        let field = |name: &str| made[name].as_str().unwrap().to_owned();
        Token { accessor: field("AccessorID"), secret: field("SecretID") }
    }

    pub async fn delete_token(&self, token: &Token) {
        self.send(self.client.delete(format!("{}/v1/acl/token/{}", self.url(), token.accessor))).await;
    }

    // Snapshots.

    pub async fn snapshot(&self) -> Vec<u8> {
        let request = self.client.get(format!("{}/v1/snapshot", self.url()));
        let request = if self.acl { request.header("x-consul-token", MANAGEMENT) } else { request };
        request.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap().to_vec()
    }

    pub async fn restore(&self, snapshot: &[u8]) {
        self.send(self.client.put(format!("{}/v1/snapshot", self.url())).body(snapshot.to_vec())).await;
    }
}

impl Fleet {
    /// Three servers with a leader and a client agent; `None` (said aloud) where no Consul can be had.
    pub async fn start() -> Option<Self> {
        registry::binary("consul")?;
        let mut servers: Vec<_> =
            (0..3).map(|_| Consul::prepare(false, json!({ "server": true, "bootstrap_expect": 3 }))).collect();
        let join: Vec<_> = servers.iter().map(Consul::serf).collect();
        for server in &mut servers {
            merge(&mut server.config, json!({ "retry_join": join, "retry_interval": "1s" }));
            server.run();
        }
        let role = json!({ "server": false, "retry_join": join, "retry_interval": "1s" });
        let mut client = Consul::prepare(false, role);
        client.run();
        for server in &mut servers {
            server.leader().await;
        }
        client.leader().await;
        Some(Self { servers, client })
    }

    /// The server that leads, by its place in `servers`.
    pub async fn leading(&self) -> Option<usize> {
        self.leading_by(&self.client).await
    }

    /// The server that leads by the word of one agent of the fleet.
    pub async fn leading_by(&self, agent: &Consul) -> Option<usize> {
        // Between two leaders the agent answers with an error or an empty string.
        let answer = agent.client.get(format!("{}/v1/status/leader", agent.url())).send().await.ok()?;
        let leader: String = answer.json().await.ok()?;
        let leader = leader.rsplit_once(':')?.0;
        self.servers.iter().position(|server| server.address.to_string() == leader)
    }

    /// The server that the client agent asks, by its place in `servers`; `None` while it has connections to none or
    /// to several.
    pub fn asked(&self) -> Option<usize> {
        let connected: BTreeSet<_> =
            established().into_iter().filter(|(from, _)| from.ip() == self.client.address).collect();
        let asked = |server: &Consul| connected.iter().any(|(_, to)| *to == server.rpc_address());
        let mut asked = (0..self.servers.len()).filter(|server| asked(&self.servers[*server]));
        asked.next().filter(|_| asked.next().is_none())
    }
}

/// All TCP connections over IPv4 that are open on this machine, as (from, to).
fn established() -> Vec<(SocketAddr, SocketAddr)> {
    let address = |text: &str| {
        let (address, port) = text.split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        Some(SocketAddr::from((address, u16::from_str_radix(port, 16).ok()?)))
    };
    let line = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (from, to) = (address(words.next()?)?, address(words.next()?)?);
        (words.next()? == "01").then_some((from, to))
    };
    fs::read_to_string("/proc/net/tcp").unwrap().lines().filter_map(line).collect()
}

/// A token of Consul's ACLs.
#[derive(Clone, Debug)]
pub struct Token {
    pub accessor: String,
    pub secret: String,
}

/// A service instance to register at an agent.
#[derive(Clone, Debug)]
pub struct Service(Value);

impl Service {
    /// Without a check, that is, passing.
    pub fn new(name: &str, id: &str, address: SocketAddr) -> Self {
        Self(json!({ "Name": name, "ID": id, "Address": address.ip(), "Port": address.port() }))
    }

    /// With a check that the agent makes every so often, and that is critical until then.
    pub fn unreported_check(mut self, url: &str, every: &str) -> Self {
        self.0["Check"] = json!({ "HTTP": url, "Interval": every, "Timeout": "1s" });
        self
    }

    pub fn meta(mut self, key: &str, value: &str) -> Self {
        self.0["Meta"][key] = json!(value);
        self
    }

    pub fn tags(mut self, tags: &[&str]) -> Self {
        self.0["Tags"] = json!(tags);
        self
    }

    /// Consul's `Weights`.
    pub fn weights(mut self, passing: u32, warning: u32) -> Self {
        self.0["Weights"] = json!({ "Passing": passing, "Warning": warning });
        self
    }

    /// With a check that keeps its status until [`Consul::set_check`] (or for ten minutes).
    pub fn checked(mut self, status: &str) -> Self {
        self.0["Check"] = json!({ "TTL": "10m", "Status": status });
        self
    }

    /// With a check that Consul makes itself, every second.
    pub fn http_check(mut self, url: &str) -> Self {
        self.0["Check"] = json!({ "HTTP": url, "Interval": "1s", "Timeout": "1s", "Status": "passing" });
        self
    }

    /// Any other field as the agent API names it.
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.0[name] = value;
        self
    }
}

fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { return };
    for (key, value) in from {
        match &mut into[key.as_str()] {
            known @ Value::Object(_) => merge(known, value),
            known => *known = value,
        }
    }
}

fn said(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
