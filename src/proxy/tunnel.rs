//! Defines an upgraded connection: bytes both ways until both sides have closed.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::Frame;

/// Buffer of each direction, in bytes.
const BUFFER: usize = 16 * 1024;

/// Bytes that came from each side so far. The log has them however the connection ends, and most upgraded
/// connections end by breaking.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) from_client: Cell<u64>,
    pub(super) from_endpoint: Cell<u64>,
}

/// Carries bytes both ways. A side that ends its half is told so to the other, whose half goes on.
/// The exchange ends when both have ended, or either breaks.
pub(super) fn spawn(mut frame: Box<Frame>, client: OnUpgrade, endpoint: OnUpgrade) {
    let carried = Rc::new(Carried::default());
    frame.tunnelled = Some(Rc::clone(&carried));
    tokio::task::spawn_local(async move {
        // Ends with the task, also when that is cut off at a stop.
        let _frame = frame;
        let upgraded = futures_util::future::try_join(client, endpoint).await;
        let (client, endpoint) = match upgraded {
            Ok(sides) => sides,
            Err(error) => {
                tracing::debug!("an upgrade came to nothing: {error}");
                return;
            }
        };
        let mut client = Counted { io: TokioIo::new(client), read: &carried.from_client };
        let mut endpoint = Counted { io: TokioIo::new(endpoint), read: &carried.from_endpoint };
        let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await;
        if let Err(error) = copied {
            tracing::debug!("an upgraded connection broke: {error}");
        }
    });
}

/// One side, whose bytes are counted as they come.
struct Counted<'c> {
    io: TokioIo<Upgraded>,
    read: &'c Cell<u64>,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        this.read.set(this.read.get() + (buf.filled().len() - before) as u64);
        read
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
