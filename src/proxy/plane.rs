//! Defines the data plane as the rest of the gateway sees it: started, drained, ended.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::crowd::Crowd;
use super::listener::Bound;
use super::tls::TlsFront;
use super::worker::{self, Peers, Start};
use crate::snapshot::Snapshot;
use crate::spec::name::Name;
use crate::spec::settings::Listener;
use crate::telemetry::Logs;
use crate::telemetry::descriptors::Descriptors;
use crate::telemetry::stats::WorkersStats;

/// What workers are told about the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Serve.
    No,
    /// Accept no more, close connections after their exchange, and end by the deadline.
    Drain {
        /// When exchanges in flight are given up.
        deadline: Instant,
    },
}

/// A listener that is bound.
#[derive(Debug)]
pub struct Front {
    /// Its name.
    pub name: Name,
    /// Its settings.
    pub settings: Listener,
    /// Its sockets.
    pub bound: Bound,
    /// Its TLS, where the settings ask for it.
    pub tls: Option<TlsFront>,
}

/// All workers.
#[derive(Debug)]
pub struct DataPlane {
    threads: Vec<std::thread::JoinHandle<io::Result<()>>>,
    stop: watch::Sender<Stop>,
}

impl DataPlane {
    /// Starts `workers` workers on bound listeners; each listener has a socket for each.
    ///
    /// # Errors
    /// When the system has no threads left.
    pub fn start(
        workers: usize,
        mut listeners: Vec<Front>,
        snapshot: &watch::Receiver<Arc<Snapshot>>,
        stats: &WorkersStats,
        logs: &Logs,
        descriptors: &Arc<Descriptors>,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(Stop::No);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let peers = Peers {
            connections: (0..workers).map(|_| AtomicU32::new(0)).collect(),
            hand_over: senders.into(),
            crowds: listeners.iter().map(|front| Crowd::new(&front.settings, descriptors)).collect(),
            descriptors: Arc::clone(descriptors),
        };
        let mut threads = Vec::with_capacity(workers);
        for (index, handed) in receivers.into_iter().enumerate() {
            let sockets = listeners.iter_mut().filter_map(|front| {
                let socket = front.bound.sockets.pop()?;
                Some((front.name.clone(), front.settings.clone(), front.tls.clone(), socket))
            });
            let (log, audit) = logs.of_worker();
            threads.push(worker::spawn(Start {
                index,
                listeners: sockets.collect(),
                snapshot: snapshot.clone(),
                stop: stopped.clone(),
                stats: stats.worker(),
                log,
                audit,
                handed,
                peers: peers.clone(),
            })?);
        }
        Ok(Self { threads, stop })
    }

    /// Stops accepting, and lets exchanges in flight end within `grace`. Returns when all workers have ended.
    pub async fn drain(self, grace: Duration) {
        self.stop.send_replace(Stop::Drain { deadline: Instant::now() + grace });
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                match thread.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!("a worker ended with an error: {error}"),
                    Err(_) => tracing::error!("a worker panicked"),
                }
            }
        });
        if joined.await.is_err() {
            tracing::error!("cannot wait for the workers");
        }
    }
}
