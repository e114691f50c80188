//! A service that reads its requests to the letter (RFC 9112, 2 to 7), and keeps what it read or why it could not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request that can be read in one way only.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// What came instead.
type Problem = String;

/// How the problem of a message begins that its connection did not outlive.
pub(super) const UNFINISHED: &str = "ended within a message";

/// A running service.
pub(super) struct Strict {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    bytes: AtomicUsize,
    messages: Mutex<Vec<Result<Message, Problem>>>,
}

impl Strict {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<State>::default());
        let own = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&own)));
            }
        });
        Self { address, state }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many bytes ever came.
    pub(super) fn bytes(&self) -> usize {
        self.state.bytes.load(Ordering::SeqCst)
    }

    /// What came since the last time, in order.
    pub(super) fn take(&self) -> Vec<Result<Message, Problem>> {
        std::mem::take(&mut *self.state.messages.lock().unwrap())
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut buffer = Vec::new();
    loop {
        match read(&buffer) {
            Ok(Some((message, length))) => {
                buffer.drain(..length);
                state.messages.lock().unwrap().push(Ok(message));
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(problem) => {
                let problem = format!("{problem}: {:?}", String::from_utf8_lossy(&buffer));
                return state.messages.lock().unwrap().push(Err(problem));
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(read @ 1..) => drop(state.bytes.fetch_add(read, Ordering::SeqCst)),
            Ok(0) | Err(_) if buffer.is_empty() => return,
            Ok(0) | Err(_) => {
                let problem = format!("{UNFINISHED}: {:?}", String::from_utf8_lossy(&buffer));
                return state.messages.lock().unwrap().push(Err(problem));
            }
        }
    }
}

/// The first message, and its length; nothing while it is not complete.
fn read(buffer: &[u8]) -> Result<Option<(Message, usize)>, &'static str> {
    let Some(end) = find(buffer, b"\r\n\r\n") else { return Ok(None) };
    let head = &buffer[..end];
    let mut lines = split(head);
    let first = String::from_utf8(lines.next().unwrap_or_default()).map_err(|_| "a request line beyond ASCII")?;
    let parts: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err("a request line that is none") };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("a method that is none");
    }
    if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err("a target that is none");
    }
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a line without a colon")?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err("a header name that is none");
        }
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("a control byte in a header");
        }
        headers.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii().to_vec()));
    }
    let values = |name: &str| -> Vec<&[u8]> {
        headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
    };
    if values("host").len() != 1 {
        return Err("not one Host");
    }
    // What a lenient reader could take for another framing.
    let alike = |name: &str, letters: &str| {
        let read: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        read == letters && !["content-length", "transfer-encoding"].contains(&name)
    };
    if headers.iter().any(|(name, _)| alike(name, "contentlength") || alike(name, "transferencoding")) {
        return Err("a header that is almost one of framing");
    }
    let body = end + 4;
    let (content, length) = match (&values("transfer-encoding")[..], &values("content-length")[..]) {
        ([], []) => (Vec::new(), 0),
        ([], [digits]) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let length: usize = String::from_utf8_lossy(digits).parse().map_err(|_| "a length beyond reason")?;
            let Some(content) = buffer[body..].get(..length) else { return Ok(None) };
            (content.to_vec(), length)
        }
        ([b"chunked"], []) => match chunks(&buffer[body..])? {
            None => return Ok(None),
            Some(chunks) => chunks,
        },
        _ => return Err("a framing in doubt"),
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Some((Message { method, target, headers, body: content }, body + length)))
}

/// The content of a chunked body without extensions or trailers, which the gateway has no reason to send here.
fn chunks(buffer: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = find(&buffer[at..], b"\r\n") else { return Ok(None) };
        let digits = &buffer[at..at + line];
        if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("a chunk size that is none");
        }
        let size =
            usize::from_str_radix(&String::from_utf8_lossy(digits), 16).map_err(|_| "a chunk size beyond reason")?;
        at += line + 2;
        let Some(chunk) = buffer.get(at..at + size + 2) else { return Ok(None) };
        let (chunk, end) = chunk.split_at(size);
        if end != b"\r\n" {
            return Err("a chunk of another size");
        }
        content.extend_from_slice(chunk);
        at += size + 2;
        if size == 0 {
            return Ok(Some((content, at)));
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn find(buffer: &[u8], what: &[u8]) -> Option<usize> {
    buffer.windows(what.len()).position(|window| window == what)
}

/// The lines of a head; one that holds a bare CR or LF shows it, as a control byte.
fn split(head: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let text = rest?;
        let (line, after) = match find(text, b"\r\n") {
            Some(end) => (&text[..end], Some(&text[end + 2..])),
            None => (text, None),
        };
        rest = after;
        Some(line.to_vec())
    })
}
