//! Defines what a mirror is shown as: the provider's documents, or the endpoints of a source.

use std::sync::Arc;

use super::endpoint::EndpointSet;
use super::mirror::Mirror;
use crate::discovery::Publisher;
use crate::discovery::state::{Origin, SourceState};
use crate::spec::decode::DocumentSet;
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::source::{EtcdFormat, Source};

/// Publishes a mirror, each time as a whole.
pub(super) enum View {
    /// All documents.
    Documents(DocumentSet),
    /// The endpoints of a source.
    Endpoints(Source, EndpointSet),
}

impl View {
    /// The documents below a prefix.
    pub(super) fn documents(prefix: &str) -> Self {
        Self::Documents(DocumentSet::new(ProviderId::Etcd, prefix))
    }

    /// The endpoints of a source whose keys begin with `prefix`.
    pub(super) fn endpoints(source: Source, prefix: &Arc<str>, format: EtcdFormat) -> Self {
        Self::Endpoints(source, EndpointSet::new(Arc::clone(prefix), format))
    }

    /// Publishes what the mirror shows now.
    pub(super) fn publish(&mut self, mirror: &Mirror, publisher: &Publisher) {
        let origin = if mirror.holds() { Origin::Held } else { Origin::Live };
        match self {
            Self::Documents(set) => {
                let mut unreadable = Vec::new();
                let entries = mirror.shown().filter_map(|(key, value)| match std::str::from_utf8(key) {
                    Ok(key) => Some((key, value.bytes.as_slice())),
                    Err(_) => {
                        let place = format!("{}:{}", ProviderId::Etcd, String::from_utf8_lossy(key));
                        unreadable.push(Problem::new(place, "", "the key is not UTF-8"));
                        None
                    }
                });
                let entries: Vec<_> = entries.collect();
                let texts = entries.iter().map(|(key, value)| ((*key).to_owned(), Arc::from(*value))).collect();
                let mut documents = set.update(entries);
                documents.rejected.append(&mut unreadable);
                publisher.documents_of(documents, texts, origin);
            }
            Self::Endpoints(source, set) => {
                let entries = mirror.shown().map(|(key, value)| (key, value.bytes.as_slice(), value.modified));
                let (endpoints, problems) = set.update(entries);
                let known = SourceState { endpoints: endpoints.into(), problems: problems.into(), origin };
                publisher.source(source, known);
            }
        }
    }
}
