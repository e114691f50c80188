//! Defines who wins: of all providers' documents and endpoints, what there is. Pure. [`Merger`] goes on from the merge
//! before, so that a change of one service costs what that service costs.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::blocked::{self, BlockedPart};
use super::claims::{Claimant, Claims, Instances, Seniority};
use super::holds;
use super::overlay::Overlay;
use super::rejected;
use super::resolution::{Forms, Present, ResolvedRoute, widened};
use crate::discovery::state::{Origin, ProviderState};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::consumer::Consumer;
use crate::snapshot::report::{Hold, Shadowed};
use crate::snapshot::{Diagnostic, DiagnosticKind, Report, RouteState};
use crate::spec::document::{Documents, Item, Kind};
use crate::spec::endpoint::{Address, EndpointSpec, Penalty, RegistryStatus};
use crate::spec::hold::HeldPart;
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::{ItemRef, Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;
use crate::spec::settings::{FileProvider, Settings};
use crate::spec::source::Source;
use crate::spec::upstream::{UpstreamSource, UpstreamSpec};

mod again;

pub(super) use again::{Affected, Merger};

/// How names and sources are decided; fixed at start.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which provider wins a name, first one first. Those not listed come after, in their own order.
    pub precedence: Vec<ProviderId>,
    /// The prefix of all keys in etcd, with the slash at its end; `None`: etcd is off.
    pub etcd_prefix: Option<String>,
    /// Whether Consul is on.
    pub consul: bool,
    /// The middlewares of listeners that have some.
    pub listeners: BTreeMap<Name, Vec<ItemRef>>,
    /// The names of all listeners.
    pub listener_names: BTreeSet<Name>,
    /// The files that are read.
    pub files: FileProvider,
}

impl Rules {
    /// The rules that settings ask for.
    pub fn of(settings: &Settings) -> Self {
        let discovery = &settings.discovery;
        let listeners = settings.listeners.iter().filter(|(_, listener)| !listener.middlewares.is_empty());
        Self {
            precedence: discovery.precedence.clone(),
            etcd_prefix: discovery.etcd.as_ref().map(|etcd| etcd.prefix.clone()),
            consul: discovery.consul.is_some(),
            listeners: listeners.map(|(name, listener)| (name.clone(), listener.middlewares.clone())).collect(),
            listener_names: settings.listeners.keys().cloned().collect(),
            files: discovery.file.clone(),
        }
    }
}

/// What there is, once names are decided.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Merged {
    /// By name.
    pub(super) routes: Vec<MergedRoute>,
    /// Which of them match the same.
    pub(super) claims: Claims,
    /// By label.
    pub(super) upstreams: BTreeMap<Arc<str>, MergedUpstream>,
    /// By label.
    pub(super) middlewares: BTreeMap<Arc<str>, MergedMiddleware>,
    /// The middlewares that listeners name.
    pub(super) listeners: BTreeMap<Name, Vec<ItemRef>>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) consumers: Vec<Consumer>,
    pub(super) report: Report,
    pub(super) wanted: BTreeSet<Source>,
    /// What has no known good form, and is not accepted.
    pub(super) blocked: Vec<BlockedPart>,
}

/// The route that won its name.
#[derive(Debug, PartialEq)]
pub(super) struct MergedRoute {
    pub(super) name: Name,
    pub(super) provider: ProviderId,
    /// The form that is served.
    pub(super) spec: Arc<RouteSpec>,
    pub(super) state: RouteState,
    /// What orders it among equal ones.
    pub(super) seniority: Seniority,
}

/// The middleware that won its name, or that is asked for by its provider.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MergedMiddleware {
    pub(super) provider: ProviderId,
    pub(super) spec: Arc<MiddlewareSpec>,
}

