//! Defines the connections to a Consul agent: over TCP or a socket, with TLS whose files may change at any time.
//!
//! Blocked queries and short reads use clients of their own, so that no short read ever waits behind a blocked one, and
//! the leader probe notices a dead agent while hundreds of queries hang on it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Identity, RequestBuilder, Url};
use tower::util::MapResponseLayer;

use crate::discovery::status::Connections;
use crate::spec::cause;
use crate::spec::file::{self, MAX_ATTACHMENT_BYTES};
use crate::spec::settings::{ClientTls, ConsulProvider as Settings};

/// The ways to an agent.
pub(super) struct Transport {
    way: Way,
    current: Mutex<Arc<Clients>>,
}

/// The clients in use.
pub(super) struct Clients {
    /// For blocked queries. Over HTTP/2 each is one connection; over HTTP/1.1 one has a connection a query.
    pub(super) blocked: Vec<Lane>,
    /// For reads that do not block.
    pub(super) short: Lane,
}

/// A client, and whether it has a connection of HTTP/2 that requests can share. While it has none, each request would
/// open one of its own: hundreds at a start.
pub(super) struct Lane {
    pub(super) client: reqwest::Client,
    shared: bool,
    open: AtomicBool,
    opening: tokio::sync::Mutex<()>,
}

impl Lane {
    /// Waits until there is a connection to share, or one could not be had. `first`: makes a request that is answered
    /// at once.
    pub(super) async fn opened(&self, first: impl Fn(&reqwest::Client) -> RequestBuilder) {
        if !self.shared || self.open.load(Relaxed) {
            return;
        }
        let _alone = self.opening.lock().await;
        if !self.open.load(Relaxed) {
            self.open.store(first(&self.client).timeout(FIRST).send().await.is_ok(), Relaxed);
        }
    }

    /// A request failed: perhaps there is no connection any more.
    pub(super) fn failed(&self) {
        self.open.store(false, Relaxed);
    }
}

/// How an agent is reached.
struct Way {
    base: String,
    /// The agent as messages name it: without a user or password that its URL may have.
    shown: String,
    socket: Option<PathBuf>,
    /// Where to connect, where the URL has the name to verify.
    real_host: Option<String>,
    /// `None` without TLS.
    tls: Option<ClientTls>,
    lanes: usize,
    connections: Arc<Connections>,
}

/// The contents of the TLS files: authorities, certificate, key.
type Files = [Option<Vec<u8>>; 3];

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none of those understood.
    #[error("`{0}` is not the address of a Consul agent: `http://host:port`, `https://host:port` or `unix:///path`")]
    Address(String),
    /// A file of the TLS settings.
    #[error("{path}: {text}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        text: String,
    },
    /// TLS as a whole.
    #[error("TLS towards Consul: {0}")]
    Tls(String),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the first answer of a connection.
const FIRST: Duration = Duration::from_secs(5);
/// How often the TLS files are looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Transport {
    /// The way to the agent of these settings, with so many lanes for blocked queries, counted in `connections`. It
    /// contacts nobody yet.
    ///
    /// # Errors
    /// An address that is none, and TLS files that cannot be read.
    pub(super) fn new(settings: &Settings, lanes: usize, connections: Arc<Connections>) -> Result<Self, ClientError> {
        let way = Way::new(settings, lanes, connections)?;
        let clients = way.clients(&read_files(way.tls.as_ref())?)?;
        Ok(Self { way, current: Mutex::new(Arc::new(clients)) })
    }

    /// What paths are appended to.
    pub(super) fn base(&self) -> &str {
        &self.way.base
    }

    /// The agent, for messages.
    pub(super) fn shown(&self) -> &str {
        &self.way.shown
    }

    /// How many connections were opened since the start.
    pub(super) fn opened(&self) -> u64 {
        self.way.connections.opened()
    }

    /// The clients to use now.
    pub(super) fn clients(&self) -> Arc<Clients> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows the TLS files for ever: new connections use what they hold now. Files that are of no use together, as in
    /// the middle of an exchange, change nothing. Calls `changed` after each change.
    pub(super) async fn follow(&self, changed: impl Fn()) {
        let mut used = self.way.files().await.and_then(Result::ok);
        let mut said = None;
        if used.as_ref().is_none_or(|files| files.iter().all(Option::is_none)) {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(read) = self.way.files().await else { continue };
            let renewed = read.and_then(|files| {
                if used.as_ref() == Some(&files) {
                    return Ok(None);
                }
                self.way.clients(&files).map(|clients| Some((files, clients)))
            });
            match renewed {
                Ok(None) => said = None,
                Ok(Some((files, clients))) => {
                    (used, said) = (Some(files), None);
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(clients);
                    tracing::info!("the TLS files for Consul have changed");
                    changed();
                }
                Err(error) => {
                    let error = error.to_string();
                    if said.as_ref() != Some(&error) {
                        tracing::warn!("TLS towards Consul stays as it was: {error}");
                        said = Some(error);
                    }
                }
            }
        }
    }
}

