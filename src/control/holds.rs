//! The list of everything an operator may accept: what it is called, what accepting it takes away, and why it may be
//! refused. Pure.
//!
//! A hold has three possible keepers: a watch that does not trust a read ([`ProviderState::holds`]), the guard that
//! does not trust a registry ([`Kept`](crate::discovery::state::Kept)), and the file provider. One part that two of
//! them keep is one hold, and accepting it releases it at both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::blocked::BlockedPart;
use super::merge::{Merged, MergedUpstream};
use super::overlay::Accepted;
use crate::discovery::state::{Origin, ProviderState};
use crate::snapshot::report::Hold;
use crate::spec::document::Kind;
use crate::spec::hold::{Held, HeldPart};
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::source::Source;

/// Routes and upstreams that an effect names; more are counted.
const MAX_NAMED: usize = 5;

/// All holds, by provider and id.
pub(super) fn list(states: &BTreeMap<ProviderId, Arc<ProviderState>>, merged: &Merged) -> Vec<Hold> {
    let mut holds = Vec::new();
    for (provider, state) in states {
        for source in held_sources(state) {
            holds.push(of_source(*provider, state, source, merged));
        }
        holds.extend(of_documents(*provider, state, merged));
        for (part, held) in &state.holds {
            if let HeldPart::File(path) = part {
                holds.push(of_file(*provider, path, held));
            }
        }
    }
    for blocked in &merged.blocked {
        let hold = of_blocked(blocked, merged);
        // What is held is let go of as one, whatever its text is.
        let is_held = |held: &Hold| held.provider == hold.provider && held.item.is_some() && held.item == hold.item;
        if !holds.iter().any(is_held) {
            holds.push(hold);
        }
    }
    tell_apart(&mut holds);
    name_effects(&mut holds, merged);
    holds
}

/// A hold in one line, for `status`.
pub(super) fn problem(hold: &Hold, of: Option<usize>) -> Problem {
    let Hold { id, why, refused, .. } = hold;
    let what = match (&hold.part, of) {
        _ if hold.blocks.is_some() => {
            format!("its last good form is not known, and what it may have served is blocked: {why}")
        }
        (HeldPart::Endpoints(_), Some(of)) => format!("{} of {of} endpoints are held: {why}", hold.lost.len()),
        (HeldPart::Endpoints(_), None) => format!("endpoints are held: {why}"),
        (HeldPart::Document(_), _) => match &hold.item {
            Some((kind, name)) => format!("{}.{name} is held: {why}", kind.as_str()),
            None => format!("a document is held: {why}"),
        },
        (HeldPart::File(_), _) => format!("{} are held: {why}", listed(&hold.lost)),
    };
    let end = match refused {
        Some(right) if why.contains(right.as_str()) => String::new(),
        Some(right) => format!("; it stays until that is mended: {right}"),
        None => format!("; `fleetgate accept {id}` shows what would be lost, and asks"),
    };
    Problem::new(hold.place.clone(), "", format!("{what}{end}"))
}

