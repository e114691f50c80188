//! Draws: shares are exact in the long run, conditions come first, sticky clients move only into what grows.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;
use crate::snapshot::RouteState;
use crate::spec::matching::{Conditions, MatchSpec, PathMatch, ValueMatch};
use crate::spec::name::ProviderId;
use crate::spec::route::{RouteSpec, TargetSpec};

fn route(choices: Vec<Choice>) -> Route {
    let targets: Vec<TargetSpec> = choices
        .into_iter()
        .enumerate()
        .map(|(index, choice)| TargetSpec {
            upstream: format!("u{index}").parse().expect("a name"),
            subset: None,
            choice,
            steps: None,
            middlewares: Vec::new(),
        })
        .collect();
    let resolved = targets.iter().enumerate().map(|(index, spec)| {
        let label = spec.label();
        Target {
            spec: spec.clone(),
            seed: seed("r", &label, 0),
            label,
            slot: index,
            subset: 0,
            middlewares: Vec::new(),
        }
    });
    Route {
        name: "r".parse().expect("a name"),
        label: "r".into(),
        provider: ProviderId::File,
        targets: resolved.collect(),
        spec: Arc::new(RouteSpec {
            matching: MatchSpec {
                hosts: Vec::new(),
                path: PathMatch::Prefix(String::new()),
                methods: Vec::new(),
                conditions: Conditions::default(),
            },
            priority: 0,
            listeners: Vec::new(),
            targets,
            sticky: None,
            timeout: None,
            retry: Default::default(),
            middlewares: Vec::new(),
            registered: Default::default(),
        }),
        middlewares: Vec::new(),
        state: RouteState::Resolved,
    }
}

fn shares(weights: &[u32]) -> Route {
    route(weights.iter().map(|weight| Choice::Weight(*weight)).collect())
}

