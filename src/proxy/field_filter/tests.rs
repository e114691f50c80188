//! The filter with h2 behind it: what a client encodes in every way comes out as it was meant, beside what is malformed.

use bytes::Bytes;
use http::Request;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::hpack::{Form, Text, put_indexed, put_literal, put_named, put_resize};
use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const LIMIT: usize = 64 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A section's frames, cut behind each of these many bytes.
fn section(stream: u32, flags: u8, block: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut frames, mut rest, mut kind, mut flags) = (Vec::new(), block, HEADERS, flags);
    for cut in cuts {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        frames.extend(frame(kind, flags, stream, piece));
        (rest, kind, flags) = (behind, CONTINUATION, 0);
    }
    let mut pieces: Vec<&[u8]> = rest.chunks(16_384).collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        frames.extend(frame(kind, flags, stream, piece));
        (kind, flags) = (CONTINUATION, 0);
    }
    frames.extend(frame(kind, flags | END_HEADERS, stream, last));
    frames
}

/// How a field is encoded.
#[derive(Clone, Copy, Debug)]
struct Encoding {
    form: Form,
    whole: bool,
    by_name: bool,
    huffman_name: bool,
    huffman_value: bool,
}

const PLAIN: Encoding =
    Encoding { form: Form::WithoutIndexing, whole: false, by_name: false, huffman_name: false, huffman_value: false };

fn encodings() -> impl Strategy<Value = Encoding> {
    let form = prop_oneof![2 => Just(Form::Indexing), 1 => Just(Form::WithoutIndexing), 1 => Just(Form::NeverIndexed)];
    (form, any::<[bool; 4]>()).prop_map(|(form, [whole, by_name, huffman_name, huffman_value])| Encoding {
        form,
        whole,
        by_name,
        huffman_name,
        huffman_value,
    })
}

/// An entry of its table.
type Entry = (Vec<u8>, Vec<u8>);

/// A client's encoder.
#[derive(Default)]
struct Encoder {
    entries: Vec<Entry>,
    max: Option<usize>,
}

impl Encoder {
    fn size(&self) -> usize {
        self.entries.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
    }

    fn evict(&mut self, room: usize) {
        while self.size() > room && self.entries.pop().is_some() {}
    }

    fn resize(&mut self, out: &mut Vec<u8>, size: usize) {
        put_resize(out, size);
        self.max = Some(size);
        self.evict(size);
    }

    fn put(&mut self, out: &mut Vec<u8>, (name, value): (&[u8], &[u8]), how: Encoding) {
        let find = |fits: &dyn Fn(&Entry) -> bool| self.entries.iter().position(fits).map(|at| at + 62);
        if how.whole
            && let Some(index) = find(&|entry| entry.0 == name && entry.1 == value)
        {
            return put_indexed(out, index);
        }
        let (mut code, mut name_code) = (Vec::new(), Vec::new());
        huffman::encode(value, &mut code);
        huffman::encode(name, &mut name_code);
        let text = if how.huffman_value {
            Text { is_huffman: true, bytes: &code }
        } else {
            Text { is_huffman: false, bytes: value }
        };
        let index = find(&|entry| entry.0 == name).filter(|_| how.by_name).or(match name {
            b":method" => Some(2),
            b"content-length" => Some(28),
            b":path" if how.by_name => Some(4),
            _ => None,
        });
        match index {
            Some(index) => put_named(out, how.form, index, text),
            None if how.huffman_name => {
                // The plain form, with the name in code instead.
                let mut literal = Vec::new();
                put_literal(&mut literal, how.form, b"", text);
                out.push(literal[0]);
                let mut named = Vec::new();
                put_named(&mut named, Form::WithoutIndexing, 1, Text { is_huffman: true, bytes: &name_code });
                out.extend_from_slice(&named[1..]);
                out.extend_from_slice(&literal[2..]);
            }
            None => put_literal(out, how.form, name, text),
        }
        if how.form == Form::Indexing {
            let (size, max) = (name.len() + value.len() + 32, self.max.unwrap_or(4096));
            self.evict(max.saturating_sub(size));
            if size <= max {
                self.entries.insert(0, (name.to_vec(), value.to_vec()));
            }
        }
    }
}

