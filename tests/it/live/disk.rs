//! Folders that take nothing and files that are no use, with traffic flowing.

use std::fs;

use super::saved::saves;
use super::{SOON, fails, live, takes};
use crate::operator::run;
use crate::support::client::Request;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::{place, wait};

fn config(registry: &str, other: &Origin) -> String {
    format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "state"
        discovery.optional = ["etcd"]
        discovery.etcd.endpoints = ["{registry}"]
        upstreams.own.etcd = {{}}
        upstreams.other.endpoints = ["{}"]
        routes.own = {{ match = {{ path = "/own" }}, upstream = "own" }}
        routes.other = {{ match = {{ path = "/other" }}, upstream = "other" }}
        "#,
        other.address()
    )
}

async fn put(etcd: &Etcd, origin: &Origin) {
    etcd.put(&format!("/fleetgate/endpoints/own/{}", origin.name), &origin.address().to_string()).await;
}

/// The file that a gateway leaves which saw this.
async fn left(etcd: &Etcd, other: &Origin, known: &Origin) -> String {
    let mut gateway = Gateway::start(&config(&etcd.url(), other)).await;
    saves(&gateway, "etcd.json", &[&known.address().to_string()]).await;
    gateway.terminate().await;
    fs::read_to_string(gateway.folder().join("state/etcd.json")).unwrap()
}

async fn errors(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric("fleetgate_saved_state_errors_total", &[("reason", reason)]).await.unwrap()
}

/// Fault case 54: a folder that can only be read, and a full disk. What was saved is served, what registries say is
/// followed, operators are obeyed; it is counted, and a disk with room again is written to.
#[tokio::test]
async fn a_folder_that_takes_nothing_keeps_nobody_from_serving() {
    if place::own_mounts().is_none() {
        return;
    }
    let Some(mut etcd) = Etcd::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    let other = Origin::start("other").await;
    put(&etcd, &a).await;
    let saved = left(&etcd, &other, &a).await;
    let read_only = "mount --bind state state && mount -o remount,bind,ro state";
    let full = "cp state/etcd.json . && mount -t tmpfs -o size=64k none state && cp etcd.json state/ \
                && if head -c 1000000 /dev/zero >state/ballast 2>/dev/null; then exit 1; fi";
    for mounts in [read_only, full] {
        etcd.kill();
        let gateway = Setup::new(&config(&etcd.url(), &other)).file("state/etcd.json", &saved).mounts(mounts);
        let mut gateway = gateway.start().await;
        let paths = ["/own", "/other"];
        let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
        fails(&gateway, "etcd", "").await;
        takes(&load, "a/v1").await;
        etcd.start_again().await;
        put(&etcd, &b).await;
        takes(&load, "b/v1").await;
        wait::until(SOON, "the failed write to be counted", || async { errors(&gateway, "unwritable").await > 0.0 })
            .await;
        let (fine, said) = run(&gateway, &["drain", "own", &b.address().to_string()]);
        let why = if mounts == full { "No space left on device" } else { "Read-only file system" };
        assert!(fine && said.contains("is drained; not saved: ") && said.contains(why), "{said}");
        assert!(said.contains("a restart forgets it"), "{said}");
        let (_, status) = run(&gateway, &["status"]);
        assert!(status.contains("state_dir") && status.contains(why), "{status}");
        assert_eq!(gateway.api("status").await["saved_state"]["state"], "failing");
        assert_eq!(gateway.metric("fleetgate_saved_state_failing", &[]).await, Some(1.0));
        super::stops(&load, "b/v1").await;
        assert!(gateway.stderr().contains("saved"), "{}", gateway.stderr().text());
        if mounts == full {
            let state = format!("/proc/{}/root{}", gateway.process().id(), gateway.folder().join("state").display());
            fs::remove_file(format!("{state}/ballast")).unwrap();
            put(&etcd, &c).await;
            takes(&load, "c/v1").await;
            wait::until_ok(SOON, "c to be saved", || async {
                let text = fs::read_to_string(format!("{state}/etcd.json")).map_err(|error| error.to_string())?;
                if text.contains(&c.address().to_string()) { Ok(()) } else { Err(text) }
            })
            .await;
            assert_eq!(gateway.metric("fleetgate_saved_state_failing", &[]).await, Some(0.0));
            let (fine, said) = run(&gateway, &["drain", "own", &b.address().to_string()]);
            assert!(fine && said.contains("already") && !said.contains("not saved"), "{said}");
            let (fine, said) = run(&gateway, &["undrain", "own", &b.address().to_string()]);
            assert!(fine && !said.contains("not saved"), "{said}");
            // It is on disk when the answer comes.
            let saved = fs::read_to_string(format!("{state}/overlay.json")).unwrap();
            assert!(!saved.contains(&b.address().to_string()), "{saved}");
        }
        load.stop().await.assert_all_ok();
        for origin in [&b, &c] {
            etcd.delete(&format!("/fleetgate/endpoints/own/{}", origin.name)).await;
        }
    }
}

