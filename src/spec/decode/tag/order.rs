//! The order of a service's own equal routes: what is closed or guarded goes before what is open, then what was asked for
//! first. Pure.

use std::collections::BTreeMap;

use super::service::{Claim, Form};
use crate::spec::matching::{MatchSpec, PathMatch};

/// How many bits an order has.
pub(super) const BITS: u32 = 8;
const OPEN: u64 = 1 << (BITS - 1);

/// Since which index of the registry the routes of a service are asked for, by their names and places.
#[derive(Clone, Debug, Default)]
pub(super) struct Ages(pub(super) BTreeMap<String, BTreeMap<String, u64>>);

impl Ages {
    /// The position of a route among those of its service for the same place.
    pub(super) fn order(&self, route: &str, place: &str, is_open: bool) -> u64 {
        let age = |places: &BTreeMap<String, u64>| places.get(place).copied();
        let own = self.0.get(route).and_then(age);
        let older = self.0.values().filter_map(age).filter(|other| own.is_none_or(|own| *other < own)).count();
        guarded_first(u64::try_from(older).unwrap_or(u64::MAX), is_open)
    }
}

/// The position of what goes behind all routes that are as open.
pub(super) fn last(is_open: bool) -> u64 {
    guarded_first(u64::MAX, is_open)
}

fn guarded_first(position: u64, is_open: bool) -> u64 {
    position.min(OPEN - 1) | if is_open { OPEN } else { 0 }
}

/// Since when routes are asked for, where it is known of some.
pub(super) fn ages(routes: &BTreeMap<String, Claim>, before: &Ages) -> Ages {
    let ages = routes.iter().map(|(route, claim)| {
        let known = before.0.get(route);
        let mut ages: BTreeMap<String, u64> = BTreeMap::new();
        for form in &claim.forms {
            for place in places(&form.native.matching) {
                let known = known.and_then(|known| known.get(&place)).copied();
                let age = ages.entry(place).or_insert(u64::MAX);
                *age = known.unwrap_or(form.modified).min(*age);
            }
        }
        (route.clone(), ages)
    });
    Ages(ages.collect())
}

impl Form {
    /// Whether everybody may come.
    pub(super) fn is_open(&self) -> bool {
        !self.is_blocked && self.native.middlewares.is_empty()
    }
}

/// The places that a route claims, one for each of its hosts.
pub(super) fn places(matching: &MatchSpec) -> Vec<String> {
    let path = match &matching.path {
        PathMatch::Prefix(path) if path.is_empty() => "/".to_owned(),
        PathMatch::Prefix(path) | PathMatch::Exact(path) => path.clone(),
        // A path in normal form has no blank.
        PathMatch::Start(path) => format!("{path} (as text)"),
        PathMatch::Regex(pattern) => format!("{} (as an expression)", pattern.source()),
    };
    match matching.hosts.as_slice() {
        [] => vec![path],
        hosts => hosts.iter().map(|host| format!("{host}{path}")).collect(),
    }
}
