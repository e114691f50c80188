use proptest::prelude::*;

use super::*;
use crate::snapshot::{Endpoint, StateName, Upstream};
use crate::spec::endpoint::RegistryStatus;
use crate::spec::name::ProviderId;
use crate::spec::passive::SuccessRatio;
use crate::spec::percent::Percent;
use crate::spec::upstream::UpstreamSettings;

const BASE: Duration = Duration::from_secs(10);

fn rules() -> PassiveHealth {
    PassiveHealth { consecutive_failures: 3, base_ejection: BASE, ..PassiveHealth::default() }
}

/// Endpoints of one upstream, judged at times of the test's choosing.
struct Pool {
    upstream: Upstream,
    now: Instant,
}

impl Pool {
    fn new(size: u16, passive_health: PassiveHealth) -> Self {
        clock::millis(Instant::now());
        let endpoint = |port: u16| {
            let address = ([127, 0, 0, 1], port).into();
            Endpoint {
                address,
                host: None,
                weight: 1,
                labels: Arc::default(),
                status: RegistryStatus::Passing,
                held: false,
                drained: false,
                prohibited: None,
                penalty: None,
                priority: 0,
                state: Arc::new(EndpointState::new(address)),
            }
        };
        let upstream = Upstream {
            name: "u".parse().expect("a name"),
            label: "u".into(),
            provider: ProviderId::File,
            sources: Arc::default(),
            settings: Arc::new(UpstreamSettings { passive_health, ..UpstreamSettings::default() }),
            endpoints: (1..=size).map(endpoint).collect(),
            fallback: None,
            affinity: Arc::default(),
            known: true,
            state: Arc::default(),
        };
        Self { upstream, now: Instant::now() }
    }

    fn rules(&self) -> &PassiveHealth {
        &self.upstream.settings.passive_health
    }

    fn state(&self, index: usize) -> &Arc<EndpointState> {
        &self.upstream.endpoints[index].state
    }

    fn name(&self, index: usize) -> StateName {
        self.upstream.endpoints[index].state_name(&self.upstream.settings)
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
    }

    /// What a request to an endpoint brings about, without jitter.
    fn judge(&self, index: usize, verdict: Verdict) -> Option<Flip> {
        let alone = || self.upstream.endpoints.len() == 1;
        self.state(index).outlier.judge(verdict, self.rules(), alone, || self.now, || 0)
    }

    fn fail(&self, index: usize, times: usize) -> Option<Flip> {
        (0..times).fold(None, |flip, _| flip.or(self.judge(index, Verdict::Failure)))
    }

    fn trial(&self, index: usize) -> Option<Trial> {
        Trial::begin(self.state(index), self.now)
    }

    fn end(&self, trial: Trial, verdict: Verdict) -> Option<Flip> {
        trial.end(verdict, self.rules(), self.now, 0)
    }

    fn usable(&self) -> Vec<u32> {
        self.upstream.usable(None)
    }
}

const OUT: Option<Flip> = Some(Flip::Ejected(Cause::Failures));

#[test]
fn only_failures_in_a_row_eject() {
    let pool = Pool::new(2, rules());
    for _ in 0..10 {
        assert_eq!(pool.fail(0, 2), None);
        assert_eq!(pool.judge(0, Verdict::Good), None);
    }
    assert_eq!(pool.fail(0, 2), None);
    assert_eq!(pool.judge(0, Verdict::Error), None, "it answers, and is not asked to answer well");
    assert_eq!(pool.fail(0, 3), OUT);
    assert_eq!((pool.name(0), pool.name(1)), (StateName::Ejected, StateName::Healthy));
    assert_eq!(pool.usable(), [1]);
    let reasons = pool.upstream.endpoints[0].reasons(&pool.upstream.settings);
    assert!(reasons[0].starts_with("requests to it failed in a row; a request tries it in"), "{reasons:?}");
}

#[test]
fn bad_answers_eject_only_where_they_are_asked_about() {
    let pool = Pool::new(2, rules());
    assert_eq!((0..100).find_map(|_| pool.judge(0, Verdict::Error)), None);
    let pool = Pool::new(2, PassiveHealth { consecutive_5xx: 2, ..rules() });
    assert_eq!(pool.judge(0, Verdict::Error), None);
    assert_eq!(pool.judge(0, Verdict::Good), None);
    assert_eq!(pool.judge(0, Verdict::Error), None);
    assert_eq!(pool.judge(0, Verdict::Error), Some(Flip::Ejected(Cause::Errors)));
}

