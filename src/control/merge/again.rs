//! Defines a merge that goes on from the one before: while documents, overlay and holds are the same, only the
//! upstreams whose sources changed are read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Merged, Rules, merge};
use crate::control::overlay::Overlay;
use crate::control::resolution::Forms;
use crate::discovery::state::ProviderState;
use crate::spec::decode::resolved::ResolvedForms;
use crate::spec::endpoint::{Address, EndpointSpec};
use crate::spec::name::{ItemRef, ProviderId};
use crate::spec::source::Source;

/// Merges, and remembers of what.
#[derive(Debug, Default)]
pub(in crate::control) struct Merger {
    states: BTreeMap<ProviderId, Arc<ProviderState>>,
    overlay: Arc<Overlay>,
    merged: Merged,
    /// What stands in for items that do not resolve.
    forms: Forms,
    /// What of them is to be saved.
    to_save: Arc<BTreeMap<ProviderId, ResolvedForms>>,
    /// The labels of the upstreams that read a source.
    readers: BTreeMap<Source, Vec<Arc<str>>>,
}

/// Which upstreams may not be what they were in the merge before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum Affected {
    /// Any, and routes too.
    All,
    /// Those of these labels; routes and which upstreams there are did not change.
    Upstreams(BTreeSet<Arc<str>>),
}

impl Affected {
    /// What two merges in a row affected.
    pub(in crate::control) fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::Upstreams(mut labels), Self::Upstreams(more)) => {
                labels.extend(more);
                Self::Upstreams(labels)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

impl Merger {
    /// One that begins with the last resolved forms of an earlier process.
    pub(in crate::control) fn recalling(forms: Forms) -> Self {
        Self { forms, ..Self::default() }
    }

    /// The forms that the next process is to know, by provider.
    pub(in crate::control) fn to_save(&self) -> &Arc<BTreeMap<ProviderId, ResolvedForms>> {
        &self.to_save
    }

    /// The result of the last merge.
    pub(in crate::control) fn merged(&self) -> &Merged {
        &self.merged
    }

    /// What is remembered of items.
    #[cfg(test)]
    pub(in crate::control) fn forms(&self) -> &Forms {
        &self.forms
    }

    /// Merges all states under an overlay, and tells what that affects. The result is what [`merge`] makes of them.
    pub(in crate::control) fn merge(
        &mut self,
        states: &BTreeMap<ProviderId, Arc<ProviderState>>,
        rules: &Rules,
        overlay: &Arc<Overlay>,
    ) -> (&Merged, Affected) {
        let mut affected = self.affected(states, overlay);
        match &affected {
            Affected::All => {
                self.merged = merge(states, rules, overlay, &mut self.forms);
                let merged = &self.merged;
                let is_known = |reference: &ItemRef| {
                    let upstream = merged.label(reference).and_then(|label| merged.upstreams.get(label));
                    upstream.is_none_or(|upstream| upstream.known)
                };
                if self.forms.let_go(is_known) {
                    self.merged = merge(states, rules, overlay, &mut self.forms);
                }
                let to_save = self.forms.to_save();
                if *self.to_save != to_save {
                    self.to_save = Arc::new(to_save);
                }
                self.readers.clear();
                for (label, upstream) in &self.merged.upstreams {
                    for source in upstream.reads() {
                        self.readers.entry(source).or_default().push(Arc::clone(label));
                    }
                }
            }
            Affected::Upstreams(labels) => {
                for label in labels {
                    if let Some(upstream) = self.merged.upstreams.get_mut(label) {
                        upstream.read(states);
                    }
                }
                self.merged.report_states(states, rules);
                if self.merged.claims.are_contested() && self.merged.settle_claims() {
                    affected = Affected::All;
                }
            }
        }
        self.states.clone_from(states);
        self.overlay = Arc::clone(overlay);
        (&self.merged, affected)
    }

    fn affected(&self, states: &BTreeMap<ProviderId, Arc<ProviderState>>, overlay: &Arc<Overlay>) -> Affected {
        if !states.keys().eq(self.states.keys()) || !Arc::ptr_eq(overlay, &self.overlay) || self.forms.linger() {
            return Affected::All;
        }
        let mut labels = BTreeSet::new();
        for (before, now) in self.states.values().zip(states.values()) {
            if Arc::ptr_eq(before, now) {
                continue;
            }
            let same_documents = match (&before.documents, &now.documents) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (before, now) => before.is_none() && now.is_none(),
            };
            if !same_documents || before.documents_held != now.documents_held || before.kept != now.kept {
                return Affected::All;
            }
            for source in now.changed_sources(before) {
                let endpoints = [before, now].into_iter().filter_map(|state| state.sources.get(source));
                // Whose names are read is told by them.
                if endpoints.flat_map(|known| known.endpoints.iter()).any(is_named) {
                    return Affected::All;
                }
                labels.extend(self.readers.get(source).into_iter().flatten().cloned());
            }
        }
        Affected::Upstreams(labels)
    }
}

fn is_named(endpoint: &EndpointSpec) -> bool {
    matches!(endpoint.address, Address::Name { .. })
}
