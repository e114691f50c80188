//! Defines the gate: what hyper lets through and a gateway must not, checked first on every request.
//!
//! Explain asks the same gate. Nothing passes that an origin could read in two ways (RFC 9112, 3.2, 6.1 and 6.3; RFC 9110, 7.2).

use std::borrow::Cow;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use super::request::RequestView;
use crate::exchange::{ProxyError, target};
use crate::spec::name::Name;
use crate::spec::path;
use crate::spec::settings::{HttpsRedirect, Listener};

/// What the gate found out about a request that passed.
#[derive(Debug)]
pub struct Passed<'r> {
    /// The host in lower case, without port and trailing dot; empty when an HTTP/1.0 client sent none.
    pub host: Cow<'r, str>,
    /// The `Host` to forward, where it is not the one that came.
    pub host_header: Option<HeaderValue>,
    /// The path in normal form, where it is not in that form already.
    pub path: Option<String>,
}

impl Passed<'_> {
    /// Where the request that passed is sent, by a listener that sends everything to https.
    ///
    /// # Errors
    /// A request without a host, or for no path.
    pub fn https_location<B>(&self, request: &Request<B>, redirect: &HttpsRedirect) -> Result<String, ProxyError> {
        let path = self.path.as_deref().unwrap_or(request.uri().path());
        if self.host.is_empty() || !path.starts_with('/') {
            return Err(ProxyError::BadRequest);
        }
        let port = if redirect.port == 443 { String::new() } else { format!(":{}", redirect.port) };
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(format!("https://{}{port}{path}{query}", self.host))
    }

    /// The request that passed as its middlewares see it: with its path in normal form.
    pub fn arrived(&self, request: &Request<()>) -> Request<()> {
        let mut arrived = Request::new(());
        *arrived.method_mut() = request.method().clone();
        *arrived.uri_mut() = request.uri().clone();
        *arrived.headers_mut() = request.headers().clone();
        if let Some(header) = &self.host_header {
            arrived.headers_mut().insert(header::HOST, header.clone());
        }
        if self.path.is_some() || request.uri().authority().is_some() {
            // A path in normal form is one.
            if let Ok(uri) = target::origin_form(request.uri(), self.path.as_deref()) {
                *arrived.uri_mut() = uri;
            }
        }
        arrived
    }

    /// What matching sees of the request that passed.
    pub fn view<'v, B>(&'v self, request: &'v Request<B>, listener: &'v Name) -> RequestView<'v> {
        RequestView {
            listener,
            host: &self.host,
            path: self.path.as_deref().unwrap_or(request.uri().path()),
            method: request.method(),
            headers: request.headers(),
            query: request.uri().query(),
        }
    }
}