#[test]
fn too_small_a_share_of_few_requests_ejects() {
    let ratio =
        SuccessRatio { min: "80%".parse().expect("a percentage"), window: Duration::from_secs(30), min_requests: 10 };
    let pool = Pool::new(2, PassiveHealth { success_ratio: Some(ratio), ..rules() });
    let bad = [false, false, true, false, false, true, false, false];
    let verdict = |bad: bool| if bad { Verdict::Error } else { Verdict::Good };
    assert_eq!(bad.iter().find_map(|bad| pool.judge(0, verdict(*bad))), None);
    assert_eq!(pool.judge(0, Verdict::Error), None, "nine requests say nothing");
    assert_eq!(pool.judge(0, Verdict::Good), None, "what went well ejects nobody");
    assert_eq!(pool.judge(0, Verdict::Error), Some(Flip::Ejected(Cause::Ratio)));
}

#[test]
fn a_share_of_long_ago_is_forgotten() {
    let ratio = SuccessRatio { min: Percent::HALF, window: Duration::from_secs(10), min_requests: 2 };
    let mut pool = Pool::new(2, PassiveHealth { success_ratio: Some(ratio), consecutive_failures: 0, ..rules() });
    assert_eq!(pool.judge(0, Verdict::Error), None);
    pool.later(Duration::from_secs(11));
    assert_eq!(pool.judge(0, Verdict::Good), None);
    assert_eq!(pool.judge(0, Verdict::Error), None, "one of two is not less than half");
    assert_eq!(pool.judge(0, Verdict::Error), Some(Flip::Ejected(Cause::Ratio)));
}

#[test]
fn a_single_request_tries_who_was_ejected() {
    let mut pool = Pool::new(2, rules());
    assert_eq!(pool.fail(0, 3), OUT);
    pool.later(BASE - Duration::from_millis(1));
    assert!(pool.trial(0).is_none(), "its time is not over");
    assert_eq!(pool.judge(0, Verdict::Good), None, "what was sent before says nothing new");
    pool.later(Duration::from_millis(2));
    let trial = pool.trial(0).expect("a trial");
    assert!(pool.trial(0).is_none(), "one at a time");
    assert_eq!(pool.judge(0, Verdict::Good), None, "nor does another request decide");
    assert_eq!(pool.usable(), [1]);
    drop(trial);
    let trial = pool.trial(0).expect("whose client left is no trial");
    assert_eq!(pool.end(trial, Verdict::Good), Some(Flip::Restored));
    assert_eq!((pool.usable().as_slice(), pool.name(0)), (&[0, 1][..], StateName::Healthy));
    assert_eq!(pool.fail(0, 2), None, "its row begins anew");
}

#[test]
fn ejections_grow_and_are_forgiven() {
    let mut pool = Pool::new(2, PassiveHealth { max_ejection: 5 * BASE, ..rules() });
    assert_eq!(pool.fail(0, 3), OUT);
    for lasts in [BASE, 2 * BASE, 4 * BASE, 5 * BASE, 5 * BASE] {
        pool.later(lasts - Duration::from_millis(1));
        assert!(pool.trial(0).is_none(), "{lasts:?}");
        pool.later(Duration::from_millis(2));
        let trial = pool.trial(0).expect("a trial");
        assert_eq!(pool.end(trial, Verdict::Failure), OUT);
    }
    pool.later(5 * BASE);
    let trial = pool.trial(0).expect("a trial");
    assert_eq!(pool.end(trial, Verdict::Error), Some(Flip::Restored), "it answers");
    // Six in a row, less five base times of health, and one more: the second.
    pool.later(5 * BASE);
    assert_eq!(pool.fail(0, 3), OUT);
    pool.later(2 * BASE - Duration::from_millis(1));
    assert!(pool.trial(0).is_none());
    pool.later(Duration::from_millis(2));
    assert!(pool.trial(0).is_some());
}

#[test]
fn the_only_one_is_never_ejected() {
    let pool = Pool::new(1, rules());
    assert_eq!(pool.fail(0, 100), None);
    let pool = Pool::new(2, rules());
    let judged = |index| pool.upstream.judge(pool.state(index), None, Verdict::Failure, || 0);
    assert_eq!((0..3).find_map(|_| judged(0)), OUT);
    assert_eq!((0..3).find_map(|_| judged(1)), OUT, "two that fail are told, whatever is done about it");
}

