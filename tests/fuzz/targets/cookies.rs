//! Cookies: whatever stands beside one, it is found.
#![no_main]

use fleetgate::spec::condition::cookie_values;
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: (&[u8], &[u8])| {
    let (before, after) = text;
    let line = [before, b"; side=abc; ", after].concat();
    let Ok(line) = HeaderValue::from_bytes(&line) else { return };
    let mut headers = HeaderMap::new();
    headers.append(header::COOKIE, line);
    let found: Vec<&[u8]> = cookie_values(&headers, "side").collect();
    assert!(found.contains(&&b"abc"[..]), "hidden by {before:?} or {after:?}: {found:?}");
    let written = [before, after].iter().map(|part| part.split(|byte| *byte == b';').count()).sum::<usize>();
    assert!(found.len() <= written + 1, "more than were sent: {found:?}");
});
