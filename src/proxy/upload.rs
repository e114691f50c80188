//! How far a request has got on its way to an endpoint.

/// Who the rest of a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// The client, which has not sent it.
    WaitsForClient,
    /// The endpoint, which does not take it.
    WaitsForEndpoint,
    /// Nobody: all is sent, or no more can be.
    Sent,
}
