//! What is held and what goes, by what registries show; time is told, not waited for.

use proptest::prelude::*;

use super::super::fixture::{World, consul};
use super::*;
use crate::spec::endpoint::EndpointSpec;

const HOLD: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

struct Told {
    world: World,
    guard: Guard,
    now: Instant,
    regressions: u64,
    other_servers: u64,
    listed: BTreeMap<Option<Source>, u64>,
}

impl Told {
    fn new() -> Self {
        Self::with(BTreeMap::new())
    }

    fn with(saved: BTreeMap<ProviderId, SavedState>) -> Self {
        let now = Instant::now();
        let (world, guard) = (World::new(), Guard::new(Some(HOLD), true, saved, now));
        Self { world, guard, now, regressions: 0, other_servers: 0, listed: BTreeMap::new() }
    }

    /// Services with as many endpoints each.
    fn fleet(services: &[&str], endpoints: usize) -> Self {
        let mut told = Self::new();
        for (number, service) in services.iter().enumerate() {
            told.shows(service, &lines(number, endpoints));
        }
        told.passes(60 * SECOND);
        told
    }

    fn shows(&mut self, service: &str, lines: &str) {
        self.world.source(&consul(service), lines);
        self.take(ProviderId::Consul);
    }

    /// It lists these, and its watch keeps others that it lists no more.
    fn keeps(&mut self, service: &str, lines: &str, unlisted: &[&str]) {
        let all = unlisted.iter().fold(lines.to_owned(), |all, address| format!("{all}\n{address}"));
        self.world.source_keeping(&consul(service), &all, unlisted, Origin::Held, &[]);
        self.take(ProviderId::Consul);
    }

    /// As [`Self::keeps`], for the first time since its registry went back, while its watch waits for a second read.
    fn waits(&mut self, service: &str, lines: &str, unlisted: &[&str]) {
        let all = unlisted.iter().fold(lines.to_owned(), |all, address| format!("{all}\n{address}"));
        self.world.source_keeping(&consul(service), &all, unlisted, Origin::Live, &[]);
        self.listed.insert(Some(consul(service)), self.regressions);
        self.take(ProviderId::Consul);
    }

    /// What was released since the last call.
    fn releases(&mut self) -> String {
        let told = |Release { address, from, to }: Release| format!("{address} {from} {to}");
        let told = self.guard.take_releases().into_iter().map(told).collect::<Vec<_>>().join(", ");
        told.replace("10.0.", "").replace(":80", "").replace("consul:", "")
    }

    fn goes_back(&mut self) {
        self.regressions += 1;
        self.take(ProviderId::Consul);
    }

    /// It lists what it listed before, for the first time since it went back.
    fn lists_again(&mut self, service: &str) {
        self.listed.insert(Some(consul(service)), self.regressions);
        self.take(ProviderId::Consul);
    }

    /// What a provider holds, by what operators call it.
    fn holds(&self, id: ProviderId) -> Vec<Hold> {
        let World { rules, overlay, .. } = &self.world;
        let merged = super::super::merge::merge(self.guard.served(), rules, overlay, &mut Default::default());
        merged.report.holds.into_iter().filter(|hold| hold.provider == id).collect()
    }

    /// Accepts all of it; how many parts that are.
    fn accepts(&mut self, id: ProviderId) -> usize {
        let released = self.holds(id).iter().filter(|hold| self.guard.release(hold, self.now)).count();
        self.passes(Duration::ZERO);
        released
    }

    fn take(&mut self, id: ProviderId) {
        let mut state = ProviderState::clone(&self.world.states[&id]);
        (state.regressions, state.other_servers) = (self.regressions, self.other_servers);
        state.listed.clone_from(&self.listed);
        self.guard.take(id, Arc::new(state), self.now);
        self.passes(Duration::ZERO);
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
        let wanted = ["a", "b", "c", "d"].map(consul).into();
        self.guard.look(&wanted, self.now);
    }

