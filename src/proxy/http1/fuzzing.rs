//! An endpoint's response read piece by piece, for the fuzz targets in `tests/fuzz`.

use bytes::BytesMut;
use http::{HeaderMap, Method, header};

use super::decoder::{Decoded, Decoder};
use super::head;

/// A response as far as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadResponse {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub end: BodyEnd,
}

/// How a response's body ended.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// As its framing says.
    Complete,
    /// More of it was to come.
    Partial,
    /// Its framing is wrong, with the reason.
    Malformed(String),
}

impl ReadResponse {
    /// The body's length as the head announces it, in bytes.
    pub fn content_length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

/// Reads an endpoint's response to a request of `method`, whose bytes come in `pieces`. `None`: its head is malformed, or
/// not complete.
pub fn read_response<'a>(method: &Method, pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<ReadResponse> {
    let (mut buffer, mut fields) = (BytesMut::new(), Vec::new());
    let mut reading: Option<(ReadResponse, Decoder)> = None;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let (response, decoder) = match &mut reading {
            Some(reading) => reading,
            None => match head::parse(&mut buffer, method, &mut fields).ok()? {
                Some(head) => {
                    let body = head.body;
                    reading.insert((ReadResponse::of(head), body))
                }
                None => continue,
            },
        };
        if response.end == BodyEnd::Partial {
            response.read_body(decoder, &mut buffer);
        }
    }
    Some(reading?.0)
}

impl ReadResponse {
    fn of(head: head::Head) -> Self {
        let (parts, ()) = head.response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: Vec::new(),
            trailers: None,
            end: BodyEnd::Partial,
        }
    }

    fn read_body(&mut self, decoder: &mut Decoder, buffer: &mut BytesMut) {
        loop {
            match decoder.decode(buffer) {
                Ok(Decoded::Data(data)) => self.body.extend_from_slice(&data),
                Ok(Decoded::Trailers(trailers)) => self.trailers = Some(trailers),
                Ok(Decoded::End) => {
                    self.end = BodyEnd::Complete;
                    return;
                }
                Ok(Decoded::Partial) => return,
                Err(error) => {
                    self.end = BodyEnd::Malformed(error.to_string());
                    return;
                }
            }
        }
    }
}
