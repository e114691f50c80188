//! Whether a route can be served: one judgement for lists, the status and explain.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::contest::{Contest, is_shadowed};
use super::{NamedMiddleware, Route, RouteState, Snapshot, Target};
use crate::middleware::Trouble;
use crate::spec::name::Name;

/// Whether a route can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteHealth {
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

impl RouteHealth {
    /// Every state, the best first.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Degraded, Self::Kept, Self::Shadowed, Self::Unresolved];
}

/// Judges the routes of a snapshot. Many routes share an upstream or a middleware, so each is looked at once.
#[derive(Debug)]
pub struct RouteJudge<'s> {
    snapshot: &'s Snapshot,
    contests: HashMap<&'s Name, Vec<&'s Contest>>,
    usable: HashMap<(usize, usize), usize>,
    troubles: HashMap<Arc<str>, Option<Trouble>>,
}

impl<'s> RouteJudge<'s> {
    /// A judge of the routes of this snapshot.
    pub fn new(snapshot: &'s Snapshot) -> Self {
        let mut contests: HashMap<&Name, Vec<&Contest>> = HashMap::new();
        for contest in &snapshot.report.contests {
            contests.entry(&contest.route).or_default().push(contest);
            contests.entry(&contest.by).or_default().push(contest);
        }
        Self { snapshot, contests, usable: HashMap::new(), troubles: HashMap::new() }
    }

    /// Whose routes are judged.
    pub fn snapshot(&self) -> &'s Snapshot {
        self.snapshot
    }

    /// The conflicts of a route with others, won and lost.
    pub fn contests(&self, route: &Name) -> &[&'s Contest] {
        self.contests.get(route).map_or(&[], Vec::as_slice)
    }

    /// The state of a route, why (its conflicts aside), and the usable endpoints of each target.
    pub fn judge(&mut self, route: &Route) -> (RouteHealth, Vec<String>, Vec<usize>) {
        let (state, reasons, counts) = self.judge_alone(route);
        let hosts = route.spec.matching.hosts.len();
        match state != RouteHealth::Unresolved && is_shadowed(self.contests(&route.name), &route.name, hosts) {
            true => (RouteHealth::Shadowed, reasons, counts),
            false => (state, reasons, counts),
        }
    }

    fn judge_alone(&mut self, route: &Route) -> (RouteHealth, Vec<String>, Vec<usize>) {
        if let RouteState::Unresolved(reasons) = &route.state {
            return (RouteHealth::Unresolved, reasons.clone(), vec![0; route.targets.len()]);
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
            RouteHealth::Unresolved
        } else if let RouteState::Kept(faults) = &route.state {
            let served = faults.iter().map(|fault| format!("{fault}; its last form that resolved is served"));
            reasons.splice(0..0, served);
            RouteHealth::Kept
        } else if reasons.is_empty() {
            RouteHealth::Ok
        } else {
            RouteHealth::Degraded
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
        *self.usable.entry((target.slot, target.subset)).or_insert_with(count)
    }
}
