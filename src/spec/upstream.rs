//! Defines an upstream as someone asked for it: where its endpoints come from, and its settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::breaker::Breaker;
use super::endpoint::{EndpointSpec, Labels};
use super::name::Name;
use super::passive::PassiveHealth;
use super::percent::Percent;
use super::retry::RetryBudget;
use super::route::HostPolicy;
use super::settings::Secret;
use super::source::{ConsulService, DnsRecords, EtcdFormat};
use super::upstream_tls::UpstreamTls;

/// A named pool of endpoints and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// Where its endpoints come from.
    pub source: UpstreamSource,
    /// Everything else.
    pub settings: UpstreamSettings,
}

/// The one place an upstream's endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamSource {
    /// Instances of a Consul service, in one datacenter or in several: never empty, and the first one goes first.
    Consul(Arc<[ConsulService]>),
    /// Keys in etcd, an endpoint each.
    Etcd {
        /// What they begin with, with the slash at its end; `None`: `PREFIX/endpoints/NAME/`, NAME being the
        /// upstream's.
        prefix: Option<Arc<str>>,
        /// How their values are written.
        format: EtcdFormat,
    },
    /// The records of a name in DNS.
    Dns(DnsRecords),
    /// Written down; host names among them are resolved by discovery.
    Static(Arc<[EndpointSpec]>),
}

/// How an upstream's endpoints are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// How one endpoint is picked among the usable ones.
    pub balance: Balance,
    /// What a request is told from others by; there for the balancers that hash, and only for them.
    pub hash: Option<Hash>,
    /// Keeps a client at its endpoint.
    pub session: Option<Session>,
    /// How long the weight of an endpoint that is new, or well again, grows to what it should be; at once by default.
    pub slow_start: Option<Duration>,
    /// Which endpoints go first.
    pub priorities: Priorities,
    /// Named selections of endpoints: all of the labels must be equal.
    pub subsets: BTreeMap<Name, Labels>,
    /// To an established connection; default 2 s.
    pub connect_timeout: Duration,
    /// From the request sent in full to the response's head; default 30 s.
    pub response_timeout: Duration,
    /// Between two pieces of a body, either way; default 60 s.
    pub idle_timeout: Duration,
    /// Idle connections kept for an endpoint, for the process; default 32.
    pub max_idle_per_endpoint: u32,
    /// Most requests in flight at an endpoint, for the process; no bound by default.
    pub max_requests_per_endpoint: Option<u32>,
    /// Where requests wait while all endpoints have that many; none by default: they are refused at once.
    pub queue: Option<Queue>,
    /// How long an idle connection is kept; default 4 s, under the usual 5 s of services.
    pub keep_alive: Duration,
    /// How long exchanges go on at an endpoint that takes no more; default 30 s.
    pub drain_timeout: Duration,
    /// Active checks; none by default.
    pub health_check: Option<HealthCheck>,
    /// How requests judge its endpoints.
    pub passive_health: PassiveHealth,
    /// Below which share of endpoints that are well all are used but those drained or in maintenance; none by default:
    /// never.
    pub panic_threshold: Percent,
    /// When requests are refused at once; never by default.
    pub breaker: Option<Breaker>,
    /// How many requests may be tried again at once.
    pub retry_budget: RetryBudget,
    /// The `Host` that its endpoints get, where a route does not say another; default the one that came.
    pub host: HostPolicy,
    /// TLS with its endpoints; plain text by default.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What its endpoints are spoken to in.
    pub protocol: Protocol,
    /// Whether a listener of the gateway itself may be an endpoint; default false.
    pub allow_self: bool,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            balance: Balance::LeastRequests,
            hash: None,
            session: None,
            slow_start: None,
            priorities: Priorities::None,
            subsets: BTreeMap::new(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            max_idle_per_endpoint: 32,
            max_requests_per_endpoint: None,
            queue: None,
            keep_alive: Duration::from_secs(4),
            drain_timeout: Duration::from_secs(30),
            health_check: None,
            passive_health: PassiveHealth::default(),
            panic_threshold: Percent::NONE,
            breaker: None,
            retry_budget: RetryBudget::default(),
            host: HostPolicy::default(),
            tls: None,
            protocol: Protocol::default(),
            allow_self: false,
        }
    }
}

/// What endpoints are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, one exchange a connection.
    #[default]
    Http1,
    /// HTTP/2, many exchanges a connection: in plain text without asking, and over TLS only with those that choose it.
    Http2,
    /// Over TLS, what an endpoint chooses of the two.
    Auto,
}

