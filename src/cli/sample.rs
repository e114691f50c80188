//! Defines `fleetgate sample-service`: a tiny HTTP service that registers itself in Consul or etcd. The demo,
//! the compose file and the benches put it behind the gateway.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::discovery::register::{self, Change, Registration};
use crate::discovery::supervise::WatchError;
#[cfg(feature = "etcd")]
use crate::spec::settings::{ClientTls, EtcdProvider};

/// How often the registration at an agent is looked after.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// No request to a registry takes longer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// What `fleetgate sample-service` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The service's name, in its answers and in the registry
    #[arg(long, default_value = "users")]
    name: String,
    /// Its version, in its answers and as the label `version`
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where it listens
    #[arg(long, default_value = "0.0.0.0:8080")]
    address: SocketAddr,
    /// The Consul agent to register at, such as http://127.0.0.1:8500
    #[arg(long, value_name = "URL")]
    consul: Option<String>,
    /// The etcd member to register at, such as http://127.0.0.1:2379
    #[arg(long, value_name = "URL", conflicts_with = "consul")]
    etcd: Option<String>,
    /// The prefix of the gateway's keys in etcd
    #[arg(long, value_name = "PREFIX", default_value = "/fleetgate/")]
    etcd_prefix: String,
    /// Seconds until etcd forgets it when it dies
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..))]
    lease_ttl: u32,
    /// The address others reach it at; by default the one that it reaches the registry from
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Seconds it still serves after it left the registry at SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    drain: u64,
}

/// Who a sample service says it is.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its service's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which of several of one version.
    pub instance: String,
}

struct Service {
    info: Info,
    healthy: AtomicBool,
}

