//! Defines what is asked of explain: a request as a client would send it, and where it comes in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

use crate::snapshot::RouteTable;
use crate::spec::name::Name;
use crate::spec::settings::Listener;

/// A request, and where it comes in.
#[derive(Debug)]
pub struct Question {
    pub(super) request: Request<()>,
    /// Who connects, in canonical form.
    pub(super) peer: Option<IpAddr>,
    route: Option<Name>,
    /// The URL begins with `https://`.
    pub(super) is_secure: bool,
    listener: Option<Name>,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It can't be read.
    #[error("{0}")]
    Unreadable(String),
    /// It names a listener that is not there.
    #[error("there is no listener `{0}`; there are: {1}")]
    NoListener(Name, String),
    /// It names a route that is not there.
    #[error("there is no route `{0}`")]
    NoRoute(Name),
}

impl Question {
    /// Reads a question: a method, `http://HOST/PATH` (or `/PATH` with a header `host`), headers as `name: value`.
    ///
    /// # Errors
    /// What can't be read, and how it is written.
    pub fn read(method: &str, url: &str, headers: &[impl AsRef<str>]) -> Result<Self, Wrong> {
        let unreadable = |text: String| Err(Wrong::Unreadable(text));
        let Ok(method) = Method::from_bytes(method.as_bytes()) else {
            return unreadable(format!("`{method}` is no method"));
        };
        let (authority, target) = split(url)?;
        let Ok(uri) = target.parse::<Uri>() else {
            return unreadable(format!("`{target}` is no request target: percent-encode what a URL cannot hold"));
        };
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        for line in headers {
            let (name, value) = header_of(line.as_ref())?;
            request.headers_mut().append(name, value);
        }
        if !request.headers().contains_key(header::HOST) {
            let Some(authority) = authority else {
                return unreadable(format!("no host: write `http://HOST{target}`, or give a header `host: HOST`"));
            };
            let Ok(host) = HeaderValue::from_str(authority) else {
                return unreadable(format!("`{authority}` is no host"));
            };
            request.headers_mut().insert(header::HOST, host);
        }
        let is_secure = url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        Ok(Self { request, peer: None, route: None, is_secure, listener: None })
    }

    /// By this listener; else by the first one.
    #[must_use]
    pub fn by(mut self, listener: Option<Name>) -> Self {
        self.listener = listener;
        self
    }

    /// Over a connection from this address: a client's, or that of a proxy which the listener trusts.
    #[must_use]
    pub fn from(mut self, peer: Option<IpAddr>) -> Self {
        self.peer = peer.map(|peer| peer.to_canonical());
        self
    }

    /// With what keeps this route from being taken.
    #[must_use]
    pub fn about(mut self, route: Option<Name>) -> Self {
        self.route = route;
        self
    }

    /// The position of the route that it is about, if it is about one.
    pub(super) fn route_in(&self, table: &RouteTable) -> Result<Option<usize>, Wrong> {
        let Some(name) = &self.route else { return Ok(None) };
        let position = table.routes().iter().position(|route| &*route.label == name.as_str());
        position.map(Some).ok_or_else(|| Wrong::NoRoute(name.clone()))
    }

    pub(super) fn listener<'l>(
        &self,
        listeners: &'l BTreeMap<Name, Listener>,
    ) -> Result<(&'l Name, &'l Listener), Wrong> {
        let found = match &self.listener {
            Some(name) => listeners.get_key_value(name),
            None => listeners.first_key_value(),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = listeners.keys().map(Name::as_str).collect();
            let asked = self.listener.clone();
            asked.map_or_else(
                || Wrong::Unreadable("there is no listener".to_owned()),
                |asked| Wrong::NoListener(asked, names.join(", ")),
            )
        })
    }
}

/// The host and the request target of a URL; a client sends no fragment.
fn split(url: &str) -> Result<(Option<&str>, String), Wrong> {
    let url = url.split('#').next().unwrap_or_default();
    if url.starts_with('/') || url == "*" {
        return Ok((None, url.to_owned()));
    }
    let rest = match url.split_once("://") {
        None => url,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => rest,
        Some((scheme, _)) => return Err(Wrong::Unreadable(format!("`{scheme}` is not http or https"))),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.is_empty() {
        return Err(Wrong::Unreadable(format!("`{url}` has no host")));
    }
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok((Some(authority), format!("{slash}{target}")))
}

fn header_of(line: &str) -> Result<(HeaderName, HeaderValue), Wrong> {
    // The value may be a secret: only the name is told.
    let Some((name, value)) = line.split_once(':') else {
        return Err(Wrong::Unreadable("a header is written `name: value`, and one has no colon".to_owned()));
    };
    let name = name.trim();
    match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.trim())) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        (Err(_), _) => Err(Wrong::Unreadable(format!("`{name}` is no header name"))),
        (Ok(name), Err(_)) => Err(Wrong::Unreadable(format!("the value of header `{name}` is no header value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_clients_send_them() {
        for (url, host, target) in [
            ("http://API.example.com:8080/a?b=1#c", Some("API.example.com:8080"), "/a?b=1"),
            ("HTTPS://a", Some("a"), "/"),
            ("http://a?b", Some("a"), "/?b"),
            ("a.example/users", Some("a.example"), "/users"),
            ("http://[::1]:80/x", Some("[::1]:80"), "/x"),
            ("/users?x", None, "/users?x"),
            ("*", None, "*"),
        ] {
            assert_eq!(split(url), Ok((host, target.to_owned())), "{url}");
        }
        for url in ["ftp://a/", "http:///a", ""] {
            assert!(split(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_question_that_cant_be_read_says_how_it_is_written() {
        let wrong =
            |method, url, headers: &[&str]| Question::read(method, url, headers).expect_err("wrong").to_string();
        assert_eq!(wrong("GET", "/users", &[]), "no host: write `http://HOST/users`, or give a header `host: HOST`");
        assert_eq!(wrong("G T", "http://a/", &[]), "`G T` is no method");
        assert!(wrong("GET", "http://a/b c", &[]).contains("percent-encode"));
        assert_eq!(wrong("GET", "http://a/", &["x y: 1"]), "`x y` is no header name");
        let secret = wrong("GET", "http://a/", &["authorization: s3\u{1}cret"]);
        assert_eq!(secret, "the value of header `authorization` is no header value");
        assert!(!wrong("GET", "http://a/", &["s3cret"]).contains("s3cret"));
    }
}
