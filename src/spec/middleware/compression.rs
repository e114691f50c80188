//! Defines which answers are compressed, as someone asked for it.

/// Which answers are compressed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// What clients that take several get is theirs to say.
    pub encodings: Vec<Encoding>,
    /// Media types, in lower case; `text/*` for all of `text`.
    pub types: Vec<String>,
    /// Bodies of known length that are shorter stay as they are.
    pub min_size: u64,
}

/// A content coding (RFC 9110, 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// RFC 7932
    Brotli,
    /// RFC 8878
    Zstd,
    /// RFC 1952
    Gzip,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// As HTTP and users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// What shrinks, by default.
pub const COMPRESSIBLE: [&str; 10] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/javascript",
    "application/xml",
    "application/*+xml",
    "application/wasm",
    "application/x-ndjson",
    "image/svg+xml",
    "font/ttf",
];

impl Compression {
    /// Whether bodies of this type are compressed; never events (`text/event-stream`), whose clients wait for each.
    pub fn takes(&self, content_type: &str) -> bool {
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let fits = |pattern: &String| match pattern.split_once('*') {
            None => *pattern == media,
            Some((before, behind)) => {
                media.len() > before.len() + behind.len() && media.starts_with(before) && media.ends_with(behind)
            }
        };
        media != "text/event-stream" && self.types.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_or_meant() {
        let types = COMPRESSIBLE.map(str::to_owned).to_vec();
        let compression = Compression { encodings: Vec::new(), types, min_size: 0 };
        for (kind, wanted) in [
            ("text/html; charset=utf-8", true),
            ("Text/Plain", true),
            ("application/problem+json", true),
            ("application/json;a=b", true),
            ("text/event-stream", false),
            ("text/event-stream; charset=utf-8", false),
            ("image/png", false),
            ("application/grpc", false),
            ("text/", false),
            ("", false),
        ] {
            assert_eq!(compression.takes(kind), wanted, "{kind}");
        }
    }
}
