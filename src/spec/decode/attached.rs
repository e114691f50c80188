//! Defines how documents from files read the files that they name.

use std::fmt;
use std::path::{Path, PathBuf};

/// Reads what a document names. Documents of registries have none of it, and may name no file.
#[derive(Clone, Copy)]
pub struct Attached<'a> {
    folder: &'a Path,
    read: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>,
}

impl<'a> Attached<'a> {
    /// Relative paths are so to the folder of `document`; `read` gives a file's content, or why there is none.
    pub fn new(document: &'a Path, read: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>) -> Self {
        Self { folder: document.parent().unwrap_or(Path::new("")), read }
    }

    /// Where a path of the document leads.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// The content of a file that the document names.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        (self.read)(&self.path(path))
    }
}

impl fmt::Debug for Attached<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("folder", &self.folder).finish_non_exhaustive()
    }
}
