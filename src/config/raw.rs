//! Defines how the static settings are written: serde mirrors of the sections, without required keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::certificate::RawCertificate;
use crate::spec::decode::consumer::RawConsumer;
use crate::spec::decode::middleware::RawMiddleware;
use crate::spec::decode::route::RawRoute;
use crate::spec::decode::scalar::{RawDuration, RawDurationOrZero, RawSize};
use crate::spec::decode::upstream::RawUpstream;

/// The configuration of Fleetgate. `runtime`, `listeners`, `admin`, `discovery`, `redis` and `telemetry` are read once at
/// start; `routes`, `upstreams`, `middlewares`, `certificates` and `consumers` change without a restart and may also
/// come from other files and registries.
#[derive(JsonSchema)]
#[schemars(rename = "Fleetgate", deny_unknown_fields)]
#[expect(dead_code, reason = "describes the whole for the JSON Schema; its parts are read one by one")]
pub(super) struct RawConfiguration {
    #[schemars(flatten)]
    settings: RawSettings,
    /// What to match in requests and what to do with them, by name.
    #[schemars(default)]
    routes: BTreeMap<String, RawRoute>,
    /// Pools of endpoints, by name.
    #[schemars(default)]
    upstreams: BTreeMap<String, RawUpstream>,
    /// Steps around the exchanges of routes, by name.
    #[schemars(default)]
    middlewares: BTreeMap<String, RawMiddleware>,
    /// Certificates that clients of TLS listeners are shown, by name.
    #[schemars(default)]
    certificates: BTreeMap<String, RawCertificate>,
    /// Who may call, by name.
    #[schemars(default)]
    consumers: BTreeMap<String, RawConsumer>,
}

/// The static sections.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct RawSettings {
    /// The process.
    pub runtime: Option<RawRuntime>,
    /// The addresses that accept client connections, by name; at least one.
    pub listeners: Option<BTreeMap<String, RawListener>>,
    /// The admin API: health, metrics, status.
    pub admin: Option<RawAdmin>,
    /// Where routes, upstreams and endpoints come from.
    pub discovery: Option<RawDiscovery>,
    /// Where gateways count together.
    pub redis: Option<RawRedis>,
    /// Logs.
    pub telemetry: Option<RawTelemetry>,
}

/// `[runtime]`: the process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Runtime", deny_unknown_fields)]
pub(super) struct RawRuntime {
    /// Data-plane threads; default 0: one per core.
    #[schemars(range(min = 0, max = 1024))]
    pub workers: Option<i64>,
    /// Longest time a stop waits for exchanges in flight; default 30s.
    pub shutdown_grace: Option<RawDurationOrZero>,
    /// How long a stop keeps serving after `/readyz` turned to 503, so that balancers in front notice; default 0s.
    pub shutdown_delay: Option<RawDurationOrZero>,
    /// Ready after this time whatever is missing; by default `/readyz` waits for every source.
    pub ready_timeout: Option<RawDuration>,
    /// Where this gateway is, such as `{ zone = "a" }`: what `nearest` of upstreams compares with their endpoints' labels.
    pub labels: Option<BTreeMap<String, String>>,
}

/// `[listeners.NAME]`: an address that accepts client connections.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Listener", deny_unknown_fields)]
pub(super) struct RawListener {
    /// IP address and port; port 0 takes a free one.
    pub address: Option<String>,
    /// CIDRs of peers whose `X-Forwarded-*` headers are believed; default none.
    pub trusted_proxies: Option<Vec<String>>,
    /// Lets `%2F`, `%5C`, `%00` and `\` pass in paths; default false: they give 400.
    pub allow_encoded_slashes: Option<bool>,
    /// Protocols a connection may be upgraded to; default `["websocket"]`. `h2c` is never forwarded.
    pub upgrades: Option<Vec<String>>,
    /// For a whole request head, with a TLS handshake before it; default 10s.
    pub header_timeout: Option<RawDuration>,
    /// Between two pieces of a request body; default 30s.
    pub body_timeout: Option<RawDuration>,
    /// How long a connection is kept without a request, or while its client takes nothing of an answer; default 75s.
    pub idle_timeout: Option<RawDuration>,
    /// Bytes a second that a client sends of a body and takes of an answer, at least: each that is missing shortens the
    /// time left of `body_timeout` or `idle_timeout`, until more make up for it; default 240, 0 for no bound.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub min_rate: Option<i64>,
    /// Largest request head, from 8KiB to 1MiB; default 32KiB.
    pub max_header_size: Option<RawSize>,
    /// Most header lines of a request; default 100.
    #[schemars(range(min = 1, max = 1000))]
    pub max_headers: Option<i64>,
    /// Largest request body; no limit by default.
    pub max_body_size: Option<RawSize>,
    /// Most connections of clients at once, whatever worker serves them; default 20000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<i64>,
    /// Most of them from one client address (of IPv6 a /64), trusted proxies aside; no limit by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per_client: Option<i64>,
    /// Whether HTTP/2 is spoken, too; default true.
    pub http2: Option<bool>,
    /// Most requests of an HTTP/2 connection at once; default 100.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent_streams: Option<i64>,
    /// TLS, with the certificates of `[certificates]`; without it plain text is spoken.
    pub tls: Option<RawListenerTls>,
    /// Steps around the exchanges of all its routes, by `NAME` or `NAME@PROVIDER`, the outermost first; those of the routes
    /// are within them.
    pub middlewares: Option<Vec<String>>,
    /// Sends every request to https; off unless given, `{}` for port 443.
    pub redirect_to_https: Option<RawHttpsRedirect>,
}

