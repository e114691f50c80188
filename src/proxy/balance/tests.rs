use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::tier::Pace;
use super::*;
use crate::snapshot::{Affinity, Endpoint, EndpointState};
use crate::spec::endpoint::RegistryStatus;
use crate::spec::name::ProviderId;
use crate::spec::upstream::{Balance, Hash, HashKey, UpstreamSettings};

fn upstream(balance: Balance, weights: &[u16]) -> Upstream {
    let endpoint = |(port, weight): (u16, &u16)| {
        let address = ([127, 0, 0, 1], port).into();
        Endpoint {
            address,
            host: None,
            weight: *weight,
            labels: Arc::default(),
            status: RegistryStatus::Unchecked,
            held: false,
            drained: false,
            prohibited: None,
            penalty: None,
            priority: 0,
            state: Arc::new(EndpointState::new(address)),
        }
    };
    let hash = balance.hashes().then_some(Hash { key: HashKey::Path, balance_factor: Some(125) });
    let settings = UpstreamSettings { balance, hash, ..UpstreamSettings::default() };
    let endpoints: Arc<[Endpoint]> = (1u16..).zip(weights).map(endpoint).collect();
    let name = "u".parse().expect("a name");
    Upstream {
        affinity: Arc::new(Affinity::new(&name, &settings, &endpoints)),
        name,
        label: "u".into(),
        provider: ProviderId::File,
        sources: Arc::default(),
        settings: Arc::new(settings),
        endpoints,
        fallback: None,
        known: true,
        state: Arc::default(),
    }
}

/// Endpoints that have so much in flight, and no known latency.
struct Busy<F>(F);

impl<F: Fn(u32) -> u32> Load for Busy<F> {
    fn in_flight(&self, index: u32) -> u32 {
        (self.0)(index)
    }

    fn latency(&self, _: u32) -> Option<f64> {
        None
    }
}

/// Endpoints with so much in flight and these latencies.
struct Doing<'a>(&'a [u32], &'a [Option<f64>]);

impl Load for Doing<'_> {
    fn in_flight(&self, index: u32) -> u32 {
        self.0[index as usize]
    }

    fn latency(&self, index: u32) -> Option<f64> {
        self.1[index as usize]
    }
}

fn avoiding(avoid: &[u32]) -> Wish<'_> {
    Wish { avoid, ..Wish::default() }
}

fn shares(balance: Balance, weights: &[u16], picks: usize, busy: impl Fn(u32) -> u32 + Copy) -> Vec<usize> {
    let mut rng = SmallRng::seed_from_u64(7);
    let pool = Pool::new(&upstream(balance, weights), 0, || rng.next_u64()).expect("all of it");
    let mut counts = vec![0; weights.len()];
    for _ in 0..picks {
        counts[pool.pick(Wish::default(), &Busy(busy), || rng.next_u64()).expect("not empty") as usize] += 1;
    }
    counts
}

#[test]
fn turns_are_exact_by_weight() {
    assert_eq!(shares(Balance::RoundRobin, &[1, 1, 1], 300, |_| 0), [100, 100, 100]);
    let counts = shares(Balance::RoundRobin, &[5, 3, 1, 0], 900, |_| 0);
    for (count, wanted) in counts.iter().zip([500usize, 300, 100, 0]) {
        assert!(count.abs_diff(wanted) <= 1, "{counts:?}");
    }
}

#[test]
fn of_many_a_heavy_one_may_be_busier() {
    let mut weights = [1; 40];
    weights[0] = 40;
    // Everyone is as busy as its weight allows: the heavy one keeps its half.
    let counts = shares(Balance::LeastRequests, &weights, 10_000, |index| if index == 0 { 39 } else { 0 });
    assert!((4_000..6_500).contains(&counts[0]), "{}", counts[0]);
}

#[test]
fn the_least_busy_for_its_weight_is_picked() {
    assert_eq!(shares(Balance::LeastRequests, &[1, 1, 1], 10, |index| u32::from(index != 1)), [0, 10, 0]);
    assert_eq!(shares(Balance::LeastRequests, &[1, 4], 10, |index| [0, 2][index as usize]), [0, 10]);
    let idle = shares(Balance::LeastRequests, &[1, 1, 1, 1], 4000, |_| 0);
    assert!(idle.iter().all(|count| (800..1200).contains(count)), "{idle:?}");
}

