//! Defines how TLS is spoken to an upstream's endpoints: whom they are believed by, and who the gateway is to them.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore};
use rustls::{DistinguishedName, SignatureScheme};

use super::authority::{self, Authorities};
use super::cause::plain;
use super::certificate::Pair;
use super::upstream::Protocol;

/// `tls` of an upstream.
#[derive(Clone)]
pub struct UpstreamTls {
    /// The name that is asked for and verified; `None`: the endpoint's own host, a name or an IP address.
    pub server_name: Option<ServerName<'static>>,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// The gateway's own certificate, where endpoints ask for one.
    pub identity: Option<Pair>,
    /// What is offered to be spoken over it.
    pub protocol: Protocol,
    config: Arc<ClientConfig>,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those of the system's authorities.
    System,
    /// Those of these authorities.
    Authorities(Authorities),
    /// Anybody's: whoever is on the way can read and change everything.
    Anybody,
}

impl UpstreamTls {
    /// TLS with endpoints.
    ///
    /// # Errors
    /// The system has no authorities.
    pub fn new(
        server_name: Option<ServerName<'static>>,
        trust: Trust,
        identity: Option<Pair>,
        protocol: Protocol,
    ) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &trust {
            Trust::System => verifier(authority::of_the_system()?, &provider)?,
            Trust::Authorities(authorities) => verifier(Arc::clone(&authorities.roots), &provider)?,
            Trust::Anybody => Arc::new(BelievesAnybody(Arc::clone(&provider))),
        };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let own = SingleCertAndKey::from(CertifiedKey::clone(pair.certified()));
                builder.with_client_cert_resolver(Arc::new(own))
            }
        };
        config.alpn_protocols = protocol.alpn();
        config.resumption = Resumption::disabled();
        Ok(Self { server_name, trust, identity, protocol, config: Arc::new(config) })
    }

    /// For a connection whose session is not resumed.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// For connections to one endpoint, which resume each other's sessions; `offered`: what is offered to be spoken.
    pub fn resuming(&self, offered: Protocol) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = offered.alpn();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Arc::new(config)
    }

    /// Whether it is verified who the endpoints are.
    pub fn verifies(&self) -> bool {
        !matches!(self.trust, Trust::Anybody)
    }
}

/// Remembered for one endpoint: a name has up to eight tickets, and an endpoint one name.
const SESSIONS: usize = 8;

/// Why TLS failed, for people; the same words for the same reason.
pub fn reason(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed during the handshake".to_owned(),
            _ => error.to_string(),
        };
    };
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the endpoint's certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the endpoint's certificate is not valid yet".to_owned()
            }
            CertificateError::UnknownIssuer => {
                "the endpoint's certificate is from none of the authorities that are believed".to_owned()
            }
            CertificateError::NotValidForName => "the endpoint's certificate is for another name".to_owned(),
            CertificateError::NotValidForNameContext { expected, presented } => {
                let (expected, presented) = (expected.to_str(), presented.join(", "));
                format!("the endpoint's certificate is not for `{expected}` but for {presented}")
            }
            other => plain(&format!("the endpoint's certificate is bad: {other}")),
        },
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the endpoint asks for a certificate of the gateway".to_owned()
        }
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "the endpoint speaks nothing that the upstream's `protocol` allows".to_owned()
        }
        Error::AlertReceived(alert) => format!("the endpoint refused: {alert:?}"),
        Error::InvalidMessage(_) => "the endpoint does not speak TLS".to_owned(),
        other => other.to_string(),
    }
}

/// Whether an endpoint refused the gateway's certificate. With TLS 1.3 it does so when the gateway's part of the
/// handshake is over, and has read nothing of a request.
pub fn is_refusal(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        error,
        Some(Error::AlertReceived(
            AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::HandshakeFailure
        ))
    )
}

fn verifier(roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
    builder.build().map_err(|error| error.to_string())
}

/// Believes any certificate whose key the endpoint has.
#[derive(Debug)]
struct BelievesAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for BelievesAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.server_name == other.server_name
            && self.trust == other.trust
            && self.identity == other.identity
            && self.protocol == other.protocol
    }
}

impl Eq for UpstreamTls {}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server_name, trust, identity, protocol, config: _ } = self;
        let mut shown = f.debug_struct("UpstreamTls");
        shown.field("server_name", server_name).field("trust", trust).field("identity", identity);
        shown.field("protocol", protocol).finish_non_exhaustive()
    }
}