    /// Addresses of a service as they are served; held ones in brackets.
    fn served(&self, service: &str) -> String {
        let state = &self.guard.served()[&ProviderId::Consul];
        let Some(known) = state.sources.get(&consul(service)) else { return "unknown".to_owned() };
        let kept = state.kept.addresses.get(&consul(service));
        assert_eq!(kept.is_some(), known.origin == Origin::Held);
        let shown = |endpoint: &EndpointSpec| match kept {
            Some(kept) if kept.contains(&endpoint.address) => format!("[{}]", endpoint.address),
            _ => endpoint.address.to_string(),
        };
        known.endpoints.iter().map(shown).collect::<Vec<_>>().join(" ").replace("10.0.", "").replace(":80", "")
    }
}

fn lines(network: usize, endpoints: usize) -> String {
    (1..=endpoints).map(|host| format!("10.0.{network}.{host}:80\n")).collect()
}

#[test]
fn what_a_registry_lost_that_went_back_is_held_until_it_is_back() {
    let mut told = Told::fleet(&["a", "b"], 2);
    told.goes_back();
    assert_eq!(told.served("a"), "0.1 0.2", "nothing is lost yet, so nothing is held");
    told.shows("a", "");
    told.shows("b", "");
    assert_eq!((told.served("a"), told.served("b")), ("[0.1] [0.2]".into(), "[1.1] [1.2]".into()));
    told.passes(24 * 3600 * SECOND);
    assert_eq!(told.served("a"), "[0.1] [0.2]", "while it shows nothing at all, nothing goes by itself");

    told.shows("a", "10.0.0.2:80 weight=7\n10.0.0.9:80");
    assert_eq!(told.served("a"), "[0.1] 0.2 0.9", "what is listed is the registry's word, whoever registered it");
    told.shows("a", "10.0.0.9:80");
    assert_eq!(told.served("a"), "[0.1] 0.9", "and goes by its word, too");
    told.passes(HOLD - SECOND);
    assert_eq!(told.served("b"), "[1.1] [1.2]");
    told.passes(SECOND);
    assert_eq!((told.served("a"), told.served("b")), ("0.9".into(), String::new()));
}

#[test]
fn what_other_servers_do_not_list_is_held_and_what_they_list_flows() {
    let mut told = Told::fleet(&["a", "b"], 2);
    told.other_servers += 1;
    told.take(ProviderId::Consul);
    assert_eq!(told.served("a"), "0.1 0.2", "nothing is lost yet, so nothing is held");
    told.shows("a", "10.0.0.2:80 weight=7\n10.0.0.9:80");
    assert_eq!(told.served("a"), "[0.1] 0.2 0.9");
    let why = told.guard.served()[&ProviderId::Consul].kept.why.clone();
    assert_eq!(why.as_deref(), Some("other servers answer than before"));
    assert_eq!(told.accepts(ProviderId::Consul), 1);
    told.passes(Duration::ZERO);
    assert_eq!(told.served("a"), "0.2 0.9");
}

#[test]
fn what_an_earlier_process_held_is_held_on() {
    let mut world = World::new();
    world.source(&consul("a"), &lines(0, 2));
    let known = (Arc::clone(&world.states[&ProviderId::Consul].sources[&consul("a")].endpoints), std::time::UNIX_EPOCH);
    let (sources, why) = ([(consul("a").to_string(), known)].into(), Some("its counter went back".into()));
    let saved = SavedState { sources, disbelieved: why, ..SavedState::default() };
    let restarted = || Told::with([(ProviderId::Consul, saved.clone())].into());
    let mut told = restarted();
    told.shows("a", "");
    assert_eq!(told.served("a"), "[0.1] [0.2]");
    assert_eq!(told.holds(ProviderId::Consul).len(), 1);
    told.shows("a", "10.0.0.1:80");
    assert_eq!(told.served("a"), "0.1 [0.2]");
    told.passes(HOLD);
    assert_eq!(told.served("a"), "0.1", "it has its time");
    // Filled meanwhile, it is believed.
    let mut told = restarted();
    told.shows("a", &lines(0, 2));
    told.shows("a", "10.0.0.1:80");
    assert_eq!(told.served("a"), "0.1");
}

