//! Defines with whom TLS is spoken at an endpoint.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::endpoint::Endpoint;
use crate::spec::upstream_tls::UpstreamTls;

/// TLS with an endpoint. Connections of one such are not those of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secure {
    /// How.
    pub tls: Arc<UpstreamTls>,
    /// The name that is asked for and verified.
    pub name: ServerName<'static>,
}

impl Secure {
    /// With an endpoint of an upstream that says so. The name never comes from a request: a client that names another
    /// host must not make the endpoint look bad.
    pub fn with(endpoint: &Endpoint, tls: &Arc<UpstreamTls>) -> Self {
        let own = || {
            let name = endpoint.host.as_deref().and_then(|host| ServerName::try_from(host.to_owned()).ok());
            name.unwrap_or_else(|| endpoint.address.ip().into())
        };
        Self { tls: Arc::clone(tls), name: tls.server_name.clone().unwrap_or_else(own) }
    }
}
