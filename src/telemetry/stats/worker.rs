//! Defines the instruments of one worker, by label.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::spec::name::Name;
use crate::telemetry::unreadable::UnreadableProxies;

use super::instrument::{Counter, Gauge, Histogram};

/// How one try at an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttemptResult {
    /// A response head came.
    Ok,
    /// No connection could be made.
    Connect,
    /// The connection ended before a response.
    Reset,
    /// No response in time.
    Timeout,
    /// The endpoint broke HTTP.
    Protocol,
    /// The client gave up before there was a response.
    Abandoned,
}

impl AttemptResult {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What came of a request that was to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryResult {
    /// It was.
    Taken,
    /// As many were being tried again already as the upstream's budget allows.
    Budget,
    /// The route allows no more tries.
    Limit,
    /// Its body was too large to keep.
    Body,
    /// The time for the whole exchange would have passed meanwhile.
    Deadline,
}

impl RetryResult {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Budget => "budget",
            Self::Limit => "limit",
            Self::Body => "body",
            Self::Deadline => "deadline",
        }
    }
}

/// Whether a connection to an endpoint carries an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionState {
    /// It does.
    Active,
    /// It is kept for the next one.
    Idle,
}

impl ConnectionState {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
        }
    }
}

/// How a client's TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HandshakeResult {
    /// Both sides agreed anew.
    Full,
    /// An earlier session goes on.
    Resumed,
    /// No certificate is for the name that the client asks for.
    UnknownName,
    /// The client's certificate is missing or bad.
    ClientCertificate,
    /// It took too long.
    Timeout,
    /// Any other way.
    Failed,
}

impl HandshakeResult {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::UnknownName => "unknown_name",
            Self::ClientCertificate => "client_certificate",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
        }
    }
}

/// The instruments of one worker. The worker alone writes to the values.
///
/// Asking for a handle takes a lock and is not for the request path: keep handles. The same labels give the
/// same handle, until [`retain`](Self::retain) drops the series; a handle kept past that writes to nowhere.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// The trusted proxies whose clients are unknown, of all workers.
    pub unreadable: Arc<UnreadableProxies>,
    series: Mutex<Series>,
    /// Grows when `retain` dropped something: time to look handles up again.
    dropped: AtomicU64,
    /// How many there were after the last `retain`.
    kept: AtomicUsize,
}

/// All series of a worker.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) requests: HashMap<RequestKey, Arc<Counter>>,
    pub(super) request_duration: HashMap<Box<str>, Arc<Histogram>>,
    pub(super) upstream_duration: HashMap<Box<str>, Arc<Histogram>>,
    pub(super) attempts: HashMap<(Box<str>, AttemptResult), Arc<Counter>>,
    pub(super) retries: HashMap<(Box<str>, RetryResult), Arc<Counter>>,
    pub(super) ejections: HashMap<(Box<str>, &'static str), Arc<Counter>>,
    pub(super) panics: HashMap<Box<str>, Arc<Counter>>,
    pub(super) refused: HashMap<(Box<str>, &'static str), Arc<Counter>>,
    pub(super) target_requests: HashMap<(Box<str>, Box<str>), Arc<Counter>>,
    pub(super) target_passed_over: HashMap<(Box<str>, Box<str>), Arc<Counter>>,
    pub(super) upstream_connections: HashMap<(Box<str>, ConnectionState), Arc<Gauge>>,
    pub(super) downstream_connections: HashMap<Name, Arc<Gauge>>,
    pub(super) tls_handshakes: HashMap<(Name, HandshakeResult), Arc<Counter>>,
}

/// The labels of `fleetgate_requests_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestKey {
    pub(super) listener: Name,
    pub(super) route: Box<str>,
    pub(super) upstream: Box<str>,
    pub(super) code: u16,
    pub(super) flag: Box<str>,
}

impl WorkerStats {
    /// Those of a worker that tells of proxies together with others.
    pub(super) fn among(unreadable: &Arc<UnreadableProxies>) -> Self {
        Self { unreadable: Arc::clone(unreadable), ..Self::default() }
    }

    /// Exchanges that ended with `code` and `flag`; absent labels are empty.
    pub fn requests(&self, listener: &Name, route: &str, upstream: &str, code: u16, flag: &str) -> Arc<Counter> {
        let key = RequestKey {
            listener: listener.clone(),
            route: route.into(),
            upstream: upstream.into(),
            code,
            flag: flag.into(),
        };
        handle(&mut self.series().requests, key)
    }

    /// Durations of whole exchanges.
    pub fn request_duration(&self, route: &str) -> Arc<Histogram> {
        handle(&mut self.series().request_duration, route.into())
    }

