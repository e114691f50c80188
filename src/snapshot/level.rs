//! Defines levels: which endpoints go first, and what spills over to the next ones when too few of them are usable.

use std::collections::BTreeMap;

use serde::Serialize;

use super::upstream::{Upstream, selects};
use crate::spec::endpoint::Labels;

/// The usable endpoints of one priority, and their part of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Of its endpoints.
    pub priority: u16,
    /// Of [`WHOLE`]; 0 where the levels before take everything.
    pub share: u32,
    /// Indexes of its endpoints, ascending; never empty.
    pub members: Vec<u32>,
}

/// The sum of all shares.
pub const WHOLE: u32 = 10_000;

/// What a level is built for beyond its share, in percent (Envoy's overprovisioning factor): with 5 in 7 of its weight
/// usable it still takes everything.
const OVERPROVISIONED: u64 = 140;

/// The levels with endpoints among the `usable` ones of those selected, first one first. Empty when there is none.
pub fn levels(upstream: &Upstream, selector: Option<&Labels>, usable: Vec<u32>) -> Vec<Level> {
    let endpoints = &upstream.endpoints;
    // The usual case: one level for all.
    if usable.is_empty() || endpoints.iter().all(|endpoint| endpoint.priority == 0) {
        return if usable.is_empty() { Vec::new() } else { vec![Level { priority: 0, share: WHOLE, members: usable }] };
    }
    let mut all: BTreeMap<u16, (Capacity, Vec<u32>)> = BTreeMap::new();
    for endpoint in endpoints.iter() {
        if selector.is_none_or(|selector| selects(selector, &endpoint.labels)) {
            all.entry(endpoint.priority).or_default().0.all += u64::from(endpoint.weight);
        }
    }
    for index in usable {
        let endpoint = &endpoints[index as usize];
        let (capacity, members) = all.entry(endpoint.priority).or_default();
        capacity.usable += u64::from(endpoint.weight);
        members.push(index);
    }
    let shares = shares(&all.values().map(|(capacity, _)| *capacity).collect::<Vec<_>>());
    let level = |((priority, (_, members)), share)| Level { priority, share, members };
    let levels = all.into_iter().zip(shares).map(level);
    levels.filter(|level| !level.members.is_empty()).collect()
}

/// A level as users see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LevelView {
    /// 0 goes first.
    pub priority: u16,
    /// Its endpoints.
    pub endpoints: usize,
    /// Those that take traffic now.
    pub usable: usize,
    /// Its part of the requests, of 1.
    pub share: f64,
}

/// The levels of those selected, with what each takes now; empty where all go together.
pub fn view(upstream: &Upstream, selector: Option<&Labels>) -> Vec<LevelView> {
    let mut views: BTreeMap<u16, LevelView> = BTreeMap::new();
    for endpoint in upstream.endpoints.iter() {
        if selector.is_none_or(|selector| selects(selector, &endpoint.labels)) {
            let priority = endpoint.priority;
            let none = LevelView { priority, endpoints: 0, usable: 0, share: 0.0 };
            views.entry(priority).or_insert(none).endpoints += 1;
        }
    }
    if views.keys().all(|priority| *priority == 0) {
        return Vec::new();
    }
    for level in levels(upstream, selector, upstream.usable(selector)) {
        if let Some(view) = views.get_mut(&level.priority) {
            (view.usable, view.share) = (level.members.len(), f64::from(level.share) / f64::from(WHOLE));
        }
    }
    views.into_values().collect()
}

/// Weight.
#[derive(Clone, Copy, Debug, Default)]
struct Capacity {
    usable: u64,
    all: u64,
}

/// Each level's part of the requests: as much as its usable endpoints can take of what is left; where all of them together
/// cannot take everything, each in proportion to what it can.
fn shares(levels: &[Capacity]) -> Vec<u32> {
    let whole = u64::from(WHOLE);
    let can = |level: &Capacity| match level.all {
        0 => 0,
        all => (whole * OVERPROVISIONED * level.usable / (100 * all)).min(whole),
    };
    let together = levels.iter().map(can).sum::<u64>().min(whole);
    let mut left = whole;
    let mut shares: Vec<u64> = levels
        .iter()
        .map(|level| {
            let share = (can(level) * whole).checked_div(together).unwrap_or(0).min(left);
            left -= share;
            share
        })
        .collect();
    // What rounding left.
    if let Some(first) = shares.iter_mut().find(|share| **share > 0) {
        *first += left;
    }
    shares.into_iter().map(|share| share as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares in percent of levels of 100 endpoints each, of which so many are usable.
    fn percents(usable: &[u64]) -> Vec<u32> {
        let levels: Vec<Capacity> = usable.iter().map(|usable| Capacity { usable: *usable, all: 100 }).collect();
        let shares = shares(&levels);
        let sum: u32 = shares.iter().sum();
        assert_eq!(sum, if usable.iter().all(|usable| *usable == 0) { 0 } else { WHOLE }, "{shares:?}");
        shares.iter().map(|share| (share + 50) / 100).collect()
    }

    /// The tables of Envoy's documentation, "Priority levels".
    #[test]
    fn what_a_level_cannot_take_spills_over() {
        for (usable, wanted) in [
            (&[100, 100][..], &[100, 0][..]),
            (&[72, 100], &[100, 0]),
            (&[71, 100], &[99, 1]),
            (&[50, 100], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[25, 25], &[50, 50]),
            (&[5, 0], &[100, 0]),
            (&[0, 100], &[0, 100]),
            (&[25, 0], &[100, 0]),
            (&[0, 0], &[0, 0]),
            (&[100, 100, 100], &[100, 0, 0]),
            (&[50, 72, 100], &[70, 30, 0]),
            (&[50, 50, 50], &[70, 30, 0]),
            (&[25, 100, 100], &[35, 65, 0]),
            (&[25, 25, 100], &[35, 35, 30]),
            (&[20, 20, 10], &[40, 40, 20]),
        ] {
            assert_eq!(percents(usable), wanted, "{usable:?}");
        }
    }
}
