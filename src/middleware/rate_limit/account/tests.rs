//! Gateways that share a ledger, in a time of their own. The ledger does here what the script does in Redis.

use proptest::prelude::*;

use super::super::gcra::Decision;
use super::super::table::Table;
use super::*;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// A key of a limit, at some gateways.
struct Fleet {
    terms: Terms,
    now: u64,
    accounts: Vec<Account>,
    /// When each gateway asks next.
    due: Vec<u64>,
    /// The ledger's arrival time.
    arrival: u64,
    passed: Vec<u64>,
}

impl Fleet {
    fn new(gateways: u32, gcra: Gcra) -> Self {
        let terms = Terms { gcra, gateways, session: 1, without: Without::Share };
        let accounts = vec![Account::of(7); gateways as usize];
        let (due, passed) = (vec![u64::MAX; gateways as usize], vec![0; gateways as usize]);
        Self { terms, now: SECOND, accounts, due, arrival: 0, passed }
    }

    fn request(&mut self, gateway: usize) -> bool {
        let account = &mut self.accounts[gateway];
        if account.is_free(self.now) {
            *account = Account::of(7);
        }
        let taken = account.take(self.terms, true, self.now);
        let at = self.now + if taken.urgent { 2 * MILLISECOND } else { 100 * MILLISECOND };
        if taken.listed || taken.urgent {
            self.due[gateway] = self.due[gateway].min(at);
        }
        let passes = matches!(taken.told.decision, Decision::Passes { .. });
        self.passed[gateway] += u64::from(passes);
        passes
    }

    /// Time goes by, and who has a question asks.
    fn pass(&mut self, time: u64) {
        self.now += time;
        for gateway in 0..self.accounts.len() {
            if self.due[gateway] <= self.now && self.terms.session != 0 {
                self.settle(gateway);
            }
        }
    }

    fn settle(&mut self, gateway: usize) {
        let (account, gcra) = (&mut self.accounts[gateway], self.terms.gcra);
        let Some(ask) = account.ask(self.terms, self.now) else {
            self.due[gateway] = u64::MAX;
            return;
        };
        let charged = i128::from(self.arrival.max(self.now)) + i128::from(ask.charge) * i128::from(gcra.interval());
        let arrival = u64::try_from(charged).unwrap_or(0).max(self.now);
        let granted = u64::from(ask.want).min(gcra.left(arrival, self.now)) as u32;
        self.arrival = gcra.after(arrival, u64::from(granted), self.now);
        let answer = Answer { granted, ahead: self.arrival - self.now };
        account.answer(answer, self.terms.session, self.now);
        self.due[gateway] = self.now + 100 * MILLISECOND;
    }

    fn all(&self) -> u64 {
        self.passed.iter().sum()
    }

    /// So many requests a second come, spread over the gateways by these parts, for so long.
    fn load(&mut self, rate: u64, parts: &[u64], time: u64) -> u64 {
        let (before, end) = (self.all(), self.now + time);
        let mut turn = 0;
        while self.now < end {
            let mut point = turn % parts.iter().sum::<u64>();
            let gateway = parts.iter().position(|part| {
                let here = point < *part;
                point = point.saturating_sub(*part);
                here
            });
            self.request(gateway.expect("one"));
            turn += 1;
            self.pass(SECOND / rate);
        }
        self.all() - before
    }
}

fn is_near(value: u64, wanted: u64, percent: u64) -> bool {
    value.abs_diff(wanted) * 100 <= wanted * percent
}

#[test]
fn the_fleet_holds_one_limit_however_requests_are_spread() {
    for parts in [&[1, 1, 1][..], &[1, 2, 7], &[1, 0, 0]] {
        let mut fleet = Fleet::new(3, Gcra::new(SECOND / 1000, 500));
        let first = fleet.load(5000, parts, 5 * SECOND);
        assert!(is_near(first, 5500, 2), "{first} of 5500, {parts:?}");
        let then = fleet.load(5000, parts, 10 * SECOND);
        assert!(is_near(then, 10_000, 2), "{then} of 10000, {parts:?}");
    }
}

#[test]
fn what_stays_below_the_limit_is_never_refused() {
    for (rate, parts) in [(900, &[1, 1, 1][..]), (700, &[1, 0, 8]), (990, &[1, 0, 0]), (3, &[1, 1, 1])] {
        let mut fleet = Fleet::new(3, Gcra::new(SECOND / 1000, 500));
        let passed = fleet.load(rate, parts, 20 * SECOND);
        assert!(passed >= 20 * rate, "{passed} of {}, {parts:?}", 20 * rate);
    }
    // A page with many images, again and again, at whatever gateway.
    let mut fleet = Fleet::new(3, Gcra::new(SECOND / 100, 100));
    for page in 0..20 {
        for _ in 0..40 {
            assert!(fleet.request(page % 3), "page {page}");
        }
        for _ in 0..1000 {
            fleet.pass(MILLISECOND);
        }
    }
}

/// Requests at another gateway than before, sooner than it can know.
#[test]
fn who_comes_to_all_gateways_at_once_pays_for_it() {
    let mut fleet = Fleet::new(3, Gcra::new(SECOND, 5));
    let burst = (0..30).filter(|turn| fleet.request(turn % 3)).count();
    assert_eq!(burst, 15, "nobody knows of the others yet");
    fleet.pass(3 * MILLISECOND);
    // Ten too many passed, which are paid back before the next passes.
    for _ in 0..100 {
        fleet.pass(100 * MILLISECOND);
        assert!(!fleet.request(0) && !fleet.request(1) && !fleet.request(2), "after {}", fleet.now - SECOND);
    }
    fleet.load(50, &[1, 1, 1], 60 * SECOND);
    assert!(is_near(fleet.all(), 5 + 70, 3), "{}", fleet.all());
}

