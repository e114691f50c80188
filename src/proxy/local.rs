//! Defines a worker's own view of a snapshot: what it keeps beside each route, upstream and endpoint, carried
//! over from view to view by the state's identity.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method};

use super::balance::{Latency, Load, Pool};
use super::drain::Drain;
use super::kept::Kept;
use super::multiplexed::Trunks;
use super::secure::LocalTls;
use super::worker::Worker;
use crate::exchange::ProxyError;
use crate::middleware;
use crate::snapshot::middleware::{Fate, chain as middlewares};
use crate::snapshot::{
    Certificates, Consumers, Endpoint, EndpointState, Flip, Middlewares, RequestView, Route, RouteTable, Secure,
    Snapshot, Target, Trial, Upstream, Verdict, preflight,
};
use crate::spec::name::Name;
use crate::spec::upstream::Protocol;
use crate::telemetry::stats::{
    AttemptResult, ConnectionState, Counter, Gauge, Histogram, RequestCounters, RetryResult, WorkerStats,
};

/// A worker's view of a snapshot.
#[derive(Debug)]
pub(super) struct LocalSnapshot {
    pub(super) is_closed: bool,
    routes: Rc<LocalRoutes>,
    upstreams: Vec<Option<Rc<LocalUpstream>>>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) consumers: Arc<Consumers>,
    /// By label; made when somebody asks.
    slots: OnceCell<HashMap<Arc<str>, usize>>,
    middlewares: Arc<Middlewares>,
}

/// The middlewares of an exchange, the outermost first.
pub(super) type Chain = middleware::Chain;

/// The routes of a table, each made local on first use.
#[derive(Debug)]
struct LocalRoutes {
    table: Arc<RouteTable>,
    routes: Vec<OnceCell<Rc<LocalRoute>>>,
}

impl LocalSnapshot {
    /// The view of a worker that knows nothing yet.
    pub(super) fn empty() -> Self {
        let routes = Rc::new(LocalRoutes { table: Arc::default(), routes: Vec::new() });
        Self {
            is_closed: true,
            routes,
            upstreams: Vec::new(),
            certificates: Arc::default(),
            consumers: Arc::default(),
            slots: OnceCell::new(),
            middlewares: Arc::default(),
        }
    }

    /// The view of a new snapshot. What is unchanged stays as it is, and every endpoint that lives on keeps its
    /// connections. Those that take no more begin to be drained.
    pub(super) fn adopt(&self, snapshot: &Snapshot, stats: &Arc<WorkerStats>, drains: &mut Vec<Rc<Drain>>) -> Self {
        let same_middlewares = Arc::ptr_eq(&self.middlewares, &snapshot.middlewares);
        let routes = if same_middlewares && Arc::ptr_eq(&self.routes.table, &snapshot.routes) {
            Rc::clone(&self.routes)
        } else {
            let routes = snapshot.routes.routes().iter().map(|_| OnceCell::new()).collect();
            Rc::new(LocalRoutes { table: Arc::clone(&snapshot.routes), routes })
        };
        let before = |slot: usize| self.upstreams.get(slot).and_then(Option::as_ref);
        let upstreams = snapshot
            .upstreams
            .iter()
            .enumerate()
            .map(|(slot, upstream)| {
                let upstream = upstream.as_ref()?;
                Some(match before(slot) {
                    Some(local) if Arc::ptr_eq(&local.upstream, upstream) => Rc::clone(local),
                    before => Rc::new(LocalUpstream::new(upstream, before.map(Rc::as_ref), stats, drains)),
                })
            })
            .collect();
        for (slot, local) in self.upstreams.iter().enumerate() {
            if let Some(local) = local.as_ref().filter(|_| snapshot.upstream(slot).is_none()) {
                let now = Instant::now();
                local.endpoints.iter().for_each(|endpoint| local.leave(endpoint, now, drains));
            }
        }
        let middlewares = Arc::clone(&snapshot.middlewares);
        Self {
            is_closed: snapshot.is_closed(),
            routes,
            upstreams,
            certificates: Arc::clone(&snapshot.certificates),
            consumers: Arc::clone(&snapshot.consumers),
            slots: OnceCell::new(),
            middlewares,
        }
    }

    /// The table requests are matched by.
    pub(super) fn table(&self) -> &Arc<RouteTable> {
        &self.routes.table
    }

