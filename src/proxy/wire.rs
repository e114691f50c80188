//! Defines the stream below a client's connection: small messages in one plain write, and its bytes told.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connection::Phase;

/// A TCP stream as hyper reads and writes it.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Read already, to find out what the client speaks.
    ahead: Bytes,
    /// Told when bytes of a new request come, and when none of a response go.
    phase: Arc<Phase>,
}

/// Up to so many bytes in several pieces are copied into one: that costs less than a gathering write.
const GATHERED: usize = 4 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(GATHERED));
}

impl Wire {
    pub(super) fn new(stream: TcpStream, phase: Arc<Phase>) -> Self {
        Self { stream, ahead: Bytes::new(), phase }
    }

    /// Whether the client begins so. What it says is read as far as that takes, and read again by who comes next.
    pub(super) async fn begins_with(&mut self, preface: &[u8]) -> bool {
        let mut seen = Vec::new();
        let begins = loop {
            let read = poll_fn(|cx| self.poll_ahead(cx, &mut seen)).await;
            let common = seen.len().min(preface.len());
            match read {
                Ok(read) if read > 0 && seen[..common] == preface[..common] => {
                    if common == preface.len() {
                        break true;
                    }
                }
                // The next to read finds out why there is no more.
                Ok(_) | Err(_) => break false,
            }
        };
        self.ahead = seen.into();
        begins
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>, seen: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let mut buffer = [MaybeUninit::uninit(); GATHERED];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        seen.extend_from_slice(buffer.filled());
        read.map_ok(|()| buffer.filled().len())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // By an orderly close the system would keep what it has of a response for as long as the client likes.
        if self.phase.drops_rest() {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buf.remaining());
            // Split off, so that nothing of it is kept for as long as the connection lasts.
            buf.put_slice(&this.ahead.split_to(length));
            this.phase.bytes_came();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.phase.bytes_came();
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.phase.wrote(wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let stream = Pin::new(&mut this.stream);
        let wrote = match bufs {
            [only] => stream.poll_write(cx, only),
            many if many.iter().map(|buf| buf.len()).sum::<usize>() > GATHERED => stream.poll_write_vectored(cx, many),
            few => SCRATCH.with_borrow_mut(|scratch| {
                scratch.clear();
                few.iter().for_each(|buf| scratch.extend_from_slice(buf));
                stream.poll_write(cx, scratch)
            }),
        };
        this.phase.wrote(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
