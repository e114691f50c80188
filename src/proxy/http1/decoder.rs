//! Defines the decoding of a body by its framing (RFC 9112, 6 and 7), strictly: what could be read in two ways is an
//! error.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What is left of a body to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// Nothing.
    Ended,
    /// So many bytes; more than 0.
    Length(u64),
    Chunked(Chunked),
    /// All there is until the endpoint closes.
    UntilClose,
}

/// Where in a chunked body the decoder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    /// Before the line with a chunk's size.
    Size,
    /// So many bytes of a chunk are to come; more than 0.
    Data(u64),
    /// Before the line break that ends a chunk.
    DataEnd,
    /// After the last chunk.
    Trailers,
}

/// A step of decoding.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is over.
    End,
    /// More bytes are needed.
    Partial,
}

/// Framing that no endpoint may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in super::super) struct BadBody(&'static str);

/// Longest line with a chunk's size and extensions, in bytes.
const MAX_SIZE_LINE: usize = 4 * 1024;

/// Longest trailer section, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// Most trailer fields.
const MAX_TRAILER_FIELDS: usize = 64;

impl Decoder {
    /// A body of so many bytes.
    pub(super) fn length(length: u64) -> Self {
        if length == 0 { Self::Ended } else { Self::Length(length) }
    }

    pub(super) fn has_ended(&self) -> bool {
        *self == Self::Ended
    }

