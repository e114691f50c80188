//! Defines what was applied, when and why: every change since the start, and those of earlier processes that were read
//! back, as far as the memory for it reaches.
//!
//! Control writes it, by comparing what it publishes with what was told last ([`diff`], [`trouble`]); flips of health
//! are found when health says that there are some. Readers copy pointers under a lock that nobody holds for long,
//! and no worker ever takes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::command::Command;
use super::guard::Release;
use crate::discovery::state::ProviderState;
use crate::snapshot::Snapshot;
use crate::spec::endpoint::Address;
use crate::spec::name::ProviderId;
use crate::telemetry::audit::{AuditLog, EventLog};

mod at;
mod diff;
mod event;
pub mod former;
mod time;
mod trouble;

pub use at::{Past, Stood};
pub use diff::IndexOf;
pub use event::{Change, Event, Facts, Shape, What};
pub use former::Former;
pub use time::{Moment, moment};

/// Events kept; older ones go.
const MOST_EVENTS: usize = 20_000;
/// Bytes they may take, roughly.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Who may wait for the next event at once.
const MOST_FOLLOWERS: usize = 32;
/// Flips that come within this time are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);

/// Flips that workers bring about are looked for so often.
const FLIPS_OF_WORKERS: Duration = Duration::from_secs(1);

/// The changes so far. Shared by who writes and who reads.
pub struct History {
    kept: Mutex<Kept>,
    last: watch::Sender<u64>,
    index_of: Box<IndexOf>,
    followers: Semaphore,
    started_at: SystemTime,
    /// The gateway stops: nobody waits any longer.
    ended: CancellationToken,
    /// Where applied documents are told, too.
    audit: OnceLock<Arc<AuditLog>>,
    /// Where every event is told, too.
    file: OnceLock<Arc<EventLog>>,
}

struct Kept {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    dropped: u64,
    damaged: u64,
    next_id: u64,
    picture: diff::Picture,
    rejected: trouble::Rejected,
    waiting: trouble::Waiting,
    diagnosed: trouble::Diagnosed,
    failing: trouble::Failing,
}

/// Which events somebody asks for; all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this upstream, its endpoints and the watch of its source.
    pub upstream: Option<String>,
    /// Of this route.
    pub route: Option<String>,
    /// Brought by this provider.
    pub provider: Option<ProviderId>,
    /// Not before.
    pub since: Option<SystemTime>,
    /// With a greater id.
    pub after: Option<u64>,
}

/// Some events.
#[derive(Debug, Serialize)]
pub struct Page {
    /// Of the snapshot told last.
    pub generation: u64,
    /// Oldest first.
    pub items: Vec<Arc<Event>>,
    /// The `after` that continues here.
    pub next: u64,
    /// Whether more of them are there already.
    pub more: bool,
    /// Events that had to go, the oldest first, to keep the memory bounded.
    pub dropped: u64,
    /// Lines of the file of events that could not be read back.
    pub damaged: u64,
}

/// As many follow already as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_FOLLOWERS} follow the events already; try again later")]
pub struct TooMany;

impl History {
    /// An empty history. `index_of` tells indexes and revisions; `ended` ends all waiting.
    pub fn new(index_of: Box<IndexOf>, ended: CancellationToken) -> Arc<Self> {
        Self::resuming(Former::default(), index_of, ended)
    }

    /// As [`Self::new`], with what earlier processes wrote.
    pub fn resuming(former: Former, index_of: Box<IndexOf>, ended: CancellationToken) -> Arc<Self> {
        let started_at = SystemTime::now();
        // A thousand a millisecond: after a restart ids go on above those of before.
        let next_id = started_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let last_id = former.events.last().map_or(0, |last| last.id);
        let next_id = u64::try_from(next_id).unwrap_or(0).max(last_id + 1);
        let mut kept = Kept {
            events: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            damaged: former.damaged,
            next_id,
            picture: diff::Picture::default(),
            rejected: trouble::Rejected::default(),
            waiting: trouble::Waiting::default(),
            diagnosed: trouble::Diagnosed::default(),
            failing: trouble::Failing::default(),
        };
        former.events.into_iter().for_each(|event| kept.keep(event));
        Arc::new(Self {
            kept: Mutex::new(kept),
            last: watch::Sender::new(next_id - 1),
            index_of,
            followers: Semaphore::new(MOST_FOLLOWERS),
            started_at,
            ended,
            audit: OnceLock::new(),
            file: OnceLock::new(),
        })
    }

