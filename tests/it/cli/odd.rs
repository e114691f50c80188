//! Commands before whatever may answer at the admin address: odd JSON, HTML, cut answers, control characters. None of it
//! makes one panic, print blanks as if they were a state, or steer the terminal; and each exit code means one thing.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{fleetgate, run};

/// Every command that asks the admin API, with arguments that are enough.
const COMMANDS: &[&[&str]] = &[
    &["status"],
    &["routes"],
    &["upstreams"],
    &["events"],
    &["events", "--at", "12:00"],
    &["explain", "GET", "http://a/"],
    &["accept", "consul", "--yes"],
    &["drain", "users", "10.0.0.1:80"],
    &["undrain", "users", "10.0.0.1:80"],
];

/// A server that answers everything with these bytes, and closes. It ends with the test's process.
fn answers(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bytes = Arc::new(bytes);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), bytes) = (stream, Arc::clone(&bytes)) else { return };
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                    head.extend(byte);
                }
                // A client may have enough before the end.
                let _ = stream.write_all(&bytes);
            });
        }
    });
    url
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

fn asked(arguments: &[&str], url: &str) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    run(&mut fleetgate(directory.path(), &[arguments, &["--admin", url]].concat()))
}

#[test]
fn what_is_not_the_admin_api_is_told_as_that_and_exits_with_2() {
    let bodies = ["{}", "[]", "null", "7", "\"ok\"", "{\"status\":\"up\"}", "{\"ready\":true}", "<html>", ""];
    let mut servers: Vec<Vec<u8>> = bodies.iter().map(|body| http("200 OK", body)).collect();
    servers.push(http("302 Found", ""));
    servers.push(http("404 Not Found", "<html>"));
    servers.push(http("500 Internal Server Error", "{\"error\":\"oops\"}"));
    servers.push(http("200 OK", &"[".repeat(100_000)));
    servers.push(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"generation\":1".to_vec());
    servers.push(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec());
    servers.push(Vec::new());
    for bytes in servers {
        let url = answers(bytes.clone());
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        for arguments in COMMANDS {
            let (code, out, error) = asked(arguments, &url);
            assert_eq!((code, out.as_str()), (2, ""), "{arguments:?} before {shown}: {error}");
            assert!(error.contains("--admin") && error.contains(&url), "{arguments:?} before {shown}: {error}");
        }
    }
}

#[test]
fn who_says_no_exits_with_1_and_who_cannot_be_asked_with_2() {
    let error = |status: &str, code: &str| {
        answers(http(status, &json!({ "error": { "code": code, "message": "because" } }).to_string()))
    };
    for (url, wanted) in [
        (error("404 Not Found", "not_found"), 1),
        (error("409 Conflict", "refused"), 1),
        (error("428 Precondition Required", "unseen"), 1),
        (error("503 Service Unavailable", "unavailable"), 1),
        (error("401 Unauthorized", "unauthorised"), 2),
        (error("403 Forbidden", "foreign_host"), 2),
        (error("400 Bad Request", "malformed"), 2),
    ] {
        for arguments in COMMANDS {
            let (code, out, error) = asked(arguments, &url);
            assert_eq!((code, out.as_str()), (wanted, ""), "{arguments:?}: {error}");
            assert!(error.contains("because"), "{error}");
        }
    }
    // A port that was free a moment ago: nobody listens there.
    let free = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    for arguments in COMMANDS {
        let (code, out, error) = asked(arguments, &free);
        assert!(code == 2 && out.is_empty() && error.contains("refused"), "{arguments:?}: {error}");
        for bad in ["ftp://a", "http://", "http://a b", "::"] {
            assert_eq!(asked(arguments, bad).0, 2, "{arguments:?} {bad}");
        }
    }
}

#[test]
fn status_exits_with_1_while_the_gateway_is_not_ready() {
    for (ready, draining, wanted) in [(true, false, 0), (false, false, 1), (true, true, 1), (false, true, 1)] {
        let body =
            json!({ "version": "1", "ready": ready, "draining": draining, "providers": [], "reasons": ["waiting"] });
        let url = answers(http("200 OK", &body.to_string()));
        for json in [&[][..], &["--json"]] {
            let (code, out, error) = asked(&[&["status"], json].concat(), &url);
            assert!(code == wanted && !out.is_empty() && error.is_empty(), "{code} {out} {error}");
        }
    }
}

