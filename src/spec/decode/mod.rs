//! Decodes what people write: text to a tree with places, a tree to raw serde mirrors, those to specs.
//!
//! Everything here is pure. A text is parsed once, into a [`tree::Node`] that knows the line and column of
//! every key and value; each item (a route, an upstream, a section) is then read on its own, so that one
//! mistake never hides another item, and all problems of an item come out at once.
//!
//! Document providers use [`documents::DocumentSet`] (one key an item) and [`files::FileSet`] (whole files).

mod answer;
mod attached;
pub mod balance;
pub mod breaker;
pub mod certificate;
pub mod condition;
pub mod consumer;
pub mod dns;
pub mod documents;
pub mod files;
pub mod format;
pub mod health_check;
pub mod item;
pub mod key;
pub mod middleware;
pub mod network;
pub mod parse;
pub mod passive;
pub mod queue;
pub mod reader;
pub mod resolved;
pub mod retry;
pub mod route;
pub mod saved;
pub mod scalar;
pub mod scope;
pub mod sections;
pub mod tag;
pub mod tree;
pub mod upstream;
pub mod upstream_tls;

pub use attached::Attached;
pub use documents::{DocumentSet, Past, Stored};
pub use files::{FileSet, FileText, ItemKey, Kept, Loss};
pub use format::Format;
pub use saved::SavedForms;
