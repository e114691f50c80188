//! Scripted HTTP/2 services in plain text, by the h2 crate so that streams can be refused, reset and held.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What a service does with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// 200 with what arrived, as JSON: method, uri, headers (pairs), body, trailers (pairs), connection (its number).
    Echo,
    /// This status, these headers and no body.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// These pieces of a body, then trailers.
    Stream(Vec<Bytes>, Vec<(&'static str, &'static str)>),
    /// A head at once, of the request's type, and every piece back as it comes; at the end the trailers that came.
    Mirror,
    /// A head at once, and nothing more before all has come.
    Swallow,
    /// The same, held until [`Service::release`].
    Hold(Box<Act>),
    /// RST_STREAM instead of an answer, before anything of the body is read.
    Reset(Reason),
    /// A head and a piece of a body, then, when released, RST_STREAM.
    ResetLater(Reason),
    /// This status before anything of the body is read; nothing of it is.
    Early(u16),
    /// 100, then as [`Act::Echo`].
    Continue,
    /// GOAWAY, then as [`Act::Hold`]: what runs is still answered.
    Leave(Box<Act>),
    /// GOAWAY that disowns all streams, and the end of the connection.
    Disown,
    /// The end of the connection without a word.
    Die,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub connection: usize,
}

/// A running service; ends with its connections when dropped.
pub struct Service {
    address: SocketAddr,
    state: Arc<State>,
    running: CancellationToken,
}

#[derive(Default)]
struct State {
    default: Mutex<Option<Act>>,
    by_path: Mutex<BTreeMap<String, Act>>,
    next: Mutex<VecDeque<Act>>,
    most: Mutex<Option<u32>>,
    released: watch::Sender<u64>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    begun: AtomicUsize,
    cancelled: Mutex<Vec<Reason>>,
    arrived: Mutex<Vec<Arrived>>,
}

impl Service {
    /// On a free port of 127.0.0.1; it echoes.
    pub async fn start() -> Self {
        Self::allowing(None).await
    }

