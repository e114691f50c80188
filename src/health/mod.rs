//! Active health checks: one task an endpoint, that writes what it finds to the endpoint's state.
//!
//! A check belongs to an identity and its settings: changed weights, labels and unrelated settings leave it
//! alone. A worker sees a flip at once, by the upstream's epoch.

mod grpc;
mod http2;
pub mod probe;
mod prober;
mod threshold;

pub use prober::Prober;
pub use threshold::Threshold;
