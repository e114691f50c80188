//! Defines the frame of an exchange: everything known about it, told to log and metrics exactly once, when it ends.

use std::any::Any;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};
use http_body::{Body as _, Frame as BodyFrame, SizeHint};
use hyper::body::Incoming;

use super::carried::Carried;
use super::carrier::Carrier;
use super::connection::ClientConnection;
use super::drain::{Stage, Visit};
use super::headers::{Noted, trace_id};
use super::http2::Streams;
use super::local::{Chain, LocalEndpoint, LocalRoute, LocalUpstream};
use super::through::Lent;
use super::worker::Worker;
use crate::exchange::body::BodyError;
use crate::exchange::error::CLIENT_CLOSED_REQUEST;
use crate::exchange::header::TRACEPARENT;
use crate::exchange::{Body, BodyFailure, ClientAddress, Consumer, Flag, Flow, Payload, Verdict, grpc};
use crate::snapshot::{self, Admission, Trial};
use crate::telemetry::access_log::Record;
use crate::telemetry::audit::Authentication;
use crate::telemetry::descriptors::network;
use crate::telemetry::stats::AttemptResult;

/// An exchange that its client ends this soon was not wanted: whoever means it waits for longer.
const GIVEN_UP_AT_ONCE: Duration = Duration::from_millis(100);

/// One exchange, from its head to its end. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) worker: Rc<Worker>,
    pub(super) connection: Rc<ClientConnection>,
    pub(super) started: Instant,
    time: SystemTime,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) host: Option<HeaderValue>,
    target_uri: Option<PathAndQuery>,
    user_agent: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    pub(super) accept: Option<HeaderValue>,
    /// It is a call of gRPC.
    pub(super) is_call: bool,
    /// The answer to a call is one of gRPC, which ends with trailers.
    pub(super) answers_call: bool,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) client: ClientAddress,
    /// Whether the client speaks TLS, with the gateway or with a trusted proxy before it.
    pub(super) is_secure: bool,
    pub(super) route: Option<Rc<LocalRoute>>,
    pub(super) target: Option<usize>,
    upstream: Option<(usize, Rc<LocalUpstream>)>,
    endpoint: Option<Rc<LocalEndpoint>>,
    /// What it takes of an upstream with a breaker.
    pub(super) admission: Option<Box<Admission>>,
    pub(super) attempts: u32,
    pub(super) attempt_started: Option<Instant>,
    /// How far the try under way has got.
    trying: Cell<Trying>,
    /// Held while this request alone tries an ejected endpoint.
    trial: Option<Trial>,
    /// It asks for an upgrade: what follows may take as long as it likes.
    pub(super) upgrades: bool,
    /// What the response came by, when its body is over: a connection is kept for others when both bodies came to their
    /// ends.
    pub(super) lease: Option<Carrier>,
    pub(super) request_flow: Option<Rc<Flow>>,
    pub(super) response_flow: Option<Rc<Flow>>,
    /// 0 until there is an answer.
    pub(super) status: u16,
    pub(super) flag: Option<Flag>,
    /// Bytes in and out of an upgraded connection.
    pub(super) tunnelled: Option<Rc<Carried>>,
    /// What the client got of an answer that passed middlewares.
    delivered: Option<Delivered>,
    /// Who the client was found to be.
    pub(super) consumer: Option<Arc<Consumer>>,
    /// What middlewares judged of it.
    pub(super) verdict: Option<Verdict>,
    /// It asks something for another exchange, and is not told of.
    is_beside: bool,
    /// What middlewares keep until its end.
    pub(super) held: Vec<Box<dyn Any>>,
    /// The bytes of the request's body that middlewares take.
    pub(super) most_of_body: u64,
    /// The middlewares that it passes: those before the target is drawn, and those behind.
    pub(super) chains: [Option<Rc<Chain>>; 2],
}

/// How far a try has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trying {
    /// None is under way.
    No,
    Begun,
    /// The endpoint has the whole request since then, and since that second of the worker's clock.
    Sent {
        since: Instant,
        second: u32,
    },
}

