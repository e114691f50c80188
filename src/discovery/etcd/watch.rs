//! Defines the watch of one range of keys: list, watch from the next revision, resume, verify.
//!
//! A session opens a stream at the mirror's next revision and follows it; without one, and where a stream
//! can't be continued, it lists first. What reads on the side (verifying a removal, counting, listing again)
//! runs beside the stream, on another member where there is one, so that a change never waits for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{ResponseHeader, WatchOptions, WatchResponse, WatchStream};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::failure::Failure;
use super::known::Known;
use super::layout::KeyRange;
use super::list::{Counted, DECODE_LIMIT, Listed};
use super::members::{Connection, Members, TIMEOUT};
use super::mirror::{Event, Held, Outcome};
use super::rights::Needs;
use crate::discovery::Publisher;
use crate::discovery::status::{WatchState, WatchStatus};
use crate::discovery::supervise::{ErrorKind, Watch, WatchError, around};
use crate::spec::hold::HeldPart;

/// A stream this long without a message is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(15);
/// How long it has to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two counts on another member, which show that nothing was missed.
const PROBE: Duration = Duration::from_secs(30);
/// After a count that is not ours, and after a stream was resumed.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two complete lists on the side: etcd has had bugs that lost events (its changelogs tell).
const RESYNC: Duration = Duration::from_secs(300);
/// After an interruption this long a list is cheaper than the history.
const OUTAGE: Duration = Duration::from_secs(60);
/// Lists in one session; more than these mean that something is wrong, and back-off belongs to the retry loop.
const LISTS: u32 = 3;
/// Messages applied before publishing, where more are there already.
const DRAIN: usize = 64;

/// Watches one range.
pub(super) struct RangeWatch {
    members: Arc<Members>,
    publisher: Publisher,
    range: KeyRange,
    known: Arc<Known>,
    /// The next session begins with a list.
    list_first: bool,
    /// When the last session ended.
    broke_at: Option<Instant>,
    /// What operators accept.
    accepts: tokio::sync::broadcast::Receiver<HeldPart>,
    needs: Needs,
    /// Why the range may not be read.
    lacks: Option<Arc<str>>,
    /// That it may not may have been published, by this watch or by another of the same source.
    told_right: bool,
}

/// A read beside the stream, and the mirror's revision when it was begun.
enum Side {
    List(Box<Result<Listed, WatchError>>, i64),
    /// Of the keys of this pool alone.
    Pool(Box<Result<Listed, WatchError>>, i64, Vec<u8>),
    Count(Result<Counted, WatchError>, i64),
}

impl Side {
    /// Which etcd cluster answered, and which of its members; 0 for none.
    fn of(&self) -> (u64, usize) {
        match self {
            Self::List(listed, _) | Self::Pool(listed, _, _) => {
                listed.as_ref().as_ref().map_or((0, 0), |it| (it.listing.cluster, it.connection.member))
            }
            Self::Count(counted, _) => counted.as_ref().map_or((0, 0), |it| (it.cluster, it.member)),
        }
    }
}

/// When what is due.
struct Schedule {
    heard_at: Instant,
    asked: bool,
    probe_at: Instant,
    /// The last count was not ours.
    differed: bool,
    resync_at: Instant,
    verify_at: Option<Instant>,
    verifications: u32,
}

#[async_trait]
impl Watch for RangeWatch {
    async fn session(&mut self, status: &WatchStatus) -> WatchError {
        let Err(error) = self.run(status).await;
        if matches!(error.kind, ErrorKind::Unauthorised | ErrorKind::Denied) {
            self.publish_right(Some(&error.text));
        }
        self.broke_at = Some(Instant::now());
        error
    }
}

impl RangeWatch {
    /// A watch that begins with a list.
    pub(super) fn new(members: Arc<Members>, publisher: Publisher, range: KeyRange, known: Arc<Known>) -> Self {
        let accepts = publisher.accepted();
        let needs = members.rights.needs(&range);
        let (list_first, broke_at) = (true, None);
        Self { members, publisher, range, known, list_first, broke_at, accepts, needs, lacks: None, told_right: true }
    }

