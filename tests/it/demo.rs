//! `fleetgate demo` as a newcomer meets it: every command that it prints is run as it is printed, by a shell.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::support::http;
use super::support::process::Process;
use super::support::wait;

const SOON: Duration = Duration::from_secs(30);

struct Demo {
    process: Process,
    /// Where it makes its own directory.
    temporary: tempfile::TempDir,
    url: String,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
        command.arg("demo").args(arguments).env("TMPDIR", temporary.path());
        let process = Process::start("demo", &command);
        wait::until(SOON, "the demo's instructions", async || process.stdout.contains("Ctrl-C")).await;
        let url = process.stdout.all()[0].clone();
        Self { process, temporary, url }
    }

    /// The commands of the paragraph that begins with a title.
    fn commands(&self, title: &str) -> Vec<String> {
        let lines = self.process.stdout.all();
        let start = lines.iter().position(|line| line.starts_with(title));
        let start = start.unwrap_or_else(|| panic!("no `{title}` in:\n{}", lines.join("\n")));
        let paragraph = lines[start + 1..].iter().take_while(|line| line.starts_with("    "));
        paragraph.map(|line| line.trim_start().to_owned()).collect()
    }

    /// What is left in the temporary directory.
    fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

/// Runs a command as printed; its output.
async fn shell(command: &str) -> String {
    let output = tokio::process::Command::new("sh").args(["-c", command]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let remarks = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && remarks.is_empty(), "{command}\n{text}{remarks}");
    text
}

/// What `uniq -c` counted of a word.
fn count(output: &str, word: &str) -> u32 {
    let line = output.lines().find(|line| line.trim_end().ends_with(word));
    line.map_or(0, |line| line.split_whitespace().next().unwrap().parse().unwrap())
}

fn counts(output: &str) -> [u32; 3] {
    ["users-1", "users-2", "users-3"].map(|word| count(output, word))
}

/// Nine in ten of a thousand, within six standard deviations.
fn nine_in_ten(output: &str) -> bool {
    let (v1, v2) = (count(output, "\"v1\""), count(output, "\"v2\""));
    v1 + v2 == 1000 && (43..=157).contains(&v2)
}

/// Runs a command until its output is as promised; a loaded machine may need more than the printed second.
async fn promised(command: &str, fits: impl Fn(&str) -> bool) {
    wait::until_ok(SOON, command, || {
        let fits = &fits;
        async move {
            let output = shell(command).await;
            if fits(&output) { Ok(()) } else { Err(output) }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_is_printed_does_what_is_promised() {
    let mut demo = Demo::start(&["--port", "0", "--admin-port", "0"]).await;
    let lines = demo.process.stdout.all();
    assert!(lines[1].starts_with("admin http://127.0.0.1:"), "{}", lines[1]);
    assert_eq!(http().get(format!("{}/", demo.url)).send().await.unwrap().status(), 200);
    let shown = lines.iter().filter(|line| line.starts_with("    ")).count();
    let mut tried = 0;

    let commands = demo.commands("Balancing");
    let [balancing] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(counts(&shell(balancing).await), [3, 3, 3]);
    tried += 1;

    let commands = demo.commands("Split by weight");
    let [split] = commands.as_slice() else { panic!("{commands:?}") };
    let output = shell(split).await;
    assert!(nine_in_ten(&output), "{output}");
    tried += 1;

    let commands = demo.commands("Canary by header");
    let [canary] = commands.as_slice() else { panic!("{commands:?}") };
    let output = shell(canary).await;
    assert_eq!((count(&output, "\"v1\""), count(&output, "\"v2\"")), (0, 100), "{output}");
    tried += 1;

    let commands = demo.commands("A service goes down");
    let [down, without, up, with] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(shell(down).await, "users-2 is now unhealthy\n");
    promised(without, |output| matches!(counts(output), [4, 0, 5] | [5, 0, 4])).await;
    assert_eq!(shell(up).await, "users-2 is now healthy\n");
    promised(with, |output| counts(output) == [3, 3, 3]).await;
    tried += 4;

    let commands = demo.commands("A route edited");
    let [edit, edited, undo, undone] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!(shell(edit).await, "");
    promised(edited, |output| count(output, "\"v2\"") == 1000).await;
    assert_eq!(shell(undo).await, "");
    promised(undone, nine_in_ten).await;
    tried += 4;

    let commands = demo.commands("What the gateway knows");
    let [status, routes, upstreams, metrics, log] = commands.as_slice() else { panic!("{commands:?}") };
    assert!(shell(status).await.contains("\nstate      ready\n"));
    let output = shell(routes).await;
    assert!(output.contains("\ncanary ") && output.contains("users/v1 90 (2 usable)"), "{output}");
    let output = shell(upstreams).await;
    assert_eq!(output.matches(" healthy ").count(), 3, "{output}");
    assert!(shell(metrics).await.contains("{route=\"canary\",target=\"users/v2\"} "));
    // A line is written out a moment after its exchange.
    promised(log, |output| serde_json::from_str::<serde_json::Value>(output).is_ok_and(|line| line["status"] == 200))
        .await;
    tried += 5;
    assert_eq!(tried, shown, "a printed command was not tried");

    assert_eq!(demo.left().len(), 1);
    demo.process.signal("INT");
    assert_eq!(demo.process.end(SOON).await.code(), Some(0));
    assert_eq!(demo.left(), Vec::<PathBuf>::new());
    assert!(!demo.process.stdout.contains("\"flag\""), "the access log drowns the instructions");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_demos_run_side_by_side_and_a_port_asked_for_is_not_replaced() {
    let mut first = Demo::start(&[]).await;
    // Whoever has the usual ports: this one takes others.
    let mut second = Demo::start(&[]).await;
    assert_ne!(first.url, second.url);
    for demo in [&first, &second] {
        assert_eq!(http().get(format!("{}/", demo.url)).send().await.unwrap().status(), 200);
    }
    let port = first.url.rsplit_once(':').unwrap().1;
    let mut third = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
    third.args(["demo", "--port", port, "--admin-port", "0"]).env("TMPDIR", first.temporary.path());
    let output = third.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), error.contains(&format!("cannot bind 127.0.0.1:{port}"))),
        (Some(1), true),
        "{error}"
    );
    assert_eq!(first.left().len(), 1, "the demo that did not start left its directory");
    for demo in [&mut first, &mut second] {
        // A terminal that is closed.
        demo.process.signal("HUP");
        assert_eq!(demo.process.end(SOON).await.code(), Some(0));
        assert!(demo.left().is_empty());
    }
}
