//! Defines how an issuer's keys are had from its URL: read in the background, again every so often and when a token names
//! one that nobody knows, and kept while the issuer is down.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::reread::Reread;
use super::ring::Ring;
use crate::middleware::Trouble;
use crate::spec::cause::describe;

/// An issuer that does not answer is asked again after this, then less often, up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest pause between two tries to read.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest set that is read.
const LARGEST: usize = 1 << 20;

/// An issuer whose keys are read from a URL.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) url: String,
    pub(super) refresh: Duration,
    /// `None` before the first answer.
    ring: RwLock<Option<Arc<Ring>>>,
    /// Why the last read gave nothing.
    error: RwLock<Option<String>>,
    /// For keys that are not there.
    reread: Reread,
}

impl Issuer {
    /// Begins to read its keys, for as long as somebody has it.
    pub(super) fn new(url: &str, refresh: Duration) -> Arc<Self> {
        let issuer = Self {
            url: url.to_owned(),
            refresh,
            ring: RwLock::default(),
            error: RwLock::default(),
            reread: Reread::default(),
        };
        let issuer = Arc::new(issuer);
        // Where there is no runtime, nobody serves.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(follow(Arc::downgrade(&issuer)));
        }
        issuer
    }

    /// Its keys; `None` before they were read.
    pub(super) fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let error = self.error.read().unwrap_or_else(PoisonError::into_inner).clone();
        let refuses = self.ring().is_none();
        let text = match error {
            Some(error) if refuses => format!("no token can be checked: {} cannot be read: {error}", self.url),
            Some(error) => format!("{} cannot be read: {error}; the keys that were read before count", self.url),
            None if refuses => format!("{} was not read yet", self.url),
            None => return None,
        };
        Some(Trouble { text, refuses })
    }

    fn failed(&self, error: Option<String>) {
        *self.error.write().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// A token cannot be checked with the keys that are there, perhaps because they were exchanged: waits for them to be
    /// read again, for a second at most. `None` where they were not. `key` stands for the key that the token needs.
    pub(super) async fn reread(&self, key: u64) -> Option<Arc<Ring>> {
        if self.reread.wait(key).await { self.ring() } else { None }
    }

    /// What was read again did not help.
    pub(super) fn is_unknown(&self, key: u64) {
        self.reread.is_unknown(key);
    }
}

async fn follow(issuer: Weak<Issuer>) {
    let (mut retry, mut failing) = (FIRST_RETRY, false);
    loop {
        let Some(known) = issuer.upgrade() else { return };
        known.reread.begin();
        let outcome = read(&known.url).await;
        let next = match outcome {
            Ok(ring) => {
                *known.ring.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(ring));
                known.failed(None);
                if std::mem::take(&mut failing) {
                    tracing::info!(url = known.url, "the issuer's keys can be read again");
                }
                retry = FIRST_RETRY;
                known.refresh
            }
            Err(error) => {
                known.failed(Some(error.clone()));
                if !std::mem::replace(&mut failing, true) {
                    let meanwhile = match known.ring() {
                        Some(_) => "those that were read before count",
                        None => "no token can be checked until then",
                    };
                    tracing::warn!(url = known.url, "the issuer's keys cannot be read: {error}; {meanwhile}");
                }
                let next = retry;
                retry = (retry * 2).min(MAX_RETRY);
                next
            }
        };
        known.reread.end();
        let at = Instant::now() + next;
        // Whoever lets go of it ends this.
        loop {
            let is_wanted = timeout(Duration::from_secs(1), known.reread.wanted()).await.is_ok();
            if is_wanted {
                break;
            }
            if Instant::now() >= at {
                break;
            }
            if Arc::strong_count(&known) == 1 {
                return;
            }
        }
    }
}

async fn read(url: &str) -> Result<Ring, String> {
    let mut client = reqwest::Client::builder();
    if !url.starts_with("https://") {
        // A machine may have no certificates at all, which matters only to https.
        client = client.tls_certs_only([]);
    }
    let client = client.timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(|error| format!("no HTTP client: {error}"))?;
    let mut response = client.get(url).send().await.map_err(|error| describe(&error.without_url()))?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| describe(&error.without_url()))? {
        body.extend_from_slice(&piece);
        if body.len() > LARGEST {
            return Err(format!("its answer is larger than {LARGEST} bytes"));
        }
    }
    Ring::of_set(&body)
}
