//! Defines what becomes of endpoints that a registry takes out and puts in again and again: each time costs a penalty
//! that decays, and above a threshold the endpoint waits until little of it is left (as BGP does with routes, RFC
//! 2439). What a registry takes out is out at once, always; only the return waits. Pure: time comes in.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::state::ProviderState;
use crate::spec::endpoint::{Address, EndpointSpec, Penalty, RegistryStatus};
use crate::spec::source::Source;

/// Most endpoints of a pool that may wait, as a share: where more flap it is the registry or the network that does,
/// and the rest could not carry their load.
const MOST: usize = 2;

type Penalties = Arc<BTreeMap<Address, Penalty>>;

/// The penalties of all endpoints that flapped of late.
#[derive(Debug, Default)]
pub(super) struct Damping {
    penalties: BTreeMap<Source, BTreeMap<Address, Penalty>>,
}

impl Damping {
    /// Notes which endpoints a provider takes out of use.
    pub(super) fn note(&mut self, before: &ProviderState, after: &ProviderState, now: Instant) {
        for source in after.changed_sources(before) {
            let (Some(known), Some(next)) = (before.sources.get(source), after.sources.get(source)) else { continue };
            let left: HashSet<&Address> = next.endpoints.iter().filter(in_use).map(|it| &it.address).collect();
            let gone = known.endpoints.iter().filter(in_use).filter(|endpoint| !left.contains(&endpoint.address));
            for endpoint in gone {
                let of_source = self.penalties.entry(source.clone()).or_default();
                let penalty = of_source.entry(endpoint.address.clone()).or_insert(Penalty::none(now.into_std()));
                *penalty = penalty.after_flap(now.into_std());
            }
        }
    }

    /// Ends what has waited long enough.
    pub(super) fn look(&mut self, now: Instant) {
        for of_source in self.penalties.values_mut() {
            of_source.retain(|_, penalty| {
                penalty.damped &= penalty.reused_in(now.into_std()) > Duration::ZERO;
                penalty.damped || penalty.counts(now.into_std())
            });
        }
        self.penalties.retain(|_, of_source| !of_source.is_empty());
    }

    /// When the next one has waited long enough.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let damped = self.penalties.values().flat_map(BTreeMap::values).filter(|penalty| penalty.damped);
        damped.map(|penalty| now + penalty.reused_in(now.into_std())).min()
    }

    /// Whether nobody flapped of late.
    pub(super) fn is_empty(&self) -> bool {
        self.penalties.is_empty()
    }

    /// The penalties of a source's endpoints, as they are to be served.
    pub(super) fn of(&self, source: &Source, endpoints: &[EndpointSpec]) -> Option<Penalties> {
        let of_source = self.penalties.get(source)?;
        let all: HashSet<&Address> = endpoints.iter().filter(in_use).map(|it| &it.address).collect();
        let damped = all.iter().filter(|address| of_source.get(**address).is_some_and(|penalty| penalty.damped));
        let too_many = damped.count() * MOST > all.len();
        let present = endpoints.iter().filter_map(|endpoint| Some((endpoint, of_source.get(&endpoint.address)?)));
        let served = |penalty: &Penalty| {
            let mut penalty = penalty.clone();
            penalty.damped &= !too_many;
            penalty
        };
        let present = present.map(|(endpoint, penalty)| (endpoint.address.clone(), served(penalty)));
        let present: BTreeMap<Address, Penalty> = present.collect();
        (!present.is_empty()).then(|| Arc::new(present))
    }
}

/// Whether its registry gives it traffic. Maintenance is an operator's word, and no flap.
fn in_use(endpoint: &&EndpointSpec) -> bool {
    endpoint.weight > 0 && endpoint.status != RegistryStatus::Critical
}

#[cfg(test)]
mod tests;
