//! Defines the connections to an endpoint: how one is made, and the idle ones a worker keeps, newest first.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::http1::Link;
use super::listener::alive;
use super::local::{ConnectionGauges, LocalEndpoint, LocalUpstream};
use super::multiplexed::NoTrunk;
use super::stream::Stream;
use crate::snapshot::{EndpointState, Place, Upstream};
use crate::spec::upstream::Protocol;
use crate::spec::upstream_tls;
use crate::telemetry::descriptors::UpstreamHold;

/// A connection to an endpoint that carries an exchange; counted as active while it lives.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) link: Box<Link>,
    pub(super) active: Active,
    /// Its place among those of the upstream, where they are limited.
    pub(super) place: Option<Place>,
}

/// Counts a connection as active.
#[derive(Debug)]
pub(super) struct Active(Rc<ConnectionGauges>);

impl Active {
    fn new(gauges: &Rc<ConnectionGauges>) -> Self {
        gauges.active.add(1);
        Self(Rc::clone(gauges))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.add(-1);
    }
}

impl Connection {
    pub(super) fn new(stream: Stream, upstream: &LocalUpstream, place: Option<Place>, hold: UpstreamHold) -> Self {
        let link = Box::new(Link::new(stream).holding(hold));
        Self { link, active: Active::new(&upstream.connections), place }
    }
}

/// Connects to an endpoint, and shakes hands where TLS is spoken with it, all in time. `offered`: what is offered to be
/// spoken then.
///
/// # Errors
/// Why there is no connection.
pub(super) async fn connect(
    endpoint: &LocalEndpoint,
    offered: Protocol,
    until: tokio::time::Instant,
) -> Result<Stream, NoConnection> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let connecting = async {
        let stream = TcpStream::connect(endpoint.state.address()).await?;
        stream.set_nodelay(true)?;
        // An endpoint that lost its power says nothing, and a silent WebSocket to it would be kept for ever.
        SockRef::from(&stream).set_tcp_keepalive(&alive())?;
        Ok::<_, io::Error>(stream)
    };
    let connected = tokio::time::timeout_at(until, connecting).await.map_err(late).flatten();
    let stream = connected.map_err(NoConnection::Tcp)?;
    let Some(tls) = &endpoint.tls else { return Ok(Stream::Plain(stream)) };
    let shaken = tokio::time::timeout_at(until, tls.shake_hands(stream, offered)).await.map_err(late).flatten();
    Ok(Stream::Secure(Box::new(shaken.map_err(NoConnection::Tls)?)))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    #[error("cannot connect: {0}")]
    Tcp(io::Error),
    #[error("{}", upstream_tls::reason(.0))]
    Tls(io::Error),
    #[error(transparent)]
    Http2(#[from] NoTrunk),
}

/// Idle for so long, a connection is one that exchanges can do without.
pub(super) const UNNEEDED: Duration = Duration::from_secs(1);

/// The idle connections a worker keeps to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Kept {
    idle: RefCell<Vec<Idle>>,
    /// No more are kept.
    closed: Cell<bool>,
}

/// An idle connection; gives its place back when it goes.
#[derive(Debug)]
struct Idle {
    /// `None` when it was taken.
    link: Option<Box<Link>>,
    place: Option<Place>,
    since: Instant,
    state: Arc<EndpointState>,
    gauges: Rc<ConnectionGauges>,
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.state.drop_idle();
        self.gauges.idle.add(-1);
    }
}

impl Kept {
    /// The newest connection that is neither closed nor too old, and how long it has rested.
    pub(super) fn take(&self, keep_alive: Duration, now: Instant) -> Option<(Connection, Duration)> {
        let mut kept = self.idle.borrow_mut();
        while let Some(mut idle) = kept.pop() {
            let rested = now.saturating_duration_since(idle.since);
            if rested >= keep_alive {
                // The rest is older still.
                kept.clear();
                return None;
            }
            if let Some(mut link) = idle.link.take()
                && link.is_open()
            {
                let connection = Connection { link, active: Active::new(&idle.gauges), place: idle.place.take() };
                return Some((connection, rested));
            }
        }
        None
    }

    /// Closes all, and those that come back from an exchange.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.clear();
    }

    /// Closes all that are idle now.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes what is closed already or too old, and what no exchange has needed for a second while the process
    /// keeps more than `most`. A burst may keep more for that second: closing at once would open as many again.
    pub(super) fn expire(&self, most: u32, keep_alive: Duration) {
        // Oldest first, so that the excess is taken from those.
        self.idle.borrow_mut().retain_mut(|idle| {
            let idle_for = idle.since.elapsed();
            let excess = idle_for >= UNNEEDED && idle.state.idle() > most;
            !excess && idle_for < keep_alive && idle.link.as_mut().is_some_and(|link| link.is_open())
        });
    }
}

impl LocalEndpoint {
    /// Keeps a connection whose response nobody wants, if all of it is there already.
    pub(super) fn keep_unread(&self, mut connection: Connection, upstream: &Upstream) {
        connection.link.skip_body();
        self.keep(connection, upstream, Instant::now());
    }

    /// Keeps a connection whose exchange is over.
    pub(super) fn keep(&self, connection: Connection, upstream: &Upstream, now: Instant) {
        let settings = &upstream.settings;
        let wanted = settings.max_idle_per_endpoint > 0 && !settings.keep_alive.is_zero() && !self.drain.leaves();
        let is_short = upstream.is_short_of_connections() || connection.link.is_short_of_descriptors();
        if !wanted || self.kept.closed.get() || !connection.link.persists() || is_short {
            return;
        }
        self.state.keep_idle();
        let Connection { mut link, active, place } = connection;
        link.rest();
        let gauges = Rc::clone(&active.0);
        gauges.idle.add(1);
        let state = Arc::clone(&self.state);
        self.kept.idle.borrow_mut().push(Idle { link: Some(link), place, since: now, state, gauges });
    }
}
