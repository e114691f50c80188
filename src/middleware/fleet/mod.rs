//! What a gateway knows of the others of its fleet: how many there are, and what all of them let through together.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;

#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "redis")]
pub use self::redis::Redis;

/// The fleet, as this gateway knows it.
#[derive(Debug, Default)]
pub struct Fleet {
    /// Gateways that the registries list; 0: nobody registers.
    registered: AtomicU32,
    ledger: Option<Arc<dyn Ledger>>,
}

impl Fleet {
    /// One whose gateways count together there.
    pub fn with(ledger: Arc<dyn Ledger>) -> Self {
        Self { registered: AtomicU32::new(0), ledger: Some(ledger) }
    }

    /// Where its gateways count together.
    pub fn ledger(&self) -> Option<&Arc<dyn Ledger>> {
        self.ledger.as_ref()
    }

    /// Notes how many the registries list.
    pub fn registered(&self, gateways: u32) {
        self.registered.store(gateways, Relaxed);
    }

    /// Whether it knows of no other gateway, and of no place to meet one: no Redis, and nobody registers.
    pub fn is_alone(&self) -> bool {
        self.ledger.is_none() && self.registered.load(Relaxed) == 0
    }

    /// How many gateways there are, this one among them: as the registries say, else as they meet at the ledger.
    pub fn gateways(&self) -> u32 {
        let met = || self.ledger.as_ref().map_or(0, |ledger| ledger.standing().gateways);
        match self.registered.load(Relaxed) {
            0 => met().max(1),
            registered => registered,
        }
    }
}

/// Where gateways count together. Nobody waits for it but tasks in the background.
#[async_trait]
pub trait Ledger: fmt::Debug + Send + Sync {
    /// The connection to it: another number for each, and 0 while there is none.
    fn session(&self) -> u32;

    /// Tells what the keys of a limit were used for, and asks for what they may be used for.
    ///
    /// Fewer answers than questions: it did not answer the rest, and the session is over by that.
    async fn settle(&self, limit: &Limit, asks: &[Ask]) -> Vec<Answer>;

    /// How things are.
    fn standing(&self) -> Standing;
}

/// A limit as the fleet knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Its name.
    pub name: Arc<str>,
    /// From one request to the next, in nanoseconds.
    pub interval: u64,
    /// How many may come at once.
    pub burst: u64,
}

/// What a gateway says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The key.
    pub key: u128,
    /// Requests that passed and were not granted; less than 0: what was granted and is given back.
    pub charge: i64,
    /// Requests that it would like to let through.
    pub want: u32,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Requests that it may let through; they are counted already.
    pub granted: u32,
    /// The key's theoretical arrival time, from now, in nanoseconds.
    pub ahead: u64,
}

/// How things are with a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Where it is.
    pub place: String,
    /// Why there is no connection, as far as one was tried.
    pub error: Option<String>,
    /// Whether there is one.
    pub connected: bool,
    /// Gateways that met there of late.
    pub gateways: u32,
    /// Exchanges that were answered, and those that were not.
    pub exchanges: [u64; 2],
}
