//! Defines a client's connection: served by hyper, watched for clients that are silent or slow.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::Poll;
use std::time::SystemTime;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::arrears::Arrears;
use super::carried::Carried;
use super::crowd::Seat;
use super::headers::Peer;
use super::http2::{PREFACE, Streams, serve_http2};
use super::serve::serve;
use super::tls::{Shaken, shake};
use super::wire::Wire;
use super::worker::{LocalListener, Worker};
use crate::exchange::{ClientAddress, Flag};
use crate::telemetry::access_log::Record;
use crate::telemetry::audit::Authentication;
use crate::telemetry::descriptors::ClientShare;

/// A client's connection in the worker's list. It is listed and counted until this goes.
#[derive(Debug)]
struct Place {
    worker: Rc<Worker>,
    entry: usize,
    listener: Rc<LocalListener>,
    seat: Seat,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.connection_ends(&self.listener, self.entry);
    }
}

/// A client's connection, as its exchanges see it. It keeps its place until the last of them has let go.
#[derive(Debug)]
pub(super) struct ClientConnection {
    place: Place,
    pub(super) listener: Rc<LocalListener>,
    pub(super) peer: Peer,
    pub(super) phase: Arc<Phase>,
    exchanges: Cell<usize>,
    /// Where it speaks HTTP/2.
    pub(super) streams: Option<Rc<Streams>>,
}

impl ClientConnection {
    /// An exchange begins.
    pub(super) fn exchange_begins(&self) {
        self.exchanges.set(self.exchanges.get() + 1);
        self.phase.busy();
        if let Some(streams) = &self.streams {
            streams.begins();
        }
    }

    /// What its client holds of connections to endpoints, where that is limited.
    pub(super) fn share(&self) -> Option<&Arc<ClientShare>> {
        self.place.seat.share()
    }

    /// It goes on as a tunnel, which this task carries.
    pub(super) fn upgrades(&self, task: AbortHandle, carried: &Rc<Carried>) {
        self.place.worker.connection_upgrades(self.place.entry, task, carried);
    }

    /// An exchange is over; `given_up`: the client took it back at once.
    pub(super) fn exchange_ends(&self, given_up: bool) {
        self.exchanges.set(self.exchanges.get() - 1);
        let Some(streams) = &self.streams else {
            self.phase.idle();
            return;
        };
        if self.exchanges.get() == 0 {
            self.phase.rest();
        }
        if streams.ends(given_up) {
            tracing::debug!(listener = %self.listener.name, client = %self.peer.address, "a client gives up most of its requests: its connection is closed");
            self.place.worker.connection_breaks(self.place.entry);
        }
    }

