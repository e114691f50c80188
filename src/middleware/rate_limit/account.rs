//! Defines what a gateway knows of a key that the whole fleet counts. Pure.
//!
//! The fleet's ledger has the key's theoretical arrival time. A gateway that saw requests of the key asks in the background
//! for as many as it is likely to see until it asks again; what it is granted is counted at once, and what it does not use
//! it gives back. A request that comes when nothing is granted passes as far as the last answer leaves room: of that each
//! gateway takes its part while it is short, and what passes so is charged with the next question. A key that the ledger
//! was not asked for yet may come up to a burst, and the question goes out at once: another gateway may have seen more of
//! it, whose requests then wait the longer.

use super::gcra::{Decision, Gcra};
use super::table::Place;
use super::{By, Told};
use crate::middleware::fleet::{Answer, Ask};
use crate::spec::middleware::limit::Without;

/// What holds for all keys of a limit now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The limit.
    pub(super) gcra: Gcra,
    /// Gateways.
    pub(super) gateways: u32,
    /// The ledger's session; 0: none.
    pub(super) session: u32,
    /// What holds then.
    pub(super) without: Without,
}

impl Terms {
    /// The part of the limit that is this gateway's.
    fn share(&self) -> Gcra {
        self.gcra.share(self.gateways)
    }
}

/// A key's account. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// In halves, which need no wider alignment.
    key: [u64; 2],
    /// Its theoretical arrival time as far as this gateway knows.
    arrival: u64,
    /// What holds of the ledger is of this session.
    session: u32,
    /// May pass, and is counted already.
    granted: u32,
    /// Passed, and is not.
    owed: u32,
    /// Came since the last question.
    wanted: u32,
    /// What was asked for.
    asked: u32,
    /// The ledger has answered.
    answered: bool,
    /// It gave all that was asked for.
    is_rich: bool,
    /// A question is due.
    is_listed: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) told: Told,
    pub(super) by: By,
    /// A question is due now that was not.
    pub(super) listed: bool,
    /// It is urgent.
    pub(super) urgent: bool,
}

impl Account {
    /// A request comes. `own`: the key has the account to itself, and can be asked for.
    pub(super) fn take(&mut self, terms: Terms, own: bool, now: u64) -> Taken {
        if !own || terms.session == 0 {
            self.enter(Terms { session: 0, ..terms }, now);
            let without = if own { terms.without } else { Without::Share };
            return self.alone(terms, without, now);
        }
        self.enter(terms, now);
        self.wanted = self.wanted.saturating_add(1);
        let interval = terms.gcra.interval();
        let decision = if self.granted > 0 {
            self.granted -= 1;
            Decision::Passes { arrival: self.arrival }
        } else if self.answered {
            let left = terms.gcra.left(self.arrival, now);
            let room = if self.is_rich { left } else { left / u64::from(terms.gateways.max(1)) };
            if u64::from(self.owed) < room {
                self.owed += 1;
                Decision::Passes { arrival: self.arrival }
            } else {
                let arrival = self.arrival.max(now).saturating_add(interval.saturating_mul(u64::from(self.owed)));
                terms.gcra.wait(arrival, now)
            }
        } else {
            let decision = terms.gcra.decide(self.arrival, now);
            if let Decision::Passes { arrival } = decision {
                self.arrival = arrival;
                self.owed = self.owed.saturating_add(1);
            }
            decision
        };
        let urgent = !self.answered || self.is_rich && self.granted == 0 && self.owed <= 1;
        let listed = !std::mem::replace(&mut self.is_listed, true);
        let left = terms.gcra.left(self.arrival, now).saturating_sub(u64::from(self.owed)) + u64::from(self.granted);
        let told = Told { decision, left, until: self.arrival.saturating_sub(now) };
        Taken { told, by: By::Redis, listed, urgent: urgent && (listed || self.answered) }
    }

