//! Defines what changed in what can't be used and in who doesn't answer. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::event::{Change, What};
use crate::discovery::state::ProviderState;
use crate::snapshot::{Diagnostic, DiagnosticKind, Report};
use crate::spec::document::{Documents, Kind};
use crate::spec::hold::HeldPart;
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;

/// Problems of one item that an event repeats.
const MOST_PROBLEMS: usize = 5;
/// Items that are rejected or accepted at once and have an event each.
const MAX_REJECTED: usize = 500;
/// Watches of one provider that turn at once and have an event each; more share one.
const MOST_WATCHES: usize = 3;

/// What can't be used, as it was told last.
#[derive(Debug, Default)]
pub(super) struct Rejected(BTreeMap<Place, Complaint>);

/// What is complained of: an item by its kind and name, or a place.
type Place = (ProviderId, Option<Kind>, Arc<str>);

#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    texts: Vec<String>,
    /// Whether a last good form serves.
    serves: bool,
    /// Whether it may have had one that is not known.
    blocks: bool,
}

impl Rejected {
    /// What is newly wrong, and what is no longer.
    pub(super) fn observe(&mut self, states: &BTreeMap<ProviderId, Arc<ProviderState>>) -> Vec<Change> {
        let now = complaints(states);
        let mut changes = Vec::new();
        let new = now.iter().filter(|(place, complaint)| self.0.get(*place) != Some(complaint));
        let more = new.clone().count().saturating_sub(MAX_REJECTED);
        for (place, complaint) in new.take(MAX_REJECTED) {
            let serves = match (place.1, complaint.serves) {
                (Some(_), true) => "; its last good form serves",
                (Some(_), false) if complaint.blocks => {
                    "; its last good form is not known, and nothing takes its place"
                }
                (Some(_), false) => "; it never had a good form, and is absent",
                (None, _) => "",
            };
            changes.push(change(What::ItemRejected, place, format!("{}{serves}", complaint.texts.join("; "))));
        }
        if more > 0 {
            changes.push(Change::new(What::ItemRejected, format!("{more} more items and places at once")));
        }
        for place in self.0.keys().filter(|place| !now.contains_key(*place)).take(MAX_REJECTED) {
            let exists = exists(place, states);
            let cause = if exists { "it can be used as it is" } else { "what was wrong is gone" };
            changes.push(change(What::ItemAccepted, place, cause.to_owned()));
        }
        self.0 = now;
        changes
    }
}

/// What files lost and is held, and the settings that wait for a restart, as they were told last.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    holds: BTreeMap<(ProviderId, Arc<str>), Arc<str>>,
    pending: BTreeMap<(ProviderId, String), String>,
}

impl Waiting {
    /// What is newly held or waits, and what no longer does.
    pub(super) fn observe(&mut self, states: &BTreeMap<ProviderId, Arc<ProviderState>>) -> Vec<Change> {
        let (mut holds, mut pending) = (BTreeMap::new(), BTreeMap::new());
        for (provider, state) in states {
            for (part, held) in &state.holds {
                if let HeldPart::File(path) = part {
                    holds.insert((*provider, Arc::clone(path)), Arc::clone(&held.why));
                }
            }
            for setting in state.pending.iter() {
                pending.insert((*provider, setting.key.clone()), setting.to_string());
            }
        }
        let of = |event, provider: ProviderId, source: &str, cause: String| Change {
            provider: Some(provider),
            source: Some(source.into()),
            ..Change::new(event, cause)
        };
        let mut changes = Vec::new();
        for ((provider, place), why) in holds.iter().filter(|(place, _)| !self.holds.contains_key(*place)) {
            changes.push(of(What::HoldBegan, *provider, place, format!("its items are held: {why}")));
        }
        for (provider, place) in self.holds.keys().filter(|place| !holds.contains_key(*place)) {
            let cause = "what was held is back, is gone for good, or was accepted".to_owned();
            changes.push(of(What::HoldEnded, *provider, place, cause));
        }
        for ((provider, key), text) in pending.iter().filter(|(key, _)| !self.pending.contains_key(*key)) {
            changes.push(of(What::RestartNeeded, *provider, key, text.clone()));
        }
        for (provider, key) in self.pending.keys().filter(|key| !pending.contains_key(*key)) {
            let cause = format!("{key} is that of the start again");
            changes.push(of(What::RestartNotNeeded, *provider, key, cause));
        }
        (self.holds, self.pending) = (holds, pending);
        changes
    }
}

fn change(event: What, (provider, kind, name): &Place, cause: String) -> Change {
    let of = |wanted| (*kind == Some(wanted)).then(|| Arc::clone(name));
    Change {
        provider: Some(*provider),
        source: kind.is_none().then(|| Arc::clone(name)),
        route: of(Kind::Route),
        upstream: of(Kind::Upstream),
        middleware: of(Kind::Middleware),
        certificate: of(Kind::Certificate),
        consumer: of(Kind::Consumer),
        ..Change::new(event, cause)
    }
}

/// What is wrong with well-formed items, as it was told last.
#[derive(Debug, Default)]
pub(super) struct Diagnosed {
    report: Arc<Report>,
    told: BTreeSet<Diagnostic>,
}