    /// Durations of attempts, from the request sent to the response's end.
    pub fn upstream_duration(&self, upstream: &str) -> Arc<Histogram> {
        handle(&mut self.series().upstream_duration, upstream.into())
    }

    /// Attempts by result.
    pub fn attempts(&self, upstream: &str, result: AttemptResult) -> Arc<Counter> {
        handle(&mut self.series().attempts, (upstream.into(), result))
    }

    /// Requests that were to be tried again, by what came of it.
    pub fn retries(&self, upstream: &str, result: RetryResult) -> Arc<Counter> {
        handle(&mut self.series().retries, (upstream.into(), result))
    }

    /// Endpoints that requests ejected, by why.
    pub fn ejections(&self, upstream: &str, cause: &'static str) -> Arc<Counter> {
        handle(&mut self.series().ejections, (upstream.into(), cause))
    }

    /// Attempts at ejected endpoints, because all were.
    pub fn panics(&self, upstream: &str) -> Arc<Counter> {
        handle(&mut self.series().panics, upstream.into())
    }

    /// Requests that an upstream's breaker refused, by why.
    pub fn refused(&self, upstream: &str, reason: &'static str) -> Arc<Counter> {
        handle(&mut self.series().refused, (upstream.into(), reason))
    }

    /// Exchanges that a target was chosen for; `target` is `UPSTREAM` or `UPSTREAM/SUBSET`.
    pub fn target_requests(&self, route: &str, target: &str) -> Arc<Counter> {
        handle(&mut self.series().target_requests, (route.into(), target.into()))
    }

    /// Exchanges a route drew a target for that had no usable endpoint.
    pub fn target_passed_over(&self, route: &str, target: &str) -> Arc<Counter> {
        handle(&mut self.series().target_passed_over, (route.into(), target.into()))
    }

    /// Connections to an upstream's endpoints.
    pub fn upstream_connections(&self, upstream: &str, state: ConnectionState) -> Arc<Gauge> {
        handle(&mut self.series().upstream_connections, (upstream.into(), state))
    }

    /// Connections of clients.
    pub fn downstream_connections(&self, listener: &Name) -> Arc<Gauge> {
        handle(&mut self.series().downstream_connections, listener.clone())
    }

    /// Handshakes of a TLS listener's clients.
    pub fn tls_handshakes(&self, listener: &Name, result: HandshakeResult) -> Arc<Counter> {
        handle(&mut self.series().tls_handshakes, (listener.clone(), result))
    }

    /// Drops the series of routes and upstreams that are gone: a series dies with what it describes.
    /// Series with an empty route or upstream stay. The worker calls it when it adopts a snapshot, and some time after
    /// series were made.
    pub fn retain(&self, routes: impl Fn(&str) -> bool, upstreams: impl Fn(&str) -> bool) {
        let route_stays = |route: &str| route.is_empty() || routes(route);
        let upstream_stays = |upstream: &str| upstream.is_empty() || upstreams(upstream);
        let mut series = self.series();
        let before = series.len();
        series.requests.retain(|key, _| route_stays(&key.route) && upstream_stays(&key.upstream));
        series.request_duration.retain(|route, _| route_stays(route));
        series.upstream_duration.retain(|upstream, _| upstream_stays(upstream));
        series.attempts.retain(|(upstream, _), _| upstream_stays(upstream));
        series.retries.retain(|(upstream, _), _| upstream_stays(upstream));
        series.ejections.retain(|(upstream, _), _| upstream_stays(upstream));
        series.panics.retain(|upstream, _| upstream_stays(upstream));
        series.refused.retain(|(upstream, _), _| upstream_stays(upstream));
        let target_stays = |(route, target): &(Box<str>, Box<str>)| {
            let upstream = target.split('/').next().unwrap_or(target);
            // `NAME@PROVIDER` may refer to an upstream that is known by its plain name.
            let plain = upstream.split('@').next().unwrap_or(upstream);
            route_stays(route) && (upstream_stays(upstream) || upstream_stays(plain))
        };
        series.target_requests.retain(|key, _| target_stays(key));
        series.target_passed_over.retain(|key, _| target_stays(key));
        series.upstream_connections.retain(|(upstream, _), _| upstream_stays(upstream));
        if series.len() != before {
            self.dropped.fetch_add(1, Relaxed);
        }
        self.kept.store(series.len(), Relaxed);
    }

    /// Whether series were made since the last [`retain`](Self::retain): perhaps by an exchange that outlasted its route.
    pub fn has_grown(&self) -> bool {
        self.series().len() > self.kept.load(Relaxed)
    }