/// Lets a request pass, or says why not. `framing`: there may be a `Transfer-Encoding`, or a header that
/// [`resembles_framing`]; its reader has noted that.
///
/// # Errors
/// `BadRequest` for whatever is malformed or ambiguous, `BodyTooLarge` when the announced length is over the
/// limit, `HeadersTooLarge` for too many headers.
/// The second part is the reason, for the log.
pub fn check<'r, B>(
    request: &'r Request<B>,
    framing: bool,
    listener: &Listener,
) -> Result<Passed<'r>, (ProxyError, &'static str)> {
    let bad = |reason| (ProxyError::BadRequest, reason);
    let (headers, uri) = (request.headers(), request.uri());
    if *request.method() == Method::CONNECT {
        return Err(bad("CONNECT is for proxies, this is a gateway"));
    }
    if framing {
        check_framing(headers, request.version()).map_err(bad)?;
    }

    // hyper counts and measures those of HTTP/1.1 itself.
    if headers.len() > listener.max_headers {
        return Err((ProxyError::HeadersTooLarge, "more headers than the listener takes"));
    }
    if request.version() == Version::HTTP_2 && size(headers, uri) > listener.max_header_size {
        return Err((ProxyError::HeadersTooLarge, "a larger head than the listener takes"));
    }

    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(bad("more than one Host"));
    }
    // RFC 9112, 3.2.2: with the absolute form the Host that came is ignored. HTTP/2 has no reason to send both.
    let (host, host_header) = match (uri.authority(), first) {
        (Some(authority), Some(host))
            if request.version() == Version::HTTP_2
                && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(bad("a Host that is not the :authority"));
        }
        (Some(authority), _) => {
            if !matches!(uri.scheme_str(), Some("http" | "https")) {
                return Err(bad("an absolute target that is not http"));
            }
            (host_of(authority.as_str().as_bytes()).map_err(bad)?, Some(host_header(authority).map_err(bad)?))
        }
        (None, Some(value)) => (host_of(value.as_bytes()).map_err(bad)?, None),
        (None, None) if request.version() == Version::HTTP_10 => (Cow::Borrowed(""), None),
        (None, None) => return Err(bad("no Host")),
    };

    let path = match uri.path() {
        "*" if *request.method() == Method::OPTIONS => None,
        "" if uri.authority().is_some() => Some("/".to_owned()),
        path => match path::normalize(path, listener.allow_encoded_slashes) {
            Ok(Cow::Borrowed(_)) => None,
            Ok(Cow::Owned(normal)) => Some(normal),
            Err(path::PathError::NotAbsolute) => return Err(bad("a target that is not a path")),
            Err(path::PathError::BadEscape) => return Err(bad("a broken percent-encoding in the path")),
            Err(path::PathError::EncodedSlash) => return Err(bad("an encoded slash, backslash or NUL in the path")),
            Err(path::PathError::BadByte) => return Err(bad("a byte in the path that no URI has")),
        },
    };

    if let Some(limit) = listener.max_body_size
        && content_length(headers).is_some_and(|length| length > limit)
    {
        return Err((ProxyError::BodyTooLarge, "the announced body is over the listener's limit"));
    }
    Ok(Passed { host, host_header, path })
}

/// Bytes of a head, without what frames each line.
fn size(headers: &HeaderMap, uri: &Uri) -> usize {
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    target + headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>()
}

/// Whether a header, which is neither, reads like `Content-Length` or `Transfer-Encoding` to services that take `_` for
/// `-`, as CGI and its heirs do, or care for letters alone: `Transfer_Encoding`, `Content.Length`.
pub fn resembles_framing(name: &HeaderName) -> bool {
    let read = || name.as_str().bytes().filter(u8::is_ascii_alphanumeric);
    read().eq(*b"contentlength") || read().eq(*b"transferencoding")
}

/// One `Transfer-Encoding: chunked` or none; hyper has refused differing lengths and dropped a length beside it.
fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), &'static str> {
    let own = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    if headers.keys().any(|name| resembles_framing(name) && !own.contains(name)) {
        return Err("a header that could be taken for Content-Length or Transfer-Encoding");
    }
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else { return Ok(()) };
    if encodings.next().is_some() {
        return Err("more than one Transfer-Encoding");
    }
    if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err("a Transfer-Encoding that is not chunked");
    }
    if version == Version::HTTP_10 {
        return Err("Transfer-Encoding in HTTP/1.0");
    }
    Ok(())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn host_header(authority: &Authority) -> Result<HeaderValue, &'static str> {
    HeaderValue::from_str(authority.as_str()).map_err(|_| "a host that is no header value")
}

/// A name has at most 253 characters (RFC 1035, 2.3.4), then come a dot, a colon and a port. Looking for wildcards
/// takes time by the square of this.
const MAX_HOST: usize = 260;

