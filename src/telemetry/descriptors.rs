//! The process's file descriptors: how they are divided, who holds them, and what a lack of them means.
//!
//! A part stays in reserve for the admin API, registries, health checks and files. Of the rest one half is for connections
//! of clients, the other for connections to endpoints, of which one client address holds at most three quarters.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::prometheus::{Definition, Samples, Source, definitions};

/// How many descriptors there are for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// What the process may have open.
    pub limit: u64,
    /// For the admin API, registries, health checks and files.
    pub reserve: u32,
    /// For connections of clients.
    pub downstream: u32,
    /// For connections to endpoints.
    pub upstream: u32,
    /// Of those to endpoints, for one client address.
    pub per_client: u32,
}

/// Least number in reserve.
const MIN_RESERVE: u64 = 64;

/// Fewer than these for connections serve nobody: then the reserve is smaller.
const MIN_CONNECTIONS: u64 = 16;

/// What is in reserve beyond what is open at the start, at least.
const MIN_SPARE: u64 = 16;

impl Division {
    /// Of so many, some of which are open already.
    pub fn of(limit: u64, open: u64) -> Self {
        let limit = limit.min(u64::from(u32::MAX));
        let needed = open.saturating_add(MIN_SPARE);
        let wanted = (limit / 10).max(MIN_RESERVE).max(needed);
        let reserve = match limit.checked_sub(wanted) {
            Some(rest) if rest >= MIN_CONNECTIONS => wanted,
            _ => needed.max(limit / 2).min(limit.saturating_sub(MIN_CONNECTIONS / 2)),
        };
        let rest = limit - reserve;
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let upstream = narrow(rest - rest / 2);
        let per_client = (upstream - upstream / 4).max(1);
        Self { limit, reserve: narrow(reserve), downstream: narrow(rest / 2), upstream, per_client }
    }

    /// The limit under which so many clients could be connected.
    pub fn needed_for(clients: u64) -> u64 {
        clients.saturating_mul(20).div_ceil(9)
    }
}

/// Who holds descriptors. Shared by all workers.
#[derive(Debug)]
pub struct Descriptors {
    division: Division,
    /// Why connections are limited more than the settings say, and what to do.
    advice: Option<String>,
    downstream: AtomicU32,
    upstream: AtomicU32,
    /// By address; an entry goes with the last connection of its client.
    clients: [Mutex<HashMap<IpAddr, Weak<ClientShare>>>; SHARDS],
    /// Connections that could not be accepted.
    failed_accepts: AtomicU64,
    last_told: Mutex<Option<Instant>>,
}

/// Workers seldom meet in one of so many.
const SHARDS: usize = 16;

/// A lack of descriptors is logged no more often than this.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// What is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// All that connections to endpoints may have.
    #[error("no descriptor is left for another connection to an endpoint")]
    Upstream,
    /// All that one client address may have.
    #[error("the client's address holds as many connections to endpoints as one may")]
    Client,
}

impl Exhausted {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "descriptors",
            Self::Client => "client_descriptors",
        }
    }
}

/// The connections to endpoints that one client address holds.
#[derive(Debug)]
pub struct ClientShare {
    held: AtomicU32,
    address: IpAddr,
    of: Arc<Descriptors>,
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        let mut shard = self.of.shard(self.address);
        // Another one may have taken its place since.
        if shard.get(&self.address).is_some_and(|share| share.strong_count() == 0) {
            shard.remove(&self.address);
        }
    }
}

/// A descriptor of a client's connection; given back when it is dropped.
#[derive(Debug)]
pub struct DownstreamHold(Arc<Descriptors>);

impl Drop for DownstreamHold {
    fn drop(&mut self) {
        self.0.downstream.fetch_sub(1, Relaxed);
    }
}

/// A descriptor of a connection to an endpoint, and the client it is counted for; given back when it is dropped.
#[derive(Debug)]
pub struct UpstreamHold {
    of: Arc<Descriptors>,
    client: Option<Arc<ClientShare>>,
}

impl UpstreamHold {
    /// Counts it for another client, which takes the connection; whether that one may have it.
    pub fn moves_to(&mut self, client: Option<&Arc<ClientShare>>) -> bool {
        let same = match (&self.client, client) {
            (Some(held), Some(client)) => Arc::ptr_eq(held, client),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return true;
        }
        if client.is_some_and(|client| !enter_below(&client.held, self.of.division.per_client)) {
            return false;
        }
        if let Some(before) = std::mem::replace(&mut self.client, client.map(Arc::clone)) {
            before.held.fetch_sub(1, Relaxed);
        }
        true
    }
}

impl UpstreamHold {
    /// Whether so few are left that an idle connection should not keep one.
    pub fn is_short(&self) -> bool {
        self.of.is_short()
    }
}

