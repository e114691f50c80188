//! Defines how many queries may be blocked at once, whose they are, and on which connection each is.
//!
//! An agent closes what a client opens beyond 200 connections (`limits.http_max_conns_per_client`), whoever else on
//! the machine needs one; over HTTP/2 a server takes 250 streams a connection, and more would wait unseen. Where there are
//! more sources than places, those used last have them: the others are read now and then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::discovery::state::Uses;
use crate::spec::source::Source;

/// The blocked queries of a provider.
#[derive(Debug)]
pub(super) struct Budget {
    most: u16,
    /// Whether an address with TLS speaks HTTP/1.1 alone.
    without_http2: AtomicBool,
    places: Mutex<Places>,
}

/// Who wants to be blocked, and who may.
#[derive(Debug)]
struct Places {
    /// How many are on each lane; the last lane is the connection of short reads.
    lanes: Vec<u16>,
    /// By when they came.
    claims: BTreeMap<u64, Claimed>,
    next: u64,
}

#[derive(Debug)]
struct Claimed {
    source: Source,
    used: Option<Instant>,
    /// When it got its place.
    since: Instant,
    /// Its lane, where it has a place.
    lane: watch::Sender<Option<usize>>,
}

/// A source's claim to a blocked query; given up when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    budget: Arc<Budget>,
    key: u64,
    lane: watch::Receiver<Option<usize>>,
}

/// Over HTTP/1.1: half of what an agent allows a client.
const HTTP1: u16 = 100;
/// On a connection of HTTP/2 that has blocked queries alone.
const LANE: u16 = 240;
/// On the connection of short reads.
const SHARED: u16 = 200;
/// Connections of HTTP/2 for blocked queries alone.
const OWN_LANES: u16 = 4;
/// So many of them are filled before that of short reads is: what fits there needs no further one.
const FIRST_LANES: usize = 2;
/// A place is given to another source that was used so much later than its holder, or than the holder got it: sources that
/// are used alike, and more often than that, never take turns.
const LATER: Duration = Duration::from_secs(15);
/// How many places pass to others at most each time it is told what is used, which is every five seconds. Sources that are
/// used more seldom than [`LATER`] do take turns, and over HTTP/1.1 each turn costs the agent a connection.
const TURNS: usize = 4;

impl Budget {
    /// A budget of at most so many, by default what the protocol allows.
    pub(super) fn new(tls: bool, most: Option<u16>) -> Arc<Self> {
        let (usual, lanes) = if tls { (OWN_LANES * LANE + SHARED, lanes_for(most)) } else { (HTTP1, 1) };
        let places = Places { lanes: vec![0; usize::from(lanes)], claims: BTreeMap::new(), next: 0 };
        Arc::new(Self {
            most: most.unwrap_or(usual),
            without_http2: AtomicBool::new(false),
            places: Mutex::new(places),
        })
    }

    /// How many clients blocked queries need beside that of short reads.
    pub(super) fn own_lanes(&self) -> usize {
        let lanes = self.places.lock().unwrap_or_else(PoisonError::into_inner).lanes.len();
        (lanes - 1).max(1)
    }

    /// A claim of a source that was never used; it has a place at once if one is free.
    pub(super) fn claim(self: &Arc<Self>, source: Source) -> Claim {
        let now = Instant::now();
        let (lane, lanes) = watch::channel(None);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = places.next;
        places.next += 1;
        places.claims.insert(key, Claimed { source, used: None, since: now, lane });
        // It takes no place from anybody.
        if places.taken() < self.most() {
            places.give(key, now);
        }
        drop(places);
        Claim { budget: Arc::clone(self), key, lane: lanes }
    }