impl Diagnosed {
    /// What is newly wrong, and what is no longer. Before every provider was read nobody knows what is absent.
    pub(super) fn observe(&mut self, report: &Arc<Report>) -> Vec<Change> {
        if Arc::ptr_eq(&self.report, report) || !report.unread.is_empty() {
            return Vec::new();
        }
        self.report = Arc::clone(report);
        let now: BTreeSet<Diagnostic> = report.diagnostics.iter().cloned().collect();
        let place = |one: &Diagnostic| match &one.item {
            Some((kind, name)) => (one.provider, Some(*kind), Arc::from(name.as_str())),
            None => (one.provider, None, Arc::from(&*one.problem.key)),
        };
        let begun = now.difference(&self.told).map(|one| {
            let event = match one.kind {
                DiagnosticKind::Unresolved | DiagnosticKind::Kept => What::ItemUnresolved,
                DiagnosticKind::Shadowed => What::ItemShadowed,
            };
            change(event, &place(one), one.line().to_string())
        });
        let still: BTreeSet<_> = now.iter().map(Diagnostic::subject).collect();
        let gone = self.told.iter().filter(|one| !still.contains(&one.subject()));
        let ended = gone.map(|one| {
            let cause = match one.kind {
                DiagnosticKind::Unresolved | DiagnosticKind::Kept => "it resolves, or is gone",
                DiagnosticKind::Shadowed => "it is no longer shadowed, or gone",
            };
            change(What::ItemAccepted, &place(one), cause.to_owned())
        });
        let changes = begun.chain(ended).collect();
        self.told = now;
        changes
    }
}

fn complaints(states: &BTreeMap<ProviderId, Arc<ProviderState>>) -> BTreeMap<Place, Complaint> {
    let mut found = BTreeMap::new();
    for (provider, state) in states {
        if let Some(documents) = &state.documents {
            add_items(*provider, documents, &mut found);
            add_places(*provider, &documents.rejected, &mut found);
        }
        for source in state.sources.values() {
            add_places(*provider, &source.problems, &mut found);
        }
    }
    found
}

fn add_items(provider: ProviderId, documents: &Documents, found: &mut BTreeMap<Place, Complaint>) {
    for entry in documents.entries().filter(|entry| !entry.problems.is_empty()) {
        let texts = entry.problems.iter().take(MOST_PROBLEMS).map(ToString::to_string).collect();
        let complaint = Complaint { texts, serves: entry.serves, blocks: entry.blocks.is_some() };
        found.insert((provider, Some(entry.kind), entry.name.as_str().into()), complaint);
    }
}

fn add_places(provider: ProviderId, problems: &[Problem], found: &mut BTreeMap<Place, Complaint>) {
    for problem in problems {
        let texts = vec![problem.to_string()];
        found
            .insert((provider, None, problem.place.as_str().into()), Complaint { texts, serves: false, blocks: false });
    }
}

fn exists((provider, kind, name): &Place, states: &BTreeMap<ProviderId, Arc<ProviderState>>) -> bool {
    let documents = states.get(provider).and_then(|state| state.documents.as_ref());
    documents.is_some_and(|documents| kind.is_some_and(|kind| documents.place(kind, name).is_some()))
}

/// Watches that fail, with what went wrong, as it was told last.
#[derive(Debug, Default)]
pub(super) struct Failing(BTreeMap<ProviderId, BTreeMap<String, String>>);

impl Failing {
    /// Who of a provider's watches fails now and did not, and the other way round.
    pub(super) fn observe(&mut self, provider: ProviderId, now: BTreeMap<String, String>) -> Vec<Change> {
        let before = self.0.remove(&provider).unwrap_or_default();
        let begun: Vec<(&String, String)> = now
            .iter()
            .filter(|(watch, _)| !before.contains_key(*watch))
            .map(|(watch, error)| (watch, error.clone()))
            .collect();
        let ended: Vec<(&String, String)> = before
            .keys()
            .filter(|watch| !now.contains_key(*watch))
            .map(|watch| (watch, "it answers, or is not wanted any more".to_owned()))
            .collect();
        let mut changes = turned(What::ProviderFailing, provider, &begun);
        changes.extend(turned(What::ProviderLive, provider, &ended));
        self.0.insert(provider, now);
        changes
    }
}

fn turned(event: What, provider: ProviderId, watches: &[(&String, String)]) -> Vec<Change> {
    let of = |source: Option<&String>, cause: String| Change {
        provider: Some(provider),
        source: source.map(|source| source.as_str().into()),
        ..Change::new(event, cause)
    };
    match watches {
        [] => Vec::new(),
        [(first, text), ..] if watches.len() > MOST_WATCHES => {
            vec![of(None, format!("{} watches at once, `{first}` among them: {text}", watches.len()))]
        }
        few => few.iter().map(|(watch, text)| of(Some(watch), text.clone())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_watches_that_turn_at_once_share_an_event() {
        let mut failing = Failing::default();
        let of = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "refused".to_owned())).collect();
        let mut told = |names: &[&str]| -> Vec<(What, Option<Arc<str>>, String)> {
            let changes = failing.observe(ProviderId::Consul, of(names));
            changes.into_iter().map(|change| (change.event, change.source, change.cause)).collect()
        };
        assert_eq!(told(&["a"]), [(What::ProviderFailing, Some("a".into()), "refused".to_owned())]);
        assert_eq!(told(&["a"]), []);
        let all = "4 watches at once, `b` among them: refused".to_owned();
        assert_eq!(told(&["a", "b", "c", "d", "e"]), [(What::ProviderFailing, None, all)]);
        let answers = "it answers, or is not wanted any more".to_owned();
        assert_eq!(told(&["b", "c", "d", "e"]), [(What::ProviderLive, Some("a".into()), answers)]);
    }
}
