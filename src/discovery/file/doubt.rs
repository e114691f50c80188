//! Defines when a file that lost its content is believed. Pure.
//!
//! Editors and scripts truncate a file before they write it, or move it away first; for a moment it is empty or
//! missing. Such a look is not believed before it was repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

/// How long an empty or missing file keeps its former content.
pub(super) const DOUBT: Duration = Duration::from_millis(200);

/// What a file says, or why it can't be read.
pub(super) type Content = Result<Vec<u8>, String>;

/// What files said last, and which of them are in doubt.
#[derive(Debug, Default)]
pub(super) struct Believed {
    contents: BTreeMap<PathBuf, Content>,
    doubted: BTreeMap<PathBuf, Instant>,
}

impl Believed {
    /// What files say now, given what a look saw; `unknown` are paths the look could not judge, with the
    /// reason.
    pub(super) fn update(
        &mut self,
        seen: BTreeMap<PathBuf, Content>,
        unknown: impl Fn(&PathBuf) -> Option<String>,
        now: Instant,
    ) -> &BTreeMap<PathBuf, Content> {
        let before = std::mem::replace(&mut self.contents, seen);
        let mut lost = BTreeSet::new();
        for (path, content) in before {
            let had_content = matches!(&content, Ok(bytes) if !bytes.trim_ascii().is_empty());
            let has_none = match self.contents.get(&path) {
                None => true,
                Some(Ok(bytes)) => bytes.trim_ascii().is_empty(),
                Some(Err(_)) => false,
            };
            if !self.contents.contains_key(&path)
                && let Some(reason) = unknown(&path)
            {
                self.contents.insert(path, Err(reason));
            } else if had_content && has_none {
                let since = *self.doubted.entry(path.clone()).or_insert(now);
                if now.duration_since(since) < DOUBT {
                    lost.insert(path.clone());
                    self.contents.insert(path, content);
                }
            }
        }
        self.doubted.retain(|path, _| lost.contains(path));
        &self.contents
    }

    /// When to look again because of a doubt.
    pub(super) fn look_again_at(&self) -> Option<Instant> {
        self.doubted.values().min().map(|since| *since + DOUBT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(files: &[(&str, &str)]) -> BTreeMap<PathBuf, Content> {
        files.iter().map(|(path, text)| (PathBuf::from(path), Ok(text.as_bytes().to_vec()))).collect()
    }

    fn nothing(_: &PathBuf) -> Option<String> {
        None
    }

    #[test]
    fn an_empty_or_missing_file_is_believed_at_the_second_look() {
        let (mut believed, start) = (Believed::default(), Instant::now());
        let full = seen(&[("a", "1"), ("b", "2"), ("c", "")]);
        assert_eq!(*believed.update(full.clone(), nothing, start), full, "c was empty from the start");
        assert_eq!(believed.look_again_at(), None);
        assert_eq!(*believed.update(seen(&[("a", " \n"), ("c", "")]), nothing, start), full);
        assert_eq!(believed.look_again_at(), Some(start + DOUBT));
        // Looking sooner proves nothing.
        assert_eq!(*believed.update(seen(&[("a", ""), ("c", "")]), nothing, start + DOUBT / 2), full);
        let after = seen(&[("a", ""), ("c", "")]);
        assert_eq!(*believed.update(after.clone(), nothing, start + DOUBT), after);
        assert_eq!(believed.look_again_at(), None);
    }

    #[test]
    fn a_file_that_came_back_is_no_longer_in_doubt() {
        let (mut believed, start) = (Believed::default(), Instant::now());
        believed.update(seen(&[("a", "1")]), nothing, start);
        believed.update(seen(&[]), nothing, start);
        assert_eq!(*believed.update(seen(&[("a", "2")]), nothing, start + DOUBT), seen(&[("a", "2")]));
        // A new doubt begins anew.
        assert_eq!(*believed.update(seen(&[]), nothing, start + DOUBT * 2), seen(&[("a", "2")]));
    }

    #[test]
    fn what_a_look_could_not_judge_is_not_gone() {
        let (mut believed, start) = (Believed::default(), Instant::now());
        believed.update(seen(&[("d/a", "1")]), nothing, start);
        let denied = |path: &PathBuf| path.starts_with("d").then(|| "denied".to_owned());
        let now = believed.update(seen(&[]), denied, start);
        assert_eq!(now[&PathBuf::from("d/a")], Err("denied".to_owned()));
        assert_eq!(believed.look_again_at(), None);
    }
}
