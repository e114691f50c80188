//! Defines how the admin API is served: HTTP/1.1, with limits on everything a client decides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
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

/// Connections at once; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;

/// For a request's head, and for a kept connection to bring the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest request head, in bytes.
const MOST_HEAD: usize = 16 * 1024;

/// A connection older than this is closed after its next answer.
const LIFETIME: Duration = Duration::from_secs(300);

/// How long a closing connection may take for the answer it is at.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Serves the admin API until shutdown, then lets answers end that are on their way.
pub async fn serve(listener: TcpListener, state: State, shutdown: CancellationToken) {
    let router = router(state);
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // It is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let connection = connection(stream, address, router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            // Out of descriptors, mostly: others have to be closed first.
            Err(error) => {
                tracing::warn!(%error, "the admin API can't accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, address: SocketAddr, router: Router, shutdown: CancellationToken) {
    // Answers are written whole; waiting for more would only delay them. A socket that is gone fails later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(Client(address));
        router.clone().oneshot(request)
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
        () = shutdown.cancelled() => {}
        () = sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, connection).await;
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
