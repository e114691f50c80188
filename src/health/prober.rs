//! Defines who is checked: one task for each endpoint of the snapshot whose upstream has a check.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::probe::{self, CheckError};
use super::threshold::Threshold;
use crate::snapshot::{Endpoint, EndpointState, Health, Secure, Snapshot, Upstream, UpstreamState};
use crate::spec::route::HostPolicy;
use crate::spec::upstream::{HealthCheck, Probe, Protocol};
use crate::telemetry::descriptors::Descriptors;

/// Checks that run at once, for the process.
const MOST_AT_ONCE: usize = 256;

/// Up to so many new endpoints are all checked at once; more are spread, a millisecond each.
const SPREAD_FROM: usize = 100;

/// Longest wait of a first check for its turn.
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

/// Who is held without a check of its upstream is used while it accepts connections.
const OF_HELD: HealthCheck = HealthCheck {
    probe: Probe::Tcp,
    interval: Duration::from_secs(2),
    timeout: Duration::from_secs(1),
    healthy_threshold: 1,
    unhealthy_threshold: 1,
};

/// Runs the checks that each snapshot asks for.
#[derive(Debug)]
pub struct Prober {
    /// By the address of the endpoint's state; the subject keeps the state alive, and so the address unique.
    checks: HashMap<usize, Running>,
    /// Of the snapshot adopted last, by slot: what is still the same object needs no look.
    upstreams: Arc<[Option<Arc<Upstream>>]>,
    permits: Arc<Semaphore>,
    flips: Arc<Notify>,
    descriptors: Arc<Descriptors>,
}

/// What is checked, and how.
#[derive(Clone, Debug)]
struct Subject {
    upstream: Arc<str>,
    upstream_state: Arc<UpstreamState>,
    state: Arc<EndpointState>,
    check: HealthCheck,
    secure: Option<Secure>,
    protocol: Protocol,
    flips: Arc<Notify>,
    descriptors: Arc<Descriptors>,
}

#[derive(Debug)]
struct Running {
    subject: Subject,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    /// A prober that checks nobody yet. At once it makes as many checks as a quarter of the descriptors in reserve allows.
    pub fn new(descriptors: &Arc<Descriptors>) -> Self {
        let reserve = usize::try_from(descriptors.division().reserve).unwrap_or(usize::MAX);
        let permits = Arc::new(Semaphore::new((reserve / 4).clamp(1, MOST_AT_ONCE)));
        let (flips, descriptors) = (Arc::default(), Arc::clone(descriptors));
        Self { checks: HashMap::new(), upstreams: Arc::from([]), permits, flips, descriptors }
    }

    /// Wakes one who waits whenever an endpoint's health flipped; what flipped is told by the upstreams' epochs.
    pub fn flips(&self) -> Arc<Notify> {
        Arc::clone(&self.flips)
    }

    /// Follows the snapshots until shutdown, or until nobody publishes any more.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, shutdown: CancellationToken) {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.adopt(&snapshot);
            drop(snapshot);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Starts, keeps and ends tasks. A task is kept while its endpoint's identity and its check are the same.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let upstreams = std::mem::replace(&mut self.upstreams, Arc::clone(&snapshot.upstreams));
        let mut new = Vec::new();
        for slot in 0..upstreams.len().max(snapshot.upstreams.len()) {
            let before = upstreams.get(slot).and_then(Option::as_ref);
            match (before, snapshot.upstream(slot)) {
                (Some(before), Some(now)) if Arc::ptr_eq(before, now) => {}
                (before, now) => self.adopt_upstream(before, now, &mut new),
            }
        }
        let spread = if new.len() > SPREAD_FROM {
            Duration::from_millis(new.len() as u64).min(LONGEST_SPREAD)
        } else {
            Duration::ZERO
        };
        for subject in new {
            let wait = spread.mul_f64(place(subject.state.address()));
            let task = tokio::spawn(subject.clone().follow(wait, Arc::clone(&self.permits)));
            self.checks.insert(Arc::as_ptr(&subject.state) as usize, Running { subject, task });
        }
    }

    /// Keeps and ends the tasks of what has a slot, and tells which are `new`.
    fn adopt_upstream(&mut self, before: Option<&Arc<Upstream>>, now: Option<&Arc<Upstream>>, new: &mut Vec<Subject>) {
        let key = |endpoint: &Endpoint| Arc::as_ptr(&endpoint.state) as usize;
        let former = before.iter().flat_map(|before| before.endpoints.iter()).map(key);
        let mut running: HashMap<usize, Running> =
            former.filter_map(|key| Some((key, self.checks.remove(&key)?))).collect();
        let Some(upstream) = now else { return };
        for endpoint in upstream.endpoints.iter() {
            let key = key(endpoint);
            let check = upstream.settings.health_check.as_ref().or(endpoint.held.then_some(&OF_HELD));
            let check = check.filter(|_| endpoint.prohibited.is_none());
            match (check, running.remove(&key)) {
                (Some(check), running) => {
                    let subject = Subject::new(upstream, endpoint, check, &self.flips, &self.descriptors);
                    match running.filter(|running| running.subject.checks_like(&subject)) {
                        Some(running) => {
                            self.checks.insert(key, running);
                        }
                        None => new.push(subject),
                    }
                }
                (None, Some(running)) => running.subject.forget(),
                (None, None) => {}
            }
        }
        // What is left of those running belongs to endpoints that are gone, and ends here.
    }
}

