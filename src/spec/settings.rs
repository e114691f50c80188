//! Defines the resolved static settings: what `config` makes of files, environment and defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use ipnet::IpNet;

use super::decode::tag::Rules as TagRules;
use super::endpoint::{Address, Labels};
use super::name::{ItemRef, Name, ProviderId};

/// All static settings, read once at start.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[listeners.NAME]`, at least one.
    pub listeners: BTreeMap<Name, Listener>,
    /// `[admin]`
    pub admin: Admin,
    /// `[discovery]`
    pub discovery: Discovery,
    /// `[redis]`; none by default.
    pub redis: Option<Redis>,
    /// `[telemetry]`
    pub telemetry: Telemetry,
}

/// `[runtime]`
#[derive(Clone, Debug, PartialEq)]
pub struct Runtime {
    /// Data-plane threads; 0 in the file means one a core, here it is already resolved: at least 1.
    pub workers: usize,
    /// Longest time a stop waits for exchanges in flight; default 30 s.
    pub shutdown_grace: Duration,
    /// How long a stop keeps serving after `/readyz` turned to 503, before it begins to drain; default 0.
    pub shutdown_delay: Duration,
    /// Ready after this time whatever is missing; `None`: wait for the sources.
    pub ready_timeout: Option<Duration>,
    /// Where this gateway is, such as its zone; what `nearest` of upstreams compares. None by default.
    pub labels: Labels,
}

/// `[listeners.NAME]`: an address that accepts client connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Where it binds; port 0 takes a free one.
    pub address: SocketAddr,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether `%2F`, `%5C`, `%00` and `\` may stand in a path; default false.
    pub allow_encoded_slashes: bool,
    /// Values of `Upgrade` that are forwarded; default `websocket`, in lower case. `h2c` is never forwarded.
    pub upgrades: Vec<String>,
    /// For a whole request head, from its first byte or the connection's start, a TLS handshake included; default 10 s.
    pub header_timeout: Duration,
    /// Between two pieces of a request body; default 30 s.
    pub body_timeout: Duration,
    /// How long a connection is kept without a request, or while its client takes nothing of an answer; default 75 s.
    pub idle_timeout: Duration,
    /// Bytes a second that a client sends of a body and takes of an answer, at least: each that is missing shortens the
    /// time left of `body_timeout` or `idle_timeout`, until more make up for it; default 240, 0 for no bound.
    pub min_rate: u32,
    /// Largest request head, in bytes; default 32 KiB.
    pub max_header_size: usize,
    /// Most header lines of a request; default 100.
    pub max_headers: usize,
    /// Largest request body, in bytes; no limit by default.
    pub max_body_size: Option<u64>,
    /// Most connections of clients at once, whatever worker serves them; default 20,000.
    pub max_connections: u32,
    /// Most of them from one client address (of IPv6 a /64), trusted proxies aside; no limit by default.
    pub max_connections_per_client: Option<u32>,
    /// Whether HTTP/2 is spoken: by ALPN over TLS, else with clients that begin with it; default true.
    pub http2: bool,
    /// Most requests of an HTTP/2 connection at once; default 100.
    pub max_concurrent_streams: u32,
    /// The steps around the exchanges of all its routes, the outermost first.
    pub middlewares: Vec<ItemRef>,
    /// TLS; `None`: plain text.
    pub tls: Option<ListenerTls>,
    /// Sends every request to https; `None`: serves them.
    pub redirect_to_https: Option<HttpsRedirect>,
}

/// `[listeners.NAME.tls]`: how clients are met. Certificates are chosen by the name that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// The oldest version that is spoken; default 1.2.
    pub min_version: TlsVersion,
    /// How clients are verified; `None`: they are not asked for a certificate.
    pub clients: Option<ClientCertificates>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246
    Tls12,
    /// RFC 8446
    Tls13,
}

impl TlsVersion {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// How clients are verified. The files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM file of the authorities that issue them.
    pub authorities: PathBuf,
    /// PEM file of the revocation lists of each authority.
    pub revocations: Option<PathBuf>,
    /// Whether a client without a certificate is refused; one with a bad one always is.
    pub required: bool,
}

/// Where a plain listener sends its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// The port of the https listener as clients see it; default 443.
    pub port: u16,
    /// 301 or 308; default 308, which keeps method and body.
    pub status: StatusCode,
}

impl Listener {
    /// A listener with every setting at its default.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            trusted_proxies: Vec::new(),
            allow_encoded_slashes: false,
            upgrades: vec!["websocket".to_owned()],
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            min_rate: 240,
            max_header_size: 32 * 1024,
            max_headers: 100,
            max_body_size: None,
            max_connections: 20_000,
            max_connections_per_client: None,
            http2: true,
            max_concurrent_streams: 100,
            middlewares: Vec::new(),
            tls: None,
            redirect_to_https: None,
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it binds; default 127.0.0.1:9901. Without a token only loopback is accepted.
    pub address: SocketAddr,
    /// The token clients must show.
    pub token: Option<Secret>,
    /// Whether `/metrics` needs no token.
    pub metrics_public: bool,
}

/// `[discovery]`
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// Where what registries said is saved.
    pub state_dir: StateDir,
    /// How long what a wiped registry lost is held once the registry fills again; default 10 min. `None`: until an
    /// operator accepts it.
    pub wipe_hold: Option<Duration>,
    /// Whether endpoints that a registry takes out and puts in again and again wait before they are used; default true.
    pub damping: bool,
    /// Which provider wins when two define one name, first one first.
    pub precedence: Vec<ProviderId>,
    /// Providers of documents without which the gateway may start.
    pub optional: BTreeSet<ProviderId>,
    /// `[discovery.file]` and the dynamic sections of the main file.
    pub file: FileProvider,
    /// `[discovery.consul]`
    pub consul: Option<ConsulProvider>,
    /// `[discovery.etcd]`
    pub etcd: Option<EtcdProvider>,
}

/// Where what registries said, and what operators drained, is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateDir {
    /// Nowhere.
    Off,
    /// `/var/lib/fleetgate` where that is a folder, else `.fleetgate` in the working directory.
    Default,
    /// A folder; made when it is not there.
    At(PathBuf),
}

impl StateDir {
    /// As the settings name it, an absolute path aside.
    pub const OFF: &str = "off";
}

/// Where file documents lie.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileProvider {
    /// The main configuration file, for its `[routes]` and `[upstreams]`.
    pub main: Option<PathBuf>,
    /// Absolute glob patterns of further files.
    pub patterns: Vec<PathBuf>,
}

impl FileProvider {
    /// How patterns are read: `*.toml` does not mean `.#users.toml`, which an editor leaves while it works.
    pub const MATCHING: glob::MatchOptions = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: false,
        require_literal_leading_dot: true,
    };
}

