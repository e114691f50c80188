//! The addresses that endpoints must not have: the gateway's own, and local ones that only tags name.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use crate::snapshot::{Endpoint, Prohibition};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::upstream::UpstreamSettings;

/// What endpoints are compared with; fixed at start.
#[derive(Clone, Debug, Default)]
pub struct Prohibitions {
    /// Where the admin API is bound.
    pub admin: Option<SocketAddr>,
    /// Where the listeners are bound.
    pub listeners: Vec<SocketAddr>,
    /// The loopback and link-local networks that tags may name.
    pub tag_networks: Vec<IpNet>,
}

/// Which addresses this machine has, as far as somebody asked. Kept for one build: an address may move between machines.
#[derive(Debug, Default)]
pub(super) struct LocalAddresses(HashMap<IpAddr, bool>);

impl Prohibitions {
    /// Whether an endpoint of an upstream must not be used, and why.
    pub(super) fn judge(
        &self,
        address: SocketAddr,
        provider: ProviderId,
        settings: &UpstreamSettings,
        local: &mut LocalAddresses,
    ) -> Option<Prohibition> {
        // The kernel takes `0.0.0.0` and `::` for this machine.
        let ip = match address.ip().to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let mut is_at = |bound: &SocketAddr| bound.port() == address.port() && answers(bound.ip(), ip, local);
        if self.admin.as_ref().is_some_and(&mut is_at) {
            return Some(Prohibition::Admin);
        }
        // Tags don't say what is safe for the gateway.
        let may_be_own = settings.allow_self && provider != ProviderId::ConsulTags;
        if !may_be_own && self.listeners.iter().any(is_at) {
            return Some(Prohibition::Listener);
        }
        let is_bounded = provider == ProviderId::ConsulTags && is_near(ip);
        let is_allowed = || self.tag_networks.iter().any(|network| network.contains(&ip));
        (is_bounded && !is_allowed()).then_some(Prohibition::TagNetwork)
    }
}

/// What is to be said of an upstream's endpoints, a line for each reason.
pub(super) fn remarks(source: &str, name: &str, endpoints: &[Endpoint]) -> Vec<Problem> {
    let mut by_reason: BTreeMap<Prohibition, Vec<SocketAddr>> = BTreeMap::new();
    for endpoint in endpoints {
        if let Some(prohibition) = endpoint.prohibited {
            by_reason.entry(prohibition).or_default().push(endpoint.address);
        }
    }
    let told = |(prohibition, addresses): (Prohibition, Vec<SocketAddr>)| {
        let more = match addresses.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let text = format!("endpoint {}{more}: {}", addresses[0], prohibition.as_str());
        Problem::new(source, format!("upstreams.{name}"), text)
    };
    by_reason.into_iter().map(told).collect()
}

/// Whether a socket that is bound to `bound` gets what is sent to `ip`.
fn answers(bound: IpAddr, ip: IpAddr, local: &mut LocalAddresses) -> bool {
    let bound = bound.to_canonical();
    match bound {
        // `[::]` takes IPv4 as well: see `proxy::bind`.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => local.has(ip),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ip.is_ipv4() && local.has(ip),
        bound => bound == ip,
    }
}

/// Whether an address leads to this machine or to what is only on its links, such as a cloud's metadata service.
fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

impl LocalAddresses {
    fn has(&mut self, ip: IpAddr) -> bool {
        ip.is_loopback() || *self.0.entry(ip).or_insert_with(|| is_local(ip))
    }

