//! Defines what an answer of Consul is worth: whether its content counts, and whether it may remove anything.
//!
//! Only a 200 (for KV a 404 with an index, too) carries an index worth keeping: errors say
//! `X-Consul-Index: 1`, and a next query with that would return at once, for ever.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, RETRY_AFTER};

use super::client::Reply;
use crate::discovery::supervise::{ErrorKind, WatchError};

/// An answer with content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The index of the content, at least 1.
    pub(super) index: u64,
    /// What the content may do.
    pub(super) worth: Worth,
    /// The agent answered from a view it streams. Whether a view that did not change is still fed cannot be told.
    pub(super) streamed: bool,
    /// There is nothing (a 404), so there is no body to read.
    pub(super) absent: bool,
}

/// What an answer's content may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// Add, change and remove.
    Sound,
    /// Add and change: the token hides something.
    Filtered,
    /// Nothing, with the reason: it may be older than what is known.
    Stale(String),
}

/// Classifies an answer.
///
/// # Errors
/// What is no answer to the question, as a failure that tells how long to wait.
pub(super) fn classify(reply: &Reply, max_stale: Duration, absence_is_empty: bool) -> Result<Answer, WatchError> {
    let headers = &reply.headers;
    let index = number(headers, "x-consul-index").unwrap_or(0);
    let absent = reply.status == StatusCode::NOT_FOUND && absence_is_empty && index >= 1;
    if reply.status != StatusCode::OK && !absent {
        return Err(refusal(reply));
    }
    let streamed = text(headers, "x-consul-query-backend") == Some("streaming");
    let filtered = text(headers, "x-consul-results-filtered-by-acls") == Some("true");
    let worth = match staleness(headers, max_stale, streamed) {
        Some(reason) => Worth::Stale(reason),
        None if filtered => Worth::Filtered,
        None => Worth::Sound,
    };
    Ok(Answer { index: index.max(1), worth, streamed, absent })
}

/// Whether the servers deny what no policy allows, as far as the answer says (Consul 1.9 and later).
pub(super) fn denies_by_default(headers: &HeaderMap) -> bool {
    text(headers, "x-consul-default-acl-policy") == Some("deny")
}

fn staleness(headers: &HeaderMap, max_stale: Duration, streamed: bool) -> Option<String> {
    // Agents that stream say `false` when they are healthy (hashicorp/consul#9776).
    if !streamed && text(headers, "x-consul-knownleader") != Some("true") {
        return Some("the server that answered knows no leader".to_owned());
    }
    let contact = Duration::from_millis(number(headers, "x-consul-lastcontact").unwrap_or(0));
    if contact > max_stale {
        return Some(format!("the server that answered last heard of its leader {contact:?} ago"));
    }
    let hit = text(headers, "x-cache").is_some_and(|text| text.eq_ignore_ascii_case("hit"));
    let age = Duration::from_secs(number(headers, "age").unwrap_or(0));
    (hit && age > max_stale).then(|| format!("the answer comes from a cache and is {age:?} old"))
}

