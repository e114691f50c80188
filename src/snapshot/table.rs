//! Defines the route table: the total order of routes, and an index that finds the first match without a scan.
//!
//! Every pair of a route and one of its hosts is an entry with a rank in the total order. A lookup visits the
//! few buckets a request can fall into (its host, the wildcards above it, no host; in each its exact path, the
//! expressions, its prefixes), and keeps the lowest rank that matches.
//!
//! Routes that yield have the highest ranks: any other route that matches and covers something goes first. One that
//! covers nothing competes with them by specificity.

use std::cmp::Reverse;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use http::HeaderName;

use super::contest::Contest;
use super::request::RequestView;
use super::route::Route;
use crate::exchange::ProxyError;
use crate::spec::condition::{Searched, Unmet, first_unmet, query_values};
use crate::spec::matching::{Conditions, HostMatch, MAX_SUBJECT_BYTES, PathMatch, TooLong, ValueMatch};
use crate::spec::route::RouteSpec;

mod candidates;

pub use candidates::{Candidate, Candidates};

/// All routes, in order, with their index.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    by_label: HashMap<Arc<str>, usize>,
    exact: HashMap<String, HostTable>,
    wildcard: HashMap<String, HostTable>,
    any: HostTable,
    /// Of each route, by its position: of routes that nothing else orders the lowest goes first.
    seniority: Vec<u32>,
    /// The lowest rank of those that yield; `u32::MAX`: there are none.
    yielding: u32,
    /// The lowest rank of those that neither yield nor cover anything; `u32::MAX`: there are none.
    uncovering: u32,
    /// Of each entry, by its rank: what it would be if none yielded. Empty when none does.
    plain: Vec<u32>,
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
    /// The same among those that yield.
    best_yielding: u32,
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

impl Default for RouteTable {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            by_label: HashMap::default(),
            exact: HashMap::default(),
            wildcard: HashMap::default(),
            any: HostTable::default(),
            seniority: Vec::new(),
            yielding: u32::MAX,
            uncovering: u32::MAX,
            plain: Vec::new(),
        }
    }
}

