//! Defines the routes that a request could have been given to, in order, each with what kept it from being taken.

use super::{Bucket, Entry, RouteTable, Visitor, unmet};
use crate::snapshot::request::RequestView;
use crate::spec::condition::Unmet;

/// What explain shows of a lookup.
#[derive(Debug)]
pub struct Candidates<'t> {
    /// In the order they are considered.
    pub routes: Vec<Candidate<'t>>,
    /// Candidates beyond those.
    pub more: usize,
    /// Routes for other hosts or paths.
    pub others: usize,
}

/// A route whose host and literal path fit.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'t> {
    /// Its position in [`RouteTable::routes`].
    pub position: usize,
    /// The first condition that is not met; the first candidate without one is taken.
    pub unmet: Option<Unmet<'t>>,
}

impl RouteTable {
    /// The candidates for a request, `most` of them, but always with the one that is taken.
    pub fn candidates(&self, request: &RequestView<'_>, most: usize) -> Candidates<'_> {
        let mut entries = Entries(Vec::new());
        self.walk(request, &mut entries);
        let Entries(mut entries) = entries;
        entries.sort_unstable_by_key(|entry| entry.rank);
        // Under several of its hosts a route is a candidate several times; the first time counts.
        let mut seen = hashbrown::HashSet::new();
        entries.retain(|entry| seen.insert(entry.route));
        let taken = self.take(request).ok();
        let position = |wanted: usize| entries.iter().position(|entry| entry.route as usize == wanted);
        if let Some(at) = taken.and_then(position) {
            // One that yields may go before a route that covers nothing.
            let holds = |entry: &Entry| unmet(&self.routes[entry.route as usize], request).is_none();
            let first = entries.iter().position(holds).unwrap_or(at);
            entries[first.min(at)..=at].rotate_right(1);
        }
        let mut routes = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            let position = entry.route as usize;
            if place < most || Some(position) == taken {
                routes.push(Candidate { position, unmet: unmet(&self.routes[position], request) });
            }
        }
        Candidates { more: entries.len() - routes.len(), others: self.routes.len() - entries.len(), routes }
    }

    /// What of a single route's conditions a request does not meet first, its hosts and path included.
    pub fn unmet_of(&self, position: usize, request: &RequestView<'_>) -> Option<Unmet<'_>> {
        let mut entries = Entries(Vec::new());
        self.walk(request, &mut entries);
        let route = &self.routes[position];
        if entries.0.iter().any(|entry| entry.route as usize == position) {
            return unmet(route, request);
        }
        let hosts = &route.matching().hosts;
        let host_fits = hosts.is_empty() || hosts.iter().any(|host| host.fits(request.host));
        Some(if host_fits { Unmet::Path(&route.matching().path) } else { Unmet::Host(hosts) })
    }
}

/// All entries shown.
struct Entries(Vec<Entry>);

impl Visitor for Entries {
    fn wants(&self, _: u32, _: u32) -> bool {
        true
    }

    fn expressions(&mut self, entries: &[Entry]) {
        self.0.extend_from_slice(entries);
    }

    fn bucket(&mut self, bucket: &Bucket) {
        self.0.extend_from_slice(&bucket.scan);
        let by_value = bucket.by_value.iter().flat_map(|(_, values)| values.values());
        self.0.extend(by_value.flatten());
    }
}
