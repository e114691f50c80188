//! Defines what a provider can be asked to watch for endpoints.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::name::ProviderId;

/// A source of endpoints. Upstreams name it; a provider follows those that are wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The instances of a Consul service.
    Consul(ConsulService),
    /// The keys below a prefix in etcd, an endpoint each.
    Etcd {
        /// The whole key prefix, with the slash at its end.
        prefix: Arc<str>,
        /// How their values are written.
        format: EtcdFormat,
    },
    /// The records of a name.
    Records(DnsRecords),
    /// The addresses of a host name.
    Dns {
        /// The name, in lower case.
        host: Arc<str>,
    },
}

/// A service in Consul: its name, where it is registered, and which of its addresses to use. What is `None` is as the
/// provider's settings say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsulService {
    /// The service's name; Consul compares it without case.
    pub name: Arc<str>,
    /// Another datacenter than the agent's own.
    pub datacenter: Option<Arc<str>>,
    /// Enterprise namespace.
    pub namespace: Option<Arc<str>>,
    /// Enterprise admin partition.
    pub partition: Option<Arc<str>>,
    /// The tagged address to use, such as `wan`, where an instance or its node has one.
    pub tagged_address: Option<Arc<str>>,
    /// From where distances are told: the name of a node, or `_agent`. The nearer half of the instances goes first.
    pub near: Option<Arc<str>>,
}

impl ConsulService {
    /// A service of this name, with all else as the provider's settings say.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let (datacenter, namespace, partition, tagged_address, near) = Default::default();
        Self { name: name.into(), datacenter, namespace, partition, tagged_address, near }
    }
}

impl fmt::Display for ConsulService {
    /// `users`, or `users?dc=east&ns=team&partition=web&address=wan`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let parts = [
            ("dc", &self.datacenter),
            ("ns", &self.namespace),
            ("partition", &self.partition),
            ("address", &self.tagged_address),
            ("near", &self.near),
        ];
        for (index, (key, value)) in parts.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// The records of a name in DNS that tell endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsRecords {
    /// The name, in lower case.
    pub name: Arc<str>,
    /// Which of its records.
    pub kind: RecordKind,
    /// Where endpoints listen; 0 for SRV records, which tell it.
    pub port: u16,
    /// Who is asked; `None`: whom the system asks.
    pub server: Option<SocketAddr>,
}

impl Source {
    /// The label that carries the priority of an endpoint where the source tells it: that of an SRV record, or whether
    /// an instance is far (1) or near (0).
    pub const PRIORITY: &str = "priority";
    /// The label that tells the kind of an instance in Consul that is no ordinary service: a proxy or a gateway of its
    /// mesh.
    pub const KIND: &str = "consul.kind";
}

impl fmt::Display for DnsRecords {
    /// As in a [`Source`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.port > 0 {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "?type={}", self.kind.as_str())?;
        self.server.map_or(Ok(()), |server| write!(f, "&server={server}"))
    }
}

/// A type of DNS records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Hosts with ports, weights and priorities (RFC 2782).
    Srv,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::A, Self::Aaaa, Self::Srv];

    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        }
    }
}

impl Source {
    /// The provider that watches it.
    pub fn provider(&self) -> ProviderId {
        match self {
            Self::Consul(_) => ProviderId::Consul,
            Self::Etcd { .. } => ProviderId::Etcd,
            Self::Records(_) | Self::Dns { .. } => ProviderId::Dns,
        }
    }
}

impl fmt::Display for Source {
    /// As users see it: `consul:users`, `etcd:/fleetgate/endpoints/users/`, `etcd+kratos:/microservices/users/`,
    /// `dns:orders.internal`, `dns:orders.internal:8080?type=AAAA`, `dns:_orders._tcp.internal?type=SRV&server=10.0.0.1:53`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consul(service) => write!(f, "consul:{service}"),
            Self::Etcd { prefix, format: EtcdFormat::Fleetgate } => write!(f, "etcd:{prefix}"),
            Self::Etcd { prefix, format } => write!(f, "etcd+{}:{prefix}", format.as_str()),
            Self::Records(records) => write!(f, "dns:{records}"),
            Self::Dns { host } => write!(f, "dns:{host}"),
        }
    }
}

/// How the endpoints below a prefix in etcd are written: our own way, or as what registers them writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EtcdFormat {
    /// `{"address": "10.0.0.5:8080", "weight": 1, "labels": {"version": "v1"}}`, or a bare `host:port`.
    #[default]
    Fleetgate,
    /// gRPC naming (`go.etcd.io/etcd/client/v3/naming`): `{"Op":0,"Addr":"10.0.0.5:8080","Metadata":{}}`.
    Grpc,
    /// Kratos: `{"id","name","version","metadata","endpoints":["http://10.0.0.5:8000"]}`.
    Kratos,
    /// go-zero: a bare `host:port` below the service's key.
    GoZero,
    /// A bare `host:port`.
    Plain,
    /// What gateways write of themselves: `{"name", "address", "version"}`. No upstream can ask for it.
    Gateway,
}

impl EtcdFormat {
    /// Every format that an upstream may have.
    pub const ALL: [Self; 5] = [Self::Fleetgate, Self::Grpc, Self::Kratos, Self::GoZero, Self::Plain];

    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fleetgate => "fleetgate",
            Self::Grpc => "grpc",
            Self::Kratos => "kratos",
            Self::GoZero => "go-zero",
            Self::Plain => "plain",
            Self::Gateway => "gateway",
        }
    }
}
