//! Defines how Consul is asked: consistency, token, time and size limits.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::HeaderMap;
use http::{StatusCode, Version};
use reqwest::{RequestBuilder, Response};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::budget::Budget;
use super::query::{Place, Query};
use super::rights::Rights;
use super::servers::Servers;
use super::token::Token;
pub use super::transport::ClientError;
use super::transport::{Lane, Transport, describe};
use crate::discovery::status::ProviderStatus;
use crate::discovery::supervise::WatchError;
use crate::spec::settings::{Consistency, ConsulProvider as Settings};

/// Asks one Consul agent.
pub(super) struct Client {
    pub(super) transport: Transport,
    pub(super) budget: Arc<Budget>,
    place: Place,
    consistency: Consistency,
    tls: bool,
    /// Over HTTP/1.1 each read has a connection: a start with a thousand services must not open a thousand.
    short: Semaphore,
    /// Who answers.
    known: Servers,
    /// Whose permissions every request has.
    pub(super) token: Arc<Token>,
    /// What that token may read, as of the last look.
    pub(super) rights: Arc<Rights>,
    /// Of the provider of endpoints; that of documents asks by the same connections.
    status: Arc<ProviderStatus>,
}

/// An answer with its body complete.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// When the request began.
    pub(super) started: Instant,
    /// From the head to the end of the body.
    pub(super) transfer: Duration,
}

/// Answers beyond this are not read to the end: 10,000 instances are 11 MB.
const MAX_BODY: usize = 64 << 20;
/// For a read that does not block: a server without a leader waits 7 s (`rpc_hold_timeout`) before it says so.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond what a blocked query may take: the wait and the sixteenth the server adds.
const GRACE: Duration = Duration::from_secs(10);
/// For a question that answers wait for.
const SERVERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Short reads at once.
const SHORT_AT_ONCE: usize = 48;

impl Client {
    /// A client for the agent of these settings. It contacts nobody yet.
    ///
    /// # Errors
    /// An address that is none, and TLS files that cannot be read.
    pub(super) fn new(
        settings: &Settings,
        token: Arc<Token>,
        status: &Arc<ProviderStatus>,
        servers: Servers,
    ) -> Result<Self, ClientError> {
        let tls = settings.address.starts_with("https://");
        let budget = Budget::new(tls, settings.max_watches);
        Ok(Self {
            transport: Transport::new(settings, budget.own_lanes(), Arc::clone(&status.cost.connections))?,
            budget,
            place: Place {
                datacenter: settings.datacenter.clone(),
                namespace: settings.namespace.clone(),
                partition: settings.partition.clone(),
            },
            consistency: settings.consistency,
            tls,
            short: Semaphore::new(SHORT_AT_ONCE),
            known: servers,
            token,
            rights: Rights::new(),
            status: Arc::clone(status),
        })
    }

    /// Reads now.
    ///
    /// # Errors
    /// No complete answer in time. Any status is an answer.
    pub(super) async fn read(&self, query: &Query, consistency: Consistency) -> Result<Reply, WatchError> {
        self.short(|client| client.get(self.url(query, parameter(consistency)))).await
    }

    /// Reads as soon as the index of what is asked for is beyond `index`, or after `wait`; who answers is in the
    /// settings. `lane`: on which connection (see [`super::budget::Claim::lane`]); without one, on that of short reads.
    ///
    /// # Errors
    /// No complete answer in time. The server alone does not bound it: one that hangs blocks for ever.
    pub(super) async fn block(
        &self,
        query: &Query,
        index: u64,
        wait: Duration,
        lane: Option<usize>,
    ) -> Result<Reply, WatchError> {
        let parameters = format!("{}index={index}&wait={}ms&", parameter(self.consistency), wait.as_millis());
        let clients = self.transport.clients();
        let lane = lane.and_then(|lane| clients.blocked.get(lane)).unwrap_or(&clients.short);
        let request = lane.client.get(self.url(query, &parameters));
        let reply = self.fetch(lane, request, wait * 17 / 16 + GRACE).await?;
        self.status.cost.wakeups.fetch_add(1, Relaxed);
        Ok(reply)
    }

    /// Reads now what a blocked query would be answered by.
    ///
    /// # Errors
    /// No complete answer in time.
    pub(super) async fn poll(&self, query: &Query) -> Result<Reply, WatchError> {
        self.read(query, self.consistency).await
    }

