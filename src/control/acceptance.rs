//! What an acceptance names: the holds that it releases, and whether there is anything of that name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::command::{Acceptance, Refusal};
use crate::discovery::state::ProviderState;
use crate::snapshot::Snapshot;
use crate::snapshot::report::{self, Hold};
use crate::spec::document::{Documents, Kind};
use crate::spec::file;
use crate::spec::name::ProviderId;
use crate::spec::settings::FileProvider;

/// Names of an earlier acceptance that are remembered.
const MAX_NAMES: usize = 1000;
/// Holds that a refusal names; more are counted.
const MAX_SHOWN: usize = 5;

/// What has been accepted since the start: accepting it once more changes nothing, and is no mistake.
#[derive(Debug, Default)]
pub(super) struct AcceptedNames(BTreeSet<String>);

impl AcceptedNames {
    pub(super) fn add(&mut self, name: &str) {
        if self.0.len() < MAX_NAMES {
            self.0.insert(name.to_owned());
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// What may be named.
pub(super) struct Nameable<'s, 'a> {
    pub(super) snapshot: &'s Snapshot,
    pub(super) states: &'a BTreeMap<ProviderId, Arc<ProviderState>>,
    pub(super) files: &'a FileProvider,
    pub(super) accepted: &'a AcceptedNames,
}

impl<'s, 'a> Nameable<'s, 'a> {
    /// The holds that an acceptance releases; none where nothing is held under its name.
    ///
    /// # Errors
    /// A name that is nobody's, a set of holds that is not the one the operator saw, and holds that all have to stay.
    pub(super) fn released(&self, acceptance: &Acceptance) -> Result<Vec<&'s Hold>, Refusal> {
        let Acceptance { target, digest } = acceptance;
        let named: Vec<&Hold> = self.snapshot.report.holds.iter().filter(|hold| hold.is_named(target)).collect();
        if named.is_empty() {
            return self.find(target).map(|()| Vec::new());
        }
        let released: Vec<&Hold> = named.iter().copied().filter(|hold| hold.refused.is_none()).collect();
        if released.is_empty() {
            let mut reasons: Vec<&str> = named.iter().filter_map(|hold| hold.refused.as_deref()).collect();
            reasons.sort_unstable();
            reasons.dedup();
            let text = format!("what `{target}` holds stays while that may only be hidden: {}", reasons.join("; "));
            return Err(Refusal::Impossible(text));
        }
        match digest {
            None => Err(Refusal::Unseen(format!(
                "look first at what would be lost: GET /api/v1/holds?target={target} tells it, and the digest to send"
            ))),
            Some(digest) if *digest != report::digest_of(named.iter().copied()) => Err(Refusal::Changed(format!(
                "what `{target}` holds has changed since it was looked at; nothing is accepted"
            ))),
            Some(_) => Ok(released),
        }
    }

    /// Whether there is anything of a name that nothing is held under.
    fn find(&self, target: &str) -> Result<(), Refusal> {
        if self.accepted.has(target) {
            return Ok(());
        }
        let nothing = |why: &str| Err(Refusal::Unknown(format!("{why}; {}", self.choices())));
        if let Some(path) = target.strip_prefix("file:") {
            return match self.reads(&file::without_dots(Path::new(path))) {
                true => Ok(()),
                false => nothing(&format!("nothing is held under `{target}`, and no document comes from such a file")),
            };
        }
        let (bare, provider) = target.split_once('@').map_or((target, None), |(bare, provider)| (bare, Some(provider)));
        let Some((kind, name)) = bare.split_once('/') else {
            return match target.parse::<ProviderId>() {
                Ok(provider) if self.states.contains_key(&provider) => Ok(()),
                Ok(provider) => nothing(&format!("provider `{provider}` is not on")),
                Err(why) => nothing(&why),
            };
        };
        let is_there = Kind::ALL.into_iter().find(|it| it.as_str() == kind).is_some_and(|kind| {
            // Endpoints are held by their registry, whoever defines the upstream.
            let definer = provider.filter(|_| kind != Kind::Upstream);
            self.documents(definer).any(|documents| documents.place(kind, name).is_some())
                || definer.is_none() && self.serves(kind, name)
        });
        let is_there = is_there && provider.is_none_or(|provider| self.states.keys().any(|id| id.as_str() == provider));
        match is_there {
            true => Ok(()),
            false => nothing(&format!("nothing is held under `{target}`, and nothing of that name is defined")),
        }
    }

    /// What retained items and those of tags are, too.
    fn serves(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Route => self.snapshot.routes.routes().iter().any(|route| route.name.as_str() == name),
            Kind::Upstream => self.snapshot.upstreams().any(|upstream| *upstream.label == *name),
            Kind::Middleware | Kind::Certificate | Kind::Consumer => false,
        }
    }

    /// Whether a document lies in a file, a problem does, or it is the configuration file.
    fn reads(&self, path: &Path) -> bool {
        let is_in = |place: &str| {
            let mut parts = place.rsplitn(3, ':');
            let numbers = parts.by_ref().take(2).all(|part| part.parse::<u32>().is_ok());
            let file = parts.next().filter(|_| numbers).unwrap_or(place);
            file::without_dots(Path::new(file)) == path
        };
        let file = ProviderId::File;
        self.files.main.as_ref().is_some_and(|main| file::without_dots(main) == path)
            || self.documents(Some(file.as_str())).any(|documents| {
                documents.entries().any(|entry| is_in(entry.place))
                    || documents.rejected.iter().any(|problem| is_in(&problem.place))
            })
    }

    fn documents(&self, provider: Option<&str>) -> impl Iterator<Item = &'a Documents> {
        let states = self.states.iter().filter(move |(id, _)| provider.is_none_or(|provider| id.as_str() == provider));
        states.filter_map(|(_, state)| state.documents.as_deref())
    }

