//! The command line as a user meets it: what it prints, and how it exits.

mod odd;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// The binary, in an empty directory and an empty environment.
fn fleetgate(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
    command.args(arguments).current_dir(directory).env_clear();
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_prints_one_problem_a_line_and_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("config/routes.d")).unwrap();
    let text = "[listeners.web]\naddress = \"127.0.0.1:0\"\n[discovery.file]\npaths = [\"routes.d/*.yaml\"]\n\
                [upstreams.u]\nendpoints = [\"127.0.0.1:1\"]\n[routes.a]\nmatch = { path = \"/\" }\nupstreams = \"u\"\n";
    fs::write(directory.path().join("config/fleetgate.toml"), text).unwrap();
    fs::write(
        directory.path().join("config/routes.d/b.yaml"),
        "routes:\n  b:\n    match: {path: /b}\n    upstream: v\n",
    )
    .unwrap();
    let mut check = fleetgate(directory.path(), &["check"]);
    let (code, out, _) = run(check.env("FLEETGATE_ADMIN__PORT", "1"));
    insta::assert_snapshot!(out, @"
config/fleetgate.toml:7:9: routes.a: `targets` is missing (or `upstream`, short for one target)
config/fleetgate.toml:9:1: routes.a.upstreams: unknown key; did you mean `upstream`?
config/routes.d/b.yaml:4:15: routes.b.upstream: there is no upstream `v`; known are u
env:FLEETGATE_ADMIN__PORT: admin.port: unknown key; known are address, token, token_file, metrics_public
");
    assert_eq!(code, 1);
}

#[test]
fn check_is_silent_on_stdout_when_all_is_well() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.json"), "{\"listeners\": {\"web\": {\"address\": \"127.0.0.1:0\"}}}").unwrap();
    let (code, out, remarks) = run(&mut fleetgate(directory.path(), &["check", "--config", "a.json"]));
    assert_eq!((code, out.as_str(), remarks.as_str()), (0, "", "the configuration is valid\n"));
}

#[test]
fn a_warning_alone_exits_with_0() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[listeners.web]\naddress = \"127.0.0.1:0\"\n[discovery.consul]\n[routes.a]\nmatch = { path = \"/\" }\nupstream = \"u\"\n";
    fs::write(directory.path().join("a.toml"), text).unwrap();
    let (code, out, _) = run(&mut fleetgate(directory.path(), &["check", "--config", "a.toml"]));
    assert_eq!(out, "a.toml:6:12: routes.a.upstream: warning: no file defines the upstream `u`; `consul-kv` may\n");
    assert_eq!(code, 0);
}

#[test]
fn without_a_file_the_environment_is_enough() {
    let directory = tempfile::tempdir().unwrap();
    let (code, out, _) = run(&mut fleetgate(directory.path(), &["check"]));
    insta::assert_snapshot!(out, @r#"env:FLEETGATE_*: listeners: at least one listener is needed: `[listeners.web]` with `address = "0.0.0.0:8080"` (no configuration file: there is none at config/fleetgate.toml or /etc/fleetgate/fleetgate.toml, and no --config names one)"#);
    assert_eq!(code, 1);
    let mut check = fleetgate(directory.path(), &["check"]);
    let (code, out, _) = run(check.env("FLEETGATE_LISTENERS__WEB__ADDRESS", "127.0.0.1:0"));
    assert_eq!((code, out.as_str()), (0, ""));
}

#[test]
fn check_warns_of_what_answers_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let text = r#"
[listeners.web]
address = "127.0.0.1:0"
[upstreams.u]
endpoints = ["127.0.0.1:1"]
balance = "round_robin"
[routes.a]
match = { hosts = ["a.test", "b.test"], path = "/" }
upstream = "u"
[routes.b]
match = { path = "/", hosts = ["b.test", "a.test"] }
targets = [{ upstream = "u", weight = 0 }]
[routes.c]
match = { path = "/c" }
targets = [{ upstream = "u", when = { headers = { x = "1" } } }]
[routes.d]
match = { path = "/", hosts = ["b.test", "a.test"] }
priority = 1
upstream = "u"
[middlewares.fair.rate_limit]
rate = "20/s"
scope = "fleet"
"#;
    fs::write(directory.path().join("a.toml"), text).unwrap();
    let (code, out, remarks) = run(&mut fleetgate(directory.path(), &["check", "a.toml"]));
    insta::assert_snapshot!(out, @r#"
a.toml:10:9: routes.b: warning: matches the same as route `a` at a.toml:7:9, and only one of them gets requests: change the match or the `priority` of one
a.toml:10:9: routes.b: warning: no target has a weight: every request gets 503
a.toml:13:9: routes.c: warning: no target has a weight: requests that meet no condition get 503
a.toml:20:14: middlewares.fair.rate_limit.scope: warning: `scope = "fleet"` has no effect: each gateway lets the whole rate pass, as there is no `[redis]` to count in, and no gateway registers (`[discovery.consul.register]` or `[discovery.etcd.register]`) to share it with
"#);
    assert_eq!((code, remarks.as_str()), (0, "the configuration is valid, with 4 warnings\n"));
    fs::write(directory.path().join("a.toml"), text.to_owned() + "[redis]\n").unwrap();
    let (_, out, _) = run(&mut fleetgate(directory.path(), &["check", "a.toml"]));
    assert!(!out.contains("scope"), "{out}");
    fs::write(directory.path().join("a.toml"), text.replace("round_robin", "roundrobin")).unwrap();
    let (code, out, _) = run(&mut fleetgate(directory.path(), &["check", "a.toml"]));
    assert!(code == 1 && out.contains("did you mean `round_robin`?"), "{out}");
}

#[test]
fn usage_mistakes_exit_with_2_and_help_with_0() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["chek"][..], &["check", "--konfig", "x"], &["completions", "pwsh7"], &[]] {
        let (code, out, error) = run(&mut fleetgate(directory.path(), arguments));
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(error.contains("--help"), "{error}");
    }
    let commands = ["run", "check", "demo", "status", "routes", "upstreams", "schema", "completions"];
    let (code, help, _) = run(&mut fleetgate(directory.path(), &["--help"]));
    assert_eq!(code, 0);
    for command in commands {
        assert!(help.contains(&format!("\n  {command}")), "{help}");
        let (code, out, _) = run(&mut fleetgate(directory.path(), &[command, "--help"]));
        assert!(code == 0 && out.contains("Usage: fleetgate"), "{command}: {out}");
    }
    let (code, version, _) = run(&mut fleetgate(directory.path(), &["--version"]));
    assert_eq!((code, version), (0, format!("fleetgate {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_schema_is_json_and_completions_are_scripts() {
    let directory = tempfile::tempdir().unwrap();
    let (code, schema, _) = run(&mut fleetgate(directory.path(), &["schema"]));
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!((code, &schema["properties"]["routes"]["additionalProperties"]["$ref"]), (0, &"#/$defs/Route".into()));
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&mut fleetgate(directory.path(), &["completions", shell]));
        assert!(code == 0 && script.contains("fleetgate") && script.contains("upstreams"), "{shell}");
    }
}

