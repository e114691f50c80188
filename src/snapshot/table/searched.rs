//! What the regular expressions of routes search, and the bound on that.
//!
//! An expression says nothing of a text that is too long for it. Such a request gets no route at all: whether the one
//! that it would have matched protects what another one serves is not known.

use std::sync::Arc;

use http::HeaderName;

use crate::exchange::ProxyError;
use crate::snapshot::request::RequestView;
use crate::snapshot::route::Route;
use crate::spec::condition::query_values;
use crate::spec::matching::{MAX_SUBJECT_BYTES, PathMatch, ValueMatch};

/// The parts of a request that some route's expression searches.
#[derive(Debug, Default)]
pub(super) struct Searched {
    path: bool,
    headers: Vec<HeaderName>,
    query: Vec<String>,
}

impl Searched {
    /// What these routes search; `None`: nothing.
    pub(super) fn by(routes: &[Arc<Route>]) -> Option<Box<Self>> {
        let mut searched = Self::default();
        for matching in routes.iter().map(|route| route.matching()) {
            searched.path |= matches!(matching.path, PathMatch::Regex(_));
            let is_regex = |wanted: &ValueMatch| matches!(wanted, ValueMatch::Regex(_));
            let headers = matching.conditions.headers.iter().filter(|(_, wanted)| is_regex(wanted));
            searched.headers.extend(headers.map(|(name, _)| name.clone()));
            let query = matching.conditions.query.iter().filter(|(_, wanted)| is_regex(wanted));
            searched.query.extend(query.map(|(name, _)| name.clone()));
        }
        searched.headers.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        searched.headers.dedup();
        searched.query.sort_unstable();
        searched.query.dedup();
        let is_any = searched.path || !searched.headers.is_empty() || !searched.query.is_empty();
        is_any.then(|| Box::new(searched))
    }

    /// Refuses a request of which too much would be searched. All values of a name count together: each is searched.
    ///
    /// # Errors
    /// What is too long.
    pub(super) fn check(&self, request: &RequestView<'_>) -> Result<(), ProxyError> {
        if self.path && request.path.len() > MAX_SUBJECT_BYTES {
            return Err(ProxyError::UriTooLong);
        }
        for name in &self.headers {
            let bytes: usize = request.headers.get_all(name).iter().map(|value| value.len()).sum();
            if bytes > MAX_SUBJECT_BYTES {
                return Err(ProxyError::HeadersTooLarge);
            }
        }
        // Decoding makes three bytes of one that is no UTF-8.
        if request.query.is_some_and(|query| query.len() > MAX_SUBJECT_BYTES / 3) {
            for name in &self.query {
                let bytes: usize = query_values(request.query, name).map(|value| value.len()).sum();
                if bytes > MAX_SUBJECT_BYTES {
                    return Err(ProxyError::UriTooLong);
                }
            }
        }
        Ok(())
    }
}
