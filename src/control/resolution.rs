//! Which form of each route, upstream and middleware is served: the present one where all it refers to exists, else the
//! last one that resolved, with what that needs. Pure.
//!
//! A wrong name in an edit, or the removal of something that is in use, is a mistake that changes nothing. [`Forms`] remembers
//! the last form of every item that resolved; what such a form needs and no provider defines any more is *retained* until
//! nothing needs it or its name is defined again. One mistake is not forgiven: where an edit names a middleware that
//! does not exist and that the last form did not have, the route answers 503, because the middleware may protect it.
//! [`mod@recall`] is what of the forms is saved, and what the next process makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::merge::{MergedMiddleware, Rules, Winners};
use crate::snapshot::middleware::{Step, conflicts, unfit};
use crate::snapshot::{Diagnostic, DiagnosticKind, RouteState};
use crate::spec::breaker::Fallback;
use crate::spec::decode::resolved::{FormText, FormTexts};
use crate::spec::document::{Documents, Item, Kind};
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::{ItemRef, Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;
use crate::spec::upstream::{UpstreamSource, UpstreamSpec};

mod library;
mod listening;
mod recall;
mod route_form;

use library::{Form, Id, Library, Table};
pub(super) use listening::widened;
pub(super) use recall::recall;
use route_form::RouteForm;

const KEPT: &str = "the last form that resolved stays in use";
const UNRESOLVED: &str = "every request gets 503 (NC) until it resolves";
const UNPROTECTED: &str =
    "every request gets 503 (NC) until it resolves: a middleware that the last form did not have may protect the route";
const ELSEWHERE: &str =
    "requests of all listeners that it does not name get 503 (NC) where it matches, until it resolves";
const WITHOUT_FALLBACK: &str = "requests that its breaker refuses get 503";

/// What all providers define now, and who won each name.
pub(super) struct Present<'d> {
    /// Of the providers that were read, the first in precedence first.
    pub(super) documents: Vec<(ProviderId, &'d Documents)>,
    pub(super) routes: Winners<RouteSpec>,
    pub(super) upstreams: Winners<UpstreamSpec>,
    pub(super) middlewares: Winners<MiddlewareSpec>,
    /// Providers of documents that were not read yet: what they define is not known to be gone.
    pub(super) unread: BTreeSet<ProviderId>,
    /// Whether all were read that have to be.
    pub(super) is_read: bool,
    /// Providers whose documents are those of the saved state.
    pub(super) recalled: BTreeSet<ProviderId>,
    /// What items were decoded from.
    pub(super) texts: BTreeMap<ProviderId, FormTexts<'d>>,
}

impl Present<'_> {
    /// Where an item lies.
    pub(super) fn place(&self, kind: Kind, name: &Name, provider: ProviderId) -> String {
        let documents = self.documents.iter().find(|(id, _)| *id == provider);
        let place = documents.and_then(|(_, documents)| documents.place(kind, name.as_str()));
        place.map_or_else(|| provider.to_string(), ToString::to_string)
    }

    fn text(&self, kind: Kind, name: &Name, provider: ProviderId, place: &Arc<str>) -> Option<FormText> {
        self.texts.get(&provider)?.of(provider, kind, name, place)
    }

    fn route(&self, name: &Name, provider: ProviderId) -> Option<&Item<RouteSpec>> {
        self.documents.iter().find(|(id, _)| *id == provider)?.1.routes.get(name)
    }
}

/// The last forms that resolved, and what they need.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Forms {
    upstreams: Library<UpstreamSpec>,
    middlewares: Library<MiddlewareSpec>,
    routes: BTreeMap<Name, RouteForm>,
    /// The forms before those, while they need something retained and the endpoints of the new ones may not be known yet:
    /// what they need stays, so that they can serve until then.
    former: BTreeMap<Name, Arc<RouteSpec>>,
    /// Listeners whose middlewares all existed.
    listeners: BTreeSet<Name>,
}

