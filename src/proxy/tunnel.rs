//! Defines an upgraded connection: bytes both ways until both sides have closed, one that owes something has been waited
//! for too long, or the endpoint's drain ends it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::carried::Carried;
use super::drain::{Stage, Visit};
use super::frame::Frame;
use super::kept::Connection;
use super::websocket::{Frames, close_for_client, close_for_endpoint};
use crate::exchange::Flag;

/// Buffer of each direction, in bytes.
const BUFFER: usize = 16 * 1024;

/// How it ended, when it did not break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Both sides have.
    Closed,
    /// The endpoint's drain was over.
    Cut,
}

/// Carries bytes both ways. A side that ends its half is told so to the other, whose half goes on.
/// The exchange ends when both have ended, either breaks, or the endpoint's drain is over; a WebSocket is told to close
/// before that (`websocket`: the protocol is this one).
pub(super) fn spawn(mut frame: Box<Frame>, client: OnUpgrade, endpoint: Connection, websocket: bool) {
    let carried = Carried::new(frame.idle_timeout(), &frame.worker.clock);
    frame.tunnelled = Some(Rc::clone(&carried));
    let (connection, known) = (Rc::clone(&frame.connection), Rc::clone(&carried));
    let task = tokio::task::spawn_local(async move {
        // Ends with the task, also when that is cut off at a stop.
        let frame = frame;
        let Some(visit) = frame.endpoint().map(|endpoint| endpoint.drain.visit()) else { return };
        let closes =
            websocket.then(|| [close_for_client(), close_for_endpoint((frame.worker.random() as u32).to_be_bytes())]);
        match carry(client, endpoint, &carried, &visit, closes).await {
            Ok(End::Closed) => {}
            Ok(End::Cut) => carried.cut(Flag::LocalReset),
            Err(error) => tracing::debug!("an upgraded connection broke: {error}"),
        }
    });
    connection.upgrades(task.abort_handle(), &known);
}

async fn carry(
    client: OnUpgrade,
    endpoint: Connection,
    carried: &Carried,
    visit: &Visit,
    closes: Option<[Vec<u8>; 2]>,
) -> io::Result<End> {
    // Counted as active until it is over.
    let Connection { mut link, active: _active, place: _place } = endpoint;
    let _hold = link.release();
    let mut client = TokioIo::new(client.await.map_err(io::Error::other)?);
    let (mut endpoint, came) = link.into_stream().ok_or(io::ErrorKind::BrokenPipe)?;
    carried.from_endpoint.set(came.len() as u64);
    let mut down = Way::new(&came, carried, false, closes.is_some());
    let mut up = Way::new(&[], carried, true, closes.is_some());
    let mut closes = closes;
    let end = poll_fn(|cx| {
        match visit.poll(cx) {
            Stage::Cut => return Poll::Ready(io::Result::Ok(End::Cut)),
            Stage::Closing => {
                // Where one side closes it already, the other's answer is on its way.
                if let Some([to_client, to_endpoint]) = closes.take()
                    && !down.is_closing()
                    && !up.is_closing()
                {
                    down.close(to_client);
                    up.close(to_endpoint);
                }
            }
            Stage::Open => {}
        }
        let ended = [down.poll(&mut endpoint, &mut client, cx)?, up.poll(&mut client, &mut endpoint, cx)?];
        if ended.iter().all(Poll::is_ready) { Poll::Ready(Ok(End::Closed)) } else { Poll::Pending }
    })
    .await?;
    if end == End::Closed {
        // What was told to close was not shut down yet. Whoever has gone already cannot be told.
        let _ = tokio::join!(client.shutdown(), endpoint.shutdown());
    }
    Ok(end)
}

/// One direction.
#[derive(Debug)]
struct Way<'c> {
    buffer: Vec<u8>,
    /// Of the buffer, what is to be written.
    from: usize,
    to: usize,
    /// Something is written that may not have been sent.
    behind_flush: bool,
    carried: &'c Carried,
    /// From the client to the endpoint.
    is_up: bool,
    /// What has been written of a WebSocket.
    frames: Option<Frames>,
    state: State,
}

#[derive(Debug)]
enum State {
    Passing,
    /// At the next end of a frame, this is written, and nothing after it.
    Closing(Vec<u8>),
    /// The frame that closes it is written as far as that; what comes is dropped until its side closes, too.
    Closed(Vec<u8>, usize),
    /// Its side has ended.
    Ending,
    Ended,
}

impl<'c> Way<'c> {
    /// `came`: read already.
    fn new(came: &[u8], carried: &'c Carried, is_up: bool, websocket: bool) -> Self {
        let mut buffer = came.to_vec();
        buffer.resize(BUFFER.max(came.len()), 0);
        let frames = websocket.then(Frames::default);
        Self { buffer, from: 0, to: came.len(), behind_flush: false, carried, is_up, frames, state: State::Passing }
    }

