//! Defines the routes and upstreams that services ask for, kept from one reading of their instances to the next.
//!
//! A route reaches the instances that ask for it: where those of a service ask for different hosts or paths under one name,
//! each is a route of its own. A route whose tag is wrong keeps its last good form. A service without instances keeps its
//! routes for a while: they answer 503 and not 404.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claim::Bounds;
use super::fabio::{self, Prefix};
use super::native;
use super::order::{self, places};
use super::service::{Claims, Form, Look, Target, UNKNOWN, place};
use super::share::weights;
use super::{ASK_LABEL, tags};
use crate::spec::claims::{Asking, ClaimBook};
use crate::spec::decode::documents::keep_equal;
use crate::spec::document::{Documents, Item};
use crate::spec::encode::duration_text;
use crate::spec::endpoint::{EndpointSpec, Labels};
use crate::spec::matching::MatchSpec;
use crate::spec::name::{ItemRef, Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::retry::Retry;
use crate::spec::route::{Choice, Registered, RouteSpec, Steps, TargetSpec};
use crate::spec::source::ConsulService;
use crate::spec::upstream::{Protocol, UpstreamSettings, UpstreamSource, UpstreamSpec};

/// What is read, and what of it is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// `fleetgate.*`
    pub native: bool,
    /// `urlprefix-`
    pub fabio: bool,
    /// What may be claimed.
    pub bounds: Bounds,
    /// How long a route outlives the last instance of its service.
    pub ttl: Duration,
}

impl Rules {
    /// Whether a tag makes its service one of those that are read.
    pub fn asks(&self, tag: &str) -> bool {
        self.native && native::asks(tag) || self.fabio && fabio::asks(tag)
    }
}

/// Services with what they ask for.
#[derive(Debug)]
pub struct TagSet {
    pub(super) rules: Rules,
    pub(super) services: BTreeMap<Arc<str>, Known>,
    /// Services that were listed and not read yet: what was there before is not known.
    pub(super) unread: BTreeSet<Arc<str>>,
    /// Whether a service that is not known asked for nothing before.
    pub(super) knows_services: bool,
    /// Whether this process read all services.
    has_read: bool,
    /// A moment in milliseconds of Unix time.
    pub(super) clock: Option<(Instant, u64)>,
    routes: BTreeMap<Name, Arc<RouteSpec>>,
    upstreams: BTreeMap<Name, Arc<UpstreamSpec>>,
    /// Since when services claim their places.
    book: Arc<ClaimBook>,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) claims: Claims,
    /// What they were read from.
    pub(super) endpoints: Arc<[EndpointSpec]>,
    /// Since when it has no instance.
    pub(super) empty_since: Option<Instant>,
    /// This process did not read it yet.
    pub(super) is_recalled: bool,
}

impl Known {
    /// The places that it asks for, with when the first instance that does was registered, and whether it is closed.
    fn asked_places(&self) -> impl Iterator<Item = (String, u64, bool)> {
        let forms = self.claims.native.values().flat_map(|claim| &claim.forms);
        let native = forms.map(|form| (places(&form.native.matching), form.since, form.is_blocked));
        let fabio = self.claims.fabio.iter().filter(|target| target.form.is_some());
        let fabio = fabio.map(|target| (places(&fabio::matching(&target.prefix)), target.since, target.is_blocked()));
        native
            .chain(fabio)
            .flat_map(|(places, since, is_blocked)| places.into_iter().map(move |place| (place, since, is_blocked)))
    }

    /// Whether what stands for any of its routes closes what one of them closes, too.
    fn is_closed_twice(&self, route: &str, form: &Form) -> bool {
        let others = self.claims.native.iter().filter(|(name, _)| name.as_str() != native::STRAY);
        let mut others = others.flat_map(|(_, claim)| &claim.forms);
        let is_same = |other: &Form| other.is_blocked && other.native.matching == form.native.matching;
        route == native::STRAY && others.any(is_same)
    }

    /// When the first instance that asks for it was registered, of each place.
    fn since(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (place, since, _) in self.asked_places() {
            let known = all.entry(place).or_insert(since);
            *known = since.min(*known);
        }
        all
    }
}

/// A service's target in a route that it may share with other services.
type Part<'a> = (&'a Arc<str>, &'a Known, &'a Target);

