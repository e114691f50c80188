//! Makes settings of the raw static sections: the process, listeners, the admin API, logs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;

use crate::spec::decode::network::parse_network;
use crate::spec::decode::route::resolve_middlewares;
use crate::spec::decode::scalar::{RawDuration, RawSize};
use crate::spec::decode::scope::Scope;
use crate::spec::decode::tree::Spot;
use crate::spec::file::{self, MAX_ATTACHMENT_BYTES, MAX_SECRET_BYTES};
use crate::spec::log_filter;
use crate::spec::name::Name;
use crate::spec::settings::{
    Admin, EventsFile, HttpsRedirect, Listener, LogDestination, LogFormat, Runtime, Secret, Settings, Telemetry,
};

use super::environment::Environment;
use super::raw::{RawAdmin, RawHttpsRedirect, RawListener, RawLogFormat, RawRuntime, RawSettings, RawTelemetry};
use super::registry::resolve_discovery;
use super::tls::resolve_tls;

/// What resolving needs beside the raw sections.
pub(super) struct Surroundings<'a> {
    /// The variables.
    pub environment: &'a Environment,
    /// The main file, absolute.
    pub file: Option<&'a Path>,
    /// The directory the process was started in.
    pub working_directory: &'a Path,
}

impl Surroundings<'_> {
    /// An absolute path: relative ones are so to the file that names them, or to the working directory when
    /// the environment does.
    pub(super) fn absolute(&self, text: &str, scope: &Scope<'_>) -> Option<PathBuf> {
        if text.is_empty() {
            scope.problem("the path is empty");
            return None;
        }
        Some(self.base(scope).join(text))
    }

    /// As [`Self::absolute`], of a file that can be read.
    pub(super) fn readable(&self, text: &str, scope: &Scope<'_>) -> Option<PathBuf> {
        let path = self.absolute(text, scope)?;
        if let Err(error) = file::read(&path, MAX_ATTACHMENT_BYTES) {
            scope.problem(format!("`{}` cannot be read: {error}", path.display()));
        }
        Some(path)
    }

    /// As [`Self::absolute`], for a glob pattern: the folder it is relative to is no part of the pattern.
    pub(super) fn absolute_pattern(&self, text: &str, scope: &Scope<'_>) -> Option<PathBuf> {
        self.absolute(text, scope)?;
        Some(PathBuf::from(glob::Pattern::escape(&self.base(scope).to_string_lossy())).join(text))
    }

    fn base(&self, scope: &Scope<'_>) -> &Path {
        match scope.spot() {
            Spot::Text { .. } => self.file.and_then(Path::parent).unwrap_or(self.working_directory),
            Spot::Variable(_) => self.working_directory,
        }
    }

    /// A secret from a file, without the newline at its end.
    pub(super) fn secret_file(&self, text: &str, scope: &Scope<'_>) -> Option<Secret> {
        let path = self.absolute(text, scope)?;
        match file::read_text(&path, MAX_SECRET_BYTES) {
            Ok(content) => secret(content.trim_end_matches(['\n', '\r']), scope),
            Err(error) => {
                scope.problem(format!("`{}` cannot be read: {error}", path.display()));
                None
            }
        }
    }
}

/// A secret that fits into a header. The value is never shown.
pub(super) fn secret(text: &str, scope: &Scope<'_>) -> Option<Secret> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        scope.problem("the secret is empty or has other than visible ASCII characters");
        return None;
    }
    Some(Secret::new(text))
}

/// Of a secret and a file that holds it, the one that counts: the environment's before the file's.
pub(super) fn one_of_two<T>(
    value: Option<T>,
    file: Option<T>,
    value_scope: &Scope<'_>,
    file_scope: &Scope<'_>,
) -> (Option<T>, Option<T>) {
    let from_environment = |scope: &Scope<'_>| matches!(scope.spot(), Spot::Variable(_));
    match (value, file) {
        (Some(value), Some(file)) => match (from_environment(value_scope), from_environment(file_scope)) {
            (true, false) => (Some(value), None),
            (false, true) => (None, Some(file)),
            (true, true) | (false, false) => {
                value_scope.problem("a secret and a file that holds it exclude each other: remove one of them");
                (None, Some(file))
            }
        },
        single => single,
    }
}

