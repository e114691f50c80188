//! Defines what a watch knows, and what each read makes of it. Pure: reads come in, what to publish goes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Worth};
use crate::discovery::judge::{self, Danger, Signs, Verdict};
use crate::discovery::state::Origin;
use crate::spec::problem::Problem;

/// Entries by an id that is unique in what is watched.
pub(super) type Entries<E> = BTreeMap<Arc<str>, E>;

/// What an answer lists.
#[derive(Debug, PartialEq)]
pub(super) struct Contents<E> {
    pub(super) entries: Entries<E>,
    /// What is listed, too, but cannot be used: the registry knows it, so its absence among the entries is no silence.
    pub(super) unusable: BTreeSet<Arc<str>>,
    /// Why entries cannot be used, or not as they are.
    pub(super) problems: Vec<Problem>,
}

impl<E> Contents<E> {
    /// Whether nothing at all is listed.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unusable.is_empty()
    }
}

impl<E> Default for Contents<E> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), unusable: BTreeSet::new(), problems: Vec::new() }
    }
}

/// An answer and what it lists.
#[derive(Debug)]
pub(super) struct Reading<E> {
    pub(super) answer: Answer,
    pub(super) contents: Contents<E>,
    /// When the request began.
    pub(super) started: Instant,
    /// From the head to the end of the body.
    pub(super) transfer: Duration,
    /// Bytes of the body.
    pub(super) size: usize,
}

/// How a reading came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The blocked query returned: the next one waits beyond its index.
    Blocked,
    /// Read from the leader in place of the blocked query's answer.
    Fresh,
    /// Read from the leader while a query is blocked; that one's index stays.
    Aside,
}

/// What a reading led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// What is known has changed, or where it stands.
    pub(super) publish: bool,
    /// As of when what is known is confirmed.
    pub(super) confirmed: Option<Instant>,
}

/// What a watch knows.
#[derive(Debug)]
pub(super) struct Known<E> {
    /// Beyond which the next blocked query waits; 0 before the first answer.
    index: u64,
    /// The index of the last content that was taken as a whole.
    content_index: u64,
    /// `None` before the first answer that counts.
    entries: Option<Arc<Entries<E>>>,
    /// Those of the entries that the last reading does not list: they wait for a second one.
    unlisted: BTreeSet<Arc<str>>,
    problems: Vec<Problem>,
    hold: Option<Hold>,
    /// What of the entries the last reading lacked.
    missing: BTreeSet<Arc<str>>,
    /// What a registry that began anew does not list any more, as it was; whoever serves it goes on until it is listed
    /// again or given up.
    lost: Entries<E>,
    /// Counts readings, so that one from aside can tell that it was overtaken.
    turn: u64,
    /// Every removal needs a second read, not only the dangerous ones.
    prove_all: bool,
}

/// Something is missing in what the registry says, and waits for a second read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) danger: Danger,
    /// Second reads that did not confirm it.
    pub(super) doubts: u32,
}

impl<E: Clone + PartialEq> Known<E> {
    pub(super) fn new(prove_all: bool) -> Self {
        Self {
            index: 0,
            content_index: 0,
            entries: None,
            unlisted: BTreeSet::new(),
            problems: Vec::new(),
            hold: None,
            missing: BTreeSet::new(),
            lost: Entries::new(),
            turn: 0,
            prove_all,
        }
    }

    /// As [`Self::new`], with what an earlier process knew: a first reading that lacks some of it removes nothing unproven.
    pub(super) fn remembering(self, entries: Entries<E>) -> Self {
        Self { entries: Some(Arc::new(entries)), ..self }
    }

    pub(super) fn index(&self) -> u64 {
        self.index
    }

    pub(super) fn content_index(&self) -> u64 {
        self.content_index
    }

    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    pub(super) fn entries(&self) -> Option<&Arc<Entries<E>>> {
        self.entries.as_ref()
    }

    pub(super) fn unlisted(&self) -> &BTreeSet<Arc<str>> {
        &self.unlisted
    }

    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn hold(&self) -> Option<Hold> {
        self.hold
    }