fn with_view<T>(headers: &HeaderMap, use_it: impl FnOnce(&RequestView<'_>) -> T) -> T {
    let listener = "web".parse().expect("a name");
    let method = Method::GET;
    use_it(&RequestView { listener: &listener, host: "", path: "/", method: &method, headers, query: None })
}

fn draws(
    route: &Route,
    count: usize,
    key: impl Fn(usize) -> Option<String>,
    usable: impl Fn(&Target) -> bool,
) -> Vec<Draw> {
    let mut rng = SmallRng::seed_from_u64(1);
    with_view(&HeaderMap::new(), |view| {
        (0..count)
            .map(|index| {
                draw(route, view, key(index).as_deref().map(str::as_bytes), &usable, || rng.next_u64()).expect("known")
            })
            .collect()
    })
}

fn share_of(draws: &[Draw], target: usize) -> f64 {
    draws.iter().filter(|draw| draw.target == Some(target)).count() as f64 / draws.len() as f64 * 100.0
}

#[test]
fn shares_are_kept_over_many_requests() {
    let drawn = draws(&shares(&[95, 5]), 100_000, |_| None, |_| true);
    assert!((share_of(&drawn, 1) - 5.0).abs() < 0.35, "{}", share_of(&drawn, 1));
    let drawn = draws(&shares(&[95, 5]), 100_000, |index| Some(format!("user-{index}")), |_| true);
    assert!((share_of(&drawn, 1) - 5.0).abs() < 0.35, "{}", share_of(&drawn, 1));
    let drawn = draws(&shares(&[1_000_000, 0, 1_000_000]), 10_000, |_| None, |_| true);
    assert_eq!(share_of(&drawn, 1), 0.0);
}

#[test]
fn an_unusable_target_gives_its_share_to_the_others_and_is_counted() {
    let route = shares(&[2, 1, 1]);
    let usable = |target: &Target| target.slot != 0;
    for key in [false, true] {
        let drawn = draws(&route, 20_000, |index| key.then(|| format!("user-{index}")), usable);
        assert!((share_of(&drawn, 1) - 50.0).abs() < 2.0 && (share_of(&drawn, 2) - 50.0).abs() < 2.0);
        let passed_over = drawn.iter().filter(|draw| draw.passed_over == Some(0)).count();
        assert!(passed_over.abs_diff(10_000) < 400, "{passed_over}");
    }
    let none = draws(&route, 10, |_| None, |_| false);
    assert!(none.iter().all(|draw| draw.target.is_none()));
    assert!(draws(&shares(&[0, 0]), 10, |_| None, |_| true).iter().all(|draw| draw.target.is_none()));
}

#[test]
fn a_condition_that_holds_decides_even_when_its_target_is_not_usable() {
    let condition = Conditions {
        headers: vec![(HeaderName::from_static("x-canary"), ValueMatch::Exact("always".to_owned()))],
        ..Conditions::default()
    };
    let route = route(vec![Choice::When(condition), Choice::Weight(1)]);
    let mut headers = HeaderMap::new();
    let draw_with = |headers: &HeaderMap, usable: fn(&Target) -> bool| {
        with_view(headers, |view| draw(&route, view, None, usable, || 0).expect("known").target)
    };
    assert_eq!(draw_with(&headers, |_| true), Some(1));
    headers.insert("x-canary", HeaderValue::from_static("always"));
    assert_eq!(draw_with(&headers, |_| true), Some(0));
    assert_eq!(draw_with(&headers, |target| target.slot != 0), None, "the tester must know");
}

#[test]
fn draws_are_the_same_on_every_gateway() {
    // Fixed for ever: a change of these numbers moves users of running fleets.
    assert_eq!(hash(0, b"user-1"), 0x41a2_fca5_c684_01c5);
    assert_eq!(seed("users", "users/canary", 0), 0x5892_e26f_13df_2a7d);
}

#[test]
fn clients_are_told_apart_by_address_whatever_its_form() {
    let (mut one, mut other) = ([0; 16], [0; 16]);
    let headers = HeaderMap::new();
    with_view(&headers, |view| {
        let v4 = sticky_key(&Sticky::ClientIp, view, Some([10, 0, 0, 1].into()), &mut one).map(<[u8]>::to_vec);
        let mapped = Some("::ffff:10.0.0.1".parse().expect("an address"));
        assert_eq!(v4.as_deref(), sticky_key(&Sticky::ClientIp, view, mapped, &mut other));
        assert_eq!(sticky_key(&Sticky::ClientIp, view, None, &mut other), None, "nobody knows who it is");
    });
}

proptest! {
    #[test]
    fn no_sticky_user_leaves_a_share_that_grows(
        before in prop::collection::vec(0u32..1000, 2..5),
        which in 0usize..5,
        growth in 1u32..1000,
    ) {
        let which = which % before.len();
        let mut after = before.clone();
        after[which] += growth;
        let key = |index: usize| Some(format!("user-{index}"));
        let (first, second) = (draws(&shares(&before), 300, key, |_| true), draws(&shares(&after), 300, key, |_| true));
        for (first, second) in first.iter().zip(&second) {
            prop_assert!(first.target == second.target || second.target == Some(which));
        }
    }
}

proptest! {
    #[test]
    fn the_odds_are_those_of_the_draw(
        choices in prop::collection::vec((0u32..4, any::<bool>(), any::<bool>()), 1..5),
        holds in any::<bool>(),
        key in prop::option::of("[a-z]{1,8}"),
    ) {
        let condition = Conditions {
            headers: vec![(HeaderName::from_static("x-a"), ValueMatch::Present(holds))],
            ..Conditions::default()
        };
        let choice = |(weight, conditional, _): &(u32, bool, bool)| {
            if *conditional { Choice::When(condition.clone()) } else { Choice::Weight(*weight) }
        };
        let route = route(choices.iter().map(choice).collect());
        let usable = |target: &Target| choices[target.slot].2;
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("1"));
        let key = key.as_deref().map(str::as_bytes);
        let mut rng = SmallRng::seed_from_u64(7);
        with_view(&headers, |view| {
            let odds = odds(&route, view, key, usable);
            let count = 4000;
            let mut taken = vec![0; choices.len()];
            for _ in 0..count {
                if let Some(index) = draw(&route, view, key, usable, || rng.next_u64()).expect("known").target {
                    taken[index] += 1;
                }
            }
            for (index, odds) in odds.taken.iter().enumerate() {
                let seen = f64::from(taken[index]) / f64::from(count);
                // Five standard deviations of a binomial, and nothing where it is sure.
                let bound = 5.0 * (odds * (1.0 - odds) / f64::from(count)).sqrt();
                prop_assert!((seen - odds).abs() <= bound + 1e-9, "target {index}: {seen} for {odds}");
            }
            Ok(())
        })?;
    }
}