    /// Without a ledger.
    fn alone(&mut self, terms: Terms, without: Without, now: u64) -> Taken {
        let (gcra, by) = match without {
            Without::Share => (terms.share(), By::Share),
            Without::Local => (terms.gcra, By::Local),
            Without::Open => (terms.gcra, By::Open),
            Without::Closed => (terms.gcra, By::Closed),
        };
        let decision = match without {
            Without::Share | Without::Local => gcra.decide(self.arrival, now),
            Without::Open => Decision::Passes { arrival: self.arrival },
            Without::Closed => Decision::TooEarly(1),
        };
        if let Decision::Passes { arrival } = decision {
            self.arrival = arrival;
            self.owed = self.owed.saturating_add(1);
        }
        let told = Told { decision, left: gcra.left(self.arrival, now), until: self.arrival.saturating_sub(now) };
        Taken { told, by, listed: false, urgent: false }
    }

    /// Another session: what was granted was of the former.
    fn enter(&mut self, terms: Terms, now: u64) {
        if self.session == terms.session {
            return;
        }
        if self.session != 0 {
            if self.answered {
                self.arrival = terms.gcra.after(self.arrival, u64::from(self.owed), now);
            }
        } else {
            // Of what passed meanwhile counts what still keeps others waiting.
            let of_each = match terms.without {
                Without::Share => terms.share(),
                Without::Local | Without::Open | Without::Closed => terms.gcra,
            };
            let counts = self.arrival.saturating_sub(now).div_ceil(of_each.interval());
            self.owed = self.owed.min(u32::try_from(counts).unwrap_or(u32::MAX));
        }
        self.session = terms.session;
        (self.granted, self.wanted, self.answered, self.is_rich) = (0, 0, false, false);
    }

    /// What is to be asked; `None`: nothing more.
    pub(super) fn ask(&mut self, terms: Terms, now: u64) -> Option<Ask> {
        self.enter(terms, now);
        if self.owed == 0 && self.wanted == 0 && self.granted == 0 {
            self.is_listed = false;
            return None;
        }
        let mut charge = i64::from(self.owed);
        self.asked = 0;
        if self.wanted == 0 {
            charge -= i64::from(self.granted);
            self.granted = 0;
        } else {
            // A little more than came of late.
            let likely = self.wanted.saturating_add(self.wanted / 4).saturating_add(1);
            self.asked = likely.saturating_sub(self.granted);
        }
        if self.answered {
            self.arrival = terms.gcra.after(self.arrival, u64::from(self.owed), now);
        }
        (self.owed, self.wanted) = (0, 0);
        Some(Ask { key: self.number(), charge, want: self.asked })
    }

    /// Nobody is there to be asked.
    pub(super) fn asks_no_more(&mut self) {
        (self.is_listed, self.granted) = (false, 0);
    }

    /// The ledger answers, in a session.
    pub(super) fn answer(&mut self, answer: Answer, session: u32, now: u64) {
        if self.session == session {
            self.granted = self.granted.saturating_add(answer.granted);
            self.arrival = now.saturating_add(answer.ahead);
            self.is_rich = answer.granted >= self.asked;
            self.answered = true;
        }
    }

    /// The ledger does not answer the question. It may have counted what it was told all the same; it is told again, since
    /// a request that counts twice does less harm than many that nobody counts.
    pub(super) fn unanswered(&mut self, ask: &Ask, terms: Terms, now: u64) {
        if self.session == terms.session {
            self.enter(Terms { session: 0, ..terms }, now);
        }
        self.owed = self.owed.saturating_add(u32::try_from(ask.charge).unwrap_or_default());
    }

    fn number(&self) -> u128 {
        u128::from(self.key[0]) << 64 | u128::from(self.key[1])
    }
}

impl Place for Account {
    type Key = u128;

    fn of(key: u128) -> Self {
        Self { key: [(key >> 64) as u64, key as u64], ..Self::default() }
    }

    fn key(&self) -> u128 {
        self.number()
    }

    fn is_free(&self, now: u64) -> bool {
        !self.is_listed && self.arrival <= now && self.granted == 0
    }
}

#[cfg(test)]
mod tests;
