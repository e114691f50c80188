//! Defines the stream below a connection to an endpoint: TCP, or TLS over it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;

use crate::spec::upstream::is_http2;

/// A stream to an endpoint.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// What is read of it.
#[derive(Debug)]
pub(super) enum Reader {
    Plain(OwnedReadHalf),
    Secure(ReadHalf<Box<TlsStream<TcpStream>>>),
}

/// Where it is written to.
#[derive(Debug)]
pub(super) enum Writer {
    Plain(OwnedWriteHalf),
    Secure(WriteHalf<Box<TlsStream<TcpStream>>>),
}

impl Stream {
    pub(super) fn is_secure(&self) -> bool {
        matches!(self, Self::Secure(_))
    }

    /// Whether the endpoint chose HTTP/2 in its handshake.
    pub(super) fn chose_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(stream) => is_http2(stream.get_ref().1.alpn_protocol()),
        }
    }

    pub(super) fn into_halves(self) -> (Reader, Writer) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.into_split();
                (Reader::Plain(read), Writer::Plain(write))
            }
            Self::Secure(stream) => {
                let (read, write) = tokio::io::split(stream);
                (Reader::Secure(read), Writer::Secure(write))
            }
        }
    }

    /// The stream that these are halves of.
    pub(super) fn of_halves(read: Reader, write: Writer) -> Option<Self> {
        match (read, write) {
            (Reader::Plain(read), Writer::Plain(write)) => read.reunite(write).ok().map(Self::Plain),
            (Reader::Secure(read), Writer::Secure(write)) => {
                read.is_pair_of(&write).then(|| Self::Secure(read.unsplit(write)))
            }
            (Reader::Plain(_), Writer::Secure(_)) | (Reader::Secure(_), Writer::Plain(_)) => None,
        }
    }
}

impl Reader {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(read) => Pin::new(read).poll_read(cx, buf),
            Self::Secure(read) => Pin::new(read).poll_read(cx, buf),
        }
    }

    /// Reads into a buffer's spare room.
    pub(super) fn poll_read_buf(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(read) => poll_read_buf(Pin::new(read), cx, buf),
            Self::Secure(read) => poll_read_buf(Pin::new(read), cx, buf),
        }
    }
}

impl Writer {
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(write) => Pin::new(write).poll_write(cx, data),
            Self::Secure(write) => Pin::new(write).poll_write(cx, data),
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(write) => Pin::new(write).poll_write_vectored(cx, data),
            Self::Secure(write) => Pin::new(write).poll_write_vectored(cx, data),
        }
    }

    /// Sends what TLS has taken and not sent.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Secure(write) => Pin::new(write).poll_flush(cx),
        }
    }

    /// Lets go of it without closing it.
    pub(super) fn forget(self) {
        match self {
            Self::Plain(write) => write.forget(),
            Self::Secure(_) => {}
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Secure(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
