//! What must be the same object from one snapshot to the next, and what a snapshot says.

use std::time::Duration;

use proptest::prelude::*;

use super::super::fixture::{World, consul, dns, told};
use super::super::merge::Merger;
use super::*;
use crate::discovery::state::Origin;
use crate::spec::source::{ConsulService, Source};

mod middlewares;

/// A world and its snapshots.
struct Gateway {
    world: World,
    merger: Merger,
    builder: Builder,
    now: Instant,
    snapshot: Arc<Snapshot>,
}

impl Gateway {
    fn new() -> Self {
        let now = Instant::now();
        let (mut world, merger, builder) = (World::new(), Merger::default(), Builder::new(now));
        // Until then nothing is remembered.
        world.read_the_rest();
        Self { world, merger, builder, now, snapshot: Arc::new(Snapshot::empty()) }
    }

    fn file(&mut self, text: &str) {
        self.world.documents(ProviderId::File, text);
    }

    /// The snapshots before and after a build; the same where nothing changed.
    fn build(&mut self) -> (Arc<Snapshot>, Arc<Snapshot>) {
        let before = Arc::clone(&self.snapshot);
        let World { states, rules, overlay, .. } = &self.world;
        let (_, affected) = self.merger.merge(states, rules, overlay);
        let merged = self.merger.merged();
        assert_eq!(
            *merged,
            self.world.merge_with(&mut self.merger.forms().clone()),
            "a merge that goes on is the merge"
        );
        if let Some(next) = self.builder.build(merged, &affected, &before, self.now) {
            self.snapshot = Arc::new(next);
        }
        (before, Arc::clone(&self.snapshot))
    }
}

fn upstream<'s>(snapshot: &'s Snapshot, label: &str) -> &'s Arc<Upstream> {
    snapshot.upstreams().find(|upstream| &*upstream.label == label).expect("an upstream of this label")
}