/// What h2 made of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Streams and their fields; `None`: malformed.
    requests: Vec<(u32, Option<Vec<String>>)>,
    /// Streams and codes.
    resets: Vec<(u32, u32)>,
    goaway: Option<u32>,
}

fn fields(request: &Request<h2::RecvStream>) -> Option<Vec<String>> {
    if request.headers().contains_key(MALFORMED) {
        return None;
    }
    let mut fields = vec![format!("{} {}", request.method(), request.uri())];
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", text(value))));
    fields.sort();
    Some(fields)
}

async fn server(io: DuplexStream) -> Vec<(u32, Option<Vec<String>>)> {
    let mut requests = Vec::new();
    let filter = FieldFilter::new(io, Side::Client, LIMIT, PREFACE.len());
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(LIMIT as u32).max_concurrent_streams(1000);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(filter).await else { return requests };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        requests.push((u32::from(request.body().stream_id()), fields(&request)));
        let _ = respond.send_response(http::Response::new(()), true);
    }
    requests
}

/// Sends frames behind the preface, over a pipe of so many bytes; until all is read, or the connection ends.
async fn seen(frames: &[u8], pipe: usize) -> Seen {
    let (client, io) = duplex(pipe);
    let (mut read, mut write) = tokio::io::split(client);
    let writing = async move {
        let ping = frame(PING, 0, 0, b"the end.");
        for bytes in [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames, &ping] {
            if write.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    let reading = async move {
        let mut seen = Seen::default();
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                break;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            read.read_exact(&mut payload).await.unwrap();
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            match head[3] {
                RST_STREAM => seen.resets.push((stream, code(0))),
                GOAWAY => seen.goaway = Some(code(4)),
                PING if payload == b"the end." => break,
                _ => {}
            }
        }
        seen
    };
    let both = async move {
        let ((), seen) = tokio::join!(writing, reading);
        seen
    };
    // What reads and writes goes with its end: the server sees that.
    let (requests, seen) = tokio::join!(server(io), Box::pin(both));
    Seen { requests, ..seen }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

const REQUEST: [(&[u8], &[u8]); 4] =
    [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/a?b=c")];

type Field = (&'static [u8], &'static [u8]);

const SOUND: &[Field] = &[
    (b"x-a", b"1"),
    (b"x-b", b""),
    (b"x-c", b"with spaces, and \xc3\xa4"),
    (b"accept", b"*/*"),
    (b"cookie", b"a=b"),
    (b"te", b"trailers"),
    (b"x-long", &[b'v'; 700]),
    (b"x-larger-than-the-table", &[b'w'; 4500]),
];

const MALFORMED_FIELDS: &[Field] = &[
    (b"X-A", b"1"),
    (b"x-\xc3", b"1"),
    (b"a:b", b"1"),
    (b"a b", b"1"),
    (b"", b"v"),
    (b"", b""),
    (b"x-nul", b"a\0b"),
    (b"x-lf", b"a\nb"),
    (b"x-cr", b"a\r\nb: c"),
    (b"x-del", b"\x7f"),
    (b"x-edge", b" a"),
    (b"x-edge", b"a\t"),
    (b"x-edge", b" "),
    (b":unknown", b"1"),
    (b":", b""),
    (b":status", b"200"),
    (b":path", b"/again"),
    (b":Path", b"/"),
    (b"content-length", b""),
    (b"content-length", b"5x"),
    (b"content-length", b"+5"),
    (b"connection", b"close"),
    (b"transfer-encoding", b"chunked"),
    (b"te", b"gzip"),
    (MALFORMED.as_bytes(), b"no"),
];

/// What h2 gets.
fn filtered(bytes: &[u8]) -> Vec<u8> {
    let mut filter = Frames::new(Side::Client, LIMIT, 0);
    let passed = filter.take(bytes);
    [&bytes[..passed], filter.ready()].concat()
}

/// Each kind of malformed field in each encoding, cut at every byte: its stream is told of it, and nobody else.
#[test]
fn a_malformed_field_is_its_streams_affair_however_it_comes() {
    let forms = [Form::Indexing, Form::WithoutIndexing, Form::NeverIndexed];
    let heads = [(&b":method"[..], &b"GET?"[..]), (b":method", b""), (b":authority", b"\xff"), (b":path", b"/\0")];
    for bad in MALFORMED_FIELDS.iter().copied().chain(heads) {
        for (form, huffman) in forms.iter().flat_map(|form| [(*form, false), (*form, true)]) {
            let how = Encoding { form, huffman_name: huffman, huffman_value: huffman, by_name: huffman, whole: true };
            let indexing = Encoding { form: Form::Indexing, ..how };
            let (mut encoder, mut blocks) = (Encoder::default(), Vec::new());
            for stream in 0..4 {
                let mut block = Vec::new();
                let replaces = |field: &(&[u8], &[u8])| stream == 1 && bad.0 == field.0 && heads.contains(&bad);
                for field in REQUEST.iter().filter(|field| !replaces(field)) {
                    encoder.put(&mut block, *field, indexing);
                }
                encoder.put(&mut block, (b"x-before", b"1"), indexing);
                if stream == 1 && heads.contains(&bad) {
                    block.clear();
                    encoder = Encoder::default();
                    encoder.resize(&mut block, 0);
                    encoder.resize(&mut block, 4096);
                    for field in REQUEST {
                        encoder.put(&mut block, if field.0 == bad.0 { bad } else { field }, how);
                    }
                } else if stream == 1 || stream == 2 && !heads.contains(&bad) {
                    encoder.put(&mut block, bad, how);
                }
                encoder.put(&mut block, (b"x-behind", b"2"), indexing);
                blocks.push(block);
            }
            let is_head = heads.contains(&bad);
            let good = |before: &str| {
                let lines = ["GET http://a.example/a?b=c", before, "x-behind: 2"];
                Some(lines.map(str::to_owned).to_vec())
            };
            let third = if is_head { good("x-before: 1") } else { None };
            let wanted = [(1, good("x-before: 1")), (3, None), (5, third), (7, good("x-before: 1"))];
            let frames = |cuts: &[usize]| {
                let streams = blocks.iter().zip([1, 3, 5, 7]);
                let cuts = |stream| if stream == 3 { cuts } else { &[] };
                let frames = streams.map(|(block, stream)| section(stream, END_STREAM, block, cuts(stream)));
                frames.collect::<Vec<_>>().concat()
            };
            let (whole, what) = (frames(&[]), format!("{bad:?} {how:?}"));
            let found = run(seen(&whole, 1 << 20));
            assert_eq!((found.requests.as_slice(), found.goaway), (&wanted[..], None), "{what}");
            for cut in 0..=blocks[1].len() {
                assert_eq!(filtered(&frames(&[cut])), filtered(&whole), "{what} cut at {cut}");
            }
        }
    }
}

/// What comes between the bytes of malformed trailers, and of a request that was replaced, has its place.
#[test]
fn malformed_trailers_reset_their_stream() {
    let head = |stream| {
        let mut block = Vec::new();
        REQUEST.iter().for_each(|field| Encoder::default().put(&mut block, *field, PLAIN));
        section(stream, 0, &block, &[])
    };
    // What belongs to a head, too, all of it or a part, by name and by a place in the static table (RFC 9113, 8.1).
    let of_heads = REQUEST.iter().map(std::slice::from_ref).chain([&REQUEST[..], &[(b":protocol", b"websocket")]]);
    let trailers = MALFORMED_FIELDS.iter().map(std::slice::from_ref).chain(of_heads);
    for (fields, cuts, how) in trailers.flat_map(|fields| {
        let by_name = Encoding { form: Form::Indexing, by_name: true, ..PLAIN };
        [(fields, &[1][..], PLAIN), (fields, &[], PLAIN), (fields, &[], by_name)]
    }) {
        let (mut trailers, mut encoder) = (Vec::new(), Encoder::default());
        encoder.put(&mut trailers, (b"x-a", b"1"), PLAIN);
        if fields[0].0.starts_with(b":") {
            trailers.clear();
        }
        fields.iter().for_each(|field| encoder.put(&mut trailers, *field, how));
        let mut frames = [head(1), head(3), frame(DATA, 0, 1, b"body")].concat();
        frames.extend(section(1, END_STREAM, &trailers, cuts));
        frames.extend(frame(DATA, END_STREAM, 3, b"body"));
        let found = run(async {
            let (client, io) = duplex(1 << 16);
            let filter = FieldFilter::new(io, Side::Client, LIMIT, PREFACE.len());
            let serving = async {
                let mut connection = h2::server::handshake(filter).await.unwrap();
                let mut ends = Vec::new();
                let (mut bodies, mut responds) = (Vec::new(), Vec::<h2::server::SendResponse<Bytes>>::new());
                while let Some(Ok((request, respond))) = connection.accept().await {
                    responds.push(respond);
                    bodies.push(tokio::task::spawn_local(async move {
                        let mut body = request.into_body();
                        let mut size = 0;
                        while let Some(data) = body.data().await {
                            size += data.map_err(|error| error.reason())?.len();
                        }
                        body.trailers().await.map_err(|error| error.reason())?;
                        Ok::<_, Option<h2::Reason>>(size)
                    }));
                }
                for body in bodies {
                    ends.push(body.await.unwrap());
                }
                ends
            };
            let (mut read, mut write) = tokio::io::split(client);
            let sending = async {
                for bytes in [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames] {
                    write.write_all(bytes).await.unwrap();
                }
                // Until the reset has come.
                let mut came = Vec::new();
                while !came.windows(4).any(|bytes| bytes == [0, 4, RST_STREAM, 0]) {
                    let mut bytes = [0; 1024];
                    let length = read.read(&mut bytes).await.unwrap();
                    came.extend_from_slice(&bytes[..length]);
                    assert!(length > 0, "{came:?}");
                }
                drop((read, write));
            };
            let local = tokio::task::LocalSet::new();
            local.run_until(async { tokio::join!(serving, sending).0 }).await
        });
        assert_eq!(found[0], Err(Some(h2::Reason::PROTOCOL_ERROR)), "{fields:?} {how:?}");
        assert_eq!(found[1], Ok(4), "{fields:?} {how:?}");
    }
}

/// What h2 gets of a service's frames in which trailers with a field of a head are on stream 1; sound ones on stream 3.
#[test]
fn trailers_of_a_response_have_no_field_of_its_head() {
    let block = |fields: &[(&[u8], &[u8])]| {
        let mut block = Vec::new();
        fields.iter().for_each(|field| Encoder::default().put(&mut block, *field, PLAIN));
        block
    };
    let heads: [&[&[u8]]; 3] = [&[b"200"], &[b"103", b"200"], &[b"100", b"103", b"404"]];
    let bad: [&[(&[u8], &[u8])]; 4] = [
        &[(b":status", b"200")],
        &[(b":status", b"103")],
        &[(b":path", b"/")],
        &[(b":status", b"500"), (b"grpc-status", b"0")],
    ];
    for (statuses, bad) in heads.iter().flat_map(|statuses| bad.map(|bad| (statuses, bad))) {
        for cuts in [&[][..], &[1]] {
            let head = |stream| {
                let head = |status: &&[u8]| section(stream, 0, &block(&[(b":status", status), (b"x-a", b"1")]), &[]);
                statuses.iter().map(head).collect::<Vec<_>>().concat()
            };
            let sound = block(&[(b"grpc-status", b"0")]);
            let frames = |trailers: &[u8], cuts: &[usize]| {
                let (before, body) = ([head(1), head(3)].concat(), frame(DATA, 0, 3, b"body"));
                let trailers = [section(1, END_STREAM, trailers, cuts), section(3, END_STREAM, &sound, &[])].concat();
                [before, body, trailers, head(5)].concat()
            };
            let came = frames(&block(bad), cuts);
            let mut filter = Frames::new(Side::Endpoint, LIMIT, 0);
            let passed = filter.take(&came);
            let got = [&came[..passed], filter.ready()].concat();
            // h2 resets the stream for this.
            assert_eq!(got, frames(&block(&[(b"te", b"malformed")]), &[]), "{statuses:?} {bad:?} {cuts:?}");
        }
    }
}

/// An answer that ends with its head has no trailers, and its stream's number is of no other message.
#[test]
fn streams_that_ended_await_no_trailers() {
    let head = |stream, flags| {
        let mut block = Vec::new();
        Encoder::default().put(&mut block, (b":status", b"200"), PLAIN);
        section(stream, flags, &block, &[])
    };
    for end in [
        head(1, END_STREAM),
        [head(1, 0), frame(DATA, END_STREAM, 1, b"")].concat(),
        [head(1, 0), frame(RST_STREAM, 0, 1, &[0; 4])].concat(),
    ] {
        // h2 knows what to do with this one.
        let came = [end, head(1, END_STREAM)].concat();
        let mut filter = Frames::new(Side::Endpoint, LIMIT, 0);
        let passed = filter.take(&came);
        assert_eq!([&came[..passed], filter.ready()].concat(), came);
    }
}

/// RFC 9113, 4.3, and what is a flood: these end the connection, and h2 says why.
#[test]
fn what_breaks_compression_or_framing_ends_the_connection() {
    const PROTOCOL_ERROR: u32 = 1;
    const FRAME_SIZE_ERROR: u32 = 6;
    const COMPRESSION_ERROR: u32 = 9;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let mut request = Vec::new();
    REQUEST.iter().for_each(|field| Encoder::default().put(&mut request, *field, PLAIN));
    let with = |bytes: &[u8]| [&request[..], bytes].concat();
    let mut flood = frame(HEADERS, 0, 1, &request);
    (0..20).for_each(|_| flood.extend(frame(CONTINUATION, 0, 1, &[])));
    let mut large = frame(HEADERS, 0, 1, &with(&[0, 1, b'x', 0x7f, 0x80, 0x80, 0x10]));
    (0..20).for_each(|_| large.extend(frame(CONTINUATION, 0, 1, &[b'v'; 16_384])));
    for (what, frames, code) in [
        ("an index of nothing", section(1, 1, &with(&[0xbe]), &[]), COMPRESSION_ERROR),
        ("an index of 0", section(1, 1, &with(&[0x80]), &[]), COMPRESSION_ERROR),
        ("a name of nothing", section(1, 1, &with(&[0x7f, 0, 1, b'a']), &[]), COMPRESSION_ERROR),
        ("padding that is not EOS", section(1, 1, &with(&[0, 1, b'a', 0x81, 0]), &[]), COMPRESSION_ERROR),
        ("an integer without end", section(1, 1, &with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), &[]), COMPRESSION_ERROR),
        ("half a field", section(1, 1, &with(&[0, 1, b'a', 5]), &[]), COMPRESSION_ERROR),
        ("a table too large", section(1, 1, &[&[0x3f, 0xe2, 0x1f], &request[..]].concat(), &[]), COMPRESSION_ERROR),
        ("a late resize", section(1, 1, &with(&[0x20]), &[]), COMPRESSION_ERROR),
        ("too much padding", frame(HEADERS, 0x8 | 4 | 1, 1, &[200, 0x82]), PROTOCOL_ERROR),
        ("no section", frame(CONTINUATION, END_HEADERS, 1, &request), PROTOCOL_ERROR),
        ("stream 0", frame(HEADERS, 5, 0, &request), PROTOCOL_ERROR),
        ("a push", frame(5, 4, 1, &[0, 0, 0, 2, 0x82]), PROTOCOL_ERROR),
        ("a ping in a section", [frame(HEADERS, 1, 1, &request), frame(PING, 0, 0, &[0; 8])].concat(), PROTOCOL_ERROR),
        ("a large frame", frame(HEADERS, 5, 1, &[0x82; 16_385]), FRAME_SIZE_ERROR),
        ("a flood", flood, ENHANCE_YOUR_CALM),
        ("a field without end", large, ENHANCE_YOUR_CALM),
    ] {
        for pipe in [7, 1 << 20] {
            let found = run(seen(&frames, pipe));
            assert_eq!((found.goaway, found.requests.as_slice()), (Some(code), &[][..]), "{what}");
        }
    }
}

/// A section over the limit is a request that is too large, whatever it stands for, and takes no more memory.
#[test]
fn a_section_over_the_limit_is_replaced_and_the_next_one_is_not() {
    let indexing = Encoding { form: Form::Indexing, whole: true, ..PLAIN };
    let (mut encoder, mut blocks) = (Encoder::default(), [Vec::new(), Vec::new()]);
    for (block, further) in blocks.iter_mut().zip([25, 0]) {
        REQUEST.iter().for_each(|field| encoder.put(block, *field, indexing));
        for number in 0..further {
            encoder.put(block, (format!("x-{number}").as_bytes(), &[b'v'; 3000]), PLAIN);
        }
        encoder.put(block, (b"x-kept", b"1"), indexing);
    }
    let mut frames = [section(1, 1, &blocks[0], &[16_000; 4]), section(3, 1, &blocks[1], &[])].concat();
    // A few bytes that stand for many: 40 times 4000, and 16,000 times.
    for (stream, times) in [(5, 40), (7, 16_000)] {
        let mut bomb = Vec::new();
        REQUEST.iter().for_each(|field| encoder.put(&mut bomb, *field, indexing));
        encoder.put(&mut bomb, (b"x-bomb", &[b'b'; 4000]), indexing);
        bomb.extend(vec![0xbe; times]);
        frames.extend(section(stream, 1, &bomb, &[]));
    }
    let mut last = Vec::new();
    REQUEST.iter().for_each(|field| encoder.put(&mut last, *field, indexing));
    frames.extend(section(9, 1, &last, &[]));
    let found = run(seen(&frames, 1 << 16));
    let line = || "GET http://a.example/a?b=c".to_owned();
    let (good, bare) = (Some(vec![line(), "x-kept: 1".to_owned()]), Some(vec![line()]));
    let wanted = vec![(1, None), (3, good), (5, None), (7, None), (9, bare)];
    assert_eq!((found.requests, found.goaway), (wanted, None));
}

/// An endpoint's values with spaces around are as in HTTP/1.1, also where a later response refers to one.
#[test]
fn spaces_around_an_endpoints_values_are_no_part_of_them() {
    let mut encoder = Encoder::default();
    let mut frames = Vec::new();
    for stream in [1, 3] {
        let mut block = vec![0x88];
        let indexing = Encoding { form: Form::Indexing, whole: true, ..PLAIN };
        for field in [(&b"x-a"[..], &b" 1\t"[..]), (b"x-b", b"2"), (b"x-c", b"  ")] {
            encoder.put(&mut block, field, indexing);
        }
        encoder.put(&mut block, (b"x-a", b"3"), Encoding { by_name: true, ..indexing });
        frames.extend(section(stream, END_STREAM, &block, &[]));
    }
    let responses = run(async {
        let (mut endpoint, io) = duplex(1 << 16);
        endpoint.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let filter = FieldFilter::new(io, Side::Endpoint, LIMIT, 0);
        let (mut requests, connection) = h2::client::handshake(filter).await.unwrap();
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                tokio::task::spawn_local(connection);
                let sent = [(); 2].map(|()| requests.send_request(Request::new(()), true).unwrap().0);
                // Not before the requests have come.
                let mut requests_come = 0;
                while requests_come < 2 {
                    let mut head = [0; 9];
                    while head[3] != HEADERS {
                        endpoint.read_exact(&mut head[..1]).await.unwrap();
                        if head[0] == b'P' {
                            endpoint.read_exact(&mut [0; 23]).await.unwrap();
                            endpoint.read_exact(&mut head[..1]).await.unwrap();
                        }
                        endpoint.read_exact(&mut head[1..]).await.unwrap();
                        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                        endpoint.read_exact(&mut vec![0; length as usize]).await.unwrap();
                    }
                    requests_come += 1;
                }
                endpoint.write_all(&frames).await.unwrap();
                let mut responses = Vec::<Vec<String>>::new();
                for response in sent {
                    let headers = response.await.unwrap().into_parts().0.headers;
                    let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
                    responses.push(headers.iter().map(|(name, value)| format!("{name}:{}", text(value))).collect());
                }
                responses
            })
            .await
    });
    let wanted: Vec<String> = ["x-a:1", "x-a:3", "x-b:2", "x-c:"].map(str::to_owned).to_vec();
    for mut response in responses {
        response.sort_unstable();
        assert_eq!(response, wanted);
    }
}