/// An upstream, with the lists its endpoints come from.
#[derive(Debug, PartialEq)]
pub(super) struct MergedUpstream {
    pub(super) name: Name,
    pub(super) provider: ProviderId,
    pub(super) spec: Arc<UpstreamSpec>,
    /// The first one goes first.
    pub(super) sources: Arc<[Source]>,
    pub(super) endpoints: Arc<[EndpointSpec]>,
    /// Of endpoints of further sources, the position of theirs.
    pub(super) positions: BTreeMap<Address, u16>,
    /// The addresses of host names among the endpoints; a name not read yet is absent.
    pub(super) resolved: BTreeMap<Arc<str>, Arc<[EndpointSpec]>>,
    pub(super) held: bool,
    /// Which of them are held; `None`: all, when any is.
    pub(super) kept: Option<Arc<BTreeSet<Address>>>,
    /// Which of them flapped of late.
    pub(super) penalties: Option<Arc<BTreeMap<Address, Penalty>>>,
    pub(super) known: bool,
    /// Addresses that operators took out of use, present or not.
    pub(super) drained: Arc<BTreeSet<SocketAddr>>,
}

/// Merges all states, and lays the overlay over them. `forms`: what stands in for items that do not resolve.
pub(super) fn merge(
    states: &BTreeMap<ProviderId, Arc<ProviderState>>,
    rules: &Rules,
    overlay: &Overlay,
    forms: &mut Forms,
) -> Merged {
    let mut merged = Merged::default();
    let documents: Vec<(ProviderId, &Documents)> =
        in_order(states, rules).into_iter().filter_map(|(id, state)| Some((id, state.documents.as_deref()?))).collect();

    let routes = winners(Kind::Route, documents.iter().map(|(id, d)| (*id, &d.routes)), &mut merged.report, overlay);
    let upstreams =
        winners(Kind::Upstream, documents.iter().map(|(id, d)| (*id, &d.upstreams)), &mut merged.report, overlay);
    let certificates = documents.iter().map(|(id, documents)| (*id, &documents.certificates));
    let certificates = winners(Kind::Certificate, certificates, &mut merged.report, overlay).into_iter();
    merged.certificates = certificates.map(|(name, (provider, spec))| Certificate { name, provider, spec }).collect();
    let consumers = documents.iter().map(|(id, documents)| (*id, &documents.consumers));
    let consumers = winners(Kind::Consumer, consumers, &mut merged.report, overlay).into_iter();
    merged.consumers = consumers.map(|(name, (provider, spec))| Consumer { name, provider, spec }).collect();
    let middlewares =
        winners(Kind::Middleware, documents.iter().map(|(id, d)| (*id, &d.middlewares)), &mut merged.report, overlay);

    let unread = states.iter().filter(|(_, state)| state.documents.is_none()).map(|(id, _)| *id).collect();
    let recalled = states.iter().filter(|(_, state)| state.kept.saved_documents.is_some()).map(|(id, _)| *id);
    let texts = states.iter().map(|(id, state)| (*id, state.forms.texts())).collect();
    merged.report.unread =
        states.iter().filter(|(id, state)| awaits_documents(**id, state)).map(|(id, _)| *id).collect();
    let is_read = merged.report.unread.is_empty();
    let present =
        Present { documents, routes, upstreams, middlewares, unread, is_read, recalled: recalled.collect(), texts };
    let resolved = forms.resolve(&present, rules);
    for (label, (name, provider, spec)) in resolved.upstreams {
        merged.add_upstream(label, &name, provider, &spec, states, rules);
    }
    merged.middlewares = resolved.middlewares;
    merged.listeners.clone_from(&rules.listeners);
    for route in resolved.routes {
        let seniority = seniority(&route.name, route.provider, &present.documents);
        let ResolvedRoute { name, provider, spec, state, blocks } = route;
        if let Some(spec) = blocks {
            merged.add_blocking(name.clone(), provider, spec, &present);
        }
        merged.routes.push(MergedRoute { name, provider, spec, state, seniority });
    }
    for (name, provider, spec) in blocked::hidden(&present.documents, overlay) {
        merged.add_blocking(name, provider, widened(spec, &rules.listener_names), &present);
    }
    merged.claims = Claims::of(&merged.claimants());
    merged.settle_claims();
    for (_, documents) in &present.documents {
        merged.report.remarks.extend(documents.remarks.iter().cloned());
    }
    merged.report.diagnostics = resolved.diagnostics;
    merged.report_shadowed(&present);
    merged.report.closing = blocked::closing(&present.documents, overlay);
    let (blocked, accepted) = blocked::parts(states, overlay);
    merged.blocked = blocked;
    merged.report.remarks.extend(accepted.into_iter().map(blocked::remark));
    merged.report_states(states, rules);
    merged.lay_over(overlay);
    merged
}