fn slot(snapshot: &Snapshot, label: &str) -> usize {
    let is = |upstream: &Option<Arc<Upstream>>| upstream.as_ref().is_some_and(|upstream| &*upstream.label == label);
    snapshot.upstreams.iter().position(is).expect("an upstream of this label")
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    upstream.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

const ALL: &str = "
[upstreams.a]
consul = { service = \"a\" }
subsets = { v1 = { version = \"v1\" } }
[upstreams.b]
endpoints = [\"10.0.1.1:80\"]
[routes.r]
match = { path = \"/a\" }
targets = [ { upstream = \"a\", subset = \"v1\", weight = 9 }, { upstream = \"b\" } ]
[routes.s]
match = { path = \"/b\" }
upstream = \"b\"
";

fn gateway() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.file(ALL);
    gateway.world.source(&consul("a"), "10.0.0.1:80 version=v1\n10.0.0.2:80 version=v2");
    gateway.build();
    gateway
}

#[test]
fn a_snapshot_says_what_was_merged() {
    let gateway = gateway();
    insta::assert_snapshot!(told(&gateway.snapshot), @r#"
    upstream a of file known 30s
      10.0.0.1:80 weight 1 {"version": "v1"} Passing
      10.0.0.2:80 weight 1 {"version": "v2"} Passing
    upstream b of file known 30s
      10.0.1.1:80 weight 1 {} Unchecked
    route r of file to a/v1=a/v1, b=b/all: resolved
    route s of file to b=b/all: resolved
    "#);
}

#[test]
fn datacenters_go_one_after_another() {
    let text = |more: &str| {
        format!("[upstreams.u]\nconsul = {{ service = \"u\", datacenters = [\"east\", \"west\"]{more} }}\n")
    };
    let at = |datacenter: &str, near: Option<&str>| {
        Source::Consul(ConsulService {
            datacenter: Some(datacenter.into()),
            near: near.map(Into::into),
            ..ConsulService::named("u")
        })
    };
    let priorities = |snapshot: &Snapshot| -> Vec<(String, u16)> {
        let endpoints = upstream(snapshot, "u").endpoints.iter();
        endpoints.map(|endpoint| (endpoint.address.to_string(), endpoint.priority)).collect()
    };
    let wanted = |levels: &[(&str, u16)]| -> Vec<(String, u16)> {
        levels.iter().map(|(last, level)| (format!("10.0.0.{last}:80"), *level)).collect()
    };
    let mut gateway = Gateway::new();
    gateway.file(&text(""));
    let (_, now) = gateway.build();
    assert!(!upstream(&now, "u").known);
    // One of them is enough to serve.
    gateway.world.source(&at("west", None), "10.0.0.3:80\n10.0.0.2:80");
    let (_, now) = gateway.build();
    assert_eq!((priorities(&now), upstream(&now, "u").known), (wanted(&[("2", 1), ("3", 1)]), true));
    gateway.world.source(&at("east", None), "10.0.0.1:80\n10.0.0.2:80");
    let (_, now) = gateway.build();
    assert_eq!(
        priorities(&now),
        wanted(&[("1", 0), ("2", 0), ("3", 1)]),
        "an address belongs to the first that has it"
    );
    // Only what is held is, whatever the other says.
    gateway.world.source_of(&at("east", None), "10.0.0.1:80", Origin::Held, &[]);
    let (_, now) = gateway.build();
    let held: Vec<bool> = upstream(&now, "u").endpoints.iter().map(|endpoint| endpoint.held).collect();
    assert_eq!((priorities(&now), held), (wanted(&[("1", 0), ("2", 1), ("3", 1)]), vec![true, false, false]));
    // Levels within each: near and far, or by label.
    gateway.file(&text(", near = \"_agent\""));
    gateway.world.source(&at("east", Some("_agent")), "10.0.0.1:80 priority=0\n10.0.0.2:80 priority=1");
    let (_, now) = gateway.build();
    assert_eq!(priorities(&now), wanted(&[("1", 0), ("2", 1), ("3", 2)]));
    gateway.file(&(text("") + "priorities = [{ zone = \"a\" }]"));
    gateway.world.source(&at("east", None), "10.0.0.1:80 zone=b\n10.0.0.2:80 zone=a");
    gateway.world.source(&at("west", None), "10.0.0.3:80 zone=b\n10.0.0.4:80 zone=a");
    let (_, now) = gateway.build();
    assert_eq!(priorities(&now), wanted(&[("1", 1), ("2", 0), ("3", 3), ("4", 2)]));
}

#[test]
fn equal_input_makes_no_snapshot() {
    let mut gateway = gateway();
    let (before, after) = gateway.build();
    assert!(Arc::ptr_eq(&before, &after));
    // The same words again, parsed and allocated anew.
    gateway.file(&format!("# moved\n{ALL}"));
    gateway.world.source(&consul("a"), "10.0.0.1:80 version=v1\n10.0.0.2:80 version=v2");
    let (before, after) = gateway.build();
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn a_change_of_an_endpoint_rebuilds_one_upstream() {
    let mut gateway = gateway();
    gateway.world.source(&consul("a"), "10.0.0.2:80 version=v2 weight=7 warning\n10.0.0.3:80");
    let (before, after) = gateway.build();
    assert!(Arc::ptr_eq(&before.routes, &after.routes));
    assert!(Arc::ptr_eq(upstream(&before, "b"), upstream(&after, "b")));
    let (old, new) = (upstream(&before, "a"), upstream(&after, "a"));
    assert!(Arc::ptr_eq(&old.state, &new.state) && Arc::ptr_eq(&old.settings, &new.settings));
    assert_eq!(addresses(new), ["10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(new.endpoints[0].weight, 7);
    assert!(Arc::ptr_eq(&old.endpoints[1].state, &new.endpoints[0].state));
}

#[test]
fn a_change_of_settings_keeps_endpoints_and_routes() {
    let mut gateway = gateway();
    let edited = ALL.replace(
        "[upstreams.b]\n",
        "[upstreams.b]\nresponse_timeout = \"3s\"\nbalance = \"round_robin\"\nhealth_check = { path = \"/healthz\" }\n",
    );
    gateway.file(&edited);
    let (before, after) = gateway.build();
    assert!(Arc::ptr_eq(&before.routes, &after.routes));
    let (old, new) = (upstream(&before, "b"), upstream(&after, "b"));
    assert!(new.checked() && !old.checked());
    assert!(Arc::ptr_eq(&old.state, &new.state) && Arc::ptr_eq(&old.endpoints, &new.endpoints));
}

#[test]
fn where_refused_requests_go_follows_what_is_there() {
    let mut gateway = gateway();
    let falling_back = ALL.replace("[upstreams.b]\n", "[upstreams.b]\nbreaker.fallback.upstream = \"c@file\"\n");
    gateway.file(&falling_back);
    let (before, after) = gateway.build();
    assert_eq!(upstream(&after, "b").fallback, None);
    assert!(after.report.diagnostics.iter().any(|one| one.problem.text.contains("there is no upstream `c@file`")));
    assert!(Arc::ptr_eq(&upstream(&before, "b").state, &upstream(&after, "b").state));
    gateway.file(&format!("[upstreams.c]\nendpoints = [\"10.0.2.1:80\"]\n{falling_back}"));
    let (_, after) = gateway.build();
    assert_eq!(upstream(&after, "b").fallback, Some(slot(&after, "c")));
    assert!(!after.report.remarks.iter().any(|problem| problem.text.contains("c@file")));
}

#[test]
fn an_edit_of_one_route_keeps_the_others() {
    let mut gateway = gateway();
    gateway.file(&ALL.replace("path = \"/b\"", "path = \"/c\""));
    let (before, after) = gateway.build();
    assert!(Arc::ptr_eq(&before.upstreams, &after.upstreams));
    let routes = |label| (before.routes.by_label(label).expect("a route"), after.routes.by_label(label).expect("one"));
    let ((r_before, r_after), (s_before, s_after)) = (routes("r"), routes("s"));
    assert!(Arc::ptr_eq(r_before, r_after) && !Arc::ptr_eq(s_before, s_after));
}

#[test]
fn an_upstream_that_comes_or_goes_moves_no_other() {
    let mut gateway = gateway();
    gateway.file(&format!("[upstreams.aa]\nendpoints = [\"10.0.2.1:80\"]\n{ALL}"));
    let (before, with) = gateway.build();
    assert!(Arc::ptr_eq(&before.routes, &with.routes), "no route names it");
    for label in ["a", "b"] {
        assert_eq!(slot(&before, label), slot(&with, label));
        assert!(Arc::ptr_eq(upstream(&before, label), upstream(&with, label)));
    }
    gateway.file(ALL);
    let (_, without) = gateway.build();
    assert!(Arc::ptr_eq(&before.routes, &without.routes));
    // A slot in the middle is left empty, then taken again.
    gateway.file("[upstreams.b]\nendpoints = [\"10.0.1.1:80\"]\n");
    let (_, one) = gateway.build();
    assert!(one.upstream(slot(&before, "a")).is_none());
    assert_eq!(slot(&one, "b"), slot(&before, "b"));
    gateway.file("[upstreams.b]\nendpoints = [\"10.0.1.1:80\"]\n[upstreams.z]\nendpoints = [\"10.0.3.1:80\"]\n");
    let (_, two) = gateway.build();
    assert_eq!(slot(&two, "z"), slot(&before, "a"));
    assert_eq!(slot(&two, "b"), slot(&before, "b"));
}

#[test]
fn a_route_that_no_longer_resolves_stays_the_same_object_but_for_its_state() {
    let mut gateway = gateway();
    let route = |snapshot: &Snapshot| Arc::clone(snapshot.routes.by_label("r").expect("a route"));
    let kept = |text: &str| RouteState::Kept(vec![text.to_owned()]);
    let (_, before) = gateway.build();
    gateway.file(&ALL.replace("[upstreams.b]", "[upstreams.c]"));
    let (_, without) = gateway.build();
    assert_eq!(route(&without).state, kept("there is no upstream `b`"));
    assert!(Arc::ptr_eq(upstream(&before, "b"), upstream(&without, "b")), "what is retained is the same object");
    gateway.file(&ALL.replace("subsets = { v1", "subsets = { v2"));
    let (_, subset) = gateway.build();
    assert_eq!(route(&subset).state, kept("upstream `a` has no subset `v1`"));
    assert!(Arc::ptr_eq(&upstream(&before, "a").state, &upstream(&subset, "a").state));
    gateway.file(&ALL.replace("subsets = {", "subsets = { early = { version = \"v0\" },"));
    let (_, again) = gateway.build();
    assert_eq!(route(&again).state, RouteState::Resolved);
    assert_eq!(
        (route(&before).targets[0].subset, route(&again).targets[0].subset),
        (1, 2),
        "subsets are counted by name"
    );
}

#[test]
fn a_name_that_changes_hands_is_no_longer_its_former_provider_s() {
    let mut gateway = Gateway::new();
    let upstream = "[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n";
    let route = "[routes.r]\nmatch = {}\nupstream = \"u@file\"\n";
    gateway.world.documents(ProviderId::ConsulKv, &upstream.replace(".1:", ".2:"));
    gateway.file(&format!("{upstream}{route}"));
    let (_, with) = gateway.build();
    assert_eq!(with.routes.routes()[0].state, RouteState::Resolved);
    gateway.file(route);
    let (_, without) = gateway.build();
    assert!(matches!(without.routes.routes()[0].state, RouteState::Kept(_)));
    assert_eq!(addresses(self::upstream(&without, "u")), ["10.0.0.2:80"]);
    assert_eq!(
        addresses(self::upstream(&without, "u@file")),
        ["10.0.0.1:80"],
        "what is retained is asked for by its provider"
    );
}

#[test]
fn of_two_registrations_of_an_address_the_newest_wins() {
    let mut gateway = gateway();
    let lines = "10.0.0.1:80 id=node/old modified=7 weight=2\n10.0.0.1:80 id=node/new modified=9 weight=3\n\
                 10.0.0.1:80 id=node/older modified=5 weight=4";
    gateway.world.source(&consul("a"), lines);
    let (_, after) = gateway.build();
    assert_eq!(addresses(upstream(&after, "a")), ["10.0.0.1:80"]);
    assert_eq!(upstream(&after, "a").endpoints[0].weight, 3);
    let remarks: Vec<String> = after.report.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(
        remarks,
        [
            "consul:a: upstreams.a: 10.0.0.1:80 is registered twice: `node/new` is newer and wins over `node/old`",
            "consul:a: upstreams.a: 10.0.0.1:80 is registered twice: `node/new` is newer and wins over `node/older`",
        ]
    );
    // The remark stays while its cause does, whatever else changes.
    gateway.file(&ALL.replace("path = \"/b\"", "path = \"/c\""));
    let (_, later) = gateway.build();
    assert!(Arc::ptr_eq(&after.report, &later.report));
    gateway.world.source(&consul("a"), "10.0.0.1:80 id=node/new modified=9 weight=3");
    let (_, mended) = gateway.build();
    assert!(mended.report.remarks.is_empty());
    assert!(Arc::ptr_eq(upstream(&after, "a"), upstream(&mended, "a")), "only the report changed");
}

#[test]
fn a_host_name_is_all_its_addresses() {
    let mut gateway = Gateway::new();
    gateway.file("[upstreams.u]\nendpoints = [{ address = \"u.internal:81\", weight = 3 }, \"10.0.0.9:80\"]\n");
    gateway.world.source(&dns("u.internal"), "10.0.0.1:1\n[fd00::1]:1");
    let (_, one) = gateway.build();
    assert_eq!(addresses(upstream(&one, "u")), ["10.0.0.1:81", "10.0.0.9:80", "[fd00::1]:81"]);
    assert_eq!(upstream(&one, "u").endpoints[2].weight, 3);
    gateway.world.source(&dns("u.internal"), "10.0.0.1:1\n10.0.0.2:1");
    let (_, two) = gateway.build();
    assert_eq!(addresses(upstream(&two, "u")), ["10.0.0.1:81", "10.0.0.2:81", "10.0.0.9:80"]);
    assert!(Arc::ptr_eq(&upstream(&one, "u").endpoints[0].state, &upstream(&two, "u").endpoints[0].state));
}

#[test]
fn a_route_stays_until_its_new_upstream_was_read() {
    let mut gateway = gateway();
    let edited = ALL.replace("[upstreams.b]", "[upstreams.new]\nconsul = { service = \"new\" }\n[upstreams.b]");
    let edited = edited.replace("match = { path = \"/b\" }\nupstream = \"b\"", "match = {}\nupstream = \"new\"");
    gateway.file(&edited);
    let (before, waits) = gateway.build();
    assert!(Arc::ptr_eq(&before.routes, &waits.routes));
    assert_eq!(gateway.builder.due(), Some(gateway.now + Duration::from_secs(5)));
    gateway.now += Duration::from_secs(1);
    gateway.world.source(&consul("new"), "10.0.4.1:80");
    let (_, read) = gateway.build();
    let target = |snapshot: &Snapshot| snapshot.routes.by_label("s").expect("a route").targets[0].label.to_string();
    assert_eq!((target(&waits), target(&read)), ("b".to_owned(), "new".to_owned()));
    assert_eq!(gateway.builder.due(), None);
}

#[test]
fn a_route_waits_five_seconds_at_most_and_only_for_what_it_needs() {
    let mut gateway = gateway();
    let target = |snapshot: &Snapshot| snapshot.routes.by_label("s").expect("a route").targets[0].label.to_string();
    let with_new = |route: &str| {
        let text = ALL.replace("[upstreams.b]", "[upstreams.new]\nconsul = { service = \"new\" }\n[upstreams.b]");
        text.replace("match = { path = \"/b\" }\nupstream = \"b\"", route)
    };
    gateway.file(&with_new("match = {}\nupstream = \"new\""));
    gateway.build();
    // Another edit does not begin the time anew.
    gateway.now += Duration::from_secs(3);
    gateway.file(&with_new("match = { path = \"/c\" }\nupstream = \"new\""));
    let (_, waits) = gateway.build();
    assert_eq!(target(&waits), "b");
    gateway.now += Duration::from_secs(2);
    let (_, late) = gateway.build();
    assert_eq!(target(&late), "new");
    assert_eq!(gateway.builder.due(), None);
    let (before, after) = gateway.build();
    assert!(Arc::ptr_eq(&before, &after));
    // A share of 0 draws nobody there.
    let mut gateway = self::gateway();
    gateway.file(&with_new("match = {}\ntargets = [{ upstream = \"b\" }, { upstream = \"new\", weight = 0 }]"));
    let (_, at_once) = gateway.build();
    assert_eq!(at_once.routes.by_label("s").expect("a route").targets.len(), 2);
    let mut gateway = self::gateway();
    let without = "[upstreams.new]\nconsul = { service = \"new\" }\n[routes.s]\nmatch = {}\nupstream = \"new\"\n";
    gateway.file(without);
    let (_, at_once) = gateway.build();
    assert_eq!(target(&at_once), "b", "removed by the same edit, it serves until the new one was read");
    gateway.now += Duration::from_secs(5);
    let (_, late) = gateway.build();
    assert_eq!(target(&late), "new");
}

#[test]
fn endpoints_stay_until_the_new_source_was_read() {
    let mut gateway = gateway();
    gateway.file(&ALL.replace("service = \"a\"", "service = \"other\""));
    gateway.world.forget(&consul("a"));
    let (before, waits) = gateway.build();
    assert!(Arc::ptr_eq(&upstream(&before, "a").endpoints, &upstream(&waits, "a").endpoints));
    assert!(!upstream(&waits, "a").known);
    gateway.now += Duration::from_secs(1);
    gateway.world.source(&consul("other"), "10.0.0.2:80\n10.0.0.7:80");
    let (_, read) = gateway.build();
    assert_eq!(addresses(upstream(&read, "a")), ["10.0.0.2:80", "10.0.0.7:80"]);
    assert!(Arc::ptr_eq(&upstream(&before, "a").endpoints[1].state, &upstream(&read, "a").endpoints[0].state));
    assert_eq!(gateway.builder.due(), None);
    // An empty answer is an answer.
    gateway.file(ALL);
    let (_, waits) = gateway.build();
    assert_eq!(upstream(&waits, "a").endpoints.len(), 2);
    gateway.world.source(&consul("a"), "");
    let (_, empty) = gateway.build();
    assert!(upstream(&empty, "a").endpoints.is_empty() && upstream(&empty, "a").known);
}

#[test]
fn endpoints_of_a_source_that_never_answers_go_after_five_seconds() {
    let mut gateway = gateway();
    gateway.file(&ALL.replace("service = \"a\"", "service = \"other\""));
    gateway.build();
    gateway.now += Duration::from_secs(5);
    let (_, late) = gateway.build();
    assert!(upstream(&late, "a").endpoints.is_empty());
    let (before, after) = gateway.build();
    assert!(Arc::ptr_eq(&before, &after));
}

/// Something that a person or a registry does.
#[derive(Clone, Debug)]
enum Edit {
    Upstream { provider: ProviderId, name: &'static str, text: Option<String> },
    Route { provider: ProviderId, name: &'static str, text: Option<String> },
    Source { source: Source, lines: Option<String> },
    Time(u64),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let provider = || prop::sample::select(vec![ProviderId::File, ProviderId::ConsulKv]);
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let place =
        prop_oneof![9 => (0..5).prop_map(|host| format!("10.0.0.{host}:80")), 1 => Just("h.internal:80".into())];
    let endpoint = (place, 0..3, 0..3, prop::sample::select(vec!["", "critical", "maintenance"]), 0..4).prop_map(
        |(place, weight, version, status, modified)| {
            format!("{place} id={place}-{modified} weight={weight} version=v{version} modified={modified} {status}\n")
        },
    );
    let lines = prop::collection::vec(endpoint, 0..6).prop_map(|lines| lines.concat());
    let from = prop_oneof![
        name().prop_map(|service| format!("consul = {{ service = \"{service}\" }}\n")),
        prop::collection::btree_map(0..4, 0..3, 0..4).prop_map(|hosts| {
            let one = |(host, weight)| format!("{{ address = \"10.0.0.{host}:80\", weight = {weight} }},");
            format!("endpoints = [{}]\n", hosts.into_iter().map(one).collect::<String>())
        }),
    ];
    let settings = prop::sample::select(vec![
        "",
        "response_timeout = \"1s\"\n",
        "subsets = { v1 = { version = \"v1\" } }\n",
        "subsets = { v0 = { version = \"v0\" }, v1 = { version = \"v1\" } }\n",
        "health_check = { path = \"/healthz\" }\n",
    ]);
    let target = prop::sample::select(vec![
        "\"a\"",
        "\"b\"",
        "\"c\"",
        "\"a@file\"",
        "\"a@consul-kv\"",
        "\"a\", subset = \"v1\"",
    ]);
    let targets = prop::collection::vec((target, 0..3), 1..3).prop_map(|targets| {
        let one = |(target, weight)| format!("{{ upstream = {target}, weight = {weight} }},");
        format!("match = {{}}\ntargets = [{}]\n", targets.into_iter().map(one).collect::<String>())
    });
    let source = prop_oneof![4 => name().prop_map(consul), 1 => Just(dns("h.internal"))];
    prop_oneof![
        (provider(), name(), prop::option::weighted(0.8, (from, settings).prop_map(|(from, rest)| from + rest)))
            .prop_map(|(provider, name, text)| Edit::Upstream { provider, name, text }),
        (provider(), name(), prop::option::weighted(0.8, targets)).prop_map(|(provider, name, text)| Edit::Route {
            provider,
            name,
            text
        }),
        (source, prop::option::weighted(0.9, lines)).prop_map(|(source, lines)| Edit::Source { source, lines }),
        (0..4_000u64).prop_map(Edit::Time),
    ]
}

type Texts = BTreeMap<(ProviderId, String), String>;

fn apply(edit: &Edit, gateway: &mut Gateway, texts: &mut Texts) {
    let (provider, section, text) = match edit {
        Edit::Upstream { provider, name, text } => (*provider, format!("[upstreams.{name}]\n"), text),
        Edit::Route { provider, name, text } => (*provider, format!("[routes.{name}]\n"), text),
        Edit::Source { source, lines: Some(lines) } => return gateway.world.source(source, lines),
        Edit::Source { source, lines: None } => return gateway.world.forget(source),
        Edit::Time(ms) => return gateway.now += Duration::from_millis(*ms),
    };
    match text {
        Some(text) => texts.insert((provider, section.clone()), section + text),
        None => texts.remove(&(provider, section)),
    };
    let whole: String = texts.iter().filter(|((of, _), _)| *of == provider).map(|(_, text)| text.as_str()).collect();
    gateway.world.documents(provider, &whole);
}

/// What every step from one snapshot to the next keeps.
fn check_kept(before: &Snapshot, after: &Snapshot) -> Result<(), TestCaseError> {
    for old in before.upstreams() {
        let Some(new) = after.upstreams().find(|new| new.label == old.label) else { continue };
        prop_assert_eq!(slot(before, &old.label), slot(after, &new.label));
        prop_assert!(Arc::ptr_eq(&old.state, &new.state));
        prop_assert_eq!(Arc::ptr_eq(&old.settings, &new.settings), old.settings == new.settings);
        prop_assert_eq!(Arc::ptr_eq(&old.endpoints, &new.endpoints), old.endpoints == new.endpoints);
        let same = old.settings == new.settings && old.endpoints == new.endpoints;
        let same = same && (&old.sources, old.provider, old.known) == (&new.sources, new.provider, new.known);
        prop_assert_eq!(Arc::ptr_eq(old, new), same);
        for endpoint in old.endpoints.iter() {
            let survivor = new.endpoints.iter().find(|other| other.address == endpoint.address);
            prop_assert!(survivor.is_none_or(|survivor| Arc::ptr_eq(&survivor.state, &endpoint.state)));
        }
    }
    let mut all_same = before.routes.routes().len() == after.routes.routes().len();
    for new in after.routes.routes() {
        let old = before.routes.by_label(&new.label);
        let same =
            old.is_some_and(|old| old.provider == new.provider && *old.spec == *new.spec && resolved_alike(old, new));
        prop_assert_eq!(same, old.is_some_and(|old| Arc::ptr_eq(old, new)));
        all_same &= same;
    }
    all_same &= before.routes.seniority() == after.routes.seniority();
    all_same &= before.report.contests == after.report.contests;
    prop_assert_eq!(Arc::ptr_eq(&before.routes, &after.routes), all_same);
    Ok(())
}

/// What holds in every snapshot.
fn check_sound(snapshot: &Snapshot) -> Result<(), TestCaseError> {
    for upstream in snapshot.upstreams() {
        let sorted = upstream.endpoints.is_sorted_by(|a, b| a.address < b.address);
        prop_assert!(sorted, "one endpoint an address, in order");
    }
    for route in snapshot.routes.routes() {
        if !route.state.is_served() {
            continue;
        }
        for target in &route.targets {
            let upstream = snapshot.upstream(target.slot).expect("a resolved target leads to an upstream");
            prop_assert_eq!(&upstream.name, &target.spec.upstream.name);
            prop_assert!(target.spec.upstream.provider.is_none_or(|provider| provider == upstream.provider));
            let subset = target.subset.checked_sub(1).map(|at| upstream.settings.subsets.keys().nth(at).cloned());
            prop_assert_eq!(subset, target.spec.subset.clone().map(Some));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_changes_the_rest_stays(edits in prop::collection::vec((any_edit(), prop::bool::weighted(0.7)), 1..40)) {
        let mut gateway = Gateway::new();
        let mut texts = Texts::new();
        for (edit, builds) in edits {
            apply(&edit, &mut gateway, &mut texts);
            if !builds {
                continue;
            }
            let (before, after) = gateway.build();
            check_kept(&before, &after)?;
            check_sound(&after)?;
            let (after, again) = gateway.build();
            prop_assert!(Arc::ptr_eq(&after, &again), "equal input makes no snapshot");
        }
        // Once nobody waits any more, the way here does not show.
        gateway.build();
        gateway.now += Duration::from_secs(5);
        let (before, after) = gateway.build();
        check_kept(&before, &after)?;
        let mut fresh = Builder::new(gateway.now);
        let remembered = gateway.world.merge_with(&mut gateway.merger.forms().clone());
        let anew = fresh.build(&remembered, &Affected::All, &Snapshot::empty(), gateway.now).expect("a first snapshot");
        prop_assert_eq!(told(&after), told(&anew));
    }
}
