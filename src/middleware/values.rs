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
