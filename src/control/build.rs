//! Defines how the next snapshot is made of what was merged and of the one before. Pure: equal input gives the same
//! objects, and an endpoint or upstream that was there before keeps its state whatever else changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::claims;
use super::grace::Grace;
use super::merge::{Affected, Merged, MergedRoute, MergedUpstream, absent};
use super::prohibitions::{LocalAddresses, Prohibitions, remarks as remarks_on_prohibited};
use crate::middleware::fleet::Fleet;
use crate::snapshot::certificate::Certificates;
use crate::snapshot::target::seed;
use crate::snapshot::{
    Affinity, Consumers, Endpoint, EndpointState, Middlewares, NamedMiddleware, Route, RouteState, RouteTable,
    Snapshot, Target, Upstream,
};
use crate::spec::breaker::Fallback;
use crate::spec::document::Kind;
use crate::spec::endpoint::{Address, EndpointSpec, Labels, Penalty};
use crate::spec::name::{ItemRef, Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::route::{Choice, TargetSpec};
use crate::spec::source::Source;
use crate::spec::upstream::{Priorities, UpstreamSource, UpstreamSpec};

/// Makes snapshots, and remembers of what it made the last one.
#[derive(Debug)]
pub(super) struct Builder {
    slots: BTreeMap<Arc<str>, usize>,
    inputs: BTreeMap<Arc<str>, Input>,
    resolution: Resolution,
    grace: Grace,
    /// Where this gateway is.
    own: Labels,
    fleet: Arc<Fleet>,
    prohibitions: Prohibitions,
    local: LocalAddresses,
}

/// What an upstream was made of; compared by pointer where that is exact.
#[derive(Debug)]
struct Input {
    spec: Arc<UpstreamSpec>,
    endpoints: Arc<[EndpointSpec]>,
    positions: BTreeMap<Address, u16>,
    resolved: BTreeMap<Arc<str>, Arc<[EndpointSpec]>>,
    held: bool,
    kept: Option<Arc<BTreeSet<Address>>>,
    penalties: Option<Arc<BTreeMap<Address, Penalty>>>,
    known: bool,
    drained: Arc<BTreeSet<SocketAddr>>,
    remarks: Vec<Problem>,
}

/// All that routes are resolved by: upstreams by label with their provider, slot and subsets' names. Equal for two
/// snapshots, their routes are resolved alike.
type Resolution = BTreeMap<Arc<str>, (ProviderId, usize, Vec<Name>)>;

impl Builder {
    pub(super) fn new(now: Instant) -> Self {
        let (slots, inputs, resolution, own, fleet, prohibitions, local) = Default::default();
        Self { slots, inputs, resolution, grace: Grace::new(now), own, fleet, prohibitions, local }
    }

    /// For a gateway with these labels.
    pub(super) fn labelled(self, own: Labels) -> Self {
        Self { own, ..self }
    }

    /// For a gateway of this fleet.
    pub(super) fn of(self, fleet: Arc<Fleet>) -> Self {
        Self { fleet, ..self }
    }

    /// For a gateway whose endpoints must not have these addresses.
    pub(super) fn prohibiting(self, prohibitions: Prohibitions) -> Self {
        Self { prohibitions, ..self }
    }

    /// When to build again though nothing changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.grace.ends_at()
    }

    /// The next snapshot; `None` when it would not differ. `before` is the one this made last, of a merge that
    /// differs in what is `affected`.
    pub(super) fn build(
        &mut self,
        merged: &Merged,
        affected: &Affected,
        before: &Snapshot,
        now: Instant,
    ) -> Option<Snapshot> {
        let waited = self.grace.ends_at().is_some();
        self.grace.begin(now);
        self.local.forget();
        let (upstreams, middlewares, routes) = match affected {
            // Who waits may wait no more though nothing else changed.
            Affected::Upstreams(labels) if !waited => {
                let upstreams = self.upstreams_of(labels, merged, before);
                (upstreams, Arc::clone(&before.middlewares), Arc::clone(&before.routes))
            }
            Affected::All | Affected::Upstreams(_) => {
                self.assign_slots(merged);
                let upstreams = self.upstreams(merged, before);
                let middlewares = middlewares::next(merged, &self.fleet, &before.middlewares);
                let routes = self.routes(merged, before, &upstreams, &middlewares);
                (upstreams, middlewares, routes)
            }
        };
        let certificates = Certificates::next(&merged.certificates, &before.certificates);
        let consumers = Consumers::next(&merged.consumers, &before.consumers);
        let mut report = merged.report.clone();
        report.diagnostics.extend(claims::diagnostics(&merged.report.contests));
        if before.generation > 0 && !before.is_closed() {
            // Once open, a gateway closes no more.
            report.closing.clear();
        }
        report.remarks.extend(certificates.remarks(SystemTime::now()));
        report.remarks.extend(consumers.remarks());
        report.remarks.extend(self.inputs.values().flat_map(|input| input.remarks.iter().cloned()));
        let report = if report == *before.report { Arc::clone(&before.report) } else { Arc::new(report) };

        let same_upstreams = upstreams.len() == before.upstreams.len()
            && upstreams.iter().zip(before.upstreams.iter()).all(|pair| match pair {
                (Some(next), Some(before)) => Arc::ptr_eq(next, before),
                (None, None) => true,
                _ => false,
            });
        let same = same_upstreams
            && Arc::ptr_eq(&routes, &before.routes)
            && Arc::ptr_eq(&middlewares, &before.middlewares)
            && Arc::ptr_eq(&certificates, &before.certificates)
            && Arc::ptr_eq(&consumers, &before.consumers)
            && Arc::ptr_eq(&report, &before.report)
            && before.generation > 0;
        if same {
            return None;
        }
        let upstreams = if same_upstreams { Arc::clone(&before.upstreams) } else { upstreams.into() };
        let (generation, published_at) = (before.generation + 1, SystemTime::now());
        Some(Snapshot { generation, published_at, routes, upstreams, middlewares, certificates, consumers, report })
    }

    /// A slot is its upstream's for as long as that exists; then the lowest free one is taken again.
    fn assign_slots(&mut self, merged: &Merged) {
        self.slots.retain(|label, _| merged.upstreams.contains_key(label));
        self.inputs.retain(|label, _| merged.upstreams.contains_key(label));
        let mut taken: Vec<bool> = Vec::new();
        for &slot in self.slots.values() {
            if taken.len() <= slot {
                taken.resize(slot + 1, false);
            }
            taken[slot] = true;
        }
        let mut next = 0;
        for label in merged.upstreams.keys() {
            if !self.slots.contains_key(label) {
                while taken.get(next).copied().unwrap_or(false) {
                    next += 1;
                }
                self.slots.insert(Arc::clone(label), next);
                next += 1;
            }
        }
    }

    fn upstreams(&mut self, merged: &Merged, before: &Snapshot) -> Vec<Option<Arc<Upstream>>> {
        let known: HashMap<&str, &Arc<Upstream>> =
            before.upstreams().map(|upstream| (&*upstream.label, upstream)).collect();
        let size = self.slots.values().max().map_or(0, |slot| slot + 1);
        let mut upstreams = vec![None; size];
        for (label, upstream) in &merged.upstreams {
            let before = known.get(&**label).copied();
            let fallback = self.fallback(upstream, merged);
            upstreams[self.slots[label]] = Some(self.upstream(label, upstream, before, fallback));
        }
        upstreams
    }

    /// As they were, but for some.
    fn upstreams_of(
        &mut self,
        labels: &BTreeSet<Arc<str>>,
        merged: &Merged,
        before: &Snapshot,
    ) -> Vec<Option<Arc<Upstream>>> {
        let mut upstreams = before.upstreams.to_vec();
        for label in labels {
            if let (Some(slot), Some(upstream)) = (self.slots.get(label).copied(), merged.upstreams.get(label)) {
                let fallback = self.fallback(upstream, merged);
                upstreams[slot] = Some(self.upstream(label, upstream, before.upstream(slot), fallback));
            }
        }
        upstreams
    }

    /// The slot of the upstream that another falls back to; `None` too where there is none of that name.
    fn fallback(&self, upstream: &MergedUpstream, merged: &Merged) -> Option<usize> {
        let breaker = upstream.spec.settings.breaker.as_ref();
        let Some(Fallback::Upstream(reference)) = breaker.and_then(|breaker| breaker.fallback.as_ref()) else {
            return None;
        };
        merged.label(reference).map(|label| self.slots[label])
    }

    fn upstream(
        &mut self,
        label: &Arc<str>,
        merged: &MergedUpstream,
        before: Option<&Arc<Upstream>>,
        fallback: Option<usize>,
    ) -> Arc<Upstream> {
        if let (Some(before), Some(input)) = (before, self.inputs.get(label))
            && input.is(merged)
            && before.provider == merged.provider
            && before.fallback == fallback
            && !self.grace.waited(Kind::Upstream, label)
        {
            return Arc::clone(before);
        }
        let states: HashMap<SocketAddr, &Arc<EndpointState>> = before
            .map(|before| before.endpoints.iter().map(|endpoint| (endpoint.address, &endpoint.state)).collect())
            .unwrap_or_default();
        let (folded, mut remarks) = fold(merged);
        if merged.spec.settings.tls.as_ref().is_some_and(|tls| !tls.verifies()) {
            let text = "endpoints are not verified: whoever is on the way can read and change everything; give `ca`";
            let key = format!("upstreams.{}.tls.insecure_skip_verify", merged.name);
            remarks.push(Problem::new(merged.provider.to_string(), key, text));
        }
        if merged.known {
            let gone = merged.drained.iter().filter(|address| !folded.contains_key(address));
            remarks.extend(gone.map(|address| absent(label, *address)));
        }
        if let Priorities::Nearest(names) = &merged.spec.settings.priorities
            && let Some(unknown) = names.iter().find(|name| !self.own.contains_key(*name))
        {
            remarks.push(Problem::new(
                "configuration",
                format!("upstreams.{label}.nearest"),
                format!(
                    "this gateway has no label `{unknown}`: set it in `runtime.labels`, or no endpoint is near by it"
                ),
            ));
        }
        let mut endpoints: Vec<Endpoint> = folded
            .into_iter()
            .map(|(address, spec)| Endpoint {
                address,
                host: match &spec.address {
                    Address::Ip(_) => None,
                    Address::Name { host, .. } => Some(Arc::clone(host)),
                },
                weight: spec.weight,
                labels: Arc::clone(&spec.labels),
                status: spec.status,
                held: merged.held && merged.kept.as_ref().is_none_or(|kept| kept.contains(&spec.address)),
                drained: merged.drained.contains(&address),
                prohibited: self.prohibitions.judge(address, merged.provider, &merged.spec.settings, &mut self.local),
                penalty: merged.penalties.as_ref().and_then(|all| all.get(&spec.address).cloned()),
                priority: self.priority(&merged.spec, &spec.labels, merged.positions.get(&spec.address).copied()),
                state: states.get(&address).map_or_else(|| Arc::new(EndpointState::new(address)), |s| Arc::clone(s)),
            })
            .collect();
        let source = merged.sources.first().map_or_else(|| merged.provider.to_string(), ToString::to_string);
        let prohibited = remarks_on_prohibited(&source, label, &endpoints);
        let known = self.inputs.get(label).map_or(&[][..], |input| &input.remarks);
        for remark in prohibited.iter().filter(|remark| !known.contains(remark)) {
            tracing::warn!("{remark}");
        }
        remarks.extend(prohibited);
        self.inputs.insert(Arc::clone(label), Input::of(merged, remarks));

        if !merged.known
            && endpoints.is_empty()
            && let Some(before) = before.filter(|before| !before.endpoints.is_empty())
            && self.grace.lasts(Kind::Upstream, label)
        {
            // Its new source has not answered: those of the former one still serve.
            let drained = |endpoint: &Endpoint| merged.drained.contains(&endpoint.address);
            let stay = before.endpoints.iter();
            endpoints = stay.map(|endpoint| Endpoint { drained: drained(endpoint), ..endpoint.clone() }).collect();
        }
        if let Some(before) = before.filter(|before| !before.endpoints.is_empty()) {
            freshen(before, &endpoints);
        }
        let same_endpoints = before.filter(|before| *before.endpoints == *endpoints);
        let same_settings = before.filter(|before| *before.settings == merged.spec.settings);
        if let (Some(before), Some(_)) = (same_endpoints, same_settings)
            && before.provider == merged.provider
            && before.sources == merged.sources
            && before.known == merged.known
            && before.fallback == fallback
        {
            return Arc::clone(before);
        }
        let made_alike = before.filter(|before| {
            let (before, after) = (&before.settings, &merged.spec.settings);
            same_endpoints.is_some() && Affinity::depends_on_equal(before, after)
        });
        let affinity = made_alike.map_or_else(
            || Arc::new(Affinity::new(&merged.name, &merged.spec.settings, &endpoints)),
            |before| Arc::clone(&before.affinity),
        );
        Arc::new(Upstream {
            name: merged.name.clone(),
            affinity,
            label: Arc::clone(label),
            provider: merged.provider,
            sources: Arc::clone(&merged.sources),
            settings: same_settings
                .map_or_else(|| Arc::new(merged.spec.settings.clone()), |before| Arc::clone(&before.settings)),
            fallback,
            endpoints: same_endpoints.map_or_else(|| endpoints.into(), |before| Arc::clone(&before.endpoints)),
            known: merged.known,
            state: before.map_or_else(Arc::default, |before| Arc::clone(&before.state)),
        })
    }

    /// By the position of its source, then as the settings say; where they are silent, as the source does.
    fn priority(&self, spec: &UpstreamSpec, labels: &Labels, position: Option<u16>) -> u16 {
        let told = || labels.get(Source::PRIORITY).and_then(|priority| priority.parse().ok()).unwrap_or(0);
        let (levels, level) = match (&spec.settings.priorities, &spec.source) {
            (Priorities::None, UpstreamSource::Dns(_)) => (1, told()),
            (Priorities::None, UpstreamSource::Consul(services)) if services[0].near.is_some() => (2, told()),
            (priorities, _) => (priorities.levels(), priorities.level(labels, &self.own)),
        };
        position.unwrap_or(0).saturating_mul(levels).saturating_add(level)
    }

    fn routes(
        &mut self,
        merged: &Merged,
        before: &Snapshot,
        upstreams: &[Option<Arc<Upstream>>],
        middlewares: &Arc<Middlewares>,
    ) -> Arc<RouteTable> {
        let resolution: Resolution = merged
            .upstreams
            .iter()
            .map(|(label, upstream)| {
                let subsets = upstream.spec.settings.subsets.keys().cloned().collect();
                (Arc::clone(label), (upstream.provider, self.slots[label], subsets))
            })
            .collect();
        let same_resolution = resolution == self.resolution && Arc::ptr_eq(middlewares, &before.middlewares);
        self.resolution = resolution;
        // What stands in for hidden routes has the name of another.
        let mut known: HashMap<&str, Vec<&Arc<Route>>> = HashMap::with_capacity(before.routes.routes().len());
        for route in before.routes.routes() {
            known.entry(&*route.label).or_default().push(route);
        }
        let mut changed = merged.routes.len() != before.routes.routes().len()
            || merged.claims.seniority != before.routes.seniority()
            || merged.report.contests != before.report.contests;
        let mut routes = Vec::with_capacity(merged.routes.len());
        for merged_route in &merged.routes {
            let of_name = known.get(merged_route.name.as_str()).map_or(&[][..], Vec::as_slice);
            let same = of_name.iter().copied().find(|before| {
                before.provider == merged_route.provider
                    && (Arc::ptr_eq(&before.spec, &merged_route.spec) || before.spec == merged_route.spec)
            });
            let before = of_name.first().copied();
            if let Some(same) = same
                && same_resolution
                && same.state == merged_route.state
            {
                routes.push(Arc::clone(same));
                continue;
            }
            let next = self.route(merged_route, merged, middlewares);
            let stays = match (same, before) {
                (Some(same), _) => resolved_alike(same, &next).then_some(same),
                (None, Some(before)) => self.waits(before, &next, merged, upstreams).then_some(before),
                (None, None) => None,
            };
            changed |= stays.is_none();
            routes.push(stays.map_or_else(|| Arc::new(next), Arc::clone));
        }
        if !changed {
            return Arc::clone(&before.routes);
        }
        Arc::new(RouteTable::ordered(routes, merged.claims.seniority.clone(), &merged.report.contests))
    }

    /// Whether a route stays as it was because an upstream that its new form needs has not been read yet.
    fn waits(&mut self, before: &Route, next: &Route, merged: &Merged, upstreams: &[Option<Arc<Upstream>>]) -> bool {
        let unread = |target: &Target| {
            let upstream = upstreams.get(target.slot).and_then(Option::as_ref);
            let needed = matches!(target.spec.choice, Choice::When(_)) || target.weight() > 0;
            needed && upstream.is_some_and(|upstream| !upstream.known && upstream.endpoints.is_empty())
        };
        // Its former form may name what is gone by now.
        let serves = |target: &Target| self.resolve(&target.spec, merged) == Ok((target.slot, target.subset));
        next.state.is_served()
            && before.state.is_served()
            && next.targets.iter().any(unread)
            && before.targets.iter().all(serves)
            && self.grace.lasts(Kind::Route, &next.label)
    }

    fn route(&self, route: &MergedRoute, merged: &Merged, middlewares: &Middlewares) -> Route {
        let label: Arc<str> = route.name.as_str().into();
        let mut broken = route.spec.registered.broken.clone();
        let mut occurrences: HashMap<Arc<str>, u64> = HashMap::new();
        let mut of = |list: &[ItemRef]| {
            middlewares::resolve(list, merged, middlewares).unwrap_or_else(|reasons| {
                broken.extend(reasons);
                Vec::new()
            })
        };
        let of_route = of(&route.spec.middlewares);
        let of_targets: Vec<_> = route.spec.targets.iter().map(|target| of(&target.middlewares)).collect();
        let targets = route.spec.targets.iter().zip(of_targets).map(|(spec, middlewares)| {
            let target_label = spec.label();
            let occurrence = occurrences.entry(Arc::clone(&target_label)).or_default();
            let seed = seed(&label, &target_label, *occurrence);
            *occurrence += 1;
            let (slot, subset) = self.resolve(spec, merged).unwrap_or_else(|reason| {
                broken.push(reason);
                (usize::MAX, 0)
            });
            Target { spec: spec.clone(), label: target_label, slot, subset, seed, middlewares }
        });
        let targets = targets.collect();
        // What resolves was decided before; a route that is not whole all the same is not served.
        let state = match &route.state {
            RouteState::Resolved | RouteState::Kept(_) if !broken.is_empty() => RouteState::Unresolved(broken),
            state => state.clone(),
        };
        Route {
            name: route.name.clone(),
            label,
            provider: route.provider,
            spec: Arc::clone(&route.spec),
            targets,
            middlewares: of_route,
            state,
        }
    }

    fn resolve(&self, target: &TargetSpec, merged: &Merged) -> Result<(usize, usize), String> {
        let reference: &ItemRef = &target.upstream;
        let label = merged.label(reference).ok_or_else(|| format!("there is no upstream `{reference}`"))?;
        let (_, slot, subsets) = &self.resolution[label];
        match &target.subset {
            None => Ok((*slot, 0)),
            Some(name) => match subsets.iter().position(|subset| subset == name) {
                Some(position) => Ok((*slot, position + 1)),
                None => Err(format!("upstream `{reference}` has no subset `{name}`")),
            },
        }
    }
}

