//! Defines how Consul is asked: addresses, consistency, token, time and size limits.
//!
//! Blocked queries and short reads use clients of their own, so that no short read ever waits behind a
//! blocked one, and the leader probe notices a dead agent while hundreds of queries hang on it.

use std::error::Error as _;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Identity, Method, RequestBuilder, Response, Url};
use tokio::time::{Instant, timeout};

use super::token::Token;
use crate::discovery::supervise::WatchError;
use crate::spec::settings::{ClientTls, ConsulProvider as Settings};

/// Asks one Consul agent.
pub(super) struct Client {
    base: String,
    blocked: reqwest::Client,
    short: reqwest::Client,
    namespace: Option<String>,
    /// Whose permissions every request has.
    pub(super) token: Arc<Token>,
}

/// What is read: a path below the agent's address, its parts encoded, and fixed parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    path: String,
    parameters: &'static str,
}

/// How a read relates to other servers than the one that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consistency {
    /// The leader answers, without asking whether it still is the leader.
    Default,
    /// The leader answers after a majority confirmed it.
    Consistent,
}

/// An answer with its body complete.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// When the request began.
    pub(super) started: SystemTime,
    /// From the head to the end of the body.
    pub(super) transfer: Duration,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not `http://host:port` or `https://host:port`.
    #[error("`{0}` is not the address of a Consul agent: `http://host:port` or `https://host:port`")]
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

/// Answers beyond this are not read to the end: 10,000 instances are 11 MB.
const MAX_BODY: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a read that does not block: a server without a leader waits 7 s (`rpc_hold_timeout`) before it says so.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond what a blocked query may take: the wait and the sixteenth the server adds.
const GRACE: Duration = Duration::from_secs(10);
/// Unreserved characters and the slash stay (RFC 3986, 2.3).
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
const SEGMENT: &AsciiSet = &PATH.add(b'/');

impl Query {
    /// The checks and instances of a service. All of them: `?passing` would hide warnings and their weights.
    pub(super) fn health(service: &str) -> Self {
        Self { path: format!("/v1/health/service/{}", utf8_percent_encode(service, SEGMENT)), parameters: "" }
    }

    /// All keys below a prefix, with their values.
    pub(super) fn below(prefix: &str) -> Self {
        Self { path: format!("/v1/kv/{}", utf8_percent_encode(prefix, PATH)), parameters: "recurse&" }
    }

    /// One key.
    pub(super) fn key(key: &str) -> Self {
        Self { path: format!("/v1/kv/{}", utf8_percent_encode(key, PATH)), parameters: "" }
    }

    /// The names of all services.
    pub(super) fn services() -> Self {
        Self { path: "/v1/catalog/services".to_owned(), parameters: "" }
    }

    /// The token's own description.
    pub(super) fn own_token() -> Self {
        Self { path: "/v1/acl/token/self".to_owned(), parameters: "" }
    }

