//! What is served after mistakes, text in and text out: a file is edited, and what stays of what was there before.

use std::fmt::Write as _;
use std::sync::Arc;

use super::super::fixture::{World, consul};
use super::super::merge::Merger;
use crate::snapshot::RouteState;
use crate::spec::document::{Blocked, TextId};
use crate::spec::name::ProviderId;

/// Edits, and what is merged after each.
pub(super) struct Edits {
    pub(super) world: World,
    pub(super) merger: Merger,
}

impl Edits {
    pub(super) fn new(file: &str) -> Self {
        let mut world = World::new();
        for provider in [ProviderId::Etcd, ProviderId::ConsulKv] {
            world.documents(provider, "");
        }
        let mut edits = Self { world, merger: Merger::default() };
        edits.file(file);
        edits
    }

    /// What is served once a file reads so.
    pub(super) fn file(&mut self, text: &str) -> String {
        self.edit(ProviderId::File, text)
    }

    pub(super) fn edit(&mut self, provider: ProviderId, text: &str) -> String {
        self.world.documents(provider, text);
        self.told()
    }

    pub(super) fn told(&mut self) -> String {
        let World { states, rules, overlay, .. } = &self.world;
        let (merged, _) = self.merger.merge(states, rules, overlay);
        let mut text = String::new();
        for (label, upstream) in &merged.upstreams {
            let endpoints: Vec<_> = upstream.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
            let subsets: Vec<_> = upstream.spec.settings.subsets.keys().map(|name| format!("/{name}")).collect();
            writeln!(text, "upstream {label} of {}: {}", upstream.provider, [endpoints, subsets].concat().join(" "))
                .expect("text");
        }
        for (label, middleware) in &merged.middlewares {
            writeln!(text, "middleware {label} of {}: {}", middleware.provider, middleware.spec.kind()).expect("text");
        }
        for route in &merged.routes {
            let state = match &route.state {
                RouteState::Resolved => "resolved".to_owned(),
                RouteState::Kept(reasons) => format!("kept: {}", reasons.join("; ")),
                RouteState::Unresolved(reasons) => format!("unresolved: {}", reasons.join("; ")),
            };
            let targets: Vec<_> = route.spec.targets.iter().map(|target| target.label().to_string()).collect();
            writeln!(text, "route {} of {} to {}: {state}", route.name, route.provider, targets.join(" "))
                .expect("text");
        }
        // The same again changes nothing, and what it remembers is the same.
        let mut forms = self.merger.forms().clone();
        assert!(self.world.merge_with(&mut forms) == *self.merger.merged(), "the same items give the same result");
        assert!(forms == *self.merger.forms());
        text
    }

    pub(super) fn diagnostics(&self) -> String {
        let mut forms = self.merger.forms().clone();
        let lines = self.world.merge_with(&mut forms).report.diagnostics.into_iter();
        lines.map(|one| format!("{} {}: {}\n", one.kind.as_str(), one.provider, one.line())).collect()
    }
}

pub(super) const SHOP: &str = r#"
[upstreams.shop]
endpoints = ["10.0.0.1:80"]
subsets.canary = { version = "v2" }
[upstreams.auth]
endpoints = ["10.0.0.9:80"]
[middlewares.login]
forward_auth = { upstream = "auth", path = "/" }
[routes.shop]
match = { path = "/shop" }
targets = [{ upstream = "shop", subset = "canary", weight = 1 }]
middlewares = ["login"]
"#;

#[test]
fn a_wrong_name_in_an_edit_changes_nothing() {
    let mut edits = Edits::new(SHOP);
    let served = edits.told();
    for (from, to, fault) in [
        ("upstream = \"shop\"", "upstream = \"shpo\"", "there is no upstream `shpo`"),
        ("subset = \"canary\"", "subset = \"canari\"", "upstream `shop` has no subset `canari`"),
        ("upstream = \"shop\", subset = \"canary\"", "upstream = \"shop@etcd\"", "there is no upstream `shop@etcd`"),
    ] {
        let kept = served.replace("resolved", &format!("kept: {fault}"));
        assert_eq!(edits.file(&SHOP.replace(from, to)), kept);
        assert_eq!(edits.file(SHOP), served);
    }
    edits.file(&SHOP.replace("upstream = \"shop\"", "upstream = \"shpo\""));
    insta::assert_snapshot!(edits.diagnostics(), @"kept file: file:9:9: routes.shop: there is no upstream `shpo`: correct the name, or define it; the last form that resolved stays in use");
}

