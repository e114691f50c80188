//! TLS in front of a service: a door that shakes hands and passes bytes on to where it leads.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::pki::{Authority, Issued};

/// A handshake that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaken {
    /// The name that was asked for.
    pub name: Option<String>,
    pub resumed: bool,
    /// Whether the client showed a certificate.
    pub identified: bool,
}

/// A TLS server on a free port of 127.0.0.1; ends when dropped.
pub struct Secured {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    shaken: Arc<Mutex<VecDeque<Shaken>>>,
    running: CancellationToken,
}

impl Secured {
    /// Leads to `service`, showing this certificate. `clients`: whose certificates clients must show.
    pub async fn start(service: SocketAddr, shows: &Issued, clients: Option<&Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let secured = Self {
            address: listener.local_addr().unwrap(),
            config: Arc::new(Mutex::new(config(shows, clients, rustls::ALL_VERSIONS, &[]))),
            shaken: Arc::default(),
            running: CancellationToken::new(),
        };
        let (config, shaken, running) = (secured.config.clone(), secured.shaken.clone(), secured.running.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = running.run_until_cancelled(listener.accept()).await {
                let acceptor = TlsAcceptor::from(config.lock().unwrap().clone());
                let (shaken, running) = (shaken.clone(), running.clone());
                tokio::spawn(
                    async move { running.run_until_cancelled(serve(acceptor, stream, service, shaken)).await },
                );
            }
        });
        secured
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections are shown this certificate.
    pub fn show(&self, shows: &Issued, clients: Option<&Authority>) {
        *self.config.lock().unwrap() = config(shows, clients, rustls::ALL_VERSIONS, &[]);
    }

    /// The same, in these versions of TLS alone.
    pub fn show_in(&self, shows: &Issued, clients: Option<&Authority>, versions: &[&'static SupportedProtocolVersion]) {
        *self.config.lock().unwrap() = config(shows, clients, versions, &[]);
    }

    /// New connections choose of these protocols.
    pub fn speak(&self, shows: &Issued, alpn: &[&str]) {
        *self.config.lock().unwrap() = config(shows, None, rustls::ALL_VERSIONS, alpn);
    }

    /// The handshakes that went well, in order.
    pub fn shaken(&self) -> Vec<Shaken> {
        self.shaken.lock().unwrap().iter().cloned().collect()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.running.cancel();
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    service: SocketAddr,
    shaken: Arc<Mutex<VecDeque<Shaken>>>,
) -> std::io::Result<()> {
    let mut client = acceptor.accept(stream).await?;
    let session = client.get_ref().1;
    shaken.lock().unwrap().push_back(Shaken {
        name: session.server_name().map(str::to_owned),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        identified: session.peer_certificates().is_some(),
    });
    let mut service = TcpStream::connect(service).await?;
    tokio::io::copy_bidirectional(&mut client, &mut service).await?;
    Ok(())
}

fn config(
    shows: &Issued,
    clients: Option<&Authority>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(shows.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(vec![shows.der.clone()], key).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}
