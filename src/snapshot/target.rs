//! Defines the draw of a target: by condition first, else by share, kept by sticky clients.

use std::net::IpAddr;

use super::request::RequestView;
use super::route::{Route, Target};
use crate::exchange::ProxyError;
use crate::spec::condition::{all_hold, cookie_values};
use crate::spec::matching::TooLong;
use crate::spec::route::{Choice, Sticky};

/// The outcome of a draw; numbers are positions among the route's targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The target to use; `None` when none is usable.
    pub target: Option<usize>,
    /// A target whose share went to another, because it has no usable endpoint.
    pub passed_over: Option<usize>,
}

impl Draw {
    /// The target that gets the request.
    ///
    /// # Errors
    /// What the client gets where none is usable.
    #[inline]
    pub fn taken(&self) -> Result<usize, ProxyError> {
        self.target.ok_or(ProxyError::NoEndpoint)
    }
}

impl Target {
    /// Lets a client come; `None`: an unknown one.
    ///
    /// # Errors
    /// What a client gets that may not.
    pub fn admits(&self, client: Option<IpAddr>) -> Result<(), ProxyError> {
        let admitted = self.spec.steps.as_ref().is_none_or(|steps| steps.access.admits(client));
        if admitted { Ok(()) } else { Err(ProxyError::Denied) }
    }
}

/// Draws a target. `usable` says whether a target has a usable endpoint; `random` is uniform over `u64`
/// and only asked where a share decides without a key.
///
/// # Errors
/// Nobody knows whether the condition of a target holds, because something is too long to be searched.
pub fn draw(
    route: &Route,
    request: &RequestView<'_>,
    key: Option<&[u8]>,
    usable: impl Fn(&Target) -> bool,
    random: impl FnMut() -> u64,
) -> Result<Draw, TooLong> {
    if let Some(index) = conditioned(route, request).map_err(|(_, part)| part)? {
        // The tester must know: no other target answers for it.
        let target = usable(&route.targets[index]).then_some(index);
        return Ok(Draw { target, passed_over: if target.is_none() { Some(index) } else { None } });
    }
    // One target and nothing to draw: the usual case.
    if let [only] = route.targets.as_slice() {
        let target = (only.weight() > 0 && usable(only)).then_some(0);
        return Ok(Draw { target, passed_over: None });
    }
    Ok(match key {
        Some(key) => draw_sticky(route, key, usable),
        None => draw_random(route, usable, random),
    })
}