/// `[listeners.NAME.tls]`: how clients are met.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ListenerTls", deny_unknown_fields)]
pub(super) struct RawListenerTls {
    /// The oldest version that is spoken, `1.2` or `1.3`; default `1.2`.
    pub min_version: Option<String>,
    /// PEM file of the authorities of client certificates; without it clients are not asked for one. Read again when
    /// it changes.
    pub client_ca: Option<String>,
    /// Whether clients may come without a certificate; default `required`.
    pub client_auth: Option<RawClientAuth>,
    /// PEM file of the revocation lists of each authority. Read again when it changes.
    pub client_crl: Option<String>,
}

/// Whether clients may come without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ClientAuth")]
pub(super) enum RawClientAuth {
    /// They are refused.
    Required,
    /// They may; one with a bad certificate is refused.
    Optional,
}

/// `redirect_to_https`: where.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "HttpsRedirect", deny_unknown_fields)]
pub(super) struct RawHttpsRedirect {
    /// The port of https as clients see it; default 443.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i64>,
    /// 308 (default), which keeps method and body, or 301.
    pub status: Option<i64>,
}

/// `[admin]`: the admin API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Admin", deny_unknown_fields)]
pub(super) struct RawAdmin {
    /// IP address and port; default 127.0.0.1:9901. Without a token only loopback addresses are accepted.
    pub address: Option<String>,
    /// What clients must show as `Authorization: Bearer`; better in a file.
    pub token: Option<String>,
    /// A file that holds the token.
    pub token_file: Option<String>,
    /// Whether `/metrics` needs no token; default false.
    pub metrics_public: Option<bool>,
}

/// `[discovery]`: where routes, upstreams and endpoints come from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Discovery", deny_unknown_fields)]
pub(super) struct RawDiscovery {
    /// Folder for what registries said, served at start while they are away, and for drains; `off` for none. Default
    /// /var/lib/fleetgate where that is a folder, else ./.fleetgate. One gateway a folder.
    pub state_dir: Option<String>,
    /// How long what a wiped registry lost is held once the registry fills again; default 10m. 0s: until an operator
    /// accepts it.
    pub wipe_hold: Option<RawDuration>,
    /// Whether endpoints that a registry takes out and puts in again and again wait before they are used; default true.
    pub damping: Option<bool>,
    /// Whose document wins when several providers define one name; default `["file", "etcd", "consul-kv",
    /// "consul-tags"]`.
    pub precedence: Option<Vec<String>>,
    /// Providers of documents (`file`, `etcd`, `consul-kv`, `consul-tags`) without which the gateway may start. Until all
    /// others were read, or what was saved of them, every request gets 503.
    pub optional: Option<Vec<String>>,
    /// Documents in further files.
    pub file: Option<RawFile>,
    /// Documents and endpoints in Consul; on when this section is there.
    pub consul: Option<RawConsul>,
    /// Documents and endpoints in etcd; on when this section is there.
    pub etcd: Option<RawEtcd>,
}

/// `[discovery.file]`: further files with routes and upstreams.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "FileProvider", deny_unknown_fields)]
pub(super) struct RawFile {
    /// Paths or glob patterns, such as `routes.d/*.toml`; watched.
    pub paths: Option<Vec<String>>,
}

