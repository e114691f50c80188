//! Defines an upgraded connection: bytes both ways until both sides have closed, or one that owes something has been
//! waited for too long.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::frame::Frame;
use super::kept::Connection;
use crate::exchange::Flag;

/// Buffer of each direction, in bytes.
const BUFFER: usize = 16 * 1024;

/// What is known of an upgraded connection while it is carried: to the log, which has it however the connection ends
/// (most end by breaking), and to the worker's sweep.
#[derive(Debug)]
pub(super) struct Carried {
    /// Bytes that came from each side so far.
    pub(super) from_client: Cell<u64>,
    pub(super) from_endpoint: Cell<u64>,
    /// Since which second the endpoint has taken nothing of what is to be sent; `None`: it takes it. Of the client its
    /// connection tells.
    stalled: Cell<Option<u32>>,
    /// Since which second one side has ended and nothing has come from the other.
    alone: Cell<Option<u32>>,
    /// How long either may last.
    longest: Duration,
    cut: Cell<Option<Flag>>,
    /// Seconds of the worker.
    clock: Arc<AtomicU32>,
}

impl Carried {
    fn new(longest: Duration, clock: &Arc<AtomicU32>) -> Rc<Self> {
        Rc::new(Self {
            from_client: Cell::new(0),
            from_endpoint: Cell::new(0),
            stalled: Cell::new(None),
            alone: Cell::new(None),
            longest,
            cut: Cell::new(None),
            clock: Arc::clone(clock),
        })
    }

    /// For how many seconds a side has been waited for that owes something, and how long it may be. A connection on which
    /// nobody has anything to say is not waited for.
    pub(super) fn waits(&self, now: u32) -> (u32, Duration) {
        let longest = |since: &Cell<Option<u32>>| since.get().map_or(0, |since| now.saturating_sub(since));
        let seconds = longest(&self.stalled).max(longest(&self.alone));
        if Duration::from_secs(seconds.into()) > self.longest {
            self.cut(Flag::UpstreamTimeout);
        }
        (seconds, self.longest)
    }

    /// It ends for this reason.
    pub(super) fn cut(&self, flag: Flag) {
        self.cut.set(Some(flag));
    }

    /// Why it was ended, when it was.
    pub(super) fn was_cut(&self) -> Option<Flag> {
        self.cut.get()
    }

    /// So many bytes came from one side; none: it has ended.
    fn came(&self, count: &Cell<u64>, bytes: usize) {
        count.set(count.get() + bytes as u64);
        if bytes == 0 || self.alone.get().is_some() {
            self.alone.set(Some(self.clock.load(Relaxed)));
        }
    }

    /// The endpoint was given bytes; whether it took any.
    fn went(&self, taken: bool) {
        let now = self.clock.load(Relaxed);
        self.stalled.set(if taken { None } else { self.stalled.get().or(Some(now)) });
    }
}

/// Carries bytes both ways. A side that ends its half is told so to the other, whose half goes on.
/// The exchange ends when both have ended, or either breaks.
pub(super) fn spawn(mut frame: Box<Frame>, client: OnUpgrade, endpoint: Connection) {
    let carried = Carried::new(frame.idle_timeout(), &frame.worker.clock);
    frame.tunnelled = Some(Rc::clone(&carried));
    let (connection, known) = (Rc::clone(&frame.connection), Rc::clone(&carried));
    let task = tokio::task::spawn_local(async move {
        // Ends with the task, also when that is cut off at a stop.
        let _frame = frame;
        if let Err(error) = carry(client, endpoint, &carried).await {
            tracing::debug!("an upgraded connection broke: {error}");
        }
    });
    connection.upgrades(task.abort_handle(), &known);
}

async fn carry(client: OnUpgrade, endpoint: Connection, carried: &Carried) -> io::Result<()> {
    // Counted as active until it is over.
    let Connection { link, active: _active, place: _place } = endpoint;
    let client = client.await.map_err(io::Error::other)?;
    let (endpoint, came) = link.into_stream().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut client = Side { io: TokioIo::new(client), carried, is_client: true };
    let mut endpoint = Side { io: endpoint, carried, is_client: false };
    carried.from_endpoint.set(came.len() as u64);
    client.write_all(&came).await?;
    client.flush().await?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await?;
    Ok(())
}

/// One side, whose bytes are counted as they come, and which is watched as it takes the other's.
struct Side<'c, T> {
    io: T,
    carried: &'c Carried,
    is_client: bool,
}

impl<T> Side<'_, T> {
    fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if !self.is_client {
            self.carried.went(outcome.is_ready());
        }
        outcome
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Side<'_, T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) {
            let carried = this.carried;
            let count = if this.is_client { &carried.from_client } else { &carried.from_endpoint };
            carried.came(count, buf.filled().len() - before);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Side<'_, T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(wrote)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_owes_something_is_waited_for() {
        let clock = Arc::<AtomicU32>::default();
        let carried = Carried::new(Duration::from_secs(5), &clock);
        let waits_at = |second: u32| {
            clock.store(second, Relaxed);
            carried.waits(second).0
        };
        carried.came(&carried.from_client, 10);
        assert_eq!(waits_at(100), 0, "nobody has anything to say");
        carried.went(false);
        carried.went(false);
        assert_eq!(waits_at(103), 3);
        carried.went(true);
        assert_eq!((waits_at(104), carried.was_cut()), (0, None));
        carried.came(&carried.from_client, 0);
        assert_eq!(waits_at(108), 4);
        carried.came(&carried.from_endpoint, 7);
        assert_eq!((waits_at(110), carried.was_cut()), (2, None));
        assert_eq!((waits_at(114), carried.was_cut()), (6, Some(Flag::UpstreamTimeout)));
        assert_eq!((carried.from_client.get(), carried.from_endpoint.get()), (10, 7));
    }
}
