//! Defines one check: a GET, a question of gRPC's or a connect, over a connection of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{grpc, http2};
use crate::snapshot::Secure;
use crate::spec::upstream::{HealthCheck, Probe, Protocol, is_http2};
use crate::spec::upstream_tls::{is_refusal, reason};
use crate::telemetry::descriptors::is_own_lack;

/// What is read of an answer at most before it fails, in bytes: its head must fit.
const MOST_READ: usize = 64 * 1024;

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The endpoint did not do what it should.
    #[error("{0}")]
    Failed(String),
    /// The gateway lacks what it needs to check anybody: it says nothing of the endpoint.
    #[error("{0}")]
    Unmade(String),
}

impl CheckError {
    fn connecting(error: &std::io::Error, address: SocketAddr) -> Self {
        let text = format!("connect: {error}");
        if is_own_lack(error, address) { Self::Unmade(text) } else { Self::Failed(text) }
    }
}

/// Checks an endpoint once, within the check's timeout.
///
/// # Errors
/// Why it did not pass, for people.
pub async fn run(
    check: &HealthCheck,
    address: SocketAddr,
    secure: Option<&Secure>,
    protocol: Protocol,
) -> Result<(), CheckError> {
    let probe = async {
        let stream = TcpStream::connect(address).await.map_err(|error| CheckError::connecting(&error, address))?;
        over(stream, check, address, secure, protocol).await.map_err(CheckError::Failed)
    };
    timeout(check.timeout, probe).await.unwrap_or_else(|_| Err(CheckError::Failed(late(check.timeout))))
}

async fn over(
    stream: TcpStream,
    check: &HealthCheck,
    address: SocketAddr,
    secure: Option<&Secure>,
    protocol: Protocol,
) -> Result<(), String> {
    let host = |host: &Option<String>| host.clone().unwrap_or_else(|| address.to_string());
    let Some(secure) = secure else {
        return match &check.probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path, host: of } if protocol == Protocol::Http2 => {
                http2::get(stream, path, &host(of), "http").await
            }
            Probe::Http { path, host: of } => get(stream, path, host(of)).await,
            Probe::Grpc { service, host: of } => grpc::check(stream, service, &host(of), "http").await,
        };
    };
    let stream = shake_hands(stream, secure).await?;
    let chose_http2 = is_http2(stream.get_ref().1.alpn_protocol());
    match &check.probe {
        Probe::Tcp => Ok(()),
        Probe::Http { path, host: of } if protocol == Protocol::Http1 || protocol == Protocol::Auto && !chose_http2 => {
            get(stream, path, host(of)).await
        }
        Probe::Http { .. } | Probe::Grpc { .. } if !chose_http2 => {
            Err("TLS: the endpoint did not choose HTTP/2 in its handshake (ALPN)".to_owned())
        }
        Probe::Http { path, host: of } => http2::get(stream, path, &host(of), "https").await,
        Probe::Grpc { service, host: of } => grpc::check(stream, service, &host(of), "https").await,
    }
}

fn late(timeout: Duration) -> String {
    format!("no answer within {timeout:?}")
}

/// Ends well only where the endpoint shows what it should.
async fn shake_hands(stream: TcpStream, secure: &Secure) -> Result<TlsStream<TcpStream>, String> {
    let connector = TlsConnector::from(Arc::clone(secure.tls.config()));
    let shaken = connector.connect(secure.name.clone(), stream).await;
    shaken.map_err(|error| format!("TLS: {}", reason(&error)))
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
    host: String,
) -> Result<(), String> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "fleetgate-health")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the check's path or host can't be sent: {error}"))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MOST_READ)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request);
    tokio::pin!(connection, response);
    let answer = tokio::select! {
        biased;
        answer = &mut response => answer,
        // It drives the exchange; when it ends first, the response knows why.
        _ = &mut connection => response.await,
    };
    let status = answer.map_err(|error| describe(&error))?.status();
    judge(status)
}

