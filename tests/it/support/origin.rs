//! Scripted HTTP/1.1 services, written on the bare socket so that they can also misbehave.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::Wire;

/// The answer's header that says who answered: `NAME/VERSION`. [`super::load`] counts by it.
pub const SERVED_BY: &str = "x-served-by";

/// How many requests an origin remembers in full; it counts all.
const REMEMBERED: usize = 20_000;

/// What an origin does with a request it has read.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// 200 with what arrived, as JSON: service, version, method, target, headers (pairs), body, trailers (pairs),
    /// connection (its number), request (its number on the connection).
    Echo,
    /// This status and a short text.
    Status(u16),
    /// This status, these headers and this body, with its Content-Length.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8> },
    /// These bytes, then the end of the connection: whatever is not HTTP, or other than the rest can say.
    Raw(Vec<u8>),
    /// These bytes, and the connection stays.
    RawKept(Vec<u8>),
    /// A while of nothing, then the other.
    Delay(Duration, Box<Behaviour>),
    /// Nothing until [`Origin::release`], then the other.
    Hold(Box<Behaviour>),
    /// A reset (RST) instead of an answer.
    Reset,
    /// The end of the connection (FIN) instead of an answer.
    Close,
    /// Announces `declared` bytes, sends `sent`, then ends (or resets) the connection.
    CutBody { declared: usize, sent: usize, reset: bool },
    /// A chunked answer: the chunks with a pause after each, then the trailers.
    Stream { chunks: Vec<Bytes>, pause: Duration, trailers: Vec<(&'static str, &'static str)> },
    /// 101 for `Upgrade: websocket`, then every byte back until the other side ends, then the end.
    /// Other requests get an echo.
    WebSocket,
    /// Answers with this status before it reads the body, then reads the body and keeps the connection.
    Early(u16),
    /// Reads the head and nothing more until [`Origin::release`], then the other.
    HoldBody(Box<Behaviour>),
}

/// A request as it reached an origin.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub version: String,
    /// In order; names as they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The connection's number, from 1.
    pub connection: usize,
}

impl Seen {
    /// The values of a header.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// A running service; ends with its connections when dropped.
pub struct Origin {
    pub name: String,
    pub version: String,
    address: SocketAddr,
    state: Arc<State>,
    running: CancellationToken,
    /// Bound all the time, so that nobody else gets the port while this is stopped.
    _reserved: TcpSocket,
}

struct State {
    name: String,
    version: String,
    default: Mutex<Behaviour>,
    by_path: Mutex<BTreeMap<String, Behaviour>>,
    next: Mutex<VecDeque<Behaviour>>,
    healthy: watch::Sender<bool>,
    released: watch::Sender<u64>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    probes: AtomicUsize,
    seen: Mutex<VecDeque<Seen>>,
    heard: Mutex<BTreeMap<usize, Vec<u8>>>,
    reset_on_accept: Mutex<bool>,
}

impl Origin {
    /// A service on a free port of 127.0.0.1 that echoes; version `v1`.
    pub async fn start(name: &str) -> Self {
        Self::start_version(name, "v1").await
    }

    pub async fn start_version(name: &str, version: &str) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), name, version).await
    }

    pub async fn start_at(address: SocketAddr, name: &str, version: &str) -> Self {
        let state = Arc::new(State {
            name: name.to_owned(),
            version: version.to_owned(),
            default: Mutex::new(Behaviour::Echo),
            by_path: Mutex::default(),
            next: Mutex::default(),
            healthy: watch::Sender::new(true),
            released: watch::Sender::new(0),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            seen: Mutex::default(),
            heard: Mutex::default(),
            reset_on_accept: Mutex::new(false),
        });
        let running = CancellationToken::new();
        let reserved = bind(address);
        let address = reserved.local_addr().unwrap();
        listen(address, state.clone(), running.clone());
        Self { name: name.to_owned(), version: version.to_owned(), address, state, running, _reserved: reserved }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What to do with all requests that nothing more special is for.
    pub fn set(&self, behaviour: Behaviour) {
        *self.state.default.lock().unwrap() = behaviour;
    }

    /// What to do with requests for this path (without its query).
    pub fn on(&self, path: &str, behaviour: Behaviour) {
        self.state.by_path.lock().unwrap().insert(path.to_owned(), behaviour);
    }

    /// What to do with the next request, once; several calls queue up.
    pub fn then(&self, behaviour: Behaviour) {
        self.state.next.lock().unwrap().push_back(behaviour);
    }

    /// What `/healthz` answers: 200 or 503. Probes are not counted as requests.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.healthy.send_replace(healthy);
    }

    /// Resets every new connection before it says anything.
    pub fn reset_on_accept(&self, on: bool) {
        *self.state.reset_on_accept.lock().unwrap() = on;
    }

    /// Lets everything go on that is held now.
    pub fn release(&self) {
        self.state.released.send_modify(|count| *count += 1);
    }

    /// Requests that arrived in full or began an upgrade, `/healthz` aside.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Requests for `/healthz`.
    pub fn probes(&self) -> usize {
        self.state.probes.load(Ordering::SeqCst)
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// What arrived, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().iter().cloned().collect()
    }

    /// All bytes that came on each upgraded connection.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        self.state.heard.lock().unwrap().values().cloned().collect()
    }

    pub fn last_seen(&self) -> Option<Seen> {
        self.state.seen.lock().unwrap().back().cloned()
    }

    /// Stops listening and cuts every connection; new ones are refused.
    pub async fn stop(&mut self) {
        self.running.cancel();
        let state = self.state.clone();
        super::wait::until(Duration::from_secs(5), "the origin's connections to end", || {
            let state = state.clone();
            async move { state.open.load(Ordering::SeqCst) == 0 }
        })
        .await;
    }

    /// Listens again at the same address after [`Self::stop`].
    pub async fn start_again(&mut self) {
        self.running = CancellationToken::new();
        listen(self.address, self.state.clone(), self.running.clone());
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.running.cancel();
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket
}

