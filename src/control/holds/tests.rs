//! What operators are told of holds, in text.

use super::super::fixture::{World, consul};
use super::*;

const DOCUMENTS: &str = "
[upstreams.users]
consul = { service = \"users\" }
[upstreams.people]
consul = { service = \"users\" }
[upstreams.orders]
consul = { service = \"orders\" }
[routes.shop]
match = { path = \"/shop\" }
upstream = \"users\"
[routes.both]
match = { path = \"/both\" }
targets = [{ upstream = \"users\", weight = 1 }, { upstream = \"orders\", weight = 1 }]
";

fn told(world: &World) -> Vec<String> {
    let merged = world.merge();
    let line = |hold: Hold| {
        let more = [hold.also, hold.lost, hold.effects].map(|list| list.join(", ")).join(" | ");
        format!("{} of {}: {more} | {}", hold.id, hold.provider, hold.refused.unwrap_or_default())
    };
    merged.report.holds.into_iter().map(line).collect()
}

#[test]
fn a_source_is_named_by_its_upstreams_and_says_which_routes_it_takes_down() {
    let mut world = World::new();
    world.documents(ProviderId::File, DOCUMENTS);
    world.source_of(&consul("users"), "10.0.0.1:80\n10.0.0.2:80", Origin::Held, &[]);
    world.source(&consul("orders"), "10.0.1.1:80");
    let state = Arc::make_mut(world.states.get_mut(&ProviderId::Consul).expect("Consul is on"));
    let lost = vec!["10.0.0.1:80".to_owned(), "10.0.0.2:80".to_owned()];
    let held = Held { lost, why: "the index did not move".into(), missing_right: None };
    state.holds.insert(HeldPart::Endpoints(consul("users")), held);
    assert_eq!(
        told(&world),
        ["upstreams/people of consul: upstreams/users | 10.0.0.1:80, 10.0.0.2:80 | \
          route shop would answer 503, route both would lose a target | "]
    );
    let merged = world.merge();
    let (hold, line) = (&merged.report.holds[0], merged.report.held[0].1.text.clone());
    assert_eq!(
        line,
        "2 of 2 endpoints are held: the index did not move; `fleetgate accept upstreams/people` shows what would be lost, \
         and asks"
    );
    for (target, named) in [
        ("consul", true),
        ("upstreams/users", true),
        ("upstreams/people@consul", true),
        ("upstreams/users@etcd", false),
        ("upstreams/orders", false),
        ("users", false),
    ] {
        assert_eq!(hold.is_named(target), named, "{target}");
    }
}

#[test]
fn a_missing_right_of_the_whole_token_refuses_every_hold() {
    let mut world = World::new();
    world.documents(ProviderId::File, DOCUMENTS);
    world.source_of(&consul("users"), "10.0.0.1:80", Origin::Held, &[]);
    let state = Arc::make_mut(world.states.get_mut(&ProviderId::Consul).expect("Consul is on"));
    state.missing_rights.insert(crate::spec::hold::Scope::All, "the token is not accepted".into());
    let merged = world.merge();
    assert_eq!(merged.report.holds[0].refused.as_deref(), Some("the token is not accepted"));
    assert!(!merged.report.held[0].1.text.contains("fleetgate accept"), "{:?}", merged.report.held);
}

#[test]
fn documents_of_two_providers_are_told_apart() {
    let mut world = World::new();
    let route = "[routes.r]\nmatch = {}\nupstream = \"u\"\n";
    for provider in [ProviderId::Etcd, ProviderId::ConsulKv] {
        world.documents(provider, route);
        let state = Arc::make_mut(world.states.get_mut(&provider).expect("it is on"));
        let documents = state.documents.clone().expect("documents");
        let key = key_of(provider, documents.entries().next().expect("an item").place);
        let held = Held { lost: Vec::new(), why: "unconfirmed".into(), missing_right: None };
        state.holds.insert(HeldPart::Document(key), held);
    }
    let ids: Vec<String> = world.merge().report.holds.into_iter().map(|hold| hold.id).collect();
    assert_eq!(ids, ["routes/r@etcd", "routes/r@consul-kv"]);
}