/// The first target whose condition holds.
///
/// # Errors
/// None before this one holds, and whether its condition does is not known.
#[inline]
fn conditioned(route: &Route, request: &RequestView<'_>) -> Result<Option<usize>, (usize, TooLong)> {
    for (index, target) in route.targets.iter().enumerate() {
        if let Choice::When(conditions) = &target.spec.choice
            && all_hold(conditions, request.headers, request.query).map_err(|part| (index, part))?
        {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// How likely each target is.
#[derive(Clone, Debug, PartialEq)]
pub struct Odds {
    /// What decides.
    pub by: DecidedBy,
    /// The probability with which each target is drawn first, whether it is usable or not.
    pub drawn: Vec<f64>,
    /// The probability with which each target gets the request: unusable ones leave theirs to the others.
    pub taken: Vec<f64>,
}

impl Odds {
    /// Whether a target gets the request; the same answer as [`Draw::taken`], whatever is drawn.
    ///
    /// # Errors
    /// What the client gets where none is usable.
    pub fn taken(&self) -> Result<(), ProxyError> {
        match self.by {
            DecidedBy::Nobody(_, part) => Err(part.into()),
            _ if self.taken.iter().any(|share| *share > 0.0) => Ok(()),
            DecidedBy::Condition(_) | DecidedBy::Key | DecidedBy::Weight => Err(ProxyError::NoEndpoint),
        }
    }
}

/// What decides a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// The condition of this target.
    Condition(usize),
    /// Whether the condition of this target holds is not known.
    Nobody(usize, TooLong),
    /// The client's key.
    Key,
    /// The weights.
    Weight,
}

/// The odds of [`draw`] for the same arguments.
pub fn odds(route: &Route, request: &RequestView<'_>, key: Option<&[u8]>, usable: impl Fn(&Target) -> bool) -> Odds {
    let count = route.targets.len();
    let sure = |index: Option<usize>| (0..count).map(|at| if Some(at) == index { 1.0 } else { 0.0 }).collect();
    match conditioned(route, request) {
        Ok(None) => {}
        Ok(Some(index)) => {
            let taken = usable(&route.targets[index]).then_some(index);
            return Odds { by: DecidedBy::Condition(index), drawn: sure(Some(index)), taken: sure(taken) };
        }
        Err((index, part)) => {
            return Odds { by: DecidedBy::Nobody(index, part), drawn: sure(None), taken: sure(None) };
        }
    }
    if let Some(key) = key {
        let drawn = draw_sticky(route, key, usable);
        return Odds { by: DecidedBy::Key, drawn: sure(drawn.passed_over.or(drawn.target)), taken: sure(drawn.target) };
    }
    let shares = |eligible: &dyn Fn(&Target) -> bool| -> Vec<f64> {
        let weight = |target: &Target| if eligible(target) { f64::from(target.weight()) } else { 0.0 };
        let all: f64 = route.targets.iter().map(weight).sum();
        route.targets.iter().map(|target| if all > 0.0 { weight(target) / all } else { 0.0 }).collect()
    };
    Odds { by: DecidedBy::Weight, drawn: shares(&|_| true), taken: shares(&usable) }
}

fn draw_random(route: &Route, usable: impl Fn(&Target) -> bool, mut random: impl FnMut() -> u64) -> Draw {
    let all: u64 = route.targets.iter().map(|target| u64::from(target.weight())).sum();
    if all == 0 {
        return Draw { target: None, passed_over: None };
    }
    let first = pick(route, uniform(random(), all), |_| true);
    let usable_first = first.is_some_and(|index| usable(&route.targets[index]));
    if usable_first {
        return Draw { target: first, passed_over: None };
    }
    // Drawn again among the others, so that the share is given to each of them in proportion.
    let rest: u64 = route.targets.iter().filter(|target| usable(target)).map(|target| u64::from(target.weight())).sum();
    let target = if rest == 0 { None } else { pick(route, uniform(random(), rest), &usable) };
    Draw { target, passed_over: first }
}

/// Maps a uniform `u64` to `0..bound` by the high half of a product (Lemire, "Fast random integer generation in an
/// interval", 2019); the bias is below 2^-40 for the bounds possible here.
fn uniform(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

fn pick(route: &Route, mut point: u64, eligible: impl Fn(&Target) -> bool) -> Option<usize> {
    for (index, target) in route.targets.iter().enumerate() {
        let weight = u64::from(target.weight());
        if weight == 0 || !eligible(target) {
            continue;
        }
        if point < weight {
            return Some(index);
        }
        point -= weight;
    }
    None
}

/// Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): the highest
/// `-weight / ln(h)` wins. A share that grows only raises its own scores, so clients move into it and nowhere else.
fn draw_sticky(route: &Route, key: &[u8], usable: impl Fn(&Target) -> bool) -> Draw {
    let mut best: (Option<usize>, f64) = (None, f64::NEG_INFINITY);
    let mut best_usable = best;
    for (index, target) in route.targets.iter().enumerate() {
        if target.weight() == 0 {
            continue;
        }
        let score = f64::from(target.weight()) / -unit(hash(target.seed, key)).ln();
        if score > best.1 {
            best = (Some(index), score);
        }
        if score > best_usable.1 && usable(target) {
            best_usable = (Some(index), score);
        }
    }
    Draw { target: best_usable.0, passed_over: if best.0 == best_usable.0 { None } else { best.0 } }
}

/// A hash as a number strictly between 0 and 1.
fn unit(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// FNV-1a over the bytes from a seed, finished by MurmurHash3's `fmix64`. Fixed for ever: all gateways, of all
/// versions, must draw alike.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = seed ^ 0xcbf2_9ce4_8422_2325;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The seed of a target: from its route's name, its label, and which one it is among equal labels.
pub fn seed(route: &str, label: &str, occurrence: u64) -> u64 {
    hash(hash(hash(0, route.as_bytes()), label.as_bytes()), &occurrence.to_le_bytes())
}

/// The key that identifies a client for a sticky draw; `None` without its header or cookie, or where the client is unknown.
pub fn sticky_key<'r>(
    sticky: &'r Sticky,
    request: &RequestView<'r>,
    client: Option<IpAddr>,
    buffer: &'r mut [u8; 16],
) -> Option<&'r [u8]> {
    match sticky {
        Sticky::Header(name) => request.headers.get(name).map(|value| value.as_bytes()),
        Sticky::Cookie(name) => cookie_values(request.headers, name).next(),
        Sticky::ClientIp => {
            *buffer = client_octets(client?);
            Some(&buffer[..])
        }
    }
    .filter(|key| !key.is_empty())
}

/// An address in the one form that is hashed.
pub(super) fn client_octets(client: IpAddr) -> [u8; 16] {
    match client {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests;