/// How much of an answer was taken.
#[derive(Clone, Copy, Debug, Default)]
struct Delivered {
    bytes: u64,
    is_whole: bool,
}

impl Frame {
    /// An exchange begins.
    pub(super) fn new(
        worker: &Rc<Worker>,
        connection: &Rc<ClientConnection>,
        request: &Request<Incoming>,
        noted: Noted,
    ) -> Box<Self> {
        worker.exchange_begins();
        let value = |noted_by, name: HeaderName| {
            if noted.has(noted_by) { request.headers().get(name).cloned() } else { None }
        };
        Box::new(Self {
            worker: Rc::clone(worker),
            connection: Rc::clone(connection),
            started: Instant::now(),
            time: SystemTime::now(),
            method: request.method().clone(),
            version: request.version(),
            host: value(Noted::HOST, header::HOST),
            target_uri: request.uri().path_and_query().cloned(),
            user_agent: value(Noted::USER_AGENT, header::USER_AGENT),
            traceparent: value(Noted::TRACEPARENT, TRACEPARENT),
            accept: value(Noted::ACCEPT, header::ACCEPT),
            // gRPC is spoken in HTTP/2 alone.
            is_call: request.version() == Version::HTTP_2 && grpc::is_call(request.headers()),
            answers_call: false,
            request_id: None,
            client: ClientAddress::Known(connection.peer.address),
            is_secure: connection.peer.is_over_tls(),
            route: None,
            target: None,
            upstream: None,
            endpoint: None,
            admission: None,
            attempts: 0,
            attempt_started: None,
            trying: Cell::new(Trying::No),
            trial: None,
            upgrades: false,
            lease: None,
            request_flow: None,
            response_flow: None,
            status: 0,
            flag: None,
            tunnelled: None,
            delivered: None,
            consumer: None,
            verdict: None,
            is_beside: false,
            held: Vec::new(),
            most_of_body: u64::MAX,
            chains: [None, None],
        })
    }

    /// What is asked beside an exchange, for it.
    pub(super) fn beside(&self, method: Method) -> Box<Self> {
        Box::new(Self {
            worker: Rc::clone(&self.worker),
            connection: Rc::clone(&self.connection),
            started: Instant::now(),
            time: self.time,
            method,
            version: self.version,
            host: None,
            target_uri: None,
            user_agent: None,
            traceparent: None,
            accept: None,
            is_call: false,
            answers_call: false,
            request_id: self.request_id.clone(),
            client: self.client,
            is_secure: self.is_secure,
            route: self.route.clone(),
            target: None,
            upstream: None,
            endpoint: None,
            admission: None,
            attempts: 0,
            attempt_started: None,
            trying: Cell::new(Trying::No),
            trial: None,
            upgrades: false,
            lease: None,
            request_flow: None,
            response_flow: None,
            status: 0,
            flag: None,
            tunnelled: None,
            delivered: None,
            consumer: None,
            verdict: None,
            is_beside: true,
            held: Vec::new(),
            most_of_body: u64::MAX,
            chains: [None, None],
        })
    }

    /// The headers that no trailer of the request may be taken for, because its middlewares set them.
    pub(super) fn guarded(&self) -> Box<[HeaderName]> {
        let middlewares = self.chains.iter().flatten().flat_map(|chain| chain.iter());
        middlewares.flat_map(|middleware| middleware.guarded()).cloned().collect()
    }

    /// The upstream was chosen.
    pub(super) fn towards(&mut self, slot: usize, upstream: &Rc<LocalUpstream>) {
        self.upstream = Some((slot, Rc::clone(upstream)));
    }

    /// A try at an endpoint begins, which was entered for it; the one before is over.
    pub(super) fn attempt(&mut self, endpoint: &Rc<LocalEndpoint>, trial: Option<Trial>) {
        self.leave_endpoint();
        self.trying.set(Trying::Begun);
        self.trial = trial;
        self.endpoint = Some(Rc::clone(endpoint));
        self.attempts += 1;
        // The first one begins with the exchange, as far as anybody can tell.
        self.attempt_started = Some(if self.attempts == 1 { self.started } else { Instant::now() });
    }

