//! Defines the routes and upstreams that services ask for, kept from one reading of their instances to the next.
//!
//! Of instances that disagree about a route of ours the newest usable one wins. A route whose tag is wrong keeps its
//! last good form. A service without instances keeps its routes for a while: they answer 503 and not 404.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claim::Bounds;
use super::fabio::{self, Prefix, Tag, Wrong};
use super::native::{self, Native};
use super::share::weights;
use super::{is_usable, tags};
use crate::spec::decode::documents::keep_equal;
use crate::spec::document::{Documents, Item};
use crate::spec::endpoint::{EndpointSpec, Labels};
use crate::spec::name::{ItemRef, Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::retry::Retry;
use crate::spec::route::{Choice, Registered, RouteSpec, TargetSpec};
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
        self.native && native::asks(tag) || self.fabio && tag.trim().starts_with(fabio::PREFIX)
    }
}

/// Services with what they ask for.
#[derive(Debug)]
pub struct TagSet {
    rules: Rules,
    services: BTreeMap<Arc<str>, Known>,
    routes: BTreeMap<Name, Arc<RouteSpec>>,
    upstreams: BTreeMap<Name, Arc<UpstreamSpec>>,
}

#[derive(Debug)]
struct Known {
    claims: Claims,
    /// What they were read from.
    endpoints: Arc<[EndpointSpec]>,
    /// Since when it has no instance.
    empty_since: Option<Instant>,
}

/// What the instances of a service ask for.
#[derive(Debug, Default)]
struct Claims {
    /// Of ours, by name.
    native: BTreeMap<String, Claim>,
    /// Of fabio's, one a tag.
    fabio: Vec<Target>,
    /// What belongs to no route.
    problems: Vec<Problem>,
}

/// A route of ours.
#[derive(Debug)]
struct Claim {
    /// `None`: there never was a good form.
    form: Option<Native>,
    problems: Vec<Problem>,
    remarks: Vec<String>,
}

/// A service's part in a route of fabio's.
#[derive(Debug)]
struct Target {
    prefix: Prefix,
    tag: String,
    /// `None`: there never was a good form.
    asked: Option<fabio::Asked>,
    problem: Option<Problem>,
    /// Instances with this tag that take traffic, and all of them.
    usable: usize,
    registered: usize,
    /// Every instance of the service has it.
    everywhere: bool,
}

/// A service's target in a route that it may share with other services.
type Part<'a> = (&'a Arc<str>, &'a Known, &'a Target);

/// Most routes of one service: a registration must not eat the gateway's memory.
const MOST: usize = 100;

