//! Defines how the next snapshot's middlewares are made: one whose document says the same is the same object.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::merge::Merged;
use crate::middleware::fleet::Fleet;
use crate::middleware::{self, Surroundings};
use crate::snapshot::middleware::{Step, conflicts};
use crate::snapshot::{Middlewares, NamedMiddleware};
use crate::spec::name::ItemRef;

/// Those that documents define, and the lists of listeners. The same object when nothing differs.
pub(super) fn next(merged: &Merged, fleet: &Arc<Fleet>, before: &Arc<Middlewares>) -> Arc<Middlewares> {
    let mut all = BTreeMap::new();
    for (label, now) in &merged.middlewares {
        let known = before.all.get(label);
        let same = known.filter(|known| known.provider == now.provider && known.spec == now.spec);
        let next = same.map_or_else(
            || {
                Arc::new(NamedMiddleware {
                    label: Arc::clone(label),
                    provider: now.provider,
                    spec: Arc::clone(&now.spec),
                    middleware: middleware::build(
                        &now.spec,
                        &Surroundings { label, fleet, before: known.map(|known| &*known.middleware) },
                    ),
                })
            },
            Arc::clone,
        );
        all.insert(Arc::clone(label), next);
    }
    let mut next = Middlewares { all, listeners: BTreeMap::new() };
    next.listeners = merged.listeners.iter().map(|(name, list)| (name.clone(), resolve(list, merged, &next))).collect();
    if is_same(&next, before) { Arc::clone(before) } else { Arc::new(next) }
}

/// The middlewares of a list.
///
/// # Errors
/// Why the list cannot be served: what is not there, and what excludes each other.
pub(super) fn resolve(
    list: &[ItemRef],
    merged: &Merged,
    middlewares: &Middlewares,
) -> Result<Vec<Arc<NamedMiddleware>>, Vec<String>> {
    let (mut found, mut reasons) = (Vec::with_capacity(list.len()), Vec::new());
    for reference in list {
        match merged.middleware(reference).and_then(|(label, _)| middlewares.all.get(label)) {
            Some(named) => found.push(Arc::clone(named)),
            None => reasons.push(format!("there is no middleware `{reference}`")),
        }
    }
    let steps: Vec<_> = found.iter().map(|named| Step { label: Arc::clone(&named.label), spec: &named.spec }).collect();
    reasons.extend(conflicts(&steps));
    if reasons.is_empty() { Ok(found) } else { Err(reasons) }
}

fn is_same(next: &Middlewares, before: &Middlewares) -> bool {
    let same = |(one, other): (&Arc<NamedMiddleware>, &Arc<NamedMiddleware>)| Arc::ptr_eq(one, other);
    let same_list = |one: &Result<Vec<_>, Vec<String>>, other: &Result<Vec<_>, Vec<String>>| match (one, other) {
        (Ok(one), Ok(other)) => one.len() == other.len() && one.iter().zip(other).all(same),
        (Err(one), Err(other)) => one == other,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    };
    next.all.len() == before.all.len()
        && next.all.values().zip(before.all.values()).all(same)
        && next.listeners.len() == before.listeners.len()
        && next.listeners.values().zip(before.listeners.values()).all(|(one, other)| same_list(one, other))
}