    /// The route of a preflight, as [`preflight::take`].
    pub(super) fn take_preflight(&self, view: &RequestView<'_>, asked: &Method) -> Result<(usize, bool), ProxyError> {
        preflight::take(self.table(), &self.middlewares, view, asked)
    }

    /// The local side of the route at a position of the table.
    pub(super) fn route(&self, position: usize, stats: &Arc<WorkerStats>) -> Rc<LocalRoute> {
        let make = || Rc::new(LocalRoute::new(&self.routes.table.routes()[position], stats));
        Rc::clone(self.routes.routes[position].get_or_init(make))
    }

    /// The middlewares that a request passes at a listener, with a route or without one; `None`: none.
    ///
    /// # Errors
    /// What the client gets where the listener names what is not there.
    pub(super) fn chain(
        &self,
        route: Option<&Rc<LocalRoute>>,
        listener: &Name,
    ) -> Result<Option<Rc<Chain>>, ProxyError> {
        let of_listener = self.middlewares.of_listener(listener).map_err(|(error, _)| error)?;
        let of_route = route.map_or(&[][..], |local| &local.route.middlewares);
        if of_listener.is_empty() && of_route.is_empty() {
            return Ok(None);
        }
        let make = || -> Rc<Chain> {
            let all = middlewares(of_listener, of_route).filter(|(.., fate)| matches!(fate, Fate::Runs));
            all.map(|(named, ..)| Arc::clone(&named.middleware)).collect()
        };
        let Some(local) = route else { return Ok(Some(make())) };
        let mut known = local.chains.borrow_mut();
        if let Some((_, chain)) = known.iter().find(|(name, _)| name == listener) {
            return Ok(Some(Rc::clone(chain)));
        }
        let chain = make();
        known.push((listener.clone(), Rc::clone(&chain)));
        Ok(Some(chain))
    }

    /// The local side of an upstream.
    pub(super) fn upstream(&self, slot: usize) -> Option<&Rc<LocalUpstream>> {
        self.upstreams.get(slot)?.as_ref()
    }

    /// The local side of an upstream, and its slot, by its name.
    pub(super) fn upstream_named(&self, name: &str) -> Option<(usize, &Rc<LocalUpstream>)> {
        let slots = self.slots.get_or_init(|| {
            let slots = self.upstreams.iter().enumerate();
            slots.filter_map(|(slot, local)| Some((Arc::clone(&local.as_ref()?.upstream.label), slot))).collect()
        });
        let slot = *slots.get(name)?;
        Some((slot, self.upstream(slot)?))
    }

    /// Whether routes, or the names of upstreams, are others than in the view before.
    pub(super) fn names_changed(&self, before: &Self) -> bool {
        !Arc::ptr_eq(self.table(), before.table()) || !self.labels().eq(before.labels())
    }

    fn labels(&self) -> impl Iterator<Item = Option<&str>> {
        self.upstreams.iter().map(|local| local.as_ref().map(|local| &*local.upstream.label))
    }

    /// The drains of all endpoints, also of those that are gone.
    pub(super) fn drains(&self) -> impl Iterator<Item = &Rc<Drain>> {
        self.upstreams().flat_map(|local| {
            let gone = local.gone.iter().map(|(_, drain)| drain);
            local.endpoints.iter().map(|endpoint| &endpoint.drain).chain(gone)
        })
    }

    /// All upstreams.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Rc<LocalUpstream>> {
        self.upstreams.iter().flatten()
    }
}

/// A route and its series.
#[derive(Debug)]
pub(super) struct LocalRoute {
    pub(super) route: Arc<Route>,
    pub(super) duration: Arc<Histogram>,
    targets: Vec<OnceCell<Arc<Counter>>>,
    /// By listener and upstream slot; a route has a few of each, so a scan is shorter than a hash.
    requests: RefCell<Vec<CountersOf>>,
    /// By listener.
    chains: RefCell<Vec<(Name, Rc<Chain>)>>,
    /// By target; `None` where it has no middlewares.
    target_chains: Vec<Option<Rc<Chain>>>,
}

type CountersOf = ((Name, Option<usize>), Rc<RequestCounters>);

