//! Defines Maglev's table (Eisenbud et al., "Maglev: A fast and reliable software network load balancer", 2016, 3.4),
//! with weights as Envoy has them: endpoints take places in turn, each along its own permutation of all places.

use super::{Entry, OFFSET, SKIP, Table, hash};

/// Places: a prime, a hundred times the endpoints or more, as the paper has it.
const PLACES: u64 = 65_537;
const MANY_PLACES: u64 = 655_373;

/// One endpoint's way through the places.
struct Turns {
    next: u64,
    skip: u64,
    /// The round of its next turn, times the greatest weight.
    due: u64,
}

pub(super) fn table(entries: &[Entry]) -> Table {
    let Some(heaviest) = entries.iter().map(|entry| entry.weight).max() else { return Table::default() };
    let places = if entries.len() as u64 * 100 <= PLACES { PLACES } else { MANY_PLACES };
    let mut all: Vec<Turns> = entries
        .iter()
        .map(|entry| {
            let hashed = |seed| hash(seed, entry.identity.as_bytes());
            Turns { next: hashed(OFFSET) % places, skip: hashed(SKIP) % (places - 1) + 1, due: heaviest }
        })
        .collect();
    let mut owners = vec![FREE; places as usize];
    let mut left = places;
    // Ends: the heaviest one takes a place in every round.
    for round in 1u64.. {
        for (turns, entry) in all.iter_mut().zip(entries) {
            if round * entry.weight < turns.due {
                continue;
            }
            turns.due += heaviest;
            while owners[turns.next as usize] != FREE {
                turns.next = (turns.next + turns.skip) % places;
            }
            owners[turns.next as usize] = entry.index;
            left -= 1;
            if left == 0 {
                return Table { points: Box::default(), owners: owners.into() };
            }
        }
    }
    Table::default()
}

/// No endpoint's index: an upstream with so many would not fit into memory.
const FREE: u32 = u32::MAX;
