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
