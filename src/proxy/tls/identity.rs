//! Defines what endpoints are told of a client's certificate, in the form of Envoy's `X-Forwarded-Client-Cert`.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderValue;

use crate::exchange::ClientCertificate;
use crate::spec::certificate::fingerprint;
use crate::spec::x509::Facts;

/// Longest value. A certificate may have any number of names: those beyond are left out.
const LONGEST: usize = 4 * 1024;

/// `Hash=..;Subject="..";URI=..;DNS=..`: the SHA-256 of the certificate, its subject as RFC 4514 writes it, and its
/// names, each as a pair.
fn forwarded(certificate: &[u8], facts: Option<&Facts>) -> HeaderValue {
    let mut text = format!("Hash={}", fingerprint(certificate));
    if let Some(Facts { subject, dns, uris, .. }) = facts {
        let names = uris.iter().map(|uri| format!(";URI={}", plain(uri)));
        let names = names.chain(dns.iter().map(|name| format!(";DNS={}", plain(name))));
        for part in std::iter::once(format!(";Subject=\"{subject}\"")).chain(names) {
            if text.len() + part.len() <= LONGEST {
                text.push_str(&part);
            }
        }
    }
    // Plain ASCII by now.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Hash="))
}

/// A certificate that a client proved to have.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Presented {
    /// What endpoints are told of it.
    pub(in crate::proxy) header: HeaderValue,
    /// What middlewares know of it.
    pub(in crate::proxy) certificate: Arc<ClientCertificate>,
}

impl Presented {
    pub(super) fn new(der: &[u8]) -> Self {
        let facts = Facts::read(der).ok();
        let header = forwarded(der, facts.as_ref());
        let hash = digest(&SHA256, der).as_ref().try_into().unwrap_or_default();
        let certificate = match facts {
            Some(Facts { subject, mut dns, uris, .. }) => {
                dns.iter_mut().for_each(|name| name.make_ascii_lowercase());
                ClientCertificate { hash, uris, dns, subject }
            }
            None => ClientCertificate { hash, ..ClientCertificate::default() },
        };
        Self { header, certificate: Arc::new(certificate) }
    }
}

/// A name in which nothing can end the pair: everything but letters, digits and what URIs need is percent-encoded.
fn plain(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(char::from(byte)),
            b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b'@' | b'*' | b'%' | b'?' | b'#' | b'+' => {
                text.push(char::from(byte))
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_name_cannot_say_what_another_field_says() {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "a\";URI=spiffe://admin,\r\nx: y");
        params.subject_alt_names.push(SanType::URI("spiffe://a/b;DNS=admin,Hash=1".try_into().unwrap()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let value = Presented::new(certificate.der()).header;
        let hash = fingerprint(certificate.der());
        assert_eq!(
            value.to_str().unwrap(),
            format!(
                r#"Hash={hash};Subject="CN=a\22\;URI=spiffe://admin\,\0D\0Ax: y";URI=spiffe://a/b%3BDNS%3Dadmin%2CHash%3D1;DNS=client.example"#
            )
        );
    }

    #[test]
    fn many_names_do_not_make_a_long_header() {
        let names = (0..500).map(|index| format!("client-{index}.example")).collect::<Vec<_>>();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let value = Presented::new(certificate.der()).header;
        assert!(value.len() <= LONGEST && value.len() > LONGEST / 2, "{}", value.len());
    }
}
