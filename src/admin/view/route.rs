//! Shows routes: what they match, where they lead, and whether they can be served.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::List;
use crate::middleware::Trouble;
use crate::snapshot::contest::{Contest, is_shadowed};
use crate::snapshot::{NamedMiddleware, Route, RouteState, Snapshot, Target};
use crate::spec::encode;
use crate::spec::name::{Name, ProviderId};

/// A route.
#[derive(Debug, Serialize)]
pub struct RouteView {
    /// Its name.
    pub name: Name,
    /// Who defined it.
    pub provider: ProviderId,
    /// Its conditions, as in a document.
    pub r#match: Value,
    /// Its targets, in the order written.
    pub targets: Vec<TargetView>,
    /// The steps around its exchanges, as in a document.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub middlewares: Vec<String>,
    /// Whether it can be served.
    pub state: State,
    /// Why it is not `ok`, and what else people should know of it.
    pub reasons: Vec<String>,
}

/// A target of a route.
#[derive(Debug, Serialize)]
pub struct TargetView {
    /// As in a document: `upstream`, `subset`, `weight` or `when`.
    #[serde(flatten)]
    pub document: Map<String, Value>,
    /// Endpoints that take its traffic now.
    pub usable: usize,
}

/// Whether a route can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every target that may get traffic has a usable endpoint.
    Ok,
    /// Some have none, or no target has a weight.
    Degraded,
    /// Something its present document names does not exist: its last form that resolved is served.
    Kept,
    /// Others match all that it matches, and go first: it gets no request.
    Shadowed,
    /// Something it names does not exist or cannot be used: 503 `NC`.
    Unresolved,
}

impl State {
    /// Every state, the best first.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Degraded, Self::Kept, Self::Shadowed, Self::Unresolved];
}

/// All routes, by name.
pub fn list(snapshot: &Snapshot) -> List<RouteView> {
    let mut usable = Usable::new(snapshot);
    let mut contests: HashMap<&Name, Vec<&Contest>> = HashMap::new();
    for contest in &snapshot.report.contests {
        contests.entry(&contest.route).or_default().push(contest);
        contests.entry(&contest.by).or_default().push(contest);
    }
    let of = |name: &Name| contests.get(name).map_or(&[][..], Vec::as_slice);
    let items = snapshot.routes.routes().iter();
    let items = items.map(|route| view(route, of(&route.name), &mut usable)).collect();
    List { generation: snapshot.generation, items }
}

/// Contests of a route that are shown one by one.
const MAX_CONTESTS: usize = 10;

fn view(route: &Route, contests: &[&Contest], usable: &mut Usable<'_>) -> RouteView {
    let (mut state, mut reasons, counts) = usable.judge(route);
    if state != State::Unresolved && is_shadowed(contests, &route.name, route.spec.matching.hosts.len()) {
        state = State::Shadowed;
    }
    let told = |contest: &&Contest| match contest.route == route.name {
        true => contest.of_route(),
        false => contest.of_winner(),
    };
    reasons.extend(contests.iter().take(MAX_CONTESTS).map(told));
    if let Some(more) = contests.len().checked_sub(MAX_CONTESTS).filter(|more| *more > 0) {
        reasons.push(format!("{more} more such conflicts"));
    }
    reasons.extend(usable.snapshot.report.remarks_of(&route.name, route.provider));
    reasons.extend(route.spec.registered.remarks.iter().cloned());
    let targets = route.targets.iter().zip(counts);
    RouteView {
        name: route.name.clone(),
        provider: route.provider,
        r#match: encode::matching(&route.spec.matching),
        targets: targets
            .map(|(target, usable)| TargetView { document: encode::target(&target.spec), usable })
            .collect(),
        middlewares: route.spec.middlewares.iter().map(ToString::to_string).collect(),
        state,
        reasons,
    }
}

/// Counts usable endpoints, once for each upstream and subset, and looks at each middleware once: many routes share one.
pub(super) struct Usable<'s> {
    snapshot: &'s Snapshot,
    known: HashMap<(usize, usize), usize>,
    troubles: HashMap<Arc<str>, Option<Trouble>>,
}

impl<'s> Usable<'s> {
    pub(super) fn new(snapshot: &'s Snapshot) -> Self {
        Self { snapshot, known: HashMap::new(), troubles: HashMap::new() }
    }

