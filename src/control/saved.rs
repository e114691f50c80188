//! Keeps on disk what a gateway needs after a restart: the last states that registries really showed, the last forms of
//! documents that were good and that resolved, and what operators drained. Each provider has one file, which is read
//! once at start and always written as a whole.
//!
//! A file is a line of JSON and a line with its SHA-256. It is written beside its place, made durable and renamed,
//! so that whatever happens there is a whole one. One that is cut, changed, of another schema or of another registry
//! is not read; it is counted, and replaced in time. What is held or was itself loaded never replaces what a
//! registry said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::content::{Content, Part};
use super::overlay::Overlay;
use crate::discovery::state::{Origin, ProviderState, SourceState};
use crate::spec::decode::SavedForms;
use crate::spec::decode::resolved::ResolvedForms;
use crate::spec::document::Documents;
use crate::spec::endpoint::EndpointSpec;
use crate::spec::name::ProviderId;
use crate::spec::settings::StateDir;
use crate::spec::source::Source;
use crate::telemetry::prometheus::{self, Definition, Samples, definitions};
use file::{StateFile, Unusable, digest, enveloped, read};
use folder::{Unfit, lock, write};
use saver::{Failures, Request};

pub mod claims;
mod file;
mod folder;
mod saver;

pub(super) use saver::Part as Keeping;
pub use saver::{Kept, Saver, Saving};

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
    /// The last forms that resolved, where they are others.
    pub(super) resolved: Arc<ResolvedForms>,
    /// By the source's text.
    pub(super) sources: BTreeMap<String, (Arc<[EndpointSpec]>, SystemTime)>,
    /// Why its registry was not believed, and what it had lost was held.
    pub(super) disbelieved: Option<Arc<str>>,
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
    saver: Saver,
    requests: mpsc::Receiver<Request>,
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
    /// The last forms that resolved, where they are not what a provider defines now.
    pub(super) resolved: Arc<BTreeMap<ProviderId, ResolvedForms>>,
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
    /// The last forms that resolved, where they are others.
    resolved: Arc<ResolvedForms>,
    /// Why the registry is not believed, and something of this is held.
    disbelieved: Option<Arc<str>>,
    /// How often it had turned out to be another registry when all of this was live last.
    registry: u64,
}

impl Page {
    /// Notes whether the registry is believed: what is held of a former one is not the word of the present one.
    fn note_registry(&mut self, state: &ProviderState) {
        let believed = self.registry;
        // What was read before the registry turned out to be another one still looks live until it is read again.
        let is_listed = |part: Option<&Source>| {
            state.disbeliefs() == believed || state.listed.get(&part.cloned()).is_some_and(|after| *after > believed)
        };
        let is_live =
            |(source, known): (&Source, &SourceState)| known.origin == Origin::Live && is_listed(Some(source));
        let is_all_live = state.kept.addresses.is_empty()
            && state.sources.iter().all(is_live)
            && (state.documents.is_none() || live_forms(state).is_some() && is_listed(None));
        if state.kept.why.is_some() {
            self.disbelieved.clone_from(&state.kept.why);
        } else if is_all_live && has_answered(state) {
            (self.disbelieved, self.registry) = (None, state.disbeliefs());
        } else if state.disbeliefs() != self.registry {
            self.disbelieved.get_or_insert_with(|| "another registry answered than before".into());
        } else if has_answered(state) {
            self.disbelieved = None;
        }
    }

    fn reads_alike(&self, other: &Self) -> bool {
        // How often the registry was exchanged is of this process alone.
        let same_contents = self.sources == other.sources && self.forms == other.forms;
        same_contents && self.resolved == other.resolved && self.disbelieved == other.disbelieved
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
        let (saver, requests) = (Saver::default(), mpsc::channel(1).1);
        let mut store = Self { folder: None, _lock: None, identities, errors: Arc::default(), saver, requests };
        let folder = match setting {
            StateDir::Off => return (store, Loaded::default()),
            StateDir::At(folder) => folder.clone(),
            StateDir::Default if Path::new(SYSTEM).is_dir() => PathBuf::from(SYSTEM),
            StateDir::Default => PathBuf::from(LOCAL),
        };
        let place = folder.display();
        let (unfit, failure) = match lock(&folder) {
            Ok((lock, remark)) => {
                if let Some(remark) = remark {
                    tracing::warn!("discovery.state_dir: {place}: {remark}");
                }
                store._lock = Some(lock);
                (false, None)
            }
            Err(Unfit::Taken) => (true, Some("another gateway uses it: give each its own".to_owned())),
            Err(Unfit::Unsafe(why)) => (true, Some(why)),
            Err(Unfit::Failed(error)) => {
                store.errors.unwritable.fetch_add(1, Relaxed);
                (false, Some(error.to_string()))
            }
        };
        if let Some(failure) = &failure {
            let what = if unfit { "nothing is saved there, or read" } else { "it can't be written" };
            tracing::warn!("discovery.state_dir: {place}: {what}: {failure}");
        }
        (store.saver, store.requests) = Saver::new(&folder, failure);
        if unfit {
            return (store, Loaded::default());
        }
        store.folder = Some(folder);
        let loaded = store.load();
        (store, loaded)
    }

