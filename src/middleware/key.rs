//! Defines what tells the clients of a limit apart.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::net::IpAddr;

use http::{HeaderValue, Request};

use crate::exchange::Exchange;
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
        for part in &self.parts {
            let identity = exchange.identity();
            match part {
                LimitKey::ClientIp => place(exchange.client()).hash(&mut hasher),
                LimitKey::Route => exchange.route().hash(&mut hasher),
                LimitKey::Consumer => match &identity.consumer {
                    Some(consumer) => (1u8, &*consumer.name).hash(&mut hasher),
                    None => (0u8, place(exchange.client())).hash(&mut hasher),
                },
                LimitKey::Header(name) => match request.headers().get(name).map(HeaderValue::as_bytes) {
                    Some(value) => (1u8, value).hash(&mut hasher),
                    None => (0u8, place(exchange.client())).hash(&mut hasher),
                },
                LimitKey::Claim(name) => match identity.claims.get(name) {
                    Some(value) => (1u8, value.to_string()).hash(&mut hasher),
                    None => (0u8, place(exchange.client())).hash(&mut hasher),
                },
            }
        }
        hasher.finish()
    }
}

/// An address, or the network that a client of IPv6 has to itself (RFC 6177).
fn place(address: IpAddr) -> u64 {
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
        let of = |text: &str| place(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
