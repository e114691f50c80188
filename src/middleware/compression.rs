//! Defines the middleware that compresses answers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use tower_http::CompressionLevel;
use tower_http::compression::{CompressionLayer, Predicate};

use super::{Middleware, Next, layer};
use crate::exchange::{Payload, ProxyError};
use crate::spec::middleware::compression::{self, Encoding};

/// Quick enough for answers that are made as they are asked for; more shrinks them little.
const LEVEL: CompressionLevel = CompressionLevel::Precise(4);

/// For those that may be compressed by zstd: at 4 it clears 2 MiB of tables before each, which costs more than a small answer
/// itself, at 1 it clears 64 KiB.
const LEVEL_OF_ZSTD: CompressionLevel = CompressionLevel::Precise(1);

/// Compresses answers for clients that take that.
#[derive(Debug)]
pub(super) struct Compression(Arc<compression::Compression>);

impl Compression {
    pub(super) fn new(spec: &compression::Compression) -> Self {
        Self(Arc::new(spec.clone()))
    }

    /// Gives a 304 the validator and the `Vary` of the 200 that it stands for (RFC 9110, 15.4.5). What that 200 was shows in
    /// what the client holds: the weak form of a strong ETag was made here.
    fn revalidate(&self, held: &[HeaderValue], headers: &mut HeaderMap) {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if headers.contains_key(header::CONTENT_ENCODING) || kind.is_some_and(|kind| !self.0.takes(kind)) {
            return;
        }
        if let Some(etag) = headers.get(header::ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/")) {
            let weak = [b"W/", etag.as_bytes()].concat();
            let tags = held.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
            if tags.clone().any(|tag| tag == weak) && !tags.clone().any(|tag| tag == etag.as_bytes()) {
                weaken(headers);
            }
        }
        let varies = headers.get_all(header::VARY).iter().any(|line| {
            let mut names = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding"))
        });
        if !varies {
            headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
    }

    /// A layer for one answer; `taken` is set when that is compressed.
    fn layer(&self, asked: &HeaderMap, is_head: bool, taken: &Rc<Cell<bool>>) -> CompressionLayer<Fitting> {
        let has = |encoding| self.0.encodings.contains(&encoding);
        // Who takes zstd gets it: clients name it last, and of several that they like as much the last one counts.
        let mut lines = asked.get_all(header::ACCEPT_ENCODING).iter();
        let is_zstd = has(Encoding::Zstd) && lines.any(|line| line.to_str().is_ok_and(|line| line.contains("zstd")));
        let layer = CompressionLayer::new().quality(if is_zstd { LEVEL_OF_ZSTD } else { LEVEL });
        let layer = layer.gzip(has(Encoding::Gzip)).br(has(Encoding::Brotli)).zstd(has(Encoding::Zstd));
        layer.compress_when(Fitting { rules: Arc::clone(&self.0), is_head, taken: Rc::clone(taken) })
    }
}

#[async_trait(?Send)]
impl Middleware for Compression {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        if next.exchange().is_call() {
            return Ok(next.run(request).await);
        }
        let taken = Rc::<Cell<bool>>::default();
        let is_head = *request.method() == Method::HEAD;
        let layer = self.layer(request.headers(), is_head, &taken);
        let held: Vec<HeaderValue> = request.headers().get_all(header::IF_NONE_MATCH).iter().cloned().collect();
        let mut response = layer::through(&layer, request, next).await;
        if taken.get() && response.headers().contains_key(header::CONTENT_ENCODING) {
            weaken(response.headers_mut());
            for name in OF_UNCOMPRESSED {
                response.headers_mut().remove(name);
            }
            if is_head {
                // The layer has made a body of nothing.
                response = response.map(|_| Payload::default());
            }
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            self.revalidate(&held, response.headers_mut());
        }
        Ok(response)
    }
}

/// Digests of the bytes that the service sent. All of them are of the encoded content (RFC 9530, 2 and 3; RFC 3230, 4.1.1;
/// RFC 1864), so none holds for what the client gets.
const OF_UNCOMPRESSED: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Other bytes are another strong validator (RFC 9110, 8.8.3.3).
fn weaken(headers: &mut HeaderMap) {
    if let Some(etag) = headers.get(header::ETAG)
        && !etag.as_bytes().starts_with(b"W/")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
}

/// Which answers are compressed; notes whether this one is.
#[derive(Clone, Debug)]
struct Fitting {
    rules: Arc<compression::Compression>,
    /// There is no body: its length is what the answer to a GET would have.
    is_head: bool,
    taken: Rc<Cell<bool>>,
}

impl Predicate for Fitting {
    fn should_compress<B: Body>(&self, response: &Response<B>) -> bool {
        let headers = response.headers();
        let value = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let size =
            if self.is_head { value(header::CONTENT_LENGTH).parse().ok() } else { response.body().size_hint().exact() };
        let is_short = size.is_some_and(|size: u64| size < self.rules.min_size);
        let has_body = !matches!(
            response.status(),
            StatusCode::SWITCHING_PROTOCOLS
                | StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        );
        // RFC 9111, 5.2.2.6
        let is_fixed = value(header::CACHE_CONTROL).to_ascii_lowercase().contains("no-transform");
        // A digest that comes behind the body cannot be taken out of what is announced.
        let trailer = value(header::TRAILER).to_ascii_lowercase();
        let is_signed = OF_UNCOMPRESSED.iter().any(|name| trailer.contains(name.as_str()));
        let fits = has_body && !is_short && !is_fixed && !is_signed && self.rules.takes(value(header::CONTENT_TYPE));
        self.taken.set(fits);
        fits
    }
}
