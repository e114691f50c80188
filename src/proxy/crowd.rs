//! Defines how many connections a listener has, of all clients and of each: the process's, whatever worker serves them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::spec::settings::Listener;
use crate::telemetry::descriptors::{ClientShare, Descriptors, DownstreamHold, network};

/// The clients of a listener. Counting one by its address takes a lock for a moment, once a connection and only where
/// there is a limit.
#[derive(Debug)]
pub(super) struct Crowd {
    connections: AtomicU32,
    most: u32,
    clients: Option<Clients>,
    descriptors: Arc<Descriptors>,
}

#[derive(Debug)]
struct Clients {
    most: u32,
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
}

/// Workers seldom meet in one of so many.
const SHARDS: usize = 16;

/// A connection's place in the crowd; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    client: Option<IpAddr>,
    /// What connections to endpoints are counted by; `None`: they are not, since it is a proxy that is trusted.
    share: Option<Arc<ClientShare>>,
    _descriptor: DownstreamHold,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// `max_connections`
    Listener,
    /// `max_connections_per_client`
    Client,
    /// All descriptors that there are for connections of clients.
    Descriptors,
}

impl Crowd {
    pub(super) fn new(settings: &Listener, descriptors: &Arc<Descriptors>) -> Arc<Self> {
        let clients = settings.max_connections_per_client.map(|most| Clients { most, shards: Default::default() });
        let (connections, descriptors) = (AtomicU32::new(0), Arc::clone(descriptors));
        Arc::new(Self { connections, most: settings.max_connections, clients, descriptors })
    }

    /// Gives a connection a place, if there is one. `counted`: by its address, too.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, counted: bool) -> Result<Seat, Full> {
        if self.connections.fetch_add(1, Relaxed) >= self.most {
            self.connections.fetch_sub(1, Relaxed);
            return Err(Full::Listener);
        }
        let Some(descriptor) = self.descriptors.hold_downstream() else {
            self.connections.fetch_sub(1, Relaxed);
            return Err(Full::Descriptors);
        };
        let share = counted.then(|| self.descriptors.share_of(address));
        let mut seat = Seat { crowd: Arc::clone(self), client: None, share, _descriptor: descriptor };
        if let Some(clients) = self.clients.as_ref().filter(|_| counted) {
            let client = network(address);
            if !clients.count(client) {
                return Err(Full::Client);
            }
            seat.client = Some(client);
        }
        Ok(seat)
    }
}

impl Clients {
    fn count(&self, client: IpAddr) -> bool {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        let connections = shard.entry(client).or_default();
        let room = *connections < self.most;
        *connections += u32::from(room);
        room
    }

    fn forget(&self, client: IpAddr) {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut known) = shard.entry(client) {
            *known.get_mut() -= 1;
            if *known.get() == 0 {
                known.remove();
            }
        }
    }

    fn shard(&self, client: IpAddr) -> &Mutex<HashMap<IpAddr, u32>> {
        let mixed = match client {
            IpAddr::V4(address) => address.octets().iter().fold(0, |mixed, byte| mixed ^ byte),
            IpAddr::V6(address) => address.octets().iter().fold(0, |mixed, byte| mixed ^ byte),
        };
        &self.shards[usize::from(mixed) % SHARDS]
    }
}

impl Seat {
    /// What its client holds of connections to endpoints, where that is limited.
    pub(super) fn share(&self) -> Option<&Arc<ClientShare>> {
        self.share.as_ref()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.connections.fetch_sub(1, Relaxed);
        if let (Some(client), Some(clients)) = (self.client, &self.crowd.clients) {
            clients.forget(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::descriptors::Division;

    fn descriptors(limit: u64) -> Arc<Descriptors> {
        Descriptors::new(Division::of(limit, 0), 0)
    }

    fn crowd(most: u32, of_each: Option<u32>) -> Arc<Crowd> {
        let settings = Listener::new(([127, 0, 0, 1], 0).into());
        let settings = Listener { max_connections: most, max_connections_per_client: of_each, ..settings };
        Crowd::new(&settings, &descriptors(1024))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn places_are_given_and_given_back() {
        let crowd = crowd(2, None);
        let (one, two) = (crowd.admit(address("10.0.0.1"), true), crowd.admit(address("10.0.0.1"), true));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(crowd.admit(address("10.0.0.2"), true).err(), Some(Full::Listener));
        drop(one);
        assert!(crowd.admit(address("10.0.0.2"), true).is_ok());
    }

    #[test]
    fn descriptors_for_clients_may_be_fewer_than_max_connections() {
        let settings = Listener::new(([127, 0, 0, 1], 0).into());
        let crowd = Crowd::new(&settings, &descriptors(256));
        let seats: Vec<_> = (0..96).map(|_| crowd.admit(address("10.0.0.1"), true).expect("a seat")).collect();
        assert!(seats.iter().all(|seat| seat.share().is_some()));
        assert_eq!(crowd.admit(address("10.0.0.2"), true).err(), Some(Full::Descriptors));
        drop(seats);
        let proxy = crowd.admit(address("10.0.0.2"), false).expect("a seat");
        assert!(proxy.share().is_none(), "it carries many clients");
        assert_eq!(crowd.connections.load(Relaxed), 1);
    }

    #[test]
    fn clients_are_counted_by_address_and_forgotten() {
        let crowd = crowd(100, Some(2));
        let admit = |text| crowd.admit(address(text), true);
        let seats = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.17", "2001:db8::1", "2001:db8::2:1"].map(admit);
        assert!(seats.iter().all(Result::is_ok), "{seats:?}");
        assert_eq!(admit("10.0.0.1").err(), Some(Full::Client));
        assert_eq!(admit("2001:db8::3").err(), Some(Full::Client), "its network has two");
        assert!(admit("2001:db8:0:1::1").is_ok());
        assert!(crowd.admit(address("10.0.0.1"), false).is_ok(), "a proxy that is trusted carries many clients");
        drop(seats);
        assert!(admit("10.0.0.1").is_ok());
        let known = |clients: &Clients| clients.shards.iter().map(|shard| shard.lock().expect("a shard").len()).sum();
        assert_eq!(crowd.clients.as_ref().map(known), Some(0usize));
        assert_eq!(crowd.connections.load(Relaxed), 0);
    }
}