    /// From now on starts, stops and applied documents stand in the audit log, too.
    pub fn audited(&self, log: Arc<AuditLog>) {
        // It is told once.
        let _ = self.audit.set(log);
    }

    /// From now on events are written to a file, too.
    pub fn written_to(&self, file: Arc<EventLog>) {
        // It is told once.
        let _ = self.file.set(file);
    }

    /// Notes that the gateway starts: what was before is an earlier process's.
    pub fn starts(&self) {
        let cause = concat!("the gateway starts, version ", env!("CARGO_PKG_VERSION"));
        self.record(&mut self.kept(), vec![Change::new(What::GatewayStarted, cause)]);
    }

    /// Notes that the gateway stops.
    pub fn stops(&self) {
        self.record(&mut self.kept(), vec![Change::new(What::GatewayStopped, "the gateway stops")]);
    }

    /// Notes what a snapshot changes, and flips of health since the last look.
    pub fn observe(&self, snapshot: &Snapshot) {
        let mut kept = self.kept();
        let mut changes = kept.picture.observe(snapshot, &*self.index_of);
        let diagnosed = kept.diagnosed.observe(&snapshot.report).into_iter().map(|change| Change {
            index: change.provider.and_then(|provider| (self.index_of)(provider, None)),
            ..change
        });
        changes.extend(diagnosed);
        self.record(&mut kept, changes);
    }

    /// Notes what documents and registrations are rejected, and which no longer.
    pub(super) fn documents(&self, states: &BTreeMap<ProviderId, Arc<ProviderState>>) {
        let mut kept = self.kept();
        let mut changes = kept.rejected.observe(states);
        changes.extend(kept.waiting.observe(states));
        for change in &mut changes {
            change.index = change.provider.and_then(|provider| (self.index_of)(provider, None));
        }
        self.record(&mut kept, changes);
    }

    /// Notes what is held no longer because another service lists its address.
    pub(super) fn released(&self, releases: Vec<Release>) {
        let change = |Release { address, from, to }: Release| Change {
            provider: Some(from.provider()),
            source: Some(from.to_string().into()),
            index: (self.index_of)(to.provider(), Some(&to)),
            endpoint: match &address {
                Address::Ip(address) => Some(*address),
                Address::Name { .. } => None,
            },
            ..Change::new(What::EndpointReleased, format!("{address} of {from} is held no longer: {to} lists it"))
        };
        self.record(&mut self.kept(), releases.into_iter().map(change).collect());
    }

    /// Notes which of a provider's watches fail, and what went wrong.
    pub fn watches(&self, provider: ProviderId, failing: BTreeMap<String, String>) {
        let mut kept = self.kept();
        let changes = kept.failing.observe(provider, failing);
        self.record(&mut kept, changes);
    }

    /// Notes what an operator said, and what was done.
    pub(super) fn command(&self, command: &Command, done: &str) {
        let mut change = Change::new(What::Command, format!("{done}, says an operator"));
        match command {
            Command::Drain(place) | Command::Undrain(place) => {
                (change.upstream, change.endpoint) = (Some(Arc::clone(&place.upstream)), Some(place.address));
            }
            Command::Accept(acceptance) => match acceptance.target.parse() {
                Ok(provider) => change.provider = Some(provider),
                Err(_) => change.source = Some(Arc::clone(&acceptance.target)),
            },
        }
        self.record(&mut self.kept(), vec![change]);
    }