/// `[discovery.consul]`: a Consul agent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ConsulProvider", deny_unknown_fields)]
pub(super) struct RawConsul {
    /// `http://host:port`, `https://host:port` or `unix:///path`; default `CONSUL_HTTP_ADDR`, else
    /// http://127.0.0.1:8500.
    pub address: Option<String>,
    /// An ACL token; better in a file. Default `CONSUL_HTTP_TOKEN`.
    pub token: Option<String>,
    /// A file that holds the token, read again when it changes. Default `CONSUL_HTTP_TOKEN_FILE`.
    pub token_file: Option<String>,
    /// The datacenter asked about; default the agent's own.
    pub datacenter: Option<String>,
    /// Enterprise namespace. Default `CONSUL_NAMESPACE`.
    pub namespace: Option<String>,
    /// Enterprise admin partition. Default `CONSUL_PARTITION`.
    pub partition: Option<String>,
    /// Prefix of documents in KV; default `fleetgate/`.
    pub kv_prefix: Option<String>,
    /// Prefix of what gateways write in KV: `claims/`, `status/`. Default that of documents with `-fleet` before the slash:
    /// `fleetgate-fleet/`.
    pub fleet_prefix: Option<String>,
    /// Whether services may ask for routes by `fleetgate.*` tags and `Meta`; default false.
    pub tags: Option<bool>,
    /// Whether fabio's `urlprefix-` tags are routes, too; default false.
    pub fabio_tags: Option<bool>,
    /// The hosts that tags may claim: `api.example.com`, `*.example.com`, or `*` for all. Unset, they may claim any, and
    /// go behind documents' routes that match the same.
    pub tag_hosts: Option<Vec<String>>,
    /// The paths that tags may claim, each with all below it; default all.
    pub tag_paths: Option<Vec<String>>,
    /// The loopback and link-local networks that services which ask for routes by tags may be in, such as `127.0.0.0/8`;
    /// default none: such instances get no requests.
    pub tag_networks: Option<Vec<String>>,
    /// Whether problems of documents and registrations are written to the KV store, below `status/` of `fleet_prefix`,
    /// for the teams that can mend them; default false. The token needs `key:write` there.
    pub write_status: Option<bool>,
    /// How long a route of tags outlives the last instance of its service, answering 503; default 24h.
    pub route_ttl: Option<RawDurationOrZero>,
    /// How long a blocking query may block, from 1s to 10m; default 60s.
    pub wait: Option<RawDuration>,
    /// Who answers blocking queries: any server (`stale`, the default), the leader (`default`), or the leader after a
    /// majority confirmed it (`consistent`).
    pub consistency: Option<RawConsistency>,
    /// Oldest answer of a follower that is believed; default 5s.
    pub max_stale: Option<RawDuration>,
    /// Most services watched by a blocking query, 1 to 10000; the others are read every 10 s. Default 100 over http and
    /// unix sockets, 1160 over https.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_watches: Option<i64>,
    /// For `https`.
    pub tls: Option<RawClientTls>,
    /// Registers the gateway itself; off unless given.
    pub register: Option<RawConsulRegistration>,
}

/// `[discovery.etcd]`: an etcd cluster.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "EtcdProvider", deny_unknown_fields)]
pub(super) struct RawEtcd {
    /// `http://host:port` or `https://host:port` each; default `ETCDCTL_ENDPOINTS`, else http://127.0.0.1:2379.
    pub endpoints: Option<Vec<String>>,
    /// Prefix of all keys; default `/fleetgate/`.
    pub prefix: Option<String>,
    /// Prefix of what gateways write: `status/`. Default that of documents with `-fleet` before the slash:
    /// `/fleetgate-fleet/`.
    pub fleet_prefix: Option<String>,
    /// User name, with `password` or `password_file`. Default `ETCDCTL_USER` (`name:password`).
    pub user: Option<String>,
    /// The user's password; better in a file.
    pub password: Option<String>,
    /// A file that holds the password, read again when it changes.
    pub password_file: Option<String>,
    /// Whether problems of documents are written below `status/` of `fleet_prefix`, for the teams that can mend them;
    /// default false. The user must be allowed to write there.
    pub write_status: Option<bool>,
    /// For `https`.
    pub tls: Option<RawClientTls>,
    /// Registers the gateway itself at `PREFIX/gateways/ID`; off unless given.
    pub register: Option<RawEtcdRegistration>,
}

