//! Defines a client's HTTP/2 connection: many exchanges at once, each made to look like one of HTTP/1.1.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, header};
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use self::early::Answer;
use self::gather::gathered;
use self::meter::Meter;
use super::arrears::Arrears;
use super::connection::ClientConnection;
use super::field_filter::{FieldFilter, MALFORMED, Side};
use super::serve::serve;
use super::worker::Worker;
use crate::exchange::ProxyError;
use crate::spec::settings::Listener;

mod early;
mod gather;
mod meter;

/// What a client begins with that speaks HTTP/2 (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a request's body that a client may send ahead of those who read.
const MAX_STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all bodies of a connection: as much as [`BODY_BUDGET`] has for each of the connections there are. A window
/// is set when its connection begins, and HTTP/2 knows none that is smaller (RFC 9113, 6.9.2).
const MAX_CONNECTION_WINDOW: u32 = 1024 * 1024;
const MIN_CONNECTION_WINDOW: u32 = 64 * 1024;
/// Bytes that the bodies of all connections should have together.
const BODY_BUDGET: u32 = 256 * 1024 * 1024;
/// Bytes of a response that wait for a client that does not take them.
const SEND_BUFFER: usize = 64 * 1024;
/// Between two questions whether the client is there, and how long it has to answer.
const PING: Duration = Duration::from_secs(60);
const PONG: Duration = Duration::from_secs(20);
/// Exchanges that the client takes back at once, and that are taken in good part, whatever their share.
const GIVEN_UP: u32 = 100;

/// What the worker's sweep knows of a connection's exchanges.
#[derive(Debug, Default)]
pub(super) struct Streams {
    leave: Notify,
    sending: RefCell<Slab<Sending>>,
    begun: Cell<u32>,
    given_up: Cell<u32>,
    /// Requests that are to be refused as malformed, and have not come to that.
    replaced: Rc<Cell<u32>>,
    turns: Cell<u64>,
    /// Who waits for the end of a turn.
    waiting: RefCell<Vec<Waker>>,
}

/// A response on its way.
#[derive(Debug)]
struct Sending {
    /// Since which second the client has taken none of it; `None`: it takes it.
    since: Option<u32>,
    /// Of its waits before.
    arrears: Arrears,
    exchange: Option<AbortHandle>,
}

impl Streams {
    /// Tells the client to begin no more exchanges here; those under way go on.
    pub(super) fn leave(&self) {
        self.leave.notify_one();
    }

    /// Ends each exchange whose client has taken nothing of the response for so long, while it may take others.
    pub(super) fn sweep(&self, now: u32, longest: Duration) {
        for (_, Sending { since, arrears, exchange }) in self.sending.borrow().iter() {
            let stalled = since.map_or(0, |since| now.saturating_sub(since).saturating_add(arrears.seconds()));
            if Duration::from_secs(stalled.into()) > longest
                && let Some(exchange) = exchange
            {
                exchange.abort();
            }
        }
    }

    /// Ends the exchange of a response.
    pub(super) fn cut(&self, response: usize) {
        let sending = self.sending.borrow();
        if let Some(exchange) = sending.get(response).and_then(|sending| sending.exchange.as_ref()) {
            exchange.abort();
        }
    }

    /// Whether a request was malformed or too large, and why in words for the log. [`FieldFilter`] has replaced it.
    pub(super) fn malformed(&self, headers: &mut HeaderMap) -> Option<(ProxyError, HeaderValue)> {
        let left = self.replaced.get().checked_sub(1)?;
        let reason = headers.remove(MALFORMED)?;
        self.replaced.set(left);
        let error = if reason.is_empty() { ProxyError::HeadersTooLarge } else { ProxyError::BadRequest };
        Some((error, reason))
    }

