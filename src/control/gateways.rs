//! Counts the gateways that registered themselves, for limits that they hold together. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::merge::Merged;
use crate::discovery::state::ProviderState;
use crate::spec::endpoint::RegistryStatus;
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::middleware::limit::Scope;
use crate::spec::name::ProviderId;
use crate::spec::source::Source;

/// Whether anybody needs to know how many there are.
pub(super) fn matter(merged: &Merged) -> bool {
    merged.middlewares.values().any(
        |middleware| matches!(&*middleware.spec, MiddlewareSpec::RateLimit(limit) if limit.scope != Scope::Gateway),
    )
}

/// How many there are: as the registry says that knows the most of them.
pub(super) fn count(registers: &BTreeSet<Source>, served: &BTreeMap<ProviderId, Arc<ProviderState>>) -> u32 {
    let count = |source: &Source| {
        let known = served.values().find_map(|state| state.sources.get(source));
        let endpoints = known.map(|known| &*known.endpoints).unwrap_or_default();
        endpoints.iter().filter(|endpoint| serves(endpoint.status)).count()
    };
    registers.iter().map(count).max().map_or(0, |most| u32::try_from(most).unwrap_or(u32::MAX))
}

fn serves(status: RegistryStatus) -> bool {
    match status {
        RegistryStatus::Unchecked | RegistryStatus::Passing | RegistryStatus::Warning => true,
        RegistryStatus::Critical | RegistryStatus::Maintenance => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{World, consul};
    use super::*;
    use crate::spec::source::EtcdFormat;

    #[test]
    fn gateways_count_that_serve_as_the_registry_says_that_knows_the_most() {
        let mut world = World::new();
        let etcd = Source::Etcd { prefix: "/fleetgate/gateways/".into(), format: EtcdFormat::Gateway };
        let consul = consul("fleetgate");
        let both: BTreeSet<_> = [consul.clone(), etcd.clone()].into();
        assert_eq!(count(&both, &world.states), 0);
        world.source(&consul, "10.0.0.1:80\n10.0.0.2:80 warning\n10.0.0.3:80 critical\n10.0.0.4:80 maintenance");
        assert_eq!(count(&both, &world.states), 2);
        world.source(&etcd, "10.0.0.1:80 unchecked\n10.0.0.2:80 unchecked\n10.0.0.5:80 unchecked");
        assert_eq!(count(&both, &world.states), 3);
        assert_eq!(count(&BTreeSet::new(), &world.states), 0);
    }

    #[test]
    fn they_are_counted_where_a_limit_is_of_the_fleet() {
        let mut world = World::new();
        let limit = |scope: &str| format!("middlewares.a.rate_limit = {{ rate = \"1/s\", scope = \"{scope}\" }}");
        world.documents(ProviderId::File, &limit("gateway"));
        assert!(!matter(&world.merge()));
        world.documents(ProviderId::File, &limit("fleet"));
        assert!(matter(&world.merge()));
    }
}