    /// What of it is held: the last reading lacked it.
    pub(super) fn missing(&self) -> &BTreeSet<Arc<str>> {
        &self.missing
    }

    /// Lets go of held entries that are gone beyond doubt, while others stay.
    pub(super) fn release(&mut self, gone: &BTreeSet<Arc<str>>) {
        if let Some(entries) = &mut self.entries {
            let entries = Arc::make_mut(entries);
            entries.retain(|id, _| !gone.contains(id));
        }
        self.missing.retain(|id| !gone.contains(id));
        self.unlisted.retain(|id| !gone.contains(id));
    }

    /// What was lost as the registry began anew.
    pub(super) fn lost(&self) -> &Entries<E> {
        &self.lost
    }

    /// Whether the registry is seen to begin anew.
    pub(super) fn begins_anew(&self, index: u64) -> bool {
        index < self.content_index || self.hold.is_some_and(|hold| hold.danger == Danger::Regressed)
    }

    /// Somebody says that what is lost may go.
    pub(super) fn give_up(&mut self) {
        self.lost.clear();
    }

    /// A removal is called held once a second read did not confirm it, not while that read is under way; but at
    /// once where the index went back, so that what is kept does not pass for what the registry lists.
    pub(super) fn origin(&self) -> Origin {
        match self.hold {
            Some(hold) if hold.doubts > 0 || hold.danger == Danger::Regressed => Origin::Held,
            _ => Origin::Live,
        }
    }

    /// Why the answer of a blocked query does not count, and the leader is to be asked instead.
    pub(super) fn objection(&self, answer: &Answer) -> Option<String> {
        match &answer.worth {
            Worth::Stale(reason) => Some(reason.clone()),
            Worth::Sound | Worth::Filtered if answer.index < self.index.max(self.content_index) => {
                Some(format!("the index went back from {} to {}", self.index.max(self.content_index), answer.index))
            }
            Worth::Sound | Worth::Filtered => None,
        }
    }

    /// Whether a reading from aside that began at `turn` is older than what has been taken since.
    pub(super) fn overtaken(&self, turn: u64, answer: &Answer) -> bool {
        turn != self.turn && answer.index < self.index
    }

    /// Whether the content should be the one that is known, by its index.
    pub(super) fn unmoved(&self, answer: &Answer) -> bool {
        self.entries.is_some() && answer.index == self.content_index
    }

    /// Takes what a reading adds and changes, and what it removes unless that needs a second read: then
    /// [`Known::hold`] says so. Where the index went back, all of it waits until a second read was tried.
    pub(super) fn take(&mut self, reading: Reading<E>, how: How) -> Effect {
        let Reading { answer, contents, started, .. } = reading;
        let moved = answer.index != self.index;
        if how != How::Aside {
            self.index = answer.index;
            self.turn += 1;
        }
        let filtered = answer.worth == Worth::Filtered;
        // An empty answer to the first question may as well be a token without permission. One that was filtered may
        // lack what protects the rest.
        let hides = filtered && self.prove_all;
        if self.entries.is_none() && (contents.is_empty() || hides) {
            let danger = if hides { Danger::Filtered } else { Danger::Empties { of: 0 } };
            self.hold.get_or_insert(Hold { danger, doubts: 0 });
            self.problems = contents.problems;
            return Effect::default();
        }
        let signs = Signs {
            regressed: answer.index < self.content_index,
            unmoved: self.unmoved(&answer),
            filtered,
            held: self.hold.is_some(),
        };
        let verdict = self.judge(&contents.entries, signs);
        // A server that starts again plays its log back, and shows its past on the way: who was there then may have
        // left since, and who is there now may have been critical.
        let past = signs.regressed && self.hold.is_none_or(|hold| hold.doubts == 0);
        match verdict {
            Verdict::Verify(danger) => {
                self.hold.get_or_insert(Hold { danger, doubts: 0 });
                if let Some(known) = &self.entries {
                    self.missing = judge::lost(known, &contents.entries).map(|(id, _)| Arc::clone(id)).collect();
                }
                if past {
                    return Effect::default();
                }
                let (kept, unlisted) = match &self.entries {
                    Some(entries) => {
                        let lost = judge::lost(entries, &contents.entries).map(|(id, _)| Arc::clone(id)).collect();
                        (judge::keeping_lost(entries, contents.entries), lost)
                    }
                    None => (contents.entries, BTreeSet::new()),
                };
                let publish = self.replace(kept, unlisted, contents.problems);
                Effect { publish, confirmed: None }
            }
            // Were a state of then taken as a whole, because nobody is missing in it, the next one would look like
            // progress.
            Verdict::Unchanged | Verdict::Publish if signs.regressed => {
                self.hold.get_or_insert(Hold { danger: Danger::Unconfirmed, doubts: 0 });
                if past {
                    return Effect::default();
                }
                let publish = self.replace(contents.entries, BTreeSet::new(), contents.problems);
                Effect { publish, confirmed: None }
            }
            Verdict::Unchanged | Verdict::Publish => {
                // A streamed view that did not change may have lost its source.
                let confirms = !filtered && (moved || how != How::Blocked || !answer.streamed);
                let at = if moved && how == How::Blocked { Instant::now() } else { started };
                let publish = self.settle(answer.index, contents);
                Effect { publish, confirmed: confirms.then_some(at) }
            }
        }
    }

