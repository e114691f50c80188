//! A client of HTTP/2 on the bare socket: the frames it is told to send, good or bad (RFC 9113, 4 and 6).

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// A whole GET of `path` at `a.example`.
    pub fn get(stream: u32, path: &str) -> Self {
        // `:method: GET`, `:scheme: http`, then `:authority` and `:path` as literals (RFC 7541, 6 and A).
        let mut block = vec![0x82, 0x86, 0x01, 9];
        block.extend_from_slice(b"a.example");
        block.extend([0x04, u8::try_from(path.len()).unwrap()]);
        block.extend_from_slice(path.as_bytes());
        Self::new(HEADERS, END_STREAM | END_HEADERS, stream, block)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A connection.
pub struct Frames(pub TcpStream);

impl Frames {
    /// Begins a connection with these settings: pairs of id and value.
    pub async fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self(TcpStream::connect(address).await.unwrap());
        frames.begin(settings).await;
        frames
    }

    /// Says the first words.
    pub async fn begin(&mut self, settings: &[(u16, u32)]) {
        self.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let pairs = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        self.send(&Frame::new(SETTINGS, 0, 0, pairs.collect::<Vec<_>>())).await.unwrap();
    }

    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        timeout(PATIENCE, self.0.write_all(&frame.bytes())).await?
    }

    /// The next frame; `None` at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Ok::<_, io::Error>(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        timeout(PATIENCE, read).await.expect("a frame or the end").ok()
    }

    /// The next frame of a kind; what comes before is dropped, settings and pings are acknowledged.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.flags & ACK == 0 && matches!(frame.kind, SETTINGS | PING) {
                let payload = if frame.kind == PING { frame.payload.clone() } else { Vec::new() };
                let _ = self.send(&Frame::new(frame.kind, ACK, 0, payload)).await;
            }
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}
