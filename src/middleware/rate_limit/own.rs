//! Defines a limit that a gateway keeps by itself.

use super::gcra::{Decision, Gcra};
use super::key::Keys;
use super::table::{Place, Table};
use super::{Told, limit};

/// The keys of a limit.
#[derive(Debug)]
pub(super) struct Own {
    table: Table<Arrival>,
    pub(super) keys: Keys,
    pub(super) parts: Vec<limit::LimitKey>,
    pub(super) max_keys: u32,
}

/// When a key's next request comes if all come evenly.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrival {
    key: u64,
    at: u64,
}

impl Own {
    pub(super) fn new(spec: &limit::RateLimit) -> Self {
        let (table, keys) = (Table::new(spec.max_keys), Keys::new(&spec.key));
        Self { table, keys, parts: spec.key.clone(), max_keys: spec.max_keys }
    }

    /// A request of a key comes at `now`.
    pub(super) fn take(&self, gcra: Gcra, key: u64, now: u64) -> Told {
        self.table.with(key, key, now, |place, _| place.take(gcra, now))
    }
}

impl Arrival {
    pub(super) fn take(&mut self, gcra: Gcra, now: u64) -> Told {
        let decision = gcra.decide(self.at, now);
        if let Decision::Passes { arrival } = decision {
            self.at = arrival;
        }
        Told { decision, left: gcra.left(self.at, now), until: self.at.saturating_sub(now) }
    }
}

impl Place for Arrival {
    type Key = u64;

    fn of(key: u64) -> Self {
        Self { key, at: 0 }
    }

    fn key(&self) -> u64 {
        self.key
    }

    fn is_free(&self, now: u64) -> bool {
        self.at <= now
    }
}
