//! Defines how a service is written that is asked whether requests may pass.

use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::condition::parse_path;
use crate::spec::decode::scalar::RawDuration;
use crate::spec::decode::scope::{Referent, Scope};
use crate::spec::middleware::forward_auth::ForwardAuth;
use crate::spec::name::{ItemRef, Name};

use super::header_name::{HeaderUse, header_for};

/// Asks a service whether a request may pass: by GET, with `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`. An
/// answer of 200 to 299 lets it pass; what is answered else is what the client gets. Without an answer nobody passes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ForwardAuth", deny_unknown_fields)]
pub(super) struct RawForwardAuth {
    /// The upstream of the service that knows.
    upstream: Option<String>,
    /// The path there; default `/`.
    path: Option<String>,
    /// How long its answer is waited for; default 2s.
    timeout: Option<RawDuration>,
    /// Headers of the request that it gets; default `authorization` and `cookie`.
    request_headers: Option<Vec<String>>,
    /// Headers of its answer that services get, such as `x-user`; no client's own copy of these passes. Default none.
    response_headers: Option<Vec<String>>,
    /// The header of its answer that is the consumer's name, for limits, rules, logs and services.
    consumer: Option<String>,
    /// How long a yes counts for requests of the same client with the same method, host, target and headers; default not at
    /// all.
    cache: Option<RawDuration>,
}

impl RawForwardAuth {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<ForwardAuth> {
        let upstream_scope = scope.key("upstream");
        let upstream: Option<Name> = match self.upstream {
            None => {
                scope.missing("say whom to ask, by `upstream`");
                None
            }
            Some(text) => upstream_scope.check(text.parse()),
        };
        if let Some(name) = &upstream {
            upstream_scope.refers(Referent::Upstream(ItemRef { name: name.clone(), provider: None }));
        }
        let path_scope = scope.key("path");
        let path = self.path.as_deref().unwrap_or("/");
        let parse = |path: &str| {
            let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
            let path = parse_path(path)?;
            let whole = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            PathAndQuery::try_from(whole).map_err(|_| format!("`{path}` is not a path"))
        };
        let headers = |raw: Option<Vec<String>>, default: &[&'static str], usage, key: &str| {
            let scope = scope.key(key);
            let Some(raw) = raw else { return default.iter().map(|name| HeaderName::from_static(name)).collect() };
            let raw = raw.iter().enumerate();
            raw.filter_map(|(index, name)| header_for(usage, name, &scope.index(index))).collect::<Vec<_>>()
        };
        let or = |raw: Option<RawDuration>, default| raw.map_or(default, |RawDuration(duration)| duration);
        Some(ForwardAuth {
            upstream: upstream?,
            path: path_scope.check(parse(path))?,
            timeout: or(self.timeout, Duration::from_secs(2)),
            request_headers: headers(
                self.request_headers,
                &["authorization", "cookie"],
                HeaderUse::CopyToQuestion,
                "request_headers",
            ),
            response_headers: headers(self.response_headers, &[], HeaderUse::SetOnRequest, "response_headers"),
            consumer: self
                .consumer
                .and_then(|name| header_for(HeaderUse::ReadFromAnswer, &name, &scope.key("consumer"))),
            cache: self.cache.map(|RawDuration(time)| time),
        })
    }
}