#[test]
fn what_is_removed_while_it_is_needed_stays_for_who_needs_it() {
    let mut edits = Edits::new(SHOP);
    let served = edits.told();
    let without = |section: &str| {
        let at = SHOP.find(section).expect("a section");
        let end = SHOP[at + 1..].find("\n[").map_or(SHOP.len(), |end| at + 1 + end);
        format!("{}{}", &SHOP[..at], &SHOP[end..])
    };
    for (section, fault) in
        [("[upstreams.shop]", "there is no upstream `shop`"), ("[middlewares.login]", "there is no middleware `login`")]
    {
        assert_eq!(edits.file(&without(section)), served.replace("resolved", &format!("kept: {fault}")), "{section}");
        assert_eq!(edits.file(SHOP), served, "{section} is back");
    }
    let subset = SHOP.replace("subsets.canary = { version = \"v2\" }", "subsets.other = { version = \"v3\" }");
    let kept = served.replace("resolved", "kept: upstream `shop` has no subset `canary`");
    assert_eq!(edits.file(&subset), kept.replace(":80 /canary", ":80 /canary /other"));
    // The upstream of a middleware is the middleware's: its route is as it was.
    edits.file(SHOP);
    assert_eq!(edits.file(&without("[upstreams.auth]")), served);
    insta::assert_snapshot!(edits.diagnostics(), @"kept file: file:6:14: middlewares.login: there is no upstream `auth`: correct the name, or define it; the last form that resolved stays in use");
    // All of them at once, then the route: nothing needs them any more.
    let route = &SHOP[SHOP.find("[routes.shop]").expect("a route")..];
    let kept = "kept: there is no middleware `login`; there is no upstream `shop`";
    assert_eq!(edits.file(route), served.replace("resolved", kept));
    assert_eq!(edits.file(""), "");
    assert_eq!(
        edits.file(route),
        "route shop of file to shop/canary: unresolved: there is no middleware `login`; there is no upstream `shop`\n"
    );
}

#[test]
fn a_middleware_that_the_last_form_did_not_have_is_never_left_out() {
    let mut edits = Edits::new(SHOP);
    let wrong = SHOP.replace("middlewares = [\"login\"]", "middlewares = [\"login\", \"lgoin\"]");
    let told = edits.file(&wrong);
    assert!(told.ends_with("unresolved: there is no middleware `lgoin`\n"), "{told}");
    assert!(edits.diagnostics().contains("may protect the route"), "{}", edits.diagnostics());
    // Nor by a target, nor with another mistake beside it, nor by a provider that does not define it.
    let weight = "weight = 1";
    for names in ["[\"login@etcd\"]", "[\"other\"]"] {
        let target =
            SHOP.replace(weight, &format!("{weight}, middlewares = {names}")).replace("\"canary\", w", "\"x\", w");
        let told = edits.file(&target);
        assert!(told.contains("unresolved: there is no middleware"), "{told}");
    }
    // The form before is not forgotten by it.
    let told = edits.file(&SHOP.replace("upstream = \"shop\"", "upstream = \"shpo\""));
    assert!(told.contains("kept: there is no upstream `shpo`"), "{told}");
}

#[test]
fn a_route_that_never_resolved_gets_nothing_that_is_retained() {
    let mut edits = Edits::new(SHOP);
    let new = "[routes.new]\nmatch = { path = \"/new\" }\nupstream = \"shop\"\n";
    let route = &SHOP[SHOP.find("[routes.shop]").expect("a route")..];
    let told = edits.file(&format!("{new}{route}"));
    assert!(told.contains("route new of file to shop: unresolved: there is no upstream `shop`"), "{told}");
    assert!(told.contains("route shop of file to shop/canary: kept"), "{told}");
}

#[test]
fn what_is_defined_again_by_anybody_takes_the_place_of_what_is_retained() {
    let mut edits = Edits::new(SHOP);
    edits.file(&SHOP.replace("[upstreams.shop]", "[upstreams.gone]"));
    let again = "[upstreams.shop]\nendpoints = [\"10.0.0.2:80\"]\nsubsets.canary = { version = \"v3\" }\n";
    let told = edits.edit(ProviderId::Etcd, again);
    assert!(told.contains("upstream shop of etcd: 10.0.0.2:80 /canary\n") && told.contains(": resolved"), "{told}");
}

#[test]
fn a_route_of_another_provider_that_does_not_resolve_leaves_the_former_one_in_use() {
    let mut edits = Edits::new("");
    edits.edit(ProviderId::ConsulKv, SHOP);
    let told = edits.file("[routes.shop]\nmatch = { path = \"/shop\" }\nupstream = \"nobody\"\n");
    assert!(told.contains("route shop of consul-kv to shop/canary: kept: there is no upstream `nobody`"), "{told}");
    let told = edits.edit(ProviderId::ConsulKv, "");
    assert!(told.contains("route shop of consul-kv to shop/canary: kept"), "the name is still asked for: {told}");
}

