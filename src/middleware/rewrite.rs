//! Defines the middleware that gives services another path and host, and how a path is rewritten.

use std::borrow::Cow;

use async_trait::async_trait;
use http::{Request, Response, header};
use hyper::body::Incoming;

use super::{Middleware, Next};
use crate::exchange::{Exchange, Payload, ProxyError, target};
use crate::spec::middleware::transform::{self, PathRewrite};
use crate::spec::path::normalize;

/// Gives services another path and host.
#[derive(Debug)]
pub(super) struct Rewrite(transform::Rewrite);

impl Rewrite {
    pub(super) fn new(spec: &transform::Rewrite) -> Self {
        Self(spec.clone())
    }
}

#[async_trait(?Send)]
impl Middleware for Rewrite {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        if let Some(rewrite) = &self.0.path
            && let Some(path) = rewritten(rewrite, request.uri().path(), &**next.exchange())?
        {
            *request.uri_mut() = target::origin_form(request.uri(), Some(&path))?;
        }
        if let Some(host) = &self.0.host {
            request.headers_mut().insert(header::HOST, host.clone());
        }
        Ok(next.run(request).await)
    }
}

/// Another path, in normal form; `None` where it stays as it is.
///
/// # Errors
/// A path that has no normal form.
pub(super) fn rewritten(
    rewrite: &PathRewrite,
    path: &str,
    exchange: &dyn Exchange,
) -> Result<Option<String>, ProxyError> {
    // `OPTIONS *` has none.
    if !path.starts_with('/') {
        return Ok(None);
    }
    let made = match rewrite {
        PathRewrite::Full(full) => return Ok(Some(full.clone())),
        PathRewrite::Prefix(prefix) => exchange.matched().and_then(|matched| replaced(path, matched, prefix)),
        PathRewrite::Regex(substitution) => substitution.apply(path).map_err(|too_long| {
            tracing::debug!(route = exchange.route(), "a path is too long to be rewritten by a regular expression");
            ProxyError::from(too_long)
        })?,
    };
    let Some(made) = made else { return Ok(None) };
    match normalize(&made, true) {
        Ok(normal) => Ok(Some(match normal {
            Cow::Borrowed(_) => made,
            Cow::Owned(normal) => normal,
        })),
        Err(error) => {
            tracing::debug!(route = exchange.route(), "a rewritten path is none: {error}");
            Err(ProxyError::BadRequest)
        }
    }
}

/// The path with another prefix, by whole segments, as the Gateway API has it; neither prefix ends in a slash.
fn replaced(path: &str, matched: &str, prefix: &str) -> Option<String> {
    let rest = path.strip_prefix(matched)?;
    match (prefix, rest) {
        ("", "") => Some("/".to_owned()),
        (_, rest) if rest.is_empty() || rest.starts_with('/') => Some(format!("{prefix}{rest}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the Gateway API's `HTTPPathModifier`, whose slashes at the end are taken off before.
    #[test]
    fn prefixes_are_replaced_by_whole_segments() {
        for (path, matched, prefix, wanted) in [
            ("/foo/bar", "/foo", "/xyz", Some("/xyz/bar")),
            ("/foo", "/foo", "/xyz", Some("/xyz")),
            ("/foo/", "/foo", "/xyz", Some("/xyz/")),
            ("/foo/bar", "/foo", "", Some("/bar")),
            ("/foo/", "/foo", "", Some("/")),
            ("/foo", "/foo", "", Some("/")),
            ("/foo", "", "/xyz", Some("/xyz/foo")),
            ("/", "", "/xyz", Some("/xyz/")),
            ("/foobar", "/foo", "/xyz", None),
            ("/other", "/foo", "/xyz", None),
        ] {
            assert_eq!(replaced(path, matched, prefix).as_deref(), wanted, "{path} {matched} {prefix}");
        }
    }
}
