//! Defines what a key below a registry's prefix stands for.

use crate::spec::document::Kind;
use crate::spec::name::Name;

use super::format::Format;

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A document: `KIND/NAME[.toml|.yaml|.yml|.json]`.
    Document {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: Name,
        /// From the extension; without one the text tells.
        format: Option<Format>,
    },
    /// Nothing: the prefix itself, "folders", which end in `/`, and what gateways wrote below `status/` before
    /// they had a prefix of their own.
    Ignored,
    /// Something we cannot use, and why.
    Rejected(String),
}

/// Decodes a key relative to the prefix of documents.
pub fn decode_key(key: &str) -> Key {
    if key.is_empty() || key.ends_with('/') || key.starts_with("status/") {
        return Key::Ignored;
    }
    let kinds = || Kind::ALL.map(|kind| format!("`{}/NAME`", kind.as_str())).join(", ");
    let Some((kind, file)) = key.split_once('/') else {
        return Key::Rejected(format!("`{key}` is no document: documents are {}", kinds()));
    };
    let Some(kind) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) else {
        return Key::Rejected(format!("`{kind}/` holds no documents: documents are {}", kinds()));
    };
    let (name, format) = match file.rsplit_once('.') {
        Some((stem, extension)) if Format::of_extension(extension).is_some() => (stem, Format::of_extension(extension)),
        _ => (file, None),
    };
    match name.parse::<Name>() {
        Ok(name) => Key::Document { kind, name, format },
        Err(error) => Key::Rejected(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_documents_or_nothing() {
        let document = |kind, name: &str, format| Key::Document { kind, name: name.parse().expect("a name"), format };
        for (key, wanted) in [
            ("routes/users", document(Kind::Route, "users", None)),
            ("routes/users.json", document(Kind::Route, "users", Some(Format::Json))),
            ("upstreams/a.b.yml", document(Kind::Upstream, "a.b", Some(Format::Yaml))),
            ("upstreams/a.b.toml", document(Kind::Upstream, "a.b", Some(Format::Toml))),
            // Not an extension of ours: part of the name.
            ("routes/users.v2", document(Kind::Route, "users.v2", None)),
            ("", Key::Ignored),
            ("routes/", Key::Ignored),
            ("routes/team/", Key::Ignored),
            ("status/routes/users", Key::Ignored),
        ] {
            assert_eq!(decode_key(key), wanted, "{key}");
        }
        for bad in ["users", "route/users", "/routes/users", "routes/Users", "routes/a/b", "routes/.json", "routes/a b"]
        {
            assert!(matches!(decode_key(bad), Key::Rejected(_)), "{bad}");
        }
    }
}
