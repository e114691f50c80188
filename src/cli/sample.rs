//! Defines `fleetgate sample-service`: a tiny HTTP service that registers itself in Consul or etcd. The demo,
//! the compose file and the benches put it behind the gateway.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How often a registration is looked after, and tried again while the registry fails.
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
    let registration = Registration::new(&arguments, bound)?;
    let instance =
        registration.as_ref().map_or_else(|| bound.to_string(), |registration| registration.advertised.clone());
    let info = Info { name: arguments.name, version: arguments.version, instance };
    tracing::info!(service = info.name, version = info.version, address = %bound, "serving");

    let serving = CancellationToken::new();
    let server = tokio::spawn(serve(listener, info, serving.clone()));
    match registration {
        Some(mut registration) => {
            tokio::select! {
                () = registration.keep() => {}
                () = stop => {}
            }
            match registration.remove().await {
                Ok(()) => tracing::info!(id = registration.id, "left the registry"),
                Err(error) => tracing::warn!(error, "cannot leave the registry"),
            }
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

enum Registry {
    Consul,
    Etcd { prefix: String, lease_ttl: u32, lease: Option<String> },
}

struct Registration {
    registry: Registry,
    client: reqwest::Client,
    /// Without a slash at its end.
    url: String,
    id: String,
    name: String,
    version: String,
    /// `HOST:PORT`, as others reach it.
    advertised: String,
    host: String,
    port: u16,
}

impl Registration {
    fn new(arguments: &Arguments, bound: SocketAddr) -> Result<Option<Self>, String> {
        let (url, registry) = match (&arguments.consul, &arguments.etcd) {
            (Some(url), _) => (url, Registry::Consul),
            (None, Some(url)) => {
                let prefix = arguments.etcd_prefix.clone();
                (url, Registry::Etcd { prefix, lease_ttl: arguments.lease_ttl, lease: None })
            }
            (None, None) => return Ok(None),
        };
        let host = match &arguments.advertise {
            Some(host) => host.clone(),
            None if bound.ip().is_unspecified() => own_address(url)?,
            None => bound.ip().to_string(),
        };
        let port = bound.port();
        let advertised = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let id = format!("{}-{}-{host}-{port}", arguments.name, arguments.version).replace([':', '/'], "-");
        let mut client = reqwest::Client::builder();
        if !url.starts_with("https://") {
            // A machine may have no certificates at all, which matters only to https.
            client = client.tls_certs_only([]);
        }
        let client =
            client.timeout(REGISTRY_TIMEOUT).build().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        Ok(Some(Self {
            registry,
            client,
            url: url.trim_end_matches('/').to_owned(),
            id,
            name: arguments.name.clone(),
            version: arguments.version.clone(),
            advertised,
            host,
            port,
        }))
    }

    /// Keeps the service registered, whatever becomes of the registry meanwhile.
    async fn keep(&mut self) {
        let mut registered = false;
        loop {
            let now = match self.assert().await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(error, url = self.url, "cannot register; trying again");
                    false
                }
            };
            if now && !registered {
                tracing::info!(id = self.id, address = self.advertised, "registered");
            }
            registered = now;
            let pause = match &self.registry {
                Registry::Etcd { lease_ttl, .. } => LOOK_AFTER.min(Duration::from_secs(u64::from(*lease_ttl)) / 3),
                Registry::Consul => LOOK_AFTER,
            };
            tokio::time::sleep(if now { pause } else { Duration::from_secs(1) }).await;
        }
    }

    /// Registers it unless it is.
    async fn assert(&mut self) -> Result<(), String> {
        match &self.registry {
            Registry::Consul => {
                let known = self.client.get(format!("{}/v1/agent/service/{}", self.url, self.id)).send().await;
                if known.map_err(said)?.status() != StatusCode::NOT_FOUND {
                    return Ok(());
                }
                let service = json!({
                    "ID": self.id,
                    "Name": self.name,
                    "Address": self.host,
                    "Port": self.port,
                    "Meta": { "version": self.version },
                    "Check": {
                        "HTTP": format!("http://{}/healthz", self.advertised),
                        "Interval": "2s",
                        "Timeout": "1s",
                        "DeregisterCriticalServiceAfter": "10m",
                    },
                });
                let url = format!("{}/v1/agent/service/register", self.url);
                self.client.put(url).json(&service).send().await.and_then(|it| it.error_for_status()).map_err(said)?;
                Ok(())
            }
            Registry::Etcd { lease_ttl, lease, .. } => {
                if let Some(lease) = lease {
                    let kept = self.etcd("lease/keepalive", &json!({ "ID": lease })).await?;
                    // An expired lease answers with no TTL.
                    if kept["result"]["TTL"].as_str().is_some_and(|ttl| ttl != "0") {
                        return Ok(());
                    }
                }
                let granted = self.etcd("lease/grant", &json!({ "TTL": lease_ttl.to_string() })).await?;
                let granted = granted["ID"].as_str().ok_or("etcd granted no lease")?.to_owned();
                let value = json!({ "address": self.advertised, "labels": { "version": self.version } }).to_string();
                let put = json!({ "key": self.etcd_key(), "value": BASE64.encode(value), "lease": granted });
                self.etcd("kv/put", &put).await?;
                if let Registry::Etcd { lease, .. } = &mut self.registry {
                    *lease = Some(granted);
                }
                Ok(())
            }
        }
    }

    async fn remove(&self) -> Result<(), String> {
        match &self.registry {
            Registry::Consul => {
                let url = format!("{}/v1/agent/service/deregister/{}", self.url, self.id);
                self.client.put(url).send().await.and_then(reqwest::Response::error_for_status).map_err(said)?;
            }
            Registry::Etcd { lease: Some(lease), .. } => {
                self.etcd("lease/revoke", &json!({ "ID": lease })).await?;
            }
            Registry::Etcd { lease: None, .. } => {}
        }
        Ok(())
    }

    fn etcd_key(&self) -> String {
        let prefix = match &self.registry {
            Registry::Etcd { prefix, .. } => prefix.trim_end_matches('/'),
            Registry::Consul => "",
        };
        BASE64.encode(format!("{prefix}/endpoints/{}/{}", self.name, self.id))
    }

    /// A call of etcd's JSON gateway.
    async fn etcd(&self, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.client.post(format!("{}/v3/{path}", self.url)).json(body).send().await.map_err(said)?;
        answer.error_for_status().map_err(said)?.json().await.map_err(said)
    }
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
            let registration = Registration::new(&arguments(words).unwrap(), bound.parse().unwrap()).unwrap();
            registration.map(|registration| (registration.advertised, registration.id))
        };
        assert_eq!(told(&[], "0.0.0.0:80"), None);
        let consul = ["--consul", "http://127.0.0.1:8500/"];
        let expected = |advertised: &str, id: &str| Some((advertised.to_owned(), id.to_owned()));
        assert_eq!(told(&consul, "0.0.0.0:80"), expected("127.0.0.1:80", "users-v1-127.0.0.1-80"));
        assert_eq!(told(&consul, "127.0.0.9:80"), expected("127.0.0.9:80", "users-v1-127.0.0.9-80"));
        let etcd = ["--etcd", "http://127.0.0.1:2379", "--advertise", "::1", "--version", "v2"];
        assert_eq!(told(&etcd, "0.0.0.0:80"), expected("[::1]:80", "users-v2---1-80"));
        assert!(arguments(&["--consul", "http://a", "--etcd", "http://b"]).is_err());
        let nonsense = arguments(&["--consul", "nonsense"]).unwrap();
        assert!(
            Registration::new(&nonsense, "0.0.0.0:80".parse().unwrap())
                .is_err_and(|error| error.contains("--advertise"))
        );
    }
}
