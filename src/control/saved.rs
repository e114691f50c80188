//! Defines what of the gateway's knowledge outlives it: the last states that registries really showed, and what
//! operators drained. A file a provider, read once at start and written anew as a whole.
//!
//! A file is a line of JSON and a line with its SHA-256. It is written beside its place, made durable and renamed,
//! so that whatever happens there is a whole one. One that is cut, changed, of another schema or of another registry
//! is not read; it is counted, and replaced in time. What is held or was itself loaded never replaces what a
//! registry said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::content::{Content, Part};
use super::overlay::Overlay;
use crate::discovery::state::{Origin, ProviderState};
use crate::spec::decode::SavedForms;
use crate::spec::document::Documents;
use crate::spec::endpoint::EndpointSpec;
use crate::spec::name::ProviderId;
use crate::spec::settings::StateDir;
use crate::spec::source::Source;
use crate::telemetry::prometheus::{self, Definition, Samples, definitions};
use file::{Locking, StateFile, Unusable, digest, enveloped, lock, read, write};

pub mod claims;
mod file;

/// Between two writes of what changed.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two writes of what did not: they tell how old it is.
const REFRESH: Duration = Duration::from_secs(60);
const OVERLAY: &str = "overlay";
/// Where a package or a service manager makes room for us.
const SYSTEM: &str = "/var/lib/fleetgate";
const LOCAL: &str = ".fleetgate";

/// What a provider reads, which tells whether a file is of the same registry.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The provider.
    pub id: ProviderId,
    /// Addresses, prefix, namespace: whatever makes it another registry.
    pub registry: String,
    /// The name of the watch of its documents, and their prefix.
    pub documents: Option<(String, String)>,
}

/// When each watch of a provider was confirmed last, and its index, by name.
pub type Verified = BTreeMap<String, (SystemTime, u64)>;

/// What an earlier process knew of a provider.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedState {
    pub(super) documents: Option<(Arc<Documents>, SystemTime)>,
    /// What they were made of.
    pub(super) forms: Option<Arc<SavedForms>>,
    /// By the source's text.
    pub(super) sources: BTreeMap<String, (Arc<[EndpointSpec]>, SystemTime)>,
}

impl SavedState {
    /// The registry has answered: what was saved of this is of no more use but to compare.
    pub(super) fn answered(&mut self, part: &Part) -> Option<Content> {
        match part {
            Part::Documents => self.documents.take().map(|(documents, _)| Content::Documents(documents)),
            Part::Source(source) => {
                self.sources.remove(&source.to_string()).map(|(endpoints, _)| Content::Endpoints(endpoints))
            }
        }
    }

    /// What documents were made of.
    pub fn forms(&self) -> Option<&Arc<SavedForms>> {
        self.forms.as_ref()
    }

    /// What was known of sources, by their texts.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &Arc<[EndpointSpec]>)> {
        self.sources.iter().map(|(source, (endpoints, _))| (source.as_str(), endpoints))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_none() && self.sources.is_empty()
    }
}

/// The folder of saved files, of which this process is the only user.
#[derive(Debug)]
pub struct Store {
    folder: Option<PathBuf>,
    /// Held for as long as the process lives.
    _lock: Option<File>,
    identities: BTreeMap<ProviderId, Identity>,
    errors: Arc<Errors>,
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What providers showed.
    pub states: BTreeMap<ProviderId, SavedState>,
    /// When that was confirmed.
    pub verified: BTreeMap<ProviderId, Verified>,
    /// What operators drained.
    pub overlay: Overlay,
    /// What is to be saved until something changes: what was.
    pub book: Book,
}

/// What is served now, for [`Store::keep`] to save of it what is live.
#[derive(Debug, Default)]
pub struct Shown {
    pub(super) states: BTreeMap<ProviderId, Arc<ProviderState>>,
    pub(super) wanted: Arc<BTreeSet<Source>>,
    /// All documents were read, so that what is not wanted is not used.
    pub(super) settled: bool,
    pub(super) overlay: Arc<Overlay>,
}

