//! `GET /api/v1/explain`: what a request would meet.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use http::Uri;
use tokio::runtime::Handle;

use super::State;
use super::error::ApiError;
use super::query;
use crate::control::explain::{self, Explanation, Question, Wrong};
use crate::spec::name::Name;

/// Most headers of a request that is asked about.
const MOST_HEADERS: usize = 100;

/// `GET /api/v1/explain?method=&url=&header=&listener=&client=&route=`
pub(super) async fn explain(Shared(state): Shared<Arc<State>>, uri: Uri) -> Result<Json<Explanation>, ApiError> {
    let (mut method, mut url, mut listener, mut client, mut route) = (None, None, None, None, None);
    let mut headers = Vec::new();
    for (name, value) in query::pairs(&uri) {
        match &*name {
            "method" => query::once(&mut method, "method", value)?,
            "url" => query::once(&mut url, "url", value)?,
            "header" => headers.push(value),
            "listener" => query::once(&mut listener, "listener", value)?,
            "client" => query::once(&mut client, "client", value)?,
            "route" => query::once(&mut route, "route", value)?,
            _ => {
                return Err(query::unknown(&name, &["method", "url", "header", "listener", "client", "route"]));
            }
        }
    }
    let Some(url) = url else {
        return Err(ApiError::Malformed("`url` is missing: `?url=http://HOST/PATH`".to_owned()));
    };
    if headers.len() > MOST_HEADERS {
        return Err(ApiError::Malformed(format!("{} headers are more than {MOST_HEADERS}", headers.len())));
    }
    let name = |text: Option<String>| -> Result<Option<Name>, ApiError> {
        text.map(|text| text.parse().map_err(|error| ApiError::Malformed(format!("{error}")))).transpose()
    };
    let client: Option<IpAddr> = client
        .map(|text| text.parse().map_err(|_| ApiError::Malformed(format!("`{text}` is no IP address"))))
        .transpose()?;
    let method = method.as_deref().unwrap_or("GET");
    let question = Question::read(method, &url, &headers)?.by(name(listener)?).from(client).about(name(route)?);
    let snapshot = Arc::clone(&state.snapshot.borrow());
    // A table of thousands of routes takes its time, and what a request meets belongs to one thread.
    let runtime = Handle::current();
    let explaining = tokio::task::spawn_blocking(move || {
        runtime.block_on(explain::explain(&question, &snapshot, &state.settings.listeners))
    });
    let explained =
        explaining.await.map_err(|_| ApiError::Internal("explaining it failed; the log says why".to_owned()))?;
    Ok(Json(explained?))
}

impl From<Wrong> for ApiError {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Unreadable(text) => Self::Malformed(text),
            Wrong::NoListener(..) | Wrong::NoRoute(_) => Self::NotFound(wrong.to_string()),
        }
    }
}