    pub(super) fn series(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    fn len(&self) -> usize {
        self.requests.len()
            + self.request_duration.len()
            + self.upstream_duration.len()
            + self.attempts.len()
            + self.retries.len()
            + self.ejections.len()
            + self.panics.len()
            + self.refused.len()
            + self.target_requests.len()
            + self.target_passed_over.len()
            + self.upstream_connections.len()
    }
}

/// The request counters of one listener, route and upstream, found by code and flag without a lock.
/// They survive [`WorkerStats::retain`]: series that it dropped are made again when used again.
#[derive(Debug)]
pub struct RequestCounters {
    stats: Arc<WorkerStats>,
    listener: Name,
    route: Box<str>,
    upstream: Box<str>,
    dropped: Cell<u64>,
    known: RefCell<Vec<(u16, &'static str, Arc<Counter>)>>,
}

impl RequestCounters {
    /// Counters without a value yet; no series exists before the first exchange ends.
    pub fn new(stats: &Arc<WorkerStats>, listener: &Name, route: &str, upstream: &str) -> Self {
        Self {
            stats: Arc::clone(stats),
            listener: listener.clone(),
            route: route.into(),
            upstream: upstream.into(),
            dropped: Cell::new(stats.dropped.load(Relaxed)),
            known: RefCell::default(),
        }
    }

    /// Counts an exchange that ended.
    pub fn count(&self, code: u16, flag: &'static str) {
        let mut known = self.known.borrow_mut();
        let dropped = self.stats.dropped.load(Relaxed);
        if self.dropped.replace(dropped) != dropped {
            known.clear();
        }
        // A handful of codes a route: a scan is shorter than a hash.
        if let Some((_, _, counter)) = known.iter().find(|known| known.0 == code && known.1 == flag) {
            counter.add(1);
            return;
        }
        let counter = self.stats.requests(&self.listener, &self.route, &self.upstream, code, flag);
        counter.add(1);
        known.push((code, flag, counter));
    }
}

fn handle<K: Eq + Hash, V: Default>(series: &mut HashMap<K, Arc<V>>, key: K) -> Arc<V> {
    Arc::clone(series.entry(key).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Name {
        "web".parse().expect("a name")
    }

    #[test]
    fn equal_labels_give_the_same_handle() {
        let stats = WorkerStats::default();
        let one = stats.requests(&web(), "a", "u", 200, "");
        assert!(Arc::ptr_eq(&one, &stats.requests(&web(), "a", "u", 200, "")));
        assert!(!Arc::ptr_eq(&one, &stats.requests(&web(), "a", "u", 200, "UF")));
        assert!(!Arc::ptr_eq(&one, &stats.requests(&web(), "a", "u", 201, "")));
    }

    #[test]
    fn a_series_dies_with_its_route_or_upstream() {
        let stats = WorkerStats::default();
        stats.requests(&web(), "", "", 404, "NR").add(1);
        stats.requests(&web(), "kept", "kept", 200, "").add(1);
        stats.requests(&web(), "kept", "gone", 200, "").add(1);
        stats.requests(&web(), "gone", "kept", 200, "").add(1);
        stats.target_requests("kept", "kept/v2").add(1);
        stats.target_requests("kept", "kept@etcd").add(1);
        stats.target_requests("kept", "gone/v2").add(1);
        stats.request_duration("gone");
        stats.upstream_duration("gone");
        stats.attempts("gone", AttemptResult::Ok);
        stats.retries("gone", RetryResult::Taken);
        stats.ejections("gone", "failures");
        stats.panics("gone");
        stats.refused("gone", "open");
        stats.upstream_connections("gone", ConnectionState::Idle);
        stats.downstream_connections(&web());
        stats.retain(|route| route == "kept", |upstream| upstream == "kept");
        let series = stats.series();
        let mut requests: Vec<_> = series.requests.keys().map(|key| (&*key.route, &*key.upstream)).collect();
        requests.sort_unstable();
        assert_eq!(requests, [("", ""), ("kept", "kept")]);
        assert_eq!(series.target_requests.len(), 2);
        assert_eq!(series.len(), 4);
        assert_eq!(series.downstream_connections.len(), 1);
    }

    #[test]
    fn request_counters_find_their_series_again_after_it_died() {
        let stats = Arc::new(WorkerStats::default());
        let counters = RequestCounters::new(&stats, &web(), "a", "u");
        counters.count(200, "");
        counters.count(200, "");
        counters.count(503, "UH");
        let value = |code, flag| stats.requests(&web(), "a", "u", code, flag).value();
        assert_eq!((value(200, ""), value(503, "UH")), (2, 1));
        stats.retain(|_| false, |_| true);
        counters.count(200, "");
        assert_eq!((value(200, ""), stats.series().requests.len()), (1, 1));
    }
}