impl Protocol {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Auto => "auto",
        }
    }

    /// What is offered in a handshake (RFC 7301), the best first.
    pub fn alpn(self) -> Vec<Vec<u8>> {
        let (http1, http2) = (b"http/1.1".to_vec(), HTTP2.to_vec());
        match self {
            Self::Http1 => vec![http1],
            Self::Http2 => vec![http2],
            Self::Auto => vec![http2, http1],
        }
    }
}

/// Whether HTTP/2 is what was chosen of it.
pub fn is_http2(chosen: Option<&[u8]>) -> bool {
    chosen == Some(HTTP2)
}

/// RFC 7301, 6 and RFC 9113, 3.2.
const HTTP2: &[u8] = b"h2";

/// How one endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The fewest requests in flight for its weight.
    LeastRequests,
    /// Of two drawn by weight, the one with the lower latency times requests in flight for its weight.
    P2cEwma,
    /// Drawn by weight.
    Random,
    /// By the request's hash, on a ring of points.
    RingHash,
    /// By the request's hash, in a table of turns.
    Maglev,
}

impl Balance {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastRequests => "least_requests",
            Self::P2cEwma => "p2c_ewma",
            Self::Random => "random",
            Self::RingHash => "ring_hash",
            Self::Maglev => "maglev",
        }
    }

    /// Whether requests are led by their hash.
    pub fn hashes(self) -> bool {
        match self {
            Self::RingHash | Self::Maglev => true,
            Self::RoundRobin | Self::LeastRequests | Self::P2cEwma | Self::Random => false,
        }
    }
}

/// How a request is hashed, and how far its endpoint may be above the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    /// What is hashed.
    pub key: HashKey,
    /// Most requests in flight of an endpoint, in percent of its share; default 125. `None`: no bound.
    pub balance_factor: Option<u16>,
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// The path in normal form.
    Path,
    /// The client's address.
    ClientIp,
}

/// A session: a client stays at its endpoint for as long as that is usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The name of the cookie that tells the endpoint.
    pub cookie: String,
    /// What the cookie's value is keyed with; `None`: whoever can name an address can tell whether it is the endpoint's.
    pub secret: Option<Secret>,
}

/// Where requests wait for an endpoint with room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Most of them that wait at once, for the process; default 100.
    pub size: u32,
    /// How long one waits; default 1 s.
    pub timeout: Duration,
}

/// Which endpoints go first: the others get what those cannot take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Priorities {
    /// All go together.
    None,
    /// Those that have the labels of the first entry, then those of the second, ...; who has none of them goes last.
    Levels(Vec<Labels>),
    /// Those that agree with the gateway's own labels in all these, then in all but the last, ...
    Nearest(Vec<String>),
}

impl Priorities {
    /// How many levels there are.
    pub fn levels(&self) -> u16 {
        let levels = match self {
            Self::None => 1,
            Self::Levels(levels) => levels.len() + 1,
            Self::Nearest(names) => names.len() + 1,
        };
        u16::try_from(levels).unwrap_or(u16::MAX)
    }

    /// The level of an endpoint, 0 first. `own` are the gateway's labels.
    pub fn level(&self, labels: &Labels, own: &Labels) -> u16 {
        let level = match self {
            Self::None => 0,
            Self::Levels(levels) => {
                let has = |level: &Labels| level.iter().all(|(key, value)| labels.get(key) == Some(value));
                levels.iter().position(has).unwrap_or(levels.len())
            }
            Self::Nearest(names) => {
                let agrees = |name: &&String| own.get(*name).is_some_and(|value| labels.get(*name) == Some(value));
                names.len() - names.iter().take_while(agrees).count()
            }
        };
        u16::try_from(level).unwrap_or(u16::MAX)
    }
}

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Between the starts of two checks, with 10 % jitter; default 5 s.
    pub interval: Duration,
    /// For one check; default 2 s.
    pub timeout: Duration,
    /// Passes in a row that make an unhealthy endpoint healthy; default 2.
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy endpoint unhealthy; default 3.
    pub unhealthy_threshold: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// GET this path; 200 to 399 pass.
    Http {
        /// The path and query.
        path: String,
        /// The `Host` sent; the endpoint's address by default.
        host: Option<String>,
    },
    /// A connect, and a handshake where TLS is spoken.
    Tcp,
    /// What gRPC's own health service (`grpc.health.v1`) says of a service; SERVING passes.
    Grpc {
        /// Its full name; empty: the server as a whole.
        service: String,
        /// The `:authority` sent; the endpoint's address by default.
        host: Option<String>,
    },
}
