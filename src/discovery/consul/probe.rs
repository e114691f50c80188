//! Defines the probe that notices a leader change, and frees the queries that hang on a lost server.
//!
//! The server a query is blocked on may stop without a word; the agent then holds the query for half a
//! minute although new ones would be answered. Watches that wait after failures are woken, too.
//! `/v1/status/leader` is answered from what the agent's server knows, without a read of data.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::client::Client;
use crate::discovery::supervise::around;

const INTERVAL: Duration = Duration::from_secs(5);
/// While nobody leads: what waits for the end of an outage should not wait much longer, and the second over which
/// it begins again is still to come.
const INTERVAL_OF_OUTAGE: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks for ever who leads; counts `kicks` up when blocked queries should be issued again, and tells who waits
/// for answers that they come again.
pub(super) async fn probe(client: &Client, kicks: &watch::Sender<u64>, answers_again: &Notify) {
    let mut last: Option<Option<String>> = None;
    loop {
        // No answer and an answer without a leader are the same here: nobody leads.
        let leader = client.leader(TIMEOUT).await.ok().filter(|leader| !leader.is_empty());
        if let Some(last) = &last
            && leader.is_some()
            && *last != leader
        {
            tracing::info!(leader, "Consul's leader has changed or is back");
            kicks.send_modify(|count| *count += 1);
            answers_again.notify_waiters();
        }
        let interval = if leader.is_some() { INTERVAL } else { INTERVAL_OF_OUTAGE };
        last = Some(leader);
        sleep(around(interval, 0.2)).await;
    }
}