impl Subject {
    fn new(
        upstream: &Upstream,
        endpoint: &Endpoint,
        check: &HealthCheck,
        flips: &Arc<Notify>,
        descriptors: &Arc<Descriptors>,
    ) -> Self {
        let mut check = check.clone();
        if let Probe::Http { host: host @ None, .. } | Probe::Grpc { host: host @ None, .. } = &mut check.probe
            && let HostPolicy::Fixed(name) = &upstream.settings.host
        {
            *host = name.to_str().ok().map(str::to_owned);
        }
        Self {
            upstream: Arc::clone(&upstream.label),
            upstream_state: Arc::clone(&upstream.state),
            state: Arc::clone(&endpoint.state),
            check,
            secure: upstream.secure(endpoint),
            protocol: upstream.settings.protocol,
            flips: Arc::clone(flips),
            descriptors: Arc::clone(descriptors),
        }
    }

    fn checks_like(&self, other: &Self) -> bool {
        self.check == other.check && self.secure == other.secure && self.protocol == other.protocol
    }

    async fn follow(self, wait: Duration, permits: Arc<Semaphore>) {
        sleep(wait).await;
        self.check_again_and_again(permits, async |subject| {
            let Subject { check, state, secure, protocol, .. } = subject;
            probe::run(check, state.address(), secure.as_ref(), *protocol).await
        })
        .await;
    }

    /// Checks now and at every interval, and writes what it finds.
    async fn check_again_and_again(
        &self,
        permits: Arc<Semaphore>,
        probe: impl AsyncFn(&Self) -> Result<(), CheckError>,
    ) {
        let mut threshold = Threshold::new(self.check.healthy_threshold, self.check.unhealthy_threshold);
        loop {
            let (started, answer) = {
                // It is never closed; were it, checking without a permit is better than not checking.
                let _permit = permits.acquire().await;
                (Instant::now(), probe(self).await)
            };
            self.note(&mut threshold, answer);
            let jitter = rand::rng().random_range(0.9..=1.1);
            sleep_until(started + self.check.interval.mul_f64(jitter)).await;
        }
    }

    fn note(&self, threshold: &mut Threshold, answer: Result<(), CheckError>) {
        let failure = match answer {
            Ok(()) => None,
            Err(CheckError::Failed(failure)) => Some(failure),
            Err(CheckError::Unmade(why)) => {
                // Of all endpoints at once, mostly.
                if self.state.set_unmade_check(Some(why.clone())) && self.descriptors.is_to_be_told() {
                    let (upstream, endpoint) = (&*self.upstream, &**self.state.label());
                    tracing::warn!(upstream, endpoint, why, "active checks can't be made; endpoints stay as they are");
                }
                return;
            }
        };
        self.state.set_unmade_check(None);
        let flip = threshold.answer(self.state.health(), failure.is_none());
        // A failure is kept until the endpoint is healthy again: it tells why it is not.
        if failure.is_some() || flip == Some(Health::Healthy) || self.state.health() == Health::Healthy {
            self.state.set_last_failure(failure.clone());
        }
        let Some(health) = flip else { return };
        self.state.set_health(health);
        self.upstream_state.advance_epoch();
        self.flips.notify_one();
        let (upstream, endpoint) = (&*self.upstream, &**self.state.label());
        match failure {
            Some(reason) => tracing::warn!(upstream, endpoint, reason, "endpoint is unhealthy"),
            None => tracing::info!(upstream, endpoint, "endpoint is healthy"),
        }
    }

    /// The upstream has no check any more: what checks said is no longer true or false.
    fn forget(&self) {
        self.state.set_unmade_check(None);
        self.state.set_health(Health::Unknown);
        self.state.set_last_failure(None);
        self.upstream_state.advance_epoch();
        self.flips.notify_one();
    }
}

/// A place between 0 and 1, the same for an address in every process (FNV-1a).
fn place(address: SocketAddr) -> f64 {
    let hash = address
        .to_string()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    f64::from(hash) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
