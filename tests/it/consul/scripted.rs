//! Answers that a real Consul of this version gives rarely or never, and what the provider makes of them.

use std::time::{Duration, Instant};

use super::{Running, SOON, failure, settings};
use crate::support::scripted::{Damage, Scene, ScriptedServer, instances};
use crate::support::wait;

const WHILE: Duration = Duration::from_secs(1);

async fn watched(scene: Scene, shows: &str) -> (ScriptedServer, Running) {
    let server = ScriptedServer::start(scene).await;
    let mut settings = settings(&server.url());
    settings.wait = Duration::from_secs(1);
    let running = Running::start(&settings, &["web"]);
    running.shows("web", shows).await;
    (server, running)
}

/// Waits until the watch fails with this in its words.
async fn fails(running: &Running, part: &str) {
    let watch = running.watch("web");
    wait::until_ok(SOON, part, || async {
        match failure(&watch) {
            Some(text) if text.contains(part) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn an_index_that_makes_no_sense_never_becomes_a_busy_loop() {
    for shown in [Some("0"), None, Some("some"), Some("9223372036854775808"), Some("5")] {
        let mut scene = Scene::new(7, instances(&["a", "b"]));
        scene.shown_index = shown.map(str::to_owned);
        let began = Instant::now();
        let (server, running) = watched(scene, "a b").await;
        wait::always(WHILE, "the instances stay", || async { running.shown("web") == "a b" }).await;
        let reads = server.seen("/v1/health/").len();
        // A first read, a burst of two, then one each 100 ms.
        let most = 4 + began.elapsed().as_millis() / 100;
        assert!(reads as u128 <= most, "{shown:?}: {reads} reads in {:?}", began.elapsed());
        assert_eq!(server.seen("index=0&"), [""; 0], "{shown:?}");
        running.stop().await;
    }
}

#[tokio::test]
async fn errors_carry_an_index_that_nobody_takes() {
    let scene = Scene::new(4711, instances(&["a", "b"]));
    let (server, running) = watched(scene.clone(), "a b").await;
    server.set(Scene { status: 500, shown_index: Some("1".to_owned()), body: "no".to_owned(), ..scene.clone() });
    fails(&running, "500").await;
    wait::until(SOON, "three errors", || async { running.watch("web").sessions() > 3 }).await;
    assert_eq!(running.shown("web"), "a b");
    server.set(Scene::new(4712, instances(&["a", "b", "c"])));
    running.shows("web", "a b c").await;
    wait::until(SOON, "the next query", || async { !server.seen("index=4712&").is_empty() }).await;
    assert_eq!(server.seen("index=1&"), [""; 0]);
    running.stop().await;
}

#[tokio::test]
async fn filtered_answers_add_and_never_remove() {
    let (server, running) = watched(Scene::new(10, instances(&["a", "b", "c"])), "a b c").await;
    let filtered = Scene::new(11, instances(&["c", "d"])).header("X-Consul-Results-Filtered-By-ACLs", "true");
    server.set(filtered);
    running.shows("web", "held a b c d").await;
    fails(&running, "left out").await;
    server.set(Scene::new(12, instances(&["a", "b", "c", "d"])));
    running.shows("web", "a b c d").await;
    running.stop().await;
}

#[tokio::test]
async fn an_agent_that_streams_is_believed_although_it_knows_no_leader() {
    let streamed = |index: u64, ids: &[&str]| {
        Scene::new(index, instances(ids))
            .header("X-Consul-KnownLeader", "false")
            .header("X-Consul-Query-Backend", "streaming")
    };
    let (server, running) = watched(streamed(10, &["a", "b", "c"]), "a b c").await;
    server.set(streamed(11, &["a", "b", "c", "d"]));
    running.shows("web", "a b c d").await;
    server.set(streamed(12, &["b", "c", "d"]));
    running.shows("web", "b c d").await;
    assert_eq!(running.watch("web").sessions(), 1);
    running.stop().await;
}

#[tokio::test]
async fn stale_answers_change_nothing_and_the_next_sound_one_does() {
    let (server, running) = watched(Scene::new(10, instances(&["a", "b", "c"])), "a b c").await;
    for (name, value) in [("X-Consul-KnownLeader", "false"), ("X-Consul-LastContact", "8375")] {
        let index = server.seen("").len() as u64 + 100;
        server.set(Scene::new(index, instances(&["a", "z"])).header(name, value));
        fails(&running, "the server that answered").await;
        assert_eq!(running.shown("web"), "a b c");
        server.set(Scene::new(index + 1, instances(&["a", "b", "c"])));
        let watch = running.watch("web");
        wait::until(SOON, "the watch to live", || async { failure(&watch).is_none() }).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn damaged_answers_change_nothing() {
    let sound = Scene::new(10, instances(&["a", "b"]));
    let (server, running) = watched(sound, "a b").await;
    let mut index = 10;
    for damage in [Damage::Truncated, Damage::ShortLength, Damage::NoGzip, Damage::None] {
        index += 1;
        let body = if damage == Damage::None { "<html>Sign in</html>".to_owned() } else { instances(&["a", "x"]) };
        server.set(Scene { damage, ..Scene::new(index, body) });
        let watch = running.watch("web");
        wait::until(SOON, "the failure", || async { failure(&watch).is_some() }).await;
        assert_eq!(running.shown("web"), "a b", "{damage:?}");
        index += 1;
        server.set(Scene::new(index, instances(&["a", "b"])));
        wait::until(SOON, "the watch to live", || async { failure(&watch).is_none() }).await;
    }
    assert_eq!(running.shown("web"), "a b");
    running.stop().await;
}

#[tokio::test]
async fn a_removal_goes_when_the_second_read_agrees_and_not_when_it_does_not() {
    let (server, running) = watched(Scene::new(10, instances(&["a", "b", "c"])), "a b c").await;
    // A first read without them, a second one with them: the second one counts.
    server.set(Scene { consistent: Some(instances(&["a", "b", "c"])), ..Scene::new(11, "[]".to_owned()) });
    wait::until(SOON, "a second read", || async { !server.seen("consistent").is_empty() }).await;
    wait::always(WHILE, "the instances stay", || async { running.shown("web") == "a b c" }).await;

    // Both without them, but the catalog still has the service.
    server.set(Scene::new(12, "[]".to_owned()));
    running.shows("web", "held a b c").await;
    fails(&running, "the catalog lists `web`").await;
    // A catalog without anything is no catalog.
    server.change(|scene| scene.catalog = "{}".to_owned());
    fails(&running, "without even Consul itself").await;
    assert_eq!(running.shown("web"), "held a b c");
    server.change(|scene| scene.catalog = r#"{"consul":[]}"#.to_owned());
    running.shows("web", "").await;
    running.stop().await;
}

#[tokio::test]
async fn a_consul_that_denies_by_default_removes_nothing_for_whom_has_no_token() {
    let (server, running) = watched(Scene::new(10, instances(&["a"])), "a").await;
    let denied = Scene::new(11, "[]".to_owned()).header("X-Consul-Default-ACL-Policy", "deny");
    server.set(Scene { catalog: r#"{"consul":[]}"#.to_owned(), ..denied });
    running.shows("web", "held a").await;
    fails(&running, "denies by default").await;
    running.stop().await;
}

#[tokio::test]
async fn an_index_that_goes_back_is_followed_only_after_a_second_read() {
    let (server, running) = watched(Scene::new(281, instances(&["a", "b", "c", "d", "e"])), "a b c d e").await;
    let restored = Scene::new(29, instances(&["a", "b", "c", "d"]));
    server.set(Scene { consistent: Some("no list".to_owned()), ..restored.clone() });
    fails(&running, "makes no sense").await;
    assert_eq!(running.shown("web"), "a b c d e");
    server.set(restored);
    running.shows("web", "a b c d").await;
    assert_eq!(running.sources.borrow().regressions, 1);
    wait::until(SOON, "the new index", || async { !server.seen("index=29&").is_empty() }).await;
    running.stop().await;
}

/// A server that has just been elected plays its log back, and its default reads show its past meanwhile, as sound as
/// any: seen at most starts of a real one that has thousands of entries to play back.
#[tokio::test]
async fn a_leader_that_shows_its_past_is_no_other_registry() {
    let sound = Scene::new(281, instances(&["a", "b", "c"]));
    let (server, running) = watched(sound.clone(), "a b c").await;
    let published = running.publications();
    server.set(Scene { status: 500, ..sound.clone() });
    fails(&running, "500").await;
    for past in [instances(&[]), instances(&["a", "z"])] {
        let reads = server.seen("consistent").len();
        let present = (Some(sound.body.clone()), Some(281));
        let past = Scene::new(29, past);
        server.set(Scene { consistent: present.0, consistent_index: present.1, ..past });
        wait::until(SOON, "a read that waits for the end", || async { server.seen("consistent").len() > reads }).await;
        server.set(sound.clone());
        let watch = running.watch("web");
        wait::until(SOON, "the watch to live", || async { failure(&watch).is_none() }).await;
        assert_eq!((running.sources.borrow().regressions, running.publications()), (0, published));
        assert_eq!(running.shown("web"), "a b c");
        server.set(Scene { status: 500, ..sound.clone() });
        fails(&running, "500").await;
    }
    server.set(Scene::new(282, instances(&["a", "b"])));
    running.shows("web", "a b").await;
    running.stop().await;
}

#[tokio::test]
async fn a_content_that_changes_without_its_index_is_held() {
    let (server, running) = watched(Scene::new(15, instances(&["a", "b", "c", "d", "e"])), "a b c d e").await;
    server.set(Scene::new(15, instances(&["a", "b", "c", "d"])));
    running.shows("web", "held a b c d e").await;
    fails(&running, "the index did not move").await;
    running.stop().await;
}

#[tokio::test]
async fn keys_without_an_index_are_a_failure_and_with_one_are_gone() {
    let pair =
        |key: &str| format!(r#"[{{"Key":"fleetgate/routes/{key}","Value":"eyJtYXRjaCI6e30sInVwc3RyZWFtIjoidSJ9"}}]"#);
    let server = ScriptedServer::start(Scene::new(10, pair("a"))).await;
    let mut settings = settings(&server.url());
    settings.wait = Duration::from_secs(1);
    let running = Running::start(&settings, &[]);
    running.documents("the route", |documents| documents.routes.len() == 1).await;
    let watch = running.kv_watch();
    server.set(Scene { status: 404, shown_index: None, ..Scene::new(11, String::new()) });
    wait::until(SOON, "the failure", || async { failure(&watch).is_some_and(|text| text.contains("404")) }).await;
    assert_eq!(running.documents_now().unwrap().routes.len(), 1);
    server.set(Scene { status: 404, ..Scene::new(12, String::new()) });
    running.documents("their end", |documents| documents.routes.is_empty()).await;
    running.stop().await;
}