/// `[discovery.consul]`
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulProvider {
    /// The agent: `http://host:port` or `https://host:port`, no path; or `unix://` and the path of its socket.
    pub address: String,
    /// An ACL token written down or in the environment.
    pub token: Option<Secret>,
    /// A file that holds the token; re-read when it changes and on 403. Wins over `token`.
    pub token_file: Option<PathBuf>,
    /// The datacenter asked about; `None`: the agent's own.
    pub datacenter: Option<Arc<str>>,
    /// Enterprise namespace, passed on as `ns`.
    pub namespace: Option<Arc<str>>,
    /// Enterprise admin partition, passed on as `partition`.
    pub partition: Option<Arc<str>>,
    /// Prefix of documents in KV, with the slash at its end; default `fleetgate/`.
    pub kv_prefix: String,
    /// Prefix of what gateways write in KV, with the slash at its end; default that of documents with `-fleet` before
    /// the slash, `fleetgate-fleet/`.
    pub fleet_prefix: String,
    /// Routes from registrations: what is read and allowed; `None` by default.
    pub tags: Option<TagRules>,
    /// The loopback and link-local networks that instances which ask for routes by tags may be in; none by default.
    pub tag_networks: Vec<IpNet>,
    /// Whether problems of documents and registrations are written below `status/` of `fleet_prefix`; default
    /// false.
    pub write_status: bool,
    /// How long a blocking query may block; 1 s to 10 min, default 60 s.
    pub wait: Duration,
    /// Who answers blocking queries; default any server.
    pub consistency: Consistency,
    /// Oldest answer of a follower that is believed; default 5 s.
    pub max_stale: Duration,
    /// Most services watched by a blocking query, the others are read every 10 s; `None`: 100 over plain HTTP, where
    /// each needs a connection of the 200 an agent allows a client, 1,160 over five connections of HTTP/2.
    pub max_watches: Option<u16>,
    /// For `https`.
    pub tls: ClientTls,
    /// How the gateway registers itself; off by default.
    pub register: Option<ConsulRegistration>,
}

/// `[discovery.consul.register]`
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulRegistration {
    /// The service's name; default `fleetgate`.
    pub service: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Which instance of it we are.
    pub place: OwnPlace,
}

