//! The signals that a command obeys, from its first instant to its last.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// Signals to stop that come within this time are one: `timeout` and terminals send them to a group and to its
/// members.
const TOGETHER: Duration = Duration::from_millis(500);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM, SIGINT, SIGQUIT.
    Stop,
    /// SIGHUP: read files again, and open logs again.
    Reload,
    /// SIGUSR1: open logs again.
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Meaning {
    Wish(Wish),
    /// By default these end the process.
    Ignored {
        told: bool,
    },
}

/// The signals that are listened to. SIGPIPE is ignored by every Rust program; SIGTSTP, SIGTTIN and SIGTTOU suspend, as
/// they do any program; SIGABRT, SIGKILL and what tells of faults in the program end it.
#[derive(Debug)]
pub struct Signals {
    all: Vec<(Signal, String, Meaning)>,
    stopped_at: Option<Instant>,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> io::Result<Self> {
        let mut all = Vec::new();
        for (name, number, wish) in [
            ("SIGTERM", Number::TERM, Wish::Stop),
            ("SIGINT", Number::INT, Wish::Stop),
            ("SIGQUIT", Number::QUIT, Wish::Stop),
            ("SIGHUP", Number::HUP, Wish::Reload),
            ("SIGUSR1", Number::USR1, Wish::Reopen),
        ] {
            let listening = signal(SignalKind::from_raw(number.as_raw()))?;
            all.push((listening, name.to_owned(), Meaning::Wish(wish)));
        }
        let named = [
            ("SIGUSR2", Number::USR2),
            ("SIGALRM", Number::ALARM),
            ("SIGVTALRM", Number::VTALARM),
            ("SIGPROF", Number::PROF),
            ("SIGIO", Number::IO),
            // A file that may not grow: the write fails, and its log says so.
            ("SIGXFSZ", Number::XFSZ),
            #[cfg(target_os = "linux")]
            ("SIGPWR", Number::POWER),
            #[cfg(target_os = "linux")]
            ("SIGSTKFLT", Number::STKFLT),
        ];
        let named = named.into_iter().map(|(name, number)| (name.to_owned(), number.as_raw()));
        // Where there are none, the system refuses them.
        let real_time = (34..=64).map(|number| (format!("SIGRTMIN+{}", number - 34), number));
        for (name, number) in named.chain(real_time) {
            if let Ok(listening) = signal(SignalKind::from_raw(number)) {
                all.push((listening, name, Meaning::Ignored { told: false }));
            }
        }
        Ok(Self { all, stopped_at: None })
    }

    /// Waits for a signal that asks for something.
    pub async fn next(&mut self) -> Wish {
        let all = &mut self.all;
        let wish = poll_fn(|context| {
            for (signal, name, meaning) in all.iter_mut() {
                while signal.poll_recv(context).is_ready() {
                    match meaning {
                        Meaning::Wish(wish) => {
                            tracing::info!(signal = name, "got a signal");
                            return Poll::Ready(*wish);
                        }
                        Meaning::Ignored { told } => {
                            if !std::mem::replace(told, true) {
                                tracing::info!(signal = name, "got a signal that means nothing here: ignored");
                            }
                        }
                    }
                }
            }
            Poll::Pending
        })
        .await;
        if wish == Wish::Stop {
            self.stopped_at.get_or_insert_with(Instant::now);
        }
        wish
    }

    /// Waits for a signal to stop; `obey` gets all others.
    pub async fn stop(&mut self, mut obey: impl FnMut(Wish)) {
        loop {
            match self.next().await {
                Wish::Stop => return,
                wish => obey(wish),
            }
        }
    }

    /// Waits for a signal to stop, which includes that the terminal was closed.
    pub async fn stop_or_hang_up(&mut self) {
        while self.next().await == Wish::Reopen {}
        self.stopped_at.get_or_insert_with(Instant::now);
    }

    /// Waits for a further signal to stop; `obey` gets all others.
    pub async fn stop_again(&mut self, mut obey: impl FnMut(Wish)) {
        loop {
            self.stop(&mut obey).await;
            if self.stopped_at.is_none_or(|at| at.elapsed() >= TOGETHER) {
                return;
            }
        }
    }
}
