//! Defines the reading of a response's head, and what it says of the body and the connection (RFC 9112, 4, 6.3, 9.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use super::super::headers::Noted;
use super::decoder::{Chunked, Decoder};

/// The head of a response.
#[derive(Debug)]
pub(in super::super) struct Head {
    pub(in super::super) response: Response<()>,
    pub(in super::super) noted: Noted,
    pub(super) body: Decoder,
    /// The connection can carry another exchange when the body has ended.
    pub(super) persists: bool,
}

/// A head that no endpoint may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in super::super) struct BadHead(&'static str);

/// Most bytes of a head.
pub(super) const MAX_HEAD: usize = 128 * 1024;

/// Most header fields.
const MAX_FIELDS: usize = 256;

/// A field of a head that is being read: its name, and where its value lies.
#[derive(Debug)]
pub(super) struct Field {
    name: HeaderName,
    start: usize,
    end: usize,
}

/// Takes the head of a response to a request of `method` off `buffer`; `None` when it is not complete. `fields` is
/// scratch space that is used again.
///
/// # Errors
/// When it is malformed, too large, or leaves its body's length in doubt.
pub(super) fn parse(buffer: &mut BytesMut, method: &Method, fields: &mut Vec<Field>) -> Result<Option<Head>, BadHead> {
    fields.clear();
    let mut space = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut space) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD => return Ok(None),
        Ok(_) => return Err(BadHead("a head over 128 KiB")),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead("more than 256 header fields")),
        Err(_) => return Err(BadHead("a malformed head")),
    };
    let start = buffer.as_ptr() as usize;
    let mut noted = Noted::default();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadHead("a malformed header name"))?;
        noted = noted.and(&name);
        // A value lies in the buffer.
        let start = field.value.as_ptr() as usize - start;
        fields.push(Field { name, start, end: start + field.value.len() });
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadHead("no status"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = parsed.reason.filter(|reason| !reason.is_empty() && status.canonical_reason() != Some(*reason));
    let reason = reason.map(|reason| Bytes::copy_from_slice(reason.as_bytes()));

    let bytes = buffer.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(fields.len() + SPARE_FIELDS);
    for Field { name, start, end } in fields.drain(..) {
        let value = HeaderValue::from_maybe_shared(bytes.slice(start..end));
        headers.append(name, value.map_err(|_| BadHead("a malformed header value"))?);
    }
    let persists = persists(version, &headers, noted);
    let body = body(status, version, method, &mut headers, noted)?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(Head { response, noted, persists: persists && body != Decoder::UntilClose, body }))
}

/// Room for what a gateway adds to a response.
const SPARE_FIELDS: usize = 4;

/// Whether the endpoint keeps the connection open (RFC 9112, 9.3).
fn persists(version: Version, headers: &HeaderMap, noted: Noted) -> bool {
    if !noted.has(Noted::CONNECTION) {
        return version == Version::HTTP_11;
    }
    let has = |wanted: &str| {
        let lines = headers.get_all(header::CONNECTION).into_iter();
        let options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        options.into_iter().any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
    };
    if version == Version::HTTP_11 { !has("close") } else { has("keep-alive") && !has("close") }
}

/// How the body is delimited (RFC 9112, 6.3).
fn body(
    status: StatusCode,
    version: Version,
    method: &Method,
    headers: &mut HeaderMap,
    noted: Noted,
) -> Result<Decoder, BadHead> {
    if *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return Ok(Decoder::Ended);
    }
    if noted.has(Noted::TRANSFER_ENCODING) {
        if version == Version::HTTP_10 {
            return Err(BadHead("Transfer-Encoding in HTTP/1.0"));
        }
        // RFC 9112, 6.3: of the two the Transfer-Encoding holds, and a length is not passed on.
        headers.remove(header::CONTENT_LENGTH);
        let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
        return match (encodings.next(), encodings.next()) {
            (Some(only), None) if only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
                Ok(Decoder::Chunked(Chunked::Size))
            }
            // The gateway asked for no other coding (RFC 9112, 7.4), and would pass it on undecoded.
            _ => Err(BadHead("a Transfer-Encoding that is not chunked")),
        };
    }
    if noted.has(Noted::CONTENT_LENGTH) {
        return Ok(Decoder::length(content_length(headers)?));
    }
    Ok(Decoder::UntilClose)
}

