//! Defines the head of a request as HTTP/2 has it: what stood in its first line and `Host` is in fields of their own, and
//! nothing is left that belongs to a connection (RFC 9113, 8.2.2 and 8.3.1).

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, Version, header};
use http_body::Body as _;

use super::super::headers::Noted;
use super::super::outbound::Outbound;

/// The head of a request; `secure`: it goes over TLS. `None` when it names no host that HTTP/2 can carry.
pub(super) fn head(outbound: &Outbound, secure: bool) -> Option<Request<()>> {
    let came = &outbound.request;
    let authority: Authority = came.headers().get(header::HOST)?.to_str().ok()?.parse().ok()?;
    let uri = Uri::builder()
        .scheme(if secure { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(authority)
        .path_and_query(came.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")))
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = came.method().clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields(outbound);
    Some(request)
}

fn fields(outbound: &Outbound) -> HeaderMap {
    let came = &outbound.request;
    let mut fields = HeaderMap::with_capacity(came.headers().len() + outbound.added.iter().count());
    let mut announced = false;
    for (name, value) in came.headers() {
        let noted = Noted::one(name);
        announced |= noted.has(Noted::CONTENT_LENGTH);
        if !noted.has(Noted::OF_HTTP_1) {
            fields.append(name, value.clone());
        }
    }
    for (name, value) in outbound.added.iter() {
        fields.append(name, value.clone());
    }
    match came.body().size_hint().exact() {
        // RFC 9110, 8.6: a length of 0 is said where the client said it.
        Some(0) if !announced => {}
        Some(length) => {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {}
    }
    fields
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::super::outbound::Added;
    use super::*;
    use crate::exchange::Body;

    fn outbound(uri: &str, fields: &[(&str, &str)], body: Body) -> Outbound {
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut added = Added::default();
        added.put(header::VIA, HeaderValue::from_static("1.1 us"));
        Outbound { request: request.body(body).expect("a request"), added }
    }

    #[test]
    fn a_head_has_its_host_in_the_authority_and_nothing_of_a_connection() {
        let came = [
            ("host", "a.example:8080"),
            ("connection", "te"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("content-length", "7"),
            ("cookie", "a=1; b=2"),
            ("x-twice", "1"),
            ("x-twice", "2"),
        ];
        let full = Body::Full(Bytes::from_static(b"abc"));
        let head = super::head(&outbound("/a?b=%20", &came, full), true).expect("a head");
        assert_eq!(head.uri(), "https://a.example:8080/a?b=%20");
        let mut fields: Vec<String> =
            head.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        fields.sort_unstable();
        let wanted =
            ["content-length: 3", "cookie: a=1; b=2", "te: trailers", "via: 1.1 us", "x-twice: 1", "x-twice: 2"];
        assert_eq!(fields, wanted);
    }

    #[test]
    fn a_length_of_nothing_is_said_where_it_came_and_a_host_is_needed() {
        let head = |fields: &[(&str, &str)]| super::head(&outbound("*", fields, Body::Empty), false);
        let told = |fields: &[(&str, &str)]| head(fields).expect("a head").headers().contains_key("content-length");
        assert!(!told(&[("host", "a")]) && told(&[("host", "a"), ("content-length", "0")]));
        assert_eq!(head(&[("host", "a")]).expect("a head").uri().path(), "*");
        assert!(head(&[]).is_none() && head(&[("host", "a b")]).is_none());
    }
}