#[test]
fn without_the_ledger_each_has_its_share() {
    let mut fleet = Fleet::new(3, Gcra::new(SECOND / 1000, 500));
    fleet.load(5000, &[1, 1, 1], 3 * SECOND);
    let before = fleet.passed.clone();
    fleet.terms.session = 0;
    let passed = fleet.load(5000, &[1, 1, 1], 10 * SECOND);
    assert!(is_near(passed, 10_000, 5), "{passed}");
    let each: Vec<u64> = fleet.passed.iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(each.iter().all(|one| is_near(*one, passed / 3, 2)), "{each:?}");
    // It comes back, and has forgotten everything.
    (fleet.terms.session, fleet.arrival) = (2, 0);
    let passed = fleet.load(5000, &[1, 1, 1], SECOND);
    assert!(passed <= 1550, "{passed}: at most a burst more");
    let passed = fleet.load(5000, &[1, 1, 1], 10 * SECOND);
    assert!(is_near(passed, 10_000, 2), "{passed}");
}

#[test]
fn what_holds_without_the_ledger_is_chosen() {
    for (without, wanted) in [(Without::Local, 30), (Without::Open, 60), (Without::Closed, 0), (Without::Share, 9)] {
        let mut fleet = Fleet::new(3, Gcra::new(SECOND, 10));
        fleet.terms = Terms { session: 0, without, ..fleet.terms };
        let passed = (0..60).filter(|turn| fleet.request(turn % 3)).count();
        assert_eq!(passed, wanted, "{without:?}");
    }
}

/// A slow answer ends a session. What the question told counts nevertheless, when the ledger is there again.
#[test]
fn a_question_without_an_answer_is_asked_again() {
    for answered_before in [false, true] {
        let mut fleet = Fleet::new(1, Gcra::new(3600 * SECOND, 4));
        if answered_before {
            assert!(fleet.request(0));
            fleet.pass(3 * MILLISECOND);
        }
        while fleet.request(0) {}
        assert_eq!(fleet.all(), 4);
        let ledger = fleet.arrival;
        let ask = fleet.accounts[0].ask(fleet.terms, fleet.now).expect("a question");
        fleet.accounts[0].unanswered(&ask, fleet.terms, fleet.now);
        assert_eq!(fleet.arrival, ledger, "nobody told the ledger");
        fleet.terms = Terms { session: 0, without: Without::Local, ..fleet.terms };
        assert!(!fleet.request(0), "{answered_before}");
        fleet.terms.session = 2;
        for _ in 0..20 {
            assert!(!fleet.request(0), "{answered_before}: {} passed", fleet.all());
            fleet.pass(50 * MILLISECOND);
        }
    }
}

/// What the reference says of the memory that keys take, which a million of them do not change.
#[test]
fn a_flood_of_keys_takes_what_the_table_has() {
    let table = Table::<Account>::new(65_536);
    assert!(table.size() <= 65_536 * 56, "{} bytes a key", table.size() / 65_536);
    let terms = Terms { gcra: Gcra::new(60 * SECOND, 5), gateways: 3, session: 1, without: Without::Share };
    let mut passed = 0u64;
    let mut listed = 0u64;
    for number in 0..1_000_000u64 {
        let hash = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let taken = table.with(hash, u128::from(hash), SECOND, |account, own| account.take(terms, own, SECOND));
        passed += u64::from(matches!(taken.told.decision, Decision::Passes { .. }));
        listed += u64::from(taken.listed);
    }
    // Each place takes one, and the rest of each bucket its share of a burst.
    let places = 65_536 + 65_536 / 8;
    assert!(passed <= places && listed <= 65_536, "{passed} passed, {listed} ask");
    // A question pins its key's place, but not for as long as nobody answers.
    let mut account = Account::of(7);
    account.take(terms, true, SECOND);
    assert!(!account.is_free(SECOND + 60 * SECOND));
    account.asks_no_more();
    assert!(!account.is_free(SECOND + 59 * SECOND) && account.is_free(SECOND + 60 * SECOND));
}

proptest! {
    /// Whatever comes, no more passes in the long run than the limit says and a burst at each gateway.
    #[test]
    fn no_more_passes_than_may(
        gateways in 1u32..5,
        interval in 1_000_000u64..2_000_000_000,
        burst in 1u32..40,
        events in prop::collection::vec((0usize..4, prop_oneof![Just(0u64), 0u64..5_000_000, 0u64..2_000_000_000]), 1..400),
    ) {
        let gcra = Gcra::new(interval, burst);
        let mut fleet = Fleet::new(gateways, gcra);
        for (gateway, pause) in events {
            fleet.request(gateway % gateways as usize);
            // In small steps, so that questions are asked in time.
            let steps = pause / (2 * MILLISECOND);
            for _ in 0..steps.min(1000) {
                fleet.pass(2 * MILLISECOND);
            }
            fleet.pass(pause.saturating_sub(2 * MILLISECOND * steps.min(1000)));
            let most = (fleet.now - SECOND) / interval + u64::from(burst) * u64::from(gateways) + 1;
            prop_assert!(fleet.all() <= most, "{} of {most}", fleet.all());
        }
    }
}
