//! The saved files: what is in them, and how one is told to be whole and of the same registry.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Identity, Page, SavedState, Verified, folder};
use crate::spec::decode::resolved::ResolvedForms;
use crate::spec::decode::{DocumentSet, SavedForms};
use crate::spec::endpoint::{EndpointSpec, Labels, RegistryStatus};
use crate::spec::name::ProviderId;

/// Files of another schema are not read.
const SCHEMA: u64 = 1;

/// A provider's file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StateFile {
    /// By name.
    watches: BTreeMap<String, SavedWatch>,
    /// By the source's text.
    sources: BTreeMap<String, Vec<SavedEndpoint>>,
    /// What documents were made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forms: Option<SavedForms>,
    /// The last forms that resolved, where they are others; earlier versions did not save them.
    #[serde(default, skip_serializing_if = "ResolvedForms::is_empty")]
    resolved: ResolvedForms,
    /// Why the registry was not believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disbelieved: Option<Arc<str>>,
    /// Good texts by key, as earlier versions wrote them.
    #[serde(default, skip_serializing)]
    documents: Option<BTreeMap<String, Arc<str>>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedWatch {
    verified_at_ms: u64,
    index: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedEndpoint {
    address: String,
    weight: u16,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    status: RegistryStatus,
    id: Arc<str>,
    modified: u64,
    /// Earlier versions did not save it.
    #[serde(default)]
    created: u64,
}

impl StateFile {
    pub(super) fn of(page: &Page, verified: &Verified) -> Self {
        let millis = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let watch = |(at, index): &(SystemTime, u64)| SavedWatch {
            verified_at_ms: u64::try_from(millis(*at)).unwrap_or(0),
            index: *index,
        };
        let endpoint = |endpoint: &EndpointSpec| SavedEndpoint {
            address: endpoint.address.to_string(),
            weight: endpoint.weight,
            labels: Labels::clone(&endpoint.labels),
            status: endpoint.status,
            id: Arc::clone(&endpoint.id),
            modified: endpoint.modified,
            created: endpoint.created,
        };
        let sources = page.sources.iter();
        Self {
            watches: verified.iter().map(|(name, at)| (name.clone(), watch(at))).collect(),
            sources: sources.map(|(name, all)| (name.clone(), all.iter().map(endpoint).collect())).collect(),
            forms: page.forms.as_deref().cloned(),
            resolved: ResolvedForms::clone(&page.resolved),
            disbelieved: page.disbelieved.clone(),
            documents: None,
        }
    }

    pub(super) fn into_state(self, identity: &Identity) -> (SavedState, Verified, Page) {
        let watch = |watch: &SavedWatch| (UNIX_EPOCH + Duration::from_millis(watch.verified_at_ms), watch.index);
        let verified: Verified = self.watches.iter().map(|(name, it)| (name.clone(), watch(it))).collect();
        let at = |name: &str| verified.get(name).map_or(UNIX_EPOCH, |(at, _)| *at);
        let endpoint = |saved: SavedEndpoint| {
            Some(EndpointSpec {
                address: saved.address.parse().ok()?,
                weight: saved.weight,
                labels: Arc::new(saved.labels),
                status: saved.status,
                id: saved.id,
                modified: saved.modified,
                created: saved.created,
            })
        };
        let mut page = Page::default();
        for (name, endpoints) in self.sources {
            page.sources.insert(name, endpoints.into_iter().filter_map(endpoint).collect());
        }
        let mut state = SavedState::default();
        for (name, endpoints) in &page.sources {
            state.sources.insert(name.clone(), (Arc::clone(endpoints), at(name)));
        }
        state.resolved = Arc::new(self.resolved);
        page.resolved = Arc::clone(&state.resolved);
        (state.disbelieved, page.disbelieved) = (self.disbelieved.clone(), self.disbelieved);
        let old = self.documents.map(SavedForms::of_good_keys);
        if let Some(mut forms) = self.forms.or(old) {
            forms.is_former = state.disbelieved.is_some();
            if let Some((watch, prefix)) = &identity.documents {
                let mut set = DocumentSet::new(identity.id, prefix.clone()).remembering(&forms);
                state.documents = Some((Arc::new(set.remembered(&forms)), at(watch)));
            }
            let forms = Arc::new(forms);
            state.forms = Some(Arc::clone(&forms));
            page.forms = Some(forms);
        }
        (state, verified, page)
    }
}

/// Why a file is not used.
#[derive(Debug)]
pub(super) enum Unusable {
    Missing,
    Unreadable(io::Error),
    Corrupt(String),
    Foreign(&'static str),
}

/// A whole file.
pub(super) fn enveloped(content: &impl Serialize, identity: &str) -> String {
    let line = json!({ "schema": SCHEMA, "identity": identity, "content": content }).to_string();
    let digest = digest(line.as_bytes());
    format!("{line}\nsha256:{digest}\n")
}

/// Reads a file, if it is whole and of this registry.
pub(super) fn read<T: for<'de> Deserialize<'de>>(path: &Path, identity: &str) -> Result<T, Unusable> {
    let corrupt = |why: &str| Unusable::Corrupt(why.to_owned());
    let bytes = folder::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unusable::Missing,
        _ => Unusable::Unreadable(error),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| corrupt("it is not UTF-8"))?;
    let (line, seal) = text.split_once('\n').ok_or_else(|| corrupt("it is cut"))?;
    if seal != format!("sha256:{}\n", digest(line.as_bytes())) {
        return Err(corrupt("its digest is another"));
    }
    let mut envelope: Value = serde_json::from_str(line).map_err(|error| Unusable::Corrupt(error.to_string()))?;
    if envelope["schema"] != SCHEMA {
        return Err(Unusable::Foreign("another version wrote it"));
    }
    if envelope["identity"] != identity {
        let of_files = path.file_stem().is_some_and(|name| name == ProviderId::File.as_str());
        return Err(Unusable::Foreign(match of_files {
            true => "it is of other files: the path of the configuration file, or `discovery.file.paths`, was another",
            false => "it is of another registry, by its addresses, prefix or namespace",
        }));
    }
    serde_json::from_value(envelope["content"].take()).map_err(|error| Unusable::Corrupt(error.to_string()))
}

pub(super) fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