impl Way {
    fn new(settings: &Settings, lanes: usize, connections: Arc<Connections>) -> Result<Self, ClientError> {
        if let Some(path) = settings.address.strip_prefix("unix://") {
            let (base, socket) = ("http://localhost".to_owned(), Some(PathBuf::from(path)));
            let shown = settings.address.clone();
            return Ok(Self { base, shown, socket, real_host: None, tls: None, lanes, connections });
        }
        let wrong = || ClientError::Address(settings.address.clone());
        let url = Url::parse(&settings.address).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong());
        }
        let host = url.host_str().ok_or_else(wrong)?;
        let port = url.port_or_known_default().ok_or_else(wrong)?;
        let tls = (url.scheme() == "https").then(|| settings.tls.clone());
        // The name to verify is the name to connect to; the resolver below leads it to the real host.
        let shown = tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let real_host = shown.map(|_| host.trim_start_matches('[').trim_end_matches(']').to_owned());
        let base = format!("{}://{}:{port}", url.scheme(), shown.unwrap_or(host));
        let shown = format!("{}://{host}:{port}", url.scheme());
        Ok(Self { base, shown, socket: None, real_host, tls, lanes, connections })
    }

    /// Reads the files off the runtime, where a disk that hangs would keep others waiting. Only the end of the runtime
    /// gives nothing back.
    async fn files(&self) -> Option<Result<Files, ClientError>> {
        let tls = self.tls.clone();
        tokio::task::spawn_blocking(move || read_files(tls.as_ref())).await.ok()
    }

    fn clients(&self, files: &Files) -> Result<Clients, ClientError> {
        let blocked = (0..self.lanes).map(|_| self.lane(files)).collect::<Result<_, _>>()?;
        Ok(Clients { blocked, short: self.lane(files)? })
    }

    fn lane(&self, files: &Files) -> Result<Lane, ClientError> {
        // What the client keeps of a connection is its own: it can't be told when one is closed.
        let connections = Arc::clone(&self.connections);
        let counted = MapResponseLayer::new(move |connection| {
            connections.opens();
            connection
        });
        let mut builder = reqwest::Client::builder()
            .connector_layer(counted)
            .user_agent(concat!("fleetgate/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .gzip(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .http2_keep_alive_interval(Duration::from_secs(15))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        if let Some(socket) = &self.socket {
            builder = builder.unix_socket(socket.as_path());
        }
        if let Some(host) = &self.real_host {
            builder = builder.dns_resolver(LeadsTo(host.clone()));
        }
        builder = match &self.tls {
            // A machine may have no certificates at all, which matters only to https.
            None => builder.tls_certs_only([]),
            Some(tls) => with_tls(builder, tls, files)?,
        };
        let client = builder.build().map_err(|error| ClientError::Tls(describe(error)))?;
        Ok(Lane {
            client,
            shared: self.tls.is_some(),
            open: AtomicBool::new(false),
            opening: tokio::sync::Mutex::default(),
        })
    }
}

fn with_tls(
    mut builder: reqwest::ClientBuilder,
    tls: &ClientTls,
    [ca, certificate, key]: &Files,
) -> Result<reqwest::ClientBuilder, ClientError> {
    if let (Some(path), Some(pem)) = (&tls.ca, ca) {
        let authorities = Certificate::from_pem_bundle(pem).map_err(|error| at(path, &describe(error)))?;
        if authorities.is_empty() {
            return Err(at(path, &"holds no certificate"));
        }
        builder = builder.tls_certs_only(authorities);
    }
    if let (Some(path), Some(certificate), Some(key)) = (&tls.key, certificate, key) {
        let pem = [certificate, &b"\n"[..], key].concat();
        builder = builder.identity(Identity::from_pem(&pem).map_err(|error| at(path, &describe(error)))?);
    }
    Ok(builder)
}

fn read_files(tls: Option<&ClientTls>) -> Result<Files, ClientError> {
    let Some(tls) = tls else { return Ok(Files::default()) };
    let read = |path: &Option<PathBuf>| {
        path.as_ref().map(|path| file::read(path, MAX_ATTACHMENT_BYTES).map_err(|error| at(path, &error))).transpose()
    };
    Ok([read(&tls.ca)?, read(&tls.certificate)?, read(&tls.key)?])
}

fn at(path: &Path, text: &dyn std::fmt::Display) -> ClientError {
    ClientError::File { path: path.display().to_string(), text: text.to_string() }
}

/// An error with its causes, without the URL of the request.
pub(super) fn describe(error: reqwest::Error) -> String {
    cause::describe(&error.without_url())
}

/// Resolves every name to the addresses of one host.
struct LeadsTo(String);

impl Resolve for LeadsTo {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