#[test]
fn of_many_the_less_busy_of_two_is_picked() {
    let weights = [1; 100];
    let counts = shares(Balance::LeastRequests, &weights, 10_000, |index| u32::from(index < 50));
    let busy_half: usize = counts[..50].iter().sum();
    assert!((2_000..3_000).contains(&busy_half), "a quarter of the draws meets two busy ones: {busy_half}");
}

#[test]
fn tried_endpoints_are_avoided_while_there_are_others() {
    let mut rng = SmallRng::seed_from_u64(7);
    let all = [Balance::RoundRobin, Balance::LeastRequests, Balance::P2cEwma, Balance::Random, Balance::Maglev];
    for (balance, size) in all.into_iter().flat_map(|balance| [(balance, 3), (balance, 40)]) {
        let pool = Pool::new(&upstream(balance, &vec![1; size]), 0, || rng.next_u64()).expect("all of it");
        for _ in 0..50 {
            let wish = Wish { key: Some(rng.next_u64()), ..avoiding(&[0, 1]) };
            let picked = pool.pick(wish, &Busy(|_| 0), || rng.next_u64());
            assert!(picked > Some(1), "{picked:?}");
        }
        let all: Vec<u32> = (0..size as u32).collect();
        assert!(pool.pick(avoiding(&all), &Busy(|_| 0), || rng.next_u64()).is_some());
    }
    let empty = Pool::new(&upstream(Balance::RoundRobin, &[0]), 0, || 0).expect("all of it");
    assert!(empty.is_empty() && empty.pick(Wish::default(), &Busy(|_| 0), || 0).is_none());
}

#[test]
fn random_draws_go_by_weight() {
    let counts = shares(Balance::Random, &[6, 3, 1, 0], 10_000, |index| index * 100);
    for (count, wanted) in counts.iter().zip([6_000usize, 3_000, 1_000, 0]) {
        assert!(count.abs_diff(wanted) <= 200, "{counts:?}");
    }
}

/// Shares of 10,000 picks by what endpoints are doing.
fn cheapest(weights: &[u16], doing: &Doing<'_>) -> Vec<usize> {
    let mut rng = SmallRng::seed_from_u64(7);
    let pool = Pool::new(&upstream(Balance::P2cEwma, weights), 0, || 0).expect("all of it");
    let mut counts = vec![0; weights.len()];
    for _ in 0..10_000 {
        counts[pool.pick(Wish::default(), doing, || rng.next_u64()).expect("not empty") as usize] += 1;
    }
    counts
}

#[test]
fn latency_times_requests_in_flight_decides() {
    assert_eq!(cheapest(&[1, 1], &Doing(&[0, 0], &[Some(0.010), Some(0.001)])), [0, 10_000]);
    assert_eq!(cheapest(&[1, 1], &Doing(&[0, 11], &[Some(0.010), Some(0.001)])), [10_000, 0]);
    // Three times the weight, three times as much in flight: as good as the other, which wins when it is quicker.
    assert_eq!(cheapest(&[3, 1], &Doing(&[2, 0], &[Some(0.002), Some(0.001)])), [0, 10_000]);
    assert_eq!(cheapest(&[3, 1], &Doing(&[1, 0], &[Some(0.0014), Some(0.001)])), [10_000, 0]);
    // Of ten, the slow one loses against whoever it is drawn with.
    let mut latencies = [Some(0.002); 10];
    latencies[4] = Some(0.050);
    assert_eq!(cheapest(&[1; 10], &Doing(&[0; 10], &latencies))[4], 0);
}

#[test]
fn an_unmeasured_endpoint_gets_traffic_and_no_more_than_it_answers() {
    let latencies = [Some(0.001), Some(0.001), Some(0.001), None];
    let fresh = cheapest(&[1; 4], &Doing(&[3, 3, 3, 0], &latencies));
    assert!(fresh[3] > 4_500, "it is in half of the pairs, and idle: {fresh:?}");
    let silent = cheapest(&[1; 4], &Doing(&[3, 3, 3, 4], &latencies));
    assert_eq!(silent[3], 0, "it answers nothing");
}

/// Where 1,000 keys go, when all those before are still in flight.
fn held(balance: Balance, weights: &[u16], key: impl Fn(u64) -> u64) -> Vec<u32> {
    let upstream = upstream(balance, weights);
    let pool = Pool::new(&upstream, 0, || 0).expect("all of it");
    let mut in_flight = vec![0; weights.len()];
    for number in 0..1_000 {
        let wish = Wish { key: Some(key(number)), ..Wish::default() };
        let index = pool.pick(wish, &Doing(&in_flight, &[]), || 0).expect("not empty");
        in_flight[index as usize] += 1;
    }
    in_flight
}

