//! Defines the only retry loop of discovery: it runs one watch, again and again, with back-off.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::status::{ProviderStatus, WatchState, WatchStatus};

/// Why a watch could not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct WatchError {
    /// What decides how long to wait.
    pub kind: ErrorKind,
    /// For the log and the status; never a secret.
    pub text: String,
}

/// Kinds of failure, by what they ask of the retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Transport, timeout, 5xx, an answer that is no answer.
    Failed,
    /// Told to slow down: at least this long.
    Throttled(Duration),
    /// The credentials are not accepted; waits up to 60 s, or until they change.
    Unauthorised,
    /// The request itself is refused; trying soon is pointless (60 s).
    Refused,
}

impl WatchError {
    /// A plain failure.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, text: text.into() }
    }
}

/// One watch. What it has learnt stays in it between sessions, so that a new session resumes.
#[async_trait]
pub trait Watch: Send {
    /// Connects, lists and watches until it fails, publishing as it learns and calling
    /// [`WatchStatus::confirmed`] for each authoritative answer.
    async fn session(&mut self, status: &WatchStatus) -> WatchError;
}

/// How a supervised watch waits.
#[derive(Clone)]
pub struct Backoff {
    /// Longest wait after failures: 30 s for Consul, 15 s for etcd.
    pub cap: Duration,
    /// Wakes a watch that waits because its credentials were refused.
    pub credentials_changed: Arc<Notify>,
}

const BASE: Duration = Duration::from_millis(250);
const UNAUTHORISED_CAP: Duration = Duration::from_secs(60);
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// A session that lasted this long was healthy: the count of failures starts anew.
const HEALTHY: Duration = Duration::from_secs(30);
/// After a session longer than this the first retry is nearly immediate.
const ESTABLISHED: Duration = Duration::from_secs(10);

impl Backoff {
    /// Full jitter: between 0 and `min(cap, 250 ms * 2^failures)`
    /// (AWS Architecture Blog, "Exponential Backoff And Jitter").
    fn wait(&self, kind: ErrorKind, failures: u32, lasted: Duration) -> Duration {
        let jittered = |cap: Duration| {
            let most = BASE.saturating_mul(1 << failures.min(16)).min(cap);
            most.mul_f64(rand::rng().random_range(0.0..=1.0))
        };
        match kind {
            ErrorKind::Failed if failures <= 1 && lasted > ESTABLISHED => jittered(Duration::from_millis(100)),
            ErrorKind::Failed => jittered(self.cap),
            ErrorKind::Throttled(least) => least.max(Duration::from_secs(1)) + jittered(self.cap),
            ErrorKind::Unauthorised => jittered(UNAUTHORISED_CAP),
            ErrorKind::Refused => around(REFUSED_WAIT, 0.2),
        }
    }
}

/// A time near `time`, by at most `share` of it either way: what all gateways do again they do apart.
pub fn around(time: Duration, share: f64) -> Duration {
    time.mul_f64(rand::rng().random_range(1.0 - share..=1.0 + share))
}

/// Runs a watch until shutdown. It never gives up.
pub async fn supervise(
    mut watch: impl Watch,
    name: String,
    provider: Arc<ProviderStatus>,
    backoff: Backoff,
    shutdown: CancellationToken,
) {
    let status = provider.watch(&name);
    let mut failures = 0u32;
    loop {
        status.session_begins();
        let began = Instant::now();
        // Registered before the session, so that credentials which change while it fails are not missed.
        let credentials_changed = backoff.credentials_changed.notified();
        tokio::pin!(credentials_changed);
        credentials_changed.as_mut().enable();
        let error = tokio::select! {
            () = shutdown.cancelled() => return,
            error = watch.session(&status) => error,
        };
        let lasted = began.elapsed();
        failures = if lasted > HEALTHY { 1 } else { failures.saturating_add(1) };
        provider.updates.failed.fetch_add(1, Relaxed);
        let wait = backoff.wait(error.kind, failures, lasted);
        tracing::warn!(provider = %provider.id(), watch = name, failures, retry_in = ?wait, "watch failed: {error}");
        status.set_state(WatchState::Failing { failures, error: error.text });
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = credentials_changed, if error.kind == ErrorKind::Unauthorised => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::name::ProviderId;

    fn backoff() -> Backoff {
        Backoff { cap: Duration::from_secs(30), credentials_changed: Arc::default() }
    }

    #[test]
    fn waits_grow_to_the_cap_and_jitter() {
        let backoff = backoff();
        for failures in 1..40 {
            let wait = backoff.wait(ErrorKind::Failed, failures, Duration::ZERO);
            assert!(wait <= Duration::from_secs(30).min(BASE * 2u32.saturating_pow(failures.min(16))), "{wait:?}");
        }
        assert!(backoff.wait(ErrorKind::Failed, 1, Duration::from_secs(60)) <= Duration::from_millis(100));
        assert!(
            backoff.wait(ErrorKind::Throttled(Duration::from_secs(7)), 1, Duration::ZERO) >= Duration::from_secs(7)
        );
    }

    struct Refused(Arc<std::sync::atomic::AtomicU32>);

    #[async_trait]
    impl Watch for Refused {
        async fn session(&mut self, _: &WatchStatus) -> WatchError {
            self.0.fetch_add(1, Relaxed);
            WatchError { kind: ErrorKind::Unauthorised, text: "403".to_owned() }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_credentials_wake_an_unauthorised_watch() {
        let (sessions, shutdown, backoff) = (Arc::default(), CancellationToken::new(), backoff());
        let status = ProviderStatus::new(ProviderId::Consul);
        let watch = Refused(Arc::clone(&sessions));
        let task = tokio::spawn(supervise(
            watch,
            "consul:users".to_owned(),
            Arc::clone(&status),
            backoff.clone(),
            shutdown.clone(),
        ));
        while status.watch("consul:users").state() == WatchState::Starting {
            tokio::task::yield_now().await;
        }
        let before = sessions.load(Relaxed);
        backoff.credentials_changed.notify_waiters();
        while sessions.load(Relaxed) == before {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        task.await.expect("ends at shutdown");
    }
}
