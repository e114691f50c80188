//! Users, passwords and tokens: refreshed when they expire, and told plainly when they don't help.

use super::*;
use crate::support::proxy::{Mode, Proxy};

const PASSWORD: &str = "correct-horse";

#[tokio::test]
async fn an_expired_token_is_replaced_unnoticed() {
    let Some(etcd) = Etcd::start_with(&["--auth-token-ttl=2"]).await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", PASSWORD, "/fleetgate/").await;
    let proxy = Proxy::start(etcd.client_address()).await;
    let running = run(&with_user(&proxy.url(), "gateway", PASSWORD), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let name = of("users").to_string();
    for (round, id) in ["b", "c"].into_iter().enumerate() {
        // Longer than a token lives: an open watch does not use it.
        wait::always(Duration::from_secs(4), "live", || async { running.watch(&name).state() == WatchState::Live })
            .await;
        proxy.set(Mode::Hold);
        etcd.put(&key("users", id), &format!("10.0.0.{}:80", round + 2)).await;
        proxy.cut();
        running.failing(&name).await;
        proxy.set(Mode::Pass);
        let there = || async { running.endpoints(&of("users")).is_some_and(|all| all.len() == round + 2) };
        wait::until(SOON, "what was written meanwhile", there).await;
        // Only the cut ended a session; the refused token did not.
        let again = || async {
            let watch = running.watch(&name);
            watch.state() == WatchState::Live && watch.sessions() == u64::try_from(round).unwrap() + 2
        };
        wait::until(SOON, "the next session", again).await;
    }
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

#[tokio::test]
async fn a_restarted_member_has_forgotten_its_tokens() {
    let Some(mut etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", PASSWORD, "/fleetgate/").await;
    let running = run(&with_user(&etcd.url(), "gateway", PASSWORD), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    etcd.kill();
    etcd.start_again().await;
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_user_are_named() {
    let Some(etcd) = Etcd::start().await else { return };
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", PASSWORD, "/fleetgate/").await;
    let wrong = run(&with_user(&etcd.url(), "gateway", "wrong-secret"), &["users"]);
    let error = wrong.failing(DOCUMENTS).await;
    assert!(error.contains("authentication failed") && !error.contains("wrong-secret"), "{error}");
    assert!(wrong.state().documents.is_none() && wrong.source(&of("users")).is_none());
    wrong.stop().await;
    let nobody = run(&settings([etcd.url()]), &[]);
    let error = nobody.failing(DOCUMENTS).await;
    assert!(error.contains("discovery.etcd.user"), "{error}");
    assert!(nobody.state().documents.is_none());
    nobody.stop().await;
}

#[tokio::test]
async fn a_revoked_role_removes_nothing() {
    let Some(etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", PASSWORD, "/fleetgate/").await;
    let proxy = Proxy::start(etcd.client_address()).await;
    let running = run(&with_user(&proxy.url(), "gateway", PASSWORD), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    etcd.revoke_reader("gateway").await;
    proxy.cut();
    let denied = || async {
        match running.watch(&of("users").to_string()).state() {
            WatchState::Failing { error, .. } if error.contains("permission denied") => Ok(()),
            other => Err(other),
        }
    };
    wait::until_ok(SOON, "the refusal", denied).await;
    assert_eq!(running.endpoints(&of("users")), Some(vec!["a 10.0.0.1:80".to_owned()]));
    etcd.call("auth/user/grant", serde_json::json!({ "user": "gateway", "role": "gateway" })).await;
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

#[tokio::test]
async fn auth_may_be_switched_on_and_off_at_any_time() {
    let Some(etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    let proxy = Proxy::start(etcd.client_address()).await;
    // A user is configured, and authentication is not on yet.
    let running = run(&with_user(&proxy.url(), "gateway", PASSWORD), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", PASSWORD, "/fleetgate/").await;
    proxy.cut();
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    etcd.disable_auth().await;
    proxy.cut();
    etcd.put(&key("users", "c"), "10.0.0.3:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80", "c 10.0.0.3:80"]).await;
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}
