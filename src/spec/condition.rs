//! Defines how conditions read a request, and which of them it does not meet.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::matching::{Conditions, HostMatch, MAX_SUBJECT_BYTES, PathMatch, TooLong, ValueMatch};
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
    /// All other conditions hold, and whether that on this part does is not known: it is too long to be searched.
    Unknown(Searched<'c>),
}

/// A part of a request that a regular expression searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Searched<'c> {
    /// The path.
    Path,
    /// All values of a header.
    Header(&'c HeaderName),
    /// All values of a name in the query.
    Query(&'c str),
    /// All values of a cookie.
    Cookie(&'c str),
}

impl Searched<'_> {
    /// What is said where it is too long.
    pub fn too_long(self) -> TooLong {
        match self {
            Self::Path | Self::Query(_) => TooLong::Target,
            Self::Header(_) | Self::Cookie(_) => TooLong::Fields,
        }
    }
}

/// Whether all conditions hold. A name that comes several times holds when any of its values does.
///
/// # Errors
/// Nobody knows, because something is too long to be searched. Such a request goes nowhere: whether what it would have
/// met protects what it would meet else is not known either.
pub fn all_hold(conditions: &Conditions, headers: &HeaderMap, query: Option<&str>) -> Result<bool, TooLong> {
    match first_unmet(conditions, headers, query) {
        None => Ok(true),
        Some(Unmet::Unknown(what)) => Err(what.too_long()),
        Some(_) => Ok(false),
    }
}

/// The first condition that does not hold; if there is none, one of which nobody knows.
#[inline]
pub fn first_unmet<'c>(conditions: &'c Conditions, headers: &HeaderMap, query: Option<&str>) -> Option<Unmet<'c>> {
    let mut unknown = None;
    for (name, wanted) in &conditions.headers {
        let values = headers.get_all(name).iter();
        match any_holds(wanted, values.map(|value| Cow::Borrowed(value.as_bytes()))) {
            Some(true) => {}
            Some(false) => return Some(Unmet::Header(name, wanted)),
            None => unknown = Some(Searched::Header(name)),
        }
    }
    for (name, wanted) in &conditions.query {
        match any_holds(wanted, query_values(query, name)) {
            Some(true) => {}
            Some(false) => return Some(Unmet::Query(name, wanted)),
            None => unknown = Some(Searched::Query(name)),
        }
    }
    for (name, wanted) in &conditions.cookies {
        match any_holds(wanted, cookie_values(headers, name).map(Cow::Borrowed)) {
            Some(true) => {}
            Some(false) => return Some(Unmet::Cookie(name, wanted)),
            None => unknown = Some(Searched::Cookie(name)),
        }
    }
    unknown.map(Unmet::Unknown)
}

/// Whether a condition holds for a name with these values; `None`: they are too long to be searched. They count together,
/// since each is searched.
fn any_holds<'v>(wanted: &ValueMatch, mut values: impl Iterator<Item = Cow<'v, [u8]>>) -> Option<bool> {
    match wanted {
        ValueMatch::Present(wanted) => Some(values.next().is_some() == *wanted),
        ValueMatch::Exact(wanted) => Some(values.any(|value| wanted.as_bytes() == &*value)),
        ValueMatch::Regex(pattern) => {
            let (mut bytes, mut holds) = (0, false);
            for value in values {
                bytes += value.len();
                if bytes > MAX_SUBJECT_BYTES {
                    return None;
                }
                holds = holds || pattern.is_match(&value);
            }
            Some(holds)
        }
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
    use super::super::matching::Pattern;
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
            assert_eq!(all_hold(&conditions, &headers, asked), Ok(holds), "{conditions:?}");
        }
    }

    /// One more byte than an expression searches, in one value or in several, hides nothing: nobody knows then. What can be
    /// decided without it is decided.
    #[test]
    fn what_is_too_long_to_be_searched_is_neither_met_nor_unmet() {
        let regex = |text: &str| ValueMatch::Regex(Pattern::unanchored(text, Default::default()).expect("a pattern"));
        let header = || (http::HeaderName::from_static("x-team"), regex("secret"));
        let by_header = Conditions { headers: vec![header()], ..Conditions::default() };
        let named = || ("team".to_owned(), regex("secret"));
        let by_query = Conditions { query: vec![named()], ..Conditions::default() };
        let by_cookie = Conditions { cookies: vec![named()], ..Conditions::default() };
        for (values, known) in [
            (vec![MAX_SUBJECT_BYTES - 6], true),
            (vec![MAX_SUBJECT_BYTES - 5], false),
            (vec![4_000, 4_000], true),
            (vec![4_000, 4_181], false),
        ] {
            let mut headers = HeaderMap::new();
            let texts: Vec<String> = values.iter().map(|bytes| format!("{}{}", "secret", "a".repeat(*bytes))).collect();
            for text in &texts {
                headers.append("x-team", HeaderValue::from_str(text).expect("a value"));
                headers.append("cookie", HeaderValue::from_str(&format!("team={text}")).expect("a value"));
            }
            let query = texts.iter().map(|text| format!("team={text}")).collect::<Vec<_>>().join("&");
            let query = Some(query.as_str());
            let or = |part: TooLong| if known { Ok(true) } else { Err(part) };
            assert_eq!(all_hold(&by_header, &headers, query), or(TooLong::Fields), "{values:?}");
            assert_eq!(all_hold(&by_query, &headers, query), or(TooLong::Target), "{values:?}");
            assert_eq!(all_hold(&by_cookie, &headers, query), or(TooLong::Fields), "{values:?}");
            let none = ("other".to_owned(), ValueMatch::Present(true));
            let both = Conditions { query: vec![none], ..by_header.clone() };
            assert_eq!(all_hold(&both, &headers, query), Ok(false), "{values:?}");
        }
    }
}
