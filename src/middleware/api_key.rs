//! Defines the middleware that knows consumers by a key.

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;

use super::who::{Door, Shown};
use super::{Middleware, Next};
use crate::exchange::{Credential, Exchange, Payload, ProxyError, target};
use crate::spec::condition::{cookie_values, query_values};
use crate::spec::middleware::access::{self, KeyPlace};

/// Knows consumers by a key.
#[derive(Debug)]
pub(super) struct ApiKey {
    from: KeyPlace,
    forward: bool,
    door: Door,
}

impl ApiKey {
    pub(super) fn new(spec: &access::ApiKey) -> Self {
        let challenge = HeaderValue::from_static("ApiKey realm=\"fleetgate\"");
        let door = Door { challenge, optional: spec.optional, groups: spec.groups.clone() };
        Self { from: spec.from.clone(), forward: spec.forward, door }
    }

    fn shown(&self, request: &Request<Incoming>, exchange: &dyn Exchange) -> Shown {
        match &self.from {
            KeyPlace::Header(name) => {
                look_up(request.headers().get_all(name).iter().map(HeaderValue::as_bytes), exchange)
            }
            KeyPlace::Cookie(name) => look_up(cookie_values(request.headers(), name), exchange),
            KeyPlace::Query(name) => look_up(query_values(request.uri().query(), name), exchange),
        }
    }

    /// Takes the key out of a request.
    fn hide(&self, request: &mut Request<Incoming>) -> Result<(), ProxyError> {
        match &self.from {
            KeyPlace::Header(name) => drop(request.headers_mut().remove(name)),
            KeyPlace::Cookie(name) => without_cookie(request.headers_mut(), name),
            KeyPlace::Query(name) => *request.uri_mut() = without_parameter(request.uri(), name)?,
        }
        Ok(())
    }
}

#[async_trait(?Send)]
impl Middleware for ApiKey {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let shown = self.shown(&request, &**next.exchange());
        if !self.forward && matches!(shown, Shown::Proof(_)) {
            self.hide(&mut request)?;
        }
        self.door.pass(request, next, shown).await
    }
}

/// Whose key it is. Several are as good as none: nobody could say which one counts.
fn look_up<K: AsRef<[u8]>>(mut keys: impl Iterator<Item = K>, exchange: &dyn Exchange) -> Shown {
    let (Some(key), second) = (keys.next(), keys.next()) else { return Shown::Nothing };
    if second.is_some() {
        return Shown::Wrong;
    }
    // What is compared is the hash of what came, of which nobody learns the key a byte at a time.
    let hash = digest(&SHA256, key.as_ref());
    let found = hash.as_ref().try_into().ok().and_then(|hash: &[u8; 32]| exchange.consumer(Credential::Key(hash)));
    found.map_or(Shown::Wrong, Shown::Proof)
}

fn without_cookie(headers: &mut HeaderMap, name: &str) {
    let is_it = |pair: &&str| pair.trim().split_once('=').is_some_and(|(key, _)| key == name);
    let lines: Vec<String> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .map(|line| line.split(';').filter(|pair| !is_it(pair)).map(str::trim).collect::<Vec<_>>().join("; "))
        .collect();
    headers.remove(header::COOKIE);
    for line in lines.into_iter().filter(|line| !line.is_empty()) {
        if let Ok(value) = HeaderValue::try_from(line) {
            headers.append(header::COOKIE, value);
        }
    }
}

/// The same target without a parameter of its query; the others stay as they came.
fn without_parameter(uri: &Uri, name: &str) -> Result<Uri, ProxyError> {
    let is_it = |pair: &&str| form_urlencoded::parse(pair.as_bytes()).any(|(key, _)| key == name);
    let rest: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|pair| !is_it(pair)).collect();
    target::with_query(uri, Some(&rest.join("&")).filter(|query| !query.is_empty()).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_out_and_nothing_else() {
        for (target, wanted) in [
            ("/a?key=1", "/a"),
            ("/a?b=%20&key=1&c", "/a?b=%20&c"),
            ("/a?k%65y=1&keys=2&key", "/a?keys=2"),
            ("/a", "/a"),
        ] {
            let uri = without_parameter(&target.parse().expect("a target"), "key").expect("a target");
            assert_eq!(uri.to_string(), wanted, "{target}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; key=2;b=3"));
        headers.append(header::COOKIE, HeaderValue::from_static("key=\"4\""));
        without_cookie(&mut headers, "key");
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=3"]);
    }
}
