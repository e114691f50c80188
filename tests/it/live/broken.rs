//! What is broken never opens: a protected route, or the middleware it needs, that cannot be read at a start, in every
//! provider, with and without a saved state, beside gateways that still know its last good form.

use std::fs;
use std::os::unix::fs::symlink;

use super::{SOON, config, provider, rejects, saved::saves};
use crate::operator::run;
use crate::support::client::Request;
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

mod files;
mod imports;
mod listeners;
mod random;

/// Who defines the protected route.
enum Place {
    Kv(Consul),
    Etcd(Etcd),
    /// A file that a pattern finds, in each gateway's own folder.
    File,
}

const PROTECTED: &str = r#"{"match":{"path":"/admin"},"upstream":"app","middlewares":["keys"]}"#;
/// Its match can be read, and nothing else may be served of it.
const TYPO: &str = r#"{"match":{"path":"/admin"},"upstream":"app","middlewares":["keys"],"timout":"3s"}"#;

impl Place {
    async fn all() -> Vec<Self> {
        let mut all = vec![Self::File];
        all.extend(Consul::start().await.map(Self::Kv));
        all.extend(Etcd::start().await.map(Self::Etcd));
        all
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Kv(_) => "consul-kv",
            Self::Etcd(_) => "etcd",
            Self::File => "file",
        }
    }

    /// A gateway that serves everything openly but `/admin`, which this place defines.
    fn settings(&self, origin: &Origin, state: &str) -> String {
        let discovery = match self {
            Self::Kv(consul) => format!("discovery.consul.address = \"{}\"", consul.url()),
            Self::Etcd(etcd) => format!("discovery.etcd.endpoints = [\"{}\"]", etcd.url()),
            Self::File => "discovery.file.paths = [\"more/*.json\"]".to_owned(),
        };
        config(&format!(
            r#"
            discovery.state_dir = "{state}"
            {discovery}
            upstreams.app.endpoints = ["{}"]
            routes.open = {{ match = {{ path = "/" }}, upstream = "app" }}
            middlewares.keys.api_key.header = "x-key"
            "#,
            origin.address()
        ))
    }

    async fn start(&self, origin: &Origin, state: &str, text: &str) -> Gateway {
        let setup = Setup::new(&self.settings(origin, state));
        match self {
            Self::File => setup.file("more/admin.json", &in_file(text)).start_listening().await,
            Self::Kv(_) | Self::Etcd(_) => setup.start_listening().await,
        }
    }

    /// A gateway that has saved the good form of the route.
    async fn start_protected(&self, origin: &Origin) -> Gateway {
        self.put(&[], "admin", PROTECTED).await;
        let mut gateway = self.start(origin, "state", PROTECTED).await;
        gateway.wait_ready().await;
        refuses(&gateway, "/admin", 401).await;
        saves(&gateway, &format!("{}.json", self.name()), &["/admin"]).await;
        gateway
    }

    /// A gateway that is closed because it knows nothing but this text of the route, and what opens it is called.
    async fn start_closed(&self, origin: &Origin, broken: &str) -> (Gateway, String) {
        self.put(&[], "admin", PROTECTED).await;
        self.put(&[], "admin", broken).await;
        let gateway = self.start(origin, "state", broken).await;
        refuses(&gateway, "/", 503).await;
        let target = match self {
            Self::File => format!("file:{}", gateway.folder().join("more/admin.json").display()),
            Self::Kv(_) | Self::Etcd(_) => "routes/admin".to_owned(),
        };
        (gateway, target)
    }

    /// Writes the route, for all of these gateways.
    async fn put(&self, gateways: &[&Gateway], name: &str, text: &str) {
        match self {
            Self::Kv(consul) => consul.kv_put(&format!("fleetgate/routes/{name}"), text).await,
            Self::Etcd(etcd) => drop(etcd.put(&format!("/fleetgate/routes/{name}"), text).await),
            Self::File => {
                for gateway in gateways {
                    gateway.write(&format!("more/{name}.json"), &in_file(text));
                }
            }
        }
    }

    /// Waits until the gateway has saved that the route is broken by this word. Of files only good texts are saved.
    async fn saves_broken(&self, gateway: &Gateway, word: &str) {
        match self {
            Self::File => saves(gateway, "file.json", &["more/admin.json"]).await,
            Self::Kv(_) | Self::Etcd(_) => saves(gateway, &format!("{}.json", self.name()), &[word]).await,
        }
    }

    async fn delete(&self, gateways: &[&Gateway], name: &str) {
        match self {
            Self::Kv(consul) => consul.kv_delete(&format!("fleetgate/routes/{name}")).await,
            Self::Etcd(etcd) => drop(etcd.delete(&format!("/fleetgate/routes/{name}")).await),
            Self::File => {
                for gateway in gateways {
                    // All files of a pattern gone would be an accident.
                    gateway.write("more/other.json", "{}");
                    fs::remove_file(gateway.folder().join(format!("more/{name}.json"))).unwrap();
                }
            }
        }
    }
}

