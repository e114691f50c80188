//! Defines how a listener speaks TLS, and that it does so anew when the files that verify its clients change.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio::sync::watch;

use crate::spec::client_certificate::{NoVerifier, verifier};
use crate::spec::file;
use crate::spec::settings::{ClientCertificates, ListenerTls, TlsVersion};
use crate::spec::upstream::Protocol;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// A listener's TLS, for all workers: they share tickets, so that a client can resume its session at any.
#[derive(Clone, Debug)]
pub struct TlsFront {
    current: watch::Receiver<Arc<ServerConfig>>,
    /// Whether clients are asked for a certificate.
    pub(super) verifies: bool,
}

impl TlsFront {
    /// Reads what the settings name. The future follows changes of it, for as long as it is polled.
    ///
    /// # Errors
    /// A file that cannot be read or is of no use.
    pub fn open(
        name: &str,
        tls: &ListenerTls,
        http2: bool,
    ) -> Result<(Self, impl Future<Output = ()> + use<>), String> {
        let seen = prints(tls.clients.as_ref());
        let (publish, current) = watch::channel(Arc::new(config(tls, http2)?));
        let (name, tls, verifies) = (name.to_owned(), tls.clone(), tls.clients.is_some());
        let follow = async move {
            let mut seen = seen;
            while tls.clients.is_some() {
                tokio::time::sleep(LOOK).await;
                let (settings, before) = (tls.clone(), seen.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    // Looked at before they are read: what changes meanwhile shows at the next look.
                    let now = prints(settings.clients.as_ref());
                    (now != before).then(|| (now, config(&settings, http2)))
                });
                let Ok(Some((now, made))) = looked.await else { continue };
                seen = now;
                match made {
                    Ok(config) => {
                        tracing::info!(listener = %name, "the authorities of client certificates were read again");
                        publish.send_replace(Arc::new(config));
                    }
                    Err(error) => {
                        tracing::warn!(listener = %name, "the former authorities of client certificates stay: {error}");
                    }
                }
            }
        };
        Ok((Self { current, verifies }, follow))
    }

    /// How a handshake that begins now goes, with the certificate that was chosen for it. A configuration is a few
    /// pointers: the copy costs nothing beside a handshake.
    pub(super) fn with(&self, certificate: &Arc<CertifiedKey>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.current.borrow());
        config.cert_resolver = Arc::new(Chosen(Some(Arc::clone(certificate))));
        Arc::new(config)
    }
}

/// What was chosen by the name that the client asks for.
#[derive(Debug)]
struct Chosen(Option<Arc<CertifiedKey>>);

impl ResolvesServerCert for Chosen {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// A configuration with tickets of its own: a session that was verified by other authorities does not go on.
fn config(tls: &ListenerTls, http2: bool) -> Result<ServerConfig, String> {
    let versions = match tls.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.map_err(|error| error.to_string())?;
    let verifier = match &tls.clients {
        None => Arc::new(NoClientAuth),
        Some(clients) => verifier_of(clients)?,
    };
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(Chosen(None)));
    config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
    config.alpn_protocols = if http2 { Protocol::Auto } else { Protocol::Http1 }.alpn();
    Ok(config)
}

fn verifier_of(clients: &ClientCertificates) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let read = |path: &Path| {
        file::read(path, file::MAX_ATTACHMENT_BYTES).map_err(|error| format!("{}: {error}", path.display()))
    };
    let authorities = read(&clients.authorities)?;
    let revocations = clients.revocations.as_deref().map(read).transpose()?;
    verifier(&authorities, revocations.as_deref(), clients.required).map_err(|error| {
        match (error, &clients.revocations) {
            (NoVerifier::Revocations(text), Some(path)) => format!("{}: {text}", path.display()),
            (NoVerifier::Authorities(text) | NoVerifier::Revocations(text), _) => {
                format!("{}: {text}", clients.authorities.display())
            }
        }
    })
}

/// What tells that a file is another: where it lies, its size and its times.
type Print = (u64, u64, u64, i64, i64, i64);

fn prints(clients: Option<&ClientCertificates>) -> Vec<Option<Print>> {
    let paths = clients.into_iter().flat_map(|clients| [Some(&clients.authorities), clients.revocations.as_ref()]);
    let print = |data: std::fs::Metadata| {
        (data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec(), data.ctime_nsec())
    };
    paths.flatten().map(|path| std::fs::metadata(path).ok().map(print)).collect()
}
