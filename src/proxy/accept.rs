//! Defines how a worker accepts connections, and hands one over when it has many more than another.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::SendError;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connection;
use super::crowd::{Full, Seat};
use super::plane::Stop;
use super::worker::{LocalListener, Peers, Worker};
use crate::exchange::forwarded::trusts;
use crate::snapshot::Snapshot;

/// A connection on its way to another worker.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) listener: usize,
    pub(super) stream: std::net::TcpStream,
    pub(super) address: SocketAddr,
    pub(super) seat: Seat,
}

/// After an error that all connections share (no descriptors left), accepting pauses.
const PAUSE: Duration = Duration::from_millis(50);

/// How long connections wait for the first snapshot that has everything; longer than registries have to answer before
/// what was saved is served.
const FIRST_READ: Duration = Duration::from_secs(3);

/// How long handshakes in progress may take to complete when the gateway stops: more than most clients' round trip.
const LAST_HANDSHAKES: Duration = Duration::from_millis(100);

/// Accepts connections until the gateway drains, then those that the kernel has completed already. Until every document
/// was read, or for [`FIRST_READ`], connections wait in the socket's queue: a start must not tell clients that a route
/// does not exist when it was only not read yet.
pub(super) async fn accept(
    worker: Rc<Worker>,
    listener: Rc<LocalListener>,
    socket: TcpListener,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut stop: watch::Receiver<Stop>,
) {
    tokio::select! {
        _ = timeout(FIRST_READ, snapshots.wait_for(|snapshot| snapshot.is_settled())) => worker.catch_up(),
        _ = stop.wait_for(|stop| matches!(stop, Stop::Drain { .. })) => {}
    }
    drop(snapshots);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|stop| matches!(stop, Stop::Drain { .. })) => break,
        };
        match accepted {
            Ok((stream, address)) => place(&worker, &listener, stream, address),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if worker.peers.descriptors.accept_failed() {
                    tracing::warn!(listener = %listener.name, "cannot accept connections: {error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    accept_last(&worker, &listener, socket).await;
    worker.accepting.set(worker.accepting.get() - 1);
}

/// Accepts the connections that the kernel has completed, then closes the socket, which resets any that remain. The
/// socket drops SYN packets first, so no new ones complete; those clients ask again after a second and are refused.
async fn accept_last(worker: &Rc<Worker>, listener: &Rc<LocalListener>, socket: TcpListener) {
    match SockRef::from(&socket).attach_filter(&without_syn()) {
        Ok(()) => {
            let last = async {
                loop {
                    match socket.accept().await {
                        Ok((stream, address)) => place(worker, listener, stream, address),
                        Err(_) => sleep(PAUSE).await,
                    }
                }
            };
            let _: Result<(), _> = timeout(LAST_HANDSHAKES, last).await;
        }
        Err(error) => tracing::debug!(listener = %listener.name, "cannot keep new clients out before the end: {error}"),
    }
    // The runtime may not have polled the last ones yet: ask the kernel.
    let Ok(socket) = socket.into_std() else { return };
    while let Ok((stream, address)) = socket.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            place(worker, listener, stream, address);
        }
    }
}

/// A filter that drops the first packet of each handshake (RFC 9293, 3.5), in the machine code of bpf(4).
fn without_syn() -> [SockFilter; 4] {
    const LOAD_BYTE: u16 = 0x30;
    const TEST_BITS: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(TEST_BITS, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn place(worker: &Rc<Worker>, listener: &Rc<LocalListener>, stream: TcpStream, address: SocketAddr) {
    // A proxy that is trusted carries many clients.
    let counted = !trusts(&listener.settings.trusted_proxies, address.ip().to_canonical());
    let seat = match worker.peers.crowds[listener.index].admit(address.ip(), counted) {
        Ok(seat) => seat,
        // Closing at once is kinder than letting it wait for a place that may never come.
        Err(full) => {
            let limit = match full {
                Full::Listener => "max_connections",
                Full::Client => "max_connections_per_client",
                Full::Descriptors => "the number of descriptors for connections of clients",
            };
            if full == Full::Descriptors && worker.peers.descriptors.is_to_be_told() {
                tracing::warn!(
                    listener = %listener.name,
                    "connections are closed: the limit of open files leaves {} for clients",
                    worker.peers.descriptors.division().downstream
                );
            }
            tracing::debug!(listener = %listener.name, client = %address, "{limit} is reached: a connection was closed");
            return;
        }
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("a client's connection is gone already: {error}");
        return;
    }
    match calmer_worker(&worker.peers, worker.index) {
        None => {
            worker.peers.connections[worker.index].fetch_add(1, Relaxed);
            connection::spawn(worker, listener, stream, address, seat);
        }
        Some(calmer) => {
            let Ok(stream) = stream.into_std() else { return };
            worker.peers.connections[calmer].fetch_add(1, Relaxed);
            let accepted = Accepted { listener: listener.index, stream, address, seat };
            if let Err(SendError(accepted)) = worker.peers.hand_over[calmer].send(accepted) {
                // The other one has ended already: the gateway drains.
                worker.peers.connections[calmer].fetch_sub(1, Relaxed);
                worker.peers.connections[worker.index].fetch_add(1, Relaxed);
                take(worker, accepted);
            }
        }
    }
}

/// Serves a connection that another worker accepted; it is counted already.
pub(super) fn take(worker: &Rc<Worker>, accepted: Accepted) {
    let Accepted { listener, stream, address, seat } = accepted;
    match TcpStream::from_std(stream) {
        Ok(stream) => connection::spawn(worker, &worker.listeners[listener], stream, address, seat),
        Err(error) => {
            worker.peers.connections[worker.index].fetch_sub(1, Relaxed);
            tracing::warn!("cannot take over a connection: {error}");
        }
    }
}

/// The least loaded worker, when this one has more than 1.25 times its connections and 16: the kernel spreads
/// connections over sockets by a hash, which evens out only for many.
fn calmer_worker(peers: &Peers, own: usize) -> Option<usize> {
    let count = |index: usize| peers.connections[index].load(Relaxed);
    let least = (0..peers.connections.len()).min_by_key(|&index| count(index))?;
    (least != own && count(own) > count(least) + count(least) / 4 + 16).then_some(least)
}
