//! A small DNS server on a free port of 127.0.0.1: it answers what the test says, over UDP and over TCP; or over UDP alone,
//! where it cuts what is too long without a word.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Said {
    /// Addresses, by their time to live in seconds.
    A(u32, Vec<Ipv4Addr>),
    /// Priority, weight, port and host.
    Srv(u32, Vec<(u16, u16, u16, &'static str)>),
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL.
    Failure,
    /// Nothing at all.
    Silence,
}

/// A running server; ends when dropped.
pub struct DnsServer {
    address: SocketAddr,
    said: Arc<Mutex<BTreeMap<String, Said>>>,
    asked: Arc<AtomicUsize>,
    asked_over_tcp: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

const A: u16 = 1;
const SRV: u16 = 33;
const NAME_ERROR: u8 = 3;
/// RFC 1035, 4.2.1.
const LONGEST_OVER_UDP: usize = 512;
/// How many of the addresses of a name stay where answers are cut without a word.
const CUT: usize = 20;
const TRUNCATED: u8 = 2;
const SERVER_FAILURE: u8 = 2;

impl DnsServer {
    pub async fn start() -> Self {
        let (socket, listener) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            // The same port of the other protocol may be another's.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let said = Arc::<Mutex<BTreeMap<String, Said>>>::default();
        let (asked, asked_over_tcp) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let udp = tokio::spawn(serve(socket, Arc::clone(&said), Arc::clone(&asked), false));
        let tcp = tokio::spawn(serve_tcp(listener, Arc::clone(&said), Arc::clone(&asked_over_tcp)));
        Self { address, said, asked, asked_over_tcp, tasks: vec![udp, tcp] }
    }

    /// Over TCP connections are refused, and of many addresses each answer tells another part.
    pub async fn start_without_tcp() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let said = Arc::<Mutex<BTreeMap<String, Said>>>::default();
        let (asked, asked_over_tcp) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let udp = tokio::spawn(serve(socket, Arc::clone(&said), Arc::clone(&asked), true));
        Self { address, said, asked, asked_over_tcp, tasks: vec![udp] }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is said of a name from now on; of others: NXDOMAIN.
    pub fn say(&self, name: &str, said: Said) {
        self.said.lock().unwrap().insert(name.to_owned(), said);
    }

    /// Questions over TCP so far.
    pub fn asked_over_tcp(&self) -> usize {
        self.asked_over_tcp.load(Ordering::SeqCst)
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst) + self.asked_over_tcp()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(socket: UdpSocket, said: Arc<Mutex<BTreeMap<String, Said>>>, asked: Arc<AtomicUsize>, cuts: bool) {
    let mut buffer = [0; 1500];
    loop {
        let Ok((size, client)) = socket.recv_from(&mut buffer).await else { continue };
        let turn = asked.fetch_add(1, Ordering::SeqCst);
        let Some((name, end)) = question(&buffer[..size]) else { continue };
        let mut what = said.lock().unwrap().get(&name).cloned().unwrap_or(Said::NoSuchName);
        if let (Said::A(_, all), true) = (&mut what, cuts) {
            let first = (turn * 7) % all.len();
            all.rotate_left(first);
            all.truncate(CUT);
        }
        if let Some(mut answer) = answer(&buffer[..end], &what) {
            if answer.len() > LONGEST_OVER_UDP {
                // The question alone, and that more is to be had.
                answer.truncate(end);
                answer[2] |= TRUNCATED;
                answer[6..8].copy_from_slice(&[0, 0]);
            }
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, said: Arc<Mutex<BTreeMap<String, Said>>>, asked: Arc<AtomicUsize>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let (said, asked) = (Arc::clone(&said), Arc::clone(&asked));
        tokio::spawn(async move {
            // RFC 1035, 4.2.2: every message after its length.
            while let Ok(size) = stream.read_u16().await {
                let mut message = vec![0; size.into()];
                if stream.read_exact(&mut message).await.is_err() {
                    return;
                }
                asked.fetch_add(1, Ordering::SeqCst);
                let Some((name, end)) = question(&message) else { return };
                let what = said.lock().unwrap().get(&name).cloned().unwrap_or(Said::NoSuchName);
                let Some(answer) = answer(&message[..end], &what) else { continue };
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                if stream.write_all(&[&length[..], &answer].concat()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The name of the first question, and where the question ends.
fn question(message: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at + 4));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

/// RFC 1035, 4.1: the header and question that came, and the records; names in records point at the question.
fn answer(question: &[u8], said: &Said) -> Option<Vec<u8>> {
    let kind = u16::from_be_bytes(question[question.len() - 4..question.len() - 2].try_into().unwrap());
    let (mut records, mut code): (Vec<(u32, Vec<u8>)>, u8) = (Vec::new(), 0);
    match said {
        Said::A(ttl, all) if kind == A => records.extend(all.iter().map(|ip| (*ttl, ip.octets().to_vec()))),
        Said::Srv(ttl, all) if kind == SRV => {
            records.extend(all.iter().map(|(priority, weight, port, host)| {
                let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
                for label in host.split('.') {
                    data.push(label.len() as u8);
                    data.extend_from_slice(label.as_bytes());
                }
                data.push(0);
                (*ttl, data)
            }));
        }
        Said::A(..) | Said::Srv(..) => {}
        Said::NoSuchName => code = NAME_ERROR,
        Said::Failure => code = SERVER_FAILURE,
        Said::Silence => return None,
    }
    let mut message = question.to_vec();
    // An answer of one that is asked by right, and asks others; then the counts of the four sections.
    message[2..4].copy_from_slice(&[0x85, 0x80 | code]);
    let count = (records.len() as u16).to_be_bytes();
    message[4..12].copy_from_slice(&[0, 1, count[0], count[1], 0, 0, 0, 0]);
    for (ttl, data) in records {
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(&ttl.to_be_bytes());
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(&data);
    }
    Some(message)
}