    /// Ends the connection, or, where it carries many, the exchange of one response.
    pub(super) fn cut(&self, response: Option<usize>) {
        match (&self.streams, response) {
            (Some(streams), Some(response)) => streams.cut(response),
            (None, _) | (_, None) => self.place.worker.connection_breaks(self.place.entry),
        }
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
    /// Of the stalls before.
    arrears: Arrears,
    /// What is on its way to the client is not waited for.
    dropped: AtomicBool,
    clock: Arc<AtomicU32>,
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
/// Idle, where bytes are not the beginning of a request.
const REST: u8 = 3;

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
    /// A new connection: its first head is due. `clock` counts the worker's seconds, `min_rate` is the listener's.
    pub(super) fn new(clock: &Arc<AtomicU32>, min_rate: u32) -> Arc<Self> {
        Arc::new(Self {
            kind: AtomicU8::new(HEAD),
            since: AtomicU32::new(clock.load(Relaxed)),
            stalled: AtomicU32::new(0),
            arrears: Arrears::new(min_rate),
            dropped: AtomicBool::new(false),
            clock: Arc::clone(clock),
        })
    }

    fn enter(&self, kind: u8) {
        self.kind.store(kind, Relaxed);
        self.since.store(self.clock.load(Relaxed), Relaxed);
    }

    /// An exchange is over.
    pub(super) fn idle(&self) {
        self.enter(IDLE);
    }

    /// No exchange is under way on a connection that carries many.
    pub(super) fn rest(&self) {
        self.enter(REST);
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
    pub(super) fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let stalled = self.stalled.load(Relaxed);
        match &outcome {
            Poll::Pending if stalled == 0 => self.stalled.store(self.clock.load(Relaxed) + 1, Relaxed),
            Poll::Pending => {}
            Poll::Ready(written) => {
                if stalled != 0 {
                    self.arrears.waited((self.clock.load(Relaxed) + 1).saturating_sub(stalled));
                    self.stalled.store(0, Relaxed);
                }
                self.arrears.took(*written.as_ref().unwrap_or(&0));
            }
        }
        outcome
    }

    /// For how many seconds the client has taken nothing of what is to be sent, with what it owes of stalls before;
    /// `None` when nothing waits.
    pub(super) fn stalled(&self) -> Option<u32> {
        let since = self.stalled.load(Relaxed).checked_sub(1)?;
        Some(self.clock.load(Relaxed).saturating_sub(since).saturating_add(self.arrears.seconds()))
    }

    /// The client has had its time: what it has not taken is dropped, also by the system.
    pub(super) fn drop_rest(&self) {
        self.dropped.store(true, Relaxed);
    }

    /// Whether what is on its way is dropped.
    pub(super) fn drops_rest(&self) -> bool {
        self.dropped.load(Relaxed)
    }

    /// What the connection is doing, and for how many seconds.
    pub(super) fn now(&self) -> (Doing, u32) {
        let doing = match self.kind.load(Relaxed) {
            IDLE | REST => Doing::Idle,
            HEAD => Doing::Head,
            _ => Doing::Busy,
        };
        (doing, self.clock.load(Relaxed).saturating_sub(self.since.load(Relaxed)))
    }
}

/// Serves a client's connection to its end, as a task of its own.
pub(super) fn spawn(
    worker: &Rc<Worker>,
    listener: &Rc<LocalListener>,
    stream: TcpStream,
    address: SocketAddr,
    seat: Seat,
) {
    let phase = Phase::new(&worker.clock, listener.settings.min_rate);
    let entry = worker.connection_begins(listener, Arc::clone(&phase));
    let place = Place { worker: Rc::clone(worker), entry, listener: Rc::clone(listener), seat };
    let mut wire = Wire::new(stream, Arc::clone(&phase));
    let peer = Peer::new(address.ip(), &listener.settings.trusted_proxies);
    let task = tokio::task::spawn_local(async move {
        if place.listener.tls.is_some() {
            // On the heap: what plain connections do not need takes no room of theirs.
            Box::pin(over_tls(place, phase, peer, wire)).await;
        } else if place.listener.settings.http2 && wire.begins_with(PREFACE).await {
            Box::pin(http2(place, phase, peer, wire)).await;
        } else {
            http1(place, phase, peer, wire).await;
        }
    });
    worker.connection_runs(entry, task.abort_handle());
}

async fn over_tls(place: Place, phase: Arc<Phase>, peer: Peer, wire: Wire) {
    let (worker, listener) = (Rc::clone(&place.worker), Rc::clone(&place.listener));
    let Some((front, handshakes)) = &listener.tls else { return };
    let certificates = || Arc::clone(&worker.local().certificates);
    let shaken = shake(front, certificates, handshakes, &worker.signing, wire).await;
    let Shaken { stream, http2: multiplexed, certificate } = match shaken {
        Ok(shaken) => shaken,
        Err(why) => {
            if let Some(why) = why.filter(|_| worker.audit.wants(true)) {
                refused_by_tls(&worker, &listener, &peer, &why);
            }
            return;
        }
    };
    let peer = peer.over_tls(certificate);
    if multiplexed {
        http2(place, phase, peer, stream).await;
    } else {
        http1(place, phase, peer, stream).await;
    }
}

async fn http1(place: Place, phase: Arc<Phase>, peer: Peer, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (worker, listener) = (Rc::clone(&place.worker), Rc::clone(&place.listener));
    let connection = ClientConnection { place, listener, peer, phase, exchanges: Cell::new(0), streams: None };
    let connection = Rc::new(connection);
    let service = {
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
        service_fn(move |request| serve(Rc::clone(&worker), Rc::clone(&connection), request))
    };
    let served = builder(&connection.listener).serve_connection(TokioIo::new(io), service).with_upgrades().await;
    if let Err(error) = served {
        refused_by_hyper(&worker, &connection, &error);
    }
}

async fn http2(place: Place, phase: Arc<Phase>, peer: Peer, io: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let (worker, listener) = (Rc::clone(&place.worker), Rc::clone(&place.listener));
    let streams = Rc::<Streams>::default();
    worker.connection_multiplexes(place.entry, &streams);
    phase.rest();
    let (exchanges, own) = (Cell::new(0), Some(Rc::clone(&streams)));
    let connection = ClientConnection { place, listener, peer, phase, exchanges, streams: own };
    serve_http2(worker, Rc::new(connection), streams, io).await;
}

fn builder(listener: &LocalListener) -> http1::Builder {
    let settings = &listener.settings;
    let mut builder = http1::Builder::new();
    builder.max_header_size(settings.max_header_size).header_read_timeout(None);
    builder.max_buf_size(settings.max_header_size.max(BUFFERED));
    if settings.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(settings.max_headers);
    }
    builder
}

/// Bytes of an answer, or of a request's body, that wait for a side that does not take them. hyper's own limit is six times
/// as much, which many clients that read nothing would make it need.
const BUFFERED: usize = 64 * 1024;

/// hyper parses so many headers without an allocation.
const HYPER_MAX_HEADERS: usize = 100;

/// A client whose certificate is none of those that the listener takes.
fn refused_by_tls(worker: &Worker, listener: &LocalListener, peer: &Peer, why: &str) {
    worker.audit.authentication(
        SystemTime::now(),
        &Authentication { listener: listener.name.as_str(), ..Authentication::refused("tls", why, peer.address) },
    );
}

/// What hyper refuses before a request exists is counted and logged with an empty route.
fn refused_by_hyper(worker: &Worker, connection: &ClientConnection, error: &hyper::Error) {
    let (status, flag) = match () {
        () if error.is_parse_too_large() => (431, Flag::HeaderLimit),
        () if error.is_parse() => (400, Flag::DownstreamProtocolError),
        () => return,
    };
    connection.listener.unrouted.count(status, flag.as_str());
    if worker.log.is_on() {
        worker.log.add(|clock, line| {
            Record {
                time: SystemTime::now(),
                listener: connection.listener.name.as_str(),
                client: ClientAddress::Known(connection.peer.address),
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
                consumer: "",
            }
            .write(clock, line)
        });
    }
}