fn refusal(reply: &Reply) -> WatchError {
    let excerpt = reply.excerpt();
    let says = |words: &[&str]| words.iter().any(|word| excerpt.contains(word));
    let kind = match reply.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let after = number(&reply.headers, RETRY_AFTER.as_str()).unwrap_or(1);
            // A server that names a time in hours means its operator, not us.
            ErrorKind::Throttled(Duration::from_secs(after.clamp(1, 300)))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Unauthorised,
        // Client agents pass on what the servers told them as an error of their own.
        StatusCode::INTERNAL_SERVER_ERROR if says(&["ACL not found", "Permission denied"]) => ErrorKind::Unauthorised,
        StatusCode::INTERNAL_SERVER_ERROR if says(&["boolean expression", "No path to datacenter"]) => {
            ErrorKind::Refused
        }
        StatusCode::BAD_REQUEST => ErrorKind::Refused,
        _ => ErrorKind::Failed,
    };
    WatchError { kind, text: format!("Consul answered {}: {excerpt}", reply.status.as_u16()) }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use tokio::time::Instant;

    use super::*;

    const MAX_STALE: Duration = Duration::from_secs(5);

    fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
        let headers = headers.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a header name");
            (name, HeaderValue::from_str(value).expect("a header value"))
        });
        Reply {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: headers.collect(),
            body: body.into(),
            started: Instant::now(),
            transfer: Duration::ZERO,
        }
    }

    fn of(status: u16, headers: &[(&str, &str)], body: &str) -> Result<Answer, ErrorKind> {
        classify(&reply(status, headers, body), MAX_STALE, false).map_err(|error| error.kind)
    }

    #[test]
    fn the_index_is_at_least_one() {
        for (header, index) in [
            (Some("17"), 17),
            (Some("0"), 1),
            (Some("x"), 1),
            (Some("-4"), 1),
            (None, 1),
            (Some("9223372036854775808"), 1 << 63),
        ] {
            let mut headers = vec![("x-consul-knownleader", "true")];
            headers.extend(header.map(|value| ("x-consul-index", value)));
            assert_eq!(of(200, &headers, "[]").map(|answer| answer.index), Ok(index), "{header:?}");
        }
    }

    #[test]
    fn what_may_be_old_is_stale() {
        type Headers = &'static [(&'static str, &'static str)];
        let stale: [Headers; 4] = [
            &[],
            &[("x-consul-knownleader", "false")],
            &[("x-consul-knownleader", "true"), ("x-consul-lastcontact", "8375")],
            &[("x-consul-knownleader", "true"), ("x-cache", "HIT"), ("age", "12")],
        ];
        for headers in stale {
            let answer = of(200, headers, "[]").expect("an answer");
            assert!(matches!(answer.worth, Worth::Stale(_)), "{headers:?}");
        }
        let sound: [Headers; 4] = [
            &[("x-consul-knownleader", "true")],
            &[
                ("x-consul-knownleader", "true"),
                ("x-consul-lastcontact", "50"),
                ("x-consul-effective-consistency", "stale"),
            ],
            &[("x-consul-knownleader", "true"), ("x-cache", "MISS"), ("age", "12")],
            &[("x-consul-knownleader", "false"), ("x-consul-query-backend", "streaming")],
        ];
        for headers in sound {
            assert_eq!(of(200, headers, "[]").map(|answer| answer.worth), Ok(Worth::Sound), "{headers:?}");
        }
        let filtered = [("x-consul-knownleader", "true"), ("x-consul-results-filtered-by-acls", "true")];
        assert_eq!(of(200, &filtered, "[]").map(|answer| answer.worth), Ok(Worth::Filtered));
    }

    #[test]
    fn refusals_tell_how_long_to_wait() {
        let second = Duration::from_secs(1);
        for (status, headers, body, kind) in [
            (500, &[][..], "No cluster leader", ErrorKind::Failed),
            (500, &[], "rpc error making call: ACL not found", ErrorKind::Unauthorised),
            (500, &[], "No path to datacenter", ErrorKind::Refused),
            (400, &[], "Invalid index", ErrorKind::Refused),
            (403, &[], "ACL not found", ErrorKind::Unauthorised),
            (401, &[], "", ErrorKind::Unauthorised),
            (429, &[("retry-after", "7")], "", ErrorKind::Throttled(second * 7)),
            (429, &[("retry-after", "0")], "", ErrorKind::Throttled(second)),
            (503, &[("retry-after", "99999999")], "", ErrorKind::Throttled(second * 300)),
            (503, &[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], "", ErrorKind::Throttled(second)),
            (302, &[("location", "/ui/")], "", ErrorKind::Failed),
            (404, &[("x-consul-index", "12")], "", ErrorKind::Failed),
            (204, &[("x-consul-index", "12")], "", ErrorKind::Failed),
        ] {
            assert_eq!(of(status, headers, body), Err(kind), "{status} {body}");
        }
    }

    #[test]
    fn absence_counts_only_with_an_index_and_where_it_is_an_answer() {
        let known = ("x-consul-knownleader", "true");
        let empty = reply(404, &[known, ("x-consul-index", "12665")], "");
        let answer = classify(&empty, MAX_STALE, true).expect("an answer");
        assert_eq!((answer.index, answer.absent, answer.worth), (12665, true, Worth::Sound));
        for bad in [reply(404, &[known], ""), reply(404, &[known, ("x-consul-index", "0")], "")] {
            assert_eq!(classify(&bad, MAX_STALE, true).map_err(|error| error.kind), Err(ErrorKind::Failed));
        }
    }
}
