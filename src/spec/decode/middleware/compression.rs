//! Defines how compression is written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::condition::resolve_each;
use crate::spec::decode::scalar::RawSize;
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::compression::{COMPRESSIBLE, Compression, Encoding};

/// Compresses answers for clients that say they take it. What is compressed already, parts (`Range`), events, calls of
/// gRPC and answers with `Cache-Control: no-transform` stay as they are.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Compression", deny_unknown_fields)]
pub(super) struct RawCompression {
    /// `zstd`, `br` and `gzip`; default all three.
    encodings: Option<Vec<String>>,
    /// Media types, with at most one `*` each; by default what text is made of.
    types: Option<Vec<String>>,
    /// Bodies of known length that are shorter stay as they are; default 1KiB.
    min_size: Option<RawSize>,
}

impl RawCompression {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Compression {
        let encodings = match self.encodings {
            None => Encoding::ALL.to_vec(),
            given => resolve_each(given, &scope.key("encodings"), |text, scope| scope.check(parse_encoding(&text))),
        };
        let types = match self.types {
            None => COMPRESSIBLE.map(str::to_owned).to_vec(),
            given => resolve_each(given, &scope.key("types"), |text, scope| scope.check(parse_type(&text))),
        };
        Compression { encodings, types, min_size: self.min_size.map_or(1024, |RawSize(size)| size) }
    }
}

fn parse_encoding(text: &str) -> Result<Encoding, String> {
    let found = Encoding::ALL.into_iter().find(|encoding| encoding.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is none of `zstd`, `br` and `gzip`"))
}

fn parse_type(text: &str) -> Result<String, String> {
    let token = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-*".contains(&byte));
    match text.split_once('/') {
        Some((kind, of)) if !kind.is_empty() && !of.is_empty() && token(kind) && token(of) => {
            if text.matches('*').count() > 1 {
                return Err(format!("`{text}` has more than one `*`"));
            }
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(format!("`{text}` is not a media type, such as `text/*` or `application/json`")),
    }
}
