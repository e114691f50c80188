//! Defines how a name in DNS is written as the source of an upstream's endpoints.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::endpoint::Address;
use crate::spec::source::{DnsRecords, RecordKind};
use crate::spec::upstream::UpstreamSource;

use super::reader::nearest;
use super::scope::Scope;

/// The records of a name in DNS, asked for again when they are too old (after 2 s to 5 min).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "DnsSource", deny_unknown_fields)]
pub struct RawDnsSource {
    /// The name.
    name: Option<String>,
    /// `A` (default), `AAAA`, or `SRV`, whose records tell ports, weights and priorities.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["A", "AAAA", "SRV"]))]
    kind: Option<String>,
    /// Where the endpoints listen; not for `SRV`.
    #[schemars(range(min = 1, max = 65_535))]
    port: Option<i64>,
    /// Who is asked, such as `127.0.0.1:8600`; default: whom the system asks.
    server: Option<String>,
}

impl RawDnsSource {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<UpstreamSource> {
        let kind = match &self.kind {
            None => Some(RecordKind::A),
            Some(text) => scope.key("type").check(parse_kind(text)),
        };
        let server = match self.server {
            None => Some(None),
            Some(text) => scope.key("server").check(parse_server(&text)).map(Some),
        };
        let Some(name) = self.name else {
            scope.missing("`name` is missing");
            return None;
        };
        // As a host name of an endpoint, whatever its port.
        let name = match scope.key("name").check(Address::new(&name, 1))? {
            Address::Name { host, .. } => host,
            Address::Ip(_) => {
                scope.key("name").problem(format!("`{name}` is an address: write it into `endpoints`"));
                return None;
            }
        };
        let port = scope.key("port").number(self.port, 0u16, 1..=65_535);
        match (kind?, self.port) {
            (RecordKind::Srv, Some(_)) => scope.key("port").problem("`SRV` records tell the port: remove it"),
            (RecordKind::A | RecordKind::Aaaa, None) => {
                scope.missing("`port` is missing: addresses tell none, only `SRV` records do");
                return None;
            }
            (RecordKind::Srv, None) | (RecordKind::A | RecordKind::Aaaa, Some(_)) => {}
        }
        Some(UpstreamSource::Dns(DnsRecords { name, kind: kind?, port, server: server? }))
    }
}

fn parse_kind(text: &str) -> Result<RecordKind, String> {
    RecordKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
        let known = RecordKind::ALL.map(RecordKind::as_str);
        format!("unknown type `{text}`; {}", nearest(text, &known))
    })
}

fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().map_err(|_| format!("`{text}` is not an IP address and port, such as `127.0.0.1:8600`"));
    address.and_then(
        |address: SocketAddr| if address.port() == 0 { Err("port 0 is nobody's".to_owned()) } else { Ok(address) },
    )
}
