//! What the admin API shows, as plain data: pure functions of a snapshot and the status of providers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;

use crate::discovery::status::ProviderStatus;
use crate::spec::source::Source;

pub mod config;
pub mod hold;
pub mod provider;
pub mod route;
pub mod status;
pub mod upstream;

#[cfg(test)]
pub(super) mod sample;

/// A list, with the generation it was read from.
#[derive(Debug, Serialize)]
pub struct List<T> {
    /// Of the snapshot.
    pub generation: u64,
    /// Sorted by name.
    pub items: Vec<T>,
}

/// When each watch was last confirmed, by its name.
#[derive(Debug, Default)]
pub struct Freshness(BTreeMap<String, Option<SystemTime>>);

impl Freshness {
    /// Reads the status of all watches.
    pub fn of(providers: &[Arc<ProviderStatus>]) -> Self {
        let watches = providers.iter().flat_map(|provider| provider.watches());
        Self(watches.map(|(name, watch)| (name, watch.verified_at())).collect())
    }

    /// When the least recently confirmed of them was; `None` when one never was, or there is none.
    pub fn all_verified_at(&self, sources: &[Source]) -> Option<SystemTime> {
        let times: Option<Vec<_>> = sources.iter().map(|source| self.verified_at(&source.to_string())).collect();
        times?.into_iter().min()
    }

    /// When the watch was confirmed; `None` when it never was.
    pub fn verified_at(&self, watch: &str) -> Option<SystemTime> {
        self.0.get(watch).copied().flatten()
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn time_text(time: SystemTime) -> String {
    let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_written_as_users_write_them() {
        let time = UNIX_EPOCH + Duration::from_micros(1_795_437_296_007_900);
        assert_eq!(time_text(time), "2026-11-23T12:34:56.007Z");
    }
}
