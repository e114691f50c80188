//! Defines a worker: a thread with its own runtime, snapshot view, random numbers, connections and counters.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use slab::Slab;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use super::accept::{Accepted, accept, take};
use super::alarm::Alarms;
use super::carried::Carried;
use super::connection::{Doing, Phase};
use super::crowd::Crowd;
use super::drain::{Drain, Stage};
use super::http2::Streams;
use super::local::LocalSnapshot;
use super::plane::Stop;
use super::tls::{Handshakes, TlsFront};
use crate::exchange::Flag;
use crate::snapshot::Snapshot;
use crate::spec::name::Name;
use crate::spec::settings::Listener;
use crate::telemetry::audit::Auditor;
use crate::telemetry::descriptors::Descriptors;
use crate::telemetry::lines::Lines;
use crate::telemetry::stats::{Gauge, RequestCounters, WorkerStats};

/// What a worker starts with.
pub(super) struct Start {
    pub(super) index: usize,
    pub(super) listeners: Vec<(Name, Listener, Option<TlsFront>, std::net::TcpListener)>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) log: Lines,
    pub(super) audit: Auditor,
    /// Connections that other workers hand over.
    pub(super) handed: mpsc::UnboundedReceiver<Accepted>,
    pub(super) peers: Peers,
}

/// What workers know of each other: how many connections each has, and where to hand one over.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    pub(super) connections: Arc<[AtomicU32]>,
    pub(super) hand_over: Arc<[mpsc::UnboundedSender<Accepted>]>,
    /// The clients of each listener, whatever worker serves them.
    pub(super) crowds: Arc<[Arc<Crowd>]>,
    pub(super) descriptors: Arc<Descriptors>,
}

/// A listener as one worker sees it.
#[derive(Debug)]
pub(super) struct LocalListener {
    pub(super) index: usize,
    pub(super) name: Name,
    pub(super) settings: Listener,
    /// Of what never reached a route.
    pub(super) unrouted: RequestCounters,
    pub(super) tls: Option<(TlsFront, Handshakes)>,
    connections: Arc<Gauge>,
}

/// A data-plane thread's state. Shared within the thread only.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) log: Lines,
    pub(super) audit: Auditor,
    /// Seconds since the start.
    pub(super) clock: Arc<AtomicU32>,
    pub(super) peers: Peers,
    pub(super) listeners: Vec<Rc<LocalListener>>,
    pub(super) alarms: Rc<Alarms>,
    /// Whose turn it is to sign a handshake.
    pub(super) signing: Semaphore,
    local: RefCell<Rc<LocalSnapshot>>,
    snapshots: RefCell<watch::Receiver<Arc<Snapshot>>>,
    rng: RefCell<SmallRng>,
    connections: RefCell<Slab<Entry>>,
    exchanges: Cell<usize>,
    /// Sockets that are still accepted from.
    pub(super) accepting: Cell<usize>,
    /// When exchanges in flight are given up, once the gateway stops.
    stops: Cell<Option<Instant>>,
    /// Of endpoints, or of all at a stop.
    drains: RefCell<Vec<Rc<Drain>>>,
    /// When idle connections to endpoints were last closed for want of descriptors.
    closed_idle: Cell<Option<Instant>>,
}

/// A client's connection in the worker's list.
#[derive(Debug)]
struct Entry {
    listener: usize,
    phase: Arc<Phase>,
    task: Option<AbortHandle>,
    /// Where it speaks HTTP/2.
    streams: Option<Rc<Streams>>,
    /// Where it was upgraded.
    carried: Option<Rc<Carried>>,
}

impl Worker {
    /// The view requests are served from now: never older than what was published when it is asked for, however
    /// late this thread runs. A request keeps the view it began with.
    pub(super) fn local(&self) -> Rc<LocalSnapshot> {
        self.catch_up();
        Rc::clone(&self.local.borrow())
    }

    /// Adopts what was published since, if anything was.
    pub(super) fn catch_up(&self) {
        // One read of a word that changes with snapshots only.
        if self.snapshots.borrow().has_changed().unwrap_or(false) {
            let next = self.snapshots.borrow_mut().borrow_and_update().clone();
            self.adopt(&next);
        }
    }

    /// A uniform random number.
    pub(super) fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// Whether connections are to be closed after their exchange.
    pub(super) fn is_draining(&self) -> bool {
        self.stops.get().is_some()
    }

    pub(super) fn exchange_begins(&self) {
        self.exchanges.set(self.exchanges.get() + 1);
    }

    pub(super) fn exchange_ends(&self) {
        self.exchanges.set(self.exchanges.get() - 1);
    }

    /// Lists a new connection.
    pub(super) fn connection_begins(&self, listener: &LocalListener, phase: Arc<Phase>) -> usize {
        listener.connections.add(1);
        let entry = Entry { listener: listener.index, phase, task: None, streams: None, carried: None };
        self.connections.borrow_mut().insert(entry)
    }

    /// Its task can be ended by the sweep.
    pub(super) fn connection_runs(&self, entry: usize, task: AbortHandle) {
        if let Some(entry) = self.connections.borrow_mut().get_mut(entry) {
            entry.task = Some(task);
        }
    }

