//! Defines how one endpoint is picked among the usable ones of an upstream or subset, on one worker.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::snapshot::{Upstream, Usable};
use crate::spec::endpoint::Labels;
use crate::spec::upstream::Balance;

/// The usable endpoints of an upstream or subset, ready to pick from. Made anew when usability changes.
#[derive(Debug)]
pub(super) struct Pool {
    members: Vec<Member>,
    /// `ends[i]` is the sum of the weights up to and with member i, for draws by weight.
    ends: Vec<u64>,
    turn: Option<RefCell<Turn>>,
    /// Those that requests ejected.
    pub(super) ejected: Vec<u32>,
    /// The members are ejected, too: everything looks bad.
    pub(super) panics: bool,
}

/// A usable endpoint.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// Its position among the upstream's endpoints.
    index: u32,
    weight: u16,
}

/// Up to so many endpoints the least busy one is found by looking at all of them.
const LOOK_AT_ALL: usize = 16;

impl Pool {
    /// The pool of those of an upstream's endpoints that are usable now and have the selector's labels.
    pub(super) fn new(upstream: &Upstream, selector: Option<&Labels>, random: impl FnMut() -> u64) -> Self {
        let Usable { indexes, ejected, panic } = upstream.choose(selector);
        let members: Vec<Member> = indexes
            .into_iter()
            .map(|index| Member { index, weight: upstream.endpoints[index as usize].weight })
            .collect();
        let ends = members
            .iter()
            .scan(0u64, |sum, member| {
                *sum += u64::from(member.weight);
                Some(*sum)
            })
            .collect();
        let turn = match upstream.settings.balance {
            Balance::RoundRobin => Some(RefCell::new(Turn::new(&members, random))),
            Balance::LeastRequests => None,
        };
        Self { members, ends, turn, ejected, panics: panic }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Members, and those that are ejected.
    pub(super) fn len(&self) -> usize {
        self.members.len() + self.ejected.len()
    }

    /// Whether there are members not among these.
    pub(super) fn has_others(&self, than: &[u32]) -> bool {
        self.members.iter().any(|member| !than.contains(&member.index))
    }

    /// Picks an endpoint not among `avoid`, or any when all are to be avoided. `busy` is an endpoint's number of
    /// exchanges in flight. `None` only when the pool is empty.
    pub(super) fn pick(
        &self,
        avoid: &[u32],
        busy: impl Fn(u32) -> u32,
        mut random: impl FnMut() -> u64,
    ) -> Option<u32> {
        match self.members.as_slice() {
            [] => return None,
            [only] => return Some(only.index),
            _ => {}
        }
        let avoid = if self.has_others(avoid) { avoid } else { &[] };
        match &self.turn {
            Some(turn) => {
                let mut turn = turn.borrow_mut();
                // Ends: some member is not avoided, and every member's turn comes.
                loop {
                    let member = turn.next(&self.members)?;
                    if !avoid.contains(&member.index) {
                        return Some(member.index);
                    }
                }
            }
            None if self.members.len() <= LOOK_AT_ALL => self.least_of_all(avoid, busy, random()),
            None => Some(self.less_of_two(avoid, busy, random)),
        }
    }

    /// The lowest (in flight + 1) / weight; ties go to the one a random start meets first.
    fn least_of_all(&self, avoid: &[u32], busy: impl Fn(u32) -> u32, random: u64) -> Option<u32> {
        let start = (random % self.members.len() as u64) as usize;
        let (tail, head) = self.members.split_at(start);
        let mut best: Option<(u64, u64, u32)> = None;
        for member in head.iter().chain(tail) {
            if avoid.contains(&member.index) {
                continue;
            }
            let (load, weight) = (u64::from(busy(member.index)) + 1, u64::from(member.weight));
            // a/b < c/d as a*d < c*b
            if best.is_none_or(|(best_load, best_weight, _)| load * best_weight < best_load * weight) {
                best = Some((load, weight, member.index));
            }
        }
        best.map(|(_, _, index)| index)
    }

    /// The less busy of two drawn by weight (Mitzenmacher, "The power of two choices", 2001).
    fn less_of_two(&self, avoid: &[u32], busy: impl Fn(u32) -> u32, mut random: impl FnMut() -> u64) -> u32 {
        let total = self.ends.last().copied().unwrap_or(1);
        let mut draw = || {
            // Retries avoid a few of many: another draw soon hits. After eight the next in line will do.
            let mut position = 0;
            for _ in 0..8 {
                let point = ((u128::from(random()) * u128::from(total)) >> 64) as u64;
                position = self.ends.partition_point(|end| *end <= point);
                if !avoid.contains(&self.members[position].index) {
                    return self.members[position];
                }
            }
            let next = self.members.iter().cycle().skip(position).take(self.members.len());
            next.copied().find(|member| !avoid.contains(&member.index)).unwrap_or(self.members[position])
        };
        let (one, other) = (draw(), draw());
        let load = |member: Member| u64::from(busy(member.index)) + 1;
        // Drawn by weight, compared by weight: a heavy one has more in flight without being busier.
        let less = load(other) * u64::from(one.weight) < load(one) * u64::from(other.weight);
        if less { other.index } else { one.index }
    }
}

/// Earliest deadline first: a member's turns are 1/weight apart, so that shares are exact and spread out.
#[derive(Debug)]
struct Turn {
    /// Next turn and member's position, earliest first.
    queue: BinaryHeap<Reverse<(u64, u32)>>,
}

/// One turn's distance at weight 1.
const LAP: u64 = 1 << 32;

/// From here turns are counted from 0 again; a busy pool that never changes comes this far in days.
const FAR: u64 = 1 << 62;

impl Turn {
    /// Starts somewhere in the first lap, so that workers and gateways that start together do not march in step.
    fn new(members: &[Member], mut random: impl FnMut() -> u64) -> Self {
        let mut first = |member: &Member| random() % (LAP / u64::from(member.weight.max(1)));
        let queue = (0u32..).zip(members).map(|(position, member)| Reverse((first(member), position))).collect();
        Self { queue }
    }