/// What its watch kept for a while is remembered longer than the move.
#[test]
fn what_moved_before_all_was_lost_is_not_held_for_whom_it_left() {
    let mut told = Told::new();
    for (service, network) in [("b", 1), ("c", 2)] {
        told.shows(service, &lines(network, 5));
    }
    told.shows("a", &lines(0, 4));
    told.shows("d", "");
    told.passes(60 * SECOND);
    told.shows("d", "10.0.0.4:80");
    told.keeps("a", &lines(0, 3), &["10.0.0.4:80"]);
    for _ in 0..4 {
        told.passes(SECOND);
    }
    told.shows("a", &lines(0, 3));
    for _ in 0..8 {
        told.passes(SECOND);
    }
    for service in ["a", "b", "c", "d"] {
        told.shows(service, "");
    }
    told.passes(SECOND);
    assert_eq!(told.served("b"), "[1.1] [1.2] [1.3] [1.4] [1.5]");
    told.shows("d", "10.0.0.4:80");
    told.passes(SECOND);
    assert!(!told.served("a").contains("0.4"), "{}", told.served("a"));
    assert_eq!(told.served("d"), "0.4");
}

#[test]
fn a_registry_that_fills_again_ends_its_holds() {
    let mut told = Told::fleet(&["a"], 2);
    told.goes_back();
    told.shows("a", "");
    told.shows("a", &lines(0, 2));
    assert_eq!(told.served("a"), "0.1 0.2");
    told.shows("a", "");
    assert_eq!(told.served("a"), "", "what goes later goes as ever");
}

#[test]
fn an_operator_ends_a_hold_and_documents_are_held_too() {
    let mut told = Told::fleet(&["a"], 2);
    told.world
        .documents(ProviderId::ConsulKv, "[upstreams.u]\nendpoints = []\n[routes.r]\nmatch = {}\nupstream = \"u\"");
    told.guard.take(ProviderId::ConsulKv, Arc::clone(&told.world.states[&ProviderId::ConsulKv]), told.now);
    told.passes(60 * SECOND);
    told.goes_back();
    told.shows("a", "");
    told.world.documents(ProviderId::ConsulKv, "");
    told.guard.take(ProviderId::ConsulKv, Arc::clone(&told.world.states[&ProviderId::ConsulKv]), told.now);
    told.passes(SECOND);
    let documents = |told: &Told| {
        let state = &told.guard.served()[&ProviderId::ConsulKv];
        let documents = state.documents.as_ref().expect("documents");
        (documents.routes.len(), documents.upstreams.len(), state.held())
    };
    assert_eq!(documents(&told), (1, 1, 2));
    let World { rules, overlay, .. } = &told.world;
    let merged = super::super::merge::merge(told.guard.served(), rules, overlay, &mut Default::default());
    let of_kv = merged.report.held.iter().filter(|(provider, _)| *provider == ProviderId::ConsulKv);
    let held: Vec<_> = of_kv.map(|(_, problem)| problem.to_string()).collect();
    assert_eq!(held.len(), 2, "{held:?}");
    assert!(held[1].contains("routes.r is held") && held[1].contains("fleetgate accept routes/r"), "{held:?}");

    let named = |told: &Told, name: &str| told.holds(ProviderId::ConsulKv).into_iter().find(|hold| hold.id == name);
    let route = named(&told, "routes/r").expect("a hold");
    assert!(told.guard.release(&route, told.now) && !told.guard.release(&route, told.now));
    told.passes(Duration::ZERO);
    assert_eq!(documents(&told), (0, 1, 1), "one document is accepted, the other one stays");
    assert_eq!(told.served("a"), "[0.1] [0.2]", "and so does what nobody named");
    assert_eq!(told.accepts(ProviderId::ConsulKv), 1);
    assert_eq!(documents(&told), (0, 0, 0));
    assert_eq!((told.accepts(ProviderId::Consul), told.served("a")), (1, String::new()));
    assert_eq!(told.accepts(ProviderId::Consul), 0);
}