impl LocalRoute {
    fn new(route: &Arc<Route>, stats: &WorkerStats) -> Self {
        let chain = |target: &Target| -> Option<Rc<Chain>> {
            let chain = || target.middlewares.iter().map(|named| Arc::clone(&named.middleware)).collect();
            (!target.middlewares.is_empty()).then(chain)
        };
        Self {
            target_chains: route.targets.iter().map(chain).collect(),
            route: Arc::clone(route),
            duration: stats.request_duration(&route.label),
            targets: route.targets.iter().map(|_| OnceCell::new()).collect(),
            requests: RefCell::default(),
            chains: RefCell::default(),
        }
    }

    /// The middlewares of a target; `None`: none.
    pub(super) fn chain_of(&self, target: usize) -> Option<&Rc<Chain>> {
        self.target_chains[target].as_ref()
    }

    /// The counters of requests by listener and upstream.
    pub(super) fn requests(
        &self,
        listener: &Name,
        upstream: Option<(usize, &str)>,
        stats: &Arc<WorkerStats>,
    ) -> Rc<RequestCounters> {
        let slot = upstream.map(|(slot, _)| slot);
        let mut known = self.requests.borrow_mut();
        if let Some((_, counters)) = known.iter().find(|((l, s), _)| l == listener && *s == slot) {
            return Rc::clone(counters);
        }
        let label = upstream.map_or("", |(_, label)| label);
        let counters = Rc::new(RequestCounters::new(stats, listener, &self.route.label, label));
        known.push(((listener.clone(), slot), Rc::clone(&counters)));
        counters
    }

    /// Counts a target that was drawn without a usable endpoint. Rare, so nothing is kept for it.
    pub(super) fn passed_over(&self, index: usize, stats: &WorkerStats) {
        stats.target_passed_over(&self.route.label, &self.route.targets[index].label).add(1);
    }

    /// The counter of requests to a target.
    pub(super) fn target(&self, index: usize, stats: &WorkerStats) -> &Counter {
        self.targets[index].get_or_init(|| stats.target_requests(&self.route.label, &self.route.targets[index].label))
    }
}

/// An upstream with a worker's balancing state and kept connections.
#[derive(Debug)]
pub(super) struct LocalUpstream {
    pub(super) upstream: Arc<Upstream>,
    pub(super) endpoints: Vec<Rc<LocalEndpoint>>,
    /// Those that it had, while they are drained: one that comes back in that time was never away.
    gone: Vec<(SocketAddr, Rc<Drain>)>,
    pub(super) duration: Arc<Histogram>,
    pub(super) connections: Rc<ConnectionGauges>,
    attempts: [OnceCell<Arc<Counter>>; 6],
    retries: [OnceCell<Arc<Counter>>; 5],
    panics: OnceCell<Arc<Counter>>,
    epoch: Cell<u64>,
    /// By [`crate::snapshot::Target::subset`].
    pools: RefCell<Vec<Option<Rc<Pool>>>>,
}

/// The gauges of an upstream's connections on one worker.
#[derive(Debug)]
pub(super) struct ConnectionGauges {
    pub(super) active: Arc<Gauge>,
    pub(super) idle: Arc<Gauge>,
}

/// An endpoint with a worker's kept connections.
#[derive(Debug)]
pub(super) struct LocalEndpoint {
    pub(super) state: Arc<EndpointState>,
    /// The name it is registered by, where that is no address.
    name: Option<Arc<str>>,
    /// Its own host and port, for a `Host` that names it.
    pub(super) host: Option<HeaderValue>,
    /// `None`: plain text.
    pub(super) tls: Option<LocalTls>,
    pub(super) kept: Kept,
    pub(super) drain: Rc<Drain>,
    /// Where it may be spoken to in HTTP/2.
    pub(super) trunks: Option<Box<Trunks>>,
    protocol: Protocol,
    /// Measured where the balancer asks for it.
    pub(super) latency: Latency,
    /// When the log last said that it broke HTTP.
    told_of_protocol: Cell<Option<Instant>>,
}

/// Between two lines about an endpoint that breaks HTTP, of one worker.
const PROTOCOL_LOG_INTERVAL: Duration = Duration::from_secs(1);

impl Load for LocalUpstream {
    fn in_flight(&self, index: u32) -> u32 {
        self.endpoints[index as usize].state.in_flight()
    }

    fn latency(&self, index: u32) -> Option<f64> {
        self.endpoints[index as usize].latency.at(Instant::now())
    }
}