#[test]
fn no_endpoint_gets_more_than_a_quarter_above_its_share() {
    for balance in [Balance::RingHash, Balance::Maglev] {
        // All by one key: it spills over, endpoint by endpoint.
        let one = held(balance, &[1; 10], |_| 7);
        assert!(one.iter().all(|count| *count <= 125), "{one:?}");
        assert!(one.iter().filter(|count| **count >= 120).count() >= 7, "{one:?}");
        let weighed = held(balance, &[5, 3, 2], |_| 7);
        for (count, most) in weighed.iter().zip([625, 375, 250]) {
            assert!(*count <= most, "{weighed:?}");
        }
        // By keys of their own, nearly nobody has to move.
        let many = held(balance, &[1; 10], |number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert!(many.iter().all(|count| (60..=125).contains(count)), "{many:?}");
    }
}

#[test]
fn a_key_keeps_its_endpoint_while_little_is_in_flight() {
    for balance in [Balance::RingHash, Balance::Maglev] {
        let upstream = upstream(balance, &[1; 5]);
        let pool = Pool::new(&upstream, 0, || 0).expect("all of it");
        for key in (0..1_000u64).map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let wish = Wish { key: Some(key), ..Wish::default() };
            let idle = pool.pick(wish, &Busy(|_| 0), || 0).expect("not empty");
            assert_eq!(pool.pick(wish, &Busy(|index| if index == idle { 3 } else { 0 }), || 1), Some(idle));
            let other = pool.pick(wish, &Busy(|index| if index == idle { 4 } else { 0 }), || 1);
            assert_ne!(other, Some(idle), "4 of 4 are too much");
            // Who is tried and failed leaves the key to the one that a busy one leaves it to.
            assert_eq!(pool.pick(Wish { avoid: &[idle], ..wish }, &Busy(|_| 0), || 1), other);
        }
    }
}

#[test]
fn a_client_stays_while_its_endpoint_is_usable() {
    let pool = Pool::new(&upstream(Balance::RoundRobin, &[1, 0, 1]), 0, || 0).expect("all of it");
    let at = |stay, avoid| Wish { stay: Some(stay), ..avoiding(avoid) };
    assert!((0..10).all(|_| pool.pick(at(2, &[]), &Busy(|_| 9), || 0) == Some(2)));
    assert_eq!(pool.pick(at(2, &[2]), &Busy(|_| 0), || 0), Some(0), "it was tried");
    assert_ne!(pool.pick(at(1, &[]), &Busy(|_| 0), || 0), Some(1), "it drains");
    assert_ne!(pool.pick(at(7, &[]), &Busy(|_| 0), || 0), Some(7), "it is gone");
}

/// Shares of 20,000 picks among endpoints of which the last one is fresh, `grown` of its slow start ago.
fn slowly(balance: Balance, count: usize, grown: f64, load: &impl Load) -> Vec<usize> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut pool = Pool::new(&upstream(balance, &vec![1; count]), 0, || rng.next_u64()).expect("all of it");
    // So long that the test takes no part of it.
    let window = Duration::from_secs(1_000_000);
    let tier = &mut pool.tiers[0].1;
    tier.slow_start = Some(window);
    tier.members.last_mut().expect("members").fresh_since = Some(Instant::now());
    let pace = Pace(Some((window, Instant::now() + window.mul_f64(grown))));
    let mut counts = vec![0; count];
    for _ in 0..20_000 {
        counts[tier.pick_at(pace, Wish::default(), load, || rng.next_u64()).expect("not empty") as usize] += 1;
    }
    counts
}