/// The saved state of files belongs to the path of the configuration file: where that was renamed, the log says so.
#[tokio::test]
async fn a_renamed_configuration_file_is_named_as_what_differs() {
    let origin = Origin::start("a").await;
    let text = format!(
        "listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\ndiscovery.state_dir = \"state\"\n\
         upstreams.app.endpoints = [\"{}\"]\nroutes.app = {{ match = {{}}, upstream = \"app\" }}",
        origin.address()
    );
    let mut gateway = Setup::new(&text).start().await;
    saves(&gateway, "file.json", &["routes"]).await;
    gateway.terminate().await;
    let saved = fs::read_to_string(gateway.folder().join("state/file.json")).unwrap();
    let gateway = Setup::named("other.toml", &text).file("state/file.json", &saved).start().await;
    assert!(gateway.stderr().contains("the path of the configuration file"), "{}", gateway.stderr().text());
    assert_eq!(gateway.get("/").await.served_by(), "a/v1");
}

/// Fault case 54: a file that is cut, changed, of another provider or of another registry is not used and counted;
/// what does not need it is served, and the registry's word is.
#[tokio::test]
async fn a_file_that_is_no_use_keeps_nobody_from_serving() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let (a, other) = (Origin::start("a").await, Origin::start("other").await);
    put(&etcd, &a).await;
    let saved = left(&etcd, &other, &a).await;
    let cut = saved[..saved.len() / 2].to_owned();
    let flipped = saved.replacen("\"weight\":1", "\"weight\":3", 1);
    assert_ne!(flipped, saved);
    let [elsewhere] = place::free_ports(etcd.address);
    let elsewhere = format!("http://{}:{elsewhere}", etcd.address);
    let here = etcd.url();
    for (file, text, registry, reason) in [
        ("etcd.json", &cut, &here, "corrupt"),
        ("etcd.json", &flipped, &here, "corrupt"),
        ("dns.json", &saved, &here, "foreign"),
        ("etcd.json", &saved, &elsewhere, "foreign"),
    ] {
        etcd.kill();
        let gateway = Setup::new(&config(registry, &other)).file(&format!("state/{file}"), text);
        let mut gateway = gateway.launch().await;
        wait::until(SOON, "the listeners", || async { gateway.stdout().contains("admin ") }).await;
        gateway.until_status("/other", 200).await;
        let load = Load::start(gateway.address(), 1, |_, _| Request::get("/other"));
        fails(&gateway, "etcd", "").await;
        assert_eq!(errors(&gateway, reason).await, 1.0, "{file}, {reason}");
        assert_eq!(gateway.until_status("/own", 503).await.header("x-fleetgate-flag"), Some("UH"));
        etcd.start_again().await;
        if registry == &here {
            gateway.wait_ready().await;
            live(&gateway, "etcd").await;
            assert_eq!(gateway.get("/own").await.served_by(), "a/v1");
        }
        load.stop().await.assert_all_ok();
    }
}
