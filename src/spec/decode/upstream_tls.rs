//! Defines how TLS with endpoints is written, and what it resolves to.

use std::fmt;

use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::authority;
use crate::spec::certificate::{NoPair, Pair};
use crate::spec::upstream::Protocol;
use crate::spec::upstream_tls::{Trust, UpstreamTls};

use super::certificate::pem;
use super::scope::Scope;

/// TLS with the endpoints: `{}` verifies them by the system's authorities and their own host.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "UpstreamTls", deny_unknown_fields)]
pub struct RawUpstreamTls {
    /// The authorities that issue the endpoints' certificates: a PEM file, or PEM text. In a registry only text. Default
    /// those of the system.
    ca: Option<String>,
    /// The name that endpoints are asked for (SNI) and that their certificates must have; default the upstream's own
    /// `host` where that is a name, else each endpoint's host as it is registered, a name or an IP address.
    server_name: Option<String>,
    /// The gateway's own certificate with its chain, for endpoints that ask for one: a PEM file, or PEM text.
    cert: Option<String>,
    /// Its private key, without a passphrase: a PEM file, or PEM text.
    key: Option<String>,
    /// `true` believes any certificate: whoever is on the way can read and change everything. For tests.
    insecure_skip_verify: Option<bool>,
}

impl RawUpstreamTls {
    /// `host`: the name that the upstream's endpoints get as `Host`.
    pub(super) fn resolve(self, host: Option<&str>, protocol: Protocol, scope: &Scope<'_>) -> Option<UpstreamTls> {
        let (of_ca, of_cert, of_key) = (scope.key("ca"), scope.key("cert"), scope.key("key"));
        let of_name = scope.key("server_name");
        let mut right = true;
        let server_name = self.server_name.and_then(|name| {
            let name = of_name.check(parse_server_name(name));
            right &= name.is_some();
            name
        });
        let server_name = server_name.or_else(|| parse_server_name(host?.to_owned()).ok());
        let trust = match (&self.ca, self.insecure_skip_verify) {
            (Some(_), Some(true)) => {
                of_ca.problem("`ca` verifies and `insecure_skip_verify` does not: remove one of them");
                None
            }
            (None, Some(true)) => Some(Trust::Anybody),
            (None, None | Some(false)) => Some(Trust::System),
            (Some(ca), None | Some(false)) => {
                let read = pem(ca, &of_ca).and_then(|text| of_ca.check(authority::read(&text)));
                read.map(Trust::Authorities)
            }
        };
        let identity = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let pair = read_pair(pem(cert, &of_cert), pem(key, &of_key), &of_cert, &of_key);
                right &= pair.is_some();
                pair
            }
            (Some(_), None) => {
                scope.missing("`key` is missing, the private key of `cert`");
                return None;
            }
            (None, Some(_)) => {
                scope.missing("`cert` is missing, the certificate of `key`");
                return None;
            }
        };
        let tls =
            UpstreamTls::new(server_name, trust?, identity, protocol).map_err(|error| format!("{error}: give `ca`"));
        scope.check(tls).filter(|_| right)
    }
}

fn read_pair(cert: Option<Vec<u8>>, key: Option<Vec<u8>>, of_cert: &Scope<'_>, of_key: &Scope<'_>) -> Option<Pair> {
    let report = |reasons: Vec<NoPair>| {
        for reason in reasons {
            match reason {
                NoPair::Certificate(text) => of_cert.problem(text),
                NoPair::Key(text) => of_key.problem(text),
            }
        }
    };
    Pair::read(&cert?, &key?).map_err(report).ok()
}

fn parse_server_name(text: String) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.clone()).map_err(|_| format!("`{text}` is neither a host name nor an IP address"))
}

/// It may hold the text of a key.
impl fmt::Debug for RawUpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawUpstreamTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
