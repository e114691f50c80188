//! A Consul that dies, freezes, restarts and forgets, under a running provider.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::{Running, SOON, failure, settings};
use crate::support::consul::{Consul, Service};
use crate::support::wait;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

const GOOD: &str = r#"{"match":{"path":"/a"},"upstream":"u"}"#;

#[tokio::test]
async fn a_consul_that_dies_and_comes_back_changes_nothing() {
    let Some(mut consul) = Consul::start().await else { return };
    for (port, id) in [(1001, "a"), (1002, "b"), (1003, "c")] {
        consul.register(&Service::new("web", id, at(port)).checked("passing")).await;
    }
    consul.kv_put("fleetgate/routes/a", GOOD).await;
    let running = Running::start(&settings(&consul.url()), &["web"]);
    running.shows("web", "a b c").await;
    running.documents("the route", |documents| documents.routes.len() == 1).await;
    let (documents, watch) = (running.documents_now(), running.watch("web"));

    for ending in ["kill", "terminate"] {
        let (published, sessions) = (running.publications(), watch.sessions());
        match ending {
            "kill" => consul.kill(),
            _ => consul.terminate().await,
        }
        let url = consul.url();
        wait::until(SOON, "the failure, and of whom", || async {
            failure(&watch).is_some_and(|text| text.contains(&url))
        })
        .await;
        assert_eq!(running.shown("web"), "a b c");
        consul.start_again().await;
        wait::until(SOON, "the watch to live", || async { failure(&watch).is_none() && watch.sessions() > sessions })
            .await;
        assert_eq!(running.shown("web"), "a b c");
        assert_eq!(running.publications(), published, "the same was published again after {ending}");
    }
    assert_eq!(running.documents_now(), documents);
    consul.deregister("c").await;
    running.shows("web", "a b").await;
    running.stop().await;
}

#[tokio::test]
async fn a_frozen_consul_changes_nothing_and_is_followed_when_it_goes_on() {
    let Some(mut consul) = Consul::start().await else { return };
    consul.register(&Service::new("web", "a", at(1001))).await;
    let mut settings = settings(&consul.url());
    settings.wait = Duration::from_secs(1);
    let running = Running::start(&settings, &["web"]);
    running.shows("web", "a").await;
    consul.freeze();
    let watch = running.watch("web");
    // A blocked query is bounded by us alone: a frozen agent never answers.
    wait::until(SOON * 2, "the time to run out", || async {
        failure(&watch).is_some_and(|text| text.contains("no complete answer"))
    })
    .await;
    assert_eq!(running.shown("web"), "a");
    consul.thaw();
    consul.register(&Service::new("web", "b", at(1002))).await;
    running.shows("web", "a b").await;
    running.stop().await;
}

#[tokio::test]
async fn a_restored_snapshot_is_followed_although_the_index_goes_back() {
    let Some(consul) = Consul::start().await else { return };
    let register = |id: &'static str| {
        let consul = &consul;
        async move {
            let service = json!({ "ID": id, "Service": "web", "Port": 80 });
            consul.catalog_register(json!({ "Node": "n1", "Address": "10.0.0.1", "Service": service })).await;
        }
    };
    register("a").await;
    register("b").await;
    let snapshot = consul.snapshot().await;
    for id in ["c", "d", "e"] {
        register(id).await;
    }
    let mut settings = settings(&consul.url());
    settings.wait = Duration::from_secs(1);
    let running = Running::start(&settings, &["web"]);
    running.shows("web", "a b c d e").await;
    consul.restore(&snapshot).await;
    running.shows("web", "a b").await;
    assert!(running.sources.borrow().regressions > 0, "whether that is believed is not for a watch to say");
    register("f").await;
    running.shows("web", "a b f").await;
    running.stop().await;
}