impl TagSet {
    /// Nothing is known yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            services: BTreeMap::new(),
            unread: BTreeSet::new(),
            knows_services: false,
            has_read: false,
            clock: None,
            routes: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            book: Arc::default(),
        }
    }

    /// The services whose routes are kept.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys()
    }

    /// When the routes of a service without instances end next.
    pub fn ends_at(&self) -> Option<Instant> {
        self.services.values().filter_map(|known| known.empty_since).min().map(|since| since + self.rules.ttl)
    }

    /// The documents of all services with their instances, as [`TagSet::read`] and [`TagSet::documents`] make them.
    pub fn update(&mut self, services: &BTreeMap<Arc<str>, Option<Arc<[EndpointSpec]>>>, now: Instant) -> Documents {
        self.read(services, now);
        self.documents()
    }

    /// Who asks for which places.
    pub fn asking(&self) -> BTreeMap<Arc<str>, Vec<Asking>> {
        let mut all: BTreeMap<Arc<str>, Vec<Asking>> = BTreeMap::new();
        for (service, known) in &self.services {
            let is_registered = known.empty_since.is_none();
            for (place, created, is_blocked) in known.asked_places() {
                let of_place = all.entry(place.into()).or_default();
                match of_place.iter_mut().find(|asking| asking.service == *service) {
                    Some(known) => {
                        known.created = known.created.min(created);
                        known.is_blocked &= is_blocked;
                    }
                    None => {
                        let service = Arc::clone(service);
                        of_place.push(Asking { service, created, is_registered, is_blocked });
                    }
                }
            }
        }
        all
    }

    /// Orders equal routes by these claims; those that it does not have go behind, by the age of their instances.
    pub fn order_by(&mut self, book: Arc<ClaimBook>) {
        self.book = book;
    }

    /// Since when a service claims a place; `order` tells its routes for that place from each other.
    fn since(&self, place: &str, service: &str, created: &BTreeMap<String, u64>, order: u64) -> u64 {
        const BEHIND: u64 = Registered::UNCLAIMED >> order::BITS;
        let created = created.get(place).copied().unwrap_or(u64::MAX);
        let since = self.book.since(place, service).unwrap_or(BEHIND.saturating_add(created));
        since.min(2 * BEHIND) << order::BITS | order
    }

    /// Takes all services that ask for something with their instances; of one that was not read (`None`) what is known
    /// stays.
    pub fn read(&mut self, services: &BTreeMap<Arc<str>, Option<Arc<[EndpointSpec]>>>, now: Instant) {
        self.services.retain(|service, _| services.contains_key(service));
        self.take(services, now, false);
        let is_unread = |service: &Arc<str>| !self.knows_services || self.unread.contains(service);
        let unread = services.iter().filter(|(service, endpoints)| endpoints.is_none() && is_unread(service));
        self.unread = unread.map(|(service, _)| Arc::clone(service)).collect();
        self.knows_services = true;
        self.has_read = true;
    }

    /// As [`Self::read`], where there may be other services, which may have had routes before they are read, and where
    /// these instances are remembered and not read.
    pub fn recall(&mut self, services: &BTreeMap<Arc<str>, Option<Arc<[EndpointSpec]>>>, now: Instant) {
        self.take(services, now, true);
    }

    fn take(&mut self, services: &BTreeMap<Arc<str>, Option<Arc<[EndpointSpec]>>>, now: Instant, is_recalled: bool) {
        for (service, endpoints) in services {
            let before = self.services.remove(service);
            let after = match (endpoints, before) {
                (None, before) => before,
                (Some(endpoints), before) if endpoints.is_empty() => {
                    let before = before.map(|known| Known { is_recalled: known.is_recalled && is_recalled, ..known });
                    before.and_then(|known| self.outlived(known, now))
                }
                (Some(endpoints), Some(before))
                    if Arc::ptr_eq(endpoints, &before.endpoints) && before.empty_since.is_none() =>
                {
                    Some(Known { is_recalled: before.is_recalled && is_recalled, ..before })
                }
                (Some(endpoints), before) => {
                    let asks = |endpoint: &EndpointSpec| tags(endpoint).any(|tag| self.rules.asks(tag));
                    let missed = self.missed(before.as_ref(), endpoints);
                    let before = before.map(|known| known.claims).unwrap_or_default();
                    endpoints.iter().any(asks).then(|| {
                        let knows_past = self.knows_services && !self.unread.contains(service);
                        let look = Look { service, endpoints, rules: &self.rules, knows_past, missed: &missed };
                        let claims = Claims::read(look, before);
                        Known { claims, endpoints: Arc::clone(endpoints), empty_since: None, is_recalled }
                    })
                }
            };
            if let Some(after) = after {
                self.services.insert(Arc::clone(service), after);
            }
        }
    }

    /// Instances whose registration changed since an earlier process saw them last: they may have had good forms.
    fn missed(&self, before: Option<&Known>, endpoints: &[EndpointSpec]) -> BTreeSet<Arc<str>> {
        let known: BTreeMap<&str, u64> = match before {
            Some(known) if known.is_recalled => {
                known.endpoints.iter().map(|known| (&*known.id, known.modified)).collect()
            }
            None if !self.has_read => BTreeMap::new(),
            Some(_) | None => return BTreeSet::new(),
        };
        let is_missed = |endpoint: &&EndpointSpec| match known.get(&*endpoint.id) {
            Some(modified) => *modified != endpoint.modified,
            None => endpoint.created != endpoint.modified,
        };
        endpoints.iter().filter(is_missed).map(|endpoint| Arc::clone(&endpoint.id)).collect()
    }

    /// What is known of a service without instances, until its time is over.
    fn outlived(&self, mut known: Known, now: Instant) -> Option<Known> {
        let since = *known.empty_since.get_or_insert(now);
        for target in &mut known.claims.fabio {
            target.usable = 0;
        }
        (now.saturating_duration_since(since) < self.rules.ttl).then_some(known)
    }

    /// The documents of all services.
    pub fn documents(&mut self) -> Documents {
        let mut documents = Documents::default();
        let mut of_fabio: BTreeMap<&Prefix, Vec<Part<'_>>> = BTreeMap::new();
        for (service, known) in &self.services {
            let name = upstream_name(service);
            let settings = UpstreamSettings { subsets: subsets(&known.claims), ..UpstreamSettings::default() };
            let spec = UpstreamSpec {
                source: UpstreamSource::Consul([ConsulService::named(Arc::clone(service))].into()),
                settings,
            };
            let good = keep_equal(self.upstreams.get(&name).cloned(), spec);
            let place: Arc<str> = place(service).into();
            let problems = known.claims.problems.clone();
            let upstream = Item { problems, ..Item::good(good, Arc::clone(&place)) };
            if documents.upstreams.contains_key(&name) {
                documents.rejected.push(taken(service, "upstreams", &name));
                continue;
            }
            documents.upstreams.insert(name.clone(), upstream);
            for asked in known.claims.fabio.iter().filter_map(Target::asked) {
                let Some(name) = own_name(service, asked) else { continue };
                let (subsets, tls, protocol) = (subsets(&known.claims), asked.tls.clone(), asked.protocol);
                let settings = UpstreamSettings { subsets, tls, protocol, ..UpstreamSettings::default() };
                let source = UpstreamSource::Consul([ConsulService::named(Arc::clone(service))].into());
                let good = keep_equal(self.upstreams.get(&name).cloned(), UpstreamSpec { source, settings });
                let item = Item::good(good, Arc::clone(&place));
                documents.upstreams.insert(name, item);
            }
            let created = known.since();
            for (asked, claim) in &known.claims.native {
                let route = route_name(&name, asked);
                let forms: Vec<&Form> = claim.forms.iter().filter(|form| !known.is_closed_twice(asked, form)).collect();
                if forms.is_empty() {
                    documents.rejected.extend(claim.problems.iter().cloned());
                }
                for (position, form) in forms.into_iter().enumerate() {
                    let route = match position {
                        0 => route.clone(),
                        _ => form_name(&route, form),
                    };
                    if documents.routes.contains_key(&route) {
                        documents.rejected.push(taken(service, "routes", &route));
                        continue;
                    }
                    let broken = if form.is_blocked { vec![UNKNOWN.to_owned()] } else { Vec::new() };
                    let registered = self.registered(broken, form.remarks.clone(), &[known]);
                    let places = places(&form.native.matching);
                    let since = places.iter().map(|place| {
                        let order = known.claims.ages.order(asked, place, form.is_open());
                        self.since(place, service, &created, order)
                    });
                    let since = since.collect();
                    let spec = native_route(&name, form, Registered { since, ..registered });
                    let good = keep_equal(self.routes.get(&route).cloned(), spec);
                    let problems = if position == 0 { claim.problems.clone() } else { Vec::new() };
                    documents.routes.insert(route, Item { problems, ..Item::good(good, Arc::clone(&place)) });
                }
            }
            for target in &known.claims.fabio {
                of_fabio.entry(&target.prefix).or_default().push((service, known, target));
            }
        }
        for (prefix, targets) in of_fabio {
            let problems: Vec<Problem> = targets.iter().filter_map(|(.., target)| target.problem.clone()).collect();
            let Some(spec) = self.fabio_route(prefix, &targets) else {
                documents.rejected.extend(problems);
                continue;
            };
            let name = Name::derived(&fabio::tag_of(prefix));
            let services: Vec<&str> = targets.iter().map(|(service, ..)| &***service).collect();
            if documents.routes.contains_key(&name) {
                documents.rejected.push(taken(services[0], "routes", &name));
                continue;
            }
            let good = keep_equal(self.routes.get(&name).cloned(), spec);
            documents.routes.insert(name, Item { problems, ..Item::good(good, place(services[0]).into()) });
        }
        self.routes =
            documents.routes.iter().filter_map(|(name, item)| Some((name.clone(), item.good.clone()?))).collect();
        self.upstreams =
            documents.upstreams.iter().filter_map(|(name, item)| Some((name.clone(), item.good.clone()?))).collect();
        documents
    }

    fn registered(&self, broken: Vec<String>, mut remarks: Vec<String>, services: &[&Known]) -> Registered {
        if services.iter().all(|known| known.empty_since.is_some()) {
            let ttl = duration_text(self.rules.ttl);
            remarks.push(format!("its last instance is gone; the route stays for {ttl} after it"));
        }
        Registered { yields: self.rules.bounds.yields(), since: Vec::new(), broken, remarks }
    }

    /// The route of a prefix; `None` when no tag of it ever was right.
    fn fabio_route(&self, prefix: &Prefix, parts: &[Part<'_>]) -> Option<RouteSpec> {
        let right: Vec<_> = parts
            .iter()
            .filter_map(|(service, known, target)| Some((*service, *known, *target, target.asked()?)))
            .collect();
        let served: Vec<_> = right.iter().filter(|(.., asked)| asked.broken.is_none()).copied().collect();
        let reasons =
            right.iter().filter_map(|(service, .., asked)| Some(format!("`{service}`: {}", asked.broken.as_ref()?)));
        let reasons: Vec<String> = reasons.collect();
        // A part that cannot be served as it asks takes nothing from the others, and gets nothing.
        let (parts, broken, mut remarks) =
            if served.is_empty() { (right, reasons, Vec::new()) } else { (served, Vec::new(), reasons) };
        let (service, ..) = parts.first()?;
        if parts.len() > 1 && parts.iter().all(|(other, ..)| other == service) {
            remarks.push(format!("instances of `{service}` ask for different options: each has its own"));
        }
        let asked: Vec<_> =
            parts.iter().map(|(_, _, target, asked)| (asked.share, target.usable, target.ids.len())).collect();
        let targets = parts.iter().zip(weights(&asked)).map(|((service, _, target, asked), weight)| {
            let subset = (!target.everywhere).then(|| Name::derived(&target.tag));
            let (name, only_here) = match own_name(service, asked) {
                Some(name) => (name, true),
                // Only the upstream made here has this subset.
                None => (upstream_name(service), subset.is_some()),
            };
            let provider = only_here.then_some(ProviderId::ConsulTags);
            let (upstream, choice) = (ItemRef { name, provider }, Choice::Weight(weight));
            TargetSpec { upstream, subset, choice, steps: asked.steps.clone(), middlewares: Vec::new() }
        });
        let targets = targets.collect();
        let services: Vec<&Known> = parts.iter().map(|(_, known, ..)| *known).collect();
        let matching = fabio::matching(prefix);
        let is_open = broken.is_empty() && parts.iter().any(|(.., asked)| !asked.is_guarded());
        let of_place = |place: String| {
            let parts = parts.iter();
            let since =
                parts.map(|(service, known, ..)| self.since(&place, service, &known.since(), order::last(is_open)));
            since.min().unwrap_or(u64::MAX)
        };
        let since = places(&matching).into_iter().map(of_place).collect();
        let registered = Registered { since, ..self.registered(broken, remarks, &services) };
        Some(route(matching, targets, registered))
    }
}