#[test]
fn a_fallback_that_does_not_exist_leaves_its_upstream_as_it_was() {
    const PAIR: &str = "[upstreams.a]\nendpoints = [\"10.0.0.1:80\"]\nbreaker.fallback.upstream = \"b\"\n\
                        [upstreams.b]\nendpoints = [\"10.0.0.2:80\"]\n";
    let mut edits = Edits::new(PAIR);
    let served = edits.told();
    let wrong = PAIR.replace("10.0.0.1", "10.0.0.3").replace("\"b\"", "\"bb\"");
    assert_eq!(edits.file(&wrong), served);
    insta::assert_snapshot!(edits.diagnostics(), @"kept file: file:1:12: upstreams.a: there is no upstream `bb`: correct the name, or define it; the last form that resolved stays in use");
    assert_eq!(edits.file(&PAIR[..PAIR.find("[upstreams.b]").expect("b")]), served);
    // One that never had its fallback follows its edits.
    let mut edits = Edits::new(&wrong);
    assert!(edits.file(&wrong.replace("10.0.0.3", "10.0.0.4")).contains("upstream a of file: 10.0.0.4:80"));
}

#[test]
fn an_upstream_of_a_registry_that_is_off_stays_where_it_was() {
    let mut edits = Edits::new("[upstreams.a]\nendpoints = [\"10.0.0.1:80\"]\n");
    edits.world.rules.consul = false;
    let told = edits.file("[upstreams.a]\nconsul.service = \"a\"\n");
    assert_eq!(told, "upstream a of file: 10.0.0.1:80\n");
    assert!(edits.diagnostics().contains("[discovery.consul] is not configured"), "{}", edits.diagnostics());
}

#[test]
fn a_listener_keeps_its_middlewares() {
    let mut edits = Edits::new(SHOP);
    let web = ("web".parse().expect("a name"), vec!["login".parse().expect("a reference")]);
    edits.world.rules.listeners = [web].into();
    let mut edits = Edits { world: edits.world, merger: Merger::default() };
    edits.told();
    let told = edits.file("");
    assert!(told.contains("middleware login of file") && told.contains("upstream auth of file"), "{told}");
    assert!(edits.diagnostics().contains("configuration: listeners.web.middlewares: there is no middleware `login`"));
    let mut never = Edits { merger: Merger::default(), ..edits };
    assert_eq!(never.told(), "", "one that never had them has none to keep");
}

#[test]
fn what_is_retained_is_read_for_until_its_successor_is_known() {
    let mut edits =
        Edits::new("[upstreams.old]\nconsul.service = \"old\"\n[routes.r]\nmatch = {}\nupstream = \"old\"\n");
    edits.world.source(&consul("old"), "10.0.0.1:80");
    edits.told();
    let told = edits.file("[routes.r]\nmatch = {}\nupstream = \"old\"\n");
    assert!(told.contains("upstream old of file: 10.0.0.1:80"), "{told}");
    let merged = edits.world.merge_with(&mut edits.merger.forms().clone());
    assert_eq!(merged.wanted, [consul("old")].into(), "its endpoints are followed");
    let new = "[upstreams.new]\nconsul.service = \"new\"\n[routes.r]\nmatch = {}\nupstream = \"new\"\n";
    let told = edits.file(new);
    assert!(told.contains("upstream old of file") && told.contains("route r of file to new: resolved"), "{told}");
    edits.world.source(&consul("new"), "10.0.0.2:80");
    edits.told();
    edits.world.source(&consul("new"), "10.0.0.2:80\n10.0.0.3:80");
    assert!(!edits.told().contains("upstream old"), "nothing needs it any more");
}

#[test]
fn another_providers_middleware_does_not_stand_in_for_one_that_is_blocked() {
    let harmless = "[middlewares.keys]\nstrip_prefix = \"/a\"\n";
    let route = "[routes.r]\nmatch = {}\nupstream = \"u\"\nmiddlewares = [\"keys\"]\n[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n";
    let mut edits = Edits { world: World::new(), merger: Merger::default() };
    edits.edit(ProviderId::ConsulKv, harmless);
    // While etcd has not been read, Consul's is the only one.
    assert!(edits.file(route).contains("route r of file to u: resolved"));
    let told = edits.edit(ProviderId::Etcd, "[middlewares.keys]\napi_key = { haeder = \"x\" }\n");
    assert!(told.contains("route r of file to u: unresolved: there is no middleware `keys`"), "{told}");
}

