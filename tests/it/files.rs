//! Files feed the file provider, edited in all the ways that editors, scripts and ConfigMaps have.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetgate::discovery::file::FileProvider;
use fleetgate::spec::document::Documents;
use fleetgate::spec::hold::HeldPart;
use fleetgate::spec::matching::PathMatch;
use fleetgate::spec::name::ProviderId;
use fleetgate::spec::settings::FileProvider as Settings;

use crate::support::provider::Running;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(20);

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("fleetgate-files-").tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Truncates and writes, as a shell's redirection does.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes beside and renames, as careful editors do.
    fn replace(&self, name: &str, text: &str) {
        let beside = self.path(&format!("{name}.new~"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    fn run(&self, patterns: &[&str]) -> Running {
        let patterns = patterns.iter().map(|pattern| self.path(pattern)).collect();
        start(&Settings { main: None, patterns })
    }
}

fn start(settings: &Settings) -> Running {
    Running::start(ProviderId::File, [], |publisher| FileProvider::new(settings, publisher))
}

/// A route that matches a path prefix.
fn route(name: &str, path: &str) -> String {
    format!("[routes.{name}]\nmatch = {{ path = \"{path}\" }}\nupstream = \"u\"\n")
}

/// The routes as `name path`.
fn routes(documents: &Documents) -> Vec<String> {
    let shown = |path: &PathMatch| match path {
        PathMatch::Prefix(prefix) => prefix.to_string(),
        other => format!("{other:?}"),
    };
    let route = |(name, item): (&fleetgate::spec::name::Name, &fleetgate::spec::document::Item<_>)| {
        let good: &Option<Arc<fleetgate::spec::route::RouteSpec>> = &item.good;
        format!("{name} {}", good.as_ref().map_or_else(|| "bad".to_owned(), |good| shown(&good.matching.path)))
    };
    documents.routes.iter().map(route).collect()
}

#[track_caller]
fn shows(running: &Running, wanted: &'static [&'static str]) -> impl Future<Output = Arc<Documents>> {
    running.documents(format!("routes {wanted:?}"), move |documents| routes(documents) == wanted)
}

/// Waits until this file's items are held.
async fn holds(running: &Running, name: &str) {
    wait::until_ok(SOON, &format!("{name} to be held"), || async {
        let holds = running.state().holds.clone();
        if holds.keys().any(|part| matches!(part, HeldPart::File(file) if file.ends_with(name))) {
            Ok(())
        } else {
            Err(holds)
        }
    })
    .await;
}

/// No state that was published lacked this route, once it was there.
#[track_caller]
fn never_lost(running: &Running, name: &str) {
    let states = running.history();
    let has = |state: &Arc<fleetgate::discovery::state::ProviderState>| {
        state.documents.as_ref().is_some_and(|all| all.routes.get(name).is_some_and(|item| item.good.is_some()))
    };
    let first = states.iter().position(has).expect("it was there");
    assert!(states[first..].iter().all(has), "{name} was lost");
}

#[tokio::test]
async fn without_files_there_is_an_empty_answer_at_once() {
    let running = start(&Settings::default());
    running.documents("an empty list", |all| all.routes.is_empty() && all.rejected.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn files_are_written_replaced_added_and_deleted() {
    let files = Files::new();
    files.write("a.toml", &route("a", "/a"));
    // Where nothing is left that a pattern names, its folder may be gone: that is another test.
    files.write("stays.toml", "");
    files.write("stays.json", "{}");
    let running = files.run(&["*.toml", "*.json"]);
    let first = shows(&running, &["a /a"]).await;
    assert!(first.routes["a"].place.starts_with(&format!("{}:1:", files.path("a.toml").display())));
    files.write("a.toml", &route("a", "/a2"));
    shows(&running, &["a /a2"]).await;
    files.replace("a.toml", &route("a", "/a3"));
    shows(&running, &["a /a3"]).await;
    files.write("b.json", r#"{"routes":{"b":{"match":{"path":"/b"},"upstream":"u"}}}"#);
    shows(&running, &["a /a3", "b /b"]).await;
    fs::rename(files.path("b.json"), files.path("b.gone")).unwrap();
    let gone = Instant::now();
    shows(&running, &["a /a3"]).await;
    assert!(gone.elapsed() >= Duration::from_secs(2), "{:?}", gone.elapsed());
    fs::rename(files.path("b.gone"), files.path("c.json")).unwrap();
    shows(&running, &["a /a3", "b /b"]).await;
    never_lost(&running, "a");
    fs::remove_file(files.path("a.toml")).unwrap();
    shows(&running, &["b /b"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_form() {
    let files = Files::new();
    files.write("a.toml", &(route("a", "/a") + &route("b", "/b")));
    let running = files.run(&["*.toml"]);
    shows(&running, &["a /a", "b /b"]).await;
    // One item is wrong: the other one goes on to change.
    files.write("a.toml", &(route("a", "/a").replace("upstream", "upstrean") + &route("b", "/b2")));
    let now = shows(&running, &["a /a", "b /b2"]).await;
    assert!(!now.routes["a"].problems.is_empty() && now.routes["b"].problems.is_empty());
    // The file is wrong: nothing changes, and it is told.
    files.write("a.toml", "[routes.a\n");
    let now = running.documents("the problem of the file", |all| !all.rejected.is_empty()).await;
    assert_eq!(routes(&now), ["a /a", "b /b2"]);
    assert!(now.rejected[0].place.starts_with(&files.path("a.toml").display().to_string()), "{:?}", now.rejected);
    files.write("a.toml", &route("a", "/a4"));
    let now = shows(&running, &["a /a4"]).await;
    assert!(now.rejected.is_empty());
    never_lost(&running, "a");
    running.stop().await;
}

#[tokio::test]
async fn a_file_that_is_emptied_or_moved_before_it_is_written_loses_nothing() {
    let files = Files::new();
    files.write("a.toml", &route("a", "/a"));
    let running = files.run(&["*.toml"]);
    shows(&running, &["a /a"]).await;
    let empty = || files.write("a.toml", "");
    // As some editors do.
    let move_away = || fs::rename(files.path("a.toml"), files.path("a.toml~")).unwrap();
    for (round, take) in [&empty as &dyn Fn(), &move_away, &empty].into_iter().enumerate() {
        take();
        // Long enough for the loss to be seen.
        holds(&running, "a.toml").await;
        files.write("a.toml", &route("a", &format!("/{round}")));
        let path = format!("a /{round}");
        running.documents(path.clone(), move |documents| routes(documents) == [path.as_str()]).await;
        wait::until(SOON, "the hold to end", || async { running.state().holds.is_empty() }).await;
    }
    never_lost(&running, "a");
    // One that stays empty is believed.
    files.write("a.toml", "");
    let emptied = Instant::now();
    shows(&running, &[]).await;
    assert!(emptied.elapsed() >= Duration::from_secs(5), "{:?}", emptied.elapsed());
    running.stop().await;
}

/// What is wrong with one file in a folder is no reason to stop: whatever lies there, the others are followed.
#[tokio::test]
async fn whatever_lies_in_a_folder_the_files_beside_it_are_followed() {
    let files = Files::new();
    files.write("a.toml", &route("a", "/a"));
    let running = files.run(&["*.toml", "deep/**/*.toml"]);
    shows(&running, &["a /a"]).await;
    let fifo = std::process::Command::new("mkfifo").arg(files.path("pipe.toml")).status().unwrap();
    assert!(fifo.success());
    let _socket = std::os::unix::net::UnixListener::bind(files.path("socket.toml")).unwrap();
    symlink("/dev/zero", files.path("zero.toml")).unwrap();
    fs::create_dir(files.path("folder.toml")).unwrap();
    symlink("loop.toml", files.path("loop.toml")).unwrap();
    fs::File::create(files.path("huge.toml")).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir_all(files.path("deep")).unwrap();
    symlink(".", files.path("deep/a")).unwrap();
    symlink("..", files.path("deep/b")).unwrap();
    let certificate = "[certificates.c]\ncertificate = \"pipe.toml\"\nkey = \"zero.toml\"\n";
    files.write("b.toml", &(route("b", "/b") + certificate));
    let now = shows(&running, &["a /a", "b /b"]).await;
    let told = format!("{:?} {:?}", now.rejected, now.certificates);
    for word in ["named pipe", "socket", "device", "folder", "larger than 16 MiB", "links"] {
        assert!(told.contains(word), "{word} not in {told}");
    }
    // What was a file, and is none any more, keeps what it said.
    fs::remove_file(files.path("a.toml")).unwrap();
    fs::rename(files.path("pipe.toml"), files.path("a.toml")).unwrap();
    running.documents("the pipe", |all| format!("{:?}", all.rejected).contains("a.toml")).await;
    files.write("b.toml", &route("b", "/b2"));
    shows(&running, &["a /a", "b /b2"]).await;
    never_lost(&running, "a");
    running.stop().await;
}

#[tokio::test]
async fn ten_thousand_files_are_followed() {
    let files = Files::new();
    for number in 0..10_000 {
        files.write(&format!("{number}.toml"), "");
    }
    files.write("a.toml", &route("a", "/a"));
    let running = files.run(&["*.toml"]);
    shows(&running, &["a /a"]).await;
    files.write("a.toml", &route("a", "/a2"));
    shows(&running, &["a /a2"]).await;
    running.stop().await;
}

#[tokio::test]
async fn links_are_followed_when_they_are_swapped() {
    // As Kubernetes mounts a ConfigMap: mount/a.toml -> ..data/a.toml, ..data -> ..1.
    let files = Files::new();
    let version = |number: u32, text: &str| {
        fs::create_dir_all(files.path(&format!("mount/..{number}"))).unwrap();
        files.write(&format!("mount/..{number}/a.toml"), text);
        symlink(format!("..{number}"), files.path("mount/..data_tmp")).unwrap();
        fs::rename(files.path("mount/..data_tmp"), files.path("mount/..data")).unwrap();
    };
    version(1, &route("a", "/1"));
    symlink("..data/a.toml", files.path("mount/a.toml")).unwrap();
    let running = files.run(&["mount/*.toml"]);
    shows(&running, &["a /1"]).await;
    for (number, wanted) in [(2, &["a /2"]), (3, &["a /3"])] {
        version(number, &route("a", &format!("/{number}")));
        fs::remove_dir_all(files.path(&format!("mount/..{}", number - 1))).unwrap();
        shows(&running, wanted).await;
    }
    // A link that leads elsewhere: the folder it leads to is watched, too.
    let elsewhere = Files::new();
    elsewhere.write("real.toml", &route("b", "/b"));
    symlink(elsewhere.path("real.toml"), files.path("mount/b.toml")).unwrap();
    shows(&running, &["a /3", "b /b"]).await;
    elsewhere.replace("real.toml", &route("b", "/b2"));
    shows(&running, &["a /3", "b /b2"]).await;
    never_lost(&running, "a");
    running.stop().await;
}

#[tokio::test]
async fn folders_may_come_later_and_come_anew() {
    let files = Files::new();
    let running = files.run(&["teams/*/routes/*.toml"]);
    running.documents("nothing", |all| all.routes.is_empty()).await;
    for path in ["/1", "/2"] {
        fs::create_dir_all(files.path("teams/a/routes")).unwrap();
        files.write("teams/a/routes/a.toml", &route("a", path));
        let wanted = format!("a {path}");
        running.documents(wanted.clone(), move |documents| routes(documents) == [wanted.as_str()]).await;
        fs::remove_dir_all(files.path("teams")).unwrap();
        holds(&running, "teams/a/routes/a.toml").await;
    }
    never_lost(&running, "a");
    // SIGHUP ends no hold, an operator does.
    running.reread();
    tokio::time::sleep(Duration::from_secs(3)).await;
    holds(&running, "teams/a/routes/a.toml").await;
    let path = files.path("teams/a/routes/a.toml").display().to_string();
    running.publisher.accepts().send(HeldPart::File(path.into())).unwrap();
    shows(&running, &[]).await;
    assert_eq!(running.state().holds.len(), 0);
    running.stop().await;
}

#[tokio::test]
async fn the_main_file_wins_a_name_then_the_smaller_path() {
    let files = Files::new();
    files.write("main.toml", &format!("[admin]\naddress = \"127.0.0.1:0\"\n{}", route("main", "/main")));
    files.write("b.toml", &route("x", "/b"));
    files.write("c.toml", &route("x", "/c"));
    symlink("main.toml", files.path("a.toml")).unwrap();
    let settings =
        Settings { main: Some(files.path("main.toml")), patterns: vec![files.path("*.toml"), files.path("b.*")] };
    let running = start(&settings);
    let both = shows(&running, &["main /main", "x /b"]).await;
    assert_eq!(both.rejected.len(), 1, "{:?}", both.rejected);
    assert!(both.rejected[0].place.starts_with(&files.path("c.toml").display().to_string()));
    fs::remove_file(files.path("b.toml")).unwrap();
    let one = shows(&running, &["main /main", "x /c"]).await;
    assert!(one.rejected.is_empty(), "{:?}", one.rejected);
    files.replace("main.toml", &(route("main", "/main2") + &route("x", "/from-main")));
    let main = shows(&running, &["main /main2", "x /from-main"]).await;
    assert!(main.rejected[0].place.starts_with(&files.path("c.toml").display().to_string()));
    never_lost(&running, "x");
    running.stop().await;
}

#[tokio::test]
async fn sighup_reads_everything_and_an_equal_answer_wakes_nobody() {
    let files = Files::new();
    files.write("a.toml", &route("a", "/a"));
    let running = files.run(&["*.toml"]);
    shows(&running, &["a /a"]).await;
    let published = running.history().len();
    let unchanged = || running.publisher.status().updates.unchanged.load(std::sync::atomic::Ordering::Relaxed);
    let before = unchanged();
    running.reread();
    wait::until(SOON, "the read", || async { unchanged() > before }).await;
    assert_eq!(running.history().len(), published);
    running.stop().await;
}

#[tokio::test]
async fn a_file_with_another_extension_is_named() {
    let files = Files::new();
    files.write("a.toml", &route("a", "/a"));
    files.write("b.conf", "x");
    let running = files.run(&["*"]);
    let now = shows(&running, &["a /a"]).await;
    assert!(now.rejected.iter().any(|problem| Path::new(&problem.place) == files.path("b.conf")), "{now:?}");
    running.stop().await;
}
