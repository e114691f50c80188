//! Defines what an HTTP/2 client may cost without asking for anything: its frames are counted by kind.
//!
//! PING, SETTINGS, PRIORITY, RST_STREAM, WINDOW_UPDATE, CONTINUATION and empty DATA frames take work and no memory, so
//! that no limit of the protocol ends a flood of them. Honest clients send a few, and more as they are sent more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;

/// Free frames: from the start, for each second, and one for so many bytes that the client was sent.
const AT_ONCE: u64 = 2_000;
const PER_SECOND: u64 = 50;
const BYTES_SENT: u64 = 512;

/// Length, type, flags, stream (RFC 9113, 4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// The stream of a client that speaks HTTP/2, which ends when it sends too many frames of no use.
#[derive(Debug)]
pub(super) struct Meter<I> {
    io: I,
    reading: Reading,
    idle_frames: u64,
    sent: u64,
    began: u32,
    /// Seconds of the worker.
    clock: Arc<AtomicU32>,
}

/// Where in the client's bytes the meter is.
#[derive(Debug)]
struct Reading {
    /// Bytes to be passed over before the next head.
    ahead: usize,
    head: [u8; HEAD],
    filled: usize,
}

impl Reading {
    /// Looks at what came; how many frames of no use begin in it.
    fn take(&mut self, mut bytes: &[u8]) -> u64 {
        let mut idle = 0;
        while !bytes.is_empty() {
            let passed = self.ahead.min(bytes.len());
            self.ahead -= passed;
            bytes = &bytes[passed..];
            let more = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + more].copy_from_slice(&bytes[..more]);
            self.filled += more;
            bytes = &bytes[more..];
            if self.filled == HEAD {
                let [high, middle, low, kind, ..] = self.head;
                self.ahead = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.filled = 0;
                let useful = kind == HEADERS || kind == DATA && self.ahead > 0;
                idle += u64::from(!useful);
            }
        }
        idle
    }
}

impl<I> Meter<I> {
    pub(super) fn new(io: I, clock: &Arc<AtomicU32>) -> Self {
        let reading = Reading { ahead: PREFACE.len(), head: [0; HEAD], filled: 0 };
        let began = clock.load(Relaxed);
        Self { io, reading, idle_frames: 0, sent: 0, began, clock: Arc::clone(clock) }
    }

    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.idle_frames += self.reading.take(bytes);
        let seconds = self.clock.load(Relaxed).saturating_sub(self.began);
        let free = AT_ONCE + PER_SECOND * u64::from(seconds) + self.sent / BYTES_SENT;
        if self.idle_frames > free { Err(io::Error::other("a flood of HTTP/2 frames of no use")) } else { Ok(()) }
    }

    fn went(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = written {
            self.sent += length as u64;
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Meter<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => Poll::Ready(this.came(&buf.filled()[before..])),
            other => other,
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Meter<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.went(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.went(written)
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
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        // As a head would look like.
        frame.extend(std::iter::repeat_n(0, length));
        frame
    }

    proptest! {
        /// However the bytes come, frames are told apart.
        #[test]
        fn frames_are_counted_by_kind(
            frames in proptest::collection::vec((0u8..12, prop_oneof![Just(0usize), 1..300usize]), 0..20),
            cuts in proptest::collection::vec(1usize..40, 1..20),
        ) {
            let mut bytes = PREFACE.to_vec();
            frames.iter().for_each(|(kind, length)| bytes.extend(frame(*kind, *length)));
            let useful = |(kind, length): &&(u8, usize)| *kind == 1 || *kind == 0 && *length > 0;
            let idle = frames.len() - frames.iter().filter(useful).count();
            let mut meter = Meter::new((), &Arc::default());
            let (mut counted, mut rest) = (0, bytes.as_slice());
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                counted += meter.reading.take(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(counted, idle as u64);
        }
    }

    #[test]
    fn a_flood_ends_and_what_is_earned_does_not() {
        let clock = Arc::new(AtomicU32::new(7));
        let mut meter = Meter::new((), &clock);
        meter.came(PREFACE).unwrap();
        let (ping, request) = (frame(6, 8), frame(1, 30));
        for _ in 0..AT_ONCE {
            meter.came(&ping).unwrap();
            meter.came(&request).unwrap();
        }
        meter.came(&ping).unwrap_err();
        clock.store(8, Relaxed);
        for _ in 1..PER_SECOND {
            meter.came(&ping).unwrap();
        }
        meter.came(&ping).unwrap_err();
        assert!(matches!(meter.went(Poll::Ready(Ok(1 << 20))), Poll::Ready(Ok(_))));
        (0..2_000).for_each(|_| meter.came(&ping).unwrap());
    }
}
