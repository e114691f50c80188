//! Defines where feedback stands in etcd: keys below a prefix.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use tokio::time::timeout;

use super::failure::Failure;
use super::layout::KeyRange;
use super::members::{Members, TIMEOUT};
use crate::discovery::feedback::Board;
use crate::discovery::supervise::WatchError;

/// Keys below a prefix.
pub(super) struct KeyBoard {
    pub(super) members: Arc<Members>,
    /// Of all keys, with the slash at its end.
    pub(super) prefix: String,
}

#[async_trait]
impl Board for KeyBoard {
    fn place(&self) -> String {
        format!("{} in etcd", self.prefix)
    }

    async fn read(&self) -> Result<BTreeMap<String, (String, u64)>, WatchError> {
        let listed = self.members.list(self.members.preferred(), &KeyRange::of_prefix(&self.prefix)).await?;
        let read = listed.listing.entries.into_iter().filter_map(|(key, value)| {
            // What we would write no key for is not ours.
            let key = std::str::from_utf8(&key).ok()?.strip_prefix(&self.prefix)?.to_owned();
            let text = String::from_utf8_lossy(&value.bytes).into_owned();
            Some((key, (text, u64::try_from(value.modified).ok()?)))
        });
        Ok(read.collect())
    }

    async fn put(&self, key: &str, value: Option<String>, version: u64) -> Result<bool, WatchError> {
        let key = &format!("{}{key}", self.prefix);
        let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, i64::try_from(version).unwrap_or(0));
        let operation = match value {
            Some(value) => TxnOp::put(key.as_str(), value, None),
            None => TxnOp::delete(key.as_str(), None),
        };
        let transaction = &Txn::new().when([unchanged]).and_then([operation]);
        let written = |client: Client| async move {
            match timeout(TIMEOUT, client.kv_client().txn(transaction.clone())).await {
                Ok(answer) => Ok(answer?.succeeded()),
                Err(_) => Err(Failure::Lost("no answer in 10 s".to_owned())),
            }
        };
        Ok(self.members.call(self.members.preferred(), written).await?.0)
    }
}