/// `routes/a, routes/b and 3 more`
fn listed(lost: &[String]) -> String {
    let names = lost.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match lost.len().saturating_sub(MAX_NAMED) {
        0 if names.is_empty() => "its settings".to_owned(),
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

fn held_sources(state: &ProviderState) -> BTreeSet<&Source> {
    let by_watch = state.sources.iter().filter(|(_, known)| known.origin == Origin::Held).map(|(source, _)| source);
    by_watch.chain(state.kept.addresses.keys()).collect()
}

fn of_source(provider: ProviderId, state: &ProviderState, source: &Source, merged: &Merged) -> Hold {
    let part = HeldPart::Endpoints(source.clone());
    let watch = state.holds.get(&part);
    let guard = state.kept.addresses.get(source);
    let mut lost: BTreeSet<String> = watch.map(|held| held.lost.iter().cloned().collect()).unwrap_or_default();
    lost.extend(guard.iter().flat_map(|addresses| addresses.iter().map(ToString::to_string)));
    let why = match (guard, watch) {
        (Some(_), _) => not_believed(state),
        (None, Some(held)) => held.why.to_string(),
        (None, None) => "a second read has not confirmed the loss yet".to_owned(),
    };
    let mut names = merged
        .upstreams
        .iter()
        .filter(|(_, upstream)| upstream.sources.contains(source))
        .map(|(label, _)| format!("upstreams/{label}"));
    let id = names.next().unwrap_or_else(|| source.to_string());
    let right = watch.and_then(|held| held.missing_right.as_ref()).or_else(|| state.missing_right(Some(source)));
    Hold {
        id,
        also: names.collect(),
        provider,
        place: source.to_string(),
        why,
        lost: lost.into_iter().collect(),
        effects: Vec::new(),
        refused: right.map(ToString::to_string),
        part,
        item: None,
        blocks: None,
    }
}

fn of_documents(provider: ProviderId, state: &ProviderState, merged: &Merged) -> Vec<Hold> {
    let Some(documents) = &state.documents else { return Vec::new() };
    let mut items: BTreeMap<Arc<str>, Option<(Kind, Name)>> = BTreeMap::new();
    for (kind, name) in &state.kept.documents {
        let place = documents.place(*kind, name.as_str());
        let key = place.map_or_else(|| format!("{}/{name}", kind.as_str()).into(), |place| key_of(provider, place));
        items.insert(key, Some((*kind, name.clone())));
    }
    let keys = state.holds.keys().filter_map(|part| match part {
        HeldPart::Document(key) => Some(key),
        HeldPart::Endpoints(_) | HeldPart::File(_) => None,
    });
    for key in keys.filter(|key| !items.contains_key(*key)).cloned().collect::<Vec<_>>() {
        let entry = documents.entries().find(|entry| key_of(provider, entry.place) == key);
        items.insert(key, entry.map(|entry| (entry.kind, entry.name.clone())));
    }
    let hold = |(key, item): (Arc<str>, Option<(Kind, Name)>)| {
        let part = HeldPart::Document(Arc::clone(&key));
        let watch = state.holds.get(&part);
        let by_guard = item.as_ref().is_some_and(|item| state.kept.documents.contains(item));
        let why = match watch {
            Some(held) if !by_guard => held.why.to_string(),
            Some(_) | None => not_believed(state),
        };
        let right = watch.and_then(|held| held.missing_right.as_ref()).or_else(|| state.missing_right(None));
        let name = item.as_ref().map(|(kind, name)| format!("{}/{name}", kind.as_str()));
        Hold {
            id: name.clone().unwrap_or_else(|| key.to_string()),
            also: Vec::new(),
            provider,
            place: format!("{provider}:{key}"),
            why,
            lost: vec![name.unwrap_or_else(|| key.to_string())],
            effects: item.iter().flat_map(|(kind, name)| effects_of_document(*kind, name, merged)).collect(),
            refused: right.map(ToString::to_string),
            part,
            item,
            blocks: None,
        }
    };
    items.into_iter().map(hold).collect()
}

fn of_file(provider: ProviderId, path: &Arc<str>, held: &Held) -> Hold {
    Hold {
        id: format!("{provider}:{path}"),
        also: Vec::new(),
        provider,
        place: path.to_string(),
        why: held.why.to_string(),
        lost: held.lost.clone(),
        effects: Vec::new(),
        refused: held.missing_right.as_ref().map(ToString::to_string),
        part: HeldPart::File(Arc::clone(path)),
        item: None,
        blocks: None,
    }
}

/// What is accepted to be served without.
fn of_blocked(blocked: &BlockedPart, merged: &Merged) -> Hold {
    let BlockedPart { provider, what, problem } = blocked;
    let (id, part, item, effects, text) = match what {
        Accepted::Item(kind, name, text) => {
            let part = HeldPart::Document(problem.place.as_str().into());
            let effects = effects_of_document(*kind, name, merged).into_iter().collect();
            (format!("{}/{name}", kind.as_str()), part, Some((*kind, name.clone())), effects, text)
        }
        Accepted::File(path, text) => {
            let effects = vec!["requests of the routes in it would meet other routes, or 404".to_owned()];
            (format!("{provider}:{path}"), HeldPart::File(path.as_str().into()), None, effects, text)
        }
    };
    Hold {
        also: Vec::new(),
        provider: *provider,
        place: problem.place.clone(),
        why: problem.text.clone(),
        lost: vec![id.clone()],
        id,
        effects,
        refused: None,
        part,
        item,
        blocks: Some(text.clone()),
    }
}

fn not_believed(state: &ProviderState) -> String {
    let why = state.kept.why.as_deref().unwrap_or_default();
    format!("the registry lost what it had, and is not believed ({why})")
}

/// The place of a document without its provider's name.
fn key_of(provider: ProviderId, place: &Arc<str>) -> Arc<str> {
    match place.strip_prefix(provider.as_str()).and_then(|rest| rest.strip_prefix(':')) {
        Some(key) => key.into(),
        None => Arc::clone(place),
    }
}

/// Gives holds of the same id, but of different providers, ids that tell them apart.
fn tell_apart(holds: &mut [Hold]) {
    let mut providers: BTreeMap<String, BTreeSet<ProviderId>> = BTreeMap::new();
    for hold in holds.iter() {
        providers.entry(hold.id.clone()).or_default().insert(hold.provider);
    }
    for hold in holds.iter_mut() {
        if providers.get(&hold.id).is_some_and(|all| all.len() > 1) {
            let bare = std::mem::take(&mut hold.id);
            hold.id = format!("{bare}@{}", hold.provider);
            hold.also.push(bare);
        }
    }
}

/// Says which routes lose all their endpoints, hold by hold. Static upstreams, and parts that are not held, remain.
fn name_effects(holds: &mut [Hold], merged: &Merged) {
    for hold in holds.iter_mut() {
        let HeldPart::Endpoints(source) = &hold.part else { continue };
        let is_emptied = |upstream: &MergedUpstream| {
            let addresses = upstream.endpoints.iter().map(|endpoint| endpoint.address.to_string());
            upstream.sources.contains(source) && addresses.into_iter().all(|address| hold.lost.contains(&address))
        };
        let emptied: BTreeSet<&Arc<str>> =
            merged.upstreams.iter().filter(|(_, upstream)| is_emptied(upstream)).map(|(label, _)| label).collect();
        let (mut down, mut partly) = (Vec::new(), Vec::new());
        for route in merged.routes.iter().filter(|_| !emptied.is_empty()) {
            let targets = route.spec.targets.iter();
            let lost = targets.filter(|it| merged.label(&it.upstream).is_some_and(|label| emptied.contains(label)));
            match lost.count() {
                0 => {}
                lost if lost == route.spec.targets.len() => down.push(route.name.as_str()),
                _ => partly.push(route.name.as_str()),
            }
        }
        hold.effects.extend(named(&down, |routes| format!("{routes} would answer 503")));
        hold.effects.extend(named(&partly, |routes| format!("{routes} would lose a target")));
    }
}

fn effects_of_document(kind: Kind, name: &Name, merged: &Merged) -> Option<String> {
    let routes = |uses: &dyn Fn(&super::merge::MergedRoute) -> bool| -> Vec<&str> {
        merged.routes.iter().filter(|route| uses(route)).map(|route| route.name.as_str()).collect()
    };
    match kind {
        Kind::Route => Some(format!("requests of route {name} would meet another route, or 404")),
        Kind::Upstream => {
            let used = routes(&|route| route.spec.targets.iter().any(|target| target.upstream.name == *name));
            named(&used, |routes| format!("upstream {name} is used by {routes}"))
        }
        Kind::Middleware => {
            let used = routes(&|route| route.spec.middlewares.iter().any(|reference| reference.name == *name));
            named(&used, |routes| format!("middleware {name} is used by {routes}"))
        }
        Kind::Certificate => Some(format!("clients of the hosts of certificate {name} would get another one")),
        Kind::Consumer => Some(format!("requests of consumer {name} would be refused where its keys are asked for")),
    }
}

/// `route a`, `routes a, b and 3 more`.
fn named(names: &[&str], sentence: impl Fn(&str) -> String) -> Option<String> {
    let noun = match names.len() {
        0 => return None,
        1 => "route",
        _ => "routes",
    };
    let shown = names[..names.len().min(MAX_NAMED)].join(", ");
    Some(match names.len().saturating_sub(MAX_NAMED) {
        0 => sentence(&format!("{noun} {shown}")),
        more => sentence(&format!("{noun} {shown} and {more} more")),
    })
}

#[cfg(test)]
mod tests;
