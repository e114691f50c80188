//! Who is asked where several routes match the same. Pure: every gateway that sees the same routes and instances decides
//! the same.
//!
//! Of equal routes (the same match, priority and listeners) the first claim stays: by the precedence of providers, then by
//! the age of keys or the position in a file, of tags by the age of the claim, and by name at last. A claim without a
//! registered instance yields to an equal one that has some, until its instances are back; one with critical instances
//! alone yields only to one that is guarded alike. A document yields to a document guarded alike, and never to a tag.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::snapshot::contest::{Contest, ContestReason};
use crate::snapshot::table::specificity;
use crate::snapshot::{Diagnostic, DiagnosticKind};
use crate::spec::document::Kind;
use crate::spec::matching::{HostMatch, PathMatch};
use crate::spec::name::{Name, ProviderId};
use crate::spec::overlap::Overlap;
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;

/// A route that won its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimant<'r> {
    pub(super) name: &'r Name,
    pub(super) provider: ProviderId,
    pub(super) spec: &'r RouteSpec,
    pub(super) seniority: &'r Seniority,
}

/// What orders a route among equal ones, beside the age of a tag's claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seniority {
    /// The position of its provider among those that win names.
    pub(super) rank: usize,
    /// When its key was made, by its registry's counter.
    pub(super) created: Option<u64>,
    /// Where it lies.
    pub(super) place: Arc<str>,
}

/// What is registered for a route. Held instances count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instances {
    /// None.
    None,
    /// Critical ones, or in maintenance, alone.
    Critical,
    /// Some that may take traffic; or nobody knows yet, or it does not depend on instances.
    Some,
}

/// A route under one of its hosts.
type Member = (usize, usize);

/// All routes that match the same as another one, and in which order all go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// Of each route, by its position: the lowest goes first.
    pub(super) seniority: Vec<u32>,
    /// Equal routes, the first claim first.
    equal: Vec<Vec<Member>>,
    /// Tags that documents cover.
    covered: Vec<Contest>,
}

/// Most documents told of one route.
const MAX_COVERS: usize = 3;

