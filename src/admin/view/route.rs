//! Shows routes: what they match, where they lead, and whether they can be served.

use serde::Serialize;
use serde_json::{Map, Value};

use super::List;
use crate::snapshot::contest::Contest;
use crate::snapshot::{Route, RouteHealth, RouteJudge, Snapshot};
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
    pub state: RouteHealth,
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

/// All routes, by name.
pub fn list(snapshot: &Snapshot) -> List<RouteView> {
    let mut judge = RouteJudge::new(snapshot);
    let items = snapshot.routes.routes().iter();
    let items = items.map(|route| view(route, &mut judge)).collect();
    List { generation: snapshot.generation, items }
}

/// Contests of a route that are shown one by one.
const MAX_CONTESTS: usize = 10;

fn view(route: &Route, judge: &mut RouteJudge<'_>) -> RouteView {
    let (state, mut reasons, counts) = judge.judge(route);
    let contests = judge.contests(&route.name);
    let told = |contest: &&Contest| match contest.route == route.name {
        true => contest.of_route(),
        false => contest.of_winner(),
    };
    reasons.extend(contests.iter().take(MAX_CONTESTS).map(told));
    if let Some(more) = contests.len().checked_sub(MAX_CONTESTS).filter(|more| *more > 0) {
        reasons.push(format!("{more} more such conflicts"));
    }
    reasons.extend(judge.snapshot().report.remarks_of(&route.name, route.provider));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
