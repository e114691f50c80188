//! Defines TLS with an endpoint as a worker speaks it: each connection resumes the session of another.

use std::cell::OnceCell;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::local::{LocalEndpoint, LocalUpstream};
use crate::snapshot::Secure;
use crate::spec::upstream::Protocol;

/// TLS with one endpoint.
#[derive(Debug)]
pub(super) struct LocalTls {
    secure: Secure,
    /// Made when it is wanted first: it remembers sessions.
    config: OnceCell<Arc<ClientConfig>>,
    /// The same, where another protocol is offered than the upstream says.
    other: OnceCell<Arc<ClientConfig>>,
}

impl LocalTls {
    pub(super) fn new(secure: Secure) -> Self {
        Self { secure, config: OnceCell::new(), other: OnceCell::new() }
    }

    pub(super) fn secure(&self) -> &Secure {
        &self.secure
    }

    /// Makes a connection one of TLS, over which `offered` is offered to be spoken: what the upstream says, or HTTP/1.1.
    ///
    /// # Errors
    /// [`crate::spec::upstream_tls::reason`] says them.
    pub(super) async fn shake_hands(&self, stream: TcpStream, offered: Protocol) -> io::Result<TlsStream<TcpStream>> {
        let tls = &self.secure.tls;
        let config = if offered == tls.protocol { &self.config } else { &self.other };
        let config = config.get_or_init(|| tls.resuming(offered));
        TlsConnector::from(Arc::clone(config)).connect(self.secure.name.clone(), stream).await
    }
}

impl LocalUpstream {
    /// TLS with an endpoint failed, or answered: said once, until it changes.
    pub(super) fn note_tls(&self, endpoint: &LocalEndpoint, failure: Option<&str>) {
        if endpoint.tls.is_none() || !endpoint.state.set_tls_failure(failure) {
            return;
        }
        let (upstream, endpoint) = (&*self.upstream.label, &**endpoint.state.label());
        match failure {
            Some(reason) => tracing::warn!(upstream, endpoint, reason, "TLS with an endpoint fails"),
            None => tracing::info!(upstream, endpoint, "TLS with an endpoint works again"),
        }
    }
}
