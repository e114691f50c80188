//! Where a route is served that names listeners which do not exist: any other one may be meant.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::spec::name::Name;
use crate::spec::route::RouteSpec;

/// The listeners that it names and that do not exist.
pub(super) fn faults(spec: &RouteSpec, names: &BTreeSet<Name>) -> impl Iterator<Item = String> {
    spec.listeners.iter().filter(|name| !names.contains(*name)).map(|name| format!("there is no listener `{name}`"))
}

/// It on those of its listeners that exist, and what answers 503 in its place on the others, if there are any. `None`:
/// none of its listeners exists.
pub(super) fn split(spec: &RouteSpec, names: &BTreeSet<Name>) -> Option<(RouteSpec, Option<RouteSpec>)> {
    let (own, others): (Vec<&Name>, Vec<&Name>) = names.iter().partition(|name| spec.listeners.contains(name));
    if own.is_empty() {
        return None;
    }
    let served = RouteSpec { listeners: own.into_iter().cloned().collect(), ..spec.clone() };
    let others: Vec<Name> = others.into_iter().cloned().collect();
    let blocked = (!others.is_empty()).then(|| RouteSpec::blocked(spec.matching.clone(), spec.priority, others));
    Some((served, blocked))
}

/// What answers 503 in place of a route that cannot be served: on every listener, where it names one that does not exist.
pub(in crate::control) fn widened(spec: Arc<RouteSpec>, names: &BTreeSet<Name>) -> Arc<RouteSpec> {
    let is_known = faults(&spec, names).next().is_none();
    if is_known { spec } else { Arc::new(RouteSpec { listeners: Vec::new(), ..RouteSpec::clone(&spec) }) }
}
