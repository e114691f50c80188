//! The saved claims of tags: which service claims which place, and since when.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::file::{Unusable, digest, enveloped, read};
use super::folder::write;
use super::{Saver, Store};
use crate::spec::claims::ClaimBook;

const NAME: &str = "claims";
/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// The file of claims.
#[derive(Debug)]
pub struct SavedClaims {
    folder: PathBuf,
    identity: String,
    /// Where people ask how saving fares.
    saver: Saver,
}

impl Store {
    /// The file of the claims of this registry; `None` where nothing is saved.
    pub fn claims(&self, registry: &str) -> Option<SavedClaims> {
        let folder = self.folder.clone()?;
        let identity = digest(format!("claims {registry}").as_bytes());
        Some(SavedClaims { folder, identity, saver: self.saver() })
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

    /// Saves what is remembered, until shutdown and once more then; again and again what could not be saved.
    pub async fn keep(self, mut book: watch::Receiver<Arc<ClaimBook>>, shutdown: CancellationToken) {
        let mut failing = false;
        loop {
            let last = tokio::select! {
                () = shutdown.cancelled() => true,
                changed = book.changed() => changed.is_err(),
                () = tokio::time::sleep(AGAIN), if failing => false,
            };
            let now = Arc::clone(&book.borrow_and_update());
            let (folder, text) = (self.folder.clone(), enveloped(&*now, &self.identity));
            let written = tokio::task::spawn_blocking(move || write(&folder, NAME, &text)).await;
            let error = written.unwrap_or_else(|error| Err(std::io::Error::other(error))).err();
            failing = error.is_some();
            let place = self.folder.display();
            match (self.saver.ended_claims(error.as_ref().map(ToString::to_string).as_deref()), error) {
                (true, Some(error)) => tracing::warn!("{place}: claims of tags are not saved: {error}"),
                (true, None) => tracing::info!("{place}: claims of tags are saved again"),
                (false, _) => {}
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
