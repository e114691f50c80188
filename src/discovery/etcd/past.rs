//! Defines what became of the keys of a mirror of late, so that what was read a moment ago can be compared with it. Pure.

use std::collections::VecDeque;

/// Most keys that came or went and are remembered; in a fleet that changes all the time, more than come while a list is
/// read.
const MOST: usize = 4096;

/// How many keys there were at each revision of late, and which were removed.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The records are complete from this revision on.
    since: i64,
    /// How many keys there were before.
    before: usize,
    /// Keys that came or went, in order.
    records: VecDeque<Record>,
}

#[derive(Debug)]
struct Record {
    revision: i64,
    /// How many keys there were afterwards.
    count: usize,
    removed: Option<Vec<u8>>,
}

impl Past {
    /// Nothing is known of what was before a complete list at this revision, which has so many keys.
    pub(super) fn begin(&mut self, revision: i64, count: usize) {
        *self = Self { since: revision + 1, before: count, records: VecDeque::new() };
    }

    /// How many keys there are.
    pub(super) fn count(&self) -> usize {
        self.records.back().map_or(self.before, |last| last.count)
    }

    /// A key came.
    pub(super) fn added(&mut self, revision: i64) {
        self.note(Record { revision, count: self.count() + 1, removed: None });
    }

    /// A key went.
    pub(super) fn removed(&mut self, revision: i64, key: Vec<u8>) {
        self.note(Record { revision, count: self.count().saturating_sub(1), removed: Some(key) });
    }

    fn note(&mut self, record: Record) {
        if self.records.len() >= MOST
            && let Some(oldest) = self.records.pop_front()
        {
            (self.since, self.before) = (oldest.revision + 1, oldest.count);
        }
        self.records.push_back(record);
    }

    /// Whether it is known what became of the keys since this revision.
    pub(super) fn covers(&self, revision: i64) -> bool {
        revision + 1 >= self.since
    }

    /// How many keys there were at this revision; `None` where that is forgotten.
    pub(super) fn count_at(&self, revision: i64) -> Option<usize> {
        let then = || self.records.iter().rev().find(|record| record.revision <= revision);
        self.covers(revision).then(|| then().map_or(self.before, |record| record.count))
    }

    /// The keys that were removed after this revision; some of them may be back.
    pub(super) fn removed_after(&self, revision: i64) -> impl Iterator<Item = &[u8]> {
        let later = self.records.iter().rev().take_while(move |record| record.revision > revision);
        later.filter_map(|record| record.removed.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_told_as_far_as_it_is_remembered() {
        let mut past = Past::default();
        past.begin(10, 3);
        past.added(12);
        past.removed(12, b"a".to_vec());
        past.removed(15, b"b".to_vec());
        let counts: Vec<_> = [9, 10, 11, 12, 14, 15, 20].map(|revision| past.count_at(revision)).into();
        assert_eq!(counts, [None, Some(3), Some(3), Some(3), Some(3), Some(2), Some(2)]);
        assert_eq!(past.removed_after(12).collect::<Vec<_>>(), [b"b"]);
        for revision in 16..16 + i64::try_from(MOST).expect("small") {
            past.added(revision);
        }
        assert_eq!((past.count_at(14), past.count_at(15), past.count()), (None, Some(2), 2 + MOST));
    }
}
