//! Defines how an endpoint is drained on one worker: what is under way there goes on, is told to close, and is cut.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use super::connection::ClientConnection;

/// The drains of one endpoint, one after another, and what is under way there that a drain would end.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// It takes no new exchanges.
    leaves: Cell<bool>,
    ends: Cell<Option<Ends>>,
    stage: Cell<Stage>,
    visits: RefCell<Slab<Visitor>>,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// What is under way goes on.
    #[default]
    Open,
    /// What can close in order does.
    Closing,
    /// The rest is cut.
    Cut,
}

/// When a drain comes to its stages.
#[derive(Clone, Copy, Debug)]
struct Ends {
    closing: Instant,
    cut: Instant,
}

/// Who is at an endpoint.
#[derive(Debug)]
enum Visitor {
    /// Its task is told of every stage.
    Told(Option<Waker>),
    /// A response on its way, with its place among those of an HTTP/2 connection. Its client may take none of it, and
    /// nobody polls it then: it is ended from outside.
    Response(Rc<ClientConnection>, Option<usize>),
}

/// At most so long before the end, closing begins.
const FAREWELL: Duration = Duration::from_secs(5);

impl Ends {
    fn after(now: Instant, timeout: Duration) -> Self {
        let cut = now + timeout;
        Self { closing: cut - FAREWELL.min(timeout / 4), cut }
    }
}

impl Drain {
    /// It takes no new exchanges, and those under way have so long; false when that was so before.
    pub(super) fn begin(&self, now: Instant, timeout: Duration) -> bool {
        !self.leaves.replace(true) && self.end_by(Ends::after(now, timeout))
    }

    /// The gateway stops: what is under way has so long, if it has no less.
    pub(super) fn stop(&self, now: Instant, grace: Duration) -> bool {
        self.end_by(Ends::after(now, grace))
    }

    fn end_by(&self, ends: Ends) -> bool {
        let sooner = self.ends.get().is_none_or(|before| ends.cut < before.cut);
        if sooner {
            self.ends.set(Some(ends));
        }
        sooner
    }

    /// It takes exchanges again. What was told to close does.
    pub(super) fn end(&self) {
        self.leaves.set(false);
        self.ends.set(None);
        self.stage.set(Stage::Open);
    }

    /// Whether it takes no new exchanges.
    pub(super) fn leaves(&self) -> bool {
        self.leaves.get()
    }

    /// How far it is.
    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Goes on to the stage of now, and tells those who are there; true when that is another one.
    pub(super) fn advance(&self, now: Instant) -> bool {
        let stage = match self.ends.get() {
            Some(ends) if now >= ends.cut => Stage::Cut,
            Some(ends) if now >= ends.closing => Stage::Closing,
            Some(_) | None => Stage::Open,
        };
        let new = self.stage.replace(stage) != stage;
        if new {
            for (_, visitor) in self.visits.borrow_mut().iter_mut() {
                match visitor {
                    Visitor::Told(waker) => waker.take().into_iter().for_each(Waker::wake),
                    Visitor::Response(client, place) if stage == Stage::Cut => client.cut(*place),
                    Visitor::Response(..) => {}
                }
            }
        }
        new
    }

    /// Whether nothing more is to come of it: everything is cut, or it is no more.
    pub(super) fn is_over(&self) -> bool {
        self.ends.get().is_none() || self.stage.get() == Stage::Cut
    }

    /// Somebody comes who is told of every stage.
    pub(super) fn visit(self: &Rc<Self>) -> Visit {
        self.enter(Visitor::Told(None))
    }

    /// A response is on its way to a client.
    pub(super) fn responds(self: &Rc<Self>, client: &Rc<ClientConnection>, place: Option<usize>) -> Visit {
        self.enter(Visitor::Response(Rc::clone(client), place))
    }

    fn enter(self: &Rc<Self>, visitor: Visitor) -> Visit {
        let key = self.visits.borrow_mut().insert(visitor);
        Visit { drain: Rc::clone(self), key }
    }
}

/// Someone's stay at an endpoint; it ends when this goes.
#[derive(Debug)]
pub(super) struct Visit {
    drain: Rc<Drain>,
    key: usize,
}

impl Visit {
    /// How far the endpoint's drain is; the task is woken when it gets further.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Stage {
        if let Some(Visitor::Told(waker)) = self.drain.visits.borrow_mut().get_mut(self.key) {
            match waker {
                Some(known) => known.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        self.drain.stage()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.drain.visits.borrow_mut().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::wakes::Wakes;
    use super::*;

    fn after(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_drain_is_told_by_stages() {
        let (drain, wakes, now) = (Rc::<Drain>::default(), Arc::<Wakes>::default(), Instant::now());
        let visit = drain.visit();
        let look = || visit.poll(&Context::from_waker(&wakes.waker()));
        assert_eq!((look(), drain.leaves(), drain.is_over()), (Stage::Open, false, true));
        assert!(drain.begin(now, after(30.0)));
        assert!(!drain.begin(now + after(9.0), after(30.0)), "it goes on");
        for (at, stage, told) in [(0.0, Stage::Open, 0), (24.9, Stage::Open, 0), (25.0, Stage::Closing, 1)] {
            drain.advance(now + after(at));
            assert_eq!((look(), wakes.count()), (stage, told), "{at}");
        }
        assert!(!drain.is_over() && drain.leaves());
        assert!(drain.advance(now + after(30.0)));
        assert_eq!((look(), wakes.count(), drain.is_over()), (Stage::Cut, 2, true));
        drain.end();
        assert_eq!((look(), drain.leaves()), (Stage::Open, false));
        drop(visit);
        assert!(drain.visits.borrow().is_empty());
    }

    #[test]
    fn short_drains_leave_a_quarter_for_closing() {
        let (drain, now) = (Drain::default(), Instant::now());
        assert!(drain.begin(now, after(2.0)));
        drain.advance(now + after(1.4));
        assert_eq!(drain.stage(), Stage::Open);
        drain.advance(now + after(1.5));
        assert_eq!(drain.stage(), Stage::Closing);
    }

    #[test]
    fn a_stop_ends_it_no_later() {
        let now = Instant::now();
        for (timeout, grace, cut) in [(30.0, 10.0, 10.0), (10.0, 30.0, 10.0)] {
            let drain = Drain::default();
            drain.begin(now, after(timeout));
            drain.stop(now, after(grace));
            assert!(drain.advance(now + after(cut)));
            assert_eq!(drain.stage(), Stage::Cut);
        }
        let drain = Drain::default();
        assert!(drain.stop(now, after(10.0)) && !drain.leaves(), "until then it takes what still comes");
        assert!(!drain.begin(now, after(20.0)) && drain.leaves());
    }
}
