//! Defines whom to ask whether a request may pass, as someone asked for it.

use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;

use crate::spec::name::Name;

/// Whom to ask whether a request may pass, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuth {
    /// The upstream of the service that knows.
    pub upstream: Name,
    /// The path there, perhaps with a query.
    pub path: PathAndQuery,
    /// How long its answer is waited for.
    pub timeout: Duration,
    /// Headers of the request that it gets.
    pub request_headers: Vec<HeaderName>,
    /// Headers of its answer that services get; no client's own copy of these passes.
    pub response_headers: Vec<HeaderName>,
    /// The header of its answer that is the consumer's name.
    pub consumer: Option<HeaderName>,
    /// How long a yes counts for requests that are alike.
    pub cache: Option<Duration>,
}
