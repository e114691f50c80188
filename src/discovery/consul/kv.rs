//! Defines the watch of the documents in Consul's KV store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::client::Client;
use super::follow::{Doubted, Question, Shown};
use super::known::{Contents, Entries};
use super::permission::{Doubt, Permission, Verdicts, of_keys};
use super::query::{Place, Query};
use super::rights::Right;
use crate::discovery::Publisher;
use crate::discovery::supervise::WatchError;
use crate::spec::decode::saved::SavedKey;
use crate::spec::decode::{DocumentSet, Past, Stored};
use crate::spec::hold::{Held, HeldPart, Scope};
use crate::spec::name::ProviderId;

/// All keys below a prefix.
pub(super) struct Keys {
    prefix: String,
    publisher: Publisher,
    documents: Mutex<DocumentSet>,
}

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    bytes: Arc<[u8]>,
    past: Past,
}

impl Keys {
    pub(super) fn new(prefix: &str, publisher: Publisher) -> Self {
        let mut documents = DocumentSet::new(ProviderId::ConsulKv, prefix);
        if let Some(remembered) = publisher.remembered() {
            documents = documents.remembering(remembered);
        }
        Self { prefix: prefix.to_owned(), publisher, documents: Mutex::new(documents) }
    }
}

#[async_trait]
impl Question for Keys {
    type Entry = Value;
    /// 404 with an index: nothing below the prefix, or nothing that the token may read.
    const ABSENCE_IS_EMPTY: bool = true;
    /// A list leaves out what the token may not read, and says nothing; asking for what is missing costs a
    /// few milliseconds, and nobody waits for the end of a document as for that of an endpoint.
    const PROVE_ALL: bool = true;

    fn query(&self) -> Query {
        Query::below(&self.prefix)
    }

    fn read(&self, body: &[u8]) -> Result<Contents<Value>, String> {
        keys(body)
    }

    async fn permission(
        &self,
        client: &Client,
        lost: &[(&Arc<str>, &Value)],
        doubted: &Doubted<'_>,
    ) -> Result<Verdicts, WatchError> {
        let missing: Vec<Arc<str>> = lost.iter().map(|(key, _)| Arc::clone(key)).collect();
        if doubted.nothing && missing.is_empty() {
            // Nothing was ever there: the prefix stands for what might be below it.
            let prefix: Arc<str> = self.prefix.as_str().into();
            let doubt = of_keys(client, &[prefix]).await.into_values().next();
            return Ok(doubt.map_or(Permission::Beyond, Permission::Doubtful).into());
        }
        Ok(Verdicts { whole: Permission::Beyond, each: of_keys(client, &missing).await })
    }

    fn held(&self, _: &Entries<Value>, missing: &BTreeMap<Arc<str>, Doubt>) -> BTreeMap<HeldPart, Held> {
        let held = missing.iter().map(|(key, doubt)| {
            let missing_right = doubt.missing_right.then(|| doubt.why.as_str().into());
            let held = Held { lost: Vec::new(), why: doubt.why.as_str().into(), missing_right };
            (HeldPart::Document(Arc::clone(key)), held)
        });
        held.collect()
    }

    fn accepts(&self, part: &HeldPart, missing: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        match part {
            HeldPart::Document(key) => missing.iter().filter(|id| *id == key).cloned().collect(),
            HeldPart::Endpoints(_) | HeldPart::File(_) => BTreeSet::new(),
        }
    }

    fn remembered(&self) -> Option<Entries<Value>> {
        let saved = self.publisher.remembered()?;
        let value = |(key, saved): (&String, &SavedKey)| {
            let Stored { bytes, past } = saved.present();
            (Arc::from(key.as_str()), Value { bytes: bytes.into(), past })
        };
        Some(saved.keys.iter().map(value).collect())
    }

    fn rights(&self, entries: &Entries<Value>) -> Vec<Right> {
        let right = |key: &Arc<str>| Right { place: Place::default(), resource: "key", segment: Arc::clone(key) };
        entries.keys().map(right).collect()
    }

    fn scope(&self) -> Scope {
        Scope::Documents(self.prefix.as_str().into())
    }

    fn publish(&self, Shown { entries, origin, .. }: Shown<'_, Value>) {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = entries.iter().map(|(key, Value { bytes, past })| (&**key, Stored { bytes, past: *past }));
        documents.of_registry(self.publisher.current().disbeliefs());
        let now = documents.update(stored);
        self.publisher.documents_of(now, documents.forms(), origin);
    }

    fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

/// Reads the body of a recursive read.
fn keys(body: &[u8]) -> Result<Contents<Value>, String> {
    #[derive(Deserialize)]
    struct Pair {
        #[serde(rename = "Key")]
        key: Arc<str>,
        /// Base64; null for an empty value.
        #[serde(rename = "Value")]
        value: Option<String>,
        #[serde(rename = "CreateIndex")]
        created: Option<u64>,
        #[serde(rename = "ModifyIndex")]
        modified: Option<u64>,
    }
    let pairs: Vec<Pair> = serde_json::from_slice(body).map_err(|error| format!("not a list of keys: {error}"))?;
    let mut contents = Contents::default();
    for Pair { key, value, created, modified } in pairs {
        let bytes = STANDARD.decode(value.unwrap_or_default()).map_err(|error| format!("`{key}`: {error}"))?;
        let version = created.filter(|created| modified == Some(*created)).map(|_| 1);
        let value = Value { bytes: bytes.into(), past: Past { created, modified, version } };
        contents.entries.insert(key, value);
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_null_is_empty() {
        let contents = keys(
            br#"[{"Key":"gw/","Value":null,"Flags":0,"CreateIndex":3,"ModifyIndex":3},
                 {"Key":"gw/routes/a","Value":"eyJhIjoxfQ==","CreateIndex":4,"ModifyIndex":9}]"#,
        );
        let entries: Vec<_> = contents.expect("a list").entries.into_iter().collect();
        let value = |bytes: &[u8], created, modified, version| Value {
            bytes: bytes.into(),
            past: Past { created: Some(created), modified: Some(modified), version },
        };
        let (empty, edited) = (value(b"", 3, 3, Some(1)), value(br#"{"a":1}"#, 4, 9, None));
        assert_eq!(entries, [("gw/".into(), empty), ("gw/routes/a".into(), edited)]);
    }

    #[test]
    fn what_is_no_list_is_no_answer() {
        for body in ["", "null", "[", "<html>", r#"[{"Key":"a","Value":"***"}]"#, r#"[{"Value":""}]"#] {
            assert!(keys(body.as_bytes()).is_err(), "{body}");
        }
    }
}