/// What is served.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) routes: Vec<ResolvedRoute>,
    /// By label.
    pub(super) upstreams: BTreeMap<Arc<str>, (Name, ProviderId, Arc<UpstreamSpec>)>,
    /// By label.
    pub(super) middlewares: BTreeMap<Arc<str>, MergedMiddleware>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// A route in the form that is served, or that answers 503.
#[derive(Debug)]
pub(super) struct ResolvedRoute {
    pub(super) name: Name,
    /// Who defines that form.
    pub(super) provider: ProviderId,
    pub(super) spec: Arc<RouteSpec>,
    pub(super) state: RouteState,
    /// What answers 503 in its place on listeners that may have been meant.
    pub(super) blocks: Option<Arc<RouteSpec>>,
}

/// Present and remembered items, to look references up in.
struct Tables<'p> {
    upstreams: Table<'p, UpstreamSpec>,
    middlewares: Table<'p, MiddlewareSpec>,
    /// The names of all listeners.
    listeners: &'p BTreeSet<Name>,
}

/// What a reference may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// What a provider defines.
    Present,
    /// That, and what is retained.
    Retained,
}

/// What is needed, by who defines it.
#[derive(Debug, Default)]
struct Needs {
    /// Each with the subsets that are asked for.
    upstreams: BTreeMap<Id, BTreeSet<Name>>,
    middlewares: BTreeSet<Id>,
}

impl Forms {
    /// Whether a merge may end what another one retained.
    pub(super) fn linger(&self) -> bool {
        !self.former.is_empty()
    }

    /// Lets go of forms whose successors lead to upstreams that are all known; whether there were any.
    pub(super) fn let_go(&mut self, is_known: impl Fn(&ItemRef) -> bool) -> bool {
        let (routes, before) = (&self.routes, self.former.len());
        self.former.retain(|name, _| {
            let form = routes.get(name);
            form.is_some_and(|form| form.spec.targets.iter().any(|target| !is_known(&target.upstream)))
        });
        self.former.len() < before
    }

