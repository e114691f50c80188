//! Defines an upstream as it is served, and who of its endpoints is usable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::affinity::Affinity;
use super::breaker::Breaker;
use super::budget::Retries;
use super::endpoint::{Endpoint, EndpointState, Standing};
use super::level::levels;
use super::line::Line;
use super::outlier::{Flip, Trial, Verdict};
use super::secure::Secure;
use super::start::{share, slows};
use crate::spec::endpoint::Labels;
use crate::spec::name::{Name, ProviderId};
use crate::spec::percent::Percent;
use crate::spec::source::Source;
use crate::spec::upstream::UpstreamSettings;

/// A named pool of endpoints and its settings.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its name.
    pub name: Name,
    /// As references and metrics name it: `users`, or `users@file` where another provider's `users` wins.
    pub label: Arc<str>,
    /// Who defined it.
    pub provider: ProviderId,
    /// Where its endpoints come from, the first one first; none: written down.
    pub sources: Arc<[Source]>,
    /// How its endpoints are used.
    pub settings: Arc<UpstreamSettings>,
    /// The slot of the upstream that requests go to which its breaker refuses.
    pub fallback: Option<usize>,
    /// Sorted by address; one an address.
    pub endpoints: Arc<[Endpoint]>,
    /// What leads equal keys to equal endpoints.
    pub affinity: Arc<Affinity>,
    /// Whether its source was read at least once.
    pub known: bool,
    /// What survives every change of the above.
    pub state: Arc<UpstreamState>,
}

/// What belongs to an upstream's name and survives every reload.
#[derive(Debug, Default)]
pub struct UpstreamState {
    epoch: AtomicU64,
    pub(super) retries: Retries,
    pub(super) breaker: Breaker,
    /// Who waits for room.
    pub line: Line,
}

impl UpstreamState {
    /// Moves whenever the usability of an endpoint may have changed without a new snapshot.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Tells the workers to look again who is usable. Call after the endpoint's state was written.
    pub fn advance_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }
}

impl Upstream {
    /// Where its endpoints come from, as users see it: `consul:users`, `static`, or several after one another.
    pub fn source_text(&self) -> String {
        let sources: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        if sources.is_empty() { "static".to_owned() } else { sources.join(", ") }
    }

    /// Whether active checks run.
    pub fn checked(&self) -> bool {
        self.settings.health_check.is_some()
    }

    /// How TLS is spoken with one of its endpoints; `None`: plain text.
    pub fn secure(&self, endpoint: &Endpoint) -> Option<Secure> {
        self.settings.tls.as_ref().map(|tls| Secure::with(endpoint, tls))
    }

    /// The labels that a target selects by, of its [`super::Target::subset`]; `Some(None)` is the whole upstream.
    pub fn selector(&self, subset: usize) -> Option<Option<&Labels>> {
        match subset.checked_sub(1) {
            None => Some(None),
            Some(position) => Some(Some(self.settings.subsets.values().nth(position)?)),
        }
    }

    /// Indexes of the endpoints that take traffic, of those that have all the selector's labels.
    pub fn usable(&self, selector: Option<&Labels>) -> Vec<u32> {
        self.choose(selector).indexes
    }

    /// Who takes traffic, of the endpoints that have all the selector's labels. Those that requests ejected stay out
    /// as far as enough others are left. Untested endpoints are the second choice, then those that flap, then, when
    /// everything looks bad, those ejected: they serve where no other does. Where too few are well, all serve.
    pub fn choose(&self, selector: Option<&Labels>) -> Usable {
        let usable = self.choose_well(selector);
        if self.settings.panic_threshold == Percent::NONE {
            return usable;
        }
        let all: Vec<u32> = (0u32..)
            .zip(self.endpoints.iter())
            .filter(|(_, endpoint)| selector.is_none_or(|selector| selects(selector, &endpoint.labels)))
            .filter(|(_, endpoint)| endpoint.may_serve())
            .map(|(index, _)| index)
            .collect();
        if self.too_few(&usable, &all) { Usable { indexes: all, ejected: Vec::new(), panic: true } } else { usable }
    }

    /// Whether an endpoint takes no more exchanges, whatever becomes of the others. Where all are used once too few are well,
    /// one that its registry calls bad may be wanted at any time.
    pub fn is_done_with(&self, endpoint: &Endpoint) -> bool {
        let may_be_wanted = self.settings.panic_threshold > Percent::NONE && endpoint.may_serve();
        !endpoint.is_admitted() && !may_be_wanted
    }