#[test]
fn no_more_than_the_share_is_out_of_use_and_all_are_used_when_all_look_bad() {
    let mut pool = Pool::new(5, rules());
    for index in 0..4 {
        assert_eq!(pool.fail(index, 3), OUT);
        pool.later(Duration::from_millis(10));
    }
    // Two may be out: those that have longer to go.
    let chosen = pool.upstream.choose(None);
    assert_eq!((chosen.indexes, chosen.ejected, chosen.panic), (vec![0, 1, 4], vec![2, 3], false));
    assert_eq!(pool.fail(4, 3), OUT);
    let chosen = pool.upstream.choose(None);
    assert_eq!((chosen.indexes, chosen.ejected, chosen.panic), (vec![0, 1, 2, 3, 4], vec![], true));
    assert_eq!(pool.judge(0, Verdict::Good), None);
    pool.later(BASE);
    assert_eq!(pool.judge(0, Verdict::Good), Some(Flip::Restored), "every request tries who is used anyway");
    assert_eq!(pool.judge(1, Verdict::Failure), OUT);
}

#[test]
fn below_the_threshold_all_are_used_but_those_drained_or_in_maintenance() {
    let mut pool = Pool::new(6, rules());
    let panic_threshold = "50%".parse().expect("a percentage");
    pool.upstream.settings = Arc::new(UpstreamSettings { panic_threshold, ..UpstreamSettings::default() });
    let mut endpoints = pool.upstream.endpoints.to_vec();
    endpoints[4].status = RegistryStatus::Maintenance;
    (endpoints[5].status, endpoints[5].weight) = (RegistryStatus::Critical, 0);
    let mut chosen = |critical: &[usize], priorities: [u16; 4]| {
        for index in 0..4 {
            let bad = critical.contains(&index);
            endpoints[index].status = if bad { RegistryStatus::Critical } else { RegistryStatus::Passing };
            endpoints[index].priority = priorities[index];
        }
        pool.upstream.endpoints = endpoints.clone().into();
        let chosen = pool.upstream.choose(None);
        (chosen.indexes, chosen.panic)
    };
    assert_eq!(chosen(&[0, 1], [0; 4]), (vec![2, 3], false));
    assert_eq!(chosen(&[0, 1, 2], [0; 4]), (vec![0, 1, 2, 3], true));
    assert_eq!(chosen(&[0, 1, 2, 3], [0; 4]), (vec![0, 1, 2, 3], true));
    assert_eq!(chosen(&[0, 1], [0, 0, 1, 1]), (vec![2, 3], false), "the next level has room");
    assert_eq!(chosen(&[0, 1, 2], [0, 0, 0, 1]), (vec![3], false));
}

#[test]
fn what_is_not_looked_at_any_more_is_forgiven() {
    let mut pool = Pool::new(2, rules());
    assert_eq!(pool.fail(0, 3), OUT);
    let off = PassiveHealth { consecutive_failures: 0, ..rules() };
    pool.upstream.settings = Arc::new(UpstreamSettings { passive_health: off, ..UpstreamSettings::default() });
    assert_eq!((pool.usable().as_slice(), pool.name(0)), (&[0, 1][..], StateName::Healthy));
    assert!(pool.upstream.endpoints[0].reasons(&pool.upstream.settings).is_empty());
}

proptest! {
    #[test]
    fn words_hold_what_was_put_in(phase in 0u64..3, cause in 0u64..3, times in 0..=MOST_TIMES, at in 0u64..1 << 54) {
        let word = phase << 62 | cause << 60 | times << 54 | at;
        prop_assert_eq!(Ejection::of(word).word(), word);
    }

    #[test]
    fn somebody_is_always_used_and_never_too_many_are_out(
        size in 1u16..12,
        percent in 0u8..=100,
        steps in prop::collection::vec((0usize..12, 0u8..3, 0u64..8_000), 0..200),
    ) {
        let max_ejected = format!("{percent}%").parse().expect("a percentage");
        let mut pool = Pool::new(size, PassiveHealth { max_ejected, ..rules() });
        for (index, verdict, millis) in steps {
            let index = index % usize::from(size);
            pool.later(Duration::from_millis(millis));
            let verdict = [Verdict::Good, Verdict::Error, Verdict::Failure][usize::from(verdict)];
            match pool.trial(index) {
                Some(trial) => drop(pool.end(trial, verdict)),
                None => drop(pool.judge(index, verdict)),
            }
            let chosen = pool.upstream.choose(None);
            prop_assert!(!chosen.indexes.is_empty());
            prop_assert_eq!(chosen.indexes.len() + chosen.ejected.len(), usize::from(size));
            prop_assert!(chosen.ejected.len() <= pool.rules().may_eject(size.into()));
            prop_assert!(chosen.indexes.is_sorted());
        }
    }
}
