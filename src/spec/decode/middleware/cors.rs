//! Defines how CORS is written.

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::condition::{parse_header_name, parse_method};
use crate::spec::decode::scalar::RawDurationOrZero;
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::cors::{Cors, OriginMatch};

/// Which pages of other origins may use a service from scripts. Put it around what authenticates: browsers ask without
/// credentials first.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Cors", deny_unknown_fields)]
pub(super) struct RawCors {
    /// Origins, such as `https://example.com`, `https://*.example.com` for all names below, or `*` for all.
    origins: Option<Vec<String>>,
    /// Methods, or `*` for all; default GET, HEAD and POST.
    methods: Option<Vec<String>>,
    /// Headers that scripts may send, or `*` for all; default none beside those that every page may send.
    headers: Option<Vec<String>>,
    /// Headers of answers that scripts may read, or `*` for all; default none beside those that every script may.
    expose: Option<Vec<String>>,
    /// Whether browsers may send cookies and the like; default false.
    credentials: Option<bool>,
    /// How long browsers may remember what they were told; default what browsers take, 5 s.
    max_age: Option<RawDurationOrZero>,
}

impl RawCors {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Cors> {
        if self.origins.is_none() {
            scope.missing("say whose pages: give `origins`, or `origins = [\"*\"]` for all");
        }
        let credentials = self.credentials.unwrap_or(false);
        if credentials && self.expose.iter().flatten().any(|text| text == "*") {
            scope.key("expose").problem("beside `credentials` browsers take no `*`: name the headers");
        }
        let methods = self.methods.or_else(|| Some(["GET", "HEAD", "POST"].map(str::to_owned).to_vec()));
        let header = |text: &str| parse_header_name(text);
        let or_none = |list: Option<Vec<String>>| Some(list.unwrap_or_default());
        Some(Cors {
            origins: all_or(self.origins, &scope.key("origins"), OriginMatch::parse),
            methods: all_or(methods, &scope.key("methods"), parse_method),
            headers: all_or::<HeaderName>(or_none(self.headers), &scope.key("headers"), header),
            expose: all_or(or_none(self.expose), &scope.key("expose"), header),
            credentials,
            max_age: self.max_age.map(|RawDurationOrZero(age)| age),
        })
    }
}

/// The elements of a list; `None` for `*`, which stands alone.
fn all_or<T>(raw: Option<Vec<String>>, scope: &Scope<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
    let raw = raw?;
    if raw.iter().any(|text| text == "*") {
        if raw.len() > 1 {
            scope.problem("`*` is all: it stands alone");
        }
        return None;
    }
    let parsed = raw.iter().enumerate().filter_map(|(index, text)| scope.index(index).check(parse(text)));
    Some(parsed.collect())
}
