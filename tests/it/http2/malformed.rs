//! A malformed message is an affair of its stream: nobody else's exchange on the connection ends with it (RFC 9113, 8.1.1).

use serde_json::Value;
use tokio::net::TcpListener;

use super::{SOON, literal};
use crate::support::client;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, RST_STREAM, SETTINGS,
};
use crate::support::gateway::{Gateway, serving};
use crate::support::multiplexed::{Act, Service};
use crate::support::origin::{Behaviour, Origin};
use crate::support::wait;

const PROTOCOL_ERROR: u32 = 1;
const STATUS_200: u8 = 0x88;
const STATUS_400: u8 = 0x8c;

type Field<'f> = (&'f [u8], &'f [u8]);

const MALFORMED: &[Field<'_>] = &[
    (b":method", b"GET?"),
    (b":method", b""),
    (b"X-A", b"1"),
    (b"x a", b"1"),
    (b"", b"1"),
    (b"", b""),
    (b"a:b", b"1"),
    (b"x-nul", b"a\0b"),
    (b"x-crlf", b"a\r\nx: y"),
    (b"x-lf", b"a\nb"),
    (b"x-edge", b" a"),
    (b"x-edge", b"a\t"),
    (b"content-length", b""),
    (b"content-length", b"1x"),
    (b":unknown", b"1"),
    (b":status", b"200"),
    (b"connection", b"close"),
    (b"te", b"gzip"),
    (b"fleetgate-malformed-request", b"1"),
];

/// What is sound in a head, and makes trailers malformed (RFC 9113, 8.1).
const OF_HEADS: &[Field<'_>] = &[
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"b.example"),
    (b":path", b"/admin"),
    (b":protocol", b"websocket"),
];

/// A request with this field, which stands for the method where it is one. Everything enters the dynamic table.
fn request(field: Option<Field<'_>>, path: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    let method = field.filter(|(name, _)| *name == b":method").map_or(&b"GET"[..], |(_, value)| value);
    literal(&mut block, true, b":method", method);
    literal(&mut block, true, b":scheme", b"http");
    literal(&mut block, true, b":authority", b"a.example");
    literal(&mut block, true, b":path", path);
    if let Some((name, value)) = field.filter(|(name, _)| *name != b":method") {
        literal(&mut block, true, name, value);
    }
    literal(&mut block, true, b"x-behind", b"1");
    block
}

/// Answers of streams, until that of the last one has come.
async fn until(frames: &mut Frames, last: u32, kind: u8) -> Vec<Frame> {
    let mut came = Vec::new();
    loop {
        let frame = frames.next().await.unwrap_or_else(|| panic!("the end: {came:?}"));
        assert_ne!(frame.kind, GOAWAY, "{came:?}");
        let is_last = frame.stream == last && frame.kind == kind;
        came.push(frame);
        if is_last {
            return came;
        }
    }
}

