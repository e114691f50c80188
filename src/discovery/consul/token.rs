//! Defines the ACL token that requests carry, and how it is re-read from its file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;

use crate::discovery::secret_file::SecretFiles;
use crate::discovery::status::{ProviderStatus, WatchState};
use crate::spec::file::MAX_SECRET_BYTES;
use crate::spec::settings::Secret;

/// The token of all requests. One in a file wins over one written down, and may change at any time.
pub(super) struct Token {
    file: Option<PathBuf>,
    files: SecretFiles,
    value: Mutex<Option<HeaderValue>>,
    changed: Arc<Notify>,
}

/// How often the file is looked at: an old token is out of use within 2 s of a rotation.
const LOOK: Duration = Duration::from_secs(1);
/// No token is longer; what is, is another file.
const MAX_LENGTH: usize = 4096;

impl Token {
    /// The token of these settings. The file is read by [`Token::reread`].
    pub(super) fn new(written: Option<&Secret>, file: Option<PathBuf>, changed: Arc<Notify>) -> Self {
        let value = written.and_then(|secret| header(secret.expose()).ok().flatten());
        Self { file, files: SecretFiles::default(), value: Mutex::new(value), changed }
    }

    /// What the header `X-Consul-Token` says, marked as sensitive.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again; true when the token is another now, and whoever waits for that is woken. A file
    /// that cannot be read changes nothing.
    ///
    /// # Errors
    /// Why the file is of no use.
    pub(super) async fn reread(&self) -> Result<bool, String> {
        let Some(file) = &self.file else { return Ok(false) };
        let place = |text: &dyn std::fmt::Display| format!("{}: {text}", file.display());
        let bytes = self.files.read(file, MAX_SECRET_BYTES).await?;
        let text = str::from_utf8(&bytes).map_err(|error| place(&error))?;
        let new = header(text).map_err(|error| place(&error))?.ok_or_else(|| place(&"is empty"))?;
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if value.as_ref() == Some(&new) {
            return Ok(false);
        }
        *value = Some(new);
        self.changed.notify_waiters();
        Ok(true)
    }

    /// Follows the file for ever. While it is of no use, the status has a failing watch of its name.
    pub(super) async fn follow(&self, status: &ProviderStatus) {
        let Some(file) = &self.file else { return std::future::pending().await };
        let watch = format!("token_file:{}", file.display());
        let (mut said, mut failures) = (None, 0);
        loop {
            let read = self.reread().await;
            match &read {
                Ok(_) if failures > 0 => {
                    failures = 0;
                    status.forget(&watch);
                }
                Ok(_) => {}
                Err(error) => {
                    failures += 1;
                    status.watch(&watch).set_state(WatchState::Failing { failures, error: error.clone() });
                }
            }
            match read {
                Ok(changed) => {
                    said = None;
                    if changed {
                        tracing::info!("the Consul token has changed");
                    }
                }
                Err(error) if said.as_ref() != Some(&error) => {
                    tracing::warn!("the Consul token stays what it was: {error}");
                    said = Some(error);
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn header(text: &str) -> Result<Option<HeaderValue>, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > MAX_LENGTH {
        return Err("is too long for a token");
    }
    if text.lines().count() > 1 {
        return Err("holds several lines: a token is one");
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| "holds characters that no token has")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(token: &Token) -> Option<String> {
        token.header().and_then(|value| value.to_str().map(str::to_owned).ok())
    }

    #[tokio::test]
    async fn the_file_wins_and_a_bad_file_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        let changed = Arc::new(Notify::new());
        let token = Token::new(Some(&Secret::new("written")), Some(file.clone()), Arc::clone(&changed));
        assert!(token.reread().await.is_err());
        assert_eq!(shown(&token).as_deref(), Some("written"));

        std::fs::write(&file, "first\n").expect("written");
        let woken = changed.notified();
        assert_eq!(token.reread().await, Ok(true));
        woken.await;
        assert_eq!(shown(&token).as_deref(), Some("first"));
        assert_eq!(token.reread().await, Ok(false));

        for bad in ["", "\n", "a\nb", &"x".repeat(MAX_LENGTH + 1)] {
            std::fs::write(&file, bad).expect("written");
            assert!(token.reread().await.is_err(), "{bad}");
        }
        assert_eq!(shown(&token).as_deref(), Some("first"));
        assert!(!format!("{:?}", token.header()).contains("first"));
    }
}
