//! Defines the keys of one pool of a mirror, and what of them is held back. Pure.

use std::collections::BTreeMap;

use super::mirror::Value;
use crate::discovery::judge::{self, Danger, Signs};

/// What one endpoint source, or all documents, have in the registry. Removals are judged a pool at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    entries: BTreeMap<Vec<u8>, Value>,
    /// What the registry lost without confirmation: the value, and the revision of the loss.
    held: BTreeMap<Vec<u8>, (Value, i64)>,
}

impl Pool {
    /// What the registry has.
    pub(super) fn entries(&self) -> &BTreeMap<Vec<u8>, Value> {
        &self.entries
    }

    /// How many keys are shown.
    pub(super) fn size(&self) -> usize {
        self.entries.len() + self.held.len()
    }

    /// Whether removals wait for a confirmation.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What the registry has, and what is held. In no order.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        let held = self.held.iter().map(|(key, (value, _))| (key.as_slice(), value));
        self.entries.iter().map(|(key, value)| (key.as_slice(), value)).chain(held)
    }

    /// The keys that are held.
    pub(super) fn held(&self) -> impl Iterator<Item = &[u8]> {
        self.held.keys().map(Vec::as_slice)
    }

    /// Lets go of a key. Whether it was held.
    pub(super) fn release_key(&mut self, key: &[u8]) -> bool {
        self.held.remove(key).is_some()
    }

    /// The registry has this. Whether that is news, and whether the key is new.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Value) -> (bool, bool) {
        let was_held = self.held.remove(&key).is_some();
        let changed = self.entries.get(&key) != Some(&value);
        let new = self.entries.insert(key, value).is_none();
        (was_held || changed, new)
    }

    /// The registry lost this.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Value> {
        self.entries.remove(key)
    }

    /// Takes over what a list of this revision has. Whether that is news, and why removals were held, and how many.
    pub(super) fn adopt(
        &mut self,
        entries: BTreeMap<Vec<u8>, Value>,
        revision: i64,
        regressed: bool,
    ) -> (bool, Option<(Danger, usize)>) {
        let before = self.size();
        let mut changed = self.confirm(revision, &entries);
        let former = std::mem::replace(&mut self.entries, entries);
        for key in self.entries.keys() {
            changed |= self.held.remove(key).is_some();
        }
        changed |= former != self.entries;
        let lost = former
            .into_iter()
            .filter(|(key, _)| !self.entries.contains_key(key))
            .map(|(key, value)| (key, (value, revision)))
            .collect();
        if regressed {
            // Their revisions belong to the store as it was.
            self.held.values_mut().for_each(|(_, lost_at)| *lost_at = revision);
        }
        (changed, self.judge(lost, before, regressed))
    }

    /// Lets go of what is held where a list at or after the loss has no such key, either.
    pub(super) fn confirm(&mut self, revision: i64, listed: &BTreeMap<Vec<u8>, Value>) -> bool {
        let before = self.held.len();
        self.held.retain(|key, (_, lost_at)| revision < *lost_at || listed.contains_key(key));
        self.held.len() < before
    }

    /// Holds what was lost where that looks dangerous. `before`: how many keys were shown.
    pub(super) fn judge(
        &mut self,
        lost: BTreeMap<Vec<u8>, (Value, i64)>,
        before: usize,
        regressed: bool,
    ) -> Option<(Danger, usize)> {
        let signs = Signs { regressed, held: self.holds(), ..Signs::default() };
        let danger = judge::danger(lost.len(), before, self.entries.len(), signs)?;
        let count = lost.len();
        self.held.extend(lost);
        Some((danger, count))
    }

    /// Lets go of all that is held. Whether anything was.
    pub(super) fn release(&mut self) -> bool {
        !std::mem::take(&mut self.held).is_empty()
    }

    /// Shows what another watch of the same keys knew: what it has newer is taken, what is not here is held as lost at
    /// that revision. Whether that is news.
    pub(super) fn join(&mut self, theirs: &Self, lost_at: i64) -> bool {
        let mut changed = false;
        for (key, value) in theirs.shown() {
            match self.entries.get_mut(key) {
                Some(known) if known.modified >= value.modified => {}
                Some(known) => {
                    known.clone_from(value);
                    changed = true;
                }
                None => {
                    self.held.insert(key.to_vec(), (value.clone(), lost_at));
                    changed = true;
                }
            }
        }
        changed
    }
}
