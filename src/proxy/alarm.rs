//! Defines a worker's coarse timers: a request that waits for seconds must not pay for a precise one.

use std::cell::RefCell;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::time::Sleep;

/// Who waits on a worker, and until when. [`Alarms::ring`] is called every tick of the worker.
#[derive(Debug, Default)]
pub(super) struct Alarms(RefCell<Slab<(Instant, Waker)>>);

impl Alarms {
    /// Wakes all: they may have something else to see.
    pub(super) fn ring_all(&self) {
        self.0.borrow().iter().for_each(|(_, (_, waker))| waker.wake_by_ref());
    }

    /// Wakes those whose time has come.
    pub(super) fn ring(&self, now: Instant) {
        for (_, (at, waker)) in self.0.borrow().iter() {
            if *at <= now {
                waker.wake_by_ref();
            }
        }
    }
}

/// Closer than this, a wait is timed to the millisecond; further away, to a tick of the worker (100 ms).
const PRECISE: Duration = Duration::from_secs(1);

/// One wait, which may be moved. Gone when dropped.
#[derive(Debug)]
pub(super) struct Alarm {
    alarms: Rc<Alarms>,
    listed: Option<usize>,
    /// The time when it was made, which is good enough for the first look.
    made: Option<Instant>,
    precise: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// `now` is the present, which the caller has looked up already.
    pub(super) fn new(alarms: &Rc<Alarms>, now: Instant) -> Self {
        Self { alarms: Rc::clone(alarms), listed: None, made: Some(now), precise: None }
    }

    /// Whether the time has come; the task is woken when it has.
    pub(super) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let now = self.made.take().unwrap_or_else(Instant::now);
        if at <= now {
            return true;
        }
        if at - now < PRECISE {
            let at = tokio::time::Instant::from_std(at);
            let timer = self.precise.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            return timer.as_mut().poll(cx).is_ready();
        }
        let mut alarms = self.alarms.0.borrow_mut();
        // Woken a little early, so that the rest is waited for precisely.
        let wake_at = at.checked_sub(PRECISE / 2).unwrap_or(at);
        match self.listed.and_then(|key| alarms.get_mut(key)) {
            Some((listed, waker)) => {
                *listed = wake_at;
                waker.clone_from(cx.waker());
            }
            None => self.listed = Some(alarms.insert((wake_at, cx.waker().clone()))),
        }
        false
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.listed {
            self.alarms.0.borrow_mut().try_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::wakes::Wakes;
    use super::*;

    #[tokio::test]
    async fn far_waits_are_rung_near_ones_are_timed_and_dropped_ones_forgotten() {
        let (alarms, wakes) = (Rc::new(Alarms::default()), Arc::new(Wakes::default()));
        let waker = wakes.waker();
        let mut cx = Context::from_waker(&waker);
        let now = Instant::now();
        let mut far = Alarm::new(&alarms, Instant::now());
        assert!(!far.poll(now + Duration::from_secs(60), &mut cx));
        alarms.ring(now + Duration::from_secs(59));
        assert_eq!(wakes.count(), 0);
        alarms.ring(now + Duration::from_secs(60));
        assert_eq!(wakes.count(), 1);
        assert!(!far.poll(now + Duration::from_secs(120), &mut cx), "moved");
        drop(far);
        alarms.ring(now + Duration::from_secs(999));
        assert_eq!(wakes.count(), 1, "dropped");

        let mut near = Alarm::new(&alarms, Instant::now());
        let at = now + Duration::from_millis(20);
        std::future::poll_fn(
            |cx| if near.poll(at, cx) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending },
        )
        .await;
        assert!(Instant::now() >= at);
    }
}
