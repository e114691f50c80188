//! Defines the middlewares that take a prefix from the path or put one before it.

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;

use super::{Middleware, Next};
use crate::exchange::header::X_FORWARDED_PREFIX;
use crate::exchange::{Payload, ProxyError, target};
use crate::spec::route;

/// Takes a prefix from the path, by whole segments, and tells services of it in `X-Forwarded-Prefix`.
#[derive(Debug)]
pub(super) struct StripPrefix(route::StripPrefix);

impl StripPrefix {
    pub(super) fn new(prefix: &route::StripPrefix) -> Self {
        Self(prefix.clone())
    }
}

#[async_trait(?Send)]
impl Middleware for StripPrefix {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        if let Some(rest) = stripped(request.uri().path(), self.0.as_str()) {
            // What follows a whole segment of a path in normal form is in normal form.
            *request.uri_mut() = target::origin_form(request.uri(), Some(rest))?;
            request.headers_mut().insert(X_FORWARDED_PREFIX, self.0.as_header().clone());
        }
        Ok(next.run(request).await)
    }
}

/// What is left of a path; `None` when it does not begin with the prefix.
fn stripped<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    match path.strip_prefix(prefix)? {
        "" => Some("/"),
        rest => rest.starts_with('/').then_some(rest),
    }
}

/// Puts a prefix before the path.
#[derive(Debug)]
pub(super) struct AddPrefix(String);

impl AddPrefix {
    pub(super) fn new(prefix: &str) -> Self {
        Self(prefix.to_owned())
    }
}

#[async_trait(?Send)]
impl Middleware for AddPrefix {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        // `OPTIONS *` has none.
        if request.uri().path().starts_with('/') {
            let path = format!("{}{}", self.0, request.uri().path());
            *request.uri_mut() = target::origin_form(request.uri(), Some(&path))?;
        }
        Ok(next.run(request).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_stripped_by_whole_segments() {
        for (path, wanted) in [
            ("/users", Some("/")),
            ("/users/", Some("/")),
            ("/users/1", Some("/1")),
            ("/usersx", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(stripped(path, "/users"), wanted, "{path}");
        }
    }
}
