//! Defines the line of requests that wait for an endpoint with room, for all workers.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst, fence};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Who waits before an upstream.
#[derive(Debug, Default)]
pub struct Line {
    waiting: AtomicU32,
    freed: Notify,
}

/// A place in the line; left when dropped.
#[derive(Debug)]
pub struct Place<'l>(&'l Line);

impl Line {
    /// Whether somebody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Relaxed) == 0
    }

    /// How many wait.
    pub fn len(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// Takes a place; `None` when `size` of them are taken. What is looked at afterwards, and was freed before, is seen;
    /// what is freed later will be told.
    pub fn join(&self, size: u32) -> Option<Place<'_>> {
        self.waiting.fetch_update(Relaxed, Relaxed, |now| (now < size).then_some(now + 1)).ok()?;
        fence(SeqCst);
        Some(Place(self))
    }

    /// An endpoint has room again: the one who waits longest is woken.
    pub fn advance(&self) {
        // Against the one in `join`: either the newcomer sees the room, or this sees the newcomer.
        fence(SeqCst);
        if !self.is_empty() {
            self.freed.notify_one();
        }
    }
}

impl Place<'_> {
    /// Until it is this one's turn to look again.
    pub fn turn(&self) -> Notified<'_> {
        self.0.freed.notified()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
