//! Defines the route table: the total order of routes, and an index that finds the first match without a scan.
//!
//! Every pair of a route and one of its hosts is an entry with a rank in the total order. A lookup visits the
//! few buckets a request can fall into (its host, the wildcards above it, no host; in each its exact path, the
//! expressions, its prefixes), and keeps the lowest rank that matches.

use std::cmp::Reverse;
use std::sync::Arc;

use hashbrown::HashMap;
use http::HeaderName;

use super::request::RequestView;
use super::route::Route;
use crate::exchange::ProxyError;
use crate::spec::condition::{Unmet, first_unmet, query_values};
use crate::spec::matching::{Conditions, HostMatch, PathMatch, ValueMatch};

mod candidates;

pub use candidates::{Candidate, Candidates};

/// All routes, in order, with their index.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    by_label: HashMap<Arc<str>, usize>,
    exact: HashMap<String, HostTable>,
    wildcard: HashMap<String, HostTable>,
    any: HostTable,
}

/// A route under one of its hosts; sorts by the contract's order.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rank: u32,
    route: u32,
}

/// The entries of one host.
#[derive(Debug)]
struct HostTable {
    /// The lowest rank in here: a table that cannot win is not searched.
    best: u32,
    exact: HashMap<String, Bucket>,
    expressions: Vec<Entry>,
    prefixes: HashMap<String, Bucket>,
    /// By the text that paths begin with.
    starts: HashMap<String, Bucket>,
    /// The lengths of those texts, each once.
    start_lengths: Vec<usize>,
    /// Bit N: there is a prefix of N segments (63 stands for more).
    depths: u64,
}

/// The entries of one host and path.
#[derive(Debug, Default)]
struct Bucket {
    /// Entries in order, without those that `by_value` holds.
    scan: Vec<Entry>,
    /// Entries that need a header or query name to be exactly something, found by that value.
    by_value: Vec<(Key, ByValue)>,
}

/// Whose value entries are found by.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Header(HeaderName),
    Query(String),
}

/// Entries by the exact value of a header or query name, in order.
type ByValue = HashMap<Vec<u8>, Vec<Entry>>;

/// From so many entries on, a bucket is indexed by values.
const INDEX_FROM: usize = 8;

impl Default for HostTable {
    fn default() -> Self {
        Self {
            best: u32::MAX,
            exact: HashMap::default(),
            expressions: Vec::new(),
            prefixes: HashMap::default(),
            starts: HashMap::default(),
            start_lengths: Vec::new(),
            depths: 0,
        }
    }
}

impl RouteTable {
    /// Sorts and indexes routes.
    pub fn new(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by(|a, b| (&a.name, a.provider).cmp(&(&b.name, b.provider)));
        let mut entries: Vec<(u32, Option<&HostMatch>)> = Vec::with_capacity(routes.len());
        for (index, route) in (0u32..).zip(&routes) {
            match route.matching().hosts.as_slice() {
                [] => entries.push((index, None)),
                hosts => entries.extend(hosts.iter().map(|host| (index, Some(host)))),
            }
        }
        // Stable, and by name before: equal keys stay in the order of names.
        entries.sort_by_cached_key(|&(index, host)| order(&routes[index as usize], host));

        let mut table = Self::default();
        for (rank, (route, host)) in (0u32..).zip(entries) {
            let entry = Entry { rank, route };
            let hosts = match host {
                Some(HostMatch::Exact(host)) => table.exact.entry(host.clone()).or_default(),
                Some(HostMatch::Wildcard(suffix)) => table.wildcard.entry(suffix.clone()).or_default(),
                None => &mut table.any,
            };
            hosts.insert(entry, &routes[route as usize].matching().path);
        }
        for hosts in table.exact.values_mut().chain(table.wildcard.values_mut()).chain([&mut table.any]) {
            for bucket in hosts.exact.values_mut().chain(hosts.prefixes.values_mut()).chain(hosts.starts.values_mut()) {
                bucket.index(&routes);
            }
        }
        table.by_label = routes.iter().enumerate().map(|(index, route)| (Arc::clone(&route.label), index)).collect();
        table.routes = routes;
        table
    }

