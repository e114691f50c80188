//! Defines the reading of a response's head, and what it says of the body and the connection (RFC 9112, 4, 6.3, 9.3).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use super::super::headers::Noted;
use super::decoder::{Chunked, Decoder};
use crate::exchange::hop::may_be_nominated;

/// The head of a response, without what belongs to the connection alone (RFC 9110, 7.6.1).
#[derive(Debug)]
pub(in super::super) struct Head {
    pub(in super::super) response: Response<()>,
    /// The protocol switched to.
    pub(in super::super) upgrade: Option<HeaderValue>,
    pub(super) body: Decoder,
    /// The connection can carry another exchange when the body has ended.
    pub(super) persists: bool,
}

impl Head {
    /// That of a response which came by HTTP/2: there, how bodies end and what connections are for is no matter of heads.
    pub(in super::super) fn multiplexed(response: Response<()>) -> Self {
        Self { response, upgrade: None, body: Decoder::Ended, persists: false }
    }
}

/// A head that no endpoint may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in super::super) struct BadHead(&'static str);

impl BadHead {
    pub(super) const TOO_MANY: Self = Self("responses of 100 to 199 without end");
}

/// Most bytes of a head.
pub(super) const MAX_HEAD: usize = 128 * 1024;

/// Most header fields.
const MAX_FIELDS: usize = 256;

/// Room for what a gateway adds to a response.
const SPARE_FIELDS: usize = 2;

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
        Ok(_) => return Err(BadHead("the head of its response is larger than 128 KiB")),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead("its response has more than 256 header lines")),
        Err(_) => return Err(BadHead("a malformed head")),
    };
    let start = buffer.as_ptr() as usize;
    let mut message = Message::default();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadHead("a malformed header name"))?;
        if message.keeps(&name, field.value)? {
            // A value lies in the buffer.
            let start = field.value.as_ptr() as usize - start;
            fields.push(Field { name, start, end: start + field.value.len() });
        }
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
    for name in &message.nominated {
        headers.remove(name);
    }
    let body = message.body(status, version, method)?;
    if message.transfer_encoding.is_some() {
        // RFC 9112, 6.3: of the two the Transfer-Encoding holds, and a length is not passed on.
        headers.remove(header::CONTENT_LENGTH);
    }
    let persists = message.persists(version) && body != Decoder::UntilClose;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(Head { response, upgrade: message.upgrade, body, persists }))
}

/// What the fields of a head say of the message and the connection.
#[derive(Debug, Default)]
struct Message {
    close: bool,
    keep_alive: bool,
    /// Named by `Connection`.
    nominated: Vec<HeaderName>,
    upgrade: Option<HeaderValue>,
    /// Whether it is `chunked`, as the only one.
    transfer_encoding: Option<bool>,
    length: Option<u64>,
}

impl Message {
    /// Reads a field; whether it goes on to the client.
    fn keeps(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, BadHead> {
        let noted = Noted::one(name);
        if noted.has(Noted::CONTENT_LENGTH) {
            let known = self.length;
            let length = content_length(value)?;
            if known.is_some_and(|known| known != length) {
                return Err(BadHead("more than one Content-Length"));
            }
            self.length = Some(length);
            return Ok(known.is_none());
        }
        if !noted.has(Noted::HOP_BY_HOP) {
            return Ok(true);
        }
        if noted.has(Noted::CONNECTION) {
            self.connection(value);
        } else if noted.has(Noted::TRANSFER_ENCODING) {
            let chunked = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            self.transfer_encoding = Some(chunked && self.transfer_encoding.is_none());
        } else if noted.has(Noted::UPGRADE) {
            self.upgrade = HeaderValue::from_bytes(value).ok();
        }
        Ok(false)
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(option)
                && may_be_nominated(&name)
            {
                self.nominated.push(name);
            }
        }
    }

    /// Whether the endpoint keeps the connection open (RFC 9112, 9.3).
    fn persists(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version == Version::HTTP_11)
    }

    /// How the body is delimited (RFC 9112, 6.3).
    fn body(&self, status: StatusCode, version: Version, method: &Method) -> Result<Decoder, BadHead> {
        if *method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Ok(Decoder::Ended);
        }
        match (self.transfer_encoding, self.length) {
            (Some(_), _) if version == Version::HTTP_10 => Err(BadHead("Transfer-Encoding in HTTP/1.0")),
            (Some(true), _) => Ok(Decoder::Chunked(Chunked::Size)),
            // The gateway asked for no other coding (RFC 9112, 7.4), and would pass it on undecoded.
            (Some(false), _) => Err(BadHead("a Transfer-Encoding that is not chunked")),
            (None, Some(length)) => Ok(Decoder::length(length)),
            (None, None) => Ok(Decoder::UntilClose),
        }
    }
}

/// A length of digits alone: `parse` would take a sign. One that is repeated in a list (RFC 9112, 6.3) is passed on by
/// no known service, and refused.
fn content_length(value: &[u8]) -> Result<u64, BadHead> {
    let digits = Some(value).filter(|value| value.iter().all(u8::is_ascii_digit));
    let length = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    length.ok_or(BadHead("a Content-Length that is no number"))
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
            ("GET", "1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5", Decoder::Length(5), true),
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
        let headers =
            get("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n").response.into_parts().0.headers;
        assert_eq!(headers.get_all("content-length").iter().collect::<Vec<_>>(), ["5"]);
        let both = get("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n");
        assert!(!both.response.headers().contains_key("content-length"));
    }

    #[test]
    fn what_belongs_to_the_connection_stays_there() {
        let head = get("HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nx-hop: 1\r\n\
             content-length: 0\r\nconnection: content-length\r\nUpgrade: h2c\r\ntransfer-encoding: chunked\r\n\
             x-end: 2\r\n\r\n");
        let names: Vec<&str> = head.response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!((&names[..], head.upgrade), (&["x-end"][..], Some(HeaderValue::from_static("h2c"))));
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
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
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
