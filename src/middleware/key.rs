//! Defines what tells the clients of a limit apart.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::net::IpAddr;

use aws_lc_rs::digest;
use http::Request;

use crate::exchange::{ClientAddress, Exchange};
use crate::spec::middleware::limit::LimitKey;

/// Makes keys of requests: a hash whose secret is of this process, so that nobody can choose keys that meet.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    parts: Vec<LimitKey>,
    secret: RandomState,
}

impl Keys {
    pub(super) fn new(parts: &[LimitKey]) -> Self {
        Self { parts: parts.to_vec(), secret: RandomState::new() }
    }

    /// The key of a request. What a request does not have is its client's address.
    pub(super) fn of<B>(&self, request: &Request<B>, exchange: &dyn Exchange) -> u64 {
        let mut hasher = self.secret.build_hasher();
        each(&self.parts, request, exchange, |kind, bytes| (kind, bytes).hash(&mut hasher));
        hasher.finish()
    }
}

/// The key of a request that all gateways find: part of a digest, so that no two meet by chance or by trying.
pub(super) fn of_fleet<B>(parts: &[LimitKey], request: &Request<B>, exchange: &dyn Exchange) -> u128 {
    let mut digest = digest::Context::new(&digest::SHA256);
    each(parts, request, exchange, |kind, bytes| {
        digest.update(&[kind]);
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    });
    let digest = digest.finish();
    digest.as_ref().first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

/// Shows what a request has of each part.
fn each<B>(parts: &[LimitKey], request: &Request<B>, exchange: &dyn Exchange, mut sees: impl FnMut(u8, &[u8])) {
    for part in parts {
        let mut found = |bytes: &[u8]| sees(1, bytes);
        let seen = match part {
            LimitKey::ClientIp => None,
            LimitKey::Route => Some(exchange.route()).map(|route| found(route.as_bytes())),
            LimitKey::Consumer => exchange.identity().consumer.as_ref().map(|consumer| found(consumer.name.as_bytes())),
            LimitKey::Header(name) => request.headers().get(name).map(|value| found(value.as_bytes())),
            LimitKey::Claim(name) => {
                exchange.identity().claims.get(name).map(|value| found(value.to_string().as_bytes()))
            }
        };
        if seen.is_none() {
            match exchange.client() {
                ClientAddress::Known(address) => sees(0, &network(address).to_be_bytes()),
                // All whom one proxy leaves unknown share: else each could have a budget for every thing it sends.
                ClientAddress::Unknown { peer } => sees(2, &network(peer).to_be_bytes()),
            }
        }
    }
}

/// An address, or the network that a client of IPv6 has to itself (RFC 6177).
pub(super) fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_ipv6_is_its_network() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
