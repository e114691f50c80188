//! Defines a client's TLS handshake: its name read first, a certificate chosen by it, the result counted.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use rustls::{Error, HandshakeKind};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::front::TlsFront;
use super::identity::Presented;
use crate::proxy::wire::Wire;
use crate::snapshot::Certificates;
use crate::spec::name::Name;
use crate::spec::upstream::is_http2;
use crate::telemetry::stats::{Counter, HandshakeResult, WorkerStats};

/// A fatal alert `unrecognized_name` (RFC 8446, 6 and RFC 6066, 3) as a record: nothing is encrypted yet, and rustls
/// would say `access_denied`.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Counts of a listener's handshakes.
#[derive(Debug)]
pub(in crate::proxy) struct Handshakes([(HandshakeResult, Arc<Counter>); 6]);

impl Handshakes {
    pub(in crate::proxy) fn new(stats: &WorkerStats, listener: &Name) -> Self {
        use HandshakeResult::{ClientCertificate, Failed, Full, Resumed, Timeout, UnknownName};
        let results = [Full, Resumed, UnknownName, ClientCertificate, Timeout, Failed];
        Self(results.map(|result| (result, stats.tls_handshakes(listener, result))))
    }

    fn count(&self, result: HandshakeResult) {
        for (_, counter) in self.0.iter().filter(|(of, _)| *of == result) {
            counter.add(1);
        }
    }
}

/// A handshake under way. It has taken too long when it is dropped before it has ended: the sweep does that.
struct Attempt<'a> {
    handshakes: &'a Handshakes,
    result: Option<HandshakeResult>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(result) = self.result {
            self.handshakes.count(result);
        }
    }
}

/// A client that TLS is spoken with.
pub(in crate::proxy) struct Shaken {
    pub(in crate::proxy) stream: TlsStream<Wire>,
    /// Whether it speaks HTTP/2.
    pub(in crate::proxy) http2: bool,
    /// Its certificate was asked for, and the one that it showed.
    pub(in crate::proxy) certificate: Option<Option<Presented>>,
}

/// Shakes hands.
///
/// # Errors
/// Nothing came of it; and what was wrong with the client's certificate, if that was it.
pub(in crate::proxy) async fn shake(
    front: &TlsFront,
    certificates: impl FnOnce() -> Arc<Certificates>,
    handshakes: &Handshakes,
    turn: &Semaphore,
    wire: Wire,
) -> Result<Shaken, Option<String>> {
    let mut attempt = Attempt { handshakes, result: Some(HandshakeResult::Timeout) };
    let mut start = match LazyConfigAcceptor::new(Acceptor::default(), wire).await {
        Ok(start) => start,
        Err(error) => {
            // Who only looks whether the port is open, as balancers do, shakes no hands.
            let looks = error.kind() == io::ErrorKind::UnexpectedEof;
            attempt.result = (!looks).then(|| of_error(&error));
            tracing::debug!("no TLS handshake: {error}");
            return Err(None);
        }
    };
    let host = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let Some(certificate) = certificates().choose(host.as_deref()).map(Arc::clone) else {
        attempt.result = Some(HandshakeResult::UnknownName);
        tracing::debug!("no certificate for `{}`", host.as_deref().unwrap_or_default());
        if start.io.write_all(&UNRECOGNIZED_NAME).await.is_ok() {
            let _ = start.io.shutdown().await;
        }
        return Err(None);
    };
    // This is the signature, some hundred microseconds of this thread. One at a time, each with everything else that is
    // ready in between: a flood of handshakes waits for itself, and nobody else does.
    let accept = {
        let _turn = turn.acquire().await;
        let accept = start.into_stream(front.with(&certificate));
        tokio::task::yield_now().await;
        accept
    };
    match accept.await {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            attempt.result = Some(match session.handshake_kind() {
                Some(HandshakeKind::Resumed) => HandshakeResult::Resumed,
                Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => HandshakeResult::Full,
            });
            let http2 = is_http2(session.alpn_protocol());
            let shown = session.peer_certificates().and_then(|chain| chain.first());
            let certificate = front.verifies.then(|| shown.map(|certificate| Presented::new(certificate)));
            Ok(Shaken { stream, http2, certificate })
        }
        Err(error) => {
            attempt.result = Some(of_error(&error));
            tracing::debug!("a TLS handshake failed: {error}");
            Err((attempt.result == Some(HandshakeResult::ClientCertificate)).then(|| error.to_string()))
        }
    }
}

fn of_error(error: &io::Error) -> HandshakeResult {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => HandshakeResult::ClientCertificate,
        _ => HandshakeResult::Failed,
    }
}