    /// All routes by name.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The route that metrics and logs call so.
    pub fn by_label(&self, label: &str) -> Option<&Arc<Route>> {
        self.by_label.get(label).map(|&index| &self.routes[index])
    }

    /// The first route in order whose every condition holds, as its position in [`RouteTable::routes`].
    pub fn find(&self, request: &RequestView<'_>) -> Option<usize> {
        let mut best = Best { entry: None, table: self, request };
        self.walk(request, &mut best);
        best.entry.map(|entry| entry.route as usize)
    }

    /// The route that a request is given to, as [`RouteTable::find`].
    ///
    /// # Errors
    /// What the client gets where there is none.
    #[inline]
    pub fn take(&self, request: &RequestView<'_>) -> Result<usize, ProxyError> {
        self.find(request).ok_or(ProxyError::NoRoute)
    }

    /// Shows a visitor all entries whose host and literal path fit.
    #[inline]
    fn walk(&self, request: &RequestView<'_>, visitor: &mut impl Visitor) {
        if !request.host.is_empty() {
            if !self.exact.is_empty()
                && let Some(hosts) = self.exact.get(request.host)
            {
                hosts.walk(request.path, visitor);
            }
            if !self.wildcard.is_empty() {
                let mut rest = request.host;
                while let Some((_, suffix)) = rest.split_once('.') {
                    if let Some(hosts) = self.wildcard.get(suffix) {
                        hosts.walk(request.path, visitor);
                    }
                    rest = suffix;
                }
            }
        }
        self.any.walk(request.path, visitor);
    }
}

/// What is shown the entries a request can fall into.
trait Visitor {
    /// Whether it wants to see a table whose lowest rank is this.
    fn wants(&self, best: u32) -> bool;

    /// Expressions, which may match the path or not.
    fn expressions(&mut self, entries: &[Entry]);

    /// The entries of one path.
    fn bucket(&mut self, bucket: &Bucket);
}

/// The order of the contract, as a sortable key: smaller goes first.
type Order = (Reverse<i32>, (u8, Reverse<usize>), bool, (u8, Reverse<usize>), bool, Reverse<usize>, Reverse<usize>);

fn order(route: &Route, host: Option<&HostMatch>) -> Order {
    let matching = route.matching();
    let host = match host {
        Some(HostMatch::Exact(_)) => (0, Reverse(0)),
        Some(HostMatch::Wildcard(suffix)) => (1, Reverse(suffix.len())),
        None => (2, Reverse(0)),
    };
    let path = match &matching.path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Regex(pattern) => (1, Reverse(pattern.source().len())),
        PathMatch::Prefix(prefix) | PathMatch::Start(prefix) => (2, Reverse(prefix.len())),
    };
    (
        Reverse(route.spec.priority),
        host,
        route.spec.registered.yields,
        path,
        matching.methods.is_empty(),
        Reverse(matching.conditions.headers.len()),
        Reverse(matching.conditions.query.len()),
    )
}

impl HostTable {
    fn insert(&mut self, entry: Entry, path: &PathMatch) {
        self.best = self.best.min(entry.rank);
        match path {
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().scan.push(entry),
            PathMatch::Regex(_) => self.expressions.push(entry),
            PathMatch::Prefix(prefix) => {
                self.depths |= 1 << prefix.matches('/').count().min(63);
                self.prefixes.entry(prefix.clone()).or_default().scan.push(entry);
            }
            PathMatch::Start(text) => {
                if !self.start_lengths.contains(&text.len()) {
                    self.start_lengths.push(text.len());
                }
                self.starts.entry(text.clone()).or_default().scan.push(entry);
            }
        }
    }

    #[inline]
    fn walk(&self, path: &str, visitor: &mut impl Visitor) {
        if !visitor.wants(self.best) {
            return;
        }
        if !self.exact.is_empty()
            && let Some(bucket) = self.exact.get(path)
        {
            visitor.bucket(bucket);
        }
        visitor.expressions(&self.expressions);
        for &length in &self.start_lengths {
            if let Some(bucket) = path.get(..length).and_then(|text| self.starts.get(text)) {
                visitor.bucket(bucket);
            }
        }
        if self.depths != 0 {
            // `/a/b/` is asked as `/a/b`: prefixes are kept without a trailing slash.
            let mut prefix = path.strip_suffix('/').unwrap_or(path);
            let mut depth = prefix.bytes().filter(|&byte| byte == b'/').count();
            loop {
                if self.depths & (1 << depth.min(63)) != 0
                    && let Some(bucket) = self.prefixes.get(prefix)
                {
                    visitor.bucket(bucket);
                }
                let Some((parent, _)) = prefix.rsplit_once('/') else { break };
                prefix = parent;
                depth -= 1;
            }
        }
    }
}