impl LocalEndpoint {
    fn new(endpoint: &Endpoint, secure: Option<Secure>, protocol: Protocol, drain: Rc<Drain>) -> Self {
        Self {
            state: Arc::clone(&endpoint.state),
            name: endpoint.host.clone(),
            host: host_of(endpoint),
            tls: secure.map(LocalTls::new),
            kept: Kept::default(),
            drain,
            trunks: (protocol != Protocol::Http1).then(Box::default),
            protocol,
            latency: Latency::default(),
            told_of_protocol: Cell::default(),
        }
    }

    /// Whether the log is to say now that the endpoint breaks HTTP: each second at most, however often it does.
    pub(super) fn tells_of_protocol(&self, now: Instant) -> bool {
        let last = self.told_of_protocol.get();
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= PROTOCOL_LOG_INTERVAL);
        if is_due {
            self.told_of_protocol.set(Some(now));
        }
        is_due
    }

    /// Lets go of its connections; no more are kept.
    fn close(&self) {
        self.kept.close();
        if let Some(trunks) = &self.trunks {
            trunks.close();
        }
    }
}

impl LocalUpstream {
    fn new(upstream: &Arc<Upstream>, before: Option<&Self>, stats: &WorkerStats, drains: &mut Vec<Rc<Drain>>) -> Self {
        let now = Instant::now();
        let known: HashMap<*const EndpointState, &Rc<LocalEndpoint>> = before
            .map(|before| before.endpoints.iter().map(|endpoint| (Arc::as_ptr(&endpoint.state), endpoint)).collect())
            .unwrap_or_default();
        let mut gone = before.map(|before| before.left_by(upstream, now, drains)).unwrap_or_default();
        let mut again = |address: SocketAddr| {
            let position = gone.iter().position(|(of, _)| *of == address)?;
            Some(gone.swap_remove(position).1)
        };
        let endpoints: Vec<Rc<LocalEndpoint>> = upstream
            .endpoints
            .iter()
            .map(|endpoint| {
                let secure = upstream.secure(endpoint);
                let protocol = upstream.settings.protocol;
                let Some(local) = known.get(&Arc::as_ptr(&endpoint.state)) else {
                    let drain = again(endpoint.address).unwrap_or_default();
                    return Rc::new(LocalEndpoint::new(endpoint, secure, protocol, drain));
                };
                let spoken_to_alike =
                    local.tls.as_ref().map(LocalTls::secure) == secure.as_ref() && local.protocol == protocol;
                if spoken_to_alike && local.name == endpoint.host {
                    return Rc::clone(local);
                }
                local.close();
                Rc::new(LocalEndpoint::new(endpoint, secure, protocol, Rc::clone(&local.drain)))
            })
            .collect();
        let gauge = |state| stats.upstream_connections(&upstream.label, state);
        let local = Self {
            upstream: Arc::clone(upstream),
            endpoints,
            gone,
            duration: stats.upstream_duration(&upstream.label),
            connections: Rc::new(ConnectionGauges {
                active: gauge(ConnectionState::Active),
                idle: gauge(ConnectionState::Idle),
            }),
            attempts: Default::default(),
            retries: Default::default(),
            panics: OnceCell::new(),
            epoch: Cell::new(upstream.state.epoch()),
            pools: RefCell::new(vec![None; upstream.settings.subsets.len() + 1]),
        };
        for (endpoint, own) in upstream.endpoints.iter().zip(&local.endpoints) {
            if upstream.is_done_with(endpoint) {
                local.leave(own, now, drains);
            } else {
                own.drain.end();
            }
        }
        local
    }

    /// An endpoint takes no more: what is under way there has the time for that.
    fn leave(&self, endpoint: &LocalEndpoint, now: Instant, drains: &mut Vec<Rc<Drain>>) {
        if endpoint.drain.begin(now, self.upstream.settings.drain_timeout) {
            drains.push(Rc::clone(&endpoint.drain));
        }
        endpoint.kept.clear();
        if let Some(trunks) = &endpoint.trunks {
            trunks.clear();
        }
    }

