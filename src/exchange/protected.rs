//! The headers of requests that services believe, because a gateway sets or checks them, in every spelling that a service
//! may fold into one name.
//!
//! CGI hands a header on as a variable, in which each `-` is `_` (RFC 3875, 4.1.18); WSGI, PHP and Rack followed, and some
//! servers fold all that is no letter or digit. To such a service `X_Consumer` and `X.Consumer` are `X-Consumer`.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::header::{X_FORWARDED_CLIENT_CERT, X_REQUEST_ID};

/// Whose word on a protected header counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believed {
    /// A trusted proxy's: who the client is, and what it asked the proxy for.
    OfProxies,
    /// Nobody's: the gateway alone says it, or it is another spelling of a name that is protected, which no proxy uses.
    OfNobody,
}

/// Names of which every one that begins so, by whole words, tells who the client is or what it asked for.
const FAMILIES: [&str; 2] = ["x-forwarded", "x-original"];

/// Further ones: addresses (Cloudflare, Akamai, Fastly, Rackspace), protocols (ingress-nginx, Microsoft), certificates
/// (RFC 9440), and what IIS and the frameworks that run there take for the target, whatever route the gateway chose by it.
const OF_PROXIES: [&str; 14] = [
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "x-rewrite-url",
    "client-cert",
    "client-cert-chain",
    "forwarded",
];

const CONSUMER: &str = "x-consumer";
const REQUEST_ID: &str = "x-request-id";

/// Whose word on a header of this name counts; `None`: everybody's. Asked for every header of a request that nothing else
/// knows, so that most names are told by their first letters.
pub fn believed(name: &HeaderName) -> Option<Believed> {
    let text = name.as_str();
    let bytes = text.as_bytes();
    let may_be = match bytes {
        [b'x', second, ..] => !second.is_ascii_alphanumeric(),
        [b'c', b'f' | b'l', ..] | [b't', b'r', ..] | [b'f', b'o' | b'r' | b'a', ..] => true,
        _ => false,
    };
    if may_be { protected(text) } else { None }
}

#[cold]
fn protected(text: &str) -> Option<Believed> {
    if are_twins(text, CONSUMER) {
        return Some(Believed::OfNobody);
    }
    if are_twins(text, REQUEST_ID) {
        return (text != REQUEST_ID).then_some(Believed::OfNobody);
    }
    let is_of_family = |family: &&str| {
        let (start, rest) = match text.split_at_checked(family.len()) {
            Some(split) => split,
            None => return false,
        };
        are_twins(start, family) && rest.bytes().next().is_none_or(|next| !next.is_ascii_alphanumeric())
    };
    if !FAMILIES.iter().any(is_of_family) && !OF_PROXIES.iter().any(|one| are_twins(text, one)) {
        return None;
    }
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    Some(if is_plain { Believed::OfProxies } else { Believed::OfNobody })
}

/// Whether a service may take two names for one.
pub fn are_twins(one: &str, other: &str) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

/// Who connects, as far as it decides what its requests may say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It is a trusted proxy.
    pub is_trusted: bool,
    /// It was asked for its certificate, so that nobody else's word on that counts.
    pub shows_certificate: bool,
}

/// Removes what a peer may not say, before anything reads it: what tells who the client is, unless the peer is trusted; who
/// the consumer is, and all of these in another spelling, whoever says it.
pub fn settle_claims(headers: &mut HeaderMap, peer: Standing) {
    if peer.shows_certificate {
        headers.remove(X_FORWARDED_CLIENT_CERT);
    }
    let is_refused = |name: &&HeaderName| match believed(name) {
        None => false,
        Some(Believed::OfProxies) => !peer.is_trusted,
        Some(Believed::OfNobody) => true,
    };
    let names: Vec<HeaderName> = headers.keys().filter(is_refused).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Longest `X-Request-Id` that is kept, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Keeps a valid request id, and no other one.
pub fn settle_request_id(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let id = headers.remove(X_REQUEST_ID)?;
    let bytes = id.as_bytes();
    if !(1..=MAX_REQUEST_ID_BYTES).contains(&bytes.len()) || !bytes.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    headers.insert(X_REQUEST_ID, id.clone());
    Some(id)
}

/// Removes a header in every spelling.
pub fn remove(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(name);
    remove_twins(headers, name);
}

/// Removes the other spellings of a header, which itself stays.
pub fn remove_twins(headers: &mut HeaderMap, name: &HeaderName) {
    let is_twin = |other: &&HeaderName| *other != name && are_twins(other.as_str(), name.as_str());
    let twins: Vec<HeaderName> = headers.keys().filter(is_twin).cloned().collect();
    for twin in twins {
        headers.remove(twin);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_are_protected_in_every_spelling() {
        use Believed::{OfNobody, OfProxies};
        for (name, wanted) in [
            ("x-consumer", Some(OfNobody)),
            ("x_consumer", Some(OfNobody)),
            ("x.consumer", Some(OfNobody)),
            ("x~consumer", Some(OfNobody)),
            ("x-consumers", None),
            ("x-consumer-group", None),
            ("xconsumer", None),
            ("x-request-id", None),
            ("x_request_id", Some(OfNobody)),
            ("x-request.id", Some(OfNobody)),
            ("x-forwarded-for", Some(OfProxies)),
            ("x-forwarded", Some(OfProxies)),
            ("x-forwarded-prefix", Some(OfProxies)),
            ("x-forwarded-user", Some(OfProxies)),
            ("x-forwarded-client-cert", Some(OfProxies)),
            ("x_forwarded_for", Some(OfNobody)),
            ("x-forwarded_for", Some(OfNobody)),
            ("x_forwarded.client-cert", Some(OfNobody)),
            ("x_forwarded", Some(OfNobody)),
            ("x-forwardedfor", None),
            ("x-original-url", Some(OfProxies)),
            ("x_original_host", Some(OfNobody)),
            ("x-originality", None),
            ("x-rewrite-url", Some(OfProxies)),
            ("x_rewrite_url", Some(OfNobody)),
            ("x-real-ip", Some(OfProxies)),
            ("x.real.ip", Some(OfNobody)),
            ("true-client-ip", Some(OfProxies)),
            ("true_client_ip", Some(OfNobody)),
            ("cf_connecting_ip", Some(OfNobody)),
            ("fastly-client-ip", Some(OfProxies)),
            ("client_cert", Some(OfNobody)),
            ("client-cert", Some(OfProxies)),
            ("front-end-https", Some(OfProxies)),
            ("forwarded", Some(OfProxies)),
            ("forwarded-x", None),
            ("from", None),
            ("x-requested-with", None),
            ("x-api-key", None),
            ("cookie", None),
            ("x-", None),
            ("x", None),
        ] {
            assert_eq!(believed(&HeaderName::from_static(name)), wanted, "{name}");
        }
    }

    #[test]
    fn a_header_is_removed_in_every_spelling() {
        let names = ["x-role", "x_role", "x.role", "x-roles", "xrole", "role"];
        let all = || -> HeaderMap {
            names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))).collect()
        };
        let left = |headers: &HeaderMap| {
            let mut left: Vec<String> = headers.keys().map(HeaderName::to_string).collect();
            left.sort_unstable();
            left.join(" ")
        };
        let mut headers = all();
        remove(&mut headers, &HeaderName::from_static("x-role"));
        assert_eq!(left(&headers), "role x-roles xrole");
        let mut headers = all();
        remove_twins(&mut headers, &HeaderName::from_static("x-role"));
        assert_eq!(left(&headers), "role x-role x-roles xrole");
    }
}