    async fn run(&mut self, status: &WatchStatus) -> Result<Infallible, WatchError> {
        let mut connection = self.members.connect(self.members.preferred()).await?;
        if self.broke_at.is_some_and(|at| at.elapsed() > OUTAGE) {
            self.list_first = true;
        }
        let mut lists = 0;
        loop {
            if self.list_first {
                lists += 1;
                if lists > LISTS {
                    return Err(WatchError::failed(format!("{}: the watch does not follow the list", connection.url)));
                }
                connection = self.list(&connection, status).await?;
            }
            match self.follow(&connection, lists == 0, status).await {
                Failure::Compacted(reason) => {
                    tracing::info!(range = %self.range, url = %connection.url, "listing again: {reason}");
                    self.list_first = true;
                }
                Failure::Token(reason) => {
                    connection = self.members.refresh(&connection, &reason).await?;
                    self.list_first = true;
                }
                failure => return Err(self.members.give_up(&connection, failure).await),
            }
        }
    }

    async fn list(&mut self, connection: &Connection, status: &WatchStatus) -> Result<Connection, WatchError> {
        let floor = self.known.revision();
        let Listed { listing, asked_at, connection } = self.members.list(connection.member, &self.range).await?;
        self.publisher.status().cost.answered(listing.size());
        let mut outcome = self.known.lock().adopt(listing, floor);
        let revision = u64::try_from(self.known.revision()).unwrap_or(0);
        // An earlier process has seen more of this store than there is.
        outcome.regressed |= floor == 0 && revision < status.index();
        self.list_first = false;
        status.set_index(revision);
        self.confirm(asked_at, status);
        self.publish(&outcome, true);
        if self.known.denied.send_replace(false) {
            tracing::info!(range = %self.range, "may be read as a whole again");
        }
        Ok(connection)
    }

    /// Follows the stream until it fails. `resumed`: it goes on from what was known, without a list.
    async fn follow(&mut self, connection: &Connection, resumed: bool, status: &WatchStatus) -> Failure {
        let mut stream = match self.open(connection).await {
            Ok(stream) => stream,
            Err(failure) => return failure,
        };
        // What a session before was told is answered by this one having begun.
        self.look_at_rights(status);
        let now = Instant::now();
        let mut schedule = Schedule {
            heard_at: now,
            asked: false,
            // A stream that was opened says nothing about a leader; a count does.
            probe_at: if resumed { now } else { now + around(PROBE, 0.2) },
            differed: false,
            // A store that was put back to a backup and has overtaken us since looks like the one we knew: only what
            // it has tells. What we missed comes first.
            resync_at: now + if resumed { around(AGAIN, 0.5) } else { around(RESYNC, 0.2) },
            verify_at: None,
            verifications: 0,
        };
        let mut side: Option<BoxFuture<'static, Side>> = None;
        loop {
            match (self.known.holds(), schedule.verify_at) {
                (true, None) => schedule.verify_at = Some(Instant::now()),
                (false, Some(_)) => schedule.verified(false),
                _ => {}
            }
            if side.is_none() {
                side = self.next_side(connection, &mut schedule);
            }
            tokio::select! {
                message = stream.message() => {
                    schedule.heard();
                    if let Some(failure) = self.take(message, &mut stream, status) {
                        return failure;
                    }
                }
                read = pending(&mut side) => {
                    side = None;
                    if let Some(failure) = self.settle(read, connection, &mut schedule, status) {
                        return failure;
                    }
                }
                () = sleep_until(schedule.silence_ends()) => {
                    if schedule.asked {
                        return Failure::Lost("the watch is silent".to_owned());
                    }
                    schedule.asked = true;
                    if timeout(ANSWER, stream.request_progress()).await.is_err() {
                        return Failure::Lost("the watch takes no request".to_owned());
                    }
                }
                () = sleep_until(schedule.side_at()), if side.is_none() => {}
                () = self.known.joined.notified() => {}
                () = self.needs.changed() => {
                    if self.look_at_rights(status) {
                        schedule.probe_at = Instant::now();
                        schedule.verify_at = schedule.verify_at.map(|_| Instant::now());
                    }
                }
                Ok(part) = self.accepts.recv() => {
                    let mut inside = self.known.lock();
                    let released = inside.release(&part);
                    if !released.is_empty() {
                        inside.publish(Some(&released), &self.publisher);
                    }
                }
            }
        }
    }

