//! Files that are missed, are no files or cannot be read: what they protect opens neither live nor at a start.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use super::super::saved::saves;
use super::super::{SOON, config, provider, rejects};
use super::{PROTECTED, Place, in_file, refuses};
use crate::operator::run;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::Origin;
use crate::support::wait;

/// Waits until this is held.
async fn holds(gateway: &Gateway, words: &[&str]) {
    wait::until_ok(SOON, &format!("{words:?} to be held"), || async {
        let holds = gateway.api("holds").await.to_string();
        if words.iter().all(|word| holds.contains(word)) { Ok(()) } else { Err(holds) }
    })
    .await;
}

/// The only file of a pattern, and its folder, in all the ways in which they can be missing at a start.
#[tokio::test]
async fn all_files_of_a_pattern_gone_are_held_at_a_start_as_they_are_live() {
    let origin = Origin::start("a").await;
    let mut gateway = Place::File.start(&origin, "state", PROTECTED).await;
    gateway.wait_ready().await;
    refuses(&gateway, "/admin", 401).await;
    saves(&gateway, "file.json", &["/admin"]).await;
    let path = |name: &str| gateway.folder().join(name);
    let (folder, file, away, empty) = (path("more"), path("more/admin.json"), path("away"), path("empty"));
    fs::create_dir(&empty).unwrap();
    fs::rename(&file, &away).unwrap();
    holds(&gateway, &["more/admin.json", "no file of", "is left"]).await;
    let not_mounted = || {};
    let link = || {
        fs::remove_dir(&folder).unwrap();
        symlink(&empty, &folder).unwrap();
    };
    let plain = || {
        fs::remove_file(&folder).unwrap();
        fs::write(&folder, "").unwrap();
    };
    for (make, why) in
        [(&not_mounted as &dyn Fn(), "is left"), (&not_mounted, "is left"), (&link, "is left"), (&plain, "is gone")]
    {
        gateway.terminate().await;
        make();
        gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        holds(&gateway, &["more/admin.json", why]).await;
        // Longer than a deletion waits.
        let log = gateway.stderr().text();
        assert!(log.contains("held: "), "{log}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(gateway.get("/admin").await.status, 401, "{why}");
    }
    rejects(&gateway, "file", &["more", "is not a folder"]).await;
    let (fine, said) = run(&gateway, &["accept", &format!("file:{}", file.display()), "--yes"]);
    assert!(fine, "{said}");
    gateway.until_status("/admin", 200).await;
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::rename(&away, &file).unwrap();
    refuses(&gateway, "/admin", 401).await;
}

/// What is meant as a document and is no file, such as the folder that Docker makes of a missing source of a mount.
#[tokio::test]
async fn what_should_be_a_file_and_is_none_keeps_a_new_gateway_closed() {
    let origin = Origin::start("a").await;
    let literal = Place::File.settings(&origin, "state").replace("more/*.json", "more/[no]*.json\", \"more/admin.json");
    for settings in [Place::File.settings(&origin, "state"), literal] {
        let pipe = |path: &std::path::Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        let socket = |path: &std::path::Path| drop(UnixListener::bind(path).unwrap());
        let folder = |path: &std::path::Path| fs::create_dir(path).unwrap();
        for (make, what) in
            [(&pipe as &dyn Fn(&std::path::Path), "a named pipe"), (&socket, "a socket"), (&folder, "a folder")]
        {
            let setup = Setup::new(&settings).file("more/other.json", "{}");
            let path = setup.folder().join("more/admin.json");
            fs::create_dir_all(setup.folder().join("more/sub")).unwrap();
            make(&path);
            let gateway = setup.start_listening().await;
            for path in ["/", "/admin"] {
                refuses(&gateway, path, 503).await;
            }
            let target = format!("file:{}", path.display());
            wait::until_ok(SOON, "the reason and the command", || async {
                let (status, text) = gateway.admin_get("/readyz").await;
                let told = text.contains(what) && text.contains(&format!("fleetgate accept {target}"));
                if status == 503 && told { Ok(()) } else { Err(text) }
            })
            .await;
            let (_, text) = gateway.admin_get("/readyz").await;
            assert!(!text.contains("more/sub"), "{text}");
            let (fine, said) = run(&gateway, &["accept", &target, "--yes"]);
            assert!(fine, "{said}");
            gateway.until_status("/admin", 200).await;
            // It comes, and is known from then on.
            if path.is_dir() {
                fs::remove_dir(&path).unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            fs::write(&path, in_file(PROTECTED)).unwrap();
            refuses(&gateway, "/admin", 401).await;
            fs::remove_file(&path).unwrap();
            make(&path);
            rejects(&gateway, "file", &["more/admin.json", what]).await;
            assert_eq!(gateway.get("/admin").await.status, 401);
            // A newcomer is only told.
            let new = gateway.folder().join("more/new.json");
            make(&new);
            rejects(&gateway, "file", &["more/new.json", what]).await;
            assert_eq!(gateway.get("/").await.status, 200);
        }
    }
}

/// A route that moves into a file with a mistake is nowhere to be read.
#[tokio::test]
async fn what_moves_into_a_file_that_cannot_be_read_stays() {
    let origin = Origin::start("a").await;
    let mut gateway = Place::File.start(&origin, "state", PROTECTED).await;
    gateway.wait_ready().await;
    gateway.write("more/other.json", "{}");
    saves(&gateway, "file.json", &["/admin", "other.json"]).await;
    let path = |name: &str| gateway.folder().join(name);
    let (old, new, newer) = (path("more/admin.json"), path("more/new.json"), path("more/newer.json"));
    let state = path("state/file.json");
    let cut = in_file(PROTECTED).trim_end_matches('}').to_owned();
    let renamed = || {
        fs::write(&old, &cut).unwrap();
        fs::rename(&old, &newer).unwrap();
    };
    let emptied = || {
        fs::write(&new, &cut).unwrap();
        fs::write(&old, "{}").unwrap();
    };
    for (make, new, words) in
        [(&emptied as &dyn Fn(), &new, "more/new.json can be read"), (&renamed, &newer, "more/newer.json can be read")]
    {
        make();
        holds(&gateway, &["more/admin.json", "routes/admin", words]).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(gateway.get("/admin").await.status, 401);
        gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        holds(&gateway, &["more/admin.json", words]).await;
        gateway.write(
            "more/other.json",
            r#"{"routes":{"more":{"match":{"path":"/more"},"upstream":"app","middlewares":["keys"]}}}"#,
        );
        refuses(&gateway, "/more", 401).await;
        fs::write(new, in_file(PROTECTED)).unwrap();
        wait::until_ok(SOON, "no hold", || async {
            let provider = provider(&gateway, "file").await;
            if provider["held"] == serde_json::json!([]) { Ok(()) } else { Err(provider) }
        })
        .await;
        assert_eq!(gateway.get("/admin").await.status, 401);
        // Back to where it was.
        fs::write(&old, in_file(PROTECTED)).unwrap();
        fs::remove_file(new).unwrap();
        wait::until(SOON, "the file to be gone", || async {
            let saved = fs::read_to_string(&state).unwrap_or_default();
            saved.contains("more/admin.json") && !saved.contains("more/new")
        })
        .await;
    }
    emptied();
    holds(&gateway, &["more/admin.json", "more/new.json can be read"]).await;
    let (fine, said) = run(&gateway, &["accept", &format!("file:{}", old.display()), "--yes"]);
    assert!(fine, "{said}");
    gateway.until_status("/admin", 200).await;
}

/// A place that a setting names and that is not there.
#[tokio::test]
async fn a_pattern_that_leads_nowhere_is_told() {
    let settings = config("discovery.state_dir = \"off\"\ndiscovery.file.paths = [\"later/*.json\", \"later.json\"]");
    let gateway = Setup::new(&settings).start().await;
    rejects(&gateway, "file", &["later.json", "there is no such file", "later", "there is no such folder"]).await;
    let log = gateway.stderr().text();
    assert!(log.contains("there is no such file") && log.contains("there is no such folder"), "{log}");
    gateway.write("later/x.json", "{}");
    gateway.write("later.json", "{}");
    wait::until_ok(SOON, "no word about it", || async {
        let provider = provider(&gateway, "file").await;
        if provider["rejected"] == serde_json::json!([]) { Ok(()) } else { Err(provider) }
    })
    .await;
}
