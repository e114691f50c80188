//! The rights of the token, looked at every few seconds and shared by all watches.
//!
//! A query that is blocked is not asked again when a token is deleted or a policy narrowed: it stands for its whole wait,
//! and then returns what it had. Whether the token exists is read from a server, since agents keep their answer for
//! half a minute (`acl.token_ttl`). What it may read is asked of the agent, 64 services and keys at a time, one after
//! the other where there are more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::client::Client;
use super::permission::decisions;
use super::query::{Place, Query};
use crate::discovery::supervise::around;
use crate::spec::settings::Consistency;

/// Between two looks, give or take a fifth: a token that is revoked shows within 5 s.
const INTERVAL: Duration = Duration::from_secs(3);
/// The same while ACLs are off, which takes a restart of the agent to change.
const INTERVAL_WITHOUT_ACLS: Duration = Duration::from_secs(30);
/// Questions that an agent takes at once.
const MAX_QUESTIONS: usize = 64;

/// A right to read something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    /// Where in a federation.
    pub(super) place: Place,
    /// `service` or `key`.
    pub(super) resource: &'static str,
    /// Its name.
    pub(super) segment: Arc<str>,
}

/// What the token lacks, as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    /// Why it is not accepted at all.
    pub(super) token: Option<Arc<str>>,
    /// Rights that it lacks.
    pub(super) rights: BTreeSet<Right>,
}

/// The rights that watches need, and which of them the token lacks.
pub(super) struct Rights {
    needed: Mutex<BTreeMap<u64, Vec<Right>>>,
    next: AtomicU64,
    lacking: watch::Sender<Arc<Lacking>>,
}

/// The rights that a watch needs; no longer when dropped.
pub(super) struct Needs {
    rights: Arc<Rights>,
    id: u64,
}

/// What a look at the token found.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Accepted,
    Refused(String),
    WithoutAcls,
    /// No answer, or one that says nothing.
    Unknown,
}

/// What a question about rights found.
enum Lacks {
    These(BTreeSet<Right>),
    WithoutAcls,
    /// No answer, or of an agent that does not know the question.
    Unknown,
}

impl Rights {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { needed: Mutex::default(), next: AtomicU64::new(0), lacking: watch::Sender::default() })
    }

    /// For a watch.
    pub(super) fn needs(self: &Arc<Self>) -> Needs {
        Needs { rights: Arc::clone(self), id: self.next.fetch_add(1, Relaxed) }
    }

    /// What is lacking now, and whenever that changes.
    pub(super) fn lacking(&self) -> watch::Receiver<Arc<Lacking>> {
        self.lacking.subscribe()
    }

    fn needed(&self) -> BTreeSet<Right> {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        needed.values().flatten().cloned().collect()
    }

    /// Publishes what a look found. Whether something that was lacking no longer is.
    fn found(&self, now: Lacking) -> bool {
        let before = Arc::clone(&self.lacking.borrow());
        if *before == now {
            return false;
        }
        match (&before.token, &now.token) {
            (None, Some(why)) => tracing::warn!("{why}; what is known stays until the token is accepted again"),
            (Some(_), None) => tracing::info!("Consul accepts the token again"),
            _ => {}
        }
        let returned = before.token.is_some() && now.token.is_none() || !before.rights.is_subset(&now.rights);
        self.lacking.send_replace(Arc::new(now));
        returned
    }
}

impl Needs {
    /// The watch needs these, and no others.
    pub(super) fn set(&self, rights: Vec<Right>) {
        let mut needed = self.rights.needed.lock().unwrap_or_else(PoisonError::into_inner);
        needed.insert(self.id, rights);
    }
}