    /// An answer confirmed what is known. While the range may not be read, a stream that was opened before goes on all the
    /// same, and says nothing about that.
    fn confirm(&mut self, at: Instant, status: &WatchStatus) {
        if self.lacks.is_none() {
            self.publish_right(None);
            status.confirmed(at);
        }
    }

    fn publish_right(&mut self, missing: Option<&str>) {
        if missing.is_some() || self.told_right {
            let scopes = self.known.lock().view.scopes(&self.range);
            scopes.iter().for_each(|scope| self.publisher.missing_right(scope, missing));
            self.told_right = missing.is_some();
        }
    }

    /// Takes what a look at our rights found. Whether the range may be read again.
    fn look_at_rights(&mut self, status: &WatchStatus) -> bool {
        let lacks = self.needs.lacks();
        let returned = self.lacks.is_some() && lacks.is_none();
        if let Some(lacks) = lacks.as_ref().filter(|_| lacks != self.lacks) {
            self.publish_right(Some(lacks));
            status.set_state(WatchState::Failing { failures: 1, error: lacks.to_string() });
        }
        self.lacks = lacks;
        returned
    }

    /// Opens a stream at the mirror's next revision. A watch at a revision the store has not reached is
    /// accepted and silent, so the answer's own revision tells whether this is still the store we know.
    async fn open(&self, connection: &Connection) -> Result<WatchStream, Failure> {
        let next = self.known.lock().mirror.next();
        let options = WatchOptions::new()
            .with_range(self.range.end.clone())
            .with_start_revision(next)
            .with_progress_notify()
            .with_fragment();
        let mut client = connection.client.watch_client().max_decoding_message_size(DECODE_LIMIT);
        let opening = async {
            let mut stream = client.watch(self.range.start.clone(), Some(options)).await?;
            let first = stream.message().await?;
            Ok::<_, Failure>((stream, first))
        };
        let (stream, first) = match timeout(TIMEOUT, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Err(Failure::Lost("the watch was not created in 10 s".to_owned())),
        };
        let Some(first) = first else { return Err(Failure::Lost("the watch ended".to_owned())) };
        if first.canceled() {
            return Err(Failure::of_cancelled(first.compact_revision(), first.cancel_reason()));
        }
        let revision = first.header().map_or(0, ResponseHeader::revision);
        if self.known.is_foreign(first.header().map_or(0, ResponseHeader::cluster_id)) {
            return Err(Failure::Compacted("another etcd cluster answers".to_owned()));
        }
        let known = self.known.revision();
        if revision < known {
            return Err(Failure::Compacted(format!("the store is at revision {revision}, we were at {known}")));
        }
        Ok(stream)
    }

    /// Takes a message, and those that are there already; publishes once.
    fn take(
        &mut self,
        first: Result<Option<WatchResponse>, etcd_client::Error>,
        stream: &mut WatchStream,
        status: &WatchStatus,
    ) -> Option<Failure> {
        let mut events = Vec::new();
        let mut message = Some(first);
        let mut failure = None;
        let mut taken = 0;
        while let Some(came) = message {
            match came {
                Err(error) => failure = Some(Failure::from(error)),
                Ok(None) => failure = Some(Failure::Lost("the watch ended".to_owned())),
                Ok(Some(message)) if message.canceled() => {
                    failure = Some(Failure::of_cancelled(message.compact_revision(), message.cancel_reason()));
                }
                Ok(Some(message)) => {
                    let more = events_of(&message);
                    let cost = &self.publisher.status().cost;
                    cost.answered(more.iter().map(Event::size).sum());
                    cost.wakeups.fetch_add(1, Relaxed);
                    events.extend(more.into_iter().filter(|event| self.range.has(&event.key)));
                }
            }
            taken += 1;
            // What is fetched here must be taken: nobody gets it again.
            let goes_on = failure.is_none() && taken < DRAIN;
            message = if goes_on { stream.message().now_or_never() } else { None };
        }
        if !events.is_empty() {
            let outcome = self.known.lock().apply(events);
            status.set_index(u64::try_from(self.known.revision()).unwrap_or(0));
            self.confirm(Instant::now(), status);
            self.publish(&outcome, false);
        }
        failure
    }