    /// Takes the next part of the body off `buffer`.
    ///
    /// # Errors
    /// When the framing is broken; nothing more can be read then.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BadBody> {
        loop {
            match self {
                Self::Ended => return Ok(Decoded::End),
                Self::Length(left) => {
                    let Some(data) = take(buffer, left) else { return Ok(Decoded::Partial) };
                    if *left == 0 {
                        *self = Self::Ended;
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::UntilClose if buffer.is_empty() => return Ok(Decoded::Partial),
                Self::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                Self::Chunked(Chunked::Size) => match chunk_size(buffer)? {
                    None => return Ok(Decoded::Partial),
                    Some(0) => *self = Self::Chunked(Chunked::Trailers),
                    Some(size) => *self = Self::Chunked(Chunked::Data(size)),
                },
                Self::Chunked(Chunked::Data(left)) => {
                    let Some(data) = take(buffer, left) else { return Ok(Decoded::Partial) };
                    if *left == 0 {
                        *self = Self::Chunked(Chunked::DataEnd);
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::Chunked(Chunked::DataEnd) => match &buffer[..buffer.len().min(2)] {
                    b"\r\n" => {
                        buffer.advance(2);
                        *self = Self::Chunked(Chunked::Size);
                    }
                    b"" | b"\r" => return Ok(Decoded::Partial),
                    _ => return Err(BadBody("a chunk that is longer than its size")),
                },
                Self::Chunked(Chunked::Trailers) => {
                    let Some(trailers) = trailers(buffer)? else { return Ok(Decoded::Partial) };
                    *self = Self::Ended;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
                }
            }
        }
    }

    /// What the endpoint's close means; called when nothing is left in the buffer that could be decoded.
    ///
    /// # Errors
    /// When the body had not ended.
    pub(super) fn closed(&mut self) -> Result<(), BadBody> {
        match self {
            Self::Ended => Ok(()),
            Self::UntilClose => {
                *self = Self::Ended;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => Err(BadBody("the endpoint closed before the body's end")),
        }
    }
}

/// At most `left` bytes of what is there; `None` when nothing is.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    if buffer.is_empty() {
        return None;
    }
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    Some(buffer.split_to(length).freeze())
}

/// Reads `chunk-size [ chunk-ext ] CRLF` (RFC 9112, 7.1); `None` when the line is not complete.
fn chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, BadBody> {
    let Some(end) = buffer.iter().take(MAX_SIZE_LINE).position(|byte| *byte == b'\n') else {
        let whole = buffer.len() >= MAX_SIZE_LINE;
        return if whole { Err(BadBody("a chunk's size line without end")) } else { Ok(None) };
    };
    let line = buffer[..end].strip_suffix(b"\r").ok_or(BadBody("a bare line feed after a chunk's size"))?;
    if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Err(BadBody("a control byte in a chunk's size line"));
    }
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if !(1..=16).contains(&size.len()) {
        return Err(BadBody("a chunk without a size, or with one beyond 64 bits"));
    }
    let mut value = 0u64;
    for byte in size {
        let digit = char::from(*byte).to_digit(16).ok_or(BadBody("a chunk's size that is no hexadecimal number"))?;
        value = value << 4 | u64::from(digit);
    }
    buffer.advance(end + 1);
    Ok(Some(value))
}

/// Reads the trailer section and the empty line after it; `None` when that is not complete.
fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, BadBody> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let (length, map) = match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let mut map = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                let value = HeaderValue::from_bytes(field.value);
                let (Ok(name), Ok(value)) = (name, value) else { return Err(BadBody("a malformed trailer")) };
                map.append(name, value);
            }
            (length, map)
        }
        Ok(httparse::Status::Partial) if buffer.len() < MAX_TRAILERS => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(BadBody("trailers over 16 KiB")),
        Err(_) => return Err(BadBody("malformed trailers")),
    };
    buffer.advance(length);
    Ok(Some(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body and trailers of what comes in the given pieces, and what is left behind it.
    fn decode(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, HeaderMap, Vec<u8>, bool), BadBody> {
        let (mut buffer, mut body, mut trailers) = (BytesMut::new(), Vec::new(), HeaderMap::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer)? {
                    Decoded::Data(data) => body.extend_from_slice(&data),
                    Decoded::Trailers(fields) => trailers = fields,
                    Decoded::End | Decoded::Partial => break,
                }
            }
        }
        Ok((body, trailers, buffer.to_vec(), decoder.has_ended()))
    }

    const CHUNKED: Decoder = Decoder::Chunked(Chunked::Size);

    #[test]
    fn a_body_is_the_same_wherever_its_pieces_are_cut() {
        let text = b"5\r\nhello\r\n006;ext=\"a;b\"\r\n world\r\nA \r\n0123456789\r\n0\r\nX-Sum: 1\r\nb: 2\r\n\r\nHTTP";
        for (first, second) in
            (0..=text.len()).flat_map(|first| (first..=text.len()).map(move |second| (first, second)))
        {
            let pieces = [&text[..first], &text[first..second], &text[second..]];
            let (body, trailers, left, ended) = decode(CHUNKED, &pieces).expect("a good body");
            assert_eq!(body, b"hello world0123456789");
            assert_eq!((&trailers["x-sum"], &trailers["b"]), (&HeaderValue::from(1), &HeaderValue::from(2)));
            assert_eq!((&left[..], ended), (&b"HTTP"[..], true), "cut at {first} and {second}");
        }
    }

    #[test]
    fn lengths_are_kept_to_the_byte() {
        let (body, _, left, ended) = decode(Decoder::length(5), &[b"he", b"llo!"]).expect("a good body");
        assert_eq!((&body[..], &left[..], ended), (&b"hello"[..], &b"!"[..], true));
        let (body, _, _, ended) = decode(Decoder::length(5), &[b"hell"]).expect("a part");
        assert_eq!((&body[..], ended), (&b"hell"[..], false));
        assert!(Decoder::length(0).has_ended());
    }

    #[test]
    fn a_close_ends_only_what_a_close_delimits() {
        let closed = |mut decoder: Decoder| decoder.closed().is_ok();
        assert!(closed(Decoder::UntilClose) && closed(Decoder::Ended));
        assert!(!closed(Decoder::Length(1)) && !closed(CHUNKED));
    }

    #[test]
    fn what_is_broken_or_ambiguous_is_refused() {
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 1\r\n",
            "1\n",
            "1;a\n",
            "1;a\rb\r\n",
            "11111111111111111\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "0\r\nbad name: 1\r\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\na: \x01\r\n\r\n",
        ] {
            assert!(decode(CHUNKED, &[text.as_bytes()]).is_err(), "{text:?}");
        }
        assert!(decode(CHUNKED, &[&[b'1'; MAX_SIZE_LINE]]).is_err());
        assert!(decode(CHUNKED, &[b"1;", &[b'a'; MAX_SIZE_LINE]]).is_err());
        assert!(decode(CHUNKED, &[b"0\r\na: ", &[b'a'; MAX_TRAILERS]]).is_err());
        assert!(decode(CHUNKED, &[b"0\r\n", "a: 1\r\n".repeat(MAX_TRAILER_FIELDS + 1).as_bytes(), b"\r\n"]).is_err());
    }
}
