//! Defines the body of a request or response on its way through the gateway: streamed, counted, timed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::flow::{BodyFailure, Flow};
use super::protected;
use super::replay::{MOST_REPLAYED, Replay};

/// A body.
#[derive(Debug, Default)]
pub enum Body<S = Incoming> {
    /// Nothing.
    #[default]
    Empty,
    /// One piece.
    Full(Bytes),
    /// What a client or an endpoint sends, as it comes.
    Stream(Box<Stream<S>>),
}

/// Where a body comes from.
pub trait Source {
    /// What it means when the source pauses for too long.
    const TOO_SLOW: BodyFailure;

    /// The next part, or what it means that there is none.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>>;

    /// Whether nothing more is to come.
    fn is_end_stream(&self) -> bool;

    /// How many bytes are to come.
    fn size_hint(&self) -> SizeHint;
}

/// A body as it comes from a connection.
#[derive(Debug)]
pub struct Stream<S> {
    source: S,
    flow: Rc<Flow>,
    bounds: Bounds,
    timer: Option<Pin<Box<Sleep>>>,
    /// When an overdue wait is checked again: see [`LATE`].
    second_look: Option<Instant>,
    /// Since when the next piece is waited for, where there is a least rate.
    waits_since: Option<Instant>,
    /// Time that the source took and has not made up for by what it sent.
    owed: Duration,
    /// For a body that may be sent again.
    replay: Option<Box<Replay>>,
}

/// What a streamed body is held to.
#[derive(Debug)]
pub struct Bounds {
    /// Most bytes let through.
    pub limit: u64,
    /// Longest pause between pieces.
    pub pause: Duration,
    /// Bytes that make up for a second of waiting: without them the next pause has to be shorter. 0: pauses are not added
    /// up.
    pub min_rate: u32,
    /// The other direction, where what moves there counts, too: of calls whose sides speak in turns.
    pub beside: Option<Rc<Flow>>,
    /// The end of the whole exchange.
    pub deadline: Option<Instant>,
    /// Whether a request body is held back until the endpoint asks for it (`Expect: 100-continue`), or a second has
    /// passed (RFC 9110, 10.1.1: a client does not wait for ever, and so do we for it).
    pub held_back: bool,
    /// Headers that no trailer may be taken for.
    pub guarded: Box<[HeaderName]>,
}

/// The failure of a body, as hyper sees it; what it means is in the [`Flow`].
#[derive(Debug, thiserror::Error)]
#[error("the body ended too soon: {failure:?}")]
pub struct BodyError {
    failure: BodyFailure,
    /// What hyper resets the client's stream with, where that is of HTTP/2.
    #[source]
    reset: Option<h2::Error>,
}

impl BodyError {
    /// A body that ended for this.
    pub fn new(failure: BodyFailure) -> Self {
        let reset = match failure {
            BodyFailure::EndpointReset(code) => Some(h2::Reason::from(code)),
            // A client of gRPC whose own time is over, too, reads it as that.
            BodyFailure::Overdue | BodyFailure::EndpointSlow | BodyFailure::TooSlow => Some(h2::Reason::CANCEL),
            // gRPC reads it as RESOURCE_EXHAUSTED.
            BodyFailure::TooLarge => Some(h2::Reason::ENHANCE_YOUR_CALM),
            BodyFailure::Malformed | BodyFailure::ClientGone | BodyFailure::EndpointGone => None,
        };
        // The others would tell of the client's own stream what is not so: that nothing was begun, or all is well.
        let told = [h2::Reason::CANCEL, h2::Reason::INTERNAL_ERROR, h2::Reason::ENHANCE_YOUR_CALM];
        Self { failure, reset: reset.filter(|reason| told.contains(reason)).map(h2::Error::from) }
    }

    /// Why the body ended.
    pub fn failure(&self) -> BodyFailure {
        self.failure
    }

