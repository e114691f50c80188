//! Counters, gauges and histograms of the request path: one set a worker, summed when scraped.
//!
//! A value has exactly one writing thread, so that a write is a plain load and store of a cache line no
//! other worker writes.

mod instrument;
mod totals;
mod worker;

pub use instrument::{Counter, Gauge, Histogram, HistogramTotal};
pub use totals::WorkersStats;
pub use worker::{AttemptResult, ConnectionState, HandshakeResult, RequestCounters, WorkerStats};