#[test]
fn many_pools_that_lose_most_at_once_are_held_and_no_request_meets_the_gap() {
    let mut told = Told::fleet(&["a", "b", "c", "d"], 4);
    told.shows("a", "");
    assert_eq!(told.served("a"), "0.1 0.2 0.3 0.4", "it waits a moment for others");
    told.passes(SECOND / 4);
    told.shows("b", "10.0.1.1:80");
    assert_eq!(told.served("b"), "1.1 1.2 1.3 1.4");
    told.shows("c", "");
    assert_eq!(told.served("a"), "[0.1] [0.2] [0.3] [0.4]");
    assert_eq!(told.served("b"), "1.1 [1.2] [1.3] [1.4]");
    assert_eq!(told.served("d"), "3.1 3.2 3.3 3.4");
    // It was never empty, so its time runs.
    told.passes(HOLD);
    assert_eq!((told.served("a"), told.served("b")), (String::new(), "1.1".into()));
}

#[test]
fn losses_that_come_one_after_the_other_are_brought_back() {
    let mut told = Told::fleet(&["a", "b", "c"], 4);
    for (service, after) in [("a", 0), ("b", 4), ("c", 4)] {
        told.passes(after * SECOND);
        told.shows(service, "");
    }
    assert_eq!(told.served("a"), "[0.1] [0.2] [0.3] [0.4]");
    let mut told = Told::fleet(&["a", "b", "c"], 4);
    for service in ["a", "b", "c"] {
        told.passes(6 * SECOND);
        told.shows(service, "");
    }
    told.passes(SECOND);
    assert_eq!(told.served("a") + &told.served("b") + &told.served("c"), "", "these are not at once");
}

#[test]
fn a_real_scale_to_zero_takes_half_a_second_at_most() {
    let mut told = Told::fleet(&["a", "b", "c"], 4);
    told.shows("a", "");
    told.passes(GATHER);
    assert_eq!(told.served("a"), "");
    // Too small a fleet to lose much, and a small loss: nothing waits.
    let mut told = Told::fleet(&["a", "b"], 4);
    told.shows("a", "");
    assert_eq!(told.served("a"), "");
    let mut told = Told::fleet(&["a", "b", "c"], 4);
    told.shows("a", "10.0.0.1:80\n10.0.0.2:80");
    assert_eq!(told.served("a"), "0.1 0.2");
    // New ones for old ones, everywhere.
    for (number, service) in ["a", "b", "c"].into_iter().enumerate() {
        told.shows(service, &lines(number + 10, 4));
    }
    assert_eq!(told.served("c"), "12.1 12.2 12.3 12.4");
}

#[test]
fn the_saved_state_serves_until_the_registry_answers_and_counts_as_known() {
    let endpoints = |network| {
        let mut world = World::new();
        world.source(&consul("x"), &lines(network, 4));
        Arc::clone(&world.states[&ProviderId::Consul].sources[&consul("x")].endpoints)
    };
    let at = std::time::SystemTime::UNIX_EPOCH;
    let sources = ["a", "b", "c"].iter().zip(0..).map(|(name, at_)| (format!("consul:{name}"), (endpoints(at_), at)));
    let saved = SavedState { sources: sources.collect(), ..SavedState::default() };
    let mut told = Told::with([(ProviderId::Consul, saved)].into());
    told.take(ProviderId::Consul);
    assert_eq!(told.served("a"), "unknown", "registries have a moment to answer");
    assert_eq!(told.guard.due(), Some(told.now + SAVED_AFTER));
    told.passes(SAVED_AFTER);
    assert_eq!(told.served("a"), "0.1 0.2 0.3 0.4");
    assert_eq!(told.guard.due(), None);
    assert_eq!(told.guard.served()[&ProviderId::Consul].sources[&consul("a")].origin, Origin::Saved(at));
    told.shows("a", "10.0.0.1:80\n10.0.0.2:80\n10.0.0.3:80");
    assert_eq!(told.served("a"), "0.1 0.2 0.3");
    // Of an earlier process' knowledge this is a wipe like any other.
    told.goes_back();
    told.shows("b", "");
    assert_eq!(told.served("b"), "[1.1] [1.2] [1.3] [1.4]");
    assert_eq!(told.served("c"), "2.1 2.2 2.3 2.4");
}