/// Whether what a provider defines is not known yet, and has to be.
fn awaits_documents(provider: ProviderId, state: &ProviderState) -> bool {
    let has_documents =
        matches!(provider, ProviderId::File | ProviderId::Etcd | ProviderId::ConsulKv | ProviderId::ConsulTags);
    has_documents && state.documents.is_none() && !state.kept.documents_may_be_missing
}

/// What a provider serves of the saved state, a line a source and a line for the documents.
fn from_saved(provider: ProviderId, state: &ProviderState, wanted: &BTreeSet<Source>) -> Vec<Problem> {
    let sources = state.sources.iter().filter_map(|(source, known)| match known.origin {
        Origin::Saved(at) if wanted.contains(source) => Some(Problem::new(source.to_string(), "", saved(at))),
        Origin::Saved(_) | Origin::Live | Origin::Held => None,
    });
    let documents = state.kept.saved_documents.map(|at| Problem::new(provider.to_string(), "", saved(at)));
    sources.chain(documents).collect()
}

fn saved(at: std::time::SystemTime) -> String {
    let time = jiff::Timestamp::try_from(at).unwrap_or_default();
    format!(
        "saved by an earlier process and confirmed last at {time:.0}: the registry has not answered since the start"
    )
}

fn in_order<'s>(
    states: &'s BTreeMap<ProviderId, Arc<ProviderState>>,
    rules: &Rules,
) -> Vec<(ProviderId, &'s Arc<ProviderState>)> {
    let rank = |id: &ProviderId| rules.precedence.iter().position(|listed| listed == id).unwrap_or(usize::MAX);
    let mut ordered: Vec<_> = states.iter().map(|(id, state)| (*id, state)).collect();
    ordered.sort_by_key(|(id, _)| (rank(id), *id));
    ordered
}

/// The items that won their names.
pub(super) type Winners<T> = BTreeMap<Name, (ProviderId, Arc<T>)>;

