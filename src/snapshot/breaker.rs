//! Defines the circuit breaker of an upstream: how much of it is in use, whether it is open, and who may try it then.
//! Its state belongs to the upstream's name, is written by all workers, and survives reloads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::clock;
use super::outlier::Verdict;
use super::upstream::{Upstream, UpstreamState};
use super::window::Window;
use crate::exchange::ProxyError;
use crate::spec::breaker::Errors;

/// What is known of an upstream as a whole.
#[derive(Debug, Default)]
pub struct Breaker {
    /// A [`Circuit`].
    word: AtomicU64,
    window: Window,
    requests: AtomicU32,
    pending: AtomicU32,
    connections: AtomicU32,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Requests in flight.
    Requests,
    /// Requests that wait for a connection to be made.
    Pending,
    /// Connections.
    Connections,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Too many errors; in so many seconds the next request is let through.
    Open {
        /// At least 1.
        seconds: u32,
    },
    /// As many requests are in flight as may be.
    Requests,
    /// As many wait for a connection as may.
    Pending,
    /// As many connections are open as may be.
    Connections,
}

impl Refusal {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Requests => "requests",
            Self::Pending => "pending",
            Self::Connections => "connections",
        }
    }

    /// What the client gets.
    pub fn error(self) -> ProxyError {
        ProxyError::Overloaded {
            seconds: match self {
                Self::Open { seconds } => seconds,
                Self::Requests | Self::Pending | Self::Connections => 1,
            },
        }
    }
}

impl fmt::Display for Refusal {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { seconds } => {
                write!(f, "too many errors of late; some requests are let through in {seconds} s")
            }
            Self::Requests => f.write_str("as many requests are in flight as may be"),
            Self::Pending => f.write_str("as many requests wait for a connection as may"),
            Self::Connections => f.write_str("as many connections are open as may be"),
        }
    }
}

/// What lets requests through, in the word that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Everything is let through.
    Closed,
    /// Nothing is.
    Open,
    /// A few requests are, to try the upstream.
    HalfOpen,
}

impl CircuitState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a breaker shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BreakerView {
    /// What lets requests through.
    pub state: CircuitState,
    /// Requests in flight, where they are limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Requests that wait for a connection, where they are limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<u32>,
    /// Connections, where they are limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Why it refuses requests now, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuses: Option<String>,
}

/// A place among those limited; given back when it goes.
#[derive(Debug)]
pub struct Place {
    state: Arc<UpstreamState>,
    of: Limited,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.breaker.count(self.of).fetch_sub(1, Relaxed);
    }
}

/// The right of a request to go to an upstream with a breaker.
#[derive(Debug, Default)]
pub struct Admission {
    _place: Option<Place>,
    probe: Option<Probe>,
}

/// The whole circuit in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Circuit {
    state: CircuitState,
    /// Half open: requests that try the upstream now, and those that went well.
    trying: u64,
    passed: u64,
    /// In milliseconds: until when it is open, or since when it is half open.
    at: u64,
}

const SEVEN_BITS: u64 = 0x7f;

impl Circuit {
    /// 2 bits of the state, 7 of each number, then the time.
    fn of(word: u64) -> Self {
        let state = match word >> 62 {
            0 => CircuitState::Closed,
            1 => CircuitState::Open,
            _ => CircuitState::HalfOpen,
        };
        Self { state, trying: word >> 55 & SEVEN_BITS, passed: word >> 48 & SEVEN_BITS, at: word & ((1 << 48) - 1) }
    }

    fn word(self) -> u64 {
        (self.state as u64) << 62 | self.trying << 55 | self.passed << 48 | self.at & ((1 << 48) - 1)
    }

    fn closed() -> Self {
        Self { state: CircuitState::Closed, trying: 0, passed: 0, at: 0 }
    }

    fn opened(errors: &Errors, now: u64) -> Self {
        Self { state: CircuitState::Open, trying: 0, passed: 0, at: now.saturating_add(clock::of(errors.open)) }
    }

    /// Why a request is not let through.
    fn refusal(self, now: u64) -> Refusal {
        let left = self.at.saturating_sub(now).div_ceil(1000);
        Refusal::Open { seconds: u32::try_from(left).unwrap_or(u32::MAX).max(1) }
    }

