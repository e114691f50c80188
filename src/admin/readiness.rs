//! Defines when the gateway is ready: what was wanted at start is known, and was checked once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::snapshot::{EndpointState, Health, Snapshot};

/// Longest wait for first health checks once every source has answered.
const FIRST_CHECKS: Duration = Duration::from_secs(10);

/// Checks answer without a new snapshot; this often they are counted.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Most reasons told at once.
const MOST_REASONS: usize = 20;

/// Whether the gateway should get traffic. Once ready, only draining makes it unready again.
#[derive(Debug)]
pub struct Readiness(watch::Sender<Progress>);

/// Where the gateway stands on its way to readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// It should get traffic.
    pub ready: bool,
    /// It is stopping.
    pub draining: bool,
    /// Why it is not ready, for people.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Not ready.
    pub fn new() -> Arc<Self> {
        let reasons = vec![NOTHING_READ.to_owned()];
        Arc::new(Self(watch::Sender::new(Progress { reasons, ..Progress::default() })))
    }

    /// Where it stands now.
    pub fn progress(&self) -> Progress {
        self.0.borrow().clone()
    }

    /// Not ready from now on: the gateway stops.
    pub fn drain(&self) {
        self.0.send_replace(Progress { ready: false, draining: true, reasons: vec!["stopping".to_owned()] });
    }

    /// Waits until it is ready or draining.
    pub async fn settled(&self) {
        // The sender is `self`, so it can't be gone.
        let _ = self.0.subscribe().wait_for(|progress| progress.ready || progress.draining).await;
    }

    /// Follows the snapshots until it is ready. `limit`: ready after this time whatever endpoints are missing.
    pub async fn follow(&self, mut snapshots: watch::Receiver<Arc<Snapshot>>, limit: Option<Duration>) {
        let started = Instant::now();
        let mut answered = None::<Instant>;
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let mut reasons = unanswered(&snapshot);
            let is_closed = snapshot.is_closed();
            if reasons.is_empty() {
                let answered = *answered.get_or_insert_with(Instant::now);
                let unchecked = unchecked(&snapshot);
                if unchecked > 0 && answered.elapsed() < FIRST_CHECKS {
                    reasons.push(format!("{unchecked} endpoints wait for their first health check"));
                }
            }
            // Not for documents: a gateway that is closed answers nothing but 503.
            let waited = limit.is_some_and(|limit| started.elapsed() >= limit);
            if !reasons.is_empty() && waited && !is_closed {
                tracing::warn!(?reasons, "ready by runtime.ready_timeout, though endpoints are missing");
                reasons.clear();
            }
            drop(snapshot);
            self.0.send_if_modified(|progress| progress.advance(reasons));
            let progress = self.progress();
            if progress.ready || progress.draining {
                return;
            }
            tokio::select! {
                Ok(()) = snapshots.changed() => {}
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

const NOTHING_READ: &str = "no configuration was read yet";

impl Progress {
    /// Takes what is missing now; whether anything changed.
    fn advance(&mut self, mut missing: Vec<String>) -> bool {
        if self.ready || self.draining {
            return false;
        }
        if missing.len() > MOST_REASONS {
            let more = missing.len() - MOST_REASONS;
            missing.truncate(MOST_REASONS);
            missing.push(format!("and {more} more"));
        }
        let next = Self { ready: missing.is_empty(), draining: false, reasons: missing };
        let changed = *self != next;
        *self = next;
        changed
    }
}

/// What was wanted and has not answered; an empty answer is one.
fn unanswered(snapshot: &Snapshot) -> Vec<String> {
    if snapshot.generation == 0 {
        return vec![NOTHING_READ.to_owned()];
    }
    let sources = snapshot.upstreams().filter(|upstream| !upstream.known).map(|upstream| match &*upstream.sources {
        [_, ..] => format!("upstream {}: {} has not answered yet", upstream.label, upstream.source_text()),
        [] => format!("upstream {}: its host names are not resolved yet", upstream.label),
    });
    snapshot.report.closed_by().chain(sources).collect()
}

/// Endpoints whose first active check has not ended.
fn unchecked(snapshot: &Snapshot) -> usize {
    let checked = snapshot.upstreams().filter(|upstream| upstream.checked());
    let endpoints = checked.flat_map(|upstream| upstream.endpoints.iter());
    // A first check that failed leaves the health unknown, and its reason.
    let waits = |state: &EndpointState| state.health() == Health::Unknown && state.last_failure().is_none();
    endpoints.filter(|endpoint| waits(&endpoint.state)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::sample;
    use crate::spec::name::ProviderId;

    /// A readiness that follows what is published.
    fn following(limit: Option<Duration>) -> (Arc<Readiness>, watch::Sender<Arc<Snapshot>>) {
        let readiness = Readiness::new();
        let (publish, snapshots) = watch::channel(Arc::new(Snapshot::empty()));
        let follower = Arc::clone(&readiness);
        tokio::spawn(async move { follower.follow(snapshots, limit).await });
        (readiness, publish)
    }

    fn publish(sender: &watch::Sender<Arc<Snapshot>>, change: impl FnOnce(&mut sample::Picture)) {
        let mut picture = sample::Picture::default();
        change(&mut picture);
        sender.send_replace(Arc::new(picture.snapshot()));
    }

    #[tokio::test(start_paused = true)]
    async fn sources_are_waited_for_then_checks() {
        let (readiness, sender) = following(None);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(readiness.progress().reasons, ["no configuration was read yet"]);

        publish(&sender, |picture| {
            picture.known = false;
            picture.unread = vec![ProviderId::ConsulKv];
        });
        sleep(Duration::from_secs(3600)).await;
        let progress = readiness.progress();
        assert!(!progress.ready);
        assert_eq!(
            progress.reasons,
            ["consul-kv has not been read yet", "upstream users: consul:users has not answered yet"]
        );

        publish(&sender, |picture| picture.checked = true);
        sleep(Duration::from_secs(9)).await;
        assert_eq!(readiness.progress().reasons, ["2 endpoints wait for their first health check"]);
        sleep(Duration::from_secs(2)).await;
        assert!(readiness.progress().ready, "10 s is the longest wait for checks");

        publish(&sender, |picture| picture.known = false);
        sleep(Duration::from_secs(1)).await;
        assert!(readiness.progress().ready, "what comes later does not matter");
        readiness.drain();
        let progress = readiness.progress();
        assert!(!progress.ready && progress.draining);
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_check_counts_whatever_it_found() {
        let (readiness, sender) = following(None);
        let picture = sample::Picture { checked: true, ..sample::Picture::default() };
        let snapshot = Arc::new(picture.snapshot());
        sender.send_replace(Arc::clone(&snapshot));
        sleep(Duration::from_secs(1)).await;
        assert!(!readiness.progress().ready);
        let upstream = snapshot.upstreams().next().expect("an upstream");
        upstream.endpoints[0].state.set_health(Health::Healthy);
        upstream.endpoints[1].state.set_last_failure(Some("refused".to_owned()));
        readiness.settled().await;
        assert!(readiness.progress().ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_ends_the_wait_for_endpoints() {
        let (readiness, sender) = following(Some(Duration::from_secs(60)));
        publish(&sender, |picture| picture.known = false);
        sleep(Duration::from_secs(59)).await;
        assert!(!readiness.progress().ready);
        sleep(Duration::from_secs(2)).await;
        assert!(readiness.progress().ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_does_not_end_the_wait_for_documents() {
        let (readiness, sender) = following(Some(Duration::from_secs(60)));
        sleep(Duration::from_secs(120)).await;
        assert!(!readiness.progress().ready, "nothing was read");
        publish(&sender, |picture| picture.unread = vec![ProviderId::Etcd]);
        sleep(Duration::from_secs(120)).await;
        assert_eq!(readiness.progress().reasons, ["etcd has not been read yet"]);
        publish(&sender, |picture| picture.known = false);
        sleep(Duration::from_secs(1)).await;
        assert!(readiness.progress().ready, "the limit is over for endpoints");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_before_readiness_is_final() {
        let (readiness, sender) = following(None);
        readiness.drain();
        publish(&sender, |_| {});
        sleep(Duration::from_secs(60)).await;
        assert!(!readiness.progress().ready);
    }
}