/// What is to be saved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Book {
    providers: BTreeMap<ProviderId, Page>,
    overlay: Arc<Overlay>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Page {
    sources: BTreeMap<String, Arc<[EndpointSpec]>>,
    /// What documents were made of; `None` before the first read.
    forms: Option<Arc<SavedForms>>,
}

impl Page {
    fn reads_alike(&self, other: &Self) -> bool {
        self.sources == other.sources && self.forms == other.forms
    }
}

/// Files that could not be used, by why.
#[derive(Debug, Default)]
pub struct Errors {
    unreadable: AtomicU64,
    corrupt: AtomicU64,
    foreign: AtomicU64,
    unwritable: AtomicU64,
}

impl Store {
    /// Opens the folder and reads what is there. Nothing that is wrong with it keeps the gateway from starting.
    pub fn open(setting: &StateDir, identities: Vec<Identity>) -> (Self, Loaded) {
        let identities = identities.into_iter().map(|identity| (identity.id, identity)).collect();
        let mut store = Self { folder: None, _lock: None, identities, errors: Arc::default() };
        let folder = match setting {
            StateDir::Off => return (store, Loaded::default()),
            StateDir::At(folder) => folder.clone(),
            StateDir::Default if Path::new(SYSTEM).is_dir() => PathBuf::from(SYSTEM),
            StateDir::Default => PathBuf::from(LOCAL),
        };
        match lock(&folder) {
            Ok(lock) => store._lock = Some(lock),
            Err(Locking::Taken) => {
                tracing::warn!(
                    "nothing is saved: another gateway uses {}; give each its own `discovery.state_dir`",
                    folder.display()
                );
                return (store, Loaded::default());
            }
            Err(Locking::Failed(error)) => {
                store.errors.unwritable.fetch_add(1, Relaxed);
                tracing::warn!("{} cannot be written, what registries say may not be saved: {error}", folder.display());
            }
        }
        store.folder = Some(folder);
        let loaded = store.load();
        (store, loaded)
    }

    /// Counts of what went wrong, for metrics.
    pub fn errors(&self) -> Arc<Errors> {
        Arc::clone(&self.errors)
    }

    fn load(&self) -> Loaded {
        let mut loaded = Loaded::default();
        for (id, identity) in &self.identities {
            let file = self.read::<StateFile>(id.as_str(), &digest(identity.registry.as_bytes()));
            let Some(file) = file else { continue };
            let (state, verified, page) = file.into_state(identity);
            let oldest = verified.values().map(|(at, _)| *at).min();
            let age = oldest.and_then(|at| at.elapsed().ok()).unwrap_or_default().as_secs();
            tracing::info!(provider = %id, age_seconds = age, sources = state.sources.len(), "read the saved state");
            loaded.states.insert(*id, state);
            loaded.verified.insert(*id, verified);
            loaded.book.providers.insert(*id, page);
        }
        loaded.overlay = self.read(OVERLAY, &digest(OVERLAY.as_bytes())).unwrap_or_default();
        loaded.book.overlay = Arc::new(loaded.overlay.clone());
        loaded
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str, identity: &str) -> Option<T> {
        let path = self.folder.as_ref()?.join(format!("{name}.json"));
        let (counter, why) = match read(&path, identity) {
            Ok(content) => return Some(content),
            Err(Unusable::Missing) => return None,
            Err(Unusable::Unreadable(error)) => (&self.errors.unreadable, error.to_string()),
            Err(Unusable::Corrupt(why)) => (&self.errors.corrupt, why),
            Err(Unusable::Foreign(why)) => (&self.errors.foreign, why.to_owned()),
        };
        counter.fetch_add(1, Relaxed);
        tracing::warn!("the saved {} is not used: {why}", path.display());
        None
    }

