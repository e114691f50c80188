//! The upstreams or middlewares that are defined now and those that are remembered, with the labels they are served under.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Fault, Present, Referable, Scope};
use crate::control::merge::Winners;
use crate::spec::decode::resolved::FormText;
use crate::spec::document::Kind;
use crate::spec::name::{ItemRef, Name, ProviderId};

/// An item by its name and by who defines it.
pub(super) type Id = (Name, ProviderId);

/// The form of an item that is in use.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form<T> {
    /// As its document has it, or had it.
    pub(super) own: Arc<T>,
    /// Whether all it refers to existed.
    pub(super) resolved: bool,
    /// With what is retained of earlier forms.
    pub(super) served: Arc<T>,
    /// What `own` was decoded from, where that is known.
    pub(super) text: Option<FormText>,
    /// Whether `own` is what its provider defines now.
    pub(super) is_present: bool,
}

/// The forms in use, and those that may be used again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Library<T> {
    forms: BTreeMap<Id, Form<T>>,
    /// Whose item a bare name stands for.
    names: BTreeMap<Name, ProviderId>,
}

/// What is defined now, over what is remembered.
pub(super) struct Table<'p, T> {
    present: BTreeMap<Id, Form<T>>,
    names: BTreeMap<&'p Name, ProviderId>,
    winners: &'p Winners<T>,
    /// Items that may have had a good form which is not known: by name, who defines them.
    blocked: BTreeMap<&'p Name, Vec<ProviderId>>,
    before: &'p Library<T>,
}

impl<T> Default for Library<T> {
    fn default() -> Self {
        Self { forms: BTreeMap::new(), names: BTreeMap::new() }
    }
}

impl<T> Library<T> {
    pub(super) fn get(&self, id: &Id) -> Option<&Form<T>> {
        self.forms.get(id)
    }

    /// Adds a form that an earlier process knew.
    pub(super) fn recall(&mut self, id: Id, form: Form<T>, has_name: bool) {
        if has_name {
            self.names.insert(id.0.clone(), id.1);
        }
        self.forms.insert(id, form);
    }

    /// All forms, each with whether the bare name stands for it.
    pub(super) fn forms(&self) -> impl Iterator<Item = (&Id, &Form<T>, bool)> {
        self.forms.iter().map(|(id, form)| (id, form, self.names.get(&id.0) == Some(&id.1)))
    }

    /// Sets what is served of each.
    pub(super) fn serve(&mut self, served: impl Fn(&Id, &Form<T>) -> Arc<T>) {
        for (id, form) in &mut self.forms {
            form.served = served(id, form);
        }
    }

    /// `NAME`, or `NAME@PROVIDER` where the bare name is another's.
    pub(super) fn label(&self, id: &Id) -> Arc<str> {
        label(id, self.names.get(&id.0).copied())
    }
}

impl<'p, T: Referable + Clone + PartialEq> Table<'p, T> {
    pub(super) fn new(winners: &'p Winners<T>, now: &Present<'p>, before: &'p Library<T>) -> Self {
        let (mut present, mut blocked) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        for (provider, documents) in &now.documents {
            for (name, item) in T::items(documents) {
                if let Some(good) = &item.good {
                    let id = (name.clone(), *provider);
                    // What a guard puts back is not among the present texts.
                    let known = || before.get(&id).filter(|known| known.own == *good)?.text.clone();
                    let text = now.text(T::KIND, name, *provider, &item.place).or_else(known);
                    let (own, served) = (Arc::clone(good), Arc::clone(good));
                    present.insert(id, Form { own, resolved: true, served, text, is_present: true });
                } else if item.blocked.is_some() {
                    blocked.entry(name).or_default().push(*provider);
                }
            }
        }
        let mut names: BTreeMap<&Name, ProviderId> = before.names.iter().map(|(name, by)| (name, *by)).collect();
        names.extend(winners.iter().map(|(name, (by, _))| (name, *by)));
        Self { present, names, winners, blocked, before }
    }

    /// Replaces every present form that does not resolve by the last one that did, where there is one.
    pub(super) fn settle(
        mut self,
        faults_of: impl Fn(&Self, &T) -> Vec<String>,
        faults: &mut Vec<Fault>,
        kind: Kind,
    ) -> Self {
        let wrong: Vec<(Id, Vec<String>)> = self
            .present
            .iter()
            .map(|(id, form)| (id, faults_of(&self, &form.own)))
            .filter(|(_, texts)| !texts.is_empty())
            .map(|(id, texts)| (id.clone(), texts))
            .collect();
        for (id, texts) in wrong {
            let last = self.before.get(&id).filter(|form| form.resolved).cloned();
            let keeps = last.is_some();
            if let Some(form) = self.present.get_mut(&id) {
                match last {
                    Some(last) => *form = Form { is_present: false, ..last },
                    None => form.resolved = false,
                }
            }
            faults.push(Fault { kind, id, texts, keeps });
        }
        self
    }

    /// Who a reference finds among what is defined now.
    pub(super) fn present(&self, reference: &ItemRef) -> Option<Id> {
        let provider = match reference.provider {
            Some(provider) => provider,
            None => self.winners.get(&reference.name)?.0,
        };
        let id = (reference.name.clone(), provider);
        self.present.contains_key(&id).then_some(id)
    }

    pub(super) fn find(&self, reference: &ItemRef, scope: Scope) -> Option<Id> {
        let present = self.present(reference);
        if present.is_some() || scope == Scope::Present {
            return present;
        }
        // Nothing that is remembered stands in for an item that blocks its name.
        let blocked = self.blocked.get(&reference.name);
        let provider = match reference.provider {
            Some(provider) => blocked.is_none_or(|by| !by.contains(&provider)).then_some(provider)?,
            None => *self.before.names.get(&reference.name).filter(|_| blocked.is_none())?,
        };
        let id = (reference.name.clone(), provider);
        self.before.forms.contains_key(&id).then_some(id)
    }

    /// The form of what is defined or remembered.
    pub(super) fn form(&self, id: &Id) -> Option<&Form<T>> {
        self.present.get(id).or_else(|| self.before.get(id))
    }

    /// The form as of the last time.
    pub(super) fn before(&self, id: &Id) -> Option<&Form<T>> {
        self.before.get(id)
    }

    pub(super) fn label(&self, id: &Id) -> Arc<str> {
        label(id, self.names.get(&id.0).copied())
    }

    pub(super) fn winners(&self) -> impl Iterator<Item = Id> {
        self.winners.iter().map(|(name, (provider, _))| (name.clone(), *provider))
    }

    /// The next library: what is defined, and of what is not any more what is needed, or of a provider not read yet.
    pub(super) fn remember(self, is_needed: impl Fn(&Id) -> bool, unread: &BTreeSet<ProviderId>) -> Library<T> {
        let Self { present, names, before, .. } = self;
        let retained = before
            .forms
            .iter()
            .filter(|(id, _)| !present.contains_key(*id) && (is_needed(id) || unread.contains(&id.1)));
        let retained = retained.map(|(id, form)| (id.clone(), Form { is_present: false, ..form.clone() }));
        let retained: Vec<_> = retained.collect();
        let mut forms = present;
        forms.extend(retained);
        let names = names.into_iter().filter(|(name, by)| forms.contains_key(&((*name).clone(), *by)));
        let names = names.map(|(name, by)| (name.clone(), by)).collect();
        Library { forms, names }
    }
}

fn label((name, provider): &Id, of_name: Option<ProviderId>) -> Arc<str> {
    if of_name == Some(*provider) { name.as_str().into() } else { format!("{name}@{provider}").into() }
}
