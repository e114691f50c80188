//! Defines how an upstream is written, and what it resolves to.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::spec::endpoint::{Address, EndpointSpec, Labels, RegistryStatus};
use crate::spec::name::{Name, ProviderId};
use crate::spec::route::HostPolicy;
use crate::spec::source::{ConsulService, EtcdFormat};
use crate::spec::upstream::{Priorities, Protocol, UpstreamSettings, UpstreamSource, UpstreamSpec};

use super::balance::{RawBalance, RawHash, RawSession, resolve_hash, resolve_priorities, resolve_slow_start};
use super::breaker::RawBreaker;
use super::dns::RawDnsSource;
use super::health_check::RawHealthCheck;
use super::passive::RawPassiveHealth;
use super::queue::{RawQueue, resolve_most, resolve_queue};
use super::reader::{TEXT_OR_TABLE, nearest};
use super::retry::RawRetryBudget;
use super::scalar::RawDuration;
use super::scope::{Referent, Scope};
use super::upstream_tls::RawUpstreamTls;

/// A named pool of endpoints and its settings. Exactly one of `consul`, `etcd`, `dns` and `endpoints` says
/// where its endpoints come from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Upstream", deny_unknown_fields)]
pub struct RawUpstream {
    /// The instances of a service in Consul.
    consul: Option<RawConsulSource>,
    /// Keys in etcd: `{}` for those below `PREFIX/endpoints/NAME/`.
    etcd: Option<RawEtcdSource>,
    /// The records of a name in DNS.
    dns: Option<RawDnsSource>,
    /// Written down here.
    endpoints: Option<Vec<RawEndpoint>>,
    /// How one endpoint is picked; default `least_requests`.
    balance: Option<RawBalance>,
    /// What `ring_hash` and `maglev` lead a request by.
    hash: Option<RawHash>,
    /// Keeps a client at its endpoint while that is usable.
    session: Option<RawSession>,
    /// The weight of an endpoint that is new, or well again, grows for so long; at once by default. Where more than half
    /// of a pool is new, all are as they are.
    slow_start: Option<RawDuration>,
    /// Which endpoints go first: those with the labels of the first entry, then of the second, ...; the others last. What
    /// a level cannot take, once less than 5 in 7 of it is usable, goes to the next.
    priorities: Option<Vec<BTreeMap<String, String>>>,
    /// Instead of `priorities`: labels that are compared with the gateway's own (`runtime.labels`). Endpoints that agree
    /// in all of them go first, then those that agree in all but the last, ...
    nearest: Option<Vec<String>>,
    /// Named selections of endpoints: those whose labels have all these values.
    subsets: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// To an established connection; default 2s.
    connect_timeout: Option<RawDuration>,
    /// From the request sent in full to the response's head; default 30s.
    response_timeout: Option<RawDuration>,
    /// Between two pieces of a body, either way; default 60s.
    idle_timeout: Option<RawDuration>,
    /// Idle connections kept for one endpoint, for the process; default 32.
    #[schemars(range(min = 0, max = 65_536))]
    max_idle_per_endpoint: Option<i64>,
    /// Most requests in flight at one endpoint, for the process; no bound by default.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_requests_per_endpoint: Option<i64>,
    /// Where requests wait while all endpoints have that many; none by default: they are refused at once.
    queue: Option<RawQueue>,
    /// How long an idle connection is kept; default 4s, under the usual 5 s of services.
    keep_alive: Option<RawDuration>,
    /// How long exchanges go on at an endpoint that takes no more because it is removed, drained, critical or in
    /// maintenance; then they are cut. WebSockets are told to close before. Default 30s.
    drain_timeout: Option<RawDuration>,
    /// Active checks; off by default.
    health_check: Option<RawHealthCheck>,
    /// When requests that fail take an endpoint out of use.
    passive_health: Option<RawPassiveHealth>,
    /// When a smaller share of endpoints than this is well, all are used but those drained or in maintenance; default `0%`:
    /// never. With priorities, when that is so in each level.
    panic_threshold: Option<String>,
    /// When requests are refused at once; never by default.
    breaker: Option<RawBreaker>,
    /// How many requests may be tried again at once, for the process.
    retry_budget: Option<RawRetryBudget>,
    /// The `Host` that endpoints get: `preserve` (default), the one that came; `endpoint`, their own host and port; or
    /// this name.
    host: Option<String>,
    /// TLS with the endpoints; plain text by default.
    tls: Option<RawUpstreamTls>,
    /// What endpoints are spoken to in; default `http1`.
    protocol: Option<RawProtocol>,
    /// Whether a listener of the gateway itself may be an endpoint; default false: such an endpoint is not used. The
    /// gateway's admin API never is.
    allow_self: Option<bool>,
}

