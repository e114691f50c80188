//! Defines how headers that tell browsers to be careful are written.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::scalar::RawDurationOrZero;
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::transform::{Hsts, SECURITY_HEADERS, SecurityHeaders};

/// Headers that tell browsers to be careful. What is not given has a safe value; an empty text leaves a header out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "SecurityHeaders", deny_unknown_fields)]
pub(super) struct RawSecurityHeaders {
    /// `Strict-Transport-Security`, in answers over TLS alone; not sent by default.
    hsts: Option<RawHsts>,
    /// `X-Frame-Options`; default `DENY`.
    frame_options: Option<String>,
    /// `X-Content-Type-Options`; default `nosniff`.
    content_type_options: Option<String>,
    /// `Referrer-Policy`; default `strict-origin-when-cross-origin`.
    referrer_policy: Option<String>,
    /// `Content-Security-Policy`; not sent by default.
    content_security_policy: Option<String>,
    /// `Permissions-Policy`; not sent by default.
    permissions_policy: Option<String>,
    /// `Cross-Origin-Opener-Policy`; default `same-origin`.
    cross_origin_opener_policy: Option<String>,
    /// `Cross-Origin-Resource-Policy`; not sent by default.
    cross_origin_resource_policy: Option<String>,
    /// `Cross-Origin-Embedder-Policy`; not sent by default.
    cross_origin_embedder_policy: Option<String>,
    /// Whether they go before those that a service sets; default false.
    #[serde(rename = "override")]
    overrides: Option<bool>,
}

/// How long browsers are to use https alone (RFC 6797).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Hsts", deny_unknown_fields)]
pub(super) struct RawHsts {
    /// How long; default 365 days, and `0s` takes it back.
    max_age: Option<RawDurationOrZero>,
    /// For all hosts below this one; default false.
    include_subdomains: Option<bool>,
    /// Says that browsers may ship with it: takes 365 days at least, and `include_subdomains`. Default false.
    preload: Option<bool>,
}

/// What the preload lists of browsers ask for, at least.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl RawSecurityHeaders {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> SecurityHeaders {
        // In the order of the table.
        let given = [
            self.frame_options,
            self.content_type_options,
            self.referrer_policy,
            self.content_security_policy,
            self.permissions_policy,
            self.cross_origin_opener_policy,
            self.cross_origin_resource_policy,
            self.cross_origin_embedder_policy,
        ];
        let value = |((key, name, default), given): ((&str, HeaderName, Option<&str>), Option<String>)| {
            let text = given.or_else(|| default.map(str::to_owned)).filter(|text| !text.is_empty())?;
            let value = HeaderValue::from_str(&text).map_err(|_| format!("{text:?} is not the value of a header"));
            Some((name, scope.key(key).check(value)?))
        };
        SecurityHeaders {
            hsts: self.hsts.map(|hsts| hsts.resolve(&scope.key("hsts"))),
            headers: SECURITY_HEADERS.into_iter().zip(given).filter_map(value).collect(),
            overrides: self.overrides.unwrap_or(false),
        }
    }
}

impl RawHsts {
    fn resolve(self, scope: &Scope<'_>) -> Hsts {
        let hsts = Hsts {
            max_age: self.max_age.map_or(YEAR, |RawDurationOrZero(age)| age),
            include_subdomains: self.include_subdomains.unwrap_or(false),
            preload: self.preload.unwrap_or(false),
        };
        if hsts.preload && (hsts.max_age < YEAR || !hsts.include_subdomains) {
            scope.key("preload").problem("takes a `max_age` of 365 days (`8760h`) at least, and `include_subdomains`");
        }
        hsts
    }
}