    /// Takes a second read that nothing speaks against, with all it removes.
    pub(super) fn take_proven(&mut self, reading: Reading<E>) -> Effect {
        let publish = self.settle(reading.answer.index, reading.contents);
        Effect { publish, confirmed: Some(reading.started) }
    }

    /// A second read did not confirm the removal. True for the first one: what is known is held from now on.
    pub(super) fn doubt(&mut self) -> bool {
        let Some(hold) = &mut self.hold else { return false };
        hold.doubts = hold.doubts.saturating_add(1);
        hold.doubts == 1
    }

    fn judge(&self, candidate: &Entries<E>, signs: Signs) -> Verdict {
        let known = self.entries.as_deref();
        let verdict = judge::judge(known, candidate, signs);
        if let (Verdict::Publish, true, Some(known)) = (verdict, self.prove_all, known) {
            let lost = judge::lost(known, candidate).count();
            if lost > 0 {
                return Verdict::Verify(Danger::Takes { lost, of: known.len() });
            }
        }
        verdict
    }

    fn settle(&mut self, index: u64, contents: Contents<E>) -> bool {
        if self.begins_anew(index) {
            let known = self.entries.iter().flat_map(|entries| entries.iter());
            self.lost.extend(known.map(|(id, entry)| (Arc::clone(id), entry.clone())));
        }
        self.lost.retain(|id, _| !contents.entries.contains_key(id));
        self.content_index = index;
        let was_held = self.origin() == Origin::Held;
        self.hold = None;
        self.missing.clear();
        self.replace(contents.entries, BTreeSet::new(), contents.problems) || was_held
    }

