//! Defines where a limit keeps its keys: in a table of fixed size.
//!
//! A key has its place in one of the table's small buckets. One whose time is over makes room, for it is as good as
//! new. One that still counts never does: who floods a limit with keys would clear others that way, or its own. A new
//! key that finds all places of its bucket in use shares one with all such keys of the bucket.

use std::sync::{Mutex, PoisonError};

use super::gcra::{Decision, Gcra};

/// Keys of a bucket.
const WAYS: usize = 8;

/// A key's hash and its arrival time.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    key: u64,
    arrival: u64,
}

#[derive(Debug, Default)]
struct Bucket {
    places: [Place; WAYS],
    /// Of all that find no place.
    rest: u64,
}

/// The keys of a limit.
#[derive(Debug)]
pub(super) struct Table {
    /// As many as a power of two.
    buckets: Box<[Mutex<Bucket>]>,
}

/// What a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) decision: Decision,
    /// The key's arrival time, after that.
    pub(super) arrival: u64,
}

impl Table {
    /// For so many keys at least.
    pub(super) fn new(keys: u32) -> Self {
        let buckets = (keys as usize).div_ceil(WAYS).next_power_of_two();
        Self { buckets: (0..buckets).map(|_| Mutex::default()).collect() }
    }

    /// A request of a key comes at `now`.
    pub(super) fn take(&self, gcra: Gcra, key: u64, now: u64) -> Told {
        let index = (key >> 32) as usize & (self.buckets.len() - 1);
        let mut bucket = self.buckets[index].lock().unwrap_or_else(PoisonError::into_inner);
        let arrival = bucket.of(key, now);
        let decision = gcra.decide(*arrival, now);
        if let Decision::Passes { arrival: next } = decision {
            *arrival = next;
        }
        Told { decision, arrival: *arrival }
    }

    /// Bytes that it takes, whatever comes.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.buckets.len() * size_of::<Mutex<Bucket>>()
    }
}

impl Bucket {
    /// The arrival time of a key, which is 0 for one that has none.
    fn of(&mut self, key: u64, now: u64) -> &mut u64 {
        let known = self.places.iter().position(|place| place.key == key && place.arrival > now);
        let free = || self.places.iter().position(|place| place.arrival <= now);
        match known.or_else(free) {
            Some(index) => {
                let place = &mut self.places[index];
                if place.key != key || place.arrival <= now {
                    *place = Place { key, arrival: 0 };
                }
                &mut place.arrival
            }
            None => &mut self.rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn passes(table: &Table, gcra: Gcra, key: u64, now: u64) -> bool {
        matches!(table.take(gcra, key, now).decision, Decision::Passes { .. })
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
        // README: 18 bytes a key.
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