    /// Writes what changes until shutdown, and once more then. `verified` tells when watches were confirmed.
    pub async fn keep(
        self,
        mut book: Book,
        mut shown: watch::Receiver<Option<Arc<Shown>>>,
        verified: impl Fn(ProviderId) -> Verified + Send + 'static,
        shutdown: CancellationToken,
    ) {
        let Some(folder) = self.folder.clone() else { return };
        let (mut written, mut seen) = (Book::default(), None);
        let (mut stops, mut failing) = (false, false);
        while !stops {
            let refresh = Instant::now() + REFRESH;
            let all = tokio::select! {
                () = shutdown.cancelled() => { stops = true; true }
                changed = shown.wait_for(|now| !same(now.as_ref(), seen.as_ref())) => { stops = changed.is_err(); false }
                () = sleep_until(refresh) => true,
            };
            seen.clone_from(&shown.borrow_and_update());
            let Some(now) = &seen else { continue };
            book.note(now);
            let files = self.files(&book, all, &written, &verified);
            let into = folder.clone();
            let wrote =
                tokio::task::spawn_blocking(move || files.iter().try_for_each(|(name, text)| write(&into, name, text)));
            match wrote.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => (written, failing) = (book.clone(), false),
                Err(error) => {
                    self.errors.unwritable.fetch_add(1, Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("{}: what registries say is not saved: {error}", folder.display());
                    }
                }
            }
            // An operator's word is written at once, all else at its pace.
            let drained = |now: &Option<Arc<Shown>>| now.as_ref().is_some_and(|now| now.overlay != written.overlay);
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep(PAUSE) => {}
                _ = shown.wait_for(drained), if !failing => {}
            }
        }
    }

    /// The files that differ from what was written, as texts.
    fn files(
        &self,
        now: &Book,
        all: bool,
        written: &Book,
        verified: &impl Fn(ProviderId) -> Verified,
    ) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for (id, page) in &now.providers {
            let Some(identity) = self.identities.get(id) else { continue };
            if all || written.providers.get(id).is_none_or(|before| !before.reads_alike(page)) {
                let content = StateFile::of(page, &verified(*id));
                files.push((id.as_str().to_owned(), enveloped(&content, &digest(identity.registry.as_bytes()))));
            }
        }
        if now.overlay != written.overlay {
            files.push((OVERLAY.to_owned(), enveloped(&*now.overlay, &digest(OVERLAY.as_bytes()))));
        }
        files
    }
}

fn same(one: Option<&Arc<Shown>>, other: Option<&Arc<Shown>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

impl Book {
    /// Notes what registries show now.
    fn note(&mut self, now: &Shown) {
        self.overlay = Arc::clone(&now.overlay);
        let wanted: BTreeSet<String> = now.wanted.iter().map(ToString::to_string).collect();
        for (id, state) in now.states.iter().filter(|(id, _)| **id != ProviderId::File) {
            let live = state
                .sources
                .iter()
                .filter(|(source, known)| known.origin == Origin::Live && !state.kept.addresses.contains_key(source));
            let live: Vec<_> = live.map(|(source, known)| (source.to_string(), Arc::clone(&known.endpoints))).collect();
            let forms = live_forms(state);
            if live.is_empty() && forms.is_none() && !self.providers.contains_key(id) {
                continue;
            }
            let page = self.providers.entry(*id).or_default();
            page.sources.extend(live);
            if now.settled {
                page.sources.retain(|source, _| wanted.contains(source));
            }
            if let Some(forms) = forms {
                page.forms = Some(Arc::clone(forms));
            }
        }
    }
}

/// What the documents of a state were made of, where its registry shows them now.
fn live_forms(state: &ProviderState) -> Option<&Arc<SavedForms>> {
    let kept = &state.kept;
    let is_live = !state.documents_held && kept.documents.is_empty() && kept.saved_documents.is_none();
    (state.documents.is_some() && is_live).then_some(&state.forms)
}

impl prometheus::Source for Arc<Errors> {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[definitions::SAVED_STATE_ERRORS]
    }

    fn collect(&self, samples: &mut Samples) {
        for (reason, count) in [
            ("unreadable", &self.unreadable),
            ("corrupt", &self.corrupt),
            ("foreign", &self.foreign),
            ("unwritable", &self.unwritable),
        ] {
            samples.value(definitions::SAVED_STATE_ERRORS, &[reason], count.load(Relaxed) as f64);
        }
    }
}

#[cfg(test)]
mod tests;
