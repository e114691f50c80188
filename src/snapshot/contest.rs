//! Routes that do not get all they match, because others match it, too, and go first.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::spec::name::{Name, ProviderId};

/// A route that does not get all requests it matches, because another one matches them, too, and goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    /// The one that goes behind.
    pub route: Name,
    /// Who defines it.
    pub provider: ProviderId,
    /// Where it lies.
    pub lies: Arc<str>,
    /// Which of its hosts, by position; `None`: what is said holds for all.
    pub host: Option<usize>,
    /// What both match, as people write it.
    pub place: String,
    /// The one that goes first.
    pub by: Name,
    /// Who defines that.
    pub by_provider: ProviderId,
    /// Why.
    pub reason: ContestReason,
}

/// Why one of two routes that match the same goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContestReason {
    /// Both match the same, and the other one is the first claim.
    FirstClaim,
    /// Both match the same, no claims are known, and the service of the other one has the oldest instance.
    OldestInstance,
    /// Both match the same; this one would go first, and has no registered instance.
    NoInstance,
    /// Both match the same with the same middlewares; this one would go first, and all its instances are critical.
    Critical,
    /// A tag asks for what a document matches as a whole.
    Covered,
    /// A tag asks for what a document matches in part.
    Overlapped,
}

impl Contest {
    /// Whether the route gets no request of its place.
    pub fn is_shadowed(&self) -> bool {
        self.reason != ContestReason::Overlapped
    }

    /// Whether both routes match the same, so that only one of them is asked.
    pub fn is_of_equals(&self) -> bool {
        match self.reason {
            ContestReason::FirstClaim
            | ContestReason::OldestInstance
            | ContestReason::NoInstance
            | ContestReason::Critical => true,
            ContestReason::Covered | ContestReason::Overlapped => false,
        }
    }

    /// What those who look at the route have to know.
    pub fn of_route(&self) -> String {
        let Self { by, place, .. } = self;
        match self.reason {
            ContestReason::FirstClaim => format!("shadowed by {by}: of equal routes the first claim stays, at {place}"),
            ContestReason::OldestInstance => format!(
                "shadowed by {by}: claims are not shared, and of equal routes that of the service with the oldest instance \
                 goes first, at {place}"
            ),
            ContestReason::NoInstance => {
                format!("shadowed by {by}: this would go first at {place}, but has no registered instance")
            }
            ContestReason::Critical => {
                format!("shadowed by {by}: this would go first at {place}, but all its instances are critical")
            }
            ContestReason::Covered => format!(
                "shadowed by {by}: this document of {} covers {place}, and `discovery.consul.tag_hosts` is unset",
                self.by_provider
            ),
            ContestReason::Overlapped => format!(
                "goes behind {by} of {} where both match: tags never take what a document covers while \
                 `discovery.consul.tag_hosts` is unset",
                self.by_provider
            ),
        }
    }

    /// What those who look at the other one have to know.
    pub fn of_winner(&self) -> String {
        format!("{} is also asked for by {}", self.place, self.route)
    }
}

/// Whether a route with so many hosts gets no request at all because others go first.
pub fn is_shadowed(contests: &[&Contest], route: &Name, hosts: usize) -> bool {
    let own = contests.iter().filter(|contest| contest.route == *route && contest.is_shadowed());
    let mut shadowed = BTreeSet::new();
    for contest in own {
        match contest.host {
            None => return true,
            Some(host) => {
                shadowed.insert(host);
            }
        }
    }
    !shadowed.is_empty() && shadowed.len() >= hosts.max(1)
}
