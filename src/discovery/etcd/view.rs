//! Defines what a mirror is shown as: the provider's documents, or the endpoints of a source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::endpoint::EndpointSet;
use super::layout::KeyRange;
use super::mirror::Mirror;
use crate::discovery::Publisher;
use crate::discovery::state::{Origin, SourceState};
use crate::spec::decode::{DocumentSet, Past, Stored};
use crate::spec::endpoint::EndpointSpec;
use crate::spec::hold::{Held, HeldPart, Scope};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::source::{EtcdFormat, Source};

/// Shows a mirror: all of it, or its pools as far as somebody wants them.
pub(super) enum View {
    /// The documents of one of several ranges, by its index; the only pool.
    Documents(Arc<Mutex<Gathered>>, usize),
    /// The endpoints of sources, by pool.
    Endpoints(BTreeMap<Vec<u8>, Feed>, Beside),
}

/// The endpoints of pools that nobody wants, where a watch reads such.
pub(super) enum Beside {
    /// It does not.
    Never,
    /// By pool, in our own format.
    Pools(BTreeMap<Vec<u8>, EndpointSet>),
}

impl Beside {
    /// What a mirror has now of these pools, as sources.
    fn read(&mut self, mirror: &Mirror, pools: Vec<Vec<u8>>) -> Vec<(Source, Vec<EndpointSpec>)> {
        let Self::Pools(sets) = self else { return Vec::new() };
        let read = pools.into_iter().filter_map(|pool| {
            let prefix: Arc<str> = std::str::from_utf8(&pool).ok()?.into();
            let new = || EndpointSet::new(Arc::clone(&prefix), EtcdFormat::Fleetgate);
            let set = sets.entry(pool.clone()).or_insert_with(new);
            let entries = mirror.shown(&pool).map(|(key, value)| (key, value.bytes.as_slice(), value.modified));
            let (endpoints, _) = set.update(entries);
            if endpoints.is_empty() {
                sets.remove(&pool);
            }
            Some((Source::Etcd { prefix, format: EtcdFormat::Fleetgate }, endpoints))
        });
        read.collect()
    }
}

/// What feeds a source from a pool.
pub(super) struct Feed {
    source: Source,
    prefix: Arc<str>,
    format: EtcdFormat,
    set: EndpointSet,
}

impl Feed {
    /// The endpoints of a source whose keys begin with `prefix`.
    pub(super) fn new(source: Source, prefix: &Arc<str>, format: EtcdFormat) -> Self {
        Self { source, prefix: Arc::clone(prefix), format, set: EndpointSet::new(Arc::clone(prefix), format) }
    }
}

impl Feed {
    /// What is held of it: the addresses of the keys that are.
    fn held(&self, mirror: &Mirror, pool: &[u8]) -> BTreeMap<HeldPart, Held> {
        let keys: BTreeSet<&[u8]> = mirror.held(pool).collect();
        if keys.is_empty() {
            return BTreeMap::new();
        }
        let held = mirror.shown(pool).filter(|(key, _)| keys.contains(key));
        let (endpoints, _) = EndpointSet::new(Arc::clone(&self.prefix), self.format)
            .update(held.map(|(key, value)| (key, value.bytes.as_slice(), value.modified)));
        let lost = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        BTreeMap::from([(HeldPart::Endpoints(self.source.clone()), unconfirmed(lost))])
    }
}

/// The documents of all ranges: published once each of them was read.
pub(super) struct Gathered {
    set: DocumentSet,
    ranges: Vec<Option<Range>>,
    /// How often the store had turned out to be another one when all ranges were read last.
    whole_at: u64,
}

/// What a range shows.
struct Range {
    /// How often the store had turned out to be another one by then.
    read_at: u64,
    texts: BTreeMap<String, (Arc<[u8]>, Past)>,
    unreadable: Vec<Problem>,
    held: BTreeSet<String>,
}

