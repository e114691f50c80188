//! Defines how the target of a request is changed.

use http::Uri;
use http::uri::PathAndQuery;

use super::error::ProxyError;

/// The target in origin form, with another path perhaps; the query is untouched.
///
/// # Errors
/// A path that is none.
pub fn origin_form(uri: &Uri, path: Option<&str>) -> Result<Uri, ProxyError> {
    made(path.unwrap_or(uri.path()), uri.query())
}

/// The target in origin form, with another query, or none.
///
/// # Errors
/// A query that is none.
pub fn with_query(uri: &Uri, query: Option<&str>) -> Result<Uri, ProxyError> {
    made(uri.path(), query)
}

fn made(path: &str, query: Option<&str>) -> Result<Uri, ProxyError> {
    let target = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    Ok(Uri::from(target.map_err(|_| ProxyError::BadRequest)?))
}
