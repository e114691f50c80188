//! Defines what a target does with a request beyond forwarding it: redirects, and what becomes of the path.

use http::{HeaderValue, Response, StatusCode, header};

use super::carrier::Carrier;
use super::frame::Frame;
use super::own::own_answer;
use crate::exchange::{Body, ProxyError};
use crate::spec::path::normalize;
use crate::spec::route::{Redirect, Steps};
use crate::spec::settings::HttpsRedirect;

/// The path to forward, where it is another than the one that came.
///
/// # Errors
/// What is left has no normal form, or what was stripped had kept a dot segment from being one.
pub(super) fn rewritten(steps: &Steps, path: &str) -> Result<Option<String>, ProxyError> {
    if steps.strip_prefix.is_none() && steps.prepend.is_none() || !path.starts_with('/') {
        return Ok(None);
    }
    let stripped = stripped(steps, path);
    let prepend = steps.prepend.as_deref().unwrap_or_default();
    let slash = if stripped.starts_with('/') { "" } else { "/" };
    // `/a..b` without `/a..` is fine, `/a/..b` without `/a/..` too; `/a../b` without `/a` would climb.
    let normal = normalize(&format!("{prepend}{slash}{stripped}"), true).map(std::borrow::Cow::into_owned);
    normal.map(Some).map_err(|_| ProxyError::BadRequest)
}

fn stripped<'p>(steps: &Steps, path: &'p str) -> &'p str {
    steps.strip_prefix.as_ref().and_then(|prefix| path.strip_prefix(prefix.as_str())).unwrap_or(path)
}

/// Where a redirect leads.
fn location(redirect: &Redirect, steps: &Steps, host: &str, path: &str, query: Option<&str>) -> String {
    let with_path = redirect.path.contains("$path");
    // fabio applies `strip` and `prepend` to what stands for `$path`, wherever that is.
    let rest = stripped(steps, path);
    let slash = if rest.is_empty() || rest.starts_with('/') { "" } else { "/" };
    let forwarded = format!("{}{slash}{rest}", steps.prepend.as_deref().unwrap_or_default());
    let whole = redirect.path.replacen("$path", &forwarded, 1);
    let query = redirect.query.as_deref().or(query.filter(|_| with_path));
    let mut location = redirect.origin.replace("$host", host);
    // A path that begins with two slashes would name a host.
    location.push('/');
    location.push_str(whole.trim_start_matches('/'));
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    location
}

/// The answer of a redirect.
///
/// # Errors
/// A request that makes no location of it.
pub(super) fn redirected(
    frame: &mut Frame,
    redirect: &Redirect,
    steps: &Steps,
    path: &str,
    query: Option<&str>,
) -> Result<Response<Body<Carrier>>, ProxyError> {
    let host = frame.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    // From a client of HTTP/1.0: nobody knows where that is.
    if host.is_empty() && redirect.origin.contains("$host") {
        return Err(ProxyError::BadRequest);
    }
    let location = HeaderValue::try_from(location(redirect, steps, host, path, query));
    let location = location.map_err(|_| ProxyError::BadRequest)?;
    Ok(sent_elsewhere(frame, redirect.status, location))
}

/// The answer of a listener that sends everything to https.
///
/// # Errors
/// A location that is no header value.
pub(super) fn to_https(
    frame: &mut Frame,
    redirect: &HttpsRedirect,
    location: String,
) -> Result<Response<Body<Carrier>>, ProxyError> {
    let location = HeaderValue::try_from(location).map_err(|_| ProxyError::BadRequest)?;
    Ok(sent_elsewhere(frame, redirect.status, location))
}

fn sent_elsewhere(frame: &mut Frame, status: StatusCode, location: HeaderValue) -> Response<Body<Carrier>> {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut response = own_answer(frame, status, kind, format!("{status}\n"));
    response.headers_mut().insert(header::LOCATION, location);
    response
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::spec::route::StripPrefix;

    #[test]
    fn paths_are_rewritten_and_stay_in_normal_form() {
        for (strip, prepend, path, wanted) in [
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "", "/foobar", "/bar"),
            ("/foo", "", "/other", "/other"),
            ("/foo/", "", "/foo/bar", "/bar"),
            ("", "/foo", "/bar", "/foo/bar"),
            ("/a", "/b", "/a/c/", "/b/c/"),
            ("", "/b/", "/c", "/b/c"),
            ("/a", "", "/a../x", "/x"),
            ("/a", "/b", "/a/x../y", "/b/x../y"),
            ("/a", "", "*", "*"),
        ] {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let strip_prefix = some(strip).map(|path| StripPrefix::new(&path).expect("a path"));
            let steps = Steps { strip_prefix, prepend: some(prepend), ..Steps::default() };
            let found = rewritten(&steps, path).expect("a path");
            assert_eq!(found.as_deref().unwrap_or(path), wanted, "{strip} {prepend} {path}");
        }
        assert_eq!(rewritten(&Steps::default(), "/a"), Ok(None));
    }

    #[test]
    fn redirects_lead_where_fabios_do() {
        let redirect = |origin: &str, path: &str, query: Option<&str>| Redirect {
            status: StatusCode::FOUND,
            origin: origin.to_owned(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
        };
        let steps = Steps { strip_prefix: StripPrefix::new("/old").ok(), ..Steps::default() };
        for (redirect, wanted) in [
            (redirect("https://a.com", "/", None), "https://a.com/"),
            (redirect("https://a.com", "$path", None), "https://a.com/x?q=1"),
            (redirect("https://a.com", "/new$path", None), "https://a.com/new/x?q=1"),
            (redirect("https://a.com", "/new$path/", None), "https://a.com/new/x/?q=1"),
            (redirect("https://a.com", "$path", Some("r")), "https://a.com/x?r"),
            (redirect("https://$host", "$path", None), "https://b.org:80/x?q=1"),
            (redirect("", "/other", None), "/other"),
        ] {
            assert_eq!(location(&redirect, &steps, "b.org:80", "/old/x", Some("q=1")), wanted, "{redirect:?}");
        }
        let everything = redirect("", "$path", None);
        assert_eq!(location(&everything, &steps, "", "/old//evil.com", None), "/evil.com", "never another host");
        for (strip, prepend, target, path, wanted) in [
            ("/news", "", "/bulletin$path", "/news/foo", "https://h.test/bulletin/foo"),
            ("/news", "", "/bulletin$path", "/news", "https://h.test/bulletin"),
            ("/news", "", "/bulletin$path", "/newsroom", "https://h.test/bulletin/room"),
            ("/news", "", "$path", "/news", "https://h.test/"),
            ("/bulletin", "", "/bulletin$path", "/news/foo", "https://h.test/bulletin/news/foo"),
            ("", "/en", "$path", "/pre/a", "https://h.test/en/pre/a"),
            ("/pre", "/en", "/x$path", "/pre/a", "https://h.test/x/en/a"),
            ("/pre", "/en", "/fixed", "/pre/a", "https://h.test/fixed"),
        ] {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let strip_prefix = some(strip).map(|path| StripPrefix::new(&path).expect("a path"));
            let steps = Steps { strip_prefix, prepend: some(prepend), ..Steps::default() };
            let found = location(&redirect("https://h.test", target, None), &steps, "", path, None);
            assert_eq!(found, wanted, "{strip} {prepend} {target} {path}");
        }
    }
}