/// Tells the endpoints that were not admitted before that they begin.
fn freshen(before: &Upstream, endpoints: &[Endpoint]) {
    let admitted: BTreeSet<SocketAddr> =
        before.endpoints.iter().filter(|endpoint| endpoint.is_admitted()).map(|endpoint| endpoint.address).collect();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.is_admitted() && !admitted.contains(&endpoint.address))
    {
        endpoint.state.freshen();
    }
}

/// Whether two routes of equal specs lead to the same places.
fn resolved_alike(a: &Route, b: &Route) -> bool {
    let places = |route: &Route| -> Vec<(usize, usize)> {
        route.targets.iter().map(|target| (target.slot, target.subset)).collect()
    };
    let lists = |route: &'_ Route| -> Vec<Vec<*const NamedMiddleware>> {
        let of_targets = route.targets.iter().map(|target| &target.middlewares);
        std::iter::once(&route.middlewares)
            .chain(of_targets)
            .map(|list| list.iter().map(Arc::as_ptr).collect())
            .collect()
    };
    a.state == b.state && places(a) == places(b) && lists(a) == lists(b)
}

impl Input {
    fn of(merged: &MergedUpstream, remarks: Vec<Problem>) -> Self {
        Self {
            spec: Arc::clone(&merged.spec),
            endpoints: Arc::clone(&merged.endpoints),
            positions: merged.positions.clone(),
            resolved: merged.resolved.clone(),
            held: merged.held,
            kept: merged.kept.clone(),
            penalties: merged.penalties.clone(),
            known: merged.known,
            drained: Arc::clone(&merged.drained),
            remarks,
        }
    }

