//! What is served although its registry or file no longer has it, part by part; an operator accepts a loss by its part.

use std::sync::Arc;

use super::source::Source;

/// The smallest thing that is held and accepted on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldPart {
    /// All endpoints of a source that its registry lost.
    Endpoints(Source),
    /// A document, by its place without the provider's name: its key.
    Document(Arc<str>),
    /// A file, a folder or a pattern of files, with all documents in it.
    File(Arc<str>),
}

/// What is held of a part, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Addresses of endpoints; of a file the documents in it (`routes/shop`). Empty for a document.
    pub lost: Vec<String>,
    /// Why the loss is not believed.
    pub why: Arc<str>,
    /// The right that the credentials lack, where that explains the loss: then nobody may accept it.
    pub missing_right: Option<Arc<str>>,
}

/// What of a provider a missing right concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything: the credentials as a whole are refused.
    All,
    /// The documents in this range of keys.
    Documents(Arc<str>),
    /// One source.
    Source(Source),
}
