//! Learns documents from files: the dynamic sections of the main file, and the files that match patterns.
//!
//! The folders on the way to each file are watched, not the files, which editors and ConfigMaps replace. A slow
//! glance at all of them catches what the watch does not tell. SIGHUP reads everything at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::doubt::{Believed, Content};
use self::scan::{Glance, attachment, folders, glance, read};
use super::{Context, Provider, Publisher};
use crate::spec::decode::{FileSet, FileText, Format};
use crate::spec::document::Documents;
use crate::spec::problem::Problem;
use crate::spec::settings::FileProvider as Settings;

mod doubt;
mod scan;

/// Changes of files are taken after this much quiet,
const QUIET: Duration = Duration::from_millis(50);
/// and at the latest after this.
const AT_MOST: Duration = Duration::from_millis(200);
/// Between two glances at everything.
const GLANCE: Duration = Duration::from_secs(3);

/// The file provider.
pub struct FileProvider {
    settings: Arc<Settings>,
    publisher: Publisher,
    believed: Believed,
    set: FileSet,
    last: Glance,
    /// What documents name: looked at and watched like themselves.
    attached: Arc<BTreeSet<PathBuf>>,
}

/// A look at all files.
struct Look {
    seen: Glance,
    contents: BTreeMap<PathBuf, Content>,
}

impl FileProvider {
    /// A provider for these files, which publishes there.
    pub fn new(settings: &Settings, publisher: Publisher) -> Self {
        Self {
            settings: Arc::new(settings.clone()),
            publisher,
            believed: Believed::default(),
            set: FileSet::reading(attachment),
            last: Glance::default(),
            attached: Arc::default(),
        }
    }

    /// Reads everything and publishes it; returns the folders to watch.
    async fn update(&mut self) -> Option<BTreeMap<PathBuf, (u64, u64)>> {
        let (settings, attached) = (Arc::clone(&self.settings), Arc::clone(&self.attached));
        let began = Instant::now();
        let look = tokio::task::spawn_blocking(move || {
            // The glance comes first: what changes while it is read shows at the next one.
            let seen = glance(&settings, &attached);
            let contents = seen.files.keys().filter_map(|path| Some((path.clone(), read(path)?))).collect();
            Look { seen, contents }
        });
        let Look { seen, contents } = match look.await {
            Ok(look) => look,
            Err(error) => {
                tracing::error!("reading files failed: {error}");
                return None;
            }
        };
        let unknown = |path: &PathBuf| {
            let unreadable = seen.unreadable.iter().find(|(folder, _)| path.starts_with(folder));
            unreadable.map(|(_, reason)| reason.clone())
        };
        let contents = self.believed.update(contents, unknown, Instant::now());
        let mut problems = seen.problems.clone();
        let unread = |(folder, reason): (&PathBuf, &String)| {
            Problem::new(folder.display().to_string(), "", format!("cannot be read: {reason}"))
        };
        problems.extend(seen.unreadable.iter().map(unread));
        let mut files = Vec::new();
        for (path, content) in contents {
            let main = self.settings.main.as_ref() == Some(path);
            let place = path.display().to_string();
            match format_of(path).or(main.then_some(Format::Toml)) {
                Some(format) => files.push(FileText { path: place, format, main, bytes: content.clone() }),
                None => problems.push(Problem::new(place, "", "its name must end in .toml, .yaml, .yml or .json")),
            }
        }
        // Of two files that define a name the first one wins: the main file, then the smaller path.
        files.sort_by_key(|file: &FileText| !file.main);
        let mut documents = self.decode(files).await?;
        documents.rejected.append(&mut problems);
        let (settings, attached) = (Arc::clone(&self.settings), Arc::clone(&self.attached));
        let (seen, folders) = tokio::task::spawn_blocking(move || {
            let folders = folders(&settings, &seen, &attached);
            (seen, folders)
        })
        .await
        .inspect_err(|error| tracing::error!("looking at folders failed: {error}"))
        .ok()?;
        self.last = seen;
        self.publisher.status().watch("files").confirmed(began);
        self.publisher.documents(documents);
        Some(folders)
    }

