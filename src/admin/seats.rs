//! The connections of the admin API: beyond a number of them the oldest of the client that has most is ended, unless a
//! call of it is under way.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::telemetry::descriptors::network;

/// The connections there are.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: usize,
    /// Those without a call, the longest without one first.
    idle: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// A connection; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    client: IpAddr,
    evicted: CancellationToken,
    order: Mutex<Option<u64>>,
}

/// A call under way, which keeps its connection.
#[derive(Debug)]
pub(super) struct Call<'s>(&'s Seat);

impl Seats {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default() })
    }

    /// Takes a new connection in; another one has to go where there are too many.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Seat {
        let mut table = self.table();
        if table.open >= self.most {
            table.evict();
        }
        table.open += 1;
        drop(table);
        let seat = Seat {
            seats: Arc::clone(self),
            client: network(client),
            evicted: CancellationToken::new(),
            order: Mutex::new(None),
        };
        seat.rest();
        seat
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn evict(&mut self) {
        let mut of_client: HashMap<IpAddr, usize> = HashMap::new();
        for (client, _) in self.idle.values() {
            *of_client.entry(*client).or_default() += 1;
        }
        let most = of_client.values().copied().max().unwrap_or(0);
        let crowded = self.idle.iter().find(|(_, (client, _))| of_client.get(client) == Some(&most));
        let Some((order, _)) = crowded else { return };
        let order = *order;
        if let Some((_, evicted)) = self.idle.remove(&order) {
            evicted.cancel();
        }
    }
}

impl Seat {
    /// Whether it has to go.
    pub(super) fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// A call begins.
    pub(super) fn call(&self) -> Call<'_> {
        if let Some(order) = self.order().take() {
            self.seats.table().idle.remove(&order);
        }
        Call(self)
    }

    /// It has no call.
    fn rest(&self) {
        let mut table = self.seats.table();
        let order = table.next;
        table.next += 1;
        table.idle.insert(order, (self.client, self.evicted.clone()));
        drop(table);
        *self.order() = Some(order);
    }

    fn order(&self) -> MutexGuard<'_, Option<u64>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.rest();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let order = self.order().take();
        let mut table = self.seats.table();
        table.open -= 1;
        if let Some(order) = order {
            table.idle.remove(&order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_oldest_of_the_crowd_goes_and_calls_stay() {
        let seats = Seats::new(4);
        let [many, one] = ["10.0.0.1", "10.0.0.2"].map(client);
        let other = seats.take(one);
        let held: Vec<_> = (0..3).map(|_| seats.take(many)).collect();
        let call = held[0].call();
        let new = seats.take(one);
        let evicted = |seat: &Seat| seat.evicted.is_cancelled();
        assert_eq!(held.iter().map(evicted).collect::<Vec<_>>(), [false, true, false]);
        assert!(!evicted(&other) && !evicted(&new), "the crowd is another client's");
        drop(call);
        let mut held = held;
        drop(held.remove(1));
        let _another = seats.take(one);
        assert!(evicted(&other), "it is the oldest of three");
        drop((held, other, new, _another));
        let table = seats.table();
        assert_eq!((table.open, table.idle.len()), (0, 0));
    }
}
