//! Defines the values that a request has for templates.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use serde_json::Value;

use crate::exchange::Exchange;
use crate::spec::condition::cookie_values;
use crate::spec::middleware::template::{Placeholder, Template};

/// A request at a step of its exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'r> {
    method: &'r Method,
    uri: &'r Uri,
    headers: &'r HeaderMap,
    exchange: &'r dyn Exchange,
}

impl<'r> Values<'r> {
    pub(super) fn new<B>(request: &'r Request<B>, exchange: &'r dyn Exchange) -> Self {
        Self { method: request.method(), uri: request.uri(), headers: request.headers(), exchange }
    }

    /// The text that a template makes of the request.
    pub(super) fn fill(&self, template: &Template) -> String {
        template.fill(|placeholder, out| self.write(placeholder, out))
    }

    /// The body that a template makes of the request, for a page of this type: values of the request are escaped as it takes
    /// them, so that no client has a page say or do anything but show them.
    pub(super) fn page(&self, template: &Template, content_type: &HeaderValue) -> String {
        let escape = Escape::of(content_type);
        template.fill(|placeholder, out| {
            let from = out.len();
            self.write(placeholder, out);
            if escape != Escape::Nothing {
                let value = out.split_off(from);
                escape.append(&value, out);
            }
        })
    }

    /// The value of a header that a template makes of the request; `None` for one that is empty, or that no header can carry.
    pub(super) fn header(&self, template: &Template) -> Option<HeaderValue> {
        let text = self.fill(template);
        HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
    }

    fn write(&self, placeholder: &Placeholder, out: &mut String) {
        let exchange = self.exchange;
        match placeholder {
            Placeholder::ClientIp => {
                // Writing to a `String` cannot fail.
                let _ = write!(out, "{}", exchange.client());
            }
            Placeholder::Scheme => out.push_str(if exchange.is_secure() { "https" } else { "http" }),
            Placeholder::Host => out.push_str(exchange.host()),
            Placeholder::Method => out.push_str(self.method.as_str()),
            Placeholder::Path => out.push_str(self.uri.path()),
            Placeholder::Query => out.push_str(self.uri.query().unwrap_or_default()),
            Placeholder::RequestId => out.push_str(exchange.request_id()),
            Placeholder::Route => out.push_str(exchange.route()),
            Placeholder::Consumer => {
                out.push_str(exchange.identity().consumer.as_ref().map_or("", |consumer| &consumer.name));
            }
            Placeholder::Claim(name) => match exchange.identity().claims.get(name) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) => out.push_str(text),
                Some(other) => {
                    let _ = write!(out, "{other}");
                }
            },
            Placeholder::Header(name) => {
                let value = self.headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
                out.push_str(&String::from_utf8_lossy(value));
            }
            Placeholder::Cookie(name) => {
                let value = cookie_values(self.headers, name).next().unwrap_or_default();
                out.push_str(&String::from_utf8_lossy(value));
            }
        }
    }
}

/// How a body of some type takes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    /// As it is.
    Nothing,
    /// Within the text of HTML, XML or SVG, or the quotes of an attribute.
    Markup,
    /// Within the quotes of a string, also of a script within a page.
    String,
}

impl Escape {
    fn of(content_type: &HeaderValue) -> Self {
        let text = String::from_utf8_lossy(content_type.as_bytes()).to_ascii_lowercase();
        let is = |kinds: &[&str]| kinds.iter().any(|kind| text.contains(kind));
        // A type that says both is markup to a browser.
        if is(&["html", "xml", "svg"]) {
            Self::Markup
        } else if is(&["json", "javascript", "ecmascript"]) {
            Self::String
        } else {
            Self::Nothing
        }
    }

    fn append(self, value: &str, out: &mut String) {
        for one in value.chars() {
            match (self, one) {
                (Self::Markup, '&') => out.push_str("&amp;"),
                (Self::Markup, '<') => out.push_str("&lt;"),
                (Self::Markup, '>') => out.push_str("&gt;"),
                (Self::Markup, '"') => out.push_str("&quot;"),
                (Self::Markup, '\'' | '`') => drop(write!(out, "&#{};", u32::from(one))),
                (Self::String, '"' | '\\') => out.extend(['\\', one]),
                (Self::String, '\'' | '`' | '<' | '>' | '&' | '/' | '\u{2028}' | '\u{2029}') => unicode(one, out),
                (Self::String, _) if one.is_control() => unicode(one, out),
                (Self::Nothing | Self::Markup | Self::String, _) => out.push(one),
            }
        }
    }
}

/// As JSON and JavaScript write a character of the basic plane.
fn unicode(one: char, out: &mut String) {
    // Writing to a `String` cannot fail.
    let _ = write!(out, "\\u{:04x}", u32::from(one));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_show_values_and_do_nothing_that_these_say() {
        let escaped = |kind: &'static str, value: &str| {
            let mut out = String::new();
            Escape::of(&HeaderValue::from_static(kind)).append(value, &mut out);
            out
        };
        let script = "</p><script>alert('1' + `2`)</script>&\"";
        for kind in ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml", "image/svg+xml", "text/xml"] {
            let wanted = "&lt;/p&gt;&lt;script&gt;alert(&#39;1&#39; + &#96;2&#96;)&lt;/script&gt;&amp;&quot;";
            assert_eq!(escaped(kind, script), wanted, "{kind}");
        }
        for kind in ["application/json", "application/problem+json; charset=utf-8", "text/javascript"] {
            let text = escaped(kind, &format!("{script}\\\n\u{7f}\u{2028}\u{e9}\u{1f600}"));
            assert!(!text.contains(['<', '>', '\'', '`', '\n', '\u{2028}']), "{text}");
            let read: String = serde_json::from_str(&format!("\"{text}\"")).expect("JSON");
            assert_eq!(read, format!("{script}\\\n\u{7f}\u{2028}\u{e9}\u{1f600}"));
        }
        assert_eq!(escaped("text/plain; charset=utf-8", script), script);
    }
}
