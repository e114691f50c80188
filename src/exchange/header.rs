//! Defines the headers a gateway reads or writes that the `http` crate has no name for.

use http::{HeaderName, HeaderValue};

/// `keep-alive` (RFC 2068, 19.7.1.1): of one connection.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// `proxy-connection`: what old clients say for `connection`.
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// `x-forwarded-for`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `x-forwarded-proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `x-forwarded-prefix`
pub const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// `x-forwarded-host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `x-forwarded-port`
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// `x-real-ip`
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// `x-request-id`
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `x-forwarded-client-cert`: Envoy's, for who a client proved to be.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// `x-consumer`: who a client is found to be, for services.
pub const X_CONSUMER: HeaderName = HeaderName::from_static("x-consumer");
/// `traceparent` (W3C Trace Context)
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `x-fleetgate-flag`: the flag of an answer the gateway made.
pub const X_FLEETGATE_FLAG: HeaderName = HeaderName::from_static("x-fleetgate-flag");

/// What the gateway calls itself in `Via`.
pub const PSEUDONYM: &str = "fleetgate";
/// How the gateway names itself in `Via` (RFC 9110, 7.6.3), on messages it received as HTTP/1.1.
pub const VIA: HeaderValue = HeaderValue::from_static("1.1 fleetgate");
/// Likewise for HTTP/2.
pub const VIA_2: HeaderValue = HeaderValue::from_static("2.0 fleetgate");
/// Likewise for HTTP/1.0.
pub const VIA_10: HeaderValue = HeaderValue::from_static("1.0 fleetgate");