#[test]
fn what_was_saved_serves_at_once_where_the_registry_does_not_answer() {
    let mut world = World::new();
    world.source(&consul("x"), &lines(0, 2));
    let endpoints = Arc::clone(&world.states[&ProviderId::Consul].sources[&consul("x")].endpoints);
    let sources = [("consul:a".to_owned(), (endpoints, std::time::SystemTime::UNIX_EPOCH))].into();
    let mut told = Told::with([(ProviderId::Consul, SavedState { sources, ..SavedState::default() })].into());
    told.take(ProviderId::Consul);
    assert_eq!(told.served("a"), "unknown");
    told.guard.note_failed(&[ProviderId::ConsulKv].into());
    told.passes(Duration::ZERO);
    assert_eq!(told.served("a"), "unknown", "another provider failed");
    told.guard.note_failed(&[ProviderId::Consul].into());
    told.passes(Duration::ZERO);
    assert_eq!(told.served("a"), "0.1 0.2");
}

#[test]
fn optional_documents_may_be_missing_once_their_registry_had_its_time() {
    let optional = [ProviderId::ConsulKv].into();
    let unread = |guard: &Guard| {
        let missing = |id| guard.served().get(&id).is_some_and(|state| state.kept.documents_may_be_missing);
        (missing(ProviderId::ConsulKv), missing(ProviderId::Etcd))
    };
    let mut told = Told::with(BTreeMap::new());
    told.guard = Guard::new(Some(HOLD), true, BTreeMap::new(), told.now).with_optional(optional);
    told.take(ProviderId::ConsulKv);
    told.take(ProviderId::Etcd);
    assert_eq!(unread(&told.guard), (false, false));
    told.passes(SAVED_AFTER);
    assert_eq!(unread(&told.guard), (true, false), "etcd is not optional");
}

#[test]
fn what_a_registry_that_went_back_lists_as_before_is_its_word() {
    let mut told = Told::fleet(&["a", "b"], 3);
    told.goes_back();
    told.lists_again("a");
    told.shows("a", &lines(0, 2));
    assert_eq!(told.served("a"), "0.1 0.2");
    told.shows("b", &lines(1, 2));
    assert_eq!(told.served("b"), "1.1 1.2 [1.3]", "nobody has listed it since");
    told.passes(HOLD);
    assert_eq!(told.served("b"), "1.1 1.2");
}

#[test]
fn what_is_lost_right_after_an_operator_accepted_is_held_until_it_is_accepted_too() {
    let mut told = Told::fleet(&["a", "b"], 2);
    told.goes_back();
    told.shows("a", "10.0.0.1:80");
    assert_eq!(told.accepts(ProviderId::Consul), 1);
    assert_eq!(told.served("a"), "0.1");
    told.passes(SECOND);
    // Another watch notices the same wipe.
    told.goes_back();
    told.shows("b", "");
    assert_eq!(told.served("b"), "[1.1] [1.2]", "nobody has seen that");
    told.passes(HOLD - SECOND);
    assert_eq!(told.served("b"), "[1.1] [1.2]", "and it has its full time");
    assert_eq!((told.accepts(ProviderId::Consul), told.served("b")), (1, String::new()));
    told.shows("b", &lines(1, 2));
    told.passes(AFTERMATH);
    told.shows("b", "10.0.1.1:80");
    assert_eq!(told.served("b"), "1.1", "a registry that lost nothing more is believed");
}

