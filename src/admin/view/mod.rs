//! What the admin API shows, as plain data: pure functions of a snapshot and the status of providers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use crate::discovery::status::ProviderStatus;

pub mod config;
pub mod document;
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

    /// When the watch was confirmed; `None` when it never was.
    pub fn verified_at(&self, watch: &str) -> Option<SystemTime> {
        self.0.get(watch).copied().flatten()
    }
}

/// RFC 3339 in UTC with milliseconds.
fn time_text(time: SystemTime) -> String {
    let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

/// As users write it: `250ms`, `30s`, `5m`.
fn duration_text(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (0, 0) => "0s".to_owned(),
        (seconds, 0) if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds % 60 == 0 => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        (_, nanos) if nanos % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
        (_, nanos) if nanos % 1_000 == 0 => format!("{}us", duration.as_micros()),
        _ => format!("{}ns", duration.as_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn durations_and_times_are_written_as_users_write_them() {
        for (micros, text) in
            [(0, "0s"), (250_000, "250ms"), (1_500_000, "1500ms"), (30_000_000, "30s"), (120_000_000, "2m"), (7, "7us")]
        {
            assert_eq!(duration_text(Duration::from_micros(micros)), text);
        }
        assert_eq!(duration_text(Duration::from_secs(7200)), "2h");
        let time = UNIX_EPOCH + Duration::from_micros(1_795_437_296_007_900);
        assert_eq!(time_text(time), "2026-11-23T12:34:56.007Z");
    }
}
