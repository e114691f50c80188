//! Defines a connection that carries many exchanges: how it is made, what it takes, and the task that drives it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::sync::Notify;

use super::super::field_filter::{FieldFilter, Side};
use super::super::local::{ConnectionGauges, LocalEndpoint, LocalUpstream};
use super::super::stream::Stream;
use crate::snapshot::{EndpointState, Place};
use crate::telemetry::descriptors::{ClientShare, UpstreamHold};

/// Most strands of one trunk, also where the endpoint allows more: what is lost with it.
const MOST: u32 = 100;

/// Bytes of a response that an endpoint may send ahead of its client.
const WINDOW: u32 = 128 * 1024;

/// Bytes of a request that wait for an endpoint that does not take them.
const SEND_BUFFER: usize = 64 * 1024;

/// Largest head of a response, as in HTTP/1.1.
const MAX_HEAD: u32 = 128 * 1024;

/// What h2 may spend on small pieces of responses whose clients take none, at 256 a piece: some ten strands full of
/// them. Beyond, it gives the trunk up.
const SMALL_PIECES: usize = 64 * 1024 * 1024;

/// How long an endpoint in doubt has to say that it is there.
const PONG: Duration = Duration::from_secs(5);

/// How long an endpoint has to take what is said last. One that takes nothing would keep the connection for ever.
const FAREWELL: Duration = Duration::from_secs(5);

/// Questions are at least so far apart: a server of gRPC leaves a client that asks all the time.
const PINGS_APART: Duration = Duration::from_secs(10);

/// A connection of HTTP/2 to an endpoint. It goes when nobody has it any more.
#[derive(Debug)]
pub(in super::super) struct Trunk {
    requests: RefCell<SendRequest<Bytes>>,
    strands: Cell<u32>,
    idle_since: Cell<Instant>,
    /// Whether it ever carried an exchange.
    used: Cell<bool>,
    doubt: Rc<Doubt>,
    /// Told when it goes.
    left: Rc<Notify>,
    state: Arc<EndpointState>,
    gauges: Rc<ConnectionGauges>,
    secure: bool,
    /// Its place among those of the upstream, where they are limited.
    _place: Option<Place>,
    /// Its descriptor, counted for the client whose exchange it carried first since it was idle.
    hold: RefCell<UpstreamHold>,
}

/// Whether an endpoint is there that has not answered in time.
#[derive(Debug, Default)]
struct Doubt {
    raised: Notify,
    stands: Cell<bool>,
    last: Cell<Option<Instant>>,
}

/// Why a connection is no trunk.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum NoTrunk {
    #[error("the endpoint did not choose HTTP/2 in its handshake (ALPN)")]
    NotChosen,
    #[error("the endpoint does not speak HTTP/2")]
    Alien,
    #[error("it was closed before HTTP/2 was spoken: {0}")]
    Closed(h2::Error),
    #[error("the endpoint left at once")]
    Left,
    #[error("the endpoint said nothing in HTTP/2 in time")]
    Late,
}

impl NoTrunk {
    fn of(error: h2::Error) -> Self {
        match error.reason() {
            Some(_) if error.is_remote() => Self::Left,
            Some(_) => Self::Alien,
            None => Self::Closed(error),
        }
    }
}

