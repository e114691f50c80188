//! Defines an exchange on a connection that carries many: a stream of HTTP/2, polled by the exchange that has it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{Request, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

use super::super::http1::Head;
use super::super::upload::Upload;
use super::sending::{SendError, Sending};
use super::trunk::Trunk;
use crate::exchange::{Body, BodyFailure};

/// A stream of HTTP/2. Dropped before its end, it is reset, so that the endpoint works no further for nobody.
#[derive(Debug)]
pub(in super::super) struct Strand {
    trunk: Rc<Trunk>,
    response: ResponseFuture,
    /// `None`: the upload went on without the exchange.
    sending: Option<Sending>,
    body: Option<RecvStream>,
    /// How much of the response's body is to come, where that was said.
    length: Option<u64>,
    /// Ends the upload that goes on beside the response when this goes.
    upload: Option<oneshot::Sender<()>>,
}

/// Why a strand gave no response.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Cut {
    /// Nothing of the request was sent.
    #[error("closed before anything was sent")]
    Unsent,
    /// It is none that HTTP/2 can carry.
    #[error("HTTP/2 cannot carry the request")]
    Unfit,
    /// The endpoint says that it has not begun with it, and will not.
    #[error("the endpoint refused the stream")]
    Refused,
    /// The same, of all streams from here on: it wants no more on this connection.
    #[error("the endpoint left the connection before it began with the stream")]
    Left,
    /// The request's body failed; why is in its flow.
    #[error("the request's body failed")]
    RequestBody,
    #[error("the endpoint reset the stream: {0}")]
    Reset(Reason),
    #[error("the connection ended: {0}")]
    Closed(h2::Error),
    #[error("the endpoint broke HTTP/2: {0}")]
    Protocol(Reason),
}

impl Cut {
    fn of(error: h2::Error) -> Self {
        match error.reason() {
            // Streams that the endpoint has taken end with their connection, and not by its farewell.
            Some(_) if error.is_go_away() && error.is_remote() => Self::Left,
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Self::Refused,
            Some(reason) if error.is_remote() => Self::Reset(reason),
            Some(reason) => Self::Protocol(reason),
            None => Self::Closed(error),
        }
    }
}

impl Strand {
    /// Begins an exchange with the head of its request; `bare`: there is no body.
    ///
    /// # Errors
    /// The connection takes no more.
    pub(super) fn begin(trunk: &Rc<Trunk>, head: Request<()>, bare: bool) -> Result<Self, Cut> {
        let (response, stream) = trunk.request(head, bare).map_err(|error| {
            // Where the connection takes no more, whatever the reason, nothing was sent.
            if error.is_io() || error.is_go_away() { Cut::Unsent } else { Cut::Unfit }
        })?;
        trunk.enter();
        let sending = Some(Sending::new(stream, bare));
        Ok(Self { trunk: Rc::clone(trunk), response, sending, body: None, length: None, upload: None })
    }

    /// Sends the request, and waits for the head of its response. The response may come before the request is sent:
    /// [`Strand::upload`] sends the rest.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn poll_response(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<Head, Cut>> {
        self.poll_send(body, cx)?;
        while let Some(interim) = ready!(self.response.poll_informational(cx)) {
            // The others say nothing that hyper could pass on.
            if interim.map_err(Cut::of)?.status() == StatusCode::CONTINUE {
                body.proceed();
                self.poll_send(body, cx)?;
            }
        }
        let (head, body) = ready!(Pin::new(&mut self.response).poll(cx)).map_err(Cut::of)?.into_parts();
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        (self.length, self.body) = (length, Some(body));
        Poll::Ready(Ok(Head::multiplexed(http::Response::from_parts(head, ()))))
    }

    /// Who the rest of the request waits for.
    pub(super) fn upload_state(&self) -> Upload {
        self.sending.as_ref().map_or(Upload::Sent, Sending::upload_state)
    }

    fn poll_send(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Result<(), Cut> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        match sending.poll(body, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(SendError::Body)) => Err(Cut::RequestBody),
            // An endpoint that takes no more may have answered why.
            Poll::Ready(Err(SendError::Refused)) => Ok(()),
        }
    }

    /// The rest of a request whose response came before it was sent; to be run beside the response, with which it ends.
    /// `None` when it is sent, or nobody asked for it.
    pub(in super::super) fn upload(&mut self, mut body: Body) -> Option<impl Future<Output = ()> + use<>> {
        if body.is_held_back() || self.sending.as_ref().is_none_or(Sending::is_over) {
            return None;
        }
        let mut sending = self.sending.take()?;
        let (upload, mut ended) = oneshot::channel();
        self.upload = Some(upload);
        Some(poll_fn(move |cx| {
            if let Poll::Ready(ended) = Pin::new(&mut ended).poll(cx) {
                if ended.is_ok() {
                    sending.end_early();
                }
                return Poll::Ready(());
            }
            sending.poll(&mut body, cx).map(|_| ())
        }))
    }

    /// The next part of the response's body.
    pub(in super::super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        while let Some(data) = ready!(body.poll_data(cx)) {
            let data = data.map_err(|error| cut_off(&error))?;
            // The endpoint may send as much again: who asks for more has room for it.
            let _ = body.flow_control().release_capacity(data.len());
            self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
        let trailers = ready!(body.poll_trailers(cx)).map_err(|error| cut_off(&error))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// Whether nothing more of the response's body is to come.
    pub(in super::super) fn has_ended(&self) -> bool {
        self.body.as_ref().is_some_and(RecvStream::is_end_stream)
    }

    /// How much of the response's body is to come.
    pub(in super::super) fn size_hint(&self) -> SizeHint {
        match self.length {
            _ if self.has_ended() => SizeHint::with_exact(0),
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Strand {
    fn drop(&mut self) {
        if self.has_ended()
            && let Some(upload) = self.upload.take()
        {
            // It may be over already.
            let _ = upload.send(());
        }
        self.trunk.leave();
    }
}

/// Why a response's body ended too soon.
fn cut_off(error: &h2::Error) -> BodyFailure {
    tracing::debug!("a response's body was cut off: {error}");
    match error.reason() {
        Some(reason) if error.is_remote() => BodyFailure::EndpointReset(reason.into()),
        Some(_) | None => BodyFailure::EndpointGone,
    }
}
