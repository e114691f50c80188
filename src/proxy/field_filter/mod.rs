//! The filter below h2 that makes malformed fields a matter of their stream alone (RFC 9113, 8.1.1).
//!
//! h2 0.4 decodes a field section and checks its fields at once: a name with an upper-case letter, a method that is not
//! a token, or a value with a line feed ends the connection, and with it everybody's exchanges that share it. So each
//! section is read here first. One that is sound passes as it is. A malformed request is replaced by one that says so,
//! which the gateway answers with 400 before it resets the stream; malformed trailers, and what an endpoint sends, by
//! a section for which h2 resets the stream. Only what breaks the framing or the compression ends a connection.
//!
//! What an upstream patch of h2 would be: `hpack::Decoder::decode` gives names and values as bytes, and inserts them
//! into its table as they are; `frame::HeaderBlock::load` makes headers of them, sets `malformed` where that fails, and
//! does so in `FramedRead` only at the section's end, so that a CONTINUATION behind it is not one too many.

mod frames;
mod hpack;
mod huffman;
mod open_streams;
mod rules;
mod section;
mod table;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::frames::Frames;
pub(super) use self::frames::Side;
pub(super) use self::rules::MALFORMED;

/// How h2's last frame begins. Behind the number of a stream it says PROTOCOL_ERROR where a block cannot be decompressed;
/// RFC 9113, 4.3, has COMPRESSION_ERROR for that.
const GOAWAY: [u8; 9] = [0, 0, 8, 7, 0, 0, 0, 0, 0];
const GOAWAY_LENGTH: usize = GOAWAY.len() + 8;
const PROTOCOL_ERROR: u8 = 1;
const COMPRESSION_ERROR: u8 = 9;

/// A connection's stream as h2 reads it.
#[derive(Debug)]
pub(super) struct FieldFilter<I> {
    io: I,
    frames: Frames,
    /// h2 is writing its last frame.
    says_goodbye: bool,
}

impl<I> FieldFilter<I> {
    /// `limit`: bytes that a field section may have; `preface`: bytes that come before the first frame.
    pub(super) fn new(io: I, side: Side, limit: usize, preface: usize) -> Self {
        Self { io, frames: Frames::new(side, limit, preface), says_goodbye: false }
    }

    /// Counts the requests that it replaces.
    pub(super) fn counting(mut self, replaced: &Rc<Cell<u32>>) -> Self {
        self.frames.count_by(replaced);
        self
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for FieldFilter<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let waiting = this.frames.ready();
            if !waiting.is_empty() {
                let length = waiting.len().min(buf.remaining());
                buf.put_slice(&waiting[..length]);
                waiting.advance(length);
                if waiting.is_empty() {
                    *waiting = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.frames.has_ended() {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = this.frames.take(came);
            buf.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for FieldFilter<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.frames.cannot_decompress() {
            let goaway = buf.len().checked_sub(GOAWAY_LENGTH).map(|at| &buf[at..]);
            this.says_goodbye |= goaway.is_some_and(|frame| frame.starts_with(&GOAWAY));
            // Its last byte is the code's, also of what is left of it.
            if this.says_goodbye
                && let [before @ .., PROTOCOL_ERROR] = buf
            {
                return Pin::new(&mut this.io).poll_write(cx, &[before, &[COMPRESSION_ERROR]].concat());
            }
        }
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.frames.cannot_decompress() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
