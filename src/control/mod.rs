//! Makes the snapshot of what discovery publishes: wait for a change, merge, build, publish.
//!
//! [`merge`] decides who defines what (pure), [`blocked`] what has no known good form, [`resolution`] which form is
//! served (pure), [`build`] makes the next snapshot of it and of the one before
//! (pure: what did not change is the same object), [`pace`] decides when it goes out, [`grace`] what stays until
//! its replacement was read, [`claims`] which of equal routes is asked, [`guard`] what is not believed though a watch confirmed it, [`saved`] what an earlier
//! process knew, [`recall`] what of that stands in for items that do not resolve, [`damping`] who comes and goes too often, [`command`] is what operators say, [`acceptance`] what it names, [`overlay`] what of that
//! is kept, [`holds`] lists what operators may accept, [`rejected`] tells what cannot be used as it is written, [`removals`] which documents are gone, [`diagnostics`] what items have wrong with each other, [`gateways`] counts the others, [`history`] what was applied and why, [`explain`] tells what a request would meet, [`uses`] tells discovery what
//! requests use, and [`Control::run`] is the loop.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::discovery::state::{Diagnostics, ProviderState};
use crate::middleware::fleet::Fleet;
use crate::snapshot::{RouteTable, Snapshot};
use crate::spec::endpoint::Labels;
use crate::spec::hold::HeldPart;
use crate::spec::name::ProviderId;
use crate::spec::source::Source;

mod acceptance;
mod blocked;
mod build;
mod claims;
pub mod command;
mod content;
mod damping;
mod diagnostics;
pub mod explain;
#[cfg(test)]
mod fixture;
mod gateways;
mod grace;
mod guard;
pub mod history;
mod holds;
mod merge;
pub mod overlay;
mod pace;
mod prohibitions;
mod recall;
mod rejected;
mod removals;
mod resolution;
pub mod saved;
pub mod uses;

use saved::{SavedState, Shown};

use acceptance::{AcceptedNames, Nameable};
use command::{Acceptance, Command, Order, Outcome, Refusal};
use history::History;
use merge::Merged;
pub use merge::Rules;
use overlay::Overlay;
pub use prohibitions::Prohibitions;

/// What control reads and writes.
pub struct Control {
    /// Every provider's state.
    pub providers: BTreeMap<ProviderId, watch::Receiver<Arc<ProviderState>>>,
    /// How names are decided.
    pub rules: Rules,
    /// Where this gateway is, for upstreams that put the nearest endpoints first.
    pub labels: Labels,
    /// The addresses that endpoints must not have.
    pub prohibitions: Prohibitions,
    /// The other gateways.
    pub fleet: Arc<Fleet>,
    /// Where gateways register.
    pub gateways: BTreeSet<Source>,
    /// The sources that upstreams name.
    pub wanted: watch::Sender<Arc<BTreeSet<Source>>>,
    /// What it finds wrong with well-formed items; `None` until every document provider was read.
    pub diagnostics: watch::Sender<Option<Arc<Diagnostics>>>,
    /// What workers serve from.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// What operators say.
    pub orders: mpsc::Receiver<Order>,
    /// What is kept of it; its first value is in force from the start.
    pub overlay: watch::Sender<Arc<Overlay>>,
    /// Takes, for each provider, the parts whose loss an operator accepts. A watch that holds something listens; without
    /// a listener the command is refused.
    pub accepts: BTreeMap<ProviderId, broadcast::Sender<HeldPart>>,
    /// Where every change is noted.
    pub history: Arc<History>,
    /// How long what a wiped registry lost is held once it fills again; `None`: until an operator accepts it.
    pub wipe_hold: Option<std::time::Duration>,
    /// Whether endpoints that flap wait.
    pub damping: bool,
    /// Providers of documents without which the gateway may start.
    pub optional: BTreeSet<ProviderId>,
    /// Providers whose registry failed to answer.
    pub failing: watch::Receiver<BTreeSet<ProviderId>>,
    /// What an earlier process knew.
    pub saved: BTreeMap<ProviderId, SavedState>,
    /// What is to be saved.
    pub shown: watch::Sender<Option<Arc<Shown>>>,
}

/// How long instances wait for what they ask for, which is read of them within milliseconds: both go out as one, so that
/// no instance gets what it does not ask for.
const TAGS_DELAY: Duration = Duration::from_millis(15);