    /// Decides what is served, and remembers what resolved once all was read. The same items twice give the same result.
    pub(super) fn resolve(&mut self, present: &Present<'_>, rules: &Rules) -> Resolved {
        let mut faults = Vec::new();
        let upstreams = Table::new(&present.upstreams, present, &self.upstreams);
        let upstreams =
            upstreams.settle(|table, spec| upstream_faults(table, spec, rules), &mut faults, Kind::Upstream);
        let middlewares = Table::new(&present.middlewares, present, &self.middlewares);
        let middlewares =
            middlewares.settle(|_, spec| middleware_faults(&upstreams, spec), &mut faults, Kind::Middleware);
        let tables = Tables { upstreams, middlewares, listeners: &rules.listener_names };

        let (mut resolved, mut served) = (Resolved::default(), Needs::default());
        let (mut routes, mut formers) = (BTreeMap::new(), BTreeMap::new());
        for (name, (provider, spec)) in &present.routes {
            let item = present.route(name, *provider);
            let created = item.and_then(|item| item.created);
            let last = self.routes.get(name).and_then(|last| last.of(*provider, spec, created));
            let last = last.as_deref();
            let (route, diagnostic) = tables.decide(name, *provider, spec, last, present);
            if route.state.is_served() {
                tables.need_route(&route.spec, &mut served);
                let former = match last {
                    Some(last) if last.spec == route.spec => self.former.get(name),
                    Some(last) => Some(&last.spec).filter(|last| tables.retains(last)),
                    None => None,
                };
                if let Some(former) = former {
                    tables.need_route(former, &mut served);
                    formers.insert(name.clone(), Arc::clone(former));
                }
            }
            let form = match last {
                Some(last) if route.state != RouteState::Resolved => {
                    Some(last.beside(spec, present.recalled.contains(provider)))
                }
                last if route.state.is_served() => {
                    let text = item.and_then(|item| present.text(Kind::Route, name, *provider, &item.place));
                    // What a guard puts back is not among the present texts.
                    let known = || last.filter(|last| last.spec == *spec)?.text.clone();
                    Some(RouteForm::resolved(*provider, spec, text.or_else(known), created))
                }
                Some(_) | None => None,
            };
            routes.extend(form.map(|form| (name.clone(), form)));
            resolved.routes.push(route);
            resolved.diagnostics.extend(diagnostic);
        }
        let absent = self.routes.iter().filter(|(name, _)| !present.routes.contains_key(*name));
        let unread = absent.filter(|(_, last)| present.unread.contains(&last.provider));
        routes.extend(unread.map(|(name, last)| (name.clone(), last.clone())));

        let mut listeners = BTreeSet::new();
        for (name, list) in &rules.listeners {
            let faults = tables.list_faults(list, Scope::Present);
            let keeps = !faults.is_empty()
                && self.listeners.contains(name)
                && tables.list_faults(list, Scope::Retained).is_empty();
            if faults.is_empty() || keeps {
                tables.need_list(list, &mut served);
            }
            if faults.is_empty() || self.listeners.contains(name) {
                listeners.insert(name.clone());
            }
            if !faults.is_empty() {
                resolved.diagnostics.push(of_listener(name, &faults, keeps));
            }
        }
        tables.need_winners(&mut served);
        tables.report(&faults, &served, present, &mut resolved.diagnostics);

        let mut remembered = Needs::default();
        for form in routes.values() {
            tables.need_route(&form.spec, &mut remembered);
        }
        for name in &listeners {
            tables.need_list(&rules.listeners[name], &mut remembered);
        }
        let Tables { upstreams, middlewares, .. } = tables;
        for (id, subsets) in &served.upstreams {
            remembered.upstreams.entry(id.clone()).or_default().extend(subsets.iter().cloned());
        }
        remembered.middlewares.extend(served.middlewares.iter().cloned());
        let mut library = upstreams.remember(|id| remembered.upstreams.contains_key(id), &present.unread);
        library.serve(|id, form| {
            with_subsets(form, self.upstreams.get(id), remembered.upstreams.get(id).into_iter().flatten())
        });
        for id in served.upstreams.into_keys() {
            if let Some(form) = library.get(&id) {
                resolved.upstreams.insert(library.label(&id), (id.0.clone(), id.1, Arc::clone(&form.served)));
            }
        }
        let steps = middlewares.remember(|id| remembered.middlewares.contains(id), &present.unread);
        for id in &served.middlewares {
            if let Some(form) = steps.get(id) {
                let middleware = MergedMiddleware { provider: id.1, spec: Arc::clone(&form.served) };
                resolved.middlewares.insert(steps.label(id), middleware);
            }
        }
        resolved.diagnostics.sort_unstable();
        // Until then a name may be that of another provider's item, of which something else was served.
        if present.is_read {
            *self = Self { upstreams: library, middlewares: steps, routes, former: formers, listeners };
        }
        resolved
    }
}

