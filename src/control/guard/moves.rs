//! Addresses that sources of a registry gained and lost of late: an address that one service lost and another one lists
//! has moved, and is not held for the first one. Pure: time comes in.
//!
//! An address that both services had before the loss is shared, as two names of one process are; it stays held.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::spec::endpoint::{Address, EndpointSpec};
use crate::spec::source::Source;

/// How much later than the gain of one service the loss of another one may be noticed, though it came first: each
/// service has a watch of its own, and a loss is often read twice.
const RACE: Duration = Duration::from_secs(1);

/// Who gained and who lost which addresses.
#[derive(Debug, Default)]
pub(super) struct Moves {
    gained: BTreeMap<Address, Vec<Gain>>,
    lost: BTreeMap<Address, Vec<Loss>>,
    /// An earlier process knew addresses that may turn out to be lost since before this one began.
    pub(super) awaits_saved: bool,
    /// What has moved since [`Self::take_releases`].
    releases: Vec<Release>,
}

/// A held address that belongs to another service now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct Release {
    /// The address.
    pub(in crate::control) address: Address,
    /// Who had it.
    pub(in crate::control) from: Source,
    /// Who lists it now.
    pub(in crate::control) to: Source,
}

#[derive(Debug)]
struct Gain {
    source: Source,
    at: Instant,
    /// By the first read of the source, which may have listed it for long.
    first: bool,
}

#[derive(Debug)]
struct Loss {
    source: Source,
    /// As the source wrote it.
    address: Address,
    at: Instant,
    moved_to: Option<Source>,
}

/// What a source listed before a read.
pub(super) enum Before<'a> {
    /// Nothing is known: this is its first read.
    Unread,
    /// These addresses, in order.
    Listed(Vec<&'a Address>),
    /// An earlier process saved these, which it knew at that time at the latest.
    Saved(Vec<&'a Address>, Instant),
}

impl Gain {
    /// Whether the address came to its source after another one had lost it.
    fn follows(&self, loss: &Loss) -> bool {
        let slack = if self.first { Duration::ZERO } else { RACE };
        self.at + slack > loss.at
    }
}

impl Moves {
    /// Nothing moved yet.
    pub(super) fn new(awaits_saved: bool) -> Self {
        Self { awaits_saved, ..Self::default() }
    }

    /// A sound read of a source lists `listed`, in order.
    pub(super) fn read(&mut self, source: &Source, before: Before<'_>, listed: &[&Address], now: Instant) {
        let (before, lost_at, first) = match before {
            Before::Unread => (Vec::new(), now, true),
            Before::Listed(before) => (before, now, false),
            Before::Saved(before, at) => (before, at, false),
        };
        // Nobody lost anything yet: what a first read lists it had before all that is lost later.
        let ignores_gains = first && self.lost.is_empty() && !self.awaits_saved;
        for address in listed {
            let again = !self.lost.is_empty() && self.list_again(source, address);
            if !again && !ignores_gains && before.binary_search(address).is_err() {
                self.gain(source, address, Gain { source: source.clone(), at: now, first });
            }
        }
        for address in before.into_iter().filter(|address| listed.binary_search(address).is_err()) {
            if let Some(gains) = self.gained.get_mut(&canonical(address)) {
                gains.retain(|gain| gain.source != *source);
            }
            self.doubt(source, address, lost_at);
        }
    }

    /// A source lists an address that it lost. Whether it had it all the time; where the address had moved, it came back
    /// like a new one.
    fn list_again(&mut self, source: &Source, address: &Address) -> bool {
        let Some(losses) = self.lost.get_mut(&canonical(address)) else { return false };
        let mut had = false;
        losses.retain(|loss| {
            let own = loss.source == *source;
            had |= own && loss.moved_to.is_none();
            !own
        });
        if losses.is_empty() {
            self.lost.remove(&canonical(address));
        }
        had
    }

    fn gain(&mut self, source: &Source, address: &Address, gain: Gain) {
        let key = canonical(address);
        if let Some(losses) = self.lost.get_mut(&key) {
            let moved = losses.iter_mut().filter(|loss| loss.moved_to.is_none() && gain.follows(loss));
            for loss in moved.filter(|loss| are_apart(&loss.source, source)) {
                loss.moved_to = Some(source.clone());
                let (address, from, to) = (loss.address.clone(), loss.source.clone(), source.clone());
                self.releases.push(Release { address, from, to });
            }
        }
        let gains = self.gained.entry(key).or_default();
        gains.retain(|known| known.source != *source);
        gains.push(gain);
    }

    /// A source does not list an address any more, or its registry is not believed since `at` and it has not been read
    /// again.
    pub(super) fn doubt(&mut self, source: &Source, address: &Address, at: Instant) {
        let key = canonical(address);
        let losses = self.lost.entry(key.clone()).or_default();
        if losses.iter().any(|loss| loss.source == *source) {
            return;
        }
        let mut loss = Loss { source: source.clone(), address: address.clone(), at, moved_to: None };
        let gains = self.gained.get(&key).into_iter().flatten();
        let mut heirs = gains.filter(|gain| are_apart(&gain.source, source) && gain.follows(&loss));
        if let Some(heir) = heirs.next() {
            loss.moved_to = Some(heir.source.clone());
            let (from, to) = (source.clone(), heir.source.clone());
            self.releases.push(Release { address: address.clone(), from, to });
        }
        losses.push(loss);
    }

    /// Nobody wants a source any more.
    pub(super) fn forget(&mut self, source: &Source) {
        for losses in self.lost.values_mut() {
            losses.retain(|loss| loss.source != *source);
        }
        for gains in self.gained.values_mut() {
            gains.retain(|gain| gain.source != *source);
        }
        self.drop_empty();
    }

    /// Forgets losses older than `age` that nobody holds, and gains that came before all losses that may follow.
    pub(super) fn prune(&mut self, now: Instant, age: Duration, is_held: impl Fn(&Source, &Address) -> bool) {
        for losses in self.lost.values_mut() {
            losses.retain(|loss| loss.at + age > now || is_held(&loss.source, &loss.address));
        }
        if !self.awaits_saved {
            for gains in self.gained.values_mut() {
                gains.retain(|gain| gain.at + RACE > now);
            }
        }
        self.drop_empty();
    }

    fn drop_empty(&mut self) {
        self.lost.retain(|_, losses| !losses.is_empty());
        self.gained.retain(|_, gains| !gains.is_empty());
    }

    /// Whether there is nothing to [prune](Self::prune).
    pub(super) fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.gained.is_empty()
    }

    /// What moved since the last call.
    pub(super) fn take_releases(&mut self) -> Vec<Release> {
        std::mem::take(&mut self.releases)
    }

    /// The addresses that sources lost to others.
    pub(super) fn released(&self) -> impl Iterator<Item = (&Source, &Address)> {
        let moved = self.lost.values().flatten().filter(|loss| loss.moved_to.is_some());
        moved.map(|loss| (&loss.source, &loss.address))
    }
}

