//! Defines how gateways count together in Redis: a connection that is kept, and two small scripts.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, Script, TlsCertificates,
};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{Answer, Ask, Ledger, Limit, Standing};
use crate::spec::cause::plain;
use crate::spec::file;
use crate::spec::settings::{Redis as Settings, RedisTls};

/// How often a gateway says that it is there, and how long it counts after that, in seconds.
const MEET: (Duration, u32) = (Duration::from_secs(2), 7);

/// The wait after a failure, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Keys of one call of the script: Redis does nothing else meanwhile.
const AT_ONCE: usize = 128;

/// How long it takes to connect, at most, in times of an answer.
const PATIENCE: u32 = 10;

/// A Redis that gateways count together in.
#[derive(Debug)]
pub struct Redis {
    settings: Settings,
    /// Who we are there.
    id: String,
    settle: Script,
    meet: Script,
    session: AtomicU32,
    connection: Mutex<Option<MultiplexedConnection>>,
    lost: Notify,
    gateways: AtomicU32,
    error: Mutex<Option<String>>,
    exchanges: [AtomicU64; 2],
}

impl Redis {
    /// It is not contacted before [`Self::keep`].
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            id: format!("{:032x}", rand::random::<u128>()),
            settle: Script::new(include_str!("settle.lua")),
            meet: Script::new(include_str!("meet.lua")),
            session: AtomicU32::new(0),
            connection: Mutex::default(),
            lost: Notify::new(),
            gateways: AtomicU32::new(0),
            error: Mutex::default(),
            exchanges: Default::default(),
        }
    }

    /// Keeps a connection, for ever.
    pub async fn keep(self: Arc<Self>) {
        let (mut sessions, mut retry, mut said) = (0u32, RETRY.0, None::<String>);
        loop {
            let failure = match self.begin().await {
                Ok(()) => {
                    sessions = sessions.wrapping_add(1).max(1);
                    self.session.store(sessions, Relaxed);
                    *lock(&self.error) = None;
                    tracing::info!(address = self.place(), "counts together with other gateways in Redis");
                    (retry, said) = (RETRY.0, None);
                    self.stay().await
                }
                Err(failure) => failure,
            };
            self.lose(&failure);
            if said.as_ref() != Some(&failure) {
                let place = self.place();
                tracing::warn!(
                    address = place,
                    "Redis cannot be used: {failure}; limits of the fleet go on without it"
                );
                said = Some(failure);
            }
            sleep(retry.mul_f64(rand::random_range(0.5..1.0))).await;
            retry = (retry * 2).min(RETRY.1);
        }
    }

    /// Makes a connection, and says that we are there.
    async fn begin(&self) -> Result<(), String> {
        let patience = self.settings.timeout * PATIENCE;
        // Off the runtime, where a disk that hangs would keep others waiting.
        let settings = self.settings.clone();
        let client = timeout(patience, tokio::task::spawn_blocking(move || client(&settings))).await;
        let client = client.map_err(|_| format!("its files were not read within {patience:?}"))?;
        let client = client.map_err(|error| error.to_string())??;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(Some(self.settings.timeout));
        let connection = timeout(patience, client.get_multiplexed_async_connection_with_config(&config)).await;
        let connection = connection.map_err(|_| format!("no connection within {patience:?}"))?;
        *lock(&self.connection) = Some(connection.map_err(|error| text(&error))?);
        self.greet().await
    }

    /// Says that we are there, again and again, until that fails or somebody else does.
    async fn stay(&self) -> String {
        loop {
            tokio::select! {
                () = self.lost.notified() => {
                    // It may be an earlier connection's.
                    if self.session() == 0 {
                        return lock(&self.error).clone().unwrap_or_default();
                    }
                }
                () = sleep(MEET.0) => {}
            }
            if let Err(failure) = self.greet().await {
                return failure;
            }
        }
    }

    async fn greet(&self) -> Result<(), String> {
        let mut connection = self.connected().ok_or("no connection")?;
        let mut call = self.meet.key(format!("{}gateways", self.settings.prefix));
        let met = call.arg(&self.id).arg(MEET.1).invoke_async::<u32>(&mut connection).await;
        let met = met.map_err(|error| text(&error))?;
        self.gateways.store(met, Relaxed);
        Ok(())
    }

    fn connected(&self) -> Option<MultiplexedConnection> {
        lock(&self.connection).clone()
    }

    fn lose(&self, failure: &str) {
        self.session.store(0, Relaxed);
        *lock(&self.connection) = None;
        *lock(&self.error) = Some(failure.to_owned());
    }

    fn place(&self) -> String {
        let Settings { host, port, tls, .. } = &self.settings;
        format!("{}://{host}:{port}", if tls.is_some() { "rediss" } else { "redis" })
    }
}