impl Claims {
    /// Finds equal routes, and tags that documents cover.
    pub(super) fn of(routes: &[Claimant<'_>]) -> Self {
        let mut order: Vec<usize> = (0..routes.len()).collect();
        order.sort_by(|a, b| compare(&routes[*a], &routes[*b], None));
        let mut seniority = vec![0; routes.len()];
        for (index, position) in (0..).zip(&order) {
            seniority[*position] = index;
        }
        let mut places: HashMap<String, Vec<Member>> = HashMap::with_capacity(routes.len());
        for position in order {
            for host in 0..routes[position].spec.matching.hosts.len().max(1) {
                let key = key(routes[position].spec, host);
                places.entry(key).or_default().push((position, host));
            }
        }
        let mut equal: Vec<Vec<Member>> = places.into_values().filter(|members| members.len() > 1).collect();
        for members in &mut equal {
            members.sort_by(|a, b| compare(&routes[a.0], &routes[b.0], Some((a.1, b.1))));
        }
        equal.sort();
        Self { seniority, equal, covered: covered(routes) }
    }

    /// Who goes first, and why.
    pub(super) fn settle(&self, routes: &[Claimant<'_>], instances: impl Fn(usize) -> Instances) -> Vec<Contest> {
        let mut contests = Vec::new();
        for members in &self.equal {
            let known: Vec<Instances> = members.iter().map(|(route, _)| instances(*route)).collect();
            let winner = winner(routes, members, &known);
            for (at, (position, host)) in members.iter().enumerate().filter(|(at, _)| *at != winner) {
                let (first, first_host) = members[winner];
                let (route, by) = (&routes[*position], &routes[first]);
                // One that could not have yielded to the winner is behind the first claim, whatever its instances.
                let yields = at < winner && may_take(by, route);
                let reason = match known[at] {
                    Instances::None if yields => ContestReason::NoInstance,
                    Instances::Critical if yields && by.spec.is_guarded_like(route.spec) => ContestReason::Critical,
                    Instances::None | Instances::Critical | Instances::Some => match by.spec.is_unclaimed(first_host) {
                        true => ContestReason::OldestInstance,
                        false => ContestReason::FirstClaim,
                    },
                };
                contests.push(Contest {
                    route: route.name.clone(),
                    provider: route.provider,
                    lies: Arc::clone(&route.seniority.place),
                    host: Some(*host),
                    place: place(route.spec, Some(*host)),
                    by: by.name.clone(),
                    by_provider: by.provider,
                    reason,
                });
            }
        }
        contests.extend(self.covered.iter().cloned());
        contests
    }

    /// Whether who goes first depends on instances.
    pub(super) fn are_contested(&self) -> bool {
        !self.equal.is_empty()
    }
}

/// What those who wrote or registered routes that go behind others have to know.
pub(super) fn diagnostics(contests: &[Contest]) -> impl Iterator<Item = Diagnostic> {
    contests.iter().map(|contest| {
        let (route, place) = (&contest.route, &contest.place);
        let effect = match contest.reason {
            ContestReason::Overlapped => format!("what both match goes to {}", contest.by),
            _ => format!("requests for {place} go to {}", contest.by),
        };
        Diagnostic {
            kind: DiagnosticKind::Shadowed,
            provider: contest.provider,
            item: Some((Kind::Route, route.clone())),
            problem: Problem::new(&*contest.lies, format!("routes.{route}"), contest.of_route()),
            effect: effect.into(),
        }
    })
}

/// Whether a route may be asked in place of an equal one that has no instances.
fn may_take(route: &Claimant<'_>, from: &Claimant<'_>) -> bool {
    let is_tag = |route: &Claimant<'_>| route.provider == ProviderId::ConsulTags;
    match is_tag(from) {
        true => is_tag(route),
        false => !is_tag(route) && route.spec.is_guarded_like(from.spec),
    }
}

/// The one of equal routes that is asked.
fn winner(routes: &[Claimant<'_>], members: &[Member], instances: &[Instances]) -> usize {
    let spec = |at: usize| routes[members[at].0].spec;
    let may_take = |at: usize, from: usize| may_take(&routes[members[at].0], &routes[members[from].0]);
    let mut first = 0;
    if instances[0] == Instances::None {
        let next = (1..members.len()).find(|at| instances[*at] != Instances::None && may_take(*at, 0));
        first = next.unwrap_or(0);
    }
    if instances[first] == Instances::Critical {
        let alike = |at: &usize| may_take(*at, first) && spec(*at).is_guarded_like(spec(first));
        first = (0..members.len()).filter(|at| instances[*at] == Instances::Some).find(alike).unwrap_or(first);
    }
    first
}

/// The first claim first; under these hosts of theirs, or all in all.
fn compare(a: &Claimant<'_>, b: &Claimant<'_>, hosts: Option<(usize, usize)>) -> Ordering {
    let yields = |route: &Claimant<'_>| route.spec.registered.yields;
    let since = |route: &Claimant<'_>, host: Option<usize>| match host {
        _ if route.provider != ProviderId::ConsulTags => 0,
        Some(host) => route.spec.since(host),
        None => route.spec.registered.since.iter().copied().min().unwrap_or(u64::MAX),
    };
    let (of_a, of_b) = hosts.unzip();
    (yields(a), a.seniority.rank)
        .cmp(&(yields(b), b.seniority.rank))
        .then_with(|| since(a, of_a).cmp(&since(b, of_b)))
        .then_with(|| age(a).cmp(&age(b)))
        .then_with(|| (a.name, a.provider).cmp(&(b.name, b.provider)))
}

/// How old a document is: by its registry's counter, or by its position in a file.
fn age<'r>(route: &Claimant<'r>) -> (u64, &'r str, u64, u64) {
    let Seniority { created, place, .. } = route.seniority;
    if route.provider != ProviderId::File {
        return (created.unwrap_or(u64::MAX), "", 0, 0);
    }
    let mut parts = place.rsplitn(3, ':');
    let (column, line, path) = (parts.next(), parts.next(), parts.next());
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    match (path, number(line), number(column)) {
        (Some(path), Some(line), Some(column)) => (0, path, line, column),
        _ => (0, place, 0, 0),
    }
}

/// Equal for routes that match the same, under this host, before all else equal.
fn key(spec: &RouteSpec, host: usize) -> String {
    let matching = &spec.matching;
    let mut listeners: Vec<&str> = spec.listeners.iter().map(Name::as_str).collect();
    let mut methods: Vec<&str> = matching.methods.iter().map(|method| method.as_str()).collect();
    let text = |list: &mut Vec<String>| {
        list.sort_unstable();
        list.join(" ")
    };
    let (headers, query) = (&matching.conditions.headers, &matching.conditions.query);
    let headers = text(&mut headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect());
    let query = text(&mut query.iter().map(|(name, value)| format!("{name:?}={value:?}")).collect());
    listeners.sort_unstable();
    methods.sort_unstable();
    let host = matching.hosts.get(host).map(ToString::to_string).unwrap_or_default();
    format!("{} {listeners:?} {host} {:?} {methods:?} {headers} {query}", spec.priority, matching.path)
}

/// A place as people write it: `GET shop.example.com/users`; `*` after a path that is a text, `~` before an expression.
pub(super) fn place(spec: &RouteSpec, host: Option<usize>) -> String {
    let matching = &spec.matching;
    let mut text = String::new();
    for method in &matching.methods {
        text += method.as_str();
        text.push(' ');
    }
    let hosts: Vec<String> = match host {
        Some(host) => matching.hosts.get(host).map(ToString::to_string).into_iter().collect(),
        None => matching.hosts.iter().map(ToString::to_string).collect(),
    };
    text += &hosts.join(",");
    // Writing to memory does not fail.
    let _ = match &matching.path {
        PathMatch::Prefix(path) if path.is_empty() => write!(text, "/"),
        PathMatch::Prefix(path) | PathMatch::Exact(path) => write!(text, "{path}"),
        PathMatch::Start(path) => write!(text, "{path}*"),
        PathMatch::Regex(pattern) => write!(text, "~{}", pattern.source()),
    };
    text
}

/// Tags that go behind documents they would go before by their places.
fn covered(routes: &[Claimant<'_>]) -> Vec<Contest> {
    let mut contests = Vec::new();
    let yielding: Vec<&Claimant<'_>> = routes.iter().filter(|route| route.spec.registered.yields).collect();
    if yielding.is_empty() {
        return contests;
    }
    // Of thousands of documents most are for other hosts.
    let (mut by_host, mut wide): (HashMap<&str, Vec<&Claimant<'_>>>, Vec<&Claimant<'_>>) = Default::default();
    for document in routes.iter().filter(|route| !route.spec.registered.yields && route.spec.covers()) {
        let hosts = &document.spec.matching.hosts;
        if hosts.is_empty() || hosts.iter().any(|host| matches!(host, HostMatch::Wildcard(_))) {
            wide.push(document);
            continue;
        }
        for host in hosts {
            if let HostMatch::Exact(host) = host {
                by_host.entry(host).or_default().push(document);
            }
        }
    }
    for route in yielding {
        let named = route.spec.matching.hosts.iter().filter_map(|host| match host {
            HostMatch::Exact(host) => by_host.get(host.as_str()),
            HostMatch::Wildcard(_) => None,
        });
        let mut found: Vec<(Overlap, &Claimant<'_>)> = Vec::new();
        for document in named.flatten().chain(&wide).copied() {
            let overlap = route.spec.matching.overlap(&document.spec.matching);
            let overlap = if document.spec.listeners.is_empty() { overlap } else { overlap.min(Overlap::Some) };
            if overlap > Overlap::None && goes_before(route.spec, document.spec) {
                found.push((overlap, document));
            }
        }
        found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(b.1.name)));
        found.dedup_by(|a, b| a.1.name == b.1.name);
        if found.first().is_some_and(|(overlap, _)| *overlap == Overlap::All) {
            found.truncate(1);
        }
        for (overlap, document) in found.into_iter().take(MAX_COVERS) {
            contests.push(Contest {
                route: route.name.clone(),
                provider: route.provider,
                lies: Arc::clone(&route.seniority.place),
                host: None,
                place: place(route.spec, None),
                by: document.name.clone(),
                by_provider: document.provider,
                reason: if overlap == Overlap::All { ContestReason::Covered } else { ContestReason::Overlapped },
            });
        }
    }
    contests
}

/// Whether a route would be asked before another one for something, by their places alone.
fn goes_before(route: &RouteSpec, other: &RouteSpec) -> bool {
    fn hosts(spec: &RouteSpec) -> Vec<Option<&HostMatch>> {
        match spec.matching.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(Some).collect(),
        }
    }
    let others = hosts(other);
    hosts(route).into_iter().any(|own| {
        others.iter().any(|other_host| {
            let meet = match (own, other_host) {
                (Some(own), Some(other)) => own.overlap(other) > Overlap::None,
                _ => true,
            };
            meet && specificity(route, own) < specificity(other, *other_host)
        })
    })
}

#[cfg(test)]
mod tests;