    fn next(&mut self, members: &[Member]) -> Option<Member> {
        if let Some(&Reverse((earliest, _))) = self.queue.peek()
            && earliest >= FAR
        {
            let turns = self.queue.drain().map(|Reverse((turn, position))| Reverse((turn - earliest, position)));
            self.queue = turns.collect::<Vec<_>>().into();
        }
        let mut earliest = self.queue.peek_mut()?;
        let Reverse((turn, position)) = *earliest;
        let member = members[position as usize];
        *earliest = Reverse((turn.saturating_add(LAP / u64::from(member.weight.max(1))), position));
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::snapshot::{Endpoint, EndpointState};
    use crate::spec::endpoint::RegistryStatus;
    use crate::spec::name::ProviderId;
    use crate::spec::upstream::UpstreamSettings;

    fn upstream(balance: Balance, weights: &[u16]) -> Upstream {
        let endpoint = |(port, weight): (u16, &u16)| {
            let address = ([127, 0, 0, 1], port).into();
            Endpoint {
                address,
                weight: *weight,
                labels: Arc::default(),
                status: RegistryStatus::Unchecked,
                held: false,
                drained: false,
                penalty: None,
                state: Arc::new(EndpointState::new(address)),
            }
        };
        Upstream {
            name: "u".parse().expect("a name"),
            label: "u".into(),
            provider: ProviderId::File,
            source: None,
            settings: Arc::new(UpstreamSettings { balance, ..UpstreamSettings::default() }),
            endpoints: (1u16..).zip(weights).map(endpoint).collect(),
            fallback: None,
            known: true,
            state: Arc::default(),
        }
    }

    fn shares(balance: Balance, weights: &[u16], picks: usize, busy: impl Fn(u32) -> u32 + Copy) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(7);
        let pool = Pool::new(&upstream(balance, weights), None, || rng.next_u64());
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[pool.pick(&[], busy, || rng.next_u64()).expect("not empty") as usize] += 1;
        }
        counts
    }

    #[test]
    fn turns_are_exact_by_weight() {
        assert_eq!(shares(Balance::RoundRobin, &[1, 1, 1], 300, |_| 0), [100, 100, 100]);
        let counts = shares(Balance::RoundRobin, &[5, 3, 1, 0], 900, |_| 0);
        for (count, wanted) in counts.iter().zip([500usize, 300, 100, 0]) {
            assert!(count.abs_diff(wanted) <= 1, "{counts:?}");
        }
    }

    #[test]
    fn turns_go_on_for_ever() {
        let members = [(0, 2), (1, 1)].map(|(index, weight)| Member { index, weight });
        let far = FAR - 3 * LAP;
        let mut turn = Turn { queue: [(far, 0), (far + 1, 1)].map(Reverse).into_iter().collect() };
        let mut counts = [0; 2];
        for _ in 0..300 {
            counts[turn.next(&members).expect("members").index as usize] += 1;
        }
        assert_eq!(counts, [200, 100]);
        assert!(turn.queue.iter().all(|Reverse((at, _))| *at < FAR));
    }

    #[test]
    fn of_many_a_heavy_one_may_be_busier() {
        let mut weights = [1; 40];
        weights[0] = 40;
        // Everyone is as busy as its weight allows: the heavy one keeps its half.
        let counts = shares(Balance::LeastRequests, &weights, 10_000, |index| if index == 0 { 39 } else { 0 });
        assert!((4_000..6_500).contains(&counts[0]), "{}", counts[0]);
    }

    #[test]
    fn the_least_busy_for_its_weight_is_picked() {
        assert_eq!(shares(Balance::LeastRequests, &[1, 1, 1], 10, |index| u32::from(index != 1)), [0, 10, 0]);
        assert_eq!(shares(Balance::LeastRequests, &[1, 4], 10, |index| [0, 2][index as usize]), [0, 10]);
        let idle = shares(Balance::LeastRequests, &[1, 1, 1, 1], 4000, |_| 0);
        assert!(idle.iter().all(|count| (800..1200).contains(count)), "{idle:?}");
    }

    #[test]
    fn of_many_the_less_busy_of_two_is_picked() {
        let weights = [1; 100];
        let counts = shares(Balance::LeastRequests, &weights, 10_000, |index| u32::from(index < 50));
        let busy_half: usize = counts[..50].iter().sum();
        assert!((2_000..3_000).contains(&busy_half), "a quarter of the draws meets two busy ones: {busy_half}");
    }

    #[test]
    fn tried_endpoints_are_avoided_while_there_are_others() {
        let mut rng = SmallRng::seed_from_u64(7);
        for (balance, size) in [(Balance::RoundRobin, 3), (Balance::LeastRequests, 3), (Balance::LeastRequests, 40)] {
            let pool = Pool::new(&upstream(balance, &vec![1; size]), None, || rng.next_u64());
            for _ in 0..50 {
                let picked = pool.pick(&[0, 1], |_| 0, || rng.next_u64());
                assert!(picked > Some(1), "{picked:?}");
            }
            let all: Vec<u32> = (0..size as u32).collect();
            assert!(pool.pick(&all, |_| 0, || rng.next_u64()).is_some());
        }
        let empty = Pool::new(&upstream(Balance::RoundRobin, &[0]), None, || 0);
        assert!(empty.is_empty() && empty.pick(&[], |_| 0, || 0).is_none());
    }
}