impl Drop for UpstreamHold {
    fn drop(&mut self) {
        self.of.upstream.fetch_sub(1, Relaxed);
        if let Some(client) = &self.client {
            client.held.fetch_sub(1, Relaxed);
        }
    }
}

fn enter_below(count: &AtomicU32, most: u32) -> bool {
    count.fetch_update(Relaxed, Relaxed, |now| (now < most).then_some(now + 1)).is_ok()
}

impl Descriptors {
    /// Divided so. `wanted`: how many clients the settings allow to be connected.
    pub fn new(division: Division, wanted: u64) -> Arc<Self> {
        let advice = (wanted > u64::from(division.downstream)).then(|| {
            format!(
                "max_connections allows {wanted} connections of clients, but the limit of {} open files leaves {} for them: \
                 raise the limit (`ulimit -n`, `LimitNOFILE=` of systemd) to {}, or lower max_connections",
                division.limit,
                division.downstream,
                Division::needed_for(wanted)
            )
        });
        Arc::new(Self {
            division,
            advice,
            downstream: AtomicU32::new(0),
            upstream: AtomicU32::new(0),
            clients: Default::default(),
            failed_accepts: AtomicU64::new(0),
            last_told: Mutex::new(None),
        })
    }

    /// How many there are for what.
    pub fn division(&self) -> Division {
        self.division
    }

    /// What the settings want and the limit does not allow, with what to do.
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// How many connections of clients there are, and to endpoints.
    pub fn held(&self) -> [u32; 2] {
        [self.downstream.load(Relaxed), self.upstream.load(Relaxed)]
    }

    /// For one more connection of a client, if there is one.
    pub fn hold_downstream(self: &Arc<Self>) -> Option<DownstreamHold> {
        enter_below(&self.downstream, self.division.downstream).then(|| DownstreamHold(Arc::clone(self)))
    }

    /// The share of a client: of IPv6 whoever has a /64 has all its addresses.
    pub fn share_of(self: &Arc<Self>, address: IpAddr) -> Arc<ClientShare> {
        let address = network(address);
        let mut shard = self.shard(address);
        if let Some(share) = shard.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(ClientShare { held: AtomicU32::new(0), address, of: Arc::clone(self) });
        shard.insert(address, Arc::downgrade(&share));
        share
    }

    /// For one more connection to an endpoint, on behalf of a client that is counted.
    ///
    /// # Errors
    /// What is reached.
    pub fn hold_upstream(self: &Arc<Self>, client: Option<&Arc<ClientShare>>) -> Result<UpstreamHold, Exhausted> {
        if client.is_some_and(|client| !enter_below(&client.held, self.division.per_client)) {
            return Err(Exhausted::Client);
        }
        if !enter_below(&self.upstream, self.division.upstream) {
            if let Some(client) = client {
                client.held.fetch_sub(1, Relaxed);
            }
            return Err(Exhausted::Upstream);
        }
        Ok(UpstreamHold { of: Arc::clone(self), client: client.map(Arc::clone) })
    }

    /// Whether so few are left for connections to endpoints that none should be kept idle.
    pub fn is_short(&self) -> bool {
        self.upstream.load(Relaxed) > self.division.upstream - self.division.upstream / 8
    }

    /// A connection could not be accepted; whether that is to be logged.
    pub fn accept_failed(&self) -> bool {
        self.failed_accepts.fetch_add(1, Relaxed);
        self.is_to_be_told()
    }

