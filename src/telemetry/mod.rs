//! What the gateway tells about itself: per-worker counters, their Prometheus rendering, the access log,
//! and our own log.
//!
//! A worker writes to instruments that it alone owns and to a buffer that it alone owns; summing and
//! writing out happen elsewhere. Nothing here blocks a worker.

pub mod access_log;
pub mod lines;
pub mod log;
pub mod prometheus;
pub mod stats;