/// Pages of the admin API as a real gateway has them, more or less.
fn page(command: &[&str]) -> Value {
    match command {
        ["status", ..] => json!({
            "version": "0.1.0", "ready": true, "draining": false, "generation": 7, "uptime_seconds": 7, "workers": 2,
            "started_at": "2026-11-23T12:00:00Z", "published_at": "2026-11-23T12:00:00Z", "reasons": ["waiting"],
            "listeners": [{ "name": "web", "address": "0.0.0.0:80" }], "routes": { "ok": 3 }, "upstreams": 1,
            "endpoints": { "healthy": 1 }, "gateways": 2, "redis": { "address": "a", "state": "lost", "error": "b" },
            "logs": [{ "name": "own", "destination": "stderr", "error": "full", "since": "x", "dropped": 3 }],
            "saved_state": { "folder": "/x", "error": "full", "since": "x" },
            "providers": [{ "name": "file", "state": "live", "verified_at": null, "rejected": 1, "kept": 1,
                "unresolved": 0, "shadowed": 0, "more_problems": 2, "problems": [{ "place": "a", "key": "b", "text": "c" }] }],
            "remarks": [{ "place": "a", "key": "", "text": "c" }],
        }),
        ["routes", ..] => json!({ "generation": 1, "items": [{ "name": "users", "state": "ok", "provider": "file",
            "match": { "hosts": ["a"], "path": { "regex": "/x" }, "methods": ["GET"], "headers": { "x": "1" }, "query": { "q": "1" } },
            "targets": [{ "upstream": "users", "subset": "a", "weight": 1, "usable": 1 }, { "upstream": "u", "when": { "headers": { "a": "b" } } }],
            "reasons": ["because"] }] }),
        ["upstreams", ..] => {
            json!({ "generation": 1, "items": [{ "name": "users", "provider": "file", "source": "static",
            "waiting": 3, "levels": [{ "priority": 0, "usable": 1, "endpoints": 1, "share": 0.5 }, { "priority": 1, "share": 0.5 }],
            "breaker": { "refuses": "open" }, "endpoints": [{ "address": "10.0.0.1:80", "weight": 1, "in_flight": 2,
            "labels": { "version": "v1" }, "state": "healthy", "reasons": ["because"] }] }] })
        }
        ["events", "--at", ..] => {
            json!({ "generation": 1, "at": "2026-11-23T12:00:00Z", "started_at": "x", "oldest": "y", "more": 1,
            "items": [{ "upstream": "users", "address": "10.0.0.1:80", "facts": { "state": "healthy", "weight": 1, "labels": { "a": "b" } },
            "since": "x", "cause": "y", "until": "z", "then": "w" }] })
        }
        ["events", ..] => {
            json!({ "generation": 1, "next": 9, "more": true, "dropped": 1, "damaged": 1, "unknown": [], "items": [
            { "time": "x", "event": "endpoint_changed", "provider": "consul", "index": 42, "upstream": "users", "endpoint": "10.0.0.1:80",
              "before": { "state": "healthy", "weight": 1 }, "after": { "state": "unhealthy", "weight": 2 }, "cause": "c" }] })
        }
        ["explain", ..] => {
            json!({ "generation": 1, "request": { "listener": "web", "client": "10.0.0.1", "method": "GET", "host": "a", "path": "/", "query": "q" },
            "answer": { "status": 403, "flag": "UAEX", "error": "denied", "reason": "because" },
            "unless": [{ "who": "middleware `a`", "reason": "b" }], "more_routes": 1, "other_routes": 1,
            "routes": [{ "name": "users", "provider": "file", "match": { "path": "/" }, "fate": "taken", "reason": "r" }],
            "middlewares": [{ "name": "a", "type": "ip", "of": "route", "runs": true, "reason": "r" }],
            "route": { "name": "users", "provider": "file", "state": "ok", "reasons": ["x"], "decided_by": "weights", "more_targets": 1,
                "targets": [{ "target": "users", "weight": 1, "probability": 0.5, "usable": 1, "reason": "r", "steps": ["s"],
                "levels": [{ "priority": 0, "usable": 1, "endpoints": 1, "share": 0.5 }] }] },
            "upstreams": [{ "name": "users", "source": "static", "known": true, "host": "h", "more_endpoints": 1,
                "endpoints": [{ "address": "10.0.0.1:80", "state": "healthy", "weight": 1, "targets": ["users"], "labels": { "a": "b" }, "reasons": ["r"] }] }],
            "more_upstreams": 1 })
        }
        ["accept", ..] => {
            json!({ "digest": "d", "message": "m", "items": [{ "id": "upstreams/users", "provider": "consul",
            "why": "w", "refused": null, "lost": ["10.0.0.1:80"], "effects": ["e"] }] })
        }
        _ => json!({ "message": "done", "result": "done" }),
    }
}