/// The first provider in order that has a good form of a name, or may have had one: then the name is taken, and what
/// stands in for the item is there in its place. The others' are shadowed.
fn winners<'d, T: 'd>(
    kind: Kind,
    documents: impl Iterator<Item = (ProviderId, &'d BTreeMap<Name, Item<T>>)>,
    report: &mut Report,
    overlay: &Overlay,
) -> Winners<T> {
    let mut taken: BTreeMap<&Name, (ProviderId, Option<&Arc<T>>)> = BTreeMap::new();
    for (provider, items) in documents {
        for (name, item) in items {
            let serves = match (&item.good, &item.blocked) {
                (Some(good), _) => Some(good),
                (None, Some(_)) if blocked::is_accepted(provider, kind, name, item, overlay) => continue,
                (None, Some(blocked)) => blocked.stand_in.as_ref(),
                (None, None) => continue,
            };
            match taken.entry(name) {
                Entry::Vacant(entry) => drop(entry.insert((provider, serves))),
                Entry::Occupied(entry) => {
                    let shadowed = Shadowed { kind: kind.as_str(), name: name.clone(), provider, by: entry.get().0 };
                    report.shadowed.push(shadowed);
                }
            }
        }
    }
    let served = taken.into_iter().filter_map(|(name, (by, serves))| Some((name.clone(), (by, Arc::clone(serves?)))));
    served.collect()
}

/// What orders the route of a provider among equal ones.
fn seniority(name: &Name, provider: ProviderId, documents: &[(ProviderId, &Documents)]) -> Seniority {
    let rank = documents.iter().position(|(id, _)| *id == provider).unwrap_or(usize::MAX);
    let item = documents.get(rank).and_then(|(_, documents)| documents.routes.get(name));
    let place = item.map(|item| Arc::clone(&item.place)).unwrap_or_default();
    Seniority { rank, created: item.and_then(|item| item.created), place }
}

impl Merged {
    /// Adds what answers 503 in place of a route.
    fn add_blocking(&mut self, name: Name, provider: ProviderId, spec: Arc<RouteSpec>, present: &Present<'_>) {
        let seniority = seniority(&name, provider, &present.documents);
        let state = RouteState::Unresolved(spec.registered.broken.clone());
        self.routes.push(MergedRoute { name, provider, spec, state, seniority });
    }

    fn claimants(&self) -> Vec<Claimant<'_>> {
        let routes = self.routes.iter();
        let claimants = routes.map(|MergedRoute { name, provider, spec, seniority, .. }| Claimant {
            name,
            provider: *provider,
            spec,
            seniority,
        });
        claimants.collect()
    }

    /// Decides anew which of equal routes is asked; whether that is another one than before.
    fn settle_claims(&mut self) -> bool {
        let instances = |route: usize| self.instances(&self.routes[route].spec);
        let contests = self.claims.settle(&self.claimants(), instances);
        let changed = contests != self.report.contests;
        self.report.contests = contests;
        changed
    }

    /// What is registered for a route.
    fn instances(&self, spec: &RouteSpec) -> Instances {
        // A document that blocks what it matches has no targets.
        let mut found = if spec.targets.is_empty() { Instances::Some } else { Instances::None };
        for target in &spec.targets {
            let upstream = self.label(&target.upstream).and_then(|label| self.upstreams.get(label));
            let Some(upstream) = upstream.filter(|upstream| upstream.known && !upstream.sources.is_empty()) else {
                return Instances::Some;
            };
            let selector = target.subset.as_ref().map(|subset| upstream.spec.settings.subsets.get(subset));
            if selector.is_some_and(|selector| selector.is_none()) {
                return Instances::Some;
            }
            let selector = selector.flatten();
            let is_selected = |endpoint: &&EndpointSpec| {
                selector.is_none_or(|labels| labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)))
            };
            for endpoint in upstream.endpoints.iter().filter(is_selected) {
                match endpoint.status {
                    RegistryStatus::Critical | RegistryStatus::Maintenance => found = Instances::Critical,
                    RegistryStatus::Unchecked | RegistryStatus::Passing | RegistryStatus::Warning => {
                        return Instances::Some;
                    }
                }
            }
        }
        found
    }

    /// The label under which a reference finds its upstream: the name, where the provider asked for won it.
    pub(super) fn label(&self, reference: &ItemRef) -> Option<&Arc<str>> {
        let by_name = self.upstreams.get_key_value(reference.name.as_str());
        match (reference.provider, by_name) {
            (None, found) => found.map(|(label, _)| label),
            (Some(provider), Some((label, upstream))) if upstream.provider == provider => Some(label),
            (Some(_), _) => self.upstreams.get_key_value(&*reference.to_string()).map(|(label, _)| label),
        }
    }

    /// The middleware that a reference finds, with its label.
    pub(super) fn middleware(&self, reference: &ItemRef) -> Option<(&Arc<str>, &MergedMiddleware)> {
        let by_name = self.middlewares.get_key_value(reference.name.as_str());
        match reference.provider {
            Some(provider) if by_name.is_none_or(|(_, winner)| winner.provider != provider) => {
                self.middlewares.get_key_value(&*reference.to_string())
            }
            Some(_) | None => by_name,
        }
    }

    /// Tells of items that another provider's item hides, unless a reference by `NAME@PROVIDER` uses them all the same.
    fn report_shadowed(&mut self, present: &Present<'_>) {
        for Shadowed { kind, name, provider, by } in &self.report.shadowed {
            let Some(kind) = Kind::ALL.into_iter().find(|one| one.as_str() == *kind) else { continue };
            let qualified = format!("{name}@{provider}");
            let is_used = match kind {
                Kind::Upstream => self.upstreams.contains_key(&*qualified),
                Kind::Middleware => self.middlewares.contains_key(&*qualified),
                Kind::Route | Kind::Certificate | Kind::Consumer => false,
            };
            // An upstream of a registration is no document that somebody wrote.
            if is_used || *provider == ProviderId::ConsulTags && kind == Kind::Upstream {
                continue;
            }
            let winner = present.place(kind, name, *by);
            let text = format!(
                "shadowed by {winner}: {by} goes before {provider} in discovery.precedence; delete or rename one of the two"
            );
            self.report.diagnostics.push(Diagnostic {
                kind: DiagnosticKind::Shadowed,
                provider: *provider,
                item: Some((kind, name.clone())),
                problem: Problem::new(present.place(kind, name, *provider), format!("{}.{name}", kind.as_str()), text),
                effect: "it is not used".into(),
            });
        }
        self.report.diagnostics.sort_unstable();
    }

    /// Tells what of the states is bad or held.
    fn report_states(&mut self, states: &BTreeMap<ProviderId, Arc<ProviderState>>, rules: &Rules) {
        self.report.pending = states.values().flat_map(|state| state.pending.iter().cloned()).collect();
        let ordered = in_order(states, rules).into_iter().map(|(provider, state)| (provider, &**state));
        self.report.rejected = rejected::list(ordered, &self.blocked);
        let lacks =
            |(id, state): (&ProviderId, &Arc<ProviderState>)| Some((*id, state.missing_right(None)?.to_string()));
        self.report.missing_rights =
            states.iter().filter(|(_, state)| state.documents.is_none()).filter_map(lacks).collect();
        self.report_holds(states);
    }

    fn report_holds(&mut self, states: &BTreeMap<ProviderId, Arc<ProviderState>>) {
        self.report.holds = holds::list(states, self);
        let size = |hold: &Hold| match &hold.part {
            HeldPart::Endpoints(source) => Some(states.get(&hold.provider)?.sources.get(source)?.endpoints.len()),
            HeldPart::Document(_) | HeldPart::File(_) => None,
        };
        let held = self.report.holds.iter().map(|hold| (hold.provider, holds::problem(hold, size(hold))));
        let saved = states.iter().flat_map(|(provider, state)| {
            from_saved(*provider, state, &self.wanted).into_iter().map(|problem| (*provider, problem))
        });
        self.report.held = held.chain(saved).collect();
    }

    fn lay_over(&mut self, overlay: &Overlay) {
        for (label, drained) in overlay.upstreams() {
            match self.upstreams.get_mut(label) {
                Some(upstream) => upstream.drained = overlay.of(label),
                None => self.report.remarks.extend(drained.iter().map(|address| absent(label, *address))),
            }
        }
    }

    fn add_upstream(
        &mut self,
        label: Arc<str>,
        name: &Name,
        provider: ProviderId,
        spec: &Arc<UpstreamSpec>,
        states: &BTreeMap<ProviderId, Arc<ProviderState>>,
        rules: &Rules,
    ) {
        let sources: Arc<[Source]> = match &spec.source {
            UpstreamSource::Consul(services) if rules.consul => services.iter().cloned().map(Source::Consul).collect(),
            UpstreamSource::Etcd { prefix, format } if rules.etcd_prefix.is_some() => {
                let ours = rules.etcd_prefix.as_deref().unwrap_or_default();
                let prefix = prefix.clone().unwrap_or_else(|| format!("{ours}endpoints/{name}/").into());
                [Source::Etcd { prefix, format: *format }].into()
            }
            UpstreamSource::Dns(records) => [Source::Records(records.clone())].into(),
            UpstreamSource::Consul(_) => {
                self.report.remarks.push(off(name, "consul"));
                [].into()
            }
            UpstreamSource::Etcd { .. } => {
                self.report.remarks.push(off(name, "etcd"));
                [].into()
            }
            UpstreamSource::Static(_) => [].into(),
        };
        let endpoints = match &spec.source {
            UpstreamSource::Static(endpoints) => Arc::clone(endpoints),
            UpstreamSource::Consul(_) | UpstreamSource::Etcd { .. } | UpstreamSource::Dns(_) => Arc::from([]),
        };
        let mut upstream = MergedUpstream {
            name: name.clone(),
            provider,
            spec: Arc::clone(spec),
            sources,
            endpoints,
            positions: BTreeMap::new(),
            resolved: BTreeMap::new(),
            held: false,
            kept: None,
            penalties: None,
            known: false,
            drained: Arc::default(),
        };
        upstream.read(states);
        self.wanted.extend(upstream.reads());
        self.upstreams.insert(label, upstream);
    }
}

