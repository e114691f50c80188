//! Makes the snapshot of what discovery publishes: wait for a change, merge, build, publish.
//!
//! [`merge`] decides who defines what (pure), [`build`] makes the next snapshot of it and of the one before
//! (pure: what did not change is the same object), [`pace`] decides when it goes out, [`grace`] what stays until
//! its replacement was read, [`command`] is what operators say, [`overlay`] what of that is kept, [`history`] what was
//! applied and why, [`explain`] tells what a request would meet, and [`Control::run`] is the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::discovery::state::ProviderState;
use crate::snapshot::{Report, RouteTable, Snapshot};
use crate::spec::name::ProviderId;
use crate::spec::source::Source;

mod build;
pub mod command;
pub mod explain;
#[cfg(test)]
mod fixture;
mod grace;
pub mod history;
mod merge;
pub mod overlay;
mod pace;

use command::{Command, Order, Outcome, Refusal};
use history::History;
pub use merge::Rules;
use overlay::Overlay;

/// What control reads and writes.
pub struct Control {
    /// Every provider's state.
    pub providers: BTreeMap<ProviderId, watch::Receiver<Arc<ProviderState>>>,
    /// How names are decided.
    pub rules: Rules,
    /// The sources that upstreams name.
    pub wanted: watch::Sender<Arc<BTreeSet<Source>>>,
    /// What workers serve from.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// What operators say.
    pub orders: mpsc::Receiver<Order>,
    /// What is kept of it; its first value is in force from the start.
    pub overlay: watch::Sender<Arc<Overlay>>,
    /// Counts, for each provider, how often an operator accepted what its registry shows. A watch that holds
    /// something back listens; without a listener the command is refused.
    pub accepts: BTreeMap<ProviderId, watch::Sender<u64>>,
    /// Where every change is noted.
    pub history: Arc<History>,
}

impl Control {
    /// Publishes snapshots until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut states: BTreeMap<ProviderId, Arc<ProviderState>> =
            self.providers.iter_mut().map(|(id, state)| (*id, Arc::clone(&state.borrow_and_update()))).collect();
        let mut pace = pace::Pace::new(Instant::now());
        let mut builder = build::Builder::new(Instant::now());
        let mut retired: Vec<Arc<RouteTable>> = Vec::new();
        self.publish(&states, &mut builder, &mut retired);
        let mut due = builder.due();
        loop {
            let publish_at = due;
            tokio::select! {
                () = shutdown.cancelled() => return,
                id = changed(&mut self.providers) => {
                    let Some(state) = self.providers.get_mut(&id) else { continue };
                    let state = Arc::clone(&state.borrow_and_update());
                    let urgent = states.get(&id).is_some_and(|before| pace::takes_away(before, &state));
                    states.insert(id, state);
                    let at = pace.publish_at(Instant::now(), urgent);
                    due = Some(due.map_or(at, |due| due.min(at)));
                }
                Some(order) = self.orders.recv() => {
                    let outcome = self.obey(&order.command, &states);
                    if matches!(outcome, Ok(Outcome::Done(_))) {
                        pace.published(Instant::now());
                        self.publish(&states, &mut builder, &mut retired);
                        due = builder.due();
                    }
                    // Who gave it may have gone away; it holds all the same.
                    let _ = order.answer.send(outcome);
                }
                () = sleep_until(publish_at), if publish_at.is_some() => {}
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                pace.published(Instant::now());
                self.publish(&states, &mut builder, &mut retired);
                due = builder.due();
            }
        }
    }

    fn publish(
        &self,
        states: &BTreeMap<ProviderId, Arc<ProviderState>>,
        builder: &mut build::Builder,
        retired: &mut Vec<Arc<RouteTable>>,
    ) {
        let merged = merge::merge(states, &self.rules, &self.overlay.borrow().clone());
        self.wanted.send_if_modified(|wanted| {
            let changed = **wanted != merged.wanted;
            if changed {
                *wanted = Arc::new(merged.wanted.clone());
            }
            changed
        });
        self.history.documents(states);
        let before = Arc::clone(&self.snapshot.borrow());
        let Some(next) = builder.build(&merged, &before, Instant::now()) else { return };
        if !Arc::ptr_eq(&next.routes, &before.routes) {
            // Kept until the workers have let go: none of them pays for freeing a large table.
            retired.push(Arc::clone(&before.routes));
        }
        retired.retain(|table| Arc::strong_count(table) > 1);
        tell(&before.report, &next.report);
        tracing::debug!(generation = next.generation, routes = next.routes.routes().len(), "published a snapshot");
        let next = Arc::new(next);
        self.snapshot.send_replace(Arc::clone(&next));
        self.history.observe(&next);
    }
}