/// A route's body as a file has it; what is no table breaks the file as a whole.
fn in_file(text: &str) -> String {
    format!(r#"{{"routes":{{"admin":{text}}}}}"#)
}

pub(super) async fn refuses(gateway: &Gateway, path: &str, status: u16) {
    let answer = gateway.until_status(path, status).await;
    if status == 503 {
        assert_eq!(answer.header("x-fleetgate-flag"), Some("NC"), "{}", answer.text());
    }
}

/// Starts it again with what it saved, or with nothing.
async fn restart(gateway: Gateway, settings: &str) -> Gateway {
    gateway.write_config(settings);
    gateway.restart_unready().await
}

/// S-H2a and b: a typo in a protected route, and then a restart; with what was saved, without, and beside each other.
#[tokio::test]
async fn a_protected_route_with_a_typo_opens_at_no_start() {
    let origin = Origin::start("a").await;
    for place in Place::all().await {
        let name = place.name();
        let mut gateway = place.start_protected(&origin).await;
        gateway.until_status("/", 200).await;
        place.put(&[&gateway], "admin", TYPO).await;
        rejects(&gateway, name, &["timout"]).await;
        place.saves_broken(&gateway, "timout").await;
        assert_eq!(gateway.get("/admin").await.status, 401, "{name}: a bad edit changes nothing");

        // With the saved state, again and again, and under load from the first moment.
        for _ in 0..2 {
            gateway = gateway.restart_unready().await;
            let load = Load::start(gateway.address(), 2, |_, _| Request::get("/admin"));
            gateway.wait_ready().await;
            refuses(&gateway, "/admin", 401).await;
            rejects(&gateway, name, &["timout"]).await;
            load.more(50).await;
            let statuses = load.stop().await.statuses;
            assert!(statuses.keys().all(|status| [401, 503].contains(status)), "{name}: {statuses:?}");
            assert_eq!(gateway.get("/").await.status, 200);
        }
        // A gateway that never saw the good form, beside the one that did; and once more, of its own saved state.
        let mut other = place.start(&origin, "state", TYPO).await;
        other.wait_ready().await;
        refuses(&other, "/admin", 503).await;
        assert_eq!(other.get("/").await.status, 200, "{name}: the rest is served");
        place.saves_broken(&other, "timout").await;
        let mut other = other.restart_unready().await;
        other.wait_ready().await;
        refuses(&other, "/admin", 503).await;
        refuses(&gateway, "/admin", 401).await;
        // Each says what it does, and status tells it once.
        let kept = "its last good form stays in use";
        for (gateway, effect) in [(&gateway, kept), (&other, "requests that it matches get 503 (NC)")] {
            let log = gateway.stderr().text();
            assert!(log.lines().any(|line| line.contains("timout") && line.contains(effect)), "{name}: {log}");
            let (_, status) = run(gateway, &["status"]);
            assert_eq!(status.matches("timout").count(), 1, "{name}: {status}");
        }

        place.put(&[&gateway, &other], "admin", PROTECTED).await;
        refuses(&other, "/admin", 401).await;
        refuses(&gateway, "/admin", 401).await;
    }
}

/// S-H2b and the last bullet: where not even the match can be read, a gateway that knows nothing of it stays closed.
#[tokio::test]
async fn a_protected_route_that_cannot_be_read_keeps_a_new_gateway_closed() {
    let origin = Origin::start("a").await;
    for place in Place::all().await {
        let name = place.name();
        let mut old = place.start_protected(&origin).await;
        for broken in [r#"{"match":{"path":"/adm"#, r#"{"match":{"path":7},"upstream":"app"}"#, ""] {
            place.put(&[&old], "admin", broken).await;
            wait::until(SOON, "a word about it", || async {
                provider(&old, name).await["rejected"] != serde_json::json!([])
            })
            .await;
            old = old.restart_unready().await;
            old.wait_ready().await;
            refuses(&old, "/admin", 401).await;

            let new = place.start(&origin, "off", broken).await;
            for path in ["/", "/admin"] {
                refuses(&new, path, 503).await;
            }
            wait::until_ok(SOON, "a reason that says what to do", || async {
                let (status, text) = new.admin_get("/readyz").await;
                let names = text.contains("admin") && text.contains("fleetgate accept ");
                if status == 503 && names { Ok(()) } else { Err(format!("{name}, {broken}: {status} {text}")) }
            })
            .await;
            let told = run(&new, &["status"]).1 + &new.stderr().text();
            assert_eq!(told.matches("serves the rest without it").count(), 2, "{name}: {told}");
            assert!(!told.contains(&format!("{name}: {name}:")), "{told}");
            place.put(&[&old, &new], "admin", PROTECTED).await;
            let mut new = new;
            new.wait_ready().await;
            refuses(&new, "/admin", 401).await;
            assert_eq!(new.get("/").await.status, 200);
            // Once open, a gateway closes no more.
            place.put(&[&old, &new], "admin", broken).await;
            wait::until(SOON, "a word about it", || async {
                provider(&new, name).await["rejected"] != serde_json::json!([])
            })
            .await;
            assert_eq!((new.get("/").await.status, new.get("/admin").await.status), (200, 401));
            place.put(&[&old], "admin", PROTECTED).await;
        }
        // What is deleted protects nothing any more.
        place.put(&[&old], "admin", "{").await;
        let mut new = place.start(&origin, "off", "{").await;
        refuses(&new, "/", 503).await;
        place.delete(&[&old, &new], "admin").await;
        new.wait_ready().await;
        new.until_status("/admin", 200).await;
    }
}

/// What never had a good form changes nothing, whatever it would have matched.
#[tokio::test]
async fn a_route_that_was_never_good_changes_nothing() {
    let origin = Origin::start("a").await;
    for place in Place::all().await {
        let name = place.name();
        let gateway = place.start_protected(&origin).await;
        let load = Load::start(gateway.address(), 2, |_, _| Request::get("/new/x"));
        match &place {
            Place::File => {
                gateway.write("more/b.json", r#"{"routes":{"new":{"match":{"path":"/new"},"upstrem":"app"}}}"#);
                gateway.write("more/c.json", "{");
            }
            Place::Kv(_) | Place::Etcd(_) => {
                place.put(&[], "new", r#"{"match":{"path":"/new"},"upstrem":"app"}"#).await;
                place.put(&[], "newer", "{").await;
                place.put(&[], "empty", "").await;
            }
        }
        rejects(&gateway, name, &["upstrem", "it never had a good form, and is ignored"]).await;
        load.more(50).await;
        load.stop().await.assert_all_ok();
        if let Place::File = place {
            // Saved when it was known to be new already.
            saves(&gateway, "file.json", &["more/b.json"]).await;
        }
        let mut gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        assert_eq!((gateway.get("/new").await.status, gateway.get("/admin").await.status), (200, 401), "{name}");
    }
}

/// S-H2b: files that cannot be read at all.
#[tokio::test]
async fn a_file_that_cannot_be_read_is_no_empty_file() {
    let origin = Origin::start("a").await;
    let place = Place::File;
    for link in ["nowhere", "more/admin.json"] {
        let gateway = place.start_protected(&origin).await;
        let load = Load::start(gateway.address(), 2, |_, _| Request::get("/admin"));
        let path = gateway.folder().join("more/admin.json");
        let beside = gateway.folder().join("link");
        let target = if link == "nowhere" { gateway.folder().join(link) } else { path.clone() };
        symlink(target, &beside).unwrap();
        fs::rename(&beside, &path).unwrap();
        rejects(&gateway, "file", &["cannot be read"]).await;
        load.more(50).await;
        let statuses = load.stop().await.statuses;
        assert_eq!(statuses.keys().collect::<Vec<_>>(), [&401], "{link}");
        let mut gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        refuses(&gateway, "/admin", 401).await;
        assert_eq!(gateway.get("/").await.status, 200);
        let gateway = restart(gateway, &place.settings(&origin, "off")).await;
        for path in ["/", "/admin"] {
            refuses(&gateway, path, 503).await;
        }
        let (_, text) = gateway.admin_get("/readyz").await;
        assert!(text.contains("more/admin.json"), "{text}");
    }
}

/// S-H2e: a middleware of a provider that goes first keeps its name though it is broken.
#[tokio::test]
async fn a_broken_middleware_is_not_replaced_by_another_providers() {
    let Some(consul) = Consul::start().await else { return };
    let origin = Origin::start("a").await;
    consul.kv_put("fleetgate/middlewares/keys", r#"{"headers":{"response":{"set":{"x":"open"}}}}"#).await;
    let settings = |state: &str| {
        config(&format!(
            r#"
            discovery.state_dir = "{state}"
            discovery.file.paths = ["more/*.toml"]
            discovery.consul.address = "{}"
            upstreams.app.endpoints = ["{}"]
            routes.open = {{ match = {{ path = "/" }}, upstream = "app" }}
            routes.admin = {{ match = {{ path = "/admin" }}, upstream = "app", middlewares = ["keys"] }}
            "#,
            consul.url(),
            origin.address()
        ))
    };
    let good = "middlewares.keys.api_key.header = \"x-key\"";
    for bad in ["middlewares.keys.api_key.heder = \"x-key\"", "middlewares.keys.api_key = 5", "middlewares.keys = {"] {
        let mut gateway = Setup::new(&settings("state")).file("more/keys.toml", good).start_listening().await;
        gateway.wait_ready().await;
        refuses(&gateway, "/admin", 401).await;
        saves(&gateway, "file.json", &["x-key"]).await;
        gateway.write("more/keys.toml", bad);
        rejects(&gateway, "file", &["more/keys.toml"]).await;
        let mut gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        refuses(&gateway, "/admin", 401).await;
        let gateway = restart(gateway, &settings("off")).await;
        refuses(&gateway, "/admin", 503).await;
        gateway.write("more/keys.toml", good);
        refuses(&gateway, "/admin", 401).await;
    }
}

/// What an operator accepts is served without, at the next start too, until it has a good form again.
#[tokio::test]
async fn an_operator_may_accept_to_serve_without_a_broken_route() {
    let origin = Origin::start("a").await;
    for place in Place::all().await {
        let name = place.name();
        let broken = r#"{"match":{"path":"/adm"#;
        let (mut gateway, target) = place.start_closed(&origin, broken).await;
        wait::until(SOON, "the command that opens it", || async {
            gateway.admin_get("/readyz").await.1.contains(&format!("fleetgate accept {target}"))
        })
        .await;
        let (fine, said) = run(&gateway, &["accept", &target, "--yes"]);
        assert!(fine, "{name}: {said}");
        gateway.wait_ready().await;
        gateway.until_status("/", 200).await;
        saves(&gateway, "overlay.json", &["accepted"]).await;
        let mut gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        assert_eq!(gateway.get("/").await.status, 200);
        place.put(&[&gateway], "admin", PROTECTED).await;
        refuses(&gateway, "/admin", 401).await;
        place.put(&[&gateway], "admin", broken).await;
        rejects(&gateway, name, &["admin"]).await;
        assert_eq!(gateway.get("/admin").await.status, 401, "{name}: what was accepted is over");
    }
}

/// Of two items of one name the second one serves where the first is known never to have had a good form: where that is not
/// known, what the second one matches is blocked, too.
#[tokio::test]
async fn what_a_blocked_route_hides_is_not_open() {
    let Some(consul) = Consul::start().await else { return };
    let origin = Origin::start("a").await;
    consul.kv_put("fleetgate/routes/admin", PROTECTED).await;
    let settings = |state: &str| {
        config(&format!(
            r#"
            discovery.state_dir = "{state}"
            discovery.file.paths = ["more/*.json"]
            discovery.consul.address = "{}"
            upstreams.app.endpoints = ["{}"]
            routes.open = {{ match = {{ path = "/" }}, upstream = "app" }}
            middlewares.keys.api_key.header = "x-key"
            "#,
            consul.url(),
            origin.address()
        ))
    };
    let broken = r#"{"routes":{"admin":{"match":{"path":"/office"},"upstrem":"app"}}}"#;
    let other = r#"{"routes":{"admin":{"match":{"path":"/branch"},"upstream":"app","middlewares":["keys"]}}}"#;
    // It never was any good here: it changes nothing.
    let mut old = Setup::new(&settings("state")).file("more/z.json", "{}").start_listening().await;
    old.wait_ready().await;
    old.write("more/a.json", broken);
    rejects(&old, "file", &["upstrem"]).await;
    refuses(&old, "/admin", 401).await;
    assert_eq!(old.get("/office").await.status, 200);
    old.write("more/b.json", other);
    refuses(&old, "/branch", 401).await;
    // Who does not know that blocks what either of them matches.
    let mut new = restart(old, &settings("off")).await;
    new.wait_ready().await;
    for path in ["/admin", "/office", "/branch"] {
        refuses(&new, path, 503).await;
    }
    assert_eq!(new.get("/").await.status, 200);
}

/// A folder that is gone at a start is as suspicious as one that goes while a gateway runs; one file of several is deleted.
#[tokio::test]
async fn what_files_lost_between_two_starts_is_held_where_it_looks_like_a_mistake() {
    let origin = Origin::start("a").await;
    let place = Place::File;
    let mut gateway = place.start(&origin, "state", PROTECTED).await;
    gateway.wait_ready().await;
    gateway.write("more/b.json", r#"{"routes":{"b":{"match":{"path":"/b"},"upstream":"app","middlewares":["keys"]}}}"#);
    refuses(&gateway, "/b", 401).await;
    saves(&gateway, "file.json", &["/admin", "/b"]).await;

    gateway.terminate().await;
    fs::remove_file(gateway.folder().join("more/b.json")).unwrap();
    let mut gateway = gateway.restart_unready().await;
    gateway.wait_ready().await;
    gateway.until_status("/b", 200).await;
    assert_eq!(gateway.get("/admin").await.status, 401);

    wait::until(SOON, "the deletion to be saved", || async {
        let saved = fs::read_to_string(gateway.folder().join("state/file.json")).unwrap_or_default();
        !saved.contains("/b\\\"")
    })
    .await;
    gateway.terminate().await;
    let (folder, away) = (gateway.folder().join("more"), gateway.folder().join("away"));
    fs::rename(&folder, &away).unwrap();
    for _ in 0..2 {
        gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        refuses(&gateway, "/admin", 401).await;
        wait::until(SOON, "the hold", || async { gateway.api("holds").await.to_string().contains("more/admin.json") })
            .await;
        assert_eq!(gateway.get("/admin").await.status, 401);
    }
    fs::rename(&away, &folder).unwrap();
    wait::until(SOON, "no hold", || async { !gateway.api("holds").await.to_string().contains("more/admin.json") })
        .await;
    refuses(&gateway, "/admin", 401).await;
}

/// What was accepted is one text: what was written since, unseen, may have been good.
#[tokio::test]
async fn what_is_written_after_it_was_accepted_is_not_accepted() {
    let origin = Origin::start("a").await;
    for place in Place::all().await {
        let broken = r#"{"match":{"path":"/adm"#;
        let (mut gateway, target) = place.start_closed(&origin, broken).await;
        let (fine, said) = run(&gateway, &["accept", &target, "--yes"]);
        assert!(fine, "{said}");
        gateway.wait_ready().await;
        gateway.until_status("/", 200).await;
        assert!(gateway.api("status").await.to_string().contains("an operator accepted that it is served without"));
        saves(&gateway, "overlay.json", &["accepted"]).await;
        gateway.terminate().await;
        place.put(&[&gateway], "admin", PROTECTED).await;
        let again = if let Place::File = place { r#"{"match":{"path":"/a"# } else { broken };
        place.put(&[&gateway], "admin", again).await;
        let gateway = gateway.restart_unready().await;
        for _ in 0..20 {
            assert_eq!(gateway.get("/admin").await.status, 503, "{}", place.name());
        }
        refuses(&gateway, "/", 503).await;
    }
}

/// What came into files while no gateway looked may have had a good form.
#[tokio::test]
async fn what_the_saved_state_does_not_know_may_have_been_good() {
    let origin = Origin::start("a").await;
    let place = Place::File;
    for file in ["more/new.json", "more/known.json"] {
        let known = r#"{"routes":{"b":{"match":{"path":"/b"},"upstream":"app"}}}"#;
        let setup = Setup::new(&place.settings(&origin, "state")).file("more/known.json", known);
        let mut gateway = setup.start_listening().await;
        gateway.wait_ready().await;
        saves(&gateway, "file.json", &["/b"]).await;
        gateway.terminate().await;
        let admin = format!(r#""admin":{TYPO}"#);
        let text = match file {
            "more/known.json" => known.replace(r#""routes":{"#, &format!(r#""routes":{{{admin},"#)),
            _ => format!(r#"{{"routes":{{{admin}}}}}"#),
        };
        gateway.write(file, &text);
        let mut gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        refuses(&gateway, "/admin", 503).await;
        assert_eq!((gateway.get("/b").await.status, gateway.get("/").await.status), (200, 200), "{file}");
    }
}