    /// When sources were last used.
    pub(super) fn used(&self, uses: &Uses, now: Instant) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for claimed in places.claims.values_mut() {
            claimed.used = uses.get(&claimed.source).copied().or(claimed.used);
        }
        self.deal(&mut places, now);
        for _ in 0..TURNS {
            if !places.pass_on(now) {
                break;
            }
        }
    }

    /// An answer over TLS came by HTTP/1.1: each blocked query needs a connection of its own there.
    pub(super) fn has_no_http2(&self) {
        if !self.without_http2.swap(true, Relaxed) {
            self.deal(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        }
    }

    fn most(&self) -> u16 {
        if self.without_http2.load(Relaxed) { self.most.min(HTTP1) } else { self.most }
    }

    /// Gives away the places that are free, and takes back those that are too many.
    fn deal(&self, places: &mut Places, now: Instant) {
        let most = self.most();
        while places.taken() > most && places.take_from_the_oldest() {}
        while places.taken() < most {
            let Some((waiting, _)) = places.waiting() else { return };
            if !places.give(waiting, now) {
                return;
            }
        }
    }
}

impl Places {
    fn taken(&self) -> u16 {
        self.lanes.iter().sum()
    }

    /// Who is next to get a place, and when it was last used: the later the sooner, and who came first.
    fn waiting(&self) -> Option<(u64, Option<Instant>)> {
        let waiting = self.claims.iter().rev().filter(|(_, claimed)| claimed.lane.borrow().is_none());
        waiting.max_by_key(|(_, claimed)| claimed.used).map(|(key, claimed)| (*key, claimed.used))
    }

    /// Who is next to lose its place, and when it was last used or got it.
    fn oldest(&self) -> Option<(u64, Instant)> {
        let holding = self.claims.iter().rev().filter(|(_, claimed)| claimed.lane.borrow().is_some());
        let last = |claimed: &Claimed| claimed.used.map_or(claimed.since, |used| used.max(claimed.since));
        holding.map(|(key, claimed)| (*key, last(claimed))).min_by_key(|(_, last)| *last)
    }

    /// Gives a place of one that was not used for long to one that was; whether there were such.
    fn pass_on(&mut self, now: Instant) -> bool {
        let (Some((waiting, Some(used))), Some((_, held))) = (self.waiting(), self.oldest()) else { return false };
        used >= held + LATER && self.take_from_the_oldest() && self.give(waiting, now)
    }

    fn give(&mut self, key: u64, now: Instant) -> bool {
        let last = self.lanes.len() - 1;
        let room = |lane: usize| match (last, lane == last) {
            (0, _) => u16::MAX,
            (_, true) => SHARED,
            (_, false) => LANE,
        };
        let first = FIRST_LANES.min(last);
        let in_order = (0..first).chain([last]).chain(first..last);
        let lane = in_order.into_iter().find(|lane| self.lanes[*lane] < room(*lane));
        let (Some(lane), Some(claimed)) = (lane, self.claims.get_mut(&key)) else { return false };
        self.lanes[lane] += 1;
        claimed.since = now;
        claimed.lane.send_replace(Some(lane));
        true
    }

    fn take_from_the_oldest(&mut self) -> bool {
        let Some((key, _)) = self.oldest() else { return false };
        if let Some(lane) = self.claims.get(&key).and_then(|claimed| claimed.lane.send_replace(None)) {
            self.lanes[lane] -= 1;
        }
        true
    }
}

fn lanes_for(most: Option<u16>) -> u16 {
    most.map_or(OWN_LANES, |most| most.saturating_sub(SHARED).div_ceil(LANE).max(1)) + 1
}

impl Claim {
    /// The lane of its place; `None`: it has none. One beyond the clients of blocked queries is that of short reads.
    pub(super) fn lane(&mut self) -> Option<usize> {
        *self.lane.borrow_and_update()
    }

