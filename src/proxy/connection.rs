//! Defines a client's connection: served by hyper, watched for clients that are silent or slow.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::Poll;
use std::time::SystemTime;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::headers::Peer;
use super::serve::serve;
use super::wire::Wire;
use super::worker::{LocalListener, Worker};
use crate::exchange::Flag;
use crate::telemetry::access_log::Record;

/// A client's connection, as its exchanges see it. It is listed and counted until the last of them has let go.
#[derive(Debug)]
pub(super) struct ClientConnection {
    worker: Rc<Worker>,
    entry: usize,
    pub(super) listener: Rc<LocalListener>,
    pub(super) peer: Peer,
    pub(super) phase: Arc<Phase>,
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.worker.connection_ends(&self.listener, self.entry);
    }
}

/// What a connection is doing, and since when. Written by the connection's I/O (which hyper wants to be `Send`)
/// and its exchanges, read by the worker's sweep: so no request pays for a timer.
#[derive(Debug)]
pub(super) struct Phase {
    kind: AtomicU8,
    since: AtomicU32,
    /// Since when the client has taken nothing of what is to be sent, plus 1; 0: it takes it.
    stalled: AtomicU32,
    clock: Arc<AtomicU32>,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Waiting for a request.
    Idle,
    /// Reading a request's head.
    Head,
    /// In an exchange.
    Busy,
}

impl Phase {
    /// A new connection: its first head is due. `clock` counts the worker's seconds.
    fn new(clock: &Arc<AtomicU32>) -> Arc<Self> {
        let since = AtomicU32::new(clock.load(Relaxed));
        Arc::new(Self { kind: AtomicU8::new(HEAD), since, stalled: AtomicU32::new(0), clock: Arc::clone(clock) })
    }

    fn enter(&self, kind: u8) {
        self.kind.store(kind, Relaxed);
        self.since.store(self.clock.load(Relaxed), Relaxed);
    }

    /// An exchange is over.
    pub(super) fn idle(&self) {
        self.enter(IDLE);
    }

    /// An exchange begins.
    pub(super) fn busy(&self) {
        self.enter(BUSY);
    }

    pub(super) fn bytes_came(&self) {
        if self.kind.load(Relaxed) == IDLE {
            self.enter(HEAD);
        }
    }

    /// A write was tried. A response stays with hyper until it is written, also when its exchange is over.
    pub(super) fn wrote<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let stalled = self.stalled.load(Relaxed) != 0;
        if outcome.is_pending() != stalled {
            let since = if stalled { 0 } else { self.clock.load(Relaxed) + 1 };
            self.stalled.store(since, Relaxed);
        }
        outcome
    }

    /// For how many seconds the client has taken nothing of what is to be sent; `None` when nothing waits.
    pub(super) fn stalled(&self) -> Option<u32> {
        let since = self.stalled.load(Relaxed).checked_sub(1)?;
        Some(self.clock.load(Relaxed).saturating_sub(since))
    }

    /// What the connection is doing, and for how many seconds.
    pub(super) fn now(&self) -> (Doing, u32) {
        let doing = match self.kind.load(Relaxed) {
            IDLE => Doing::Idle,
            HEAD => Doing::Head,
            _ => Doing::Busy,
        };
        (doing, self.clock.load(Relaxed).saturating_sub(self.since.load(Relaxed)))
    }
}

/// Serves a client's connection to its end, as a task of its own.
pub(super) fn spawn(worker: &Rc<Worker>, listener: &Rc<LocalListener>, stream: TcpStream, address: SocketAddr) {
    let phase = Phase::new(&worker.clock);
    let entry = worker.connection_begins(listener, Arc::clone(&phase));
    let connection = Rc::new(ClientConnection {
        worker: Rc::clone(worker),
        entry,
        listener: Rc::clone(listener),
        peer: Peer::new(address.ip(), &listener.settings.trusted_proxies),
        phase: Arc::clone(&phase),
    });
    let io = TokioIo::new(Wire::new(stream, phase));
    let task = {
        let worker = Rc::clone(worker);
        async move {
            let service = {
                let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
                service_fn(move |request| serve(Rc::clone(&worker), Rc::clone(&connection), request))
            };
            let served = builder(&connection.listener).serve_connection(io, service).with_upgrades().await;
            if let Err(error) = served {
                refused_by_hyper(&worker, &connection, &error);
            }
        }
    };
    let task = tokio::task::spawn_local(task);
    worker.connection_runs(entry, task.abort_handle());
}

fn builder(listener: &LocalListener) -> http1::Builder {
    let settings = &listener.settings;
    let mut builder = http1::Builder::new();
    builder.max_header_size(settings.max_header_size).header_read_timeout(None);
    if settings.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(settings.max_headers);
    }
    builder
}

/// hyper parses so many headers without an allocation.
const HYPER_MAX_HEADERS: usize = 100;

/// What hyper refuses before a request exists is counted and logged with an empty route.
fn refused_by_hyper(worker: &Worker, connection: &ClientConnection, error: &hyper::Error) {
    let (status, flag) = match () {
        () if error.is_parse_too_large() => (431, Flag::HeaderLimit),
        () if error.is_parse() => (400, Flag::DownstreamProtocolError),
        () => return,
    };
    connection.listener.unrouted.count(status, flag.as_str());
    if worker.log.is_on() {
        worker.log.line(&Record {
            time: SystemTime::now(),
            listener: connection.listener.name.as_str(),
            client: connection.peer.address,
            method: "",
            host: b"",
            path: "",
            protocol: "",
            status,
            flag: flag.as_str(),
            route: "",
            target: "",
            upstream: "",
            endpoint: "",
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: std::time::Duration::ZERO,
            upstream_duration: None,
            request_id: "",
            trace_id: "",
            user_agent: b"",
        });
    }
}