/// Serves until `shutdown`, then lets requests under way end.
///
/// Any path answers 200 with who answered and what arrived, as JSON. `/healthz` answers 200, or 503 after
/// POST `/healthz/down` until POST `/healthz/up`.
///
/// # Errors
/// What accepting connections gives.
pub async fn serve(listener: TcpListener, info: Info, shutdown: CancellationToken) -> io::Result<()> {
    let service = Arc::new(Service { info, healthy: AtomicBool::new(true) });
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/healthz/up", post(|state: State<Arc<Service>>| set_health(state, true)))
        .route("/healthz/down", post(|state: State<Arc<Service>>| set_health(state, false)))
        .fallback(echo)
        .with_state(service);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn echo(State(service): State<Arc<Service>>, request: Request) -> Response {
    let info = &service.info;
    let header = |name: &str| text(request.headers(), name);
    let body = json!({
        "service": info.name,
        "version": info.version,
        "instance": info.instance,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "host": header("host"),
        "forwarded_for": header("x-forwarded-for"),
        "request_id": header("x-request-id"),
    });
    // One line an answer, for people at a terminal.
    ([(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

async fn health(State(service): State<Arc<Service>>) -> Response {
    if service.healthy.load(Ordering::Relaxed) {
        "healthy\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy\n").into_response()
    }
}

async fn set_health(State(service): State<Arc<Service>>, healthy: bool) -> String {
    service.healthy.store(healthy, Ordering::Relaxed);
    format!("{} is now {}\n", service.info.instance, if healthy { "healthy" } else { "unhealthy" })
}

/// Runs `fleetgate sample-service` until `stop`: serves, registers, and at the end leaves the registry before it
/// stops serving.
///
/// # Errors
/// A text for the user: the address cannot be bound, or the registry's URL is none.
pub async fn run(arguments: Arguments, stop: impl Future<Output = ()>) -> Result<(), String> {
    let listener = TcpListener::bind(arguments.address)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", arguments.address))?;
    let bound = listener.local_addr().map_err(|error| error.to_string())?;
    let registered = Registered::new(&arguments, bound)?;
    let instance = registered.as_ref().map_or_else(|| bound.to_string(), |it| it.identity.advertised.clone());
    let info = Info { name: arguments.name, version: arguments.version, instance };
    tracing::info!(service = info.name, version = info.version, address = %bound, "serving");

    let serving = CancellationToken::new();
    let server = tokio::spawn(serve(listener, info, serving.clone()));
    match registered {
        Some(Registered { registration, .. }) => {
            let leaving = CancellationToken::new();
            let kept = register::keep(registration, Arc::new(|| Ok(())), leaving.clone(), register::log);
            let stopped = async {
                stop.await;
                leaving.cancel();
            };
            tokio::join!(kept, stopped);
            // Gateways that learned of it a moment later still send here.
            tokio::time::sleep(Duration::from_secs(arguments.drain)).await;
        }
        None => stop.await,
    }
    serving.cancel();
    match server.await {
        Ok(served) => served.map_err(|error| format!("cannot serve: {error}")),
        Err(error) => Err(format!("cannot serve: {error}")),
    }
}

/// How others know the service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    id: String,
    name: String,
    version: String,
    host: String,
    port: u16,
    /// `HOST:PORT`, as others reach it.
    advertised: String,
}

impl Identity {
    fn new(arguments: &Arguments, bound: SocketAddr, registry: &str) -> Result<Self, String> {
        let host = match &arguments.advertise {
            Some(host) => host.clone(),
            None if bound.ip().is_unspecified() => own_address(registry)?,
            None => bound.ip().to_string(),
        };
        let port = bound.port();
        let advertised = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let id = format!("{}-{}-{host}-{port}", arguments.name, arguments.version).replace([':', '/'], "-");
        Ok(Self { id, name: arguments.name.clone(), version: arguments.version.clone(), host, port, advertised })
    }
}

/// A service that has an entry in a registry.
struct Registered {
    identity: Identity,
    registration: Box<dyn Registration>,
}

impl Registered {
    /// Not registered yet; nothing without a registry.
    fn new(arguments: &Arguments, bound: SocketAddr) -> Result<Option<Self>, String> {
        let (identity, registration): (_, Box<dyn Registration>) = match (&arguments.consul, &arguments.etcd) {
            (Some(url), _) => {
                let identity = Identity::new(arguments, bound, url)?;
                (identity.clone(), Box::new(AgentService::new(url, identity)?))
            }
            (None, Some(url)) => {
                let identity = Identity::new(arguments, bound, url)?;
                let registration = leased(arguments, url, &identity)?;
                (identity, registration)
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { identity, registration }))
    }
}

#[cfg(feature = "etcd")]
fn leased(arguments: &Arguments, url: &str, identity: &Identity) -> Result<Box<dyn Registration>, String> {
    let settings = EtcdProvider {
        endpoints: vec![url.to_owned()],
        prefix: arguments.etcd_prefix.clone(),
        fleet_prefix: String::new(),
        user: None,
        password_file: None,
        write_status: false,
        tls: ClientTls::default(),
        register: None,
    };
    let key = format!("{}/endpoints/{}/{}", settings.prefix.trim_end_matches('/'), identity.name, identity.id);
    let value = json!({ "address": identity.advertised, "labels": { "version": identity.version } }).to_string();
    let ttl = Duration::from_secs(u64::from(arguments.lease_ttl));
    Ok(Box::new(crate::discovery::etcd::LeasedKey::alone(&settings, key, value, ttl).0))
}

#[cfg(not(feature = "etcd"))]
fn leased(_: &Arguments, _: &str, _: &Identity) -> Result<Box<dyn Registration>, String> {
    Err("this binary was built without the feature `etcd`".to_owned())
}

/// The service at a Consul agent, which checks it.
struct AgentService {
    client: reqwest::Client,
    /// Without a slash at its end.
    url: String,
    identity: Identity,
}

impl AgentService {
    fn new(url: &str, identity: Identity) -> Result<Self, String> {
        let mut client = reqwest::Client::builder();
        if !url.starts_with("https://") {
            // A machine may have no certificates at all, which matters only to https.
            client = client.tls_certs_only([]);
        }
        let client =
            client.timeout(REGISTRY_TIMEOUT).build().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), identity })
    }

    async fn put(&self, path: &str, body: &Value) -> Result<(), WatchError> {
        let request = self.client.put(format!("{}/v1/agent/service/{path}", self.url)).json(body);
        request.send().await.and_then(reqwest::Response::error_for_status).map(drop).map_err(failed)
    }
}