impl Tables<'_> {
    /// The form of a route that is served, and what is wrong with its present one.
    fn decide(
        &self,
        name: &Name,
        provider: ProviderId,
        spec: &Arc<RouteSpec>,
        last: Option<&RouteForm>,
        present: &Present<'_>,
    ) -> (ResolvedRoute, Option<Diagnostic>) {
        let route = |provider, spec: &Arc<RouteSpec>, state| ResolvedRoute {
            name: name.clone(),
            provider,
            spec: Arc::clone(spec),
            state,
            blocks: None,
        };
        let faults = self.route_faults(spec, Scope::Present);
        let refused = &spec.registered.broken;
        if faults.is_empty() && refused.is_empty() {
            return (route(provider, spec, RouteState::Resolved), None);
        }
        let unprotected = last.is_some_and(|last| self.names_new_middleware(spec, last));
        let keeps = last.filter(|last| {
            refused.is_empty() && !unprotected && self.route_faults(&last.spec, Scope::Retained).is_empty()
        });
        let diagnostic = |kind, effect: &'static str| Diagnostic {
            kind,
            provider,
            item: Some((Kind::Route, name.clone())),
            problem: Problem::new(
                present.place(Kind::Route, name, provider),
                format!("routes.{name}"),
                advised(&faults),
            ),
            effect: effect.into(),
        };
        // All that is wrong may be where it is served.
        let lacks_listeners_only =
            refused.is_empty() && listening::faults(spec, self.listeners).count() == faults.len();
        let split = || listening::split(spec, self.listeners).filter(|_| lacks_listeners_only);
        match keeps {
            Some(last) => {
                let state = RouteState::Kept(faults.clone());
                (route(last.provider, &last.spec, state), Some(diagnostic(DiagnosticKind::Kept, KEPT)))
            }
            None if let Some((served, blocked)) = split() => {
                let blocks = blocked.map(Arc::new);
                let route = ResolvedRoute { blocks, ..route(provider, &Arc::new(served), RouteState::Resolved) };
                (route, Some(diagnostic(DiagnosticKind::Unresolved, ELSEWHERE)))
            }
            None => {
                let effect = if unprotected { UNPROTECTED } else { UNRESOLVED };
                // What a registration may not have is told with the registration.
                let told = (!faults.is_empty()).then(|| diagnostic(DiagnosticKind::Unresolved, effect));
                let reasons = refused.iter().chain(&faults).cloned().collect();
                (route(provider, &widened(Arc::clone(spec), self.listeners), RouteState::Unresolved(reasons)), told)
            }
        }
    }

    /// Whether a form can be served by what is retained alone.
    fn retains(&self, spec: &RouteSpec) -> bool {
        !self.route_faults(spec, Scope::Present).is_empty() && self.route_faults(spec, Scope::Retained).is_empty()
    }

    /// Whether a route names a middleware that its last form did not have, and that does not exist. Where a later form
    /// may have resolved unseen, one that exists may have come with that.
    fn names_new_middleware(&self, spec: &RouteSpec, last: &RouteForm) -> bool {
        let had: BTreeSet<&ItemRef> = last.spec.all_middlewares().collect();
        let is_missing = |reference: &ItemRef| self.middlewares.present(reference).is_none();
        let is_outdated = last.is_outdated_by(spec);
        spec.all_middlewares().any(|reference| !had.contains(reference) && (is_outdated || is_missing(reference)))
    }

    /// What of a route does not exist, or does not go together.
    fn route_faults(&self, spec: &RouteSpec, scope: Scope) -> Vec<String> {
        let mut faults = Vec::new();
        let mut checked = |list: &[ItemRef]| match self.list(list, scope) {
            Ok(list) => list,
            Err(wrong) => {
                faults.extend(wrong);
                Vec::new()
            }
        };
        let of_route = checked(&spec.middlewares);
        let of_targets: Vec<_> = spec.targets.iter().map(|target| checked(&target.middlewares)).collect();
        for (target, middlewares) in spec.targets.iter().zip(of_targets) {
            let reference = &target.upstream;
            match (self.upstreams.find(reference, scope), &target.subset) {
                (None, _) => faults.push(format!("there is no upstream `{reference}`")),
                (Some(id), Some(subset)) if !self.has_subset(&id, subset, scope) => {
                    faults.push(format!("upstream `{reference}` has no subset `{subset}`"));
                }
                (Some(_), _) => {}
            }
            faults.extend(unfit(&middlewares, &of_route, &target.label()));
        }
        faults.extend(listening::faults(spec, self.listeners));
        faults
    }

    fn has_subset(&self, id: &Id, subset: &Name, scope: Scope) -> bool {
        let own = self.upstreams.form(id).is_some_and(|form| form.own.settings.subsets.contains_key(subset));
        let former = || self.upstreams.before(id).is_some_and(|form| form.served.settings.subsets.contains_key(subset));
        own || scope == Scope::Retained && former()
    }

    /// The middlewares of a list by label.
    ///
    /// # Errors
    /// What of it does not exist, or does not go together.
    fn list(&self, list: &[ItemRef], scope: Scope) -> Result<Vec<Step<'_>>, Vec<String>> {
        let (mut found, mut faults) = (Vec::with_capacity(list.len()), Vec::new());
        for reference in list {
            let id = self.middlewares.find(reference, scope);
            match id.and_then(|id| Some((self.middlewares.label(&id), self.middlewares.form(&id)?))) {
                Some((label, form)) => found.push(Step { label, spec: &form.own }),
                None => faults.push(format!("there is no middleware `{reference}`")),
            }
        }
        faults.extend(conflicts(&found));
        if faults.is_empty() { Ok(found) } else { Err(faults) }
    }

    fn list_faults(&self, list: &[ItemRef], scope: Scope) -> Vec<String> {
        self.list(list, scope).err().unwrap_or_default()
    }

    fn need_route(&self, spec: &RouteSpec, needs: &mut Needs) {
        self.need_list(&spec.middlewares, needs);
        for target in &spec.targets {
            self.need_list(&target.middlewares, needs);
            self.need_upstream(&target.upstream, target.subset.as_ref(), needs);
        }
    }

    fn need_list(&self, list: &[ItemRef], needs: &mut Needs) {
        for reference in list {
            if let Some(id) = self.middlewares.find(reference, Scope::Retained) {
                self.need_middleware(id, needs);
            }
        }
    }

    /// All that won a name is served, whether or not a route names it.
    fn need_winners(&self, needs: &mut Needs) {
        for id in self.upstreams.winners() {
            self.need_upstream_id(id, None, needs);
        }
        for id in self.middlewares.winners() {
            self.need_middleware(id, needs);
        }
    }

    fn need_middleware(&self, id: Id, needs: &mut Needs) {
        let Some(form) = self.middlewares.form(&id) else { return };
        if needs.middlewares.insert(id)
            && let MiddlewareSpec::ForwardAuth(asks) = &*form.own
        {
            self.need_upstream(&unqualified(&asks.upstream), None, needs);
        }
    }

    fn need_upstream(&self, reference: &ItemRef, subset: Option<&Name>, needs: &mut Needs) {
        if let Some(id) = self.upstreams.find(reference, Scope::Retained) {
            self.need_upstream_id(id, subset, needs);
        }
    }

    fn need_upstream_id(&self, id: Id, subset: Option<&Name>, needs: &mut Needs) {
        let Some(form) = self.upstreams.form(&id) else { return };
        let is_new = !needs.upstreams.contains_key(&id);
        needs.upstreams.entry(id).or_default().extend(subset.cloned());
        if is_new && let Some(reference) = fallback_of(&form.own) {
            self.need_upstream(reference, None, needs);
        }
    }

    /// Tells what is wrong with upstreams and middlewares that are in use.
    fn report(&self, faults: &[Fault], served: &Needs, present: &Present<'_>, diagnostics: &mut Vec<Diagnostic>) {
        for Fault { kind, id, texts, keeps } in faults {
            let (in_use, effect) = match kind {
                Kind::Upstream => (served.upstreams.contains_key(id), WITHOUT_FALLBACK),
                Kind::Route | Kind::Middleware | Kind::Certificate | Kind::Consumer => {
                    (served.middlewares.contains(id), UNRESOLVED)
                }
            };
            // A registry that is off is told where the sources are made.
            let is_told = texts.iter().all(|text| text.starts_with("reads ")) && !keeps;
            if !in_use || is_told {
                continue;
            }
            let (name, provider) = id;
            let key = format!("{}.{name}", kind.as_str());
            let (kind_of, effect) =
                if *keeps { (DiagnosticKind::Kept, KEPT) } else { (DiagnosticKind::Unresolved, effect) };
            diagnostics.push(Diagnostic {
                kind: kind_of,
                provider: *provider,
                item: Some((*kind, name.clone())),
                problem: Problem::new(present.place(*kind, name, *provider), key, advised(texts)),
                effect: effect.into(),
            });
        }
    }
}