impl Drop for Needs {
    fn drop(&mut self) {
        self.rights.needed.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Looks for ever. `returned` wakes watches that wait because they were refused.
pub(super) async fn follow(client: &Client, returned: &Notify) {
    let rights = &client.rights;
    let mut last: Option<Right> = None;
    loop {
        let mut now = Lacking::clone(&rights.lacking.borrow());
        let mut wait = INTERVAL;
        match token(client).await {
            Token::Refused(why) => now.token = Some(why.into()),
            Token::WithoutAcls => (now, wait) = (Lacking::default(), INTERVAL_WITHOUT_ACLS),
            Token::Accepted => {
                now.token = None;
                let needed = rights.needed();
                now.rights.retain(|right| needed.contains(right));
                let asked = batch(&needed, last.as_ref());
                match lacks(client, &asked).await {
                    Lacks::These(lacks) => {
                        now.rights.retain(|right| !asked.contains(right));
                        now.rights.extend(lacks);
                    }
                    Lacks::WithoutAcls => (now, wait) = (Lacking::default(), INTERVAL_WITHOUT_ACLS),
                    Lacks::Unknown => {}
                }
                last = asked.last().cloned();
            }
            Token::Unknown => {}
        }
        if rights.found(now) {
            returned.notify_waiters();
        }
        sleep(around(wait, 0.2)).await;
    }
}

/// The questions after the last one asked, all of one place; from the beginning where there are no more.
fn batch(needed: &BTreeSet<Right>, last: Option<&Right>) -> Vec<Right> {
    let after = last.and_then(|last| needed.range((Excluded(last), Unbounded)).next());
    let Some(first) = after.or_else(|| needed.first()) else { return Vec::new() };
    let together = needed.range(first..).take_while(|right| right.place == first.place);
    together.take(MAX_QUESTIONS).cloned().collect()
}

async fn token(client: &Client) -> Token {
    if client.token.header().is_none() {
        return Token::Accepted;
    }
    let Ok(reply) = client.read(&Query::own_token(), Consistency::Stale).await else { return Token::Unknown };
    let says = |text: &str| reply.excerpt().contains(text);
    match reply.status {
        StatusCode::OK => Token::Accepted,
        StatusCode::UNAUTHORIZED if says("ACL support disabled") => Token::WithoutAcls,
        // Agents of old ACLs do not know the question.
        StatusCode::UNAUTHORIZED if says("legacy") => Token::Unknown,
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
            Token::Refused(format!("Consul does not accept the token ({}: {})", reply.status.as_u16(), reply.excerpt()))
        }
        StatusCode::INTERNAL_SERVER_ERROR if says("ACL not found") => {
            Token::Refused(format!("Consul does not accept the token ({})", reply.excerpt()))
        }
        _ => Token::Unknown,
    }
}

/// Asks which of these rights the token lacks.
async fn lacks(client: &Client, asked: &[Right]) -> Lacks {
    let Some(first) = asked.first() else { return Lacks::Unknown };
    let question = |right: &Right| json!({"Resource": right.resource, "Access": "read", "Segment": &*right.segment});
    let questions: Vec<_> = asked.iter().map(question).collect();
    let query = Query::authorize().at(first.place.clone());
    let Ok(reply) = client.authorize(&query, serde_json::Value::from(questions).to_string()).await else {
        return Lacks::Unknown;
    };
    match (reply.status, decisions(&reply.body)) {
        // The answers are in the order of the questions.
        (StatusCode::OK, Ok(decisions)) if decisions.len() == asked.len() => {
            let denied = asked.iter().zip(decisions).filter(|(_, decision)| !decision.allow);
            Lacks::These(denied.map(|(right, _)| right.clone()).collect())
        }
        (StatusCode::UNAUTHORIZED, _) if reply.excerpt().contains("ACL support disabled") => Lacks::WithoutAcls,
        _ => Lacks::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(segment: &str, datacenter: Option<&str>) -> Right {
        let place = Place { datacenter: datacenter.map(Into::into), ..Place::default() };
        Right { place, resource: "service", segment: segment.into() }
    }

    #[test]
    fn every_right_has_its_turn_and_places_are_asked_apart() {
        let mut needed: BTreeSet<Right> = (0..100).map(|number| right(&format!("s{number:03}"), None)).collect();
        needed.insert(right("far", Some("east")));
        let (mut last, mut seen) = (None, Vec::new());
        for _ in 0..4 {
            let asked = batch(&needed, last.as_ref());
            assert!(asked.len() <= MAX_QUESTIONS && asked.iter().all(|right| right.place == asked[0].place));
            last = asked.last().cloned();
            seen.push(asked.len());
        }
        assert_eq!(seen, [64, 36, 1, 64]);
        assert_eq!(batch(&BTreeSet::new(), last.as_ref()), []);
    }

    #[test]
    fn a_right_that_returns_is_told_and_one_that_nobody_needs_is_forgotten() {
        let rights = Rights::new();
        let needs = rights.needs();
        needs.set(vec![right("a", None)]);
        assert_eq!(rights.needed().len(), 1);
        let lacking = |token: Option<&str>, names: &[&str]| Lacking {
            token: token.map(Into::into),
            rights: names.iter().map(|name| right(name, None)).collect(),
        };
        assert!(!rights.found(lacking(None, &["a"])));
        assert!(!rights.found(lacking(Some("refused"), &["a"])));
        assert!(rights.found(lacking(None, &["a"])));
        assert!(!rights.found(lacking(None, &["a", "b"])));
        assert!(rights.found(lacking(None, &["b"])));
        drop(needs);
        assert_eq!(rights.needed().len(), 0);
    }
}