    /// Waits until h2 has written what it was given, as far as the client takes it. `since`: when the wait began.
    pub(super) fn poll_turn(&self, since: &mut Option<u64>, cx: &mut Context<'_>) -> Poll<()> {
        if *since.get_or_insert(self.turns.get()) < self.turns.get() {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }

    fn turn_ends(&self) {
        self.turns.set(self.turns.get() + 1);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    pub(super) fn begins(&self) {
        self.begun.set(self.begun.get().saturating_add(1));
    }

    /// An exchange is over; whether the client gives up so many at once that it can mean no good.
    pub(super) fn ends(&self, given_up: bool) -> bool {
        if given_up {
            self.given_up.set(self.given_up.get().saturating_add(1));
        }
        let given_up = self.given_up.get();
        given_up > GIVEN_UP && given_up > self.begun.get() / 2
    }

    /// A response is on its way, and the client's turn, which takes so many bytes a second at least.
    pub(super) fn sends(&self, now: u32, min_rate: u32) -> usize {
        let sending = Sending { since: Some(now), arrears: Arrears::new(min_rate), exchange: early::task() };
        self.sending.borrow_mut().insert(sending)
    }

    /// More of it is wanted.
    pub(super) fn took(&self, response: usize, now: u32) {
        if let Some(sending) = self.sending.borrow_mut().get_mut(response)
            && let Some(since) = sending.since.take()
        {
            sending.arrears.waited(now.saturating_sub(since));
        }
    }

    /// So many bytes of it go, and it is the client's turn again.
    pub(super) fn sent(&self, response: usize, now: u32, bytes: usize) {
        if let Some(sending) = self.sending.borrow_mut().get_mut(response) {
            sending.since = Some(now);
            sending.arrears.took(bytes);
        }
    }

    /// Nothing more of it is on its way.
    pub(super) fn over(&self, response: usize) {
        self.sending.borrow_mut().try_remove(response);
    }
}

/// Serves a connection to its end.
pub(super) async fn serve_http2(
    worker: Rc<Worker>,
    connection: Rc<ClientConnection>,
    streams: Rc<Streams>,
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
) {
    let service = {
        let (worker, connection) = (Rc::clone(&worker), Rc::clone(&connection));
        service_fn(move |request: Request<Incoming>| {
            let has_body = !request.body().is_end_stream();
            // Boxed: the future has kilobytes, which every `async` block around it doubles and every move copies.
            let served = Box::pin(serve(Rc::clone(&worker), Rc::clone(&connection), plain(request)));
            async move { Ok::<_, Infallible>(served.await?.map(|body| Answer::new(body, has_body))) }
        })
    };
    let [connections, _] = worker.peers.descriptors.held();
    let settings = &connection.listener.settings;
    let builder = builder(settings, window(connections));
    let filter =
        FieldFilter::new(Meter::new(io, &worker.clock), Side::Client, largest_section(settings), PREFACE.len());
    let (io, turn) = gathered(filter.counting(&streams.replaced));
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut leaves = worker.is_draining();
    if leaves {
        served.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            ended = poll_fn(|cx| {
                let polled = turn.poll(served.as_mut(), cx);
                streams.turn_ends();
                polled
            }) => {
                if let Err(error) = ended {
                    tracing::debug!(listener = %connection.listener.name, "an HTTP/2 connection broke: {error}");
                }
                return;
            }
            () = streams.leave.notified(), if !leaves => {
                leaves = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Heads up to twice the limit come through, for the gate to refuse them in its own words: beyond that h2 answers 431
/// by itself, and tells nobody.
fn builder(settings: &Listener, window: u32) -> http2::Builder<Here> {
    let mut builder = http2::Builder::new(Here);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(u32::try_from(largest_section(settings)).unwrap_or(u32::MAX))
        .initial_stream_window_size(window.min(MAX_STREAM_WINDOW))
        .initial_connection_window_size(window)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    builder
}

/// What the bodies of one more connection may have.
fn window(connections: u32) -> u32 {
    (BODY_BUDGET / connections.max(1)).clamp(MIN_CONNECTION_WINDOW, MAX_CONNECTION_WINDOW)
}

/// Bytes of a request's fields as they are sent.
fn largest_section(settings: &Listener) -> usize {
    settings.max_header_size * 2
}

/// Runs a connection's exchanges on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, exchange: F) {
        early::run(exchange);
    }
}

/// A request as one of HTTP/1.1 would be: with a `Host`, one `Cookie`, and nothing to wait for.
fn plain(mut request: Request<Incoming>) -> Request<Incoming> {
    let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let headers = request.headers_mut();
    // One that came beside it is compared by the gate.
    if let Some(authority) = authority
        && !headers.contains_key(header::HOST)
    {
        headers.insert(header::HOST, authority);
    }
    join_cookies(headers);
    // The body comes at once: hyper sends no 100, and the client that asks for one does not wait for ever.
    headers.remove(header::EXPECT);
    request
}

/// RFC 9113, 8.2.3.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_become_one_cookie() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2; c=3", "d=4"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn many_connections_have_small_windows() {
        assert_eq!([0, 1, 256].map(window), [MAX_CONNECTION_WINDOW; 3]);
        assert_eq!(window(1024), 256 * 1024);
        assert_eq!([4096, 20_000, u32::MAX].map(window), [MIN_CONNECTION_WINDOW; 3]);
        // Each counted with those before it, as they come.
        let all: u64 = (1..=20_000).map(|connections| u64::from(window(connections))).sum();
        assert!(all < 2 * 1024 * 1024 * 1024, "{all}");
    }

    #[test]
    fn clients_that_give_up_most_are_told() {
        let streams = Streams::default();
        let exchange = |given_up| {
            streams.begins();
            streams.ends(given_up)
        };
        assert!((0..1_000).all(|_| !exchange(false)));
        assert!((0..999).all(|_| !exchange(true)), "half of them, and a few");
        assert!((0..3).any(|_| exchange(true)));
    }

    #[tokio::test(flavor = "local")]
    async fn an_exchange_whose_response_nobody_takes_is_ended() {
        let (streams, longest) = (Rc::<Streams>::default(), Duration::from_secs(3));
        let ended = Rc::<RefCell<Vec<&str>>>::default();
        let exchange = |name: &'static str, took: &'static [u32]| {
            let (streams, ended) = (Rc::clone(&streams), Rc::clone(&ended));
            async move {
                let _told = Told(ended, name);
                let response = streams.sends(5, 10);
                for second in took {
                    streams.took(response, *second);
                    streams.sent(response, *second, 10);
                }
                std::future::pending().await
            }
        };
        // The slow one takes 10 bytes every two seconds, and should every second: it owes one after each.
        for (name, took) in [("stalled", &[][..]), ("slow", &[7, 9]), ("well", &[6, 7, 8, 9, 10])] {
            Here.execute(exchange(name, took));
        }
        for (now, wanted) in [(8, &[][..]), (9, &["stalled"]), (10, &["stalled"]), (11, &["stalled", "slow"])] {
            tokio::task::yield_now().await;
            streams.sweep(now, longest);
            tokio::task::yield_now().await;
            assert_eq!(*ended.borrow(), wanted, "{now}");
        }
    }

    struct Told(Rc<RefCell<Vec<&'static str>>>, &'static str);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.borrow_mut().push(self.1);
        }
    }
}