#[test]
fn a_fresh_endpoints_share_grows() {
    for balance in [Balance::RoundRobin, Balance::LeastRequests, Balance::P2cEwma, Balance::Random] {
        for (grown, of_fair) in [(0.0, 0.1), (0.25, 0.25), (0.5, 0.5), (1.0, 1.0), (2.0, 1.0)] {
            // Four idle ones: the shares are w/(3+w).
            let counts = slowly(balance, 4, grown, &Busy(|_| 0));
            let (share, wanted) = (counts[3] as f64 / 20_000.0, of_fair / (3.0 + of_fair));
            assert!((share - wanted).abs() < 0.02, "{balance:?} at {grown}: {share}, not {wanted}");
        }
    }
    // Among busy ones it is never busier than its share.
    let busy = slowly(Balance::LeastRequests, 4, 0.25, &Busy(|index| if index == 3 { 3 } else { 10 }));
    assert_eq!(busy[3], 0, "3 of its 2.5");
    let room = slowly(Balance::LeastRequests, 4, 0.25, &Busy(|index| if index == 3 { 2 } else { 10 }));
    assert!(room[3] > 4_000, "{room:?}");
    // However quick it is: of a pair it is drawn first, or considered, a tenth of the times each.
    let quick = slowly(Balance::P2cEwma, 2, 0.0, &Doing(&[0, 0], &[Some(0.1), Some(0.001)]));
    assert!((3_000..4_200).contains(&quick[1]), "{quick:?}");
}

#[test]
fn where_most_are_fresh_nobody_is_slow() {
    let window = Some(Duration::from_secs(1_000));
    let settings = UpstreamSettings { slow_start: window, ..UpstreamSettings::default() };
    let upstream = Upstream { settings: Arc::new(settings), ..upstream(Balance::LeastRequests, &[1; 4]) };
    let slow_start = || Pool::new(&upstream, 0, || 0).expect("all of it").tiers[0].1.slow_start;
    assert_eq!(slow_start(), None);
    upstream.endpoints[0].state.freshen();
    assert_eq!(slow_start(), window);
    upstream.endpoints[1].state.set_health(crate::snapshot::Health::Healthy);
    assert_eq!(slow_start(), window);
    upstream.endpoints[2].state.freshen();
    assert_eq!(slow_start(), None);
}

#[test]
fn a_level_that_cannot_take_all_spills_over() {
    let mut upstream = upstream(Balance::Random, &[1; 4]);
    let drained = |index: usize| index == 1;
    let endpoints = upstream.endpoints.iter().enumerate().map(|(index, endpoint)| Endpoint {
        priority: u16::from(index >= 2),
        drained: drained(index),
        ..endpoint.clone()
    });
    upstream.endpoints = endpoints.collect();
    let mut rng = SmallRng::seed_from_u64(7);
    let pool = Pool::new(&upstream, 0, || rng.next_u64()).expect("all of it");
    let mut counts = [0usize; 4];
    for _ in 0..10_000 {
        counts[pool.pick(Wish::default(), &Busy(|_| 0), || rng.next_u64()).expect("not empty") as usize] += 1;
    }
    // Half of the first level takes 1.4 times as much as half.
    for (count, wanted) in counts.into_iter().zip([7_000usize, 0, 1_500, 1_500]) {
        assert!(count.abs_diff(wanted) < 200, "{counts:?}");
    }
    let picked = pool.pick(avoiding(&[0]), &Busy(|_| 0), || 0);
    assert!(picked > Some(1), "the first level was tried: {picked:?}");
    let key = |key: u64| Wish { key: Some(key), ..Wish::default() };
    let first = (0..1_000).filter(|n| pool.pick(key(n * 7_919), &Busy(|_| 0), || 0) == Some(0)).count();
    assert!((650..750).contains(&first), "{first}: keys spill over, too");
    assert_eq!(pool.pick(Wish { stay: Some(3), ..Wish::default() }, &Busy(|_| 0), || 0), Some(3));
}

#[test]
fn full_endpoints_get_nothing_more() {
    for balance in [Balance::RoundRobin, Balance::LeastRequests, Balance::P2cEwma, Balance::Random, Balance::Maglev] {
        let pool = Pool::new(&upstream(balance, &[1; 3]), 0, || 0).expect("all of it");
        let mut rng = SmallRng::seed_from_u64(7);
        let mut pick = |avoid, in_flight: [u32; 3]| {
            let wish = Wish { most: Some(2), key: Some(rng.next_u64()), stay: Some(1), ..avoiding(avoid) };
            pool.pick(wish, &Doing(&in_flight, &[None; 3]), || rng.next_u64())
        };
        for _ in 0..20 {
            assert_eq!(pick(&[], [2, 2, 1]), Some(2));
            assert_eq!(pick(&[2], [2, 5, 1]), Some(2), "it was tried, but the others are full");
            assert_eq!(pick(&[2], [1, 2, 1]), Some(0));
            assert_eq!(pick(&[], [2, 2, 2]), None);
            assert_eq!(pick(&[], [0, 1, 0]), Some(1), "it stays");
        }
    }
}