    /// Whether a close frame passes or has passed.
    fn is_closing(&self) -> bool {
        self.frames.as_ref().is_some_and(Frames::closes)
    }

    /// Has it closed by this frame, as soon as that does not cut another.
    fn close(&mut self, frame: Vec<u8>) {
        if let State::Passing = self.state {
            self.state = State::Closing(frame);
        }
    }

    /// Carries what comes; ready when nothing more is to be carried.
    fn poll<R, W>(&mut self, read: &mut R, write: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match &mut self.state {
                State::Passing => {
                    while self.from < self.to {
                        ready!(self.poll_write(self.to, write, cx))?;
                    }
                }
                State::Closing(frame) => {
                    let frames = self.frames.get_or_insert_default();
                    if frames.is_between() {
                        frames.pass(&self.buffer[self.from..self.to]);
                        (self.from, self.to) = (0, 0);
                        self.state = State::Closed(std::mem::take(frame), 0);
                        continue;
                    }
                    let end = self.from + frames.rest(&self.buffer[self.from..self.to]);
                    if self.from < end {
                        ready!(self.poll_write(end, write, cx))?;
                        continue;
                    }
                }
                State::Closed(frame, written) if *written < frame.len() => {
                    let polled = Pin::new(&mut *write).poll_write(cx, &frame[*written..]);
                    *written += ready!(wrote(self.carried, self.is_up, polled))?;
                    self.behind_flush = true;
                    continue;
                }
                State::Closed(..) => {
                    if self.frames.as_ref().is_none_or(Frames::has_closed) {
                        ready!(self.poll_flush(write, cx))?;
                        self.state = State::Ended;
                        continue;
                    }
                }
                State::Ending => {
                    ready!(Pin::new(&mut *write).poll_shutdown(cx))?;
                    self.state = State::Ended;
                    continue;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
            let Poll::Ready(came) = self.poll_read(read, cx) else {
                ready!(self.poll_flush(write, cx))?;
                return Poll::Pending;
            };
            if came? == 0 {
                self.state = State::Ending;
            }
        }
    }

    /// Reads into the buffer, all of which is written.
    fn poll_read<R: AsyncRead + Unpin>(&mut self, read: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(read).poll_read(cx, &mut buffer))?;
        let came = buffer.filled().len();
        let count = if self.is_up { &self.carried.from_client } else { &self.carried.from_endpoint };
        self.carried.came(count, came);
        if let State::Closed(..) = self.state {
            // Nobody wants it.
            self.frames.get_or_insert_default().pass(&self.buffer[..came]);
        } else {
            (self.from, self.to) = (0, came);
        }
        Poll::Ready(Ok(came))
    }

    /// Writes some of the buffer, as far as `end`.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        end: usize,
        write: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(write).poll_write(cx, &self.buffer[self.from..end]);
        let count = ready!(wrote(self.carried, self.is_up, polled))?;
        if let Some(frames) = &mut self.frames {
            frames.pass(&self.buffer[self.from..self.from + count]);
        }
        self.from += count;
        self.behind_flush = true;
        Poll::Ready(Ok(()))
    }

    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, write: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.behind_flush {
            ready!(Pin::new(write).poll_flush(cx))?;
            self.behind_flush = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Notes whether the endpoint takes what is to be sent. Who takes nothing of it will take nothing more.
fn wrote(carried: &Carried, is_up: bool, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if is_up {
        carried.went(polled.is_ready());
    }
    polled.map(|written| match written? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        count => Ok(count),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// Takes everything, and counts how often it is told that nothing more comes.
    #[derive(Default)]
    struct Sink {
        taken: Vec<u8>,
        shut_down: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.taken.extend_from_slice(data);
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut_down += 1;
            Poll::Ready(if self.shut_down == 1 { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) })
        }
    }

    #[tokio::test]
    async fn the_end_of_one_side_is_told_once() {
        let (carried, mut sink) = (Carried::new(Duration::from_secs(9), &Arc::default()), Sink::default());
        let mut way = Way::new(b"first, ", &carried, true, true);
        let mut read = &b"last"[..];
        for _ in 0..2 {
            let polled = poll_fn(|cx| Poll::Ready(way.poll(&mut read, &mut sink, cx))).await;
            assert!(matches!(polled, Poll::Ready(Ok(()))), "{polled:?}");
        }
        assert_eq!((sink.taken.as_slice(), sink.shut_down, carried.from_client.get()), (&b"first, last"[..], 1, 4));
    }
}
