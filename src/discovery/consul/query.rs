//! Defines what is read from Consul: a path, its parameters, and where.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::spec::source::ConsulService;

/// What is read: a path below the agent's address, its parts encoded, fixed parameters, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    path: String,
    parameters: Cow<'static, str>,
    place: Place,
}

/// Where in a federation of Consul clusters; what is `None` is the agent's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) datacenter: Option<Arc<str>>,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) partition: Option<Arc<str>>,
}

/// Unreserved characters and the slash stay (RFC 3986, 2.3).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
const SEGMENT: &AsciiSet = &PATH.add(b'/');

impl Query {
    /// The checks and instances of a service. All of them: `?passing` would hide warnings and their weights.
    pub(super) fn health(service: &ConsulService) -> Self {
        let path = format!("/v1/health/service/{}", utf8_percent_encode(&service.name, SEGMENT));
        let near = |near: &Arc<str>| format!("near={}&", utf8_percent_encode(near, SEGMENT));
        let parameters = service.near.as_ref().map(near).unwrap_or_default().into();
        Self { path, parameters, place: Place::of(service) }
    }

    /// The names of all services.
    pub(super) fn services() -> Self {
        Self::fixed("/v1/catalog/services")
    }

    /// The servers.
    pub(super) fn servers() -> Self {
        Self::fixed("/v1/catalog/service/consul")
    }

    /// What the token may do. What Consul's own interface uses to hide buttons; servers before 1.7 lack it.
    pub(super) fn authorize() -> Self {
        Self::fixed("/v1/internal/acl/authorize")
    }

    /// The same where this service is.
    pub(super) fn beside(self, service: &ConsulService) -> Self {
        self.at(Place::of(service))
    }

    /// The same there.
    pub(super) fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// All keys below a prefix, with their values.
    pub(super) fn below(prefix: &str) -> Self {
        Self { parameters: "recurse&".into(), ..Self::key(prefix) }
    }

    /// One key.
    pub(super) fn key(key: &str) -> Self {
        Self {
            path: format!("/v1/kv/{}", utf8_percent_encode(key, PATH)),
            parameters: "".into(),
            place: Place::default(),
        }
    }

    /// The token's own description.
    pub(super) fn own_token() -> Self {
        Self::fixed("/v1/acl/token/self")
    }

    /// Registers a service at the agent.
    pub(super) fn register() -> Self {
        Self::fixed("/v1/agent/service/register")
    }

    /// Takes a service of the agent away.
    pub(super) fn deregister(id: &str) -> Self {
        Self::fixed(&format!("/v1/agent/service/deregister/{}", utf8_percent_encode(id, SEGMENT)))
    }

    /// Reports a check of the agent.
    pub(super) fn update_check(id: &str) -> Self {
        Self::fixed(&format!("/v1/agent/check/update/{}", utf8_percent_encode(id, SEGMENT)))
    }

    /// The leader's address, `""` when there is none.
    pub(super) fn leader() -> Self {
        Self::fixed("/v1/status/leader")
    }

    fn fixed(path: &str) -> Self {
        Self { path: path.to_owned(), parameters: "".into(), place: Place::default() }
    }

    /// Below the address `base`, with more `parameters`, each with its `&`; what the query does not say of its place
    /// is as in `place`.
    pub(super) fn url(&self, base: &str, parameters: &str, place: &Place) -> String {
        let mut url = format!("{base}{}?{}{parameters}", self.path, self.parameters);
        for (key, own, other) in [
            ("dc", &self.place.datacenter, &place.datacenter),
            ("ns", &self.place.namespace, &place.namespace),
            ("partition", &self.place.partition, &place.partition),
        ] {
            if let Some(value) = own.as_ref().or(other.as_ref()) {
                // Writing to memory does not fail.
                let _ = write!(url, "{key}={}&", utf8_percent_encode(value, SEGMENT));
            }
        }
        url
    }
}

impl Place {
    pub(super) fn of(service: &ConsulService) -> Self {
        let ConsulService { datacenter, namespace, partition, .. } = service;
        Self { datacenter: datacenter.clone(), namespace: namespace.clone(), partition: partition.clone() }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let url = |query: Query| query.url("", "", &Place::default());
        assert_eq!(url(Query::health(&ConsulService::named("a/b c?"))), "/v1/health/service/a%2Fb%20c%3F?");
        assert_eq!(url(Query::below("fleet gate/")), "/v1/kv/fleet%20gate/?recurse&");
        assert_eq!(url(Query::key("gw/routes/a&b#c")), "/v1/kv/gw/routes/a%26b%23c?");
    }

    #[test]
    fn a_service_may_be_elsewhere_than_the_rest() {
        let place = Place { datacenter: None, namespace: Some("team".into()), partition: Some("web".into()) };
        let service =
            ConsulService { datacenter: Some("east".into()), namespace: Some("x".into()), ..ConsulService::named("a") };
        let near = ConsulService { near: Some("_agent".into()), ..service.clone() };
        assert_eq!(
            Query::health(&near).url("http://c", "stale&", &place),
            "http://c/v1/health/service/a?near=_agent&stale&dc=east&ns=x&partition=web&"
        );
        assert_eq!(
            Query::health(&service).url("http://c", "stale&", &place),
            "http://c/v1/health/service/a?stale&dc=east&ns=x&partition=web&"
        );
        assert_eq!(Query::leader().url("", "", &place), "/v1/status/leader?ns=team&partition=web&");
    }
}