impl MergedUpstream {
    /// Takes from the states what they know of its source and of the host names among its endpoints.
    fn read(&mut self, states: &BTreeMap<ProviderId, Arc<ProviderState>>) {
        // One whose registry is off is known: nobody will ever answer, and readiness must not wait for that.
        self.known = true;
        match &*Arc::clone(&self.sources) {
            [] => {}
            [source] => {
                let state = states.get(&source.provider());
                let known = state.and_then(|state| state.sources.get(source));
                self.endpoints = known.map_or_else(|| Arc::from([]), |known| Arc::clone(&known.endpoints));
                self.held = known.is_some_and(|known| known.origin == Origin::Held);
                self.known = known.is_some();
                self.kept = state.and_then(|state| state.kept.addresses.get(source)).map(Arc::clone);
                self.penalties = state.and_then(|state| state.kept.penalties.get(source)).map(Arc::clone);
            }
            several => self.read_several(several, states),
        }
        self.resolved.clear();
        for endpoint in self.endpoints.iter() {
            let Address::Name { host, .. } = &endpoint.address else { continue };
            let dns = Source::Dns { host: Arc::clone(host) };
            match states.get(&dns.provider()).and_then(|state| state.sources.get(&dns)) {
                Some(known) => drop(self.resolved.insert(Arc::clone(host), Arc::clone(&known.endpoints))),
                // Until each name has answered once, an upstream of names is not read.
                None => self.known = false,
            }
        }
    }

