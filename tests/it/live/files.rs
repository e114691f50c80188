//! Files that are edited, moved and lost in all the ways people and tools have, with traffic flowing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{SOON, provider, rejects};
use crate::operator::run;
use crate::support::client::Request;
use crate::support::gateway::{Gateway, Setup, fleetgate};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::{place, wait};

fn route(name: &str) -> String {
    format!("[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"app\"\n")
}

fn routes(names: &[&str]) -> String {
    names.iter().map(|name| route(name)).collect()
}

/// The main file, with a route of its own.
fn main(origin: &Origin, more: &str) -> String {
    format!(
        "listeners.web = {{ address = \"127.0.0.1:0\", max_body_size = \"1MiB\" }}\nadmin.address = \"127.0.0.1:0\"\n\
         discovery = {{ state_dir = \"off\", file.paths = [\"routes.d/*.toml\"] }}\n{more}\n{}\
         [upstreams.app]\nendpoints = [\"{}\"]\n",
        route("main"),
        origin.address()
    )
}

const NAMES: [&str; 9] = ["main", "a", "b", "c", "d", "e", "f", "x", "y"];

async fn start(origin: &Origin) -> Gateway {
    let setup = Setup::new(&main(origin, "")).file("routes.d/a.toml", &routes(&["a", "b", "c", "d", "e", "f"]));
    setup.file("routes.d/x.toml", &route("x")).file("routes.d/y.toml", &route("y")).start().await
}

/// Requests to all routes, none of which may miss.
fn load(gateway: &Gateway) -> Load {
    Load::start(gateway.address(), 2, |worker, number| {
        let names = NAMES.len() as u64;
        Request::get(&format!("/{}", NAMES[((number + worker as u64 * 4) % names) as usize]))
    })
}

fn held(provider: &Value) -> String {
    provider["held"].to_string()
}

/// Waits until a line of what is held has these words.
async fn holds(gateway: &Gateway, words: &[&str]) {
    wait::until_ok(SOON, &format!("{words:?} to be held"), || async {
        let held = held(&provider(gateway, "file").await);
        if words.iter().all(|word| held.contains(word)) { Ok(()) } else { Err(held) }
    })
    .await;
}

async fn holds_nothing(gateway: &Gateway) {
    wait::until_ok(SOON, "nothing to be held", || async {
        let provider = provider(gateway, "file").await;
        let fine = held(&provider) == "[]" && provider["rejected"] == Value::Array(Vec::new());
        if fine { Ok(()) } else { Err(provider) }
    })
    .await;
}

/// Waits until a route has this timeout: an edit arrived.
async fn arrives(gateway: &Gateway, name: &str, timeout: &str) {
    wait::until_ok(SOON, &format!("{name} to have the timeout {timeout}"), || async {
        let config = gateway.api("config").await.to_string();
        if config.contains(timeout) { Ok(()) } else { Err(config) }
    })
    .await;
}

