//! HTTP/2 on the bare socket, of clients and of endpoints: what is malformed, and what comes early.

mod early;
mod malformed;

use std::time::Duration;

use crate::support::client::Request;
use crate::support::frames::{END_HEADERS, END_STREAM, Frame, Frames, HEADERS};
use crate::support::gateway::{Gateway, serving};
use crate::support::origin::Origin;

const SOON: Duration = Duration::from_secs(30);

/// A field as a literal without indexing, or with it (RFC 7541, 6.2).
pub(crate) fn literal(block: &mut Vec<u8>, indexing: bool, name: &[u8], value: &[u8]) {
    block.push(if indexing { 0x40 } else { 0 });
    for text in [name, value] {
        assert!(text.len() < 127);
        block.push(u8::try_from(text.len()).unwrap());
        block.extend_from_slice(text);
    }
}

/// RFC 9110, 8.6: a length of none is said where a method's requests have content. END_STREAM says it in HTTP/2.
#[tokio::test]
async fn a_post_without_a_body_has_a_length_at_services_of_http_1() {
    let origin = Origin::start("app").await;
    let endpoints = format!("endpoints = [\"{}\"]", origin.address());
    let gateway = Gateway::start(&serving("match = { path = \"/\" }", &endpoints)).await;
    let mut frames = Frames::connect(gateway.address(), &[]).await;
    let methods = [("POST", &["0"][..]), ("PUT", &["0"]), ("PATCH", &["0"]), ("GET", &[]), ("DELETE", &[])];
    for ((method, lengths), stream) in methods.into_iter().zip((1..).step_by(2)) {
        let mut block = vec![0x86, 0x84];
        literal(&mut block, false, b":method", method.as_bytes());
        literal(&mut block, false, b":authority", b"a.example");
        frames.send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, stream, block)).await.unwrap();
        assert_eq!(frames.next_of(HEADERS).await.unwrap().stream, stream, "{method}");
        let seen = origin.last_seen().unwrap();
        assert_eq!((seen.method.as_str(), seen.header("content-length")), (method, lengths.to_vec()));
        // So does one of HTTP/1.1 that says nothing.
        assert_eq!(gateway.send(Request::new(method, "/")).await.status, 200);
        assert_eq!(origin.last_seen().unwrap().header("content-length"), lengths, "{method}");
    }
}
