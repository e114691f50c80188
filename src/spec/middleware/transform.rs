//! Defines the middlewares that change requests and answers, as someone asked for them.

use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::template::Template;
use crate::spec::breaker::Canned;
use crate::spec::matching::{Conditions, Substitution};

/// What becomes of the headers of requests and answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Of requests.
    pub request: HeaderEdits,
    /// Of answers, the gateway's own among them.
    pub response: HeaderEdits,
}

/// Headers that are removed, then set, then added. A value that comes out empty is left out; one that is set goes then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// All of that name.
    pub remove: Vec<HeaderName>,
    /// Instead of all of that name.
    pub set: Vec<(HeaderName, Template)>,
    /// Beside those of that name.
    pub add: Vec<(HeaderName, Template)>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// This one.
    Full(String),
    /// This instead of what the route matched as a prefix; without a trailing slash, so that `/` is the empty text.
    Prefix(String),
    /// Every match of an expression is replaced.
    Regex(Substitution),
}

/// Another path and host for services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The path.
    pub path: Option<PathRewrite>,
    /// The `Host`.
    pub host: Option<HeaderValue>,
}

/// Sends clients elsewhere; what is not said stays as the request has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// Without port; an IPv6 address in brackets.
    pub host: Option<String>,
    /// The port; without it the one that the client came to, or with another scheme that one's.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// The query, without question mark; an empty text is none.
    pub query: Option<String>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// An answer without a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// Status and body.
    pub answer: Canned,
    /// More headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Answers everybody with 503 but those who look after the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// When to come again.
    pub retry_after: Duration,
    /// The body and what it is; the gateway's usual answer without one.
    pub page: Option<Page>,
    /// Whose requests are served nevertheless.
    pub allow: Vec<ipnet::IpNet>,
}

/// A body and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What it is.
    pub content_type: HeaderValue,
    /// The body; in those of errors values of the request may stand.
    pub body: Template,
}

/// Bodies for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPages {
    /// By status: one, or all of a hundred (`5xx`). One goes before a hundred.
    pub pages: Vec<(Statuses, Page)>,
    /// Those of services, too.
    pub services: bool,
}

/// A status, or a hundred of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statuses {
    /// This one.
    One(u16),
    /// All that begin with this digit.
    Hundred(u8),
}

impl Statuses {
    /// Whether it is one of them.
    pub fn have(self, status: StatusCode) -> bool {
        match self {
            Self::One(one) => status.as_u16() == one,
            Self::Hundred(digit) => status.as_u16() / 100 == u16::from(digit),
        }
    }
}

/// Headers that tell browsers to be careful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityHeaders {
    /// In answers over TLS alone (RFC 6797, 7.2).
    pub hsts: Option<Hsts>,
    /// The others.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether they go before those that a service sets.
    pub overrides: bool,
}

/// How long browsers are to use https alone (RFC 6797).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// How long; 0 takes it back.
    pub max_age: Duration,
    /// For all hosts below this one, too.
    pub include_subdomains: bool,
    /// Browsers may ship with it.
    pub preload: bool,
}

impl Hsts {
    /// The value of `Strict-Transport-Security`.
    pub fn text(self) -> String {
        let below = if self.include_subdomains { "; includeSubDomains" } else { "" };
        let preload = if self.preload { "; preload" } else { "" };
        format!("max-age={}{below}{preload}", self.max_age.as_secs())
    }
}

/// The keys of the other headers, and what they are by default.
pub const SECURITY_HEADERS: [(&str, HeaderName, Option<&str>); 8] = [
    ("frame_options", header::X_FRAME_OPTIONS, Some("DENY")),
    ("content_type_options", header::X_CONTENT_TYPE_OPTIONS, Some("nosniff")),
    ("referrer_policy", header::REFERRER_POLICY, Some("strict-origin-when-cross-origin")),
    ("content_security_policy", header::CONTENT_SECURITY_POLICY, None),
    ("permissions_policy", HeaderName::from_static("permissions-policy"), None),
    ("cross_origin_opener_policy", HeaderName::from_static("cross-origin-opener-policy"), Some("same-origin")),
    ("cross_origin_resource_policy", HeaderName::from_static("cross-origin-resource-policy"), None),
    ("cross_origin_embedder_policy", HeaderName::from_static("cross-origin-embedder-policy"), None),
];

/// What goes wrong on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Requests wait.
    pub delay: Option<(Duration, Share)>,
    /// Requests get this status, and reach no service.
    pub abort: Option<(StatusCode, Share)>,
    /// Only these requests; all where there are none.
    pub when: Conditions,
}

/// A share of requests: 0 to 10,000 of 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(10_000);

    /// A share in percent, to two places.
    ///
    /// # Errors
    /// What is none.
    pub fn of_percent(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a percentage: write `1%`, `0.5%` or `100%`");
        let number = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim_end();
        let (whole, places) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || places.len() > 2 || !digits(whole) || !digits(places) {
            return Err(wrong());
        }
        let parts = format!("{whole}{places:0<2}").parse().ok().filter(|parts| *parts <= Self::ALL.0);
        parts.map(Self).ok_or_else(wrong)
    }

    /// Whether a number drawn evenly from all of 64 bits falls into it.
    pub fn takes(self, drawn: u64) -> bool {
        drawn % u64::from(Self::ALL.0) < u64::from(self.0)
    }

    /// In percent.
    pub fn text(self) -> String {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => format!("{whole}%"),
            (whole, rest) => format!("{whole}.{}%", format!("{rest:02}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_to_two_places() {
        for (text, wanted) in [("0%", 0), ("0.01%", 1), ("1%", 100), ("0.5%", 50), ("12.34 %", 1234), ("100%", 10_000)]
        {
            assert_eq!(Share::of_percent(text), Ok(Share(wanted)), "{text}");
        }
        for bad in ["", "%", "5", "101%", "100.01%", "-1%", "1.234%", ".5%", "a%", "1e1%"] {
            assert!(Share::of_percent(bad).is_err(), "{bad}");
        }
        for text in ["0%", "0.01%", "0.5%", "12.34%", "100%"] {
            assert_eq!(Share::of_percent(text).expect("a share").text(), text);
        }
        assert!((0..10_000).all(|drawn| Share::ALL.takes(drawn)) && !Share(0).takes(0));
        assert_eq!((0..10_000).filter(|drawn| Share(50).takes(*drawn)).count(), 50);
    }
}
