//! Documents in Consul's KV store.

use fleetgate::spec::document::Documents;

use super::{Running, SOON, failure, settings, with_token};
use crate::support::consul::Consul;
use crate::support::wait;

const GOOD: &str = r#"{"match":{"path":"/a"},"upstream":"u"}"#;
const OTHER: &str = r#"{"match":{"path":"/b"},"upstream":"u"}"#;

/// Each route with what is wrong with it: `a`, `a(1 problem)`.
fn shown(documents: &Documents) -> String {
    let routes = documents.routes.iter().map(|(name, item)| {
        let form = if item.good.is_some() { "" } else { "-" };
        format!("{name}{form}{}", if item.problems.is_empty() { "" } else { "!" })
    });
    let upstreams = documents.upstreams.keys().map(|name| format!("upstream:{name}"));
    routes.chain(upstreams).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn documents_come_change_go_bad_and_go() {
    let Some(consul) = Consul::start().await else { return };
    let running = Running::start(&settings(&consul.url()), &[]);
    running.documents("no documents", |documents| *documents == Documents::default()).await;

    consul.kv_put("fleetgate/routes/a", GOOD).await;
    consul.kv_put("fleetgate/routes/b", GOOD).await;
    consul.kv_put("fleetgate/upstreams/u.toml", "consul = { service = \"web\" }").await;
    consul.kv_put("fleetgate-other/routes/x", GOOD).await;
    running.documents("three", |documents| shown(documents) == "a b upstream:u").await;
    let route = |running: &Running| running.documents_now().unwrap().routes["a"].clone();
    let first = route(&running).good.unwrap();

    consul.kv_put("fleetgate/routes/a", "{ no JSON").await;
    running.documents("the bad edit", |documents| shown(documents) == "a! b upstream:u").await;
    assert_eq!(route(&running).good, Some(first.clone()));
    assert!(route(&running).problems[0].place.starts_with("consul-kv:fleetgate/routes/a:1:"));
    consul.kv_put("fleetgate/routes/c", "{ no JSON").await;
    running.documents("the bad one", |documents| shown(documents) == "a! b c-! upstream:u").await;

    consul.kv_put("fleetgate/routes/a", OTHER).await;
    running.documents("the good edit", |documents| shown(documents) == "a b c-! upstream:u").await;
    assert_ne!(route(&running).good, Some(first));

    consul.kv_delete("fleetgate/routes/c").await;
    running.documents("the deletion", |documents| shown(documents) == "a b upstream:u").await;
    consul.kv_delete_tree("fleetgate/").await;
    running.documents("the end of all", |documents| shown(documents).is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn documents_that_the_token_may_no_longer_read_stay() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    consul.policy("kv", "key_prefix \"fleetgate/\" { policy = \"read\" }").await;
    let token = consul.token(&["kv"]).await;
    consul.kv_put("fleetgate/routes/a", GOOD).await;
    consul.kv_put("fleetgate/routes/b", GOOD).await;
    let running = Running::start(&with_token(&consul.url(), &token.secret), &[]);
    running.documents("both", |documents| shown(documents) == "a b").await;

    // Only one of the two is hidden, and the index moves: by its looks an ordinary removal beside an edit.
    // A query that is blocked already keeps the rights it began with; the one after the first edit does not.
    consul.policy("kv", "key_prefix \"fleetgate/routes/a\" { policy = \"read\" }").await;
    for (text, path) in [(OTHER, "/b"), (GOOD, "/a")] {
        consul.kv_put("fleetgate/routes/a", text).await;
        let edited = |documents: &Documents| {
            documents.routes["a"].good.as_ref().is_some_and(|route| format!("{route:?}").contains(path))
        };
        running.documents("the edit", edited).await;
    }
    let watch = running.kv_watch();
    wait::until(SOON, "a word about the permission", || async {
        failure(&watch).is_some_and(|text| text.contains("may not read `fleetgate/routes/b`"))
    })
    .await;
    assert_eq!(shown(&running.documents_now().unwrap()), "a b");

    consul.policy("kv", "").await;
    wait::until(SOON, "nothing readable", || async {
        failure(&watch).is_some_and(|text| text.contains("may not read `fleetgate/routes/a`"))
    })
    .await;
    assert_eq!(shown(&running.documents_now().unwrap()), "a b");

    consul.policy("kv", "key_prefix \"fleetgate/\" { policy = \"read\" }").await;
    wait::until(SOON, "all is back", || async { failure(&watch).is_none() }).await;
    consul.kv_delete("fleetgate/routes/b").await;
    running.documents("a real deletion", |documents| shown(documents) == "a").await;
    running.stop().await;
}

#[tokio::test]
async fn documents_that_the_token_never_could_read_are_not_taken_for_none() {
    let Some(consul) = Consul::start_with_acl().await else { return };
    consul.kv_put("fleetgate/routes/a", GOOD).await;
    let running = Running::start(&settings(&consul.url()), &[]);
    let watch = running.kv_watch();
    wait::until(SOON, "a word about the permission", || async {
        failure(&watch).is_some_and(|text| text.contains("`key:read`"))
    })
    .await;
    assert_eq!(running.documents_now(), None);
    running.stop().await;
}
