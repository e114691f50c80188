//! Defines how requests judge an endpoint: what they came to is counted, and too many that failed eject it. When its
//! time is over a single request tries it; if that goes well it is back, else its next ejection lasts longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::clock;
use super::endpoint::EndpointState;
use super::window::Window;
use crate::spec::passive::PassiveHealth;

/// What requests say of an endpoint; written by all workers.
#[derive(Debug, Default)]
pub struct Outlier {
    /// An [`Ejection`].
    word: AtomicU64,
    /// Failures in a row.
    failures: AtomicU32,
    /// Answers of 500 to 599 in a row.
    errors: AtomicU32,
    window: Window,
}

/// What became of a request at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered.
    Good,
    /// It was answered with 500 to 599.
    Error,
    /// It was not answered.
    Failure,
    /// Its client gave up waiting for an answer.
    Abandoned,
}

/// A change of who is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// The endpoint is out of use.
    Ejected(Cause),
    /// It is back.
    Restored,
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Too many failures in a row.
    Failures,
    /// Too many answers of 500 to 599 in a row.
    Errors,
    /// Too few requests of late went well.
    Ratio,
    /// Too many failures in a row, the last of which was a client that gave up.
    Abandoned,
}

impl Cause {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Errors => "errors",
            Self::Ratio => "ratio",
            Self::Abandoned => "abandoned",
        }
    }

    fn of(bits: u64) -> Self {
        match bits {
            0 => Self::Failures,
            1 => Self::Errors,
            2 => Self::Ratio,
            _ => Self::Abandoned,
        }
    }
}

/// Where an endpoint stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ejection {
    phase: Phase,
    cause: Cause,
    /// Ejections in a row; fewer by one for each base time that it was in use since.
    times: u64,
    /// In milliseconds: since when it is in use, until when it is not, or when its time was over.
    at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    InUse,
    Ejected,
    /// A request is trying it.
    Tried,
}

const MOST_TIMES: u64 = 63;

impl Ejection {
    /// 2 bits of the phase, 2 of the cause, 6 of the times, then the time.
    fn of(word: u64) -> Self {
        let phase = match word >> 62 {
            0 => Phase::InUse,
            1 => Phase::Ejected,
            _ => Phase::Tried,
        };
        let (cause, times) = (Cause::of(word >> 60 & 3), word >> 54 & MOST_TIMES);
        Self { phase, cause, times, at: word & ((1 << 54) - 1) }
    }

    fn word(self) -> u64 {
        (self.phase as u64) << 62 | (self.cause as u64) << 60 | self.times << 54 | self.at & ((1 << 54) - 1)
    }

    /// Out of use from now on. `random` makes it last up to a tenth longer: gateways shall not try it in step.
    fn ejected(self, cause: Cause, rules: &PassiveHealth, now: u64, random: u64) -> Self {
        let times = match self.phase {
            Phase::InUse => self.times.saturating_sub((now - self.at.min(now)) / clock::of(rules.base_ejection).max(1)),
            Phase::Ejected | Phase::Tried => self.times,
        };
        let times = (times + 1).min(MOST_TIMES);
        let lasts = clock::of(rules.ejection(times as u32));
        let longer = (lasts / 10).checked_add(1).map_or(0, |most| random % most);
        Self { phase: Phase::Ejected, cause, times, at: now.saturating_add(lasts + longer) }
    }
}

impl Outlier {
    /// Whether it is out of use, a trying request aside.
    pub fn is_ejected(&self) -> bool {
        self.ejection().phase != Phase::InUse
    }

    /// When its time out of use is over; greater for those that have longer to go.
    pub(super) fn until(&self) -> u64 {
        self.ejection().at
    }

    /// Why it is out of use, for people.
    pub(super) fn reason(&self, rules: &PassiveHealth, now: Instant) -> Option<String> {
        let Ejection { phase, cause, times, at } = self.ejection();
        let wait = Duration::from_millis(at.saturating_sub(clock::millis(now))).as_secs();
        let then = match phase {
            Phase::InUse => return None,
            Phase::Tried => "a request is trying it".to_owned(),
            Phase::Ejected if wait == 0 => "the next request tries it".to_owned(),
            Phase::Ejected => format!("a request tries it in {wait} s"),
        };
        let cause = match (cause, &rules.success_ratio) {
            (Cause::Failures, _) => "requests to it failed in a row".to_owned(),
            (Cause::Abandoned, _) => "clients gave up waiting for it, in a row".to_owned(),
            (Cause::Errors, _) => "requests to it were answered with 5xx in a row".to_owned(),
            (Cause::Ratio, Some(ratio)) => format!("less than {} of the requests to it went well", ratio.min),
            (Cause::Ratio, None) => "too few of the requests to it went well".to_owned(),
        };
        let again = if times > 1 { format!(", ejected {times} times of late") } else { String::new() };
        Some(format!("{cause}{again}; {then}"))
    }

    fn ejection(&self) -> Ejection {
        Ejection::of(self.word.load(Relaxed))
    }

