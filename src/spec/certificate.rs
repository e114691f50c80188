//! Defines a certificate that clients are shown: a chain and its key, read, fitting each other, and the hosts it is for.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::cause::plain;
use super::matching::HostMatch;
use super::x509::Facts;

/// A `[certificates.NAME]`.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateSpec {
    /// Whom it is shown for; sorted, each once. A wildcard stands for one label, as clients have it (RFC 6125, 6.4.3).
    pub hosts: Vec<HostMatch>,
    /// Whether it is shown where no other fits.
    pub default: bool,
    /// The chain and its key.
    pub pair: Pair,
}

/// A chain of certificates and the key of the first.
#[derive(Clone)]
pub struct Pair {
    key: Arc<PrivateKeyDer<'static>>,
    certified: Arc<CertifiedKey>,
    facts: Facts,
}

/// Why two texts are no pair. The second of a text belongs to it alone, and never shows any of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPair {
    /// The certificate's fault.
    Certificate(String),
    /// The key's.
    Key(String),
}

impl Pair {
    /// Reads a chain and a key, both in PEM.
    ///
    /// # Errors
    /// What is no certificate, no key, or not the key of the certificate.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, Vec<NoPair>> {
        let chain = read_chain(chain).map_err(NoPair::Certificate);
        let key = read_key(key).map_err(NoPair::Key);
        let ((chain, facts), key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
        };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key.clone_key(), &provider).map_err(|error| {
            vec![match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    NoPair::Key("it is not the key of the certificate: give the two that belong together".to_owned())
                }
                Error::InvalidCertificate(_) => NoPair::Certificate(plain(&format!("it cannot be used: {error}"))),
                _ => NoPair::Key("it is no key that can be used: RSA, ECDSA and Ed25519 are known".to_owned()),
            }]
        })?;
        Ok(Self { key: Arc::new(key), certified: Arc::new(certified), facts })
    }

    /// The pair as TLS uses it.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// What is wrong with using it now; `None` within its dates.
    pub fn untimely(&self, now: SystemTime) -> Option<String> {
        let time = |at: SystemTime| jiff::Timestamp::try_from(at).unwrap_or_default();
        let Facts { not_before, not_after, .. } = &self.facts;
        match () {
            () if now > *not_after => Some(format!("the certificate has expired on {:.0}", time(*not_after))),
            () if now < *not_before => Some(format!("the certificate is not valid before {:.0}", time(*not_before))),
            () => None,
        }
    }

    /// The SHA-256 of the first certificate, in hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        self.certified.cert.first().map(|first| fingerprint(first)).unwrap_or_default()
    }

    /// What the first certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// The SHA-256 of a certificate, in hexadecimal digits.
pub fn fingerprint(certificate: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_chain(text: &[u8]) -> Result<(Vec<CertificateDer<'static>>, Facts), String> {
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| "it is no PEM text of certificates".to_owned())?;
    let Some(first) = chain.first() else {
        return Err("there is no certificate in it: PEM text with `-----BEGIN CERTIFICATE-----` is wanted".to_owned());
    };
    let facts = Facts::read(first).map_err(|error| error.to_string())?;
    Ok((chain, facts))
}

/// The errors of the PEM reader quote the text, and are never repeated.
fn read_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        let encrypted = text.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
        match error {
            pem::Error::NoItemsFound if encrypted => "it is encrypted: give the key without a passphrase",
            pem::Error::NoItemsFound => {
                "there is no private key in it: PEM text with `-----BEGIN PRIVATE KEY-----` is wanted"
            }
            _ => "it is no PEM text of a private key",
        }
        .to_owned()
    })
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert && self.key.secret_der() == other.key.secret_der()
    }
}

impl Eq for Pair {}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl fmt::Debug for CertificateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hosts, default, pair } = self;
        f.debug_struct("CertificateSpec").field("hosts", hosts).field("default", default).field("pair", pair).finish()
    }
}
