//! Defines the endpoints that records tell.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::spec::endpoint::{Address, EndpointSpec, Labels, RegistryStatus};

/// An SRV record (RFC 2782) with its host's addresses.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) addresses: Vec<IpAddr>,
}

/// The endpoints of a name whose records say addresses only.
pub(super) fn of_addresses(mut addresses: Vec<IpAddr>, port: u16) -> Vec<EndpointSpec> {
    addresses.sort_unstable();
    addresses.dedup();
    let labels = Arc::new(Labels::new());
    addresses.into_iter().map(|ip| endpoint(SocketAddr::new(ip, port), 1, &labels)).collect()
}

/// The endpoints of SRV records, by address. A record of weight 0 gets little, and does not drain; where all are 0, all
/// are equal. Of two records of one address the one that goes first wins.
pub(super) fn of_targets(mut targets: Vec<Target>) -> Vec<EndpointSpec> {
    targets.sort_by(|a, b| (a.priority, b.weight, &a.host).cmp(&(b.priority, a.weight, &b.host)));
    let mut endpoints: BTreeMap<SocketAddr, EndpointSpec> = BTreeMap::new();
    for target in targets.iter().filter(|target| target.port > 0) {
        let labels: Labels = [(PRIORITY.to_owned(), target.priority.to_string())].into();
        let labels = Arc::new(labels);
        for ip in &target.addresses {
            let address = SocketAddr::new(*ip, target.port);
            endpoints.entry(address).or_insert_with(|| endpoint(address, target.weight.max(1), &labels));
        }
    }
    endpoints.into_values().collect()
}

/// The label that carries the priority of an SRV record.
const PRIORITY: &str = crate::spec::source::Source::PRIORITY;

fn endpoint(address: SocketAddr, weight: u16, labels: &Arc<Labels>) -> EndpointSpec {
    EndpointSpec {
        address: Address::Ip(address),
        weight,
        labels: Arc::clone(labels),
        status: RegistryStatus::Unchecked,
        id: address.to_string().into(),
        modified: 0,
        created: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(priority: u16, weight: u16, port: u16, addresses: &[&str]) -> Target {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
        Target { host: "h.".to_owned(), priority, weight, port, addresses }
    }

    #[test]
    fn srv_records_tell_ports_weights_and_priorities() {
        let told = of_targets(vec![
            target(20, 5, 80, &["10.0.0.3"]),
            target(10, 0, 80, &["10.0.0.2"]),
            target(10, 7, 81, &["10.0.0.1", "::1"]),
            target(10, 1, 0, &["10.0.0.9"]),
            target(30, 9, 80, &["10.0.0.3"]),
        ]);
        let told: Vec<_> = told
            .iter()
            .map(|endpoint| format!("{} {} {}", endpoint.address, endpoint.weight, endpoint.labels[PRIORITY]))
            .collect();
        assert_eq!(told, ["10.0.0.1:81 7 10", "10.0.0.2:80 1 10", "10.0.0.3:80 5 20", "[::1]:81 7 10"]);
        assert_eq!(of_targets(Vec::new()), []);
    }

    #[test]
    fn addresses_come_once() {
        let ip = |text: &str| text.parse().expect("an address");
        let told = of_addresses(vec![ip("10.0.0.2"), ip("10.0.0.1"), ip("10.0.0.2")], 8080);
        let told: Vec<_> = told.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(told, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    }
}
