//! Defines how the admin API is served: HTTP/1.1, with limits on everything a client decides.
//!
//! Whoever reaches the port must not keep probes from it. Connections are accepted at once, whatever the others do, and
//! beyond a number of them the oldest one ends that has no call under way; calls of the API have places of their own, and
//! one beyond those is refused; `/healthz`, `/readyz` and `/metrics` need none.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::State;
use super::access::Client;
use super::api::router;
use super::error::ApiError;
use super::seats::{Seat, Seats};
use crate::telemetry::descriptors::Division;

/// Connections at once; fewer where the process has few descriptors in reserve.
const MAX_CONNECTIONS: usize = 256;

/// Connections at once, however few descriptors there are.
const MIN_CONNECTIONS: usize = 8;

/// For a request's head, and for a kept connection to bring the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest call: one that waits for events takes a minute.
const CALL_TIMEOUT: Duration = Duration::from_secs(75);

/// Largest request head, in bytes.
const MOST_HEAD: usize = 16 * 1024;

/// A connection older than this is closed after its next answer.
const LIFETIME: Duration = Duration::from_secs(300);

/// How long a closing connection may take for the answer it is at.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// How long accepting pauses after an error that all connections share.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections share.
#[derive(Clone)]
struct Shared {
    router: Router,
    seats: Arc<Seats>,
    calls: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// Serves the admin API until shutdown, then lets answers end that are on their way.
pub async fn serve(listener: TcpListener, state: State, shutdown: CancellationToken) {
    let descriptors = Arc::clone(&state.descriptors);
    let most = max_connections(descriptors.division());
    let shared = Shared {
        router: router(state),
        seats: Seats::new(most),
        calls: Arc::new(Semaphore::new(most / 2)),
        shutdown: shutdown.clone(),
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let seat = shared.seats.take(address.ip());
                connections.spawn(connection(stream, address, seat, shared.clone()));
            }
            // Out of descriptors, mostly: others have to be closed first.
            Err(error) => {
                if descriptors.accept_failed() {
                    tracing::warn!(%error, "the admin API can't accept a connection");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Half of what is in reserve: registries, health checks and files need the other one.
fn max_connections(division: Division) -> usize {
    let reserve = usize::try_from(division.reserve).unwrap_or(usize::MAX);
    (reserve / 2).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS)
}

async fn connection(stream: TcpStream, address: SocketAddr, seat: Seat, shared: Shared) {
    // Answers are written whole; waiting for more would only delay them. A socket that is gone fails later.
    let _ = stream.set_nodelay(true);
    let seat = Arc::new(seat);
    let (evicted, shutdown) = (seat.evicted(), shared.shutdown.clone());
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(Client(address));
        answer(request, Arc::clone(&seat), shared.clone())
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // What goes wrong with a client's connection is the client's business.
        _ = &mut connection => return,
        () = evicted.cancelled() => return,
        () = shutdown.cancelled() => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
}

async fn answer(request: http::Request<Incoming>, seat: Arc<Seat>, shared: Shared) -> Result<Response, Infallible> {
    if matches!(request.uri().path(), "/healthz" | "/readyz" | "/metrics") {
        return shared.router.oneshot(request).await;
    }
    let Ok(_place) = shared.calls.try_acquire() else {
        return Ok(unavailable("the admin API answers as many calls as it may at once: try again"));
    };
    let _call = seat.call();
    match timeout(CALL_TIMEOUT, shared.router.clone().oneshot(request)).await {
        Ok(answer) => answer,
        Err(_) => Ok(unavailable("the call took too long")),
    }
}

fn unavailable(text: &str) -> Response {
    ApiError::Unavailable(text.to_owned()).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;
    use tokio::time::Instant;

    use super::*;
    use crate::admin::Readiness;
    use crate::admin::view::sample;
    use crate::control::command::Commands;
    use crate::control::history::History;
    use crate::telemetry::audit::AuditLog;
    use crate::telemetry::descriptors::Descriptors;
    use crate::telemetry::lines::LogStates;
    use crate::telemetry::prometheus::Metrics;

    async fn served() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let (_, snapshot) = watch::channel(Arc::new(sample::Picture::default().snapshot()));
        let state = State {
            settings: Arc::new(sample::settings()),
            listeners: Vec::new(),
            snapshot,
            providers: Vec::new(),
            fleet: Arc::default(),
            audit: Arc::new(AuditLog::off()),
            commands: Commands::channel().0,
            history: History::new(Box::new(|_, _| None), CancellationToken::new()),
            logs: LogStates(Vec::new()),
            unreadable: Arc::default(),
            descriptors: Descriptors::new(Division::of(1024, 0), 0),
            metrics: Metrics::new().expect("a registry"),
            readiness: Readiness::new(),
            started: Instant::now(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, state, shutdown.clone()));
        (address, shutdown, server)
    }

    /// Sends text; what comes back up to the first empty line.
    async fn exchange(stream: &mut TcpStream, request: &str) -> String {
        // The answer may come before all was sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") && stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {}
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn a_stop_closes_kept_connections() {
        let (address, shutdown, server) = served().await;
        let mut kept = TcpStream::connect(address).await.expect("to connect");
        let answer = exchange(&mut kept, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        shutdown.cancel();
        timeout(Duration::from_secs(20), server).await.expect("in time").expect("no panic");
        let mut rest = Vec::new();
        kept.read_to_end(&mut rest).await.expect("the end");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_crowd_without_heads_keeps_nobody_from_readiness() {
        let (address, _shutdown, _server) = served().await;
        let mut crowd = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 50 {
            let mut stream = TcpStream::connect(address).await.expect("to connect");
            // Those before it may have been closed meanwhile.
            let _ = stream.write_all(b"GET /x HTTP/1.1\r\n").await;
            crowd.push(stream);
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            let mut stream = TcpStream::connect(address).await.expect("to connect");
            let answer = exchange(&mut stream, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 ") && !answer.starts_with("HTTP/1.1 4"), "{path}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn calls_that_wait_keep_nobody_from_readiness() {
        let (address, _shutdown, _server) = served().await;
        let mut waiting = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 50 {
            let mut stream = TcpStream::connect(address).await.expect("to connect");
            let request = "GET /api/v1/events?wait=60&after=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
            let _ = stream.write_all(request.as_bytes()).await;
            waiting.push(stream);
        }
        let mut stream = TcpStream::connect(address).await.expect("to connect");
        let answer = exchange(&mut stream, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    }

    #[tokio::test]
    async fn heads_have_a_limit_and_rebinding_finds_nothing() {
        let (address, _shutdown, _server) = served().await;
        let mut stream = TcpStream::connect(address).await.expect("to connect");
        let long = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(2 * MOST_HEAD));
        let answer = exchange(&mut stream, &long).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let mut stream = TcpStream::connect(address).await.expect("to connect");
        let answer = exchange(&mut stream, "GET /metrics HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
}