#[test]
fn pools_that_go_on_vanishing_after_an_operator_accepted_some_are_held() {
    let mut told = Told::fleet(&["a", "b", "c", "d"], 4);
    for service in ["a", "b", "c"] {
        told.shows(service, "");
    }
    let one = told.holds(ProviderId::Consul).into_iter().find(|hold| hold.id == "consul:a").expect("a hold");
    assert!(told.guard.release(&one, told.now));
    told.passes(Duration::ZERO);
    assert_eq!((told.served("a"), told.served("b")), (String::new(), "[1.1] [1.2] [1.3] [1.4]".into()));
    assert_eq!(told.accepts(ProviderId::Consul), 2);
    told.passes(SECOND);
    told.shows("d", "");
    assert_eq!(told.served("d"), "[3.1] [3.2] [3.3] [3.4]");
    told.shows("d", &lines(3, 4));
    told.passes(HOLD);
    told.shows("d", "");
    told.passes(GATHER);
    assert_eq!(told.served("d"), "", "that is another time");
}

#[test]
fn a_watch_that_notices_late_prolongs_a_hold_and_no_hold_is_for_ever() {
    let mut told = Told::fleet(&["a", "b"], 3);
    told.goes_back();
    told.shows("a", &lines(0, 2));
    told.passes(HOLD - SECOND);
    // Of another watch, which has nothing to list.
    told.goes_back();
    told.passes(HOLD - SECOND);
    assert_eq!(told.served("a"), "0.1 0.2 [0.3]");
    told.passes(SECOND);
    assert_eq!(told.served("a"), "0.1 0.2");
    // Wiped while the time of an earlier wipe runs.
    told.goes_back();
    told.shows("a", "10.0.0.1:80");
    told.goes_back();
    told.shows("a", "");
    told.shows("b", "");
    told.passes(24 * 3600 * SECOND);
    assert_eq!(told.served("a"), "[0.1] [0.2]");
    told.shows("b", &lines(1, 3));
    told.passes(HOLD);
    assert_eq!((told.served("a"), told.served("b")), (String::new(), "1.1 1.2 1.3".into()));
}

#[test]
fn a_held_address_goes_when_another_service_lists_it() {
    let mut told = Told::fleet(&["a", "b", "c"], 4);
    for service in ["a", "b", "c"] {
        told.shows(service, "");
    }
    assert_eq!(told.served("a"), "[0.1] [0.2] [0.3] [0.4]");
    // The addresses are dealt in another order.
    told.passes(2 * SECOND);
    told.shows("b", "10.0.0.1:80\n10.0.0.2:80");
    assert_eq!((told.served("a"), told.served("b")), ("[0.3] [0.4]".into(), "0.1 0.2 [1.1] [1.2] [1.3] [1.4]".into()));
    assert_eq!(told.releases(), "0.1 a b, 0.2 a b");
    // To a service that nobody read before; and another port is another address.
    told.shows("d", "10.0.0.3:80\n10.0.0.4:81");
    assert_eq!((told.served("a"), told.served("d")), ("[0.4]".into(), "0.3 0.4:81".into()));
    assert_eq!(told.releases(), "0.3 a d");
    told.passes(Duration::from_secs(60));
    assert_eq!(told.served("a"), "[0.4]");

    // It returns to its old service, while the other one loses it.
    told.goes_back();
    told.shows("a", "10.0.0.1:80");
    assert_eq!((told.served("a"), told.served("b")), ("0.1 [0.4]".into(), "0.2 [1.1] [1.2] [1.3] [1.4]".into()));
    told.shows("b", "");
    assert_eq!(told.served("b"), "[0.2] [1.1] [1.2] [1.3] [1.4]");
    // And once more.
    told.passes(2 * SECOND);
    told.goes_back();
    told.shows("b", "10.0.0.1:80");
    assert_eq!((told.served("a"), told.served("b")), ("[0.4]".into(), "0.1 [0.2] [1.1] [1.2] [1.3] [1.4]".into()));
    told.accepts(ProviderId::Consul);
    told.passes(Duration::ZERO);
    let both = |told: &Told| (told.served("a"), told.served("b"));
    assert_eq!(both(&told), (String::new(), "0.1".into()), "nobody has read it of `a` since the registry went back");
    told.lists_again("a");
    assert_eq!(both(&told), ("0.1".into(), "0.1".into()), "the registry is taken at its word");
}

