//! What of the last resolved forms is saved, and what the next process makes of it before it reads anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::library::{Form, Id, Library};
use super::route_form::RouteForm;
use super::{Forms, Referable};
use crate::control::merge::{Rules, merge};
use crate::control::overlay::Overlay;
use crate::control::saved::SavedState;
use crate::discovery::state::ProviderState;
use crate::spec::decode::resolved::{FormText, ReadFile, ResolvedForms, ResolvedItem, ResolvedText};
use crate::spec::document::{Documents, Kind};
use crate::spec::endpoint::Labels;
use crate::spec::name::{Name, ProviderId};
use crate::spec::upstream::UpstreamSpec;

/// The last resolved forms of an earlier process: those that it saved, and what resolves of the documents that it saw last.
/// What files name is read with `read`.
pub(in crate::control) fn recall(
    saved: &BTreeMap<ProviderId, SavedState>,
    providers: impl IntoIterator<Item = ProviderId>,
    rules: &Rules,
    overlay: &Overlay,
    read: ReadFile<'_>,
) -> Forms {
    let mut forms = Forms::default();
    for (provider, state) in saved {
        forms.recall_those_of(*provider, &state.resolved, read);
    }
    let state = |saved: &SavedState| {
        let forms = saved.forms.clone().unwrap_or_default();
        let of_keys = saved.documents.as_ref().map(|(documents, _)| Arc::clone(documents));
        let of_files = || (!forms.files.is_empty()).then(|| Arc::new(forms.decode_files(read)));
        let documents = of_keys.or_else(of_files);
        ProviderState { documents, forms, ..ProviderState::default() }
    };
    let states = providers.into_iter().map(|id| {
        let mut state = saved.get(&id).map(state).unwrap_or_default();
        state.kept.documents_may_be_missing = true;
        (id, Arc::new(state))
    });
    // As they were served last.
    merge(&states.collect(), rules, overlay, &mut forms);
    forms.former.clear();
    forms.routes = std::mem::take(&mut forms.routes).into_iter().map(|(name, form)| (name, form.unseen())).collect();
    forms
}

impl Forms {
    fn recall_those_of(&mut self, provider: ProviderId, saved: &ResolvedForms, read: ReadFile<'_>) {
        for ResolvedText { text, items } in &saved.texts {
            let documents = text.decode(items.iter().map(|item| (item.kind, &item.name)), read);
            for item in items {
                if !self.recall_item(provider, text, item, &documents) {
                    let (kind, name, place) = (item.kind.noun(), &item.name, &text.place);
                    tracing::warn!(%provider, "the saved last form of {kind} `{name}` ({place}) cannot be used");
                }
            }
        }
        for (name, middlewares) in &saved.registered {
            let middlewares = middlewares.iter().filter_map(|reference| reference.parse().ok()).collect();
            self.recall_route(name, RouteForm::outline(provider, middlewares));
        }
        self.listeners.extend(saved.listeners.iter().cloned());
    }

    /// Adds an item of an earlier process, if its text could be decoded.
    fn recall_item(
        &mut self,
        provider: ProviderId,
        text: &FormText,
        item: &ResolvedItem,
        documents: &Documents,
    ) -> bool {
        let ResolvedItem { kind, name, has_name, subsets, created, may_be_outdated, unresolved } = item;
        let id = (name.clone(), provider);
        match kind {
            Kind::Route => {
                let good = documents.routes.get(name).and_then(|item| item.good.as_ref());
                let form =
                    good.map(|spec| RouteForm::recalled(provider, spec, text.clone(), *created, *may_be_outdated));
                form.map(|form| self.recall_route(name, form)).is_some()
            }
            Kind::Upstream => {
                let form = recalled::<UpstreamSpec>(documents, name, text, *unresolved).map(|form| {
                    let mut served = UpstreamSpec::clone(&form.own);
                    served.settings.subsets.extend(subsets.clone());
                    Form { served: Arc::new(served), ..form }
                });
                form.map(|form| self.upstreams.recall(id, form, *has_name)).is_some()
            }
            Kind::Middleware => {
                let form = recalled(documents, name, text, *unresolved);
                form.map(|form| self.middlewares.recall(id, form, *has_name)).is_some()
            }
            // They refer to nothing.
            Kind::Certificate | Kind::Consumer => false,
        }
    }

