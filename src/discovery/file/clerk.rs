//! File-system calls on threads of their own, each waited for only so long: a file on a file system that hangs must keep
//! neither the others from being read nor the process from ending.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long the first call that hangs is waited for,
const PATIENCE: Duration = Duration::from_secs(5);
/// and each further one for the same question.
const LESS_PATIENCE: Duration = Duration::from_millis(500);
/// Calls that may hang at once, each on a thread; what is asked beyond hangs, too.
const MAX_HANGING: usize = 32;

/// What is told of what hangs.
pub(super) const HANGS: &str = "the file system does not answer";

type Job = Box<dyn FnOnce() + Send>;

/// Makes calls, one after the other.
#[derive(Debug)]
pub(super) struct Clerk {
    thread: Option<Sender<Job>>,
    hanging: BTreeMap<PathBuf, Arc<Call>>,
    patience: Duration,
}

/// A call that was given up.
#[derive(Debug, Default)]
struct Call {
    given_up: AtomicBool,
    has_answered: AtomicBool,
}

impl Clerk {
    pub(super) fn new() -> Self {
        Self { thread: None, hanging: BTreeMap::new(), patience: PATIENCE }
    }

    #[cfg(test)]
    fn patient_for(patience: Duration) -> Self {
        Self { patience, ..Self::new() }
    }

    /// What `call` answers for each of these paths; `None` where it hangs. A path that hung is not asked again before
    /// the call of then has come back.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        paths: impl IntoIterator<Item = PathBuf>,
        call: impl Fn(&Path) -> T + Send + Sync + 'static,
    ) -> BTreeMap<PathBuf, Option<T>> {
        self.hanging.retain(|_, call| !call.has_answered.load(Relaxed));
        let mut answers = BTreeMap::new();
        let mut waiting = VecDeque::new();
        for path in paths {
            if self.hanging.contains_key(&path) {
                answers.insert(path, None).map_or((), drop)
            } else {
                waiting.push_back(path)
            }
        }
        let (call, mut patience) = (Arc::new(call), self.patience);
        while !waiting.is_empty() && self.hanging.len() < MAX_HANGING {
            let state = Arc::new(Call::default());
            let (sender, receiver) = channel();
            let (batch, call, of_job) = (waiting.clone(), Arc::clone(&call), Arc::clone(&state));
            let job = move || {
                for path in batch {
                    let answer = call(&path);
                    if of_job.given_up.load(Relaxed) || sender.send((path, answer)).is_err() {
                        break;
                    }
                }
                of_job.has_answered.store(true, Relaxed);
            };
            if !self.send(Box::new(job)) {
                break;
            }
            while !waiting.is_empty() {
                match receiver.recv_timeout(patience) {
                    Ok((path, answer)) => {
                        waiting.pop_front();
                        answers.insert(path, Some(answer));
                    }
                    Err(reason) => {
                        state.given_up.store(true, Relaxed);
                        self.thread = None;
                        if let Some(path) = waiting.pop_front() {
                            if reason == RecvTimeoutError::Timeout {
                                self.hanging.insert(path.clone(), state);
                            }
                            answers.insert(path, None);
                        }
                        patience = patience.min(LESS_PATIENCE);
                        break;
                    }
                }
            }
        }
        answers.extend(waiting.into_iter().map(|path| (path, None)));
        answers
    }

    /// As [`Self::ask`], of one path.
    pub(super) fn ask_one<T: Send + 'static>(
        &mut self,
        path: &Path,
        call: impl Fn(&Path) -> T + Send + Sync + 'static,
    ) -> Option<T> {
        self.ask([path.to_owned()], call).into_values().next().flatten()
    }

    /// Hands a job to the thread, or to a new one where the last one hangs or is gone.
    fn send(&mut self, job: Job) -> bool {
        let job = match &self.thread {
            Some(thread) => match thread.send(job) {
                Ok(()) => return true,
                Err(unsent) => unsent.0,
            },
            None => job,
        };
        let (sender, jobs) = channel::<Job>();
        let started = std::thread::Builder::new().name("files".to_owned()).spawn(move || {
            for job in jobs {
                job();
            }
        });
        if let Err(error) = started {
            tracing::warn!("no thread to read files with: {error}");
            return false;
        }
        let sent = sender.send(job).is_ok();
        self.thread = Some(sender);
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    fn shown(answers: BTreeMap<PathBuf, Option<usize>>) -> Vec<(String, Option<usize>)> {
        answers.into_iter().map(|(path, answer)| (path.display().to_string(), answer)).collect()
    }

    /// The length of a path; those that begin with `hang` wait for a word.
    fn length(release: &Arc<Mutex<Receiver<()>>>) -> impl Fn(&Path) -> usize + Send + Sync + 'static {
        let release = Arc::clone(release);
        move |path| {
            if path.to_string_lossy().starts_with("hang") {
                let _ = release.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            path.as_os_str().len()
        }
    }

    #[test]
    fn what_hangs_keeps_nobody_waiting_and_is_asked_again_once_it_answers() {
        let (released, release) = channel::<()>();
        let release = Arc::new(Mutex::new(release));
        let mut clerk = Clerk::patient_for(Duration::from_millis(300));
        let asked = ["a", "hang", "bb", "ccc"];
        let expected = |hang| {
            vec![
                ("a".to_owned(), Some(1)),
                ("bb".to_owned(), Some(2)),
                ("ccc".to_owned(), Some(3)),
                ("hang".to_owned(), hang),
            ]
        };
        assert_eq!(shown(clerk.ask(paths(&asked), length(&release))), expected(None));
        // At once: it is known to hang.
        assert_eq!(shown(clerk.ask(paths(&asked), length(&release))), expected(None));
        assert_eq!(clerk.hanging.len(), 1);
        drop(released);
        while clerk.ask_one(Path::new("hang"), length(&release)).is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(shown(clerk.ask(paths(&asked), length(&release))), expected(Some(4)));
    }

    #[test]
    fn threads_that_hang_are_bounded() {
        let (released, release) = channel::<()>();
        let release = Arc::new(Mutex::new(release));
        let mut clerk = Clerk::patient_for(Duration::from_millis(20));
        let many: Vec<PathBuf> = (0..MAX_HANGING + 10).map(|at| PathBuf::from(format!("hang{at}"))).collect();
        assert!(clerk.ask(many, length(&release)).into_values().all(|answer| answer.is_none()));
        assert_eq!(clerk.hanging.len(), MAX_HANGING);
        assert_eq!(clerk.ask_one(Path::new("a"), length(&release)), None, "no thread is left to ask with");
        drop(released);
        while clerk.ask_one(Path::new("a"), length(&release)).is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_call_that_panics_hangs_nobody() {
        let mut clerk = Clerk::new();
        let call = |path: &Path| if path == Path::new("bad") { panic!("on purpose") } else { 1 };
        let answers = clerk.ask(paths(&["a", "bad", "c"]), call);
        assert_eq!(answers.into_values().collect::<Vec<_>>(), [Some(1), None, Some(1)]);
        assert!(clerk.hanging.is_empty());
    }
}
