//! The cases once more, from a client of HTTP/2: its frames say where a body ends, and what the headers say of it is not
//! to be believed where services read HTTP/1.1 (RFC 9113, 8.1.1 and 8.2).

use super::case::{self, Case, Tier};
use super::strict::{Message, UNFINISHED};
use super::{SMUGGLED, end_to_end, expected_headers, no_longer_compliant, start, target};
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, RST_STREAM};
use crate::support::gateway::Gateway;

/// Most that a DATA frame holds, and all that may be sent at once (RFC 9113, 4.2 and 6.9.2).
const FRAME: usize = 16 * 1024;
const WINDOW: usize = 64 * 1024 - 1;

/// `:status: 200` (RFC 7541, A).
const STATUS_200: u8 = 0x88;

#[tokio::test]
async fn frames_alone_say_where_a_body_ends() {
    let (strict, gateway) = start().await;
    let mut arrived = 0;
    for case in case::all() {
        for body in bodies(&case) {
            let outcome = send(&gateway, &case, &body).await;
            let mut messages: Vec<Message> = Vec::new();
            for message in strict.take() {
                match message {
                    Ok(message) => messages.push(message),
                    // Its connection has ended: no service takes that for a request.
                    Err(problem) if problem.starts_with(UNFINISHED) => {}
                    Err(problem) => panic!("{}: {problem}", case.name),
                }
            }
            let what = format!("{}, {} bytes: {outcome:?}: {messages:?}", case.name, body.len());
            match &messages[..] {
                [] => assert!(outcome != Outcome::Served, "{what}"),
                [message] => {
                    assert!(case.tier != Tier::Severe || only_http_1_is_broken(&case), "{what}");
                    assert_eq!(
                        (&message.method, &message.target),
                        (&case.text(&case.method), &target(&case)),
                        "{what}"
                    );
                    // An announced nothing may be passed on, and answered, before the client sends more than that.
                    let nothing = message.body.is_empty() && announced(&case) == Some(0);
                    assert!(message.body == body || nothing, "{what}");
                }
                _ => panic!("{what}"),
            }
            let whole = announced(&case).is_none_or(|length| length == body.len());
            if case.tier == Tier::Compliant && no_longer_compliant(&case).is_none() && whole {
                assert_eq!(outcome, Outcome::Served, "{what}");
                assert_eq!(end_to_end(&messages[0]), expected_headers(&case), "{what}");
                arrived += 1;
            }
        }
    }
    assert!(arrived > 15, "only {arrived} arrived: where are the cases?");
    assert_eq!(gateway.get("/fine").await.status, 200);
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    Refused,
    StreamReset,
    ConnectionEnded,
}

/// Of the version, which HTTP/2 does not tell.
fn only_http_1_is_broken(case: &Case) -> bool {
    case.name.contains("version")
}

/// The length that a case announces, if it does in the proper way.
fn announced(case: &Case) -> Option<usize> {
    let values: Vec<String> = case.values("content-length").collect();
    values.first().and_then(|value| value.parse().ok())
}

/// A request instead of a body, nothing, and what has the announced length.
fn bodies(case: &Case) -> Vec<Vec<u8>> {
    let mut bodies = vec![SMUGGLED.to_vec(), Vec::new()];
    if let Some(length @ 1..=WINDOW) = announced(case) {
        bodies.push(SMUGGLED.iter().copied().cycle().take(length).collect());
    }
    bodies
}

async fn send(gateway: &Gateway, case: &Case, body: &[u8]) -> Outcome {
    let mut frames = Frames::connect(gateway.address(), &[]).await;
    let flags = if body.is_empty() { END_HEADERS | END_STREAM } else { END_HEADERS };
    // A gateway that closes does not take all.
    let _ = frames.send(&Frame::new(HEADERS, flags, 1, block(case))).await;
    let pieces: Vec<&[u8]> = body.chunks(FRAME).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let flags = if number + 1 == pieces.len() { END_STREAM } else { 0 };
        let _ = frames.send(&Frame::new(DATA, flags, 1, *piece)).await;
    }
    loop {
        let Some(frame) = frames.next().await else { return Outcome::ConnectionEnded };
        match (frame.kind, frame.stream) {
            (HEADERS, 1) if frame.payload.first() == Some(&STATUS_200) => return Outcome::Served,
            (HEADERS, 1) => return Outcome::Refused,
            (RST_STREAM, 1) => return Outcome::StreamReset,
            (GOAWAY, _) => return Outcome::ConnectionEnded,
            _ => {}
        }
    }
}

/// The head of a case as literals without indexing (RFC 7541, 6.2.2). Of compliant ones without what no client of
/// HTTP/2 sends (RFC 9113, 8.2.2).
fn block(case: &Case) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in
        [(":method", &case.method[..]), (":scheme", b"http"), (":authority", b"a"), (":path", &case.uri)]
    {
        literal(&mut block, name.as_bytes(), value);
    }
    for (name, value) in &case.headers {
        let name = name.to_ascii_lowercase();
        let of_http_1 = matches!(&name[..], b"connection" | b"transfer-encoding" | b"host");
        if !(case.tier == Tier::Compliant && of_http_1) {
            literal(&mut block, &name, value.trim_ascii());
        }
    }
    block
}

fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        // An integer with a prefix of 7 bits (RFC 7541, 5.1).
        match text.len().checked_sub(127) {
            None => block.push(u8::try_from(text.len()).unwrap()),
            Some(mut rest) => {
                block.push(127);
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
        }
        block.extend_from_slice(text);
    }
}
