//! Defines the middleware that compresses answers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
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

    /// A layer for one answer; `taken` is set when that is compressed.
    fn layer(&self, asked: &HeaderMap, taken: &Rc<Cell<bool>>) -> CompressionLayer<Fitting> {
        let has = |encoding| self.0.encodings.contains(&encoding);
        // Who takes zstd gets it: clients name it last, and of several that they like as much the last one counts.
        let mut lines = asked.get_all(header::ACCEPT_ENCODING).iter();
        let is_zstd = has(Encoding::Zstd) && lines.any(|line| line.to_str().is_ok_and(|line| line.contains("zstd")));
        let layer = CompressionLayer::new().quality(if is_zstd { LEVEL_OF_ZSTD } else { LEVEL });
        let layer = layer.gzip(has(Encoding::Gzip)).br(has(Encoding::Brotli)).zstd(has(Encoding::Zstd));
        layer.compress_when(Fitting { rules: Arc::clone(&self.0), taken: Rc::clone(taken) })
    }
}

#[async_trait(?Send)]
impl Middleware for Compression {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        if next.exchange().is_call() {
            return Ok(next.run(request).await);
        }
        let taken = Rc::<Cell<bool>>::default();
        let layer = self.layer(request.headers(), &taken);
        let mut response = layer::through(&layer, request, next).await;
        if taken.get() && response.headers().contains_key(header::CONTENT_ENCODING) {
            weaken(response.headers_mut());
        }
        Ok(response)
    }
}

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
    taken: Rc<Cell<bool>>,
}

impl Predicate for Fitting {
    fn should_compress<B: Body>(&self, response: &Response<B>) -> bool {
        let headers = response.headers();
        let value = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let is_short = response.body().size_hint().exact().is_some_and(|size| size < self.rules.min_size);
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
        let fits = has_body && !is_short && !is_fixed && self.rules.takes(value(header::CONTENT_TYPE));
        self.taken.set(fits);
        fits
    }
}