/// What a member may be instead of what it should be.
fn strange() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\u{7f}\r\nline\u{2028}"),
        json!("\u{e4}".repeat(70_000)),
        json!([]),
        json!([null, 7, "x", {}, []]),
        json!({}),
        json!({ "\u{1b}[2J": "\u{9b}", "name": { "name": [] } }),
    ]
}

/// All pointers to what is inside a value.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut inside = |key: &str, value: &Value| {
        let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        found.push(pointer.clone());
        pointers(value, &pointer, found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| inside(key, value)),
        Value::Array(elements) => elements.iter().enumerate().for_each(|(at, value)| inside(&at.to_string(), value)),
        _ => {}
    }
}

fn is_harmless(text: &str) -> bool {
    !text
        .chars()
        .any(|it| it != '\n' && (it.is_control() || matches!(it, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')))
}

/// One process a page and strange value would be thousands: a page has one strange member for each kind, in turn.
#[test]
fn no_answer_makes_a_command_panic_or_steer_the_terminal() {
    for arguments in COMMANDS {
        let page = page(arguments);
        let mut all = Vec::new();
        pointers(&page, "", &mut all);
        for (kind, strange) in strange().into_iter().enumerate() {
            // Every third member is strange at once, beginning with another one for each kind; what is inside one is gone.
            for begin in [kind % 3, (kind + 1) % 3] {
                let mut odd = page.clone();
                for pointer in all.iter().skip(begin).step_by(3) {
                    if let Some(member) = odd.pointer_mut(pointer) {
                        *member = strange.clone();
                    }
                }
                let url = answers(http("200 OK", &odd.to_string()));
                let ways: &[&[&str]] = if begin == 0 { &[&[], &["--json"]] } else { &[&[]] };
                for json in ways {
                    let (code, out, error) = asked(&[*arguments, json].concat(), &url);
                    let shown = format!("{arguments:?} {json:?} of {odd:.2000}: {out:.2000}{error:.2000}");
                    assert!((0..=2).contains(&code), "{code} {shown}");
                    assert!(!error.contains("panicked"), "{shown}");
                    assert!(is_harmless(&out) && is_harmless(&error), "{shown}");
                    assert!(code != 0 || !out.trim().is_empty(), "{shown}");
                    if code == 0 && !json.is_empty() {
                        assert!(serde_json::from_str::<Value>(&out).is_ok(), "{shown}");
                    }
                }
            }
        }
    }
}

#[test]
fn nobody_reads_and_no_command_panics() {
    let long = json!({ "generation": 1, "items": vec![page(&["routes"])["items"][0].clone(); 5000] });
    let url = answers(http("200 OK", &long.to_string()));
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        &["routes", "--admin", &url][..],
        &["routes", "--json", "--admin", &url],
        &["schema"],
        &["completions", "bash"],
        &["--help"],
        &["check"],
        &["hash-key", "--new"],
    ] {
        let mut command: Command = fleetgate(directory.path(), arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // As `| head -1` does, before the first byte.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code().is_some_and(|code| code < 2) && !error.contains("panicked"),
            "{arguments:?}: {error}"
        );
    }
}

/// A device that is full, as `/dev/full` is.
fn full() -> std::fs::File {
    std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[test]
fn an_answer_that_cannot_be_written_exits_with_2_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("wrong.toml"), "listeners.web.adress = \"x\"\n").unwrap();
    let urls: Vec<String> =
        COMMANDS.iter().map(|command| answers(http("200 OK", &page(command).to_string()))).collect();
    let mut asking: Vec<Vec<&str>> = Vec::new();
    for (command, url) in COMMANDS.iter().zip(&urls) {
        asking.push([*command, &["--admin", url]].concat());
        asking.push([*command, &["--json", "--admin", url]].concat());
    }
    let local: [&[&str]; 8] = [
        &["schema"],
        &["completions", "bash"],
        &["check", "wrong.toml"],
        &["hash-key", "--new"],
        &["--help"],
        &["--version"],
        &["status", "--help"],
        &["help"],
    ];
    for arguments in asking.iter().map(Vec::as_slice).chain(local) {
        let mut command = fleetgate(directory.path(), arguments);
        let output = command.stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        let told = "fleetgate: cannot write to standard output: No space left on device";
        assert_eq!(error.matches(told).count(), 1, "{arguments:?}: {error}");
    }
    // Who follows events ends, too, instead of going on for nobody.
    let url = answers(http("200 OK", &page(&["events"]).to_string()));
    let mut command = fleetgate(directory.path(), &["events", "--follow", "--admin", &url]);
    let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_gateway_that_reads_no_longer_request_is_told_as_that() {
    for status in ["431 Request Header Fields Too Large", "414 URI Too Long"] {
        let url = answers(http(status, ""));
        for arguments in COMMANDS {
            let (code, out, error) = asked(arguments, &url);
            assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {error}");
            assert!(error.contains(&status[..3]) && error.contains("shorten them"), "{arguments:?}: {error}");
            assert!(!error.contains("is not the admin API"), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn events_that_are_none_say_so() {
    let body = json!({ "generation": 1, "next": 1, "items": [], "more": false, "since": "2026-11-23T18:53:00.000Z" });
    let url = answers(http("200 OK", &body.to_string()));
    let (code, out, _) = asked(&["events", "--since", "18:53"], &url);
    assert!(code == 0 && out.contains("no such event since 2026-11-23T18:53:00.000Z"), "{out}");
    let body = json!({ "generation": 1, "next": 1, "items": [], "unknown": ["there is no upstream `nope`"] });
    let url = answers(http("200 OK", &body.to_string()));
    let (code, out, _) = asked(&["events", "--upstream", "nope"], &url);
    assert!(code == 1 && out.contains("there is no upstream `nope`"), "{out}");
    let body = json!({ "generation": 1, "at": "2026-11-23T18:53:00.000Z", "items": [], "oldest": "2026-11-23T20:00:00.000Z", "more": 0 });
    let url = answers(http("200 OK", &body.to_string()));
    let (code, out, _) = asked(&["events", "--at", "18:53"], &url);
    let wanted =
        "no endpoint is known of 2026-11-23T18:53:00.000Z (UTC); the oldest event is of 2026-11-23T20:00:00.000Z";
    assert!(code == 0 && out.contains(wanted), "{out}");
}

#[test]
fn a_command_that_people_look_for_is_not_taken_for_another() {
    let directory = tempfile::tempdir().unwrap();
    let (code, out, error) = run(&mut fleetgate(directory.path(), &["metrics"]));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(error.contains("curl http://127.0.0.1:9901/metrics") && !error.contains("completions"), "{error}");
}

#[test]
fn commands_of_this_machine_exit_with_what_the_table_says() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let config = format!(
        "listeners.web.address = \"{taken}\"\nadmin.address = \"127.0.0.1:0\"\ndiscovery.state_dir = \"off\"\n"
    );
    std::fs::write(directory.path().join("taken.toml"), config).unwrap();
    std::fs::write(directory.path().join("wrong.toml"), "listeners.web.adress = \"x\"\n").unwrap();
    for (arguments, wanted) in [
        (&["check", "taken.toml"][..], 0),
        (&["schema"], 0),
        (&["completions", "fish"], 0),
        (&["hash-key", "--new"], 0),
        (&["--version"], 0),
        (&["status", "--help"], 0),
        (&["check", "wrong.toml"], 1),
        (&["check", "absent.toml"], 1),
        (&["run", "--config", "wrong.toml"], 1),
        (&["run", "--config", "absent.toml"], 1),
        (&["run", "--config", "taken.toml"], 1),
        (&["hash-key"], 1),
        (&["run", "--nonsense"], 2),
        (&["demo", "--nonsense"], 2),
        (&["register", "--upstream", "users"], 2),
        (&["register", "--upstream", "users", "--address", "10.0.0.5", "--check", "tcp://10.0.0.5:1"], 2),
        (&["explain", "GET"], 2),
        (&["accept"], 2),
        (&["events", "--limit", "many"], 2),
        (&["no-such-command"], 2),
    ] {
        let (code, out, error) = run(fleetgate(directory.path(), arguments).stdin(Stdio::null()));
        assert_eq!(code, wanted, "{arguments:?}: {out}{error}");
        assert!(!out.is_empty() || !error.is_empty(), "{arguments:?}");
    }
    let (_, help, _) = run(&mut fleetgate(directory.path(), &["--help"]));
    assert!(help.contains("Exit codes:"), "{help}");
}
