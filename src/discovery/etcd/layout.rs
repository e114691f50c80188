//! Defines where things lie in etcd: ranges of keys, and what a key below a prefix stands for.

use std::fmt;

use crate::spec::document::Kind;

/// The keys from `start` up to, but without, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The key after the last one.
    pub end: Vec<u8>,
    /// Keys between that are none of it, though whoever watches it is told of them.
    pub except: Option<Box<KeyRange>>,
}

impl KeyRange {
    /// The keys that begin with `prefix`. A prefix ends in a slash, so that `svc/` and `svc2/` never meet.
    pub fn of_prefix(prefix: &str) -> Self {
        Self { start: prefix.as_bytes().to_vec(), end: after(prefix), except: None }
    }

    /// The documents below `prefix` but for certificates and consumers. The kinds are neighbours, so that one range, and so one
    /// watch, has them all: a route and its upstream written in one transaction are seen at once. The keys
    /// below `PREFIX/endpoints/`, of which there are many more, lie outside: between these and the certificates. What
    /// older gateways write below [`status`] lies between, and is left out.
    pub fn of_documents(prefix: &str) -> Self {
        let folder = |kind: Kind| format!("{prefix}{}/", kind.as_str());
        let except = Some(Box::new(Self::of_prefix(&status(prefix))));
        Self { start: folder(Kind::Middleware).into_bytes(), end: after(&folder(Kind::Upstream)), except }
    }

    /// Whether a key between `start` and `end` is of the range.
    pub fn has(&self, key: &[u8]) -> bool {
        self.except.as_ref().is_none_or(|except| key < except.start.as_slice() || key >= except.end.as_slice())
    }

    /// The certificates and consumers below `prefix`, which are neighbours, too.
    pub fn of_certificates(prefix: &str) -> Self {
        let folder = |kind: Kind| format!("{prefix}{}/", kind.as_str());
        Self { start: folder(Kind::Certificate).into_bytes(), end: after(&folder(Kind::Consumer)), except: None }
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.start))
    }
}

/// Where the endpoints of upstreams lie that name no other place, a folder each.
pub fn endpoints(prefix: &str) -> String {
    format!("{prefix}endpoints/")
}

/// Where gateways write what is wrong with documents: below their own prefix, and older ones below that of documents.
pub fn status(prefix: &str) -> String {
    format!("{prefix}status/")
}

/// The first key after all that begin with `prefix`: its last byte that can grow, grown. A single 0 byte
/// means "to the end" (etcd API, `RangeRequest.range_end`).
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// The id of the endpoint that lives at `key`; `None` for the prefix itself and for "folders".
///
/// # Errors
/// A key that is not UTF-8, or not below the prefix.
pub fn endpoint_id<'a>(prefix: &str, key: &'a [u8]) -> Result<Option<&'a str>, &'static str> {
    let key = std::str::from_utf8(key).map_err(|_| "the key is not UTF-8")?;
    let id = key.strip_prefix(prefix).ok_or("the key lies elsewhere")?;
    Ok(if id.is_empty() || id.ends_with('/') { None } else { Some(id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(range: &KeyRange, key: &str) -> bool {
        range.start.as_slice() <= key.as_bytes() && key.as_bytes() < range.end.as_slice() && range.has(key.as_bytes())
    }

    #[test]
    fn a_prefix_never_reaches_into_its_neighbour() {
        let svc = KeyRange::of_prefix("/fleetgate/endpoints/svc/");
        assert!(has(&svc, "/fleetgate/endpoints/svc/a") && has(&svc, "/fleetgate/endpoints/svc/\u{10ffff}"));
        assert!(!has(&svc, "/fleetgate/endpoints/svc2/a") && !has(&svc, "/fleetgate/endpoints/sv/a"));
        assert_eq!(KeyRange::of_prefix("").end, [0]);
    }

    #[test]
    fn documents_are_one_range_without_endpoints() {
        let documents = KeyRange::of_documents("/fleetgate/");
        for inside in [
            "/fleetgate/routes/a",
            "/fleetgate/routes/z.toml",
            "/fleetgate/status",
            "/fleetgate/status0",
            "/fleetgate/upstreams/a",
        ] {
            assert!(has(&documents, inside), "{inside}");
        }
        for outside in [
            "/fleetgate/endpoints/users/a",
            "/fleetgate/gateways/a",
            "/fleetgate/status/routes/a",
            "/fleetgate/status/",
            "/other/routes/a",
            "/fleetgate/zzz",
        ] {
            assert!(!has(&documents, outside), "{outside}");
        }
        let certificates = KeyRange::of_certificates("/fleetgate/");
        assert!(has(&certificates, "/fleetgate/certificates/a") && !has(&documents, "/fleetgate/certificates/a"));
        assert!(!has(&certificates, "/fleetgate/endpoints/users/a"));
    }

    #[test]
    fn ids_are_what_follows_the_prefix() {
        assert_eq!(endpoint_id("/e/users/", b"/e/users/vm-1"), Ok(Some("vm-1")));
        assert_eq!(endpoint_id("/e/users/", b"/e/users/dc1/vm-1"), Ok(Some("dc1/vm-1")));
        assert_eq!(endpoint_id("/e/users/", b"/e/users/"), Ok(None));
        assert_eq!(endpoint_id("/e/users/", b"/e/users/dc1/"), Ok(None));
        assert!(endpoint_id("/e/users/", b"/e/users/\xff").is_err());
        assert!(endpoint_id("/e/users/", b"/e/users2/a").is_err());
    }
}
