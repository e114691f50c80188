//! The last form of a route that resolved, and when it no longer counts.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::spec::decode::resolved::FormText;
use crate::spec::matching::{Conditions, MatchSpec, PathMatch};
use crate::spec::name::{ItemRef, ProviderId};
use crate::spec::route::RouteSpec;

/// The last form of a route that resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RouteForm {
    pub(super) provider: ProviderId,
    pub(super) spec: Arc<RouteSpec>,
    /// What it was decoded from, where that is known.
    pub(super) text: Option<FormText>,
    /// The index at which its key was created.
    pub(super) created: Option<u64>,
    /// What the route was defined as when it was last looked at.
    defined: Arc<RouteSpec>,
    /// Whether that is this form, and resolves.
    pub(super) is_present: bool,
    /// Whether a later form may have resolved that no process of this gateway saw.
    pub(super) may_be_outdated: bool,
    /// An earlier process saved it, and nobody has looked at its document since.
    is_recalled: bool,
    /// Only its middlewares are known.
    is_outline: bool,
}

impl RouteForm {
    /// One that resolves as it is defined now.
    pub(super) fn resolved(
        provider: ProviderId,
        spec: &Arc<RouteSpec>,
        text: Option<FormText>,
        created: Option<u64>,
    ) -> Self {
        Self {
            provider,
            spec: Arc::clone(spec),
            text,
            created,
            defined: Arc::clone(spec),
            is_present: true,
            may_be_outdated: false,
            is_recalled: false,
            is_outline: false,
        }
    }

    /// One that an earlier process knew of.
    pub(super) fn recalled(
        provider: ProviderId,
        spec: &Arc<RouteSpec>,
        text: FormText,
        created: Option<u64>,
        may_be_outdated: bool,
    ) -> Self {
        Self { is_present: false, may_be_outdated, ..Self::resolved(provider, spec, Some(text), created) }
    }

    /// One of a registration, of which an earlier process saved what guarded it.
    pub(super) fn outline(provider: ProviderId, middlewares: Vec<ItemRef>) -> Self {
        let path = PathMatch::Prefix(String::new());
        let (hosts, methods, conditions) = (Vec::new(), Vec::new(), Conditions::default());
        let matching = MatchSpec { hosts, path, methods, conditions };
        let spec = Arc::new(RouteSpec { middlewares, ..RouteSpec::blocked(matching, 0, Vec::new()) });
        Self { is_present: false, is_outline: true, ..Self::resolved(provider, &spec, None, None) }
    }

    /// The same while nobody has looked at its document yet.
    pub(super) fn unseen(self) -> Self {
        Self { is_recalled: true, ..self }
    }

    /// It as the last form of a route that is defined so now. `None`: its key was deleted and created anew, or it is an
    /// outline, and another route is asked for than the one that it outlines.
    pub(super) fn of(
        &self,
        provider: ProviderId,
        spec: &Arc<RouteSpec>,
        created: Option<u64>,
    ) -> Option<Cow<'_, Self>> {
        if self.is_outline {
            let had: BTreeSet<&ItemRef> = self.spec.all_middlewares().collect();
            let is_guarded = spec.all_middlewares().all(|reference| had.contains(reference));
            return (self.provider == provider && is_guarded)
                .then(|| Cow::Owned(Self { is_present: false, ..Self::resolved(provider, spec, None, created) }));
        }
        let is_new_key = self.provider == provider && self.created.zip(created).is_some_and(|(then, now)| then != now);
        (!is_new_key).then_some(Cow::Borrowed(self))
    }

    /// Whether a later form may have resolved unseen before the route was defined so.
    pub(super) fn is_outdated_by(&self, spec: &RouteSpec) -> bool {
        self.may_be_outdated || self.is_recalled && *self.defined != *spec
    }

    /// It beside a definition that does not resolve; `is_recalled`: that is of the saved state, too.
    pub(super) fn beside(&self, spec: &Arc<RouteSpec>, is_recalled: bool) -> Self {
        Self {
            may_be_outdated: self.is_outdated_by(spec),
            is_recalled: self.is_recalled && is_recalled,
            is_present: false,
            defined: Arc::clone(spec),
            ..self.clone()
        }
    }
}
