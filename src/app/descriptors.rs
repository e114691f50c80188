//! Raises the process's limit of open files as far as it may be, and divides what there is.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::spec::settings::Settings;
use crate::telemetry::descriptors::{Descriptors, Division};

/// Descriptors that a worker opens for itself once it runs.
const OF_WORKER: u64 = 8;

/// Raises the soft limit to the hard one; the limit then. Shells and services have a soft limit of 1024, for the sake of
/// old programs that cannot do with more.
pub(super) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current.unwrap_or(u64::MAX);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            let text = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
            tracing::debug!("the limit of open files is raised from {} to {}", text(current), text(maximum));
            maximum.unwrap_or(u64::MAX)
        }
        Err(error) => {
            tracing::warn!("the limit of open files cannot be raised: {error}");
            current.unwrap_or(u64::MAX)
        }
    }
}

/// Divides what there is, of which the listeners, files and registries have theirs already.
pub(super) fn divide(limit: u64, settings: &Settings) -> Arc<Descriptors> {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let workers = settings.runtime.workers as u64;
    let wanted = settings.listeners.values().map(|listener| u64::from(listener.max_connections)).sum();
    let descriptors = Descriptors::new(Division::of(limit, open + OF_WORKER * workers), wanted);
    if let Some(advice) = descriptors.advice() {
        tracing::warn!("{advice}");
    }
    descriptors
}
