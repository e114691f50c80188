//! Defines a connection to an endpoint as a stream of exchanges: one request written, one response read, and again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::io::ReadBuf;

use super::super::outbound::Outbound;
use super::super::stream::{Reader, Stream, Writer};
use super::super::upload::Upload;
use super::decoder::{BadBody, Decoded, Decoder};
use super::head::{self, BadHead, Field, Head};
use super::sending::{SendError, Sending};
use crate::exchange::Body;
use crate::telemetry::descriptors::{ClientShare, UpstreamHold};

/// A connection to an endpoint. It does nothing on its own: whoever holds it polls it.
#[derive(Debug)]
pub(in super::super) struct Link {
    read: Reader,
    /// `None` when an upload went on without the exchange.
    write: Option<Writer>,
    sending: Sending,
    /// What came and is not decoded.
    buffer: BytesMut,
    fields: Vec<Field>,
    /// What is to come of the response's body.
    body: Decoder,
    /// Parts of it that came with its head, in order.
    ahead: VecDeque<Decoded>,
    /// The body that comes with the head is not looked at.
    head_suffices: bool,
    /// Responses that came before the one that is waited for.
    informational: u32,
    /// Can carry another exchange when this one is over.
    persists: bool,
    /// Room for the next read, in bytes.
    room: usize,
    /// Its descriptor.
    hold: Option<UpstreamHold>,
}

/// Why an exchange gave no response.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Broken {
    /// Nothing of the request was sent.
    #[error("closed before anything was sent")]
    Unsent,
    /// The request's body failed; why is in its flow.
    #[error("the request's body failed")]
    RequestBody,
    #[error("closed before the response's head was complete")]
    Closed,
    #[error(transparent)]
    Io(io::Error),
    #[error(transparent)]
    Protocol(#[from] BadHead),
    /// The body that came with the head broke HTTP.
    #[error(transparent)]
    Body(#[from] BadBody),
    #[error("closed before the end of a body that came with its head")]
    CutOff,
}

/// Why a response's body ended too soon.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum CutOff {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] BadBody),
}

/// Room for a first read: a small response comes in one.
const LEAST_ROOM: usize = 8 * 1024;

/// Room for a read of a body that comes faster than it is read.
const MOST_ROOM: usize = 128 * 1024;

/// Most responses of 100 to 199 before the one that counts.
const MOST_INFORMATIONAL: u32 = 100;

/// Room for parts of a body that is kept between exchanges.
const KEPT_AHEAD: usize = 8;

/// Parts of a body that nobody wants which are read nevertheless, to keep the connection.
const MOST_SKIPPED: usize = 8;

impl Link {
    pub(in super::super) fn new(stream: Stream) -> Self {
        let (read, write) = stream.into_halves();
        Self {
            read,
            write: Some(write),
            sending: Sending::default(),
            buffer: BytesMut::new(),
            fields: Vec::new(),
            body: Decoder::Ended,
            ahead: VecDeque::new(),
            head_suffices: false,
            informational: 0,
            persists: true,
            room: LEAST_ROOM,
            hold: None,
        }
    }

    /// With this descriptor.
    pub(in super::super) fn holding(self, hold: UpstreamHold) -> Self {
        Self { hold: Some(hold), ..self }
    }

    /// Whether a client may have it; it is counted for that one then.
    pub(in super::super) fn is_counted_for(&mut self, client: Option<&Arc<ClientShare>>) -> bool {
        self.hold.as_mut().is_none_or(|hold| hold.moves_to(client))
    }

    /// Whether so few descriptors are left that it should not keep one while it is idle.
    pub(in super::super) fn is_short_of_descriptors(&self) -> bool {
        self.hold.as_ref().is_some_and(UpstreamHold::is_short)
    }

    /// Its descriptor, for who goes on with its stream.
    pub(in super::super) fn release(&mut self) -> Option<UpstreamHold> {
        self.hold.take()
    }

    /// Begins an exchange. `head_suffices`: whether the body that comes with the head is whole is no matter.
    pub(in super::super) fn begin(&mut self, outbound: &Outbound, head_suffices: bool) {
        self.sending.begin(outbound);
        self.head_suffices = head_suffices;
        (self.body, self.informational) = (Decoder::Ended, 0);
        self.ahead.clear();
    }

