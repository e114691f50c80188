//! What an earlier process served last, made ready before anything is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Rules;
use super::overlay::Overlay;
use super::resolution::{self, Forms};
use super::saved::SavedState;
use crate::spec::file::{MAX_ATTACHMENT_BYTES, read};
use crate::spec::name::ProviderId;

/// Documents name files, and a file system may hang.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The last resolved forms of an earlier process. Without them a route that does not resolve answers 503.
pub(super) async fn recall(
    saved: &Arc<BTreeMap<ProviderId, SavedState>>,
    providers: Vec<ProviderId>,
    rules: Rules,
    overlay: Arc<Overlay>,
) -> Forms {
    if saved.is_empty() {
        return Forms::default();
    }
    let saved = Arc::clone(saved);
    let (answer, recalled) = oneshot::channel();
    // A thread of its own: nobody waits for it at a stop.
    let recalling = thread::Builder::new().name("recall".to_owned()).spawn(move || {
        let read = |path: &Path| read(path, MAX_ATTACHMENT_BYTES).map_err(|error| error.to_string());
        // Nobody may wait for it any more.
        let _ = answer.send(resolution::recall(&saved, providers, &rules, &overlay, &read));
    });
    let why = match (recalling, timeout(READ_TIMEOUT, recalled).await) {
        (Ok(_), Ok(Ok(forms))) => return forms,
        (Err(error), _) => error.to_string(),
        (Ok(_), Ok(Err(_))) => "reading them failed".to_owned(),
        (Ok(_), Err(_)) => "a file that a document names cannot be read in time".to_owned(),
    };
    tracing::warn!("the saved forms that resolved last are not used: {why}");
    Forms::default()
}
