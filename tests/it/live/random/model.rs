//! What a registry has, who has been seen of it, and who vanished though it had not been removed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::http;

const POOLS: u8 = 3;
const SIZE: u8 = 8;
/// A pool keeps so many: one that loses more than half within ten seconds is held on purpose.
const LEAST: usize = 5;

/// A place in a pool, which may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u8, u8);

impl Slot {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..POOLS).flat_map(|pool| (0..SIZE).map(move |id| Self(pool, id)))
    }

    pub(super) fn random(rng: &mut StdRng) -> Self {
        Self(rng.random_range(0..POOLS), rng.random_range(0..SIZE))
    }

    pub(super) fn pools() -> impl Iterator<Item = String> {
        (0..POOLS).map(|pool| format!("s{pool}"))
    }

    /// The pool of a worker's n-th request.
    pub(super) fn pool_of(number: u64) -> String {
        format!("s{}", number % u64::from(POOLS))
    }

    pub(super) fn pool(self) -> String {
        format!("s{}", self.0)
    }

    pub(super) fn id(self) -> String {
        format!("s{}-{}", self.0, self.1)
    }

    pub(super) fn key(self) -> String {
        format!("/fleetgate/endpoints/{}/{}", self.pool(), self.id())
    }
}

/// A registry's content. Each time somebody registers is a life of its own, which a label shows.
#[derive(Debug)]
pub(super) struct Model {
    port: u16,
    known: Arc<Mutex<Known>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    lives: u64,
    there: BTreeMap<Slot, Life>,
    /// How often each was removed, by address.
    removals: BTreeMap<String, usize>,
    vanished: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    /// The last registration.
    last: u64,
    /// The first one since it was not there.
    first: u64,
    /// Tells apart whoever came by the same registration twice, which a backup brings about.
    since: u64,
}

/// Addresses with the lives they show.
pub(super) type Shown = BTreeMap<String, u64>;

impl Clone for Model {
    /// As it is now.
    fn clone(&self) -> Self {
        Self { port: self.port, known: Arc::new(Mutex::new(self.known().clone())) }
    }
}

impl Model {
    /// Of an empty registry; whoever is in it listens on this port.
    pub(super) fn new(port: u16) -> Self {
        Self { port, known: Arc::default() }
    }

    /// The same, not a copy.
    pub(super) fn clone_shared(&self) -> Self {
        Self { port: self.port, known: Arc::clone(&self.known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    pub(super) fn address(&self, slot: Slot) -> String {
        format!("127.0.{}.{}:{}", slot.0 + 1, slot.1 + 1, self.port)
    }

    pub(super) fn next_life(&self) -> u64 {
        let mut known = self.known();
        known.lives += 1;
        known.lives
    }

    pub(super) fn may_remove(&self, slot: Slot) -> bool {
        let known = self.known();
        known.there.contains_key(&slot) && known.there.keys().filter(|other| other.0 == slot.0).count() > LEAST
    }

    /// It is about to be removed.
    pub(super) fn remove(&self, slot: Slot) {
        let mut known = self.known();
        known.there.remove(&slot);
        *known.removals.entry(self.address(slot)).or_default() += 1;
    }

    /// It was registered.
    pub(super) fn add(&self, slot: Slot, life: u64) {
        let mut known = self.known();
        let (first, since) = known.there.get(&slot).map_or((life, life), |before| (before.first, before.since));
        known.there.insert(slot, Life { last: life, first, since });
    }

    /// Only who is in the other one stays.
    pub(super) fn loses_what_is_not_in(&self, other: &Self) {
        let kept = other.known().there.clone();
        let gone: Vec<Slot> = self.known().there.keys().filter(|slot| !kept.contains_key(slot)).copied().collect();
        for slot in gone {
            self.remove(slot);
        }
    }

    /// The registry has what it had then.
    pub(super) fn becomes(&self, then: &Self) {
        let then = then.known().there.clone();
        let mut known = self.known();
        for (slot, life) in then {
            known.lives += 1;
            let anew = (life.last, known.lives);
            // Who was there all the time lives on, as it was registered then.
            let (first, since) = known.there.get(&slot).map_or(anew, |now| (now.first, now.since));
            known.there.insert(slot, Life { last: life.last, first, since });
        }
    }

    pub(super) fn wanted(&self) -> Shown {
        self.known().there.iter().map(|(slot, life)| (self.address(*slot), life.last)).collect()
    }

    pub(super) fn removals(&self, address: &str) -> usize {
        self.known().removals.get(address).copied().unwrap_or(0)
    }

    #[track_caller]
    pub(super) fn assert_nobody_vanished(&self) {
        let vanished = &self.known().vanished;
        assert!(vanished.is_empty(), "{vanished:#?}");
    }

    /// Looks all the time at what a gateway shows: who was seen since it came, and has not been removed, is there.
    pub(super) fn watch(&self, admin: SocketAddr) -> JoinHandle<()> {
        let model = self.clone_shared();
        tokio::spawn(async move {
            let mut seen: BTreeMap<Slot, u64> = BTreeMap::new();
            loop {
                let before = model.known().there.clone();
                let shown = shown(admin).await;
                model.compare(&before, &shown, &mut seen);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    /// Compares what was shown with what was there before it was asked for, and is now.
    fn compare(&self, before: &BTreeMap<Slot, Life>, shown: &Shown, seen: &mut BTreeMap<Slot, u64>) {
        let mut known = self.known();
        for (slot, life) in before {
            // Whoever was removed meanwhile may be gone, and back.
            if known.there.get(slot).is_none_or(|now| now.since != life.since) {
                continue;
            }
            match shown.get(&self.address(*slot)) {
                Some(shows) if *shows >= life.first => {
                    seen.insert(*slot, life.since);
                }
                None if seen.get(slot) == Some(&life.since) => {
                    known.vanished.push(format!("{slot:?} ({life:?}) is not among {shown:?}"));
                }
                _ => {}
            }
        }
    }
}

/// All endpoints that a gateway shows.
pub(super) async fn shown(admin: SocketAddr) -> Shown {
    let answer = http().get(format!("http://{admin}/api/v1/upstreams")).send().await.unwrap();
    let list: Value = answer.json().await.unwrap();
    let upstreams = list["items"].as_array().unwrap().iter();
    let endpoints = upstreams.flat_map(|upstream| upstream["endpoints"].as_array().cloned().unwrap_or_default());
    let shown = endpoints.map(|endpoint| {
        let life = endpoint["labels"]["life"].as_str().unwrap_or_default();
        (endpoint["address"].as_str().unwrap().to_owned(), life.parse().unwrap_or(0))
    });
    shown.collect()
}
