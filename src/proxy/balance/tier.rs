//! Defines how one endpoint is picked among the usable ones of one level, on one worker.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::turn::Turn;
use super::{Load, Wish};
use crate::snapshot::start::{share, slows};
use crate::snapshot::{Affinity, Upstream};
use crate::spec::upstream::Balance;

/// The usable endpoints of a level.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) members: Vec<Member>,
    /// `ends[i]` is the sum of the weights up to and with member i, for draws by weight.
    ends: Vec<u64>,
    way: Way,
    /// How long a fresh member's share grows; `None` when no member is fresh, or too many are.
    pub(super) slow_start: Option<Duration>,
}

/// A usable endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// Its position among the upstream's endpoints.
    pub(super) index: u32,
    pub(super) weight: u16,
    /// Of one that is new, or well again.
    pub(super) fresh_since: Option<Instant>,
}

/// How one is picked.
#[derive(Debug)]
enum Way {
    Turns(RefCell<Turn>),
    LeastRequests,
    LowestCost,
    Random,
    Hashed(Hashed),
}

/// What picking by a key reads.
#[derive(Debug)]
struct Hashed {
    affinity: Arc<Affinity>,
    subset: usize,
    /// By an endpoint's position: its weight, or 0 for those that are not members.
    weights: Box<[u16]>,
    /// Percent.
    balance_factor: Option<u16>,
}

/// Up to so many endpoints the least busy one is found by looking at all of them.
const LOOK_AT_ALL: usize = 16;

/// An endpoint with fewer exchanges than that in flight is never too busy for a key: with a handful of them a mean says
/// nothing, and a client's few parallel requests would be torn apart.
const FEW: u32 = 4;

impl Tier {
    /// The tier of these of an upstream's endpoints, for a subset ([`crate::snapshot::Target::subset`]).
    pub(super) fn new(upstream: &Upstream, subset: usize, usable: &[u32], random: impl FnMut() -> u64) -> Self {
        let members: Vec<Member> = usable
            .iter()
            .map(|index| {
                let endpoint = &upstream.endpoints[*index as usize];
                Member { index: *index, weight: endpoint.weight, fresh_since: endpoint.state.fresh_since() }
            })
            .collect();
        let slow_start = upstream
            .settings
            .slow_start
            .filter(|window| slows(members.iter().map(|member| member.fresh_since), *window));
        let pace = Pace::now(slow_start);
        let ends = members
            .iter()
            .scan(0u64, |sum, member| {
                *sum += u64::from(member.weight);
                Some(*sum)
            })
            .collect();
        let way = match upstream.settings.balance {
            Balance::RoundRobin => Way::Turns(RefCell::new(Turn::new(&members, pace, random))),
            Balance::LeastRequests => Way::LeastRequests,
            Balance::P2cEwma => Way::LowestCost,
            Balance::Random => Way::Random,
            Balance::RingHash | Balance::Maglev => {
                let mut weights = vec![0; upstream.endpoints.len()];
                members.iter().for_each(|member| weights[member.index as usize] = member.weight);
                Way::Hashed(Hashed {
                    affinity: Arc::clone(&upstream.affinity),
                    subset,
                    weights: weights.into(),
                    balance_factor: upstream.settings.hash.as_ref().and_then(|hash| hash.balance_factor),
                })
            }
        };
        Self { members, ends, way, slow_start }
    }

