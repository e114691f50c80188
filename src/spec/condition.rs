//! Defines how conditions read a request, and which of them it does not meet.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::matching::{Conditions, HostMatch, PathMatch, ValueMatch};
use super::name::Name;

/// A condition that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'c> {
    /// None of the route's hosts.
    Host(&'c [HostMatch]),
    /// Another path.
    Path(&'c PathMatch),
    /// None of the route's methods.
    Method(&'c [Method]),
    /// None of the route's listeners.
    Listener(&'c [Name]),
    /// A header.
    Header(&'c HeaderName, &'c ValueMatch),
    /// A name in the query.
    Query(&'c str, &'c ValueMatch),
    /// A cookie.
    Cookie(&'c str, &'c ValueMatch),
}

/// Whether all conditions hold. A name that comes several times holds when any of its values does.
pub fn all_hold(conditions: &Conditions, headers: &HeaderMap, query: Option<&str>) -> bool {
    first_unmet(conditions, headers, query).is_none()
}

/// The first condition that does not hold.
#[inline]
pub fn first_unmet<'c>(conditions: &'c Conditions, headers: &HeaderMap, query: Option<&str>) -> Option<Unmet<'c>> {
    for (name, wanted) in &conditions.headers {
        let values = headers.get_all(name).iter();
        if !any_holds(wanted, values.map(|value| Cow::Borrowed(value.as_bytes()))) {
            return Some(Unmet::Header(name, wanted));
        }
    }
    for (name, wanted) in &conditions.query {
        if !any_holds(wanted, query_values(query, name)) {
            return Some(Unmet::Query(name, wanted));
        }
    }
    for (name, wanted) in &conditions.cookies {
        if !any_holds(wanted, cookie_values(headers, name).map(Cow::Borrowed)) {
            return Some(Unmet::Cookie(name, wanted));
        }
    }
    None
}

fn any_holds<'v>(wanted: &ValueMatch, values: impl Iterator<Item = Cow<'v, [u8]>>) -> bool {
    let mut values = values.peekable();
    match wanted {
        ValueMatch::Present(_) => wanted.holds(values.peek().map(AsRef::as_ref)),
        ValueMatch::Exact(_) | ValueMatch::Regex(_) => values.any(|value| wanted.holds(Some(&value))),
    }
}

/// The values of a name in a query, percent-decoded, `+` being a space.
pub fn query_values<'q>(query: Option<&'q str>, name: &'q str) -> impl Iterator<Item = Cow<'q, [u8]>> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).filter(move |(key, _)| key == name).map(
        |(_, value)| match value {
            Cow::Borrowed(value) => Cow::Borrowed(value.as_bytes()),
            Cow::Owned(value) => Cow::Owned(value.into_bytes()),
        },
    )
}

/// The values of a cookie (RFC 6265, 5.4; quotes around a value are not part of it), as bytes: a browser sends what pages
/// and services set, in any encoding, and one cookie hides no other.
pub fn cookie_values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(cookie_pairs).filter_map(cookie_parts);
    pairs
        .filter(move |(key, _)| *key == name.as_bytes())
        .map(|(_, value)| value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value))
}

/// The pairs of a line of `Cookie`, as they stand there.
pub fn cookie_pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

/// The name and the value of a pair.
pub fn cookie_parts(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((&pair[..at], &pair[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cookie_hides_another() {
        let mut headers = HeaderMap::new();
        let line = |bytes: &'static [u8]| HeaderValue::from_bytes(bytes).expect("a value");
        headers.append("cookie", line(b"name=J\xc3\xb6rg; side=abc;bad; \xff=1;=2; name=\"J\xf6rg\" ;a=b=c"));
        headers.append("cookie", line(b"side=\xff"));
        let values = |name: &str| cookie_values(&headers, name).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(values("side"), [&b"abc"[..], b"\xff"]);
        assert_eq!(values("name"), [&b"J\xc3\xb6rg"[..], b"J\xf6rg"]);
        assert_eq!(values("a"), [b"b=c"]);
        assert!(values("bad").is_empty() && values("b").is_empty());
    }

    #[test]
    fn conditions_read_headers_query_and_cookies() {
        let mut headers = HeaderMap::new();
        headers.append("x-tenant", HeaderValue::from_static("acme"));
        headers.append("x-tenant", HeaderValue::from_static("umbrella"));
        headers.append("cookie", HeaderValue::from_static("a=1; canary=\"yes\"; b=2"));
        let asked = Some("debug=1&name=J%C3%BCrgen+K&flag");
        let exact = |text: &str| ValueMatch::Exact(text.to_owned());
        let header = |name: &'static str, wanted| Conditions {
            headers: vec![(http::HeaderName::from_static(name), wanted)],
            ..Conditions::default()
        };
        let query = |name: &str, wanted| Conditions { query: vec![(name.to_owned(), wanted)], ..Conditions::default() };
        let cookie =
            |name: &str, wanted| Conditions { cookies: vec![(name.to_owned(), wanted)], ..Conditions::default() };
        for (conditions, holds) in [
            (Conditions::default(), true),
            (header("x-tenant", exact("umbrella")), true),
            (header("x-tenant", exact("ACME")), false),
            (header("x-none", ValueMatch::Present(false)), true),
            (header("x-tenant", ValueMatch::Present(false)), false),
            (query("debug", exact("1")), true),
            (query("name", exact("Jürgen K")), true),
            (query("flag", ValueMatch::Present(true)), true),
            (query("fla", ValueMatch::Present(true)), false),
            (cookie("canary", exact("yes")), true),
            (cookie("b", exact("2")), true),
            (cookie("c", ValueMatch::Present(true)), false),
        ] {
            assert_eq!(all_hold(&conditions, &headers, asked), holds, "{conditions:?}");
        }
    }
}