    /// The endpoint has the whole request of the try under way.
    pub(super) fn request_sent(&self, since: Instant) {
        if self.trying.get() == Trying::Begun {
            self.trying.set(Trying::Sent { since, second: self.worker.clock.load(Relaxed) });
        }
    }

    /// The try came to something.
    pub(super) fn attempt_ends(&mut self) -> Option<Trial> {
        self.trying.set(Trying::No);
        self.trial.take()
    }

    /// For how long the endpoint of the last try has been waited for: an upload takes as long as its client.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        let began = self.attempt_started.unwrap_or(self.started);
        let since = self.request_flow.as_ref().map_or(began, |flow| flow.waits_since().max(began));
        now.saturating_duration_since(since)
    }

    /// The client gives up the try under way. That speaks against an endpoint which had the whole request, where several
    /// clients do so and it answers nobody meanwhile. Streams are ended by their clients.
    #[cold]
    fn abandon(&mut self, now: Instant) {
        let trying = self.trying.replace(Trying::No);
        let trial = self.trial.take();
        let (Some(endpoint), Some((_, upstream))) = (&self.endpoint, &self.upstream) else { return };
        upstream.attempted(AttemptResult::Abandoned, &self.worker.stats);
        let Trying::Sent { since, second } = trying else { return };
        let is_stream = self.is_call || self.upgrades || self.accept.as_ref().is_some_and(is_event_stream);
        let is_cut = self.worker.is_draining() || self.connection.phase.drops_rest() || endpoint.drain.leaves();
        let at_once = now.saturating_duration_since(since) < GIVEN_UP_AT_ONCE;
        let client = self.client.known().map(network);
        if !is_stream && !is_cut && !at_once && endpoint.state.is_given_up(client, second) {
            upstream.judge(endpoint, trial, snapshot::Verdict::Abandoned, &self.worker);
        }
    }

    /// The endpoint of the last try.
    pub(super) fn endpoint(&self) -> Option<&Rc<LocalEndpoint>> {
        self.endpoint.as_ref()
    }

    /// How long its endpoint may pause.
    pub(super) fn idle_timeout(&self) -> Duration {
        // Without an upstream there is no endpoint either.
        self.upstream.as_ref().map_or(Duration::ZERO, |(_, local)| local.upstream.settings.idle_timeout)
    }

    /// The try is over.
    pub(super) fn leave_endpoint(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.state.leave();
            if let Some((_, local)) = &self.upstream
                && local.upstream.settings.max_requests_per_endpoint.is_some()
            {
                local.upstream.state.line.advance();
            }
        }
    }

    /// Gives the connection back for other exchanges, when nothing of this one is left on it.
    fn return_lease(&mut self, now: Instant) {
        let Some(Carrier::Connection(connection)) = self.lease.take() else { return };
        let complete = |flow: &Option<Rc<Flow>>| flow.as_ref().is_none_or(|flow| flow.is_complete());
        if complete(&self.request_flow)
            && complete(&self.response_flow)
            && let (Some(endpoint), Some((_, upstream))) = (&self.endpoint, &self.upstream)
        {
            endpoint.keep(connection, &upstream.upstream, now);
        }
    }

    /// What the log and the metrics say of the end.
    fn outcome(&self) -> (u16, Option<Flag>) {
        if self.status == 0 {
            return (CLIENT_CLOSED_REQUEST.as_u16(), Some(Flag::DownstreamConnectionTermination));
        }
        let broken_off = match &self.tunnelled {
            Some(carried) => carried.was_cut(),
            None => self.broken_off(),
        };
        (self.status, self.flag.or(broken_off))
    }

    /// Why the answer ended before it was whole.
    fn broken_off(&self) -> Option<Flag> {
        let flow = self.response_flow.as_ref();
        let is_whole = match self.delivered {
            Some(delivered) => delivered.is_whole,
            None => flow.is_none_or(|flow| flow.is_complete() && flow.failure().is_none()),
        };
        match flow.and_then(|flow| flow.failure()) {
            _ if is_whole => None,
            Some(failure) => Some(self.blamed(failure).flag()),
            None if self.is_cut() => Some(Flag::LocalReset),
            None => Some(Flag::DownstreamConnectionTermination),
        }
    }

    /// Why the answer ended: an endpoint whose request's body failed could not go on.
    fn blamed(&self, failure: BodyFailure) -> BodyFailure {
        let of_endpoint = matches!(failure, BodyFailure::EndpointGone | BodyFailure::EndpointReset(_));
        let of_request = self.request_flow.as_ref().filter(|_| of_endpoint).and_then(|flow| flow.failure());
        of_request.unwrap_or(failure)
    }

    /// How an answer ends that cannot go on. One to a call ends with trailers, unless its service has reset it.
    fn end_of_answer(&self, error: BodyError) -> Result<BodyFrame<Bytes>, BodyError> {
        let failure = self.blamed(error.failure());
        if !self.answers_call || matches!(failure, BodyFailure::EndpointReset(_)) {
            return Err(if failure == error.failure() { error } else { BodyError::new(failure) });
        }
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(grpc::GRPC_STATUS, HeaderValue::from(u16::from(grpc::status(failure.error()))));
        trailers.insert(grpc::GRPC_MESSAGE, HeaderValue::from_static(failure.error().code()));
        Ok(BodyFrame::trailers(trailers))
    }

    /// Whether the endpoint's drain has ended everything there.
    fn is_cut(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.drain.stage() == Stage::Cut)
    }

    fn tell(&self, now: Instant) {
        let (status, flag) = self.outcome();
        let flag = flag.map_or("", Flag::as_str);
        let duration = now.saturating_duration_since(self.started);
        let upstream_duration = self.attempt_started.map(|started| now.saturating_duration_since(started));
        let (stats, listener) = (&self.worker.stats, &self.connection.listener.name);
        match &self.route {
            Some(route) => {
                let upstream = self.upstream.as_ref().map(|(slot, local)| (*slot, &*local.upstream.label));
                route.requests(listener, upstream, stats).count(status, flag);
                route.duration.observe(duration);
            }
            None => self.connection.listener.unrouted.count(status, flag),
        }
        if let (Some((_, upstream)), Some(duration)) = (&self.upstream, upstream_duration) {
            upstream.duration.observe(duration);
        }
        if let Some(verdict) = self.verdict
            && self.worker.audit.wants(verdict.refused.is_some())
        {
            self.audit(verdict, status);
        }
        if self.worker.log.is_on() {
            self.log(status, flag, duration, upstream_duration);
        }
    }

    #[cold]
    fn audit(&self, verdict: Verdict, status: u16) {
        let host = self.host.as_ref().map_or(&[][..], HeaderValue::as_bytes);
        self.worker.audit.authentication(
            self.time,
            &Authentication {
                outcome: if verdict.refused.is_some() { "refused" } else { "accepted" },
                by: verdict.by,
                why: verdict.refused.unwrap_or_default(),
                listener: self.connection.listener.name.as_str(),
                client: self.client,
                peer: self.client.unknown_behind(),
                consumer: self.consumer.as_ref().map_or("", |consumer| &consumer.name),
                method: self.method.as_str(),
                host: &String::from_utf8_lossy(host),
                path: self.target_uri.as_ref().map_or("", PathAndQuery::path),
                route: self.route.as_ref().map_or("", |route| &route.route.label),
                status: Some(status),
                request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or(""),
            },
        );
    }

    fn log(&self, status: u16, flag: &str, duration: Duration, upstream_duration: Option<Duration>) {
        let bytes = |flow: &Option<Rc<Flow>>| flow.as_ref().map_or(0, |flow| flow.bytes());
        let (bytes_in, bytes_out) = match &self.tunnelled {
            Some(carried) => (carried.from_client.get(), carried.from_endpoint.get()),
            None => {
                let from_endpoint = || bytes(&self.response_flow);
                (bytes(&self.request_flow), self.delivered.map_or_else(from_endpoint, |delivered| delivered.bytes))
            }
        };
        self.worker.log.add(|clock, line| {
            Record {
                time: self.time,
                listener: self.connection.listener.name.as_str(),
                client: self.client,
                method: self.method.as_str(),
                host: self.host.as_ref().map_or(&[], HeaderValue::as_bytes),
                path: self.target_uri.as_ref().map_or("", PathAndQuery::path),
                protocol: match self.version {
                    Version::HTTP_10 => "HTTP/1.0",
                    Version::HTTP_2 => "HTTP/2.0",
                    _ => "HTTP/1.1",
                },
                status,
                flag,
                route: self.route.as_ref().map_or("", |route| &route.route.label),
                target: match (&self.route, self.target) {
                    (Some(route), Some(target)) => &route.route.targets[target].label,
                    _ => "",
                },
                upstream: self.upstream.as_ref().map_or("", |(_, local)| &local.upstream.label),
                endpoint: self.endpoint.as_ref().map_or("", |endpoint| endpoint.state.label()),
                attempts: self.attempts,
                bytes_in,
                bytes_out,
                duration,
                upstream_duration,
                request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or(""),
                trace_id: self.traceparent.as_ref().and_then(trace_id).unwrap_or(""),
                user_agent: self.user_agent.as_ref().map_or(&[], HeaderValue::as_bytes),
                consumer: self.consumer.as_ref().map_or("", |consumer| &consumer.name),
            }
            .write(clock, line)
        });
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let now = Instant::now();
        if self.trying.get() != Trying::No {
            self.abandon(now);
        }
        if !self.is_beside {
            self.tell(now);
        }
        self.return_lease(now);
        self.leave_endpoint();
        if self.is_beside {
            return;
        }
        let given_up = self.status == 0 && now.saturating_duration_since(self.started) < GIVEN_UP_AT_ONCE;
        self.connection.exchange_ends(given_up);
        self.worker.exchange_ends();
    }
}

