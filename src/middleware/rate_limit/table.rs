//! Defines where a limit keeps its keys: in a table of fixed size.
//!
//! A key has its place in one of the table's small buckets. One whose time is over makes room, for it is as good as
//! new. One that still counts never does: who floods a limit with keys would clear others that way, or its own. A new
//! key that finds all places of its bucket in use shares one with all such keys of the bucket.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keys of a bucket.
const WAYS: usize = 8;

/// What is known of a key.
pub(super) trait Place: Default {
    /// The key.
    type Key: Copy + PartialEq + Default;

    /// A new key's.
    fn of(key: Self::Key) -> Self;

    /// Whose it is.
    fn key(&self) -> Self::Key;

    /// Whether it is as good as a new one's at `now`.
    fn is_free(&self, now: u64) -> bool;
}

#[derive(Debug, Default)]
struct Bucket<P> {
    places: [P; WAYS],
    /// Of all that find no place.
    rest: P,
}

/// The keys of a limit.
#[derive(Debug)]
pub(super) struct Table<P> {
    /// As many as a power of two.
    buckets: Box<[Mutex<Bucket<P>>]>,
}

impl<P: Place> Table<P> {
    /// For so many keys at least.
    pub(super) fn new(keys: u32) -> Self {
        let buckets = (keys as usize).div_ceil(WAYS).next_power_of_two();
        Self { buckets: (0..buckets).map(|_| Mutex::default()).collect() }
    }

    /// Shows the place of a key with this hash, and whether the key has it to itself.
    pub(super) fn with<T>(&self, hash: u64, key: P::Key, now: u64, does: impl FnOnce(&mut P, bool) -> T) -> T {
        let mut bucket = self.bucket(hash);
        let known = bucket.places.iter().position(|place| place.key() == key && !place.is_free(now));
        let free = || bucket.places.iter().position(|place| place.is_free(now));
        match known.or_else(free) {
            Some(index) => {
                let place = &mut bucket.places[index];
                if known.is_none() {
                    *place = P::of(key);
                }
                does(place, true)
            }
            None => does(&mut bucket.rest, false),
        }
    }

    /// Shows the place of a key, if it has one.
    pub(super) fn find<T>(&self, hash: u64, key: P::Key, does: impl FnOnce(&mut P) -> T) -> Option<T> {
        let mut bucket = self.bucket(hash);
        bucket.places.iter_mut().find(|place| place.key() == key).map(does)
    }

    fn bucket(&self, hash: u64) -> MutexGuard<'_, Bucket<P>> {
        let index = (hash >> 32) as usize & (self.buckets.len() - 1);
        self.buckets[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that it takes, whatever comes.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.buckets.len() * size_of::<Mutex<Bucket<P>>>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::gcra::{Decision, Gcra};
    use super::super::own::Arrival;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn passes(table: &Table<Arrival>, gcra: Gcra, key: u64, now: u64) -> bool {
        let decision = table.with(key, key, now, |place, _| place.take(gcra, now).decision);
        matches!(decision, Decision::Passes { .. })
    }

    /// Spreads keys as a hash does.
    fn hash(number: u64) -> u64 {
        (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn a_key_has_its_own_limit_while_there_is_room() {
        let (table, gcra) = (Table::new(65_536), Gcra::new(SECOND, 2));
        for key in (0..20_000).map(hash) {
            let passed: Vec<bool> = (0..3).map(|_| passes(&table, gcra, key, SECOND)).collect();
            assert_eq!(passed, [true, true, false], "{key}");
        }
        assert!(passes(&table, gcra, hash(7), 2 * SECOND) && !passes(&table, gcra, hash(7), 2 * SECOND));
    }

    /// A million keys take no more than the table has from the start, and clear nobody's debt.
    #[test]
    fn a_flood_of_keys_neither_grows_it_nor_resets_a_limit() {
        let (table, gcra) = (Table::new(65_536), Gcra::new(60 * SECOND, 5));
        // README: 19 bytes a key.
        assert!(table.size() <= 65_536 * 19, "{}", table.size());
        let own = hash(u64::MAX / 2);
        for _ in 0..5 {
            assert!(passes(&table, gcra, own, SECOND));
        }
        let passed = (0..1_000_000).filter(|number| passes(&table, gcra, hash(*number), SECOND)).count();
        // Each place and each rest takes a burst.
        let most = (65_536 + 65_536 / WAYS) * 5;
        assert!(passed <= most, "{passed} of {most}");
        assert!(!passes(&table, gcra, own, SECOND), "its debt stands");
        // It is as good as new when its time is over.
        assert!(passes(&table, gcra, own, SECOND + 300 * SECOND));
    }
}