/// An upstream or a middleware whose present form does not resolve.
struct Fault {
    kind: Kind,
    id: Id,
    texts: Vec<String>,
    /// Whether a form that resolved serves.
    keeps: bool,
}

fn of_listener(name: &Name, faults: &[String], keeps: bool) -> Diagnostic {
    let (kind, effect) = match keeps {
        true => (DiagnosticKind::Kept, "the middlewares that it had last stay in use"),
        false => (DiagnosticKind::Unresolved, "every request of the listener gets 503 (NC) until it resolves"),
    };
    Diagnostic {
        kind,
        provider: ProviderId::File,
        item: None,
        problem: Problem::new("configuration", format!("listeners.{name}.middlewares"), advised(faults)),
        effect: effect.into(),
    }
}

/// The faults, and how to mend them.
fn advised(faults: &[String]) -> String {
    let text = faults.join("; ");
    let absent = |fault: &String| fault.starts_with("there is no ") || fault.contains(" has no subset ");
    if faults.iter().any(absent) { format!("{text}: correct the name, or define it") } else { text }
}

fn upstream_faults(table: &Table<'_, UpstreamSpec>, spec: &UpstreamSpec, rules: &Rules) -> Vec<String> {
    let off = match &spec.source {
        UpstreamSource::Consul(_) if !rules.consul => Some("consul"),
        UpstreamSource::Etcd { .. } if rules.etcd_prefix.is_none() => Some("etcd"),
        UpstreamSource::Consul(_)
        | UpstreamSource::Etcd { .. }
        | UpstreamSource::Dns(_)
        | UpstreamSource::Static(_) => None,
    };
    let off = off.map(|section| format!("reads {section}, but [discovery.{section}] is not configured"));
    let fallback = fallback_of(spec).filter(|reference| table.present(reference).is_none());
    off.into_iter().chain(fallback.map(|reference| format!("there is no upstream `{reference}`"))).collect()
}

