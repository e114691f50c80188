//! Defines the watch: a blocking query in a loop, and beside it the reads that keep it honest.
//!
//! A session begins with a read from the leader. Then a query is always blocked (`?stale`: any server may
//! answer, within bounds), and what it returns is published at once. Beside it, one at a time:
//! - a second, `?consistent` read when the first one would remove too much ([`Known::hold`]), together with
//!   questions about the token's permission, repeated until it confirms the removal or everything is back;
//! - a plain read about once a minute: it finds what the blocked query missed, and proves freshness.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt as _;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};

use super::answer::{Worth, classify};
use super::budget::Claim;
use super::client::{Client, Reply};
use super::known::{Contents, Effect, Entries, Hold, How, Known, Reading};
use super::pace::{Bucket, apart, scaled};
use super::permission::{Doubt, Permission, Verdicts};
use super::query::Query;
use super::rights::{Lacking, Needs, Right};
use crate::discovery::Publisher;
use crate::discovery::judge::{self, Danger};
use crate::discovery::state::Origin;
use crate::discovery::status::{ProviderStatus, WatchState, WatchStatus};
use crate::discovery::supervise::{ErrorKind, Watch, WatchError, around};
use crate::spec::hold::{Held, HeldPart, Scope};
use crate::spec::problem::Problem;
use crate::spec::settings::Consistency;
use crate::spec::source::Source;

/// What happened before a read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct After {
    /// A session has just begun: the agent that answers was away a moment ago.
    pub(super) outage: bool,
    /// The registry began anew: whatever is registered is registered anew.
    pub(super) wipe: bool,
}

/// What a watch asks, what it makes of the answers, and where that goes.
#[async_trait]
pub(super) trait Question: Send + Sync + 'static {
    /// One thing an answer lists.
    type Entry: Clone + PartialEq + Send + Sync + 'static;
    /// Whether a 404 with an index means that there is nothing.
    const ABSENCE_IS_EMPTY: bool;
    /// Whether every removal needs a second read, because an answer does not show what the token hides.
    const PROVE_ALL: bool;
    /// Whether an answer that leaves out what the token may not read is worth less than a complete one.
    const FILTERING_MATTERS: bool = true;

    /// What is asked.
    fn query(&self) -> Query;

    /// The source it takes part in the budget of blocked queries for. There are as many services as there are; of
    /// everything else a provider has one, which takes no part.
    fn source(&self) -> Option<Source> {
        None
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A body that is no answer: nothing of it counts.
    fn read(&self, body: &[u8]) -> Result<Contents<Self::Entry>, String>;

    /// Changes what a read lists, before it is judged, in the light of what is known and of what happened.
    fn amend(&self, _known: &Entries<Self::Entry>, _fresh: &mut Entries<Self::Entry>, _after: After) {}

    /// When what is known should be read again at the latest, because [`Self::amend`] will judge otherwise then.
    fn look_again_at(&self, _known: &Entries<Self::Entry>) -> Option<Instant> {
        None
    }

    /// Whether what an answer lacks is gone, or hidden from the token. Asked after the answer came.
    ///
    /// # Errors
    /// It could not be found out.
    async fn permission(
        &self,
        client: &Client,
        lost: &[(&Arc<str>, &Self::Entry)],
        doubted: &Doubted<'_>,
    ) -> Result<Verdicts, WatchError>;

    /// What of the entries is held, as operators accept it; `missing`: the entries that are held, and why.
    fn held(&self, entries: &Entries<Self::Entry>, missing: &BTreeMap<Arc<str>, Doubt>) -> BTreeMap<HeldPart, Held>;

    /// Which of the entries that are held an accepted part consists of.
    fn accepts(&self, part: &HeldPart, missing: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>>;

    /// What an earlier process knew. Until a read has shown what became of all of it, nothing is published.
    fn remembered(&self) -> Option<Entries<Self::Entry>> {
        None
    }

    /// The rights that it takes to read what is known.
    fn rights(&self, entries: &Entries<Self::Entry>) -> Vec<Right>;

    /// What a missing right to read all of it concerns.
    fn scope(&self) -> Scope;

    /// Publishes all that is known.
    fn publish(&self, shown: Shown<'_, Self::Entry>);

    /// Where it publishes, and whose status it is.
    fn publisher(&self) -> &Publisher;

    /// Whose status it is.
    fn status(&self) -> &Arc<ProviderStatus> {
        self.publisher().status()
    }
}

/// What a watch knows, to be published.
pub(super) struct Shown<'a, E> {
    pub(super) entries: &'a Entries<E>,
    /// Those of them that the last reading does not list.
    pub(super) unlisted: &'a BTreeSet<Arc<str>>,
    pub(super) problems: &'a [Problem],
    pub(super) origin: Origin,
}

/// An answer that lacks something, for [`Question::permission`].
pub(super) struct Doubted<'a> {
    /// The answer itself.
    pub(super) reply: &'a Reply,
    /// It lists nothing at all.
    pub(super) nothing: bool,
    /// How long the removal has been held.
    pub(super) held_for: Duration,
}

