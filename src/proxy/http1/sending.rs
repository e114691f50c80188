//! Defines a request on its way to an endpoint: what is encoded, and how far it is written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body as _;

use super::super::outbound::Outbound;
use super::super::stream::Writer;
use super::super::upload::Upload;
use super::decoder::{Chunked, Decoded, Decoder};
use super::encoder::{self, Framing, Piece};
use crate::exchange::Body;

/// A request that is being sent.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// The head, and small pieces of the body.
    out: Vec<u8>,
    /// So much of `out` is the head, until some of it is written.
    head: usize,
    /// So much of `out` is written.
    written: usize,
    /// A large piece of the body, not copied; goes after `out`.
    piece: Bytes,
    /// Goes after the piece.
    behind: &'static [u8],
    framing: Framing,
    state: State,
    started: bool,
    /// All bytes written.
    sent: u64,
    /// Something is written that TLS may not have sent.
    behind_flush: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// More of the body is to come.
    Open,
    /// All is encoded.
    #[default]
    Encoded,
    Failed,
}

/// Why a request could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// Its body failed.
    Body,
    /// The endpoint takes no more.
    Io,
}

/// A piece up to this size is copied: that costs less than writing it apart or gathering it.
const SMALL: usize = 4 * 1024;

/// So much is collected before it is written, while more comes at once.
const BATCH: usize = 16 * 1024;

impl Sending {
    pub(super) fn begin(&mut self, outbound: &Outbound) {
        self.out.clear();
        encoder::head(&mut self.out, outbound);
        self.head = self.out.len();
        let body = outbound.request.body();
        self.framing = Framing::of(body);
        self.state = if matches!(body, Body::Empty) { State::Encoded } else { State::Open };
        (self.written, self.sent, self.started, self.behind_flush) = (0, 0, false, false);
        (self.piece, self.behind) = (Bytes::new(), b"");
    }

    /// Sends until all is sent, or nothing more can be now.
    pub(super) fn poll(
        &mut self,
        write: &mut Writer,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        if self.has_failed() {
            return Poll::Ready(Err(SendError::Io));
        }
        loop {
            if let Err(error) = self.collect(body, cx) {
                self.state = State::Failed;
                return Poll::Ready(Err(error));
            }
            if self.is_written() {
                if self.behind_flush {
                    if ready!(write.poll_flush(cx)).is_err() {
                        self.state = State::Failed;
                        return Poll::Ready(Err(SendError::Io));
                    }
                    self.behind_flush = false;
                }
                return if self.state == State::Open { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            match ready!(self.poll_write(write, cx)) {
                Ok(count) if count > 0 => self.wrote(count),
                Ok(_) | Err(_) => {
                    self.state = State::Failed;
                    return Poll::Ready(Err(SendError::Io));
                }
            }
        }
    }

    /// Encodes what is there of the body, as far as it can be written in one go.
    fn collect(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Result<(), SendError> {
        while self.state == State::Open && self.piece.is_empty() && self.out.len() - self.written < BATCH {
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => {
                    encoder::end(&mut self.out, self.framing);
                    self.state = State::Encoded;
                    break;
                }
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(_))) => return Err(SendError::Body),
            };
            match encoder::piece(&mut self.out, self.framing, frame) {
                Piece::Nothing => {}
                Piece::Data(data, behind) if data.len() <= SMALL => {
                    self.out.extend_from_slice(&data);
                    self.out.extend_from_slice(behind);
                }
                Piece::Data(data, behind) => (self.piece, self.behind) = (data, behind),
                Piece::End => self.state = State::Encoded,
            }
            // A body of known length is not polled behind its end.
            if self.framing == Framing::Length && body.is_end_stream() {
                self.state = State::Encoded;
            }
        }
        Ok(())
    }

    fn poll_write(&self, write: &mut Writer, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let out = &self.out[self.written..];
        if self.piece.is_empty() {
            return write.poll_write(cx, out);
        }
        write.poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(&self.piece)])
    }

    fn wrote(&mut self, count: usize) {
        (self.started, self.behind_flush) = (true, true);
        self.sent += count as u64;
        let of_out = count.min(self.out.len() - self.written);
        self.written += of_out;
        let of_piece = count - of_out;
        if of_piece > 0 {
            self.piece.advance(of_piece);
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.piece.is_empty() {
                self.out.extend_from_slice(std::mem::take(&mut self.behind));
            }
        }
    }

    /// Who the rest of it waits for.
    pub(super) fn upload_state(&self) -> Upload {
        let waits_for_endpoint = !self.is_written() || self.behind_flush;
        match self.state {
            State::Failed => Upload::Sent,
            State::Open | State::Encoded if waits_for_endpoint => Upload::WaitsForEndpoint,
            State::Open => Upload::WaitsForClient,
            State::Encoded => Upload::Sent,
        }
    }

    /// How many bytes the endpoint has taken, while it has not taken all there are.
    pub(super) fn is_taken_to(&self) -> Option<u64> {
        (!self.is_written()).then_some(self.sent)
    }

    fn is_written(&self) -> bool {
        self.written == self.out.len() && self.piece.is_empty()
    }

    /// Whether nothing of the request was written.
    pub(super) fn is_unsent(&self) -> bool {
        !self.started
    }

    /// Gives back what was taken of the body, when nothing of the request was written.
    pub(super) fn put_back(&mut self, body: &mut Body) {
        if self.started || self.out.len() + self.piece.len() <= self.head {
            return;
        }
        let mut taken = BytesMut::from(&self.out[self.head..]);
        taken.extend_from_slice(&self.piece);
        let mut decoder = match self.framing {
            Framing::Length => Decoder::length(taken.len() as u64),
            Framing::Chunked => Decoder::Chunked(Chunked::Size),
        };
        let (mut data, mut trailers) = (BytesMut::new(), None);
        loop {
            match decoder.decode(&mut taken) {
                Ok(Decoded::Data(piece)) => data.extend_from_slice(&piece),
                Ok(Decoded::Trailers(fields)) => trailers = Some(fields),
                // It is our own encoding, whole but perhaps for the end of its last piece.
                Ok(Decoded::End | Decoded::Partial) | Err(_) => break,
            }
        }
        body.put_back(data.freeze(), trailers);
    }

    /// Whether the whole request is written.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Encoded && self.is_written() && !self.behind_flush
    }

    /// Whether no more of the request can be sent.
    pub(super) fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Lets go of the room that a large request needed.
    pub(super) fn rest(&mut self) {
        if self.out.capacity() > 2 * BATCH {
            self.out = Vec::new();
        }
    }
}
