//! Defines what changed from one picture to the next. Pure: snapshots in, changes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::event::{Change, Facts, Shape, What};
use crate::snapshot::certificate::{Certificate, Certificates};
use crate::snapshot::consumer::{Consumer, Consumers};
use crate::snapshot::contest::Contest;
use crate::snapshot::{
    CircuitState, Middlewares, NamedMiddleware, Route, RouteState, RouteTable, Snapshot, StateName, Upstream,
};
use crate::spec::encode;
use crate::spec::endpoint::RegistryStatus;
use crate::spec::name::ProviderId;
use crate::spec::source::Source;

/// Tells the index or revision of a source, or of a provider's documents.
pub type IndexOf = dyn Fn(ProviderId, Option<&Source>) -> Option<u64> + Send + Sync;

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) generation: u64,
    pub(super) upstreams: BTreeMap<Arc<str>, Known>,
    routes: Arc<RouteTable>,
    middlewares: Arc<Middlewares>,
    certificates: Arc<Certificates>,
    consumers: Arc<Consumers>,
    contests: Vec<Contest>,
}

/// An upstream as it was told last.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) upstream: Arc<Upstream>,
    epoch: u64,
    pub(super) facts: BTreeMap<SocketAddr, Facts>,
    /// Its breaker refuses requests, or lets only a few through.
    is_open: bool,
}

impl Picture {
    /// What a snapshot changes, the flips of health since the last one included. An older one changes nothing.
    pub(super) fn observe(&mut self, snapshot: &Snapshot, index_of: &IndexOf) -> Vec<Change> {
        let mut changes = Vec::new();
        if snapshot.generation < self.generation {
            return changes;
        }
        self.generation = snapshot.generation;
        for upstream in snapshot.upstreams() {
            // Read before the endpoints: a flip meanwhile is seen now or moves it once more.
            let epoch = upstream.state.epoch();
            let known = self.upstreams.get(&upstream.label);
            if known.is_some_and(|known| Arc::ptr_eq(&known.upstream, upstream) && known.epoch == epoch) {
                continue;
            }
            let facts = facts_of(upstream);
            compare_upstream(known, upstream, &facts, index_of, &mut changes);
            let is_open = upstream.circuit().is_some_and(|circuit| circuit != CircuitState::Closed);
            if known.is_some_and(|known| known.is_open) != is_open {
                changes.push(breaker_changed(upstream, is_open));
            }
            let told = Known { upstream: Arc::clone(upstream), epoch, facts, is_open };
            self.upstreams.insert(Arc::clone(&upstream.label), told);
        }
        // All that are there are known by now: there are more only when some went.
        if self.upstreams.len() > snapshot.upstreams().count() {
            let present: BTreeSet<&Arc<str>> = snapshot.upstreams().map(|upstream| &upstream.label).collect();
            for (_, known) in self.upstreams.extract_if(.., |label, _| !present.contains(label)) {
                remove_upstream(&known, index_of, &mut changes);
            }
        }
        if !Arc::ptr_eq(&self.routes, &snapshot.routes) {
            compare_routes(&self.routes, &snapshot.routes, index_of, &mut changes);
            self.routes = Arc::clone(&snapshot.routes);
        }
        if self.contests != snapshot.report.contests {
            compare_contests(&self.contests, &snapshot.report.contests, &snapshot.routes, &mut changes);
            self.contests.clone_from(&snapshot.report.contests);
        }
        if !Arc::ptr_eq(&self.middlewares, &snapshot.middlewares) {
            compare_middlewares(&self.middlewares, &snapshot.middlewares, index_of, &mut changes);
            self.middlewares = Arc::clone(&snapshot.middlewares);
        }
        if !Arc::ptr_eq(&self.certificates, &snapshot.certificates) {
            compare_certificates(&self.certificates, &snapshot.certificates, index_of, &mut changes);
            self.certificates = Arc::clone(&snapshot.certificates);
        }
        if !Arc::ptr_eq(&self.consumers, &snapshot.consumers) {
            compare_consumers(&self.consumers, &snapshot.consumers, index_of, &mut changes);
            self.consumers = Arc::clone(&snapshot.consumers);
        }
        changes
    }
}