    /// Its endpoints.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.members.iter().map(|member| member.index)
    }

    /// Whether it has this endpoint.
    pub(super) fn has(&self, index: u32) -> bool {
        self.members.binary_search_by_key(&index, |member| member.index).is_ok()
    }

    /// Whether it has an endpoint that is not to be avoided.
    pub(super) fn has_other_than(&self, avoid: &[u32]) -> bool {
        self.members.iter().any(|member| !avoid.contains(&member.index))
    }

    /// Picks an endpoint that is not to be avoided, or any when all are. `None` only when it is empty.
    pub(super) fn pick(&self, wish: Wish<'_>, load: &impl Load, random: impl FnMut() -> u64) -> Option<u32> {
        self.pick_at(Pace::now(self.slow_start), wish, load, random)
    }

    pub(super) fn pick_at(
        &self,
        pace: Pace,
        wish: Wish<'_>,
        load: &impl Load,
        mut random: impl FnMut() -> u64,
    ) -> Option<u32> {
        match self.members.as_slice() {
            [] => return None,
            [only] => return Some(only.index),
            _ => {}
        }
        let avoid = if self.has_other_than(wish.avoid) { wish.avoid } else { &[] };
        match &self.way {
            Way::Turns(turn) => {
                let mut turn = turn.borrow_mut();
                // Ends: some member is not avoided, and every member's turn comes.
                loop {
                    let member = turn.next(&self.members, pace)?;
                    if !avoid.contains(&member.index) {
                        return Some(member.index);
                    }
                }
            }
            Way::LeastRequests if self.members.len() <= LOOK_AT_ALL => self.least_of_all(avoid, load, pace, random),
            Way::LeastRequests => Some(self.better_of_two(avoid, is_less_busy(load, pace), pace, random)),
            Way::LowestCost => Some(self.better_of_two(avoid, costs_less(load, pace), pace, random)),
            Way::Random => Some(self.drawn(|index| avoid.contains(&index), pace, &mut random).index),
            Way::Hashed(hashed) => wish
                .key
                .and_then(|key| self.by_key(hashed, key, avoid, load))
                .or_else(|| Some(self.drawn(|index| avoid.contains(&index), pace, &mut random).index)),
        }
    }

    /// The lowest (in flight + 1) / weight; ties go to the one a random start meets first.
    fn least_of_all(
        &self,
        avoid: &[u32],
        load: &impl Load,
        pace: Pace,
        mut random: impl FnMut() -> u64,
    ) -> Option<u32> {
        let start = (random() % self.members.len() as u64) as usize;
        let (tail, head) = self.members.split_at(start);
        let mut best: Option<Member> = None;
        let mut passed_over = None;
        let is_less_busy = is_less_busy(load, pace);
        for member in head.iter().chain(tail).filter(|member| !avoid.contains(&member.index)) {
            if !pace.takes_part(member, &mut random) {
                passed_over = Some(*member);
            } else if best.is_none_or(|best| is_less_busy(*member, best)) {
                best = Some(*member);
            }
        }
        best.or(passed_over).map(|member| member.index)
    }

    /// The better of two drawn by weight (Mitzenmacher, "The power of two choices", 2001).
    fn better_of_two(
        &self,
        avoid: &[u32],
        is_better: impl Fn(Member, Member) -> bool,
        pace: Pace,
        mut random: impl FnMut() -> u64,
    ) -> u32 {
        let one = self.drawn(|index| avoid.contains(&index), pace, &mut random);
        // Two different ones: of a pair, a bad one would else be drawn against itself for a quarter of the requests.
        let other = self.drawn(|index| index == one.index || avoid.contains(&index), Pace::FULL, &mut random);
        let is_other = !avoid.contains(&other.index) && pace.takes_part(&other, &mut random);
        if is_other && is_better(other, one) { other.index } else { one.index }
    }

    /// Drawn by weight among those that are not out, or any when all are.
    fn drawn(&self, out: impl Fn(u32) -> bool, pace: Pace, mut random: impl FnMut() -> u64) -> Member {
        let total = self.ends.last().copied().unwrap_or(1);
        // Few of many are out: another draw soon hits. After eight the next in line will do.
        let mut position = 0;
        for _ in 0..8 {
            let point = ((u128::from(random()) * u128::from(total)) >> 64) as u64;
            position = self.ends.partition_point(|end| *end <= point);
            let member = self.members[position];
            if !out(member.index) && pace.takes_part(&member, &mut random) {
                return member;
            }
        }
        let next = self.members.iter().cycle().skip(position).take(self.members.len());
        next.copied().find(|member| !out(member.index)).unwrap_or(self.members[position])
    }

    /// The first one that the key prefers and that is not too busy: "Consistent hashing with bounded loads" (Mirrokni,
    /// Thorup and Zadimoghaddam, 2018). `None` when no place of the table is a member's that is not avoided.
    fn by_key(&self, hashed: &Hashed, key: u64, avoid: &[u32], load: &impl Load) -> Option<u32> {
        let mut all_in_flight = None;
        let mut first = None;
        for index in hashed.affinity.walk(hashed.subset, key) {
            let weight = u64::from(hashed.weights[index as usize]);
            if weight == 0 || avoid.contains(&index) {
                continue;
            }
            let Some(factor) = hashed.balance_factor else { return Some(index) };
            let busy = load.in_flight(index);
            if busy < FEW {
                return Some(index);
            }
            // Counted only where it matters, and once.
            let all = *all_in_flight.get_or_insert_with(|| {
                self.members.iter().map(|member| u64::from(load.in_flight(member.index))).sum::<u64>()
            });
            let weights = self.ends.last().copied().unwrap_or(1);
            let most = (u64::from(factor) * (all + 1) * weight).div_ceil(100 * weights);
            if u64::from(busy) < most {
                return Some(index);
            }
            // Not all can be above their shares, but those below may be the ones to avoid.
            first = first.or(Some(index));
        }
        first
    }
}