/// The settings; what is wrong is reported, and stands at its default.
pub(super) fn resolve(raw: RawSettings, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> Settings {
    let listeners = resolve_listeners(raw.listeners, &scope.key("listeners"), surroundings);
    let admin = resolve_admin(raw.admin.unwrap_or_default(), &scope.key("admin"), surroundings);
    check_addresses(&listeners, &admin, scope);
    let runtime = resolve_runtime(raw.runtime.unwrap_or_default(), &scope.key("runtime"));
    let discovery =
        resolve_discovery(raw.discovery.unwrap_or_default(), &listeners, &scope.key("discovery"), surroundings);
    let telemetry = resolve_telemetry(raw.telemetry.unwrap_or_default(), &scope.key("telemetry"), surroundings);
    let redis_scope = scope.key("redis");
    let redis = raw.redis.and_then(|raw| raw.resolve(&redis_scope, surroundings));
    Settings { runtime, listeners, admin, discovery, redis, telemetry }
}

fn resolve_runtime(raw: RawRuntime, scope: &Scope<'_>) -> Runtime {
    let workers = match scope.key("workers").number(raw.workers, 0usize, 0..=1024) {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    };
    Runtime {
        workers,
        shutdown_grace: raw.shutdown_grace.map_or(Duration::from_secs(30), |raw| raw.0),
        shutdown_delay: raw.shutdown_delay.map_or(Duration::ZERO, |raw| raw.0),
        ready_timeout: raw.ready_timeout.map(|raw| raw.0),
        labels: raw.labels.unwrap_or_default(),
    }
}

fn resolve_listeners(
    raw: Option<BTreeMap<String, RawListener>>,
    scope: &Scope<'_>,
    surroundings: &Surroundings<'_>,
) -> BTreeMap<Name, Listener> {
    let raw = raw.unwrap_or_default();
    if raw.is_empty() {
        scope.missing("at least one listener is needed: `[listeners.web]` with `address = \"0.0.0.0:8080\"`");
    }
    let mut listeners = BTreeMap::new();
    for (name, listener) in raw {
        let scope = scope.key(&name);
        let name = scope.check(name.parse());
        if let (Some(name), Some(listener)) = (name, resolve_listener(listener, &scope, surroundings)) {
            listeners.insert(name, listener);
        }
    }
    listeners
}

fn resolve_listener(raw: RawListener, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> Option<Listener> {
    let address = match raw.address {
        Some(address) => scope.key("address").check(parse_address(&address)),
        None => {
            scope.missing("`address` is missing, such as \"0.0.0.0:8080\"");
            None
        }
    };
    let default = Listener::new(address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))));
    let or = |raw: Option<RawDuration>, default: Duration| raw.map_or(default, |RawDuration(duration)| duration);
    let list = |raw: Option<Vec<String>>| raw.unwrap_or_default().into_iter().enumerate();
    let proxies = scope.key("trusted_proxies");
    let trusted_proxies = list(raw.trusted_proxies)
        .filter_map(|(index, text)| proxies.index(index).check(parse_network(&text)))
        .collect();
    let upgrades_scope = scope.key("upgrades");
    let upgrades = match raw.upgrades {
        None => default.upgrades.clone(),
        some => {
            list(some).filter_map(|(index, text)| upgrades_scope.index(index).check(parse_upgrade(&text))).collect()
        }
    };
    let header_size = scope.key("max_header_size");
    let max_header_size = match raw.max_header_size {
        None => default.max_header_size,
        // Under 8 KiB hyper does not go.
        Some(RawSize(size)) if (8 << 10..=1 << 20).contains(&size) => {
            usize::try_from(size).unwrap_or(default.max_header_size)
        }
        Some(_) => {
            header_size.problem("must be from 8KiB to 1MiB");
            default.max_header_size
        }
    };
    let listener = Listener {
        trusted_proxies,
        allow_encoded_slashes: raw.allow_encoded_slashes.unwrap_or(default.allow_encoded_slashes),
        upgrades,
        header_timeout: or(raw.header_timeout, default.header_timeout),
        body_timeout: or(raw.body_timeout, default.body_timeout),
        idle_timeout: or(raw.idle_timeout, default.idle_timeout),
        min_rate: scope.key("min_rate").number(raw.min_rate, default.min_rate, 0..=1_000_000_000),
        max_header_size,
        max_headers: scope.key("max_headers").number(raw.max_headers, default.max_headers, 1..=1000),
        max_body_size: raw.max_body_size.map(|RawSize(size)| size),
        max_connections: scope.key("max_connections").number(
            raw.max_connections,
            default.max_connections,
            1..=1_000_000,
        ),
        max_connections_per_client: raw
            .max_connections_per_client
            .map(|written| scope.key("max_connections_per_client").number(Some(written), u32::MAX, 1..=1_000_000)),
        http2: raw.http2.unwrap_or(default.http2),
        max_concurrent_streams: scope.key("max_concurrent_streams").number(
            raw.max_concurrent_streams,
            default.max_concurrent_streams,
            1..=10_000,
        ),
        middlewares: resolve_middlewares(raw.middlewares, &scope.key("middlewares")),
        tls: raw.tls.map(|tls| resolve_tls(tls, &scope.key("tls"), surroundings)),
        redirect_to_https: raw.redirect_to_https.map(|raw| resolve_redirect(raw, &scope.key("redirect_to_https"))),
        ..default
    };
    if listener.tls.is_some() && listener.redirect_to_https.is_some() {
        scope
            .key("redirect_to_https")
            .problem("`tls` and `redirect_to_https` exclude each other: requests are https already");
    }
    address.map(|_| listener)
}