/// Whether an answer to a GET passes.
pub(super) fn judge(status: StatusCode) -> Result<(), String> {
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
}

/// hyper's word alone says little; the cause below it says what the system said.
fn describe(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    if let Some(refusal) = source.and_then(|source| source.downcast_ref()).filter(|error| is_refusal(error)) {
        return format!("TLS: {}", reason(refusal));
    }
    match source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn run(
        check: &HealthCheck,
        address: SocketAddr,
        secure: Option<&Secure>,
        protocol: Protocol,
    ) -> Result<(), String> {
        super::run(check, address, secure, protocol).await.map_err(|error| error.to_string())
    }

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck {
            probe,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }
    }

    fn http() -> Probe {
        Probe::Http { path: "/healthz?deep=1".to_owned(), host: None }
    }

    /// Runs a check against a service that says `answer` once and closes; what it was asked, and the result.
    async fn asked(probe: Probe, answer: &'static str) -> (String, Result<(), String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.expect("to read") > 0 {}
            stream.write_all(answer.as_bytes()).await.expect("to write");
            String::from_utf8(request).expect("text").replace(&address.to_string(), "ADDRESS")
        });
        let result = run(&check(probe), address, None, Protocol::Http1).await;
        (service.await.expect("to end"), result)
    }

    #[tokio::test]
    async fn a_get_says_who_asks_and_closes() {
        let (request, result) = asked(http(), "HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(result, Ok(()));
        let mut lines: Vec<&str> = request.trim_end().lines().collect();
        lines[1..].sort_unstable();
        assert_eq!(
            lines,
            [
                "GET /healthz?deep=1 HTTP/1.1",
                "accept: */*",
                "connection: close",
                "host: ADDRESS",
                "user-agent: fleetgate-health"
            ]
        );
        let named = Probe::Http { path: "/".to_owned(), host: Some("users.internal".to_owned()) };
        let (request, _) = asked(named, "HTTP/1.1 200 OK\r\n\r\n").await;
        assert!(request.contains("host: users.internal\r\n"), "{request}");
    }

    #[tokio::test]
    async fn statuses_200_to_399_pass() {
        for (answer, result) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n", Ok(())),
            ("HTTP/1.0 399 So\r\n\r\n", Ok(())),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", Ok(())),
            ("HTTP/1.1 400 Bad\r\n\r\n", Err("status 400".to_owned())),
            ("HTTP/1.1 503 No\r\n\r\n", Err("status 503".to_owned())),
        ] {
            assert_eq!(asked(http(), answer).await.1, result, "{answer}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_fails_with_the_reason() {
        for answer in ["", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 200"] {
            assert!(asked(http(), answer).await.1.is_err(), "{answer}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        assert_eq!(run(&check(Probe::Tcp), address, None, Protocol::Http1).await, Ok(()));
        drop(listener);
        for probe in [Probe::Tcp, http()] {
            let failure = run(&check(probe), address, None, Protocol::Http1).await.expect_err("nobody listens");
            assert!(failure.starts_with("connect: ") && failure.contains("refused"), "{failure}");
        }
        let broken = Probe::Http { path: "no path".to_owned(), host: None };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let failure = run(&check(broken), listener.local_addr().expect("an address"), None, Protocol::Http1)
            .await
            .expect_err("no request");
        assert!(failure.starts_with("the check's path or host"), "{failure}");
    }

    #[tokio::test]
    async fn a_head_without_end_is_not_read_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.expect("to write");
            let mut sent = 0_usize;
            while stream.write_all(&[b'a'; 4096]).await.is_ok() {
                sent += 4096;
            }
            sent
        });
        assert!(run(&check(http()), address, None, Protocol::Http1).await.is_err());
        service.await.expect("the connection was closed");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_fails_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let failure = run(&check(http()), listener.local_addr().expect("an address"), None, Protocol::Http1).await;
        assert_eq!(failure, Err("no answer within 10s".to_owned()));
    }
}
