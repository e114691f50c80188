//! Shows what is configured: the static settings as resolved, and the documents as served. Every secret is
//! left out: only whether there is one is told.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::snapshot::Snapshot;
use crate::spec::encode::{self, duration_text};
use crate::spec::name::ProviderId;
use crate::spec::settings::{
    ClientTls, ConsulProvider, EtcdProvider, Listener, ListenerTls, LogDestination, LogFormat, OwnAddress, OwnPlace,
    Redis, Settings, StateDir,
};

/// All configuration.
#[derive(Debug, Serialize)]
pub struct ConfigView {
    /// Of the snapshot that the documents are from.
    pub generation: u64,
    /// Static: read at start.
    pub settings: Value,
    /// Routes by name.
    pub routes: Vec<DocumentView>,
    /// Upstreams by name.
    pub upstreams: Vec<DocumentView>,
    /// Middlewares by name.
    pub middlewares: Vec<DocumentView>,
    /// Certificates by name, without their keys.
    pub certificates: Vec<DocumentView>,
    /// Consumers, without what proves who they are.
    pub consumers: Vec<DocumentView>,
}

/// A document as it is served.
#[derive(Debug, Serialize)]
pub struct DocumentView {
    /// Its name.
    pub name: String,
    /// Who defined it.
    pub provider: ProviderId,
    /// The item with its defaults.
    pub document: Value,
}

/// All configuration now.
pub fn view(settings: &Settings, snapshot: &Snapshot) -> ConfigView {
    let routes = snapshot.routes.routes().iter().map(|route| DocumentView {
        name: route.name.to_string(),
        provider: route.provider,
        document: encode::route(&route.spec),
    });
    let upstreams = snapshot.upstreams().map(|upstream| {
        let mut document = Map::new();
        let source = upstream.source_text();
        document.insert("source".to_owned(), source.into());
        document.extend(encode::settings(&upstream.settings));
        DocumentView { name: upstream.label.to_string(), provider: upstream.provider, document: document.into() }
    });
    let mut upstreams: Vec<_> = upstreams.collect();
    upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    let middlewares = snapshot.middlewares.all.values().map(|named| DocumentView {
        name: named.label.to_string(),
        provider: named.provider,
        document: encode::middleware(&named.spec),
    });
    let certificates = snapshot.certificates.all().iter().map(|certificate| DocumentView {
        name: certificate.name.to_string(),
        provider: certificate.provider,
        document: encode::certificate(&certificate.spec).into(),
    });
    let consumers = snapshot.consumers.all().iter().map(|consumer| DocumentView {
        name: consumer.name.to_string(),
        provider: consumer.provider,
        document: encode::consumer(&consumer.spec).into(),
    });
    ConfigView {
        generation: snapshot.generation,
        settings: self::settings(settings),
        routes: routes.collect(),
        upstreams,
        middlewares: middlewares.collect(),
        certificates: certificates.collect(),
        consumers: consumers.collect(),
    }
}

/// The static settings.
fn settings(settings: &Settings) -> Value {
    let listeners: Map<_, _> = settings.listeners.iter().map(|(name, it)| (name.to_string(), listener(it))).collect();
    let discovery = &settings.discovery;
    json!({
        "runtime": {
            "workers": settings.runtime.workers,
            "shutdown_grace": duration_text(settings.runtime.shutdown_grace),
            "shutdown_delay": duration_text(settings.runtime.shutdown_delay),
            "ready_timeout": settings.runtime.ready_timeout.map(duration_text),
            "labels": settings.runtime.labels,
        },
        "listeners": listeners,
        "admin": {
            "address": settings.admin.address,
            "token": shown(settings.admin.token.is_some()),
            "metrics_public": settings.admin.metrics_public,
        },
        "discovery": {
            "state_dir": match &discovery.state_dir {
                StateDir::Off => json!(StateDir::OFF),
                StateDir::Default => Value::Null,
                StateDir::At(path) => json!(path),
            },
            "wipe_hold": duration_text(discovery.wipe_hold.unwrap_or_default()),
            "damping": discovery.damping,
            "precedence": discovery.precedence,
            "optional": discovery.optional,
            "file": { "main": discovery.file.main, "paths": discovery.file.patterns },
            "consul": discovery.consul.as_ref().map(consul),
            "etcd": discovery.etcd.as_ref().map(etcd),
        },
        "redis": settings.redis.as_ref().map(redis),
        "telemetry": {
            "access_log": destination(&settings.telemetry.access_log),
            "audit": destination(&settings.telemetry.audit),
            "audit_accepted": settings.telemetry.audit_accepted,
            "log": settings.telemetry.log,
            "log_format": match settings.telemetry.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
            "events": settings.telemetry.events.as_ref().map_or(json!("off"), |events| json!(events.path)),
            "events_max_size": settings.telemetry.events.as_ref().map(|events| events.max_size),
        },
    })
}

