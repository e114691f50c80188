//! Reads of files with tokens, passwords and keys, again and again, none of which waits long for a file system that hangs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::spec::file;

/// How long a read may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads under way that took too long: each is waited for again, so that one path costs one thread.
#[derive(Debug, Default)]
pub(super) struct SecretFiles(Mutex<BTreeMap<PathBuf, JoinHandle<io::Result<Vec<u8>>>>>);

impl SecretFiles {
    /// The content of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// Why it cannot be read, with its path.
    pub(super) async fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, String> {
        let mut reads = self.0.lock().await;
        let read = reads.entry(path.to_owned()).or_insert_with(|| {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || file::read(&path, limit))
        });
        let content = match timeout(PATIENCE, read).await {
            Err(_) => Err("the file system does not answer".to_owned()),
            Ok(done) => {
                reads.remove(path);
                done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| error.to_string())
            }
        };
        content.map_err(|error| format!("{}: {error}", path.display()))
    }
}