    /// Reads sources that go one after another. It is known when one of them is: one that is far away may be out of reach
    /// for long. An address that several have belongs to the first of them.
    fn read_several(&mut self, sources: &[Source], states: &BTreeMap<ProviderId, Arc<ProviderState>>) {
        let mut all: Vec<EndpointSpec> = Vec::new();
        let (mut kept, mut penalties) = (BTreeSet::new(), BTreeMap::new());
        let mut seen = BTreeSet::new();
        self.positions.clear();
        (self.known, self.held) = (false, false);
        for (position, source) in (0..).zip(sources) {
            let Some(state) = states.get(&source.provider()) else { continue };
            let Some(known) = state.sources.get(source) else { continue };
            self.known = true;
            let own = known.endpoints.iter().filter(|endpoint| !seen.contains(&endpoint.address));
            let own: Vec<EndpointSpec> = own.cloned().collect();
            let addresses = own.iter().map(|endpoint| &endpoint.address);
            if position > 0 {
                self.positions.extend(addresses.clone().cloned().map(|address| (address, position)));
            }
            if known.origin == Origin::Held {
                self.held = true;
                let of_source = state.kept.addresses.get(source);
                let held = addresses.clone().filter(|address| of_source.is_none_or(|kept| kept.contains(*address)));
                kept.extend(held.cloned());
            }
            let of_source = state.kept.penalties.get(source).map(Arc::clone).unwrap_or_default();
            penalties.extend(
                addresses.clone().filter_map(|address| Some((address.clone(), of_source.get(address)?.clone()))),
            );
            seen.extend(addresses.cloned());
            all.extend(own);
        }
        // What did not change is the same object.
        if *self.endpoints != *all {
            self.endpoints = all.into();
        }
        self.kept = self.held.then(|| Arc::new(kept));
        self.penalties = (!penalties.is_empty()).then(|| Arc::new(penalties));
    }

    /// All that it is read from.
    fn reads(&self) -> impl Iterator<Item = Source> {
        let names = self.endpoints.iter().filter_map(|endpoint| match &endpoint.address {
            Address::Name { host, .. } => Some(Source::Dns { host: Arc::clone(host) }),
            Address::Ip(_) => None,
        });
        self.sources.iter().cloned().chain(names)
    }
}

/// A drain outlives its endpoint, so that a restart of the service does not end it; somebody has to know.
pub(super) fn absent(upstream: &str, address: SocketAddr) -> Problem {
    let text = format!(
        "{address} is drained by an operator and not there; `fleetgate undrain {upstream} {address}` forgets it"
    );
    Problem::new("operator", format!("upstreams.{upstream}"), text)
}

fn off(name: &Name, section: &str) -> Problem {
    let key = format!("upstreams.{name}.{section}");
    Problem::new("configuration", key, format!("reads {section}, but [discovery.{section}] is not configured"))
}

#[cfg(test)]
mod tests;