/// What endpoints are spoken to in.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Protocol")]
pub enum RawProtocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2: in plain text without asking, over TLS as the only thing offered. What gRPC needs.
    Http2,
    /// Over TLS, what an endpoint chooses of the two.
    Auto,
}

/// The instances of a service in Consul.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ConsulSource", deny_unknown_fields)]
pub struct RawConsulSource {
    /// The service's name.
    service: Option<String>,
    /// Another datacenter than `discovery.consul` says.
    datacenter: Option<String>,
    /// Instead of `datacenter`: several, the first one first. What its instances cannot take, once less than 5 in 7 of
    /// them are usable, goes to the next.
    datacenters: Option<Vec<String>>,
    /// `_agent`, or the name of a node: the half of the instances that is nearer to it goes first. Of several datacenters
    /// those of the first one, which must be the node's own: Consul knows no distances to others.
    near: Option<String>,
    /// Another Enterprise namespace.
    namespace: Option<String>,
    /// Another Enterprise admin partition.
    partition: Option<String>,
    /// The tagged address to use where an instance or its node has one: `lan`, `wan`, `lan_ipv4`, `lan_ipv6`, `wan_ipv4`,
    /// `wan_ipv6`, or one of your own. The usual address otherwise.
    tagged_address: Option<String>,
}

/// Keys in etcd, an endpoint each.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "EtcdSource", deny_unknown_fields)]
pub struct RawEtcdSource {
    /// What the keys begin with, such as `/services/users/`; default `PREFIX/endpoints/NAME/`.
    prefix: Option<String>,
    /// What wrote them: `fleetgate` (default), `grpc`, `kratos`, `go-zero` or `plain` (a bare `host:port`).
    #[schemars(extend("enum" = ["fleetgate", "grpc", "kratos", "go-zero", "plain"]))]
    format: Option<String>,
}

/// An endpoint: `host:port`, or a table.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename = "Endpoint", untagged)]
pub enum RawEndpoint {
    /// `host:port`
    Address(String),
    /// With a weight or labels.
    Full(RawEndpointTable),
}

/// An endpoint with a weight or labels.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "EndpointTable", deny_unknown_fields)]
pub struct RawEndpointTable {
    /// `host:port`, `1.2.3.4:port` or `[::1]:port`; names are resolved again every 30 s.
    address: Option<String>,
    /// 0 drains; default 1.
    #[schemars(range(min = 0, max = 65_535))]
    weight: Option<i64>,
    /// What subsets select by.
    labels: Option<BTreeMap<String, String>>,
}

