//! Load without pause over kept connections, which notices every answer and every failure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Connection, Request};
use super::wait;

/// What came of the load so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers by who gave them: `NAME/VERSION` of an origin, empty for the gateway's own.
    pub served: BTreeMap<String, u64>,
    /// What went wrong: connections without an answer, and answers that were asked not to be.
    pub failures: Vec<Failure>,
    /// The longest exchange.
    pub slowest: Duration,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the load began.
    pub at: Duration,
    /// How long the exchange had taken.
    pub after: Duration,
    /// What was seen.
    pub text: String,
    /// Whether the connection had carried an exchange before.
    pub reused: bool,
}

impl Report {
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Panics unless there were answers, all of them 200, and no failure.
    #[track_caller]
    pub fn assert_all_ok(&self) {
        assert!(self.answers() > 0, "the load got no answer at all");
        let shown = &self.failures[..self.failures.len().min(5)];
        let count = self.failures.len();
        assert!(count == 0, "{count} of {} requests failed: {shown:#?}; {:?}", self.answers(), self.statuses);
        assert_eq!(self.statuses.keys().copied().collect::<Vec<_>>(), [200], "{:?}", self.statuses);
    }

    /// How many answers came from `NAME/VERSION`.
    pub fn served_by(&self, who: &str) -> u64 {
        self.served.get(who).copied().unwrap_or(0)
    }
}

/// Workers that send requests until told to stop; they stop when dropped.
pub struct Load {
    report: Arc<Mutex<Report>>,
    stop: CancellationToken,
    workers: JoinSet<()>,
}

impl Load {
    /// Starts `workers` connections that each send one request after the other. `request` makes each worker's
    /// n-th request; an answer of 500 or more, and of 404, is a failure.
    pub fn start<F>(address: SocketAddr, workers: usize, request: F) -> Self
    where
        F: Fn(usize, u64) -> Request + Send + Sync + 'static,
    {
        Self::start_judging(address, workers, request, |answer| answer.status < 500 && answer.status != 404)
    }

    /// As [`Self::start`]; `good` says which answers are no failures.
    pub fn start_judging<F, G>(address: SocketAddr, workers: usize, request: F, good: G) -> Self
    where
        F: Fn(usize, u64) -> Request + Send + Sync + 'static,
        G: Fn(&Answer) -> bool + Send + Sync + 'static,
    {
        let shared = Arc::new((request, good));
        let mut load = Self { report: Arc::default(), stop: CancellationToken::new(), workers: JoinSet::new() };
        let began = Instant::now();
        for worker in 0..workers {
            let (shared, report, stop) = (shared.clone(), load.report.clone(), load.stop.clone());
            load.workers.spawn(async move {
                let mut kept: Option<Connection> = None;
                for number in 0.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let request = (shared.0)(worker, number);
                    let reused = kept.is_some();
                    let started = Instant::now();
                    let outcome = exchange(&mut kept, address, &request).await;
                    let after = started.elapsed();
                    let mut report = report.lock().unwrap();
                    report.slowest = report.slowest.max(after);
                    let at = began.elapsed();
                    match outcome {
                        Ok(answer) => {
                            *report.statuses.entry(answer.status).or_default() += 1;
                            *report.served.entry(answer.served_by().to_owned()).or_default() += 1;
                            if answer.closes() {
                                kept = None;
                            }
                            if !(shared.1)(&answer) {
                                let text = format!("{} {}", answer.status, answer.text());
                                report.failures.push(Failure { at, after, text, reused });
                            }
                        }
                        Err(error) => {
                            kept = None;
                            report.failures.push(Failure { at, after, text: error.to_string(), reused });
                        }
                    }
                }
            });
        }
        load
    }

    /// What came so far.
    pub fn report(&self) -> Report {
        self.report.lock().unwrap().clone()
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        *self.report.lock().unwrap() = Report::default();
    }

    /// Waits until this many more answers have come.
    #[track_caller]
    pub fn more(&self, answers: u64) -> impl Future<Output = ()> {
        let report = self.report.clone();
        let enough = report.lock().unwrap().answers() + answers;
        wait::until(Duration::from_secs(60), "the load to get answers", move || {
            let come = report.lock().unwrap().answers();
            async move { come >= enough }
        })
    }

    /// Lets the requests under way end, and returns what came.
    pub async fn stop(mut self) -> Report {
        self.stop.cancel();
        while let Some(ended) = self.workers.join_next().await {
            ended.expect("a worker of the load panicked");
        }
        self.report()
    }
}

async fn exchange(kept: &mut Option<Connection>, address: SocketAddr, request: &Request) -> std::io::Result<Answer> {
    if kept.is_none() {
        *kept = Some(Connection::open(address).await?);
    }
    let connection = kept.as_mut().expect("opened above");
    connection.exchange(request).await
}
