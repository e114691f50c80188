//! The address of a request's client, which a trusted proxy may leave unknown.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Who sent a request: the first address, from the gateway outwards, that is not a trusted proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// This one.
    Known(IpAddr),
    /// The trusted proxy `peer` sent the request on for somebody, and what it says of that client cannot be read.
    Unknown {
        /// The proxy's address.
        peer: IpAddr,
    },
}

impl ClientAddress {
    /// What the log, templates and services get for an unknown client, as RFC 7239, 6.2 writes it.
    pub const UNKNOWN: &'static str = "unknown";

    /// The address, where it is known.
    pub fn known(self) -> Option<IpAddr> {
        match self {
            Self::Known(address) => Some(address),
            Self::Unknown { .. } => None,
        }
    }

    /// The proxy that leaves it unknown.
    pub fn unknown_behind(self) -> Option<IpAddr> {
        match self {
            Self::Known(_) => None,
            Self::Unknown { peer } => Some(peer),
        }
    }

    /// The address, or that of the proxy which leaves it unknown: whoever answers for what the client does.
    pub fn accountable(self) -> IpAddr {
        match self {
            Self::Known(address) | Self::Unknown { peer: address } => address,
        }
    }

    /// Whether the client is known to be in one of these networks.
    pub fn is_in(self, networks: &[IpNet]) -> bool {
        self.known().is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(address) => address.fmt(f),
            Self::Unknown { .. } => f.write_str(Self::UNKNOWN),
        }
    }
}