impl Control {
    /// Does what an operator says; a changed overlay waits to be published.
    fn obey(&self, command: &Command, states: &BTreeMap<ProviderId, Arc<ProviderState>>) -> Result<Outcome, Refusal> {
        let (overlay, snapshot) = (Arc::clone(&self.overlay.borrow()), Arc::clone(&self.snapshot.borrow()));
        let (changed, done) = match command {
            Command::Drain(place) => (command::drained(&overlay, &snapshot, place)?, format!("{place} is drained")),
            Command::Undrain(place) => {
                (command::undrained(&overlay, &snapshot, place)?, format!("{place} is not drained"))
            }
            Command::Accept(provider) => return self.accept(*provider, states),
        };
        let Some(next) = changed else { return Ok(Outcome::Unchanged(format!("{done} already"))) };
        self.overlay.send_replace(Arc::new(next));
        tracing::info!("{done}, says an operator");
        self.history.command(command, &done);
        Ok(Outcome::Done(done))
    }

    fn accept(
        &self,
        provider: ProviderId,
        states: &BTreeMap<ProviderId, Arc<ProviderState>>,
    ) -> Result<Outcome, Refusal> {
        let (Some(accepts), Some(state)) = (self.accepts.get(&provider), states.get(&provider)) else {
            return Err(Refusal::Unknown(format!("provider `{provider}` is not on")));
        };
        let held = state.held();
        if held == 0 {
            return Ok(Outcome::Unchanged(format!("{provider} holds nothing")));
        }
        if accepts.receiver_count() == 0 {
            let text = format!("what {provider} holds ends when its registry confirms or restores it, and not by hand");
            return Err(Refusal::Impossible(text));
        }
        accepts.send_modify(|count| *count += 1);
        let text = format!("what {provider} shows is accepted: {held} holds end");
        tracing::info!("{text}, says an operator");
        self.history.command(&Command::Accept(provider), &text);
        Ok(Outcome::Done(text))
    }
}

/// Logs what is newly wrong in documents and registrations, and what no longer is.
fn tell(before: &Report, now: &Report) {
    if before.rejected == now.rejected {
        return;
    }
    let set = |report: &Report| report.rejected.iter().cloned().collect::<BTreeSet<_>>();
    let (before, now) = (set(before), set(now));
    for (provider, problem) in now.difference(&before) {
        tracing::warn!(%provider, "not used as it is: {problem}");
    }
    if now.is_empty() {
        tracing::info!("all documents and registrations are used as they are again");
    }
}

/// Waits for any provider's change. Without providers, or when all are gone, it waits for ever.
async fn changed(providers: &mut BTreeMap<ProviderId, watch::Receiver<Arc<ProviderState>>>) -> ProviderId {
    loop {
        if providers.is_empty() {
            return std::future::pending().await;
        }
        let changes = providers.iter_mut().map(|(id, state)| {
            let id = *id;
            async move { (id, state.changed().await.is_ok()) }.boxed()
        });
        let ((id, lives), ..) = select_all(changes).await;
        if lives {
            return id;
        }
        providers.remove(&id);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