#[test]
fn an_address_that_services_shared_before_the_loss_stays_held() {
    let mut told = Told::new();
    told.shows("a", "10.0.0.1:80\n10.0.0.2:80");
    told.shows("b", "10.0.0.1:80");
    told.passes(60 * SECOND);
    told.shows("c", "10.0.0.1:80");
    told.passes(2 * SECOND);
    told.goes_back();
    for service in ["a", "b", "c"] {
        told.shows(service, "");
    }
    let all = |told: &Told| ["a", "b", "c"].map(|service| told.served(service)).join(" / ");
    assert_eq!(all(&told), "[0.1] [0.2] / [0.1] / [0.1]");
    told.passes(5 * SECOND);
    told.shows("b", "10.0.0.1:80");
    told.shows("c", "10.0.0.1:80");
    assert_eq!(all(&told), "[0.1] [0.2] / 0.1 / 0.1");
    assert_eq!(told.releases(), "");
}

#[test]
fn what_only_a_watch_keeps_goes_too_and_is_not_listed() {
    let mut told = Told::fleet(&["a", "b"], 2);
    told.keeps("a", "10.0.0.1:80", &["10.0.0.2:80"]);
    // A watch keeps what it does not see: that is no word on whose it is.
    told.keeps("b", "10.0.1.1:80", &["10.0.1.2:80"]);
    told.passes(5 * SECOND);
    told.shows("c", "10.0.0.2:80");
    assert_eq!((told.served("a"), told.served("c")), ("0.1".into(), "0.2".into()));
    assert_eq!(told.releases(), "0.2 a c");
    let state = &told.guard.served()[&ProviderId::Consul];
    assert_eq!(state.sources[&consul("a")].origin, Origin::Live, "nothing else of it is held");
    // Its own read says that it is back.
    told.shows("a", "10.0.0.1:80\n10.0.0.2:80");
    assert_eq!((told.served("a"), told.served("c")), ("0.1 0.2".into(), "0.2".into()));
}

#[test]
fn what_a_watch_keeps_while_it_reads_again_is_not_listed_again() {
    let mut told = Told::fleet(&["a"], 2);
    told.goes_back();
    told.waits("a", "10.0.0.1:80", &["10.0.0.2:80"]);
    assert_eq!(told.served("a"), "0.1 0.2");
    told.shows("a", "10.0.0.1:80");
    assert_eq!(told.served("a"), "0.1 [0.2]", "the registry that went back never listed it");
}

#[test]
fn a_loss_that_is_noticed_after_the_gain_is_a_move_but_what_both_list_is_not() {
    let mut told = Told::fleet(&["a", "b"], 2);
    told.shows("b", "10.0.1.1:80\n10.0.0.1:80");
    assert_eq!(told.served("a"), "0.1 0.2", "the registry lists it for both");
    told.passes(SECOND / 2);
    told.keeps("a", "10.0.0.2:80", &["10.0.0.1:80"]);
    assert_eq!((told.served("a"), told.releases().as_str()), ("0.2".into(), "0.1 a b"));
}

#[test]
fn a_saved_address_goes_when_another_service_lists_it() {
    let at = std::time::SystemTime::UNIX_EPOCH;
    let saved = |lines: &str| {
        let mut world = World::new();
        world.source(&consul("x"), lines);
        (Arc::clone(&world.states[&ProviderId::Consul].sources[&consul("x")].endpoints), at)
    };
    let sources = [("a", lines(0, 3)), ("b", lines(1, 1)), ("c", "10.0.0.3:80".to_owned())];
    let sources = sources.into_iter().map(|(name, lines)| (format!("consul:{name}"), saved(&lines))).collect();
    let mut told = Told::with([(ProviderId::Consul, SavedState { sources, ..SavedState::default() })].into());
    told.take(ProviderId::Consul);
    told.passes(SAVED_AFTER);
    assert_eq!((told.served("a"), told.served("c")), ("0.1 0.2 0.3".into(), "0.3".into()));
    told.shows("b", "10.0.0.1:80");
    told.shows("c", "10.0.0.3:80");
    told.shows("d", "10.0.0.2:80");
    assert_eq!(told.served("a"), "0.3", "`c` had the last one, too");
    assert_eq!(told.releases(), "0.1 a b, 0.2 a d");
    let state = &told.guard.served()[&ProviderId::Consul];
    assert_eq!(state.kept.released[&consul("a")].len(), 2);
    told.shows("a", "10.0.0.1:80");
    assert_eq!(told.served("a"), "0.1");
}

