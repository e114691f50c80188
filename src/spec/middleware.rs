//! Defines middlewares as someone asked for them: each is a step around the exchanges of the routes that name it, of one
//! type, which is the one key of its document.

use super::route::StripPrefix;

/// A middleware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MiddlewareSpec {
    /// `strip_prefix`: what a path that begins with it loses, by whole segments.
    StripPrefix(StripPrefix),
    /// `add_prefix`: what is put before the path; begins with a slash and does not end in one.
    AddPrefix(String),
}

impl MiddlewareSpec {
    /// The key that names its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StripPrefix(_) => "strip_prefix",
            Self::AddPrefix(_) => "add_prefix",
        }
    }

    /// Whether an exchange has one of its type at most: that of a route then goes before that of its listener.
    pub fn is_single(&self) -> bool {
        match self {
            Self::StripPrefix(_) | Self::AddPrefix(_) => false,
        }
    }
}