impl Control {
    /// Publishes snapshots until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let saved = Arc::new(std::mem::take(&mut self.saved));
        let (ids, overlay) = (self.providers.keys().copied().collect(), Arc::clone(&self.overlay.borrow()));
        let forms = recall::recall(&saved, ids, self.rules.clone(), overlay).await;
        let now = Instant::now();
        let guard = guard::Guard::new(self.wipe_hold, self.damping, Arc::unwrap_or_clone(saved), now);
        let mut guard = guard.with_optional(std::mem::take(&mut self.optional));
        for (id, state) in &mut self.providers {
            guard.take(*id, Arc::clone(&state.borrow_and_update()), now);
        }
        guard.look(&BTreeSet::new(), now);
        let mut pace = pace::Pace::new(now);
        let builder = build::Builder::new(now).labelled(std::mem::take(&mut self.labels));
        let builder = builder.prohibiting(std::mem::take(&mut self.prohibitions));
        let mut builder = builder.of(Arc::clone(&self.fleet));
        let mut retired: Vec<Arc<RouteTable>> = Vec::new();
        let mut accepted = AcceptedNames::default();
        let mut merger = merge::Merger::recalling(forms);
        self.publish(&mut guard, &mut merger, &mut builder, &mut retired);
        let mut due = builder.due();
        loop {
            let (publish_at, look_at) = (due, guard.due());
            tokio::select! {
                () = shutdown.cancelled() => return,
                id = changed(&mut self.providers) => {
                    self.take(&mut guard, Some(id));
                    let urgent = self.look(&mut guard);
                    let mut at = pace.publish_at(Instant::now(), urgent);
                    if id == ProviderId::Consul && !urgent && self.providers.contains_key(&ProviderId::ConsulTags) {
                        at = at.max(Instant::now() + TAGS_DELAY);
                    }
                    due = Some(due.map_or(at, |due| due.min(at)));
                }
                Some(order) = self.orders.recv() => {
                    if matches!(order.command, Command::Accept(_)) {
                        // What was published meanwhile is part of what is accepted, or has changed it.
                        self.take(&mut guard, None);
                        self.look(&mut guard);
                        self.publish(&mut guard, &mut merger, &mut builder, &mut retired);
                    }
                    let mut outcome = self.obey(&order.command, &mut guard, &mut accepted);
                    if matches!(outcome, Ok(Outcome::Done(_))) {
                        self.look(&mut guard);
                        pace.published(Instant::now());
                        self.publish(&mut guard, &mut merger, &mut builder, &mut retired);
                        due = builder.due();
                    }
                    if let (Command::Drain(place), Ok(Outcome::Done(text) | Outcome::Unchanged(text))) =
                        (&order.command, &mut outcome)
                    {
                        text.push_str(&command::nothing_left(&self.snapshot.borrow(), place));
                    }
                    // Who gave it may have gone away; it holds all the same.
                    let _ = order.answer.send(outcome);
                }
                Ok(()) = self.failing.changed() => {
                    guard.note_failed(&self.failing.borrow_and_update());
                    self.look(&mut guard);
                    due = Some(Instant::now());
                }
                () = sleep_until(look_at), if look_at.is_some() => {
                    self.look(&mut guard);
                    due = Some(Instant::now());
                }
                () = sleep_until(publish_at), if publish_at.is_some() => {}
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                pace.published(Instant::now());
                self.publish(&mut guard, &mut merger, &mut builder, &mut retired);
                due = builder.due();
            }
        }
    }

    /// Takes what providers published since; `told`: one of which that is known.
    fn take(&mut self, guard: &mut guard::Guard, told: Option<ProviderId>) {
        let now = Instant::now();
        // In this order: what services ask for is published after the instances that ask for it, and is never taken
        // without them.
        for (id, state) in &mut self.providers {
            if told == Some(*id) || state.has_changed().unwrap_or(false) {
                guard.take(*id, Arc::clone(&state.borrow_and_update()), now);
            }
        }
    }

    /// Lets the guard look at what it knows; whether an endpoint goes out of use by that.
    fn look(&self, guard: &mut guard::Guard) -> bool {
        let before = guard.served().clone();
        guard.look(&self.wanted.borrow(), Instant::now());
        let releases = guard.take_releases();
        if !releases.is_empty() {
            self.history.released(releases);
        }
        let after = guard.served();
        before.iter().any(|(id, before)| after.get(id).is_some_and(|after| pace::takes_away(before, after)))
    }

    fn publish(
        &self,
        guard: &mut guard::Guard,
        merger: &mut merge::Merger,
        builder: &mut build::Builder,
        retired: &mut Vec<Arc<RouteTable>>,
    ) {
        let mended = blocked::forget_mended(&self.overlay.borrow(), guard.served());
        if let Some(next) = mended {
            self.overlay.send_replace(Arc::new(next));
        }
        let overlay = Arc::clone(&self.overlay.borrow());
        let (merged, mut affected) = merger.merge(guard.served(), &self.rules, &overlay);
        if self.want(merged) {
            // What is wanted now may have been saved.
            self.look(guard);
            let (again, also) = merger.merge(guard.served(), &self.rules, &overlay);
            affected = affected.and(also);
            self.want(again);
        }
        let merged = merger.merged();
        self.fleet.registered(gateways::count(&self.gateways, guard.served()));
        if let Some(shown) = &*self.shown.borrow() {
            removals::tell(&removals::between(&shown.states, guard.served()));
        }
        self.shown.send_replace(Some(Arc::new(Shown {
            states: guard.served().clone(),
            wanted: Arc::clone(&self.wanted.borrow()),
            settled: merged.report.unread.is_empty(),
            overlay,
            resolved: Arc::clone(merger.to_save()),
        })));
        self.history.documents(guard.served());
        let before = Arc::clone(&self.snapshot.borrow());
        let Some(next) = builder.build(merged, &affected, &before, Instant::now()) else { return };
        if !Arc::ptr_eq(&next.routes, &before.routes) {
            // Kept until the workers have let go: none of them pays for freeing a large table.
            retired.push(Arc::clone(&before.routes));
        }
        retired.retain(|table| Arc::strong_count(table) > 1);
        diagnostics::tell(&before.report, &next.report);
        diagnostics::send(&self.diagnostics, &next.report);
        tracing::debug!(generation = next.generation, routes = next.routes.routes().len(), "published a snapshot");
        let next = Arc::new(next);
        self.snapshot.send_replace(Arc::clone(&next));
        self.history.observe(&next);
    }
}