    /// What ends the answer to a malformed request of HTTP/2: it resets the stream (RFC 9113, 8.1.1).
    pub fn malformed_request() -> Self {
        Self { failure: BodyFailure::Malformed, reset: Some(h2::Reason::PROTOCOL_ERROR.into()) }
    }

    /// What went wrong with a body that a library made of one of these.
    pub fn within(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        let wrapped = match error.downcast::<Self>() {
            Ok(own) => return *own,
            Err(other) => other,
        };
        // A codec hands on what its reader said as an I/O error.
        match wrapped.downcast::<std::io::Error>().map(|error| error.downcast::<Self>()) {
            Ok(Ok(own)) => own,
            Ok(Err(_)) | Err(_) => Self::new(BodyFailure::EndpointGone),
        }
    }
}

/// How long a body is held back for a 100.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A timer that fires later than this means that the process was suspended. What arrived meanwhile is not read yet,
/// so the wait is checked again after [`SECOND_LOOK`] before it counts as timed out.
const LATE: Duration = Duration::from_secs(1);
const SECOND_LOOK: Duration = Duration::from_millis(100);

impl<S: Source> Body<S> {
    /// A body from a connection; how it fares shows in `flow`, which is complete at once when there is none.
    pub fn stream(source: S, flow: Rc<Flow>, bounds: Bounds) -> Self {
        if source.is_end_stream() {
            flow.complete();
            return Self::Empty;
        }
        Self::Stream(Box::new(Stream {
            source,
            flow,
            bounds,
            timer: None,
            second_look: None,
            waits_since: None,
            owed: Duration::ZERO,
            replay: None,
        }))
    }

    /// The source, wherever it stands.
    pub fn into_source(self) -> Option<S> {
        match self {
            Self::Stream(stream) => Some(stream.source),
            Self::Empty | Self::Full(_) => None,
        }
    }

    /// Lets a body pass that was held back.
    pub fn proceed(&mut self) {
        if let Self::Stream(stream) = self
            && stream.bounds.held_back
        {
            stream.bounds.held_back = false;
            stream.flow.moved(0);
        }
    }

    /// Lets its source take its time: pauses are added up no more.
    pub fn unhurried(mut self) -> Self {
        if let Self::Stream(stream) = &mut self {
            (stream.bounds.min_rate, stream.owed) = (0, Duration::ZERO);
        }
        self
    }

    /// Keeps a copy of what passes, so that all of it can be sent again. Nothing may have passed yet; a body that is
    /// known to be too large is not copied.
    pub fn keep_copy(&mut self) {
        if let Self::Stream(stream) = self
            && stream.source.size_hint().lower() <= MOST_REPLAYED
        {
            stream.replay = Some(Box::new(Replay::copying()));
        }
    }

    /// Whether all of it can still be sent: nothing has passed, or there is a copy of what has.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Empty | Self::Full(_) => true,
            Self::Stream(stream) => match &stream.replay {
                Some(replay) if replay.is_whole() => true,
                Some(_) | None => stream.is_untouched(),
            },
        }
    }

    /// Goes back to its beginning; false when that is gone.
    pub fn rewind(&mut self) -> bool {
        match self {
            Self::Empty | Self::Full(_) => true,
            Self::Stream(stream) => match &mut stream.replay {
                Some(replay) if replay.is_whole() => replay.rewind(),
                Some(_) | None => stream.is_untouched(),
            },
        }
    }

    /// Puts back what was taken last and not sent.
    pub fn put_back(&mut self, data: Bytes, trailers: Option<HeaderMap>) {
        match self {
            Self::Empty | Self::Full(_) => *self = if data.is_empty() { Self::Empty } else { Self::Full(data) },
            Self::Stream(stream) => stream.replay.get_or_insert_default().put_back(data, trailers),
        }
    }

    /// Whether it is held back.
    pub fn is_held_back(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.bounds.held_back)
    }
}