    /// What can be accepted.
    fn choices(&self) -> String {
        let holds = &self.snapshot.report.holds;
        let shown: Vec<&str> = holds.iter().take(MAX_SHOWN).map(|hold| hold.id.as_str()).collect();
        let held = match holds.len().saturating_sub(MAX_SHOWN) {
            0 if shown.is_empty() => "nothing is held now".to_owned(),
            0 => format!("held now: {}", shown.join(", ")),
            more => format!("held now: {} and {more} more, which `fleetgate status` lists", shown.join(", ")),
        };
        format!(
            "{held}. A name is a provider (`consul`), KIND/NAME (`upstreams/users`), KIND/NAME@PROVIDER or file:PATH"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::World;
    use super::*;
    use crate::snapshot::Report;

    #[test]
    fn a_name_that_nobody_has_is_a_mistake_and_one_that_was_accepted_is_none() {
        let mut world = World::new();
        world.documents(
            ProviderId::File,
            "[upstreams.users]\nendpoints = [\"10.0.0.1:80\"]\n[middlewares.slow]\nbody_limit = \"1MiB\"",
        );
        let documents = world.states[&ProviderId::File].documents.clone().expect("documents");
        let place = documents.place(Kind::Upstream, "users").expect("a place").to_string();
        let path = place.rsplitn(3, ':').last().expect("a file").to_owned();
        let hold = |id: &str| Hold {
            id: id.to_owned(),
            also: Vec::new(),
            provider: ProviderId::File,
            place: id.to_owned(),
            why: String::new(),
            lost: Vec::new(),
            effects: Vec::new(),
            refused: None,
            part: crate::spec::hold::HeldPart::File(id.into()),
            item: None,
            blocks: None,
        };
        let holds = vec![hold("file:/etc/fleetgate/conf/../routes.d/a.toml")];
        let report = Arc::new(Report { holds, ..Report::default() });
        let snapshot = Snapshot { report, ..Snapshot::empty() };
        let mut accepted = AcceptedNames::default();
        accepted.add("routes/gone");
        let files = FileProvider { main: Some("/etc/fleetgate/fleetgate.toml".into()), patterns: Vec::new() };
        let nameable = Nameable { snapshot: &snapshot, states: &world.states, files: &files, accepted: &accepted };
        let said = |target: &str| {
            let released = nameable.released(&Acceptance { target: target.into(), digest: None });
            released.map(|holds| holds.len()).map_err(|refusal| refusal.to_string())
        };
        for target in [
            "etcd",
            "upstreams/users",
            "upstreams/users@etcd",
            "middlewares/slow",
            "middlewares/slow@file",
            "routes/gone",
            &format!("file:{path}"),
            "file:/etc/fleetgate/./fleetgate.toml",
        ] {
            assert_eq!(said(target), Ok(0), "{target}");
        }
        for (target, why) in [
            ("upstreams/user", "nothing of that name is defined"),
            ("middlewares/slow@etcd", "nothing of that name is defined"),
            ("upstreams/users@ectd", "nothing of that name is defined"),
            ("users", "`users` is not a provider"),
            ("routes.d/a.toml", "KIND/NAME@PROVIDER or file:PATH"),
            ("file:/etc/fleetgate/routes.d/b.toml", "no document comes from such a file"),
            ("routes/other", "held now: file:/etc/fleetgate/conf/../routes.d/a.toml"),
        ] {
            let told = said(target).expect_err(target);
            assert!(told.contains(why), "{target}: {told}");
        }
        // It is held, however its path is written.
        let told = said("file:/etc/fleetgate/routes.d/./a.toml").expect_err("not looked at");
        assert!(told.contains("look first at what would be lost"), "{told}");
    }
}
