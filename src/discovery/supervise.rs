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
    /// The credentials are accepted and do not suffice; waits as for [`Self::Unauthorised`].
    Denied,
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
    /// Wakes watches that wait after failures, each within a second: what they wait for answers again.
    pub answers_again: Arc<Notify>,
}

const BASE: Duration = Duration::from_millis(250);
const UNAUTHORISED_CAP: Duration = Duration::from_secs(60);
const REFUSED_WAIT: Duration = Duration::from_secs(60);
/// A session that lasted this long was healthy: the count of failures starts anew.
const HEALTHY: Duration = Duration::from_secs(30);
/// After a session longer than this the first retry is nearly immediate.
const ESTABLISHED: Duration = Duration::from_secs(10);

impl Backoff {
    /// Waits up to `cap`, and nobody wakes it.
    pub fn new(cap: Duration) -> Self {
        Self { cap, credentials_changed: Arc::default(), answers_again: Arc::default() }
    }

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
            ErrorKind::Unauthorised | ErrorKind::Denied => jittered(UNAUTHORISED_CAP),
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
    let mut said: Option<String> = None;
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
        if lasted > HEALTHY {
            (failures, said) = (0, None);
        }
        failures = failures.saturating_add(1);
        provider.updates.failed.fetch_add(1, Relaxed);
        let wait = backoff.wait(error.kind, failures, lasted);
        // Hundreds of watches fail together when a registry is down: what repeats itself is told once.
        if said.as_ref() == Some(&error.text) {
            tracing::debug!(provider = %provider.id(), watch = name, failures, retry_in = ?wait, "watch failed again");
        } else {
            tracing::warn!(provider = %provider.id(), watch = name, failures, retry_in = ?wait, "watch failed: {error}");
            said = Some(error.text.clone());
        }
        status.set_state(WatchState::Failing { failures, error: error.text });
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = credentials_changed, if matches!(error.kind, ErrorKind::Unauthorised | ErrorKind::Denied) => {}
            () = backoff.answers_again.notified(), if error.kind == ErrorKind::Failed => {
                let spread = wait.min(Duration::from_secs(1)).mul_f64(rand::rng().random_range(0.0..=1.0));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(spread) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::name::ProviderId;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_secs(30))
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

    /// Fails for ever, and counts.
    struct Fails(ErrorKind, Arc<std::sync::atomic::AtomicU32>);

    #[async_trait]
    impl Watch for Fails {
        async fn session(&mut self, _: &WatchStatus) -> WatchError {
            self.1.fetch_add(1, Relaxed);
            WatchError { kind: self.0, text: "no".to_owned() }
        }
    }

    /// Runs a watch that fails, wakes it, and waits until it has tried again.
    async fn tries_again(kind: ErrorKind, wake: impl Fn(&Backoff)) {
        let (sessions, shutdown, backoff) = (Arc::default(), CancellationToken::new(), backoff());
        let status = ProviderStatus::new(ProviderId::Consul);
        let watch = Fails(kind, Arc::clone(&sessions));
        let name = "consul:users".to_owned();
        let task = tokio::spawn(supervise(watch, name.clone(), Arc::clone(&status), backoff.clone(), shutdown.clone()));
        // Far into the back-off, where a wait is half a minute and longer.
        while sessions.load(Relaxed) < 30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (before, began) = (sessions.load(Relaxed), Instant::now());
        while sessions.load(Relaxed) == before {
            wake(&backoff);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
        shutdown.cancel();
        task.await.expect("ends at shutdown");
    }

    #[tokio::test(start_paused = true)]
    async fn new_credentials_wake_an_unauthorised_watch() {
        tries_again(ErrorKind::Unauthorised, |backoff| backoff.credentials_changed.notify_waiters()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_answers_again_wakes_a_failed_watch() {
        tries_again(ErrorKind::Failed, |backoff| backoff.answers_again.notify_waiters()).await;
    }
}