/// Whether a client asks for events, which come when they come.
fn is_event_stream(accept: &HeaderValue) -> bool {
    const WANTED: &[u8] = b"text/event-stream";
    accept.as_bytes().windows(WANTED.len()).any(|part| part.eq_ignore_ascii_case(WANTED))
}

/// A response's body on its way to the client, with the frame that ends when it does.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Sent,
    /// `None` for a response whose exchange goes on without it: an upgrade.
    frame: Option<Box<Frame>>,
    /// Its place among the responses of an HTTP/2 connection, whose client may take some and not this one.
    sending: Option<usize>,
    /// Why the body ends too soon, once what came before is on its way.
    failure: Option<BodyError>,
    /// Its stay at the endpoint that it comes from.
    _visit: Option<Visit>,
    /// Its stream is reset behind it, because the request was malformed (RFC 9113, 8.1.1).
    resets: bool,
    /// The connection's turn in which the last of it went.
    last_turn: Option<u64>,
}

/// What is sent.
#[derive(Debug)]
enum Sent {
    /// An endpoint's answer as it comes, or one of the gateway's own.
    Direct(Body<Carrier>),
    /// One that passed middlewares.
    Through { payload: Payload, lent: Rc<Lent> },
}

impl Outgoing {
    pub(super) fn new(body: Body<Carrier>, frame: Option<Box<Frame>>) -> Self {
        let is_stream = matches!(body, Body::Stream(_));
        Self::sending(Sent::Direct(body), is_stream, frame)
    }