/// The supervised watch of one question.
pub(super) struct Follow<Q: Question> {
    question: Arc<Q>,
    client: Arc<Client>,
    bounds: Bounds,
    known: Known<Q::Entry>,
    bucket: Bucket,
    /// Counts up when blocked queries may hang on a server that is gone.
    kicks: watch::Receiver<u64>,
    /// Bytes of the last answer.
    size: usize,
    held_since: Option<Instant>,
    prove_at: Option<Instant>,
    session_began: Instant,
    /// To be blocked, and not read now and then; `None`: it is anyway.
    claim: Option<Claim>,
    /// What operators accept.
    accepts: broadcast::Receiver<HeldPart>,
    /// Entries whose loss an operator accepts, whatever but a missing right speaks against it.
    accepted: BTreeSet<Arc<str>>,
    /// Why each entry was held as of the last second read.
    doubts: BTreeMap<Arc<str>, Doubt>,
    /// What the token lacks, of all that it is needed for,
    lacking: watch::Receiver<Arc<Lacking>>,
    /// and what it is needed for here.
    needs: Needs,
    /// Why all of it can't be read now, or not completely.
    lacks: Option<Arc<str>>,
    /// The last answer left out what the token may not read.
    filtered: bool,
    /// What is known is an earlier process's, as far as no read has confirmed it.
    unproven: bool,
}

/// What the settings say about reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How long a query may block.
    pub(super) wait: Duration,
    /// Oldest answer that is believed.
    pub(super) max_stale: Duration,
}

/// Between two plain reads beside the blocked query, give or take a fifth.
const CHECK: Duration = Duration::from_secs(60);
/// The same after one that failed.
const CHECK_AGAIN: Duration = Duration::from_secs(10);
/// Between two reads of what has no place among the blocked queries.
const POLL: Duration = Duration::from_secs(10);
/// Longest wait between two second reads.
const PROVE_CAP: Duration = Duration::from_secs(30);
/// Over which the queries of a provider are issued again after a kick.
const SPREAD: Duration = Duration::from_secs(2);
/// A session younger than this follows an outage.
const JUST_BEGUN: Duration = Duration::from_secs(30);
/// Larger bodies are parsed off the runtime's threads.
const LARGE: usize = 256 << 10;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type ReadingOf<Q> = Result<Reading<<Q as Question>::Entry>, WatchError>;

/// What a read beside the blocked query brought.
enum Aside<E> {
    Checked(Result<Reading<E>, WatchError>),
    Proven(Result<Proof<E>, WatchError>),
}

/// A second read, and what speaks against it.
struct Proof<E> {
    reading: Reading<E>,
    /// Against all that it lacks.
    doubt: Option<Doubt>,
    /// Against single entries that it lacks.
    each: BTreeMap<Arc<str>, Doubt>,
}

impl<Q: Question> Follow<Q> {
    pub(super) fn new(question: Q, client: Arc<Client>, bounds: Bounds, kicks: watch::Receiver<u64>) -> Self {
        let accepts = question.publisher().accepted();
        let claim = question.source().map(|source| client.budget.claim(source));
        let (lacking, needs) = (client.rights.lacking(), client.rights.needs());
        needs.set(question.rights(&Entries::new()));
        let remembered = question.remembered().filter(|entries| !entries.is_empty());
        let unproven = remembered.is_some();
        let known = match remembered {
            Some(entries) => Known::new(Q::PROVE_ALL).remembering(entries),
            None => Known::new(Q::PROVE_ALL),
        };
        Self {
            question: Arc::new(question),
            client,
            bounds,
            known,
            bucket: Bucket::new(),
            kicks,
            size: 0,
            held_since: None,
            prove_at: None,
            session_began: Instant::now(),
            claim,
            accepts,
            accepted: BTreeSet::new(),
            doubts: BTreeMap::new(),
            lacking,
            needs,
            lacks: None,
            filtered: false,
            unproven,
        }
    }