#[async_trait]
impl Ledger for Redis {
    fn session(&self) -> u32 {
        self.session.load(Relaxed)
    }

    async fn settle(&self, limit: &Limit, asks: &[Ask]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(asks.len());
        let Some(mut connection) = self.connected() else { return answers };
        for asks in asks.chunks(AT_ONCE) {
            let mut call = self.settle.prepare_invoke();
            call.arg(limit.interval as f64 / 1000.0).arg(limit.burst);
            for ask in asks {
                let key = BASE64_URL_SAFE_NO_PAD.encode(ask.key.to_be_bytes());
                call.key(format!("{}limit:{}:{key}", self.settings.prefix, limit.name));
                call.arg(ask.charge).arg(ask.want);
            }
            let told = call.invoke_async::<Vec<(u32, f64)>>(&mut connection).await;
            let told = told.map_err(|error| text(&error)).and_then(|told| {
                if told.len() == asks.len() { Ok(told) } else { Err("the script's answer is cut off".to_owned()) }
            });
            match told {
                Ok(told) => {
                    self.exchanges[0].fetch_add(1, Relaxed);
                    answers.extend(told.into_iter().map(|(granted, ahead)| Answer {
                        granted,
                        // A float beyond what fits becomes the greatest number.
                        ahead: (ahead * 1000.0) as u64,
                    }));
                }
                Err(failure) => {
                    self.exchanges[1].fetch_add(1, Relaxed);
                    self.lose(&failure);
                    self.lost.notify_one();
                    return answers;
                }
            }
        }
        answers
    }

    fn standing(&self) -> Standing {
        Standing {
            place: self.place(),
            error: lock(&self.error).clone(),
            connected: self.session() != 0,
            gateways: self.gateways.load(Relaxed),
            exchanges: [0, 1].map(|index: usize| self.exchanges[index].load(Relaxed)),
        }
    }
}

/// Files are read again each time: what they hold may change.
fn client(settings: &Settings) -> Result<Client, String> {
    let Settings { host, port, database, user, password, password_file, tls, .. } = settings;
    let addr = match tls {
        None => ConnectionAddr::Tcp(host.clone(), *port),
        Some(_) => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
    };
    let mut who = RedisConnectionInfo::default().set_db(i64::from(*database)).set_skip_set_lib_name();
    if let Some(user) = user {
        who = who.set_username(user);
    }
    if let Some(password) = password {
        who = who.set_password(password.expose());
    }
    if let Some(path) = password_file {
        let content =
            file::read_text(path, file::MAX_SECRET_BYTES).map_err(|error| format!("{}: {error}", path.display()))?;
        who = who.set_password(content.trim_end_matches(['\n', '\r']));
    }
    let info = addr.into_connection_info().map_err(|error| text(&error))?.set_redis_settings(who);
    let client = match tls {
        None => Client::open(info),
        Some(tls) => Client::build_with_tls(info, certificates(tls)?),
    };
    client.map_err(|error| text(&error))
}

fn certificates(tls: &RedisTls) -> Result<TlsCertificates, String> {
    let read = |path: &std::path::Path| {
        file::read(path, file::MAX_ATTACHMENT_BYTES).map_err(|error| format!("{}: {error}", path.display()))
    };
    let identity = tls.identity.as_ref().map(|(certificate, key)| {
        Ok::<_, String>(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
    });
    Ok(TlsCertificates { client_tls: identity.transpose()?, root_cert: tls.ca.as_deref().map(read).transpose()? })
}

/// What Redis says, in one line.
fn text(error: &RedisError) -> String {
    plain(error.to_string().lines().next().unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
