//! Defines how an active health check is written, and what it resolves to.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::spec::upstream::{HealthCheck, Probe, Protocol};

use super::scalar::RawDuration;
use super::scope::Scope;
use super::upstream::parse_host_header;

/// An active check: of a path over HTTP, `grpc = true` for gRPC's own health service, or `tcp = true` for a connect.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "HealthCheck", deny_unknown_fields)]
pub struct RawHealthCheck {
    /// GET this path (and query); 200 to 399 pass.
    path: Option<String>,
    /// The `Host` sent; default the endpoint's address.
    host: Option<String>,
    /// `true`: a connect instead of a request.
    tcp: Option<bool>,
    /// Instead of `path`: what gRPC's health service says. SERVING passes.
    grpc: Option<RawGrpc>,
    /// Between the starts of two checks; default 5s.
    interval: Option<RawDuration>,
    /// For one check; default 2s.
    timeout: Option<RawDuration>,
    /// Passes in a row that make an unhealthy endpoint healthy; default 2.
    #[schemars(range(min = 1, max = 100))]
    healthy_threshold: Option<i64>,
    /// Failures in a row that make a healthy endpoint unhealthy; default 3.
    #[schemars(range(min = 1, max = 100))]
    unhealthy_threshold: Option<i64>,
}

/// `true`: what is said of the server as a whole; a name: what is said of that service.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(rename = "GrpcHealthCheck", untagged)]
pub enum RawGrpc {
    /// Of the server.
    Server(bool),
    /// Of a service, by its full name.
    Service(String),
}

impl RawGrpc {
    /// The service to ask for; empty: the server. `None`: not to ask.
    fn service(self) -> Option<String> {
        match self {
            Self::Server(asked) => asked.then(String::new),
            Self::Service(name) => Some(name),
        }
    }
}

impl<'de> Deserialize<'de> for RawGrpc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = RawGrpc;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true` or the name of a service")
            }

            fn visit_bool<E: Error>(self, asked: bool) -> Result<RawGrpc, E> {
                Ok(RawGrpc::Server(asked))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<RawGrpc, E> {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_');
                if (1..=512).contains(&name.len()) && name.bytes().all(fits) {
                    Ok(RawGrpc::Service(name.to_owned()))
                } else {
                    Err(E::custom(format!("`{name}` is not the full name of a service, such as `users.v1.Users`")))
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl RawHealthCheck {
    pub(super) fn resolve(self, protocol: Protocol, scope: &Scope<'_>) -> Option<HealthCheck> {
        let host_scope = scope.key("host");
        let host = self.host.and_then(|host| host_scope.check(parse_host_header(host)));
        let grpc = self.grpc.and_then(RawGrpc::service);
        if grpc.is_some() && protocol == Protocol::Http1 {
            scope.key("grpc").problem("gRPC is spoken in HTTP/2: give the upstream `protocol = \"http2\"`");
        }
        let tcp = self.tcp == Some(true);
        let probe = match (self.path, grpc) {
            (Some(path), None) if !tcp => {
                scope.key("path").check(parse_target(path)).map(|path| Probe::Http { path, host })
            }
            (None, Some(service)) if !tcp => Some(Probe::Grpc { service, host }),
            (None, None) if tcp => {
                if host_scope.is_written() {
                    host_scope.problem("a connect sends no `Host`: remove it, or check a path");
                }
                Some(Probe::Tcp)
            }
            (None, None) => {
                scope.missing(
                    "give a `path` to ask for, `grpc = true` for gRPC's health service, or `tcp = true` for a connect",
                );
                None
            }
            (Some(_), _) | (_, Some(_)) => {
                scope.problem("`path`, `grpc` and `tcp` exclude each other");
                None
            }
        };
        let or = |raw: Option<RawDuration>, seconds| {
            raw.map_or(Duration::from_secs(seconds), |RawDuration(duration)| duration)
        };
        let interval = or(self.interval, 5);
        if interval < SHORTEST_INTERVAL {
            scope.key("interval").problem("must be at least 100ms");
        }
        let check = HealthCheck {
            probe: probe?,
            interval,
            timeout: or(self.timeout, 2),
            healthy_threshold: scope.key("healthy_threshold").number(self.healthy_threshold, 2, 1..=100),
            unhealthy_threshold: scope.key("unhealthy_threshold").number(self.unhealthy_threshold, 3, 1..=100),
        };
        Some(check)
    }
}

/// Shorter ones would be a load test of the services.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

fn parse_target(text: String) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("`{text}`: a path begins with `/`"));
    }
    match text.parse::<http::uri::PathAndQuery>() {
        Ok(parsed) if parsed.as_str() == text => Ok(text),
        _ => Err(format!("`{text}` is not a path and query; percent-encode what is not visible ASCII")),
    }
}
