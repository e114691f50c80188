//! Defines what a provider publishes: its whole state, to be compared and replaced.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::spec::document::Documents;
use crate::spec::endpoint::EndpointSpec;
use crate::spec::problem::Problem;
use crate::spec::source::Source;

/// All a provider knows. Not read yet, read and empty, and failed are three different things:
/// absent here, present and empty, and an error in the watch's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderState {
    /// Its documents; `None` until the first complete read.
    pub documents: Option<Arc<Documents>>,
    /// Its sources that were read at least once.
    pub sources: BTreeMap<Source, SourceState>,
}

impl ProviderState {
    /// How many of its sources hold back what their registry lost.
    pub fn held(&self) -> usize {
        self.sources.values().filter(|source| source.origin == Origin::Held).count()
    }
}

/// What is known of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceState {
    /// Sorted by address, then id; all registrations, whatever their status.
    pub endpoints: Arc<[EndpointSpec]>,
    /// Entries that could not be used (port 0, bad JSON, ...).
    pub problems: Arc<[Problem]>,
    /// Whether the endpoints are what the registry says now.
    pub origin: Origin,
}

/// Where a state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The registry's own word.
    Live,
    /// The registry lost something in a suspicious way; what it lost is still here.
    Held,
}

impl Origin {
    /// As users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Held => "held",
        }
    }
}
