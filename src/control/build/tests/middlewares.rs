//! Which middlewares routes and listeners have, and that they stay the same objects.

use super::*;
use crate::snapshot::middleware::{Fate, chain};

const STRIPPED: &str = "
[upstreams.u]
endpoints = [\"10.0.0.1:80\"]
[routes.r]
match = { path = \"/a\" }
upstream = \"u\"
middlewares = [\"strip\", \"late@etcd\"]
[routes.plain]
match = { path = \"/b\" }
upstream = \"u\"
[middlewares.strip]
strip_prefix = \"/a\"
";

fn route<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Arc<Route> {
    snapshot.routes.routes().iter().find(|route| &*route.label == name).expect("a route of this name")
}

fn labels(list: &[Arc<NamedMiddleware>]) -> Vec<&str> {
    list.iter().map(|named| &*named.label).collect()
}

fn reasons(route: &Route) -> Vec<String> {
    route.state.reasons().to_vec()
}

#[test]
fn a_middleware_lives_as_long_as_its_document_says_the_same() {
    let mut gateway = Gateway::new();
    gateway.file(STRIPPED);
    let (_, absent) = gateway.build();
    assert_eq!(reasons(route(&absent, "r")), ["there is no middleware `late@etcd`"]);
    assert_eq!(reasons(route(&absent, "plain")), [""; 0]);

    gateway.world.documents(ProviderId::Etcd, "middlewares.late.add_prefix = \"/x\"");
    let (_, there) = gateway.build();
    assert_eq!(reasons(route(&there, "r")), [""; 0]);
    assert_eq!(labels(&route(&there, "r").middlewares), ["strip", "late"]);
    assert!(Arc::ptr_eq(route(&there, "plain"), route(&absent, "plain")));
    let object = |snapshot: &Snapshot, label: &str| Arc::clone(&snapshot.middlewares.all[label]);
    assert!(Arc::ptr_eq(&object(&there, "strip"), &object(&absent, "strip")));

    // Another one changes, and a document that says the same in other words does not.
    gateway.file(&STRIPPED.replace("strip_prefix = \"/a\"", "strip_prefix = \"/a/\""));
    gateway.world.documents(ProviderId::Etcd, "middlewares.late.add_prefix = \"/y\"");
    let (_, changed) = gateway.build();
    assert!(Arc::ptr_eq(&object(&changed, "strip"), &object(&there, "strip")));
    assert!(!Arc::ptr_eq(&object(&changed, "late"), &object(&there, "late")));
    assert!(Arc::ptr_eq(&route(&changed, "r").middlewares[1], &object(&changed, "late")));
    assert!(Arc::ptr_eq(route(&changed, "plain"), route(&there, "plain")));

    // Of two providers that define the name the files' wins; a reference may ask for the other's.
    gateway.file(&format!("{STRIPPED}[middlewares.late]\nadd_prefix = \"/files\"\n"));
    let (_, shadowed) = gateway.build();
    assert_eq!(labels(&route(&shadowed, "r").middlewares), ["strip", "late@etcd"]);
    assert_eq!(shadowed.middlewares.all["late"].provider, ProviderId::File);
    assert_eq!(shadowed.middlewares.all["late@etcd"].provider, ProviderId::Etcd);
}

#[test]
fn a_listener_has_its_own_and_those_of_the_route_are_within_them() {
    let mut gateway = Gateway::new();
    let listener: Name = "web".parse().expect("a name");
    let reference = |text: &str| text.parse().expect("a reference");
    gateway.world.rules.listeners.insert(listener.clone(), vec![reference("late"), reference("strip")]);
    gateway.file(STRIPPED);
    let (_, broken) = gateway.build();
    let told = broken.middlewares.of_listener(&listener).map(|list| list.len()).map_err(|(_, reasons)| reasons);
    assert_eq!(told, Err(&["there is no middleware `late`".to_owned()][..]));

    gateway.world.documents(ProviderId::Etcd, "middlewares.late.add_prefix = \"/x\"");
    let (_, served) = gateway.build();
    let of_listener = served.middlewares.of_listener(&listener).expect("all are there");
    let passed: Vec<&str> = chain(of_listener, &route(&served, "r").middlewares)
        .filter(|(.., fate)| matches!(fate, Fate::Runs))
        .map(|(named, ..)| &*named.label)
        .collect();
    assert_eq!(passed, ["late", "strip"], "what both name is passed once, where the listener has it");
    let other: Name = "other".parse().expect("a name");
    assert!(served.middlewares.of_listener(&other).expect("none").is_empty());
}
