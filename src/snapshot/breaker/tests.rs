use proptest::prelude::*;

use super::*;
use crate::spec::breaker::Breaker as Rules;
use crate::spec::name::ProviderId;
use crate::spec::upstream::UpstreamSettings;

const OPEN: Duration = Duration::from_secs(10);
const QUICK: Duration = Duration::from_millis(1);

/// An upstream whose breaker is asked at times of the test's choosing.
struct Guarded {
    upstream: Upstream,
    now: Instant,
}

impl Guarded {
    fn new(rules: Rules) -> Self {
        clock::millis(Instant::now());
        let upstream = Upstream {
            name: "u".parse().expect("a name"),
            label: "u".into(),
            provider: ProviderId::File,
            sources: Arc::default(),
            settings: Arc::new(UpstreamSettings { breaker: Some(rules), ..UpstreamSettings::default() }),
            fallback: None,
            affinity: Arc::default(),
            endpoints: [].into(),
            known: true,
            state: Arc::default(),
        };
        Self { upstream, now: Instant::now() }
    }

    fn by_errors() -> Self {
        let errors = Errors {
            ratio: "50%".parse().expect("a percentage"),
            slow: Some(Duration::from_secs(1)),
            window: Duration::from_secs(10),
            min_requests: 4,
            open: OPEN,
            probes: 2,
        };
        Self::new(Rules { errors: Some(errors), ..Rules::default() })
    }

    fn admit(&self) -> Result<Option<Box<Admission>>, Refusal> {
        self.upstream.admit(self.now)
    }

    /// The right of a request that tries the upstream.
    fn probe(&self) -> Box<Admission> {
        let admission = self.admit().expect("let through").expect("a probe");
        assert!(admission.probe.is_some());
        admission
    }

    fn note(&self, admission: Option<&mut Admission>, verdict: Verdict) -> Option<CircuitState> {
        self.upstream.note(admission, verdict, QUICK, self.now)
    }

    fn break_it(&self) {
        let states: Vec<_> = (0..4).map(|_| self.note(None, Verdict::Failure)).collect();
        assert_eq!(states, [None, None, None, Some(CircuitState::Open)]);
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn enough_errors_open_it() {
    let guarded = Guarded::by_errors();
    for verdict in [Verdict::Good, Verdict::Good, Verdict::Good, Verdict::Error, Verdict::Failure] {
        assert_eq!(guarded.note(None, verdict), None);
    }
    assert!(matches!(guarded.admit(), Ok(None)));
    let slow = guarded.upstream.note(None, Verdict::Good, Duration::from_secs(2), guarded.now);
    assert_eq!(slow, Some(CircuitState::Open), "what is slow counts, too: three of six");
    assert_eq!(guarded.admit().expect_err("refused"), Refusal::Open { seconds: 10 });
    assert_eq!(guarded.note(None, Verdict::Good), None, "what was under way says nothing new");
    let view = guarded.upstream.breaker(guarded.now).expect("a breaker");
    assert_eq!(view.state, CircuitState::Open);
    assert!(view.refuses.expect("a reason").starts_with("too many errors of late"));
}

#[test]
fn a_few_requests_try_it_and_all_must_go_well() {
    let mut guarded = Guarded::by_errors();
    guarded.break_it();
    guarded.later(OPEN - QUICK);
    assert_eq!(guarded.admit().expect_err("refused"), Refusal::Open { seconds: 1 });
    guarded.later(2 * QUICK);
    let (mut one, mut two) = (guarded.probe(), guarded.probe());
    assert!(guarded.admit().is_err(), "no more than two");
    assert_eq!(guarded.note(Some(&mut one), Verdict::Good), None);
    assert!(guarded.admit().is_err(), "one went well, one is under way");
    assert_eq!(guarded.note(Some(&mut two), Verdict::Good), Some(CircuitState::Closed));
    assert!(matches!(guarded.admit(), Ok(None)));
    assert_eq!(guarded.note(None, Verdict::Failure), None, "what was before is forgotten");
}

#[test]
fn one_that_fails_opens_it_again_and_one_that_left_makes_room() {
    let mut guarded = Guarded::by_errors();
    guarded.break_it();
    guarded.later(OPEN);
    let (mut one, two) = (guarded.probe(), guarded.probe());
    drop(two);
    let mut two = guarded.probe();
    assert_eq!(guarded.note(Some(&mut one), Verdict::Error), Some(CircuitState::Open));
    assert_eq!(guarded.note(Some(&mut two), Verdict::Good), None, "of a round that is over");
    assert!(guarded.admit().is_err());
    guarded.later(OPEN);
    assert!(guarded.probe().probe.is_some());
}

#[test]
fn places_are_limited_and_given_back() {
    let guarded = Guarded::new(Rules { max_requests: Some(2), max_connections: Some(1), ..Rules::default() });
    let one = guarded.admit().expect("let through");
    let _two = guarded.admit().expect("let through");
    assert_eq!(guarded.admit().expect_err("refused"), Refusal::Requests);
    assert_eq!(guarded.upstream.refuses(guarded.now), Some(Refusal::Requests));
    drop(one);
    assert!(guarded.admit().is_ok());
    let place = guarded.upstream.place(Limited::Connections).expect("a place");
    assert!(place.is_some() && guarded.upstream.is_short_of_connections());
    assert_eq!(guarded.upstream.place(Limited::Connections).expect_err("refused"), Refusal::Connections);
    assert!(matches!(guarded.upstream.place(Limited::Pending), Ok(None)), "not limited");
}

proptest! {
    #[test]
    fn words_hold_what_was_put_in(state in 0u64..3, trying in 0..=SEVEN_BITS, passed in 0..=SEVEN_BITS, at in 0u64..1 << 48) {
        let word = state << 62 | trying << 55 | passed << 48 | at;
        prop_assert_eq!(Circuit::of(word).word(), word);
    }

    #[test]
    fn it_never_lets_more_try_than_may_and_never_stays_shut(
        steps in prop::collection::vec((0u8..4, 0usize..4, 0u64..4_000), 0..200),
    ) {
        let mut guarded = Guarded::by_errors();
        let mut under_way: Vec<Box<Admission>> = Vec::new();
        for (what, which, millis) in steps {
            guarded.later(Duration::from_millis(millis));
            match what {
                0 => under_way.extend(guarded.admit().ok().flatten()),
                1 => drop((which < under_way.len()).then(|| under_way.swap_remove(which))),
                _ => {
                    let verdict = if what == 2 { Verdict::Good } else { Verdict::Failure };
                    let mut admission = (which < under_way.len()).then(|| under_way.swap_remove(which));
                    guarded.note(admission.as_deref_mut(), verdict);
                }
            }
            let circuit = guarded.upstream.state.breaker.circuit();
            prop_assert!(circuit.trying + circuit.passed <= 2, "{circuit:?}");
        }
        under_way.clear();
        guarded.later(OPEN);
        prop_assert!(guarded.admit().is_ok());
    }
}