    /// Whether so many of all are usable at none of the priorities that they are to be used alone.
    fn too_few(&self, usable: &Usable, all: &[u32]) -> bool {
        let mut levels: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for index in all {
            let (well, of) = levels.entry(self.endpoints[*index as usize].priority).or_default();
            *of += 1;
            *well += u64::from(!usable.panic && usable.indexes.binary_search(index).is_ok());
        }
        let threshold = self.settings.panic_threshold;
        !all.is_empty() && levels.into_values().all(|(well, of)| threshold.is_more_than(well, of))
    }

    fn choose_well(&self, selector: Option<&Labels>) -> Usable {
        let with = |wanted: Standing| -> Vec<u32> {
            (0u32..)
                .zip(self.endpoints.iter())
                .filter(|(_, endpoint)| selector.is_none_or(|selector| selects(selector, &endpoint.labels)))
                .filter(|(_, endpoint)| endpoint.standing(&self.settings) == wanted)
                .map(|(index, _)| index)
                .collect()
        };
        let (mut healthy, mut ejected) = (with(Standing::Healthy), with(Standing::Ejected));
        let may_eject = self.settings.passive_health.may_eject(healthy.len() + ejected.len());
        if !healthy.is_empty() && ejected.len() > may_eject {
            // Those that would be out of use for longest stay out.
            ejected.sort_by_key(|index| std::cmp::Reverse(self.endpoints[*index as usize].state.outlier.until()));
            healthy.extend(ejected.drain(may_eject..));
            healthy.sort_unstable();
            ejected.sort_unstable();
        }
        if !healthy.is_empty() {
            return Usable { indexes: healthy, ejected, panic: false };
        }
        let others = [Standing::Untested, Standing::Damped].into_iter().map(with).find(|usable| !usable.is_empty());
        match others {
            Some(indexes) => Usable { indexes, ejected, panic: false },
            None => Usable { panic: !ejected.is_empty(), indexes: ejected, ejected: Vec::new() },
        }
    }

    /// Endpoints that start slowly, by index: what part of their weight they have, where they take the traffic of all.
    pub fn starting(&self) -> BTreeMap<u32, f64> {
        let Some(window) = self.settings.slow_start else { return BTreeMap::new() };
        let now = Instant::now();
        let fresh = |index: &u32| self.endpoints[*index as usize].state.fresh_since();
        let mut starting = BTreeMap::new();
        for level in levels(self, None, self.usable(None)) {
            if slows(level.members.iter().map(fresh), window) {
                let shares = level.members.iter().filter_map(|index| Some((*index, share(fresh(index)?, now, window))));
                starting.extend(shares.filter(|(_, share)| *share < 1.0));
            }
        }
        starting
    }

    /// Takes note of what became of a request at one of its endpoints; `trial`: it was to try it.
    pub fn judge(
        &self,
        state: &EndpointState,
        trial: Option<Trial>,
        verdict: Verdict,
        random: impl FnOnce() -> u64,
    ) -> Option<Flip> {
        let rules = &self.settings.passive_health;
        if !rules.is_on() {
            return None;
        }
        let flip = match trial {
            Some(trial) => trial.end(verdict, rules, Instant::now(), random()),
            None => state.outlier.judge(verdict, rules, || self.has_one_only(), Instant::now, random),
        };
        if flip == Some(Flip::Restored) {
            state.freshen();
        }
        if flip.is_some() {
            self.state.advance_epoch();
        }
        flip
    }

    /// Whether no more than one endpoint would be used if nothing was ejected.
    fn has_one_only(&self) -> bool {
        let standings = self.endpoints.iter().map(|endpoint| endpoint.standing(&self.settings));
        standings.filter(|standing| matches!(standing, Standing::Healthy | Standing::Ejected)).nth(1).is_none()
    }
}

/// Who takes traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// Indexes of endpoints, ascending.
    pub indexes: Vec<u32>,
    /// Those that requests ejected: single requests try them when their time is over.
    pub ejected: Vec<u32>,
    /// Whether some take traffic that look bad, because too few others are left.
    pub panic: bool,
}

/// Whether labels hold every key and value of a selector.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