impl TagSet {
    /// Nothing is known yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, services: BTreeMap::new(), routes: BTreeMap::new(), upstreams: BTreeMap::new() }
    }

    /// The services whose routes are kept.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys()
    }

    /// When the routes of a service without instances end next.
    pub fn ends_at(&self) -> Option<Instant> {
        self.services.values().filter_map(|known| known.empty_since).min().map(|since| since + self.rules.ttl)
    }

    /// The documents of all services with their instances; of one that was not read (`None`) what is known stays.
    pub fn update(&mut self, services: &BTreeMap<Arc<str>, Option<Arc<[EndpointSpec]>>>, now: Instant) -> Documents {
        self.services.retain(|service, _| services.contains_key(service));
        for (service, endpoints) in services {
            let before = self.services.remove(service);
            let after = match (endpoints, before) {
                (None, before) => before,
                (Some(endpoints), before) if endpoints.is_empty() => before.and_then(|known| self.outlived(known, now)),
                (Some(endpoints), Some(before))
                    if Arc::ptr_eq(endpoints, &before.endpoints) && before.empty_since.is_none() =>
                {
                    Some(before)
                }
                (Some(endpoints), before) => {
                    let asks = endpoints.iter().flat_map(tags).any(|tag| self.rules.asks(tag));
                    let before = before.map(|known| known.claims).unwrap_or_default();
                    asks.then(|| {
                        let claims = read(service, endpoints, before, &self.rules);
                        Known { claims, endpoints: Arc::clone(endpoints), empty_since: None }
                    })
                }
            };
            if let Some(after) = after {
                self.services.insert(Arc::clone(service), after);
            }
        }
        self.documents()
    }

    /// What is known of a service without instances, until its time is over.
    fn outlived(&self, mut known: Known, now: Instant) -> Option<Known> {
        let since = *known.empty_since.get_or_insert(now);
        for target in &mut known.claims.fabio {
            target.usable = 0;
        }
        (now.saturating_duration_since(since) < self.rules.ttl).then_some(known)
    }

    fn documents(&mut self) -> Documents {
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
            let upstream =
                Item { good: Some(good), problems: known.claims.problems.clone(), place: Arc::clone(&place) };
            if documents.upstreams.contains_key(&name) {
                documents.rejected.push(taken(service, "upstreams", &name));
                continue;
            }
            documents.upstreams.insert(name.clone(), upstream);
            for asked in known.claims.fabio.iter().filter_map(|target| target.asked.as_ref()) {
                let Some(name) = own_name(service, asked) else { continue };
                let (subsets, tls, protocol) = (subsets(&known.claims), asked.tls.clone(), asked.protocol);
                let settings = UpstreamSettings { subsets, tls, protocol, ..UpstreamSettings::default() };
                let source = UpstreamSource::Consul([ConsulService::named(Arc::clone(service))].into());
                let good = keep_equal(self.upstreams.get(&name).cloned(), UpstreamSpec { source, settings });
                let item = Item { good: Some(good), problems: Vec::new(), place: Arc::clone(&place) };
                documents.upstreams.insert(name, item);
            }
            for (route, claim) in &known.claims.native {
                let route = route_name(&name, route);
                let Some(form) = &claim.form else {
                    documents.rejected.extend(claim.problems.iter().cloned());
                    continue;
                };
                if documents.routes.contains_key(&route) {
                    documents.rejected.push(taken(service, "routes", &route));
                    continue;
                }
                let registered = self.registered(Vec::new(), claim.remarks.clone(), &[known]);
                let spec = native_route(&name, form, registered);
                let good = keep_equal(self.routes.get(&route).cloned(), spec);
                let item = Item { good: Some(good), problems: claim.problems.clone(), place: Arc::clone(&place) };
                documents.routes.insert(route, item);
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
            let (host, path) = prefix;
            let host = host.as_ref().map(ToString::to_string).unwrap_or_default();
            let name = Name::derived(&format!("{}{host}{path}", fabio::PREFIX));
            let services: Vec<&str> = targets.iter().map(|(service, ..)| &***service).collect();
            if documents.routes.contains_key(&name) {
                documents.rejected.push(taken(services[0], "routes", &name));
                continue;
            }
            let good = keep_equal(self.routes.get(&name).cloned(), spec);
            documents.routes.insert(name, Item { good: Some(good), problems, place: place(services[0]).into() });
        }
        self.routes =
            documents.routes.iter().filter_map(|(name, item)| Some((name.clone(), item.good.clone()?))).collect();
        self.upstreams =
            documents.upstreams.iter().filter_map(|(name, item)| Some((name.clone(), item.good.clone()?))).collect();
        documents
    }

    fn registered(&self, broken: Vec<String>, mut remarks: Vec<String>, services: &[&Known]) -> Registered {
        if services.iter().all(|known| known.empty_since.is_some()) {
            remarks.push(format!("its last instance is gone; the route stays for {:?} after it", self.rules.ttl));
        }
        Registered { yields: self.rules.bounds.yields(), broken, remarks }
    }

    /// The route of a prefix; `None` when no tag of it ever was right.
    fn fabio_route(&self, prefix: &Prefix, parts: &[Part<'_>]) -> Option<RouteSpec> {
        let right: Vec<_> = parts
            .iter()
            .filter_map(|(service, known, target)| Some((*service, *known, *target, target.asked.as_ref()?)))
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
            parts.iter().map(|(_, _, target, asked)| (asked.share, target.usable, target.registered)).collect();
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
        Some(route(fabio::matching(prefix), targets, self.registered(broken, remarks, &services)))
    }
}

fn native_route(upstream: &Name, form: &Native, registered: Registered) -> RouteSpec {
    let upstream = ItemRef { name: upstream.clone(), provider: None };
    let target = TargetSpec {
        upstream,
        subset: None,
        choice: Choice::Weight(1),
        steps: form.steps.clone(),
        middlewares: Vec::new(),
    };
    RouteSpec { middlewares: form.middlewares.clone(), ..route(form.matching.clone(), vec![target], registered) }
}

fn route(matching: crate::spec::matching::MatchSpec, targets: Vec<TargetSpec>, registered: Registered) -> RouteSpec {
    let (priority, listeners, sticky, timeout, retry) = (0, Vec::new(), None, None, Retry::default());
    let middlewares = Vec::new();
    RouteSpec { matching, priority, listeners, targets, sticky, timeout, retry, middlewares, registered }
}