impl RawUpstream {
    /// The upstream, as far as it is right; what is not is reported.
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<UpstreamSpec> {
        let default = UpstreamSettings::default();
        let or = |raw: Option<RawDuration>, default: Duration| raw.map_or(default, |RawDuration(duration)| duration);
        let balance = self.balance.map_or(default.balance, RawBalance::resolve);
        let host = self.host.and_then(|host| scope.key("host").check(parse_host_policy(host))).unwrap_or_default();
        let protocol = self.protocol.map_or(default.protocol, RawProtocol::resolve);
        if protocol == Protocol::Auto && self.tls.is_none() {
            let text = "`auto` asks endpoints in TLS what they speak: give `tls`, or say `http1` or `http2`";
            scope.key("protocol").problem(text);
        }
        let settings = UpstreamSettings {
            balance,
            hash: resolve_hash(self.hash, balance, scope),
            session: self.session.and_then(|session| session.resolve(&scope.key("session"))),
            slow_start: resolve_slow_start(self.slow_start, balance, scope),
            priorities: resolve_priorities(self.priorities, self.nearest, scope),
            subsets: resolve_subsets(self.subsets, &scope.key("subsets")),
            connect_timeout: or(self.connect_timeout, default.connect_timeout),
            response_timeout: or(self.response_timeout, default.response_timeout),
            idle_timeout: or(self.idle_timeout, default.idle_timeout),
            max_idle_per_endpoint: scope.key("max_idle_per_endpoint").number(
                self.max_idle_per_endpoint,
                default.max_idle_per_endpoint,
                0..=65_536,
            ),
            max_requests_per_endpoint: resolve_most(self.max_requests_per_endpoint, scope),
            queue: resolve_queue(self.queue, scope),
            keep_alive: or(self.keep_alive, default.keep_alive),
            drain_timeout: or(self.drain_timeout, default.drain_timeout),
            health_check: self.health_check.and_then(|check| check.resolve(protocol, &scope.key("health_check"))),
            passive_health: self.passive_health.unwrap_or_default().resolve(&scope.key("passive_health")),
            panic_threshold: self
                .panic_threshold
                .and_then(|text| scope.key("panic_threshold").check(text.parse()))
                .unwrap_or(default.panic_threshold),
            breaker: self.breaker.map(|breaker| breaker.resolve(&scope.key("breaker"))),
            retry_budget: self.retry_budget.unwrap_or_default().resolve(&scope.key("retry_budget")),
            tls: self
                .tls
                .and_then(|tls| tls.resolve(host.name().as_deref(), protocol, &scope.key("tls")))
                .map(Arc::new),
            host,
            protocol,
            allow_self: self.allow_self.unwrap_or(default.allow_self),
        };
        let is_near = self.consul.as_ref().is_some_and(|consul| consul.near.is_some());
        if is_near && settings.priorities != Priorities::None {
            scope
                .key("consul")
                .key("near")
                .problem("`near` excludes `priorities` and `nearest`: both say who goes first");
        }
        if self.consul.is_some() {
            scope.key("consul").refers(Referent::Provider(ProviderId::Consul));
        }
        if self.etcd.is_some() {
            scope.key("etcd").refers(Referent::Provider(ProviderId::Etcd));
        }
        // Each is resolved, so that a mistake in one comes out even where another one is too many.
        let consul = self.consul.map(|consul| consul.resolve(&scope.key("consul")));
        let etcd = self.etcd.map(|etcd| etcd.resolve(&scope.key("etcd")));
        let dns = self.dns.map(|dns| dns.resolve(&scope.key("dns")));
        let endpoints = self.endpoints.map(|endpoints| Some(resolve_endpoints(endpoints, &scope.key("endpoints"))));
        let mut sources = [consul, etcd, dns, endpoints].into_iter().flatten();
        let source = sources.next();
        if source.is_none() {
            scope.missing("it has no source: give one of `consul`, `etcd`, `dns` and `endpoints`");
        }
        if sources.next().is_some() {
            scope.problem("`consul`, `etcd`, `dns` and `endpoints` exclude each other: an upstream has one source");
        }
        Some(UpstreamSpec { source: source.flatten()?, settings })
    }
}

impl RawProtocol {
    fn resolve(self) -> Protocol {
        match self {
            Self::Http1 => Protocol::Http1,
            Self::Http2 => Protocol::Http2,
            Self::Auto => Protocol::Auto,
        }
    }
}

impl RawConsulSource {
    fn resolve(self, scope: &Scope<'_>) -> Option<UpstreamSource> {
        let Some(service) = self.service else {
            scope.missing("`service` is missing");
            return None;
        };
        // Consul takes nearly anything for a name; what ends a path segment or a line is never meant.
        if service.is_empty() || service.len() > 512 || service.chars().any(|c| c.is_control() || c == '/') {
            scope.key("service").problem(format!("{service:?} is not a service's name"));
            return None;
        }
        let word = |text: Option<String>, key| text.and_then(|text| scope.key(key).check(consul_word(text)));
        if self.datacenter.is_some() && self.datacenters.is_some() {
            scope.problem("`datacenter` and `datacenters` exclude each other");
        }
        let first = ConsulService {
            name: service.into(),
            datacenter: word(self.datacenter, "datacenter"),
            namespace: word(self.namespace, "namespace"),
            partition: word(self.partition, "partition"),
            tagged_address: word(self.tagged_address, "tagged_address"),
            near: word(self.near, "near"),
        };
        let Some(datacenters) = self.datacenters else { return Some(UpstreamSource::Consul([first].into())) };
        let datacenters = resolve_datacenters(datacenters, &scope.key("datacenters"))?;
        let services = datacenters.into_iter().enumerate().map(|(position, datacenter)| ConsulService {
            datacenter: Some(datacenter),
            near: first.near.clone().filter(|_| position == 0),
            ..first.clone()
        });
        Some(UpstreamSource::Consul(services.collect()))
    }
}

/// The datacenters in order; `None` when there is none.
fn resolve_datacenters(raw: Vec<String>, scope: &Scope<'_>) -> Option<Vec<Arc<str>>> {
    let mut datacenters: Vec<Arc<str>> = Vec::new();
    for (index, text) in raw.into_iter().enumerate() {
        let scope = scope.index(index);
        let Some(datacenter) = scope.check(consul_word(text)) else { continue };
        if datacenters.contains(&datacenter) {
            scope.problem(format!("`{datacenter}` is there already"));
        }
        datacenters.push(datacenter);
    }
    if datacenters.is_empty() {
        scope.problem("name at least one datacenter");
        return None;
    }
    Some(datacenters)
}

