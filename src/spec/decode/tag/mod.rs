//! Decodes what services ask for in their registrations: the tags and `Meta` of their instances become routes.
//!
//! [`native`] reads `fleetgate.*`, [`fabio`] reads `urlprefix-`; [`service`] keeps, between two readings, the last good
//! form of each of a service's routes; [`set`] makes documents of them, and lets routes outlive their last instance;
//! [`order`] tells equal routes of one service from each other; [`memory`] is what outlives the process; [`share`] is the arithmetic of fabio's weights.
//! Instances come as endpoints: a tag `T` is the label `tag.T`, a key of `Meta` is a label of its own name.

mod claim;
mod fabio;
mod memory;
mod native;
mod order;
mod service;
mod set;
mod share;

pub use claim::Bounds;
pub use native::{ASK_LABEL, ask as native_ask, weight as native_weight};
pub use set::{Rules, TagSet};

use crate::spec::endpoint::EndpointSpec;
use crate::spec::endpoint::RegistryStatus::{Passing, Unchecked, Warning};

/// The tags of an instance.
fn tags(endpoint: &EndpointSpec) -> impl Iterator<Item = &str> {
    endpoint.labels.keys().filter_map(|label| label.strip_prefix("tag."))
}

/// Whether an instance may take traffic.
fn is_usable(endpoint: &EndpointSpec) -> bool {
    matches!(endpoint.status, Unchecked | Passing | Warning)
}