    /// The documents of the files; what they name is read on the way.
    async fn decode(&mut self, files: Vec<FileText>) -> Option<Documents> {
        let mut set = std::mem::take(&mut self.set);
        let decoded = tokio::task::spawn_blocking(move || {
            let documents = set.update(files);
            (set, documents)
        });
        match decoded.await {
            Ok((set, documents)) => {
                self.attached = Arc::new(set.attached());
                self.set = set;
                Some(documents)
            }
            Err(error) => {
                tracing::error!("reading files failed: {error}");
                self.set = FileSet::reading(attachment);
                None
            }
        }
    }

    /// Whether a glance differs from the last one.
    async fn looks_different(&self) -> bool {
        let (settings, attached) = (Arc::clone(&self.settings), Arc::clone(&self.attached));
        let began = Instant::now();
        let look = tokio::task::spawn_blocking(move || glance(&settings, &attached));
        let same = look.await.is_ok_and(|seen| seen == self.last);
        if same {
            self.publisher.status().watch("files").confirmed(began);
        }
        !same
    }
}

#[async_trait]
impl Provider for FileProvider {
    async fn run(mut self: Box<Self>, mut context: Context) {
        let changed = Arc::new(Notify::new());
        let mut watched = Watched::new(Arc::clone(&changed));
        let mut glance_at = Instant::now() + GLANCE;
        loop {
            if let Some(folders) = self.update().await
                && watched.follow(folders)
            {
                // What happened in a folder before it was watched was told to nobody.
                changed.notify_one();
            }
            loop {
                let again = self.believed.look_again_at().unwrap_or(glance_at);
                tokio::select! {
                    () = context.shutdown.cancelled() => return,
                    () = changed.notified() => {
                        settle(&changed).await;
                        break;
                    }
                    told = context.reread.changed() => match told {
                        Ok(()) => break,
                        // Nobody can ask any more, which happens at shutdown only.
                        Err(_) => {
                            context.shutdown.cancelled().await;
                            return;
                        }
                    },
                    () = sleep_until(again.min(glance_at)) => {
                        let due = Instant::now() >= glance_at;
                        if due {
                            glance_at = Instant::now() + GLANCE;
                        }
                        if !due || self.looks_different().await {
                            break;
                        }
                    }
                }
            }
        }
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

/// The watched folders.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watched {
    fn new(changed: Arc<Notify>) -> Self {
        let told = move |event: notify::Result<notify::Event>| match event.map(|event| event.kind) {
            // Our own reading opens and closes files.
            Ok(EventKind::Access(kind)) if kind != AccessKind::Close(AccessMode::Write) => {}
            Ok(_) | Err(_) => changed.notify_one(),
        };
        let watcher = notify::recommended_watcher(told)
            .inspect_err(|error| tracing::warn!("files are looked at every {GLANCE:?}, not watched: {error}"))
            .ok();
        Self { watcher, folders: BTreeMap::new() }
    }

    /// Watches these folders and no others; tells whether one is new.
    fn follow(&mut self, folders: BTreeMap<PathBuf, (u64, u64)>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        for (folder, identity) in &self.folders {
            if folders.get(folder) != Some(identity) {
                // It fails for a folder that is gone, with which its watch went.
                let _ = watcher.unwatch(folder);
            }
        }
        let mut new = false;
        let mut watched = BTreeMap::new();
        for (folder, identity) in folders {
            if self.folders.get(&folder) != Some(&identity) {
                if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    tracing::warn!(folder = %folder.display(), "looked at every {GLANCE:?}, not watched: {error}");
                    continue;
                }
                new = true;
            }
            watched.insert(folder, identity);
        }
        self.folders = watched;
        new
    }
}