    fn recall_route(&mut self, name: &Name, form: RouteForm) {
        // Of two that were saved at different times nobody knows which one was the last.
        if self.routes.remove(name).is_none() {
            self.routes.insert(name.clone(), form);
        }
    }

    /// What the next process is to know, by provider: forms that are not what their provider defines now, or that have
    /// more than it defines.
    pub(in crate::control) fn to_save(&self) -> BTreeMap<ProviderId, ResolvedForms> {
        let mut items: BTreeMap<ProviderId, Vec<(FormText, ResolvedItem)>> = BTreeMap::new();
        let mut add = |provider: ProviderId, text: Option<FormText>, item: ResolvedItem| {
            items.entry(provider).or_default().extend(text.map(|text| (text, item)));
        };
        each(&self.upstreams, |id, form, has_name| {
            let own = &form.own.settings.subsets;
            let served = form.served.settings.subsets.iter();
            let subsets = served.filter(|(name, _)| !own.contains_key(*name));
            let subsets = subsets.map(|(name, labels)| (name.clone(), labels.clone())).collect();
            // What a registration asks for has no text.
            let text = form.text.clone().or_else(|| FormText::written(id.1, &id.0, &form.own));
            let item = item(Kind::Upstream, &id.0, has_name, subsets);
            add(id.1, text, ResolvedItem { unresolved: !form.resolved, ..item });
        });
        each(&self.middlewares, |id, form, has_name| {
            let item = item(Kind::Middleware, &id.0, has_name, BTreeMap::new());
            add(id.1, form.text.clone(), ResolvedItem { unresolved: !form.resolved, ..item });
        });
        for (name, form) in self.routes.iter().filter(|(_, form)| !form.is_present) {
            let item = item(Kind::Route, name, false, BTreeMap::new());
            let (created, may_be_outdated) = (form.created, form.may_be_outdated);
            add(form.provider, form.text.clone(), ResolvedItem { created, may_be_outdated, ..item });
        }
        let mut saved: BTreeMap<ProviderId, ResolvedForms> =
            items.into_iter().map(|(provider, items)| (provider, ResolvedForms::of(items))).collect();
        for (name, form) in self.routes.iter().filter(|(_, form)| form.provider == ProviderId::ConsulTags) {
            let middlewares: BTreeSet<String> = form.spec.all_middlewares().map(ToString::to_string).collect();
            if !middlewares.is_empty() {
                saved.entry(form.provider).or_default().registered.insert(name.clone(), middlewares);
            }
        }
        if !self.listeners.is_empty() {
            saved.entry(ProviderId::File).or_default().listeners.clone_from(&self.listeners);
        }
        saved.retain(|_, forms| !forms.is_empty());
        saved
    }
}

/// Every form of a library that the present documents alone do not make.
fn each<T>(library: &Library<T>, mut take: impl FnMut(&Id, &Form<T>, bool)) {
    for (id, form, has_name) in library.forms() {
        if !(form.is_present && Arc::ptr_eq(&form.own, &form.served)) {
            take(id, form, has_name);
        }
    }
}

fn item(kind: Kind, name: &Name, has_name: bool, subsets: BTreeMap<Name, Labels>) -> ResolvedItem {
    let (created, may_be_outdated, unresolved) = (None, false, false);
    ResolvedItem { kind, name: name.clone(), has_name, subsets, created, may_be_outdated, unresolved }
}

fn recalled<T: Referable>(documents: &Documents, name: &Name, text: &FormText, unresolved: bool) -> Option<Form<T>> {
    let good = T::items(documents).get(name)?.good.as_ref()?;
    let (own, served, text) = (Arc::clone(good), Arc::clone(good), Some(text.clone()));
    Some(Form { own, resolved: !unresolved, served, text, is_present: false })
}

#[cfg(test)]
mod tests;
