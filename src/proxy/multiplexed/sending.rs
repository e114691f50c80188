//! Defines a request's body on its way down a strand, as far as the endpoint takes it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body as _;

use super::super::headers::may_trail;
use super::super::upload::Upload;
use crate::exchange::Body;

/// A body that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    stream: SendStream<Bytes>,
    /// Taken of the body and not sent.
    piece: Bytes,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// All is sent.
    Over,
    Failed,
}

/// Why a body could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// It failed itself.
    Body,
    /// The endpoint takes no more.
    Refused,
}

impl Sending {
    /// `over`: there is no body.
    pub(super) fn new(stream: SendStream<Bytes>, over: bool) -> Self {
        let state = if over { State::Over } else { State::Open };
        Self { stream, piece: Bytes::new(), state }
    }

    /// Whether the whole request is sent.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Who the rest of it waits for.
    pub(super) fn upload_state(&self) -> Upload {
        match self.state {
            State::Over | State::Failed => Upload::Sent,
            State::Open if self.piece.is_empty() => Upload::WaitsForClient,
            State::Open => Upload::WaitsForEndpoint,
        }
    }

    /// Sends until all is sent, or nothing more can be now.
    pub(super) fn poll(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        match self.state {
            State::Open => {}
            State::Over => return Poll::Ready(Ok(())),
            State::Failed => return Poll::Ready(Err(SendError::Refused)),
        }
        let sent = ready!(self.poll_body(body, cx));
        self.state = if sent.is_ok() { State::Over } else { State::Failed };
        if sent == Err(SendError::Body) {
            self.stream.send_reset(Reason::CANCEL);
        }
        Poll::Ready(sent)
    }

    fn poll_body(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            if !self.piece.is_empty() {
                let room = ready!(self.poll_room(cx))?;
                let part = self.piece.split_to(room.min(self.piece.len()));
                let last = self.piece.is_empty() && body.is_end_stream();
                self.stream.send_data(part, last).map_err(|_| SendError::Refused)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let frame = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                // Who waits for the client is told when the endpoint wants no more of it.
                Poll::Pending => match self.stream.poll_reset(cx) {
                    Poll::Ready(_) => return Poll::Ready(Err(SendError::Refused)),
                    Poll::Pending => return Poll::Pending,
                },
            };
            let ended = match frame {
                Some(Err(_)) => return Poll::Ready(Err(SendError::Body)),
                None => self.stream.send_data(Bytes::new(), true),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.piece = data;
                        continue;
                    }
                    Err(frame) => self.stream.send_trailers(trailers(frame.into_trailers().unwrap_or_default())),
                },
            };
            return Poll::Ready(ended.map_err(|_| SendError::Refused));
        }
    }

    /// How much of the piece the endpoint, and what is to be sent to it already, have room for.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, SendError>> {
        self.stream.reserve_capacity(self.piece.len());
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(SendError::Refused)),
            }
        }
        Poll::Ready(Ok(self.stream.capacity()))
    }

    /// Ends it before its end, when the whole response is there and nobody wants more of the request (RFC 9113, 8.1).
    pub(super) fn end_early(&mut self) {
        if self.state == State::Open {
            self.stream.send_reset(Reason::NO_ERROR);
        }
    }
}

fn trailers(came: HeaderMap) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(came.len());
    for (name, value) in came.iter().filter(|(name, _)| may_trail(name)) {
        trailers.append(name, value.clone());
    }
    trailers
}
