//! Makes settings of the raw `[discovery]` section: files, Consul, etcd, and the usual variables of both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::spec::decode::network::parse_network;
use crate::spec::decode::scope::Scope;
use crate::spec::decode::tag::{Bounds, Rules as TagRules};
use crate::spec::decode::upstream::consul_word;
use crate::spec::name::{Name, ProviderId};
use crate::spec::secret::masked_url;
use crate::spec::settings::{
    ClientTls, Consistency, ConsulProvider, Discovery, EtcdProvider, FileProvider, Listener, Secret, StateDir,
};

use super::raw::{RawClientTls, RawConsistency, RawConsul, RawDiscovery, RawEtcd, RawFile};
use super::resolve::{Surroundings, one_of_two, secret};

/// The providers of documents, in the default order of precedence.
pub(super) const DOCUMENT_PROVIDERS: [ProviderId; 4] =
    [ProviderId::File, ProviderId::Etcd, ProviderId::ConsulKv, ProviderId::ConsulTags];

/// The whole section.
pub(super) fn resolve_discovery(
    raw: RawDiscovery,
    listeners: &BTreeMap<Name, Listener>,
    scope: &Scope<'_>,
    surroundings: &Surroundings<'_>,
) -> Discovery {
    let consul_scope = scope.key("consul");
    let etcd_scope = scope.key("etcd");
    if raw.etcd.is_some() && !cfg!(feature = "etcd") {
        etcd_scope.problem("this binary was built without etcd (feature `etcd`)");
    }
    let state_dir_scope = scope.key("state_dir");
    let state_dir = match raw.state_dir {
        None => Some(StateDir::Default),
        Some(text) if text == StateDir::OFF => Some(StateDir::Off),
        Some(text) => surroundings.absolute(&text, &state_dir_scope).map(StateDir::At),
    };
    let wipe_hold = raw.wipe_hold.map_or(Duration::from_secs(600), |raw| raw.0);
    Discovery {
        state_dir: state_dir.unwrap_or(StateDir::Default),
        wipe_hold: Some(wipe_hold).filter(|hold| !hold.is_zero()),
        damping: raw.damping.unwrap_or(true),
        precedence: resolve_precedence(raw.precedence, &scope.key("precedence")),
        optional: document_providers(raw.optional, &scope.key("optional")).into_iter().collect(),
        file: resolve_file(raw.file.unwrap_or_default(), &scope.key("file"), surroundings),
        consul: raw.consul.and_then(|raw| resolve_consul(raw, listeners, &consul_scope, surroundings)),
        etcd: raw.etcd.and_then(|raw| resolve_etcd(raw, listeners, &etcd_scope, surroundings)),
    }
}

/// Providers that are not named follow in the default order.
fn resolve_precedence(raw: Option<Vec<String>>, scope: &Scope<'_>) -> Vec<ProviderId> {
    let mut precedence = document_providers(raw, scope);
    let rest: Vec<_> = DOCUMENT_PROVIDERS.into_iter().filter(|id| !precedence.contains(id)).collect();
    precedence.extend(rest);
    precedence
}

/// Reads a list of providers of documents, each at most once.
fn document_providers(raw: Option<Vec<String>>, scope: &Scope<'_>) -> Vec<ProviderId> {
    let mut providers = Vec::new();
    for (index, text) in raw.unwrap_or_default().into_iter().enumerate() {
        let scope = scope.index(index);
        match DOCUMENT_PROVIDERS.into_iter().find(|id| id.as_str() == text) {
            Some(id) if providers.contains(&id) => scope.problem(format!("`{text}` is there already")),
            Some(id) => providers.push(id),
            None => {
                let known = DOCUMENT_PROVIDERS.map(ProviderId::as_str).join(", ");
                scope.problem(format!("`{text}` is no provider of documents; known are {known}"));
            }
        }
    }
    providers
}

