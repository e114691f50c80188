//! Defines why an exchange has no answer of an endpoint, and what the client gets instead.

use http::StatusCode;

use super::flag::Flag;

/// Why the gateway answers itself. The client learns the status, the flag and [`ProxyError::code`]; causes go to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// No route matched.
    NoRoute,
    /// The route has no usable endpoint.
    NoEndpoint,
    /// The route does not take this client.
    Denied,
    /// Nobody knows who the client is, and the route wants to know.
    Unauthenticated,
    /// The client sends too much.
    TooMany {
        /// Seconds after which trying again makes sense.
        seconds: u32,
    },
    /// The route is in maintenance.
    Maintenance {
        /// Seconds after which trying again makes sense.
        seconds: u32,
    },
    /// The gateway was asked to answer like this.
    Injected(StatusCode),
    /// The gateway has not read everything that may protect a route yet, so it serves nothing.
    NotReady,
    /// The route refers to something absent or broken.
    Unresolved,
    /// The upstream has too much to do, or its breaker is open.
    Overloaded {
        /// Seconds after which trying again makes sense.
        seconds: u32,
    },
    /// The endpoint could not be reached; `retried`: nor could others.
    Unreachable {
        /// Whether more than one try was made.
        retried: bool,
    },
    /// The endpoint closed or reset the connection before it answered; `retried`: so did others.
    Reset {
        /// Whether more than one try was made.
        retried: bool,
    },
    /// The endpoint was drained, and did not answer in the time for that.
    Drained,
    /// The endpoint's answer is not HTTP.
    BadResponse,
    /// The request asks for an upgrade, and the endpoint is spoken to in what has none.
    NoUpgrade,
    /// No response head in time, or the whole exchange took too long.
    Timeout,
    /// The client went away; nobody reads the answer.
    ClientGone,
    /// The client did not send its body in time.
    SlowBody,
    /// The body is larger than the listener allows.
    BodyTooLarge,
    /// The request has more headers than the listener allows.
    HeadersTooLarge,
    /// The path or query is longer than a regular expression that decides about it may search.
    UriTooLong,
    /// The request is malformed or could be read in two ways.
    BadRequest,
    /// The request goes in a circle: it came through gateways like this one too often.
    Loop,
    /// The service that `forward_auth` asks made no decision.
    AuthService(AuthFault),
}

/// Why an auth service made no decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFault {
    /// It answered with 500 or above, or with something that is not a final HTTP response.
    Failed,
    /// It answered with 508: the question goes in a circle.
    Loop,
    /// Its upstream has no usable endpoint.
    NoEndpoint,
    /// Its upstream has too much to do, or its breaker is open.
    Overloaded {
        /// Seconds after which trying again makes sense.
        seconds: u32,
    },
    /// It could not be reached.
    Unreachable {
        /// Whether more than one try was made.
        retried: bool,
    },
    /// It closed or reset the connection before it answered.
    Reset {
        /// Whether more than one try was made.
        retried: bool,
    },
    /// Its endpoint was drained meanwhile.
    Drained,
    /// It did not answer in time.
    Timeout,
}

impl AuthFault {
    /// What the same event is when it happens to the request itself: the source of status and retry advice.
    fn of_upstream(self) -> ProxyError {
        match self {
            Self::Failed => ProxyError::BadResponse,
            // With the same status no gateway of the circle tries again.
            Self::Loop => ProxyError::Loop,
            Self::NoEndpoint => ProxyError::NoEndpoint,
            Self::Overloaded { seconds } => ProxyError::Overloaded { seconds },
            Self::Unreachable { retried } => ProxyError::Unreachable { retried },
            Self::Reset { retried } => ProxyError::Reset { retried },
            Self::Drained => ProxyError::Drained,
            Self::Timeout => ProxyError::Timeout,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Failed => "auth_service_failed",
            Self::Loop => "auth_service_loop",
            Self::NoEndpoint => "auth_service_no_endpoint",
            Self::Overloaded { .. } => "auth_service_overloaded",
            Self::Unreachable { .. } => "auth_service_unreachable",
            Self::Reset { .. } => "auth_service_reset",
            Self::Drained => "auth_service_drained",
            Self::Timeout => "auth_service_timeout",
        }
    }
}

impl ProxyError {
    /// The error of a question to an auth service, named as that service's. Others stay what they are: a route that refers
    /// to an absent upstream, or a client that went away.
    #[must_use]
    pub fn of_auth_service(self) -> Self {
        Self::AuthService(match self {
            Self::BadResponse => AuthFault::Failed,
            Self::NoEndpoint => AuthFault::NoEndpoint,
            Self::Overloaded { seconds } => AuthFault::Overloaded { seconds },
            Self::Unreachable { retried } => AuthFault::Unreachable { retried },
            Self::Reset { retried } => AuthFault::Reset { retried },
            Self::Drained => AuthFault::Drained,
            Self::Timeout => AuthFault::Timeout,
            Self::NoRoute
            | Self::Denied
            | Self::Unauthenticated
            | Self::TooMany { .. }
            | Self::Maintenance { .. }
            | Self::Injected(_)
            | Self::NotReady
            | Self::Unresolved
            | Self::NoUpgrade
            | Self::ClientGone
            | Self::SlowBody
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::UriTooLong
            | Self::BadRequest
            | Self::Loop
            | Self::AuthService(_) => return self,
        })
    }