fn listen(address: SocketAddr, state: Arc<State>, running: CancellationToken) {
    let listener: TcpListener = bind(address).listen(1024).unwrap();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = running.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else { continue };
            let _ = stream.set_nodelay(true);
            let number = state.accepted.fetch_add(1, Ordering::SeqCst) + 1;
            if *state.reset_on_accept.lock().unwrap() {
                reset(stream);
                continue;
            }
            let (state, running) = (state.clone(), running.clone());
            tokio::spawn(async move {
                state.open.fetch_add(1, Ordering::SeqCst);
                let _closing = Closing(state.clone());
                tokio::select! {
                    () = serve(stream, number, &state) => {}
                    () = running.cancelled() => {}
                }
            });
        }
    });
}

struct Closing(Arc<State>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(stream: TcpStream, connection: usize, state: &State) {
    let mut wire = Wire::new(stream);
    let mut number = 0;
    loop {
        let Ok(head) = wire.read_head().await else { return };
        let mut line = head.first_line.splitn(3, ' ').map(str::to_owned);
        let (Some(method), Some(target), Some(version)) = (line.next(), line.next(), line.next()) else { return };
        let mut seen =
            Seen { method, target, version, headers: head.headers, body: vec![], trailers: vec![], connection };
        let path = seen.target.split('?').next().unwrap_or_default().to_owned();
        number += 1;
        let mut behaviour = if path == "/healthz" {
            state.probes.fetch_add(1, Ordering::SeqCst);
            Behaviour::Status(if *state.healthy.borrow() { 200 } else { 503 })
        } else {
            let next = state.next.lock().unwrap().pop_front();
            let by_path = || state.by_path.lock().unwrap().get(&path).cloned();
            next.or_else(by_path).unwrap_or_else(|| state.default.lock().unwrap().clone())
        };
        if let Behaviour::HoldBody(then) = behaviour {
            held(state).await;
            behaviour = *then;
        }
        if let Behaviour::Early(status) = behaviour {
            if wire.write_all(plain(state, status).as_slice()).await.is_err() {
                return;
            }
        } else if seen.header("expect").iter().any(|value| value.eq_ignore_ascii_case("100-continue"))
            && wire.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err()
        {
            return;
        }
        let Ok((body, trailers)) = wire.read_request_body(&seen.headers).await else { return };
        (seen.body, seen.trailers) = (body, trailers);
        if path != "/healthz" {
            state.requests.fetch_add(1, Ordering::SeqCst);
            let mut remembered = state.seen.lock().unwrap();
            if remembered.len() == REMEMBERED {
                remembered.pop_front();
            }
            remembered.push_back(seen.clone());
        }
        let close = seen.header("connection").iter().any(|value| value.to_ascii_lowercase().contains("close"));
        match answer(behaviour, &seen, number, &mut wire, state).await {
            Next::Keep if !close => {}
            Next::Keep | Next::End => return,
            Next::Reset => return reset(wire.into_stream()),
        }
    }
}

enum Next {
    Keep,
    End,
    Reset,
}

async fn answer(mut behaviour: Behaviour, seen: &Seen, number: usize, wire: &mut Wire, state: &State) -> Next {
    loop {
        behaviour = match behaviour {
            Behaviour::Delay(while_, then) => {
                tokio::time::sleep(while_).await;
                *then
            }
            Behaviour::Hold(then) | Behaviour::HoldBody(then) => {
                held(state).await;
                *then
            }
            Behaviour::WebSocket if !upgrades(seen) => Behaviour::Echo,
            other => break behaviour = other,
        };
    }
    let bytes = match behaviour {
        Behaviour::Echo => echo(state, seen, number),
        Behaviour::Status(status) => plain(state, status),
        Behaviour::Answer { status, headers, body } => {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            response(state, status, &headers, &body, seen.method == "HEAD")
        }
        Behaviour::Raw(bytes) => {
            let _ = wire.write_all(&bytes).await;
            return Next::End;
        }
        Behaviour::RawKept(bytes) => bytes,
        Behaviour::Reset => return Next::Reset,
        Behaviour::Close => return Next::End,
        Behaviour::CutBody { declared, sent, reset } => {
            let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {declared}\r\n\r\n").into_bytes();
            bytes.resize(bytes.len() + sent, b'x');
            let _ = wire.write_all(&bytes).await;
            return if reset { Next::Reset } else { Next::End };
        }
        Behaviour::Stream { chunks, pause, trailers } => return stream(&chunks, pause, &trailers, wire, state).await,
        Behaviour::WebSocket => return websocket(wire, seen.connection, state).await,
        // Answered before its body was read.
        Behaviour::Early(_) => return Next::Keep,
        Behaviour::Delay(..) | Behaviour::Hold(_) | Behaviour::HoldBody(_) => unreachable!("unwrapped above"),
    };
    if wire.write_all(&bytes).await.is_ok() { Next::Keep } else { Next::End }
}

async fn held(state: &State) {
    let mut released = state.released.subscribe();
    let _ = released.changed().await;
}

fn upgrades(seen: &Seen) -> bool {
    seen.header("upgrade").iter().any(|value| value.eq_ignore_ascii_case("websocket"))
}

fn echo(state: &State, seen: &Seen, number: usize) -> Vec<u8> {
    let body = json!({
        "service": state.name,
        "version": state.version,
        "method": seen.method,
        "target": seen.target,
        "headers": seen.headers,
        "body": String::from_utf8_lossy(&seen.body),
        "trailers": seen.trailers,
        "connection": seen.connection,
        "request": number,
    });
    let head = seen.method == "HEAD";
    response(state, 200, &[("content-type", "application/json")], body.to_string().as_bytes(), head)
}

fn plain(state: &State, status: u16) -> Vec<u8> {
    response(state, status, &[("content-type", "text/plain")], format!("{status}\n").as_bytes(), false)
}

fn response(state: &State, status: u16, headers: &[(&str, &str)], body: &[u8], head_only: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n{SERVED_BY}: {}/{}\r\n", state.name, state.version);
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    // RFC 9110, 15.3.5 and 15.4.5: these have no body.
    let bodiless = matches!(status, 100..=199 | 204 | 304);
    if !bodiless {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if !bodiless && !head_only {
        bytes.extend_from_slice(body);
    }
    bytes
}

async fn stream(chunks: &[Bytes], pause: Duration, trailers: &[(&str, &str)], wire: &mut Wire, state: &State) -> Next {
    let mut head = format!(
        "HTTP/1.1 200 OK\r\n{SERVED_BY}: {}/{}\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n",
        state.name, state.version
    );
    if !trailers.is_empty() {
        let names: Vec<_> = trailers.iter().map(|(name, _)| *name).collect();
        head.push_str(&format!("trailer: {}\r\n", names.join(", ")));
    }
    head.push_str("\r\n");
    if wire.write_all(head.as_bytes()).await.is_err() {
        return Next::End;
    }
    for chunk in chunks {
        let mut bytes = format!("{:x}\r\n", chunk.len()).into_bytes();
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        if wire.write_all(&bytes).await.is_err() {
            return Next::End;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    let mut end = "0\r\n".to_owned();
    for (name, value) in trailers {
        end.push_str(&format!("{name}: {value}\r\n"));
    }
    end.push_str("\r\n");
    if wire.write_all(end.as_bytes()).await.is_ok() { Next::Keep } else { Next::End }
}

async fn websocket(wire: &mut Wire, connection: usize, state: &State) -> Next {
    let heard = |bytes: &[u8]| {
        state.heard.lock().unwrap().entry(connection).or_default().extend_from_slice(bytes);
    };
    let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    if wire.write_all(head).await.is_err() {
        return Next::End;
    }
    let early = wire.take_buffered();
    heard(&early);
    let stream = wire.stream();
    if !early.is_empty() && stream.write_all(&early).await.is_err() {
        return Next::End;
    }
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => {
                let _ = stream.shutdown().await;
                return Next::End;
            }
            Ok(read) => {
                heard(&buffer[..read]);
                if stream.write_all(&buffer[..read]).await.is_err() {
                    return Next::End;
                }
            }
            Err(_) => return Next::End,
        }
    }
}

/// Ends a connection with RST.
pub fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