    fn is(&self, merged: &MergedUpstream) -> bool {
        Arc::ptr_eq(&self.spec, &merged.spec)
            && Arc::ptr_eq(&self.endpoints, &merged.endpoints)
            && self.positions == merged.positions
            && self.resolved.len() == merged.resolved.len()
            && self
                .resolved
                .iter()
                .all(|(host, known)| merged.resolved.get(host).is_some_and(|other| Arc::ptr_eq(known, other)))
            && self.held == merged.held
            && self.kept == merged.kept
            && self.penalties == merged.penalties
            && self.known == merged.known
            && self.drained == merged.drained
    }
}

/// One endpoint an address: names become their addresses, and of two registrations of one address the newest wins.
fn fold(upstream: &MergedUpstream) -> (BTreeMap<SocketAddr, EndpointSpec>, Vec<Problem>) {
    let mut folded: BTreeMap<SocketAddr, EndpointSpec> = BTreeMap::new();
    let mut duplicates = Vec::new();
    for endpoint in upstream.endpoints.iter() {
        for address in addresses(endpoint, upstream) {
            let Some(known) = folded.get(&address) else {
                folded.insert(address, endpoint.clone());
                continue;
            };
            let newer = (endpoint.modified, &endpoint.id) > (known.modified, &known.id);
            let (winner, loser) = if newer { (endpoint, known) } else { (known, endpoint) };
            duplicates.push(Problem::new(
                upstream.sources.first().map_or_else(|| "configuration".to_owned(), ToString::to_string),
                format!("upstreams.{}", upstream.name),
                format!("{address} is registered twice: `{}` is newer and wins over `{}`", winner.id, loser.id),
            ));
            if newer {
                folded.insert(address, endpoint.clone());
            }
        }
    }
    (folded, duplicates)
}

fn addresses(endpoint: &EndpointSpec, upstream: &MergedUpstream) -> Vec<SocketAddr> {
    match &endpoint.address {
        Address::Ip(address) => vec![*address],
        Address::Name { host, port } => upstream
            .resolved
            .get(host)
            .into_iter()
            .flat_map(|known| known.iter())
            .filter_map(|known| match known.address {
                Address::Ip(address) => Some(SocketAddr::new(address.ip(), *port)),
                Address::Name { .. } => None,
            })
            .collect(),
    }
}

mod middlewares;

#[cfg(test)]
mod tests;
