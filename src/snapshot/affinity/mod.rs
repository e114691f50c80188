//! Defines what leads the same key to the same endpoint, on every gateway and worker: made once when the endpoints of
//! an upstream change, and only read by requests.

use std::net::IpAddr;

use super::endpoint::Endpoint;
use super::request::RequestView;
use super::target::{client_octets, hash};
use super::upstream::selects;
use crate::spec::condition::cookie_values;
use crate::spec::name::Name;
use crate::spec::upstream::{Balance, Hash, HashKey, UpstreamSettings};

mod maglev;
mod ring;
mod session;

pub use session::Sessions;

/// The tables of an upstream's endpoints.
#[derive(Debug, Default)]
pub struct Affinity {
    /// By [`super::Target::subset`]; empty where nothing hashes.
    tables: Vec<Table>,
    sessions: Option<Sessions>,
}

impl Affinity {
    /// What the settings want of the endpoints. `name` is the upstream's.
    pub fn new(name: &Name, settings: &UpstreamSettings, endpoints: &[Endpoint]) -> Self {
        let sessions = settings.session.as_ref().map(|session| Sessions::new(name, session, endpoints));
        Self { tables: tables(settings, endpoints), sessions }
    }

    /// Whether two settings make the same of the same endpoints.
    pub fn depends_on_equal(a: &UpstreamSettings, b: &UpstreamSettings) -> bool {
        a.balance == b.balance && a.subsets == b.subsets && a.session == b.session
    }

    /// Where clients stay; `None` where they do not.
    pub fn sessions(&self) -> Option<&Sessions> {
        self.sessions.as_ref()
    }

    /// The endpoints of a subset in the order in which a key prefers them; most come many times.
    pub fn walk(&self, subset: usize, key: u64) -> impl Iterator<Item = u32> + '_ {
        let table = self.tables.get(subset);
        table.into_iter().flat_map(move |table| {
            let (before, from) = table.owners.split_at(table.start(key));
            from.iter().chain(before).copied()
        })
    }
}

fn tables(settings: &UpstreamSettings, endpoints: &[Endpoint]) -> Vec<Table> {
    let make: fn(&[Entry]) -> Table = match settings.balance {
        Balance::RingHash => ring::table,
        Balance::Maglev => maglev::table,
        Balance::RoundRobin | Balance::LeastRequests | Balance::P2cEwma | Balance::Random => {
            return Vec::new();
        }
    };
    let selectors = std::iter::once(None).chain(settings.subsets.values().map(Some));
    let tables = selectors.map(|selector| {
        let selected = (0u32..)
            .zip(endpoints)
            .filter(|(_, endpoint)| selector.is_none_or(|selector| selects(selector, &endpoint.labels)));
        make(&selected.filter_map(|(index, endpoint)| Entry::of(index, endpoint)).collect::<Vec<_>>())
    });
    tables.collect()
}

/// Owners of places that keys fall on. It has all endpoints that may take traffic, whoever does now: a key whose
/// endpoint is out goes to the next place's, so that no other key moves when one fails or comes back.
#[derive(Debug, Default)]
struct Table {
    /// Where on the ring each place begins; empty when all places are equally wide.
    points: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Table {
    fn start(&self, key: u64) -> usize {
        let places = self.owners.len();
        if self.points.is_empty() {
            // Never divides by 0: no places, no remainder to take.
            return if places == 0 { 0 } else { (key % places as u64) as usize };
        }
        // Behind the last point the ring begins again.
        let at = self.points.partition_point(|point| *point < key);
        if at == places { 0 } else { at }
    }
}

/// An endpoint as tables are made of.
#[derive(Clone, Debug)]
struct Entry {
    index: u32,
    /// Above 0.
    weight: u64,
    /// What all gateways know it by.
    identity: String,
}

impl Entry {
    fn of(index: u32, endpoint: &Endpoint) -> Option<Self> {
        (endpoint.weight > 0).then(|| Self {
            index,
            weight: endpoint.weight.into(),
            identity: endpoint.address.to_string(),
        })
    }
}

/// The hash of a request's key; `None` when it has none.
pub fn key(policy: &Hash, request: &RequestView<'_>, client: Option<IpAddr>) -> Option<u64> {
    let text = match &policy.key {
        HashKey::Header(name) => request.headers.get(name).map(|value| value.as_bytes()),
        HashKey::Cookie(name) => cookie_values(request.headers, name).next(),
        HashKey::Path => Some(request.path.as_bytes()),
        HashKey::ClientIp => return client.map(|client| hash(KEY, &client_octets(client))),
    };
    text.filter(|text| !text.is_empty()).map(|text| hash(KEY, text))
}

/// The seeds of the hashes, apart from each other so that a key that is an address means nothing special.
/// Fixed for ever, like [`hash`].
const KEY: u64 = 1;
const POINT: u64 = 2;
const OFFSET: u64 = 3;
const SKIP: u64 = 4;

#[cfg(test)]
mod tests;