/// The host of `host[:port]` in lower case, without port and trailing dot.
fn host_of(value: &[u8]) -> Result<Cow<'_, str>, &'static str> {
    if value.len() > MAX_HOST {
        return Err("a Host longer than any name");
    }
    let text = std::str::from_utf8(value).map_err(|_| "a Host with bytes that no host has")?;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or("a Host with an unclosed bracket")?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| "a Host in brackets that is no IPv6 address")?;
        (&text[..address.len() + 2], port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        if host.is_empty() {
            return Err("an empty Host");
        }
        if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~')) {
            return Err("a Host with bytes that no host has");
        }
        // `a..` is no other spelling of `a` (RFC 1034, 3.1: the root alone has an empty label), but some services take it
        // for that, and no route for `a` would see it.
        if host.starts_with('.') || host.as_bytes().windows(2).any(|two| two == b"..") {
            return Err("a Host with an empty label: only one dot may end it, and none begin it");
        }
        (host, port)
    };
    let digits = match port.strip_prefix(':') {
        Some(digits) => digits,
        None if port.is_empty() => "",
        None => return Err("a Host with text behind its bracket"),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.parse::<u16>().is_err() && !digits.is_empty() {
        return Err("a Host with a port that is no port");
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err("an empty Host");
    }
    let lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(if lower { Cow::Borrowed(host) } else { Cow::Owned(host.to_ascii_lowercase()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Listener {
        Listener { max_body_size: Some(10), ..Listener::new(([127, 0, 0, 1], 0).into()) }
    }

    fn request(method: &str, target: &str, version: Version, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn hosts_are_read() {
        for (value, host) in [
            ("Example.COM", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com.:80", "example.com"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("a_b.c", "a_b.c"),
            ("example.com:", "example.com"),
        ] {
            assert_eq!(host_of(value.as_bytes()).as_deref(), Ok(host), "{value}");
        }
        for value in [
            "", ".", "..", "a..", "a..:80", "a...", ".a", "a..b", "..a.", ":80", "a b", "a,b", "user@a", "a/b", "a:b",
            "a:99999", "[::1", "[::1]x", "[zz]", "a:80:80", "ä", "a%41",
        ] {
            assert!(host_of(value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_host_is_no_longer_than_a_name_can_be() {
        let long = |labels: usize| "a.".repeat(labels) + "b:80";
        assert!(host_of(long(126).as_bytes()).is_ok());
        assert!(host_of(long(10_000).as_bytes()).is_err());
    }

    #[test]
    fn ambiguous_requests_do_not_pass() {
        let h = ("host", "a");
        for (method, target, version, headers) in [
            ("GET", "/", Version::HTTP_11, &[][..]),
            ("GET", "/", Version::HTTP_11, &[h, ("host", "a")]),
            ("GET", "/", Version::HTTP_11, &[("host", "a,b")]),
            ("GET", "*", Version::HTTP_11, &[h]),
            ("CONNECT", "a:80", Version::HTTP_11, &[h]),
            ("GET", "ftp://a/", Version::HTTP_11, &[h]),
            ("GET", "http://user@a/", Version::HTTP_11, &[h]),
            ("GET", "/a%2fb", Version::HTTP_11, &[h]),
            ("POST", "/", Version::HTTP_11, &[h, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            ("POST", "/", Version::HTTP_11, &[h, ("transfer-encoding", "chunked, chunked")]),
            ("POST", "/", Version::HTTP_11, &[h, ("transfer-encoding", "gzip, chunked")]),
            ("POST", "/", Version::HTTP_10, &[h, ("transfer-encoding", "chunked")]),
            ("POST", "/", Version::HTTP_11, &[h, ("content-length", "11")]),
            ("POST", "/", Version::HTTP_11, &[h, ("transfer_encoding", "chunked")]),
            ("POST", "/", Version::HTTP_2, &[h, ("content--length", "1")]),
        ] {
            let request = request(method, target, version, headers);
            assert!(check(&request, true, &listener()).is_err(), "{method} {target} {headers:?}");
        }
    }

    #[test]
    fn clear_requests_pass() {
        type Told = (String, Option<HeaderValue>, Option<String>);
        let passed = |method, target, version, headers: &[(&str, &str)]| -> Told {
            let request = request(method, target, version, headers);
            let passed = check(&request, true, &listener()).expect("passes");
            (passed.host.into_owned(), passed.host_header, passed.path)
        };
        let told = passed("GET", "/a", Version::HTTP_11, &[("host", "A:80")]);
        assert_eq!(told, ("a".to_owned(), None, None));
        let told = passed("GET", "http://B:8080/x/../y", Version::HTTP_11, &[("host", "a")]);
        let host = HeaderValue::from_static("B:8080");
        assert_eq!(told, ("b".to_owned(), Some(host), Some("/y".to_owned())));
        assert_eq!(passed("GET", "/", Version::HTTP_10, &[]).0, "");
        passed("OPTIONS", "*", Version::HTTP_11, &[("host", "a")]);
        passed("POST", "/", Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "Chunked")]);
        passed("POST", "/", Version::HTTP_11, &[("host", "a"), ("content-length", "1"), ("x-content-length", "2")]);
    }
}