    /// Sends the request begun, and waits for the head of its response. The response may come before the request is
    /// sent: [`Link::upload`] sends the rest.
    ///
    /// # Errors
    /// When there is none, or one that breaks HTTP. The connection is of no use then; the request is as it was when
    /// nothing of it was sent.
    pub(in super::super) fn poll_response(
        &mut self,
        outbound: &mut Outbound,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Broken>> {
        let request = &mut outbound.request;
        self.poll_send(request.body_mut(), cx)?;
        loop {
            if !self.buffer.is_empty()
                && let Some(head) = head::parse(&mut self.buffer, request.method(), &mut self.fields)?
            {
                self.informational += 1;
                if self.informational > MOST_INFORMATIONAL && head.response.status().is_informational() {
                    return Poll::Ready(Err(BadHead::TOO_MANY.into()));
                }
                match head.response.status() {
                    StatusCode::CONTINUE => {
                        request.body_mut().proceed();
                        self.poll_send(request.body_mut(), cx)?;
                    }
                    // The others say nothing that HTTP/1.1 has to pass on through hyper.
                    status if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS => {}
                    _ => {
                        self.body = head.body;
                        self.persists = head.persists && self.sending.is_over();
                        if !self.head_suffices {
                            self.look_ahead(cx)?;
                        }
                        return Poll::Ready(Ok(head));
                    }
                }
                continue;
            }
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) if self.sending.is_unsent() => {
                    self.sending.put_back(request.body_mut());
                    return Poll::Ready(Err(Broken::Unsent));
                }
                Ok(0) => return Poll::Ready(Err(Broken::Closed)),
                Err(error) => return Poll::Ready(Err(Broken::Io(error))),
            }
        }
    }

    /// Looks whether the body that came with a head is broken already: then there is an answer to be given instead.
    ///
    /// # Errors
    /// It is.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let mut may_read = true;
        loop {
            match self.body {
                Decoder::Ended | Decoder::UntilClose => return Ok(()),
                Decoder::Length(length) if self.buffer.len() as u64 >= length => return Ok(()),
                Decoder::Length(_) => {}
                Decoder::Chunked(_) => loop {
                    match self.body.decode(&mut self.buffer)? {
                        Decoded::Partial => break,
                        Decoded::End => return Ok(()),
                        part @ (Decoded::Data(_) | Decoded::Trailers(_)) => self.ahead.push_back(part),
                    }
                },
            }
            // What follows may be here already, or the end.
            if !std::mem::replace(&mut may_read, false) {
                return Ok(());
            }
            match self.poll_read(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Err(Broken::CutOff),
            }
        }
    }

    /// Who the rest of the request waits for.
    pub(in super::super) fn upload_state(&self) -> Upload {
        self.sending.upload_state()
    }

    /// Sends what can be sent now.
    fn poll_send(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Result<(), Broken> {
        let Some(write) = &mut self.write else { return Ok(()) };
        match self.sending.poll(write, body, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(SendError::Body)) => Err(Broken::RequestBody),
            // An endpoint that takes no more may have answered why.
            Poll::Ready(Err(SendError::Io)) => Ok(()),
        }
    }

    /// The rest of a request whose response came before it was sent; to be run beside the response, and to an end when the
    /// endpoint takes nothing of it for `longest`. `None` when it is sent, or cannot be.
    pub(in super::super) fn upload(
        &mut self,
        mut body: Body,
        longest: Duration,
    ) -> Option<impl Future<Output = ()> + use<>> {
        if self.sending.is_over() || self.sending.has_failed() || body.is_held_back() {
            return None;
        }
        let mut write = self.write.take()?;
        let mut sending = std::mem::take(&mut self.sending);
        Some(async move {
            let mut late = std::pin::pin!(tokio::time::sleep(longest));
            let mut taken_to = None;
            let sent = poll_fn(|cx| {
                if let Poll::Ready(sent) = sending.poll(&mut write, &mut body, cx) {
                    return Poll::Ready(sent.is_ok());
                }
                // The body's own time is the body's affair.
                if taken_to != sending.is_taken_to() || taken_to.is_none() {
                    taken_to = sending.is_taken_to();
                    late.as_mut().reset(tokio::time::Instant::now() + longest);
                }
                late.as_mut().poll(cx).map(|()| false)
            });
            if sent.await {
                // Dropped, it would close this half: to many services a client that is gone.
                write.forget();
            }
        })
    }

    /// The next part of the response's body.
    pub(in super::super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let mut ahead = self.ahead.pop_front();
        loop {
            let decoded = match ahead.take() {
                Some(part) => part,
                None => self.body.decode(&mut self.buffer)?,
            };
            match decoded {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Decoded::End => return Poll::Ready(None),
                Decoded::Partial => {}
            }
            if ready!(self.poll_read(cx))? == 0 {
                self.body.closed()?;
            }
        }
    }

    /// Passes over what has come of a response's body that nobody wants.
    pub(in super::super) fn skip_body(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..MOST_SKIPPED {
            if !matches!(self.poll_body(&mut cx), Poll::Ready(Some(Ok(_)))) {
                return;
            }
        }
    }

    /// Whether nothing more of the response's body is to come.
    pub(in super::super) fn has_ended(&self) -> bool {
        self.body.has_ended() && self.ahead.is_empty()
    }

    /// How much of the response's body is to come.
    pub(in super::super) fn size_hint(&self) -> SizeHint {
        match self.body {
            Decoder::Ended if self.ahead.is_empty() => SizeHint::with_exact(0),
            Decoder::Length(length) => SizeHint::with_exact(length),
            Decoder::Ended | Decoder::Chunked(_) | Decoder::UntilClose => SizeHint::default(),
        }
    }

    /// Whether another exchange can follow the one that is over.
    pub(in super::super) fn persists(&self) -> bool {
        self.persists && self.write.is_some() && self.has_ended() && self.buffer.is_empty()
    }

    /// Lets go of what a large exchange needed and an idle connection does not.
    pub(in super::super) fn rest(&mut self) {
        self.sending.rest();
        self.ahead.shrink_to(KEPT_AHEAD);
        if self.room > LEAST_ROOM {
            self.room = LEAST_ROOM;
            self.buffer = BytesMut::new();
        }
    }

    /// Whether an idle connection is still open, as far as is known: nothing that comes unasked is an answer.
    pub(in super::super) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        self.read.poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// The stream of a connection that switched protocols, and what came of the new one.
    pub(in super::super) fn into_stream(self) -> Option<(Stream, BytesMut)> {
        let stream = Stream::of_halves(self.read, self.write?)?;
        Some((stream, self.buffer))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(self.room);
        let read = ready!(self.read.poll_read_buf(cx, &mut self.buffer))?;
        if read >= self.room && self.room < MOST_ROOM {
            self.room *= 2;
        }
        Poll::Ready(Ok(read))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::sync::Arc;

    use http::{HeaderMap, Request, Response};
    use http_body::Body as _;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::net::TcpStream;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::super::outbound::Added;
    use super::*;
    use crate::exchange::Flow;
    use crate::exchange::body::Bounds;
    use crate::spec::upstream::Protocol;
    use crate::spec::upstream_tls::{Trust, UpstreamTls};

    /// A connection that its other side has reset.
    async fn reset() -> Link {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("to connect");
        let (other, _) = listener.accept().expect("to accept");
        SockRef::from(&other).set_linger(Some(Duration::ZERO)).expect("to linger");
        drop(other);
        stream.readable().await.expect("an event");
        Link::new(Stream::Plain(stream))
    }

    /// A connection over TLS that holds little on its way, and its other side.
    async fn secured() -> (Link, tokio_rustls::server::TlsStream<TcpStream>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        SockRef::from(&listener).set_recv_buffer_size(4096).expect("to set it");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("to connect");
        SockRef::from(&stream).set_send_buffer_size(4096).expect("to set it");
        let (other, _) = listener.accept().await.expect("to accept");
        let shown = rcgen::generate_simple_self_signed(["app".to_owned()]).expect("a certificate");
        let key = shown.signing_key.serialize_der().try_into().expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth();
        let config = config.with_single_cert(vec![shown.cert.der().clone()], key).expect("a pair");
        let tls = UpstreamTls::new(None, Trust::Anybody, None, Protocol::Http1).expect("TLS");
        let connector = TlsConnector::from(Arc::clone(tls.config()));
        let connecting = connector.connect("app".try_into().expect("a name"), stream);
        let (ours, theirs) = tokio::join!(connecting, TlsAcceptor::from(Arc::new(config)).accept(other));
        (Link::new(Stream::Secure(Box::new(ours.expect("a handshake")))), theirs.expect("a handshake"))
    }

    /// What TLS has taken is not sent before the socket has taken it.
    #[tokio::test]
    async fn the_end_of_a_request_does_not_stay_within_tls() {
        let (mut link, mut other) = secured().await;
        let body = Body::Full(Bytes::from(vec![b'x'; 50_000]));
        let request = Request::post("/").body(body).expect("a request");
        let mut outbound = Outbound { request, added: Added::default() };
        link.begin(&outbound, false);
        // Now that nobody reads, TLS takes all and the socket does not.
        let mut cx = Context::from_waker(Waker::noop());
        assert!(link.poll_response(&mut outbound, &mut cx).is_pending());
        let service = async {
            let mut came = Vec::new();
            while came.iter().filter(|byte| **byte == b'x').count() < 50_000 {
                assert!(other.read_buf(&mut came).await.expect("to read") > 0, "the end after {} bytes", came.len());
            }
            other.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("to write");
        };
        let exchange = async { tokio::join!(poll_fn(|cx| link.poll_response(&mut outbound, cx)), service) };
        let (head, ()) = tokio::time::timeout(Duration::from_secs(30), exchange).await.expect("an answer");
        assert_eq!(head.expect("a head").response.status(), StatusCode::NO_CONTENT);
        assert!(link.persists());
    }

    /// An upload that nobody takes any more, since it was answered before, ends.
    #[tokio::test]
    async fn an_answered_upload_that_nobody_takes_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("to connect");
        let (mut other, _) = listener.accept().await.expect("to accept");
        other.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.expect("to write");
        let mut link = Link::new(Stream::Plain(stream));
        let request = Request::post("/").body(Body::Full(Bytes::from(vec![b'x'; 64 << 20]))).expect("a request");
        let mut outbound = Outbound { request, added: Added::default() };
        link.begin(&outbound, false);
        let head = poll_fn(|cx| link.poll_response(&mut outbound, cx)).await.expect("a head");
        assert_eq!(head.response.status(), StatusCode::NOT_FOUND);
        let rest = link.upload(std::mem::take(outbound.request.body_mut()), Duration::from_millis(100));
        let rest = rest.expect("it is not sent");
        tokio::time::timeout(Duration::from_secs(30), rest).await.expect("its end");
    }

    /// A request as it comes from a client, and the client, whose end would cut the body off.
    async fn came(text: &str) -> (Request<Incoming>, DuplexStream) {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
        let service = service_fn(move |request| {
            sender.send(request).expect("a receiver");
            std::future::pending::<Result<Response<String>, Infallible>>()
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service));
        client.write_all(text.as_bytes()).await.expect("to write");
        (requests.recv().await.expect("a request"), client)
    }

    /// What is there of a body.
    async fn all(body: &mut Body) -> (String, Option<HeaderMap>) {
        let (mut data, mut trailers) = (Vec::new(), None);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            match frame.expect("a frame").into_data() {
                Ok(piece) => data.extend_from_slice(&piece),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        (String::from_utf8(data).expect("text"), trailers)
    }

    #[tokio::test]
    async fn a_request_that_was_not_sent_is_as_it_was() {
        let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                       3\r\nall\r\n6\r\n of it\r\n0\r\netag: x\r\n\r\n";
        let plain = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nall of it";
        for (text, length, has_trailers) in [(chunked, None, true), (plain, Some(9), false)] {
            let (request, _client) = came(text).await;
            let (parts, incoming) = request.into_parts();
            let bounds = Bounds {
                limit: 9,
                pause: Duration::from_secs(20),
                min_rate: 0,
                beside: None,
                deadline: None,
                held_back: false,
                guarded: Box::default(),
            };
            let body = Body::stream(incoming, Rc::<Flow>::default(), bounds);
            let mut outbound = Outbound { request: Request::from_parts(parts, body), added: Added::default() };
            for _ in 0..3 {
                let mut link = reset().await;
                link.begin(&outbound, false);
                let sent = poll_fn(|cx| link.poll_response(&mut outbound, cx)).await;
                assert!(matches!(sent, Err(Broken::Unsent)), "{sent:?}");
                assert_eq!(outbound.request.body().size_hint().exact(), length);
                assert!(!outbound.request.body().is_end_stream());
            }
            let (data, trailers) = all(outbound.request.body_mut()).await;
            assert_eq!((data.as_str(), trailers.is_some()), ("all of it", has_trailers));
        }
    }
}
