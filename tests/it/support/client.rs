//! A small HTTP/1.1 client on the bare socket: exact bytes out, exact bytes in.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// No exchange of a test takes longer; one that does hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A start line and the headers after it.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub first_line: String,
    /// In order; names as they came.
    pub headers: Vec<(String, String)>,
}

/// A response as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// In order; names as they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The first value of a header, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    /// All values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// `NAME/VERSION` of the [`super::origin::Origin`] that answered.
    pub fn served_by(&self) -> &str {
        self.header(super::origin::SERVED_BY).unwrap_or_default()
    }

    /// Whether the connection ends with this answer.
    pub fn closes(&self) -> bool {
        self.values("connection").iter().any(|value| value.to_ascii_lowercase().contains("close"))
    }
}

/// A request to write.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    host: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), host: None, headers: vec![], body: None }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// The Host header; without it the address is sent.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        self.header_bytes(name, value.as_bytes())
    }

    /// A header whose value may be any bytes.
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body, sent with its Content-Length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The request's bytes for a server at this address.
    pub fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let host = self.host.clone().unwrap_or_else(|| address.to_string());
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: ").as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it on a connection of its own.
    #[track_caller]
    pub fn send(self, address: SocketAddr) -> impl Future<Output = Answer> {
        let caller = std::panic::Location::caller();
        async move {
            self.try_send(address)
                .await
                .unwrap_or_else(|error| panic!("{caller}: {} {}: {error}", self.method, self.target))
        }
    }

    /// As [`Self::send`], with the error of a connection that gave no answer.
    pub async fn try_send(&self, address: SocketAddr) -> io::Result<Answer> {
        let mut connection = Connection::open(address).await?;
        connection.exchange(self).await
    }
}

/// GET on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, target: &str) -> impl Future<Output = Answer> {
    Request::get(target).send(address)
}

/// Sends these bytes and returns all that comes until the server closes (or, after [`PATIENCE`], so far).
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut connection = Connection::open(address).await.unwrap();
    // A server that has refused the beginning need not take the rest: what it says tells.
    let _ = connection.send(bytes).await;
    connection.read_to_end().await
}

/// A kept connection of a client.
pub struct Connection {
    pub address: SocketAddr,
    wire: Wire,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = patient(TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { address, wire: Wire::new(stream) })
    }

    /// Over this stream.
    pub fn over(stream: TcpStream) -> Self {
        Self { address: stream.peer_addr().unwrap(), wire: Wire::new(stream) }
    }

    /// Writes these bytes, whatever they are.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        patient(self.wire.write_all(bytes)).await
    }

    /// Writes a request and reads its answer.
    pub async fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        self.send(&request.bytes(self.address)).await?;
        self.answer(&request.method).await
    }

    /// Reads an answer to a request of this method, past 1xx ones (but 101).
    pub async fn answer(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let answer = patient(self.wire.read_answer(method)).await?;
            if !matches!(answer.status, 100 | 102..=199) {
                return Ok(answer);
            }
        }
    }

    /// Reads one answer head, 1xx included, and nothing of its body.
    pub async fn head(&mut self) -> io::Result<Head> {
        patient(self.wire.read_head()).await
    }

    /// Reads one chunk of an answer's body; empty at its end.
    pub async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        patient(self.wire.chunk()).await
    }

    /// Reads some bytes past what HTTP reading took; empty at the end.
    pub async fn read_some(&mut self) -> io::Result<Vec<u8>> {
        patient(self.wire.read_some()).await
    }

    /// Reads exactly this many bytes.
    pub async fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        patient(self.wire.take(count)).await
    }

    /// All that comes until the server closes or resets.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(some) = self.read_some().await {
            if some.is_empty() {
                break;
            }
            all.extend(some);
        }
        all
    }

    /// Ends the sending half.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.wire.stream().shutdown().await
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        super::origin::reset(self.wire.into_stream());
    }
}

async fn patient<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing for {PATIENCE:?}"))))
}

/// A socket and what was read of it but not used yet; reads HTTP/1.1 messages of either side.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Buffered bytes, else what comes next; empty at the end.
    pub async fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.take_buffered())
    }

    /// Reads more into the buffer; returns how much (0 at the end).
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(16 * 1024);
        self.stream.read_buf(&mut self.buffer).await
    }

    async fn fill_some(&mut self, what: &str) -> io::Result<()> {
        if self.fill().await? == 0 {
            let text = format!("closed {what} (so far: {:?})", String::from_utf8_lossy(&self.buffer));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(())
    }

    pub async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill_some("within a body").await?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line().await?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let chunk = self.take(size).await?;
        self.line().await?;
        Ok(chunk)
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill_some("within a line").await?;
        }
    }

    pub async fn read_head(&mut self) -> io::Result<Head> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.fill_some("before the end of a head").await?;
        };
        let bytes: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':')).map(pair).collect();
        Ok(Head { first_line, headers })
    }

    pub async fn read_request_body(
        &mut self,
        headers: &[(String, String)],
    ) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        if is_chunked(headers) {
            return self.read_chunks().await;
        }
        let length = content_length(headers).unwrap_or(0);
        Ok((self.take(length).await?, vec![]))
    }

    /// Reads one whole answer, also a 1xx one.
    pub async fn read_answer(&mut self, method: &str) -> io::Result<Answer> {
        let head = self.read_head().await?;
        let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head.first_line.clone()))?;
        let mut answer = Answer { status, headers: head.headers, ..Answer::default() };
        if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            return Ok(answer);
        }
        if is_chunked(&answer.headers) {
            (answer.body, answer.trailers) = self.read_chunks().await?;
        } else if let Some(length) = content_length(&answer.headers) {
            answer.body = self.take(length).await?;
        } else {
            while self.fill().await? > 0 {}
            answer.body = self.take_buffered();
        }
        Ok(answer)
    }

    async fn read_chunks(&mut self) -> io::Result<(Vec<u8>, Vec<(String, String)>)> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("chunk size `{line}`")))?;
            if size == 0 {
                break;
            }
            body.extend(self.take(size).await?);
            self.line().await?;
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok((body, trailers));
            }
            trailers.extend(line.split_once(':').map(pair));
        }
    }
}

fn pair((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.trim().to_owned())
}

fn is_chunked(headers: &[(String, String)]) -> bool {
    headers.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("transfer-encoding") && value.to_ascii_lowercase().contains("chunked")
    })
}

fn content_length(headers: &[(String, String)]) -> Option<usize> {
    let (_, value) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    value.parse().ok()
}