#[tokio::test]
async fn a_malformed_request_costs_its_stream_alone() {
    let origin = Origin::start("app").await;
    origin.on("/slow", Behaviour::Hold(Box::new(Behaviour::Status(200))));
    let endpoints = format!("endpoints = [\"{}\"]", origin.address());
    let gateway = Gateway::start(&serving("match = { path = \"/\" }", &endpoints)).await;
    let mut frames = Frames::connect(gateway.address(), &[]).await;
    frames.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, 1, request(None, b"/slow"))).await.unwrap();
    wait::until(SOON, "the slow one", || async { origin.requests() == 1 }).await;
    let mut stream = 1;
    let mut next = || {
        stream += 2;
        stream
    };
    for (number, field) in MALFORMED.iter().enumerate() {
        let path = format!("/bad/{number}");
        let block = request(Some(*field), path.as_bytes());
        for cut in [0, 1, block.len() / 2, block.len() - 1] {
            let what = format!("{field:?} cut at {cut}");
            let bad = next();
            let (first, rest) = block.split_at(cut);
            if cut > 0 {
                frames.send(&Frame::new(HEADERS, END_STREAM, bad, first)).await.unwrap();
                frames.send(&Frame::new(CONTINUATION, END_HEADERS, bad, rest)).await.unwrap();
            } else {
                frames.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, bad, rest)).await.unwrap();
            }
            let came = until(&mut frames, bad, RST_STREAM).await;
            let answer: Vec<_> = came.iter().filter(|frame| frame.stream == bad).collect();
            let [head, body, reset] = &answer[..] else { panic!("{what}: {came:?}") };
            assert_eq!((head.kind, head.payload.first()), (HEADERS, Some(&STATUS_400)), "{what}");
            assert_eq!((body.kind, body.payload.as_slice()), (DATA, &b"400 bad_request\n"[..]), "{what}");
            assert_eq!(reset.payload, PROTOCOL_ERROR.to_be_bytes(), "{what}");

            // The newest entries of the table, of a request that is as the one before it should have been.
            let good = next();
            let mut block = request(None, format!("/good/{good}").as_bytes());
            block.extend([0xbe, 0xbe]);
            frames.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, good, block)).await.unwrap();
            let came = until(&mut frames, good, HEADERS).await;
            assert_eq!(came.last().unwrap().payload.first(), Some(&STATUS_200), "{what}");
            let seen = origin.last_seen().unwrap();
            assert_eq!((seen.method.as_str(), &seen.target), ("GET", &format!("/good/{good}")), "{what}");
            assert_eq!(seen.header("x-behind"), ["1", "1", "1"], "{what}");
        }
        let line = gateway.until_logged("a refusal", |line| line["path"] == *path || line["method"] == "-").await;
        let of = |key: &str| line[key].clone();
        assert_eq!((of("status"), of("flag")), (Value::from(400), Value::from("DPE")), "{field:?}");
        assert_eq!((of("protocol"), of("host")), (Value::from("HTTP/2.0"), Value::from("a.example")), "{field:?}");
        assert_eq!(of("request_id").as_str().unwrap().len(), 32, "{field:?}");
    }
    assert_eq!(origin.requests(), 1 + MALFORMED.len() * 4, "of nothing malformed");
    origin.release();
    let came = until(&mut frames, 1, HEADERS).await;
    assert_eq!(came.last().unwrap().payload.first(), Some(&STATUS_200));
}

/// Trailers too: what was answered before them stays so, and the others go on.
#[tokio::test]
async fn malformed_trailers_cost_their_stream_alone() {
    let service = Service::start().await;
    let endpoints = format!("endpoints = [\"{}\"]\nprotocol = \"http2\"", service.address());
    let gateway = Gateway::start(&serving("match = { path = \"/\" }", &endpoints)).await;
    service.on("/slow", Act::Hold(Box::new(Act::Status(200, vec![]))));
    let mut frames = Frames::connect(gateway.address(), &[]).await;
    frames.send(&Frame::get(1, "/slow")).await.unwrap();
    let mut stream = 1;
    for (name, value) in MALFORMED.iter().chain(OF_HEADS) {
        stream += 2;
        let mut post = Frame::get(stream, "/up");
        (post.payload[0], post.flags) = (0x83, END_HEADERS);
        frames.send(&post).await.unwrap();
        frames.send(&Frame::new(DATA, 0, stream, *b"body")).await.unwrap();
        let mut trailers = Vec::new();
        literal(&mut trailers, true, name, value);
        frames.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, stream, trailers)).await.unwrap();
        let came = until(&mut frames, stream, RST_STREAM).await;
        assert_eq!(came.last().unwrap().payload, PROTOCOL_ERROR.to_be_bytes(), "{name:?}: {came:?}");
    }
    assert!(service.arrived().is_empty(), "none arrived whole");
    service.release();
    let came = until(&mut frames, 1, HEADERS).await;
    assert_eq!(came.last().unwrap().payload.first(), Some(&STATUS_200));
}

