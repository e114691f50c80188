//! What belongs to one hop (RFC 9110, 7.6): the options of `Connection`, the headers it names away, and the hops in `Via`.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::header::{PSEUDONYM, X_REQUEST_ID};
use super::protected;

/// So many gateways may stand one behind another. Chains are two or three long; a gateway that is its own endpoint makes
/// one without end.
const MAX_HOPS: usize = 8;

/// The members of a header that is a list, as bytes: one that is no text hides no other.
pub fn options(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// The protocol a request asks to upgrade to (RFC 9110, 7.8), in lower case; `None` without `Connection: upgrade`.
pub fn upgrade_of(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get(header::UPGRADE)?;
    let nominated = options(headers, header::CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    if nominated { Some(upgrade.to_str().ok()?.trim().to_ascii_lowercase()) } else { None }
}

/// Whether `Connection` can name this header away: not `Host`, the length, the request's id, nor what a proxy says of its
/// client, who may have written that `Connection`.
pub fn may_be_nominated(name: &HeaderName) -> bool {
    ![header::HOST, header::CONTENT_LENGTH, X_REQUEST_ID].contains(name) && protected::believed(name).is_none()
}

/// The headers that `Connection` names away.
pub fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let named = options(headers, header::CONNECTION).filter_map(|option| HeaderName::from_bytes(option).ok());
    named.filter(may_be_nominated).collect()
}

/// Removes what `Connection` names, before middlewares: none of theirs is named away by a client. What is left of it says
/// that the protocol is to be switched, or nothing.
pub fn settle_nominated(headers: &mut HeaderMap) {
    let upgrades = upgrade_of(headers).is_some();
    for name in nominated(headers) {
        if name != header::UPGRADE && name != header::TE {
            headers.remove(name);
        }
    }
    headers.remove(header::CONNECTION);
    if upgrades {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether a request came through so many gateways like this one that it must go in a circle.
pub fn goes_in_circles(headers: &HeaderMap) -> bool {
    // Each is `protocol received-by`, and perhaps a comment.
    let is_one = |hop: &&[u8]| {
        let mut words = hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(PSEUDONYM.as_bytes()))
    };
    options(headers, header::VIA).filter(is_one).count() >= MAX_HOPS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    #[test]
    fn upgrades_need_both_headers() {
        let asked = |lines: &[(&'static str, &str)]| upgrade_of(&headers(lines));
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert_eq!(asked(&both).as_deref(), Some("websocket"));
        assert_eq!(asked(&both[1..]), None);
    }

    #[test]
    fn chains_end_and_circles_do_not() {
        let circles =
            |lines: &[&str]| goes_in_circles(&headers(&lines.iter().map(|line| ("via", *line)).collect::<Vec<_>>()));
        let hops = |count: usize| "1.1 fleetgate, ".repeat(count);
        assert!(!circles(&[]));
        assert!(!circles(&["1.1 fleetgate", "1.0 fleetgate", "2.0 fleetgate, 1.1 varnish (fleetgate)"]));
        assert!(!circles(&[&hops(MAX_HOPS - 1)]));
        assert!(!circles(&[&"1.1 other, ".repeat(50), &"1.1 fleetgate.example".repeat(9)]));
        assert!(circles(&[&hops(MAX_HOPS - 2), "2.0 fleetgate", "HTTP/1.1 Fleetgate (a comment)"]));
    }
}
