//! Defines how we reach etcd: one client a member, tried in a shuffled order, and the user's token on each.
//!
//! A client that knows several members picks one at random for each call, a dead one as well, and never
//! fails over; so each member has a client of its own, and all watches share the view of which to use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions};
use futures_util::future::join_all;
use rand::seq::SliceRandom as _;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::channel::Counted;
use super::credential::Credentials;
use super::failure::Failure;
use super::rights::Rights;
use crate::discovery::status::Connections;
use crate::discovery::supervise::{Backoff, ErrorKind, WatchError};
use crate::spec::settings::EtcdProvider as Settings;

/// For a TCP connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For a whole call. A token of another life of the store blocks a call until its deadline (measured).
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// For the first answer of a member: a black hole takes connections, and should not keep us from the next one for long.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// HTTP/2 pings while a stream is open; etcd allows one in 5 s, and none on an idle connection (measured).
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Between two authentications, which cost the member 55 ms of bcrypt each, and between two tries to connect
/// to a member that just failed: many watches ask at once.
const AGAIN: Duration = Duration::from_secs(1);
/// How often files of credentials are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The members of an etcd cluster, as configured.
pub(super) struct Members {
    members: Vec<Member>,
    preferred: AtomicUsize,
    credentials: Credentials,
    connections: Arc<Connections>,
    /// What our user may read, as of the last look.
    pub(super) rights: Arc<Rights>,
}

struct Member {
    url: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    /// Counts tokens and clients: who has an older one has been overtaken.
    generation: u64,
    /// The last failed try to authenticate.
    failed: Option<(Instant, WatchError)>,
    authenticated_at: Option<Instant>,
}

/// A client of one member.
#[derive(Clone)]
pub(super) struct Connection {
    /// Which member.
    pub(super) member: usize,
    /// Its URL, for messages.
    pub(super) url: Arc<str>,
    /// Its client.
    pub(super) client: Client,
    generation: u64,
}

impl Members {
    /// The members of the settings, in an order of this process's own, so that gateways spread. What is opened to them
    /// is counted in `connections`.
    pub(super) fn new(settings: &Settings, connections: Arc<Connections>) -> Self {
        let mut urls: Vec<Arc<str>> = settings.endpoints.iter().map(|url| url.as_str().into()).collect();
        urls.shuffle(&mut rand::rng());
        Self {
            members: urls.into_iter().map(|url| Member { url, state: Mutex::default() }).collect(),
            preferred: AtomicUsize::new(0),
            credentials: Credentials::new(settings),
            connections,
            rights: Arc::default(),
        }
    }

    /// Whether requests come from a user.
    pub(super) fn has_user(&self) -> bool {
        self.credentials.user().is_some()
    }

