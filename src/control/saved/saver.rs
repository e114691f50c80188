//! What others know of saving: how it fares, and whether what they did is kept over a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::telemetry::prometheus::{self, Definition, Samples, definitions};

/// Who may wait for a write at once.
const MAX_WAITING: usize = 16;

/// How long they wait: a disk may hang.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);

/// A write that takes longer than this is trouble.
const BLOCKED_AFTER: Duration = Duration::from_secs(2);

/// Whether something is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is on disk.
    Saved,
    /// Nothing is ever saved: `state_dir` is off.
    Off,
    /// It is not, and why.
    Failed(String),
}

/// How saving fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saving {
    /// Where it is saved to.
    pub folder: PathBuf,
    /// Why it can't be, and since when.
    pub trouble: Option<(String, SystemTime)>,
}

/// Asks whoever saves.
#[derive(Clone, Debug, Default)]
pub struct Saver(Option<Arc<Desk>>);

#[derive(Debug)]
struct Desk {
    folder: PathBuf,
    requests: mpsc::Sender<Request>,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    /// Of the last write.
    failure: Option<(String, SystemTime)>,
    /// Of the one that is under way.
    began: Option<(Instant, SystemTime)>,
    /// Of the last write of claims, which go to a file of their own.
    of_claims: Option<(String, SystemTime)>,
}

/// To be answered when everything known now is written.
pub(super) type Request = oneshot::Sender<Failures>;

/// What a write of several files came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    /// Of what operators drained.
    overlay: Option<String>,
    /// Of what registries showed.
    states: Option<String>,
}

impl Failures {
    pub(super) fn of<'f>(files: impl Iterator<Item = (&'f str, io::Result<()>)>) -> Self {
        let mut failures = Self::default();
        for (name, written) in files {
            let failure = if name == super::OVERLAY { &mut failures.overlay } else { &mut failures.states };
            // One cause, mostly: the first stands for all.
            *failure = failure.take().or_else(|| written.err().map(|error| error.to_string()));
        }
        failures
    }

    pub(super) fn all(error: &str) -> Self {
        Self { overlay: Some(error.to_owned()), states: Some(error.to_owned()) }
    }

    pub(super) fn any(&self) -> Option<&str> {
        self.overlay.as_deref().or(self.states.as_deref())
    }
}

/// What is to be kept over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What operators drained.
    Overlay,
    /// That, and what registries showed.
    All,
}

impl Saver {
    /// One for a folder, which has this trouble.
    pub(super) fn new(folder: &Path, failure: Option<String>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        let failure = failure.map(|text| (text, SystemTime::now()));
        let standing = Mutex::new(Standing { failure, ..Standing::default() });
        (Self(Some(Arc::new(Desk { folder: folder.to_owned(), requests, standing }))), receiver)
    }

    /// How saving fares; `None` where nothing is saved.
    pub fn saving(&self) -> Option<Saving> {
        let desk = self.0.as_ref()?;
        let standing = desk.standing();
        let blocked = standing.began.filter(|(began, _)| began.elapsed() >= BLOCKED_AFTER);
        let blocked = blocked.map(|(_, since)| ("a write does not end: its disk hangs".to_owned(), since));
        let failure = standing.failure.as_ref().or(standing.of_claims.as_ref());
        Some(Saving { folder: desk.folder.clone(), trouble: blocked.or_else(|| failure.cloned()) })
    }

    /// Waits until this of what is served now is saved, for a few seconds at most.
    pub async fn settle(&self, part: Part) -> Kept {
        let Some(desk) = &self.0 else { return Kept::Off };
        let (answer, answered) = oneshot::channel();
        let written = async {
            desk.requests.send(answer).await.ok()?;
            answered.await.ok()
        };
        match timeout(WRITE_TIMEOUT, written).await {
            Ok(Some(failures)) => {
                let failure = if part == Part::Overlay { failures.overlay.as_deref() } else { failures.any() };
                failure.map_or(Kept::Saved, |error| Kept::Failed(error.to_owned()))
            }
            // Nobody saves: the gateway is stopping, or never could.
            Ok(None) => {
                let failure = desk.standing().failure.clone();
                Kept::Failed(failure.map_or_else(|| "the gateway is stopping".to_owned(), |(text, _)| text))
            }
            Err(_) => Kept::Failed("the disk does not answer".to_owned()),
        }
    }

    pub(super) fn begins(&self) {
        if let Some(desk) = &self.0 {
            desk.standing().began = Some((Instant::now(), SystemTime::now()));
        }
    }

    /// Notes how a write ended; whether that is news.
    pub(super) fn ended(&self, error: Option<&str>) -> bool {
        let Some(desk) = &self.0 else { return false };
        let mut standing = desk.standing();
        standing.began = None;
        note(&mut standing.failure, error)
    }

    /// Notes how a write of claims ended; whether that is news.
    pub(super) fn ended_claims(&self, error: Option<&str>) -> bool {
        self.0.as_ref().is_some_and(|desk| note(&mut desk.standing().of_claims, error))
    }
}

/// Notes a failure, or that there is none any more; whether that is news.
fn note(failure: &mut Option<(String, SystemTime)>, error: Option<&str>) -> bool {
    let news = failure.is_some() != error.is_some();
    match (&mut *failure, error) {
        (Some((text, _)), Some(error)) => error.clone_into(text),
        (failure, error) => *failure = error.map(|error| (error.to_owned(), SystemTime::now())),
    }
    news
}

impl Desk {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl prometheus::Source for Saver {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[definitions::SAVED_STATE_FAILING]
    }

    fn collect(&self, samples: &mut Samples) {
        if let Some(saving) = self.saving() {
            let failing = f64::from(u8::from(saving.trouble.is_some()));
            samples.value(definitions::SAVED_STATE_FAILING, &[], failing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_keeps_nobody_waiting_for_long() {
        let (saver, mut requests) = Saver::new(Path::new("state"), None);
        let writer = saver.clone();
        let hangs = tokio::spawn(async move {
            let request = requests.recv().await;
            writer.begins();
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop((request, requests));
        });
        assert_eq!(saver.settle(Part::All).await, Kept::Failed("the disk does not answer".to_owned()));
        let trouble = saver.saving().and_then(|saving| saving.trouble).expect("trouble").0;
        assert!(trouble.contains("does not end"), "{trouble}");
        hangs.await.expect("to end");
        assert!(saver.ended(None) || saver.saving().is_some_and(|saving| saving.trouble.is_none()));
        assert!(matches!(saver.settle(Part::All).await, Kept::Failed(_)), "nobody saves any more");
    }

    #[tokio::test]
    async fn whoever_asks_hears_what_became_of_the_write() {
        assert_eq!(Saver::default().settle(Part::All).await, Kept::Off);
        let (saver, mut requests) = Saver::new(Path::new("state"), None);
        let writer = saver.clone();
        tokio::spawn(async move {
            for failure in [Some("full".to_owned()), Some("full".to_owned()), None] {
                let Some(request) = requests.recv().await else { return };
                writer.ended(failure.as_deref());
                let _ = request.send(Failures { overlay: None, states: failure });
            }
        });
        assert_eq!(saver.settle(Part::All).await, Kept::Failed("full".to_owned()));
        assert_eq!(saver.settle(Part::Overlay).await, Kept::Saved);
        let trouble = saver.saving().and_then(|saving| saving.trouble).expect("trouble");
        assert_eq!(trouble.0, "full");
        assert_eq!(saver.settle(Part::All).await, Kept::Saved);
        assert_eq!(saver.saving().expect("a folder").trouble, None);
    }
}
