//! Defines the feedback to the teams that register and write documents: what is wrong with theirs, in the registry.
//!
//! What is written depends on nothing but the documents and registrations, so that all gateways write the same: each
//! compares with what is there, writes what differs where nobody has written meanwhile, and takes away what is mended.
//! What control finds when it puts items together (an absent upstream, a shadowed document) comes back by a channel; gateways
//! with different files may differ about it, and the one that looked last has the last word.
//! Nobody looks again before something else is wrong, so that gateways of two versions do not undo each other's words for
//! ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use super::state::{Diagnostics, ProviderState};
use super::supervise::{WatchError, around};
use crate::spec::document::Documents;
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;

/// Where feedback stands: keys below a prefix of a registry.
#[async_trait]
pub trait Board: Send + Sync {
    /// Where, for messages.
    fn place(&self) -> String;

    /// What stands there, by key relative to the prefix, each with what [`Board::put`] compares.
    async fn read(&self) -> Result<BTreeMap<String, (String, u64)>, WatchError>;

    /// Writes a key, or removes it, if it has not changed since it was read (0: if it is still not there). False when it
    /// has.
    async fn put(&self, key: &str, value: Option<String>, version: u64) -> Result<bool, WatchError>;
}

/// Writes feedback.
pub struct Feedback<B: Board> {
    /// Where to.
    pub board: B,
    /// Where gateways wrote before there was `fleet_prefix`. Nothing is written there any more; what is mended is removed, as they would.
    pub former: B,
    /// Of whoever publishes the registry's documents.
    pub documents: watch::Receiver<Arc<ProviderState>>,
    /// Who that is.
    pub provider: ProviderId,
    /// What services ask for in their registrations, where they may.
    pub registrations: Option<Registrations>,
    /// What control finds wrong with well-formed items; `None` until it has seen every provider's.
    pub diagnostics: watch::Receiver<Option<Arc<Diagnostics>>>,
}

/// What services ask for in their registrations.
pub struct Registrations {
    /// Of whoever publishes the services' instances.
    pub sources: watch::Receiver<Arc<ProviderState>>,
    /// Of whoever publishes what they ask for.
    pub tags: watch::Receiver<Arc<ProviderState>>,
}

/// Between two looks at what changed: many problems at once are written at once.
const PAUSE: Duration = Duration::from_secs(1);
/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(30);
/// Most keys, and most problems told in one.
const MOST_KEYS: usize = 500;
const MOST_PROBLEMS: usize = 20;

/// What should stand below the prefix: by key, relative to it.
type Told = BTreeMap<String, String>;