    /// The member to use now.
    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Relaxed)
    }

    /// The member `step` places after `member`, in a ring.
    pub(super) fn after(&self, member: usize, step: usize) -> usize {
        (member + step) % self.members.len().max(1)
    }

    /// Turns all watches away from a member that failed: new sessions use the next one. The watches that
    /// still run there find out by themselves; the first one to fail moves them, the others don't move on.
    pub(super) async fn failed(&self, connection: &Connection) {
        let next = self.after(connection.member, 1);
        let _ = self.preferred.compare_exchange(connection.member, next, Relaxed, Relaxed);
        if let Some(member) = self.members.get(connection.member) {
            let mut state = member.state.lock().await;
            if state.generation == connection.generation {
                // A client keeps the error of its last connect and gives it to the next call; a member that
                // was restarted has forgotten its tokens.
                state.client = None;
            }
        }
    }

    /// A client of a member that has answered, with a token when a user is configured.
    pub(super) async fn connect(&self, at: usize) -> Result<Connection, WatchError> {
        let Some(member) = self.members.get(at) else {
            return Err(WatchError::failed("no etcd endpoint is configured"));
        };
        let mut state = member.state.lock().await;
        if let Some(client) = state.client.clone() {
            return Ok(Connection { member: at, url: Arc::clone(&member.url), client, generation: state.generation });
        }
        state.spare()?;
        let client = self.client(&member.url).await?;
        let greeted = match greet(&client).await {
            Ok(()) => self.authenticate(&mut state, &member.url, client).await,
            Err(failure) => {
                let error = failure.into_error(&member.url);
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        };
        greeted.inspect_err(|error| {
            if error.kind == ErrorKind::Failed {
                let next = self.after(at, 1);
                let _ = self.preferred.compare_exchange(at, next, Relaxed, Relaxed);
            }
        })?;
        let client = state.client.clone().ok_or_else(|| WatchError::failed("no client"))?;
        Ok(Connection { member: at, url: Arc::clone(&member.url), client, generation: state.generation })
    }

    /// A connection with a new token: the member refused the one of `connection` for `reason`.
    pub(super) async fn refresh(&self, connection: &Connection, reason: &str) -> Result<Connection, WatchError> {
        let refused = |text: String| WatchError { kind: ErrorKind::Unauthorised, text };
        let Some(member) = self.members.get(connection.member) else {
            return Err(WatchError::failed("no such etcd endpoint"));
        };
        if self.credentials.user().is_none() {
            return Err(refused(format!("{}: {reason}: set `discovery.etcd.user`", connection.url)));
        }
        let mut state = member.state.lock().await;
        if state.generation == connection.generation {
            state.spare()?;
            if state.authenticated_at.is_some_and(|at| at.elapsed() < AGAIN) {
                return Err(refused(format!("{}: {reason}, with a token just issued", connection.url)));
            }
            let client = connection.client.clone();
            self.authenticate(&mut state, &member.url, client).await?;
        } else if state.client.is_none() {
            state.spare()?;
            let client = self.client(&member.url).await?;
            self.authenticate(&mut state, &member.url, client).await?;
        }
        let client = state.client.clone().ok_or_else(|| WatchError::failed("no client"))?;
        let generation = state.generation;
        Ok(Connection { member: connection.member, url: Arc::clone(&member.url), client, generation })
    }

    /// Calls a member; again with a new token where it refuses the one it has.
    pub(super) async fn call<T, F>(
        &self,
        member: usize,
        operation: impl Fn(Client) -> F,
    ) -> Result<(T, Connection), WatchError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut connection = self.connect(member).await?;
        let mut answer = operation(connection.client.clone()).await;
        if let Err(Failure::Token(reason)) = &answer {
            connection = self.refresh(&connection, reason).await?;
            answer = operation(connection.client.clone()).await;
        }
        match answer {
            Ok(answer) => Ok((answer, connection)),
            Err(failure) => Err(self.give_up(&connection, failure).await),
        }
    }

    /// The error for the retry loop; other watches are turned away from a member that is lost.
    pub(super) async fn give_up(&self, connection: &Connection, failure: Failure) -> WatchError {
        let error = failure.into_error(&connection.url);
        if error.kind == ErrorKind::Failed {
            self.failed(connection).await;
        }
        error
    }

    /// Follows the files of the credentials for ever. After a change clients are made anew, and `changed` tells
    /// the watches that wait because they were refused; open streams go on with what they began with.
    pub(super) async fn follow(&self, backoff: &Backoff) {
        if !self.credentials.may_change() {
            return std::future::pending().await;
        }
        let mut said = None;
        loop {
            tokio::time::sleep(LOOK).await;
            match self.credentials.reread().await {
                Ok(changed) => {
                    said = None;
                    if changed {
                        tracing::info!("the credentials for etcd have changed");
                        join_all(self.members.iter().map(Member::forget)).await;
                        backoff.credentials_changed.notify_waiters();
                        backoff.answers_again.notify_waiters();
                    }
                }
                Err(error) if said.as_ref() != Some(&error) => {
                    tracing::warn!("the credentials for etcd stay what they were: {error}");
                    said = Some(error);
                }
                Err(_) => {}
            }
        }
    }

    async fn authenticate(&self, state: &mut State, url: &str, mut client: Client) -> Result<(), WatchError> {
        if let Some(user) = self.credentials.user() {
            let answer = match timeout(TIMEOUT, client.update_user(Some(user))).await {
                Ok(answer) => answer.map_err(Failure::from),
                Err(_) => Err(Failure::Lost("no answer to the authentication in 10 s".to_owned())),
            };
            match answer {
                Ok(()) => state.authenticated_at = Some(Instant::now()),
                // Authentication is switched off: calls with a token would be refused, those without are not.
                Err(Failure::AuthOff) => {
                    let _ = client.update_user(None).await;
                }
                Err(failure) => {
                    let error = failure.into_error(url);
                    state.failed = Some((Instant::now(), error.clone()));
                    return Err(error);
                }
            }
        }
        state.failed = None;
        state.generation += 1;
        state.client = Some(client);
        Ok(())
    }

    async fn client(&self, url: &str) -> Result<Client, WatchError> {
        let channel = Counted {
            url,
            tls: self.credentials.tls(url).await.map_err(WatchError::failed)?,
            connections: Arc::clone(&self.connections),
            connect_timeout: CONNECT_TIMEOUT,
            timeout: TIMEOUT,
            ping: PING,
        };
        let options = ConnectOptions::new().with_require_leader(true);
        // It only sets up: nothing is dialled before the first call.
        let client = Client::connect_with_balanced_channel([url], Some(options), channel).await;
        client.map_err(|error| Failure::from(error).into_error(url))
    }
}

/// Asks a member for what costs it nothing. Any answer of its own will do, also that we may not ask.
async fn greet(client: &Client) -> Result<(), Failure> {
    let options = GetOptions::new().with_count_only().with_serializable();
    match timeout(FIRST_ANSWER, client.kv_client().get("\0", Some(options))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => match Failure::from(error) {
            lost @ Failure::Lost(_) => Err(lost),
            _ => Ok(()),
        },
        Err(_) => Err(Failure::Lost("no answer in 3 s".to_owned())),
    }
}

impl Member {
    /// Makes its client anew, with what the files say now.
    async fn forget(&self) {
        let mut state = self.state.lock().await;
        let generation = state.generation + 1;
        *state = State { generation, ..State::default() };
    }
}

impl State {
    /// The error of a try that just failed, for those who waited for it.
    fn spare(&self) -> Result<(), WatchError> {
        match &self.failed {
            Some((at, error)) if at.elapsed() < AGAIN => Err(error.clone()),
            _ => Ok(()),
        }
    }
}
