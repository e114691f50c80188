//! Three members, of which some die, freeze or lose each other.

use super::*;
use crate::support::place;
use crate::support::proxy::{Mode, Proxy};

/// Three members, each behind a proxy that tells which one is in use.
pub(crate) struct Three {
    pub(crate) members: Vec<Etcd>,
    pub(crate) proxies: Vec<Proxy>,
}

impl Three {
    pub(crate) async fn start() -> Option<Self> {
        Some(Self::of(Etcd::start_three().await?).await)
    }

    pub(crate) async fn of(members: Vec<Etcd>) -> Self {
        let mut proxies = Vec::new();
        for member in &members {
            proxies.push(Proxy::start(member.client_address()).await);
        }
        Self { members, proxies }
    }

    fn settings(&self) -> Settings {
        settings(self.proxies.iter().map(Proxy::url))
    }

    /// The only member that was ever connected to.
    pub(crate) fn in_use(&self) -> usize {
        let used: Vec<_> = (0..3).filter(|member| self.proxies[*member].connections() > 0).collect();
        assert_eq!(used.len(), 1, "one member serves until it fails");
        used[0]
    }

    /// Adds an endpoint `b` while a member is away.
    async fn write_without(&self, away: usize) {
        self.put_without(away, &key("users", "b"), "10.0.0.2:80").await;
    }

    /// Writes a key while a member is away; the others may have to elect a leader first.
    pub(crate) async fn put_without(&self, away: usize, key: &str, value: &str) {
        let other = &self.members[(away + 1) % 3];
        wait::until(SOON, "a write", || async {
            let put = serde_json::json!({ "key": base64(key), "value": base64(value) });
            other.try_call("kv/put", put).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_killed_member_is_left_and_nothing_is_lost() {
    let Some(mut three) = Three::start().await else { return };
    three.members[0].put(&key("users", "a"), "10.0.0.1:80").await;
    let running = run(&three.settings(), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let in_use = three.in_use();
    three.members[in_use].kill();
    three.write_without(in_use).await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

#[tokio::test]
async fn a_frozen_member_is_left_after_its_silence() {
    let Some(mut three) = Three::start().await else { return };
    three.members[0].put(&key("users", "a"), "10.0.0.1:80").await;
    let running = run(&three.settings(), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let in_use = three.in_use();
    three.members[in_use].freeze();
    three.write_without(in_use).await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    three.members[in_use].thaw();
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

/// Fault case 39: the watched member is cut off from the others, which go on; its clients still reach it.
#[tokio::test]
async fn a_member_that_is_cut_off_from_the_others_is_left() {
    let Some((members, between)) = Etcd::start_three_apart().await else { return };
    let three = Three::of(members).await;
    three.members[0].put(&key("users", "a"), "10.0.0.1:80").await;
    let running = run(&three.settings(), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let in_use = three.in_use();
    between.isolate(&three.members[in_use]).await;
    three.write_without(in_use).await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    assert!(running.watch(&of("users").to_string()).sessions() > 1, "the member itself cannot have told of it");
    between.join();
    three.members[(in_use + 1) % 3].delete(&key("users", "b")).await;
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

#[tokio::test]
async fn without_a_quorum_everything_is_kept() {
    let Some(mut three) = Three::start().await else { return };
    three.members[0].put(&key("users", "a"), "10.0.0.1:80").await;
    let running = run(&three.settings(), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let in_use = three.in_use();
    let others = [(in_use + 1) % 3, (in_use + 2) % 3];
    for other in others {
        three.members[other].kill();
    }
    // The watched member lives, and knows no leader.
    running.failing(&of("users").to_string()).await;
    assert_eq!(running.endpoints(&of("users")), Some(vec!["a 10.0.0.1:80".to_owned()]));
    for other in others {
        three.members[other].run();
    }
    for other in others {
        three.members[other].healthy().await;
    }
    three.members[in_use].put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

/// Fault case 47: a black hole is left for the next member after three seconds, not after the ten of other calls.
#[tokio::test]
async fn a_member_that_never_answered_is_left_soon() {
    let Some(etcd) = Etcd::start().await else { return };
    let hole = Proxy::start(etcd.client_address()).await;
    hole.set(Mode::Hold);
    let running = run(&settings([hole.url()]), &["users"]);
    assert_eq!(running.failing(DOCUMENTS).await, format!("{}: no answer in 3 s", hole.url()));
    running.stop().await;
}

#[tokio::test]
async fn members_that_refuse_or_swallow_do_not_keep_it_from_starting() {
    let Some(etcd) = Etcd::start().await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    let hole = Proxy::start(etcd.client_address()).await;
    hole.set(Mode::Hold);
    let refusing = format!("http://{}", place::refusing());
    let running = run(&settings([refusing, hole.url(), etcd.url()]), &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    running.documents("an empty list", |all| all.routes.is_empty()).await;
    running.stop().await;
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
