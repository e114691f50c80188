//! Defines how tokens that prove who a client is are written.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderName, Uri, header};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::certificate::pem;
use crate::spec::decode::condition::resolve_each;
use crate::spec::decode::route::parse_cookie_name;
use crate::spec::decode::scalar::{RawDuration, RawDurationOrZero};
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::access::KeyPlace;
use crate::spec::middleware::jwt::{Algorithm, Jwt, JwtKeys};
use crate::spec::secret::masked_url;

use super::access::groups;
use super::header_name::{HeaderUse, header_for};

/// Tokens (JWT) that say who a client is. Services get the consumer's name in `X-Consumer`, and claims in headers.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Jwt", deny_unknown_fields)]
pub(super) struct RawJwt {
    /// Who made the token: its `iss` is one of these.
    issuers: Option<Vec<String>>,
    /// For whom it is: its `aud` has one of these; an empty list looks at none.
    audience: Option<Vec<String>>,
    /// Where the issuer publishes its keys (JWKS): `https`, or `http` on this machine.
    jwks_url: Option<String>,
    /// How often they are read; default 10m. A key that nobody knows lets them be read at once, every 30 s at most.
    refresh: Option<RawDuration>,
    /// Instead: its keys (JWKS), as JSON.
    jwks: Option<String>,
    /// Instead: public keys, PEM files or PEM text. In a registry only text.
    keys: Option<Vec<String>>,
    /// Instead: a secret that the issuer has, too, of 32 bytes at least.
    secret: Option<String>,
    /// By which algorithms it is signed; default `RS256`, with `secret` `HS256`.
    algorithms: Option<Vec<String>>,
    /// How far clocks may differ; default 30s.
    leeway: Option<RawDurationOrZero>,
    /// The header it is in, behind `Bearer`; default `authorization`, where `cookie` is not given.
    header: Option<String>,
    /// The cookie it is in.
    cookie: Option<String>,
    /// Claims that services get, by the name of the claim, into which dots lead: `{ "sub" = "x-user" }`. No client's own copy
    /// of these headers passes.
    claims: Option<BTreeMap<String, String>>,
    /// The claim that is the consumer's name; default `sub`.
    consumer: Option<String>,
    /// Whether services get the token, too; default false.
    forward: Option<bool>,
    /// Whether a client without one may go on, as nobody; a wrong one is refused all the same. Default false.
    optional: Option<bool>,
    /// Only consumers of one of these groups; default all.
    groups: Option<Vec<String>>,
}

/// What a secret must have, at least (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

impl RawJwt {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Jwt> {
        if self.issuers.is_none() {
            scope.missing("say who makes the tokens, by `issuers`");
        }
        if self.audience.is_none() {
            scope.missing("say for whom tokens are, by `audience`; `audience = []` takes those for others, too");
        }
        let symmetric = self.secret.is_some();
        let default = if symmetric { Algorithm::Hs256 } else { Algorithm::Rs256 };
        let algorithms_scope = scope.key("algorithms");
        let algorithms = match self.algorithms {
            None => vec![default],
            given => resolve_each(given, &algorithms_scope, |text, scope| scope.check(text.parse::<Algorithm>())),
        };
        if algorithms.iter().any(|algorithm| algorithm.is_symmetric() != symmetric) {
            algorithms_scope.problem("`HS...` goes with `secret` alone, and all others with keys");
        }
        let from = match (self.header, self.cookie) {
            (None, None) => Some(KeyPlace::Header(header::AUTHORIZATION)),
            (Some(name), None) => header_for(HeaderUse::Credential, &name, &scope.key("header")).map(KeyPlace::Header),
            (None, Some(name)) => scope.key("cookie").check(parse_cookie_name(name)).map(KeyPlace::Cookie),
            (Some(_), Some(_)) => {
                scope.problem("`header` and `cookie` exclude each other: make a middleware of each");
                None
            }
        };
        let claims_scope = scope.key("claims");
        let claim = |(claim, header): (String, String)| -> Option<(String, HeaderName)> {
            let scope = claims_scope.key(&claim);
            let header = header_for(HeaderUse::SetOnRequest, &header, &scope)?;
            if header == "x-consumer" {
                scope.problem("services get the consumer's name in it: `consumer` says which claim that is");
                return None;
            }
            Some((claim, header))
        };
        let claims = self.claims.unwrap_or_default().into_iter().filter_map(claim).collect();
        let keys = keys(self.jwks_url, self.refresh, self.jwks, self.keys, self.secret, scope);
        Some(Jwt {
            issuers: resolve_each(self.issuers, &scope.key("issuers"), |text, _| Some(text)),
            audience: self.audience.unwrap_or_default(),
            keys: keys?,
            algorithms,
            leeway: self.leeway.map_or(Duration::from_secs(30), |RawDurationOrZero(leeway)| leeway),
            from: from?,
            claims,
            consumer: self.consumer.unwrap_or_else(|| "sub".to_owned()),
            forward: self.forward.unwrap_or(false),
            optional: self.optional.unwrap_or(false),
            groups: groups(self.groups, scope),
        })
    }
}

fn keys(
    url: Option<String>,
    refresh: Option<RawDuration>,
    set: Option<String>,
    keys: Option<Vec<String>>,
    secret: Option<String>,
    scope: &Scope<'_>,
) -> Option<JwtKeys> {
    if refresh.is_some() && url.is_none() {
        scope.key("refresh").problem("belongs to `jwks_url`, which is not given");
    }
    match (url, set, keys, secret) {
        (Some(url), None, None, None) => {
            let url = scope.key("jwks_url").check(parse_url(&url))?;
            let refresh = refresh.map_or(Duration::from_secs(600), |RawDuration(every)| every);
            Some(JwtKeys::Url { url, refresh })
        }
        (None, Some(set), None, None) => Some(JwtKeys::Set(set)),
        (None, None, Some(keys), None) => {
            let text = |text: String, scope: &Scope<'_>| String::from_utf8(pem(&text, scope)?).ok();
            Some(JwtKeys::Pem(resolve_each(Some(keys), &scope.key("keys"), text)))
        }
        (None, None, None, Some(secret)) => {
            if secret.len() < SHORTEST_SECRET {
                scope.key("secret").problem(format!("is too short: it takes {SHORTEST_SECRET} bytes at least"));
            }
            Some(JwtKeys::Secret(secret))
        }
        (None, None, None, None) => {
            scope.missing("say what tokens are signed with: give `jwks_url`, `jwks`, `keys` or `secret`");
            None
        }
        _ => {
            scope.problem("`jwks_url`, `jwks`, `keys` and `secret` exclude each other");
            None
        }
    }
}

/// Keys that anybody on the way could exchange prove nothing.
fn parse_url(text: &str) -> Result<String, String> {
    let shown = masked_url(text);
    let wrong = || format!("`{shown}` is not a URL, such as `https://login.example.com/.well-known/jwks.json`");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?;
    let here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(text.to_owned()),
        Some("http") if here => Ok(text.to_owned()),
        Some("http") => Err(format!("`{shown}`: keys that come in plain text prove nothing: take `https`")),
        _ => Err(wrong()),
    }
}
