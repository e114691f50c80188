//! Defines what operators can tell a running gateway, and the way their word takes from admin to control.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::overlay::Overlay;
pub use super::saved::Saving;
use super::saved::{Keeping, Kept, Saver};
use crate::snapshot::Snapshot;
use crate::snapshot::upstream::selects;
use crate::spec::endpoint::Labels;

/// An operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Gives an endpoint no new request. What is in flight ends as it would.
    Drain(Place),
    /// Takes a drain back.
    Undrain(Place),
    /// What the registry or file shows is right: what is held under this name goes.
    Accept(Acceptance),
}

/// What an operator accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// `PROVIDER`, `upstreams/NAME`, `KIND/NAME`, `KIND/NAME@PROVIDER`, `file:PATH`.
    pub target: Arc<str>,
    /// That of the holds as the operator saw them; without it nothing is accepted.
    pub digest: Option<String>,
}

/// An endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The upstream, as lists and metrics name it.
    pub upstream: Arc<str>,
    /// The endpoint, as lists show it.
    pub address: SocketAddr,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of upstream `{}`", self.address, self.upstream)
    }
}

/// What became of a command that was obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, and is served by. Says what, for people.
    Done(String),
    /// It was so before. Says what, for people.
    Unchanged(String),
}

/// Why a command was not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing of that name.
    #[error("{0}")]
    Unknown(String),
    /// It is known, and cannot be done.
    #[error("{0}")]
    Impossible(String),
    /// What would be accepted is not what the operator saw.
    #[error("{0}")]
    Changed(String),
    /// What would be lost has not been looked at.
    #[error("{0}")]
    Unseen(String),
    /// Nobody listens: the gateway is stopping.
    #[error("the gateway is stopping, or too busy to obey")]
    Unheard,
}

/// Commands under way: more wait at the sender.
const QUEUE: usize = 16;

/// How long a command may take. It waits for a merge and a build at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// The end that gives commands.
#[derive(Clone, Debug)]
pub struct Commands {
    orders: mpsc::Sender<Order>,
    saver: Saver,
}

/// A command on its way, and where its answer goes.
#[derive(Debug)]
pub struct Order {
    pub(super) command: Command,
    pub(super) answer: oneshot::Sender<Result<Outcome, Refusal>>,
}

impl Commands {
    /// Both ends.
    pub fn channel() -> (Self, mpsc::Receiver<Order>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { orders: sender, saver: Saver::default() }, receiver)
    }

    /// With who knows whether what was commanded is kept over a restart.
    pub fn saved_by(self, saver: Saver) -> Self {
        Self { saver, ..self }
    }

    /// How saving fares; `None` where nothing is saved.
    pub fn saving(&self) -> Option<Saving> {
        self.saver.saving()
    }

    /// What to add to the word that a command is in force: that a restart forgets it, and why. Waits until it is saved,
    /// for a few seconds at most.
    pub async fn settle(&self, command: &Command) -> String {
        let (keeping, forgets) = match command {
            Command::Drain(_) => (Keeping::Overlay, "a restart forgets it"),
            Command::Undrain(_) => (Keeping::Overlay, "a restart drains it again"),
            Command::Accept(_) => (Keeping::All, "a restart may hold it again"),
        };
        match (self.saver.settle(keeping).await, command) {
            (Kept::Saved, _) | (Kept::Off, Command::Undrain(_) | Command::Accept(_)) => String::new(),
            (Kept::Off, Command::Drain(_)) => format!("; `discovery.state_dir` is off: {forgets}"),
            (Kept::Failed(why), _) => format!("; not saved: {why}: {forgets}"),
        }
    }

    /// Gives a command and waits until it is in force.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn give(&self, command: Command) -> Result<Outcome, Refusal> {
        let (answer, answered) = oneshot::channel();
        let given = async {
            self.orders.send(Order { command, answer }).await.map_err(|_| Refusal::Unheard)?;
            answered.await.map_err(|_| Refusal::Unheard)?
        };
        tokio::time::timeout(PATIENCE, given).await.unwrap_or(Err(Refusal::Unheard))
    }
}

/// The overlay after a drain; `None` when it was drained before. Pure.
///
/// # Errors
/// An upstream or endpoint that is not there, and an overlay that is full.
pub(super) fn drained(overlay: &Overlay, snapshot: &Snapshot, place: &Place) -> Result<Option<Overlay>, Refusal> {
    let Place { upstream: label, address } = place;
    if overlay.is_drained(label, *address) {
        return Ok(None);
    }
    let upstream = snapshot.upstreams().find(|upstream| upstream.label == *label);
    let upstream = upstream.ok_or_else(|| Refusal::Unknown(format!("there is no upstream `{label}`")))?;
    if !upstream.endpoints.iter().any(|endpoint| endpoint.address == *address) {
        return Err(Refusal::Unknown(format!("upstream `{label}` has no endpoint `{address}`")));
    }
    if overlay.is_full() {
        let most = Overlay::MOST;
        return Err(Refusal::Impossible(format!("{most} endpoints are drained already; undrain some")));
    }
    let mut next = overlay.clone();
    next.drain(label, *address);
    Ok(Some(next))
}

/// What to add to the word of a drain where it was the last endpoint that takes traffic, of its upstream or of a subset.
/// Pure.
pub(super) fn nothing_left(snapshot: &Snapshot, place: &Place) -> String {
    let Place { upstream: label, address } = place;
    let Some(upstream) = snapshot.upstreams().find(|upstream| upstream.label == *label) else { return String::new() };
    if upstream.usable(None).is_empty() {
        return format!("; upstream `{label}` has no endpoint left that takes traffic");
    }
    let endpoint = upstream.endpoints.iter().find(|endpoint| endpoint.address == *address);
    let had_it = |labels: &Labels| endpoint.is_some_and(|endpoint| selects(labels, &endpoint.labels));
    let subsets = upstream.settings.subsets.iter();
    let empty = subsets.filter(|(_, labels)| had_it(labels) && upstream.usable(Some(labels)).is_empty());
    let names: Vec<String> = empty.map(|(name, _)| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!("; subset {} of it has no endpoint left that takes traffic", names.join(", ")),
    }
}

/// The overlay after a drain was taken back; `None` when there was none. Pure.
///
/// # Errors
/// An upstream or endpoint that neither is there nor was drained.
pub(super) fn undrained(overlay: &Overlay, snapshot: &Snapshot, place: &Place) -> Result<Option<Overlay>, Refusal> {
    let mut next = overlay.clone();
    if next.undrain(&place.upstream, place.address) {
        return Ok(Some(next));
    }
    // Says what is unknown in the same words as for a drain.
    drained(&Overlay::default(), snapshot, place).map(|_| None)
}