    async fn follow(&mut self, status: &WatchStatus) -> Result<Infallible, WatchError> {
        self.session_began = Instant::now();
        self.ask_leader(status).await?;
        let mut blocked = self.block(status);
        let mut aside: Option<(u64, Boxed<Aside<Q::Entry>>)> = None;
        let mut check_at = self.next_check();
        let mut reissue_at: Option<Instant> = None;
        self.kicks.mark_unchanged();
        self.lacking.mark_changed();
        loop {
            let now = Instant::now();
            // What lies in the past was looked at, or could not be: then the next try has its time.
            let again = self.known.entries().and_then(|known| self.question.look_again_at(known));
            check_at = again.filter(|at| *at > now).map_or(check_at, |at| at.min(check_at));
            if aside.is_none() {
                if self.prove_at.is_some_and(|at| at <= now) {
                    aside = Some((self.known.turn(), self.prove()));
                } else if check_at <= now {
                    aside = Some((self.known.turn(), self.check()));
                }
            }
            let idle = aside.is_none();
            let alarms = [reissue_at, self.prove_at.filter(|_| idle), Some(check_at).filter(|_| idle)];
            let alarm = alarms.into_iter().flatten().min();
            tokio::select! {
                answered = &mut blocked => {
                    reissue_at = None;
                    let reading = answered?;
                    match self.known.objection(&reading.answer) {
                        None => self.take(reading, How::Blocked, status),
                        Some(objection) => {
                            tracing::debug!("asks the leader: {objection}");
                            sleep_until(self.bucket.take()).await;
                            self.ask_leader(status).await?;
                        }
                    }
                    blocked = self.block(status);
                }
                (turn, done) = finished(&mut aside) => {
                    aside = None;
                    match done {
                        Aside::Checked(checked) => {
                            let went_well = self.checked(checked, turn, status)?;
                            check_at = if went_well { self.next_check() } else { Instant::now() + around(CHECK_AGAIN, 0.2) };
                        }
                        Aside::Proven(proven) => self.proven(proven, turn, status)?,
                    }
                }
                () = sleep_until(alarm.unwrap_or(now)), if alarm.is_some() => {
                    if reissue_at.is_some_and(|at| at <= Instant::now()) {
                        reissue_at = None;
                        blocked = self.block(status);
                    }
                }
                Ok(part) = self.accepts.recv() => {
                    let accepted = self.question.accepts(&part, self.known.missing());
                    if self.question.source().is_some_and(|source| part == HeldPart::Endpoints(source)) {
                        self.known.give_up();
                    }
                    if !accepted.is_empty() {
                        self.accepted.extend(accepted);
                        self.prove_at = Some(Instant::now());
                    }
                },
                Ok(()) = self.lacking.changed() => {
                    if self.look_at_rights(status) {
                        check_at = Instant::now();
                    }
                }
                () = moved(&mut self.claim) => blocked = self.block(status),
                kicked = self.kicks.changed(), if reissue_at.is_none() => {
                    if kicked.is_ok() {
                        let spread = SPREAD.mul_f64(rand::rng().random_range(0.0..1.0));
                        reissue_at = Some(Instant::now() + spread);
                    } else {
                        // The probe ends with the provider.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    /// Reads from the leader and takes that.
    async fn ask_leader(&mut self, status: &WatchStatus) -> Result<(), WatchError> {
        let seen = if self.has_read() { self.known.content_index() } else { status.index() };
        let reading = read_now(Arc::clone(&self.question), Arc::clone(&self.client), self.bounds, seen).await?;
        self.take(reading, How::Fresh, status);
        Ok(())
    }

    /// The next answer: of a query that is blocked until something changes, or, beyond the budget of those, of a read
    /// some time later.
    fn block(&mut self, status: &WatchStatus) -> Boxed<ReadingOf<Q>> {
        let (question, client, bounds) = (Arc::clone(&self.question), Arc::clone(&self.client), self.bounds);
        let begin = self.bucket.take();
        let lane = self.claim.as_mut().map(Claim::lane);
        let polled = lane == Some(None);
        status.set_polled(polled);
        if polled {
            let begin = begin.max(Instant::now() + around(POLL, 0.2));
            return Box::pin(async move {
                sleep_until(begin).await;
                let reply = client.poll(&question.query()).await?;
                client.ascertain().await;
                Ok(reading(question, reply, bounds).await?.0)
            });
        }
        let (index, wait) = (self.known.index(), apart(scaled(bounds.wait, self.size)));
        let lane = lane.flatten();
        Box::pin(async move {
            sleep_until(begin).await;
            let reply = client.block(&question.query(), index, wait, lane).await?;
            client.ascertain().await;
            Ok(reading(question, reply, bounds).await?.0)
        })
    }

    fn check(&self) -> Boxed<Aside<Q::Entry>> {
        let (question, client, bounds) = (Arc::clone(&self.question), Arc::clone(&self.client), self.bounds);
        let seen = self.known.content_index();
        Box::pin(async move { Aside::Checked(read_now(question, client, bounds, seen).await) })
    }

    fn prove(&self) -> Boxed<Aside<Q::Entry>> {
        let (question, client, bounds) = (Arc::clone(&self.question), Arc::clone(&self.client), self.bounds);
        let known = self.known.entries().cloned();
        let content_index = self.known.content_index();
        let held_for = self.held_since.map_or(Duration::ZERO, |since| since.elapsed());
        Box::pin(async move { Aside::Proven(prove(question, client, bounds, known, content_index, held_for).await) })
    }

    /// Whether what is known was read by this process.
    fn has_read(&self) -> bool {
        self.known.entries().is_some() && !self.unproven
    }

    fn amend(&self, reading: &mut Reading<Q::Entry>) {
        if let Some(known) = self.known.entries() {
            let (index, fresh) = (reading.answer.index, &mut reading.contents.entries);
            let outage = self.session_began.elapsed() < JUST_BEGUN;
            self.question.amend(known, fresh, After { outage, wipe: self.known.begins_anew(index) });
            if !self.known.lost().is_empty() {
                self.question.amend(self.known.lost(), fresh, After { outage, wipe: true });
            }
        }
    }

    fn take(&mut self, mut reading: Reading<Q::Entry>, how: How, status: &WatchStatus) {
        self.amend(&mut reading);
        self.size = reading.size;
        if how != How::Aside {
            self.bucket.spent(reading.transfer);
        }
        let held_before = self.known.hold();
        let first = !self.has_read();
        self.filtered = reading.answer.worth == Worth::Filtered;
        // An earlier process has seen more of this registry than there is. Below a prefix that is not empty the index
        // goes back by itself, too, once Consul has forgotten the last deletion.
        let telling = !Q::PROVE_ALL || reading.contents.is_empty();
        let wiped = first && telling && reading.answer.index < status.index() && reading.answer.worth == Worth::Sound;
        let effect = self.known.take(reading, how);
        let regressed = |hold: Option<Hold>| hold.is_some_and(|hold| hold.danger == Danger::Regressed);
        if (wiped && held_before.is_none()) || (regressed(self.known.hold()) && !regressed(held_before)) {
            self.question.publisher().regressed();
        }
        self.settled(effect, held_before, status);
        if let (None, Some(_)) = (held_before, self.known.hold()) {
            self.held_since = Some(Instant::now());
            self.prove_at = self.held_since;
        }
    }

    fn settled(&mut self, effect: Effect, held_before: Option<Hold>, status: &WatchStatus) {
        // First, so that whoever sees what is published can tell the index of it.
        status.set_index(self.known.index());
        let settled = self.known.hold().is_none();
        if (effect.publish && !self.unproven) || (settled && self.unproven) {
            self.unproven = false;
            self.publish();
        }
        match (effect.confirmed, &self.lacks) {
            _ if settled && self.filtered => {
                let error = "Consul leaves out what the token may not read".to_owned();
                status.set_state(WatchState::Failing { failures: 1, error });
            }
            (Some(at), None) => status.confirmed(at),
            // A query that was blocked before the right was lost still answers.
            (Some(_), Some(_)) | (None, _) => {}
        }
        if self.known.hold().is_none() {
            (self.held_since, self.prove_at) = (None, None);
            self.accepted.clear();
            self.doubts.clear();
            self.publish_right(None);
            if held_before.is_some_and(|hold| hold.doubts > 0) {
                tracing::info!(provider = %self.question.status().id(), watch = %self.question.query(), "no longer held");
            }
        }
    }

    fn publish(&self) {
        if let Some(entries) = self.known.entries() {
            self.needs.set(self.question.rights(entries));
            self.publish_holds();
            let (unlisted, problems, origin) = (self.known.unlisted(), self.known.problems(), self.known.origin());
            self.question.publish(Shown { entries, unlisted, problems, origin });
        }
    }

    /// Publishes what is held, and why.
    fn publish_holds(&self) {
        let Some(entries) = self.known.entries() else { return };
        let unclear = || Doubt::unclear("a second read has not confirmed the loss yet");
        let doubt = |id: &Arc<str>| (Arc::clone(id), self.doubts.get(id).cloned().unwrap_or_else(unclear));
        let missing: BTreeMap<_, _> = match self.known.origin() {
            Origin::Held => self.known.missing().iter().map(doubt).collect(),
            Origin::Live | Origin::Saved(_) => BTreeMap::new(),
        };
        let held = self.question.held(entries, &missing);
        self.question.publisher().holds(self.question.source().as_ref(), held);
    }

    /// `missing`: the right that a read lacked.
    fn publish_right(&self, missing: Option<&str>) {
        let missing = missing.or(self.lacks.as_deref().filter(|_| self.lacks_all()));
        self.question.publisher().missing_right(&self.question.scope(), missing);
    }

    /// Whether what the token lacks concerns all of it: a key that is hidden concerns nothing but itself.
    fn lacks_all(&self) -> bool {
        self.lacks.is_some() && (self.question.source().is_some() || self.lacking.borrow().token.is_some())
    }

    /// Takes what a look at the token found. Whether all of it should be read now: rights are lacking or back.
    fn look_at_rights(&mut self, status: &WatchStatus) -> bool {
        let lacking = Arc::clone(&self.lacking.borrow_and_update());
        let needed = match self.known.entries() {
            Some(entries) => self.question.rights(entries),
            None => self.question.rights(&Entries::new()),
        };
        let right = needed.iter().find(|right| lacking.rights.contains(right));
        let lacks = lacking.token.clone().or_else(|| {
            let Right { resource, segment, .. } = right?;
            Some(format!("the token may not read the {resource} `{segment}`: it needs `{resource}:read`").into())
        });
        if lacks == self.lacks {
            return false;
        }
        self.lacks = lacks;
        if self.known.hold().is_none() || self.lacks_all() {
            self.publish_right(None);
        } else if self.lacks.is_none() {
            self.prove_at = Some(Instant::now());
        }
        if let Some(lacks) = &self.lacks {
            status.set_state(WatchState::Failing { failures: 1, error: lacks.to_string() });
        }
        // While the token is refused, every read would be.
        lacking.token.is_none()
    }

    /// Takes what the minute's read found. False when it failed.
    fn checked(&mut self, checked: ReadingOf<Q>, turn: u64, status: &WatchStatus) -> Result<bool, WatchError> {
        match checked {
            Ok(reading) => {
                if !self.known.overtaken(turn, &reading.answer) {
                    self.take(reading, How::Aside, status);
                }
                Ok(true)
            }
            Err(error) if error.kind == ErrorKind::Unauthorised => Err(error),
            Err(error) => {
                self.question.status().updates.failed.fetch_add(1, Relaxed);
                status.set_state(WatchState::Failing { failures: 1, error: error.text });
                Ok(false)
            }
        }
    }

    fn proven(
        &mut self,
        proven: Result<Proof<Q::Entry>, WatchError>,
        turn: u64,
        status: &WatchStatus,
    ) -> Result<(), WatchError> {
        match proven {
            Ok(Proof { reading, .. }) if self.known.overtaken(turn, &reading.answer) => {
                self.prove_at = Some(self.bucket.take());
            }
            Ok(Proof { reading, doubt: Some(doubt), .. }) if matches!(reading.answer.worth, Worth::Stale(_)) => {
                self.hold_on(&doubt, status);
            }
            Ok(Proof { reading, doubt, each }) => self.conclude(reading, doubt, each, status),
            Err(error) if error.kind == ErrorKind::Unauthorised => {
                self.hold_on(&Doubt::missing_right(error.text.as_str()), status);
                return Err(error);
            }
            Err(error) => self.hold_on(&Doubt::unclear(error.text), status),
        }
        Ok(())
    }

    /// Lets go of what a second read shows to be gone, or whose loss an operator accepts. Holds the rest.
    fn conclude(
        &mut self,
        mut reading: Reading<Q::Entry>,
        doubt: Option<Doubt>,
        each: BTreeMap<Arc<str>, Doubt>,
        status: &WatchStatus,
    ) {
        self.filtered = reading.answer.worth == Worth::Filtered;
        let known = self.known.entries().cloned().unwrap_or_default();
        let (mut gone, mut held) = (BTreeSet::new(), BTreeMap::new());
        for (id, _) in judge::lost(&known, &reading.contents.entries) {
            match each.get(id).or(doubt.as_ref()) {
                Some(doubt) if doubt.missing_right || !self.accepted.contains(id) => {
                    held.insert(Arc::clone(id), doubt.clone());
                }
                Some(_) | None => {
                    gone.insert(Arc::clone(id));
                }
            }
        }
        let unread = self.known.entries().is_none();
        let Some(first) = held.values().next().or(doubt.as_ref().filter(|_| unread)).cloned() else {
            self.amend(&mut reading);
            let held_before = self.known.hold();
            let effect = self.known.take_proven(reading);
            self.settled(effect, held_before, status);
            return;
        };
        self.doubts = held;
        self.known.release(&gone);
        self.hold_on(&first, status);
        if !gone.is_empty() {
            self.publish();
        }
        // What it adds and changes is the leader's word all the same.
        self.take(reading, How::Aside, status);
        self.publish_right(doubt.filter(|doubt| doubt.missing_right).as_ref().map(|doubt| doubt.why.as_str()));
    }

    /// The removal was not confirmed: keeps what is known, and asks again later.
    fn hold_on(&mut self, doubt: &Doubt, status: &WatchStatus) {
        let first = self.known.doubt();
        let Some(Hold { danger, doubts }) = self.known.hold() else { return };
        let most = Duration::from_secs(1 << doubts.min(5)).min(PROVE_CAP);
        let wait = Duration::from_secs(1).max(most.mul_f64(rand::rng().random_range(0.0..=1.0)));
        self.prove_at = Some(Instant::now() + wait);
        for id in self.known.missing() {
            self.doubts.entry(Arc::clone(id)).or_insert_with(|| doubt.clone());
        }
        let error = match (self.known.entries(), danger) {
            (Some(_), _) => format!("a removal is held ({danger}): {}", doubt.why),
            (None, Danger::Filtered) => format!("the answer is not complete, and not used: {}", doubt.why),
            (None, _) => format!("the answer is empty, which is not believed: {}", doubt.why),
        };
        self.unproven = false;
        if first {
            self.question.status().updates.held.fetch_add(1, Relaxed);
            tracing::warn!(provider = %self.question.status().id(), watch = %self.question.query(), "{error}");
            self.publish();
        } else {
            self.publish_holds();
        }
        status.set_state(WatchState::Failing { failures: doubts, error });
    }

    fn next_check(&self) -> Instant {
        Instant::now() + around(scaled(CHECK, self.size), 0.2)
    }
}

#[async_trait]
impl<Q: Question> Watch for Follow<Q> {
    async fn session(&mut self, status: &WatchStatus) -> WatchError {
        let mut error = match self.follow(status).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if error.kind == ErrorKind::Unauthorised {
            self.publish_right(Some(&error.text));
            if let Err(text) = self.client.token.reread().await {
                error.text = format!("{}; {text}", error.text);
            }
        }
        error
    }
}

/// Waits until a claim's place is another; for ever without one.
async fn moved(claim: &mut Option<Claim>) {
    match claim {
        Some(claim) => claim.changed().await,
        None => std::future::pending().await,
    }
}

/// Waits for what runs beside; for ever when nothing does.
async fn finished<T>(aside: &mut Option<(u64, Boxed<T>)>) -> (u64, T) {
    match aside {
        Some((turn, running)) => (*turn, running.await),
        None => std::future::pending().await,
    }
}

/// A read from the leader, of which a reading at index `seen` was taken before; one that is stale all the same is a failure.
async fn read_now<Q: Question>(question: Arc<Q>, client: Arc<Client>, bounds: Bounds, seen: u64) -> ReadingOf<Q> {
    let read = async |consistency| {
        let reply = client.read(&question.query(), consistency).await?;
        client.ascertain().await;
        Ok(reading(Arc::clone(&question), reply, bounds).await?.0)
    };
    let mut reading = read(Consistency::Default).await?;
    // A leader that has just started plays its log back, and answers with its past meanwhile. A consistent read waits for
    // the end of that (Consul, `isReadyForConsistentReads`).
    if reading.answer.index < seen {
        reading = read(Consistency::Consistent).await?;
    }
    match reading {
        Reading { answer: super::answer::Answer { worth: Worth::Stale(reason), .. }, .. } => {
            Err(WatchError::failed(reason))
        }
        reading => Ok(reading),
    }
}

async fn prove<Q: Question>(
    question: Arc<Q>,
    client: Arc<Client>,
    bounds: Bounds,
    known: Option<Arc<Entries<Q::Entry>>>,
    content_index: u64,
    held_for: Duration,
) -> Result<Proof<Q::Entry>, WatchError> {
    let reply = client.read(&question.query(), Consistency::Consistent).await?;
    client.ascertain().await;
    let (reading, reply) = reading(Arc::clone(&question), reply, bounds).await?;
    let unread = known.is_none();
    let known = known.unwrap_or_default();
    // What is listed, though it cannot be used any more, is not hidden.
    let unusable = &reading.contents.unusable;
    let lost = judge::lost(&known, &reading.contents.entries).filter(|(id, _)| !unusable.contains(*id));
    let lost: Vec<_> = lost.collect();
    let nothing = reading.contents.is_empty();
    let unclear = |why: &str| Some(Doubt::unclear(why));
    let (doubt, each) = match &reading.answer.worth {
        Worth::Stale(reason) => (unclear(reason), BTreeMap::new()),
        // Where each key tells by itself whether it is hidden, only what is not known can't be asked for.
        Worth::Filtered if !Q::PROVE_ALL || unread => {
            let why = format!("Consul left out what the token may not read of {}", question.query());
            ((!lost.is_empty() || unread).then(|| Doubt::missing_right(why)), BTreeMap::new())
        }
        Worth::Sound | Worth::Filtered if lost.is_empty() && !nothing => (None, BTreeMap::new()),
        Worth::Sound | Worth::Filtered => {
            let doubted = Doubted { reply: &reply, nothing, held_for };
            let Verdicts { whole, each } = question.permission(&client, &lost, &doubted).await?;
            match whole {
                Permission::Doubtful(doubt) => (Some(doubt), each),
                // What the token may read is answered from a cache, the index is not.
                Permission::Granted if !lost.is_empty() && reading.answer.index == content_index => {
                    (unclear("the index did not move"), each)
                }
                Permission::Granted | Permission::Beyond => (None, each),
            }
        }
    };
    Ok(Proof { reading, doubt, each })
}

async fn reading<Q: Question>(
    question: Arc<Q>,
    mut reply: Reply,
    bounds: Bounds,
) -> Result<(Reading<Q::Entry>, Reply), WatchError> {
    let mut answer = classify(&reply, bounds.max_stale, Q::ABSENCE_IS_EMPTY)?;
    if answer.worth == Worth::Filtered && !Q::FILTERING_MATTERS {
        answer.worth = Worth::Sound;
    }
    let body = std::mem::take(&mut reply.body);
    let size = body.len();
    let contents = if answer.absent {
        Ok(Contents::default())
    } else if size < LARGE {
        question.read(&body)
    } else {
        let parsed = tokio::task::spawn_blocking(move || question.read(&body)).await;
        parsed.unwrap_or_else(|error| Err(format!("reading it failed: {error}")))
    };
    let contents = contents.map_err(|text| WatchError::failed(format!("the answer makes no sense: {text}")))?;
    Ok((Reading { answer, contents, started: reply.started, transfer: reply.transfer, size }, reply))
}
