//! Which documents a provider no longer has, in a line for the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::discovery::state::ProviderState;
use crate::spec::document::{Documents, Kind};
use crate::spec::name::ProviderId;

/// Names that are told of each kind; more are counted.
const MAX_NAMES: usize = 5;

/// What a provider no longer has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) provider: ProviderId,
    /// `7 documents are gone from consul-kv: routes a, b and 4 more, upstream c`
    pub(super) text: String,
    /// Whether it has no document left.
    pub(super) is_all: bool,
}

/// What providers had and no longer have. Routes of registrations come and go with services, and are not told.
pub(super) fn between(
    before: &BTreeMap<ProviderId, Arc<ProviderState>>,
    now: &BTreeMap<ProviderId, Arc<ProviderState>>,
) -> Vec<Removal> {
    let documents = |state: &Arc<ProviderState>| state.documents.clone();
    let of_provider = |(provider, state): (&ProviderId, &Arc<ProviderState>)| {
        let (had, has) = (before.get(provider).and_then(documents)?, documents(state)?);
        if *provider == ProviderId::ConsulTags || Arc::ptr_eq(&had, &has) {
            return None;
        }
        let text = gone(*provider, &had, &has)?;
        Some(Removal { provider: *provider, text, is_all: has.count() == 0 })
    };
    now.iter().filter_map(of_provider).collect()
}

/// Logs it.
pub(super) fn tell(removals: &[Removal]) {
    for Removal { provider, text, is_all } in removals {
        match is_all {
            true => tracing::warn!(%provider, "{text}; it has none left"),
            false => tracing::info!(%provider, "{text}"),
        }
    }
}

fn gone(provider: ProviderId, had: &Documents, has: &Documents) -> Option<String> {
    let mut kinds: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
    for entry in had.entries().filter(|entry| has.place(entry.kind, entry.name.as_str()).is_none()) {
        kinds.entry(entry.kind).or_default().push(entry.name.as_str());
    }
    let listed = |(kind, names): (&Kind, &Vec<&str>)| {
        let noun = if names.len() == 1 { kind.noun() } else { kind.as_str() };
        let shown = names[..names.len().min(MAX_NAMES)].join(", ");
        match names.len().saturating_sub(MAX_NAMES) {
            0 => format!("{noun} {shown}"),
            more => format!("{noun} {shown} and {more} more"),
        }
    };
    let list: Vec<String> = kinds.iter().map(listed).collect();
    match kinds.values().map(Vec::len).sum() {
        0 => None,
        1 => Some(format!("a document is gone from {provider}: {}", list.join(", "))),
        count => Some(format!("{count} documents are gone from {provider}: {}", list.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::World;
    use super::*;

    #[test]
    fn a_line_counts_what_is_gone_and_names_the_first() {
        let route = |name: &str| format!("[routes.{name}]\nmatch = {{}}\nupstream = \"u\"\n");
        let upstream = "[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n";
        let with = |text: &str| {
            let mut world = World::new();
            world.documents(ProviderId::ConsulKv, text);
            world.states
        };
        let all: String = ["a", "b", "c", "d", "e", "f", "g"].map(route).concat();
        let before = with(&format!("{upstream}{all}"));
        let told = |now: &str| {
            let removals = between(&before, &with(now));
            removals.into_iter().map(|one| (one.text, one.is_all)).collect::<Vec<_>>()
        };
        assert_eq!(told(&format!("{upstream}{all}")), []);
        let rest = format!("{upstream}{}", ["b", "c", "d", "e", "f", "g"].map(route).concat());
        assert_eq!(told(&rest), [("a document is gone from consul-kv: route a".to_owned(), false)]);
        let text = "8 documents are gone from consul-kv: routes a, b, c, d, e and 2 more, upstream u";
        assert_eq!(told(""), [(text.to_owned(), true)]);
    }
}
