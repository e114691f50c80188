//! Many upstreams, one watch: what it costs etcd, that each upstream is judged and published by itself, and what happens
//! where not all keys may be read.

use super::*;
use crate::support::proxy::{Mode, Proxy};

const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total";
const SHARED: &str = "endpoints:/fleetgate/";

fn name(number: usize) -> String {
    format!("s{number:03}")
}

/// Waits until etcd has so many watches, and we say the same.
async fn watchers(etcd: &Etcd, running: &Running, count: usize) {
    wait::until_ok(SOON, &format!("{count} watches"), || async {
        let (theirs, ours) = (etcd.metric(WATCHERS).await, running.publisher.status().distinct().len());
        if theirs == count as f64 && ours == count { Ok(()) } else { Err((theirs, ours)) }
    })
    .await;
}

#[tokio::test]
async fn many_upstreams_take_one_watch_and_a_change_costs_what_its_upstream_costs() {
    let Some(etcd) = Etcd::start().await else { return };
    let labels = "x".repeat(500);
    let value = |address: &str| format!(r#"{{"address":"{address}","labels":{{"padding":"{labels}"}}}}"#);
    let entries: Vec<_> = (0..300)
        .flat_map(|number| ["a", "b"].map(|id| (key(&name(number), id), value(&format!("vm-{id}-{number}:80")))))
        .collect();
    etcd.put_many(&entries).await;
    etcd.put("/plain/a", "10.0.0.1:80").await;
    let proxy = Proxy::start(etcd.client_address()).await;
    let names: Vec<String> = (0..299).map(name).collect();
    let running = run(&settings([proxy.url()]), &names.iter().map(String::as_str).collect::<Vec<_>>());
    let plain = Source::Etcd { prefix: "/plain/".into(), format: EtcdFormat::Plain };
    let wanted = || names.iter().map(|name| of(name)).chain([plain.clone()]);
    running.want(wanted());
    let all = || async { running.state().sources.len() == 300 };
    wait::until(SOON, "all sources", all).await;
    running.shows(&of("s007"), &["a vm-a-7:80", "b vm-b-7:80"]).await;
    running.shows(&plain, &["a 10.0.0.1:80"]).await;
    // The documents and certificates, our endpoints, and those that lie elsewhere.
    watchers(&etcd, &running, 4).await;
    let watch = running.watch(&of("s007").to_string());
    assert!(watch.verified_at().is_some() && watch.index() > 0);

    let before = running.state();
    etcd.put(&key("s007", "c"), "10.0.0.7:80").await;
    running.shows(&of("s007"), &["c 10.0.0.7:80", "a vm-a-7:80", "b vm-b-7:80"]).await;
    assert_eq!(running.state().changed_sources(&before), [&of("s007")], "the others are the very same");

    // The last of one upstream: its own keys tell whether it is true, and nobody else's are read for it.
    let bytes = || running.publisher.status().cost.bytes.load(Relaxed);
    let (before, read) = (running.state(), bytes());
    etcd.delete_prefix(&key("s008", "")).await;
    running.shows(&of("s008"), &[]).await;
    assert_eq!(running.state().changed_sources(&before), [&of("s008")]);
    assert_eq!(running.publisher.status().updates.held.load(Relaxed), 2);
    assert!(bytes() - read < 10 * labels.len() as u64, "{} bytes", bytes() - read);

    // What is wanted from now on is known, though nothing can be read.
    proxy.set(Mode::Hold);
    running.want(wanted().chain([of("s299")]));
    running.shows(&of("s299"), &["a vm-a-299:80", "b vm-b-299:80"]).await;
    proxy.set(Mode::Pass);
    running.want([of("s299")]);
    wait::until(SOON, "the others to be forgotten", || async { running.state().sources.len() == 1 }).await;
    etcd.put(&key("s007", "d"), "10.0.0.8:80").await;
    etcd.put(&key("s299", "c"), "10.0.0.9:80").await;
    running.shows(&of("s299"), &["c 10.0.0.9:80", "a vm-a-299:80", "b vm-b-299:80"]).await;
    assert_eq!(running.state().sources.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_removal_that_is_held_holds_no_other_upstream() {
    let Some(etcd) = Etcd::start().await else { return };
    for id in ["a", "b", "c"] {
        etcd.put(&key("held", id), "10.0.0.1:80").await;
    }
    etcd.put(&key("other", "a"), "10.0.1.1:80").await;
    etcd.put(&key("other", "b"), "10.0.1.2:80").await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", "correct-horse", "/fleetgate/").await;
    let running = run(&with_user(&etcd.url(), "gateway", "correct-horse"), &["held", "other"]);
    running.shows(&of("held"), &["a 10.0.0.1:80", "b 10.0.0.1:80", "c 10.0.0.1:80"]).await;
    running.shows(&of("other"), &["a 10.0.1.1:80", "b 10.0.1.2:80"]).await;
    watchers(&etcd, &running, 3).await;
    // The streams go on; no second read is allowed.
    etcd.revoke_reader("gateway").await;
    etcd.delete_prefix(&key("held", "")).await;
    let held = || async {
        let known = running.source(&of("held")).unwrap();
        assert_eq!(known.endpoints.len(), 3);
        known.origin == Origin::Held
    };
    wait::until(SOON, "the hold", held).await;
    etcd.put(&key("other", "c"), "10.0.1.3:80").await;
    running.shows(&of("other"), &["a 10.0.1.1:80", "b 10.0.1.2:80", "c 10.0.1.3:80"]).await;
    etcd.delete(&key("other", "a")).await;
    running.shows(&of("other"), &["b 10.0.1.2:80", "c 10.0.1.3:80"]).await;
    assert!(held().await);
    etcd.grant("gateway", "gateway").await;
    running.shows(&of("held"), &[]).await;
    never_lost(&running, "other", "b 10.0.1.2:80");
    running.stop().await;
}

#[tokio::test]
async fn who_may_read_some_upstreams_only_has_a_watch_for_each() {
    let Some(etcd) = Etcd::start().await else { return };
    for (upstream, id, address) in
        [("one", "a", "10.0.0.1:80"), ("one", "b", "10.0.0.2:80"), ("two", "a", "10.0.1.1:80")]
    {
        etcd.put(&key(upstream, id), address).await;
    }
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", "correct-horse", "/fleetgate/").await;
    etcd.reader("some", "unused", &key("one", "")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "correct-horse\n").unwrap();
    let proxy = Proxy::start(etcd.client_address()).await;
    let settings =
        Settings { password_file: Some(file.clone()), ..with_user(&proxy.url(), "gateway", "correct-horse") };
    let running = run(&settings, &["one", "two"]);
    running.shows(&of("one"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    running.shows(&of("two"), &["a 10.0.1.1:80"]).await;
    watchers(&etcd, &running, 3).await;
    // Its last good form outlives the changes of watches.
    etcd.put(&key("one", "b"), "{").await;
    let problem = || async { running.source(&of("one")).is_some_and(|known| known.problems.len() == 1) };
    wait::until(SOON, "the problem", problem).await;

    etcd.revoke_reader("gateway").await;
    etcd.grant("gateway", "some").await;
    proxy.cut();
    let states = |one: fn(&WatchState) -> bool, two: fn(&WatchState) -> bool| {
        let status = running.publisher.status();
        move || async move {
            let watches = status.watches();
            let is = |name: &str, wanted: fn(&WatchState) -> bool| {
                watches.get(&of(name).to_string()).is_some_and(|watch| wanted(&watch.state()))
            };
            let alone = !watches.contains_key(SHARED);
            if alone && is("one", one) && is("two", two) { Ok(()) } else { Err(format!("{watches:?}")) }
        }
    };
    let live = |state: &WatchState| *state == WatchState::Live;
    let refused = |state: &WatchState| match state {
        WatchState::Failing { error, .. } => error.contains("permission denied"),
        _ => false,
    };
    wait::until_ok(SOON, "a watch of each", states(live, refused)).await;
    etcd.put(&key("one", "c"), "10.0.0.3:80").await;
    running.shows(&of("one"), &["a 10.0.0.1:80", "b 10.0.0.2:80", "c 10.0.0.3:80"]).await;
    assert!(problem().await);
    // One that is wanted only now has a watch of its own, too.
    running.want([of("one"), of("two"), of("three")]);
    wait::until(SOON, "the third watch", || async {
        running.publisher.status().watches().get(&of("three").to_string()).is_some_and(|watch| refused(&watch.state()))
    })
    .await;

    etcd.grant("gateway", "gateway").await;
    etcd.change_password("gateway", "new-horse").await;
    std::fs::write(&file, "new-horse\n").unwrap();
    running.shows(&of("three"), &[]).await;
    watchers(&etcd, &running, 3).await;
    assert!(running.publisher.status().watches().contains_key(SHARED));
    etcd.put(&key("two", "b"), "10.0.1.2:80").await;
    running.shows(&of("two"), &["a 10.0.1.1:80", "b 10.0.1.2:80"]).await;
    etcd.put(&key("one", "d"), "10.0.0.4:80").await;
    running.shows(&of("one"), &["a 10.0.0.1:80", "b 10.0.0.2:80", "c 10.0.0.3:80", "d 10.0.0.4:80"]).await;
    assert!(problem().await);
    for (upstream, endpoint) in [("one", "a 10.0.0.1:80"), ("one", "b 10.0.0.2:80"), ("one", "c 10.0.0.3:80")] {
        never_lost(&running, upstream, endpoint);
    }
    never_lost(&running, "two", "a 10.0.1.1:80");
    running.stop().await;
}
