//! Equal routes, told as text: a line a route, `NAME PROVIDER KEY=VALUE...`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::spec::matching::{Conditions, MatchSpec};
use crate::spec::route::{Registered, RouteSpec};

#[derive(Clone, Debug)]
struct Given {
    name: Name,
    provider: ProviderId,
    spec: RouteSpec,
    seniority: Seniority,
    instances: Instances,
}

fn host(text: &str) -> HostMatch {
    match text.strip_prefix("*.") {
        Some(suffix) => HostMatch::Wildcard(suffix.to_owned()),
        None => HostMatch::Exact(text.to_owned()),
    }
}

/// Reads `web consul-tags host=a.com,b.com path=/x since=3 rank=3 middlewares=auth instances=none bound`.
fn given(line: &str) -> Given {
    let mut words = line.split_whitespace();
    let name = words.next().and_then(|name| name.parse().ok()).expect("a name");
    let provider = words.next().and_then(|word| ProviderId::ALL.into_iter().find(|id| id.as_str() == word));
    let provider = provider.expect("a provider");
    let is_tag = provider == ProviderId::ConsulTags;
    let rank = ProviderId::ALL.iter().position(|id| *id == provider).expect("a provider");
    let mut spec = RouteSpec {
        matching: MatchSpec {
            hosts: Vec::new(),
            path: PathMatch::Prefix(String::new()),
            methods: Vec::new(),
            conditions: Conditions::default(),
        },
        priority: 0,
        listeners: Vec::new(),
        targets: Vec::new(),
        sticky: None,
        timeout: None,
        retry: Default::default(),
        middlewares: Vec::new(),
        registered: Registered { yields: is_tag, ..Registered::default() },
    };
    let mut seniority = Seniority { rank: if is_tag { usize::MAX } else { rank }, ..Seniority::default() };
    let mut instances = Instances::Some;
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("host", hosts) => spec.matching.hosts = hosts.split(',').map(host).collect(),
            ("path", path) => spec.matching.path = PathMatch::Prefix(path.trim_end_matches('/').to_owned()),
            ("start", path) => spec.matching.path = PathMatch::Start(path.to_owned()),
            ("priority", priority) => spec.priority = priority.parse().expect("a number"),
            ("since", since) => {
                spec.registered.since = since.split(',').map(|at| at.parse().expect("a number")).collect()
            }
            ("created", created) => seniority.created = created.parse().ok(),
            ("place", place) => seniority.place = place.into(),
            ("middlewares", list) => {
                spec.middlewares = list.split(',').map(|name| name.parse().expect("a reference")).collect();
            }
            ("instances", "none") => instances = Instances::None,
            ("instances", "critical") => instances = Instances::Critical,
            ("bound", _) => spec.registered.yields = false,
            other => panic!("{other:?}"),
        }
    }
    Given { name, provider, spec, seniority, instances }
}

fn settled(all: &[Given]) -> Vec<Contest> {
    let claimants: Vec<Claimant<'_>> = all
        .iter()
        .map(|Given { name, provider, spec, seniority, .. }| Claimant { name, provider: *provider, spec, seniority })
        .collect();
    Claims::of(&claimants).settle(&claimants, |at| all[at].instances)
}

fn told(lines: &[&str]) -> Vec<String> {
    let all: Vec<Given> = lines.iter().map(|line| given(line)).collect();
    settled(&all)
        .iter()
        .map(|contest| format!("{} at {}: {}", contest.route, contest.place, contest.of_route()))
        .collect()
}

fn losers(lines: &[&str]) -> Vec<String> {
    let all: Vec<Given> = lines.iter().map(|line| given(line)).collect();
    settled(&all).iter().map(|contest| format!("{} behind {}", contest.route, contest.by)).collect()
}