fn middleware_faults(upstreams: &Table<'_, UpstreamSpec>, spec: &MiddlewareSpec) -> Vec<String> {
    match spec {
        MiddlewareSpec::ForwardAuth(asks) if upstreams.present(&unqualified(&asks.upstream)).is_none() => {
            vec![format!("there is no upstream `{}`", asks.upstream)]
        }
        _ => Vec::new(),
    }
}

fn fallback_of(spec: &UpstreamSpec) -> Option<&ItemRef> {
    match spec.settings.breaker.as_ref()?.fallback.as_ref()? {
        Fallback::Upstream(reference) => Some(reference),
        Fallback::Answer(_) => None,
    }
}

fn unqualified(name: &Name) -> ItemRef {
    ItemRef { name: name.clone(), provider: None }
}

/// An upstream with subsets that are still in use and that its document no longer has. The same object while nothing of it
/// differs.
fn with_subsets<'n>(
    form: &Form<UpstreamSpec>,
    before: Option<&Form<UpstreamSpec>>,
    needed: impl Iterator<Item = &'n Name>,
) -> Arc<UpstreamSpec> {
    let former = before.map(|before| &before.served.settings.subsets);
    let lost = needed.filter(|name| !form.own.settings.subsets.contains_key(*name));
    let lost: Vec<_> = lost.filter_map(|name| former?.get_key_value(name)).collect();
    if lost.is_empty() {
        return Arc::clone(&form.own);
    }
    let mut spec = UpstreamSpec::clone(&form.own);
    spec.settings.subsets.extend(lost.into_iter().map(|(name, labels)| (name.clone(), labels.clone())));
    match before {
        Some(before) if *before.served == spec => Arc::clone(&before.served),
        Some(_) | None => Arc::new(spec),
    }
}

/// Items of a kind that can be referred to.
pub(super) trait Referable: Sized {
    /// Their kind.
    const KIND: Kind;
    /// Those of a provider.
    fn items(documents: &Documents) -> &BTreeMap<Name, Item<Self>>;
}

impl Referable for UpstreamSpec {
    const KIND: Kind = Kind::Upstream;

    fn items(documents: &Documents) -> &BTreeMap<Name, Item<Self>> {
        &documents.upstreams
    }
}

impl Referable for MiddlewareSpec {
    const KIND: Kind = Kind::Middleware;

    fn items(documents: &Documents) -> &BTreeMap<Name, Item<Self>> {
        &documents.middlewares
    }
}

#[cfg(test)]
mod tests;