    /// It speaks HTTP/2.
    pub(super) fn connection_multiplexes(&self, entry: usize, streams: &Rc<Streams>) {
        if let Some(entry) = self.connections.borrow_mut().get_mut(entry) {
            entry.streams = Some(Rc::clone(streams));
        }
    }

    /// It was upgraded, and this task carries it from now on.
    pub(super) fn connection_upgrades(&self, entry: usize, task: AbortHandle, carried: &Rc<Carried>) {
        if let Some(entry) = self.connections.borrow_mut().get_mut(entry) {
            (entry.task, entry.carried) = (Some(task), Some(Rc::clone(carried)));
        }
    }

    /// Ends a connection at once.
    pub(super) fn connection_breaks(&self, entry: usize) {
        let connections = self.connections.borrow();
        if let Some(task) = connections.get(entry).and_then(|entry| entry.task.as_ref()) {
            task.abort();
        }
    }

    /// A connection is over, its upgrade included.
    pub(super) fn connection_ends(&self, listener: &LocalListener, entry: usize) {
        self.connections.borrow_mut().try_remove(entry);
        listener.connections.add(-1);
        self.peers.connections[self.index].fetch_sub(1, Relaxed);
    }

    /// The gateway stops: clients that speak HTTP/2 are told to begin no more exchanges, and what is under way has until
    /// then.
    fn stop(&self, deadline: Instant) {
        self.stops.set(Some(deadline));
        self.stop_drains();
        for (_, entry) in self.connections.borrow().iter() {
            if let Some(streams) = &entry.streams {
                streams.leave();
            }
        }
    }

    /// Has everything at every endpoint end in time.
    fn stop_drains(&self) {
        if let Some(deadline) = self.stops.get() {
            let now = Instant::now();
            let (local, mut drains) = (self.local.borrow(), self.drains.borrow_mut());
            let left = deadline.saturating_duration_since(now);
            // Of upstreams that are gone, too.
            drains.iter().for_each(|drain| _ = drain.stop(now, left));
            drains.extend(local.drains().filter(|drain| drain.stop(now, left)).cloned());
        }
    }

    /// Has drains go on to where they should be by now.
    fn drain(&self, now: Instant) {
        let mut cut = false;
        self.drains.borrow_mut().retain(|drain| {
            let new = drain.advance(now);
            cut |= new && drain.stage() == Stage::Cut;
            !drain.is_over()
        });
        if cut {
            self.alarms.ring_all();
        }
    }

    fn adopt(&self, snapshot: &Arc<Snapshot>) {
        let next = Rc::new(self.local.borrow().adopt(snapshot, &self.stats, &mut self.drains.borrow_mut()));
        let before = self.local.replace(Rc::clone(&next));
        self.stop_drains();
        if next.names_changed(&before) {
            self.forget_gone(&next);
        }
    }

    /// Drops the series of what is no longer there.
    fn forget_gone(&self, local: &LocalSnapshot) {
        let upstreams: HashSet<&str> = local.upstreams().map(|local| &*local.upstream.label).collect();
        self.stats.retain(|route| local.table().by_label(route).is_some(), |upstream| upstreams.contains(upstream));
    }

    /// Closes the idle connections to endpoints, for others to have their descriptors; not again and again, since there may
    /// be thousands of endpoints and nothing to close.
    pub(super) fn close_idle(&self) {
        let now = Instant::now();
        if self.closed_idle.get().is_none_or(|last| now.saturating_duration_since(last) >= TICK) {
            self.closed_idle.set(Some(now));
            for upstream in self.local.borrow().upstreams() {
                upstream.close_idle();
            }
        }
    }

    /// Ends connections that have been silent or slow for too long.
    fn sweep(&self) {
        for (_, entry) in self.connections.borrow().iter() {
            let settings = &self.listeners[entry.listener].settings;
            if let Some(streams) = &entry.streams {
                streams.sweep(self.clock.load(Relaxed), settings.idle_timeout);
            }
            let (seconds, limit) = match (entry.phase.stalled(), entry.phase.now()) {
                // Whatever else it does, it does not read what it asked for.
                (Some(seconds), _) if Duration::from_secs(seconds.into()) > settings.idle_timeout => {
                    entry.phase.drop_rest();
                    if let Some(carried) = &entry.carried {
                        carried.cut(Flag::DownstreamConnectionTermination);
                    }
                    (seconds, settings.idle_timeout)
                }
                (Some(seconds), _) => (seconds, settings.idle_timeout),
                (None, (Doing::Idle, seconds)) if self.is_draining() => (seconds, Duration::ZERO),
                (None, (Doing::Idle, seconds)) => match &entry.streams {
                    Some(streams) if Duration::from_secs(seconds.into()) > settings.idle_timeout => {
                        streams.leave();
                        (seconds, settings.idle_timeout + LEAVE)
                    }
                    _ => (seconds, settings.idle_timeout),
                },
                (None, (Doing::Head, seconds)) => (seconds, settings.header_timeout),
                (None, (Doing::Busy, _)) => match &entry.carried {
                    Some(carried) => carried.waits(self.clock.load(Relaxed)),
                    None => continue,
                },
            };
            if Duration::from_secs(seconds.into()) > limit
                && let Some(task) = &entry.task
            {
                task.abort();
            }
        }
        if self.peers.descriptors.is_short() {
            self.close_idle();
        }
        let local = self.local.borrow();
        for upstream in local.upstreams() {
            upstream.expire_kept();
        }
        // An exchange that ends after its route makes the series of it again.
        if self.stats.has_grown() {
            self.forget_gone(&local);
        }
    }
}