/// `[discovery.etcd.register]`
#[derive(Clone, Debug, PartialEq)]
pub struct EtcdRegistration {
    /// How long etcd remembers a gateway that died; at least 10 s, default 15 s.
    pub ttl: Duration,
    /// Who we are.
    pub place: OwnPlace,
}

/// Who this gateway is to a registry, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnPlace {
    /// Unique among gateways; default `HOSTNAME-PORT`.
    pub id: Option<String>,
    /// Where others reach it.
    pub address: OwnAddress,
}

/// Where others reach this gateway.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnAddress {
    /// Written down.
    Given(Address),
    /// Where this listener is bound.
    Listener(Name),
}

impl ConsulProvider {
    /// The agent at an address, with every other setting at its default.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            token: None,
            token_file: None,
            datacenter: None,
            namespace: None,
            partition: None,
            kv_prefix: "fleetgate/".to_owned(),
            fleet_prefix: "fleetgate-fleet/".to_owned(),
            tags: None,
            tag_networks: Vec::new(),
            write_status: false,
            wait: Duration::from_secs(60),
            consistency: Consistency::Stale,
            max_stale: Duration::from_secs(5),
            max_watches: None,
            tls: ClientTls::default(),
            register: None,
        }
    }
}

/// Who answers Consul's blocking queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Any server, within `max_stale`: answers through elections, and spreads the load.
    #[default]
    Stale,
    /// The leader.
    Default,
    /// The leader, after a majority confirmed it.
    Consistent,
}

impl Consistency {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Default => "default",
            Self::Consistent => "consistent",
        }
    }
}

/// `[discovery.etcd]`
#[derive(Clone, Debug, PartialEq)]
pub struct EtcdProvider {
    /// `http://host:port` or `https://host:port`, at least one.
    pub endpoints: Vec<String>,
    /// Prefix of all keys, with a slash at its end; default `/fleetgate/`.
    pub prefix: String,
    /// Prefix of what gateways write, with the slash at its end; default that of documents with `-fleet` before the
    /// slash, `/fleetgate-fleet/`.
    pub fleet_prefix: String,
    /// Name and password.
    pub user: Option<(String, Secret)>,
    /// The file that holds the password; re-read when it changes.
    pub password_file: Option<PathBuf>,
    /// Whether problems of documents are written below `status/` of `fleet_prefix`; default false.
    pub write_status: bool,
    /// For `https`.
    pub tls: ClientTls,
    /// How the gateway registers itself; off by default.
    pub register: Option<EtcdRegistration>,
}

/// `[redis]`: where gateways count together.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// A name or an address.
    pub host: String,
    /// Its port; default 6379.
    pub port: u16,
    /// The database's number; default 0.
    pub database: u16,
    /// The user's name; none by default.
    pub user: Option<String>,
    /// The password, as it stands in the settings.
    pub password: Option<Secret>,
    /// The file that holds it; read again for each connection.
    pub password_file: Option<PathBuf>,
    /// What all keys begin with; default `fleetgate:`.
    pub prefix: String,
    /// How long an answer may take; default 200 ms.
    pub timeout: Duration,
    /// For `rediss`.
    pub tls: Option<RedisTls>,
}

/// TLS towards Redis. The system's roots when `ca` is unset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedisTls {
    /// PEM file of certificate authorities.
    pub ca: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// TLS towards a registry. The system's roots when `ca` is unset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientTls {
    /// PEM file of certificate authorities.
    pub ca: Option<PathBuf>,
    /// PEM file of the client's certificate.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
    /// The name the server's certificate must have, where it is not the host's.
    pub server_name: Option<String>,
}

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// Where lines for machines go.
    pub access_log: LogDestination,
    /// The audit log; off by default.
    pub audit: LogDestination,
    /// Whether it tells of those who were let in, too; default false.
    pub audit_accepted: bool,
    /// Filter of our own log, as in `RUST_LOG`; default `info`.
    pub log: String,
    /// Format of our own log.
    pub log_format: LogFormat,
    /// Where the history of changes is written, beside the memory; off by default.
    pub events: Option<EventsFile>,
}

/// A file of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsFile {
    /// Appended to.
    pub path: PathBuf,
    /// Moved to `PATH.1` when it would grow beyond this, in bytes; default 16 MiB.
    pub max_size: u64,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogDestination {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// The format of our own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// JSON lines.
    Json,
}

/// A secret: never shown by `Debug`, never serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one who sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