fn listener(listener: &Listener) -> Value {
    json!({
        "address": listener.address,
        "trusted_proxies": listener.trusted_proxies,
        "allow_encoded_slashes": listener.allow_encoded_slashes,
        "upgrades": listener.upgrades,
        "header_timeout": duration_text(listener.header_timeout),
        "body_timeout": duration_text(listener.body_timeout),
        "idle_timeout": duration_text(listener.idle_timeout),
        "min_rate": listener.min_rate,
        "max_header_size": listener.max_header_size,
        "max_headers": listener.max_headers,
        "max_body_size": listener.max_body_size,
        "max_connections": listener.max_connections,
        "max_connections_per_client": listener.max_connections_per_client,
        "http2": listener.http2,
        "max_concurrent_streams": listener.max_concurrent_streams,
        "middlewares": listener.middlewares.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "tls": listener.tls.as_ref().map(listener_tls),
        "redirect_to_https": listener.redirect_to_https.as_ref().map(|redirect| {
            json!({ "port": redirect.port, "status": redirect.status.as_u16() })
        }),
    })
}

fn listener_tls(tls: &ListenerTls) -> Value {
    let mut map = Map::new();
    map.insert("min_version".to_owned(), tls.min_version.as_str().into());
    if let Some(clients) = &tls.clients {
        map.insert("client_ca".to_owned(), json!(clients.authorities));
        map.insert("client_auth".to_owned(), if clients.required { "required" } else { "optional" }.into());
        map.insert("client_crl".to_owned(), json!(clients.revocations));
    }
    map.into()
}

fn consul(consul: &ConsulProvider) -> Value {
    json!({
        "address": without_user(&consul.address),
        "token": shown(consul.token.is_some()),
        "token_file": consul.token_file,
        "datacenter": consul.datacenter,
        "namespace": consul.namespace,
        "partition": consul.partition,
        "kv_prefix": consul.kv_prefix,
        "fleet_prefix": consul.fleet_prefix,
        "tags": consul.tags.as_ref().is_some_and(|rules| rules.native),
        "fabio_tags": consul.tags.as_ref().is_some_and(|rules| rules.fabio),
        "tag_networks": consul.tag_networks,
        "write_status": consul.write_status,
        "route_ttl": consul.tags.as_ref().map(|rules| duration_text(rules.ttl)),
        "wait": duration_text(consul.wait),
        "consistency": consul.consistency.as_str(),
        "max_stale": duration_text(consul.max_stale),
        "max_watches": consul.max_watches,
        "tls": tls(&consul.tls),
        "register": consul.register.as_ref().map(|it| {
            let (id, address, listener) = place(&it.place);
            json!({ "service": it.service, "tags": it.tags, "id": id, "address": address, "listener": listener })
        }),
    })
}

fn etcd(etcd: &EtcdProvider) -> Value {
    json!({
        "endpoints": etcd.endpoints.iter().map(|address| without_user(address)).collect::<Vec<_>>(),
        "prefix": etcd.prefix,
        "fleet_prefix": etcd.fleet_prefix,
        "user": etcd.user.as_ref().map(|(name, _)| name),
        "password": shown(etcd.user.is_some()),
        "password_file": etcd.password_file,
        "write_status": etcd.write_status,
        "tls": tls(&etcd.tls),
        "register": etcd.register.as_ref().map(|it| {
            let (id, address, listener) = place(&it.place);
            json!({ "ttl": duration_text(it.ttl), "id": id, "address": address, "listener": listener })
        }),
    })
}

