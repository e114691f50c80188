//! Makes settings of `[listeners.NAME.tls]`. The files that verify clients are read once here, so that a bad one shows
//! before anything starts.

use std::path::PathBuf;

use crate::spec::client_certificate::{NoVerifier, verifier};
use crate::spec::decode::scope::Scope;
use crate::spec::file::{self, MAX_ATTACHMENT_BYTES};
use crate::spec::settings::{ClientCertificates, ListenerTls, TlsVersion};

use super::raw::{RawClientAuth, RawListenerTls};
use super::resolve::Surroundings;

pub(super) fn resolve_tls(raw: RawListenerTls, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> ListenerTls {
    let min_version = match raw.min_version.as_deref() {
        None | Some("1.2") => TlsVersion::Tls12,
        Some("1.3") => TlsVersion::Tls13,
        Some(other) => {
            let text = format!("`{other}` is no version that is spoken: \"1.2\" and \"1.3\" are");
            scope.key("min_version").problem(text);
            TlsVersion::Tls12
        }
    };
    let Some(authorities) = &raw.client_ca else {
        for (key, written) in [("client_auth", raw.client_auth.is_some()), ("client_crl", raw.client_crl.is_some())] {
            if written {
                scope.key(key).missing("it needs `client_ca`, which names the authorities of client certificates");
            }
        }
        return ListenerTls { min_version, clients: None };
    };
    let (of_ca, of_crl) = (scope.key("client_ca"), scope.key("client_crl"));
    let revocations = raw.client_crl.as_deref().and_then(|path| surroundings.absolute(path, &of_crl));
    let clients = surroundings.absolute(authorities, &of_ca).map(|authorities| {
        let required = raw.client_auth != Some(RawClientAuth::Optional);
        ClientCertificates { authorities, revocations, required }
    });
    if let Some(clients) = &clients {
        check(clients, &of_ca, &of_crl);
    }
    ListenerTls { min_version, clients }
}

fn check(clients: &ClientCertificates, of_ca: &Scope<'_>, of_crl: &Scope<'_>) {
    let read = |path: &PathBuf, scope: &Scope<'_>| {
        let content = file::read(path, MAX_ATTACHMENT_BYTES);
        scope.check(content.map_err(|error| format!("`{}` cannot be read: {error}", path.display())))
    };
    let Some(authorities) = read(&clients.authorities, of_ca) else { return };
    let revocations = match &clients.revocations {
        None => None,
        Some(path) => match read(path, of_crl) {
            None => return,
            some => some,
        },
    };
    match verifier(&authorities, revocations.as_deref(), clients.required) {
        Ok(_) => {}
        Err(NoVerifier::Authorities(text)) => of_ca.problem(text),
        Err(NoVerifier::Revocations(text)) => of_crl.problem(text),
    }
}
