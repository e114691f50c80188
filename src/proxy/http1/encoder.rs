//! Defines the request as it is written to an endpoint: its head, and its body framed anew.

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use http_body::{Body as _, Frame};

use super::super::headers::may_trail;
use super::super::outbound::Outbound;
use crate::exchange::Body;

/// How a request's body is delimited (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length; also for none.
    #[default]
    Length,
    Chunked,
}

impl Framing {
    pub(super) fn of(body: &Body) -> Self {
        if matches!(body, Body::Empty) || body.size_hint().exact().is_some() { Self::Length } else { Self::Chunked }
    }
}

/// Appends the head of a request. Its framing is that of its body, whatever its headers say.
pub(super) fn head(out: &mut Vec<u8>, outbound: &Outbound) {
    let request = &outbound.request;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut announced = false;
    for (name, value) in request.headers() {
        if *name == header::CONTENT_LENGTH {
            announced = true;
        } else if *name != header::TRANSFER_ENCODING {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    for (name, value) in outbound.added.iter() {
        field(out, name.as_str(), value.as_bytes());
    }
    match request.body().size_hint().exact() {
        // RFC 9110, 8.6: a length of 0 belongs to methods whose requests have content. HTTP/2 says it by END_STREAM, and
        // services answer 411 to a POST without.
        Some(0) if !announced && !has_content(request.method()) => {}
        Some(length) => {
            let mut digits = itoa::Buffer::new();
            field(out, "content-length", digits.format(length).as_bytes());
        }
        None => field(out, "transfer-encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether requests of this method are expected to have content.
fn has_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends what stands before a piece of the body, gives back the piece, and what stands behind it.
pub(super) fn piece(out: &mut Vec<u8>, framing: Framing, frame: Frame<Bytes>) -> Piece {
    match (frame.into_data(), framing) {
        (Ok(data), _) if data.is_empty() => Piece::Nothing,
        (Ok(data), Framing::Length) => Piece::Data(data, b""),
        (Ok(data), Framing::Chunked) => {
            // Writing to memory does not fail.
            let _ = write!(out, "{:x}\r\n", data.len());
            Piece::Data(data, b"\r\n")
        }
        (Err(frame), Framing::Chunked) => {
            out.extend_from_slice(b"0\r\n");
            trailers(out, &frame.into_trailers().unwrap_or_default());
            Piece::End
        }
        (Err(_), Framing::Length) => Piece::End,
    }
}

/// A piece of a body.
pub(super) enum Piece {
    Nothing,
    Data(Bytes, &'static [u8]),
    /// The body's end, with its trailers, is written.
    End,
}

/// Appends the end of a body that has no trailers.
pub(super) fn end(out: &mut Vec<u8>, framing: Framing) {
    if framing == Framing::Chunked {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    for (name, value) in trailers.iter().filter(|(name, _)| may_trail(name)) {
        field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::super::super::outbound::Added;
    use super::*;

    fn written(request: Request<Body>) -> String {
        let (mut out, mut added) = (Vec::new(), Added::default());
        added.put(header::VIA, HeaderValue::from_static("1.1 us"));
        head(&mut out, &Outbound { request, added });
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_framing_is_the_bodys_own() {
        let request = |body| {
            let builder = Request::builder().method("POST").uri("/a?b=%20").header("Host", "h");
            builder.header("Content-Length", "7").header("Transfer-Encoding", "chunked").body(body).expect("a request")
        };
        let empty = "POST /a?b=%20 HTTP/1.1\r\nhost: h\r\nvia: 1.1 us\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(written(request(Body::Empty)), empty);
        let full = "POST /a?b=%20 HTTP/1.1\r\nhost: h\r\nvia: 1.1 us\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(written(request(Body::Full(Bytes::from_static(b"abc")))), full);
        let bare = Request::builder().uri("*").method("OPTIONS").body(Body::Empty).expect("a request");
        assert_eq!(written(bare), "OPTIONS * HTTP/1.1\r\nvia: 1.1 us\r\n\r\n");
    }

    #[test]
    fn methods_with_content_have_a_length_even_of_none() {
        for (method, is_told) in
            [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("DELETE", false), ("OPTIONS", false)]
        {
            let request = Request::builder().method(method).uri("/").body(Body::Empty).expect("a request");
            assert_eq!(written(request).contains("\r\ncontent-length: 0\r\n"), is_told, "{method}");
        }
    }

    #[test]
    fn chunks_have_their_sizes_and_trailers_their_place() {
        let mut out = Vec::new();
        let data = Frame::data(Bytes::from_static(b"0123456789abcdef"));
        let Piece::Data(data, behind) = piece(&mut out, Framing::Chunked, data) else { panic!("data") };
        out.extend_from_slice(&data);
        out.extend_from_slice(behind);
        // An empty chunk would end the body.
        assert!(matches!(piece(&mut out, Framing::Chunked, Frame::data(Bytes::new())), Piece::Nothing));
        let fields = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("x"))]);
        assert!(matches!(piece(&mut out, Framing::Chunked, Frame::trailers(fields)), Piece::End));
        assert_eq!(String::from_utf8_lossy(&out), "10\r\n0123456789abcdef\r\n0\r\netag: x\r\n\r\n");
    }
}