impl Control {
    /// Tells discovery what is wanted; whether that is news.
    fn want(&self, merged: &Merged) -> bool {
        let mut sources = Cow::Borrowed(&merged.wanted);
        if gateways::matter(merged) {
            sources.to_mut().extend(self.gateways.iter().cloned());
        }
        self.wanted.send_if_modified(|wanted| {
            let changed = **wanted != *sources;
            if changed {
                *wanted = Arc::new(sources.into_owned());
            }
            changed
        })
    }

    /// Does what an operator says; a changed overlay waits to be published.
    fn obey(
        &self,
        command: &Command,
        guard: &mut guard::Guard,
        accepted: &mut AcceptedNames,
    ) -> Result<Outcome, Refusal> {
        let (overlay, snapshot) = (Arc::clone(&self.overlay.borrow()), Arc::clone(&self.snapshot.borrow()));
        let (changed, place, done, unchanged) = match command {
            Command::Drain(place) => {
                (command::drained(&overlay, &snapshot, place)?, place, "is drained", "is drained already")
            }
            Command::Undrain(place) => {
                (command::undrained(&overlay, &snapshot, place)?, place, "takes new requests again", "was not drained")
            }
            Command::Accept(acceptance) => return self.accept(acceptance, &snapshot, guard, accepted),
        };
        let Some(next) = changed else { return Ok(Outcome::Unchanged(format!("{place} {unchanged}"))) };
        let done = format!("{place} {done}");
        self.overlay.send_replace(Arc::new(next));
        tracing::info!("{done}, says an operator");
        self.history.command(command, &done);
        Ok(Outcome::Done(done))
    }

    fn accept(
        &self,
        acceptance: &Acceptance,
        snapshot: &Snapshot,
        guard: &mut guard::Guard,
        accepted: &mut AcceptedNames,
    ) -> Result<Outcome, Refusal> {
        let target = &acceptance.target;
        let nameable = Nameable { snapshot, states: guard.served(), files: &self.rules.files, accepted };
        let released = nameable.released(acceptance)?;
        if released.is_empty() {
            let again = if accepted.has(target) { ", which was accepted before" } else { "" };
            return Ok(Outcome::Unchanged(format!("nothing is held under {target}{again}")));
        }
        let (mut names, mut nobody) = (Vec::new(), Vec::new());
        let mut overlay = Overlay::clone(&self.overlay.borrow());
        for hold in released {
            if let Some(blocked) = blocked::accepted(hold) {
                overlay.accept(hold.provider, blocked);
                names.push(hold.id.as_str());
                continue;
            }
            let guarded = guard.release(hold, Instant::now());
            // A watch that does not hold the part takes no notice.
            let told = self.accepts.get(&hold.provider).is_some_and(|accepts| accepts.send(hold.part.clone()).is_ok());
            if guarded || told { names.push(hold.id.as_str()) } else { nobody.push(hold.id.as_str()) }
        }
        if overlay != **self.overlay.borrow() {
            self.overlay.send_replace(Arc::new(overlay));
        }
        if names.is_empty() {
            let nobody = nobody.join(", ");
            let text = format!("what {nobody} holds ends when its registry confirms or restores it, and not by hand");
            return Err(Refusal::Impossible(text));
        }
        let text = match names.as_slice() {
            [one] if *one == &**target => format!("{target} is accepted"),
            _ => format!("{target} is accepted: {}", names.join(", ")),
        };
        for name in names.into_iter().chain([&**target]) {
            accepted.add(name);
        }
        tracing::info!("{text}, says an operator");
        self.history.command(&Command::Accept(acceptance.clone()), &text);
        Ok(Outcome::Done(text))
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
