//! Defines the sums over all workers, taken at each scrape.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::instrument::HistogramTotal;
use super::worker::WorkerStats;
use crate::telemetry::prometheus::{Definition, Samples, Source, definitions};
use crate::telemetry::unreadable::UnreadableProxies;

/// The instruments of all workers.
#[derive(Debug, Default)]
pub struct WorkersStats(Mutex<Vec<Arc<WorkerStats>>>, Arc<UnreadableProxies>);

impl WorkersStats {
    /// Instruments for one more worker.
    pub fn worker(&self) -> Arc<WorkerStats> {
        let stats = Arc::new(WorkerStats::among(&self.1));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&stats));
        stats
    }

    /// The trusted proxies whose clients are unknown.
    pub fn unreadable(&self) -> Arc<UnreadableProxies> {
        Arc::clone(&self.1)
    }

    /// How many requests and tries each upstream has had, by its label.
    pub fn uses(&self) -> BTreeMap<Box<str>, u64> {
        let mut uses = BTreeMap::<_, u64>::new();
        for worker in self.workers() {
            let series = worker.series();
            let requests = series.requests.iter().map(|(key, counter)| (&key.upstream, counter));
            let attempts = series.attempts.iter().map(|((upstream, _), counter)| (upstream, counter));
            for (upstream, counter) in requests.chain(attempts) {
                *uses.entry(upstream.clone()).or_default() += counter.value();
            }
        }
        uses
    }

    fn workers(&self) -> Vec<Arc<WorkerStats>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source for WorkersStats {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[
            definitions::REQUESTS,
            definitions::REQUEST_DURATION,
            definitions::UPSTREAM_DURATION,
            definitions::UPSTREAM_ATTEMPTS,
            definitions::UPSTREAM_RETRIES,
            definitions::UPSTREAM_EJECTIONS,
            definitions::UPSTREAM_PANICS,
            definitions::UPSTREAM_REFUSED,
            definitions::TARGET_REQUESTS,
            definitions::TARGET_PASSED_OVER,
            definitions::UPSTREAM_CONNECTIONS,
            definitions::DOWNSTREAM_CONNECTIONS,
            definitions::TLS_HANDSHAKES,
        ]
    }

    fn collect(&self, samples: &mut Samples) {
        let mut requests = BTreeMap::<_, u64>::new();
        let mut request_duration = BTreeMap::<_, HistogramTotal>::new();
        let mut upstream_duration = BTreeMap::<_, HistogramTotal>::new();
        let mut attempts = BTreeMap::<_, u64>::new();
        let mut retries = BTreeMap::<_, u64>::new();
        let mut ejections = BTreeMap::<_, u64>::new();
        let mut panics = BTreeMap::<_, u64>::new();
        let mut refused = BTreeMap::<_, u64>::new();
        let mut target_requests = BTreeMap::<_, u64>::new();
        let mut target_passed_over = BTreeMap::<_, u64>::new();
        let mut upstream_connections = BTreeMap::<_, i64>::new();
        let mut downstream_connections = BTreeMap::<_, i64>::new();
        let mut tls_handshakes = BTreeMap::<_, u64>::new();
        for worker in self.workers() {
            let series = worker.series();
            for (key, counter) in &series.requests {
                *requests.entry(key.clone()).or_default() += counter.value();
            }
            for (route, histogram) in &series.request_duration {
                request_duration.entry(route.clone()).or_default().add(histogram);
            }
            for (upstream, histogram) in &series.upstream_duration {
                upstream_duration.entry(upstream.clone()).or_default().add(histogram);
            }
            for (key, counter) in &series.attempts {
                *attempts.entry(key.clone()).or_default() += counter.value();
            }
            for (key, counter) in &series.retries {
                *retries.entry(key.clone()).or_default() += counter.value();
            }
            for (key, counter) in &series.ejections {
                *ejections.entry(key.clone()).or_default() += counter.value();
            }
            for (key, counter) in &series.refused {
                *refused.entry(key.clone()).or_default() += counter.value();
            }
            for (upstream, counter) in &series.panics {
                *panics.entry(upstream.clone()).or_default() += counter.value();
            }
            for (key, counter) in &series.target_requests {
                *target_requests.entry(key.clone()).or_default() += counter.value();
            }
            for (key, counter) in &series.target_passed_over {
                *target_passed_over.entry(key.clone()).or_default() += counter.value();
            }
            for (key, gauge) in &series.upstream_connections {
                *upstream_connections.entry(key.clone()).or_default() += gauge.value();
            }
            for (listener, gauge) in &series.downstream_connections {
                *downstream_connections.entry(listener.clone()).or_default() += gauge.value();
            }
            for (key, counter) in &series.tls_handshakes {
                *tls_handshakes.entry(key.clone()).or_default() += counter.value();
            }
        }
        for (key, total) in requests {
            let code = key.code.to_string();
            let labels = [key.listener.as_str(), &key.route, &key.upstream, &code, &key.flag];
            samples.value(definitions::REQUESTS, &labels, total as f64);
        }
        for (route, total) in request_duration {
            samples.histogram(definitions::REQUEST_DURATION, &[&route], &total);
        }
        for (upstream, total) in upstream_duration {
            samples.histogram(definitions::UPSTREAM_DURATION, &[&upstream], &total);
        }
        for ((upstream, result), total) in attempts {
            samples.value(definitions::UPSTREAM_ATTEMPTS, &[&upstream, result.as_str()], total as f64);
        }
        for ((upstream, result), total) in retries {
            samples.value(definitions::UPSTREAM_RETRIES, &[&upstream, result.as_str()], total as f64);
        }
        for ((upstream, cause), total) in ejections {
            samples.value(definitions::UPSTREAM_EJECTIONS, &[&upstream, cause], total as f64);
        }
        for ((upstream, reason), total) in refused {
            samples.value(definitions::UPSTREAM_REFUSED, &[&upstream, reason], total as f64);
        }
        for (upstream, total) in panics {
            samples.value(definitions::UPSTREAM_PANICS, &[&upstream], total as f64);
        }
        for ((route, target), total) in target_requests {
            samples.value(definitions::TARGET_REQUESTS, &[&route, &target], total as f64);
        }
        for ((route, target), total) in target_passed_over {
            samples.value(definitions::TARGET_PASSED_OVER, &[&route, &target], total as f64);
        }
        for ((upstream, state), total) in upstream_connections {
            samples.value(definitions::UPSTREAM_CONNECTIONS, &[&upstream, state.as_str()], total as f64);
        }
        for (listener, total) in downstream_connections {
            samples.value(definitions::DOWNSTREAM_CONNECTIONS, &[listener.as_str()], total as f64);
        }
        for ((listener, result), total) in tls_handshakes {
            samples.value(definitions::TLS_HANDSHAKES, &[listener.as_str(), result.as_str()], total as f64);
        }
    }
}
