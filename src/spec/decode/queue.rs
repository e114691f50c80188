//! Defines how the queue before an upstream's endpoints is written, and what it resolves to.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::upstream::Queue;

use super::scalar::RawDuration;
use super::scope::Scope;

/// Where requests wait while all endpoints have `max_requests_per_endpoint` in flight. Who finds it full, or waits for too
/// long, is refused with 503.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Queue", deny_unknown_fields)]
pub struct RawQueue {
    /// Most requests that wait at once, for the process; default 100.
    #[schemars(range(min = 1, max = 100_000))]
    size: Option<i64>,
    /// How long one waits; default 1s.
    timeout: Option<RawDuration>,
}

/// Most requests in flight at an endpoint, where that is bounded.
pub(super) fn resolve_most(raw: Option<i64>, scope: &Scope<'_>) -> Option<u32> {
    let most = scope.key("max_requests_per_endpoint").number(raw, 0, 1..=1_000_000);
    raw.and((most > 0).then_some(most))
}

/// The queue of an upstream.
pub(super) fn resolve_queue(raw: Option<RawQueue>, scope: &Scope<'_>) -> Option<Queue> {
    let raw = raw?;
    let queue = scope.key("queue");
    if !scope.has("max_requests_per_endpoint") {
        queue
            .problem("nobody would ever wait: say how many requests an endpoint takes, as `max_requests_per_endpoint`");
    }
    Some(Queue {
        size: queue.key("size").number(raw.size, 100, 1..=100_000),
        timeout: raw.timeout.map_or(Duration::from_secs(1), |RawDuration(timeout)| timeout),
    })
}