impl Bucket {
    /// Moves entries that need an exact value into a map by that value, when there are many.
    fn index(&mut self, routes: &[Arc<Route>]) {
        if self.scan.len() < INDEX_FROM {
            return;
        }
        for entry in std::mem::take(&mut self.scan) {
            match exact_value(&routes[entry.route as usize].matching().conditions) {
                None => self.scan.push(entry),
                Some((key, value)) => {
                    let position = self.by_value.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                        self.by_value.push((key, ByValue::default()));
                        self.by_value.len() - 1
                    });
                    self.by_value[position].1.entry(value.as_bytes().to_owned()).or_default().push(entry);
                }
            }
        }
    }

    fn search(&self, best: &mut Best<'_>) {
        let request = best.request;
        for (key, values) in &self.by_value {
            let mut try_value = |value: &[u8]| {
                if let Some(entries) = values.get(value) {
                    best.try_all(entries);
                }
            };
            match key {
                Key::Header(name) => {
                    request.headers.get_all(name).iter().for_each(|value| try_value(value.as_bytes()));
                }
                Key::Query(name) => query_values(request.query, name).for_each(|value| try_value(&value)),
            }
        }
        best.try_all(&self.scan);
    }
}

/// A value that conditions need exactly, and of what.
fn exact_value(conditions: &Conditions) -> Option<(Key, &str)> {
    fn exact<K>((key, wanted): &(K, ValueMatch)) -> Option<(&K, &str)> {
        match wanted {
            ValueMatch::Exact(value) => Some((key, value)),
            ValueMatch::Regex(_) | ValueMatch::Present(_) => None,
        }
    }
    let header = conditions.headers.iter().find_map(exact).map(|(name, value)| (Key::Header(name.clone()), value));
    header.or_else(|| conditions.query.iter().find_map(exact).map(|(name, value)| (Key::Query(name.clone()), value)))
}

/// The best match so far of one lookup.
struct Best<'a> {
    entry: Option<Entry>,
    table: &'a RouteTable,
    request: &'a RequestView<'a>,
}

impl Visitor for Best<'_> {
    #[inline]
    fn wants(&self, best: u32) -> bool {
        self.beatable_by(best)
    }

    #[inline]
    fn expressions(&mut self, entries: &[Entry]) {
        self.try_all(entries);
    }

    #[inline]
    fn bucket(&mut self, bucket: &Bucket) {
        bucket.search(self);
    }
}

impl Best<'_> {
    fn beatable_by(&self, rank: u32) -> bool {
        self.entry.is_none_or(|entry| rank < entry.rank)
    }

    /// Tries entries in order, until one matches or none could win any more.
    fn try_all(&mut self, entries: &[Entry]) {
        for entry in entries {
            if !self.beatable_by(entry.rank) {
                return;
            }
            if unmet(&self.table.routes[entry.route as usize], self.request).is_none() {
                self.entry = Some(*entry);
                return;
            }
        }
    }
}

/// The first of a route's conditions that a request does not meet, host and literal paths being matched already.
#[inline]
fn unmet<'r>(route: &'r Route, request: &RequestView<'_>) -> Option<Unmet<'r>> {
    let matching = route.matching();
    if let PathMatch::Regex(pattern) = &matching.path
        && !pattern.is_match(request.path.as_bytes())
    {
        return Some(Unmet::Path(&matching.path));
    }
    if !matching.methods.is_empty() && !matching.methods.contains(request.method) {
        return Some(Unmet::Method(&matching.methods));
    }
    if !route.spec.listeners.is_empty() && !route.spec.listeners.contains(request.listener) {
        return Some(Unmet::Listener(&route.spec.listeners));
    }
    first_unmet(&matching.conditions, request.headers, request.query)
}

#[cfg(test)]
mod tests;