    /// An answer that passed middlewares. `lent`: where its connection comes back to.
    pub(super) fn through(payload: Payload, mut frame: Box<Frame>, lent: Rc<Lent>) -> Self {
        let is_stream = payload.is_stream();
        frame.delivered = Some(Delivered { bytes: 0, is_whole: payload.is_end_stream() });
        Self::sending(Sent::Through { payload, lent }, is_stream, Some(frame))
    }

    fn sending(body: Sent, is_stream: bool, frame: Option<Box<Frame>>) -> Self {
        let sending = frame.as_ref().and_then(|frame| {
            let streams = frame.connection.streams.as_ref()?;
            let min_rate = frame.connection.listener.settings.min_rate;
            Some(streams.sends(frame.worker.clock.load(Relaxed), min_rate))
        });
        let visit = frame.as_ref().filter(|_| is_stream).and_then(|frame| {
            let endpoint = frame.endpoint.as_ref()?;
            Some(endpoint.drain.responds(&frame.connection, sending))
        });
        Self { body, frame, sending, failure: None, _visit: visit, resets: false, last_turn: None }
    }

    /// The same, whose stream is reset behind it.
    pub(super) fn resetting(mut self, resets: bool) -> Self {
        self.resets = resets;
        self
    }

    /// Whether its request is not over.
    pub(super) fn is_early(&self) -> bool {
        let flow = self.frame.as_ref().and_then(|frame| frame.request_flow.as_ref());
        flow.is_none_or(|flow| !flow.is_complete())
    }

