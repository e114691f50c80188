//! Defines how listeners are bound: one socket a worker on one address, and no second instance by mistake.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// The sockets of one listener, one a worker.
#[derive(Debug)]
pub struct Bound {
    /// The address, with the port the system chose when 0 was asked for.
    pub address: SocketAddr,
    /// Listening, non-blocking.
    pub sockets: Vec<TcpListener>,
}

/// Connections waiting to be accepted, for each socket; the system's own limit applies too.
const BACKLOG: i32 = 4096;

/// After a minute without a byte the system asks whether the other side is still there; a minute later it is gone.
pub(super) fn alive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4)
}

/// What the system has taken of a response and the client does not take is kept for so long, at least: without a bound a
/// client that confirms and reads nothing would have it for ever. It bounds the questions of [`alive`], too, so that it is
/// no less than these take.
const TAKEN_WITHIN: Duration = Duration::from_secs(120);

/// Bytes of responses that the system takes beyond what is on its way. Else it takes megabytes for each client that reads
/// nothing.
const TAKEN_AHEAD: u32 = 128 * 1024;

/// Binds an address for a number of workers. `idle_timeout`: how long a client may take nothing of a response.
///
/// # Errors
/// The system's; `AddrInUse` when another process serves this address, also one that shares it willingly.
pub fn bind(address: SocketAddr, workers: usize, idle_timeout: Duration) -> io::Result<Bound> {
    if address.port() != 0 {
        // Without SO_REUSEPORT first: it would let a second instance take half of the connections.
        socket(address, false, idle_timeout)?;
    }
    let first = socket(address, true, idle_timeout)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(socket(address, true, idle_timeout)?);
    }
    let sockets = sockets
        .into_iter()
        .map(|socket| {
            socket.listen(BACKLOG)?;
            Ok(TcpListener::from(socket))
        })
        .collect::<io::Result<_>>()?;
    Ok(Bound { address, sockets })
}

fn socket(address: SocketAddr, shared: bool, idle_timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` serves IPv4 too, whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it. A client that lost its power says nothing, and a WebSocket would be kept for ever.
    socket.set_tcp_keepalive(&alive())?;
    socket.set_tcp_notsent_lowat(TAKEN_AHEAD)?;
    socket.set_tcp_user_timeout(Some(idle_timeout.max(TAKEN_WITHIN)))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_are_asked_whether_they_live_and_take_what_is_sent() {
        let bound = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, Duration::from_secs(150)).expect("a free port");
        let _client = std::net::TcpStream::connect(bound.address).expect("to connect");
        bound.sockets[0].set_nonblocking(false).expect("a socket");
        let (accepted, _) = bound.sockets[0].accept().expect("a connection");
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.keepalive().expect("an option"));
        assert_eq!(accepted.tcp_notsent_lowat().expect("an option"), TAKEN_AHEAD);
        assert_eq!(accepted.tcp_user_timeout().expect("an option"), Some(Duration::from_secs(150)));
    }

    #[test]
    fn a_second_instance_fails() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(any, 2, Duration::ZERO).expect("a free port");
        assert_eq!(first.sockets.len(), 2);
        assert_ne!(first.address.port(), 0);
        let second = bind(first.address, 2, Duration::ZERO).expect_err("taken");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
    }
}
