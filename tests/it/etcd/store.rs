//! What operators do to a store: defragment it, restore it, wipe it under users, fill it.

use super::*;
use crate::support::long_tests;
use crate::support::proxy::{Mode, Proxy};

/// Fault case 35: a lease of a thousand keys of a hundred services ends, and each pool changes at once: none is ever
/// seen without a part of it.
#[tokio::test]
async fn a_lease_of_a_whole_fleet_ends_in_one_change_a_pool() {
    let Some(etcd) = Etcd::start().await else { return };
    let lease = etcd.lease(600).await;
    let names: Vec<String> = (0..100).map(|number| format!("s{number:02}")).collect();
    for name in &names {
        for id in 0..10 {
            etcd.put_leased(&key(name, &format!("{id}")), &format!("10.0.0.{id}:80"), lease).await;
        }
    }
    let running = run(&settings([etcd.url()]), &names.iter().map(String::as_str).collect::<Vec<_>>());
    let count = |name: &str| running.endpoints(&of(name)).map(|all| all.len());
    wait::until(SOON, "all", || async { names.iter().all(|name| count(name) == Some(10)) }).await;
    etcd.revoke(lease).await;
    wait::until(SOON, "none", || async { names.iter().all(|name| count(name) == Some(0)) }).await;
    for state in running.history() {
        assert!(state.sources.values().all(|known| matches!(known.endpoints.len(), 0 | 10)), "a pool in parts");
    }
    running.stop().await;
}

/// Fault case 49.
#[tokio::test]
async fn a_defragmentation_among_writes_removes_nothing_and_breaks_no_watch() {
    let Some(etcd) = Etcd::start().await else { return };
    let padding = "x".repeat(100_000);
    for number in 0..100 {
        etcd.put(&format!("/padding/{number}"), &padding).await;
    }
    etcd.delete_prefix("/padding/").await;
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    let running = run(&settings([etcd.url()]), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let writes = async {
        for number in 0..200 {
            etcd.put(&key("users", "b"), &format!("10.0.1.{number}:80")).await;
        }
    };
    tokio::join!(writes, etcd.defragment());
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.1.199:80"]).await;
    assert_eq!(running.watch(&of("users").to_string()).sessions(), 1);
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

/// Fault case 45: an older backup is put in place, the second time so that its revisions look like later ones.
#[tokio::test]
async fn a_restored_store_is_followed_and_what_it_has_is_never_lost() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    for (id, address) in [("a", "10.0.0.1:80"), ("b", "10.0.0.2:80")] {
        etcd.put(&key("users", id), address).await;
    }
    etcd.save(&file);
    let running = run(&settings([etcd.url()]), &["users"]);
    for more in [&[][..], &["--bump-revision=1000000", "--mark-compacted"]] {
        etcd.delete(&key("users", "b")).await;
        etcd.put(&key("users", "c"), "10.0.0.3:80").await;
        for port in 80..90 {
            etcd.put(&key("users", "c"), &format!("10.0.0.3:{port}")).await;
        }
        running.shows(&of("users"), &["a 10.0.0.1:80", "c 10.0.0.3:89"]).await;
        etcd.restore(&file, more).await;
        // What the backup has is there again; what it lacks is gone, or held until somebody confirms it.
        let restored = || async {
            let known = running.source(&of("users")).ok_or_else(|| "unread".to_owned())?;
            let ids: Vec<_> = known.endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect();
            let only = ids == ["a", "b"] || (ids == ["a", "b", "c"] && known.origin == Origin::Held);
            if only { Ok(()) } else { Err(format!("{known:?}")) }
        };
        wait::until_ok(SOON, "the restored store", restored).await;
        // The stream follows the store as it is now.
        etcd.put(&key("users", "d"), "10.0.0.4:80").await;
        let follows =
            || async { running.endpoints(&of("users")).is_some_and(|all| all.contains(&"d 10.0.0.4:80".to_owned())) };
        wait::until(SOON, "what is written after", follows).await;
        etcd.delete(&key("users", "d")).await;
    }
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

/// Fault case 46: a token of another life of the store would block calls until their deadline.
#[tokio::test]
async fn a_token_from_before_a_wipe_does_not_keep_us_out() {
    let Some(mut etcd) = Etcd::start().await else { return };
    for number in 0..50 {
        etcd.put(&key("users", "a"), &format!("10.0.0.{number}:80")).await;
    }
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", "correct-horse", "/fleetgate/").await;
    let running = run(&with_user(&etcd.url(), "gateway", "correct-horse"), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.49:80"]).await;
    etcd.kill();
    etcd.start_empty().await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", "correct-horse", "/fleetgate/").await;
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    let there =
        || async { running.endpoints(&of("users")).is_some_and(|all| all.contains(&"b 10.0.0.2:80".to_owned())) };
    wait::until(SOON, "the new store", there).await;
    running.stop().await;
}

/// Fault case 42: a page that is larger than what is taken at once is asked for in halves.
#[tokio::test]
async fn a_page_that_is_too_large_is_read_in_parts() {
    let Some(etcd) = Etcd::start().await else { return };
    let padding = "x".repeat(1_000_000);
    for id in 0..70 {
        let value = format!(r#"{{"address":"10.0.0.{id}:80","labels":{{"padding":"{padding}"}}}}"#);
        etcd.put(&key("users", &format!("{id:02}")), &value).await;
    }
    let running = run(&settings([etcd.url()]), &["users"]);
    wait::until(SOON, "all", || async { running.endpoints(&of("users")).is_some_and(|all| all.len() == 70) }).await;
    assert_eq!(running.watch(&of("users").to_string()).sessions(), 1);
    running.stop().await;
}

/// Fault case 48: etcd ends a connection that pings while nothing is open on it.
#[tokio::test]
async fn a_connection_on_which_nothing_happens_stays() {
    if !long_tests() {
        return;
    }
    let Some(etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    let proxy = Proxy::start(etcd.client_address()).await;
    let running = run(&settings([proxy.url()]), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    running.documents("an empty list", |all| all.routes.is_empty()).await;
    let connections = proxy.connections();
    let watch = running.watch(&of("users").to_string());
    wait::always(Duration::from_secs(70), "the first session", || async {
        watch.sessions() == 1 && watch.state() == WatchState::Live && proxy.connections() == connections
    })
    .await;
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    running.stop().await;
}

/// Fault case 37 with one member: a network that swallows everything without a word is noticed by the silence, and
/// what was written meanwhile comes.
#[tokio::test]
async fn a_network_that_swallows_everything_is_noticed() {
    if !long_tests() {
        return;
    }
    let Some(etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    let (first, second) = (Proxy::start(etcd.client_address()).await, Proxy::start(etcd.client_address()).await);
    let running = run(&settings([first.url(), second.url()]), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let used = if first.connections() > 0 { &first } else { &second };
    used.set(Mode::Hold);
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    assert!(running.watch(&of("users").to_string()).sessions() > 1);
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}