impl Range {
    fn of(mirror: &Mirror, read_at: u64) -> Self {
        let held = mirror.held(&[]).map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        let mut range = Self { read_at, texts: BTreeMap::new(), unreadable: Vec::new(), held };
        for (key, value) in mirror.shown(&[]) {
            if let Ok(key) = std::str::from_utf8(key) {
                let past = [value.created, value.modified, value.version].map(|it| u64::try_from(it).ok());
                let [created, modified, version] = past;
                let past = Past { created, modified, version };
                range.texts.insert(key.to_owned(), (Arc::from(value.bytes.as_slice()), past));
            } else {
                let place = format!("{}:{}", ProviderId::Etcd, String::from_utf8_lossy(key));
                range.unreadable.push(Problem::new(place, "", "the key is not UTF-8"));
            }
        }
        range
    }
}

impl Gathered {
    fn publish(&mut self, publisher: &Publisher) {
        let Some(ranges) = self.ranges.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return };
        let texts = ranges.iter().flat_map(|range| &range.texts);
        let stored = texts.map(|(key, (bytes, past))| (key.as_str(), Stored { bytes, past: *past }));
        let now = publisher.current().disbeliefs();
        // Each watch notices by itself that the store is another one, and what the others read is older until they do.
        let is_whole = now == self.whole_at || ranges.iter().all(|range| range.read_at > self.whole_at);
        self.set.of_registry(now);
        let mut documents = self.set.update(stored);
        documents.rejected.extend(ranges.iter().flat_map(|range| range.unreadable.iter().cloned()));
        let held = ranges.iter().flat_map(|range| &range.held);
        let held: BTreeMap<_, _> =
            held.map(|key| (HeldPart::Document(key.as_str().into()), unconfirmed(Vec::new()))).collect();
        let origin = if held.is_empty() { Origin::Live } else { Origin::Held };
        publisher.holds(None, held);
        if is_whole {
            self.whole_at = now;
            publisher.documents_of(documents, self.set.forms(), origin);
        } else {
            publisher.documents_in_part(documents, self.set.forms(), origin);
        }
    }
}

/// What waits for a list that confirms its loss.
fn unconfirmed(lost: Vec<String>) -> Held {
    Held { lost, why: "no list of the keys has confirmed the loss yet".into(), missing_right: None }
}

impl View {
    /// The documents below a prefix, from `N` ranges that are watched apart.
    pub(super) fn documents<const N: usize>(prefix: &str, publisher: &Publisher) -> [Self; N] {
        let (mut set, ranges) = (DocumentSet::new(ProviderId::Etcd, prefix), Vec::from_iter((0..N).map(|_| None)));
        if let Some(remembered) = publisher.remembered() {
            set = set.remembering(remembered);
        }
        let gathered = Arc::new(Mutex::new(Gathered { set, ranges, whole_at: 0 }));
        std::array::from_fn(|index| Self::Documents(Arc::clone(&gathered), index))
    }

    /// One source, from the only pool.
    pub(super) fn alone(feed: Feed) -> Self {
        Self::Endpoints(BTreeMap::from([(Vec::new(), feed)]), Beside::Never)
    }

    /// Sources that come and go, each from a pool of its own.
    pub(super) fn of_folders() -> Self {
        Self::Endpoints(BTreeMap::new(), Beside::Pools(BTreeMap::new()))
    }

    /// Whether anybody is shown this pool.
    pub(super) fn wants(&self, pool: &[u8]) -> bool {
        match self {
            Self::Documents(..) => true,
            Self::Endpoints(feeds, _) => feeds.contains_key(pool),
        }
    }

    /// Shows a pool from now on.
    pub(super) fn add(&mut self, pool: Vec<u8>, feed: Feed) {
        if let Self::Endpoints(feeds, beside) = self {
            if let Beside::Pools(sets) = beside {
                sets.remove(&pool);
            }
            feeds.insert(pool, feed);
        }
    }

    /// Shows a pool no more.
    pub(super) fn take(&mut self, pool: &[u8]) -> Option<Feed> {
        match self {
            Self::Documents(..) => None,
            Self::Endpoints(feeds, _) => feeds.remove(pool),
        }
    }

