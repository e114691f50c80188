//! The saved claims of tags: which service claims which place, and since when.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Store;
use super::file::{Unusable, digest, enveloped, read};
use super::folder::write;
use crate::spec::claims::ClaimBook;

const NAME: &str = "claims";
/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// The file of claims.
#[derive(Debug)]
pub struct SavedClaims {
    folder: PathBuf,
    identity: String,
}

impl Store {
    /// The file of the claims of this registry; `None` where nothing is saved.
    pub fn claims(&self, registry: &str) -> Option<SavedClaims> {
        let folder = self.folder.clone()?;
        Some(SavedClaims { folder, identity: digest(format!("claims {registry}").as_bytes()) })
    }
}

impl SavedClaims {
    /// What an earlier process remembered.
    pub fn load(&self) -> ClaimBook {
        let path = self.folder.join(format!("{NAME}.json"));
        match read(&path, &self.identity) {
            Ok(book) => return book,
            Err(Unusable::Missing) => {}
            Err(Unusable::Unreadable(error)) => tracing::warn!("the saved {} is not used: {error}", path.display()),
            Err(Unusable::Corrupt(why)) => tracing::warn!("the saved {} is not used: {why}", path.display()),
            Err(Unusable::Foreign(why)) => tracing::warn!("the saved {} is not used: {why}", path.display()),
        }
        ClaimBook::default()
    }

    /// Saves what is remembered, until shutdown and once more then.
    pub async fn keep(self, mut book: watch::Receiver<Arc<ClaimBook>>, shutdown: CancellationToken) {
        let mut failing = false;
        loop {
            let last = tokio::select! {
                () = shutdown.cancelled() => true,
                changed = book.changed() => changed.is_err(),
            };
            let now = Arc::clone(&book.borrow_and_update());
            let (folder, text) = (self.folder.clone(), enveloped(&*now, &self.identity));
            let written = tokio::task::spawn_blocking(move || write(&folder, NAME, &text)).await;
            match written.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                Ok(()) => failing = false,
                Err(error) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!("{}: claims of tags are not saved: {error}", self.folder.display());
                }
                Err(_) => {}
            }
            if last {
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}