/// Answers one request, and gives its head back.
fn answer_once(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
        String::from_utf8(head).unwrap()
    });
    (url, served)
}

#[test]
fn tables_come_from_the_admin_api() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("token"), "swordfish\n").unwrap();
    let body = r#"{"generation":1,"items":[{"name":"users","provider":"file","source":"static","endpoints":[{"address":"10.0.0.1:80","weight":1,"labels":{},"state":"healthy","reasons":[],"in_flight":0}]}]}"#;

    let (url, served) = answer_once("200 OK", body);
    let (code, out, _) =
        run(&mut fleetgate(directory.path(), &["upstreams", "--admin", &url, "--token-file", "token"]));
    let head = served.join().unwrap();
    assert!(head.starts_with("GET /api/v1/upstreams HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("authorization: Bearer swordfish\r\n"), "{head}");
    insta::assert_snapshot!(out, @"
UPSTREAM  PROVIDER  SOURCE  ENDPOINT     STATE    WEIGHT  IN FLIGHT  LABELS  REASONS
users     file      static  10.0.0.1:80  healthy  1       0          -       -
");
    assert_eq!(code, 0);

    let (url, served) = answer_once("200 OK", body);
    let address = url.strip_prefix("http://").unwrap();
    let mut command = fleetgate(directory.path(), &["upstreams", "--json", "--admin", address]);
    let (code, out, _) = run(command.env("FLEETGATE_ADMIN__TOKEN", "marlin"));
    assert!(served.join().unwrap().contains("authorization: Bearer marlin\r\n"));
    let (shown, sent): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(&out).unwrap(), serde_json::from_str(body).unwrap());
    assert_eq!((code, shown), (0, sent));

    // The environment says where as well as with which token; the command line goes first.
    for bound in ["127.0.0.1", "0.0.0.0"] {
        let (url, served) = answer_once("200 OK", body);
        let address = format!("{bound}:{}", url.rsplit(':').next().unwrap());
        let mut command = fleetgate(directory.path(), &["upstreams"]);
        command.env("FLEETGATE_ADMIN__ADDRESS", address).env("FLEETGATE_ADMIN__TOKEN", "marlin");
        assert_eq!(run(&mut command).0, 0, "{bound}");
        assert!(served.join().unwrap().contains("authorization: Bearer marlin\r\n"));
    }
    let (url, served) = answer_once("200 OK", body);
    let mut command = fleetgate(directory.path(), &["upstreams", "--admin", &url]);
    assert_eq!(run(command.env("FLEETGATE_ADMIN__ADDRESS", "127.0.0.1:9")).0, 0);
    served.join().unwrap();
}

#[test]
fn a_gateway_that_does_not_answer_well_exits_with_2() {
    let directory = tempfile::tempdir().unwrap();
    let (url, served) =
        answer_once("401 Unauthorized", r#"{"error":{"code":"unauthorized","message":"a token is needed"}}"#);
    let (code, out, error) = run(&mut fleetgate(directory.path(), &["status", "--admin", &url]));
    served.join().unwrap();
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(error.contains("a token is needed") && error.contains("--token-file"), "{error}");

    let (url, served) = answer_once("200 OK", "<html>");
    let (code, _, error) = run(&mut fleetgate(directory.path(), &["routes", "--admin", &url]));
    served.join().unwrap();
    assert!(code == 2 && error.contains("is not the admin API of Fleetgate"), "{error}");

    // A port that was free a moment ago: nobody listens there.
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let (code, _, error) = run(&mut fleetgate(directory.path(), &["routes", "--admin", &url]));
    assert!(code == 2 && error.contains("refused") && error.contains("--admin"), "{error}");
}
