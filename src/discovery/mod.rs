//! Learns from files and registries what there is, and publishes it whole: watches under supervision.
//!
//! A provider is a set of watches that share addresses, a token and a budget of connections. [`supervise`]
//! runs one watch and owns the only retry loop; a watch is straight-line code that connects, lists, watches
//! and returns on error, and keeps in itself what it needs to resume. What a watch learns goes through its
//! provider's [`Publisher`]: whole state, latest wins, equal states dropped.
//! A failed, partial, stale or unauthorised read never removes anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::spec::source::Source;

pub mod consul;
pub mod dns;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod feedback;
pub mod file;
pub mod judge;
pub mod publish;
pub mod register;
mod secret_file;
pub mod state;
pub mod status;
pub mod supervise;
pub mod wanted;

pub use publish::Publisher;

/// What a provider runs with.
pub struct Context {
    /// The sources that upstreams in use name; a provider watches those of its own kind.
    pub wanted: watch::Receiver<Arc<BTreeSet<Source>>>,
    /// Cancelled when the gateway stops.
    pub shutdown: CancellationToken,
    /// What control finds wrong with well-formed items; `None` until it has seen every provider's.
    pub diagnostics: watch::Receiver<Option<Arc<state::Diagnostics>>>,
    /// Re-read everything now (SIGHUP); files act on it, registries need not.
    pub reread: watch::Receiver<u64>,
}

/// A source of documents or endpoints.
#[async_trait]
pub trait Provider: Send {
    /// Runs until shutdown. It never gives up: what fails is retried under [`supervise`].
    async fn run(self: Box<Self>, context: Context);
}
