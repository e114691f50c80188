//! Defines the middleware that knows clients by tokens (JWT: RFC 7519, 7515 and 8725).

mod issuer;
mod known;
mod reread;
mod ring;
mod strict;

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};

use self::issuer::Issuer;
use self::known::Known;
use self::ring::Ring;
use self::strict::Strict;
use super::hide::without_cookie;
use super::who::{Door, Proof, Shown};
use super::{Middleware, Next, Trouble};
use crate::exchange::{Consumer, Credential, Exchange, Payload, ProxyError, protected};
use crate::spec::condition::cookie_values;
use crate::spec::middleware::access::KeyPlace;
use crate::spec::middleware::jwt::{self, JwtKeys};

/// A longer token is not looked at.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Knows clients by tokens.
#[derive(Debug)]
pub(super) struct Jwt {
    keys: Keys,
    known: Known,
    /// What each algorithm that may be used takes.
    validations: Vec<(&'static str, Validation)>,
    leeway: u64,
    from: KeyPlace,
    claims: Vec<(String, HeaderName)>,
    /// The headers of the claims.
    guarded: Vec<HeaderName>,
    consumer: String,
    forward: bool,
    door: Door,
    /// For tokens that are too long, which is no fault of what they say.
    door_for_short: Door,
}

#[derive(Debug)]
enum Keys {
    /// `Err`: what is wrong with them, for people.
    Fixed(Result<Arc<Ring>, String>),
    Of(Arc<Issuer>),
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    TooLong,
    Malformed,
    Algorithm,
    Critical,
    UnknownKey,
    Signature,
    Expired,
    NotYet,
    Issuer,
    Audience,
    /// What else the library refuses.
    Invalid,
    FromTheFuture,
}

impl Flaw {
    fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "a token longer than 16 KiB",
            Self::Malformed => "a malformed token",
            Self::Algorithm => "an algorithm that is not allowed",
            Self::Critical => "a critical header",
            Self::UnknownKey => "an unknown key",
            Self::Signature => "a wrong signature",
            Self::Expired => "expired",
            Self::NotYet => "not valid yet",
            Self::Issuer => "another issuer",
            Self::Audience => "another audience",
            Self::Invalid => "an invalid token",
            Self::FromTheFuture => "made in the future",
        }
    }

    fn of(error: &jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::ExpiredSignature => Self::Expired,
            ErrorKind::ImmatureSignature => Self::NotYet,
            ErrorKind::InvalidIssuer => Self::Issuer,
            ErrorKind::InvalidAudience => Self::Audience,
            _ => Self::Invalid,
        }
    }
}

impl Jwt {
    /// `before`: the state of the one that this one follows.
    pub(super) fn new(spec: &jwt::Jwt, before: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        let keys = match &spec.keys {
            JwtKeys::Secret(secret) => Keys::Fixed(Ok(Arc::new(Ring::of_secret(secret)))),
            JwtKeys::Pem(texts) => Keys::Fixed(Ring::of_pem(texts).map(Arc::new)),
            JwtKeys::Set(json) => Keys::Fixed(Ring::of_set(json.as_bytes()).map(Arc::new)),
            JwtKeys::Url { url, refresh } => {
                let before = before.and_then(|state| state.downcast::<Issuer>().ok());
                let same = before.filter(|issuer| issuer.url == *url && issuer.refresh == *refresh);
                Keys::Of(same.unwrap_or_else(|| Issuer::new(url, *refresh)))
            }
        };
        if let Keys::Fixed(Err(reason)) = &keys {
            tracing::warn!("a middleware `jwt` has no keys: {reason}; its routes answer 503");
        }
        let door = Door {
            by: "jwt",
            challenge: Some(HeaderValue::from_static("Bearer realm=\"fleetgate\"")),
            wrong: Some(HeaderValue::from_static("Bearer realm=\"fleetgate\", error=\"invalid_token\"")),
            optional: spec.optional,
            groups: spec.groups.clone(),
        };
        let too_long = "Bearer realm=\"fleetgate\", error=\"invalid_token\", \
                        error_description=\"The token is longer than 16 KiB\"";
        let door_for_short = Door { wrong: Some(HeaderValue::from_static(too_long)), ..door.clone() };
        Self {
            keys,
            known: Known::default(),
            validations: spec.algorithms.iter().map(|one| (one.as_str(), validation(spec, algorithm(*one)))).collect(),
            leeway: spec.leeway.as_secs(),
            from: spec.from.clone(),
            claims: spec.claims.clone(),
            guarded: spec.claims.iter().map(|(_, name)| name.clone()).collect(),
            consumer: spec.consumer.clone(),
            forward: spec.forward,
            door,
            door_for_short,
        }
    }

