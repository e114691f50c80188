//! Defines a problem someone has to fix: where it is, at which key, and what to do.

use std::fmt;

use serde::Serialize;

/// A problem in something a person wrote: a file, a KV document, a registration, a variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// Where: `file:line:column`, `env:NAME`, `consul-kv:KEY`, `etcd:KEY`, with `:line:column` inside a document.
    pub place: String,
    /// The key at fault as a dotted path, empty when it is the whole.
    pub key: String,
    /// What is wrong and how to mend it. Never a secret's value.
    pub text: String,
}

impl Problem {
    /// A problem of a whole place.
    pub fn new(place: impl Into<String>, key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), key: key.into(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.text)
        } else {
            write!(f, "{}: {}: {}", self.place, self.key, self.text)
        }
    }
}
