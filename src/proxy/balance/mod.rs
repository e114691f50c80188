//! Defines how one endpoint is picked among the usable ones of an upstream or subset, on one worker.

use crate::snapshot::level::{WHOLE, levels};
use crate::snapshot::target::hash;
use crate::snapshot::{Upstream, Usable};

mod latency;
mod tier;
mod turn;

pub(super) use latency::Latency;
use tier::Tier;

/// The usable endpoints of an upstream or subset, ready to pick from. Made anew when usability changes.
#[derive(Debug)]
pub(super) struct Pool {
    /// By priority, with the sum of the shares up to and with each.
    tiers: Vec<(u32, Tier)>,
    /// Those that requests ejected.
    pub(super) ejected: Vec<u32>,
    /// Some of the usable ones look bad, too: too few others are left.
    pub(super) panics: bool,
}

/// What a pick is made for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish<'w> {
    /// Endpoints that were tried.
    pub(super) avoid: &'w [u32],
    /// What balancers that hash go by.
    pub(super) key: Option<u64>,
    /// Where the client is, and stays if it can.
    pub(super) stay: Option<u32>,
    /// Endpoints with so many exchanges in flight are full.
    pub(super) most: Option<u32>,
}

/// How endpoints are doing, by their position.
pub(super) trait Load {
    /// Exchanges in flight, for the process.
    fn in_flight(&self, index: u32) -> u32;

    /// Seconds to an answer, as this worker knows it; `None` when it never had one.
    fn latency(&self, index: u32) -> Option<f64>;
}

impl Pool {
    /// The pool of those of an upstream's endpoints that are usable now and belong to a subset
    /// ([`crate::snapshot::Target::subset`]); `None` when there is no such subset.
    pub(super) fn new(upstream: &Upstream, subset: usize, mut random: impl FnMut() -> u64) -> Option<Self> {
        let mut end = 0;
        let tier = |level: crate::snapshot::Level| {
            end += level.share;
            (end, Tier::new(upstream, subset, &level.members, &mut random))
        };
        let selector = upstream.selector(subset)?;
        let Usable { indexes, ejected, panic } = upstream.choose(selector);
        let tiers = levels(upstream, selector, indexes).into_iter().map(tier).collect();
        Some(Self { tiers, ejected, panics: panic })
    }

    /// The usable ones, and those that are ejected.
    pub(super) fn len(&self) -> usize {
        self.tiers.iter().map(|(_, tier)| tier.indexes().count()).sum::<usize>() + self.ejected.len()
    }

    /// Whether there are usable ones not among these.
    pub(super) fn has_others(&self, than: &[u32]) -> bool {
        self.tiers.iter().any(|(_, tier)| tier.has_other_than(than))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// Picks an endpoint that is not full and not to be avoided, or any that is not full when all others are to be avoided.
    /// `None` when the pool is empty or all of it is full.
    pub(super) fn pick(&self, wish: Wish<'_>, load: &impl Load, random: impl FnMut() -> u64) -> Option<u32> {
        let Some(most) = wish.most else { return self.pick_any(wish, load, random) };
        // Holds nothing, and costs nothing, but under pressure.
        let mut out: Vec<u32> = self
            .tiers
            .iter()
            .flat_map(|(_, tier)| tier.indexes())
            .filter(|index| load.in_flight(*index) >= most)
            .collect();
        if out.is_empty() {
            return self.pick_any(wish, load, random);
        }
        let full = out.len();
        out.extend(wish.avoid);
        for avoid in [&out[..], &out[..full]] {
            if self.tiers.iter().any(|(_, tier)| tier.has_other_than(avoid)) {
                return self.pick_any(Wish { avoid, ..wish }, load, random);
            }
        }
        None
    }

    fn pick_any(&self, wish: Wish<'_>, load: &impl Load, mut random: impl FnMut() -> u64) -> Option<u32> {
        if let Some(stay) = wish.stay
            && !wish.avoid.contains(&stay)
            && self.tiers.iter().any(|(_, tier)| tier.has(stay))
        {
            return Some(stay);
        }
        if let [(_, only)] = self.tiers.as_slice() {
            return only.pick(wish, load, random);
        }
        // A key spills over or does not, on every gateway.
        let point = wish.key.map_or_else(&mut random, |key| hash(SPILL, &key.to_le_bytes()));
        let point = ((u128::from(point) * u128::from(WHOLE)) >> 64) as u32;
        let drawn = self.tiers.partition_point(|(end, _)| *end <= point).min(self.tiers.len().checked_sub(1)?);
        // Where all of it was tried, the next one may still answer.
        let (before, from) = self.tiers.split_at(drawn);
        let untried = from.iter().chain(before).find(|(_, tier)| tier.has_other_than(wish.avoid));
        untried.unwrap_or(&self.tiers[drawn]).1.pick(wish, load, random)
    }
}

/// The seed by which keys spill over; fixed for ever, like [`hash`].
const SPILL: u64 = 5;

#[cfg(test)]
mod tests;
