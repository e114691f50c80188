//! The gate of requests: what passes is in one normal form, which passes again unchanged.
#![no_main]

use fleetgate::snapshot::gate::{check, resembles_framing};
use fleetgate::spec::settings::Listener;
use http::{HeaderName, HeaderValue, Request, Uri, Version, header};
use libfuzzer_sys::fuzz_target;

/// A request of the first line's method and target, and of the header lines after it.
fn request(version: Version, text: &[u8]) -> Option<Request<()>> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, target) = (first.next()?, first.next()?);
    let mut request = Request::builder().method(method).uri(Uri::try_from(target).ok()?).version(version).body(()).ok()?;
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?);
    }
    Some(request)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, text) = input;
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][usize::from(kind % 3)];
    let listener = Listener {
        allow_encoded_slashes: kind & 0x80 != 0,
        max_body_size: Some(1024),
        ..Listener::new(([127, 0, 0, 1], 0).into())
    };
    let Some(request) = request(version, text) else { return };
    let has_framing = request.headers().contains_key(header::TRANSFER_ENCODING)
        || request.headers().keys().any(resembles_framing);
    let Ok(passed) = check(&request, has_framing, &listener) else { return };

    assert!(!passed.host.bytes().any(|byte| byte.is_ascii_uppercase() || b"/@ ,?#\\".contains(&byte)), "{passed:?}");
    assert!(!passed.host.ends_with('.'), "{passed:?}");
    let path = passed.path.as_deref().unwrap_or(request.uri().path());
    assert!(path == "*" || path.starts_with('/'), "{path}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path}");
    if path != "*" {
        let again = Request::builder().uri(path).header(header::HOST, &*passed.host).body(()).expect("a request");
        if !passed.host.is_empty() {
            let again = check(&again, false, &listener).expect("what passed passes again");
            assert_eq!((again.path.as_deref().unwrap_or(path), &again.host), (path, &passed.host), "that form is final");
        }
    }
});
