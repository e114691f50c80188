//! A TCP proxy that fails as networks do: holds, cuts, refuses, delays. Stands before a registry or a service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::origin::reset;

/// What the proxy does; a change acts at once on open connections too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything.
    Pass,
    /// Accepts and keeps connections, and passes nothing either way: a black hole.
    Hold,
    /// Passes everything after a while.
    Delay(Duration),
    /// Resets new connections; open ones pass.
    Refuse,
    /// Cuts each connection after this many bytes from the server, counted from when the mode was set.
    CutAfter(usize),
}

/// A proxy; ends with its connections when dropped.
pub struct Proxy {
    address: SocketAddr,
    server: watch::Sender<SocketAddr>,
    mode: watch::Sender<Mode>,
    cut: watch::Sender<u64>,
    accepted: Arc<AtomicUsize>,
    running: CancellationToken,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 before `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            server: watch::Sender::new(server),
            mode: watch::Sender::new(Mode::Pass),
            cut: watch::Sender::new(0),
            accepted: Arc::default(),
            running: CancellationToken::new(),
        };
        let (server, mode, cut) = (proxy.server.subscribe(), proxy.mode.subscribe(), proxy.cut.subscribe());
        let (accepted, running) = (proxy.accepted.clone(), proxy.running.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    stream = listener.accept() => stream,
                    () = running.cancelled() => return,
                };
                let Ok((client, _)) = stream else { continue };
                accepted.fetch_add(1, Ordering::SeqCst);
                if *mode.borrow() == Mode::Refuse {
                    reset(client);
                    continue;
                }
                let (server, mode, mut cut, running) = (*server.borrow(), mode.clone(), cut.clone(), running.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = connection(client, server, mode) => {}
                        _ = cut.changed() => {}
                        () = running.cancelled() => {}
                    }
                });
            }
        });
        proxy
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Stands before another server from now on, and cuts every connection to the one before.
    pub fn lead_to(&self, server: SocketAddr) {
        self.server.send_replace(server);
        self.cut();
    }

    /// Cuts every open connection; new ones are served.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.cancel();
    }
}

async fn connection(client: TcpStream, server: SocketAddr, mut mode: watch::Receiver<Mode>) {
    // In a black hole not even the connection behind it comes about.
    if mode.wait_for(|mode| *mode != Mode::Hold).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return reset(client) };
    for stream in [&client, &server] {
        // Whatever ends this ends it with RST, as a cut does.
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = tokio::spawn(pass(from_client, to_server, mode.clone(), false));
    let up_ends = CancelOnDrop(up.abort_handle());
    let ended_well = pass(from_server, to_client, mode, true).await;
    if ended_well {
        let _ = up.await;
    }
    drop(up_ends);
}

struct CancelOnDrop(tokio::task::AbortHandle);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Copies one way; false when cut.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>, counts: bool) -> bool {
    let mut buffer = vec![0; 16 * 1024];
    let mut left: Option<usize> = None;
    mode.mark_changed();
    loop {
        let read = from.read(&mut buffer).await;
        let Ok(read) = read else { return false };
        if mode.wait_for(|mode| *mode != Mode::Hold).await.is_err() {
            return false;
        }
        let now = *mode.borrow();
        let mut pass = read;
        match now {
            Mode::Delay(while_) => tokio::time::sleep(while_).await,
            Mode::CutAfter(bytes) if counts => {
                let allowed = left.get_or_insert(bytes);
                pass = read.min(*allowed);
                *allowed -= pass;
            }
            _ => left = None,
        }
        if read == 0 {
            return to.shutdown().await.is_ok();
        }
        if to.write_all(&buffer[..pass]).await.is_err() || pass < read || left == Some(0) {
            return false;
        }
    }
}
