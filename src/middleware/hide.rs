//! Defines how what a client showed is taken out of a request.

use http::{HeaderMap, HeaderValue, Uri, header};

use crate::exchange::{ProxyError, target};
use crate::spec::condition::{cookie_pairs, cookie_parts};

/// Takes a cookie out of the request.
pub(super) fn without_cookie(headers: &mut HeaderMap, name: &str) {
    let is_it = |pair: &&[u8]| cookie_parts(pair).is_some_and(|(key, _)| key == name.as_bytes());
    let without = |line: &HeaderValue| {
        cookie_pairs(line.as_bytes()).filter(|pair| !is_it(pair)).collect::<Vec<_>>().join(&b"; "[..])
    };
    let lines: Vec<Vec<u8>> = headers.get_all(header::COOKIE).iter().map(without).collect();
    headers.remove(header::COOKIE);
    for line in lines.into_iter().filter(|line| !line.is_empty()) {
        if let Ok(value) = HeaderValue::try_from(line) {
            headers.append(header::COOKIE, value);
        }
    }
}

/// The same target without a parameter of its query; the others stay as they came.
pub(super) fn without_parameter(uri: &Uri, name: &str) -> Result<Uri, ProxyError> {
    let is_it = |pair: &&str| form_urlencoded::parse(pair.as_bytes()).any(|(key, _)| key == name);
    let rest: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|pair| !is_it(pair)).collect();
    target::with_query(uri, Some(&rest.join("&")).filter(|query| !query.is_empty()).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_out_and_nothing_else() {
        for (target, wanted) in [
            ("/a?key=1", "/a"),
            ("/a?b=%20&key=1&c", "/a?b=%20&c"),
            ("/a?k%65y=1&keys=2&key", "/a?keys=2"),
            ("/a", "/a"),
        ] {
            let uri = without_parameter(&target.parse().expect("a target"), "key").expect("a target");
            assert_eq!(uri.to_string(), wanted, "{target}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; key=2;b=3"));
        headers.append(header::COOKIE, HeaderValue::from_static("key=\"4\""));
        let other = HeaderValue::from_bytes(b"name=J\xc3\xb6rg; key=5; c=\xff").expect("a value");
        headers.append(header::COOKIE, other);
        without_cookie(&mut headers, "key");
        let left: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(left, [&b"a=1; b=3"[..], b"name=J\xc3\xb6rg; c=\xff"]);
    }
}