    /// The token of a request.
    ///
    /// # Errors
    /// Why nobody can say which it is.
    fn token<'r>(&'r self, request: &'r Request<Incoming>) -> Result<Option<&'r str>, &'static str> {
        const SEVERAL: &str = "several tokens";
        let text = |bytes| std::str::from_utf8(bytes).map(Some).map_err(|_| Flaw::Malformed.as_str());
        match &self.from {
            KeyPlace::Header(name) => {
                let mut lines = request.headers().get_all(name).iter();
                let (Some(line), None) = (lines.next(), lines.next()) else {
                    return if request.headers().contains_key(name) { Err(SEVERAL) } else { Ok(None) };
                };
                let line = line.as_bytes();
                match line.iter().position(|byte| *byte == b' ').map(|space| line.split_at(space)) {
                    Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer") => text(token.trim_ascii()),
                    // In a header of its own it may stand alone.
                    None if *name != header::AUTHORIZATION => text(line),
                    // That of another scheme is no business of this one.
                    Some(_) | None => Ok(None),
                }
            }
            KeyPlace::Cookie(name) => {
                let mut values = cookie_values(request.headers(), name);
                let (first, second) = (values.next(), values.next());
                if second.is_some() { Err(SEVERAL) } else { first.map_or(Ok(None), text) }
            }
            // No token stands in a query: it is in logs everywhere (RFC 6750, 5.3).
            KeyPlace::Query(_) => Ok(None),
        }
    }

    async fn shown(&self, request: &Request<Incoming>, exchange: &dyn Exchange) -> Result<Shown, ProxyError> {
        let token = match self.token(request) {
            Ok(Some(token)) => token,
            Ok(None) => return Ok(Shown::Nothing),
            Err(why) => return Ok(Shown::Wrong(why)),
        };
        let ring = match &self.keys {
            Keys::Fixed(ring) => ring.as_ref().map_err(|_| ProxyError::Unresolved)?.clone(),
            Keys::Of(issuer) => issuer.ring().ok_or(ProxyError::Unresolved)?,
        };
        let mut checked = self.claims(token, &ring, unix_now());
        if let (Err(flaw), Keys::Of(issuer)) = (&checked, &self.keys)
            && let Some(key) = self.missing_key(token, *flaw, &ring)
            && let Some(ring) = issuer.reread(key).await
        {
            checked = self.claims(token, &ring, unix_now());
            if checked.is_err() {
                issuer.is_unknown(key);
            }
        }
        let claims = match checked {
            Ok(claims) => claims,
            Err(flaw) => {
                let (route, client, bytes) = (exchange.route(), exchange.client(), token.len());
                match flaw {
                    Flaw::TooLong => tracing::info!(route, %client, bytes, "refused a token longer than 16 KiB"),
                    _ => tracing::debug!(route, %client, "refused a token: {flaw:?}"),
                }
                return Ok(Shown::Wrong(flaw.as_str()));
            }
        };
        let consumer = claim(&claims, &self.consumer).and_then(text).map(|name| {
            let known = exchange.consumer(Credential::Name(&name));
            known.unwrap_or_else(|| Arc::new(Consumer::named(&name)))
        });
        Ok(Shown::Proof(Proof { consumer, claims }))
    }

    /// What stands for the key that a token may lack, because its issuer has exchanged keys: the key it names, or the one
    /// that signed it where it names none or the issuer's keys have no names.
    fn missing_key(&self, token: &str, flaw: Flaw, ring: &Ring) -> Option<u64> {
        let head = token.split('.').next().unwrap_or_default();
        let lacks = match flaw {
            Flaw::UnknownKey => head,
            Flaw::Signature => {
                let head = members(head).ok()?;
                let is_named = head.get("kid").and_then(Value::as_str).is_some_and(|name| ring.has(name));
                if is_named {
                    return None;
                }
                token
            }
            Flaw::TooLong
            | Flaw::Malformed
            | Flaw::Algorithm
            | Flaw::Critical
            | Flaw::Expired
            | Flaw::NotYet
            | Flaw::Issuer
            | Flaw::Audience
            | Flaw::Invalid
            | Flaw::FromTheFuture => return None,
        };
        self.known.number_of(lacks)
    }

    /// What a token says, if it proves that, or did before.
    fn claims(&self, token: &str, ring: &Arc<Ring>, now: u64) -> Result<Arc<Map<String, Value>>, Flaw> {
        let tag = self.known.tag(token);
        if let Some(claims) = tag.as_ref().and_then(|tag| self.known.claims(tag, ring, now)) {
            return Ok(claims);
        }
        let claims = Arc::new(self.check(token, ring, now)?);
        if let Some(tag) = tag {
            self.known.remember(tag, ring, &claims, now);
        }
        Ok(claims)
    }

    /// What a token says, if it proves that. What it says of its algorithm and keys only chooses among those allowed.
    fn check(&self, token: &str, ring: &Ring, now: u64) -> Result<Map<String, Value>, Flaw> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Flaw::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(head), Some(body), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(Flaw::Malformed);
        };
        let (head, body) = (members(head)?, members(body)?);
        let named = head.get("alg").and_then(Value::as_str).ok_or(Flaw::Algorithm)?;
        let allowed = self.validations.iter().find(|(name, _)| *name == named);
        let (name, validation) = allowed.ok_or(Flaw::Algorithm)?;
        // RFC 7515, 4.1.11: nothing is understood that must be.
        if head.contains_key("crit") {
            return Err(Flaw::Critical);
        }
        let key_name = match head.get("kid") {
            None => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(_) => return Err(Flaw::Malformed),
        };
        let family = validation.algorithms.first().map(|algorithm| algorithm.family()).ok_or(Flaw::Algorithm)?;
        let mut flaw = Some(Flaw::Signature);
        for key in ring.fitting(key_name, name, family).ok_or(Flaw::UnknownKey)? {
            match jsonwebtoken::decode::<Value>(token, key, validation) {
                Ok(_) => flaw = None,
                Err(error) => flaw = Some(Flaw::of(&error)),
            }
            // It is none of the other keys' if its signature is right.
            if !matches!(flaw, Some(Flaw::Signature | Flaw::Invalid)) {
                break;
            }
        }
        if let Some(flaw) = flaw {
            return Err(flaw);
        }
        let made = body.get("iat").map(|made| made.as_f64().ok_or(Flaw::Malformed)).transpose()?;
        if made.is_some_and(|made| made > (now + self.leeway) as f64) {
            return Err(Flaw::FromTheFuture);
        }
        Ok(body)
    }

    /// Takes the token out of a request.
    fn hide(&self, headers: &mut HeaderMap) {
        match &self.from {
            KeyPlace::Header(name) => drop(headers.remove(name)),
            KeyPlace::Cookie(name) => without_cookie(headers, name),
            KeyPlace::Query(_) => {}
        }
    }
}

