//! Makes settings of the raw `register` sections: how the gateway registers itself.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::spec::decode::reader::nearest;
use crate::spec::decode::scope::Scope;
use crate::spec::endpoint::Address;
use crate::spec::name::Name;
use crate::spec::settings::{ConsulRegistration, EtcdRegistration, Listener, OwnAddress, OwnPlace};

use super::raw::{RawConsulRegistration, RawEtcdRegistration};

/// The shortest lease: a change of etcd's leader takes several seconds.
pub(super) const SHORTEST_LEASE: Duration = Duration::from_secs(10);
const LONGEST_LEASE: Duration = Duration::from_secs(3600);

impl RawConsulRegistration {
    pub(super) fn resolve(self, listeners: &BTreeMap<Name, Listener>, scope: &Scope<'_>) -> Option<ConsulRegistration> {
        let service = self.service.unwrap_or_else(|| "fleetgate".to_owned());
        if !is_plain(&service) {
            let text = format!("{service:?} is not a service's name: letters, digits, `.`, `_` and `-`");
            scope.key("service").problem(text);
        }
        let tags = self.tags.unwrap_or_default();
        for (index, tag) in tags.iter().enumerate() {
            if tag.is_empty() || tag.chars().any(char::is_control) {
                scope.key("tags").index(index).problem(format!("{tag:?} is not a tag"));
            }
        }
        let place = resolve_place(self.address, self.listener, self.id, listeners, scope)?;
        Some(ConsulRegistration { service, tags, place })
    }
}

impl RawEtcdRegistration {
    pub(super) fn resolve(self, listeners: &BTreeMap<Name, Listener>, scope: &Scope<'_>) -> Option<EtcdRegistration> {
        let ttl = self.ttl.map_or(Duration::from_secs(15), |raw| raw.0);
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&ttl) {
            scope.key("ttl").problem("must be from 10s to 1h");
        }
        let place = resolve_place(self.address, self.listener, self.id, listeners, scope)?;
        if let OwnAddress::Listener(name) = &place.address
            && listeners.get(name).is_some_and(|listener| listener.address.ip().is_unspecified())
        {
            let text = format!("`{name}` listens on every address: give the `address` where others reach this gateway");
            scope.missing(text);
        }
        Some(EtcdRegistration { ttl, place })
    }
}

fn resolve_place(
    address: Option<String>,
    listener: Option<String>,
    id: Option<String>,
    listeners: &BTreeMap<Name, Listener>,
    scope: &Scope<'_>,
) -> Option<OwnPlace> {
    if let Some(id) = id.as_deref().filter(|id| !is_plain(id)) {
        scope.key("id").problem(format!("{id:?} is not an id: letters, digits, `.`, `_` and `-`"));
    }
    let address = match (address, listener) {
        (Some(_), Some(_)) => {
            scope.problem("`address` and `listener` exclude each other");
            None
        }
        (Some(text), None) => scope.key("address").check(text.parse::<Address>()).map(OwnAddress::Given),
        (None, Some(text)) => match listeners.get(text.as_str()) {
            Some(_) => text.parse().ok().map(OwnAddress::Listener),
            None => {
                let known: Vec<_> = listeners.keys().map(Name::as_str).collect();
                scope.key("listener").problem(format!("there is no listener `{text}`; {}", nearest(&text, &known)));
                None
            }
        },
        (None, None) => {
            let mut names = listeners.keys();
            match (names.next(), names.next()) {
                (Some(only), None) => Some(OwnAddress::Listener(only.clone())),
                (None, _) => None,
                (Some(_), Some(_)) => {
                    scope.missing("there are several listeners: name the one that others reach, as `listener`");
                    None
                }
            }
        }
    };
    Some(OwnPlace { id, address: address? })
}

fn is_plain(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
