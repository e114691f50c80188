//! Defines how it is noticed that other servers answer than before: another Consul stands at the address.
//!
//! Servers are told by the ids of their nodes, which they make when they start with nothing, as the catalog lists them
//! for the service `consul`: all servers, whoever is asked. Some of them come and go; all at once are others. A token
//! that may not read that tells nothing, and so nothing follows.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::client::{Client, Reply};
use crate::discovery::Publisher;
use crate::discovery::supervise::around;

/// Between two looks while no connection is opened: servers are replaced one by one.
const LOOK: Duration = Duration::from_secs(300);
/// The least time between two looks that told nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// The servers that answer.
pub(super) struct Servers {
    /// Who is told of others.
    publishers: Vec<Publisher>,
    known: Mutex<BTreeSet<String>>,
    looked: tokio::sync::Mutex<Looked>,
}

/// The last look.
#[derive(Default)]
struct Looked {
    /// How many connections had been opened before it; `None` if it told nothing though it could have.
    opened: Option<u64>,
    at: Option<Instant>,
}

impl Servers {
    /// Nobody is known yet. Whoever publishes by these publishers is told before anything that other servers say is
    /// published.
    pub(super) fn new(publishers: Vec<Publisher>) -> Self {
        Self { publishers, known: Mutex::default(), looked: tokio::sync::Mutex::default() }
    }

    /// Looks again where a connection was opened since the last look: it may lead to others. To be called between an
    /// answer and what is made of it.
    pub(super) async fn ascertain(&self, client: &Client) {
        let mut looked = self.looked.lock().await;
        let opened = client.transport.opened();
        let just_now = looked.at.is_some_and(|at| at.elapsed() < AGAIN);
        if looked.opened.is_none_or(|before| before < opened) && (looked.opened.is_some() || !just_now) {
            self.look(client, &mut looked).await;
        }
    }

    /// Looks now and then, for ever.
    pub(super) async fn follow(&self, client: &Client) {
        loop {
            sleep(around(LOOK, 0.2)).await;
            self.look(client, &mut *self.looked.lock().await).await;
        }
    }

    async fn look(&self, client: &Client, looked: &mut Looked) {
        let opened = client.transport.opened();
        let ids = client.servers().await.ok().as_ref().and_then(ids);
        looked.at = Some(Instant::now());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let told = ids.filter(|ids| !ids.is_empty() || known.is_empty());
        looked.opened = told.as_ref().map(|_| opened);
        let Some(ids) = told else { return };
        let others = are_others(&known, &ids);
        *known = ids;
        drop(known);
        if others {
            tracing::warn!("other Consul servers answer than before");
            self.publishers.iter().for_each(Publisher::other_servers);
        }
    }
}

/// Whether none of those known is left.
fn are_others(known: &BTreeSet<String>, now: &BTreeSet<String>) -> bool {
    !known.is_empty() && !now.is_empty() && known.is_disjoint(now)
}

/// The ids of the servers in an answer; none where the token may not see them, `None` where it is no answer.
fn ids(reply: &Reply) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Server {
        #[serde(rename = "ID", default)]
        node: String,
        /// Servers register themselves by this id, whoever else calls a service `consul`.
        #[serde(rename = "ServiceID", default)]
        service: String,
    }
    match reply.status {
        StatusCode::OK => {
            let servers: Vec<Server> = serde_json::from_slice(&reply.body).ok()?;
            let servers = servers.into_iter().filter(|server| server.service == "consul" && !server.node.is_empty());
            Some(servers.map(|server| server.node).collect())
        }
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Some(BTreeSet::new()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_replaced_one_by_one_are_no_others() {
        let set = |text: &str| text.chars().map(String::from).collect::<BTreeSet<_>>();
        for (known, now, others) in [
            ("", "abc", false),
            ("abc", "abc", false),
            ("abc", "bcd", false),
            ("abc", "cde", false),
            ("abc", "def", true),
            ("a", "b", true),
            ("abc", "", false),
        ] {
            assert_eq!(are_others(&set(known), &set(now)), others, "{known} -> {now}");
        }
    }
}