fn resolve_redirect(raw: RawHttpsRedirect, scope: &Scope<'_>) -> HttpsRedirect {
    let status = match raw.status {
        None | Some(308) => StatusCode::PERMANENT_REDIRECT,
        Some(301) => StatusCode::MOVED_PERMANENTLY,
        Some(other) => {
            scope.key("status").problem(format!("{other} is neither 301 nor 308"));
            StatusCode::PERMANENT_REDIRECT
        }
    };
    HttpsRedirect { port: scope.key("port").number(raw.port, 443, 1..=65_535), status }
}

/// What has a port can be bound once only.
fn check_addresses(listeners: &BTreeMap<Name, Listener>, admin: &Admin, scope: &Scope<'_>) {
    let mut taken: BTreeMap<SocketAddr, String> = BTreeMap::new();
    taken.insert(admin.address, "admin".to_owned());
    let scope = scope.key("listeners");
    for (name, listener) in listeners.iter().filter(|(_, listener)| listener.address.port() != 0) {
        if let Some(other) = taken.insert(listener.address, format!("listeners.{name}")) {
            let scope = scope.key(name.as_str());
            scope.key("address").problem(format!("`{}` is the address of `{other}`, too", listener.address));
        }
    }
}

fn resolve_admin(raw: RawAdmin, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> Admin {
    let (token_scope, file_scope) = (scope.key("token"), scope.key("token_file"));
    let wanted = scope.has("token") || scope.has("token_file");
    let (token, file) = one_of_two(raw.token, raw.token_file, &token_scope, &file_scope);
    let token = match (token, file) {
        (Some(token), _) => secret(&token, &token_scope),
        (None, Some(file)) => surroundings.secret_file(&file, &file_scope),
        (None, None) => None,
    };
    let address_scope = scope.key("address");
    let address = raw.address.and_then(|address| address_scope.check(parse_address(&address)));
    let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9901)));
    if !wanted && !address.ip().is_loopback() {
        let text = "without a token the admin API binds only to loopback: give `token_file`, or bind to 127.0.0.1";
        address_scope.problem(text);
    }
    Admin { address, token, metrics_public: raw.metrics_public.unwrap_or(false) }
}

fn resolve_telemetry(raw: RawTelemetry, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> Telemetry {
    let destination = |raw: Option<&str>, key: &str, default| match raw {
        None => default,
        Some("stdout") => LogDestination::Stdout,
        Some("off") => LogDestination::Off,
        Some(path) => surroundings.absolute(path, &scope.key(key)).map_or(default, LogDestination::File),
    };
    let access_log = destination(raw.access_log.as_deref(), "access_log", LogDestination::Stdout);
    let audit = destination(raw.audit.as_deref(), "audit", LogDestination::Off);
    if raw.audit_accepted.is_some() && audit == LogDestination::Off {
        scope.key("audit_accepted").problem("says something with `audit` only");
    }
    let log_scope = scope.key("log");
    let log = match (raw.log, surroundings.environment.usual("RUST_LOG")) {
        (Some(filter), _) => {
            let wrong =
                |reason| format!("`{filter}` is not a log filter such as `info` or `info,fleetgate=debug`: {reason}");
            log_scope.check(log_filter::check(&filter).map_err(wrong));
            Some(filter)
        }
        // It may be meant for other programs: what is no filter to us is none.
        (None, usual) => usual.filter(|filter| log_filter::check(filter).is_ok()).map(str::to_owned),
    };
    let log_format = match raw.log_format {
        None | Some(RawLogFormat::Text) => LogFormat::Text,
        Some(RawLogFormat::Json) => LogFormat::Json,
    };
    let max_size = match raw.events_max_size {
        None => 16 << 20,
        Some(RawSize(size)) if size >= 64 << 10 => size,
        Some(_) => {
            scope.key("events_max_size").problem("is below 64KiB");
            16 << 20
        }
    };
    let events = match raw.events.as_deref() {
        None | Some("off") => None,
        Some(path) => surroundings.absolute(path, &scope.key("events")).map(|path| EventsFile { path, max_size }),
    };
    Telemetry {
        access_log,
        audit,
        audit_accepted: raw.audit_accepted.unwrap_or(false),
        log: log.unwrap_or_else(|| "info".to_owned()),
        log_format,
        events,
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an IP address and port, such as `127.0.0.1:8080` or `[::]:8080`"))
}

fn parse_upgrade(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    match lower.as_str() {
        "h2c" => Err("`h2c` is never forwarded: it would lead around every check".to_owned()),
        "" => Err("the protocol is empty".to_owned()),
        _ if !lower.bytes().all(token) => Err(format!("`{text}` is not a protocol's name, such as `websocket`")),
        _ => Ok(lower),
    }
}
