//! Defines who may ask: with a token its holders, without one whoever is on this machine and names it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use subtle::ConstantTimeEq as _;

use super::error::ApiError;
use crate::spec::settings::{Admin, Secret};

/// That a request may see everything; absent where it only may see what everyone may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Authorised;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client(pub(super) SocketAddr);

/// Whether a request may see `path`, and whether all of it.
///
/// # Errors
/// A request that came through a gateway; a missing or wrong token; without a token, a `Host` that is not of this machine.
pub(super) fn judge(admin: &Admin, uri: &Uri, headers: &HeaderMap) -> Result<Option<Authorised>, ApiError> {
    match authorise(admin, uri, headers) {
        Ok(authorised) => Ok(Some(authorised)),
        // Load balancers add their marks to health checks, too. These pages hold no secret, whoever asks for them.
        Err(ApiError::Unauthorised | ApiError::Forwarded(_)) if is_public(admin, uri.path()) => Ok(None),
        // HAProxy's plain `option httpchk` names no host, as HTTP/1.0 allows; a browser on a foreign page always does.
        Err(ApiError::ForeignHost) if is_health(uri.path()) && !headers.contains_key(header::HOST) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a page needs no token where others do.
fn is_public(admin: &Admin, path: &str) -> bool {
    admin.token.is_some() && (is_health(path) || path == "/metrics" && admin.metrics_public)
}

fn is_health(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Lets in who may see everything.
fn authorise(admin: &Admin, uri: &Uri, headers: &HeaderMap) -> Result<Authorised, ApiError> {
    if headers.get_all(header::VIA).iter().any(names_fleetgate) {
        return Err(ApiError::Forwarded(header::VIA.as_str().to_owned()));
    }
    if admin.token.as_ref().is_some_and(|token| shows(token, headers)) {
        return Ok(Authorised);
    }
    // Whoever reaches a gateway may have it ask here: being on this machine and naming it proves nothing then.
    if let Some(mark) = headers.keys().find(|name| is_mark_of_proxy(name)) {
        return Err(ApiError::Forwarded(mark.as_str().to_owned()));
    }
    match admin.token {
        Some(_) => Err(ApiError::Unauthorised),
        None if names_this_machine(uri, headers) => Ok(Authorised),
        None => Err(ApiError::ForeignHost),
    }
}

/// Whether a request that changes something may do so: not when a browser sends it for another site's page, be it with
/// an operator's remembered password or from an operator's own machine. Browsers say so themselves by `Sec-Fetch-Site`
/// (W3C Fetch Metadata), older ones by `Origin` (RFC 6454); what is no browser sends neither.
///
/// # Errors
/// A request from another origin.
pub(super) fn judge_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let all = |name: &str, fits: &dyn Fn(&str) -> bool| {
        headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(fits))
    };
    if headers.contains_key("sec-fetch-site") {
        let near = all("sec-fetch-site", &|site| matches!(site, "same-origin" | "none"));
        return if near { Ok(()) } else { Err(ApiError::ForeignOrigin) };
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let own = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
    if all("origin", &own) { Ok(()) } else { Err(ApiError::ForeignOrigin) }
}

/// Whether a header is one that proxies add to the requests they pass on.
fn is_mark_of_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "via" | "forwarded" | "x-real-ip" | "x-request-id") || name.starts_with("x-forwarded-")
}

/// Whether a `Via` (RFC 9110, 7.6.3) names a Fleetgate: each hop is `protocol received-by`, and perhaps a comment.
fn names_fleetgate(via: &HeaderValue) -> bool {
    let is_fleetgate = |hop: &[u8]| {
        let mut words = hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(PSEUDONYM))
    };
    via.as_bytes().split(|byte| *byte == b',').any(is_fleetgate)
}

/// What gateways call themselves in `Via`.
const PSEUDONYM: &[u8] = b"fleetgate";

