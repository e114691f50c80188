//! Defines what a provider can be asked to watch for endpoints.

use std::fmt;
use std::sync::Arc;

use super::name::ProviderId;

/// A source of endpoints. Upstreams name it; a provider keeps one watch a wanted source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The instances of a Consul service.
    Consul {
        /// The service's name; Consul compares it without case.
        service: Arc<str>,
    },
    /// The keys below a prefix in etcd, an endpoint each.
    Etcd {
        /// The whole key prefix, with the slash at its end.
        prefix: Arc<str>,
        /// How their values are written.
        format: EtcdFormat,
    },
    /// The addresses of a host name.
    Dns {
        /// The name, in lower case.
        host: Arc<str>,
    },
}

impl Source {
    /// The provider that watches it.
    pub fn provider(&self) -> ProviderId {
        match self {
            Self::Consul { .. } => ProviderId::Consul,
            Self::Etcd { .. } => ProviderId::Etcd,
            Self::Dns { .. } => ProviderId::Dns,
        }
    }
}

impl fmt::Display for Source {
    /// As users see it: `consul:users`, `etcd:/fleetgate/endpoints/users/`, `etcd+kratos:/microservices/users/`,
    /// `dns:orders.internal`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consul { service } => write!(f, "consul:{service}"),
            Self::Etcd { prefix, format: EtcdFormat::Fleetgate } => write!(f, "etcd:{prefix}"),
            Self::Etcd { prefix, format } => write!(f, "etcd+{}:{prefix}", format.as_str()),
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
}

impl EtcdFormat {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Fleetgate, Self::Grpc, Self::Kratos, Self::GoZero, Self::Plain];

    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fleetgate => "fleetgate",
            Self::Grpc => "grpc",
            Self::Kratos => "kratos",
            Self::GoZero => "go-zero",
            Self::Plain => "plain",
        }
    }
}