    /// Whether a lack of descriptors is to be logged: not with every one that is wanted.
    pub fn is_to_be_told(&self) -> bool {
        let mut last = self.last_told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= TELL_AGAIN);
        if due {
            *last = Some(now);
        }
        due
    }

    fn shard(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, Weak<ClientShare>>> {
        let mixed = match address {
            IpAddr::V4(address) => address.octets().iter().fold(0, |mixed, byte| mixed ^ byte),
            IpAddr::V6(address) => address.octets().iter().fold(0, |mixed, byte| mixed ^ byte),
        };
        self.clients[usize::from(mixed) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Arc<Descriptors> {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[definitions::DESCRIPTORS, definitions::DESCRIPTORS_MAX, definitions::ACCEPT_FAILURES]
    }

    fn collect(&self, samples: &mut Samples) {
        let [downstream, upstream] = self.held();
        samples.value(definitions::DESCRIPTORS, &["downstream"], downstream.into());
        samples.value(definitions::DESCRIPTORS, &["upstream"], upstream.into());
        for (purpose, most) in [
            ("downstream", self.division.downstream),
            ("upstream", self.division.upstream),
            ("reserve", self.division.reserve),
        ] {
            samples.value(definitions::DESCRIPTORS_MAX, &[purpose], most.into());
        }
        samples.value(definitions::ACCEPT_FAILURES, &[], self.failed_accepts.load(Relaxed) as f64);
    }
}

/// Who counts as one client.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Whether a connection to an endpoint failed for want of something that this machine has too little of: descriptors,
/// memory, ports. That says nothing of the endpoint.
pub fn is_own_lack(error: &io::Error, endpoint: SocketAddr) -> bool {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => true,
        // Without any address of the endpoint's family it is the endpoint that is out of reach.
        Some(Errno::ADDRNOTAVAIL) => endpoint.is_ipv4() || speaks_ipv6_to(endpoint),
        Some(_) | None => false,
    }
}

fn speaks_ipv6_to(endpoint: SocketAddr) -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(endpoint)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_in_reserve_and_the_rest_is_halved() {
        let division = |limit, open| {
            let Division { reserve, downstream, upstream, per_client, .. } = Division::of(limit, open);
            [reserve, downstream, upstream, per_client]
        };
        assert_eq!(division(1024, 40), [102, 461, 461, 346]);
        assert_eq!(division(256, 40), [64, 96, 96, 72]);
        assert_eq!(division(20_000, 40), [2_000, 9_000, 9_000, 6_750]);
        assert_eq!(division(2048, 400), [416, 816, 816, 612], "what is open at the start is in reserve, too");
        // Too few for the rule: some are left for connections all the same.
        assert_eq!(division(64, 35), [51, 6, 7, 6]);
        assert_eq!(division(64, 64), [56, 4, 4, 3]);
        assert_eq!(division(8, 8), [0, 4, 4, 3]);
        assert_eq!(division(u64::MAX, 40)[0], u32::MAX / 10);
        assert!(Division::of(Division::needed_for(20_000), 40).downstream >= 20_000);
    }

    #[test]
    fn a_client_leaves_a_quarter_to_others() {
        let descriptors = Descriptors::new(Division::of(256, 0), 10);
        assert_eq!(descriptors.advice(), None);
        let [one, alike, other] =
            ["2001:db8::1", "2001:db8::ffff", "10.0.0.1"].map(|text| descriptors.share_of(text.parse().expect("one")));
        assert!(Arc::ptr_eq(&one, &alike), "a /64 is one client");
        let mut held: Vec<_> = (0..72).map(|_| descriptors.hold_upstream(Some(&one)).expect("one")).collect();
        assert_eq!(descriptors.hold_upstream(Some(&alike)).err(), Some(Exhausted::Client));
        held.extend((0..20).map(|_| descriptors.hold_upstream(Some(&other)).expect("one")));
        // A trusted proxy is no client.
        held.extend((0..4).map(|_| descriptors.hold_upstream(None).expect("one")));
        assert_eq!(descriptors.hold_upstream(Some(&other)).err(), Some(Exhausted::Upstream));
        assert_eq!(descriptors.held(), [0, 96]);
        assert!(descriptors.is_short());
        assert!(!held[95].moves_to(Some(&one)), "it has as many as it may");
        assert!(held[0].moves_to(Some(&other)) && held[95].moves_to(Some(&one)));
        drop(held);
        assert_eq!((one.held.load(Relaxed), other.held.load(Relaxed), descriptors.held()), (0, 0, [0, 0]));
        drop((one, alike, other));
        assert!(descriptors.clients.iter().all(|shard| shard.lock().expect("a shard").is_empty()));
    }

    #[test]
    fn clients_have_their_half_and_advice_says_what_to_raise() {
        let descriptors = Descriptors::new(Division::of(256, 0), 20_000);
        let held: Vec<_> = (0..96).map(|_| descriptors.hold_downstream().expect("one")).collect();
        assert!(descriptors.hold_downstream().is_none());
        drop(held);
        assert!(descriptors.hold_downstream().is_some());
        let advice = descriptors.advice().expect("some");
        assert!(advice.contains("leaves 96 for them") && advice.contains("to 44445"), "{advice}");
    }

    #[test]
    fn a_lack_of_descriptors_memory_or_ports_is_the_gateways_own() {
        use rustix::io::Errno;
        let own = |errno: Errno, endpoint: &str| {
            is_own_lack(&io::Error::from_raw_os_error(errno.raw_os_error()), endpoint.parse().expect("an address"))
        };
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            assert!(own(errno, "10.0.0.1:80"), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::CONNRESET] {
            assert!(!own(errno, "10.0.0.1:80"), "{errno}");
        }
        assert!(!is_own_lack(&io::ErrorKind::TimedOut.into(), "10.0.0.1:80".parse().expect("an address")));
    }

    #[test]
    fn a_lack_is_told_once_in_a_while() {
        let descriptors = Descriptors::new(Division::of(256, 0), 10);
        assert!(descriptors.accept_failed());
        assert!(!descriptors.accept_failed() && !descriptors.is_to_be_told());
        assert_eq!(descriptors.failed_accepts.load(Relaxed), 2);
    }
}