/// The addresses of endpoints that a read lists, in order. `unlisted`: those that only a watch keeps.
pub(super) fn listed<'a>(endpoints: &'a [EndpointSpec], unlisted: &BTreeSet<Address>) -> Vec<&'a Address> {
    let mut listed: Vec<&Address> = endpoints.iter().map(|endpoint| &endpoint.address).collect();
    listed.retain(|address| !unlisted.contains(address));
    listed.sort_unstable();
    listed.dedup();
    listed
}

/// One form for one address: IPv4 may come as IPv6 (RFC 4291, 2.5.5.2).
fn canonical(address: &Address) -> Address {
    match address {
        Address::Ip(ip) => Address::Ip(SocketAddr::new(ip.ip().to_canonical(), ip.port())),
        Address::Name { .. } => address.clone(),
    }
}

/// Whether two sources are different services of one registry, datacenter, namespace and partition. A service has one
/// source for each tagged address it is wanted at; prefixes of etcd may lie within one another.
fn are_apart(one: &Source, other: &Source) -> bool {
    match (one, other) {
        (Source::Consul(one), Source::Consul(other)) => {
            let place = |service: &crate::spec::source::ConsulService| {
                (service.datacenter.clone(), service.namespace.clone(), service.partition.clone())
            };
            place(one) == place(other) && !one.name.eq_ignore_ascii_case(&other.name)
        }
        (Source::Etcd { prefix: one, .. }, Source::Etcd { prefix: other, .. }) => {
            !one.starts_with(&**other) && !other.starts_with(&**one)
        }
        (Source::Consul(_) | Source::Etcd { .. } | Source::Records(_) | Source::Dns { .. }, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::source::{ConsulService, EtcdFormat};

    #[test]
    fn only_services_of_one_place_are_apart() {
        let consul = |name: &str, datacenter: Option<&str>, tagged: Option<&str>| {
            let (datacenter, tagged_address) = (datacenter.map(Into::into), tagged.map(Into::into));
            Source::Consul(ConsulService { datacenter, tagged_address, ..ConsulService::named(name) })
        };
        let etcd = |prefix: &str| Source::Etcd { prefix: prefix.into(), format: EtcdFormat::Fleetgate };
        for (one, other, apart) in [
            (consul("a", None, None), consul("b", None, None), true),
            (consul("a", None, None), consul("A", None, Some("wan")), false),
            (consul("a", None, Some("wan")), consul("b", None, None), true),
            (consul("a", Some("east"), None), consul("b", Some("east"), None), true),
            (consul("a", Some("east"), None), consul("b", Some("west"), None), false),
            (etcd("/e/a/"), etcd("/e/b/"), true),
            (etcd("/e/"), etcd("/e/b/"), false),
            (etcd("/e/a/"), etcd("/e/a/"), false),
            (etcd("/e/a/"), consul("b", None, None), false),
        ] {
            assert_eq!((are_apart(&one, &other), are_apart(&other, &one)), (apart, apart), "{one} {other}");
        }
    }

    #[test]
    fn an_address_in_ipv6_form_is_the_same() {
        let address = |text: &str| text.parse::<Address>().expect("an address");
        assert_eq!(canonical(&address("[::ffff:10.0.0.1]:80")), address("10.0.0.1:80"));
        assert_eq!(canonical(&address("[::1]:80")), address("[::1]:80"));
    }
}
