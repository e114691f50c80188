//! One etcd that is restarted, compacted, wiped, cut off: nothing is lost, and nothing is removed by mistake.

use futures_util::future::join_all;

use super::*;
use crate::support::proxy::{Mode, Proxy};

/// Cuts what the proxy holds, so that none of it arrives.
async fn broken(running: &Running, proxy: &Proxy) {
    proxy.cut();
    running.failing(&of("users").to_string()).await;
}

#[tokio::test]
async fn a_restart_with_data_loses_nothing() {
    let Some(mut etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    etcd.put("/fleetgate/upstreams/u", "{\"endpoints\":[{\"address\":\"10.0.0.1:80\"}]}").await;
    let running = run(&settings([etcd.url()]), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    running.documents("the upstream", |all| all.upstreams.len() == 1).await;
    let published = running.history().len();

    etcd.kill();
    running.failing(&of("users").to_string()).await;
    running.failing(DOCUMENTS).await;
    etcd.start_again().await;
    let live = || async {
        [of("users").to_string().as_str(), DOCUMENTS].iter().all(|name| running.watch(name).state() == WatchState::Live)
    };
    wait::until(SOON, "live again", live).await;
    assert_eq!(running.history().len(), published, "nothing changed, so nothing was published");
    etcd.delete(&key("users", "b")).await;
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

#[tokio::test]
async fn a_wiped_store_is_noticed_and_confirmed() {
    let Some(mut etcd) = Etcd::start().await else { return };
    for id in ["a", "b", "c"] {
        etcd.put(&key("users", id), &format!("10.0.0.1:{}", 80 + u32::from(id.as_bytes()[0]))).await;
    }
    let running = run(&settings([etcd.url()]), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:177", "b 10.0.0.1:178", "c 10.0.0.1:179"]).await;
    etcd.kill();
    etcd.start_empty().await;
    etcd.put(&key("users", "d"), "10.0.0.4:80").await;
    running.shows(&of("users"), &["d 10.0.0.4:80"]).await;
    let held = |known: &fleetgate::discovery::state::SourceState| known.origin == Origin::Held;
    assert!(
        running.history().iter().filter_map(|state| state.sources.get(&of("users"))).any(held),
        "a removal by a store that went back waits for a second read"
    );
    // Whether that is believed is not for a watch to say: it tells that it happened.
    assert!(running.state().regressions > 0);
    // The stream follows the new store, whose revisions are smaller.
    etcd.put(&key("users", "e"), "10.0.0.5:80").await;
    running.shows(&of("users"), &["d 10.0.0.4:80", "e 10.0.0.5:80"]).await;
    running.stop().await;
}

#[tokio::test]
async fn compaction_during_an_interruption_ends_in_the_exact_state() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(etcd.client_address()).await;
    for (id, address) in [("kept", "10.0.0.1:80"), ("gone", "10.0.0.2:80"), ("edited", "10.0.0.3:80")] {
        etcd.put(&key("users", id), address).await;
    }
    let running = run(&settings([proxy.url()]), &["users"]);
    running.shows(&of("users"), &["kept 10.0.0.1:80", "gone 10.0.0.2:80", "edited 10.0.0.3:80"]).await;
    proxy.set(Mode::Hold);
    for number in 0..300 {
        etcd.put(&key("users", "edited"), &format!("10.0.1.{}:80", number % 250)).await;
    }
    etcd.delete(&key("users", "gone")).await;
    let revision = etcd.put(&key("users", "edited"), "10.0.0.9:80").await;
    etcd.compact(revision).await;
    broken(&running, &proxy).await;
    proxy.set(Mode::Pass);
    running.shows(&of("users"), &["kept 10.0.0.1:80", "edited 10.0.0.9:80"]).await;
    never_lost(&running, "users", "kept 10.0.0.1:80");
    running.stop().await;
}

/// etcd sends history in batches that all claim the store's newest revision: resuming by it would lose the rest.
#[tokio::test]
async fn a_cut_within_a_long_history_loses_nothing() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(etcd.client_address()).await;
    etcd.put(&key("users", "first"), "10.0.0.1:80").await;
    let running = run(&settings([proxy.url()]), &["users"]);
    running.shows(&of("users"), &["first 10.0.0.1:80"]).await;
    proxy.set(Mode::Hold);
    let (etcd, keys) = (&etcd, (0..2_200).collect::<Vec<u32>>());
    for part in keys.chunks(50) {
        join_all(part.iter().map(|id| async move {
            let address = format!("10.1.{}.{}:80", id / 250, id % 250);
            etcd.put(&key("users", &format!("{id:04}")), &address).await;
        }))
        .await;
    }
    etcd.delete(&key("users", "0007")).await;
    broken(&running, &proxy).await;
    // Enough for the first batch of a thousand, too little for all.
    proxy.set(Mode::CutAfter(90_000));
    let watch = running.watch(&of("users").to_string());
    wait::until(SOON, "a cut within the history", || async { watch.sessions() >= 3 }).await;
    proxy.set(Mode::Pass);
    wait::until(SOON, "all of it", || async { running.endpoints(&of("users")).is_some_and(|all| all.len() == 2_200) })
        .await;
    let all = running.endpoints(&of("users")).unwrap();
    assert!(!all.iter().any(|endpoint| endpoint.starts_with("0007 ")));
    never_lost(&running, "users", "first 10.0.0.1:80");
    running.stop().await;
}

/// More history than one message may have: without fragments it could never be read.
#[tokio::test]
async fn a_heavy_history_comes_in_fragments() {
    let Some(etcd) = Etcd::start().await else { return };
    let proxy = Proxy::start(etcd.client_address()).await;
    let running = run(&settings([proxy.url()]), &["users"]);
    running.shows(&of("users"), &[]).await;
    proxy.set(Mode::Hold);
    let padding = "x".repeat(10_000);
    for id in 0..600 {
        let value = format!(r#"{{"address":"10.0.{}.{}:80","labels":{{"p":"{padding}"}}}}"#, id / 250, id % 250);
        etcd.put(&key("users", &format!("{id:03}")), &value).await;
    }
    broken(&running, &proxy).await;
    proxy.set(Mode::Pass);
    wait::until(SOON, "all", || async { running.endpoints(&of("users")).is_some_and(|all| all.len() == 600) }).await;
    running.stop().await;
}

#[tokio::test]
async fn an_etcd_that_is_away_at_the_start_is_not_an_empty_one() {
    let Some(mut etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    etcd.terminate().await;
    let running = run(&settings([etcd.url()]), &["users"]);
    let error = running.failing(DOCUMENTS).await;
    assert!(error.contains(&etcd.url()), "{error}");
    assert!(running.state().documents.is_none() && running.source(&of("users")).is_none());
    etcd.start_again().await;
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    running.documents("an empty list", |all| all.routes.is_empty()).await;
    running.stop().await;
}
