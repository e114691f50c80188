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
    /// The keys below `PREFIX/endpoints/UPSTREAM/` in etcd, in our own format.
    Etcd {
        /// The whole key prefix, with the slash at its end.
        prefix: Arc<str>,
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
    /// As users see it: `consul:users`, `etcd:/fleetgate/endpoints/users/`, `dns:orders.internal`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consul { service } => write!(f, "consul:{service}"),
            Self::Etcd { prefix } => write!(f, "etcd:{prefix}"),
            Self::Dns { host } => write!(f, "dns:{host}"),
        }
    }
}