    /// Addresses may have moved since.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// Whether this machine has an address: the kernel sends from it to it. Nothing is sent to find that out.
fn is_local(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 9))?;
        socket.local_addr()
    };
    source().is_ok_and(|source| source.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        prohibitions: &Prohibitions,
        address: &str,
        provider: ProviderId,
        allow_self: bool,
    ) -> Option<Prohibition> {
        let settings = UpstreamSettings { allow_self, ..UpstreamSettings::default() };
        let address = address.parse().expect("an address");
        prohibitions.judge(address, provider, &settings, &mut LocalAddresses::default())
    }

    fn bound(admin: &str, listener: &str) -> Prohibitions {
        let [admin, listener] = [admin, listener].map(|address| address.parse().expect("an address"));
        Prohibitions { admin: Some(admin), listeners: vec![listener], tag_networks: Vec::new() }
    }

    #[test]
    fn every_spelling_of_an_own_address_is_found() {
        let narrow = bound("127.0.0.1:9901", "127.0.0.1:8080");
        for address in ["127.0.0.1:9901", "[::ffff:127.0.0.1]:9901", "0.0.0.0:9901"] {
            for allow_self in [false, true] {
                let found = judged(&narrow, address, ProviderId::File, allow_self);
                assert_eq!(found, Some(Prohibition::Admin), "{address}");
            }
        }
        for other in ["127.0.0.2:9901", "10.9.9.9:9901", "127.0.0.1:9902", "[::1]:9901"] {
            assert_eq!(judged(&narrow, other, ProviderId::File, false), None, "{other}");
        }
        let wide = bound("0.0.0.0:9901", "[::]:8080");
        for address in ["127.0.0.1:9901", "127.9.8.7:9901", "[::ffff:127.0.0.1]:9901"] {
            assert_eq!(judged(&wide, address, ProviderId::ConsulKv, true), Some(Prohibition::Admin), "{address}");
        }
        for address in ["127.0.0.5:8080", "[::1]:8080", "[::]:8080", "0.0.0.0:8080"] {
            assert_eq!(judged(&wide, address, ProviderId::Etcd, false), Some(Prohibition::Listener), "{address}");
            assert_eq!(judged(&wide, address, ProviderId::Etcd, true), None, "{address}");
        }
        // Of another machine: TEST-NET-1.
        assert_eq!(judged(&wide, "192.0.2.1:9901", ProviderId::File, false), None);
        assert_eq!(judged(&wide, "[::1]:9901", ProviderId::File, false), None, "0.0.0.0 takes no IPv6");
    }

    #[test]
    fn a_wildcard_covers_every_address_of_the_machine() {
        // The address that the machine would use to reach others, where it has a network at all.
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        if socket.connect("192.0.2.1:9").is_err() {
            return;
        }
        let own = socket.local_addr().expect("an address").ip();
        let wide = bound("0.0.0.0:9901", "0.0.0.0:8080");
        assert_eq!(judged(&wide, &format!("{own}:9901"), ProviderId::File, false), Some(Prohibition::Admin));
    }

    #[test]
    fn tags_name_local_addresses_only_where_they_may() {
        let tags = ProviderId::ConsulTags;
        let mut prohibitions = bound("127.0.0.1:9901", "127.0.0.1:8080");
        let local =
            ["127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "[fe80::1]:80", "[::ffff:127.0.0.1]:80", "0.0.0.0:80"];
        for address in local {
            assert_eq!(judged(&prohibitions, address, tags, false), Some(Prohibition::TagNetwork), "{address}");
            assert_eq!(judged(&prohibitions, address, ProviderId::ConsulKv, false), None, "{address}");
        }
        assert_eq!(judged(&prohibitions, "10.0.0.1:80", tags, false), None);
        prohibitions.tag_networks = vec!["127.0.0.0/8".parse().expect("a network")];
        assert_eq!(judged(&prohibitions, "127.0.0.1:80", tags, false), None);
        assert_eq!(judged(&prohibitions, "[::1]:80", tags, false), Some(Prohibition::TagNetwork));
        assert_eq!(judged(&prohibitions, "127.0.0.1:9901", tags, true), Some(Prohibition::Admin));
        assert_eq!(judged(&prohibitions, "127.0.0.1:8080", tags, true), Some(Prohibition::Listener));
    }
}