    /// Writes a key, or removes it, if it is still at this index (0: if it is not there).
    ///
    /// # Errors
    /// No complete answer in time. Any status is an answer.
    pub(super) async fn write(&self, key: &str, value: Option<String>, index: u64) -> Result<Reply, WatchError> {
        let url = self.url(&Query::key(key), &format!("cas={index}&"));
        let request = |client: &reqwest::Client| match &value {
            Some(value) => client.put(&url).body(value.clone()),
            None => client.delete(&url),
        };
        self.short(request).await
    }

    /// Who leads the servers, as the agent knows; empty when nobody does.
    ///
    /// # Errors
    /// No answer, or none that makes sense, within `limit`.
    pub(super) async fn leader(&self, limit: Duration) -> Result<String, WatchError> {
        // Past the limit of short reads: those may all hang where nobody leads.
        let lane = &self.transport.clients().short;
        let reply = self.fetch(lane, lane.client.get(self.url(&Query::leader(), "")), limit).await?;
        if reply.status != StatusCode::OK {
            return Err(WatchError::failed(format!("{}: {}", reply.status, reply.excerpt())));
        }
        serde_json::from_slice(&reply.body).map_err(|error| WatchError::failed(format!("leader: {error}")))
    }

    /// Which servers there are, as far as the agent's knows and the token may see.
    ///
    /// # Errors
    /// No complete answer within [`SERVERS_TIMEOUT`].
    pub(super) async fn servers(&self) -> Result<Reply, WatchError> {
        // Past the limit of short reads: those wait for it.
        let lane = &self.transport.clients().short;
        let place = Place { datacenter: self.place.datacenter.clone(), ..Place::default() };
        let url = Query::servers().url(self.transport.base(), parameter(Consistency::Stale), &place);
        self.fetch(lane, lane.client.get(url), SERVERS_TIMEOUT).await
    }

    /// Makes sure that what other servers said than before is not taken for the word of those known.
    pub(super) async fn ascertain(&self) {
        self.known.ascertain(self).await;
    }

    /// Follows who answers, for ever.
    pub(super) async fn follow_servers(&self) {
        self.known.follow(self).await;
    }

    /// Asks whether the token may do what `questions` (a JSON array) lists, by a query of [`Query::authorize`].
    ///
    /// # Errors
    /// No complete answer in time.
    pub(super) async fn authorize(&self, query: &Query, questions: String) -> Result<Reply, WatchError> {
        let url = self.url(query, "");
        self.short(|client| client.post(&url).body(questions.clone())).await
    }

    /// Writes at the agent.
    ///
    /// # Errors
    /// No complete answer in time. Any status is an answer.
    pub(super) async fn put(&self, query: &Query, body: String) -> Result<Reply, WatchError> {
        let url = self.url(query, "");
        self.short(|client| client.put(&url).body(body.clone())).await
    }

    fn url(&self, query: &Query, parameters: &str) -> String {
        query.url(self.transport.base(), parameters, &self.place)
    }

    async fn short(&self, request: impl Fn(&reqwest::Client) -> RequestBuilder) -> Result<Reply, WatchError> {
        // Never closed.
        let _turn = self.short.acquire().await;
        let lane = &self.transport.clients().short;
        self.fetch(lane, request(&lane.client), SHORT_TIMEOUT).await
    }

    fn no_answer(&self, why: &str) -> WatchError {
        WatchError::failed(format!("{}: {why}", self.transport.shown()))
    }

    async fn fetch(&self, lane: &Lane, mut request: RequestBuilder, limit: Duration) -> Result<Reply, WatchError> {
        if let Some(token) = self.token.header() {
            request = request.header("x-consul-token", token);
        }
        let started = Instant::now();
        let fetched = async {
            lane.opened(|client| client.get(self.url(&Query::leader(), ""))).await;
            let response = request.send().await.map_err(|error| self.no_answer(&describe(error)))?;
            if self.tls && response.version() < Version::HTTP_2 {
                self.budget.has_no_http2();
            }
            let reply = complete(response, started).await.map_err(|error| self.no_answer(&error.text))?;
            self.status.cost.answered(reply.body.len());
            Ok(reply)
        };
        let late = |_| Err(self.no_answer(&format!("no complete answer within {limit:?}")));
        timeout(limit, fetched).await.unwrap_or_else(late).inspect_err(|_| lane.failed())
    }
}

async fn complete(mut response: Response, started: Instant) -> Result<Reply, WatchError> {
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

/// As Consul wants it written.
fn parameter(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Stale => "stale&",
        Consistency::Default => "",
        Consistency::Consistent => "consistent&",
    }
}
