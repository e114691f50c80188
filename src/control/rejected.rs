//! What of documents and registrations cannot be used as it is written, and what the gateway does instead. Pure.

use std::collections::BTreeMap;

use super::blocked::BlockedPart;
use super::overlay::Accepted;
use crate::discovery::state::ProviderState;
use crate::snapshot::report::Rejected;
use crate::spec::document::{Documents, Entry, Kind};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;

/// Problems told of one provider's documents.
const MAX_REJECTED: usize = 1000;

const LAST_GOOD: &str = "its last good form stays in use";
const LAST_GOOD_IF_ANY: &str = "its last good form stays in use, if it had one";
const OF_FILE: &str = "the last good forms of what the file defined stay in use";
const BLOCKED: &str = "its last good form is not known: requests that it matches get 503 (NC)";
const NAME_BLOCKED: &str = "its last good form is not known: nothing else gets its name";
const FILE_BLOCKED: &str = "what the file defined is not known";
const ACCEPTED: &str = "it is served without, as an operator accepted";
const NEVER_GOOD: &str = "it never had a good form, and is ignored";
const IGNORED: &str = "it is ignored";
const UNUSED: &str = "it is not used";

/// All of it, `states` in their order; `blocked`: what has no known good form, and is not accepted.
pub(super) fn list<'s>(
    states: impl Iterator<Item = (ProviderId, &'s ProviderState)>,
    blocked: &[BlockedPart],
) -> Vec<Rejected> {
    let (mut list, mut of_sources) = (Vec::new(), BTreeMap::new());
    for (provider, state) in states {
        let problems = state.sources.values().flat_map(|source| source.problems.iter());
        let effect = if provider == ProviderId::Etcd { LAST_GOOD_IF_ANY } else { UNUSED };
        let problems = problems.map(|problem| Rejected { provider, problem: problem.clone(), effect });
        of_sources.insert(provider, problems.collect::<Vec<_>>());
        let Some(documents) = &state.documents else { continue };
        let of_items = documents.entries().filter(|entry| !entry.problems.is_empty()).flat_map(|entry| {
            let effect = of_item(provider, documents, &entry, blocked);
            entry.problems.iter().map(move |problem| (problem, effect))
        });
        let of_none = documents.rejected.iter().map(|problem| (problem, of_place(provider, documents, problem)));
        let mut problems = of_items.chain(of_none);
        let told = problems.by_ref().take(MAX_REJECTED);
        list.extend(told.map(|(problem, effect)| Rejected { provider, problem: problem.clone(), effect }));
        let more = problems.count();
        if more > 0 {
            let problem = Problem::new(provider.to_string(), "", "more problems of its documents");
            let text = format!("{more} {}", problem.text);
            list.push(Rejected {
                provider,
                problem: Problem { text, ..problem },
                effect: "they are not told one by one",
            });
        }
    }
    list.extend(of_sources.into_values().flatten());
    list
}

fn of_item(provider: ProviderId, documents: &Documents, entry: &Entry<'_>, blocked: &[BlockedPart]) -> &'static str {
    let route = (entry.kind == Kind::Route).then(|| documents.routes.get(entry.name)).flatten();
    let refused = route.and_then(|route| route.good.as_ref()).is_some_and(|good| !good.registered.broken.is_empty());
    if entry.blocks.is_none() {
        return match (entry.serves, provider) {
            (true, _) if refused => BLOCKED,
            // Of several instances some may have been right from the start.
            (true, ProviderId::ConsulTags) => LAST_GOOD_IF_ANY,
            (true, _) => LAST_GOOD,
            (false, _) => NEVER_GOOD,
        };
    }
    let is_it = |part: &&BlockedPart| {
        let of_item = matches!(&part.what, Accepted::Item(kind, name, _) if *kind == entry.kind && name == entry.name);
        part.provider == provider && of_item
    };
    let has_match = || route.and_then(|route| route.blocked.as_ref()).is_some_and(|it| it.stand_in.is_some());
    match blocked.iter().find(is_it) {
        None => ACCEPTED,
        Some(_) if has_match() => BLOCKED,
        Some(_) => NAME_BLOCKED,
    }
}

/// Of what is no item's: a file that cannot be parsed, an unknown kind, a bad name.
fn of_place(provider: ProviderId, documents: &Documents, problem: &Problem) -> &'static str {
    if provider != ProviderId::File || !problem.key.is_empty() {
        return IGNORED;
    }
    if documents.unreadable.iter().any(|file| file.problem.place == problem.place) {
        return FILE_BLOCKED;
    }
    let file = file_of(&problem.place);
    match documents.entries().any(|entry| file_of(entry.place) == file) {
        true => OF_FILE,
        false => IGNORED,
    }
}

