//! A real etcd feeds the etcd provider: what is put, changed, deleted and expires; what goes wrong on the way.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fleetgate::discovery::etcd::EtcdProvider;
use fleetgate::discovery::state::Origin;
use fleetgate::discovery::status::WatchState;
use fleetgate::spec::name::ProviderId;
use fleetgate::spec::settings::{ClientTls, EtcdProvider as Settings, Secret};
use fleetgate::spec::source::{EtcdFormat, Source};

use crate::support::etcd::Etcd;
use crate::support::provider::Running;
use crate::support::wait;

mod auth;
mod faults;
pub(crate) mod members;
mod shared;
mod store;
mod tls;

const SOON: Duration = Duration::from_secs(40);
const DOCUMENTS: &str = "documents:/fleetgate/";

fn settings<Url: Into<String>>(urls: impl IntoIterator<Item = Url>) -> Settings {
    Settings {
        endpoints: urls.into_iter().map(Into::into).collect(),
        prefix: "/fleetgate/".to_owned(),
        fleet_prefix: "/fleetgate-fleet/".to_owned(),
        user: None,
        password_file: None,
        write_status: false,
        tls: ClientTls::default(),
        register: None,
    }
}

fn with_user(url: &str, name: &str, password: &str) -> Settings {
    Settings { user: Some((name.to_owned(), Secret::new(password))), ..settings([url]) }
}

fn of(upstream: &str) -> Source {
    Source::Etcd { prefix: format!("/fleetgate/endpoints/{upstream}/").into(), format: EtcdFormat::Fleetgate }
}

fn key(upstream: &str, id: &str) -> String {
    format!("/fleetgate/endpoints/{upstream}/{id}")
}

fn run(settings: &Settings, upstreams: &[&str]) -> Running {
    let wanted: Vec<_> = upstreams.iter().map(|upstream| of(upstream)).collect();
    Running::start(ProviderId::Etcd, wanted, |publisher| EtcdProvider::new(settings, publisher))
}

/// No state that was published lacked this endpoint of `upstream`, once it was there.
#[track_caller]
fn never_lost(running: &Running, upstream: &str, endpoint: &str) {
    let source = of(upstream);
    let mut seen = false;
    for state in running.history() {
        let Some(known) = state.sources.get(&source) else { continue };
        let there = known.endpoints.iter().any(|known| format!("{} {}", known.id, known.address) == endpoint);
        assert!(there || !seen, "{endpoint} was lost in {known:?}");
        seen |= there;
    }
    assert!(seen, "{endpoint} never came");
}

#[tokio::test]
async fn endpoints_come_change_and_go() {
    let Some(etcd) = Etcd::start().await else { return };
    let running = run(&settings([etcd.url()]), &["users", "empty"]);
    running.shows(&of("users"), &[]).await;
    running.shows(&of("empty"), &[]).await;
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    let text = r#"{"address":"vm-2.internal:8080","weight":3,"labels":{"version":"v2"}}"#;
    let revision = etcd.put(&key("users", "b"), text).await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b vm-2.internal:8080"]).await;
    let cost = &running.publisher.status().cost;
    let (wakeups, bytes) = (cost.wakeups.load(Relaxed), cost.bytes.load(Relaxed));
    let sent = ["a", "b"].iter().map(|id| key("users", id).len()).sum::<usize>() + "10.0.0.1:80".len() + text.len();
    assert!(wakeups >= 2 && bytes >= sent as u64, "{cost:?}");
    let b = running.source(&of("users")).unwrap().endpoints[1].clone();
    assert_eq!((b.weight, b.labels["version"].as_str(), b.modified), (3, "v2", u64::try_from(revision).unwrap()));
    etcd.put(&key("users", "a"), "10.0.0.9:80").await;
    running.shows(&of("users"), &["a 10.0.0.9:80", "b vm-2.internal:8080"]).await;
    etcd.delete(&key("users", "a")).await;
    running.shows(&of("users"), &["b vm-2.internal:8080"]).await;
    // The last one: a second read confirms it.
    etcd.delete(&key("users", "b")).await;
    running.shows(&of("users"), &[]).await;

    let watch = running.watch(&of("users").to_string());
    assert_eq!((watch.state(), watch.sessions()), (WatchState::Live, 1));
    assert_eq!(i64::try_from(watch.index()).unwrap(), etcd.revision().await);
    assert!(watch.verified_at().is_some());
    running.want([of("empty")]);
    wait::until(SOON, "users to be forgotten", || async { running.source(&of("users")).is_none() }).await;
    running.stop().await;
}