/// How far slow starts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace(pub(super) Option<(Duration, Instant)>);

/// The share of a member that is not fresh.
pub(super) const FULL: u64 = 1024;

impl Pace {
    /// Nobody is slow.
    pub(super) const FULL: Self = Self(None);

    /// The clock is read only where somebody is slow.
    fn now(slow_start: Option<Duration>) -> Self {
        Self(slow_start.map(|window| (window, Instant::now())))
    }

    /// What part of its weight a member has, of [`FULL`]; never 0.
    pub(super) fn share(self, member: &Member) -> u64 {
        match (self.0, member.fresh_since) {
            (Some((window, now)), Some(since)) => (share(since, now, window) * FULL as f64) as u64,
            (None, _) | (_, None) => FULL,
        }
    }

    /// Whether a draw counts for a member: as often as its share says, so that the shares hold among idle ones too.
    fn takes_part(self, member: &Member, mut random: impl FnMut() -> u64) -> bool {
        let share = self.share(member);
        share == FULL || random() % FULL < share
    }
}

/// Compares (in flight + 1) / weight: drawn by weight or not, a heavy one has more in flight without being busier.
fn is_less_busy(load: &impl Load, pace: Pace) -> impl Fn(Member, Member) -> bool {
    move |a, b| {
        let busy = |member: Member| u64::from(load.in_flight(member.index)) * FULL / pace.share(&member) + 1;
        // a/b < c/d as a*d < c*b
        busy(a) * u64::from(b.weight) < busy(b) * u64::from(a.weight)
    }
}

/// Compares latency * (in flight + 1) / weight. An unmeasured one is taken to be as quick as the other: it gets traffic,
/// and no more than it answers.
fn costs_less(load: &impl Load, pace: Pace) -> impl Fn(Member, Member) -> bool {
    move |a, b| {
        let share = |member: Member| pace.share(&member) as f64 / FULL as f64;
        let busy =
            |member: Member| (f64::from(load.in_flight(member.index)) / share(member) + 1.0) / f64::from(member.weight);
        let (quick_a, quick_b) = match (load.latency(a.index), load.latency(b.index)) {
            (Some(a), Some(b)) => (a, b),
            (None, _) | (_, None) => (1.0, 1.0),
        };
        quick_a * busy(a) < quick_b * busy(b)
    }
}