    fn publish(&self, outcome: &Outcome, first: bool) {
        for Held { pool, danger, count } in &outcome.held {
            self.publisher.status().updates.held.fetch_add(u64::try_from(*count).unwrap_or(u64::MAX), Relaxed);
            let range = if pool.is_empty() { self.range.start.as_slice() } else { pool.as_slice() };
            let range = String::from_utf8_lossy(range);
            tracing::warn!(%range, count, "holding back a removal until a second read confirms it: {danger}");
        }
        if outcome.foreign {
            tracing::warn!(range = %self.range, "another etcd cluster answers");
            self.publisher.other_servers();
        } else if outcome.regressed {
            tracing::warn!(range = %self.range, "etcd's revision went back: it was restored or wiped");
            self.publisher.regressed();
        }
        let all = first || outcome.regressed;
        if all || !outcome.changed.is_empty() {
            self.known.lock().publish((!all).then_some(&outcome.changed), &self.publisher);
        }
    }

    /// The read that is due, begun on the next member.
    fn next_side(&self, connection: &Connection, schedule: &mut Schedule) -> Option<BoxFuture<'static, Side>> {
        let now = Instant::now();
        let floor = self.known.revision();
        let (members, range) = (Arc::clone(&self.members), self.range.clone());
        if schedule.verify_at.is_some_and(|at| at <= now) {
            let step = usize::try_from(schedule.verifications).unwrap_or(0) + 1;
            let member = members.after(connection.member, step);
            // Where one of many pools is in doubt, its own keys tell; what they leave in doubt, a list of all tells.
            let first = schedule.verifications == 0;
            let pool = self.known.lock().mirror.only_held().filter(|_| first).map(<[u8]>::to_vec);
            if let Some(pool) = pool {
                let range = KeyRange::of_prefix(&String::from_utf8_lossy(&pool));
                return Some(
                    async move { Side::Pool(Box::new(members.list(member, &range).await), floor, pool) }.boxed(),
                );
            }
            Some(async move { Side::List(Box::new(members.list(member, &range).await), floor) }.boxed())
        } else if schedule.resync_at <= now {
            let member = members.after(connection.member, 1);
            Some(async move { Side::List(Box::new(members.list(member, &range).await), floor) }.boxed())
        } else if schedule.probe_at <= now {
            let member = members.after(connection.member, 1);
            Some(async move { Side::Count(members.count(member, &range).await, floor) }.boxed())
        } else {
            None
        }
    }

    /// Takes what was read on the side.
    fn settle(
        &mut self,
        read: Side,
        connection: &Connection,
        schedule: &mut Schedule,
        status: &WatchStatus,
    ) -> Option<Failure> {
        let now = Instant::now();
        let (cluster, member) = read.of();
        if self.known.is_foreign(cluster) {
            if member == connection.member {
                return Some(Failure::Lost("another etcd cluster answers".to_owned()));
            }
            tracing::warn!(range = %self.range, "an endpoint of `discovery.etcd` is of another etcd cluster");
            (schedule.probe_at, schedule.resync_at) = (now + around(PROBE, 0.2), now + around(RESYNC, 0.2));
            schedule.verified(self.known.holds());
            return None;
        }
        match read {
            Side::List(listed, floor) => match *listed {
                Ok(Listed { listing, asked_at, .. }) => {
                    self.publisher.status().cost.answered(listing.size());
                    let outcome = self.known.lock().adopt(listing, floor);
                    self.publish(&outcome, false);
                    if outcome.regressed {
                        // The stream watches revisions of a store that is no more.
                        return Some(Failure::Compacted("the store went back".to_owned()));
                    }
                    if outcome.outdated {
                        schedule.resync_at = now + around(SILENCE, 0.2);
                    } else {
                        self.confirm(asked_at, status);
                        schedule.resync_at = now + around(RESYNC, 0.2);
                        schedule.probe_at = now + around(PROBE, 0.2);
                    }
                    schedule.verified(self.known.holds());
                }
                Err(error) => {
                    tracing::warn!(range = %self.range, "a read on the side failed: {error}");
                    schedule.resync_at = schedule.resync_at.max(now + around(SILENCE, 0.2));
                    schedule.verified(self.known.holds());
                }
            },
            Side::Pool(listed, floor, pool) => {
                match *listed {
                    Ok(Listed { listing, .. }) => {
                        self.publisher.status().cost.answered(listing.size());
                        if listing.revision < floor {
                            // A store that went back: a list of all tells.
                            schedule.resync_at = now;
                        }
                        let mut inside = self.known.lock();
                        if inside.mirror.confirm(&pool, &listing) {
                            inside.publish(Some(&[pool].into()), &self.publisher);
                        }
                    }
                    Err(error) => tracing::warn!(range = %self.range, "a read on the side failed: {error}"),
                }
                schedule.verified(self.known.holds());
            }
            Side::Count(Ok(Counted { count, revision, asked_at, .. }), floor) => {
                self.publisher.status().cost.answered(0);
                schedule.probe_at = now + around(PROBE, 0.2);
                let differs = usize::try_from(count).ok() != self.known.lock().mirror.count_at(revision);
                if revision < floor || (differs && schedule.differed) {
                    // A store that went back, or a change that was missed: a list tells.
                    schedule.resync_at = now;
                } else if differs {
                    // Changes on their way, as a rule.
                    schedule.probe_at = now + AGAIN;
                } else {
                    self.confirm(asked_at, status);
                }
                schedule.differed = differs;
            }
            Side::Count(Err(error), _) => {
                tracing::debug!(range = %self.range, "a count on the side failed: {error}");
                schedule.probe_at = now + around(ANSWER, 0.2);
            }
        }
        None
    }
}

