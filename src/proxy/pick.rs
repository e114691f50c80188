//! Defines where a try goes: to an endpoint that is to be tried again, to one that is usable, or, at last, to one that
//! is out of use.

use std::sync::Arc;
use std::time::Instant;

use super::balance::{Pool, Wish};
use super::local::LocalUpstream;
use super::worker::Worker;
use crate::snapshot::{EndpointState, Trial};

/// Where a try goes.
pub(super) struct Picked {
    /// Among the upstream's endpoints.
    pub(super) index: u32,
    /// Held while this request alone tries the endpoint.
    pub(super) trial: Option<Trial>,
}

impl LocalUpstream {
    /// Picks an endpoint of a pool; none to be avoided while there are others. `None` when the pool is empty or full.
    pub(super) fn pick(&self, pool: &Pool, wish: Wish<'_>, now: Instant, worker: &Worker) -> Option<Picked> {
        if !pool.ejected.is_empty()
            && let Some(picked) = self.pick_ejected(pool, wish, now)
        {
            return Some(picked);
        }
        let index = pool.pick(wish, self, || worker.random())?;
        if pool.panics {
            self.panicked(&worker.stats);
        }
        Some(Picked { index, trial: None })
    }

    /// The first try of a request is what tries an endpoint: another endpoint then answers if that fails. And a request
    /// that no usable endpoint answered has nothing to lose at one that is out of use.
    fn pick_ejected(&self, pool: &Pool, wish: Wish<'_>, now: Instant) -> Option<Picked> {
        let tried = wish.avoid;
        let has_room = |index: u32| wish.most.is_none_or(|most| self.state(index).in_flight() < most);
        let mut ejected = pool.ejected.iter().filter(|index| has_room(**index));
        if tried.is_empty() {
            return ejected.find_map(|index| {
                let trial = Trial::begin(self.state(*index), now)?;
                Some(Picked { index: *index, trial: Some(trial) })
            });
        }
        if pool.has_others(tried) {
            return None;
        }
        let other = ejected.find(|index| !tried.contains(index));
        other.map(|index| Picked { index: *index, trial: None })
    }

    fn state(&self, index: u32) -> &Arc<EndpointState> {
        &self.endpoints[index as usize].state
    }
}
