//! Defines when requests to an upstream are refused at once, and what is done with them instead.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::name::ItemRef;
use super::percent::Percent;

/// The circuit breaker of an upstream. Every limit is for the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Most requests in flight; no limit by default.
    pub max_requests: Option<u32>,
    /// Most requests that wait for a connection to be made; no limit by default.
    pub max_pending: Option<u32>,
    /// Most connections, idle ones included; no limit by default.
    pub max_connections: Option<u32>,
    /// When it opens; never by default.
    pub errors: Option<Errors>,
    /// What is done with a refused request; 503 by default.
    pub fallback: Option<Fallback>,
}

/// How many errors open a breaker, and how it closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// From this share of the tries of late on: those that failed, were answered with 500 to 599, or were slow.
    pub ratio: Percent,
    /// Longer than this to a response's head is slow; nothing is by default.
    pub slow: Option<Duration>,
    /// What is of late; default 10 s.
    pub window: Duration,
    /// Fewer tries than these say nothing; default 20.
    pub min_requests: u32,
    /// How long everything is refused; default 10 s.
    pub open: Duration,
    /// Requests that are let through then; when all of them went well it closes. Default 3.
    pub probes: u32,
}

/// What is done with a refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It goes to another upstream.
    Upstream(ItemRef),
    /// It gets this answer.
    Answer(Arc<Canned>),
}

/// An answer that is always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canned {
    /// 200 to 599; default 503.
    pub status: StatusCode,
    /// Default `text/plain; charset=utf-8`.
    pub content_type: HeaderValue,
    /// Default empty.
    pub body: String,
}
