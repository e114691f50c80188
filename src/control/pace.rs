//! Defines when a change is published: a first one at once, a burst coalesced, a removal without waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::state::{ProviderState, SourceState};
use crate::spec::endpoint::{Address, EndpointSpec, Penalty, RegistryStatus};

/// Between two publications at first.
const FIRST_WINDOW: Duration = Duration::from_millis(25);
/// Between two publications when changes do not cease.
const LAST_WINDOW: Duration = Duration::from_millis(500);
/// Removals that may go out without waiting, at once and each second.
const REMOVALS: f64 = 20.0;

/// The pace of publications.
#[derive(Debug)]
pub(super) struct Pace {
    published: Option<Instant>,
    window: Duration,
    removals: f64,
    refilled: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { published: None, window: FIRST_WINDOW, removals: REMOVALS, refilled: now }
    }

    /// When a change seen now goes out. `urgent`: it takes an endpoint away, and every request sent there fails.
    pub(super) fn publish_at(&mut self, now: Instant, urgent: bool) -> Instant {
        let refill = now.saturating_duration_since(self.refilled).as_secs_f64() * REMOVALS;
        self.removals = (self.removals + refill).min(REMOVALS);
        self.refilled = now;
        let turn = self.published.map_or(now, |published| now.max(published + self.window));
        if urgent && turn > now && self.removals >= 1.0 {
            self.removals -= 1.0;
            return now;
        }
        turn
    }

    /// Something went out. While publications follow each other closely, each waits twice as long as the one before.
    pub(super) fn published(&mut self, now: Instant) {
        let close = self.published.is_some_and(|before| now.saturating_duration_since(before) < 2 * LAST_WINDOW);
        self.window = if close { (self.window * 2).min(LAST_WINDOW) } else { FIRST_WINDOW };
        self.published = Some(now);
    }
}

/// Whether a state takes an endpoint out of use that the one before had in use.
pub(super) fn takes_away(before: &ProviderState, after: &ProviderState) -> bool {
    after.changed_sources(before).into_iter().any(|source| {
        // One that is not in both is new, or no upstream wants it any more.
        let (Some(known), Some(now)) = (before.sources.get(source), after.sources.get(source)) else { return false };
        // Nobody sends requests to who waits for its penalty to decay.
        loses(known, now, before.kept.penalties.get(source).map(|penalties| &**penalties))
    })
}

fn loses(before: &SourceState, after: &SourceState, penalties: Option<&BTreeMap<Address, Penalty>>) -> bool {
    let damped = |endpoint: &EndpointSpec| {
        penalties.and_then(|all| all.get(&endpoint.address)).is_some_and(|penalty| penalty.damped)
    };
    let in_use = |endpoint: &&EndpointSpec| {
        endpoint.weight > 0 && !matches!(endpoint.status, RegistryStatus::Critical | RegistryStatus::Maintenance)
    };
    let after: std::collections::HashSet<_> =
        after.endpoints.iter().filter(in_use).map(|endpoint| (&endpoint.address, &endpoint.id)).collect();
    let used = before.endpoints.iter().filter(in_use).filter(|endpoint| !damped(endpoint));
    used.into_iter().any(|endpoint| !after.contains(&(&endpoint.address, &endpoint.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_lone_change_goes_out_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for second in 0..5 {
            let now = start + Duration::from_secs(second * 2);
            assert_eq!(pace.publish_at(now, false), now);
            pace.published(now);
        }
    }

    #[test]
    fn a_burst_is_coalesced_ever_more() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let (mut publications, mut due) = (0, None);
        // 1,000 changes a second for 5 seconds.
        for tick in 0..5_000 {
            let now = start + MS * tick;
            let at = pace.publish_at(now, false);
            let at = due.map_or(at, |due: Instant| due.min(at));
            due = Some(at);
            if at <= now {
                pace.published(now);
                publications += 1;
                due = None;
            }
        }
        assert!((10..=20).contains(&publications), "{publications}");
    }

    #[test]
    fn removals_do_not_wait_until_their_bucket_is_empty() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.published(start);
        for _ in 0..20 {
            assert_eq!(pace.publish_at(start, true), start);
            pace.published(start);
        }
        assert!(pace.publish_at(start, true) > start);
        let later = start + MS * 51;
        assert_eq!(pace.publish_at(later, true), later, "a twentieth of a second buys one more");
    }
}