    /// The leader's address, `""` when there is none.
    pub(super) fn leader() -> Self {
        Self { path: "/v1/status/leader".to_owned(), parameters: "" }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl Client {
    /// A client for the agent of these settings. It contacts nobody yet.
    ///
    /// # Errors
    /// An address that is none, and TLS files that cannot be read.
    pub(super) fn new(settings: &Settings, token: Arc<Token>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Address(settings.address.clone());
        let url = Url::parse(&settings.address).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong());
        }
        let host = url.host_str().ok_or_else(wrong)?;
        let port = url.port_or_known_default().ok_or_else(wrong)?;
        // The name to verify is the name to connect to; the resolver below leads it to the real host.
        let shown = settings.tls.server_name.as_deref().filter(|_| url.scheme() == "https");
        let real_host = shown.map(|_| host.trim_start_matches('[').trim_end_matches(']').to_owned());
        let build = || {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("fleetgate/", env!("CARGO_PKG_VERSION")))
                .no_proxy()
                .gzip(true)
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .tcp_keepalive(Duration::from_secs(15))
                .http2_keep_alive_interval(Duration::from_secs(15))
                .http2_keep_alive_timeout(Duration::from_secs(10));
            if let Some(host) = &real_host {
                builder = builder.dns_resolver(LeadsTo(host.clone()));
            }
            if url.scheme() == "http" {
                // A machine may have no certificates at all, which matters only to https.
                builder = builder.tls_certs_only([]);
            } else {
                builder = with_tls(builder, &settings.tls)?;
            }
            builder.build().map_err(|error| ClientError::Tls(describe(error)))
        };
        Ok(Self {
            base: format!("{}://{}:{port}", url.scheme(), shown.unwrap_or(host)),
            blocked: build()?,
            short: build()?,
            namespace: settings.namespace.clone(),
            token,
        })
    }

    /// Reads now.
    ///
    /// # Errors
    /// No complete answer in time. Any status is an answer.
    pub(super) async fn read(&self, query: &Query, consistency: Consistency) -> Result<Reply, WatchError> {
        let parameter = match consistency {
            Consistency::Default => "",
            Consistency::Consistent => "consistent&",
        };
        self.fetch(self.short.get(self.url(query, parameter)), SHORT_TIMEOUT).await
    }

    /// Reads as soon as the index of what is asked for is beyond `index`, or after `wait`. Any server may answer.
    ///
    /// # Errors
    /// No complete answer in time. The server alone does not bound it: one that hangs blocks for ever.
    pub(super) async fn block(&self, query: &Query, index: u64, wait: Duration) -> Result<Reply, WatchError> {
        let url = self.url(query, &format!("stale&index={index}&wait={}ms&", wait.as_millis()));
        self.fetch(self.blocked.get(url), wait * 17 / 16 + GRACE).await
    }

    /// Writes a key, or removes it, if it is still at this index (0: if it is not there).
    ///
    /// # Errors
    /// No complete answer in time. Any status is an answer.
    pub(super) async fn write(&self, key: &str, value: Option<String>, index: u64) -> Result<Reply, WatchError> {
        let url = self.url(&Query::key(key), &format!("cas={index}&"));
        let request = match value {
            Some(value) => self.short.request(Method::PUT, url).body(value),
            None => self.short.request(Method::DELETE, url),
        };
        self.fetch(request, SHORT_TIMEOUT).await
    }

    /// Who leads the servers, as the agent knows; empty when nobody does.
    ///
    /// # Errors
    /// No answer, or none that makes sense, within `limit`.
    pub(super) async fn leader(&self, limit: Duration) -> Result<String, WatchError> {
        let reply = self.fetch(self.short.get(self.url(&Query::leader(), "")), limit).await?;
        if reply.status != StatusCode::OK {
            return Err(WatchError::failed(format!("{}: {}", reply.status, reply.excerpt())));
        }
        serde_json::from_slice(&reply.body).map_err(|error| WatchError::failed(format!("leader: {error}")))
    }

    /// Asks whether the token may do what `questions` (a JSON array) lists. What Consul's own interface uses
    /// to hide buttons; servers before 1.7 lack it.
    ///
    /// # Errors
    /// No complete answer in time.
    pub(super) async fn authorize(&self, questions: String) -> Result<Reply, WatchError> {
        let query = Query { path: "/v1/internal/acl/authorize".to_owned(), parameters: "" };
        self.fetch(self.short.request(Method::POST, self.url(&query, "")).body(questions), SHORT_TIMEOUT).await
    }

    fn url(&self, query: &Query, parameters: &str) -> String {
        let mut url = format!("{}{}?{}{parameters}", self.base, query.path, query.parameters);
        if let Some(namespace) = &self.namespace {
            let _ = write!(url, "ns={}", utf8_percent_encode(namespace, SEGMENT));
        }
        url
    }

    async fn fetch(&self, mut request: RequestBuilder, limit: Duration) -> Result<Reply, WatchError> {
        if let Some(token) = self.token.header() {
            request = request.header("x-consul-token", token);
        }
        let started = SystemTime::now();
        let fetched = async {
            let response = request.send().await.map_err(|error| WatchError::failed(describe(error)))?;
            complete(response, started).await
        };
        timeout(limit, fetched)
            .await
            .unwrap_or_else(|_| Err(WatchError::failed(format!("no complete answer within {limit:?}"))))
    }
}

async fn complete(mut response: Response, started: SystemTime) -> Result<Reply, WatchError> {
    let head_at = Instant::now();
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| WatchError::failed(describe(error)))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(WatchError::failed(format!("the answer is larger than {} MiB", MAX_BODY >> 20)));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, headers, body, started, transfer: head_at.elapsed() })
}

impl Reply {
    /// The body's beginning, for a message: printable, short.
    pub(super) fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(400)]);
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
    }
}

fn with_tls(mut builder: reqwest::ClientBuilder, tls: &ClientTls) -> Result<reqwest::ClientBuilder, ClientError> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| at(path, &error));
    if let Some(path) = &tls.ca {
        let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(|error| at(path, &describe(error)))?;
        if authorities.is_empty() {
            return Err(at(path, &"holds no certificate"));
        }
        builder = builder.tls_certs_only(authorities);
    }
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let mut pem = read(certificate)?;
        pem.push(b'\n');
        pem.extend(read(key)?);
        builder = builder.identity(Identity::from_pem(&pem).map_err(|error| at(key, &describe(error)))?);
    }
    Ok(builder)
}

fn at(path: &Path, text: &dyn std::fmt::Display) -> ClientError {
    ClientError::File { path: path.display().to_string(), text: text.to_string() }
}

/// An error with its causes, without the address: that is the same for every watch.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(Query::health("a/b c?").path, "/v1/health/service/a%2Fb%20c%3F");
        assert_eq!(Query::below("fleet gate/").path, "/v1/kv/fleet%20gate/");
        assert_eq!(Query::key("gw/routes/a&b#c").path, "/v1/kv/gw/routes/a%26b%23c");
    }
}