    fn replace(&mut self, entries: Entries<E>, unlisted: BTreeSet<Arc<str>>, problems: Vec<Problem>) -> bool {
        let same = self.entries.as_deref() == Some(&entries);
        // Where every removal waits it is no news that some do; and what is published again counts as listed.
        let waits_alike = self.prove_all || self.unlisted == unlisted;
        self.unlisted = unlisted;
        if same && self.problems == problems && waits_alike {
            return false;
        }
        if !same {
            self.entries = Some(Arc::new(entries));
        }
        self.problems = problems;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(index: u64, entries: &str) -> Reading<()> {
        with_worth(index, entries, Worth::Sound)
    }

    fn with_worth(index: u64, entries: &str, worth: Worth) -> Reading<()> {
        let entries = entries.chars().map(|c| (Arc::from(c.to_string()), ())).collect();
        Reading {
            answer: Answer { index, worth, streamed: false, absent: false },
            contents: Contents { entries, ..Contents::default() },
            started: Instant::now(),
            transfer: Duration::ZERO,
            size: 0,
        }
    }

    fn known(index: u64, entries: &str) -> Known<()> {
        let mut known = Known::new(false);
        assert!(known.take(reading(index, entries), How::Fresh).publish);
        known
    }

    fn ids(known: &Known<()>) -> Option<String> {
        known.entries().map(|entries| entries.keys().map(|key| &**key).collect())
    }

    fn shows(known: &Known<()>, entries: &str, origin: Origin) {
        assert_eq!((ids(known).as_deref(), known.origin()), (Some(entries), origin));
    }

    #[test]
    fn an_ordinary_removal_is_taken_at_once() {
        let mut known = known(10, "abcde");
        let effect = known.take(reading(11, "abcd"), How::Blocked);
        assert!(effect.publish && effect.confirmed.is_some());
        shows(&known, "abcd", Origin::Live);
        assert_eq!((known.index(), known.hold()), (11, None));
    }

    #[test]
    fn the_last_one_goes_when_a_second_read_agrees() {
        let mut known = known(10, "a");
        assert_eq!(known.take(reading(11, ""), How::Blocked), Effect { publish: true, confirmed: None });
        shows(&known, "a", Origin::Live);
        assert!(known.hold().is_some() && known.unlisted().contains("a"));
        assert!(known.take_proven(reading(11, "")).publish);
        shows(&known, "", Origin::Live);
        assert!(known.unlisted().is_empty());
    }

    #[test]
    fn a_first_answer_that_lists_only_what_cannot_be_used_is_an_answer() {
        let mut known = Known::<()>::new(false);
        let mut unusable = reading(6, "");
        unusable.contents.unusable.insert("a".into());
        assert!(known.take(unusable, How::Fresh).publish);
        shows(&known, "", Origin::Live);
        assert_eq!(known.hold(), None);
    }

    #[test]
    fn a_doubted_removal_is_held_while_additions_flow_and_ends_when_all_is_back() {
        let mut known = known(10, "abc");
        known.take(reading(11, ""), How::Blocked);
        assert!(known.doubt() && !known.doubt());
        shows(&known, "abc", Origin::Held);
        // Alone this would not be dangerous; while something is held it is.
        let effect = known.take(reading(12, "bcd"), How::Blocked);
        assert_eq!(effect, Effect { publish: true, confirmed: None });
        shows(&known, "abcd", Origin::Held);
        assert_eq!(known.unlisted().iter().map(|id| &**id).collect::<String>(), "a");
        assert!(known.take(reading(13, "abcd"), How::Blocked).publish);
        shows(&known, "abcd", Origin::Live);
    }

    #[test]
    fn a_content_that_changes_without_its_index_removes_nothing() {
        let mut known = known(10, "abcde");
        assert_eq!(known.take(reading(10, "abcd"), How::Aside).confirmed, None);
        assert_eq!(known.hold().map(|hold| hold.danger), Some(Danger::Unmoved));
        shows(&known, "abcde", Origin::Live);
    }

    #[test]
    fn an_index_that_went_back_asks_the_leader_and_removes_nothing_unproven() {
        let mut known = known(281, "abcde");
        assert!(known.objection(&reading(29, "abc").answer).is_some());
        assert!(!known.take(reading(29, "abcd"), How::Fresh).publish);
        assert_eq!(known.hold().map(|hold| hold.danger), Some(Danger::Regressed));
        assert_eq!(known.index(), 29);
        assert!(known.take_proven(reading(29, "abcd")).publish);
        assert_eq!(known.objection(&reading(30, "abcd").answer), None);
    }

    #[test]
    fn a_follower_that_lags_behind_a_read_from_aside_brings_nothing_back() {
        let mut known = known(10, "abcde");
        known.take(reading(12, "abcd"), How::Aside);
        assert_eq!(known.index(), 10);
        assert!(known.objection(&reading(11, "abcde").answer).is_some());
        // And the other way round: the read from aside began before the blocked query returned.
        let turn = known.turn();
        known.take(reading(14, "abc"), How::Blocked);
        assert!(known.overtaken(turn, &reading(13, "abcd").answer));
        assert!(!known.overtaken(known.turn(), &reading(13, "abcd").answer));
    }

    #[test]
    fn filtered_answers_only_add() {
        let mut known = known(10, "ab");
        let effect = known.take(with_worth(11, "bc", Worth::Filtered), How::Blocked);
        assert_eq!(effect, Effect { publish: true, confirmed: None });
        assert_eq!(ids(&known).as_deref(), Some("abc"));
        assert_eq!(known.hold().map(|hold| hold.danger), Some(Danger::Filtered));
    }

    #[test]
    fn a_past_in_which_nobody_is_missing_is_no_ground_for_the_next_removal() {
        let mut known = known(100, "ab");
        known.take(reading(20, "abc"), How::Fresh);
        assert_eq!(ids(&known).as_deref(), Some("ab"), "nobody comes back before a second read");
        known.take(reading(30, "bc"), How::Fresh);
        assert_eq!(ids(&known).as_deref(), Some("ab"), "and nobody goes");
        known.take_proven(reading(100, "ab"));
        shows(&known, "ab", Origin::Live);
        assert_eq!(known.hold(), None);
    }

    #[test]
    fn what_a_registry_that_went_back_adds_flows_once_a_second_read_was_tried() {
        let mut known = known(100, "ab");
        known.take(reading(20, "ac"), How::Fresh);
        assert_eq!(ids(&known).as_deref(), Some("ab"));
        known.doubt();
        assert!(known.take(reading(20, "ac"), How::Aside).publish);
        shows(&known, "abc", Origin::Held);
    }

    #[test]
    fn a_first_empty_answer_is_published_only_when_proven() {
        let mut known = Known::<()>::new(false);
        assert_eq!(known.take(reading(6, ""), How::Fresh), Effect::default());
        assert_eq!(known.entries(), None);
        assert!(known.take_proven(reading(6, "")).publish);
        shows(&known, "", Origin::Live);
    }

    #[test]
    fn a_first_answer_that_was_filtered_counts_only_where_every_removal_is_proven_apart() {
        let mut keys = Known::<()>::new(true);
        assert_eq!(keys.take(with_worth(6, "ab", Worth::Filtered), How::Fresh), Effect::default());
        assert_eq!((keys.entries(), keys.hold().map(|hold| hold.danger)), (None, Some(Danger::Filtered)));
        assert!(keys.take_proven(reading(7, "abc")).publish);
        shows(&keys, "abc", Origin::Live);
        let mut instances = Known::<()>::new(false);
        assert!(instances.take(with_worth(6, "ab", Worth::Filtered), How::Fresh).publish);
    }

    #[test]
    fn what_an_earlier_process_knew_goes_only_when_it_is_proven_to_be_gone() {
        let known = reading(0, "abc").contents.entries;
        let mut keys = Known::<()>::new(true).remembering(known);
        keys.take(reading(9, "ad"), How::Fresh);
        assert_eq!(ids(&keys).as_deref(), Some("abcd"));
        let missing = |keys: &Known<()>| keys.missing().iter().map(|id| &**id).collect::<String>();
        assert_eq!(missing(&keys), "bc");
        keys.release(&BTreeSet::from(["b".into()]));
        assert_eq!((ids(&keys).as_deref(), missing(&keys)), (Some("acd"), "c".to_owned()));
        assert!(keys.take_proven(reading(10, "acd")).confirmed.is_some());
        shows(&keys, "acd", Origin::Live);
    }

    #[test]
    fn an_unchanged_answer_confirms_unless_it_was_streamed() {
        let mut known = known(10, "a");
        let unchanged = reading(10, "a");
        let started = unchanged.started;
        assert_eq!(known.take(unchanged, How::Blocked).confirmed, Some(started));
        let mut streamed = reading(10, "a");
        streamed.answer.streamed = true;
        assert_eq!(known.take(streamed, How::Blocked), Effect::default());
    }

    #[test]
    fn where_all_removals_are_to_be_proven_small_ones_wait_too() {
        let mut known = Known::<()>::new(true);
        known.take(reading(10, "abcde"), How::Fresh);
        assert_eq!(known.take(reading(11, "abcd"), How::Blocked), Effect::default());
        assert!(known.hold().is_some());
        assert_eq!(ids(&known).as_deref(), Some("abcde"));
    }
}