fn resolve_file(raw: RawFile, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> FileProvider {
    let paths = scope.key("paths");
    let pattern = |(index, text): (usize, String)| {
        let scope = paths.index(index);
        let known = ["toml", "yaml", "yml", "json"];
        if let Err(error) = glob::Pattern::new(&text) {
            scope.problem(format!("`{text}` is not a pattern: {}", error.msg));
        } else if !known.iter().any(|extension| text.ends_with(&format!(".{extension}"))) {
            scope.problem(format!("`{text}`: must end in .toml, .yaml, .yml or .json, which tells the format"));
        }
        surroundings.absolute_pattern(&text, &scope)
    };
    FileProvider {
        main: surroundings.file.map(PathBuf::from),
        patterns: raw.paths.unwrap_or_default().into_iter().enumerate().filter_map(pattern).collect(),
    }
}

fn resolve_consul(
    raw: RawConsul,
    listeners: &BTreeMap<Name, Listener>,
    scope: &Scope<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<ConsulProvider> {
    let usual = |name: &str| surroundings.environment.usual(name);
    let address_scope = scope.key("address");
    let address = match raw.address {
        Some(address) => address_scope.check(parse_agent(&address)),
        None => {
            let tls = usual("CONSUL_HTTP_SSL").is_some_and(|text| matches!(text, "true" | "1"));
            let address = usual("CONSUL_HTTP_ADDR").unwrap_or("127.0.0.1:8500");
            let address = with_scheme(address, tls);
            parse_agent(&address).map_err(|error| address_scope.problem(format!("CONSUL_HTTP_ADDR: {error}"))).ok()
        }
    };
    let (token_scope, file_scope) = (scope.key("token"), scope.key("token_file"));
    let silent = raw.token.is_none() && raw.token_file.is_none();
    let (token, file) = one_of_two(raw.token, raw.token_file, &token_scope, &file_scope);
    let mut token = token.and_then(|token| secret(&token, &token_scope));
    let mut token_file = file.and_then(|file| surroundings.absolute(&file, &file_scope));
    if silent {
        token = usual("CONSUL_HTTP_TOKEN").and_then(|token| secret(token, &token_scope));
        token_file = usual("CONSUL_HTTP_TOKEN_FILE").map(|path| surroundings.working_directory.join(path));
    }
    let kv_prefix_scope = scope.key("kv_prefix");
    let kv_prefix = raw.kv_prefix.unwrap_or_else(|| "fleetgate/".to_owned());
    let fleet_prefix_scope = scope.key("fleet_prefix");
    for (prefix, scope) in [(Some(&kv_prefix), &kv_prefix_scope), (raw.fleet_prefix.as_ref(), &fleet_prefix_scope)] {
        if prefix.is_some_and(|prefix| prefix.starts_with('/')) {
            scope.problem("keys in Consul's KV store do not begin with `/`: remove it");
        }
    }
    let kv_prefix = with_slash(kv_prefix, &kv_prefix_scope);
    let fleet_prefix = resolve_fleet_prefix(raw.fleet_prefix, &kv_prefix, "kv_prefix", &fleet_prefix_scope);
    let rules = TagRules {
        native: raw.tags.unwrap_or(false),
        fabio: raw.fabio_tags.unwrap_or(false),
        bounds: resolve_bounds(raw.tag_hosts, raw.tag_paths, scope),
        ttl: raw.route_ttl.map_or(Duration::from_secs(24 * 3600), |raw| raw.0),
    };
    let networks_scope = scope.key("tag_networks");
    let networks = raw.tag_networks.unwrap_or_default().into_iter().enumerate();
    let tag_networks =
        networks.filter_map(|(index, text)| networks_scope.index(index).check(parse_network(&text))).collect();
    let wait_scope = scope.key("wait");
    let wait = raw.wait.map_or(Duration::from_secs(60), |raw| raw.0);
    if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&wait) {
        wait_scope.problem("must be from 1s to 10m");
    }
    let word = |raw: Option<String>, key, name: Option<&str>| {
        let text = raw.or_else(|| usual(name?).map(str::to_owned))?;
        scope.key(key).check(consul_word(text))
    };
    let tls_names = ["CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_TLS_SERVER_NAME"];
    let tls = resolve_tls(raw.tls.unwrap_or_default(), &scope.key("tls"), surroundings, tls_names);
    let register_scope = scope.key("register");
    let register = raw.register.and_then(|raw| raw.resolve(listeners, &register_scope));
    Some(ConsulProvider {
        address: address?,
        token,
        token_file,
        datacenter: word(raw.datacenter, "datacenter", None),
        namespace: word(raw.namespace, "namespace", Some("CONSUL_NAMESPACE")),
        partition: word(raw.partition, "partition", Some("CONSUL_PARTITION")),
        kv_prefix,
        fleet_prefix,
        write_status: raw.write_status.unwrap_or(false),
        tags: (rules.native || rules.fabio).then_some(rules),
        tag_networks,
        wait,
        consistency: match raw.consistency {
            None | Some(RawConsistency::Stale) => Consistency::Stale,
            Some(RawConsistency::Default) => Consistency::Default,
            Some(RawConsistency::Consistent) => Consistency::Consistent,
        },
        max_watches: raw.max_watches.map(|most| scope.key("max_watches").number(Some(most), 100, 1..=10_000)),
        max_stale: raw.max_stale.map_or(Duration::from_secs(5), |raw| raw.0),
        tls,
        register,
    })
}

/// What registrations may claim.
fn resolve_bounds(hosts: Option<Vec<String>>, paths: Option<Vec<String>>, scope: &Scope<'_>) -> Bounds {
    let mut bounds = Bounds::default();
    let (hosts_scope, paths_scope) = (scope.key("tag_hosts"), scope.key("tag_paths"));
    for (list, scope) in [(&hosts, &hosts_scope), (&paths, &paths_scope)] {
        if list.as_ref().is_some_and(Vec::is_empty) {
            scope.problem("allows nothing: name something, or remove it, which allows everything");
        }
    }
    for (index, text) in hosts.unwrap_or_default().iter().enumerate() {
        hosts_scope.index(index).check(bounds.add_host(text));
    }
    for (index, text) in paths.unwrap_or_default().iter().enumerate() {
        paths_scope.index(index).check(bounds.add_path(text));
    }
    bounds
}

fn resolve_etcd(
    raw: RawEtcd,
    listeners: &BTreeMap<Name, Listener>,
    scope: &Scope<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<EtcdProvider> {
    let usual = |name: &str| surroundings.environment.usual(name);
    let endpoints_scope = scope.key("endpoints");
    let endpoints: Vec<String> = match raw.endpoints {
        Some(endpoints) => {
            if endpoints.is_empty() {
                endpoints_scope.missing("at least one endpoint is needed, such as \"http://127.0.0.1:2379\"");
            }
            let checked = |(index, text): (usize, String)| endpoints_scope.index(index).check(parse_url(&text, 2379));
            endpoints.into_iter().enumerate().filter_map(checked).collect()
        }
        None => {
            let tls = usual("ETCDCTL_CACERT").or(usual("ETCDCTL_CERT")).is_some();
            let listed = usual("ETCDCTL_ENDPOINTS").unwrap_or("127.0.0.1:2379").split(',').map(str::trim);
            let checked = |text: &str| {
                let problem = |error: String| endpoints_scope.problem(format!("ETCDCTL_ENDPOINTS: {error}"));
                parse_url(&with_scheme(text, tls), 2379).map_err(problem).ok()
            };
            listed.filter(|text| !text.is_empty()).filter_map(checked).collect()
        }
    };
    let prefix_scope = scope.key("prefix");
    let prefix = with_slash(raw.prefix.unwrap_or_else(|| "/fleetgate/".to_owned()), &prefix_scope);
    let fleet_prefix = resolve_fleet_prefix(raw.fleet_prefix, &prefix, "prefix", &scope.key("fleet_prefix"));
    let (password_scope, file_scope) = (scope.key("password"), scope.key("password_file"));
    let silent = raw.user.is_none() && raw.password.is_none() && raw.password_file.is_none();
    let (password, file) = one_of_two(raw.password, raw.password_file, &password_scope, &file_scope);
    let password_given = password.is_some() || file.is_some();
    let password_file = file.as_ref().and_then(|file| surroundings.absolute(file, &file_scope));
    let password = match (password, file) {
        (Some(password), _) => secret(&password, &password_scope),
        (None, Some(file)) => surroundings.secret_file(&file, &file_scope),
        (None, None) => None,
    };
    let user = match (raw.user, password_given) {
        (Some(user), true) => password.map(|password| (user, password)),
        (Some(_), false) => {
            scope.key("user").missing("`password_file` (or `password`) is missing");
            None
        }
        (None, true) => {
            scope.missing("`user` is missing: a password alone is nobody's");
            None
        }
        (None, false) => None,
    };
    let user = match usual("ETCDCTL_USER") {
        Some(text) if silent => match text.split_once(':') {
            Some((user, password)) => Some((user.to_owned(), Secret::new(password))),
            None => {
                scope.key("user").problem("ETCDCTL_USER must be `name:password`");
                None
            }
        },
        _ => user,
    };
    let tls_names = ["ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY", ""];
    let tls = resolve_tls(raw.tls.unwrap_or_default(), &scope.key("tls"), surroundings, tls_names);
    let register_scope = scope.key("register");
    let register = raw.register.and_then(|raw| raw.resolve(listeners, &register_scope));
    let write_status = raw.write_status.unwrap_or(false);
    Some(EtcdProvider { endpoints, prefix, fleet_prefix, user, password_file, write_status, tls, register })
}

/// `names` are the usual variables for the authorities, the certificate, its key, and the server's name.
fn resolve_tls(raw: RawClientTls, scope: &Scope<'_>, surroundings: &Surroundings<'_>, names: [&str; 4]) -> ClientTls {
    let path = |raw: Option<String>, key: &'static str, name: &str| match raw {
        Some(text) => surroundings.readable(&text, &scope.key(key)),
        None => surroundings.environment.usual(name).map(|text| surroundings.working_directory.join(text)),
    };
    let [ca, certificate, key, server_name] = names;
    let tls = ClientTls {
        ca: path(raw.ca, "ca", ca),
        certificate: path(raw.certificate, "certificate", certificate),
        key: path(raw.key, "key", key),
        server_name: raw.server_name.or_else(|| surroundings.environment.usual(server_name).map(str::to_owned)),
    };
    if tls.certificate.is_some() != tls.key.is_some() {
        scope.missing("`certificate` and `key` go together: give both or none");
    }
    tls
}

fn with_scheme(text: &str, tls: bool) -> String {
    match (text.contains("://"), tls) {
        (true, _) => text.to_owned(),
        (false, true) => format!("https://{text}"),
        (false, false) => format!("http://{text}"),
    }
}

fn with_slash(mut prefix: String, scope: &Scope<'_>) -> String {
    if prefix.trim_matches('/').is_empty() || prefix.chars().any(char::is_control) {
        scope.problem("the prefix must have a name, such as `fleetgate/`: without one, all keys would be ours");
    }
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    prefix
}

/// Where gateways write: apart from documents, so that nothing written wakes those who watch them, and no document is
/// taken for a gateway's word.
fn resolve_fleet_prefix(raw: Option<String>, documents: &str, key: &str, scope: &Scope<'_>) -> String {
    let Some(raw) = raw else { return format!("{}-fleet/", documents.trim_end_matches('/')) };
    let prefix = with_slash(raw, scope);
    if prefix.starts_with(documents) || documents.starts_with(&prefix) {
        scope.problem(format!(
            "`{prefix}` and `{key}` (`{documents}`) overlap: what gateways write must lie apart from documents, such as \
             below `{}-fleet/`",
            documents.trim_end_matches('/')
        ));
    }
    prefix
}

/// A Consul agent's URL, or its socket as `unix://` and an absolute path.
fn parse_agent(text: &str) -> Result<String, String> {
    match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') && !path.chars().any(char::is_control) => Ok(text.to_owned()),
        Some(_) => {
            Err(format!("`{text}`: write `unix://` and the absolute path of the socket: `unix:///run/consul.sock`"))
        }
        None => parse_url(text, 8500),
    }
}