fn breaker_changed(upstream: &Upstream, is_open: bool) -> Change {
    let (event, cause) = match is_open {
        true => (What::BreakerOpened, "too many requests of late failed, were answered with 5xx or were slow"),
        false => (What::BreakerClosed, "the requests that tried it went well, or errors do not count any more"),
    };
    Change { upstream: Some(Arc::clone(&upstream.label)), ..Change::new(event, cause) }
}

fn facts_of(upstream: &Upstream) -> BTreeMap<SocketAddr, Facts> {
    upstream.endpoints.iter().map(|endpoint| (endpoint.address, Facts::of(endpoint, &upstream.settings))).collect()
}

fn compare_upstream(
    known: Option<&Known>,
    now: &Arc<Upstream>,
    facts: &BTreeMap<SocketAddr, Facts>,
    index_of: &IndexOf,
    changes: &mut Vec<Change>,
) {
    let own = |event, before, after, cause: String| Change {
        provider: Some(now.provider),
        index: index_of(now.provider, None),
        upstream: Some(Arc::clone(&now.label)),
        before,
        after,
        ..Change::new(event, cause)
    };
    let document = upstream_document(now);
    match known {
        None => {
            let cause = format!("{} defines it", now.provider);
            changes.push(own(What::UpstreamAdded, None, Some(Shape::Document(document)), cause));
        }
        Some(known) if !Arc::ptr_eq(&known.upstream, now) => {
            if let Some((before, after)) = differences(upstream_document(&known.upstream), document) {
                let first_read = !known.upstream.known && now.known;
                let cause = match &*now.sources {
                    [_, ..] if first_read => format!("{} was read for the first time", now.source_text()),
                    _ => format!("its document in {} changed", now.provider),
                };
                changes.push(own(What::UpstreamChanged, Some(before), Some(after), cause));
            }
        }
        Some(_) => {}
    }

    let none = BTreeMap::new();
    let former = known.map_or(&none, |known| &known.facts);
    let source = source_of(now);
    let provider = now.sources.first().map_or(now.provider, Source::provider);
    // Of several, nobody knows which one it was.
    let index = if now.sources.len() > 1 { None } else { index_of(provider, now.sources.first()) };
    let of_endpoints = |event, cause: String| Change {
        provider: Some(provider),
        source: (!now.sources.is_empty()).then(|| Arc::clone(&source)),
        index,
        upstream: Some(Arc::clone(&now.label)),
        ..Change::new(event, cause)
    };
    let held = |facts: &BTreeMap<SocketAddr, Facts>| facts.values().filter(|facts| facts.held).count();
    match (held(former), held(facts)) {
        (0, held) if held > 0 => {
            let cause = format!("{source} lost some in a way that looks like its own fault: {held} are held");
            changes.push(of_endpoints(What::HoldBegan, cause));
        }
        (held, 0) if held > 0 => {
            changes.push(of_endpoints(What::HoldEnded, format!("{source} is taken at its word again")));
        }
        _ => {}
    }
    let first_read = !now.sources.is_empty() && known.is_none_or(|known| !known.upstream.known);
    let moved = known.is_some_and(|known| known.upstream.sources != now.sources);
    for (address, fact) in facts {
        let (event, before, cause) = match former.get(address) {
            None => {
                let whence = if first_read { format!("the first read of {source}") } else { source.to_string() };
                let reasons: String = fact.reasons.iter().map(|reason| format!("; {reason}")).collect();
                (What::EndpointAdded, None, format!("{whence} has it{reasons}"))
            }
            Some(before) if before.says_the_same(fact) => continue,
            Some(before) => {
                (What::EndpointChanged, Some(before.clone()), why_changed(before, fact, &source, now.checked()))
            }
        };
        changes.push(Change {
            endpoint: Some(*address),
            before: before.map(Shape::Endpoint),
            after: Some(Shape::Endpoint(fact.clone())),
            ..of_endpoints(event, cause)
        });
    }
    for (address, before) in former.iter().filter(|(address, _)| !facts.contains_key(*address)) {
        let cause =
            if moved { format!("the upstream's source is {source} now") } else { format!("{source} has it no more") };
        changes.push(Change {
            endpoint: Some(*address),
            before: Some(Shape::Endpoint(before.clone())),
            ..of_endpoints(What::EndpointRemoved, cause)
        });
    }
}