#[async_trait(?Send)]
impl Middleware for Jwt {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = Rc::clone(next.exchange());
        let shown = self.shown(&request, &*exchange).await?;
        let headers = request.headers_mut();
        for name in &self.guarded {
            protected::remove(headers, name);
        }
        if let Shown::Proof(proof) = &shown {
            if !self.forward {
                self.hide(headers);
            }
            for (path, name) in &self.claims {
                let value = claim(&proof.claims, path).and_then(text);
                if let Some(value) = value.and_then(|text| HeaderValue::try_from(text).ok()) {
                    headers.insert(name, value);
                }
            }
        }
        let is_too_long = matches!(shown, Shown::Wrong(why) if why == Flaw::TooLong.as_str());
        let door = if is_too_long { &self.door_for_short } else { &self.door };
        door.pass(request, next, shown).await
    }

    fn guarded(&self) -> &[HeaderName] {
        &self.guarded
    }

    fn trouble(&self) -> Option<Trouble> {
        match &self.keys {
            Keys::Fixed(Ok(_)) => None,
            Keys::Fixed(Err(reason)) => {
                Some(Trouble { text: format!("no token can be checked: {reason}"), refuses: true })
            }
            Keys::Of(issuer) => issuer.trouble(),
        }
    }

    fn state(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        match &self.keys {
            Keys::Of(issuer) => Some(Arc::<Issuer>::clone(issuer)),
            Keys::Fixed(_) => None,
        }
    }
}

/// Seconds since 1970.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The members of a part of a token.
fn members(part: &str) -> Result<Map<String, Value>, Flaw> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Flaw::Malformed)?;
    match serde_json::from_slice(&bytes) {
        Ok(Strict(Value::Object(members))) => Ok(members),
        Ok(Strict(_)) | Err(_) => Err(Flaw::Malformed),
    }
}

/// A claim, or what is in one behind dots.
fn claim<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    claim(claims.get(first)?.as_object()?, rest)
}

/// A claim as a header has it: a list by commas.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(list) => {
            Some(list.iter().filter_map(text).collect::<Vec<_>>().join(",")).filter(|all| !all.is_empty())
        }
        Value::Null | Value::Object(_) => None,
    }
}

fn validation(spec: &jwt::Jwt, algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = spec.leeway.as_secs();
    validation.validate_nbf = true;
    validation.set_issuer(&spec.issuers);
    if spec.audience.is_empty() {
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "iss"]);
    } else {
        validation.set_audience(&spec.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    }
    validation
}

fn algorithm(algorithm: jwt::Algorithm) -> Algorithm {
    match algorithm {
        jwt::Algorithm::Rs256 => Algorithm::RS256,
        jwt::Algorithm::Rs384 => Algorithm::RS384,
        jwt::Algorithm::Rs512 => Algorithm::RS512,
        jwt::Algorithm::Ps256 => Algorithm::PS256,
        jwt::Algorithm::Ps384 => Algorithm::PS384,
        jwt::Algorithm::Ps512 => Algorithm::PS512,
        jwt::Algorithm::Es256 => Algorithm::ES256,
        jwt::Algorithm::Es384 => Algorithm::ES384,
        jwt::Algorithm::EdDsa => Algorithm::EdDSA,
        jwt::Algorithm::Hs256 => Algorithm::HS256,
        jwt::Algorithm::Hs384 => Algorithm::HS384,
        jwt::Algorithm::Hs512 => Algorithm::HS512,
    }
}

#[cfg(test)]
mod tests;
