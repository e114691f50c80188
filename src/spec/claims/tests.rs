//! Gateways that share claims in a registry, step by step and at random.

use proptest::prelude::*;

use super::*;

const TTL: u64 = 1_000;

fn asking(asked: &[(&str, &[(&str, u64)])]) -> BTreeMap<Arc<str>, Vec<Asking>> {
    let of = |(service, created): &(&str, u64)| Asking {
        service: (*service).into(),
        created: *created,
        is_registered: true,
        is_blocked: false,
    };
    asked.iter().map(|(place, services)| ((*place).into(), services.iter().map(of).collect())).collect()
}

/// The same, where one service asks for something wrong.
fn blocked(mut asked: BTreeMap<Arc<str>, Vec<Asking>>, service: &str) -> BTreeMap<Arc<str>, Vec<Asking>> {
    let all = asked.values_mut().flatten();
    all.filter(|asking| &*asking.service == service).for_each(|asking| asking.is_blocked = true);
    asked
}

#[test]
fn what_is_blocked_keeps_its_claim_and_makes_none() {
    let both = asking(&[("/a", &[("old", 1), ("new", 2)])]);
    let mut known = ClaimBook::default();
    known.observe(&both, 100);
    known.observe(&blocked(both.clone(), "old"), 200);
    assert_eq!((order_of(&known, "/a"), known.releases_at(TTL)), (vec!["old".to_owned(), "new".to_owned()], None));
    let mut unknown = ClaimBook::default();
    unknown.observe(&blocked(both.clone(), "old"), 100);
    assert_eq!(order_of(&unknown, "/a"), [""; 0], "the younger one does not overtake it");
    unknown.observe(&blocked(both.clone(), "new"), 100);
    assert_eq!(order_of(&unknown, "/a"), ["old"]);
    unknown.observe(&both, 100);
    assert_eq!(order_of(&unknown, "/a"), ["old", "new"]);
}

fn order_of(book: &ClaimBook, place: &str) -> Vec<String> {
    book.places
        .get(place)
        .map(|entry| entry.claims.iter().map(|claim| claim.service.to_string()).collect())
        .unwrap_or_default()
}

/// A registry, and gateways that look at it in turn.
#[derive(Clone, Debug, Default)]
struct Fleet {
    registry: BTreeMap<Arc<str>, SharedPlace>,
    gateways: Vec<ClaimBook>,
    now: u64,
}

impl Fleet {
    fn of(gateways: usize) -> Self {
        Self { gateways: vec![ClaimBook::default(); gateways], now: 100, ..Self::default() }
    }

    /// A gateway sees the registrations, reads the registry, and writes.
    fn turn(&mut self, gateway: usize, asked: &BTreeMap<Arc<str>, Vec<Asking>>) {
        self.now += 1;
        let book = &mut self.gateways[gateway];
        book.observe(asked, self.now);
        let mut merged = book.merge(&self.registry, self.now, TTL);
        let wanted: BTreeMap<Arc<str>, SharedPlace> =
            merged.shared().map(|shared| (Arc::clone(&shared.place), shared)).collect();
        for place in wanted.keys() {
            merged.agree(place);
        }
        self.registry = wanted;
        *book = merged.with_news(book);
    }

    fn all(&mut self, asked: &BTreeMap<Arc<str>, Vec<Asking>>) {
        // Twice: the first one learns of what the last one wrote.
        for gateway in (0..self.gateways.len()).chain(0..self.gateways.len()) {
            self.turn(gateway, asked);
        }
    }
}

#[test]
fn the_first_claim_stays_through_redeploys_restarts_and_wipes() {
    let mut fleet = Fleet::of(2);
    fleet.all(&asking(&[("shop/", &[("web", 7)])]));
    let both = asking(&[("shop/", &[("web", 90), ("evil", 8)])]);
    fleet.all(&both);
    for gateway in &fleet.gateways {
        assert_eq!(order_of(gateway, "shop/"), ["web", "evil"], "a redeploy costs nothing");
    }
    // A gateway that remembers nothing reads it.
    fleet.gateways.push(ClaimBook::default());
    fleet.turn(2, &both);
    assert_eq!(order_of(&fleet.gateways[2], "shop/"), ["web", "evil"]);
    // A wiped registry, and the first to look remembers nothing.
    fleet.registry.clear();
    fleet.gateways[2] = ClaimBook::default();
    fleet.turn(2, &both);
    assert_eq!(order_of(&fleet.gateways[2], "shop/"), ["evil", "web"], "by the age of instances");
    fleet.all(&both);
    for gateway in &fleet.gateways {
        assert_eq!(order_of(gateway, "shop/"), ["web", "evil"]);
    }
}