    /// With SETTINGS_MAX_CONCURRENT_STREAMS.
    pub async fn allowing(most: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        *state.most.lock().unwrap() = most;
        let running = CancellationToken::new();
        tokio::spawn(accept(listener, state.clone(), running.clone()));
        Self { address, state, running }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to do with all requests that nothing more special is for.
    pub fn set(&self, act: Act) {
        *self.state.default.lock().unwrap() = Some(act);
    }

    pub fn on(&self, path: &str, act: Act) {
        self.state.by_path.lock().unwrap().insert(path.to_owned(), act);
    }

    /// What to do with the next request, once; several calls queue up.
    pub fn then(&self, act: Act) {
        self.state.next.lock().unwrap().push_back(act);
    }

    /// Lets everything go on that is held now.
    pub fn release(&self) {
        self.state.released.send_modify(|count| *count += 1);
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Requests whose head arrived.
    pub fn begun(&self) -> usize {
        self.state.begun.load(Ordering::SeqCst)
    }

    /// Requests that arrived whole, in order.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.state.arrived.lock().unwrap().clone()
    }

    pub fn last(&self) -> Arrived {
        self.arrived().pop().expect("a request")
    }

    /// What the gateway reset streams with.
    pub fn cancelled(&self) -> Vec<Reason> {
        self.state.cancelled.lock().unwrap().clone()
    }

    /// Ends: no connection is left, and new ones are refused.
    pub fn stop(&self) {
        self.running.cancel();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.running.cancel();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, running: CancellationToken) {
    while let Some(Ok((stream, _))) = running.run_until_cancelled(listener.accept()).await {
        let _ = stream.set_nodelay(true);
        let number = state.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let (state, running) = (state.clone(), running.clone());
        tokio::spawn(async move {
            state.open.fetch_add(1, Ordering::SeqCst);
            let _closing = Closing(state.clone());
            running.run_until_cancelled(serve(stream, number, state)).await;
        });
    }
}

struct Closing(Arc<State>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What an exchange asks of its connection.
#[derive(Default)]
struct Wishes {
    leave: Notify,
    disown: Notify,
    die: Notify,
}

async fn serve(stream: TcpStream, number: usize, state: Arc<State>) {
    let mut builder = h2::server::Builder::new();
    if let Some(most) = *state.most.lock().unwrap() {
        builder.max_concurrent_streams(most);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let wishes = Arc::<Wishes>::default();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                state.begun.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(exchange(request, respond, number, state.clone(), wishes.clone()));
            }
            () = wishes.leave.notified() => connection.graceful_shutdown(),
            () = wishes.disown.notified() => connection.abrupt_shutdown(Reason::NO_ERROR),
            () = wishes.die.notified() => return,
        }
    }
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    state: Arc<State>,
    wishes: Arc<Wishes>,
) {
    let next = state.next.lock().unwrap().pop_front();
    let by_path = || state.by_path.lock().unwrap().get(request.uri().path()).cloned();
    let default = || state.default.lock().unwrap().clone();
    let act = next.or_else(by_path).or_else(default).unwrap_or(Act::Echo);
    if let Err(error) = answer(act, request, &mut respond, connection, &state, &wishes).await
        && error.is_remote()
    {
        state.cancelled.lock().unwrap().extend(error.reason());
    }
}

async fn answer(
    mut act: Act,
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    connection: usize,
    state: &State,
    wishes: &Wishes,
) -> Result<(), h2::Error> {
    loop {
        act = match act {
            Act::Hold(then) => {
                tokio::select! {
                    () = held(state) => {}
                    reason = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                        state.cancelled.lock().unwrap().push(reason?);
                        return Ok(());
                    }
                }
                *then
            }
            Act::Leave(then) => {
                wishes.leave.notify_one();
                Act::Hold(then)
            }
            other => break act = other,
        };
    }
    let head = |status: u16| Response::builder().status(status).version(http::Version::HTTP_2);
    match act {
        Act::Echo | Act::Continue => {
            if matches!(act, Act::Continue) {
                respond.send_informational(head(100).body(()).unwrap()).unwrap();
            }
            let arrived = read(request, connection).await?;
            let pairs = |map: &HeaderMap| -> Vec<(String, String)> {
                map.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
            };
            let text = json!({
                "method": arrived.method,
                "uri": arrived.uri,
                "headers": pairs(&arrived.headers),
                "body": String::from_utf8_lossy(&arrived.body),
                "trailers": arrived.trailers.as_ref().map(pairs),
                "connection": connection,
            });
            let bytes = Bytes::from(text.to_string());
            let bare = arrived.method == "HEAD";
            state.arrived.lock().unwrap().push(arrived);
            let response = head(200).header("content-length", bytes.len()).body(()).unwrap();
            let mut body = respond.send_response(response, bare).unwrap();
            if !bare {
                send(&mut body, bytes, true).await;
            }
        }
        Act::Status(status, headers) => {
            let arrived = read(request, connection).await?;
            state.arrived.lock().unwrap().push(arrived);
            let mut response = head(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        }
        Act::Stream(pieces, trailers) => {
            let arrived = read(request, connection).await?;
            state.arrived.lock().unwrap().push(arrived);
            let mut body = respond.send_response(head(200).body(()).unwrap(), false).unwrap();
            for piece in pieces {
                send(&mut body, piece, false).await;
            }
            let trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            body.send_trailers(trailers.collect())?;
        }
        Act::Mirror => {
            let kind = request.headers().get("content-type").cloned();
            return mirror(request.into_body(), kind, respond).await;
        }
        Act::Swallow => {
            let mut body = respond.send_response(head(200).body(()).unwrap(), false)?;
            let arrived = read(request, connection).await?;
            state.arrived.lock().unwrap().push(arrived);
            body.send_data(Bytes::new(), true)?;
        }
        Act::Reset(reason) => respond.send_reset(reason),
        Act::ResetLater(reason) => {
            let mut body = respond.send_response(head(200).body(()).unwrap(), false).unwrap();
            send(&mut body, Bytes::from_static(b"piece"), false).await;
            held(state).await;
            body.send_reset(reason);
        }
        Act::Early(status) => {
            respond.send_response(head(status).body(()).unwrap(), true).unwrap();
        }
        Act::Disown => {
            wishes.disown.notify_one();
            std::future::pending().await
        }
        Act::Die => {
            wishes.die.notify_one();
            std::future::pending().await
        }
        Act::Hold(_) | Act::Leave(_) => unreachable!("unwrapped above"),
    }
    Ok(())
}

async fn held(state: &State) {
    let mut released = state.released.subscribe();
    let _ = released.changed().await;
}

async fn read(request: Request<RecvStream>, connection: usize) -> Result<Arrived, h2::Error> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    let (method, uri) = (head.method.to_string(), head.uri.to_string());
    Ok(Arrived { method, uri, headers: head.headers, body, trailers, connection })
}

async fn mirror(
    mut came: RecvStream,
    kind: Option<http::HeaderValue>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().extend(kind.map(|kind| (http::header::CONTENT_TYPE, kind)));
    let mut body = respond.send_response(head, false)?;
    while let Some(data) = came.data().await {
        let data = data?;
        let _ = came.flow_control().release_capacity(data.len());
        send(&mut body, data, false).await;
    }
    match came.trailers().await? {
        Some(trailers) => body.send_trailers(trailers),
        None => body.send_data(Bytes::new(), true),
    }
}

/// Sends a piece as far as there is room for it.
async fn send(stream: &mut SendStream<Bytes>, mut piece: Bytes, last: bool) {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
        let part = piece.split_to(stream.capacity().min(piece.len()));
        let ends = last && piece.is_empty();
        if stream.send_data(part, ends).is_err() {
            return;
        }
    }
}