    /// The pool that a held part lies in, and its key where it is not all of the pool.
    pub(super) fn pool_of(&self, part: &HeldPart) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        match (self, part) {
            (Self::Documents(..), HeldPart::Document(key)) => Some((Vec::new(), Some(key.as_bytes().to_vec()))),
            (Self::Endpoints(feeds, _), HeldPart::Endpoints(source)) => {
                feeds.iter().find(|(_, feed)| feed.source == *source).map(|(pool, _)| (pool.clone(), None))
            }
            (Self::Documents(..), HeldPart::Endpoints(_) | HeldPart::File(_))
            | (Self::Endpoints(..), HeldPart::Document(_) | HeldPart::File(_)) => None,
        }
    }

    /// What a missing right to read the range concerns.
    pub(super) fn scopes(&self, range: &KeyRange) -> Vec<Scope> {
        match self {
            Self::Documents(..) => vec![Scope::Documents(range.to_string().into())],
            Self::Endpoints(feeds, _) => feeds.values().map(|feed| Scope::Source(feed.source.clone())).collect(),
        }
    }

    /// Publishes what the mirror shows now of these pools; `None`: of all.
    pub(super) fn publish(&mut self, mirror: &Mirror, pools: Option<&BTreeSet<Vec<u8>>>, publisher: &Publisher) {
        let origin = |pool: &[u8]| if mirror.pool_holds(pool) { Origin::Held } else { Origin::Live };
        match self {
            Self::Documents(gathered, index) => {
                let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
                gathered.ranges[*index] = Some(Range::of(mirror, publisher.current().disbeliefs()));
                gathered.publish(publisher);
            }
            Self::Endpoints(feeds, beside) => {
                let unwanted: Vec<Vec<u8>> = match pools {
                    None => mirror.pools().filter(|pool| !feeds.contains_key(*pool)).map(<[u8]>::to_vec).collect(),
                    Some(pools) => pools.iter().filter(|pool| !feeds.contains_key(*pool)).cloned().collect(),
                };
                let known = |pool: &[u8], feed: &mut Feed| {
                    publisher.holds(Some(&feed.source), feed.held(mirror, pool));
                    let entries = mirror.shown(pool).map(|(key, value)| (key, value.bytes.as_slice(), value.modified));
                    let (endpoints, problems) = feed.set.update(entries);
                    let unlisted = Arc::new(feed.set.unlisted(&mirror.held(pool).collect()));
                    let (endpoints, problems, origin) = (endpoints.into(), problems.into(), origin(pool));
                    let known = SourceState { endpoints, unlisted, problems, origin };
                    (feed.source.clone(), known)
                };
                let known: Vec<_> = match pools {
                    None => feeds.iter_mut().map(|(pool, feed)| known(pool, feed)).collect(),
                    Some(pools) => pools.iter().filter_map(|pool| Some(known(pool, feeds.get_mut(pool)?))).collect(),
                };
                publisher.sources(known);
                let unwanted = beside.read(mirror, unwanted);
                if !unwanted.is_empty() {
                    publisher.beside(unwanted);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mirror::Listing;
    use super::*;

    /// Watches notice one after the other that a store was wiped: what the others read before is not the new one's.
    #[test]
    fn documents_are_listed_again_when_all_their_ranges_are() {
        let (publisher, _reader) = Publisher::new(ProviderId::Etcd);
        let [mut one, mut other] = View::documents::<2>("/fleetgate/", &publisher);
        let mirror = |revision| {
            let mut mirror = Mirror::default();
            mirror.adopt(Listing { cluster: 1, revision, entries: BTreeMap::new() }, 0);
            mirror
        };
        let listed = || publisher.current().listed.get(&None).copied();
        one.publish(&mirror(9), None, &publisher);
        other.publish(&mirror(9), None, &publisher);
        assert!(publisher.current().documents.is_some() && listed().is_none());
        publisher.regressed();
        one.publish(&mirror(1), None, &publisher);
        assert_eq!(listed(), None);
        publisher.regressed();
        other.publish(&mirror(1), None, &publisher);
        assert_eq!(listed(), Some(2));
        // Another store, which one of them is the first to meet.
        publisher.other_servers();
        other.publish(&mirror(1), None, &publisher);
        assert_eq!(listed(), Some(2));
        one.publish(&mirror(1), None, &publisher);
        assert_eq!(listed(), Some(3));
    }
}
