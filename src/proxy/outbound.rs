//! Defines a request as endpoints get it: what came, less what belongs to the client's connection, and what the
//! gateway adds.

use http::{HeaderName, HeaderValue, Request};

use crate::exchange::Body;

/// A request on its way to an endpoint; the same for every try.
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) request: Request<Body>,
    pub(super) added: Added,
}

/// The headers that the gateway adds. They are written behind those that came and never put among them: that would
/// cost a hash for each, and room that the map was not made with.
#[derive(Debug)]
pub(super) struct Added(Vec<(HeaderName, HeaderValue)>);

impl Default for Added {
    fn default() -> Self {
        // `x-request-id`, three `x-forwarded-*`, `via`.
        Self(Vec::with_capacity(5))
    }
}

impl Added {
    /// Adds a header, which must not be among those that came unless it may be there twice.
    pub(super) fn put(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}