#[test]
fn a_wrong_name_of_a_listener_opens_its_route_on_no_other_one() {
    let route = |listeners: &str| {
        format!(
            "[routes.r]\nmatch = {{ path = \"/r\" }}\nlisteners = {listeners}\nupstream = \"u\"\n[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n"
        )
    };
    let served = |edits: &mut Edits, listeners: &str| {
        edits.file(&route(listeners));
        let told = |route: &super::super::merge::MergedRoute| {
            let names: Vec<&str> = route.spec.listeners.iter().map(|name| name.as_str()).collect();
            format!("{} {}", names.join(","), if route.state.is_served() { "200" } else { "503" })
        };
        edits.merger.merged().routes.iter().map(told).collect::<Vec<_>>().join("; ")
    };
    let mut edits = Edits::new("");
    assert_eq!(served(&mut edits, "[\"wbe\"]"), " 503", "one of them is meant");
    assert!(edits.diagnostics().contains("there is no listener `wbe`: correct the name"), "{}", edits.diagnostics());
    assert_eq!(served(&mut edits, "[\"web\"]"), "web 200");
    for wrong in ["[\"wbe\"]", "[\"web\", \"isnide\"]"] {
        assert_eq!(served(&mut edits, wrong), "web 200", "the last form stays: {wrong}");
        assert!(edits.diagnostics().starts_with("kept file: "), "{}", edits.diagnostics());
    }
    assert_eq!(served(&mut Edits::new(""), "[\"web\", \"isnide\"]"), "inside 503; web 200");
    assert_eq!(served(&mut Edits::new(""), "[\"web\", \"inside\", \"x\"]"), "inside,web 200");
    // Nor does what stands in for a text that is wrong itself.
    edits = Edits::new("");
    let broken = route("[\"wbe\"]").replace("upstream = ", "timout = 5\nupstream = ");
    let set = &mut crate::spec::decode::DocumentSet::new(ProviderId::Etcd, "/");
    let text = broken.replace("[routes.r]\n", "").replace("[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n", "");
    let stored = crate::spec::decode::Stored { bytes: text.as_bytes(), past: Default::default() };
    let documents = Arc::new(set.update([("/routes/r", stored)]));
    assert!(documents.routes["r"].blocked.as_ref().is_some_and(|blocked| blocked.stand_in.is_some()), "{documents:?}");
    Arc::make_mut(edits.world.states.get_mut(&ProviderId::Etcd).expect("etcd's")).documents = Some(documents);
    edits.told();
    assert!(
        edits.merger.merged().routes.iter().all(|route| route.spec.listeners.is_empty() && !route.state.is_served())
    );
}

/// Its last good form may not be the one that is remembered.
#[test]
fn what_is_remembered_of_a_middleware_does_not_stand_in_for_it_while_it_is_blocked() {
    for reference in ["keys", "keys@etcd"] {
        let route = format!(
            "[routes.r]\nmatch = {{}}\nupstream = \"u\"\nmiddlewares = [\"{reference}\"]\n[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n"
        );
        let mut edits = Edits::new(&route);
        let told = edits.edit(ProviderId::Etcd, "[middlewares.keys]\napi_key.header = \"x\"\n");
        assert!(told.contains("route r of file to u: resolved"), "{told}");
        let state = Arc::make_mut(edits.world.states.get_mut(&ProviderId::Etcd).expect("etcd's"));
        let documents = Arc::make_mut(state.documents.as_mut().expect("documents"));
        let item = documents.middlewares.get_mut("keys").expect("a middleware");
        item.good = None;
        item.blocked = Some(Blocked { stand_in: None, hides: Vec::new(), text: TextId::of(b"{", None) });
        let told = edits.told();
        assert!(
            told.contains(&format!("route r of file to u: unresolved: there is no middleware `{reference}`")),
            "{told}"
        );
    }
}

/// What goes first is read last, and does not resolve: the other provider's route was never served in its place.
#[test]
fn what_is_shadowed_is_no_earlier_form_though_it_is_read_first() {
    let mut edits = Edits { world: World::new(), merger: Merger::default() };
    let open = "[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n[routes.r]\nmatch = {}\nupstream = \"u\"\n";
    edits.edit(ProviderId::ConsulKv, open);
    edits.edit(ProviderId::Etcd, "[middlewares.keys]\napi_key.header = \"x-key\"\n");
    let told = edits.file("[routes.r]\nmatch = {}\nupstream = \"uu\"\nmiddlewares = [\"keys\"]\n");
    assert!(told.contains("route r of file to uu: unresolved: there is no upstream `uu`"), "{told}");
}