    /// With one more request that tries the upstream; `None` when no more may.
    fn tried(self, errors: &Errors, now: u64) -> Option<Self> {
        match self.state {
            CircuitState::Open if now >= self.at => {
                Some(Self { state: CircuitState::HalfOpen, trying: 1, passed: 0, at: now })
            }
            CircuitState::HalfOpen if self.trying + self.passed < u64::from(errors.probes) => {
                Some(Self { trying: self.trying + 1, ..self })
            }
            CircuitState::Closed | CircuitState::Open | CircuitState::HalfOpen => None,
        }
    }
}

impl Breaker {
    fn count(&self, of: Limited) -> &AtomicU32 {
        match of {
            Limited::Requests => &self.requests,
            Limited::Pending => &self.pending,
            Limited::Connections => &self.connections,
        }
    }

    fn circuit(&self) -> Circuit {
        Circuit::of(self.word.load(Relaxed))
    }

    /// Lets a request through; the probe that it is, where it is to try the upstream.
    fn pass(&self, state: &Arc<UpstreamState>, errors: &Errors, now: Instant) -> Result<Option<Probe>, Refusal> {
        let mut word = self.word.load(Relaxed);
        loop {
            let circuit = Circuit::of(word);
            if circuit.state == CircuitState::Closed {
                return Ok(None);
            }
            let now = clock::millis(now);
            let Some(next) = circuit.tried(errors, now) else { return Err(circuit.refusal(now)) };
            match self.word.compare_exchange_weak(word, next.word(), Relaxed, Relaxed) {
                Ok(_) => return Ok(Some(Probe { state: Arc::clone(state), round: next.at, over: false })),
                Err(moved) => word = moved,
            }
        }
    }

    /// Takes note of a try while it is closed; whether that opens it.
    fn note(&self, good: bool, errors: &Errors, now: Instant) -> bool {
        let word = self.word.load(Relaxed);
        if Circuit::of(word).state != CircuitState::Closed {
            return false;
        }
        self.window.count(good, errors.window, now);
        if good {
            return false;
        }
        let counts = self.window.counts(errors.window, now);
        let too_many =
            counts.all() >= u64::from(errors.min_requests) && !errors.ratio.is_more_than(counts.bad, counts.all());
        let next = Circuit::opened(errors, clock::millis(now)).word();
        too_many && self.word.compare_exchange(word, next, Relaxed, Relaxed).is_ok()
    }
}

/// A request that tries an upstream whose breaker is half open. Dropped before anything became of it, it leaves that to
/// another.
#[derive(Debug)]
struct Probe {
    state: Arc<UpstreamState>,
    /// When the breaker became half open: what is left of another round means nothing.
    round: u64,
    over: bool,
}

impl Probe {
    /// Ends it; the state that the breaker is in for it, where that is another.
    fn end(mut self, good: bool, errors: &Errors, now: Instant) -> Option<CircuitState> {
        self.over = true;
        let next = |circuit: Circuit| match (good, circuit.passed + 1 >= u64::from(errors.probes)) {
            (true, true) => Circuit::closed(),
            (true, false) => {
                Circuit { trying: circuit.trying.saturating_sub(1), passed: circuit.passed + 1, ..circuit }
            }
            (false, _) => Circuit::opened(errors, clock::millis(now)),
        };
        let state = self.step(next)?.state;
        if state == CircuitState::Closed {
            self.state.breaker.window.clear();
        }
        (state != CircuitState::HalfOpen).then_some(state)
    }

    /// Moves the circuit, if it is still that of this probe's round.
    fn step(&self, next: impl Fn(Circuit) -> Circuit) -> Option<Circuit> {
        let of_round = |word| {
            let circuit = Circuit::of(word);
            (circuit.state == CircuitState::HalfOpen && circuit.at == self.round).then(|| next(circuit).word())
        };
        let before = self.state.breaker.word.fetch_update(Relaxed, Relaxed, of_round).ok()?;
        Some(next(Circuit::of(before)))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.over {
            self.step(|circuit| Circuit { trying: circuit.trying.saturating_sub(1), ..circuit });
        }
    }
}

