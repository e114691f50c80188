//! Defines a key that lives as long as we keep its lease alive.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, Error, PutOptions, Txn, TxnOp};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::failure::Failure;
use super::members::{Members, TIMEOUT};
use crate::discovery::register::{Change, Registration};
use crate::discovery::supervise::{Backoff, WatchError};
use crate::spec::settings::EtcdProvider as Settings;

/// A key under a lease. It is there while it should get traffic, and gone otherwise.
pub struct LeasedKey {
    members: Arc<Members>,
    key: String,
    value: String,
    ttl: Duration,
    /// The lease that the key is under, as far as we know.
    lease: Option<i64>,
}

/// Why a lease that is asked for is not there, in etcd's words and in those of its client.
const NO_LEASE: &str = "lease not found";

impl LeasedKey {
    /// A key that is not there yet, kept through these members.
    pub(super) fn new(members: Arc<Members>, key: String, value: String, ttl: Duration) -> Self {
        Self { members, key, value, ttl, lease: None }
    }

    /// The same without a provider, and what follows the credentials for it.
    pub fn alone(settings: &Settings, key: String, value: String, ttl: Duration) -> (Self, BoxFuture<'static, ()>) {
        let members = Arc::new(Members::new(settings, Arc::default()));
        let followed = Arc::clone(&members);
        let follow = async move { followed.follow(&Backoff::new(Duration::ZERO)).await };
        (Self::new(members, key, value, ttl), follow.boxed())
    }

    /// Makes sure of the lease and the key; whether the key had to be written.
    async fn hold(&mut self) -> Result<bool, WatchError> {
        // Another member must be tried before the lease is over.
        let limit = TIMEOUT.min(self.ttl / 3);
        let (known, key, value) = (self.lease, self.key.as_str(), self.value.as_str());
        let seconds = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let held = |client: Client| async move {
            let holding = hold(client, known, key, value, seconds);
            timeout(limit, holding).await.unwrap_or_else(|_| Err(Failure::Lost(format!("no answer in {limit:?}"))))
        };
        let ((lease, written), _) = self.members.call(self.members.preferred(), held).await?;
        self.lease = Some(lease);
        Ok(written)
    }

    /// Ends the lease, and the key with it; whether there was one.
    async fn release(&mut self) -> Result<bool, WatchError> {
        let Some(lease) = self.lease else { return Ok(false) };
        let revoked = |client: Client| async move {
            match timeout(TIMEOUT, client.lease_client().revoke(lease)).await {
                Ok(answer) => unless_gone(answer.map(drop)),
                Err(_) => Err(Failure::Lost("no answer in 10 s".to_owned())),
            }
        };
        self.members.call(self.members.preferred(), revoked).await?;
        self.lease = None;
        Ok(true)
    }
}

/// The lease that the key is under now, and whether the key had to be written.
async fn hold(
    client: Client,
    known: Option<i64>,
    key: &str,
    value: &str,
    seconds: i64,
) -> Result<(i64, bool), Failure> {
    let mut leases = client.lease_client();
    let alive = match known {
        None => None,
        Some(lease) => match leases.keep_alive(lease).await {
            Ok(_) => Some(lease),
            Err(Error::LeaseKeepAliveError(text)) if text.contains(NO_LEASE) => None,
            Err(error) => return Err(error.into()),
        },
    };
    let lease = match alive {
        Some(lease) => lease,
        None => leases.grant(seconds, None).await?.id(),
    };
    // Only what is not so is written: each write wakes every gateway.
    let is_so = [Compare::lease(key, CompareOp::Equal, lease), Compare::value(key, CompareOp::Equal, value.as_bytes())];
    let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
    let answer = client.kv_client().txn(Txn::new().when(is_so).or_else([put])).await?;
    Ok((lease, !answer.succeeded()))
}

fn unless_gone(answer: Result<(), Error>) -> Result<(), Failure> {
    match answer.map_err(Failure::from) {
        Err(Failure::Lost(text)) if text.contains(NO_LEASE) => Ok(()),
        other => other,
    }
}

#[async_trait]
impl Registration for LeasedKey {
    fn place(&self) -> &str {
        &self.key
    }

    fn every(&self) -> Duration {
        self.ttl / 3
    }

    async fn assert(&mut self, standing: &Result<(), String>) -> Result<Option<Change>, WatchError> {
        Ok(match standing {
            Ok(()) => self.hold().await?.then_some(Change::Registered),
            Err(_) => self.release().await?.then_some(Change::Removed),
        })
    }

    fn stands(&self) -> bool {
        self.lease.is_some()
    }

    async fn leave(&mut self) -> Result<(), WatchError> {
        self.release().await.map(drop)
    }
}
