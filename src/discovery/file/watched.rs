//! The folders that are watched for changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::GLANCE;
use super::scan::Identity;

/// How long folders may take to be watched.
const PATIENCE: Duration = Duration::from_secs(10);

/// The watched folders.
pub(super) struct Watched {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeMap<PathBuf, Identity>,
    /// Those that could not be watched, as it was told last.
    unwatched: BTreeSet<PathBuf>,
}

impl Watched {
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        let told = move |event: notify::Result<notify::Event>| match event.map(|event| event.kind) {
            // Our own reading opens and closes files.
            Ok(EventKind::Access(kind)) if kind != AccessKind::Close(AccessMode::Write) => {}
            Ok(_) | Err(_) => changed.notify_one(),
        };
        let watcher = notify::recommended_watcher(told)
            .inspect_err(|error| tracing::warn!("files are looked at every {GLANCE:?}, not watched: {error}"))
            .ok();
        Self { watcher, folders: BTreeMap::new(), unwatched: BTreeSet::new() }
    }

    /// Watches these folders and no others; tells whether one is new.
    fn follow(&mut self, folders: BTreeMap<PathBuf, Identity>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        for (folder, identity) in &self.folders {
            if folders.get(folder) != Some(identity) {
                // It fails for a folder that is gone, with which its watch went.
                let _ = watcher.unwatch(folder);
            }
        }
        let mut new = false;
        let (mut watched, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for (folder, identity) in folders {
            if self.folders.get(&folder) != Some(&identity) {
                if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    failed.insert(folder, error.to_string());
                    continue;
                }
                new = true;
            }
            watched.insert(folder, identity);
        }
        self.folders = watched;
        // Thousands fail together where the system allows no more watches.
        if let Some((folder, error)) = failed.iter().find(|(folder, _)| !self.unwatched.contains(*folder)) {
            let (folder, count) = (folder.display(), failed.len());
            tracing::warn!(count, "folders are looked at every {GLANCE:?}, not watched, among them {folder}: {error}");
        }
        self.unwatched = failed.into_keys().collect();
        new
    }
}

/// Watches these folders and no others, where that does not hang; tells whether one is new.
pub(super) async fn follow(watched: &mut Option<Watched>, folders: BTreeMap<PathBuf, Identity>) -> bool {
    let Some(mut watching) = watched.take_if(|watched| watched.folders != folders) else { return false };
    let following = tokio::task::spawn_blocking(move || {
        let new = watching.follow(folders);
        (watching, new)
    });
    match tokio::time::timeout(PATIENCE, following).await {
        Ok(Ok((watching, new))) => {
            *watched = Some(watching);
            new
        }
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("files are looked at every {GLANCE:?}, no longer watched: a file system does not answer");
            false
        }
    }
}