#[tokio::test]
async fn a_bad_value_keeps_the_old_one_and_neighbours_never_cross() {
    let Some(etcd) = Etcd::start().await else { return };
    etcd.put(&key("svc", "a"), "10.0.0.1:80").await;
    etcd.put(&key("svc2", "a"), "10.0.0.2:80").await;
    let running = run(&settings([etcd.url()]), &["svc", "svc2"]);
    running.shows(&of("svc"), &["a 10.0.0.1:80"]).await;
    running.shows(&of("svc2"), &["a 10.0.0.2:80"]).await;

    etcd.put(&key("svc", "a"), r#"{"address":"10.0.0.1:80","wieght":2}"#).await;
    let problems = || async { running.source(&of("svc")).map_or(0, |known| known.problems.len()) };
    wait::until(SOON, "the problem", || async { problems().await == 1 }).await;
    let known = running.source(&of("svc")).unwrap();
    assert!(known.problems[0].to_string().contains("etcd:/fleetgate/endpoints/svc/a: "), "{:?}", known.problems);
    assert!(known.problems[0].text.contains("wieght"), "{:?}", known.problems);
    running.shows(&of("svc"), &["a 10.0.0.1:80"]).await;
    etcd.delete(&key("svc", "a")).await;
    running.shows(&of("svc"), &[]).await;
    assert_eq!(problems().await, 0);
    running.shows(&of("svc2"), &["a 10.0.0.2:80"]).await;
    never_lost(&running, "svc2", "a 10.0.0.2:80");
    running.stop().await;
}

#[tokio::test]
async fn an_endpoint_ends_with_its_lease() {
    let Some(etcd) = Etcd::start().await else { return };
    let kept = etcd.kept_lease(2).await;
    let left = etcd.kept_lease(2).await;
    etcd.put_leased(&key("users", "kept"), "10.0.0.1:80", kept.id).await;
    etcd.put_leased(&key("users", "left"), "10.0.0.2:80", left.id).await;
    etcd.put(&key("users", "plain"), "10.0.0.3:80").await;
    let running = run(&settings([etcd.url()]), &["users"]);
    running.shows(&of("users"), &["kept 10.0.0.1:80", "left 10.0.0.2:80", "plain 10.0.0.3:80"]).await;
    drop(left);
    running.shows(&of("users"), &["kept 10.0.0.1:80", "plain 10.0.0.3:80"]).await;
    never_lost(&running, "users", "kept 10.0.0.1:80");
    running.stop().await;
}

#[tokio::test]
async fn a_revoked_lease_takes_everything_at_once_after_a_second_read() {
    let Some(etcd) = Etcd::start().await else { return };
    let lease = etcd.lease(600).await;
    for id in 0..60 {
        etcd.put_leased(&key("users", &format!("vm-{id:02}")), &format!("10.0.0.{id}:80"), lease).await;
    }
    etcd.put(&key("users", "plain"), "10.9.0.1:80").await;
    let running = run(&settings([etcd.url()]), &["users"]);
    wait::until(SOON, "61", || async { running.endpoints(&of("users")).is_some_and(|all| all.len() == 61) }).await;
    etcd.revoke(lease).await;
    running.shows(&of("users"), &["plain 10.9.0.1:80"]).await;
    let states: Vec<_> =
        running.history().iter().filter_map(|state| state.sources.get(&of("users")).cloned()).collect();
    assert!(states.iter().all(|known| matches!(known.endpoints.len(), 61 | 1)), "no half-way state");
    assert!(states.iter().all(|known| known.origin == Origin::Live || known.endpoints.len() == 61));
    let held = &running.publisher.status().updates.held;
    assert_eq!(held.load(std::sync::atomic::Ordering::Relaxed), 60);
    running.stop().await;
}

#[tokio::test]
async fn documents_come_change_and_go() {
    let Some(etcd) = Etcd::start().await else { return };
    let running = run(&settings([etcd.url()]), &[]);
    running.documents("nothing", |documents| documents.routes.is_empty()).await;
    let upstream = r#"{"endpoints":[{"address":"10.0.0.1:80"}]}"#;
    etcd.put("/fleetgate/upstreams/users", upstream).await;
    etcd.put("/fleetgate/routes/users.toml", "match = { path = \"/a\" }\nupstream = \"users\"").await;
    let both = running.documents("both", |all| all.routes.len() == 1 && all.upstreams.len() == 1).await;
    let route = &both.routes["users"];
    assert!(route.good.is_some() && route.problems.is_empty(), "{route:?}");
    assert_eq!(&*route.place, "etcd:/fleetgate/routes/users.toml");

    etcd.put("/fleetgate/routes/users.toml", "match = { path = \"/b\" }\nupstrean = \"users\"").await;
    let bad = running.documents("the problem", |all| !all.routes["users"].problems.is_empty()).await;
    assert_eq!(bad.routes["users"].good, route.good, "the last good form stays");
    let problems = bad.routes["users"].problems.iter().map(ToString::to_string).collect::<String>();
    assert!(problems.contains("upstrean"), "{problems}");

    etcd.put("/fleetgate/routes/users.toml", "match = { path = \"/b\" }\nupstream = \"users\"").await;
    let edited = running.documents("the edit", |all| all.routes["users"].problems.is_empty()).await;
    assert_ne!(edited.routes["users"].good, route.good);

    etcd.put("/fleetgate/routes/Bad Name", "{}").await;
    running.documents("the rejected key", |all| all.rejected.len() == 1).await;
    etcd.delete_prefix("/fleetgate/routes/").await;
    running.documents("no route", |all| all.routes.is_empty() && all.upstreams.len() == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn large_prefixes_are_read_in_pages() {
    let Some(etcd) = Etcd::start().await else { return };
    let labels = "x".repeat(2_000);
    let entries: Vec<_> = (0..2_500)
        .map(|id| {
            let value =
                format!(r#"{{"address":"10.1.{}.{}:80","labels":{{"padding":"{labels}"}}}}"#, id / 250, id % 250);
            (key("users", &format!("{id:04}")), value)
        })
        .collect();
    etcd.put_many(&entries).await;
    let running = run(&settings([etcd.url()]), &["users"]);
    wait::until(SOON, "all", || async { running.endpoints(&of("users")).is_some_and(|all| all.len() == 2_500) }).await;
    assert_eq!(running.history().iter().filter(|state| state.sources.contains_key(&of("users"))).count(), 1);
    etcd.delete(&key("users", "1234")).await;
    wait::until(SOON, "one less", || async { running.endpoints(&of("users")).is_some_and(|all| all.len() == 2_499) })
        .await;
    running.stop().await;
}