    /// The drains of endpoints that are gone: of those that the upstream has no more, and of earlier ones.
    fn left_by(&self, upstream: &Upstream, now: Instant, drains: &mut Vec<Rc<Drain>>) -> Vec<(SocketAddr, Rc<Drain>)> {
        let stay: HashSet<*const EndpointState> =
            upstream.endpoints.iter().map(|endpoint| Arc::as_ptr(&endpoint.state)).collect();
        let earlier = self.gone.iter().filter(|(_, drain)| !drain.is_over()).cloned();
        let now_gone = self.endpoints.iter().filter(|endpoint| !stay.contains(&Arc::as_ptr(&endpoint.state)));
        let now_gone = now_gone.map(|endpoint| {
            self.leave(endpoint, now, drains);
            (endpoint.state.address(), Rc::clone(&endpoint.drain))
        });
        // Those of another upstream in the same slot are no concern of this one.
        let same = Arc::ptr_eq(&self.upstream.state, &upstream.state);
        let gone: Vec<_> = now_gone.chain(earlier).collect();
        if same { gone } else { Vec::new() }
    }

    /// Who can be picked for a target now: looked at again only when usability has changed.
    pub(super) fn pool(&self, subset: usize, random: impl FnMut() -> u64) -> Option<Rc<Pool>> {
        let epoch = self.upstream.state.epoch();
        let mut pools = self.pools.borrow_mut();
        if self.epoch.replace(epoch) != epoch {
            pools.iter_mut().for_each(|pool| *pool = None);
        }
        let pool = pools.get_mut(subset)?;
        if let Some(pool) = pool {
            return Some(Rc::clone(pool));
        }
        let made = Rc::new(Pool::new(&self.upstream, subset, random)?);
        *pool = Some(Rc::clone(&made));
        Some(made)
    }

    /// Counts an attempt.
    pub(super) fn attempted(&self, result: AttemptResult, stats: &WorkerStats) {
        let counter = &self.attempts[result as usize];
        counter.get_or_init(|| stats.attempts(&self.upstream.label, result)).add(1);
    }

    /// Counts what came of a request that is to be tried again.
    pub(super) fn retried(&self, result: RetryResult, stats: &WorkerStats) {
        let counter = &self.retries[result as usize];
        counter.get_or_init(|| stats.retries(&self.upstream.label, result)).add(1);
    }

    /// Counts a try that is made while endpoints are used that look bad, because too few others are left.
    pub(super) fn panicked(&self, stats: &WorkerStats) {
        self.panics.get_or_init(|| stats.panics(&self.upstream.label)).add(1);
    }

    /// Takes note of what became of a request at an endpoint.
    pub(super) fn judge(&self, endpoint: &LocalEndpoint, trial: Option<Trial>, verdict: Verdict, worker: &Worker) {
        let Some(flip) = self.upstream.judge(&endpoint.state, trial, verdict, || worker.random()) else { return };
        let (upstream, endpoint) = (&*self.upstream.label, &**endpoint.state.label());
        match flip {
            Flip::Ejected(cause) => {
                // Rare, so nothing is kept for it.
                worker.stats.ejections(upstream, cause.as_str()).add(1);
                tracing::warn!(upstream, endpoint, cause = cause.as_str(), "endpoint is ejected");
            }
            Flip::Restored => tracing::info!(upstream, endpoint, "endpoint is used again"),
        }
    }

    /// Closes the connections that carry nothing.
    pub(super) fn close_idle(&self) {
        for endpoint in &self.endpoints {
            endpoint.kept.clear();
            if let Some(trunks) = &endpoint.trunks {
                trunks.close_idle();
            }
        }
    }

    /// Closes kept connections whose time is over.
    pub(super) fn expire_kept(&self) {
        for endpoint in &self.endpoints {
            let settings = &self.upstream.settings;
            endpoint.kept.expire(settings.max_idle_per_endpoint, settings.keep_alive);
            match &endpoint.trunks {
                // Of exchanges that found nobody else.
                Some(trunks) if endpoint.drain.leaves() => trunks.clear(),
                Some(trunks) => trunks.expire(&self.upstream),
                None => {}
            }
        }
    }
}

/// Host and port as it is registered.
fn host_of(endpoint: &Endpoint) -> Option<HeaderValue> {
    let port = endpoint.address.port();
    let text = endpoint.host.as_ref().map(|host| format!("{host}:{port}"));
    HeaderValue::from_str(text.as_deref().unwrap_or(endpoint.state.label())).ok()
}
