//! Child processes that end with the test, with their output collected line by line.

use std::fmt;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::wait;

/// Lines of an output, in order, growing while the process runs.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The lines from the given position on.
    pub fn from(&self, position: usize) -> Vec<String> {
        self.0.lock().unwrap().get(position..).unwrap_or_default().to_vec()
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn contains(&self, part: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(part))
    }

    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    fn collect(&self, output: impl Read + Send + 'static) {
        let lines = self.clone();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                lines.0.lock().unwrap().push(text);
                line.clear();
            }
        });
    }
}

/// A child process; killed when dropped, and by the kernel should the test binary die first.
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Process {
    /// Starts `command`, whose program and arguments, environment and directory are kept.
    pub fn start(name: &str, command: &Command) -> Self {
        Self::with_outputs(name, command, Stdio::piped(), Stdio::piped())
    }

    /// As [`Self::start`], but with standard error, or both streams, at a pipe that is full and that nobody reads.
    pub fn start_unread(name: &str, command: &Command, both: bool) -> (Self, Unread) {
        let (reader, writer) = full_pipe();
        let stdout = if both { Stdio::from(writer.try_clone().unwrap()) } else { Stdio::piped() };
        (Self::with_outputs(name, command, stdout, writer.into()), Unread(reader))
    }

    fn with_outputs(name: &str, command: &Command, stdout: Stdio, stderr: Stdio) -> Self {
        let mut wrapped = if has_setpriv() {
            let mut wrapped = Command::new("setpriv");
            wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
            wrapped
        } else {
            Command::new(command.get_program())
        };
        wrapped.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        wrapped.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut child = spawn(wrapped).unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        if let Some(output) = child.stdout.take() {
            stdout.collect(output);
        }
        if let Some(output) = child.stderr.take() {
            stderr.collect(output);
        }
        Self { name: name.to_owned(), child, ended: None, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The status if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Sends a signal by its name: `TERM`, `HUP`, `STOP`, `CONT`, ...
    pub fn signal(&mut self, signal: &str) {
        if self.exited().is_none() {
            // Not yet waited for, so the number is still this child's.
            let sent =
                Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &self.id().to_string()]).status();
            assert!(sent.unwrap().success(), "cannot send {signal} to {}", self.name);
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// Waits for the process to end of itself.
    pub async fn end(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        let this = Mutex::new(self);
        wait::until_ok(deadline, &what, || {
            let mut this = this.lock().unwrap();
            let ended = this.exited().ok_or_else(|| format!("runs on; stderr:\n{}", this.stderr.text()));
            async move { ended }
        })
        .await
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal("TERM");
        self.end(deadline).await
    }
}

/// The other end of a pipe that is full.
pub struct Unread(PipeReader);

impl Unread {
    /// Reads it from now on.
    pub fn read(self) -> Lines {
        let lines = Lines::default();
        lines.collect(self.0);
        lines
    }
}

/// A pipe that takes nothing more: it holds lines of points.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    let line = [[b'.'; 4095].as_slice(), b"\n"].concat();
    while writer.write(&line).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.id())
    }
}

type Job = (Command, Sender<std::io::Result<Child>>);

/// The kernel's parent-death signal follows the thread that started the child, and a test's thread ends with
/// the test: one thread that lives as long as the binary starts them all.
fn spawn(command: Command) -> std::io::Result<Child> {
    static STARTER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::Builder::new()
            .name("child-starter".to_owned())
            .spawn(move || {
                for (mut command, answer) in jobs {
                    let _ = answer.send(command.spawn());
                }
            })
            .unwrap();
        Mutex::new(sender)
    });
    let (answer, started) = channel();
    starter.lock().unwrap().send((command, answer)).unwrap();
    started.recv().unwrap()
}

fn has_setpriv() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let tried = Command::new("setpriv").args(["--pdeathsig", "KILL", "--", "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    })
}