#[async_trait]
impl Registration for AgentService {
    fn place(&self) -> &str {
        &self.identity.id
    }

    fn every(&self) -> Duration {
        LOOK_AFTER
    }

    /// What could be asserted is there.
    fn stands(&self) -> bool {
        true
    }

    /// Registers it unless it is.
    async fn assert(&mut self, _: &Result<(), String>) -> Result<Option<Change>, WatchError> {
        let Identity { id, name, version, host, port, advertised } = &self.identity;
        let known = self.client.get(format!("{}/v1/agent/service/{id}", self.url)).send().await.map_err(failed)?;
        if known.status() != StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let service = json!({
            "ID": id,
            "Name": name,
            "Address": host,
            "Port": port,
            "Meta": { "version": version },
            "Check": {
                "HTTP": format!("http://{advertised}/healthz"),
                "Interval": "2s",
                "Timeout": "1s",
                "DeregisterCriticalServiceAfter": "10m",
            },
        });
        self.put("register", &service).await?;
        Ok(Some(Change::Registered))
    }

    async fn leave(&mut self) -> Result<(), WatchError> {
        self.put(&format!("deregister/{}", self.identity.id), &Value::Null).await
    }
}

fn failed(error: reqwest::Error) -> WatchError {
    WatchError::failed(said(error))
}

/// The error and its causes.
fn said(error: reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The address that this machine reaches a URL's host from. Nothing is sent: connecting a UDP socket only asks
/// the routing table.
fn own_address(url: &str) -> Result<String, String> {
    let wrong =
        |why: &dyn std::fmt::Display| format!("cannot tell the own address towards {url}: {why}; use --advertise");
    let parsed: reqwest::Url = url.parse().map_err(|error| wrong(&error))?;
    let host = parsed.host_str().ok_or_else(|| wrong(&"it has no host"))?;
    let port = parsed.port_or_known_default().unwrap_or(80);
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| wrong(&error))?;
    socket.connect((host.trim_matches(['[', ']']), port)).map_err(|error| wrong(&error))?;
    Ok(socket.local_addr().map_err(|error| wrong(&error))?.ip().to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(words: &[&str]) -> Result<Arguments, clap::Error> {
        Command::try_parse_from(["x"].iter().chain(words)).map(|command| command.arguments)
    }

    #[test]
    fn a_registration_says_where_others_reach_it() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let told = |words: &[&str], bound: &str| {
            let arguments = arguments(words).unwrap();
            let url = arguments.consul.as_ref().or(arguments.etcd.as_ref()).unwrap();
            Identity::new(&arguments, bound.parse().unwrap(), url).map(|it| (it.advertised, it.id)).ok()
        };
        assert!(Registered::new(&arguments(&[]).unwrap(), "0.0.0.0:80".parse().unwrap()).unwrap().is_none());
        let consul = ["--consul", "http://127.0.0.1:8500/"];
        let expected = |advertised: &str, id: &str| Some((advertised.to_owned(), id.to_owned()));
        assert_eq!(told(&consul, "0.0.0.0:80"), expected("127.0.0.1:80", "users-v1-127.0.0.1-80"));
        assert_eq!(told(&consul, "127.0.0.9:80"), expected("127.0.0.9:80", "users-v1-127.0.0.9-80"));
        let etcd = ["--etcd", "http://127.0.0.1:2379", "--advertise", "::1", "--version", "v2"];
        assert_eq!(told(&etcd, "0.0.0.0:80"), expected("[::1]:80", "users-v2---1-80"));
        assert!(arguments(&["--consul", "http://a", "--etcd", "http://b"]).is_err());
        let nonsense = arguments(&["--consul", "nonsense"]).unwrap();
        assert!(
            Registered::new(&nonsense, "0.0.0.0:80".parse().unwrap()).is_err_and(|error| error.contains("--advertise"))
        );
    }
}
