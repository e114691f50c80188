//! Defines how a certificate is written, and what it resolves to.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::certificate::{CertificateSpec, NoPair, Pair};
use crate::spec::matching::HostMatch;

use super::condition::parse_host;
use super::scope::Scope;

/// A certificate that clients of TLS listeners are shown, with its key.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Certificate", deny_unknown_fields)]
pub struct RawCertificate {
    /// The chain, the server's own certificate first: a PEM file, or PEM text. In a registry only text.
    cert: Option<String>,
    /// Its private key, without a passphrase: a PEM file, or PEM text. In a registry only text.
    key: Option<String>,
    /// Whom it is shown for: `api.example.com`, `*.example.com` (one label); default the certificate's own names.
    hosts: Option<Vec<String>>,
    /// Whether clients get it that name no host, or one that no certificate is for; default false.
    default: Option<bool>,
}

impl RawCertificate {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<CertificateSpec> {
        let (of_cert, of_key) = (scope.key("cert"), scope.key("key"));
        let (cert, key) =
            (text(self.cert.as_deref(), "cert", &of_cert, scope), text(self.key.as_deref(), "key", &of_key, scope));
        let hosts = self.hosts.map(|hosts| {
            let of_hosts = scope.key("hosts");
            if hosts.is_empty() {
                of_hosts.missing("the list is empty: remove the key to take the certificate's own names");
            }
            let each = hosts.iter().enumerate();
            each.filter_map(|(index, host)| of_hosts.index(index).check(parse_host(host))).collect::<Vec<_>>()
        });
        let pair = Pair::read(&cert?, &key?).map_err(|reasons| {
            for reason in reasons {
                match reason {
                    NoPair::Certificate(text) => of_cert.problem(text),
                    NoPair::Key(text) => of_key.problem(text),
                }
            }
        });
        let pair = pair.ok()?;
        let default = self.default.unwrap_or(false);
        let mut hosts = hosts.unwrap_or_else(|| own_names(&pair));
        if hosts.is_empty() && !default {
            of_cert.problem("it names no host: give `hosts`, or `default = true`");
        }
        hosts.sort_unstable();
        hosts.dedup();
        Some(CertificateSpec { hosts, default, pair })
    }
}

/// The hosts that a certificate names, as far as they are hosts.
fn own_names(pair: &Pair) -> Vec<HostMatch> {
    pair.facts().dns.iter().filter_map(|name| parse_host(name).ok()).collect()
}

fn text(written: Option<&str>, key: &str, of: &Scope<'_>, scope: &Scope<'_>) -> Option<Vec<u8>> {
    let Some(written) = written else {
        scope.missing(format!("`{key}` is missing"));
        return None;
    };
    pem(written, of)
}

/// The PEM text, or the content of the file that is named. What is written here may be a key in a wrong place: no
/// message repeats it.
pub(in crate::spec::decode) fn pem(written: &str, of: &Scope<'_>) -> Option<Vec<u8>> {
    if written.contains("-----BEGIN") {
        return Some(written.as_bytes().to_vec());
    }
    match of.attached() {
        None => {
            of.problem(
                "PEM text is wanted here, which begins with `-----BEGIN`: only documents from files may name files",
            );
            None
        }
        Some(attached) => of.check(attached.read(written).map_err(|error| {
            // What ends so is no key.
            let is_path = [".pem", ".crt", ".cer", ".key"].iter().any(|end| written.ends_with(end));
            let path = if is_path { format!("{}: ", attached.path(written).display()) } else { String::new() };
            format!("the file that it names cannot be read: {path}{error} (PEM text begins with `-----BEGIN`)")
        })),
    }
}

#[cfg(test)]
mod tests;
