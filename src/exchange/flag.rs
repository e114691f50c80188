//! Defines the flags: one short word for why an exchange ended as it did (Envoy's where it has one).

/// Why an exchange did not end as its endpoint answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    /// No route matched.
    NoRoute,
    /// The route is known, but has no usable endpoint.
    NoHealthyUpstream,
    /// The route refers to something absent or broken.
    NoConfiguration,
    /// The endpoint could not be reached.
    UpstreamConnectFailure,
    /// The endpoint closed or reset the connection.
    UpstreamConnectionTermination,
    /// Every try failed.
    UpstreamRetryLimitExceeded,
    /// The endpoint broke HTTP.
    UpstreamProtocolError,
    /// No response in time.
    UpstreamTimeout,
    /// The gateway cut it: its endpoint was drained, or the gateway stopped, and the time for that was over.
    LocalReset,
    /// Too much is going on at the upstream, or its breaker is open.
    UpstreamOverflow,
    /// The route is in maintenance.
    Maintenance,
    /// The gateway was asked to fail the request.
    FaultInjected,
    /// The gateway was asked to delay the request, and nothing else happened to it.
    DelayInjected,
    /// The client sends too much.
    RateLimited,
    /// The client is not allowed.
    Unauthorized,
    /// The client went away.
    DownstreamConnectionTermination,
    /// The client was too slow with its body.
    RequestTimeout,
    /// The body was too large.
    BodyLimit,
    /// The request's head was too large.
    HeaderLimit,
    /// The request was malformed or ambiguous.
    DownstreamProtocolError,
}

impl Flag {
    /// As logs, metrics and `x-fleetgate-flag` show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoHealthyUpstream => "UH",
            Self::NoConfiguration => "NC",
            Self::UpstreamConnectFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::UpstreamProtocolError => "UPE",
            Self::UpstreamTimeout => "UT",
            Self::LocalReset => "LR",
            Self::UpstreamOverflow => "UO",
            Self::Maintenance => "MT",
            Self::FaultInjected => "FI",
            Self::DelayInjected => "DI",
            Self::RateLimited => "RL",
            Self::Unauthorized => "UAEX",
            Self::DownstreamConnectionTermination => "DC",
            Self::RequestTimeout => "RT",
            Self::BodyLimit => "BL",
            Self::HeaderLimit => "HL",
            Self::DownstreamProtocolError => "DPE",
        }
    }
}