#[test]
fn the_first_claim_stays_whatever_its_name() {
    let told = told(&["evil consul-tags host=shop.com since=9", "web consul-tags host=shop.com since=4"]);
    assert_eq!(told, ["evil at shop.com/: shadowed by web: of equal routes the first claim stays, at shop.com/"]);
    let unclaimed = Registered::UNCLAIMED;
    let [old, young] = [unclaimed + 4, unclaimed + 9].map(|since| format!("consul-tags host=shop.com since={since}"));
    let said = self::told(&[&format!("evil {young}"), &format!("web {old}")]);
    assert_eq!(
        said,
        [
            "evil at shop.com/: shadowed by web: claims are not shared, and of equal routes that of the service with the \
          oldest instance goes first, at shop.com/"
        ]
    );
    let said = self::told(&[&format!("evil {young}"), "web consul-tags host=shop.com since=4"]);
    assert!(said[0].contains("the first claim stays"), "another gateway has shared it: {said:?}");
    let losers =
        losers(&["evil consul-tags host=shop.com,b.com since=9,1", "web consul-tags host=b.com,shop.com since=2,4"]);
    assert_eq!(losers, ["web behind evil", "evil behind web"], "each host has its own first claim");
    assert_eq!(losers_of_names(), ["b behind a"]);
}

fn losers_of_names() -> Vec<String> {
    losers(&["b consul-tags host=shop.com since=4", "a consul-tags host=shop.com since=4"])
}

#[test]
fn routes_that_do_not_match_the_same_are_not_contested() {
    for other in [
        "host=shop.com path=/a",
        "host=a.shop.com",
        "host=*.shop.com",
        "",
        "host=shop.com start=/",
        "host=shop.com priority=1",
    ] {
        let line = format!("b consul-tags {other}");
        assert_eq!(losers(&["a consul-tags host=shop.com", &line]), [] as [&str; 0], "{other}");
    }
}

#[test]
fn documents_go_by_precedence_then_by_age_then_by_place() {
    for (lines, wanted) in [
        (["a consul-kv path=/x created=1", "b file path=/x place=f.toml:3:1"], "a behind b"),
        (["a consul-kv path=/x created=8", "b consul-kv path=/x created=7"], "a behind b"),
        (["a etcd path=/x created=8", "b etcd path=/x created=7"], "a behind b"),
        (["a file path=/x place=f.toml:12:1", "b file path=/x place=f.toml:3:1"], "a behind b"),
        (["a file path=/x place=g.toml:1:1", "b file path=/x place=f.toml:3:1"], "a behind b"),
        (["b consul-kv path=/x", "a consul-kv path=/x"], "b behind a"),
        (["a consul-tags path=/x since=1", "b file path=/x place=f.toml:3:1"], "a behind b"),
    ] {
        assert!(losers(&lines).contains(&wanted.to_owned()), "{lines:?}: {:?}", losers(&lines));
    }
}

#[test]
fn a_claim_without_instances_yields_until_they_are_back() {
    let v2 = "shop-v2 consul-tags host=shop.com since=2";
    for (state, other, wanted) in [
        ("instances=none", "", "shop-v1 behind shop-v2"),
        ("instances=none", "middlewares=auth", "shop-v1 behind shop-v2"),
        ("instances=none", "instances=critical", "shop-v1 behind shop-v2"),
        ("instances=none", "instances=none", "shop-v2 behind shop-v1"),
        ("instances=critical", "", "shop-v1 behind shop-v2"),
        ("instances=critical", "middlewares=auth", "shop-v2 behind shop-v1"),
        ("instances=critical", "instances=critical", "shop-v2 behind shop-v1"),
        ("instances=critical", "instances=none", "shop-v2 behind shop-v1"),
        ("", "", "shop-v2 behind shop-v1"),
    ] {
        let first = format!("shop-v1 consul-tags host=shop.com since=1 {state}");
        let second = format!("{v2} {other}");
        assert_eq!(losers(&[&first, &second]), [wanted], "{state} {other}");
    }
    // Past one that is not guarded alike.
    let three = [
        "a consul-tags path=/x since=1 instances=critical",
        "b consul-tags path=/x since=2 middlewares=auth",
        "c consul-tags path=/x since=3",
    ];
    assert_eq!(losers(&three), ["a behind c", "b behind c"]);
}