impl Upstream {
    /// Lets a request through to it; `None` where nothing speaks against any.
    ///
    /// # Errors
    /// When its breaker is open, or as many requests are in flight as may be.
    pub fn admit(&self, now: Instant) -> Result<Option<Box<Admission>>, Refusal> {
        let Some(rules) = &self.settings.breaker else { return Ok(None) };
        let probe = match &rules.errors {
            Some(errors) => self.state.breaker.pass(&self.state, errors, now)?,
            None => None,
        };
        let place = self.place(Limited::Requests)?;
        let unlimited = place.is_none() && probe.is_none();
        Ok((!unlimited).then(|| Box::new(Admission { _place: place, probe })))
    }

    /// Takes a place among what is limited; `None` where it is not.
    ///
    /// # Errors
    /// When all are taken.
    pub fn place(&self, of: Limited) -> Result<Option<Place>, Refusal> {
        let Some(most) = self.most(of) else { return Ok(None) };
        let one_more = |taken: u32| (taken < most).then_some(taken + 1);
        match self.state.breaker.count(of).fetch_update(Relaxed, Relaxed, one_more) {
            Ok(_) => Ok(Some(Place { state: Arc::clone(&self.state), of })),
            Err(_) => Err(match of {
                Limited::Requests => Refusal::Requests,
                Limited::Pending => Refusal::Pending,
                Limited::Connections => Refusal::Connections,
            }),
        }
    }

    /// Whether idle connections are better closed than kept: half of the places are taken, and other workers' requests
    /// cannot use what this one keeps.
    pub fn is_short_of_connections(&self) -> bool {
        let taken = || self.state.breaker.connections.load(Relaxed);
        self.most(Limited::Connections).is_some_and(|most| taken() > most / 2)
    }

    fn most(&self, of: Limited) -> Option<u32> {
        let rules = self.settings.breaker.as_ref()?;
        match of {
            Limited::Requests => rules.max_requests,
            Limited::Pending => rules.max_pending,
            Limited::Connections => rules.max_connections,
        }
    }

    /// Takes note of what became of a try that took so long; the state that the breaker is in for it, where that is
    /// another.
    pub fn note(
        &self,
        admission: Option<&mut Admission>,
        verdict: Verdict,
        took: Duration,
        now: Instant,
    ) -> Option<CircuitState> {
        let errors = self.settings.breaker.as_ref()?.errors.as_ref()?;
        let good = verdict == Verdict::Good && errors.slow.is_none_or(|slow| took <= slow);
        let changed = match admission.and_then(|admission| admission.probe.take()) {
            Some(probe) => probe.end(good, errors, now),
            None => self.state.breaker.note(good, errors, now).then_some(CircuitState::Open),
        };
        if changed.is_some() {
            // Nobody's usability, but whoever looks for changes looks here.
            self.state.advance_epoch();
        }
        changed
    }

    /// What lets requests through, where errors decide.
    pub fn circuit(&self) -> Option<CircuitState> {
        self.settings.breaker.as_ref()?.errors.as_ref()?;
        Some(self.state.breaker.circuit().state)
    }

    /// Why it refuses requests now.
    pub fn refuses(&self, now: Instant) -> Option<Refusal> {
        let rules = self.settings.breaker.as_ref()?;
        let breaker = &self.state.breaker;
        if let Some(errors) = &rules.errors {
            let circuit = breaker.circuit();
            let now = clock::millis(now);
            if circuit.state != CircuitState::Closed && circuit.tried(errors, now).is_none() {
                return Some(circuit.refusal(now));
            }
        }
        let full = rules.max_requests.is_some_and(|most| breaker.requests.load(Relaxed) >= most);
        full.then_some(Refusal::Requests)
    }

    /// What its breaker shows, where it has one.
    pub fn breaker(&self, now: Instant) -> Option<BreakerView> {
        self.settings.breaker.as_ref()?;
        let count = |of| self.most(of).map(|_| self.state.breaker.count(of).load(Relaxed));
        Some(BreakerView {
            state: self.circuit().unwrap_or(CircuitState::Closed),
            requests: count(Limited::Requests),
            pending: count(Limited::Pending),
            connections: count(Limited::Connections),
            refuses: self.refuses(now).map(|refusal| refusal.to_string()),
        })
    }
}

#[cfg(test)]
mod tests;