    /// The error of the last of several tries.
    pub fn retried(self) -> Self {
        match self {
            Self::Unreachable { .. } => Self::Unreachable { retried: true },
            Self::Reset { .. } => Self::Reset { retried: true },
            Self::NoRoute
            | Self::NoEndpoint
            | Self::Denied
            | Self::Unauthenticated
            | Self::TooMany { .. }
            | Self::Maintenance { .. }
            | Self::Injected(_)
            | Self::NotReady
            | Self::Unresolved
            | Self::Overloaded { .. }
            | Self::Drained
            | Self::BadResponse
            | Self::NoUpgrade
            | Self::Timeout
            | Self::ClientGone
            | Self::SlowBody
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::UriTooLong
            | Self::BadRequest
            | Self::Loop
            | Self::AuthService(_) => self,
        }
    }

    /// The status of the answer (499, nginx's, is only logged).
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoEndpoint
            | Self::NotReady
            | Self::Unresolved
            | Self::Overloaded { .. }
            | Self::Drained
            | Self::Maintenance { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Injected(status) => status,
            Self::Unreachable { .. } | Self::Reset { .. } | Self::BadResponse => StatusCode::BAD_GATEWAY,
            Self::NoUpgrade => StatusCode::NOT_IMPLEMENTED,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ClientGone => CLIENT_CLOSED_REQUEST,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::AuthService(fault) => fault.of_upstream().status(),
        }
    }

    /// The flag of the answer.
    pub fn flag(self) -> Flag {
        match self {
            Self::NoRoute => Flag::NoRoute,
            Self::NoEndpoint => Flag::NoHealthyUpstream,
            Self::Denied | Self::Unauthenticated => Flag::Unauthorized,
            Self::TooMany { .. } => Flag::RateLimited,
            Self::Maintenance { .. } => Flag::Maintenance,
            Self::Injected(_) => Flag::FaultInjected,
            Self::NotReady | Self::Unresolved | Self::Loop => Flag::NoConfiguration,
            Self::Overloaded { .. } => Flag::UpstreamOverflow,
            Self::Unreachable { retried: false } => Flag::UpstreamConnectFailure,
            Self::Unreachable { retried: true } | Self::Reset { retried: true } => Flag::UpstreamRetryLimitExceeded,
            Self::Reset { retried: false } => Flag::UpstreamConnectionTermination,
            Self::Drained => Flag::LocalReset,
            Self::BadResponse | Self::NoUpgrade => Flag::UpstreamProtocolError,
            Self::Timeout => Flag::UpstreamTimeout,
            Self::ClientGone => Flag::DownstreamConnectionTermination,
            Self::SlowBody => Flag::RequestTimeout,
            Self::BodyTooLarge => Flag::BodyLimit,
            Self::HeadersTooLarge | Self::UriTooLong => Flag::HeaderLimit,
            Self::BadRequest => Flag::DownstreamProtocolError,
            // Envoy's, too, for an authorization service that fails: the route's own endpoints broke nothing.
            Self::AuthService(AuthFault::Failed | AuthFault::Loop) => Flag::Unauthorized,
            Self::AuthService(fault) => fault.of_upstream().flag(),
        }
    }

    /// A word for machines, in the body of the answer.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::Denied => "denied",
            Self::Unauthenticated => "unauthenticated",
            Self::TooMany { .. } => "too_many_requests",
            Self::Maintenance { .. } => "maintenance",
            Self::Injected(_) => "fault_injected",
            Self::NotReady => "not_ready",
            Self::Unresolved => "unresolved_route",
            Self::Overloaded { .. } => "overloaded",
            Self::Unreachable { .. } => "endpoint_unreachable",
            Self::Reset { .. } => "endpoint_reset",
            Self::Drained => "endpoint_drained",
            Self::BadResponse => "endpoint_protocol_error",
            Self::NoUpgrade => "no_upgrade",
            Self::Timeout => "timeout",
            Self::ClientGone => "client_gone",
            Self::SlowBody => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::BadRequest => "bad_request",
            Self::Loop => "loop_detected",
            Self::AuthService(fault) => fault.code(),
        }
    }

    /// Whether the client's connection cannot be used any further.
    pub fn closes(self) -> bool {
        match self {
            Self::ClientGone | Self::SlowBody | Self::BodyTooLarge | Self::HeadersTooLarge | Self::BadRequest => true,
            Self::NoRoute
            | Self::NoEndpoint
            | Self::Denied
            | Self::Unauthenticated
            | Self::TooMany { .. }
            | Self::Maintenance { .. }
            | Self::Injected(_)
            | Self::NotReady
            | Self::Unresolved
            | Self::Overloaded { .. }
            | Self::Unreachable { .. }
            | Self::Reset { .. }
            | Self::Drained
            | Self::BadResponse
            | Self::NoUpgrade
            | Self::Timeout
            | Self::UriTooLong
            | Self::Loop
            | Self::AuthService(_) => false,
        }
    }

    /// Seconds after which trying again makes sense, for `Retry-After`.
    pub fn retry_after(self) -> Option<u32> {
        match self {
            Self::NoEndpoint | Self::NotReady | Self::Unresolved | Self::Drained => Some(1),
            Self::Overloaded { seconds } | Self::TooMany { seconds } | Self::Maintenance { seconds } => Some(seconds),
            Self::NoRoute
            | Self::Denied
            | Self::Unauthenticated
            | Self::Injected(_)
            | Self::Unreachable { .. }
            | Self::Reset { .. }
            | Self::BadResponse
            | Self::NoUpgrade
            | Self::Timeout
            | Self::ClientGone
            | Self::SlowBody
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::UriTooLong
            | Self::BadRequest
            | Self::Loop => None,
            Self::AuthService(fault) => fault.of_upstream().retry_after(),
        }
    }
}

/// nginx's status for a client that went away before it was answered; never sent.
pub const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};
