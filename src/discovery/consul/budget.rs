//! Defines how many queries may be blocked at once, and on which connection each is.
//!
//! An agent closes what a client opens beyond 200 connections (`limits.http_max_conns_per_client`), whoever else on
//! the machine needs one; over HTTP/2 a server takes 250 streams a connection, and more would wait unseen.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The blocked queries of a provider.
#[derive(Debug)]
pub(super) struct Budget {
    most: u16,
    /// Whether an address with TLS speaks HTTP/1.1 alone.
    without_http2: AtomicBool,
    /// How many are on each lane; the last lane is the connection of short reads.
    lanes: Mutex<Vec<u16>>,
}

/// The right to one blocked query; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    budget: Arc<Budget>,
    lane: usize,
}

/// Over HTTP/1.1: half of what an agent allows a client.
const HTTP1: u16 = 100;
/// On a connection of HTTP/2 that has blocked queries alone.
const LANE: u16 = 240;
/// On the connection of short reads.
const SHARED: u16 = 200;
/// Connections of HTTP/2 for blocked queries alone.
const OWN_LANES: u16 = 2;

impl Budget {
    /// A budget of at most so many, by default what the protocol allows.
    pub(super) fn new(tls: bool, most: Option<u16>) -> Arc<Self> {
        let (usual, lanes) = if tls { (OWN_LANES * LANE + SHARED, lanes_for(most)) } else { (HTTP1, 1) };
        Arc::new(Self {
            most: most.unwrap_or(usual),
            without_http2: AtomicBool::new(false),
            lanes: Mutex::new(vec![0; usize::from(lanes)]),
        })
    }

    /// How many clients blocked queries need beside that of short reads.
    pub(super) fn own_lanes(&self) -> usize {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).len();
        (lanes - 1).max(1)
    }

    /// The right to one more, if there is any left.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let most = if self.without_http2.load(Relaxed) { self.most.min(HTTP1) } else { self.most };
        if lanes.iter().sum::<u16>() >= most {
            return None;
        }
        let last = lanes.len() - 1;
        let room = |lane: usize| match (last, lane == last) {
            (0, _) => u16::MAX,
            (_, true) => SHARED,
            (_, false) => LANE,
        };
        let lane = (0..lanes.len()).find(|lane| lanes[*lane] < room(*lane))?;
        lanes[lane] += 1;
        Some(Permit { budget: Arc::clone(self), lane })
    }

    /// An answer over TLS came by HTTP/1.1: each blocked query needs a connection of its own there.
    pub(super) fn has_no_http2(&self) {
        self.without_http2.store(true, Relaxed);
    }
}

fn lanes_for(most: Option<u16>) -> u16 {
    most.map_or(OWN_LANES, |most| most.saturating_sub(SHARED).div_ceil(LANE).max(1)) + 1
}

impl Permit {
    /// The lane it is for; one beyond the clients of blocked queries is that of short reads.
    pub(super) fn lane(&self) -> usize {
        self.lane
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.lanes.lock().unwrap_or_else(PoisonError::into_inner)[self.lane] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(budget: &Arc<Budget>) -> Vec<Permit> {
        std::iter::from_fn(|| budget.take()).collect()
    }

    fn lanes(permits: &[Permit]) -> Vec<usize> {
        let mut counts = vec![0; permits.iter().map(|permit| permit.lane + 1).max().unwrap_or(0)];
        permits.iter().for_each(|permit| counts[permit.lane] += 1);
        counts
    }

    #[test]
    fn plain_http_has_a_hundred_and_a_place_is_free_again_when_its_watch_ends() {
        let budget = Budget::new(false, None);
        let mut permits = all(&budget);
        assert_eq!((lanes(&permits), budget.own_lanes()), (vec![100], 1));
        permits.pop();
        assert!(budget.take().is_some());
    }

    #[test]
    fn http2_fills_two_connections_and_then_that_of_short_reads() {
        let budget = Budget::new(true, None);
        assert_eq!((lanes(&all(&budget)), budget.own_lanes()), (vec![240, 240, 200], 2));
        budget.has_no_http2();
        assert_eq!(all(&budget).len(), 100);
    }

    #[test]
    fn operators_may_want_more_or_fewer() {
        for (tls, most, own) in [(false, 3, 1), (true, 3, 1), (true, 1000, 4), (false, 1000, 1)] {
            let budget = Budget::new(tls, Some(most));
            assert_eq!((all(&budget).len(), budget.own_lanes()), (usize::from(most), own), "{tls} {most}");
        }
    }
}