impl Default for HostTable {
    fn default() -> Self {
        Self {
            best: u32::MAX,
            best_yielding: u32::MAX,
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
    /// Sorts and indexes routes; of equal ones the first by name goes first.
    pub fn new(mut routes: Vec<Arc<Route>>) -> Self {
        routes.sort_by(|a, b| (&a.name, a.provider).cmp(&(&b.name, b.provider)));
        let seniority = (0..).take(routes.len()).collect();
        Self::ordered(routes, seniority, &[])
    }

    /// Sorts and indexes routes, which are given by name. Of equal ones those that win their contests go first, then
    /// those of lower `seniority`.
    pub fn ordered(routes: Vec<Arc<Route>>, seniority: Vec<u32>, contests: &[Contest]) -> Self {
        let lost = contests.iter().filter(|contest| contest.is_of_equals());
        let lost: HashSet<(&str, usize)> =
            lost.filter_map(|contest| Some((contest.route.as_str(), contest.host?))).collect();
        let mut entries: Vec<(u32, usize, Option<&HostMatch>)> = Vec::with_capacity(routes.len());
        for (index, route) in (0u32..).zip(&routes) {
            match route.matching().hosts.as_slice() {
                [] => entries.push((index, 0, None)),
                hosts => entries.extend(hosts.iter().enumerate().map(|(at, host)| (index, at, Some(host)))),
            }
        }
        let yields = |index: u32| routes[index as usize].spec.registered.yields;
        entries.sort_by_cached_key(|&(index, at, host)| {
            let route = &routes[index as usize];
            let has_lost = lost.contains(&(route.name.as_str(), at));
            // Where all else is equal, those that yield do.
            (specificity(&route.spec, host), has_lost, route.spec.registered.yields, seniority[index as usize])
        });
        let mut plain: Vec<u32> = Vec::new();
        let mut table = Self::default();
        if entries.iter().any(|(index, ..)| yields(*index)) {
            let mut ranked: Vec<_> = (0u32..).zip(entries).collect();
            // Stable: those that yield go behind all others, and in their order.
            ranked.sort_by_key(|(_, (index, ..))| yields(*index));
            plain = ranked.iter().map(|(rank, _)| *rank).collect();
            entries = ranked.into_iter().map(|(_, entry)| entry).collect();
            let first = entries.iter().position(|(index, ..)| yields(*index)).unwrap_or(entries.len());
            table.yielding = u32::try_from(first).unwrap_or(u32::MAX);
            let covers = |index: u32| routes[index as usize].spec.covers();
            let uncovering = entries[..first].iter().position(|(index, ..)| !covers(*index));
            table.uncovering = uncovering.and_then(|rank| u32::try_from(rank).ok()).unwrap_or(u32::MAX);
        }
        for (rank, (route, _, host)) in (0u32..).zip(entries) {
            let entry = Entry { rank, route };
            let yields = rank >= table.yielding;
            let hosts = match host {
                Some(HostMatch::Exact(host)) => table.exact.entry(host.clone()).or_default(),
                Some(HostMatch::Wildcard(suffix)) => table.wildcard.entry(suffix.clone()).or_default(),
                None => &mut table.any,
            };
            hosts.insert(entry, yields, &routes[route as usize].matching().path);
        }
        for hosts in table.exact.values_mut().chain(table.wildcard.values_mut()).chain([&mut table.any]) {
            for bucket in hosts.exact.values_mut().chain(hosts.prefixes.values_mut()).chain(hosts.starts.values_mut()) {
                bucket.index(&routes);
            }
        }
        table.by_label = routes.iter().enumerate().map(|(index, route)| (Arc::clone(&route.label), index)).collect();
        table.routes = routes;
        (table.seniority, table.plain) = (seniority, plain);
        table
    }

    /// What orders routes that nothing else orders, by their positions.
    pub fn seniority(&self) -> &[u32] {
        &self.seniority
    }

    /// All routes by name.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The route that metrics and logs call so.
    pub fn by_label(&self, label: &str) -> Option<&Arc<Route>> {
        self.by_label.get(label).map(|&index| &self.routes[index])
    }

    /// The route that a request is given to: the first in order whose every condition holds, as its position in
    /// [`RouteTable::routes`].
    ///
    /// # Errors
    /// What the client gets where there is none, or where a regular expression would have to search too much of the request
    /// to know: the route may protect what the next one serves.
    #[inline]
    pub fn take(&self, request: &RequestView<'_>) -> Result<usize, ProxyError> {
        let mut best = Best { entry: None, yielding: None, table: self, request };
        self.walk(request, &mut best);
        match best.taken()? {
            Some(entry) => Ok(entry.route as usize),
            None => Err(ProxyError::NoRoute),
        }
    }

    /// Whether an entry keeps those that yield from what it matches.
    fn covers(&self, entry: Entry) -> bool {
        self.routes[entry.route as usize].spec.covers()
    }

    /// Whether none of those that yield gets what an entry matches: it keeps them from that, and no better entry may turn up
    /// that does not.
    fn settles(&self, entry: Entry) -> bool {
        entry.rank < self.uncovering && self.covers(entry)
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
    /// Whether it wants to see a table whose lowest rank is this, and whose lowest one that yields is that.
    fn wants(&self, best: u32, yielding: u32) -> bool;

    /// Expressions, which may match the path or not.
    fn expressions(&mut self, entries: &[Entry]);

    /// The entries of one path.
    fn bucket(&mut self, bucket: &Bucket);
}

/// What orders routes before it matters who asked first, as a sortable key: smaller goes first.
pub type Specificity = (Reverse<i32>, (u8, Reverse<usize>), (u8, Reverse<usize>), bool, Reverse<usize>, Reverse<usize>);

/// How specific a route is under one of its hosts.
pub fn specificity(spec: &RouteSpec, host: Option<&HostMatch>) -> Specificity {
    let matching = &spec.matching;
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
        Reverse(spec.priority),
        host,
        path,
        matching.methods.is_empty(),
        Reverse(matching.conditions.headers.len()),
        Reverse(matching.conditions.query.len()),
    )
}

impl HostTable {
    fn insert(&mut self, entry: Entry, yields: bool, path: &PathMatch) {
        let best = if yields { &mut self.best_yielding } else { &mut self.best };
        *best = (*best).min(entry.rank);
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
        if !visitor.wants(self.best, self.best_yielding) {
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

/// A route that matches or, if its expression can't search the request, may match.
#[derive(Clone, Copy, Debug)]
struct Match {
    entry: Entry,
    unknown: Option<TooLong>,
}

impl Match {
    fn known(self) -> Result<Entry, TooLong> {
        self.unknown.map_or(Ok(self.entry), Err)
    }
}

/// The best match so far of one lookup.
struct Best<'a> {
    /// Among the routes that do not yield.
    entry: Option<Match>,
    /// Among those that do.
    yielding: Option<Match>,
    table: &'a RouteTable,
    request: &'a RequestView<'a>,
}

impl Visitor for Best<'_> {
    #[inline]
    fn wants(&self, best: u32, yielding: u32) -> bool {
        self.beatable_by(best) || yielding != u32::MAX && self.beatable_by(yielding)
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
    #[inline]
    fn beatable_by(&self, rank: u32) -> bool {
        if rank < self.table.yielding {
            return self.entry.is_none_or(|best| rank < best.entry.rank);
        }
        self.yielding.is_none_or(|best| rank < best.entry.rank)
            && self.entry.is_none_or(|best| !self.table.settles(best.entry))
    }

    /// Who gets the request.
    ///
    /// # Errors
    /// Nobody knows whether a route matches that would get it, or that would decide who does.
    #[inline]
    fn taken(&self) -> Result<Option<Entry>, TooLong> {
        let entry = self.entry.map(Match::known).transpose()?;
        let (Some(entry), Some(yielding)) = (entry, self.yielding) else {
            return entry.map_or_else(|| self.yielding.map(Match::known).transpose(), |entry| Ok(Some(entry)));
        };
        let plain = |entry: Entry| self.table.plain[entry.rank as usize];
        let goes_first = self.table.covers(entry) || plain(entry) < plain(yielding.entry);
        if goes_first { Ok(Some(entry)) } else { yielding.known().map(Some) }
    }

    /// Tries entries in order, until one matches or none could win any more.
    fn try_all(&mut self, entries: &[Entry]) {
        for entry in entries {
            let yields = entry.rank >= self.table.yielding;
            if !self.beatable_by(entry.rank) {
                // Those that yield come last, and have rivals of their own.
                if yields || self.table.yielding == u32::MAX {
                    return;
                }
                continue;
            }
            let unknown = match unmet(&self.table.routes[entry.route as usize], self.request) {
                None => None,
                Some(Unmet::Unknown(what)) => Some(what.too_long()),
                Some(_) => continue,
            };
            let found = Some(Match { entry: *entry, unknown });
            if yields {
                self.yielding = found;
                return;
            }
            self.entry = found;
            if self.table.yielding == u32::MAX || self.table.settles(*entry) {
                return;
            }
        }
    }
}

/// The first of a route's conditions that a request does not meet, host and literal paths being matched already.
#[inline]
fn unmet<'r>(route: &'r Route, request: &RequestView<'_>) -> Option<Unmet<'r>> {
    let matching = route.matching();
    let mut unknown = None;
    if let PathMatch::Regex(pattern) = &matching.path {
        if request.path.len() > MAX_SUBJECT_BYTES {
            unknown = Some(Unmet::Unknown(Searched::Path));
        } else if !pattern.is_match(request.path.as_bytes()) {
            return Some(Unmet::Path(&matching.path));
        }
    }
    if !matching.methods.is_empty() && !matching.methods.contains(request.method) {
        return Some(Unmet::Method(&matching.methods));
    }
    if !route.spec.listeners.is_empty() && !route.spec.listeners.contains(request.listener) {
        return Some(Unmet::Listener(&route.spec.listeners));
    }
    first_unmet(&matching.conditions, request.headers, request.query).or(unknown)
}

#[cfg(test)]
mod tests;
