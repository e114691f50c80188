//! `GET /api/v1/events`: what changed, when and why; `GET /api/v1/events/at`: how endpoints stood at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State as Shared;
use http::Uri;
use serde::Serialize;

use super::State;
use super::error::ApiError;
use super::query;
use super::view::time_text;
use crate::control::history::{Filter, Page, Past, moment};
use crate::snapshot::Snapshot;

/// Events of an answer, where nothing else is asked for.
const USUAL: usize = 100;
/// Most events of an answer.
const MOST: usize = 1_000;
/// Longest wait for an event, in seconds.
const LONGEST_WAIT: u64 = 60;

type Of = Shared<Arc<State>>;

/// Events, and what is to know of the question.
#[derive(Debug, Serialize)]
pub(super) struct Events {
    #[serde(flatten)]
    page: Page,
    /// The earliest time that was asked for, as it was understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// What was asked for and neither exists nor has an event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
}

impl Events {
    fn new(page: Page, filter: &Filter, snapshot: &Snapshot) -> Self {
        let is_empty = page.items.is_empty();
        let upstream = filter.upstream.as_ref().filter(|name| !snapshot.upstreams().any(|one| *one.label == ***name));
        let route = filter.route.as_ref();
        let route = route.filter(|name| !snapshot.routes.routes().iter().any(|one| *one.label == ***name));
        let upstream = upstream.map(|name| format!("there is no upstream `{name}`, and no such event of one"));
        let route = route.map(|name| format!("there is no route `{name}`, and no such event of one"));
        let unknown = upstream.into_iter().chain(route).filter(|_| is_empty).collect();
        Self { page, since: filter.since.map(time_text), unknown }
    }
}

/// `GET /api/v1/events?upstream=&route=&provider=&since=TIME&after=ID&limit=N&wait=SECONDS`
pub(super) async fn list(Shared(state): Of, uri: Uri) -> Result<Json<Events>, ApiError> {
    let mut filter = Filter::default();
    let (mut provider, mut since, mut after, mut limit, mut wait) = (None, None, None, None, None);
    for (name, value) in query::pairs(&uri) {
        match &*name {
            "upstream" => query::once(&mut filter.upstream, "upstream", value)?,
            "route" => query::once(&mut filter.route, "route", value)?,
            "provider" => query::once(&mut provider, "provider", value)?,
            "since" => query::once(&mut since, "since", value)?,
            "after" => query::once(&mut after, "after", value)?,
            "limit" => query::once(&mut limit, "limit", value)?,
            "wait" => query::once(&mut wait, "wait", value)?,
            _ => {
                let known = ["upstream", "route", "provider", "since", "after", "limit", "wait"];
                return Err(query::unknown(&name, &known));
            }
        }
    }
    filter.provider = provider.map(|text| text.parse().map_err(ApiError::Malformed)).transpose()?;
    filter.since = since.map(|text| moment(&text, SystemTime::now()).map_err(ApiError::Malformed)).transpose()?;
    filter.after = after.map(|text| number(&text, "after", 0, u64::MAX)).transpose()?;
    let limit = limit.map(|text| number(&text, "limit", 1, MOST as u64)).transpose()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(USUAL);
    let wait = wait.map(|text| number(&text, "wait", 0, LONGEST_WAIT)).transpose()?.unwrap_or(0);
    if wait == 0 {
        let page = state.history.select(&filter, limit);
        return Ok(Json(Events::new(page, &filter, &state.snapshot.borrow())));
    }
    let page = state.history.wait(&filter, limit, Duration::from_secs(wait)).await;
    let page = page.map_err(|many| ApiError::Unavailable(many.to_string()))?;
    Ok(Json(Events::new(page, &filter, &state.snapshot.borrow())))
}

/// `GET /api/v1/events/at?time=TIME&upstream=NAME`
pub(super) async fn at(Shared(state): Of, uri: Uri) -> Result<Json<Past>, ApiError> {
    let (mut time, mut upstream) = (None, None);
    for (name, value) in query::pairs(&uri) {
        match &*name {
            "time" => query::once(&mut time, "time", value)?,
            "upstream" => query::once(&mut upstream, "upstream", value)?,
            _ => return Err(query::unknown(&name, &["time", "upstream"])),
        }
    }
    let Some(time) = time else {
        return Err(ApiError::Malformed("`time` is missing: `?time=14:02`, or in RFC 3339".to_owned()));
    };
    let time = moment(&time, SystemTime::now()).map_err(ApiError::Malformed)?;
    let past = state.history.at(time, upstream.as_deref());
    match upstream {
        // One that is gone has a past, too.
        Some(name) if past.items.is_empty() && !state.snapshot.borrow().upstreams().any(|it| *it.label == name) => {
            Err(ApiError::NotFound(format!("nothing is known of an upstream `{name}` at {} (UTC)", past.at)))
        }
        _ => Ok(Json(past)),
    }
}

fn number(text: &str, name: &str, least: u64, most: u64) -> Result<u64, ApiError> {
    let wrong = || ApiError::Malformed(format!("`{name}` is not a number from {least} to {most}: `{text}`"));
    let number: u64 = text.parse().map_err(|_| wrong())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(wrong()) }
}
