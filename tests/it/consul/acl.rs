//! Instances and what tokens may read: what is hidden is not gone.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Running, SOON, failure, settings, with_token, with_token_file};
use crate::support::consul::{Consul, MANAGEMENT, Service};
use crate::support::wait;

const READ: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                    key_prefix \"\" { policy = \"read\" }";

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn with_two_instances() -> Option<Consul> {
    let consul = Consul::start_with_acl().await?;
    consul.register(&Service::new("web", "a", at(1001))).await;
    consul.register(&Service::new("web", "b", at(1002))).await;
    wait::until(SOON, "both instances", || async { consul.instances("web").await.len() == 2 }).await;
    Some(consul)
}

#[tokio::test]
async fn a_deleted_token_keeps_everything_until_a_new_one_is_in_the_file() {
    let Some(consul) = with_two_instances().await else { return };
    consul.policy("read", READ).await;
    let (old, new) = (consul.token(&["read"]).await, consul.token(&["read"]).await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, &old.secret).unwrap();
    let mut settings = with_token_file(&consul.url(), file.clone());
    settings.wait = Duration::from_secs(1);
    let running = Running::start(&settings, &["web"]);
    running.shows("web", "a b").await;

    consul.delete_token(&old).await;
    let watch = running.watch("web");
    wait::until(SOON, "the refusal", || async { failure(&watch).is_some_and(|text| text.contains("403")) }).await;
    consul.deregister("a").await;
    assert_eq!(running.shown("web"), "a b");
    assert!(!failure(&watch).unwrap().contains(&old.secret));

    std::fs::write(&file, format!("{}\n", new.secret)).unwrap();
    running.shows("web", "b").await;
    wait::until(SOON, "the watch to live", || async { failure(&watch).is_none() }).await;
    running.stop().await;
}

#[tokio::test]
async fn a_narrowed_policy_removes_nothing() {
    let Some(consul) = with_two_instances().await else { return };
    consul.policy("read", READ).await;
    let token = consul.token(&["read"]).await;
    let mut settings = with_token(&consul.url(), &token.secret);
    settings.wait = Duration::from_secs(1);
    let running = Running::start(&settings, &["web"]);
    running.shows("web", "a b").await;

    for narrowed in ["", "service \"other\" { policy = \"read\" }", "service \"web\" { policy = \"read\" }"] {
        consul.policy("read", narrowed).await;
        running.shows("web", "held a b").await;
        // What changes meanwhile is not seen, and moves the index: still nothing goes.
        consul
            .register(&Service::new("web", "b", at(1002)).meta("round", narrowed.split('"').nth(1).unwrap_or("0")))
            .await;
        let watch = running.watch("web");
        wait::until(SOON, "a word about the permission", || async {
            failure(&watch).is_some_and(|text| text.contains("may not read the"))
        })
        .await;
        assert_eq!(running.shown("web"), "held a b");
        consul.policy("read", READ).await;
        running.shows("web", "a b").await;
    }
    consul.deregister("a").await;
    consul.deregister("b").await;
    running.shows("web", "").await;
    running.stop().await;
}

#[tokio::test]
async fn a_token_that_hides_instances_from_the_start_is_named_and_nothing_is_published() {
    let Some(consul) = with_two_instances().await else { return };
    consul.policy("half", "service_prefix \"\" { policy = \"read\" }").await;
    let half = consul.token(&["half"]).await;
    for (settings, lacks) in
        [(with_token(&consul.url(), &half.secret), "`node:read`"), (settings(&consul.url()), "`service:read`")]
    {
        let running = Running::start(&settings, &["web"]);
        let watch = running.watch("web");
        wait::until(SOON, lacks, || async { failure(&watch).is_some_and(|text| text.contains(lacks)) }).await;
        assert_eq!(running.shown("web"), "-");
        running.stop().await;
    }
    let running = Running::start(&with_token(&consul.url(), MANAGEMENT), &["web", "absent"]);
    running.shows("web", "a b").await;
    running.shows("absent", "").await;
    running.stop().await;
}
