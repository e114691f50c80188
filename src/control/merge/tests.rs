//! Merging, text in and text out.

use std::fmt::Write as _;

use super::super::fixture::{World, consul, dns, told_report};
use super::*;
use crate::spec::source::EtcdFormat;

const READ: &str = "";

/// What was merged, a line an item.
fn told(merged: &Merged) -> String {
    let mut text = String::new();
    for (label, upstream) in &merged.upstreams {
        let source = upstream.sources.first().map_or_else(|| "text".to_owned(), ToString::to_string);
        let flags = match (upstream.known, upstream.held) {
            (true, true) => " held",
            (true, false) => "",
            (false, _) => " unknown",
        };
        let addresses: String = upstream.endpoints.iter().map(|endpoint| format!(" {}", endpoint.address)).collect();
        writeln!(text, "upstream {label} of {} from {source}{flags}:{addresses}", upstream.provider).expect("text");
        for (host, resolved) in &upstream.resolved {
            let addresses: Vec<String> = resolved.iter().map(|endpoint| endpoint.address.to_string()).collect();
            writeln!(text, "  {host} is {}", addresses.join(" ")).expect("text");
        }
    }
    for route in &merged.routes {
        let targets: Vec<String> = route.spec.targets.iter().map(|target| target.label().to_string()).collect();
        writeln!(text, "route {} of {} to {}", route.name, route.provider, targets.join(" ")).expect("text");
    }
    text += &told_report(&merged.report);
    for source in &merged.wanted {
        writeln!(text, "wanted {source}").expect("text");
    }
    text
}

/// A world whose document providers have answered.
fn world(file: &str, etcd: &str, consul_kv: &str) -> World {
    let mut world = World::new();
    world.documents(ProviderId::File, file);
    world.documents(ProviderId::Etcd, etcd);
    world.documents(ProviderId::ConsulKv, consul_kv);
    world
}

fn at(address: &str) -> String {
    format!("[upstreams.u]\nendpoints = [\"{address}\"]\n")
}

#[test]
fn the_first_provider_wins_a_name() {
    let mut world = world(READ, &at("10.0.0.2:80"), &at("10.0.0.3:80"));
    world.documents(ProviderId::ConsulKv, &(at("10.0.0.3:80") + "[routes.r]\nmatch = {}\nupstream = \"u\"\n"));
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream u of etcd from text: 10.0.0.2:80
    route r of consul-kv to u
    shadowed upstreams.u of consul-kv by etcd
    ");
    world.rules.precedence = vec![ProviderId::ConsulKv];
    world.documents(ProviderId::File, &at("10.0.0.1:80"));
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream u of consul-kv from text: 10.0.0.3:80
    route r of consul-kv to u
    shadowed upstreams.u of file by consul-kv
    shadowed upstreams.u of etcd by consul-kv
    ");
}