    /// Waits until it has got a place, another or none since it was last asked.
    pub(super) async fn changed(&mut self) {
        if self.lane.changed().await.is_err() {
            // Its sender lives as long as it does.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut places = self.budget.places.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = places.claims.remove(&self.key);
        if let Some(lane) = gone.and_then(|gone| *gone.lane.borrow()) {
            places.lanes[lane] -= 1;
            self.budget.deal(&mut places, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::source::ConsulService;

    fn source(number: usize) -> Source {
        Source::Consul(ConsulService::named(format!("s{number}")))
    }

    fn claims(budget: &Arc<Budget>, count: usize) -> Vec<Claim> {
        (0..count).map(|number| budget.claim(source(number))).collect()
    }

    /// How many are on each lane.
    fn lanes(claims: &mut [Claim]) -> Vec<usize> {
        let lanes: Vec<usize> = claims.iter_mut().filter_map(Claim::lane).collect();
        (0..lanes.iter().max().map_or(0, |most| most + 1))
            .map(|lane| lanes.iter().filter(|it| **it == lane).count())
            .collect()
    }

    /// Which of them have places.
    fn placed(claims: &mut [Claim]) -> Vec<usize> {
        let placed = claims.iter_mut().enumerate().filter_map(|(number, claim)| claim.lane().map(|_| number));
        placed.collect()
    }

    #[test]
    fn plain_http_has_a_hundred_and_a_place_is_free_again_when_its_watch_ends() {
        let budget = Budget::new(false, None);
        let mut all = claims(&budget, 102);
        assert_eq!((lanes(&mut all), budget.own_lanes()), (vec![100], 1));
        assert_eq!((all[100].lane(), all[101].lane()), (None, None));
        all.remove(3);
        assert_eq!((all[99].lane(), all[100].lane()), (Some(0), None), "who came first is next");
    }

    #[test]
    fn http2_fills_two_connections_then_that_of_short_reads_and_then_others() {
        let budget = Budget::new(true, None);
        let mut all = claims(&budget, 500);
        assert_eq!((lanes(&mut all), budget.own_lanes()), (vec![240, 240, 0, 0, 20], 4));
        all.extend(claims(&budget, 700));
        assert_eq!(lanes(&mut all), [240, 240, 240, 240, 200]);
        budget.has_no_http2();
        assert_eq!(lanes(&mut all).iter().sum::<usize>(), 100);
    }

    #[test]
    fn operators_may_want_more_or_fewer() {
        for (tls, most, own) in [(false, 3, 1), (true, 3, 1), (true, 1000, 4), (false, 1000, 1)] {
            let budget = Budget::new(tls, Some(most));
            let mut all = claims(&budget, 1200);
            assert_eq!((placed(&mut all).len(), budget.own_lanes()), (usize::from(most), own), "{tls} {most}");
        }
    }

    #[test]
    fn who_is_used_has_a_place_and_who_are_used_alike_do_not_take_turns() {
        let budget = Budget::new(false, Some(2));
        let mut all = claims(&budget, 4);
        assert_eq!(placed(&mut all), [0, 1]);
        let began = Instant::now();
        let uses = |budget: &Budget, used: &[(usize, u64)], now: u64| {
            let at = |seconds| began + Duration::from_secs(seconds);
            let uses = used.iter().map(|(number, seconds)| (source(*number), at(*seconds))).collect();
            budget.used(&uses, at(now));
        };
        uses(&budget, &[(3, 10)], 10);
        assert_eq!(placed(&mut all), [0, 1], "they have not had their places for long");
        uses(&budget, &[(3, 20), (0, 20)], 20);
        assert_eq!(placed(&mut all), [0, 3]);
        for now in [25, 30, 35, 40] {
            uses(&budget, &[(0, now), (1, now), (2, now), (3, now)], now);
            assert_eq!(placed(&mut all), [0, 3]);
        }
        uses(&budget, &[(0, 60), (1, 60)], 60);
        assert_eq!(placed(&mut all), [0, 1], "3 was not used for as long as it takes");
        drop(all.remove(0));
        assert_eq!(placed(&mut all), [0, 1], "1, and of those who wait 2: both were used at once, and it came first");
    }

    #[test]
    fn places_pass_on_a_few_at_a_time() {
        let budget = Budget::new(false, None);
        let mut all = claims(&budget, 260);
        let began = Instant::now();
        for (look, passed) in [(20, 4), (25, 8), (30, 12)] {
            let now = began + Duration::from_secs(look);
            budget.used(&(100..260).map(|number| (source(number), now)).collect(), now);
            let placed = placed(&mut all);
            assert_eq!((placed.len(), placed.iter().filter(|number| **number >= 100).count()), (100, passed));
        }
        drop(all.remove(99));
        assert_eq!(placed(&mut all).iter().filter(|number| **number >= 99).count(), 13, "its place alone");
    }
}