/// The id, and the address or the listener.
fn place(place: &OwnPlace) -> (Option<&str>, Option<String>, Option<&str>) {
    let id = place.id.as_deref();
    match &place.address {
        OwnAddress::Given(address) => (id, Some(address.to_string()), None),
        OwnAddress::Listener(name) => (id, None, Some(name.as_str())),
    }
}

fn tls(tls: &ClientTls) -> Value {
    json!({ "ca": tls.ca, "certificate": tls.certificate, "key": tls.key, "server_name": tls.server_name })
}

fn destination(destination: &LogDestination) -> Value {
    match destination {
        LogDestination::Off => json!("off"),
        LogDestination::Stdout => json!("stdout"),
        LogDestination::File(path) => json!(path),
    }
}

fn redis(redis: &Redis) -> Value {
    json!({
        "address": format!("{}://{}:{}", if redis.tls.is_some() { "rediss" } else { "redis" }, redis.host, redis.port),
        "database": redis.database,
        "user": redis.user,
        "password": shown(redis.password.is_some()),
        "password_file": redis.password_file,
        "prefix": redis.prefix,
        "timeout": duration_text(redis.timeout),
        "tls": redis.tls.as_ref().map(|tls| {
            let (certificate, key) = tls.identity.clone().unzip();
            json!({ "ca": tls.ca, "certificate": certificate, "key": key })
        }),
    })
}

/// Stands for a secret.
fn shown(there_is_one: bool) -> Value {
    if there_is_one { "***".into() } else { Value::Null }
}

/// An address without `user:password@`.
fn without_user(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.find('/').map_or(rest, |end| &rest[..end]);
            match authority.rfind('@') {
                Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
                None => address.to_owned(),
            }
        }
        None => address.rsplit('@').next().unwrap_or(address).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, Picture};
    use super::*;
    use crate::spec::settings::Secret;

    #[test]
    fn no_secret_is_in_the_view() {
        let mut settings = sample::settings();
        let secret = || Secret::new("hunter2");
        settings.admin.token = Some(secret());
        settings.discovery.consul = Some(ConsulProvider {
            token: Some(secret()),
            token_file: Some("/etc/fleetgate/consul.token".into()),
            ..ConsulProvider::new("http://root:hunter2@127.0.0.1:8500")
        });
        settings.discovery.etcd = Some(EtcdProvider {
            endpoints: vec!["http://hunter2@127.0.0.1:2379".to_owned()],
            prefix: "/fleetgate/".to_owned(),
            fleet_prefix: "/fleetgate-fleet/".to_owned(),
            user: Some(("gateway".to_owned(), secret())),
            password_file: None,
            write_status: false,
            tls: ClientTls::default(),
            register: None,
        });
        let value = serde_json::to_value(view(&settings, &Picture::default().snapshot())).expect("JSON");
        let text = value.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        let shown = &value["settings"];
        assert_eq!(shown["admin"]["token"], "***");
        assert_eq!(shown["discovery"]["consul"]["token"], "***");
        assert_eq!(shown["discovery"]["consul"]["address"], "http://127.0.0.1:8500");
        assert_eq!(shown["discovery"]["etcd"]["password"], "***");
        assert_eq!(shown["discovery"]["etcd"]["endpoints"], json!(["http://127.0.0.1:2379"]));
    }

    #[test]
    fn settings_and_documents_are_shown_with_their_defaults() {
        let value = serde_json::to_value(view(&sample::settings(), &Picture::default().snapshot())).expect("JSON");
        assert_eq!(value["generation"], 7);
        assert_eq!(value["settings"]["listeners"]["web"]["header_timeout"], "10s");
        assert_eq!(value["settings"]["admin"]["token"], Value::Null);
        assert_eq!(value["settings"]["discovery"]["consul"], Value::Null);
        assert_eq!(value["routes"][1]["name"], "users");
        assert_eq!(value["routes"][1]["document"]["sticky"], json!({ "header": "x-user-id" }));
        assert_eq!(value["routes"][1]["document"]["timeout"], "1m");
        assert_eq!(value["upstreams"][0]["document"]["source"], "consul:users");
        assert_eq!(value["upstreams"][0]["document"]["balance"], "least_requests");
    }
}