/// A name of Consul's own: of a datacenter, a namespace, a partition or a tagged address.
///
/// # Errors
/// What no such name can be.
pub fn consul_word(text: String) -> Result<Arc<str>, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=128).contains(&text.len()) && text.bytes().all(fits) {
        Ok(text.into())
    } else {
        Err(format!("{text:?} is not a name that Consul has: letters, digits, `-`, `_` and `.`"))
    }
}

impl RawEtcdSource {
    fn resolve(self, scope: &Scope<'_>) -> Option<UpstreamSource> {
        let format = match self.format {
            None => Some(EtcdFormat::default()),
            Some(text) => scope.key("format").check(parse_format(&text)),
        };
        let prefix = match self.prefix {
            None => Some(None),
            Some(text) => scope.key("prefix").check(parse_prefix(text)).map(Some),
        };
        Some(UpstreamSource::Etcd { prefix: prefix?, format: format? })
    }
}

fn parse_format(text: &str) -> Result<EtcdFormat, String> {
    EtcdFormat::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(|| {
        let known = EtcdFormat::ALL.map(EtcdFormat::as_str);
        format!("unknown format `{text}`; {}", nearest(text, &known))
    })
}

/// With a slash at its end, so that the keys of `users` are not those of `users2`.
fn parse_prefix(mut text: String) -> Result<Arc<str>, String> {
    if text.trim_matches('/').is_empty() || text.chars().any(char::is_control) {
        return Err("the prefix must have a name, such as `/services/users/`".to_owned());
    }
    if !text.ends_with('/') {
        text.push('/');
    }
    Ok(text.into())
}

fn resolve_subsets(
    raw: Option<BTreeMap<String, BTreeMap<String, String>>>,
    scope: &Scope<'_>,
) -> BTreeMap<Name, Labels> {
    let mut subsets = BTreeMap::new();
    for (name, labels) in raw.unwrap_or_default() {
        let scope = scope.key(&name);
        if labels.is_empty() {
            scope.missing("a subset needs at least one label, such as `{ version = \"v2\" }`");
        }
        if let Some(name) = scope.check(name.parse()) {
            subsets.insert(name, labels);
        }
    }
    subsets
}

fn resolve_endpoints(raw: Vec<RawEndpoint>, scope: &Scope<'_>) -> UpstreamSource {
    let mut endpoints: Vec<EndpointSpec> = Vec::new();
    let mut seen = HashSet::new();
    for (index, endpoint) in raw.into_iter().enumerate() {
        let scope = scope.index(index);
        let address_scope = scope.key("address");
        let (at, table) = match endpoint {
            RawEndpoint::Address(address) => {
                (&scope, RawEndpointTable { address: Some(address), ..Default::default() })
            }
            RawEndpoint::Full(table) => (&address_scope, table),
        };
        let weight = scope.key("weight").number(table.weight, 1, 0..=65_535);
        let Some(address) = table.address else {
            scope.missing("`address` is missing");
            continue;
        };
        let Some(address) = at.check(address.parse::<Address>()) else { continue };
        if !seen.insert(address.clone()) {
            at.problem(format!("`{address}` is there already"));
        }
        endpoints.push(EndpointSpec {
            address,
            weight,
            labels: Arc::new(table.labels.unwrap_or_default()),
            status: RegistryStatus::Unchecked,
            id: index.to_string().into(),
            modified: 0,
            created: 0,
        });
    }
    UpstreamSource::Static(endpoints.into())
}

fn parse_host_policy(text: String) -> Result<HostPolicy, String> {
    match text.as_str() {
        "preserve" => Ok(HostPolicy::Kept),
        "endpoint" => Ok(HostPolicy::Endpoint),
        _ => {
            let name = parse_host_header(text).map_err(|error| format!("{error}, nor `preserve` or `endpoint`"))?;
            HostPolicy::fixed(&name)
        }
    }
}

pub(super) fn parse_host_header(text: String) -> Result<String, String> {
    match text.parse::<http::uri::Authority>() {
        Ok(authority) if !authority.as_str().contains('@') => Ok(text),
        _ => Err(format!("`{text}` is not a host or `host:port`")),
    }
}

impl<'de> Deserialize<'de> for RawEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawEndpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`host:port` or `{ address = ..., weight = ..., labels = ... }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawEndpoint, E> {
                Ok(RawEndpoint::Address(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawEndpoint, A::Error> {
                RawEndpointTable::deserialize(MapAccessDeserializer::new(map)).map(RawEndpoint::Full)
            }
        }

        deserializer.deserialize_struct(TEXT_OR_TABLE, &["address", "weight", "labels"], Either)
    }
}