fn native_route(upstream: &Name, form: &Form, registered: Registered) -> RouteSpec {
    let Form { native, parts, everywhere, .. } = form;
    let target = |subset: Option<Name>, weight: u32, steps: &Option<Arc<Steps>>| {
        // Only the upstream made here has this subset.
        let provider = subset.is_some().then_some(ProviderId::ConsulTags);
        let upstream = ItemRef { name: upstream.clone(), provider };
        let (choice, steps) = (Choice::Weight(weight), steps.clone());
        TargetSpec { upstream, subset, choice, steps, middlewares: Vec::new() }
    };
    let targets = match everywhere {
        true => vec![target(None, 1, &native.steps)],
        false if parts.len() == 1 => vec![target(Some(ask_subset(&parts[0].ask)), 1, &parts[0].steps)],
        false => parts.iter().map(|part| target(Some(ask_subset(&part.ask)), part.weight, &part.steps)).collect(),
    };
    RouteSpec { middlewares: native.middlewares.clone(), ..route(native.matching.clone(), targets, registered) }
}

/// The name of the subset of instances that ask for this.
fn ask_subset(ask: &str) -> Name {
    let text = format!("ask-{ask}");
    text.parse().unwrap_or_else(|_| Name::derived(&text))
}

fn route(matching: MatchSpec, targets: Vec<TargetSpec>, registered: Registered) -> RouteSpec {
    let (priority, listeners, sticky, timeout, retry) = (0, Vec::new(), None, None, Retry::default());
    let middlewares = Vec::new();
    RouteSpec { matching, priority, listeners, targets, sticky, timeout, retry, middlewares, registered }
}

