//! Loopback addresses, ports and mounts of one's own.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use rand::RngExt as _;

/// Below the ports that the kernel gives to outgoing connections and to port 0, so that a server that is
/// restarted finds its own free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A loopback address that no other test uses (one of 16 million).
pub fn fresh_address() -> IpAddr {
    let mut random = rand::rng();
    IpAddr::V4(Ipv4Addr::new(127, random.random_range(1..=254), random.random(), random.random_range(1..=254)))
}

/// Ports of `address` that are free for TCP and UDP.
pub fn free_ports<const N: usize>(address: IpAddr) -> [u16; N] {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        *port = (0..1_000)
            .find_map(|_| {
                let candidate = SocketAddr::new(address, rand::rng().random_range(PORTS));
                let sockets = (TcpListener::bind(candidate).ok()?, UdpSocket::bind(candidate).ok()?);
                held.push(sockets);
                Some(candidate.port())
            })
            .unwrap_or_else(|| panic!("no free port on {address}"));
    }
    ports
}

/// A loopback socket address where nothing listens: connections to it are refused.
pub fn refusing() -> SocketAddr {
    let address = fresh_address();
    let [port] = free_ports(address);
    SocketAddr::new(address, port)
}

/// Root of a mount namespace of one's own, as a user of one's own where we are not root.
const OWN_MOUNTS: [&[&str]; 2] = [&["--mount"], &["--map-root-user", "--mount"]];

/// How `unshare` gives a process mounts of its own; `None` (said aloud) where the system does not let us.
pub fn own_mounts() -> Option<&'static [&'static str]> {
    let lets = |flags: &&&[&str]| {
        let tried = Command::new("unshare").args(**flags).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let found = OWN_MOUNTS.iter().find(lets);
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Past the test harness's capture: a skip must be seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: nobody may mount here (unshare --map-root-user --mount)");
    }
    found.copied()
}

/// A command with mounts of its own, which these commands of a shell make.
pub fn with_mounts(commands: &str, command: &Command) -> Command {
    let mut with = Command::new("unshare");
    with.args(own_mounts().expect("asked before"));
    behind(with, commands, command)
}

/// A command in a process that has obeyed these commands of a shell.
pub fn after(commands: &str, command: &Command) -> Command {
    behind(Command::new("env"), commands, command)
}

fn behind(mut with: Command, commands: &str, command: &Command) -> Command {
    with.args(["sh", "-ec"]);
    with.arg(format!("{commands}\nexec \"$0\" \"$@\"")).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => with.env(key, value),
            None => with.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        with.current_dir(folder);
    }
    with
}

/// A loopback address where connections are neither made nor refused, as those to a machine that is gone.
pub struct Full {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<TcpStream>,
}

/// An address whose listener takes no connection any more.
pub async fn full() -> Full {
    tokio::task::spawn_blocking(|| {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
        let waiting = std::iter::from_fn(connect).take(1_000).collect();
        assert!(connect().is_none(), "{address} takes every connection");
        Full { address, _listener: listener, _waiting: waiting }
    })
    .await
    .unwrap()
}
