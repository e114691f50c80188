//! Defines the middleware that changes headers.

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;

use super::values::Values;
use super::{Middleware, Next};
use crate::exchange::{Payload, ProxyError, protected};
use crate::spec::middleware::template::Template;
use crate::spec::middleware::transform;

/// Changes the headers of requests and answers.
#[derive(Debug)]
pub(super) struct Headers {
    request: Edits,
    response: Edits,
    /// What services believe to be the gateway's word.
    guarded: Vec<HeaderName>,
}

#[derive(Debug)]
struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
}

#[derive(Debug)]
enum Value {
    Fixed(Option<HeaderValue>),
    Made(Template),
}

impl Headers {
    pub(super) fn new(spec: &transform::Headers) -> Self {
        let set = spec.request.set.iter().map(|(name, _)| name);
        let guarded = set.chain(&spec.request.remove).cloned().collect();
        Self { request: Edits::new(&spec.request), response: Edits::new(&spec.response), guarded }
    }
}

#[async_trait(?Send)]
impl Middleware for Headers {
    async fn handle(&self, mut request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        // An answer's values are those of the request as it came here.
        let made = self.response.made(&Values::new(&request, &**next.exchange()));
        if !self.request.is_empty() {
            let edits = self.request.made(&Values::new(&request, &**next.exchange()));
            for name in &self.guarded {
                protected::remove_twins(request.headers_mut(), name);
            }
            self.request.apply(edits, request.headers_mut());
        }
        let mut response = next.run(request).await;
        self.response.apply(made, response.headers_mut());
        Ok(response)
    }

    fn guarded(&self) -> &[HeaderName] {
        &self.guarded
    }
}

/// The values of templates, in the order in which they are needed.
type Made = Vec<Option<HeaderValue>>;

impl Edits {
    fn new(spec: &transform::HeaderEdits) -> Self {
        let values = |list: &[(HeaderName, Template)]| {
            list.iter().map(|(name, template)| (name.clone(), Value::new(template))).collect()
        };
        Self { remove: spec.remove.clone(), set: values(&spec.set), add: values(&spec.add) }
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    fn made(&self, values: &Values<'_>) -> Made {
        let made = self.set.iter().chain(&self.add).filter_map(|(_, value)| match value {
            Value::Fixed(_) => None,
            Value::Made(template) => Some(values.header(template)),
        });
        made.collect()
    }

    fn apply(&self, made: Made, headers: &mut HeaderMap) {
        let mut made = made.into_iter();
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            match value.take(&mut made) {
                Some(value) => drop(headers.insert(name, value)),
                // What a client says of itself must not stand where the gateway has nothing to say.
                None => drop(headers.remove(name)),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.take(&mut made) {
                headers.append(name, value);
            }
        }
    }
}

impl Value {
    fn new(template: &Template) -> Self {
        match template.fixed() {
            Some(text) => Self::Fixed(HeaderValue::from_str(text).ok().filter(|value| !value.is_empty())),
            None => Self::Made(template.clone()),
        }
    }

    fn take(&self, made: &mut impl Iterator<Item = Option<HeaderValue>>) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Made(_) => made.next().flatten(),
        }
    }
}
