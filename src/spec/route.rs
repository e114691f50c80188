//! Defines a route as someone asked for it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::matching::{Conditions, MatchSpec};
use super::name::{ItemRef, Name};

/// What to match in a request, and what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The conditions.
    pub matching: MatchSpec,
    /// Greater goes first; default 0.
    pub priority: i32,
    /// Only on these listeners; empty: on all.
    pub listeners: Vec<Name>,
    /// At least one.
    pub targets: Vec<TargetSpec>,
    /// How a client keeps its side of a split.
    pub sticky: Option<Sticky>,
    /// The whole exchange, from the request's head to the response's end; ends at an upgrade.
    pub timeout: Option<Duration>,
    /// Additional tries where no endpoint was reached; 0 to 10, default 1.
    pub retry_attempts: u32,
}

/// One possible destination of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// The upstream.
    pub upstream: ItemRef,
    /// The subset of it; `None` is all of it.
    pub subset: Option<Name>,
    /// When it is taken.
    pub choice: Choice,
}

impl TargetSpec {
    /// As metrics and logs show it: `UPSTREAM` or `UPSTREAM/SUBSET`.
    pub fn label(&self) -> Arc<str> {
        match &self.subset {
            Some(subset) => format!("{}/{subset}", self.upstream).into(),
            None => self.upstream.to_string().into(),
        }
    }
}

/// When a target is taken: by a condition or by a share, never both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first target whose conditions hold is taken, before any share.
    When(Conditions),
    /// Its share: 0 to 1,000,000.
    Weight(u32),
}

/// What identifies a client for its side of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value; a client without it gets one.
    Cookie(String),
    /// The client's address (the first untrusted one).
    ClientIp,
}