/// `http://host:port` or `https://host:port`; the port is added where it is missing.
fn parse_url(text: &str, port: u16) -> Result<String, String> {
    let form = format!("write `http://host:{port}` or `https://host:{port}`");
    // Not shown: it may hold a password.
    if text.contains('@') {
        return Err(format!("an address has no user and password: {form}"));
    }
    let shown = masked_url(text);
    let wrong = || format!("`{shown}` is not an address: {form}");
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
        return Err(format!("`{shown}`: an address has no path: {form}"));
    }
    let bare = authority.as_str() == authority.host();
    let port = if bare { Some(port) } else { authority.port_u16().filter(|port| *port > 0) };
    let Some(port) = port.filter(|_| !authority.host().is_empty()) else { return Err(wrong()) };
    Ok(format!("{scheme}://{}:{port}", authority.host()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_may_listen_on_a_socket() {
        assert_eq!(parse_agent("unix:///run/consul.sock").as_deref(), Ok("unix:///run/consul.sock"));
        assert_eq!(parse_agent("http://a").as_deref(), Ok("http://a:8500"));
        for bad in ["unix://", "unix://run/consul.sock", "unix:/run/consul.sock", "unix:///a\nb"] {
            assert!(parse_agent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_urls_without_path() {
        for (text, wanted) in [
            ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("https://consul.internal/", "https://consul.internal:8500"),
            ("http://[::1]:8501", "http://[::1]:8501"),
        ] {
            assert_eq!(parse_url(text, 8500).as_deref(), Ok(wanted), "{text}");
        }
        for bad in [
            "",
            "127.0.0.1:8500",
            "consul",
            "unix:///run/consul.sock",
            "http://",
            "http://a/b",
            "http://a?x",
            "ftp://a",
            "http://a:0",
            "http://a:99999",
            "http://a:",
            "http://u:secret@a",
        ] {
            let error = parse_url(bad, 8500).expect_err(bad);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