impl<B: Board> Feedback<B> {
    /// Writes what is wrong, for ever.
    pub async fn follow(mut self) {
        let mut written: Option<Told> = None;
        let mut said = None;
        loop {
            let mut again = false;
            if let Some(wanted) = self.wanted()
                && written.as_ref() != Some(&wanted)
            {
                match self.write(&wanted).await {
                    Ok(complete) => {
                        said = None;
                        again = !complete;
                        written = complete.then_some(wanted);
                    }
                    Err(error) => {
                        again = true;
                        if said.as_ref() != Some(&error.text) {
                            tracing::warn!("cannot write below {}: {error}", self.board.place());
                            said = Some(error.text);
                        }
                    }
                }
            }
            let registrations = async {
                match &mut self.registrations {
                    Some(Registrations { sources, tags }) => tokio::select! {
                        changed = sources.changed() => changed,
                        changed = tags.changed() => changed,
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = self.documents.changed() => {}
                Ok(()) = registrations => {}
                Ok(()) = self.diagnostics.changed() => {}
                () = sleep(around(AGAIN, 0.2)), if again => {}
                else => return std::future::pending().await,
            }
            sleep(around(PAUSE, 0.2)).await;
        }
    }

    /// What should stand there; `None` while not everything was read.
    fn wanted(&mut self) -> Option<Told> {
        let documents = self.documents.borrow_and_update().documents.clone()?;
        let diagnostics = self.diagnostics.borrow_and_update().clone()?;
        let mut by_key: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
        add_documents(&mut by_key, &documents);
        add_diagnostics(&mut by_key, &diagnostics, self.provider);
        if let Some(registrations) = &mut self.registrations {
            let tags = registrations.tags.borrow_and_update().documents.clone()?;
            let of_items = tags.routes.values().flat_map(|item| &item.problems);
            let of_items =
                of_items.chain(tags.upstreams.values().flat_map(|item| &item.problems)).chain(&tags.rejected);
            let sources = registrations.sources.borrow_and_update().clone();
            let of_sources = sources.sources.values().flat_map(|source| source.problems.iter());
            for problem in of_items.chain(of_sources) {
                let service = problem.place.strip_prefix("consul:").unwrap_or(&problem.place);
                by_key.entry(format!("services/{service}")).or_default().push(problem.clone());
            }
            add_diagnostics(&mut by_key, &diagnostics, ProviderId::ConsulTags);
            for (name, item) in &tags.routes {
                let broken = item.good.iter().flat_map(|spec| &spec.registered.broken);
                let service = item.place.strip_prefix("consul:").unwrap_or(&item.place);
                let problems = broken.map(|text| Problem::new(&*item.place, format!("routes.{name}"), text));
                by_key.entry(format!("services/{service}")).or_default().extend(problems);
            }
        }
        by_key.retain(|_, problems| !problems.is_empty());
        Some(by_key.into_iter().take(MOST_KEYS).map(|(key, problems)| (key, text(problems))).collect())
    }

    /// Makes what stands there what is wanted. False when others wrote at the same time.
    async fn write(&self, wanted: &Told) -> Result<bool, WatchError> {
        let there = self.board.read().await?;
        let mut complete = true;
        for (key, value) in wanted {
            let (known, version) = there.get(key).map_or((None, 0), |(value, version)| (Some(value), *version));
            if known != Some(value) {
                complete &= self.board.put(key, Some(value.clone()), version).await?;
            }
        }
        // Services ask for nothing here: what others say of theirs stays.
        let ours = |key: &str| self.registrations.is_some() || !key.starts_with("services/");
        for (key, (_, version)) in there.iter().filter(|(key, _)| ours(key) && !wanted.contains_key(*key)) {
            complete &= self.board.put(key, None, *version).await?;
        }
        if let Err(error) = self.clean(wanted).await {
            tracing::debug!("cannot clean up below {}: {error}", self.former.place());
        }
        Ok(complete)
    }

    /// Removes at the former place what is mended. What is still wrong stays for those who look there: an older gateway
    /// beside this one would write it again.
    async fn clean(&self, wanted: &Told) -> Result<(), WatchError> {
        for (key, (_, version)) in self.former.read().await? {
            let is_ours = self.registrations.is_some() || !key.starts_with("services/");
            if is_ours && !wanted.contains_key(&key) {
                self.former.put(&key, None, version).await?;
            }
        }
        Ok(())
    }
}

fn add_documents(by_key: &mut BTreeMap<String, Vec<Problem>>, documents: &Documents) {
    for entry in documents.entries() {
        let key = format!("{}/{}", entry.kind.as_str(), entry.name);
        by_key.entry(key).or_default().extend(entry.problems.iter().cloned());
    }
    by_key.entry("other".to_owned()).or_default().extend(documents.rejected.iter().cloned());
}

fn add_diagnostics(by_key: &mut BTreeMap<String, Vec<Problem>>, diagnostics: &Diagnostics, provider: ProviderId) {
    for (key, problems) in diagnostics.of(provider) {
        by_key.entry(key.clone()).or_default().extend(problems.iter().cloned());
    }
}

fn text(mut problems: Vec<Problem>) -> String {
    crate::spec::problem::sort(&mut problems);
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    problems.truncate(MOST_PROBLEMS);
    json!({ "problems": problems, "more": more }).to_string()
}
