//! What is broken never opens, for routes that services ask for in tags: a protected route with a wrong tag keeps its
//! protection over restarts, is closed at a gateway that never saw its good form, and keeps no gateway from being ready.

use super::{SOON, broken::refuses, config, provider, rejects, saved::saves};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

mod typos;

/// Serves everything openly but what services ask for; what `/` covers may be claimed.
fn settings(consul: &Consul, origin: &Origin, state: &str) -> String {
    config(&format!(
        r#"
        discovery.state_dir = "{state}"
        discovery.consul = {{ address = "{}", wait = "5s", tags = true, fabio_tags = true, tag_networks = ["127.0.0.0/8"] }}
        upstreams.app.endpoints = ["{}"]
        routes.open = {{ match = {{ path = "/" }}, upstream = "app" }}
        middlewares.keys.api_key.header = "x-key"
        "#,
        consul.url(),
        origin.address()
    ))
}

async fn start(consul: &Consul, origin: &Origin, state: &str) -> Gateway {
    let mut gateway = Setup::new(&settings(consul, origin, state)).start_listening().await;
    gateway.wait_ready().await;
    gateway.until_status("/", 200).await;
    gateway
}

fn service(name: &str, origin: &Origin, tags: &[&str]) -> Service {
    Service::new(name, name, origin.address()).tags(tags)
}

/// A protected route, and a mistake in its tags.
struct Mistake {
    /// Of the service, and of its path.
    name: &'static str,
    good: &'static [&'static str],
    wrong: &'static [&'static str],
    /// What is said of it.
    said: &'static str,
    /// What clients get who may not pass.
    refusal: u16,
    /// Whether what the route matches can still be read.
    is_placed: bool,
    /// The same place, open.
    open: &'static str,
}

/// S-H2a for tags: a mistake in a protected route, and then restarts; with what was saved, without, and beside each other.
async fn opens_at_no_start(mistake: Mistake) {
    let Some(consul) = Consul::start().await else { return };
    let (app, admin) = (Origin::start("app").await, Origin::start("admin").await);
    let Mistake { name, good, wrong, said, refusal, is_placed, open } = mistake;
    let path: &'static str = format!("/{name}").leak();
    consul.register(&service(name, &admin, good)).await;
    let mut gateway = start(&consul, &app, "state").await;
    refuses(&gateway, path, refusal).await;
    saves(&gateway, "consul-tags.json", &[good[0]]).await;
    let load = Load::start(gateway.address(), 2, move |_, _| Request::get(path));
    consul.register(&service(name, &admin, wrong)).await;
    rejects(&gateway, "consul-tags", &[said, name]).await;
    load.more(50).await;
    assert_eq!(load.stop().await.statuses.keys().collect::<Vec<_>>(), [&refusal], "while it runs");
    saves(&gateway, "consul.json", &[wrong[0]]).await;

    // With the saved state, again and again, and under load from the first moment.
    for _ in 0..2 {
        gateway = gateway.restart_unready().await;
        let load = Load::start(gateway.address(), 2, move |_, _| Request::get(path));
        gateway.wait_ready().await;
        refuses(&gateway, path, refusal).await;
        rejects(&gateway, "consul-tags", &[said, name]).await;
        load.more(50).await;
        let statuses = load.stop().await.statuses;
        assert!(statuses.keys().all(|status| [refusal, 503].contains(status)), "{statuses:?}");
        assert_eq!(gateway.get("/").await.status, 200);
    }
    // A gateway that never saw the good form, beside the one that did; and once more, of its own saved state.
    let mut other = start(&consul, &app, "state").await;
    saves(&other, "consul-tags.json", &[name]).await;
    for _ in 0..2 {
        rejects(&other, "consul-tags", &[said, name]).await;
        if is_placed {
            refuses(&other, path, 503).await;
        } else {
            // Nobody knows that this is its place, and registrations keep no gateway from being ready.
            assert_eq!(other.get(path).await.served_by(), "app/v1");
        }
        assert_eq!((other.get("/").await.status, other.admin_get("/readyz").await.0), (200, 200));
        other = other.restart_unready().await;
        other.wait_ready().await;
    }
    refuses(&gateway, path, refusal).await;

    consul.register(&service(name, &admin, good)).await;
    for gateway in [&gateway, &other] {
        refuses(gateway, path, refusal).await;
    }
    consul.register(&service(name, &admin, &[open])).await;
    for gateway in [&gateway, &other] {
        wait::until(SOON, "the route to be open, as it asks now", || async {
            gateway.get(path).await.served_by() == "admin/v1"
        })
        .await;
    }
}

#[tokio::test]
async fn a_protected_route_with_a_wrong_tag_opens_at_no_start() {
    let mistake = Mistake {
        name: "native",
        good: &["fleetgate.path=/native", "fleetgate.middlewares=keys"],
        wrong: &["fleetgate.path=/native", "fleetgate.middlewares=keys", "fleetgate.strp_prefix=/native"],
        said: "strp_prefix",
        refusal: 401,
        is_placed: true,
        open: "fleetgate.path=/native",
    };
    opens_at_no_start(mistake).await;
}

