//! Defines the slot a provider publishes its state into.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{broadcast, watch};

use super::state::{Origin, ProviderState, SourceState};
use super::status::ProviderStatus;
use crate::spec::decode::SavedForms;
use crate::spec::document::Documents;
use crate::spec::endpoint::EndpointSpec;
use crate::spec::hold::{Held, HeldPart, Scope};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::source::Source;

/// Accepted parts that a watch has not looked at yet; one that is further behind keeps what it holds.
const MAX_PENDING_ACCEPTS: usize = 16_384;

/// Publishes a provider's state; its watches share it. Latest wins, and an equal state wakes nobody.
#[derive(Clone)]
pub struct Publisher {
    slot: watch::Sender<Arc<ProviderState>>,
    status: Arc<ProviderStatus>,
    accepts: broadcast::Sender<HeldPart>,
    /// What documents were made of when an earlier process published there.
    remembered: Option<Arc<SavedForms>>,
}

impl Publisher {
    /// A publisher, and the end where control reads.
    pub fn new(id: ProviderId) -> (Self, watch::Receiver<Arc<ProviderState>>) {
        Self::with(ProviderStatus::new(id))
    }

    /// A publisher with this status, and the end where control reads.
    pub fn with(status: Arc<ProviderStatus>) -> (Self, watch::Receiver<Arc<ProviderState>>) {
        let (slot, reader) = watch::channel(Arc::new(ProviderState::default()));
        let (accepts, _) = broadcast::channel(MAX_PENDING_ACCEPTS);
        (Self { slot, status, accepts, remembered: None }, reader)
    }

    /// The same, where an earlier process left what its documents were made of.
    pub fn remembering(self, remembered: Option<Arc<SavedForms>>) -> Self {
        Self { remembered, ..self }
    }

    /// What documents were made of when an earlier process published there; `None`: nothing is known of that.
    pub fn remembered(&self) -> Option<&Arc<SavedForms>> {
        self.remembered.as_ref()
    }

    /// The provider's status.
    pub fn status(&self) -> &Arc<ProviderStatus> {
        &self.status
    }

    /// Where operators accept what the provider's registry shows, part by part.
    pub fn accepts(&self) -> broadcast::Sender<HeldPart> {
        self.accepts.clone()
    }

    /// For a watch that holds something: the parts whose loss operators accept. While nobody listens, the command is
    /// refused.
    pub fn accepted(&self) -> broadcast::Receiver<HeldPart> {
        self.accepts.subscribe()
    }

    /// What is published now.
    pub fn current(&self) -> Arc<ProviderState> {
        Arc::clone(&self.slot.borrow())
    }

    /// Follows what is published.
    pub fn states(&self) -> watch::Receiver<Arc<ProviderState>> {
        self.slot.subscribe()
    }

    /// Publishes all documents after a complete read.
    pub fn documents(&self, documents: Documents) {
        self.documents_of(documents, SavedForms::default(), Origin::Live);
    }

    /// As [`Self::documents`], with what they were made of, to be saved.
    pub fn documents_of(&self, documents: Documents, forms: SavedForms, origin: Origin) {
        self.publish_documents(documents, forms, origin, true);
    }

    /// As [`Self::documents_of`], where some were read before the registry went back or was exchanged, and not since.
    pub fn documents_in_part(&self, documents: Documents, forms: SavedForms, origin: Origin) {
        self.publish_documents(documents, forms, origin, false);
    }

    fn publish_documents(&self, documents: Documents, forms: SavedForms, origin: Origin, is_whole: bool) {
        let held = origin == Origin::Held;
        self.change(|before| {
            let same_documents = before.documents.as_deref() == Some(&documents);
            if same_documents && *before.forms == forms && before.documents_held == held {
                return if is_whole { listed_again(before, None) } else { None };
            }
            let mut state = ProviderState::clone(before);
            state.documents_held = held;
            if !same_documents {
                state.documents = Some(Arc::new(documents));
            }
            state.forms = Arc::new(forms);
            if is_whole {
                note_listed(&mut state, None);
            }
            Some(state)
        });
    }

    /// Publishes the documents of files, with what is held of them and the settings that wait for a restart.
    pub fn files(
        &self,
        documents: Documents,
        forms: SavedForms,
        holds: BTreeMap<HeldPart, Held>,
        pending: Vec<Problem>,
    ) {
        let new = holds.keys().filter(|part| !self.slot.borrow().holds.contains_key(*part)).count();
        self.status.updates.held.fetch_add(new as u64, Relaxed);
        self.change(|before| {
            let same_documents = before.documents.as_deref() == Some(&documents);
            let same_rest = *before.forms == forms && before.holds == holds && *before.pending == *pending;
            if same_documents && same_rest {
                return None;
            }
            let mut state = ProviderState::clone(before);
            if !same_documents {
                state.documents = Some(Arc::new(documents));
            }
            (state.forms, state.holds, state.pending) = (Arc::new(forms), holds, pending.into());
            Some(state)
        });
    }

    /// Publishes what a watch holds in place of what it held before: of a source; without one of the documents.
    pub fn holds(&self, source: Option<&Source>, held: BTreeMap<HeldPart, Held>) {
        let concerns = |part: &HeldPart| match (part, source) {
            (HeldPart::Endpoints(of), Some(source)) => of == source,
            (HeldPart::Document(_) | HeldPart::File(_), None) => true,
            (HeldPart::Endpoints(_), None) | (HeldPart::Document(_) | HeldPart::File(_), Some(_)) => false,
        };
        let before = self.current();
        if before.holds.iter().filter(|(part, _)| concerns(part)).eq(&held) {
            return;
        }
        self.change(|before| {
            let mut state = before.clone();
            state.holds.retain(|part, _| !concerns(part));
            state.holds.extend(held);
            Some(state)
        });
    }