fn remove_upstream(known: &Known, index_of: &IndexOf, changes: &mut Vec<Change>) {
    let upstream = &known.upstream;
    let index = index_of(upstream.provider, None);
    let own = |event, cause: String| Change {
        provider: Some(upstream.provider),
        index,
        upstream: Some(Arc::clone(&upstream.label)),
        ..Change::new(event, cause)
    };
    for (address, facts) in &known.facts {
        changes.push(Change {
            endpoint: Some(*address),
            before: Some(Shape::Endpoint(facts.clone())),
            ..own(What::EndpointRemoved, "its upstream is gone".to_owned())
        });
    }
    let before = Some(Shape::Document(upstream_document(upstream)));
    let cause = format!("{} defines it no more", upstream.provider);
    changes.push(Change { before, ..own(What::UpstreamRemoved, cause) });
}

/// Every word that changed, as a sentence. `checked`: the upstream has an active health check.
fn why_changed(before: &Facts, now: &Facts, source: &str, checked: bool) -> String {
    let mut causes = Vec::new();
    if before.drained != now.drained {
        causes.push(if now.drained { "drained by an operator" } else { "undrained by an operator" }.to_owned());
    }
    if before.status != now.status {
        causes.push(format!(
            "{source} {}",
            match now.status {
                RegistryStatus::Unchecked => "has no check of it any more",
                RegistryStatus::Passing => "says that its checks pass",
                RegistryStatus::Warning => "says that a check warns",
                RegistryStatus::Critical => "says that a check is critical",
                RegistryStatus::Maintenance => "says that it is in maintenance",
            }
        ));
    }
    if before.held != now.held {
        let held = format!("{source} lost it, which is not confirmed: it is held");
        causes.push(if now.held { held } else { format!("{source} is taken at its word again") });
    }
    let ejected = |facts: &Facts| facts.state == StateName::Ejected;
    if ejected(now) && !ejected(before) {
        let flaps = now.reasons.iter().find(|reason| reason.starts_with("flaps: "));
        causes.push(flaps.map_or_else(|| "it flaps".to_owned(), Clone::clone));
    } else if ejected(before) && now.state == StateName::Healthy {
        causes.push("used again: its penalty has decayed, or most of its pool flaps".to_owned());
    }
    if before.weight != now.weight {
        causes.push(format!("{source} gives it weight {}", now.weight));
    }
    if before.labels != now.labels {
        causes.push(format!("{source} gives it other labels"));
    }
    if before.failing != now.failing {
        let failure = now.reasons.iter().find(|reason| reason.starts_with("active checks fail"));
        causes.push(match (now.failing, failure) {
            (true, Some(failure)) => failure.clone(),
            (true, None) => "active checks fail".to_owned(),
            (false, _) if checked => "active checks pass".to_owned(),
            (false, _) => "nobody checks it any more".to_owned(),
        });
    }
    if before.ejected != now.ejected {
        let ejected = now.reasons.last().map_or("requests to it failed", String::as_str);
        causes.push(if now.ejected {
            format!("ejected: {ejected}")
        } else {
            "requests to it go well again".to_owned()
        });
    }
    if causes.is_empty() {
        // Only its standing is left: its first check answered, or a check came or went.
        let healthy = matches!(now.state, StateName::Healthy | StateName::Held);
        let cause = match (checked, healthy) {
            (false, _) => "nobody checks it any more",
            (true, true) => "its first active check passes",
            (true, false) => "its first active check has not answered yet",
        };
        causes.push(cause.to_owned());
    }
    causes.join("; ")
}

fn source_of(upstream: &Upstream) -> Arc<str> {
    match &*upstream.sources {
        [_, ..] => upstream.source_text().into(),
        [] => format!("the document of {}", upstream.provider).into(),
    }
}

fn upstream_document(upstream: &Upstream) -> Map<String, Value> {
    let mut map = encode::settings(&upstream.settings);
    map.insert("provider".to_owned(), json!(upstream.provider));
    map.insert("source".to_owned(), upstream.source_text().into());
    map.insert("known".to_owned(), upstream.known.into());
    map
}