#[test]
fn a_document_yields_to_one_guarded_alike_and_never_to_a_tag() {
    let first = "a consul-kv host=shop.com created=1 middlewares=auth instances=none";
    for (other, wanted) in [
        ("b consul-kv host=shop.com created=2 middlewares=auth", "a behind b"),
        ("b consul-kv host=shop.com created=2", "b behind a"),
        ("b consul-tags host=shop.com since=1 middlewares=auth bound", "b behind a"),
        ("b consul-tags host=shop.com since=1 bound", "b behind a"),
    ] {
        assert_eq!(losers(&[first, other]), [wanted], "{other}");
    }
}

#[test]
fn tags_that_documents_cover_are_told() {
    for (tag, document, wanted) in [
        ("host=x.corp.com", "host=*.corp.com middlewares=keys", "shadowed by doc"),
        ("host=x.corp.com", "host=*.corp.com path=/api", "goes behind doc"),
        ("host=z path=/nh", "path=/nh", "shadowed by doc"),
        ("host=z path=/", "path=/nh", "goes behind doc"),
        ("host=z start=/nh", "path=/nh", "goes behind doc"),
        ("host=a.com path=/longer", "host=a.com", "shadowed by doc"),
        ("host=z path=/nh", "middlewares=keys", "shadowed by doc"),
        ("host=z path=/nh", "middlewares=keys priority=-3", "shadowed by doc"),
        ("host=z path=/nh", "", ""),
        ("host=z path=/nh", "path=/other", ""),
        ("host=z bound", "path=/nh", ""),
        ("host=z path=/nh bound", "path=/nh", ""),
    ] {
        let lines = [format!("tag consul-tags {tag}"), format!("doc file {document}")];
        let told = told(&[&lines[0], &lines[1]]).join("\n");
        let fits = if wanted.is_empty() { told.is_empty() } else { told.contains(wanted) };
        assert!(fits, "{tag} | {document}: {told}");
    }
}

fn any_route() -> impl Strategy<Value = Given> {
    let word = |words: Vec<&'static str>| prop::sample::select(words);
    (
        word(vec!["file", "etcd", "consul-kv", "consul-tags", "consul-tags", "consul-tags"]),
        word(vec!["host=a.com", "host=b.com", "host=a.com,b.com", "host=*.com", ""]),
        word(vec!["path=/", "path=/x", "start=/x"]),
        word(vec!["", "instances=none", "instances=critical"]),
        word(vec!["", "middlewares=auth"]),
        0u64..4,
    )
        .prop_map(|(provider, host, path, instances, middlewares, age)| {
            given(&format!("x {provider} {host} {path} {instances} {middlewares} since={age},{age} created={age}"))
        })
}

proptest! {
    /// One answer, in whatever order routes come; and each place with somebody who has instances is served by one.
    #[test]
    fn the_answer_does_not_depend_on_the_order_of_arrival(
        (all, shuffled) in prop::collection::vec(any_route(), 1..8).prop_map(|mut all| {
            for (index, route) in all.iter_mut().enumerate() {
                route.name = format!("r{index}").parse().expect("a name");
            }
            all
        }).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
    ) {
        let by_route = |contests: Vec<Contest>| {
            let told = contests.into_iter().map(|contest| ((contest.route.clone(), contest.host, contest.by.clone()), contest.reason as u8));
            told.collect::<BTreeMap<_, _>>()
        };
        prop_assert_eq!(by_route(settled(&all)), by_route(settled(&shuffled)));
        let of = |name: &Name| all.iter().find(|route| route.name == *name).expect("a route");
        for contest in settled(&all).iter().filter(|contest| contest.is_of_equals()) {
            let (loser, winner) = (of(&contest.route), of(&contest.by));
            if winner.provider == ProviderId::ConsulTags {
                prop_assert_eq!(loser.provider, ProviderId::ConsulTags, "no tag takes what is a document's");
            }
            let is_gone = winner.instances == Instances::None;
            prop_assert!(!(is_gone && loser.instances == Instances::Some && loser.provider == winner.provider
                && loser.spec.is_guarded_like(&winner.spec)), "{contest:?}");
            if loser.instances == Instances::Critical && contest.reason == ContestReason::Critical {
                prop_assert!(loser.spec.is_guarded_like(&winner.spec));
            }
        }
    }
}