    /// Where it is asked how saving fares.
    pub fn saver(&self) -> Saver {
        self.saver.clone()
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
        mut self,
        mut book: Book,
        mut shown: watch::Receiver<Option<Arc<Shown>>>,
        verified: impl Fn(ProviderId) -> Verified + Send + 'static,
        shutdown: CancellationToken,
    ) {
        let Some(folder) = self.folder.clone() else { return };
        let (mut written, mut seen) = (Book::default(), None);
        let mut stops = false;
        // Who waits for the next write.
        let mut asked = Vec::new();
        while !stops {
            let refresh = Instant::now() + REFRESH;
            let all = tokio::select! {
                () = std::future::ready(()), if !asked.is_empty() => false,
                () = shutdown.cancelled() => { stops = true; true }
                Some(request) = self.requests.recv() => { asked.push(request); false }
                changed = shown.wait_for(|now| !same(now.as_ref(), seen.as_ref())) => { stops = changed.is_err(); false }
                () = sleep_until(refresh) => true,
            };
            while let Ok(request) = self.requests.try_recv() {
                asked.push(request);
            }
            // After who asks: what they did is shown.
            seen.clone_from(&shown.borrow_and_update());
            let waiting = std::mem::take(&mut asked);
            let Some(now) = &seen else { continue };
            book.note(now);
            let files = self.files(&book, all, &written, &verified);
            let into = folder.clone();
            self.saver.begins();
            // One at a time, so that the newest state replaces all that were not written meanwhile.
            let writing = move || Failures::of(files.iter().map(|(name, text)| (&**name, write(&into, name, text))));
            let wrote = tokio::task::spawn_blocking(writing).await;
            let failures = wrote.unwrap_or_else(|error| Failures::all(&error.to_string()));
            let news = self.saver.ended(failures.any());
            match failures.any() {
                None => {
                    written = book.clone();
                    if news {
                        tracing::info!("{}: what registries say is saved again", folder.display());
                    }
                }
                Some(error) => {
                    self.errors.unwritable.fetch_add(1, Relaxed);
                    if news {
                        tracing::warn!("{}: what registries say is not saved: {error}", folder.display());
                    }
                }
            }
            // Whoever asked may have gone away.
            waiting.into_iter().for_each(|request| drop(request.send(failures.clone())));
            // An operator's word is written at once, all else at its pace.
            let drained = |now: &Option<Arc<Shown>>| now.as_ref().is_some_and(|now| now.overlay != written.overlay);
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep(PAUSE) => {}
                _ = shown.wait_for(drained), if failures.any().is_none() => {}
                Some(request) = self.requests.recv() => asked.push(request),
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
        // First: it is small, and an operator waits for it.
        if now.overlay != written.overlay {
            files.push((OVERLAY.to_owned(), enveloped(&*now.overlay, &digest(OVERLAY.as_bytes()))));
        }
        for (id, page) in &now.providers {
            let Some(identity) = self.identities.get(id) else { continue };
            if all || written.providers.get(id).is_none_or(|before| !before.reads_alike(page)) {
                let content = StateFile::of(page, &verified(*id));
                files.push((id.as_str().to_owned(), enveloped(&content, &digest(identity.registry.as_bytes()))));
            }
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
        for (id, state) in &now.states {
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
            for (source, released) in &state.kept.released {
                // What belongs to another service must not come back with the next start.
                if let Some(endpoints) = page.sources.get_mut(&source.to_string())
                    && endpoints.iter().any(|endpoint| released.contains(&endpoint.address))
                {
                    *endpoints = endpoints.iter().filter(|it| !released.contains(&it.address)).cloned().collect();
                }
            }
            if now.settled {
                page.sources.retain(|source, _| wanted.contains(source));
            }
            if let Some(forms) = forms {
                page.forms = Some(Arc::clone(forms));
            }
            page.note_registry(state);
            // Before all was read nobody knows what resolves.
            if now.settled && state.documents.is_some() {
                let resolved = now.resolved.get(id).cloned().unwrap_or_default();
                if *page.resolved != resolved {
                    page.resolved = Arc::new(resolved);
                }
            }
        }
    }
}

/// Whether the registry has said something of all that is served of it.
fn has_answered(state: &ProviderState) -> bool {
    let is_read = state.documents.is_some() || !state.sources.is_empty();
    let is_saved = |source: &SourceState| matches!(source.origin, Origin::Saved(_));
    is_read && state.kept.saved_documents.is_none() && !state.sources.values().any(is_saved)
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
