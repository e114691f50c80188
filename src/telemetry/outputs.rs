//! The standard streams of a command that runs for long. Whatever goes there is written by threads of their own: who
//! has something to say never waits for whoever reads it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lines::{Destination, Destinations, LogName, LogState, Stream, Writer};

/// How long the last lines may take.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Both streams, and who may share them.
#[derive(Debug)]
pub struct Outputs {
    destinations: Destinations,
    own: Writer,
    announcements: Writer,
}

impl Outputs {
    /// Starts their threads.
    ///
    /// # Errors
    /// When the system gives no threads or no descriptors.
    pub fn start() -> io::Result<Self> {
        let destinations = Destinations::default();
        let own = Writer::start(LogName::Own, &Destination::Stderr, &destinations)?;
        let announcements = Writer::start(LogName::Announcements, &Destination::Stdout, &destinations)?;
        Ok(Self { destinations, own, announcements })
    }

    /// Standard output.
    pub fn stdout(&self) -> Stream {
        self.announcements.stream()
    }

    /// Standard error, where our own log goes.
    pub fn stderr(&self) -> Stream {
        self.own.stream()
    }

    /// How our own log fares.
    pub fn own_log(&self) -> Arc<LogState> {
        self.own.state()
    }

    pub(super) fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    /// Waits until all is written, for a second at most.
    pub fn finish(&self) {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        self.announcements.close();
        self.own.finish(deadline);
        self.announcements.finish(deadline);
    }
}
