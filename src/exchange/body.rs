//! Defines the body of a request or response on its way through the gateway: streamed, counted, timed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::flow::{BodyFailure, Flow};

/// A body.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// One piece.
    Full(Bytes),
    /// What a client or an endpoint sends, as it comes.
    Stream(Box<Stream>),
}

/// A body as it comes from a connection.
#[derive(Debug)]
pub struct Stream {
    incoming: Incoming,
    flow: Rc<Flow>,
    side: Side,
    /// Most bytes let through.
    limit: u64,
    /// Longest pause between pieces.
    pause: Duration,
    /// The end of the whole exchange.
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    gate: Option<Arc<ContinueGate>>,
}

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's request body.
    Client,
    /// The endpoint's response body.
    Endpoint,
}

/// The failure of a body, as hyper sees it; what it means is in the [`Flow`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body ended too soon: {0:?}")]
pub struct BodyError(pub BodyFailure);

impl Body {
    /// A body from a connection; how it fares shows in `flow`, which is complete at once when there is none.
    pub fn stream(incoming: Incoming, side: Side, flow: Rc<Flow>, bounds: Bounds) -> Self {
        if http_body::Body::is_end_stream(&incoming) {
            flow.complete();
            return Self::Empty;
        }
        let Bounds { limit, pause, deadline, gate } = bounds;
        Self::Stream(Box::new(Stream { incoming, flow, side, limit, pause, deadline, timer: None, gate }))
    }
}

/// What a streamed body is held to.
#[derive(Debug)]
pub struct Bounds {
    /// Most bytes let through.
    pub limit: u64,
    /// Longest pause between pieces.
    pub pause: Duration,
    /// The end of the whole exchange.
    pub deadline: Option<Instant>,
    /// Holds a request body back until the endpoint asks for it.
    pub gate: Option<Arc<ContinueGate>>,
}

/// Holds the body of a request with `Expect: 100-continue` back, until the endpoint answers 100 or a second
/// has passed (RFC 9110, 10.1.1: a client does not wait for ever, and so do we for it).
#[derive(Debug, Default)]
pub struct ContinueGate {
    open: AtomicBool,
    waker: AtomicWaker,
}

/// How long a body waits for a 100.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

impl ContinueGate {
    /// Lets the body pass.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll_open(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.open.load(Ordering::Acquire)
    }
}

impl Stream {
    fn fail(&self, failure: BodyFailure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.flow.fail(failure);
        Poll::Ready(Some(Err(BodyError(failure))))
    }

    /// Waits until `at`; true when it has come.
    fn poll_time(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let at = tokio::time::Instant::from_std(at);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx).is_ready()
    }

    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(gate) = &self.gate else { return Poll::Ready(()) };
        if !gate.poll_open(cx) && !self.poll_time(self.flow.waits_since() + CONTINUE_WAIT, cx) {
            return Poll::Pending;
        }
        self.gate = None;
        self.flow.moved(0);
        Poll::Ready(())
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let pause_ends = self.flow.waits_since() + self.pause;
        let at = self.deadline.map_or(pause_ends, |deadline| deadline.min(pause_ends));
        if !self.poll_time(at, cx) {
            return Poll::Pending;
        }
        self.fail(match self.side {
            Side::Client if at == pause_ends => BodyFailure::TooSlow,
            Side::Client | Side::Endpoint => BodyFailure::EndpointSlow,
        })
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        ready!(self.poll_gate(cx));
        let frame = match http_body::Body::poll_frame(Pin::new(&mut self.incoming), cx) {
            Poll::Pending => return self.poll_pause(cx),
            Poll::Ready(frame) => frame,
        };
        match frame {
            None => {
                self.flow.complete();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.flow.moved(length);
                if self.flow.bytes() > self.limit {
                    return self.fail(BodyFailure::TooLarge);
                }
                // The last piece of a body of known length is its end: nobody polls again.
                if frame.is_trailers() || http_body::Body::is_end_stream(&self.incoming) {
                    self.flow.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => self.fail(match self.side {
                Side::Endpoint => BodyFailure::EndpointGone,
                Side::Client if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
                    BodyFailure::ClientGone
                }
                Side::Client if is_disconnect(&error) => BodyFailure::ClientGone,
                Side::Client => BodyFailure::Malformed,
            }),
        }
    }
}

/// Whether a body error is the connection's end rather than bad framing: hyper reports both as body errors.
fn is_disconnect(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
        }
        source = cause.source();
    }
    false
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}
