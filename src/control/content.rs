//! Defines what a source or a provider's documents hold, as sets that can be compared: who is missing. An endpoint is
//! told by its address, whoever registered it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::discovery::state::ProviderState;
use crate::spec::document::{Documents, Kind};
use crate::spec::endpoint::{Address, EndpointSpec};
use crate::spec::name::Name;
use crate::spec::source::Source;

/// What is watched as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// All documents of a provider.
    Documents,
    /// A source.
    Source(Source),
}

/// What a part holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Documents(Arc<Documents>),
    Endpoints(Arc<[EndpointSpec]>),
}

impl Content {
    /// What a state has of a part; `None`: it was not read, or is not wanted any more.
    pub(super) fn of(state: &ProviderState, part: &Part) -> Option<Self> {
        match part {
            Part::Documents => state.documents.as_ref().map(|it| Self::Documents(Arc::clone(it))),
            Part::Source(source) => {
                state.sources.get(source).map(|known| Self::Endpoints(Arc::clone(&known.endpoints)))
            }
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Self::Documents(documents) => documents.count(),
            Self::Endpoints(endpoints) => endpoints.len(),
        }
    }

    /// Whether it is the very same.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Documents(one), Self::Documents(other)) => Arc::ptr_eq(one, other),
            (Self::Endpoints(one), Self::Endpoints(other)) => Arc::ptr_eq(one, other),
            (Self::Documents(_), Self::Endpoints(_)) | (Self::Endpoints(_), Self::Documents(_)) => false,
        }
    }

    /// What `other` lacks of it.
    pub(super) fn without(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Documents(one), Self::Documents(other)) => Self::Documents(Arc::new(one.without(other))),
            (Self::Endpoints(one), Self::Endpoints(other)) => {
                let known: BTreeSet<&Address> = other.iter().map(|endpoint| &endpoint.address).collect();
                Self::Endpoints(one.iter().filter(|endpoint| !known.contains(&endpoint.address)).cloned().collect())
            }
            (Self::Documents(_), Self::Endpoints(_)) | (Self::Endpoints(_), Self::Documents(_)) => self.clone(),
        }
    }

    /// It without this document.
    pub(super) fn without_item(&self, item: &(Kind, Name)) -> Self {
        match self {
            Self::Documents(documents) => {
                let mut documents = Documents::clone(documents);
                documents.remove(item.0, item.1.as_str());
                Self::Documents(Arc::new(documents))
            }
            Self::Endpoints(_) => self.clone(),
        }
    }

    /// It, and what only `other` has.
    pub(super) fn with(&self, other: &Self) -> Self {
        match (self, other.without(self)) {
            (Self::Documents(one), Self::Documents(more)) => {
                Self::Documents(Arc::new(Documents::clone(one).with(Documents::clone(&more))))
            }
            (Self::Endpoints(one), Self::Endpoints(more)) => {
                let mut all: Vec<EndpointSpec> = one.iter().chain(more.iter()).cloned().collect();
                all.sort_unstable_by(|a, b| (&a.address, &a.id).cmp(&(&b.address, &b.id)));
                Self::Endpoints(all.into())
            }
            (Self::Documents(_), Self::Endpoints(_)) | (Self::Endpoints(_), Self::Documents(_)) => self.clone(),
        }
    }

    /// Puts it back into a state that lost it.
    pub(super) fn add_to(&self, part: &Part, state: &mut ProviderState) {
        match (part, self) {
            (Part::Documents, Self::Documents(_)) => {
                let now = Self::Documents(state.documents.clone().unwrap_or_default());
                if let Self::Documents(all) = now.with(self) {
                    state.documents = Some(all);
                }
            }
            (Part::Source(source), Self::Endpoints(_)) => {
                let Some(known) = state.sources.get_mut(source) else { return };
                if let Self::Endpoints(all) = Self::Endpoints(Arc::clone(&known.endpoints)).with(self) {
                    known.endpoints = all;
                }
            }
            (Part::Documents, Self::Endpoints(_)) | (Part::Source(_), Self::Documents(_)) => {}
        }
    }

    /// Whether this address is among its endpoints, which lie in order.
    pub(super) fn has(&self, address: &Address) -> bool {
        match self {
            Self::Documents(_) => false,
            Self::Endpoints(endpoints) => endpoints.binary_search_by(|known| known.address.cmp(address)).is_ok(),
        }
    }

    /// It without the endpoints at these addresses.
    pub(super) fn without_addresses(&self, addresses: &BTreeSet<Address>) -> Self {
        match self {
            Self::Documents(_) => self.clone(),
            Self::Endpoints(all) => {
                Self::Endpoints(all.iter().filter(|known| !addresses.contains(&known.address)).cloned().collect())
            }
        }
    }

    pub(super) fn addresses(&self) -> BTreeSet<Address> {
        match self {
            Self::Documents(_) => BTreeSet::new(),
            Self::Endpoints(endpoints) => endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
        }
    }

    pub(super) fn items(&self) -> BTreeSet<(Kind, Name)> {
        match self {
            Self::Documents(documents) => documents.entries().map(|entry| (entry.kind, entry.name.clone())).collect(),
            Self::Endpoints(_) => BTreeSet::new(),
        }
    }
}