    /// A reset overtakes what h2 has not written: it waits for that.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        let streams = self.frame.as_ref().and_then(|frame| frame.connection.streams.as_ref());
        if let Some(streams) = streams {
            ready!(streams.poll_turn(&mut self.last_turn, cx));
        }
        Poll::Ready(Some(Err(BodyError::malformed_request())))
    }

    /// The response's place, and where that is.
    fn place(&self) -> Option<(&Frame, &Streams, usize)> {
        let (frame, place) = (self.frame.as_ref()?, self.sending?);
        Some((frame, frame.connection.streams.as_deref()?, place))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some((_, streams, place)) = self.place() {
            streams.over(place);
        }
        let carrier = match &mut self.body {
            Sent::Direct(body) => std::mem::take(body).into_source(),
            Sent::Through { payload, lent } => {
                drop(std::mem::take(payload));
                lent.take()
            }
        };
        if let Some(frame) = &mut self.frame
            && carrier.is_some()
        {
            frame.lease = carrier;
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.sending.is_none() {
            if let Some(failure) = this.failure.take() {
                return Poll::Ready(Some(Err(failure)));
            }
            return match this.poll_part(cx) {
                Poll::Ready(Some(Err(failure))) => {
                    // hyper drops what it has not written when a body fails, the response's head included: it writes first.
                    this.failure = Some(failure);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                polled => polled,
            };
        }
        if let Some((frame, streams, place)) = this.place() {
            streams.took(place, frame.worker.clock.load(Relaxed));
        }
        let polled = this.poll_part(cx);
        if let Poll::Ready(part) = &polled
            && let Some((frame, streams, place)) = this.place()
        {
            let data = part.as_ref().and_then(|part| part.as_ref().ok()?.data_ref());
            streams.sent(place, frame.worker.clock.load(Relaxed), data.map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        !self.resets && self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Sent::Direct(body) => body.size_hint(),
            Sent::Through { payload, .. } => payload.size_hint(),
        }
    }
}

impl Outgoing {
    /// Whether all of it has gone.
    fn is_over(&self) -> bool {
        match &self.body {
            Sent::Direct(body) => body.is_end_stream(),
            Sent::Through { payload, .. } => payload.is_end_stream(),
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        let polled = ready!(self.poll_sent(cx));
        Poll::Ready(match (polled, &self.frame) {
            (Some(Err(error)), Some(frame)) if !self.resets => Some(frame.end_of_answer(error)),
            (polled, _) => polled,
        })
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, BodyError>>> {
        if self.resets && self.is_over() {
            return self.poll_reset(cx);
        }
        let payload = match &mut self.body {
            Sent::Direct(body) => return Pin::new(body).poll_frame(cx),
            Sent::Through { payload, .. } => payload,
        };
        let polled = Pin::new(&mut *payload).poll_frame(cx);
        if let Poll::Ready(part) = &polled
            && let Some(delivered) = self.frame.as_mut().and_then(|frame| frame.delivered.as_mut())
        {
            match part {
                Some(Ok(part)) => {
                    delivered.bytes += part.data_ref().map_or(0, |data| data.len() as u64);
                    // The last piece of a body of known length is its end: nobody polls again.
                    delivered.is_whole = part.is_trailers() || payload.is_end_stream();
                }
                Some(Err(_)) => {}
                None => delivered.is_whole = true,
            }
        }
        polled
    }
}
