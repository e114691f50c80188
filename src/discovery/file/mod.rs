//! Learns documents from files: the dynamic sections of the main file, and the files that match patterns.
//!
//! The folders on the way to each file are watched, not the files, which editors and ConfigMaps replace. A slow
//! glance at all of them catches what the watch does not tell. SIGHUP reads everything at once.
//! What files lose is believed after a [`doubt`]; nothing here waits for a file system that hangs ([`clerk`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::clerk::Clerk;
use self::doubt::Doubt;
use self::scan::{Attachments, Content, Identity, Scan};
use self::watched::Watched;
use super::{Context, Provider, Publisher};
use crate::spec::decode::{FileSet, FileText, Format, Loss, SavedForms};
use crate::spec::document::Documents;
use crate::spec::hold::{Held, HeldPart};
use crate::spec::problem::{Problem, sort};
use crate::spec::settings::FileProvider as Settings;

mod clerk;
mod doubt;
mod scan;
mod watched;

/// Changes of files are taken after this much quiet,
const QUIET: Duration = Duration::from_millis(50);
/// and at the latest after this.
const AT_MOST: Duration = Duration::from_millis(200);
/// Between two glances at everything.
const GLANCE: Duration = Duration::from_secs(3);

/// Compares the static sections of the main file, given its text, with those of the start.
pub type StaticCheck = Arc<dyn Fn(&[u8]) -> StaticChanges + Send + Sync>;

/// What became of the static sections of the main file since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticChanges {
    /// Settings that are others and take effect at the next start.
    pub pending: Vec<Problem>,
    /// What would keep the gateway from starting.
    pub invalid: Vec<Problem>,
}

/// The file provider.
pub struct FileProvider {
    settings: Settings,
    statics: Option<StaticCheck>,
    publisher: Publisher,
    /// Away while it looks at files.
    shelf: Option<Box<Shelf>>,
    due: Option<Instant>,
}

/// What is known of all files. It is used on a thread that may block.
struct Shelf {
    main: Option<PathBuf>,
    scan: Scan,
    clerk: Arc<Mutex<Clerk>>,
    doubt: Doubt,
    set: FileSet,
    /// What documents name: looked at and watched like themselves.
    attached: BTreeSet<PathBuf>,
    attachments: Arc<Attachments>,
    statics: Option<StaticCheck>,
    /// The main file as it was compared last, and what came of that.
    compared: Option<Content>,
    changes: StaticChanges,
    has_looked: bool,
    /// An operator accepted that the main file is gone.
    main_accepted: bool,
    folders: BTreeMap<PathBuf, Identity>,
}

/// Why files are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    /// Something happened, or it is time.
    Look,
    /// Somebody asked for it: also files that look unchanged are read.
    Reread,
    /// An operator accepts what is held of this file.
    Accept(Arc<str>),
}

/// What a look brought.
struct Update {
    documents: Documents,
    forms: SavedForms,
    holds: BTreeMap<HeldPart, Held>,
    pending: Vec<Problem>,
}

impl FileProvider {
    /// A provider for these files, which publishes there.
    pub fn new(settings: &Settings, publisher: Publisher) -> Self {
        Self { settings: settings.clone(), statics: None, publisher, shelf: None, due: None }
    }

    /// The same, which also compares the static sections of the main file with those of the start.
    pub fn comparing(self, statics: Option<StaticCheck>) -> Self {
        Self { statics, ..self }
    }

