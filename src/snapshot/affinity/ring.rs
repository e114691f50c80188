//! Defines the ring (Karger et al., "Consistent hashing and random trees", 1997): an endpoint owns the places that end
//! at its points. A point depends on nothing but the endpoint's address, so no other endpoint's keys move to each other.

use super::{Entry, POINT, Table, hash};

/// Points of an endpoint of mean weight: shares are within some 6 % (one deviation) of what weights say.
const POINTS: u64 = 256;
/// Most points of a ring.
const MOST: u64 = 1 << 20;

pub(super) fn table(entries: &[Entry]) -> Table {
    let weights: u64 = entries.iter().map(|entry| entry.weight).sum();
    let all = (POINTS * entries.len() as u64).min(MOST);
    let mut points: Vec<(u64, u32)> = Vec::with_capacity(all as usize);
    for entry in entries {
        let seed = hash(POINT, entry.identity.as_bytes());
        // The first points of a heavy one are those it has when it is light: a change of weight moves its keys only.
        let count = ((all * entry.weight + weights / 2) / weights).max(1);
        points.extend((0..count).map(|number| (hash(seed, &number.to_le_bytes()), entry.index)));
    }
    // Equal points, should there ever be any, go by address on every gateway.
    points.sort_unstable();
    let (points, owners): (Vec<_>, Vec<_>) = points.into_iter().unzip();
    Table { points: points.into(), owners: owners.into() }
}
