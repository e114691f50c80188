//! Defines whether a request is tried again: by what its tries came to, and how many there were. Pure.

use std::time::Duration;

use crate::spec::retry::{Condition, Retry};

/// The tries of one exchange that failed.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Where, among the upstream's endpoints.
    tried: Vec<u32>,
    /// Those that may have reached a service.
    sent: u32,
    /// One of them was on a kept connection that its endpoint closed as the request came.
    stale: bool,
}

/// What a try came to that asks for another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) condition: Condition,
    /// Nothing of the request was sent.
    pub(super) unsent: bool,
    /// It was sent on a kept connection, which ended without a word: the endpoint had closed it already, it seems.
    pub(super) stale: bool,
}

/// Whether a request may reach services twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeatable {
    Yes,
    /// Its method forbids it, or it asks for an upgrade.
    No,
    /// It could be, but its body was too large to keep.
    BodyGone,
}

/// What follows on an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another try, which the budget must allow where it `costs`.
    Again { costs: bool },
    /// The outcome is the answer: nothing asks for another try.
    Over,
    /// The outcome is the answer: no more tries are allowed.
    UsedUp,
    /// The outcome is the answer: the body cannot be sent again.
    BodyGone,
}

impl Tries {
    /// Endpoints that others go before.
    pub(super) fn tried(&self) -> &[u32] {
        &self.tried
    }

    /// Whether kept connections are not to be trusted any more: those of other endpoints may be as old.
    pub(super) fn wants_fresh(&self) -> bool {
        self.stale
    }

    /// Takes note of a try at an endpoint, and says what follows.
    pub(super) fn failed(&mut self, endpoint: u32, outcome: Outcome, retry: &Retry, repeatable: Repeatable) -> Next {
        self.tried.push(endpoint);
        if outcome.unsent {
            return self.after_unsent(outcome.condition, retry);
        }
        if outcome.condition == Condition::RefusedStream {
            return match repeatable {
                Repeatable::BodyGone if retry.attempts > 0 && asks(retry, outcome.condition) => Next::BodyGone,
                Repeatable::BodyGone => Next::Over,
                Repeatable::Yes | Repeatable::No => self.after_unsent(outcome.condition, retry),
            };
        }
        self.sent += 1;
        // RFC 9112, 9.3.1, lets an idempotent request be sent again when its connection closes under it; that is part
        // of keeping connections, and not the endpoint's fault. Once: a request that kills its service must not meet
        // it on every kept connection.
        let excused = outcome.stale && !self.stale;
        self.stale |= outcome.stale;
        let asked_for = retry.attempts > 0 && asks(retry, outcome.condition);
        match repeatable {
            Repeatable::No => Next::Over,
            _ if !asked_for && !excused => Next::Over,
            Repeatable::BodyGone => Next::BodyGone,
            Repeatable::Yes if self.sent > retry.attempts.max(1) => Next::UsedUp,
            Repeatable::Yes if excused => Next::Again { costs: false },
            Repeatable::Yes if self.is_used_up(retry) => Next::UsedUp,
            Repeatable::Yes => Next::Again { costs: true },
        }
    }

    /// No service got the request, so that another try is no further load: it costs nothing of the budget.
    fn after_unsent(&self, condition: Condition, retry: &Retry) -> Next {
        // A connection that ends before anything is sent is as good as none.
        let none = condition != Condition::RefusedStream && asks(retry, Condition::Connect);
        let asked_for = none || asks(retry, condition);
        match asked_for && retry.attempts > 0 {
            false => Next::Over,
            true if self.is_used_up(retry) => Next::UsedUp,
            true => Next::Again { costs: false },
        }
    }

    fn is_used_up(&self, retry: &Retry) -> bool {
        let made = self.tried.len() as u32 - u32::from(self.stale);
        made > retry.attempts
    }

    /// How long to wait before the next try: not at all where the last one reached nobody and others are left.
    /// `usable`: endpoints to pick from.
    pub(super) fn wait(&self, outcome: Outcome, retry: &Retry, usable: usize, random: u64) -> Duration {
        if outcome.stale || outcome.unsent && self.tried.len() < usable {
            return Duration::ZERO;
        }
        retry.backoff.wait(self.tried.len() as u32, random)
    }
}

