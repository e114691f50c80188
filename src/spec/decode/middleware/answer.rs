//! Defines how answers without a service are written: canned ones, maintenance, pages for errors.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::answer::{canned, resolve_content_type};
use crate::spec::decode::scalar::RawDuration;
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::template::Template;
use crate::spec::middleware::transform::{ErrorPages, Maintenance, Page, Respond, Statuses};
use crate::spec::secret::{MASK, is_credential};

use super::header_name::{HeaderUse, header_for};
use super::networks;

/// An answer without a service.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Respond", deny_unknown_fields)]
pub(super) struct RawRespond {
    /// The status; default 200.
    #[schemars(range(min = 200, max = 599))]
    status: Option<i64>,
    /// The body; default empty.
    body: Option<String>,
    /// What the body is; default `text/plain; charset=utf-8`.
    content_type: Option<String>,
    /// More headers.
    headers: Option<BTreeMap<String, String>>,
}

/// Answers everybody with 503 but those who look after the service.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Maintenance", deny_unknown_fields)]
pub(super) struct RawMaintenance {
    /// When to come again; default 5m.
    retry_after: Option<RawDuration>,
    /// The body; without one the gateway's usual answer.
    body: Option<String>,
    /// What the body is; default `text/plain; charset=utf-8`.
    content_type: Option<String>,
    /// CIDRs of clients whose requests are served nevertheless.
    allow: Option<Vec<String>>,
}

/// Bodies for errors; the status and all other headers stay. Answers to gRPC, and to clients that ask for JSON before
/// anything textual where a page is no JSON, stay as they are.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ErrorPages", deny_unknown_fields)]
pub(super) struct RawErrorPages {
    /// By status: `404`, or `5xx` for all of a hundred; one goes before a hundred.
    pages: Option<BTreeMap<String, RawPage>>,
    /// Also instead of the bodies that services give; default false: of the gateway's own errors alone.
    services: Option<bool>,
}

/// A body and what it is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Page", deny_unknown_fields)]
pub(super) struct RawPage {
    /// The body; `${request_id}` and other values of the request may stand in it.
    body: Option<String>,
    /// What the body is; default `text/html; charset=utf-8`.
    content_type: Option<String>,
}

impl RawRespond {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Respond> {
        let answer = canned(self.status, self.body, self.content_type, StatusCode::OK, scope)?;
        let headers_scope = scope.key("headers");
        let header = |(name, text): (String, String)| {
            let scope = headers_scope.key(&name);
            let name = own_header(&name, &scope)?;
            let value = HeaderValue::from_str(&text).map_err(|_| match is_credential(&name) {
                true => format!("`{MASK}` is not the value of a header: it has control characters"),
                false => format!("{text:?} is not the value of a header"),
            });
            Some((name, scope.check(value)?))
        };
        Some(Respond { answer, headers: self.headers.unwrap_or_default().into_iter().filter_map(header).collect() })
    }
}

/// The name of a header that an answer may have beside what frames it.
fn own_header(name: &str, scope: &Scope<'_>) -> Option<HeaderName> {
    let name = header_for(HeaderUse::EditOnResponse, name, scope)?;
    if name == header::CONTENT_TYPE {
        scope.problem("`content_type` says it");
        return None;
    }
    Some(name)
}

impl RawMaintenance {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Maintenance> {
        if self.content_type.is_some() && self.body.is_none() {
            scope.key("content_type").problem("belongs to `body`, which is not given");
        }
        let content_type = resolve_content_type(self.content_type, scope)?;
        let page = match self.body {
            None => None,
            Some(body) => Some(Page { content_type, body: scope.key("body").check(Template::parse(&body))? }),
        };
        Some(Maintenance {
            retry_after: self.retry_after.map_or(Duration::from_secs(300), |RawDuration(after)| after),
            page,
            allow: networks(self.allow, &scope.key("allow")),
        })
    }
}

impl RawErrorPages {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<ErrorPages> {
        let pages_scope = scope.key("pages");
        let page = |(statuses, page): (String, RawPage)| {
            let scope = pages_scope.key(&statuses);
            Some((scope.check(parse_statuses(&statuses))?, page.resolve(&scope)?))
        };
        let mut pages: Vec<(Statuses, Page)> = self.pages.unwrap_or_default().into_iter().filter_map(page).collect();
        if pages.is_empty() {
            pages_scope.missing("there is no page: give one by its status, such as `404` or `5xx`");
        }
        pages.sort_by_key(|(statuses, _)| *statuses);
        Some(ErrorPages { pages, services: self.services.unwrap_or(false) })
    }
}

impl RawPage {
    fn resolve(self, scope: &Scope<'_>) -> Option<Page> {
        let content_type = self.content_type.or_else(|| Some("text/html; charset=utf-8".to_owned()));
        let Some(body) = self.body else {
            scope.missing("the page has no `body`");
            return None;
        };
        let body = scope.key("body").check(Template::parse(&body));
        Some(Page { content_type: resolve_content_type(content_type, scope)?, body: body? })
    }
}

fn parse_statuses(text: &str) -> Result<Statuses, String> {
    let wrong = || format!("`{text}` is neither a status from 400 to 599 nor `4xx` nor `5xx`");
    match text {
        "4xx" => Ok(Statuses::Hundred(4)),
        "5xx" => Ok(Statuses::Hundred(5)),
        _ => text.parse().ok().filter(|status| (400..=599).contains(status)).map(Statuses::One).ok_or_else(wrong),
    }
}