fn subsets(claims: &Claims) -> BTreeMap<Name, Labels> {
    let parts = claims.fabio.iter().filter(|target| !target.everywhere);
    let forms = claims.native.values().flat_map(|claim| &claim.forms).filter(|form| !form.everywhere);
    let asks = forms.flat_map(|form| &form.parts).map(|part| {
        let selector = Labels::from([(ASK_LABEL.to_owned(), part.ask.clone())]);
        (ask_subset(&part.ask), selector)
    });
    let subset = |target: &Target| {
        let selector = Labels::from([(format!("tag.{}", target.tag), "true".to_owned())]);
        (Name::derived(&target.tag), selector)
    };
    parts.map(subset).chain(asks).collect()
}

/// The name of a service's upstream: its own where that is a name.
fn upstream_name(service: &str) -> Name {
    service.to_ascii_lowercase().parse().unwrap_or_else(|_| Name::derived(service))
}

/// The name of a service's upstream that is not spoken to in plain HTTP/1.1, one for each other way to do so.
fn own_name(service: &str, asked: &fabio::Asked) -> Option<Name> {
    let proto = match (asked.protocol, &asked.tls) {
        (Protocol::Http1, None) => return None,
        (Protocol::Http1, Some(_)) => "https",
        (Protocol::Http2 | Protocol::Auto, None) => "grpc",
        (Protocol::Http2 | Protocol::Auto, Some(_)) => "grpcs",
    };
    let name = asked.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
    let name = name.map(|name| format!("-{}", name.to_str())).unwrap_or_default();
    let unverified = if asked.tls.as_ref().is_none_or(|tls| tls.verifies()) { "" } else { "-unverified" };
    Some(Name::derived(&format!("{service}-{proto}{name}{unverified}")))
}

fn route_name(upstream: &Name, route: &str) -> Name {
    if route.is_empty() {
        return upstream.clone();
    }
    let text = format!("{upstream}.{}", route.to_ascii_lowercase());
    text.parse().unwrap_or_else(|_| Name::derived(&text))
}

/// The name of a route beside the one that most instances ask for by the same name.
fn form_name(route: &Name, form: &Form) -> Name {
    let hosts: Vec<String> = form.native.matching.hosts.iter().map(ToString::to_string).collect();
    Name::derived(&format!("{route}-{}{:?}", hosts.join(","), form.native.matching.path))
}

fn taken(service: &str, kind: &str, name: &Name) -> Problem {
    Problem::new(place(service), format!("{kind}.{name}"), "another service makes the same name: rename one of them")
}

#[cfg(test)]
mod tests;
