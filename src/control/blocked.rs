//! What is blocked because its last good form is not known: what of it keeps the gateway closed at a start, and what an
//! operator accepted to be served without. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::overlay::{Accepted, Overlay};
use crate::discovery::state::ProviderState;
use crate::snapshot::report::Hold;
use crate::spec::document::{Documents, Item, Kind, Unreadable};
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;

/// Something that may have had a good form which is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockedPart {
    pub(super) provider: ProviderId,
    /// How it is accepted.
    pub(super) what: Accepted,
    /// Where it lies, and what is wrong with it.
    pub(super) problem: Problem,
}

/// All that has no known good form: what is blocked, and what an operator accepted to be served without.
pub(super) fn parts(
    states: &BTreeMap<ProviderId, Arc<ProviderState>>,
    overlay: &Overlay,
) -> (Vec<BlockedPart>, Vec<BlockedPart>) {
    let parts = states.iter().flat_map(|(provider, state)| blocked_of(*provider, state));
    parts.partition(|part| !overlay.is_accepted(part.provider, &part.what))
}

fn blocked_of(provider: ProviderId, state: &ProviderState) -> Vec<BlockedPart> {
    let Some(documents) = &state.documents else { return Vec::new() };
    let mut parts = Vec::new();
    for entry in documents.entries() {
        let Some(text) = entry.blocks else { continue };
        let what = Accepted::Item(entry.kind, entry.name.clone(), text.clone());
        let problem = entry.problems.first().cloned();
        let problem = problem.unwrap_or_else(|| Problem::new(&**entry.place, "", "its last text was wrong"));
        parts.push(BlockedPart { provider, what, problem });
    }
    parts.extend(documents.unreadable.iter().map(|Unreadable { problem, text }| {
        let what = Accepted::File(problem.place.clone(), text.clone());
        BlockedPart { provider, what, problem: problem.clone() }
    }));
    parts
}

/// What answers 503 in place of routes that a blocked one keeps from having its name: where that one is known never to
/// have had a good form, they are served.
pub(super) fn hidden(
    documents: &[(ProviderId, &Documents)],
    overlay: &Overlay,
) -> Vec<(Name, ProviderId, Arc<RouteSpec>)> {
    let mut hidden: Vec<(Name, ProviderId, Arc<RouteSpec>)> = Vec::new();
    // The blocked routes that have their names so far, with what stands in for them.
    let mut blocked_names: BTreeMap<&Name, Option<&Arc<RouteSpec>>> = BTreeMap::new();
    let mut good_names: BTreeSet<&Name> = BTreeSet::new();
    for (provider, documents) in documents {
        for (name, item) in &documents.routes {
            if good_names.contains(name) || is_accepted(*provider, Kind::Route, name, item, overlay) {
                continue;
            }
            let first = blocked_names.get(name).copied();
            let own = match (&item.good, &item.blocked) {
                (Some(good), _) => Some(Arc::new(good.blocking())),
                (None, Some(blocked)) => blocked.stand_in.clone(),
                (None, None) => continue,
            };
            let of_item = own.filter(|_| first.is_some());
            let of_others = item.blocked.iter().flat_map(|blocked| blocked.hides.iter().flatten().cloned());
            let of_others = of_others.filter(|_| item.good.is_none());
            let stand_in = first.flatten().or(item.blocked.as_ref().and_then(|blocked| blocked.stand_in.as_ref()));
            for spec in of_item.into_iter().chain(of_others) {
                let is_told =
                    stand_in == Some(&spec) || hidden.iter().any(|(of, _, other)| of == name && *other == spec);
                if !is_told {
                    hidden.push((name.clone(), *provider, spec));
                }
            }
            if item.good.is_some() {
                good_names.insert(name);
            } else if let Some(blocked) = &item.blocked {
                blocked_names.entry(name).or_insert(blocked.stand_in.as_ref());
            }
        }
    }
    hidden
}

/// What keeps a gateway closed that starts: routes of which not even the match is known, and files that may define some.
/// Registrations close no gateway. `documents` come in the order of their precedence.
pub(super) fn closing(documents: &[(ProviderId, &Documents)], overlay: &Overlay) -> Vec<(ProviderId, Problem)> {
    let mut closing = Vec::new();
    let mut taken: BTreeSet<&Name> = BTreeSet::new();
    for (provider, documents) in documents.iter().filter(|(provider, _)| *provider != ProviderId::ConsulTags) {
        for (name, item) in &documents.routes {
            let is_known = match (&item.good, &item.blocked) {
                (Some(_), _) => {
                    taken.insert(name);
                    true
                }
                (None, Some(_)) if is_accepted(*provider, Kind::Route, name, item, overlay) => continue,
                (None, Some(blocked)) => blocked.stand_in.is_some() && blocked.hides.iter().all(Option::is_some),
                (None, None) => continue,
            };
            // What goes before it is blocked itself may not have been served, and this one in its place.
            if !is_known && !taken.contains(name) {
                let why = item.problems.first().map_or("its last text was wrong", |problem| &problem.text);
                let text = format!(
                    "{why}: what it matches is not known; mend or delete it, or `fleetgate accept routes/{name}` serves \
                     the rest without it"
                );
                let place = item.problems.first().map_or(&*item.place, |problem| &problem.place);
                closing.push((*provider, Problem::new(place, format!("routes.{name}"), text)));
            }
        }
        for Unreadable { problem: Problem { place, key, text }, text: id } in &documents.unreadable {
            if overlay.is_accepted(*provider, &Accepted::File(place.clone(), id.clone())) {
                continue;
            }
            let text =
                format!("{text}; mend or delete it, or `fleetgate accept file:{place}` serves the rest without it");
            closing.push((*provider, Problem::new(place.as_str(), key.as_str(), text)));
        }
    }
    closing
}

/// Whether an item that has no good form is accepted to be served without.
pub(super) fn is_accepted<T>(provider: ProviderId, kind: Kind, name: &Name, item: &Item<T>, overlay: &Overlay) -> bool {
    let blocked = item.blocked.as_ref().filter(|_| item.good.is_none());
    blocked
        .is_some_and(|blocked| overlay.is_accepted(provider, &Accepted::Item(kind, name.clone(), blocked.text.clone())))
}

/// Tells that something is served without, because an operator accepted that.
pub(super) fn remark(accepted: BlockedPart) -> Problem {
    let key = match &accepted.what {
        Accepted::Item(kind, name, _) => format!("{}.{name}", kind.as_str()),
        Accepted::File(..) => String::new(),
    };
    let text = "an operator accepted that it is served without, until its text changes";
    Problem::new(accepted.problem.place, key, text)
}

/// What an operator accepts by a hold that blocks; `None`: it holds, and blocks nothing.
pub(super) fn accepted(hold: &Hold) -> Option<Accepted> {
    let text = hold.blocks.clone()?;
    Some(match &hold.item {
        Some((kind, name)) => Accepted::Item(*kind, name.clone(), text),
        None => Accepted::File(hold.place.clone(), text),
    })
}

/// The overlay without what was accepted of items and files that have a good form again, or are gone; `None`: it is so.
pub(super) fn forget_mended(overlay: &Overlay, states: &BTreeMap<ProviderId, Arc<ProviderState>>) -> Option<Overlay> {
    overlay.without_needless(|provider, what| {
        let Some(state) = states.get(&provider) else { return true };
        let is_read = state.documents.is_some() && state.kept.saved_documents.is_none();
        !is_read || blocked_of(provider, state).iter().any(|part| part.what == *what)
    })
}

#[cfg(test)]
mod tests;