#[test]
fn a_claim_is_released_when_its_time_is_over() {
    let mut fleet = Fleet::of(2);
    fleet.all(&asking(&[("shop/", &[("v1", 1), ("v2", 2)])]));
    let alone = asking(&[("shop/", &[("v2", 2)])]);
    fleet.all(&alone);
    assert_eq!(order_of(&fleet.gateways[0], "shop/"), ["v1", "v2"]);
    fleet.now += TTL / 2;
    fleet.all(&asking(&[("shop/", &[("v1", 50), ("v2", 2)])]));
    assert_eq!(order_of(&fleet.gateways[0], "shop/"), ["v1", "v2"], "back in time");
    fleet.all(&alone);
    fleet.now += TTL;
    fleet.all(&alone);
    let back = asking(&[("shop/", &[("v1", 60), ("v2", 2)])]);
    fleet.all(&back);
    for gateway in &fleet.gateways {
        assert_eq!(order_of(gateway, "shop/"), ["v2", "v1"]);
    }
    fleet.all(&asking(&[]));
    fleet.now += TTL;
    fleet.all(&asking(&[]));
    assert!(fleet.registry.is_empty() && fleet.gateways.iter().all(ClaimBook::is_empty));
}

#[test]
fn what_is_not_a_claim_is_told_and_not_used() {
    let good = r#"{"place":"shop/","claims":[{"service":"web","since":2},{"service":"a","since":1},{"service":"a","since":9}]}"#;
    let key = place_key("shop/");
    let read = SharedPlace::read(&key, good).expect("a claim");
    let services: Vec<&str> = read.claims.iter().map(|claim| &*claim.service).collect();
    assert_eq!(services, ["a", "web"]);
    let long = format!(r#"{{"place":"shop/","claims":[],"x":"{}"}}"#, "x".repeat(MAX_VALUE));
    for bad in ["", "{", "[]", "null", "\u{fffd}", r#"{"place":"shop/"}"#, r#"{"place":"bank/","claims":[]}"#, &long] {
        assert!(SharedPlace::read(&key, bad).is_err(), "{}", &bad[..bad.len().min(60)]);
    }
    let many: Vec<String> = (0..100).map(|n| format!(r#"{{"service":"s{n}","since":{n}}}"#)).collect();
    let many = format!(r#"{{"place":"shop/","claims":[{}]}}"#, many.join(","));
    assert_eq!(SharedPlace::read(&key, &many).expect("claims").claims.len(), MAX_CLAIMS);
}

#[derive(Clone, Debug)]
enum Step {
    /// A service registers, or registers anew.
    Register(usize),
    Deregister(usize),
    /// A gateway looks.
    Turn(usize),
    Restart(usize),
    /// A gateway starts that remembers nothing.
    Renew(usize),
    Wipe,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..4).prop_map(Step::Register),
        2 => (0usize..4).prop_map(Step::Deregister),
        6 => (0usize..3).prop_map(Step::Turn),
        1 => (0usize..3).prop_map(Step::Restart),
        1 => (1usize..3).prop_map(Step::Renew),
        1 => Just(Step::Wipe),
    ]
}

proptest! {
    /// However services, gateways and wipes come and go: once all have looked, all say the same; and who was first on a
    /// gateway that remembers, and never left for long, still is.
    #[test]
    fn all_gateways_come_to_one_answer(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut fleet = Fleet::of(3);
        let mut registered: BTreeMap<usize, u64> = BTreeMap::new();
        let asked = |registered: &BTreeMap<usize, u64>| {
            let services = registered.iter().map(|(service, created)| Asking {
                service: format!("s{service}").into(),
                created: *created,
                is_registered: true,
                is_blocked: false,
            });
            BTreeMap::from([(Arc::<str>::from("shop/"), services.collect::<Vec<_>>())])
        };
        let mut created = 0;
        let mut first: Option<u64> = None;
        for step in steps {
            created += 1;
            match step {
                Step::Register(service) => drop(registered.insert(service, created)),
                Step::Deregister(service) => drop(registered.remove(&service)),
                Step::Turn(gateway) => fleet.turn(gateway, &asked(&registered)),
                Step::Restart(gateway) => {
                    let saved = serde_json::to_string(&fleet.gateways[gateway]).expect("JSON");
                    fleet.gateways[gateway] = serde_json::from_str(&saved).expect("a book");
                }
                Step::Renew(gateway) => fleet.gateways[gateway] = ClaimBook::default(),
                Step::Wipe => fleet.registry.clear(),
            }
            // The first gateway never forgets, and no claim's time is ever over here: only an older one goes before.
            let claims = fleet.gateways[0].places.get("shop/").map(|entry| entry.claims.clone()).unwrap_or_default();
            let now = claims.first().map(|claim| claim.since);
            prop_assert!(first.is_none() || now <= first && now.is_some(), "{first:?} {now:?}");
            first = now;
        }
        let asked = asked(&registered);
        fleet.all(&asked);
        fleet.all(&asked);
        let answer = order_of(&fleet.gateways[0], "shop/");
        for gateway in &fleet.gateways {
            prop_assert_eq!(&order_of(gateway, "shop/"), &answer);
        }
        let before = fleet.registry.clone();
        fleet.all(&asked);
        prop_assert_eq!(before, fleet.registry, "and nobody writes any more");
    }
}