/// A place without its line and column.
fn file_of(place: &str) -> &str {
    let cut = |text| -> Option<&str> {
        let (rest, number): (&str, &str) = str::rsplit_once(text, ':')?;
        number.parse::<u32>().ok().map(|_| rest)
    };
    cut(place).and_then(cut).unwrap_or(place)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::World;
    use super::*;
    use crate::spec::document::{Blocked, Item, TextId};

    fn item<T>(good: Option<T>, place: &str, blocked: Option<Blocked<T>>) -> Item<T> {
        let problems = vec![Problem::new(place, "", "wrong")];
        Item { good: good.map(Arc::new), problems, place: place.into(), created: None, blocked }
    }

    #[test]
    fn each_problem_says_what_the_gateway_does_instead() {
        let mut world = World::new();
        world.documents(
            ProviderId::File,
            "[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n[routes.r]\nmatch = {}\nupstream = \"u\"",
        );
        let file = world.states[&ProviderId::File].documents.clone().expect("documents");
        let good = file.routes["r"].good.clone().expect("a route");
        let blocked = |stand_in: bool| {
            let stand_in = stand_in.then(|| Arc::new(good.blocking()));
            Some(Blocked { stand_in, hides: Vec::new(), text: TextId::of(b"text", None) })
        };
        let mut documents = Documents::default();
        let name = |text: &str| text.parse().expect("a name");
        documents.routes.insert(name("kept"), item(Some((*good).clone()), "a", None));
        documents.routes.insert(name("matched"), item(None, "b", blocked(true)));
        documents.routes.insert(name("unknown"), item(None, "c", blocked(false)));
        documents.routes.insert(name("accepted"), item(None, "d", blocked(true)));
        documents.routes.insert(name("new"), item(None, "e", None));
        documents.rejected = vec![Problem::new("f", "", "an unknown kind")];
        let part = |provider, item: &str| BlockedPart {
            provider,
            what: Accepted::Item(Kind::Route, name(item), TextId::of(b"text", None)),
            problem: Problem::new("", "", ""),
        };
        let parts = [part(ProviderId::Etcd, "matched"), part(ProviderId::Etcd, "unknown")];
        let told = |provider, documents: Documents| -> Vec<(String, &'static str)> {
            let state = ProviderState { documents: Some(Arc::new(documents)), ..ProviderState::default() };
            let list = list([(provider, &state)].into_iter(), &parts);
            list.into_iter().map(|one| (one.problem.place, one.effect)).collect()
        };
        let wanted =
            [("d", ACCEPTED), ("a", LAST_GOOD), ("b", BLOCKED), ("e", NEVER_GOOD), ("c", NAME_BLOCKED), ("f", IGNORED)];
        assert_eq!(told(ProviderId::Etcd, documents), wanted.map(|(place, effect)| (place.to_owned(), effect)));

        let at = file.routes["r"].place.to_string();
        let mut files = Documents::clone(&file);
        files.rejected = vec![
            Problem::new(format!("{}:9:1", file_of(&at)), "", "no TOML"),
            Problem::new(format!("{}:2:1", file_of(&at)), "routes.Bad", "no name"),
            Problem::new("other.toml:1:1", "", "no TOML"),
        ];
        let effects: Vec<_> = told(ProviderId::File, files).into_iter().map(|(_, effect)| effect).collect();
        assert_eq!(effects, [OF_FILE, IGNORED, IGNORED]);
    }
}
