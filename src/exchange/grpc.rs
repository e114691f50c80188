//! Defines what a gateway has to know of gRPC: which requests are its, how long their clients wait, and the form of an
//! answer that is not its service's (gRPC over HTTP/2).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::error::{AuthFault, ProxyError};

/// `grpc-timeout`: how long the client waits.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// `grpc-status`: what became of a call.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// `grpc-message`: the same, for people.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The type of an answer without messages.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a request is a call: its type is `application/grpc`, perhaps with how messages are written. gRPC-Web is
/// another.
pub fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(CONTENT_TYPE.as_bytes()));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// How long the client waits: at most eight digits, and a unit. What is none says nothing.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    };
    // The digits must be a positive number.
    (number > 0).then_some(timeout.min(LONGEST))
}

/// Nobody waits for longer, and sums with the clock stay far from any overflow.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The code that stands for an error: Envoy's, by the status of the answer, but for what gRPC has a better one for.
pub fn status(error: ProxyError) -> u8 {
    match error {
        ProxyError::AuthService(AuthFault::Timeout) => DEADLINE_EXCEEDED,
        ProxyError::AuthService(_) => UNAVAILABLE,
        ProxyError::NoRoute | ProxyError::NoUpgrade => UNIMPLEMENTED,
        ProxyError::NoEndpoint
        | ProxyError::NotReady
        | ProxyError::Unresolved
        | ProxyError::Overloaded { .. }
        | ProxyError::Unreachable { .. }
        | ProxyError::Reset { .. }
        | ProxyError::Drained
        | ProxyError::Maintenance { .. }
        | ProxyError::BadResponse => UNAVAILABLE,
        ProxyError::Denied => PERMISSION_DENIED,
        ProxyError::Unauthenticated => UNAUTHENTICATED,
        // What HTTP's statuses are in gRPC ("HTTP to gRPC Status Code Mapping").
        ProxyError::Injected(status) => match status.as_u16() {
            400 => INTERNAL,
            401 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 => UNIMPLEMENTED,
            429 | 502..=504 => UNAVAILABLE,
            _ => UNKNOWN,
        },
        ProxyError::Timeout => DEADLINE_EXCEEDED,
        ProxyError::ClientGone => CANCELLED,
        ProxyError::SlowBody => UNKNOWN,
        ProxyError::BodyTooLarge
        | ProxyError::HeadersTooLarge
        | ProxyError::UriTooLong
        | ProxyError::TooMany { .. } => RESOURCE_EXHAUSTED,
        ProxyError::BadRequest | ProxyError::Loop => INTERNAL,
    }
}

/// Whether the head of an answer says that the call failed for the service's sake, as an answer of 500 does. What a
/// client can bring about alone does not count: a call of what there is not, or with a deadline that is too short.
pub fn is_failure(headers: &HeaderMap) -> bool {
    let status = headers.get(GRPC_STATUS).and_then(|status| status.to_str().ok()?.parse::<u8>().ok());
    matches!(status, Some(UNKNOWN | INTERNAL | UNAVAILABLE | DATA_LOSS))
}

const CANCELLED: u8 = 1;
const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const DATA_LOSS: u8 = 15;
const UNAUTHENTICATED: u8 = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a value"))])
    }

    #[test]
    fn calls_are_told_by_their_type() {
        for (kind, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&with(header::CONTENT_TYPE, kind)), wanted, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        let timeout = |text: &str| super::timeout(&with(GRPC_TIMEOUT, text));
        for (text, wanted) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("00000007u", Duration::from_micros(7)),
            ("1n", Duration::from_nanos(1)),
            ("99999999H", LONGEST),
        ] {
            assert_eq!(timeout(text), Some(wanted), "{text}");
        }
        for text in ["", "S", "1", "1s", "123456789S", "-1S", "+1S", "1.5S", " 1S", "0S", "1SS", "1 S"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_timeout_is_too_much(text in "[0-9HMSmun+. -]{0,12}") {
            let timeout = super::timeout(&with(GRPC_TIMEOUT, &text));
            prop_assert!(timeout.is_none_or(|timeout| !timeout.is_zero() && timeout <= LONGEST));
        }
    }

    #[test]
    fn only_what_speaks_against_the_service_is_a_failure() {
        let failures: Vec<u8> = (0..20).filter(|code| is_failure(&with(GRPC_STATUS, &code.to_string()))).collect();
        assert_eq!(failures, [2, 13, 14, 15]);
        assert!(!is_failure(&HeaderMap::new()) && !is_failure(&with(GRPC_STATUS, "x")));
    }
}