fn shows(token: &Secret, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some((scheme, credentials)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
        return false;
    };
    let credentials = credentials.trim();
    // An empty token is none: nothing may be equal to it.
    let equal = |shown: &[u8]| !shown.is_empty() && bool::from(shown.ct_eq(token.expose().as_bytes()));
    if scheme.eq_ignore_ascii_case("bearer") {
        return equal(credentials.as_bytes());
    }
    if scheme.eq_ignore_ascii_case("basic")
        && let Ok(decoded) = STANDARD.decode(credentials)
        && let Some(colon) = decoded.iter().position(|byte| *byte == b':')
    {
        return equal(&decoded[colon + 1..]);
    }
    false
}

fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = host.to_str().is_ok_and(is_loopback);
    host && uri.authority().is_none_or(|authority| is_loopback(authority.as_str()))
}

/// Whether `host[:port]` is `localhost` or a loopback address.
fn is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => match host.parse::<Ipv6Addr>() {
            Ok(ip) => (Some(IpAddr::V6(ip)), rest.strip_prefix(':').or(rest.is_empty().then_some("0"))),
            Err(_) => return false,
        },
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
            if host.eq_ignore_ascii_case("localhost") {
                (Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), Some(port))
            } else {
                (host.parse::<Ipv4Addr>().ok().map(IpAddr::V4), Some(port))
            }
        }
    };
    host.is_some_and(|ip| ip.is_loopback()) && port.is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(token: Option<&str>, metrics_public: bool) -> Admin {
        Admin { address: ([127, 0, 0, 1], 9901).into(), token: token.map(Secret::new), metrics_public }
    }

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    fn with_authorization(values: &[&str], path: &'static str) -> Result<bool, ApiError> {
        let headers = headers(header::AUTHORIZATION, values);
        judge(&admin(Some("s3cret"), false), &Uri::from_static(path), &headers).map(|full| full.is_some())
    }

    #[test]
    fn a_token_is_shown_as_bearer_or_as_password() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for right in ["Bearer s3cret", "bearer s3cret", &basic("anyone:s3cret"), &basic(":s3cret")] {
            assert_eq!(with_authorization(&[right], "/api/v1/status"), Ok(true), "{right}");
        }
        for wrong in [
            "",
            "s3cret",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3crets",
            "Bearer S3CRET",
            "Digest s3cret",
            &basic("s3cret"),
            &basic("s3cret:"),
            "Basic !",
        ] {
            assert_eq!(with_authorization(&[wrong], "/api/v1/status"), Err(ApiError::Unauthorised), "{wrong}");
        }
        assert!(with_authorization(&["Bearer s3cret", "Bearer s3cret"], "/api/v1/status").is_err());
        assert!(with_authorization(&[], "/metrics").is_err());
    }

    #[test]
    fn what_came_through_a_gateway_is_refused() {
        let came = |marks: &[(&'static str, &str)], token: Option<&str>, shown: Option<&str>| {
            let mut headers = headers(header::HOST, &["localhost"]);
            for (name, value) in marks {
                headers.append(*name, HeaderValue::from_str(value).expect("a value"));
            }
            if let Some(shown) = shown {
                let value = HeaderValue::from_str(&format!("Bearer {shown}")).expect("a value");
                headers.insert(header::AUTHORIZATION, value);
            }
            judge(&admin(token, false), &Uri::from_static("/metrics"), &headers).map(|full| full.is_some())
        };
        assert_eq!(came(&[], None, None), Ok(true));
        let forwarded = |name: &str| Err(ApiError::Forwarded(name.to_owned()));
        for name in ["via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "x-request-id"] {
            assert_eq!(came(&[(name, "1.1 nginx")], None, None), forwarded(name));
            assert_eq!(came(&[(name, "1.1 nginx")], Some("s3cret"), None), forwarded(name));
            assert_eq!(came(&[(name, "1.1 nginx")], Some("s3cret"), Some("wrong")), forwarded(name));
            // A proxy that terminates TLS for the admin API is fine where its client has the token.
            assert_eq!(came(&[(name, "1.1 nginx")], Some("s3cret"), Some("s3cret")), Ok(true));
        }
        for via in ["1.1 fleetgate", "HTTP/2.0 \tFleetgate (here)", "1.1 a, 2 fleetgate", "1.1 \u{e9}, 1.1 fleetgate"] {
            assert_eq!(came(&[("via", via)], Some("s3cret"), Some("s3cret")), forwarded("via"), "{via}");
        }
    }

    #[test]
    fn public_pages_answer_whatever_proxies_add() {
        for name in ["via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "x-request-id"] {
            for value in ["1.1 nginx", "1.1 fleetgate"] {
                let judged = |metrics_public: bool, path: &'static str| {
                    let headers = headers(HeaderName::from_static(name), &[value]);
                    let judged = judge(&admin(Some("s3cret"), metrics_public), &Uri::from_static(path), &headers);
                    judged.map(|full| full.is_some())
                };
                for path in ["/healthz", "/readyz"] {
                    assert_eq!(judged(false, path), Ok(false), "{path} {name}: {value}");
                }
                assert_eq!(judged(true, "/metrics"), Ok(false), "{name}: {value}");
                for path in ["/", "/api/v1/status", "/healthz/", "/api/v1/upstreams/u/endpoints/1/drain"] {
                    let forwarded = Err(ApiError::Forwarded(name.to_owned()));
                    assert_eq!(judged(true, path), forwarded, "{path} {name}: {value}");
                    assert_eq!(judged(false, "/metrics"), forwarded, "{name}: {value}");
                }
            }
        }
    }

    #[test]
    fn an_empty_token_lets_nobody_in() {
        let headers = headers(header::AUTHORIZATION, &["Bearer "]);
        assert!(judge(&admin(Some(""), false), &Uri::from_static("/metrics"), &headers).is_err());
    }

    #[test]
    fn without_the_token_only_health_and_bare_readiness_are_told() {
        assert_eq!(with_authorization(&[], "/healthz"), Ok(false));
        assert_eq!(with_authorization(&["Bearer wrong"], "/readyz"), Ok(false));
        assert_eq!(with_authorization(&["Bearer s3cret"], "/readyz"), Ok(true));
        for hidden in ["/", "/healthz/", "/api/v1/status", "/nowhere"] {
            assert!(with_authorization(&[], hidden).is_err(), "{hidden}");
        }
        let open = judge(&admin(Some("s3cret"), true), &Uri::from_static("/metrics"), &HeaderMap::new());
        assert!(matches!(open, Ok(None)));
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let judged = |headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
            let host = [(header::HOST, HeaderValue::from_static("localhost:9901"))];
            judge_origin(&headers.chain(host).collect()).is_ok()
        };
        for near in [
            &[][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("origin", "http://localhost:9901")],
            &[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(judged(near), "{near:?}");
        }
        for far in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "")],
            &[("origin", "null")],
            &[("origin", "http://localhost:3000")],
            &[("origin", "http://evil.example")],
            &[("origin", "http://localhost:9901.evil.example")],
        ] {
            assert!(!judged(far), "{far:?}");
        }
    }

    #[test]
    fn without_a_token_the_host_must_be_this_machine() {
        let judged = |uri: &'static str, hosts: &[&str]| {
            judge(&admin(None, false), &Uri::from_static(uri), &headers(header::HOST, hosts)).is_ok()
        };
        for near in ["localhost", "LOCALHOST:9901", "127.0.0.1:9901", "127.8.9.1", "[::1]", "[::1]:9901"] {
            assert!(judged("/metrics", &[near]), "{near}");
        }
        for far in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9901",
            "10.0.0.1",
            "[::2]",
            "[::1",
            "[::1]x",
            "[localhost]",
            "localhost:x",
            "user@localhost",
            "0.0.0.0",
        ] {
            assert!(!judged("/healthz", &[far]), "{far}");
        }
        assert!(!judged("/metrics", &[]));
        assert!(!judged("/metrics", &["localhost", "localhost"]));
        assert!(!judged("http://evil.example/metrics", &["localhost"]));
    }
}