/// Whether a route wants another try after this. `outcome` has looked a status up already.
fn asks(retry: &Retry, condition: Condition) -> bool {
    matches!(condition, Condition::Status(_)) || retry.on.contains(&condition)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONNECT: Outcome = Outcome { condition: Condition::Connect, unsent: true, stale: false };
    const RESET: Outcome = Outcome { condition: Condition::Reset, unsent: false, stale: false };
    const STALE: Outcome = Outcome { stale: true, ..RESET };
    const UNSENT: Outcome = Outcome { condition: Condition::Reset, unsent: true, stale: false };
    const REFUSED: Outcome = Outcome { condition: Condition::RefusedStream, unsent: false, stale: false };
    const BUSY: Outcome = Outcome { condition: Condition::Status(503), unsent: false, stale: false };
    const LATE: Outcome = Outcome { condition: Condition::PerTryTimeout, unsent: false, stale: false };

    /// What follows on each outcome: `.` another try, `$` one that costs, `|` over, `x` used up, `b` the body is gone.
    fn follows(retry: &Retry, repeatable: Repeatable, outcomes: &[Outcome]) -> String {
        let mut tries = Tries::default();
        let letter = |outcome: &Outcome| match tries.failed(0, *outcome, retry, repeatable) {
            Next::Again { costs: false } => '.',
            Next::Again { costs: true } => '$',
            Next::Over => '|',
            Next::UsedUp => 'x',
            Next::BodyGone => 'b',
        };
        outcomes.iter().map(letter).collect()
    }

    fn attempts(attempts: u32) -> Retry {
        Retry { attempts, ..Retry::default() }
    }

    #[test]
    fn what_was_not_sent_is_tried_again_by_any_method_and_for_nothing() {
        for repeatable in [Repeatable::Yes, Repeatable::No, Repeatable::BodyGone] {
            assert_eq!(follows(&attempts(2), repeatable, &[CONNECT, UNSENT, CONNECT]), "..x");
            assert_eq!(follows(&attempts(0), repeatable, &[CONNECT]), "|");
            let on = [Condition::PerTryTimeout].into();
            assert_eq!(follows(&Retry { on, ..attempts(2) }, repeatable, &[CONNECT]), "|");
        }
    }

    #[test]
    fn what_was_sent_is_repeated_only_where_that_does_no_harm() {
        assert_eq!(follows(&attempts(2), Repeatable::Yes, &[RESET, RESET, RESET]), "$$x");
        assert_eq!(follows(&attempts(2), Repeatable::No, &[RESET]), "|");
        assert_eq!(follows(&attempts(2), Repeatable::BodyGone, &[RESET]), "b");
        assert_eq!(follows(&attempts(2), Repeatable::Yes, &[LATE]), "|", "not asked for");
        assert_eq!(follows(&attempts(1), Repeatable::Yes, &[BUSY, BUSY]), "$x");
        assert_eq!(follows(&attempts(0), Repeatable::Yes, &[RESET]), "|");
    }

    #[test]
    fn what_an_endpoint_has_not_begun_with_is_tried_again_while_its_body_is_there() {
        for repeatable in [Repeatable::Yes, Repeatable::No] {
            assert_eq!(follows(&attempts(2), repeatable, &[REFUSED, REFUSED, REFUSED]), "..x");
            assert_eq!(follows(&attempts(0), repeatable, &[REFUSED]), "|");
            let on = [Condition::Connect, Condition::Reset].into();
            assert_eq!(follows(&Retry { on, ..attempts(2) }, repeatable, &[REFUSED]), "|");
        }
        assert_eq!(follows(&attempts(2), Repeatable::BodyGone, &[REFUSED]), "b");
        assert_eq!(follows(&attempts(1), Repeatable::Yes, &[REFUSED, RESET]), ".x", "within the same number");
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_excused_once() {
        assert_eq!(follows(&attempts(0), Repeatable::Yes, &[STALE, RESET]), ".|");
        assert_eq!(follows(&attempts(0), Repeatable::No, &[STALE]), "|");
        assert_eq!(follows(&attempts(1), Repeatable::Yes, &[STALE, RESET]), ".x", "twice at a service is enough");
        assert_eq!(follows(&attempts(1), Repeatable::Yes, &[STALE, CONNECT, RESET]), "..x");
        assert_eq!(follows(&attempts(2), Repeatable::Yes, &[STALE, STALE, STALE]), ".$x");
    }

    #[test]
    fn only_who_reached_nobody_and_can_go_elsewhere_does_not_wait() {
        let mut tries = Tries::default();
        let retry = attempts(3);
        tries.failed(0, CONNECT, &retry, Repeatable::Yes);
        assert_eq!(tries.wait(CONNECT, &retry, 2, u64::MAX), Duration::ZERO);
        assert_eq!(tries.wait(RESET, &retry, 2, u64::MAX), Duration::from_millis(25));
        tries.failed(1, CONNECT, &retry, Repeatable::Yes);
        assert_eq!(tries.wait(CONNECT, &retry, 2, u64::MAX), Duration::from_millis(50), "nobody else is left");
    }

    proptest! {
        #[test]
        fn services_get_a_request_no_more_often_than_was_allowed(
            allowed in 0u32..=10,
            outcomes in prop::collection::vec(prop::sample::select(vec![CONNECT, RESET, STALE, UNSENT, BUSY]), 1..40),
            repeatable in prop::sample::select(vec![Repeatable::Yes, Repeatable::No, Repeatable::BodyGone]),
        ) {
            let (retry, mut tries, mut sent, mut made) = (attempts(allowed), Tries::default(), 0, 0);
            for outcome in outcomes {
                made += 1;
                sent += u32::from(!outcome.unsent);
                if !matches!(tries.failed(0, outcome, &retry, repeatable), Next::Again { .. }) {
                    break;
                }
            }
            let may_repeat = repeatable == Repeatable::Yes;
            let most = if may_repeat { 1 + allowed.max(1) } else { 1 };
            prop_assert!(sent <= most);
            prop_assert!(made <= 2 + allowed);
        }
    }
}
