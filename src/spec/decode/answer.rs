//! Defines how an answer that no service gives is written.

use http::{HeaderValue, StatusCode};

use crate::spec::breaker::Canned;

use super::scope::Scope;

/// What a body is where nobody says.
const PLAIN: &str = "text/plain; charset=utf-8";

/// An answer by the keys `status`, `body` and `content_type` of a table.
pub(super) fn canned(
    status: Option<i64>,
    body: Option<String>,
    content_type: Option<String>,
    default: StatusCode,
    scope: &Scope<'_>,
) -> Option<Canned> {
    let status: u16 = scope.key("status").number(status, default.as_u16(), 200..=599);
    let status = StatusCode::from_u16(status).unwrap_or(default);
    let content_type = resolve_content_type(content_type, scope)?;
    let body = body.unwrap_or_default();
    if !body.is_empty() && has_no_body(status) {
        scope.key("body").problem(format!("an answer of {} has no body", status.as_u16()));
    }
    Some(Canned { status, content_type, body })
}

/// Whether an answer of this status has no body (RFC 9110, 6.4.1).
fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What the body of a table is, by its key `content_type`; plain text by default.
pub(super) fn resolve_content_type(raw: Option<String>, scope: &Scope<'_>) -> Option<HeaderValue> {
    match raw {
        None => Some(HeaderValue::from_static(PLAIN)),
        Some(text) => scope.key("content_type").check(parse_content_type(&text)),
    }
}

fn parse_content_type(text: &str) -> Result<HeaderValue, String> {
    let visible = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    match HeaderValue::from_str(text) {
        Ok(value) if visible && text.contains('/') => Ok(value),
        _ => Err(format!("{text:?} is not a media type, such as `application/json`")),
    }
}