    /// Looks at all files and publishes what is new.
    async fn update(&mut self, reason: Reason, watched: &mut Option<Watched>, changed: &Arc<Notify>) {
        let began = Instant::now();
        let mut shelf = match self.shelf.take() {
            Some(shelf) => shelf,
            None => Box::new(Shelf::new(&self.settings, self.statics.clone(), self.publisher.remembered())),
        };
        let looked = tokio::task::spawn_blocking(move || {
            let update = shelf.update(reason, began);
            (shelf, update)
        });
        let (shelf, update) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!("reading files failed: {error}");
                return;
            }
        };
        self.due = shelf.doubt.due();
        let folders = shelf.folders.clone();
        self.shelf = Some(shelf);
        self.publisher.status().watch("files").confirmed(began);
        let Some(Update { documents, forms, holds, pending }) = update else { return };
        let before = self.publisher.current();
        tell_holds(&before.holds, &holds);
        tell_pending(&before.pending, &pending);
        self.publisher.files(documents, forms, holds, pending);
        if watched::follow(watched, folders).await {
            // What happened in a folder before it was watched was told to nobody.
            changed.notify_one();
        }
    }

    async fn follow(mut self: Box<Self>, mut context: Context) {
        let changed = Arc::new(Notify::new());
        let mut watched = Some(Watched::new(Arc::clone(&changed)));
        let mut accepted = self.publisher.accepted();
        let mut reason = Reason::Look;
        loop {
            self.update(reason, &mut watched, &changed).await;
            let glance_at = Instant::now() + GLANCE;
            reason = tokio::select! {
                () = changed.notified() => {
                    settle(&changed).await;
                    Reason::Look
                }
                Ok(()) = context.reread.changed() => Reason::Reread,
                part = accepted.recv() => match part {
                    Ok(HeldPart::File(file)) => Reason::Accept(file),
                    // What was missed stays held, and can be accepted again.
                    Ok(HeldPart::Endpoints(_) | HeldPart::Document(_)) | Err(RecvError::Lagged(_)) => Reason::Look,
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                () = sleep_until(self.due.map_or(glance_at, |due| due.min(glance_at))) => Reason::Look,
            };
        }
    }
}

#[async_trait]
impl Provider for FileProvider {
    async fn run(self: Box<Self>, context: Context) {
        let shutdown = context.shutdown.clone();
        // Also while a look is under way, which may take long.
        shutdown.run_until_cancelled(self.follow(context)).await;
    }
}

impl Shelf {
    /// `remembered`: as an earlier process left the files.
    fn new(settings: &Settings, statics: Option<StaticCheck>, remembered: Option<&Arc<SavedForms>>) -> Self {
        let clerk = Arc::new(Mutex::new(Clerk::new()));
        let attachments = Arc::new(Attachments::new(Arc::clone(&clerk)));
        let reader = Arc::clone(&attachments);
        let mut set = FileSet::reading(move |path| reader.read(path));
        if let Some(remembered) = remembered {
            set = set.remembering(remembered);
        }
        Self {
            main: settings.main.clone(),
            scan: Scan::new(settings.clone(), Arc::clone(&clerk)),
            clerk,
            doubt: Doubt::default(),
            set,
            attached: BTreeSet::new(),
            attachments,
            statics,
            compared: None,
            changes: StaticChanges::default(),
            has_looked: false,
            main_accepted: false,
            folders: BTreeMap::new(),
        }
    }