impl<S: Source> Stream<S> {
    /// Whether nothing has passed.
    fn is_untouched(&self) -> bool {
        self.flow.bytes() == 0 && !self.flow.is_complete()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.source.size_hint();
        let before = self.replay.as_ref().map_or(0, |replay| replay.len());
        if before > 0 {
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper + before);
            }
            hint.set_lower(hint.lower() + before);
        }
        hint
    }

    fn fail(&self, failure: BodyFailure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.flow.fail(failure);
        Poll::Ready(Some(Err(BodyError::new(failure))))
    }

    /// Waits until `at`; true when it has come.
    fn poll_time(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let at = self.second_look.map_or(at, |second| second.max(at));
        let timer_at = tokio::time::Instant::from_std(at);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(timer_at)));
        if timer.deadline() != timer_at {
            timer.as_mut().reset(timer_at);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        if self.second_look.is_none() && at.elapsed() > LATE {
            self.second_look = Some(Instant::now() + SECOND_LOOK);
            return self.poll_time(at, cx);
        }
        true
    }

    fn poll_held_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.bounds.held_back {
            if !self.poll_time(self.flow.waits_since() + CONTINUE_WAIT, cx) {
                return Poll::Pending;
            }
            self.bounds.held_back = false;
            self.flow.moved(0);
        }
        Poll::Ready(())
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.bounds.min_rate > 0 && self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
        }
        let beside = self.bounds.beside.as_ref().filter(|flow| flow.is_open()).map(|flow| flow.waits_since());
        let waits_since = self.flow.waits_since();
        let pause = self.bounds.pause.saturating_sub(self.owed);
        let pause_ends = beside.map_or(waits_since, |beside| beside.max(waits_since)) + pause;
        let at = self.bounds.deadline.map_or(pause_ends, |deadline| deadline.min(pause_ends));
        if !self.poll_time(at, cx) {
            return Poll::Pending;
        }
        self.fail(if at == pause_ends { S::TOO_SLOW } else { BodyFailure::Overdue })
    }

    /// So many bytes came, after a wait perhaps.
    fn came(&mut self, bytes: usize) {
        self.second_look = None;
        if let Some(since) = self.waits_since.take() {
            self.owed += since.elapsed();
        }
        if !self.owed.is_zero() {
            let made_up_for = bytes as f64 / f64::from(self.bounds.min_rate);
            self.owed = self.owed.saturating_sub(Duration::try_from_secs_f64(made_up_for).unwrap_or(Duration::MAX));
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        ready!(self.poll_held_back(cx));
        if let Some(frame) = self.replay.as_mut().and_then(|replay| replay.next()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = match self.source.poll_frame(cx) {
            Poll::Pending => return self.poll_pause(cx),
            Poll::Ready(frame) => frame,
        };
        match frame {
            None => {
                self.flow.complete();
                Poll::Ready(None)
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    self.bounds.guarded.iter().for_each(|name| protected::remove(trailers, name));
                }
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.flow.moved(length);
                self.came(length);
                if self.flow.bytes() > self.bounds.limit {
                    return self.fail(BodyFailure::TooLarge);
                }
                // The last piece of a body of known length is its end: nobody polls again.
                if frame.is_trailers() || self.source.is_end_stream() {
                    self.flow.complete();
                }
                if let Some(replay) = &mut self.replay {
                    replay.passes(&frame);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(failure)) => self.fail(failure),
        }
    }
}

/// The client's request body.
impl Source for Incoming {
    const TOO_SLOW: BodyFailure = BodyFailure::TooSlow;

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        http_body::Body::poll_frame(Pin::new(self), cx).map_err(|error| {
            let gone = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
            if gone || is_disconnect(&error) { BodyFailure::ClientGone } else { BodyFailure::Malformed }
        })
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(self)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(self)
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

impl<S: Source + Unpin> http_body::Body for Body<S> {
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
            Self::Stream(stream) => {
                stream.replay.as_ref().is_none_or(|replay| replay.is_over()) && stream.source.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}