    /// Looks for flips of health whenever checks found some, and for those that requests brought about again and again,
    /// until the end.
    pub async fn follow_health(&self, flips: Arc<Notify>, snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            tokio::select! {
                () = self.ended.cancelled() => return,
                () = flips.notified() => tokio::time::sleep(TOGETHER).await,
                // Workers wake nobody.
                () = tokio::time::sleep(FLIPS_OF_WORKERS) => {}
            }
            let snapshot = Arc::clone(&snapshots.borrow());
            self.observe(&snapshot);
        }
    }

    /// The events asked for: after an id or since a time the oldest ones, else the newest.
    pub fn select(&self, filter: &Filter, limit: usize) -> Page {
        self.kept().select(filter, limit)
    }

    /// As [`History::select`], but waits until there is at least one, for at most `patience`.
    ///
    /// # Errors
    /// When as many wait already as may.
    pub async fn wait(&self, filter: &Filter, limit: usize, patience: Duration) -> Result<Page, TooMany> {
        let _permit = self.followers.try_acquire().map_err(|_| TooMany)?;
        let deadline = tokio::time::Instant::now() + patience;
        let mut last = self.last.subscribe();
        loop {
            last.borrow_and_update();
            let page = self.select(filter, limit);
            if !page.items.is_empty() {
                return Ok(page);
            }
            tokio::select! {
                () = self.ended.cancelled() => return Ok(page),
                () = tokio::time::sleep_until(deadline) => return Ok(page),
                // The sender is ours: it lives.
                _ = last.changed() => {}
            }
        }
    }

    /// How endpoints stood at a time, and why; of one upstream, or of all.
    pub fn at(&self, time: SystemTime, upstream: Option<&str>) -> Past {
        at::past(&self.kept(), time, upstream, self.started_at)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, kept: &mut Kept, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let now = SystemTime::now();
        for change in changes {
            let is_document = change.event.is_of_document();
            kept.push(change, now);
            if let (Some(file), Some(event)) = (self.file.get(), kept.events.back()) {
                file.add(&**event);
            }
            if let (true, Some(log), Some(event)) = (is_document, self.audit.get(), kept.events.back()) {
                let Event { id, generation, change, .. } = &**event;
                log.add("document", &Told { id: *id, generation: *generation, change });
            }
        }
        self.last.send_replace(kept.next_id - 1);
    }
}

/// An event without its time, which an audit line has already.
#[derive(Serialize)]
struct Told<'e> {
    id: u64,
    generation: u64,
    #[serde(flatten)]
    change: &'e Change,
}

impl Kept {
    fn push(&mut self, change: Change, time: SystemTime) {
        let (id, generation) = (self.next_id, self.picture.generation);
        self.next_id += 1;
        self.keep(Event { id, time, generation, change });
    }

    fn keep(&mut self, event: Event) {
        self.bytes += event.change.size();
        self.events.push_back(Arc::new(event));
        while self.events.len() > MOST_EVENTS || self.bytes > MOST_BYTES && self.events.len() > 1 {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.change.size());
            self.dropped += 1;
        }
    }

    fn select(&self, filter: &Filter, limit: usize) -> Page {
        let first = filter.after.map_or(0, |after| self.events.partition_point(|event| event.id <= after));
        let sources = filter.upstream.as_deref().map(|label| self.sources_of(label)).unwrap_or_default();
        let wanted = self.events.range(first..).filter(|event| filter.takes(event, &sources));
        let mut items: Vec<Arc<Event>>;
        let mut more = false;
        if filter.after.is_some() || filter.since.is_some() {
            items = wanted.take(limit + 1).cloned().collect();
            more = items.len() > limit;
            items.truncate(limit);
        } else {
            items = wanted.rev().take(limit).cloned().collect();
            items.reverse();
        }
        let next = match items.last() {
            Some(last) if more => last.id,
            _ => self.next_id - 1,
        };
        Page { generation: self.picture.generation, items, next, more, dropped: self.dropped, damaged: self.damaged }
    }

    fn sources_of(&self, label: &str) -> Vec<String> {
        let sources = self.picture.upstreams.get(label).map(|known| &known.upstream.sources);
        sources.into_iter().flat_map(|sources| sources.iter()).map(ToString::to_string).collect()
    }
}

impl Filter {
    /// `sources`: those of the upstream asked for.
    fn takes(&self, event: &Event, sources: &[String]) -> bool {
        let change = &event.change;
        let is = |wanted: &Option<String>, has: &Option<Arc<str>>| {
            wanted.as_deref().is_none_or(|wanted| has.as_deref() == Some(wanted))
        };
        let is_its_own = |source: &Arc<str>| sources.iter().any(|own| **own == **source);
        let of_watch = change.upstream.is_none() && change.source.as_ref().is_some_and(is_its_own);
        (is(&self.upstream, &change.upstream) || of_watch)
            && is(&self.route, &change.route)
            && self.provider.is_none_or(|wanted| change.provider == Some(wanted))
            && self.since.is_none_or(|since| event.time >= since)
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("events", &self.kept().events.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
