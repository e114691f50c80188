//! Defines the signals that a gateway obeys.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::App;

/// The signals a gateway listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the gateway is ready (true) or shall stop (false).
    pub(super) async fn ready_or_stop(&mut self, app: &App) -> bool {
        let readiness = app.readiness();
        tokio::select! {
            () = self.stop(app) => false,
            () = readiness.settled() => true,
        }
    }

    /// Waits for a signal to stop; SIGHUP reads the files again.
    pub(super) async fn stop(&mut self, app: &App) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => app.reread(),
            }
        }
    }

    /// Waits for a second signal to stop.
    pub(super) async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
