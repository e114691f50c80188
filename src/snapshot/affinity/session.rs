//! Sessions: the cookie that tells at which endpoint a client is. With a secret nobody else can tell where that is.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use http::HeaderValue;

use super::super::endpoint::Endpoint;
use super::super::request::RequestView;
use crate::spec::condition::cookie_values;
use crate::spec::name::Name;
use crate::spec::upstream::Session;

/// The cookies of an upstream's endpoints.
#[derive(Debug)]
pub struct Sessions {
    cookie: String,
    /// With the endpoints' positions, sorted.
    tokens: Vec<(String, u32)>,
    /// By position: as set over plain HTTP, and over TLS.
    set: Vec<[HeaderValue; 2]>,
}

impl Sessions {
    pub(super) fn new(name: &Name, session: &Session, endpoints: &[Endpoint]) -> Self {
        let key = session.secret.as_ref().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()));
        let all: Vec<String> = endpoints.iter().map(|endpoint| token(name, endpoint, key.as_ref())).collect();
        let set = |token: &String| {
            let plain = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax", session.cookie);
            // A cookie's name is a token, and the rest is ours: always a header's value.
            [format!("{plain}; Secure"), plain].map(|text| HeaderValue::try_from(text).unwrap_or(NONE))
        };
        let set = all.iter().map(set).collect();
        let mut tokens: Vec<(String, u32)> = all.into_iter().zip(0u32..).collect();
        tokens.sort_unstable();
        Self { cookie: session.cookie.clone(), tokens, set }
    }

    /// The position of the endpoint that a client is at; `None` for a new client, and for one whose endpoint is gone.
    pub fn find(&self, request: &RequestView<'_>) -> Option<u32> {
        cookie_values(request.headers, &self.cookie).find_map(|value| {
            let found = self.tokens.binary_search_by(|(token, _)| token.as_bytes().cmp(value)).ok()?;
            Some(self.tokens[found].1)
        })
    }

    /// The `Set-Cookie` for a client that is now at the endpoint at a position.
    pub fn set_cookie(&self, position: usize, secure: bool) -> Option<&HeaderValue> {
        let [with, without] = self.set.get(position)?;
        Some(if secure { with } else { without })
    }
}

const NONE: HeaderValue = HeaderValue::from_static("");

/// Equal on every gateway that has the same secret. There are few addresses: without one, trying them all takes a second.
fn token(name: &Name, endpoint: &Endpoint, key: Option<&hmac::Key>) -> String {
    let text = format!("fleetgate session\n{name}\n{}", endpoint.address);
    let (tag, hash);
    let bytes: &[u8] = match key {
        Some(key) => {
            tag = hmac::sign(key, text.as_bytes());
            tag.as_ref()
        }
        None => {
            hash = digest(&SHA256, text.as_bytes());
            hash.as_ref()
        }
    };
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