/// The one length that all `Content-Length` values agree on (RFC 9110, 8.6).
fn content_length(headers: &mut HeaderMap) -> Result<u64, BadHead> {
    let (mut length, mut count) = (None, 0);
    for line in headers.get_all(header::CONTENT_LENGTH) {
        for value in line.as_bytes().split(|byte| *byte == b',') {
            let parsed = decimal(value.trim_ascii()).ok_or(BadHead("a Content-Length that is no number"))?;
            if length.is_some_and(|length| length != parsed) {
                return Err(BadHead("more than one Content-Length"));
            }
            length = Some(parsed);
            count += 1;
        }
    }
    let length = length.ok_or(BadHead("an empty Content-Length"))?;
    if count > 1 {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(length)
}

fn decimal(text: &[u8]) -> Option<u64> {
    // Digits alone: `parse` would take a sign.
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, text: &str) -> Result<Option<(Head, String)>, BadHead> {
        let mut buffer = BytesMut::from(text);
        let head = parse(&mut buffer, &method, &mut Vec::new())?;
        Ok(head.map(|head| (head, String::from_utf8_lossy(&buffer).into_owned())))
    }

    fn get(text: &str) -> Head {
        read(Method::GET, text).expect("a good head").expect("a complete head").0
    }

    const CHUNKED: Decoder = Decoder::Chunked(Chunked::Size);

    #[test]
    fn a_head_is_complete_only_with_its_last_byte() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A:  b \r\nx-a: c\r\n\r\n";
        for end in 0..text.len() {
            assert!(read(Method::GET, &text[..end]).expect("nothing wrong so far").is_none(), "{end}");
        }
        let (head, left) = read(Method::GET, &format!("{text}abc")).expect("good").expect("complete");
        assert_eq!((head.response.status(), head.body, head.persists), (StatusCode::OK, Decoder::Length(3), true));
        assert_eq!(head.response.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(left, "abc");
    }

    #[test]
    fn bodies_are_delimited_as_the_rfc_says() {
        for (method, head, body, persists) in [
            ("GET", "1.1 200 OK\r\ncontent-length: 5", Decoder::Length(5), true),
            ("GET", "1.1 200 OK\r\ncontent-length: 0", Decoder::Ended, true),
            ("GET", "1.1 200 OK\r\ncontent-length: 5, 5\r\nContent-Length: 5", Decoder::Length(5), true),
            ("HEAD", "1.1 200 OK\r\ncontent-length: 5", Decoder::Ended, true),
            ("GET", "1.1 304 Not Modified\r\ncontent-length: 5", Decoder::Ended, true),
            ("GET", "1.1 204 No Content", Decoder::Ended, true),
            ("GET", "1.1 100 Continue", Decoder::Ended, true),
            ("GET", "1.1 200 OK\r\ntransfer-encoding: Chunked", CHUNKED, true),
            ("GET", "1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5", CHUNKED, true),
            ("GET", "1.1 200 OK", Decoder::UntilClose, false),
            ("GET", "1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close", Decoder::Length(5), false),
            ("GET", "1.0 200 OK\r\ncontent-length: 5", Decoder::Length(5), false),
            ("GET", "1.0 200 OK\r\ncontent-length: 5\r\nconnection: Keep-Alive", Decoder::Length(5), true),
        ] {
            let read = read(method.parse().expect("a method"), &format!("HTTP/{head}\r\n\r\n"));
            let (head, _) = read.expect(head).expect(head);
            assert_eq!((head.body, head.persists), (body, persists), "{:?}", head.response);
        }
    }

    #[test]
    fn lengths_are_passed_on_once_or_not_at_all() {
        let headers = get("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n").response.into_parts().0.headers;
        assert_eq!(headers.get_all("content-length").iter().collect::<Vec<_>>(), ["5"]);
        let both = get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n");
        assert!(!both.response.headers().contains_key("content-length"));
    }

    #[test]
    fn an_own_reason_phrase_is_kept() {
        let head = get("HTTP/1.1 200 Fine\r\n\r\n");
        assert_eq!(head.response.extensions().get::<ReasonPhrase>().map(ReasonPhrase::as_bytes), Some(&b"Fine"[..]));
        assert!(get("HTTP/1.1 200 OK\r\n\r\n").response.extensions().get::<ReasonPhrase>().is_none());
        assert!(get("HTTP/1.1 200\r\n\r\n").response.extensions().get::<ReasonPhrase>().is_none());
    }

    #[test]
    fn what_is_malformed_or_ambiguous_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/0.9 200 OK\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\nname : value\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \x00\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(read(Method::GET, text).is_err(), "{text:?}");
        }
        let many = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert!(read(Method::GET, &format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
        let long = "b".repeat(MAX_HEAD);
        assert!(read(Method::GET, &format!("HTTP/1.1 200 OK\r\na: {long}")).is_err());
    }
}
