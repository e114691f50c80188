//! A client that speaks TLS, and HTTP/1.1 or HTTP/2 over it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::PATIENCE;
use super::pki::{Authority, Issued};

/// Bodies of requests.
pub type Body = BoxBody<Bytes, io::Error>;

/// A request without a body, or with one.
pub fn request(method: &str, uri: &str) -> http::request::Builder {
    http::Request::builder().method(method).uri(uri)
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body whose pieces are sent by hand.
pub fn by_hand() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (pieces, received) = mpsc::channel(1);
    let come = futures_util::stream::unfold(received, async |mut received: mpsc::Receiver<_>| {
        Some((Ok::<_, io::Error>(received.recv().await?), received))
    });
    (pieces, StreamBody::new(come).boxed())
}

/// A client; its sessions are resumed from connection to connection.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
}

/// How a client is made.
pub struct Setup<'a> {
    pub trusts: &'a Authority,
    pub shows: Option<&'a Issued>,
    pub versions: &'a [&'static SupportedProtocolVersion],
    pub alpn: &'a [&'a str],
    pub names_host: bool,
}

impl<'a> Setup<'a> {
    pub fn trusting(authority: &'a Authority) -> Self {
        Self { trusts: authority, shows: None, versions: rustls::ALL_VERSIONS, alpn: &[], names_host: true }
    }
}

impl Client {
    pub fn new(setup: &Setup<'_>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(setup.trusts.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(setup.versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match setup.shows {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![issued.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = setup.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.enable_sni = setup.names_host;
        Self { config: Arc::new(config) }
    }

    pub fn trusting(authority: &Authority) -> Self {
        Self::new(&Setup::trusting(authority))
    }

    /// Shakes hands with who must be `host`.
    pub async fn connect(&self, address: SocketAddr, host: &str) -> io::Result<Secured> {
        let stream = TcpStream::connect(address).await?;
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let stream = timeout(PATIENCE, TlsConnector::from(Arc::clone(&self.config)).connect(host, stream)).await??;
        Ok(Secured(stream))
    }

    /// GET on a connection of its own, HTTP/1.1: the status, or why there is none. A client without a certificate
    /// learns from its first read that it is refused.
    pub async fn get(&self, address: SocketAddr, host: &str, path: &str) -> io::Result<(u16, String)> {
        let mut stream = self.connect(address, host).await?.0;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        match timeout(PATIENCE, stream.read_to_string(&mut answer)).await? {
            Err(error) if answer.is_empty() => return Err(error),
            // Whoever closes without a word in TLS has said all in HTTP.
            Ok(_) | Err(_) => {}
        }
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no answer: {answer:?}")))?;
        Ok((status, answer))
    }
}

/// A connection over TLS.
#[derive(Debug)]
pub struct Secured(pub TlsStream<TcpStream>);

impl Secured {
    /// The certificate that the server shows.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub fn alpn(&self) -> String {
        String::from_utf8_lossy(self.0.get_ref().1.alpn_protocol().unwrap_or_default()).into_owned()
    }

    pub fn is_resumed(&self) -> bool {
        self.0.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub async fn http1(self) -> http1::SendRequest<Body> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.0)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub async fn http2(self) -> http2::SendRequest<Body> {
        http2_over(self.0).await
    }
}

/// HTTP/2 over any stream.
pub async fn http2_over<S>(stream: S) -> http2::SendRequest<Body>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