impl Trunk {
    /// Makes a trunk of a connection. The endpoint's SETTINGS are waited for: they prove that it speaks HTTP/2, in TLS
    /// 1.3 that it takes the gateway's certificate, and say how many strands it takes; so that no request is lost to find
    /// that out.
    ///
    /// # Errors
    /// It speaks no HTTP/2.
    pub(super) async fn open(
        stream: Stream,
        upstream: &LocalUpstream,
        endpoint: &LocalEndpoint,
        place: Option<Place>,
        hold: UpstreamHold,
    ) -> Result<Rc<Self>, NoTrunk> {
        let secure = stream.is_secure();
        if secure && !stream.chose_http2() {
            return Err(NoTrunk::NotChosen);
        }
        let (requests, mut connection) = builder()
            .handshake(FieldFilter::new(stream, Side::Endpoint, MAX_HEAD as usize, 0))
            .await
            .map_err(NoTrunk::of)?;
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(NoTrunk::Left)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(NoTrunk::of(error))),
            Poll::Pending if requests.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let (doubt, left) = (Rc::<Doubt>::default(), Rc::<Notify>::default());
        let label = Arc::clone(endpoint.state.label());
        tokio::task::spawn_local(drive(connection, Rc::clone(&doubt), Rc::clone(&left), label));
        let (state, gauges) = (Arc::clone(&endpoint.state), Rc::clone(&upstream.connections));
        state.keep_idle();
        gauges.idle.add(1);
        Ok(Rc::new(Self {
            requests: RefCell::new(requests),
            strands: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            used: Cell::new(false),
            doubt,
            left,
            state,
            gauges,
            secure,
            _place: place,
            hold: RefCell::new(hold),
        }))
    }

    /// Whether it goes over TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether it carried an exchange before.
    pub(super) fn was_used(&self) -> bool {
        self.used.get()
    }

    /// Whether it takes strands at all: neither it nor the endpoint has said goodbye.
    pub(super) fn is_open(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.requests.borrow_mut().poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    /// Whether it takes one more strand now.
    pub(super) fn has_room(&self) -> bool {
        let allowed = u32::try_from(self.requests.borrow().current_max_send_streams()).unwrap_or(u32::MAX);
        !self.doubt.stands.get() && self.strands.get() < allowed.min(MOST)
    }

    /// Since when it carries nothing; `None` when it does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.strands.get() == 0).then(|| self.idle_since.get())
    }

    /// The idle connections to its endpoint, of all workers.
    pub(super) fn idle_beside(&self) -> u32 {
        self.state.idle()
    }

    /// An exchange was not answered in time: nobody else begins one here before the endpoint has said that it is there.
    /// If it does not, the trunk ends with all its strands.
    pub(super) fn doubt(&self) {
        let now = Instant::now();
        let just_asked = self.doubt.last.get().is_some_and(|last| now.saturating_duration_since(last) < PINGS_APART);
        if !self.doubt.stands.get() && !just_asked {
            self.doubt.stands.set(true);
            self.doubt.last.set(Some(now));
            self.doubt.raised.notify_one();
        }
    }

    /// Sends the head of a request; `bare`: that is all of it.
    pub(super) fn request(
        &self,
        head: Request<()>,
        bare: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // The handle remembers the stream it began last, which another exchange must not wait for.
        let mut requests = self.requests.borrow().clone();
        requests.send_request(head, bare)
    }

    /// Whether a client may begin an exchange here: where it is idle, the descriptor is counted for it.
    pub(super) fn is_counted_for(&self, client: Option<&Arc<ClientShare>>) -> bool {
        self.strands.get() > 0 || self.hold.borrow_mut().moves_to(client)
    }

    /// A strand begins.
    pub(super) fn enter(&self) {
        self.used.set(true);
        if self.strands.replace(self.strands.get() + 1) == 0 {
            self.state.drop_idle();
            self.gauges.idle.add(-1);
            self.gauges.active.add(1);
        }
    }

    /// A strand ends.
    pub(super) fn leave(&self) {
        if self.strands.replace(self.strands.get() - 1) == 1 {
            self.idle_since.set(Instant::now());
            self.hold.borrow_mut().moves_to(None);
            self.state.keep_idle();
            self.gauges.idle.add(1);
            self.gauges.active.add(-1);
        }
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        // Each strand has it: there is none.
        self.state.drop_idle();
        self.gauges.idle.add(-1);
        self.left.notify_one();
    }
}

fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        // None before the endpoint has said how many.
        .initial_max_send_streams(0)
        .initial_window_size(WINDOW)
        // Strands whose clients take nothing must not stop the others.
        .initial_connection_window_size(WINDOW * MOST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .data_frame_budget(SMALL_PIECES);
    builder
}

/// Reads and writes for all strands until the connection ends: by its endpoint, by doubt, or because nobody has it.
async fn drive(
    mut connection: Connection<FieldFilter<Stream>, Bytes>,
    doubt: Rc<Doubt>,
    left: Rc<Notify>,
    endpoint: Arc<str>,
) {
    let mut pings = connection.ping_pong();
    loop {
        tokio::select! {
            ended = &mut connection => return told(&endpoint, ended),
            () = left.notified() => {
                if let Ok(ended) = tokio::time::timeout(FAREWELL, &mut connection).await {
                    told(&endpoint, ended);
                }
                return;
            }
            () = doubt.raised.notified() => {}
        }
        tokio::select! {
            ended = &mut connection => return told(&endpoint, ended),
            there = is_there(pings.as_mut()) => if there {
                doubt.stands.set(false);
            } else {
                tracing::debug!(endpoint = &*endpoint, "an HTTP/2 connection is given up: its endpoint does not answer");
                return;
            }
        }
    }
}

async fn is_there(pings: Option<&mut PingPong>) -> bool {
    let Some(pings) = pings else { return false };
    matches!(tokio::time::timeout(PONG, pings.ping(Ping::opaque())).await, Ok(Ok(_)))
}

fn told(endpoint: &str, ended: Result<(), h2::Error>) {
    if let Err(error) = ended {
        tracing::debug!(endpoint, "an HTTP/2 connection ended: {error}");
    }
}
