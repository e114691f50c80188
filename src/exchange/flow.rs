//! Defines how a body fares on its way, told by the body itself to whoever waits for its exchange.

use std::cell::Cell;
use std::time::Instant;

use super::error::ProxyError;
use super::flag::Flag;

/// How one body of an exchange fares. Shared within one worker.
#[derive(Debug, Default)]
pub struct Flow {
    bytes: Cell<u64>,
    /// Since when nothing has moved; noted when somebody waits, so that what flows costs no look at the clock.
    waiting_since: Cell<Option<Instant>>,
    state: Cell<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Complete,
    Failed(BodyFailure),
}

/// Why a body ended too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFailure {
    /// The client's framing is broken.
    Malformed,
    /// Larger than the listener allows.
    TooLarge,
    /// The client paused for too long.
    TooSlow,
    /// The client closed the connection.
    ClientGone,
    /// The endpoint closed the connection, or broke the framing.
    EndpointGone,
    /// The endpoint reset the stream that carried it, with this code of HTTP/2.
    EndpointReset(u32),
    /// The endpoint paused for too long.
    EndpointSlow,
    /// The whole exchange took too long.
    Overdue,
}

impl BodyFailure {
    /// What the client gets when its answer has not begun.
    pub fn error(self) -> ProxyError {
        match self {
            Self::Malformed => ProxyError::BadRequest,
            Self::TooLarge => ProxyError::BodyTooLarge,
            Self::TooSlow => ProxyError::SlowBody,
            Self::ClientGone => ProxyError::ClientGone,
            Self::EndpointGone | Self::EndpointReset(_) => ProxyError::Reset { retried: false },
            Self::EndpointSlow | Self::Overdue => ProxyError::Timeout,
        }
    }

    /// What the log shows when the answer had begun.
    pub fn flag(self) -> Flag {
        self.error().flag()
    }
}

impl Flow {
    /// Bytes that passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Since when the next piece, or what follows the last one, is waited for; from now on if nobody waited yet.
    pub fn waits_since(&self) -> Instant {
        let since = self.waiting_since.get().unwrap_or_else(Instant::now);
        self.waiting_since.set(Some(since));
        since
    }

    /// A piece passes.
    pub fn moved(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.waiting_since.set(None);
    }

    /// Neither passed to its end nor failed.
    pub fn is_open(&self) -> bool {
        self.state.get() == State::Open
    }

    /// Passed to its end.
    pub fn is_complete(&self) -> bool {
        self.state.get() == State::Complete
    }

    /// Marks the end.
    pub fn complete(&self) {
        if self.state.get() == State::Open {
            self.state.set(State::Complete);
        }
    }

    /// Why it failed, when it did.
    pub fn failure(&self) -> Option<BodyFailure> {
        match self.state.get() {
            State::Failed(failure) => Some(failure),
            State::Open | State::Complete => None,
        }
    }

    /// Marks a failure; the first one stays.
    pub fn fail(&self, failure: BodyFailure) {
        if self.state.get() == State::Open {
            self.state.set(State::Failed(failure));
        }
    }
}
