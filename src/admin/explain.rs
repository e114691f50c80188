//! `/api/v1/explain`: what a request would meet. GET has the question in its query, POST in a form, where a request's whole
//! head has room; neither changes anything.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State as Shared};
use http::{Uri, header};
use http_body_util::LengthLimitError;
use tokio::runtime::Handle;

use super::State;
use super::error::ApiError;
use super::query;
use crate::control::explain::{self, Explanation, Question, Wrong};
use crate::spec::name::Name;

/// Most headers of a request that is asked about.
const MOST_HEADERS: usize = 100;

/// The largest form that is read.
const MAX_FORM_BYTES: usize = 256 << 10;

const FORM: &str = "application/x-www-form-urlencoded";

type Explained = Result<Json<Explanation>, ApiError>;

/// `GET /api/v1/explain?method=&url=&header=&listener=&client=&route=`
pub(super) async fn explain(Shared(state): Shared<Arc<State>>, uri: Uri) -> Explained {
    answer(&state, query::pairs(&uri)).await
}

/// `POST /api/v1/explain`, with the same fields in a form.
pub(super) async fn explain_form(Shared(state): Shared<Arc<State>>, request: Request) -> Explained {
    if request.uri().query().is_some() {
        return Err(ApiError::Malformed("with POST the fields are in the body alone".to_owned()));
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(FORM) {
        return Err(ApiError::UnsupportedType(FORM));
    }
    let body = to_bytes(request.into_body(), MAX_FORM_BYTES).await.map_err(unread)?;
    answer(&state, query::form(&body)).await
}

fn unread(error: axum::Error) -> ApiError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(one) = cause {
        if one.is::<LengthLimitError>() {
            return ApiError::TooLarge(MAX_FORM_BYTES);
        }
        cause = one.source();
    }
    ApiError::Malformed(format!("the body can't be read: {error}"))
}

async fn answer(state: &Arc<State>, fields: impl Iterator<Item = (String, String)>) -> Explained {
    let (mut method, mut url, mut listener, mut client, mut route) = (None, None, None, None, None);
    let mut headers = Vec::new();
    for (name, value) in fields {
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
    let state = Arc::clone(state);
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