fn subsets(claims: &Claims) -> BTreeMap<Name, Labels> {
    let parts = claims.fabio.iter().filter(|target| !target.everywhere);
    let subset = |target: &Target| {
        let selector = Labels::from([(format!("tag.{}", target.tag), "true".to_owned())]);
        (Name::derived(&target.tag), selector)
    };
    parts.map(subset).collect()
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

fn place(service: &str) -> String {
    format!("consul:{service}")
}

fn taken(service: &str, kind: &str, name: &Name) -> Problem {
    Problem::new(place(service), format!("{kind}.{name}"), "another service makes the same name: rename one of them")
}

/// What the instances of a service ask for; what is wrong keeps the form it had before.
fn read(service: &str, endpoints: &[EndpointSpec], mut before: Claims, rules: &Rules) -> Claims {
    let mut claims = Claims::default();
    if rules.native {
        claims.native = read_native(service, endpoints, &mut before.native, rules);
    }
    if rules.fabio {
        read_fabio(service, endpoints, &before.fabio, rules, &mut claims);
    }
    let all = claims.native.len() + claims.fabio.len();
    if all > MOST {
        let text = format!("asks for {all} routes, and {MOST} are the most for one service: the rest is left out");
        claims.problems.push(Problem::new(place(service), "", text));
        while claims.native.len() > MOST {
            claims.native.pop_last();
        }
        claims.fabio.truncate(MOST - claims.native.len());
    }
    claims
}

fn read_native(
    service: &str,
    endpoints: &[EndpointSpec],
    before: &mut BTreeMap<String, Claim>,
    rules: &Rules,
) -> BTreeMap<String, Claim> {
    type Asking<'a> = Vec<(&'a EndpointSpec, Result<Native, Vec<String>>)>;
    let mut by_route: BTreeMap<String, Asking<'_>> = BTreeMap::new();
    for endpoint in endpoints {
        for (route, asked) in native::read(endpoint, &rules.bounds) {
            by_route.entry(route).or_default().push((endpoint, asked));
        }
    }
    let mut claims = BTreeMap::new();
    for (route, mut asking) in by_route {
        asking.sort_by_key(|(endpoint, _)| std::cmp::Reverse((is_usable(endpoint), endpoint.modified, &endpoint.id)));
        let mut problems: BTreeMap<&str, (&EndpointSpec, usize)> = BTreeMap::new();
        for (endpoint, asked) in &asking {
            for text in asked.as_ref().err().into_iter().flatten() {
                problems.entry(text).or_insert((endpoint, 0)).1 += 1;
            }
        }
        let problems = problems
            .into_iter()
            .map(|(text, (endpoint, count))| Problem::new(place(service), of_instances(&endpoint.id, count), text));
        let problems = problems.collect();
        let last_good = before.remove(&route).and_then(|claim| claim.form);
        let newest_good = asking.iter().find_map(|(_, asked)| asked.clone().ok());
        let (newest, first) = &asking[0];
        let form = first.clone().ok().or(last_good).or(newest_good);
        let others = asking.iter().filter(|(_, asked)| asked.is_ok() && asked != first);
        let others: Vec<&EndpointSpec> = others.map(|(endpoint, _)| *endpoint).collect();
        let mut remarks = Vec::new();
        if let (Ok(_), Some(other)) = (first, others.first()) {
            remarks.push(format!(
                "conflict: instances ask for different things; `{}` is the newest and wins over `{}`{}",
                newest.id,
                other.id,
                if others.len() > 1 { format!(" and {} more", others.len() - 1) } else { String::new() }
            ));
        }
        claims.insert(route, Claim { form, problems, remarks });
    }
    claims
}

fn read_fabio(service: &str, endpoints: &[EndpointSpec], before: &[Target], rules: &Rules, claims: &mut Claims) {
    let mut by_tag: BTreeMap<&str, Vec<&EndpointSpec>> = BTreeMap::new();
    for endpoint in endpoints {
        for tag in tags(endpoint).filter(|tag| tag.trim().starts_with(fabio::PREFIX)) {
            by_tag.entry(tag).or_default().push(endpoint);
        }
    }
    for (tag, having) in by_tag {
        let problem = |text: &str| {
            Problem::new(place(service), of_instances(&having[0].id, having.len()), format!("`{tag}`: {text}"))
        };
        let Tag { prefix, asked, ignored } = match fabio::read(tag, &rules.bounds) {
            None => continue,
            Some(Err(text)) => {
                claims.problems.push(problem(&text));
                continue;
            }
            Some(Ok(tag)) => tag,
        };
        claims.problems.extend(ignored.iter().map(|text| problem(text)));
        let wrong = asked.as_ref().err().map(|wrong| problem(&wrong.text));
        let last_good = before.iter().find(|target| target.prefix == prefix).and_then(|target| target.asked.clone());
        let asked = match asked {
            Ok(asked) => Some(asked),
            // What was open before must not stay so now that somebody wants it guarded.
            Err(Wrong { text, guards: true }) => {
                Some(last_good.filter(fabio::Asked::is_guarded).unwrap_or_else(|| fabio::Asked {
                    broken: Some(format!("`{tag}`: {text}")),
                    ..fabio::Asked::default()
                }))
            }
            Err(_) => last_good,
        };
        claims.fabio.push(Target {
            asked,
            problem: wrong,
            usable: having.iter().filter(|endpoint| is_usable(endpoint)).count(),
            registered: having.len(),
            everywhere: having.len() == endpoints.len(),
            prefix,
            tag: tag.to_owned(),
        });
    }
}

fn of_instances(first: &str, count: usize) -> String {
    if count > 1 { format!("{first} and {} more", count - 1) } else { first.to_owned() }
}

#[cfg(test)]
mod tests;