fn compare_routes(before: &RouteTable, now: &RouteTable, index_of: &IndexOf, changes: &mut Vec<Change>) {
    // Asked once for each provider: of ten thousand routes most come at once.
    let mut indexes: BTreeMap<ProviderId, Option<u64>> = BTreeMap::new();
    let mut change = |route: &Route, event, before, after, cause: String| Change {
        provider: Some(route.provider),
        index: *indexes.entry(route.provider).or_insert_with(|| index_of(route.provider, None)),
        route: Some(Arc::clone(&route.label)),
        before,
        after,
        ..Change::new(event, cause)
    };
    for route in now.routes() {
        match before.by_label(&route.label) {
            None => {
                let (after, cause) =
                    (Some(Shape::Document(route_document(route))), format!("{} defines it", route.provider));
                changes.push(change(route, What::RouteAdded, None, after, cause));
            }
            Some(former) if Arc::ptr_eq(former, route) => {}
            Some(former) => {
                let Some((was, is)) = differences(route_document(former), route_document(route)) else { continue };
                let cause = match &route.state {
                    RouteState::Kept(reasons) => format!("{}; its last form that resolved stays", reasons.join("; ")),
                    RouteState::Unresolved(reasons) => reasons.join("; "),
                    RouteState::Resolved if former.spec != route.spec => {
                        format!("its document in {} changed", route.provider)
                    }
                    RouteState::Resolved => "all it names is there".to_owned(),
                };
                changes.push(change(route, What::RouteChanged, Some(was), Some(is), cause));
            }
        }
    }
    for former in before.routes().iter().filter(|former| now.by_label(&former.label).is_none()) {
        let (was, cause) =
            (Some(Shape::Document(route_document(former))), format!("{} defines it no more", former.provider));
        changes.push(change(former, What::RouteRemoved, was, None, cause));
    }
}

/// What goes behind others from now on, and what no longer.
fn compare_contests(before: &[Contest], now: &[Contest], routes: &RouteTable, changes: &mut Vec<Change>) {
    let change = |contest: &Contest, event, cause| Change {
        provider: Some(contest.provider),
        route: Some(contest.route.as_str().into()),
        ..Change::new(event, cause)
    };
    for contest in now.iter().filter(|contest| contest.is_shadowed() && !before.contains(contest)) {
        changes.push(change(contest, What::RouteShadowed, contest.of_route()));
    }
    let still = |former: &Contest| {
        now.iter().any(|contest| contest.route == former.route && contest.host == former.host && contest.is_shadowed())
    };
    for former in before.iter().filter(|former| former.is_shadowed() && !still(former)) {
        // That it is gone is told already.
        if routes.by_label(former.route.as_str()).is_some() {
            let cause = format!("{} no longer goes first at {}", former.by, former.place);
            changes.push(change(former, What::RouteUnshadowed, cause));
        }
    }
}

fn compare_middlewares(before: &Middlewares, now: &Middlewares, index_of: &IndexOf, changes: &mut Vec<Change>) {
    let change = |named: &NamedMiddleware, event, before, after, cause: String| Change {
        provider: Some(named.provider),
        index: index_of(named.provider, None),
        middleware: Some(Arc::clone(&named.label)),
        before,
        after,
        ..Change::new(event, cause)
    };
    let document = |named: &NamedMiddleware| {
        let document = encode::middleware(&named.spec);
        let mut map = document.as_object().cloned().unwrap_or_default();
        map.insert("provider".to_owned(), json!(named.provider));
        map
    };
    for (label, named) in &now.all {
        match before.all.get(label) {
            None => {
                let (after, cause) = (Some(Shape::Document(document(named))), format!("{} defines it", named.provider));
                changes.push(change(named, What::MiddlewareAdded, None, after, cause));
            }
            Some(former) if Arc::ptr_eq(former, named) => {}
            Some(former) => {
                let Some((was, is)) = differences(document(former), document(named)) else { continue };
                let cause = format!("its document in {} changed", named.provider);
                changes.push(change(named, What::MiddlewareChanged, Some(was), Some(is), cause));
            }
        }
    }
    for former in before.all.iter().filter(|(label, _)| !now.all.contains_key(*label)).map(|(_, former)| former) {
        let (was, cause) = (Some(Shape::Document(document(former))), format!("{} defines it no more", former.provider));
        changes.push(change(former, What::MiddlewareRemoved, was, None, cause));
    }
}

