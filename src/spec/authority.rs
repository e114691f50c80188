//! Defines the authorities that certificates are verified by: those of a PEM text, or those of the system.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::fingerprint;

/// Authorities, and how they are told from others.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// As TLS uses them.
    pub roots: Arc<RootCertStore>,
    /// Of the certificates, sorted.
    pub fingerprints: Vec<String>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprints == other.fingerprints
    }
}

impl Eq for Authorities {}

/// The authorities of a PEM text.
///
/// # Errors
/// What is of no use in the text; never any of it.
pub fn read(text: &[u8]) -> Result<Authorities, String> {
    let (mut roots, mut fingerprints) = (RootCertStore::empty(), Vec::new());
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|_| "it is no PEM text of certificates".to_owned())?;
        fingerprints.push(fingerprint(&certificate));
        roots.add(certificate).map_err(|error| format!("it has an unusable certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it: PEM text with `-----BEGIN CERTIFICATE-----` is wanted".to_owned());
    }
    fingerprints.sort_unstable();
    fingerprints.dedup();
    Ok(Authorities { roots: Arc::new(roots), fingerprints })
}

/// The system's authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` say where else they are), read once, when they are
/// wanted first.
///
/// # Errors
/// It has none.
pub fn of_the_system() -> Result<Arc<RootCertStore>, String> {
    static SYSTEM: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        match (usable, found.errors.first()) {
            (1.., _) => Ok(Arc::new(roots)),
            (0, Some(error)) => Err(format!("the system's authorities cannot be read: {error}")),
            (0, None) => Err("the system has no authorities (package `ca-certificates`)".to_owned()),
        }
    };
    SYSTEM.get_or_init(load).clone()
}
