//! Defines what matching sees of a request.

use http::{HeaderMap, Method};

use crate::exchange::ProxyError;
use crate::spec::matching::TooLong;
use crate::spec::name::Name;

/// A request as matching sees it, after the gate.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The listener it came in by.
    pub listener: &'a Name,
    /// Lower case, without port and trailing dot; empty when there is none.
    pub host: &'a str,
    /// In normal form.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The query, without the question mark.
    pub query: Option<&'a str>,
}

impl From<TooLong> for ProxyError {
    fn from(part: TooLong) -> Self {
        match part {
            TooLong::Target => Self::UriTooLong,
            TooLong::Fields => Self::HeadersTooLarge,
        }
    }
}