fn compare_certificates(before: &Certificates, now: &Certificates, index_of: &IndexOf, changes: &mut Vec<Change>) {
    let change = |certificate: &Certificate, event, before, after, cause: String| Change {
        provider: Some(certificate.provider),
        index: index_of(certificate.provider, None),
        certificate: Some(certificate.name.as_str().into()),
        before,
        after,
        ..Change::new(event, cause)
    };
    let document = |certificate: &Certificate| {
        let mut map = encode::certificate(&certificate.spec);
        map.insert("provider".to_owned(), json!(certificate.provider));
        map
    };
    for certificate in now.all() {
        let provider = certificate.provider;
        match before.by_name(&certificate.name) {
            None => {
                let (after, cause) = (Some(Shape::Document(document(certificate))), format!("{provider} defines it"));
                changes.push(change(certificate, What::CertificateAdded, None, after, cause));
            }
            Some(former) => {
                let Some((was, is)) = differences(document(former), document(certificate)) else { continue };
                let cause = format!("its document in {provider} changed");
                changes.push(change(certificate, What::CertificateChanged, Some(was), Some(is), cause));
            }
        }
    }
    for former in before.all().iter().filter(|former| now.by_name(&former.name).is_none()) {
        let (was, cause) = (Some(Shape::Document(document(former))), format!("{} defines it no more", former.provider));
        changes.push(change(former, What::CertificateRemoved, was, None, cause));
    }
}

fn compare_consumers(before: &Consumers, now: &Consumers, index_of: &IndexOf, changes: &mut Vec<Change>) {
    let change = |consumer: &Consumer, event, before, after, cause: String| Change {
        provider: Some(consumer.provider),
        index: index_of(consumer.provider, None),
        consumer: Some(consumer.name.as_str().into()),
        before,
        after,
        ..Change::new(event, cause)
    };
    let document = |consumer: &Consumer| {
        let mut map = encode::consumer(&consumer.spec);
        map.insert("provider".to_owned(), json!(consumer.provider));
        map
    };
    for consumer in now.all() {
        let provider = consumer.provider;
        match before.by_name(&consumer.name) {
            None => {
                let (after, cause) = (Some(Shape::Document(document(consumer))), format!("{provider} defines it"));
                changes.push(change(consumer, What::ConsumerAdded, None, after, cause));
            }
            Some(former) => {
                let Some((was, is)) = differences(document(former), document(consumer)) else { continue };
                let cause = format!("its document in {provider} changed");
                changes.push(change(consumer, What::ConsumerChanged, Some(was), Some(is), cause));
            }
        }
    }
    for former in before.all().iter().filter(|former| now.by_name(&former.name).is_none()) {
        let (was, cause) = (Some(Shape::Document(document(former))), format!("{} defines it no more", former.provider));
        changes.push(change(former, What::ConsumerRemoved, was, None, cause));
    }
}

fn route_document(route: &Route) -> Map<String, Value> {
    let mut map = match encode::route(&route.spec) {
        Value::Object(map) => map,
        other => Map::from_iter([("route".to_owned(), other)]),
    };
    map.insert("provider".to_owned(), json!(route.provider));
    let state = match &route.state {
        RouteState::Resolved => "resolved",
        RouteState::Kept(_) => "kept",
        RouteState::Unresolved(_) => "unresolved",
    };
    map.insert("state".to_owned(), state.into());
    if !route.state.reasons().is_empty() {
        map.insert("reasons".to_owned(), json!(route.state.reasons()));
    }
    map
}

/// What differs of two documents, as it was and as it is.
fn differences(mut before: Map<String, Value>, mut now: Map<String, Value>) -> Option<(Shape, Shape)> {
    let same: Vec<String> =
        before.iter().filter(|(key, value)| now.get(*key) == Some(value)).map(|(key, _)| key.clone()).collect();
    for key in same {
        before.remove(&key);
        now.remove(&key);
    }
    (!before.is_empty() || !now.is_empty()).then_some((Shape::Document(before), Shape::Document(now)))
}