impl Schedule {
    fn heard(&mut self) {
        self.heard_at = Instant::now();
        self.asked = false;
    }

    fn silence_ends(&self) -> Instant {
        self.heard_at + if self.asked { SILENCE + ANSWER } else { SILENCE }
    }

    fn side_at(&self) -> Instant {
        let due = self.probe_at.min(self.resync_at);
        self.verify_at.map_or(due, |at| at.min(due))
    }

    /// A list came or failed: what is held still is verified again, after a second to half a minute.
    fn verified(&mut self, holds: bool) {
        if !holds {
            (self.verify_at, self.verifications) = (None, 0);
            return;
        }
        let most = Duration::from_secs(1).saturating_mul(1 << self.verifications.min(5)).min(PROBE);
        let wait = most.mul_f64(rand::rng().random_range(0.0..=1.0));
        self.verify_at = Some(Instant::now() + wait);
        self.verifications = self.verifications.saturating_add(1);
    }
}

/// The read under way; never ends without one.
async fn pending(side: &mut Option<BoxFuture<'static, Side>>) -> Side {
    match side {
        Some(read) => read.await,
        None => std::future::pending().await,
    }
}

/// The events of a message. A deletion is told by its version 0 (etcd API, `KeyValue.version`): the type's
/// own accessor panics on a type it does not know.
fn events_of(message: &WatchResponse) -> Vec<Event> {
    let event = |event: &etcd_client::Event| {
        let pair = event.kv()?;
        let (created, version) = (pair.create_revision(), pair.version());
        let value = (version > 0).then(|| pair.value().to_vec());
        Some(Event { key: pair.key().to_vec(), revision: pair.mod_revision(), value, created, version })
    };
    message.events().iter().filter_map(event).collect()
}