    /// Looks at all files; `None` where nothing is new.
    fn update(&mut self, reason: Reason, now: Instant) -> Option<Update> {
        let of_main = self.main.as_ref().map(|main| main.display().to_string());
        let path = |place: &str| match &self.main {
            Some(main) if of_main.as_deref() == Some(place) => main.clone(),
            _ => PathBuf::from(place),
        };
        let former = self.set.paths().map(path).collect();
        let mut look = self.scan.look(&former, reason == Reason::Reread);
        let accepts = match &reason {
            Reason::Accept(file) if of_main.as_deref() == Some(file) => {
                self.main_accepted = true;
                self.doubt.accept(file);
                true
            }
            Reason::Accept(file) => self.doubt.accept(file),
            Reason::Look | Reason::Reread => false,
        };
        let is_due = self.doubt.due().is_some_and(|due| due <= now);
        let attachments_changed = self.attachments.changed(&self.attached);
        let asked = reason == Reason::Reread || accepts;
        if self.has_looked && !(look.changed || attachments_changed || asked || is_due) {
            return None;
        }
        self.has_looked = true;
        self.compare_statics(&look.files);
        let mut problems = std::mem::take(&mut look.problems);
        let mut files = Vec::new();
        for (path, content) in look.files {
            let main = self.main.as_ref() == Some(&path);
            let place = path.display().to_string();
            // What cannot be read is of no format.
            let of_no_name = main || content.is_err() && self.scan.is_literal(&path);
            match format_of(&path).or(of_no_name.then_some(Format::Toml)) {
                Some(format) => {
                    let writing = look.writings.get(&path).cloned();
                    files.push(FileText { path: place, format, main, bytes: content, writing });
                }
                None => problems.push(Problem::new(place, "", "its name must end in .toml, .yaml, .yml or .json")),
            }
        }
        // Of two files that define a name the first one wins: the main file, then the smaller path.
        files.sort_by_key(|file: &FileText| !file.main);
        let shown = |path: &PathBuf| path.display().to_string();
        let absent = look.absent.iter().map(|(path, why)| (shown(path), Arc::clone(why))).collect();
        let replaced = look.replaced.iter().map(shown).collect();
        let doubt = &mut self.doubt;
        doubt.note_unfit(of_main.as_deref().filter(|_| !self.changes.invalid.is_empty()));
        let judge = |losses: &[Loss]| doubt.judge(losses, &absent, &replaced, look.arrived, now);
        let mut documents = self.set.update_beside(files, &look.unlisted, judge);
        let mut holds = self.doubt.holds();
        let main_is_gone = of_main.and_then(|main| Some((absent.get(&main)?, main)));
        self.main_accepted &= main_is_gone.is_some();
        if let Some((why, main)) = main_is_gone.filter(|_| !self.main_accepted) {
            // Also where it had no item: its settings are needed at the next start.
            let held = || Held { lost: Vec::new(), why: Arc::clone(why), missing_right: None };
            holds.entry(HeldPart::File(main.into())).or_insert_with(held);
        }
        documents.rejected.append(&mut problems);
        documents.rejected.extend(self.changes.invalid.iter().cloned());
        sort(&mut documents.rejected);
        self.attached = self.set.attached();
        self.folders = self.scan.folders(&self.attached);
        let forms = self.set.forms();
        Some(Update { documents, forms, holds, pending: self.changes.pending.clone() })
    }

    /// Compares the static sections, where the main file can be read and is another than at the last time.
    fn compare_statics(&mut self, files: &BTreeMap<PathBuf, Content>) {
        let (Some(check), Some(main)) = (&self.statics, &self.main) else { return };
        let Some(content @ Ok(bytes)) = files.get(main) else { return };
        if self.compared.as_ref() == Some(content) {
            return;
        }
        let (check, bytes) = (Arc::clone(check), bytes.clone());
        // It may read files that the settings name.
        let mut clerk = self.clerk.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(changes) = clerk.ask_one(main, move |_| check(&bytes)) {
            self.changes = changes;
            self.compared = Some(content.clone());
        }
    }
}

/// Logs what is newly held, and what no longer is.
fn tell_holds(before: &BTreeMap<HeldPart, Held>, now: &BTreeMap<HeldPart, Held>) {
    let place = |part: &HeldPart| match part {
        HeldPart::File(path) => path.to_string(),
        HeldPart::Endpoints(_) | HeldPart::Document(_) => String::new(),
    };
    for (part, held) in now {
        if before.get(part).is_none_or(|before| before.why != held.why) {
            let (file, items) = (place(part), held.lost.len());
            tracing::warn!(file, items, "held: {}; `fleetgate accept file:{file}` lets go of them", held.why);
        }
    }
    for part in before.keys().filter(|part| !now.contains_key(*part)) {
        tracing::info!(file = place(part), "nothing of this file is held any more");
    }
}

/// Logs settings that newly wait for a restart, and those that no longer do.
fn tell_pending(before: &[Problem], now: &[Problem]) {
    for setting in now.iter().filter(|setting| !before.contains(setting)) {
        tracing::warn!("{setting}");
    }
    if now.is_empty() && !before.is_empty() {
        tracing::info!("the static settings of the configuration file are those of the start again");
    }
}

/// Waits until nothing changed for a while.
async fn settle(changed: &Notify) {
    let latest = Instant::now() + AT_MOST;
    while timeout_at((Instant::now() + QUIET).min(latest), changed.notified()).await.is_ok() {
        if Instant::now() >= latest {
            return;
        }
    }
}

fn format_of(path: &Path) -> Option<Format> {
    Format::of_extension(path.extension()?.to_str()?)
}
