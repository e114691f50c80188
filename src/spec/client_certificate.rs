//! Defines how a listener verifies the certificates of its clients: authorities, revocation lists, and whether a client
//! may come without.

use std::sync::Arc;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::authority;

/// What is wrong with the texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoVerifier {
    /// Of the authorities.
    Authorities(String),
    /// Of the revocation lists.
    Revocations(String),
}

/// What verifies clients, of PEM texts: authorities, and revocation lists of each authority in use where there are any.
///
/// # Errors
/// What is of no use in the texts.
pub fn verifier(
    authorities: &[u8],
    revocations: Option<&[u8]>,
    required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, NoVerifier> {
    let roots = authority::read(authorities).map_err(NoVerifier::Authorities)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots.roots, provider);
    if let Some(revocations) = revocations {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(revocations).collect();
        match lists {
            Ok(lists) if !lists.is_empty() => builder = builder.with_crls(lists),
            Ok(_) => {
                return Err(NoVerifier::Revocations(
                    "there is no revocation list in it: PEM text with `-----BEGIN X509 CRL-----` is wanted".to_owned(),
                ));
            }
            Err(_) => return Err(NoVerifier::Revocations("it is no PEM text of revocation lists".to_owned())),
        }
    }
    if !required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| match revocations {
        Some(_) => NoVerifier::Revocations(format!("it cannot be used: {error}")),
        None => NoVerifier::Authorities(format!("it cannot be used: {error}")),
    })
}
