//! Defines an upstream as it is served, and who of its endpoints is usable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::affinity::Affinity;
use super::endpoint::{Endpoint, Standing};
use super::line::Line;
use crate::spec::endpoint::Labels;
use crate::spec::name::{Name, ProviderId};
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
    /// Where its endpoints come from; `None`: written down.
    pub source: Option<Source>,
    /// How its endpoints are used.
    pub settings: Arc<UpstreamSettings>,
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
    /// Whether active checks run.
    pub fn checked(&self) -> bool {
        self.settings.health_check.is_some()
    }

    /// The labels that a target selects by, of its [`super::Target::subset`]; `Some(None)` is the whole upstream.
    pub fn selector(&self, subset: usize) -> Option<Option<&Labels>> {
        match subset.checked_sub(1) {
            None => Some(None),
            Some(position) => Some(Some(self.settings.subsets.values().nth(position)?)),
        }
    }

    /// Indexes of the endpoints that take traffic, of those that have all the selector's labels.
    /// Untested endpoints are the second choice, and those that flap the last: they serve where no other does.
    pub fn usable(&self, selector: Option<&Labels>) -> Vec<u32> {
        let with = |wanted: Standing| -> Vec<u32> {
            (0u32..)
                .zip(self.endpoints.iter())
                .filter(|(_, endpoint)| selector.is_none_or(|selector| selects(selector, &endpoint.labels)))
                .filter(|(_, endpoint)| endpoint.standing(self.checked()) == wanted)
                .map(|(index, _)| index)
                .collect()
        };
        let choices = [Standing::Healthy, Standing::Untested, Standing::Damped];
        choices.into_iter().map(with).find(|usable| !usable.is_empty()).unwrap_or_default()
    }
}

/// Whether labels hold every key and value of a selector.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