/// A response that is malformed fails its request; the connection that it came by goes on with the others.
#[tokio::test]
async fn a_malformed_response_costs_its_request_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = format!("endpoints = [\"{}\"]\nprotocol = \"http2\"", listener.local_addr().unwrap());
    let route = "match = { path = \"/\" }\nretry = { attempts = 0 }";
    let gateway =
        Gateway::start(&serving(route, &format!("{endpoints}\npassive_health.consecutive_failures = 0"))).await;
    let slow = tokio::spawn(client::get(gateway.address(), "/slow"));
    let mut endpoint = Frames(listener.accept().await.unwrap().0);
    let mut preface = [0; 24];
    tokio::io::AsyncReadExt::read_exact(&mut endpoint.0, &mut preface).await.unwrap();
    endpoint.send(&Frame::new(SETTINGS, 0, 0, vec![])).await.unwrap();
    assert_eq!(endpoint.next_of(HEADERS).await.unwrap().stream, 1);
    let mut answer = async |block: &[u8], cut: usize| {
        let answer = tokio::spawn(client::get(gateway.address(), "/"));
        let stream = endpoint.next_of(HEADERS).await.expect("a request").stream;
        let (first, rest) = block.split_at(cut);
        endpoint.send(&Frame::new(HEADERS, END_STREAM, stream, first)).await.unwrap();
        endpoint.send(&Frame::new(CONTINUATION, END_HEADERS, stream, rest)).await.unwrap();
        answer.await.unwrap()
    };
    let of_requests: &[&[u8]] = &[b":method", b":status", b"x-edge", b"fleetgate-malformed-request"];
    let statuses: [Field<'_>; 3] = [(b":status", b"2x0"), (b":status", b""), (b":path", b"/")];
    let malformed = MALFORMED.iter().filter(|(name, _)| !of_requests.contains(name)).chain(&statuses);
    for (name, value) in malformed {
        let mut block = if *name == b":status" { Vec::new() } else { vec![STATUS_200] };
        literal(&mut block, true, name, value);
        literal(&mut block, true, b"x-behind", b"1");
        for cut in [0, 1, block.len() / 2, block.len() - 1] {
            let failed = answer(&block, cut).await;
            assert_eq!((failed.status, failed.header("x-fleetgate-flag")), (502, Some("UPE")), "{name:?} {value:?}");
            // `x-behind` once more, by its place in the table.
            let fine = answer(&[STATUS_200, 0xbe], 1).await;
            assert_eq!((fine.status, fine.header("x-behind")), (200, Some("1")), "{name:?} {value:?}");
        }
    }
    let mut edge = vec![STATUS_200];
    literal(&mut edge, true, b"x-edge", b" a\t");
    assert_eq!(answer(&edge, 0).await.header("x-edge"), Some("a"));
    assert_eq!(answer(&[STATUS_200, 0xbe], 0).await.header("x-edge"), Some("a"));
    endpoint.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, 1, vec![STATUS_200])).await.unwrap();
    assert_eq!(slow.await.unwrap().status, 200);
}

/// Trailers of a response too: the client learns that its answer is not whole, and nobody else does.
#[tokio::test]
async fn malformed_trailers_of_a_response_cost_its_request_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoints = format!("endpoints = [\"{}\"]\nprotocol = \"http2\"", listener.local_addr().unwrap());
    let route = "match = { path = \"/\" }\nretry = { attempts = 0 }";
    let gateway =
        Gateway::start(&serving(route, &format!("{endpoints}\npassive_health.consecutive_failures = 0"))).await;
    let mut client = Frames::connect(gateway.address(), &[]).await;
    client.send(&Frame::get(1, "/slow")).await.unwrap();
    let mut endpoint = Frames(listener.accept().await.unwrap().0);
    let mut preface = [0; 24];
    tokio::io::AsyncReadExt::read_exact(&mut endpoint.0, &mut preface).await.unwrap();
    endpoint.send(&Frame::new(SETTINGS, 0, 0, vec![])).await.unwrap();
    assert_eq!(endpoint.next_of(HEADERS).await.unwrap().stream, 1);
    let mut stream = 1;
    let statuses: [Field<'_>; 2] = [(b":status", b"200"), (b":status", b"103")];
    let malformed = [(&b"x-nul"[..], &b"a\0b"[..]), (b":unknown", b"1")];
    for field in OF_HEADS.iter().chain(&statuses).chain(&malformed).map(Some).chain([None]) {
        stream += 2;
        client.send(&Frame::get(stream, "/")).await.unwrap();
        let asked = endpoint.next_of(HEADERS).await.expect("a request").stream;
        let mut early = Vec::new();
        literal(&mut early, true, b":status", b"103");
        endpoint.send(&Frame::new(HEADERS, END_HEADERS, asked, early)).await.unwrap();
        endpoint.send(&Frame::new(HEADERS, END_HEADERS, asked, vec![STATUS_200])).await.unwrap();
        endpoint.send(&Frame::new(DATA, 0, asked, *b"body")).await.unwrap();
        until(&mut client, stream, DATA).await;
        let mut trailers = Vec::new();
        if let Some((name, value)) = field {
            literal(&mut trailers, true, name, value);
        }
        literal(&mut trailers, true, b"x-sum", b"1");
        endpoint.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, asked, trailers)).await.unwrap();
        let kind = if field.is_some() { RST_STREAM } else { HEADERS };
        let came = until(&mut client, stream, kind).await;
        assert!(came.iter().all(|frame| frame.stream != stream || frame.kind == kind), "{field:?}: {came:?}");
    }
    endpoint.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, 1, vec![STATUS_200])).await.unwrap();
    let came = until(&mut client, 1, HEADERS).await;
    assert_eq!(came.last().unwrap().payload.first(), Some(&STATUS_200));
}