    /// Publishes which right the credentials lack; `None`: they have it.
    pub fn missing_right(&self, scope: &Scope, right: Option<&str>) {
        if self.current().missing_rights.get(scope).map(|right| &**right) == right {
            return;
        }
        self.change(|before| {
            let mut state = before.clone();
            match right {
                Some(right) => state.missing_rights.insert(scope.clone(), right.into()),
                None => state.missing_rights.remove(scope),
            };
            Some(state)
        });
    }

    /// A watch saw the registry's counter go back: it was restored or wiped. Publish what was read only after this.
    pub fn regressed(&self) {
        self.status.updates.held.fetch_add(1, Relaxed);
        self.change(|before| Some(ProviderState { regressions: before.regressions + 1, ..before.clone() }));
    }

    /// A watch met servers with other ids than before: another registry stands there. Publish what was read only after
    /// this.
    pub fn other_servers(&self) {
        self.status.updates.held.fetch_add(1, Relaxed);
        self.change(|before| Some(ProviderState { other_servers: before.other_servers + 1, ..before.clone() }));
    }

    /// Publishes what is known of a source.
    pub fn source(&self, source: &Source, known: SourceState) {
        self.sources([(source.clone(), known)]);
    }

    /// Publishes what is known of several sources, at once.
    pub fn sources(&self, all: impl IntoIterator<Item = (Source, SourceState)>) {
        self.change(|before| {
            let mut changed = None;
            for (source, known) in all {
                let former = before.sources.get(&source);
                let same = former == Some(&known);
                if same && !is_news(before, Some(&source)) {
                    continue;
                }
                let state = changed.get_or_insert_with(|| before.clone());
                note_listed(state, Some(&source));
                if state.beside.contains_key(&source) {
                    Arc::make_mut(&mut state.beside).remove(&source);
                }
                if !same {
                    let known = match former {
                        Some(former) => known.reusing(former),
                        None => known,
                    };
                    state.sources.insert(source, known);
                }
            }
            changed
        });
    }

    /// Publishes what is read of sources that nobody wants; those without endpoints are forgotten.
    pub fn beside(&self, all: impl IntoIterator<Item = (Source, Vec<EndpointSpec>)>) {
        self.change(|before| {
            let mut changed: Option<ProviderState> = None;
            for (source, endpoints) in all {
                let known = changed.as_ref().unwrap_or(before).beside.get(&source);
                if known.map_or(&[][..], |known| known) == endpoints.as_slice() {
                    continue;
                }
                let beside = Arc::make_mut(&mut changed.get_or_insert_with(|| before.clone()).beside);
                match endpoints.is_empty() {
                    true => drop(beside.remove(&source)),
                    false => drop(beside.insert(source, endpoints.into())),
                }
            }
            changed
        });
    }

    /// Drops a source that no upstream wants any more.
    pub fn forget(&self, source: &Source) {
        self.change(|before| {
            let (held, scope) = (HeldPart::Endpoints(source.clone()), Scope::Source(source.clone()));
            let known = before.sources.contains_key(source) || before.missing_rights.contains_key(&scope);
            let mut state = known.then(|| before.clone())?;
            state.listed.remove(&Some(source.clone()));
            state.sources.remove(source);
            state.holds.remove(&held);
            state.missing_rights.remove(&scope);
            Some(state)
        });
    }

    /// Publishes what `change` makes of the state before, unless it makes nothing.
    fn change(&self, change: impl FnOnce(&ProviderState) -> Option<ProviderState>) {
        let applied = self.slot.send_if_modified(|slot| match change(slot) {
            Some(state) => {
                *slot = Arc::new(state);
                true
            }
            None => false,
        });
        let updates = &self.status.updates;
        let counter = if applied { &updates.applied } else { &updates.unchanged };
        counter.fetch_add(1, Relaxed);
    }
}

/// A state in which a part is noted as published, where that is news: for the first time since the registry went back
/// or was exchanged.
fn listed_again(before: &ProviderState, part: Option<&Source>) -> Option<ProviderState> {
    let mut state = is_news(before, part).then(|| before.clone())?;
    note_listed(&mut state, part);
    Some(state)
}

fn is_news(state: &ProviderState, part: Option<&Source>) -> bool {
    let now = state.disbeliefs();
    now > 0 && state.listed.get(&part.cloned()) != Some(&now)
}

fn note_listed(state: &mut ProviderState, part: Option<&Source>) {
    if is_news(state, part) {
        state.listed.insert(part.cloned(), state.disbeliefs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::source::ConsulService;

    #[test]
    fn an_equal_state_wakes_nobody() {
        let (publisher, mut reader) = Publisher::new(ProviderId::Consul);
        let source = Source::Consul(ConsulService::named("users"));
        let known = SourceState::live([], []);
        publisher.source(&source, known.clone());
        assert!(reader.has_changed().expect("publisher lives"));
        reader.mark_unchanged();
        publisher.source(&source, known);
        assert!(!reader.has_changed().expect("publisher lives"));
        assert_eq!(publisher.status().updates.unchanged.load(Relaxed), 1);
    }
}
