//! Defines where feedback stands in Consul: below a prefix of the KV store.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Deserialize;

use super::client::{Client, Reply};
use super::query::Query;
use crate::discovery::feedback::Board;
use crate::discovery::supervise::WatchError;
use crate::spec::settings::Consistency;

/// Keys below a prefix of the KV store.
pub(super) struct KvBoard {
    pub(super) client: Arc<Client>,
    /// Of all keys, with the slash at its end.
    pub(super) prefix: String,
}

#[async_trait]
impl Board for KvBoard {
    fn place(&self) -> String {
        format!("{} in Consul's KV store", self.prefix)
    }

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
            _ => return Err(refused(&reply)),
        };
        let read = |Pair { key, value, index }: Pair| {
            let value = STANDARD.decode(value.unwrap_or_default()).unwrap_or_default();
            Some((key.strip_prefix(&self.prefix)?.to_owned(), (String::from_utf8_lossy(&value).into_owned(), index)))
        };
        Ok(pairs.into_iter().filter_map(read).collect())
    }

    async fn put(&self, key: &str, value: Option<String>, version: u64) -> Result<bool, WatchError> {
        let reply = self.client.write(&format!("{}{key}", self.prefix), value, version).await?;
        match reply.status {
            StatusCode::OK => Ok(reply.excerpt() == "true"),
            _ => Err(refused(&reply)),
        }
    }
}

fn refused(reply: &Reply) -> WatchError {
    WatchError::failed(format!("Consul answered {}: {}", reply.status.as_u16(), reply.excerpt()))
}
