//! Defines an upgraded connection: bytes both ways until both sides have closed.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::frame::Frame;
use super::kept::Connection;

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
pub(super) fn spawn(mut frame: Box<Frame>, client: OnUpgrade, endpoint: Connection) {
    let carried = Rc::new(Carried::default());
    frame.tunnelled = Some(Rc::clone(&carried));
    tokio::task::spawn_local(async move {
        // Ends with the task, also when that is cut off at a stop.
        let _frame = frame;
        if let Err(error) = carry(client, endpoint, &carried).await {
            tracing::debug!("an upgraded connection broke: {error}");
        }
    });
}

async fn carry(client: OnUpgrade, endpoint: Connection, carried: &Carried) -> io::Result<()> {
    // Counted as active until it is over.
    let Connection { link, active: _active, place: _place } = endpoint;
    let client = client.await.map_err(io::Error::other)?;
    let (endpoint, came) = link.into_stream().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut client = Counted { io: TokioIo::new(client), read: &carried.from_client };
    let mut endpoint = Counted { io: endpoint, read: &carried.from_endpoint };
    carried.from_endpoint.set(came.len() as u64);
    client.write_all(&came).await?;
    client.flush().await?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await?;
    Ok(())
}

/// One side, whose bytes are counted as they come.
struct Counted<'c, T> {
    io: T,
    read: &'c Cell<u64>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<'_, T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        this.read.set(this.read.get() + (buf.filled().len() - before) as u64);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<'_, T> {
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
