//! Defines the trunks that a worker has to one endpoint.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::kept::UNNEEDED;
use super::trunk::Trunk;
use crate::snapshot::Upstream;

/// The trunks to an endpoint, oldest first.
#[derive(Debug)]
pub(in super::super) struct Trunks {
    open: RefCell<Vec<Rc<Trunk>>>,
    /// Whose turn it is to make one.
    turn: Semaphore,
    /// The endpoint chose HTTP/1.1 last, so that none is waited for.
    are_refused: Cell<bool>,
    /// No more are kept.
    closed: Cell<bool>,
}

impl Default for Trunks {
    fn default() -> Self {
        Self {
            open: RefCell::default(),
            turn: Semaphore::new(1),
            are_refused: Cell::new(false),
            closed: Cell::new(false),
        }
    }
}

impl Trunks {
    /// One that has room: the oldest, so that the others become idle when there is less to do.
    pub(super) fn take(&self, keep_alive: Duration, now: Instant) -> Option<Rc<Trunk>> {
        let mut open = self.open.borrow_mut();
        if open.is_empty() {
            return None;
        }
        let is_old = |since: Instant| now.saturating_duration_since(since) >= keep_alive;
        open.retain(|trunk| trunk.is_open() && !trunk.idle_since().is_some_and(is_old));
        open.iter().find(|trunk| trunk.has_room()).map(Rc::clone)
    }

    /// Whether there is one to take.
    pub(super) fn have_room(&self, keep_alive: Duration, now: Instant) -> bool {
        self.take(keep_alive, now).is_some()
    }

    /// Waits for the turn to make one. `None`: the endpoint takes none, and everybody makes a connection of their own.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        if self.are_refused.get() {
            return None;
        }
        // Those who wait for their turn see whether the one before has got a trunk.
        self.turn.acquire().await.ok().filter(|_| !self.are_refused.get())
    }

    /// Takes note of what the endpoint chose.
    pub(super) fn chose(&self, http2: bool) {
        self.are_refused.set(!http2);
    }

    /// Adds a new one.
    pub(super) fn add(&self, trunk: &Rc<Trunk>) {
        if !self.closed.get() {
            self.open.borrow_mut().push(Rc::clone(trunk));
        }
    }

    /// Lets go of all, and of those that are made from now on.
    pub(in super::super) fn close(&self) {
        self.closed.set(true);
        self.clear();
    }

    /// Lets go of all: each ends with its last strand.
    pub(in super::super) fn clear(&self) {
        self.open.borrow_mut().clear();
    }

    /// Lets go of those that carry nothing.
    pub(in super::super) fn close_idle(&self) {
        self.open.borrow_mut().retain(|trunk| trunk.idle_since().is_none());
    }

    /// Lets go of what is closed, idle for too long, or idle while connections are short or the process keeps more than
    /// it may.
    pub(in super::super) fn expire(&self, upstream: &Upstream) {
        let (settings, is_short) = (&upstream.settings, upstream.is_short_of_connections());
        self.open.borrow_mut().retain(|trunk| {
            let Some(since) = trunk.idle_since() else { return trunk.is_open() };
            let idle_for = since.elapsed();
            let excess = idle_for >= UNNEEDED && (is_short || trunk.idle_beside() > settings.max_idle_per_endpoint);
            !excess && idle_for < settings.keep_alive && trunk.is_open()
        });
    }
}
