//! An endpoint's HTTP/1.1 response: however its bytes are split, it reads the same.
#![no_main]

use fleetgate::proxy::fuzzing::read_response;
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (is_head, piece, bytes) = input;
    let method = if is_head { Method::HEAD } else { Method::GET };
    let whole = read_response(&method, [bytes]);
    let split = read_response(&method, bytes.chunks(usize::from(piece).max(1)));
    assert_eq!(whole, split, "the same bytes in pieces of {piece}");
    if let Some(whole) = whole
        && let Some(length) = whole.content_length()
        && !is_head
    {
        assert!(whole.body.len() as u64 <= length, "more body than announced: {whole:?}");
    }
});
