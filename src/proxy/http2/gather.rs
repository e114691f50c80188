//! Defines how an HTTP/2 connection's frames are gathered: what one turn of the connection makes is written at once.
//!
//! h2 writes and flushes behind every frame that has data. Answers that are ready together would each cost a write, and
//! over TLS a record.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are gathered, a TLS record's; pieces as large are written as they are.
const MOST: usize = 16 * 1024;

/// A connection's stream, as the library reads and writes it. It says that everything is flushed; [`Turn::poll`] does it.
#[derive(Debug)]
pub(super) struct Gathered<I>(Rc<RefCell<Stream<I>>>);

/// What polls a connection, and then writes what it has made.
#[derive(Debug)]
pub(super) struct Turn<I>(Rc<RefCell<Stream<I>>>);

#[derive(Debug)]
struct Stream<I> {
    io: I,
    gathered: BytesMut,
    /// Something was written and not flushed.
    behind_flush: bool,
}

pub(super) fn gathered<I>(io: I) -> (Gathered<I>, Turn<I>) {
    let stream = Rc::new(RefCell::new(Stream { io, gathered: BytesMut::new(), behind_flush: false }));
    (Gathered(Rc::clone(&stream)), Turn(stream))
}

impl<I: AsyncWrite + Unpin> Turn<I> {
    /// Polls the connection and writes what it has made. It is over, too, when that cannot be written.
    pub(super) fn poll<C, E>(&self, connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<Result<(), Broken<E>>>
    where
        C: Future<Output = Result<(), E>>,
    {
        let ended = connection.poll(cx);
        let wrote = self.0.borrow_mut().poll_flush(cx);
        match (ended, wrote) {
            (Poll::Ready(ended), _) => Poll::Ready(ended.map_err(Broken::Connection)),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(Broken::Write(error))),
            (Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => Poll::Pending,
        }
    }
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken<E> {
    #[error("{0}")]
    Connection(E),
    #[error("{0}")]
    Write(io::Error),
}

impl<I: AsyncWrite + Unpin> Stream<I> {
    /// Makes room for so many bytes more; false when they are too many to be gathered, and nothing is before them.
    fn poll_room(&mut self, length: usize, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.gathered.len() + length > MOST {
            ready!(self.poll_drain(cx))?;
        }
        if length >= MOST {
            self.behind_flush = true;
            return Poll::Ready(Ok(false));
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(MOST);
        }
        Poll::Ready(Ok(true))
    }

    /// Writes what is gathered. Its room is given back: most connections have nothing to write most of the time.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            self.behind_flush = true;
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.gathered.advance(count),
            }
        }
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.behind_flush {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.behind_flush = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gathered<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gathered<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.0.borrow_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if !ready!(stream.poll_room(length, cx))? {
            return Pin::new(&mut stream.io).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|buf| stream.gathered.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.0.borrow_mut();
        ready!(stream.poll_flush(cx))?;
        Pin::new(&mut stream.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Takes what is written, each write by itself, of at most so many bytes.
    #[derive(Debug, Default)]
    struct Taker {
        writes: Vec<usize>,
        most: Option<usize>,
        shut: bool,
    }

    impl AsyncWrite for Taker {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let count = buf.len().min(self.most.unwrap_or(usize::MAX));
            self.writes.push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut = true;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_turn_makes_is_written_at_once_and_large_pieces_as_they_are() {
        let (mut io, turn) = gathered(Taker::default());
        let mut connection = pin!(async move {
            for length in [9, 1024, 9, 1024, MOST, 5] {
                io.write_all(&vec![0; length]).await.unwrap();
                io.flush().await.unwrap();
            }
            std::future::pending::<Result<(), Infallible>>().await
        });
        let polled = poll_fn(|cx| Poll::Ready(turn.poll(connection.as_mut(), cx))).await;
        assert!(polled.is_pending());
        assert_eq!(turn.0.borrow().io.writes, [2066, MOST, 5]);
    }

    #[tokio::test]
    async fn nothing_is_lost_when_a_connection_is_shut_or_cannot_be_written() {
        let (mut io, turn) = gathered(Taker { most: Some(60), ..Taker::default() });
        io.write_all(&[0; 100]).await.unwrap();
        io.shutdown().await.unwrap();
        assert_eq!((turn.0.borrow().io.writes.as_slice(), turn.0.borrow().io.shut), ([60, 40].as_slice(), true));

        let (mut io, turn) = gathered(Taker { most: Some(0), ..Taker::default() });
        io.write_all(&[0; 100]).await.unwrap();
        let mut connection = pin!(std::future::pending::<Result<(), Infallible>>());
        let ended = poll_fn(|cx| turn.poll(connection.as_mut(), cx)).await;
        assert!(matches!(ended, Err(Broken::Write(error)) if error.kind() == io::ErrorKind::WriteZero));
    }
}