#[tokio::test]
async fn a_protected_route_with_a_wrong_path_opens_at_no_start_with_a_saved_state() {
    let mistake = Mistake {
        name: "native",
        good: &["fleetgate.path=/native", "fleetgate.middlewares=keys"],
        wrong: &["fleetgate.path=native", "fleetgate.middlewares=keys"],
        said: "a path begins with `/`",
        refusal: 401,
        is_placed: false,
        open: "fleetgate.path=/native",
    };
    opens_at_no_start(mistake).await;
}

#[tokio::test]
async fn a_protected_route_with_a_wrong_fabio_option_opens_at_no_start() {
    let mistake = Mistake {
        name: "fabio",
        good: &["urlprefix-/fabio allow=ip:10.0.0.0/8"],
        wrong: &["urlprefix-/fabio allow=ip:10.0.0.0/8 weight=x"],
        said: "weight=x",
        refusal: 403,
        is_placed: true,
        open: "urlprefix-/fabio",
    };
    opens_at_no_start(mistake).await;
}

#[tokio::test]
async fn a_protected_route_with_a_wrong_fabio_prefix_opens_at_no_start_with_a_saved_state() {
    let mistake = Mistake {
        name: "fabio",
        good: &["urlprefix-/fabio allow=ip:10.0.0.0/8"],
        wrong: &["urlprefix-fabio allow=ip:10.0.0.0/8"],
        said: "a path is missing",
        refusal: 403,
        is_placed: false,
        open: "urlprefix-/fabio",
    };
    opens_at_no_start(mistake).await;
}

/// What never had a good form changes nothing, at this gateway and after its restarts.
#[tokio::test]
async fn a_service_that_was_never_right_changes_nothing() {
    let Some(consul) = Consul::start().await else { return };
    let (app, admin) = (Origin::start("app").await, Origin::start("admin").await);
    consul.register(&service("web", &admin, &["fleetgate.path=/web"])).await;
    let mut gateway = start(&consul, &app, "state").await;
    let load = Load::start(gateway.address(), 2, |worker, _| Request::get(["/new", "/fabio"][worker]));
    let tags = ["fleetgate.path=/new", "fleetgate.midlewares=keys", "urlprefix-/fabio weight=x"];
    consul.register(&service("new", &admin, &tags)).await;
    rejects(&gateway, "consul-tags", &["midlewares", "weight=x"]).await;
    load.more(50).await;
    let report = load.stop().await;
    assert_eq!(report.served.keys().collect::<Vec<_>>(), ["app/v1"]);
    report.assert_all_ok();
    saves(&gateway, "consul-tags.json", &["\"new\""]).await;
    for _ in 0..2 {
        gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        rejects(&gateway, "consul-tags", &["midlewares", "weight=x"]).await;
        for path in ["/new", "/fabio"] {
            assert_eq!(gateway.get(path).await.served_by(), "app/v1", "{path}");
        }
    }
    assert_eq!(gateway.get("/web").await.served_by(), "admin/v1");
    // A gateway that knows nothing of it cannot tell.
    let other = start(&consul, &app, "off").await;
    for path in ["/new", "/fabio"] {
        refuses(&other, path, 503).await;
    }
    let route = other.api("routes").await["items"].to_string();
    assert!(route.contains("this gateway has no good form"), "{route}");
    consul.register(&service("new", &admin, &["fleetgate.path=/new", "urlprefix-/fabio"])).await;
    for gateway in [&gateway, &other] {
        for path in ["/new", "/fabio"] {
            wait::until(SOON, "it to be served once it is right", || async {
                gateway.get(path).await.served_by() == "admin/v1"
            })
            .await;
        }
        assert_eq!(provider(gateway, "consul-tags").await["rejected"], serde_json::json!([]));
    }
}

/// A route that is closed takes no place that its good form would not have: a document's, or that of an older claim.
#[tokio::test]
async fn a_closed_route_takes_no_place_of_others() {
    let Some(consul) = Consul::start().await else { return };
    let (app, first, second) =
        (Origin::start("app").await, Origin::start("first").await, Origin::start("second").await);
    consul.register(&service("first", &first, &["fleetgate.path=/shared"])).await;
    let old = start(&consul, &app, "state").await;
    wait::until(SOON, "the first claim", || async { old.get("/shared").await.served_by() == "first/v1" }).await;
    let tags =
        ["fleetgate.path=/shared", "fleetgate.routes.doc.path=/doc", "fleetgate.routes.doc.x=1", "fleetgate.x=1"];
    consul.register(&service("second", &second, &tags)).await;
    rejects(&old, "consul-tags", &["fleetgate.x=1"]).await;
    let with_document = settings(&consul, &app, "off")
        + "routes.doc = { match = { path = \"/doc\" }, upstream = \"app\", middlewares = [\"keys\"] }\n";
    let mut new = Setup::new(&with_document).start_listening().await;
    new.wait_ready().await;
    rejects(&new, "consul-tags", &["fleetgate.x=1"]).await;
    for gateway in [&old, &new] {
        assert_eq!(gateway.get("/shared").await.served_by(), "first/v1");
    }
    refuses(&new, "/doc", 401).await;
}
