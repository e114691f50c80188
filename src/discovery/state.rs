//! Defines what a provider publishes: its whole state, to be compared and replaced.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::spec::decode::SavedForms;
use crate::spec::document::{Documents, Kind};
use crate::spec::endpoint::{Address, EndpointSpec, Penalty};
use crate::spec::hold::{Held, HeldPart, Scope};
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::source::Source;

/// When sources were last used: a request went to one of their endpoints, or would have.
pub type Uses = BTreeMap<Source, Instant>;

/// What control finds wrong with items that are well-formed, when it puts all of them together.
///
/// It goes back to discovery, which writes it into the feedback keys of the item's registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(BTreeMap<ProviderId, BTreeMap<String, Vec<Problem>>>);

impl Diagnostics {
    /// Adds a problem under a feedback key: `routes/NAME` of a document, `services/NAME` of a registration.
    pub fn add(&mut self, provider: ProviderId, key: String, problem: Problem) {
        self.0.entry(provider).or_default().entry(key).or_default().push(problem);
    }

    /// The problems of a provider's items, by feedback key.
    pub fn of(&self, provider: ProviderId) -> impl Iterator<Item = (&String, &Vec<Problem>)> {
        self.0.get(&provider).into_iter().flatten()
    }
}

/// All a provider knows. Not read yet, read and empty, and failed are three different things:
/// absent here, present and empty, and an error in the watch's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProviderState {
    /// Its documents; `None` until the first complete read.
    pub documents: Option<Arc<Documents>>,
    /// Its sources that were read at least once.
    pub sources: BTreeMap<Source, SourceState>,
    /// What its documents were made of, for the next process.
    pub forms: Arc<SavedForms>,
    /// Endpoints that it reads though nobody wants their sources: they tell whose an address is.
    pub beside: Arc<BTreeMap<Source, Arc<[EndpointSpec]>>>,
    /// Whether its documents hold back what the registry lost, as a source of [`Origin::Held`] does.
    pub documents_held: bool,
    /// What watches hold, part by part.
    pub holds: BTreeMap<HeldPart, Held>,
    /// Rights that the credentials lack now, and what each concerns.
    pub missing_rights: BTreeMap<Scope, Arc<str>>,
    /// Static settings that the main file changed since the start.
    pub pending: Arc<[Problem]>,
    /// How often one of its watches saw the registry's counter go back.
    pub regressions: u64,
    /// How often one of its watches met servers with other ids than before.
    pub other_servers: u64,
    /// After how many [disbeliefs](Self::disbeliefs) each source (`None`: the documents) was published last; empty before
    /// the first. What a registry that went back lists as before is news: it has it still.
    pub listed: BTreeMap<Option<Source>, u64>,
    /// What of the above is not the registry's word. Watches leave it empty; control fills it.
    pub kept: Kept,
}

impl ProviderState {
    /// How often it turned out to be another registry than the one known, by its counter or by its servers.
    pub fn disbeliefs(&self) -> u64 {
        self.regressions + self.other_servers
    }

    /// How many of its sources and documents hold back what their registry lost.
    pub fn held(&self) -> usize {
        let sources = self.sources.values().filter(|source| source.origin == Origin::Held).count();
        sources + self.kept.documents.len() + usize::from(self.documents_held)
    }

    /// The right that is missing to read a source; without a source: to read any of the documents.
    pub fn missing_right(&self, source: Option<&Source>) -> Option<&Arc<str>> {
        let concerns = |scope: &Scope| match (scope, source) {
            (Scope::All, _) | (Scope::Documents(_), None) => true,
            (Scope::Source(of), Some(source)) => of == source,
            (Scope::Documents(_), Some(_)) | (Scope::Source(_), None) => false,
        };
        self.missing_rights.iter().find(|(scope, _)| concerns(scope)).map(|(_, right)| right)
    }

    /// The sources that are not what they were in `before`, or not in both. Costs a comparison of pointers for each
    /// of the others.
    pub fn changed_sources<'s>(&'s self, before: &'s Self) -> Vec<&'s Source> {
        let mut changed = Vec::new();
        let (mut old, mut new) = (before.sources.iter().peekable(), self.sources.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changed,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((one, _)), Some((other, _))) => one.cmp(other),
            };
            let gone = if order.is_le() { old.next() } else { None };
            let there = if order.is_ge() { new.next() } else { None };
            match (gone, there) {
                (Some((_, before)), Some((_, now))) if before.is(now) => {}
                (Some((source, _)), _) | (None, Some((source, _))) => changed.push(source),
                (None, None) => {}
            }
        }
    }
}

/// What is served although the registry does not list it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Why the registry is not believed; for people.
    pub why: Option<Arc<str>>,
    /// Addresses that a source lost.
    pub addresses: BTreeMap<Source, Arc<BTreeSet<Address>>>,
    /// Addresses that a source lost and another service lists now: they are not served for it, though a watch may still
    /// hold them.
    pub released: BTreeMap<Source, Arc<BTreeSet<Address>>>,
    /// Endpoints that flapped of late.
    pub penalties: BTreeMap<Source, Arc<BTreeMap<Address, Penalty>>>,
    /// Documents that it lost.
    pub documents: BTreeSet<(Kind, Name)>,
    /// There are no documents, and the gateway starts without them (`discovery.optional`).
    pub documents_may_be_missing: bool,
    /// The documents are those of the saved state, read last at that time.
    pub saved_documents: Option<SystemTime>,
}

/// What is known of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceState {
    /// Sorted by address, then id; all registrations, whatever their status.
    pub endpoints: Arc<[EndpointSpec]>,
    /// Those of its addresses that the last read does not list: a watch keeps them until a second read confirms that
    /// they are gone, or serves the last good form of an entry.
    pub unlisted: Arc<BTreeSet<Address>>,
    /// Entries that could not be used (port 0, bad JSON, ...).
    pub problems: Arc<[Problem]>,
    /// Whether the endpoints are what the registry says now.
    pub origin: Origin,
}

impl SourceState {
    /// What the registry says now.
    pub fn live(endpoints: impl Into<Arc<[EndpointSpec]>>, problems: impl Into<Arc<[Problem]>>) -> Self {
        let (endpoints, problems) = (endpoints.into(), problems.into());
        Self { endpoints, unlisted: Arc::default(), problems, origin: Origin::Live }
    }

    /// With the parts of `before` that are equal, so that what did not change does not look changed.
    pub(super) fn reusing(mut self, before: &Self) -> Self {
        fn reuse<T: PartialEq + ?Sized>(now: &mut Arc<T>, before: &Arc<T>) {
            if *now == *before {
                now.clone_from(before);
            }
        }
        reuse(&mut self.endpoints, &before.endpoints);
        reuse(&mut self.problems, &before.problems);
        reuse(&mut self.unlisted, &before.unlisted);
        self
    }

    /// Whether it is the very same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoints, &other.endpoints)
            && Arc::ptr_eq(&self.problems, &other.problems)
            && Arc::ptr_eq(&self.unlisted, &other.unlisted)
            && self.origin == other.origin
    }
}

/// Where a state comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The registry's own word.
    Live,
    /// The registry lost something in a suspicious way; what it lost is still here.
    Held,
    /// Saved by an earlier process and confirmed last at that time; the registry has not answered since the start.
    Saved(SystemTime),
}

impl Origin {
    /// As users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Held => "held",
            Self::Saved(_) => "saved",
        }
    }
}