#[test]
fn a_reference_may_name_the_provider() {
    let routes = "[routes.here]\nmatch = {}\nupstream = \"u@etcd\"\n[routes.first]\nmatch = {}\nupstream = \"u@file\"\n\
                  [routes.gone]\nmatch = {}\nupstream = \"u@consul-kv\"\n";
    let world = world(&(at("10.0.0.1:80") + routes), &at("10.0.0.2:80"), READ);
    let merged = world.merge();
    insta::assert_snapshot!(told(&merged), @r"
    upstream u of file from text: 10.0.0.1:80
    upstream u@etcd of etcd from text: 10.0.0.2:80
    route first of file to u@file
    route gone of file to u@consul-kv
    route here of file to u@etcd
    shadowed upstreams.u of etcd by file
    unresolved of file: file:9:9: routes.gone: there is no upstream `u@consul-kv`: correct the name, or define it; every request gets 503 (NC) until it resolves
    ");
    let label = |reference: &str| merged.label(&reference.parse().expect("a reference")).map(|label| label.to_string());
    assert_eq!(label("u"), Some("u".to_owned()));
    assert_eq!(label("u@file"), Some("u".to_owned()), "the winner has one label, however it is asked for");
    assert_eq!(label("u@etcd"), Some("u@etcd".to_owned()));
    assert_eq!(label("u@consul-kv"), None);
    assert_eq!(label("v"), None);
}

#[test]
fn an_item_that_may_have_had_a_good_form_keeps_its_name_and_a_new_one_hides_nothing() {
    let first = world("[upstreams.u]\nendpoints = 5\n", &at("10.0.0.2:80"), READ).merge();
    assert!(first.upstreams.is_empty() && first.report.shadowed.len() == 1, "{}", told(&first));
    let mut world = world(READ, &at("10.0.0.2:80"), READ);
    world.documents(ProviderId::File, "[upstreams.u]\nendpoints = 5\n");
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream u of etcd from text: 10.0.0.2:80
    rejected by file: file:2:13: upstreams.u.endpoints: expected a list, found a number; it never had a good form, and is ignored
    ");
    // Once it had one, that stays, and wins.
    world.documents(ProviderId::File, &at("10.0.0.1:80"));
    world.documents(ProviderId::File, "[upstreams.u]\nendpoints = 5\n");
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream u of file from text: 10.0.0.1:80
    shadowed upstreams.u of etcd by file
    rejected by file: file:2:13: upstreams.u.endpoints: expected a list, found a number; its last good form stays in use
    ");
}

#[test]
fn what_was_not_read_is_told() {
    let mut world = World::new();
    insta::assert_snapshot!(told(&world.merge()), @r"
    unread file
    unread etcd
    unread consul-kv
    ");
    world.documents(ProviderId::Etcd, READ);
    world.states.remove(&ProviderId::ConsulKv);
    assert_eq!(told(&world.merge()), "unread file\n", "a provider that is off is not waited for");
}

#[test]
fn sources_are_wanted_and_known_once_they_answered() {
    let mut world = world(
        "[upstreams.a]\nconsul = { service = \"A\" }\n[upstreams.b]\netcd = {}\n[upstreams.c]\nconsul = { service = \"A\" }\n",
        READ,
        READ,
    );
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream a of file from consul:A unknown:
    upstream b of file from etcd:/fleetgate/endpoints/b/ unknown:
    upstream c of file from consul:A unknown:
    wanted consul:A
    wanted etcd:/fleetgate/endpoints/b/
    ");
    world.source_of(&consul("A"), "10.0.0.1:80", Origin::Held, &["node/x: port 0"]);
    world.source(&Source::Etcd { prefix: "/fleetgate/endpoints/b/".into(), format: EtcdFormat::Fleetgate }, "");
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream a of file from consul:A held: 10.0.0.1:80
    upstream b of file from etcd:/fleetgate/endpoints/b/:
    upstream c of file from consul:A held: 10.0.0.1:80
    rejected by consul: consul:A: node/x: port 0; it is not used
    wanted consul:A
    wanted etcd:/fleetgate/endpoints/b/
    ");
}

#[test]
fn host_names_are_wanted_and_known_once_they_all_resolved() {
    let mut world = world(
        "[upstreams.u]\nendpoints = [\"a.internal:80\", \"B.internal:81\", \"10.0.0.1:80\"]\n\
         [upstreams.v]\nconsul = { service = \"v\" }\n",
        READ,
        READ,
    );
    world.source(&consul("v"), "a.internal:9000");
    world.source(&dns("a.internal"), "10.1.0.1:1\n10.1.0.2:1");
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream u of file from text unknown: a.internal:80 b.internal:81 10.0.0.1:80
      a.internal is 10.1.0.1:1 10.1.0.2:1
    upstream v of file from consul:v: a.internal:9000
      a.internal is 10.1.0.1:1 10.1.0.2:1
    wanted consul:v
    wanted dns:a.internal
    wanted dns:b.internal
    ");
    world.source(&dns("b.internal"), "");
    assert!(world.merge().upstreams["u"].known, "a name without address has answered too");
}

#[test]
fn a_registry_that_is_off_is_remarked() {
    let mut world = world("[upstreams.a]\nconsul = { service = \"A\" }\n[upstreams.b]\netcd = {}\n", READ, READ);
    (world.rules.consul, world.rules.etcd_prefix) = (false, None);
    insta::assert_snapshot!(told(&world.merge()), @r"
    upstream a of file from text:
    upstream b of file from text:
    remark configuration: upstreams.a.consul: reads consul, but [discovery.consul] is not configured
    remark configuration: upstreams.b.etcd: reads etcd, but [discovery.etcd] is not configured
    ");
}