/// Starts a worker's thread.
///
/// # Errors
/// When the system has no thread for it; a runtime that cannot be built ends the thread with its error.
pub(super) fn spawn(start: Start) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    let name = format!("worker-{}", start.index);
    std::thread::Builder::new().name(name).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(POLLS_BETWEEN_EVENTS)
            .build_local(tokio::runtime::LocalOptions::default())?;
        runtime.block_on(run(start))
    })
}

async fn run(start: Start) -> io::Result<()> {
    let Start { index, listeners, mut snapshot, mut stop, stats, log, audit, mut handed, peers } = start;
    let (locals, sockets): (Vec<_>, Vec<_>) = listeners
        .into_iter()
        .enumerate()
        .map(|(position, (name, settings, tls, socket))| {
            let tls = tls.map(|front| (front, Handshakes::new(&stats, &name)));
            let unrouted = RequestCounters::new(&stats, &name, "", "");
            let connections = stats.downstream_connections(&name);
            (Rc::new(LocalListener { index: position, name, settings, unrouted, tls, connections }), socket)
        })
        .unzip();
    let worker = Rc::new(Worker {
        index,
        log,
        audit,
        clock: Arc::default(),
        peers,
        listeners: locals,
        alarms: Rc::default(),
        signing: Semaphore::new(1),
        local: RefCell::new(Rc::new(LocalSnapshot::empty())),
        snapshots: RefCell::new(snapshot.clone()),
        rng: RefCell::new(SmallRng::seed_from_u64(rand::random())),
        connections: RefCell::default(),
        exchanges: Cell::new(0),
        accepting: Cell::new(sockets.len()),
        stops: Cell::new(None),
        drains: RefCell::default(),
        closed_idle: Cell::new(None),
        stats,
    });
    worker.adopt(&worker.snapshots.borrow_mut().borrow_and_update().clone());
    for (listener, socket) in worker.listeners.iter().zip(sockets) {
        let socket = tokio::net::TcpListener::from_std(socket)?;
        tokio::task::spawn_local(accept(
            Rc::clone(&worker),
            Rc::clone(listener),
            socket,
            snapshot.clone(),
            stop.clone(),
        ));
    }

    let (mut looked, mut ran) = (Instant::now(), Duration::ZERO);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut swept = 0;
    loop {
        tokio::select! {
            changed = snapshot.changed() => match changed {
                Ok(()) => worker.catch_up(),
                // Control is gone: the process is ending.
                Err(_) => std::future::pending().await,
            },
            Some(accepted) = handed.recv() => take(&worker, accepted),
            _ = stop.changed() => {
                if let Stop::Drain { deadline } = *stop.borrow_and_update() {
                    worker.stop(deadline);
                }
            }
            _ = tick.tick() => {
                worker.log.flush();
                worker.audit.flush();
                let now = Instant::now();
                let away = now.saturating_duration_since(looked);
                (looked, ran) = (now, ran + away.min(LONGEST_TICK));
                // After a suspension, data that arrived meanwhile is not read yet: nothing times out before it is.
                if away <= LONGEST_TICK {
                    worker.alarms.ring(now);
                    worker.drain(now);
                }
                let seconds = ran.as_secs() as u32;
                worker.clock.store(seconds, Relaxed);
                if seconds != swept {
                    swept = seconds;
                    worker.sweep();
                }
                // What is cut at the deadline has a tick to tell the log.
                if let Some(deadline) = worker.stops.get()
                    && (is_quiet(&worker) && handed.is_empty() || now >= deadline + TICK)
                {
                    worker.log.flush();
                    worker.audit.flush();
                    return Ok(());
                }
            }
        }
    }
}

/// How many tasks may run before sockets are asked again, if so many are ready. Tokio's 61 asks in the midst of a
/// busy worker's round; asking after it costs 0.5 us less a request, and 256 short tasks last a millisecond.
const POLLS_BETWEEN_EVENTS: u32 = 256;

/// How long a client has to close a connection that it was told to leave.
const LEAVE: Duration = Duration::from_secs(5);

/// Flushes the log and looks around so often.
const TICK: Duration = Duration::from_millis(100);

/// A longer gap between ticks means that the process or its machine was suspended, not that the worker is busy.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// Nothing in flight and nobody connected or on the way: idle connections have had their second to send what was on its way.
fn is_quiet(worker: &Worker) -> bool {
    worker.exchanges.get() == 0 && worker.accepting.get() == 0 && worker.connections.borrow().is_empty()
}