#[derive(Clone, Debug)]
struct Message {
    resizes: Vec<usize>,
    fields: Vec<(Field, Encoding)>,
    head: [Encoding; 4],
    cuts: Vec<usize>,
}

fn messages() -> impl Strategy<Value = Message> {
    let field = prop_oneof![
        12 => proptest::sample::select(SOUND),
        1 => proptest::sample::select(MALFORMED_FIELDS),
    ];
    let resizes = proptest::collection::vec(prop_oneof![Just(0), Just(4096), 0usize..4096], 0..2);
    let cuts = proptest::collection::vec(0usize..60, 0..4);
    (proptest::option::weighted(0.2, resizes), proptest::collection::vec((field, encodings()), 0..6), cuts)
        .prop_flat_map(|(resizes, fields, cuts)| {
            [(); 4].map(|()| encodings()).prop_map(move |head| Message {
                resizes: resizes.clone().unwrap_or_default(),
                fields: fields.clone(),
                head,
                cuts: cuts.clone(),
            })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the encoder and the network do, sound requests arrive as they were, the others as malformed.
    #[test]
    fn every_request_arrives_as_itself(messages in proptest::collection::vec(messages(), 1..20), pipe in 16usize..3000) {
        let (mut encoder, mut frames, mut wanted) = (Encoder::default(), Vec::new(), Vec::new());
        for (number, message) in messages.iter().enumerate() {
            let (stream, mut block) = (u32::try_from(number).unwrap() * 2 + 1, Vec::new());
            message.resizes.iter().for_each(|size| encoder.resize(&mut block, *size));
            for (field, how) in REQUEST.iter().zip(message.head) {
                encoder.put(&mut block, *field, how);
            }
            for (field, how) in &message.fields {
                encoder.put(&mut block, *field, *how);
            }
            frames.extend(section(stream, END_STREAM, &block, &message.cuts));
            let is_sound = message.fields.iter().all(|(field, _)| SOUND.contains(field));
            wanted.push((stream, is_sound.then(|| {
                let mut fields = vec!["GET http://a.example/a?b=c".to_owned()];
                let text = String::from_utf8_lossy;
                fields.extend(message.fields.iter().map(|((name, value), _)| format!("{}: {}", text(name), text(value))));
                fields.sort();
                fields
            })));
        }
        let found = run(seen(&frames, pipe));
        prop_assert_eq!(found.goaway, None);
        prop_assert_eq!(found.requests, wanted);
    }

    /// Nothing from outside panics, and how it is cut makes no difference to h2.
    #[test]
    fn bytes_come_out_the_same_however_they_are_cut(
        frames in proptest::collection::vec((0u8..10, any::<u8>(), 0u32..6, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        cuts in proptest::collection::vec(1usize..30, 1..20),
        limit in 1usize..200,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, payload)| {
            frame(*kind, *flags, *stream, payload)
        }).collect();
        let read = |pieces: &mut dyn Iterator<Item = usize>| {
            let (mut filter, mut out, mut rest) = (Frames::new(Side::Client, limit, 0), Vec::new(), bytes.as_slice());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(pieces.next().unwrap_or(usize::MAX).min(rest.len()));
                let passed = filter.take(now);
                out.extend_from_slice(&now[..passed]);
                out.extend_from_slice(&std::mem::take(filter.ready()));
                rest = later;
            }
            (normal(&out), filter.has_ended())
        };
        prop_assert_eq!(read(&mut std::iter::empty()), read(&mut cuts.iter().copied().cycle()));
    }
}

/// Frames without padding, which is left out where a frame did not come at once.
fn normal(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, behind) = rest.split_at(length.min(rest.len()));
        let mut flags = head[4];
        let mut kept = payload;
        if head[3] == HEADERS && flags & 0x8 != 0 && !payload.is_empty() {
            kept = &payload[1..payload.len() - usize::from(payload[0])];
        }
        if head[3] == HEADERS {
            flags &= 0x25;
        }
        frames.push([&[head[3], flags], &head[5..], kept].concat());
        bytes = behind;
    }
    frames
}