/// `[discovery.consul.register]`: the gateway as a service in Consul, with a check that carries its readiness.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ConsulRegistration", deny_unknown_fields)]
pub(super) struct RawConsulRegistration {
    /// The service's name; default `fleetgate`.
    pub service: Option<String>,
    /// Its tags.
    pub tags: Option<Vec<String>>,
    /// `host:port` where others reach this gateway; default where its listener is bound, on the agent's node.
    pub address: Option<String>,
    /// The listener that others reach; default the only one.
    pub listener: Option<String>,
    /// Unique among gateways; default `HOSTNAME-PORT`.
    pub id: Option<String>,
}

/// `[discovery.etcd.register]`: the gateway as a key in etcd, under a lease, while it is ready.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "EtcdRegistration", deny_unknown_fields)]
pub(super) struct RawEtcdRegistration {
    /// `host:port` where others reach this gateway; default where its listener is bound, if that is one address.
    pub address: Option<String>,
    /// The listener that others reach; default the only one.
    pub listener: Option<String>,
    /// Unique among gateways; default `HOSTNAME-PORT`.
    pub id: Option<String>,
    /// How long etcd remembers a gateway that died, from 10s to 1h; default 15s.
    pub ttl: Option<RawDuration>,
}

/// `[redis]`: a Redis where gateways count together, for rate limits of the fleet.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Redis", deny_unknown_fields)]
pub(super) struct RawRedis {
    /// `redis://host:6379`, or `rediss://host:6379` for TLS; default redis://127.0.0.1:6379.
    pub address: Option<String>,
    /// The database's number; default 0.
    #[schemars(range(min = 0, max = 65_535))]
    pub database: Option<i64>,
    /// User name (Redis 6 and later), with `password` or `password_file`.
    pub user: Option<String>,
    /// The password; better in a file.
    pub password: Option<String>,
    /// A file that holds the password, read again when a connection is made.
    pub password_file: Option<String>,
    /// What all keys begin with; default `fleetgate:`. Fleets that share a Redis each have their own.
    pub prefix: Option<String>,
    /// How long an answer may take before limits go on without Redis, from 10ms to 10s; default 200ms.
    pub timeout: Option<RawDuration>,
    /// For `rediss`.
    pub tls: Option<RawRedisTls>,
}

/// TLS towards Redis.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "RedisTls", deny_unknown_fields)]
pub(super) struct RawRedisTls {
    /// PEM file of certificate authorities; default the system's.
    pub ca: Option<String>,
    /// PEM file of a client certificate.
    pub certificate: Option<String>,
    /// PEM file of its key.
    pub key: Option<String>,
}

/// TLS towards a registry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ClientTls", deny_unknown_fields)]
pub(super) struct RawClientTls {
    /// PEM file of certificate authorities; default the system's. Else `CONSUL_CACERT`, `ETCDCTL_CACERT`.
    pub ca: Option<String>,
    /// PEM file of a client certificate. Else `CONSUL_CLIENT_CERT`, `ETCDCTL_CERT`.
    pub certificate: Option<String>,
    /// PEM file of its key. Else `CONSUL_CLIENT_KEY`, `ETCDCTL_KEY`.
    pub key: Option<String>,
    /// The name the server's certificate must have; default the host's. Else `CONSUL_TLS_SERVER_NAME`.
    pub server_name: Option<String>,
}

/// `[telemetry]`: logs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Telemetry", deny_unknown_fields)]
pub(super) struct RawTelemetry {
    /// `stdout` (default), `off`, or a file to append to.
    pub access_log: Option<String>,
    /// Where it is written who was refused, what operators commanded and which documents were applied, one JSON line each:
    /// `off` (default), `stdout`, or a file to append to.
    pub audit: Option<String>,
    /// Whether it also tells who was let in, a line an exchange; default false.
    pub audit_accepted: Option<bool>,
    /// What our own log (on stderr) shows, as in `RUST_LOG`: `info` (default), `debug`, `fleetgate::discovery=debug`.
    pub log: Option<String>,
    /// How our own log is written; default `text`.
    pub log_format: Option<RawLogFormat>,
    /// Where the history of changes (`fleetgate events`) is written, one JSON line an event: `off` (default) or a file.
    pub events: Option<String>,
    /// Size from which that file is moved to `NAME.1`, replacing the one before; from 64KiB, default 16MiB.
    pub events_max_size: Option<RawSize>,
}

/// Who answers Consul's blocking queries.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Consistency")]
pub(super) enum RawConsistency {
    /// Any server.
    Stale,
    /// The leader.
    Default,
    /// The leader, after a majority confirmed it.
    Consistent,
}

/// How our own log is written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LogFormat")]
pub(super) enum RawLogFormat {
    /// For people.
    Text,
    /// JSON lines.
    Json,
}