    /// Takes note of what became of a request. `alone`: it is the only endpoint, and so never ejected.
    pub(super) fn judge(
        &self,
        verdict: Verdict,
        rules: &PassiveHealth,
        alone: impl FnOnce() -> bool,
        now: impl FnOnce() -> Instant,
        random: impl FnOnce() -> u64,
    ) -> Option<Flip> {
        let word = self.word.load(Relaxed);
        let before = Ejection::of(word);
        if before.phase == Phase::InUse {
            if verdict == Verdict::Good && rules.success_ratio.is_none() {
                self.forget_rows();
                return None;
            }
            let now = now();
            let cause = self.count(verdict, rules, now)?;
            if alone() {
                return None;
            }
            return self.turn(word, before.ejected(cause, rules, clock::millis(now), random()));
        }
        // One that is used for want of others: when its time is over, every request tries it. What was sent to it
        // before says nothing new.
        let now = clock::millis(now());
        if before.phase == Phase::Tried || now < before.at {
            return None;
        }
        self.turn(word, before.tried(verdict, rules, now, random()))
    }

    /// Counts, and says what there is too much of.
    fn count(&self, verdict: Verdict, rules: &PassiveHealth, now: Instant) -> Option<Cause> {
        if let Some(ratio) = &rules.success_ratio {
            self.window.count(verdict == Verdict::Good, ratio.window, now);
        }
        let (row, most, cause) = match verdict {
            Verdict::Good => {
                self.forget_rows();
                return None;
            }
            Verdict::Error => {
                self.failures.store(0, Relaxed);
                (&self.errors, rules.consecutive_5xx, Cause::Errors)
            }
            Verdict::Failure => (&self.failures, rules.consecutive_failures, Cause::Failures),
            Verdict::Abandoned => (&self.failures, rules.consecutive_failures, Cause::Abandoned),
        };
        if most > 0 && row.fetch_add(1, Relaxed).saturating_add(1) >= most {
            return Some(cause);
        }
        let ratio = rules.success_ratio.as_ref()?;
        let counts = self.window.counts(ratio.window, now);
        let enough = counts.all() >= u64::from(ratio.min_requests);
        (enough && ratio.min.is_more_than(counts.good, counts.all())).then_some(Cause::Ratio)
    }

    fn forget_rows(&self) {
        for row in [&self.failures, &self.errors] {
            // Read first: all workers come here with every request, and nearly always there is nothing to do.
            if row.load(Relaxed) != 0 {
                row.store(0, Relaxed);
            }
        }
    }

    /// Moves from one word to the next, unless another worker has moved it meanwhile.
    fn turn(&self, before: u64, next: Ejection) -> Option<Flip> {
        self.word.compare_exchange(before, next.word(), Relaxed, Relaxed).ok()?;
        self.forget_rows();
        self.window.clear();
        Some(match next.phase {
            Phase::Ejected => Flip::Ejected(next.cause),
            Phase::InUse | Phase::Tried => Flip::Restored,
        })
    }
}

impl Ejection {
    /// What a request that tried it makes of it. What is not looked at does not count against it.
    fn tried(self, verdict: Verdict, rules: &PassiveHealth, now: u64, random: u64) -> Self {
        let errors_count = rules.consecutive_5xx > 0 || rules.success_ratio.is_some();
        let cause = match verdict {
            Verdict::Good => None,
            Verdict::Error => errors_count.then_some(Cause::Errors),
            Verdict::Failure => Some(Cause::Failures),
            Verdict::Abandoned => Some(Cause::Abandoned),
        };
        match cause {
            Some(_) => self.ejected(self.cause, rules, now, random),
            None => Self { phase: Phase::InUse, at: now, ..self },
        }
    }
}

/// The single request that tries an endpoint whose time is over. Dropped before anything became of it, it leaves the
/// trial to the next one.
#[derive(Debug)]
pub struct Trial {
    state: Arc<EndpointState>,
    word: u64,
}

impl Trial {
    /// Begins one, if the endpoint's time is over and no other request is trying it.
    pub fn begin(state: &Arc<EndpointState>, now: Instant) -> Option<Self> {
        let outlier = &state.outlier;
        let word = outlier.word.load(Relaxed);
        let ejection = Ejection::of(word);
        if ejection.phase != Phase::Ejected || clock::millis(now) < ejection.at {
            return None;
        }
        let tried = Ejection { phase: Phase::Tried, ..ejection }.word();
        outlier.word.compare_exchange(word, tried, Relaxed, Relaxed).ok()?;
        Some(Self { state: Arc::clone(state), word: tried })
    }

    /// Ends it with what became of the request.
    pub(super) fn end(self, verdict: Verdict, rules: &PassiveHealth, now: Instant, random: u64) -> Option<Flip> {
        let next = Ejection::of(self.word).tried(verdict, rules, clock::millis(now), random);
        self.state.outlier.turn(self.word, next)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Ended, the word is another.
        let again = Ejection { phase: Phase::Ejected, ..Ejection::of(self.word) }.word();
        let _ = self.state.outlier.word.compare_exchange(self.word, again, Relaxed, Relaxed);
    }
}

#[cfg(test)]
mod tests;
