//! Defines the feedback to the teams that register and write documents: what is wrong with theirs, in the KV store.
//!
//! What is written depends on nothing but the documents and registrations, so that all gateways write the same: each
//! compares with what is there, writes what differs, at the index it has read, and takes away what is mended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use super::client::Client;
use super::query::Query;
use crate::discovery::state::ProviderState;
use crate::discovery::supervise::{WatchError, around};
use crate::spec::document::{Documents, Item};
use crate::spec::name::Name;
use crate::spec::problem::Problem;
use crate::spec::settings::Consistency;

/// Writes feedback.
pub(super) struct Feedback {
    pub(super) client: Arc<Client>,
    /// Of all keys, with the slash at its end.
    pub(super) prefix: String,
    pub(super) documents: watch::Receiver<Arc<ProviderState>>,
    pub(super) sources: watch::Receiver<Arc<ProviderState>>,
    /// `None`: services ask for nothing here, so that nothing of theirs is written or removed.
    pub(super) tags: Option<watch::Receiver<Arc<ProviderState>>>,
}

/// Between two looks at what changed: many problems at once are written at once.
const PAUSE: Duration = Duration::from_secs(1);
/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(30);
/// Most keys, and most problems told in one.
const MOST_KEYS: usize = 500;
const MOST_PROBLEMS: usize = 20;

/// What stands below the prefix: by key, relative to it.
type Told = BTreeMap<String, String>;

impl Feedback {
    /// Writes what is wrong, for ever.
    pub(super) async fn follow(mut self) {
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
                            tracing::warn!("cannot write below {} in Consul's KV store: {error}", self.prefix);
                            said = Some(error.text);
                        }
                    }
                }
            }
            let tags = async {
                match &mut self.tags {
                    Some(tags) => tags.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = self.documents.changed() => {}
                Ok(()) = self.sources.changed() => {}
                Ok(()) = tags => {}
                () = sleep(around(AGAIN, 0.2)), if again => {}
                else => return std::future::pending().await,
            }
            sleep(around(PAUSE, 0.2)).await;
        }
    }

    /// What should stand there; `None` while not everything was read.
    fn wanted(&mut self) -> Option<Told> {
        let documents = self.documents.borrow_and_update().documents.clone()?;
        let mut by_key: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
        add_documents(&mut by_key, &documents);
        if let Some(tags) = &mut self.tags {
            let tags = tags.borrow_and_update().documents.clone()?;
            let of_items = tags.routes.values().flat_map(|item| &item.problems);
            let of_items =
                of_items.chain(tags.upstreams.values().flat_map(|item| &item.problems)).chain(&tags.rejected);
            let sources = self.sources.borrow_and_update().clone();
            let of_sources = sources.sources.values().flat_map(|source| source.problems.iter());
            for problem in of_items.chain(of_sources) {
                let service = problem.place.strip_prefix("consul:").unwrap_or(&problem.place);
                by_key.entry(format!("services/{service}")).or_default().push(problem.clone());
            }
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
        let there = self.read().await?;
        let mut complete = true;
        for (key, value) in wanted {
            let (known, index) = there.get(key).map_or((None, 0), |(value, index)| (Some(value), *index));
            if known != Some(value) {
                complete &= self.put(key, Some(value.clone()), index).await?;
            }
        }
        let ours = |key: &str| self.tags.is_some() || !key.starts_with("services/");
        for (key, (_, index)) in there.iter().filter(|(key, _)| ours(key) && !wanted.contains_key(*key)) {
            complete &= self.put(key, None, *index).await?;
        }
        Ok(complete)
    }

    async fn put(&self, key: &str, value: Option<String>, index: u64) -> Result<bool, WatchError> {
        let reply = self.client.write(&format!("{}{key}", self.prefix), value, index).await?;
        match reply.status {
            StatusCode::OK => Ok(reply.excerpt() == "true"),
            status => Err(WatchError::failed(format!("Consul answered {}: {}", status.as_u16(), reply.excerpt()))),
        }
    }

    /// What stands there, each with its index.
    async fn read(&self) -> Result<BTreeMap<String, (String, u64)>, WatchError> {
        #[derive(Deserialize)]
        struct Pair {
            #[serde(rename = "Key")]
            key: String,
            #[serde(rename = "Value")]
            value: Option<String>,
            #[serde(rename = "ModifyIndex")]
            index: u64,
        }
        let reply = self.client.read(&Query::below(&self.prefix), Consistency::Default).await?;
        let pairs: Vec<Pair> = match reply.status {
            StatusCode::OK => serde_json::from_slice(&reply.body)
                .map_err(|error| WatchError::failed(format!("not a list of keys: {error}")))?,
            StatusCode::NOT_FOUND => Vec::new(),
            status => {
                return Err(WatchError::failed(format!("Consul answered {}: {}", status.as_u16(), reply.excerpt())));
            }
        };
        let read = |Pair { key, value, index }: Pair| {
            let value = STANDARD.decode(value.unwrap_or_default()).unwrap_or_default();
            Some((key.strip_prefix(&self.prefix)?.to_owned(), (String::from_utf8_lossy(&value).into_owned(), index)))
        };
        Ok(pairs.into_iter().filter_map(read).collect())
    }
}

fn add_documents(by_key: &mut BTreeMap<String, Vec<Problem>>, documents: &Documents) {
    fn add<T>(by_key: &mut BTreeMap<String, Vec<Problem>>, kind: &str, items: &BTreeMap<Name, Item<T>>) {
        for (name, item) in items {
            by_key.entry(format!("{kind}/{name}")).or_default().extend(item.problems.iter().cloned());
        }
    }
    add(by_key, "routes", &documents.routes);
    add(by_key, "upstreams", &documents.upstreams);
    add(by_key, "certificates", &documents.certificates);
    by_key.entry("other".to_owned()).or_default().extend(documents.rejected.iter().cloned());
}

fn text(mut problems: Vec<Problem>) -> String {
    crate::spec::problem::sort(&mut problems);
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    problems.truncate(MOST_PROBLEMS);
    json!({ "problems": problems, "more": more }).to_string()
}
