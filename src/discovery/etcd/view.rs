//! Defines what a mirror is shown as: the provider's documents, or the endpoints of a source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::endpoint::EndpointSet;
use super::mirror::Mirror;
use crate::discovery::Publisher;
use crate::discovery::state::{Origin, SourceState};
use crate::spec::decode::DocumentSet;
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::source::{EtcdFormat, Source};

/// Shows a mirror: all of it, or its pools as far as somebody wants them.
pub(super) enum View {
    /// All documents, the only pool.
    Documents(DocumentSet),
    /// The endpoints of sources, by pool.
    Endpoints(BTreeMap<Vec<u8>, Feed>),
}

/// What feeds a source from a pool.
pub(super) struct Feed {
    source: Source,
    set: EndpointSet,
}

impl Feed {
    /// The endpoints of a source whose keys begin with `prefix`.
    pub(super) fn new(source: Source, prefix: &Arc<str>, format: EtcdFormat) -> Self {
        Self { source, set: EndpointSet::new(Arc::clone(prefix), format) }
    }
}

impl View {
    /// The documents below a prefix.
    pub(super) fn documents(prefix: &str) -> Self {
        Self::Documents(DocumentSet::new(ProviderId::Etcd, prefix))
    }

    /// One source, from the only pool.
    pub(super) fn alone(feed: Feed) -> Self {
        Self::Endpoints(BTreeMap::from([(Vec::new(), feed)]))
    }

    /// Whether anybody is shown this pool.
    pub(super) fn wants(&self, pool: &[u8]) -> bool {
        match self {
            Self::Documents(_) => true,
            Self::Endpoints(feeds) => feeds.contains_key(pool),
        }
    }

    /// Shows a pool from now on.
    pub(super) fn add(&mut self, pool: Vec<u8>, feed: Feed) {
        if let Self::Endpoints(feeds) = self {
            feeds.insert(pool, feed);
        }
    }

    /// Shows a pool no more.
    pub(super) fn take(&mut self, pool: &[u8]) -> Option<Feed> {
        match self {
            Self::Documents(_) => None,
            Self::Endpoints(feeds) => feeds.remove(pool),
        }
    }

    /// Publishes what the mirror shows now of these pools; `None`: of all.
    pub(super) fn publish(&mut self, mirror: &Mirror, pools: Option<&BTreeSet<Vec<u8>>>, publisher: &Publisher) {
        let origin = |pool: &[u8]| if mirror.pool_holds(pool) { Origin::Held } else { Origin::Live };
        match self {
            Self::Documents(set) => {
                let mut unreadable = Vec::new();
                let entries = mirror.shown(&[]).filter_map(|(key, value)| match std::str::from_utf8(key) {
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
                publisher.documents_of(documents, texts, origin(&[]));
            }
            Self::Endpoints(feeds) => {
                let known = |pool: &[u8], feed: &mut Feed| {
                    let entries = mirror.shown(pool).map(|(key, value)| (key, value.bytes.as_slice(), value.modified));
                    let (endpoints, problems) = feed.set.update(entries);
                    let origin = origin(pool);
                    let known = SourceState { endpoints: endpoints.into(), problems: problems.into(), origin };
                    (feed.source.clone(), known)
                };
                let known: Vec<_> = match pools {
                    None => feeds.iter_mut().map(|(pool, feed)| known(pool, feed)).collect(),
                    Some(pools) => pools.iter().filter_map(|pool| Some(known(pool, feeds.get_mut(pool)?))).collect(),
                };
                publisher.sources(known);
            }
        }
    }
}
