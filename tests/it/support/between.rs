//! The network between the members of an etcd, which can be cut.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::etcd::Etcd;

/// The network between members: each reaches the others through it, and one can be cut off from all others while
/// its clients still reach it. Members say in each request to another who they are.
pub struct Between {
    /// The member that is cut off: its id and where it listens for others.
    apart: watch::Sender<Option<(u64, SocketAddr)>>,
    running: CancellationToken,
}

impl Between {
    /// A whole network.
    pub fn new() -> Self {
        Self { apart: watch::Sender::new(None), running: CancellationToken::new() }
    }

    /// Where others reach the member that listens for them at `server`.
    pub async fn before(&self, server: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (apart, running) = (self.apart.subscribe(), self.running.clone());
        tokio::spawn(running.run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(link(client, server, apart.clone()));
            }
        }));
        address
    }

    /// Cuts a member off from the others.
    pub async fn isolate(&self, member: &Etcd) {
        self.apart.send_replace(Some((member.id().await, member.peer_address())));
    }

    /// Joins it with the others again.
    pub fn join(&self) {
        self.apart.send_replace(None);
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.running.cancel();
    }
}

/// A connection from one member to another, until one of both is cut off.
async fn link(mut client: TcpStream, server: SocketAddr, mut apart: watch::Receiver<Option<(u64, SocketAddr)>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
            continue;
        }
        return;
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let from = text.lines().find_map(|line| line.strip_prefix("x-server-from: "));
    let from = from.and_then(|id| u64::from_str_radix(id.trim(), 16).ok());
    let passing = async {
        let Ok(mut server) = TcpStream::connect(server).await else { return };
        if server.write_all(&head).await.is_ok() {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    };
    let cut = async {
        let concerns =
            |apart: &Option<(u64, SocketAddr)>| apart.is_some_and(|(id, at)| from == Some(id) || server == at);
        let _ = apart.wait_for(concerns).await;
    };
    tokio::select! {
        biased;
        () = cut => {}
        () = passing => {}
    }
}