proptest! {
    /// Addresses that belong to one service at a time come, go and move, while the registry is wiped, loses much at once
    /// and watches keep what they do not see: nobody serves what belongs to another service, everybody what is his.
    #[test]
    fn a_held_address_is_never_another_services(
        steps in proptest::collection::vec((0usize..8, 0usize..5, 0u8..8, any::<bool>(), 0u32..8), 1..60)
    ) {
        const NOBODY: usize = 4;
        let services = ["a", "b", "c", "d"];
        let mut told = Told::new();
        let mut owners = [NOBODY; 8];
        let line = |address: usize| format!("10.0.0.{address}:80");
        let lines = |owners: &[usize; 8], service: usize| -> String {
            (0..8).filter(|address| owners[*address] == service).map(|address| line(address) + "\n").collect()
        };
        for service in services {
            told.shows(service, "");
        }
        for (address, to, how, loser_first, seconds) in steps {
            told.passes(seconds * SECOND);
            let from = std::mem::replace(&mut owners[address], to);
            let mut readers = vec![to, from];
            match how {
                0 => told.goes_back(),
                1 => _ = told.accepts(ProviderId::Consul),
                2 => {
                    // All of them lose all.
                    owners = [NOBODY; 8];
                    readers.extend(0..4);
                }
                _ => {}
            }
            if loser_first {
                readers.reverse();
            }
            for reader in readers.into_iter().filter(|reader| *reader != NOBODY) {
                let lines = lines(&owners, reader);
                match how {
                    3 if reader == from && from != to => told.keeps(services[reader], &lines, &[&line(address)]),
                    _ => told.shows(services[reader], &lines),
                }
                told.passes(SECOND / 10);
            }
            let state = &told.guard.served()[&ProviderId::Consul];
            for (at, service) in services.iter().enumerate() {
                let served = |address| {
                    let line = line(address);
                    state.sources[&consul(service)].endpoints.iter().any(|endpoint| endpoint.address.to_string() == line)
                };
                for (address, owner) in owners.iter().enumerate() {
                    prop_assert!(*owner != at || served(address), "{service} does not serve its {address}");
                    let other = *owner != at && *owner != NOBODY;
                    prop_assert!(!other || !served(address), "{service} serves {address} of {owner}");
                }
            }
        }
    }

    /// Whatever is shown: what the registry lists is served as it says, only what it had listed is served beside
    /// it, and at rest nothing is.
    #[test]
    fn the_registrys_word_always_flows(
        steps in proptest::collection::vec((0usize..4, 0usize..6, any::<bool>(), 0u32..8), 1..40)
    ) {
        let services = ["a", "b", "c", "d"];
        let mut told = Told::fleet(&services, 5);
        let mut last = [5; 4];
        for (service, endpoints, back, seconds) in steps {
            told.passes(seconds * SECOND);
            if back && endpoints == 0 {
                told.goes_back();
            }
            told.shows(services[service], &lines(service, endpoints));
            last[service] = endpoints;
            let state = &told.guard.served()[&ProviderId::Consul];
            for (at, service) in services.iter().enumerate() {
                let known = &state.sources[&consul(service)];
                prop_assert!(known.endpoints.len() >= last[at] && known.endpoints.len() <= 5);
                let raw = &told.world.states[&ProviderId::Consul].sources[&consul(service)];
                prop_assert!(raw.endpoints.iter().all(|endpoint| known.endpoints.contains(endpoint)));
            }
        }
        told.accepts(ProviderId::Consul);
        told.passes(GATHER);
        for (at, service) in services.iter().enumerate() {
            let state = &told.guard.served()[&ProviderId::Consul];
            prop_assert_eq!(state.sources[&consul(service)].endpoints.len(), last[at]);
            prop_assert_eq!(state.held(), 0);
        }
    }
}