fn shell(gateway: &Gateway, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(gateway.folder()).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn places_that_go_and_come_back_lose_no_request() {
    let origin = Origin::start("app").await;
    let gateway = start(&origin).await;
    let load = load(&gateway);
    shell(&gateway, "mv fleetgate.toml away.toml");
    holds(
        &gateway,
        &["fleetgate.toml", "routes/main", "upstreams/app", "the main configuration file is gone", "accept file"],
    )
    .await;
    let (_, status) = gateway.admin_get("/api/v1/status").await;
    assert!(status.contains("the main configuration file is gone"), "{status}");
    load.more(200).await;
    shell(&gateway, "mv away.toml fleetgate.toml");
    holds_nothing(&gateway).await;

    shell(&gateway, "mv routes.d away.d");
    holds(&gateway, &["routes.d/a.toml", "routes/a, routes/b", "1 more", "routes.d/x.toml", "is gone"]).await;
    let metric = gateway.metric("fleetgate_discovery_held_items", &[("provider", "file")]).await;
    assert_eq!(metric, Some(3.0));
    load.more(200).await;
    shell(&gateway, "mv away.d routes.d");
    holds_nothing(&gateway).await;

    // All files of the pattern.
    shell(&gateway, "mkdir away.d; mv routes.d/* away.d");
    holds(&gateway, &["routes.d/y.toml", "is left"]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    shell(
        &gateway,
        "cp away.d/x.toml routes.d; sleep 1; cp away.d/y.toml routes.d; sleep 1; cp away.d/a.toml routes.d",
    );
    holds_nothing(&gateway).await;
    load.more(100).await;
    load.stop().await.assert_all_ok();

    let events = gateway.api("events?provider=file&limit=1000").await.to_string();
    assert!(events.contains("hold_began") && events.contains("hold_ended"), "{events}");
    let log = gateway.stderr().text();
    assert!(log.contains("WARN") && log.contains("held: the main configuration file is gone"), "{log}");
}

#[tokio::test]
async fn no_way_to_edit_a_file_loses_a_request() {
    let origin = Origin::start("app").await;
    let gateway = start(&origin).await;
    let load = load(&gateway);
    let a = gateway.folder().join("routes.d/a.toml");
    // In place, slowly.
    let text = fs::read_to_string(&a).unwrap();
    let timed =
        |timeout: &str| text.replacen("upstream = \"app\"", &format!("upstream = \"app\"\ntimeout = \"{timeout}\""), 1);
    for timeout in ["41s", "42s"] {
        let text = timed(timeout);
        let mut file = fs::File::create(&a).unwrap();
        for piece in text.as_bytes().chunks(text.len() / 6 + 1) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            std::io::Write::write_all(&mut file, piece).unwrap();
        }
        arrives(&gateway, "a", timeout).await;
        holds_nothing(&gateway).await;
    }
    shell(&gateway, "sed -i s/42s/43s/ routes.d/a.toml");
    arrives(&gateway, "a", "43s").await;
    // As vim does with `backupcopy=no`.
    shell(
        &gateway,
        "mv routes.d/a.toml routes.d/a.toml~; sleep 0.4; sed s/43s/44s/ routes.d/a.toml~ >routes.d/a.toml; rm routes.d/a.toml~",
    );
    arrives(&gateway, "a", "44s").await;
    // As rsync does.
    shell(&gateway, "sed s/44s/45s/ routes.d/a.toml >routes.d/.a.toml.Xy12; mv routes.d/.a.toml.Xy12 routes.d/a.toml");
    arrives(&gateway, "a", "45s").await;
    // Renamed, and items moved from one file to another.
    shell(&gateway, "mv routes.d/a.toml routes.d/renamed.toml");
    shell(&gateway, "cat routes.d/x.toml >>routes.d/y.toml; : >routes.d/x.toml");
    holds_nothing(&gateway).await;
    // A section that nobody knows.
    shell(&gateway, "sed -i 's/.routes.b./[route.b]/; s/.routes.c./[routes.C]/' routes.d/renamed.toml");
    holds(&gateway, &["routes/b", "routes/c"]).await;
    rejects(&gateway, "file", &["did you mean `routes`?", "is not a name"]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    load.more(100).await;
    shell(&gateway, "sed -i 's/.route.b./[routes.b]/; s/.routes.C./[routes.c]/' routes.d/renamed.toml");
    holds_nothing(&gateway).await;
    load.more(100).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn folders_that_are_swapped_lose_no_request() {
    let origin = Origin::start("app").await;
    // As Kubernetes mounts a ConfigMap: every file is a link into a folder, which is a link that is swapped.
    let setup = Setup::new(&main(&origin, ""));
    let folder = setup.folder().join("routes.d");
    let version = |number: u32| {
        let data = folder.join(format!("..{number}"));
        fs::create_dir_all(&data).unwrap();
        for (file, names) in [("a.toml", &["a", "b", "c", "d", "e", "f"][..]), ("x.toml", &["x"]), ("y.toml", &["y"])] {
            let text =
                routes(names).replace("upstream = \"app\"", &format!("upstream = \"app\"\ntimeout = \"4{number}s\""));
            fs::write(data.join(file), text).unwrap();
        }
        symlink(format!("..{number}"), folder.join("..tmp")).unwrap();
        fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        if number > 1 {
            fs::remove_dir_all(folder.join(format!("..{}", number - 1))).unwrap();
        }
    };
    version(1);
    for file in ["a.toml", "x.toml", "y.toml"] {
        symlink(format!("..data/{file}"), folder.join(file)).unwrap();
    }
    let gateway = setup.start().await;
    let load = load(&gateway);
    for number in 2..6 {
        version(number);
        arrives(&gateway, "a", &format!("4{number}s")).await;
    }
    holds_nothing(&gateway).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn a_checkout_of_another_version_loses_no_request() {
    if Command::new("git").arg("--version").output().is_err() {
        return crate::support::skip("git", "apt-get install git");
    }
    let origin = Origin::start("app").await;
    let gateway = start(&origin).await;
    let load = load(&gateway);
    let commit = "git -c user.name=a -c user.email=a@b commit -qam";
    shell(
        &gateway,
        &format!("cd routes.d; git init -q .; git checkout -qb one; git add .; {commit} one; git checkout -qb two"),
    );
    // Another name, other contents, items in other files.
    fs::write(gateway.folder().join("routes.d/z.toml"), routes(&["x", "d", "e", "f"])).unwrap();
    fs::write(gateway.folder().join("routes.d/a.toml"), routes(&["a", "b", "c"])).unwrap();
    shell(&gateway, &format!("cd routes.d; rm x.toml; mv y.toml why.toml; git add -A .; {commit} two"));
    for branch in ["one", "two", "one", "two", "one"] {
        shell(&gateway, &format!("cd routes.d; git checkout -q {branch}"));
        load.more(100).await;
        holds_nothing(&gateway).await;
    }
    load.stop().await.assert_all_ok();
}

/// The time from an edit until a route answers 404.
async fn gone_after(gateway: &Gateway, path: &str, edit: impl FnOnce()) -> Duration {
    let began = Instant::now();
    edit();
    gateway.until_status(path, 404).await;
    began.elapsed()
}

#[tokio::test]
async fn what_is_gone_goes_after_its_wait() {
    let origin = Origin::start("app").await;
    let gateway = start(&origin).await;
    let at = |name: &str| gateway.folder().join("routes.d").join(name);
    let deleted = gone_after(&gateway, "/x", || fs::remove_file(at("x.toml")).unwrap()).await;
    assert!(deleted >= Duration::from_secs(2), "{deleted:?}");
    // What comes in the same rewrite does not wait for what goes by it.
    let rewritten = gone_after(&gateway, "/d", || fs::write(at("a.toml"), routes(&["a", "new"])).unwrap()).await;
    assert!(rewritten >= Duration::from_secs(5), "{rewritten:?}");
    assert_eq!(gateway.get("/new").await.status, 200);
    holds_nothing(&gateway).await;
    // A restart of a gateway that held something reads what there is.
    assert_eq!((gateway.get("/a").await.status, gateway.get("/y").await.status), (200, 200));
}

/// An operator can accept the loss of one file, and of all.
#[tokio::test]
async fn what_is_held_goes_when_an_operator_accepts_it() {
    let origin = Origin::start("app").await;
    let gateway = start(&origin).await;
    shell(&gateway, "mv routes.d away.d; mv fleetgate.toml away.toml");
    holds(&gateway, &["routes.d/a.toml", "routes.d/x.toml", "routes.d/y.toml", "fleetgate.toml"]).await;
    // A path is that of the folder where the command is given.
    let accept = |folder: &str, path: &str| {
        let admin = format!("http://{}", gateway.admin());
        let mut command = fleetgate(&["accept", &format!("file:{path}"), "--yes", "--admin", &admin]);
        let output = command.current_dir(gateway.folder().join(folder)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    let (fine, said) = accept("away.d", "routes.d/x.toml");
    assert!(!fine && said.contains("no document comes from such a file") && said.contains("routes.d/x.toml"), "{said}");
    let (fine, said) = accept("away.d", "../routes.d/x.toml");
    assert!(fine && said.contains("routes/x"), "{said}");
    gateway.until_status("/x", 404).await;
    let (fine, said) = accept("", "routes.d/x.toml");
    assert!(fine && said.contains("accepted before"), "{said}");
    assert_eq!((gateway.get("/y").await.status, gateway.get("/main").await.status), (200, 200));
    let (fine, said) = run(&gateway, &["accept", "file", "--yes"]);
    assert!(fine && said.contains("routes/main"), "{said}");
    for path in ["/a", "/y", "/main"] {
        gateway.until_status(path, 404).await;
    }
    wait::until_ok(SOON, "nothing to be held", || async {
        let held = held(&provider(&gateway, "file").await);
        if held == "[]" { Ok(()) } else { Err(held) }
    })
    .await;
    rejects(&gateway, "file", &["routes.d", "there is no such folder"]).await;
    shell(&gateway, "mv away.d routes.d; mv away.toml fleetgate.toml");
    for path in ["/a", "/x", "/main"] {
        gateway.until_status(path, 200).await;
    }
}

/// A full disk or a tool that fails leaves nothing of it; the gateway would not start with that.
#[tokio::test]
async fn a_main_file_that_is_emptied_loses_no_route() {
    let origin = Origin::start("app").await;
    let gateway = start(&origin).await;
    let whole = main(&origin, "");
    let load = load(&gateway);
    for nothing in ["", "# to be written\n", "[upstreams.other]\nendpoints = [\"127.0.0.1:1\"]\n"] {
        fs::write(gateway.folder().join("fleetgate.toml"), nothing).unwrap();
        holds(&gateway, &["fleetgate.toml", "would not start"]).await;
        // Longer than the loss of most items of a file waits.
        wait::always(Duration::from_secs(6), "the loss to be held", || async {
            held(&provider(&gateway, "file").await).contains("would not start")
        })
        .await;
        gateway.write_config(&whole);
        holds_nothing(&gateway).await;
    }
    load.more(100).await;
    load.stop().await.assert_all_ok();
}

/// Whatever hangs about in its folders, a gateway ends when it is told to.
#[tokio::test]
async fn a_gateway_with_odd_files_serves_and_ends_in_time() {
    let origin = Origin::start("app").await;
    let mut gateway = start(&origin).await;
    shell(&gateway, "mkfifo routes.d/pipe.toml; ln -s /dev/zero routes.d/zero.toml; truncate -s 1T routes.d/huge.toml");
    shell(&gateway, "mkdir routes.d/folder.toml; mkdir -m 0 routes.d/.closed");
    rejects(&gateway, "file", &["named pipe", "device", "larger than 16 MiB", "a folder"]).await;
    fs::write(gateway.folder().join("routes.d/new.toml"), route("new")).unwrap();
    gateway.until_status("/new", 200).await;
    assert!(gateway.terminate().await.success());
}

/// Mounts a file system there that never answers, for as long as a process lives.
const HANG: &str = r#"
import ctypes, os, sys, time
pid, folder = int(sys.argv[1]), sys.argv[2]
fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"none", folder.encode(), b"fuse", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
if os.fork():
    os._exit(0)
for output in range(3):
    os.dup2(os.open("/dev/null", os.O_RDWR), output)
while os.path.exists(f"/proc/{pid}"):
    time.sleep(0.1)
"#;

#[tokio::test]
async fn a_file_system_that_hangs_delays_no_other_file_and_no_stop() {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if place::own_mounts().is_none() || !fs::exists("/dev/fuse").unwrap_or(false) || !has("nsenter") || !has("python3")
    {
        return crate::support::skip("FUSE", "apt-get install python3 util-linux, as root");
    }
    let origin = Origin::start("app").await;
    let config = main(&origin, "").replace("\"routes.d/*.toml\"", "\"routes.d/*.toml\", \"far/*.toml\"");
    let setup = Setup::new(&config).file("routes.d/a.toml", &routes(&["a", "b", "c", "d", "e", "f"]));
    let setup = setup.file("routes.d/y.toml", &route("y")).file("far/x.toml", &route("x")).file("hang.py", HANG);
    let mut gateway =
        setup.file("far/linked.txt", &route("linked")).mounts("ln -s ../far/linked.txt routes.d/l.toml").start().await;
    let load = load(&gateway);
    let (pid, folder) = (gateway.process().id(), gateway.folder().to_owned());
    let (far, script) = (folder.join("far"), folder.join("hang.py"));
    let enter =
        ["-t", &pid.to_string(), "-m", "python3", script.to_str().unwrap(), &pid.to_string(), far.to_str().unwrap()];
    let mounted = Command::new("nsenter").args(enter).current_dir(&folder).output().unwrap();
    if !mounted.status.success() {
        return crate::support::skip("FUSE", &String::from_utf8_lossy(&mounted.stderr));
    }
    rejects(&gateway, "file", &["far", "does not answer"]).await;
    for name in ["new", "newer"] {
        gateway.write(&format!("routes.d/{name}.toml"), &route(name));
        gateway.until_status(&format!("/{name}"), 200).await;
    }
    assert_eq!(gateway.get("/linked").await.status, 200);
    load.stop().await.assert_all_ok();
    assert!(gateway.terminate().await.success());
}

#[tokio::test]
async fn settings_that_need_a_restart_are_told_until_they_are_changed_back() {
    let origin = Origin::start("app").await;
    let setup = Setup::new(&main(&origin, "")).file("routes.d/a.toml", "");
    let gateway = setup.env("FLEETGATE_RUNTIME__SHUTDOWN_GRACE", "5s").start().await;
    let edited =
        main(&origin, "telemetry.log = \"debug\"\nruntime.shutdown_grace = \"9s\"\nadmin.token = \"hunter2hunter2\"")
            .replace("1MiB", "2KiB");
    gateway.write_config(&edited);
    let remarks = || async { gateway.api("status").await["remarks"].to_string() };
    wait::until_ok(SOON, "the remarks", || async {
        let told = remarks().await;
        let keys = ["listeners.web.max_body_size", "telemetry.log", "admin.token", "takes effect at the next start"];
        if keys.iter().all(|key| told.contains(key)) { Ok(()) } else { Err(told) }
    })
    .await;
    let told = remarks().await;
    assert!(!told.contains("shutdown_grace") && !told.contains("hunter2"), "{told}");
    let log = || gateway.stderr().text();
    let line = "listeners.web.max_body_size: takes effect at the next start";
    wait::until_ok(SOON, "the warning", || async { if log().contains(line) { Ok(()) } else { Err(log()) } }).await;
    // A mistake beside it.
    gateway.write_config(&edited.replace("127.0.0.1:0\", max", "localhost:0\", max"));
    rejects(&gateway, "file", &["listeners.web.address", "the gateway would not start"]).await;
    gateway.write_config(&main(&origin, ""));
    wait::until_ok(SOON, "no remark", || async {
        let told = remarks().await;
        if told == "[]" { Ok(()) } else { Err(told) }
    })
    .await;
    holds_nothing(&gateway).await;
    let events = gateway.api("events?limit=1000").await.to_string();
    assert!(events.contains("restart_needed") && events.contains("restart_not_needed"), "{events}");
    assert_eq!(log().matches(line).count(), 1, "{}", log());
    assert!(!log().contains("hunter2") && !events.contains("hunter2"));
}

#[tokio::test]
async fn a_file_with_thousands_of_mistakes_costs_few_lines() {
    let origin = Origin::start("app").await;
    let gateway = start(&origin).await;
    let wrong: String = (0..20_000).map(|number| format!("[routes.w{number}]\nupstrean = \"u\"\n")).collect();
    let long = format!(
        "[routes.long]\nmatch = {{ path = {{ regex = \"/{}(\" }} }}\nupstream = \"app\"\n",
        "x".repeat(1 << 20)
    );
    let path: PathBuf = gateway.folder().join("routes.d/wrong.toml");
    fs::write(path, wrong + &long + &route("right")).unwrap();
    gateway.until_status("/right", 200).await;
    assert_eq!(gateway.get("/a").await.status, 200);
    rejects(&gateway, "file", &["upstrean"]).await;
    let log = gateway.stderr().text();
    assert!(log.len() < 200_000, "{} bytes of log", log.len());
    assert!(log.contains("more"), "{log}");
}

#[tokio::test]
async fn a_token_file_of_no_use_is_in_the_status_until_it_is_mended() {
    let consul = "discovery.consul = { address = \"http://127.0.0.1:1\", token_file = \"token\" }";
    let config = format!(
        "listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\ndiscovery.state_dir = \"off\"\n{consul}\n"
    );
    let mut gateway = Setup::new(&config).file("token", "a\nb\n").launch().await;
    wait::until(SOON, "the listeners", || async { gateway.stdout().contains("admin ") }).await;
    let watches = async |has: bool, word: &str| {
        wait::until_ok(SOON, word, || async {
            let watches = provider(&gateway, "consul").await["watches"].to_string();
            if watches.contains(word) == has { Ok(()) } else { Err(watches) }
        })
        .await;
    };
    watches(true, "several lines").await;
    gateway.write("token", "right\n");
    watches(false, "token_file").await;
    fs::remove_file(gateway.folder().join("token")).unwrap();
    watches(true, "No such file").await;
    assert!(gateway.terminate().await.success());
}