    /// The state of a route, why, and the usable endpoints of each target.
    pub(super) fn judge(&mut self, route: &Route) -> (State, Vec<String>, Vec<usize>) {
        if let RouteState::Unresolved(reasons) = &route.state {
            return (State::Unresolved, reasons.clone(), vec![0; route.targets.len()]);
        }
        let troubles: Vec<_> =
            route.middlewares.iter().filter_map(|named| Some((named, self.trouble(named)?))).collect();
        let counts: Vec<usize> = route.targets.iter().map(|target| self.count(target)).collect();
        let empty = route.targets.iter().zip(&counts);
        let empty = empty.filter(|(target, count)| **count == 0 && target.may_get_traffic());
        let mut reasons: Vec<String> =
            empty.map(|(target, _)| format!("{} has no usable endpoint", target.label)).collect();
        let unweighted = route.targets.iter().all(|target| target.weight() == 0);
        let conditional = route.targets.iter().any(Target::may_get_traffic);
        if unweighted && !conditional {
            reasons.push("no target has a weight: every request gets 503".to_owned());
        }
        let state = if troubles.iter().any(|(_, trouble)| trouble.refuses) {
            State::Unresolved
        } else if let RouteState::Kept(faults) = &route.state {
            let served = faults.iter().map(|fault| format!("{fault}; its last form that resolved is served"));
            reasons.splice(0..0, served);
            State::Kept
        } else if reasons.is_empty() {
            State::Ok
        } else {
            State::Degraded
        };
        if unweighted && conditional {
            reasons.push("no target has a weight: requests that meet no condition get 503".to_owned());
        }
        reasons.extend(troubles.into_iter().map(|(named, trouble)| format!("`{}`: {}", named.label, trouble.text)));
        (state, reasons, counts)
    }

    fn trouble(&mut self, named: &NamedMiddleware) -> Option<Trouble> {
        let snapshot = self.snapshot;
        self.troubles.entry(Arc::clone(&named.label)).or_insert_with(|| named.trouble(snapshot)).clone()
    }

    fn count(&mut self, target: &Target) -> usize {
        let snapshot = self.snapshot;
        let count = || snapshot.usable(target).map_or(0, |(_, usable)| usable.len());
        *self.known.entry((target.slot, target.subset)).or_insert_with(count)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::sample::{self, Picture};
    use super::*;
    use crate::snapshot::{Health, RouteTable};
    use crate::spec::route::Choice;

    fn shown(snapshot: &Snapshot) -> Value {
        serde_json::to_value(list(snapshot)).expect("JSON")
    }

    #[test]
    fn a_route_is_shown_as_it_is_written() {
        assert_eq!(
            shown(&Picture::default().snapshot()),
            json!({ "generation": 7, "items": [
                {
                    "name": "broken", "provider": "etcd", "match": { "path": "/" },
                    "targets": [{ "upstream": "absent", "weight": 1, "usable": 0 }],
                    "state": "unresolved", "reasons": ["there is no upstream `absent`"]
                },
                {
                    "name": "users", "provider": "file",
                    "match": {
                        "hosts": ["api.example.com", "*.example.org"],
                        "path": "/users",
                        "methods": ["GET", "POST"],
                        "headers": { "x-tenant": { "regex": "^a" } },
                        "query": { "debug": { "present": true } }
                    },
                    "targets": [
                        { "upstream": "users", "subset": "canary", "when": { "headers": { "x-canary": "always" } }, "usable": 1 },
                        { "upstream": "users", "weight": 95, "usable": 2 }
                    ],
                    "state": "ok", "reasons": []
                }
            ] })
        );
    }

    #[test]
    fn a_target_without_a_usable_endpoint_degrades_its_route() {
        let snapshot = Picture { checked: true, ..Picture::default() }.snapshot();
        let upstream = snapshot.upstreams().next().expect("an upstream");
        upstream.endpoints[0].state.set_health(Health::Healthy);
        upstream.endpoints[1].state.set_health(Health::Unhealthy);
        let item = &shown(&snapshot)["items"][1];
        assert_eq!(item["state"], "degraded");
        assert_eq!(item["reasons"], json!(["users/canary has no usable endpoint"]));
        assert_eq!((&item["targets"][0]["usable"], &item["targets"][1]["usable"]), (&json!(0), &json!(1)));
    }

    #[test]
    fn a_route_without_a_weight_is_not_ok() {
        for (when, state, reason) in [
            (false, "degraded", "no target has a weight: every request gets 503"),
            (true, "ok", "no target has a weight: requests that meet no condition get 503"),
        ] {
            let mut route = sample::users_route();
            route.targets[1].spec.choice = Choice::Weight(0);
            route.targets.retain(|target| when || target.weight() == 0 && !target.may_get_traffic());
            let routes = Arc::new(RouteTable::new(vec![Arc::new(route)]));
            let snapshot = Snapshot { routes, ..Picture::default().snapshot() };
            let item = &shown(&snapshot)["items"][0];
            assert_eq!((&item["state"], &item["reasons"]), (&json!(state), &json!([reason])));
        }
    }
}
