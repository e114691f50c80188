//! Penalties under told time.

use proptest::prelude::*;

use super::super::fixture::{World, consul};
use super::*;
use crate::spec::name::ProviderId;

struct Told {
    damping: Damping,
    before: Arc<ProviderState>,
    now: Instant,
}

impl Told {
    fn new() -> Self {
        Self { damping: Damping::default(), before: Arc::default(), now: Instant::now() }
    }

    fn shows(&mut self, lines: &str) {
        let mut world = World::new();
        world.source(&consul("u"), lines);
        let state = Arc::clone(&world.states[&ProviderId::Consul]);
        self.damping.note(&self.before, &state, self.now);
        self.before = state;
    }

    fn passes(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.damping.look(self.now);
    }

    fn damped(&self) -> Vec<String> {
        let source = consul("u");
        let penalties = self.damping.of(&source, &self.before.sources[&source].endpoints).unwrap_or_default();
        penalties.iter().filter(|(_, penalty)| penalty.damped).map(|(address, _)| address.to_string()).collect()
    }

    fn flaps(&mut self, times: usize) {
        self.shows("10.0.0.1:80\n10.0.0.2:80\n10.0.0.3:80");
        for _ in 0..times {
            self.shows("10.0.0.2:80\n10.0.0.3:80");
            self.shows("10.0.0.1:80\n10.0.0.2:80\n10.0.0.3:80");
        }
    }
}

#[test]
fn the_third_time_within_a_minute_waits_until_little_is_left() {
    let mut told = Told::new();
    told.flaps(2);
    assert_eq!(told.damped(), [""; 0], "a restart, and one more");
    told.passes(10);
    told.flaps(1);
    assert_eq!(told.damped(), ["10.0.0.1:80"]);
    let due = told.damping.due(told.now).expect("an end");
    let wait = due.duration_since(told.now).as_secs();
    assert!((30..60).contains(&wait), "{wait}");
    told.passes(wait - 1);
    assert_eq!(told.damped(), ["10.0.0.1:80"]);
    told.passes(2);
    assert_eq!((told.damped(), told.damping.due(told.now)), (vec![], None));
    told.passes(300);
    assert!(told.damping.penalties.is_empty(), "and is forgotten");
}

#[test]
fn nobody_waits_longer_than_two_minutes() {
    let mut told = Told::new();
    told.flaps(1_000);
    assert_eq!(told.damped(), ["10.0.0.1:80"]);
    told.passes(119);
    assert_eq!(told.damped(), ["10.0.0.1:80"]);
    told.passes(2);
    assert_eq!(told.damped(), [""; 0]);
}

#[test]
fn a_slow_restart_now_and_then_and_maintenance_cost_nothing() {
    let mut told = Told::new();
    for _ in 0..20 {
        told.flaps(1);
        told.passes(60);
        assert_eq!(told.damped(), [""; 0]);
    }
    let mut told = Told::new();
    for _ in 0..20 {
        told.shows("10.0.0.1:80 maintenance\n10.0.0.2:80");
        told.shows("10.0.0.1:80\n10.0.0.2:80");
    }
    assert_eq!(told.damped(), [""; 0]);
}

#[test]
fn where_most_flap_nobody_waits() {
    let mut told = Told::new();
    for _ in 0..5 {
        told.shows("10.0.0.1:80 critical\n10.0.0.2:80 critical\n10.0.0.3:80");
        told.shows("10.0.0.1:80\n10.0.0.2:80\n10.0.0.3:80");
    }
    assert_eq!(told.damped(), [""; 0]);
    let mut told = Told::new();
    for _ in 0..5 {
        told.shows("10.0.0.1:80 critical\n10.0.0.2:80");
        told.shows("10.0.0.1:80\n10.0.0.2:80");
    }
    assert_eq!(told.damped(), ["10.0.0.1:80"]);
}

proptest! {
    /// Whatever flaps however: at least half of a pool is never damped, and all is over two minutes later.
    #[test]
    fn most_of_a_pool_is_never_damped(steps in proptest::collection::vec((0u8..32, 0u64..5), 1..60)) {
        let mut told = Told::new();
        for (present, seconds) in steps {
            let line = |host: u8| format!("10.0.0.{host}:80\n");
            let lines: String = (0..5).filter(|host| present & (1 << host) > 0).map(line).collect();
            told.shows(&lines);
            told.passes(seconds);
            let (all, damped) = (lines.lines().count(), told.damped());
            prop_assert!(damped.len() * 2 <= all);
            prop_assert!(damped.iter().all(|address| lines.contains(address.as_str())));
        }
        told.passes(121);
        prop_assert_eq!(told.damped(), [""; 0]);
    }
}
